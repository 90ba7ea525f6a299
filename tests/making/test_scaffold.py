# Templates: those that are shipped, and folders in Spin's format.

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomli
from click.testing import CliRunner

from wasm_gateway.cli import cli
from wasm_gateway.errors import ManifestError, TemplateError
from wasm_gateway.making import scaffold
from wasm_gateway.making.scaffold import BUILT_IN, find_templates, read_template
from wasm_gateway.making.toolchain import TOOLCHAINS
from wasm_gateway.manifest import load_manifest

ROOT = Path(__file__).parent.parent.parent
NEEDED = {"redirect-from": "/old", "redirect-to": "https://example.com/", "redis-channel": "news"}
TEMPLATES = find_templates()

# What Spin's schema of a manifest knows, of what templates write.
SPIN = {
    "": {"spin_manifest_version", "application", "trigger", "component"},
    "application": {"name", "version", "authors", "description", "trigger"},
    "http": {"route", "component", "executor"},
    "redis": {"channel", "component"},
    "component": {"source", "allowed_outbound_hosts", "environment", "files", "build"},
    "build": {"command", "workdir", "watch"},
}


def given(template: scaffold.Template, **more: str) -> dict[str, str]:
    wanted = {parameter.name for parameter in template.parameters}
    return {name: value for name, value in NEEDED.items() if name in wanted} | more


def check_by_spins_rules(data: dict[str, Any]) -> None:
    """The keys of a manifest are all Spin's, its names kebab-case, its references lead somewhere."""
    assert data["spin_manifest_version"] == 2
    assert set(data) <= SPIN[""]
    assert set(data["application"]) <= SPIN["application"]
    for kind, triggers in data.get("trigger", {}).items():
        for trigger in triggers:
            assert set(trigger) <= SPIN[kind]
            assert trigger["component"] in data["component"]
    for id, component in data.get("component", {}).items():
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z][a-z0-9]*)*", id)
        assert set(component) <= SPIN["component"]
        assert set(component.get("build", {})) <= SPIN["build"]
        assert not Path(component.get("build", {}).get("workdir", ".")).is_absolute()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, code: int = 0, **how: Any) -> str:
        result = CliRunner().invoke(cli, list(arguments), **how)
        assert result.exit_code == code, result.output
        return result.output

    return invoke


# The templates that are shipped


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_each_makes_an_application(template: scaffold.Template, tmp_path: Path) -> None:
    description = {"project-description": "What it does"}
    made = scaffold.create(template, "Hello WORLD", tmp_path / "app", given(template, **description))
    data = tomli.loads(made.manifest.read_text())
    check_by_spins_rules(data)
    assert (data["application"]["name"], data["application"]["description"]) == (
        "hello-world",
        "What it does",
    )
    assert made.files == tuple(sorted(path for path in made.folder.rglob("*") if path.is_file()))
    assert not any("{{" in path.read_text("utf-8", "replace") for path in made.files)
    assert ".spin/" in (made.folder / ".gitignore").read_text()
    if template.id == "http-empty":
        return
    manifest = load_manifest(made.manifest)
    component = manifest.components["hello-world"]
    assert component.build is not None or (made.folder / component.source.path).is_file()  # type: ignore[union-attr]


@pytest.mark.parametrize("template", [t for t in TEMPLATES.values() if t.add], ids=lambda t: t.id)
def test_each_adds_a_component(template: scaffold.Template, tmp_path: Path) -> None:
    before = scaffold.create(TEMPLATES["http-empty"], "app", tmp_path / "app", {}).manifest
    for name in ("first", "second"):
        made = scaffold.add(template, name, before, before.parent / "guests" / name, given(template))
        assert made.files
    check_by_spins_rules(tomli.loads(before.read_text()))
    manifest = load_manifest(before)
    assert list(manifest.components) == ["first", "second"]
    for name, component in manifest.components.items():
        source = component.source.path  # type: ignore[union-attr]
        assert source.is_relative_to(before.parent / "guests" / name)
        if component.build is not None:
            assert component.build.workdir == f"guests/{name}"


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_metadata(template: scaffold.Template) -> None:
    assert template.id == template.folder.name
    assert template.description
    assert template.tags


