"""The README, and other Markdown that is read where it lies: what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomli

import wasm_gateway
from wasm_gateway.cli import cli
from wasm_gateway.making.scaffold import find_templates
from wasm_gateway.manifest import parse_manifest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_its_make_commands_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)|`make ([a-z]+)`", README, re.MULTILINE))
    assert {first or second for first, second in named} <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_its_commands_are_there() -> None:
    named = re.findall(
        r"\bwasm-gateway ([a-z]+)", "\n".join([*blocks(""), *re.findall(r"`[^`\n]+`", README)])
    )
    assert named
    assert set(named) <= set(cli.commands)
    assert set(re.findall(r"wasm_new (\S+)", README)) <= set(find_templates(None))


def test_its_python_compiles() -> None:
    assert blocks("python")
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_its_toml_is_part_of_a_manifest() -> None:
    assert blocks("toml")
    for block in blocks("toml"):
        whole = "spin_manifest_version = 2\n[application]\nname = 'x'\n[trigger]\n" + block
        found = parse_manifest(whole, ROOT / "spin.toml")
        assert found.components.keys() == tomli.loads(block)["component"].keys()


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_explains_itself(name: str) -> None:
    assert cli.commands[name].help


def test_every_public_name_is_there() -> None:
    for name in wasm_gateway.__all__:
        assert getattr(wasm_gateway, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = wasm_gateway.no_such_name


@pytest.mark.parametrize(
    "path",
    [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("*/*.md")), *sorted(ROOT.glob("*/*/README.md"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
