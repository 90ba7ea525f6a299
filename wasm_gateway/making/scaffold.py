# New guests from templates (`new`, `add`), in the format of Spin's own template folders (Spin: command
# line, 7 and 8), so that those work too.
#
# Rule 1: everything is worked out first, the manifest read once more as it will be, and only then written:
# a mistake leaves nothing behind.
# Rule 2: a manifest that is there is added to at its end, as text; its order and comments stay.
# Rule 3: nothing is downloaded.

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ..errors import GatewayError, ManifestError, TemplateError
from ..manifest import MANIFEST_NAME, parse_manifest
from ..toml import Document, Table
from .liquid import kebab_case, render

BUILT_IN = Path(__file__).parent / "templates"

_SNIPPETS = ("component", "application_trigger", "variables")
_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z][a-z0-9]*)*")

Ask = Callable[["Parameter"], str]


@dataclass(frozen=True)
class Parameter:
    """What a template wants to know."""

    name: str
    prompt: str
    default: str | None = None
    pattern: str | None = None
    allowed_values: tuple[str, ...] = ()

    def fault(self, value: str) -> str | None:
        """Why `value` cannot be taken, None when it can."""
        if self.allowed_values and value not in self.allowed_values:
            return f"'{value}' is not one of: {', '.join(self.allowed_values)}"
        if self.pattern is not None and re.search(self.pattern, value) is None:
            return f"'{value}' does not match the pattern {self.pattern}"
        return None


@dataclass(frozen=True)
class Condition:
    """What is left out where the manifest has `entry`, a dotted key."""

    entry: str
    skip_files: tuple[str, ...]
    skip_parameters: tuple[str, ...]
    skip_snippets: tuple[str, ...]

    def holds(self, manifest: Mapping[str, Any]) -> bool:
        value: Any = manifest
        for part in self.entry.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return False
            value = value[part]
        return True


@dataclass(frozen=True)
class Variant:
    """How a template makes an application, or a component of one that is there."""

    skip_files: tuple[str, ...] = ()
    skip_parameters: tuple[str, ...] = ()
    snippets: Mapping[str, str] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()

    def under(self, manifest: Mapping[str, Any]) -> Variant:
        """This variant where `manifest` is what there is already."""
        held = [condition for condition in self.conditions if condition.holds(manifest)]
        skipped = {name for condition in held for name in condition.skip_snippets}
        return Variant(
            self.skip_files + tuple(name for condition in held for name in condition.skip_files),
            self.skip_parameters + tuple(name for condition in held for name in condition.skip_parameters),
            {name: file for name, file in self.snippets.items() if name not in skipped},
        )


@dataclass(frozen=True)
class Template:
    """A template folder; `new` and `add` are None where it does not support that."""

    id: str
    folder: Path
    description: str
    tags: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    new: Variant | None
    add: Variant | None
    folders: tuple[tuple[str, Literal["component", "manifest"]], ...]  # to be made


def read_template(folder: Path) -> Template:
    """The template in `folder`; ManifestError where its spin-template.toml is not as it should be."""
    root = Document.read(folder / "metadata" / "spin-template.toml").root
    version = root.text("manifest_version")
    if version != "1":
        raise root.error(f'unknown version "{version}", expected "1"', "manifest_version")
    root.take("trigger_type")
    template = Template(
        id=root.text("id"),
        folder=folder,
        description=root.text_or("description", ""),
        tags=root.texts("tags"),
        new=_variant(root.table("new_application")),
        add=_variant(root.table("add_component")) if "add_component" in root else None,
        parameters=tuple(_parameter(name, each) for name, each in root.table("parameters").children()),
        folders=tuple(_folder(each) for _, each in root.table("outputs").children()),
    )
    root.take("add_component")
    root.done()
    return template