def test_the_guests_are_those_of_the_example() -> None:
    guests = ROOT / "example_projects" / "finicky_whiskers" / "guests"
    shipped = [path for path in BUILT_IN.glob("*/*/*") if path.suffix in (".wasm", ".rs")]
    shipped += BUILT_IN.glob("redirect/source/*")
    assert {path.name for path in shipped} == {
        "fileserver.wasm",
        "fileserver.rs",
        "flat.rs",
        "redirect.wasm",
        "redirect.c",
    }
    for path in shipped:
        assert path.read_bytes() == (guests / path.name).read_bytes(), path


def test_versions_in_templates_are_those_that_are_installed() -> None:
    names = ("componentize-py", "componentize-qjs", "assemblyscript")
    python, script, assembly = (TOOLCHAINS[name].versions() for name in names)
    for id in ("http-py", "redis-py"):
        text = (BUILT_IN / id / "content" / "requirements.txt").read_text()
        assert dict(re.findall(r"^(\S+)==(\S+)$", text, re.MULTILINE)) == python
    for id, versions in (("http-js", script), ("http-ts", script), ("http-as", assembly)):
        text = (BUILT_IN / id / "content" / "package.json").read_text()
        needed = re.search(r'"devDependencies": \{([^}]*)\}', text)
        assert needed is not None
        assert dict(re.findall(r'"(\S+)": "(\S+)"', needed[1])) == versions


# The commands


def test_new_says_what_it_made(run: Any, tmp_path: Path) -> None:
    output = run("new", "http-wat", "hello", "-v", "http-path=/hi")
    assert output.splitlines() == [
        "hello/.gitignore",
        "hello/main.wat",
        "hello/spin.toml",
        "Next: wasm-gateway build --up -f hello/spin.toml",
    ]
    assert load_manifest(tmp_path / "hello" / "spin.toml").http_triggers[0].route == "/hi"


def test_new_in_spins_order_and_places(run: Any, tmp_path: Path) -> None:
    run("new", "-t", "http-wat", "hello", "-o", "deep/er", "--no-vcs", "-a")
    assert sorted(path.name for path in (tmp_path / "deep" / "er").iterdir()) == ["main.wat", "spin.toml"]
    (tmp_path / "notes.txt").touch()
    run("new", "http-wat", "hello", "--init")
    assert (tmp_path / "main.wat").is_file()
    assert "--init and --output" in run("new", "http-wat", "x", "--init", "-o", "y", code=2)


def test_values_come_from_flags_then_from_the_file(run: Any, tmp_path: Path) -> None:
    (tmp_path / "values.toml").write_text('redirect-from = "/a"\nredirect-to = "/b"\n')
    run("new", "redirect", "go", "--values-file", "values.toml", "-v", "redirect-to=/c")
    manifest = load_manifest(tmp_path / "go" / "spin.toml")
    assert manifest.http_triggers[0].route == "/a"
    assert manifest.components["go"].environment == {"DESTINATION": "/c"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no-such", "x"], 1, "there is no template 'no-such' (there are: http-as,"),
        (["http-wat", "1st"], 1, "'1st' cannot be a name"),
        (["http-wat", "a-1b"], 1, "'a-1b' cannot be a name"),
        (["http-wat", "x", "-v", "colour=red"], 1, "does not contain a parameter named 'colour'"),
        (["http-wat", "x", "-v", "http-path=here"], 1, "'here' does not match the pattern"),
        (["http-wat", "x", "-v", "http-path"], 2, "must be of the form"),
        (
            ["redirect", "x"],
            1,
            "(Redirect to): add --value redirect-from=... --value redirect-to=...",
        ),
        (["http-wat", "x", "y"], 2, "unexpected argument 'y'"),
        (["http-wat"], 2, "name the application"),
        ([], 2, "name a template"),
        (["http-wat", "x", "--dir", "nowhere"], 1, "holds no templates"),
        (["http-wat", "x", "-v", 'project-description="'], 1, "invalid TOML"),
    ],
)
def test_what_new_refuses(run: Any, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    assert message in run("new", *arguments, code=code)
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_replaced_unasked(run: Any, tmp_path: Path) -> None:
    run("new", "http-wat", "hello")
    mine = tmp_path / "hello" / "main.wat"
    mine.write_text("mine")
    assert "already contains other files" in run("new", "http-wat", "hello", code=1)
    (tmp_path / "main.wat").touch()
    assert "there already" in run("new", "http-wat", "hello", "--init", code=1)
    assert mine.read_text() == "mine"
    run("new", "http-wat", "hello", "--allow-overwrite")
    assert mine.read_text() != "mine"


@pytest.mark.parametrize(
    ("template", "command"), [("http-wat", "build --up"), ("http-empty", "add TEMPLATE NAME")]
)
def test_what_comes_next(run: Any, template: str, command: str) -> None:
    assert run("new", template, "hello").endswith(f"Next: wasm-gateway {command} -f hello/spin.toml\n")


def test_list(run: Any) -> None:
    lines = run("new", "--list").splitlines()
    assert [line.split()[0] for line in lines] == list(TEMPLATES)
    assert [line.split()[0] for line in run("new", "--list", "--tag", "redis").splitlines()] == [
        "redis-py",
        "redis-rust",
    ]


def test_questions_on_a_terminal(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaffold, "people", lambda: True)
    answers = "no-such\nredirect\n1st\ngo\n\nwrong\n/from\n/to\n"
    output = run("new", input=answers)
    assert "'no-such' is not one of" in output
    assert "'1st' cannot be a name" in output
    assert "does not match the pattern" in output
    manifest = load_manifest(tmp_path / "go" / "spin.toml")
    assert manifest.http_triggers[0].route == "/from"
    assert manifest.components["go"].environment == {"DESTINATION": "/to"}
    run("new", "http-wat", "quiet", "--accept-defaults")


MANIFEST = """\
# The site's own
spin_manifest_version = 2

[application]
name = "site"   # as ever

[variables] # and their comment
b = { default = "1" }

[[trigger.http]]
route = "/"
component = "old"

[component.old]
source = "old.wasm"
"""


def test_add_keeps_the_manifest_as_it_was(run: Any, tmp_path: Path) -> None:
    (tmp_path / "spin.toml").write_text(MANIFEST)
    assert "Added to spin.toml" in run("add", "http-c", "Fast Path", "-v", "http-path=/fast")
    text = (tmp_path / "spin.toml").read_text()
    assert text.startswith(MANIFEST)
    component = load_manifest(tmp_path / "spin.toml").components["fast-path"]
    assert component.source.path == tmp_path / "fast-path" / "main.wasm"  # type: ignore[union-attr]
    assert component.build is not None
    assert component.build.workdir == "fast-path"


@pytest.mark.parametrize(
    ("manifest", "arguments", "message"),
    [
        (MANIFEST, ["http-wat", "old"], "there is a component of that name already"),
        (MANIFEST, ["http-empty", "x"], "makes whole applications only"),
        (
            MANIFEST,
            ["redirect", "x", "-v", "redirect-from=/"],
            "Template 'redirect' needs 'redirect-to' (Redirect to): add --value redirect-to=...",
        ),
        (MANIFEST, ["http-wat", "x", "-v", 'http-path=/"'], "invalid TOML"),
        ('spin_manifest_version = "1"\nname = "x"\n', ["http-wat", "x"], "manifest version 1"),
        ("x = ", ["http-wat", "x"], "invalid TOML"),
    ],
)
def test_what_add_refuses_leaves_no_trace(
    run: Any, tmp_path: Path, manifest: str, arguments: list[str], message: str
) -> None:
    path = tmp_path / "spin.toml"
    path.write_text(manifest)
    assert message in run("add", *arguments, code=1)
    assert [path.read_text(), *tmp_path.iterdir()] == [manifest, path]


def test_add_needs_a_manifest_here(run: Any, tmp_path: Path) -> None:
    assert "spin.toml" in run("add", "http-wat", "x", code=1)


# Folders in Spin's format


def spin_template(folder: Path, metadata: str, **files: str) -> Path:
    (folder / "metadata" / "snippets").mkdir(parents=True)
    (folder / "metadata" / "spin-template.toml").write_text(f'manifest_version = "1"\nid = "own"\n{metadata}')
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


OWN = """\
description = "One of mine"
[add_component]
skip_files = ["spin.toml"]
[add_component.snippets]
component = "component.txt"
variables = "variables.txt"
application_trigger = "trigger.txt"
[add_component.conditions.redis_is_set]
condition = { manifest_entry_exists = "application.trigger.redis" }
skip_snippets = ["application_trigger"]
skip_parameters = ["address"]
skip_files = ["first.txt"]
[parameters]
address = { type = "string", prompt = "Address" }
kind = { type = "string", prompt = "Kind", default = "a", allowed_values = ["a", "b"] }
[outputs]
data = { action = "create_dir", path = "{{ project-name | snake_case }}_data" }
assets = { action = "create_dir", path = "assets", at = "manifest" }
"""
COMPONENT = """
[[trigger.redis]]
channel = "c"
component = "{{ project-name | kebab_case }}"

[component.{{ project-name | kebab_case }}]
source = "{{ output-path }}/x.wasm"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = spin_template(
        tmp_path / "collection" / "templates" / "own",
        OWN,
        metadata__snippets__component=COMPONENT,
        content__first=" {{kind}} {% if kind == 'a' %}yes{% endif %}",
    )
    snippets = folder / "metadata" / "snippets"
    (snippets / "component").rename(snippets / "component.txt")
    (snippets / "variables.txt").write_text('{{project-name | snake_case}}_key = { default = "{{kind}}" }')
    (snippets / "trigger.txt").write_text('[application.trigger.redis]\naddress = "{{address}}"\n')
    content = folder / "content"
    (content / "first").rename(content / "first.txt.tmpl")
    (content / "binary").write_bytes(b"\xff{{ nothing }}")
    return folder


def test_a_template_of_spins_kind(run: Any, tmp_path: Path, own: Path) -> None:
    (tmp_path / "spin.toml").write_text(MANIFEST)
    folder = str(tmp_path / "collection")
    run("add", "one", "--dir", folder, "-v", "address=redis://a", "-o", "sub/one", code=1)  # no such template
    run("add", "own", "one", "--dir", folder, "-v", "address=redis://a", "-o", "sub/one")
    run("add", "two", "--dir", str(own), "-t", "own", "-v", "kind=b")
    data = tomli.loads((tmp_path / "spin.toml").read_text())
    assert data["application"]["trigger"] == {"redis": {"address": "redis://a"}}
    assert data["variables"] == {
        "b": {"default": "1"},
        "one_key": {"default": "a"},
        "two_key": {"default": "b"},
    }
    assert [component["source"] for component in data["component"].values()] == [
        "old.wasm",
        "sub/one/x.wasm",
        "two/x.wasm",
    ]
    assert (tmp_path / "sub" / "one" / "first.txt").read_text() == " a yes"
    assert (tmp_path / "sub" / "one" / "binary").read_bytes() == b"\xff{{ nothing }}"
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["binary", "two_data"]
    assert (tmp_path / "assets").is_dir()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("colour = 1", "unknown field `colour`"),
        ("[add_component]\nskip = []", "unknown field `skip`"),
        ('[add_component.snippets]\nroute = "x"', "unknown snippet"),
        ('[parameters]\nx = { type = "number", prompt = "X" }', "expected `string`"),
        ('[parameters]\nx = { type = "string" }', "missing field `prompt`"),
        ('[parameters]\nx = { type = "string", prompt = "X", pattern = "(" }', "invalid pattern"),
        ('[outputs]\nx = { action = "remove", path = "/" }', "expected `create_dir`"),
        ('[outputs]\nx = { action = "create_dir", path = "x", at = "home" }', "expected `component`"),
    ],
)
def test_metadata_that_is_wrong(tmp_path: Path, metadata: str, message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(message)):
        read_template(spin_template(tmp_path / "own", metadata))


@pytest.mark.parametrize("path", ["/etc", "../x", "a/../../x"])
def test_a_template_keeps_to_its_folder(tmp_path: Path, path: str) -> None:
    metadata = f'[outputs]\nx = {{ action = "create_dir", path = "{path}" }}'
    template = read_template(spin_template(tmp_path / "own", metadata))
    (tmp_path / "own" / "content").mkdir()
    (tmp_path / "own" / "content" / "spin.toml").write_text(
        'spin_manifest_version = 2\napplication = { name = "x" }\n'
    )
    with pytest.raises(TemplateError, match="does not lie in"):
        scaffold.create(template, "x", tmp_path / "out", {})
    assert not (tmp_path / "out").exists()