def _variant(table: Table) -> Variant | None:
    snippets = table.text_map("snippets")
    for name in snippets:
        if name not in _SNIPPETS:
            raise table.error(f"unknown snippet, expected one of {', '.join(_SNIPPETS)}", "snippets", name)
    conditions = []
    for _, each in table.table("conditions").children():
        condition = each.table("condition")
        entry = condition.text("manifest_entry_exists")
        condition.done()
        skipped = [each.texts(f"skip_{what}") for what in ("files", "parameters", "snippets")]
        conditions.append(Condition(entry, *skipped))
        each.done()
    supported = table.boolean("supported", True)
    variant = Variant(table.texts("skip_files"), table.texts("skip_parameters"), snippets, tuple(conditions))
    table.done()
    return variant if supported else None


def _parameter(name: str, table: Table) -> Parameter:
    if table.text("type") != "string":
        raise table.error("expected `string`", "type")
    pattern = table.text_or("pattern", None)
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise table.error(f"invalid pattern: {error}", "pattern") from None
    default, allowed = table.text_or("default", None), table.texts("allowed_values")
    parameter = Parameter(name, table.text("prompt"), default, pattern, allowed)
    table.done()
    return parameter


def _folder(table: Table) -> tuple[str, Literal["component", "manifest"]]:
    if table.text("action") != "create_dir":
        raise table.error("expected `create_dir`", "action")
    at = table.text_or("at", "component")
    if at not in ("component", "manifest"):
        raise table.error("expected `component` or `manifest`", "at")
    path = table.text("path")
    table.done()
    return path, "manifest" if at == "manifest" else "component"


def find_templates(folder: str | Path | None = None) -> dict[str, Template]:
    """Templates by id: those of this package, or those of `folder`, which is a template, holds templates, or
    holds a folder `templates` of them, as repositories for Spin do.
    """
    root = BUILT_IN if folder is None else Path(folder)
    if (root / "metadata" / "spin-template.toml").is_file():
        candidates = [root]
    else:
        root = root / "templates" if (root / "templates").is_dir() else root
        candidates = sorted(path.parent.parent for path in root.glob("*/metadata/spin-template.toml"))
    if not candidates:
        raise TemplateError(f"{root} holds no templates (folders with metadata/spin-template.toml)")
    return {template.id: template for template in map(read_template, candidates)}


def choose(templates: Mapping[str, Template], id: str) -> Template:
    if id not in templates:
        raise TemplateError(f"there is no template '{id}' (there are: {', '.join(templates)})")
    return templates[id]


# Names and values


def component_name(text: str) -> str:
    """`text` as the id of a component; TemplateError where it cannot be one."""
    name = kebab_case(text)
    if _KEBAB.fullmatch(name) is None:
        raise TemplateError(
            f"'{text}' cannot be a name: each part of it, between dashes, begins with a letter"
        )
    return name


def settle(
    template: Template, variant: Variant, given: Mapping[str, str], ask: Ask | None = None
) -> dict[str, str]:
    """The value of every parameter: the one given, else the answer to a question, else the default.

    Spin takes defaults only with --accept-defaults; here they are also taken when nobody can be asked.
    """
    known = {parameter.name: parameter for parameter in template.parameters}
    for name, value in given.items():
        if name not in known:
            there = ", ".join(known) or "none"
            raise TemplateError(f"Template does not contain a parameter named '{name}' (there are: {there})")
        if fault := known[name].fault(value):
            raise TemplateError(f"parameter '{name}': {fault}")
    values = dict(given)
    wanted = []
    for name, parameter in known.items():
        if name in values:
            continue
        if name in variant.skip_parameters:
            values[name] = parameter.default or ""
        elif ask is not None:
            values[name] = ask(parameter)
        elif parameter.default is not None:
            values[name] = parameter.default
        else:
            wanted.append(parameter)
    if wanted:
        add = " ".join(f"--value {each.name}=..." for each in wanted)
        texts = ", ".join(f"'{each.name}' ({each.prompt})" for each in wanted)
        raise TemplateError(f"Template '{template.id}' needs {texts}: add {add}")
    return values


def people() -> bool:
    """Whether somebody sits at a terminal who could be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def asking(accept_defaults: bool = False) -> Ask | None:
    """What asks on the terminal; None without one. Defaults are offered, or taken with `accept_defaults`."""
    if not people():
        return None
    import click

    def ask(parameter: Parameter) -> str:
        if accept_defaults and parameter.default is not None:
            return parameter.default

        def checked(value: str) -> str:
            if fault := parameter.fault(value):
                raise click.BadParameter(fault)
            return value

        return str(click.prompt(parameter.prompt, default=parameter.default, value_proc=checked, err=True))

    return ask


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """Values that were given as `name=value`."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise TemplateError(f"'{text}' must be of the form `name=value`")
        found[name] = value
    return found


def read_values(path: Path) -> dict[str, str]:
    """A values file: a flat table of texts."""
    root = Document.read(path).root
    return {name: root.text(name) for name in root.data}


def author() -> str:
    """Who works here, as git knows it."""
    said = [_git(key) for key in ("user.name", "user.email")]
    return " ".join(text.format(part) for text, part in zip(("{}", "<{}>"), said, strict=True) if part)


def _git(key: str) -> str:
    try:
        done = subprocess.run(["git", "config", key], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


# Making


@dataclass(frozen=True)
class Made:
    """What was made: the manifest, the component's folder, and the files written, in order."""

    manifest: Path
    folder: Path
    files: tuple[Path, ...]
    has_component: bool = True


def create(
    template: Template,
    name: str,
    folder: Path,
    given: Mapping[str, str],
    *,
    ask: Ask | None = None,
    into_existing: bool = False,
    overwrite: bool = False,
    vcs: bool = True,
) -> Made:
    """Make an application in `folder`, which has to be empty unless it is to be `into_existing`.

    No file is replaced without `overwrite`. Without `vcs` there is no .gitignore. Raises TemplateError, and
    ManifestError where the manifest would be wrong.
    """
    variant = template.new
    if variant is None:
        raise TemplateError(f"Template '{template.id}' makes components only: use `add`")
    if not (into_existing or overwrite) and folder.is_dir() and any(folder.iterdir()):
        raise TemplateError(
            f"Can't generate into {folder} as it already contains other files (--allow-overwrite, or --init)"
        )
    kebab = component_name(name)
    values = _values(name, kebab, settle(template, variant, given, ask))
    files = {folder / path: data for path, data in _contents(template, variant, values, vcs)}
    manifest = folder / MANIFEST_NAME
    if manifest not in files:
        raise TemplateError(f"Template '{template.id}' makes no {MANIFEST_NAME}")
    has_component = _check(files[manifest].decode(), manifest)
    folders = [_beneath(folder, render(path, values)) for path, _ in template.folders]
    return _write(Made(manifest, folder, tuple(files), has_component), files, folders, overwrite)


def add(
    template: Template,
    name: str,
    manifest: Path,
    folder: Path,
    given: Mapping[str, str],
    *,
    ask: Ask | None = None,
    overwrite: bool = False,
    vcs: bool = True,
) -> Made:
    """Make a component in `folder` and append it to `manifest`; else like create()."""
    if template.add is None:
        raise TemplateError(f"Template '{template.id}' makes whole applications only: use `new`")
    document = Document.read(manifest)
    if document.data.get("spin_manifest_version") != 2:
        raise ManifestError(
            "Components cannot be added to Spin manifest version 1 applications.", path=manifest
        )
    kebab = component_name(name)
    if kebab in document.data.get("component", {}):
        raise document.error("there is a component of that name already", ("component", kebab))
    variant = template.add.under(document.data)
    values = _values(name, kebab, settle(template, variant, given, ask))
    values["output-path"] = Path(os.path.relpath(folder, manifest.parent)).as_posix()
    snippets = {
        what: _rendered(template.folder / "metadata" / "snippets" / file, values)
        for what, file in variant.snippets.items()
    }
    text = _extended(document.text, document.data, snippets)
    _check(text, manifest)
    files = {folder / path: data for path, data in _contents(template, variant, values, vcs)}
    roots = {"component": folder, "manifest": manifest.parent}
    folders = [_beneath(roots[at], render(path, values)) for path, at in template.folders]
    made = _write(Made(manifest, folder, tuple(files)), files, folders, overwrite)
    _replace(manifest, text.encode())
    return made


def add_to_site(
    template: Template, name: str, manifest: Path, given: Mapping[str, str], ask: Ask | None = None
) -> Made:
    """add() into the folder NAME beside the manifest of a site, which is begun where there is none yet.

    Its default path is /NAME/..., since a site has pages of its own.
    """
    if template.add is None:
        raise TemplateError(f"Template '{template.id}' makes no component")
    component = component_name(name)
    parameters = tuple(
        replace(each, default=f"/{component}/...") if each.name == "http-path" else each
        for each in template.parameters
    )
    chosen = replace(template, parameters=parameters)
    begun = not manifest.exists()
    if begun:
        app = kebab_case(manifest.parent.name)
        app = app if _KEBAB.fullmatch(app) else "site"
        text = f'spin_manifest_version = 2\n\n[application]\nname = "{app}"\nversion = "0.1.0"\n'
        _replace(manifest, text.encode())
    try:
        return add(chosen, name, manifest, manifest.parent / component, given, ask=ask)
    except GatewayError:
        if begun:
            manifest.unlink()
        raise


def _values(name: str, kebab: str, parameters: Mapping[str, str]) -> dict[str, str]:
    authors = author()
    return {
        **parameters,
        "project-name": kebab,
        "authors": authors.replace('"', "'").replace("\\", ""),
        "username": authors.split(" <")[0].replace('"', "'").replace("\\", ""),
        "output-path": ".",
    }


def _contents(
    template: Template, variant: Variant, values: Mapping[str, str], vcs: bool
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """What the files of the template become, by their paths."""
    content = template.folder / "content"
    for path in sorted(content.rglob("*")):
        if not path.is_file() or path.is_symlink() or "__pycache__" in path.parts:
            continue
        name = PurePosixPath(path.relative_to(content).as_posix().removesuffix(".tmpl"))
        if name.name == ".gitignore" and not vcs:
            continue
        if not any(fnmatchcase(name.as_posix(), pattern) for pattern in variant.skip_files):
            data = path.read_bytes()
            yield name, _rendered(path, values).encode() if _is_text(data) else data


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _rendered(path: Path, values: Mapping[str, str]) -> str:
    try:
        return render(path.read_text("utf-8"), values)
    except OSError as error:
        raise TemplateError(f"{path} cannot be read: {error.strerror}") from None
    except TemplateError as error:
        raise TemplateError(f"{path}: {error}") from None


def _extended(text: str, data: Mapping[str, Any], snippets: Mapping[str, str]) -> str:
    """The manifest with the snippets: variables in their table, the rest at the end."""
    variables = snippets.get("variables", "").strip()
    if variables:
        header = re.compile(r"^\[\s*variables\s*\][^\n]*\n", re.MULTILINE)
        if header.search(text) is not None:
            text = header.sub(lambda match: f"{match[0]}{variables}\n", text, count=1)
        elif "variables" not in data:
            text = f"{text.rstrip()}\n\n[variables]\n{variables}\n"
        else:
            raise TemplateError(f"the manifest writes its variables in another form; add: {variables}")
    for what in ("application_trigger", "component"):
        if snippet := snippets.get(what, "").strip():
            text = f"{text.rstrip()}\n\n{snippet}\n"
    return text


def _check(text: str, manifest: Path) -> bool:
    """Whether it has components; ManifestError where it could not be loaded, but for having none yet."""
    document = Document(text, manifest)
    if "trigger" not in document.data and "component" not in document.data:
        return False
    parse_manifest(text, manifest)
    return True


def _beneath(root: Path, path: str) -> Path:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise TemplateError(f"'{path}' does not lie in the new folder")
    return root / path


def _write(made: Made, files: Mapping[Path, bytes], folders: list[Path], overwrite: bool) -> Made:
    there = [str(path) for path in files if path.exists()]
    if there and not overwrite:
        raise TemplateError(f"there already: {', '.join(there)} (--allow-overwrite)")
    try:
        for folder in (made.folder, *folders):
            folder.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    except OSError as error:
        raise TemplateError(f"{error.filename}: {error.strerror}") from None
    return made


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(data)
        if path.exists():
            temporary.chmod(path.stat().st_mode)
        temporary.replace(path)
    except OSError as error:
        raise TemplateError(f"{path}: {error.strerror}") from None
