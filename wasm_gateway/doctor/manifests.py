# Diagnoses of the manifest's text, with their repairs, in the order in which they are made.
#
# Rule 1: a repair says the same thing in the way it is said today. Where that is not
# known (which scheme a host has, which of two triggers was meant) there is advice.
# Rule 2: each diagnosis sees the text as the ones before would leave it.

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from .. import manifest_v1
from ..errors import ManifestError
from ..manifest import Component, Manifest, parse_manifest
from ..toml import Document, Table, dotted
from .drafts import Draft, Edit, name, toml
from .findings import YOU, Finding, Level

Diagnosis = Callable[[Draft, Path], Iterator[tuple[Finding, list[Edit]]]]

KNOWN_TRIGGERS = ("http", "redis")
# What people write for `http`, besides other cases of it.
MISTAKEN_FOR_HTTP = ("https", "web", "wagi", "spin", "wasi-http", "spin-http")


def read(path: Path) -> tuple[str, list[Finding], Draft | None]:
    """The text of the manifest; what is wrong with it as TOML; the draft, where it is TOML."""
    try:
        text = Document.read(path).text
    except ManifestError as error:
        if error.line is None:
            raise
        where = f"{path.name}:{error.line}"
        finding = Finding(Level.BROKEN, error.message, YOU, f"mend line {error.line}", place=where)
        return path.read_bytes().decode(errors="replace"), [finding], None
    return text, [], Draft(text)


def diagnose(draft: Draft, path: Path) -> tuple[list[Finding], str, Manifest | None]:
    """What is found, the repaired text, and the application that this describes (None: it still does not)."""
    findings: list[Finding] = []
    for diagnosis in DIAGNOSES:
        for finding, edits in list(diagnosis(draft, path.parent)):
            # the places of edits are those of the text before the first of them
            again = edits and next(
                (
                    e
                    for f, e in diagnosis(draft, path.parent)
                    if f.what == finding.what and f.place == finding.place
                ),
                [],
            )
            next_draft = draft.edited(again) if again else None
            if next_draft is not None:
                draft = next_draft
                finding = replace(finding, repairable=True)
            findings.append(finding)
    try:
        manifest = parse_manifest(draft.text, path)
    except ManifestError as error:
        findings.append(_mistake(error, path))
        return findings, draft.text, None
    for warning in manifest.warnings:
        if "deprecated" not in warning:  # those are found above
            findings.append(Finding(Level.HINT, warning, YOU, f"mend {path.name}"))
    return findings, draft.text, manifest


def _mistake(error: ManifestError, path: Path) -> Finding:
    line = f" at or near line {error.line}" if error.line else ""
    advice = f"mend {path.name}{line}"
    if "tool" in (error.key or "") and error.key and "wasm-gateway" in error.key:
        advice += " (`wasm-gateway schema` helps an editor)"
    return Finding(Level.BROKEN, error.message, YOU, advice, place=error.key)


# The diagnoses


def _looks_like_v1(draft: Draft) -> bool:
    return isinstance(draft.get("component"), list) or "application" not in draft.data


def version_key(draft: Draft, _: Path) -> Iterator[tuple[Finding, list[Edit]]]:
    """The key that says which version it is (Spin: manifest, 1)."""
    right: Any = "1" if _looks_like_v1(draft) and draft.data else 2
    old, key = draft.get("spin_version"), draft.get("spin_manifest_version")
    if old is not None and key is None:
        finding = Finding(
            *(
                Level.HINT if draft.version == 1 else Level.BROKEN,
                "`spin_version` is the old name of a key",
                YOU,
            ),
            *("call it `spin_manifest_version`", None, "spin_version"),
        )
        yield finding, draft.rename(("spin_version",), "spin_manifest_version")
    elif key is None:
        what = "the key `spin_manifest_version` is missing"
        advice = f"write `spin_manifest_version = {toml(right)}`"
        first = re.match(r"(?:#:schema[^\n]*\n)?", draft.text)
        edits = draft.insert(first.end() if first else 0, [f"spin_manifest_version = {toml(right)}"])
        yield Finding(Level.BROKEN, what, YOU, advice, place="spin_manifest_version"), edits
    elif draft.version is None:
        what = f'the manifest version has to be the text "1" or the number 2, and is {toml(key)}'
        if key in (1, "1", 1.0):
            right = "1"
        finding = Finding(Level.BROKEN, what, YOU, f"write {toml(right)}", place="spin_manifest_version")
        yield finding, draft.replace(("spin_manifest_version",), right)


def v1_trigger(draft: Draft, _: Path) -> Iterator[tuple[Finding, list[Edit]]]:
    """Triggers that a version 1 manifest must have (Spin: command line, 9)."""
    if draft.version != 1:
        return
    key = next(key for key in ("spin_manifest_version", "spin_version") if key in draft.data)
    if draft.get("trigger") is None:
        finding = Finding(
            *(Level.BROKEN, "the application has no trigger", YOU, 'write `trigger = { type = "http" }`'),
            place="trigger",
        )
        yield finding, draft.insert(draft.below((key,)), ['trigger = { type = "http" }'])
    elif isinstance(draft.get("trigger"), dict) and draft.get("trigger", "type") is None:
        finding = Finding(
            Level.BROKEN, "the trigger has no type", YOU, 'write `type = "http"`', place="trigger"
        )
        edits = draft.replace(("trigger",), {"type": "http", **draft.get("trigger")})
        yield finding, edits
    if draft.get("trigger", "type") not in (None, "http"):
        return
    components = draft.get("component")
    for index, component in enumerate(components if isinstance(components, list) else ()):
        if not isinstance(component, dict) or (
            isinstance(component.get("trigger"), dict) and ("route" in component["trigger"])
        ):
            continue
        id = component.get("id")
        edits = []
        if len(components) == 1 and ("component", index, "id") in draft.spans:
            if "trigger" not in component:
                below = draft.below(("component", index, "id"))
                edits = draft.insert(below, ['trigger = { route = "/..." }'])
            elif ("component", index, "trigger") in draft.spans:
                edits = draft.replace(
                    ("component", index, "trigger"), {"route": "/...", **component["trigger"]}
                )
        finding = Finding(
            *(Level.BROKEN, "its trigger has no route", YOU, "say which route it answers, `/...` for all"),
            *(id if isinstance(id, str) else None, f"component[{index}].trigger"),
        )
        yield finding, edits


def trigger_type(draft: Draft, _: Path) -> Iterator[tuple[Finding, list[Edit]]]:
    """Triggers that nothing here serves, and `http` misspelt."""
    if draft.version == 1:
        type = draft.get("trigger", "type")
        if isinstance(type, str) and type not in KNOWN_TRIGGERS:
            meant = _meant(type)
            edits = draft.replace(("trigger", "type"), meant) if meant else []
            yield _trigger_finding(type, meant, "trigger.type"), edits
        return
    triggers = draft.get("trigger")
    for type in triggers if isinstance(triggers, dict) else ():
        if type in KNOWN_TRIGGERS:
            continue
        meant = _meant(type)
        header = re.compile(
            rf"^(?P<head>[ \t]*\[\[?[ \t]*(?:application[ \t]*\.[ \t]*)?trigger[ \t]*\.[ \t]*)"
            rf"(?P<quote>[\"']?){re.escape(type)}(?P=quote)(?=[ \t]*[\].])",
            re.MULTILINE,
        )
        edits = []
        if meant:
            for match in header.finditer(draft.text):
                edits.append(Edit(match.end("head"), match.end(), meant))
        yield _trigger_finding(type, meant, f"trigger.{type}"), edits


def _meant(type: str) -> str | None:
    low = type.lower()
    return low if low in KNOWN_TRIGGERS else "http" if low in MISTAKEN_FOR_HTTP else None


def _trigger_finding(type: str, meant: str | None, place: str) -> Finding:
    if meant:
        return Finding(Level.BROKEN, f"there is no trigger `{type}`", YOU, f"write `{meant}`", place=place)
    return Finding(
        *(Level.BROKEN, f"triggers of type `{type}` are served by a plugin of Spin, and not here", YOU),
        "run them with Spin, and name the other components here (-c/--component-id ID)",
        place=place,
    )


def base(draft: Draft, _: Path) -> Iterator[tuple[Finding, list[Edit]]]:
    """The base path that applications once had (Spin: manifest, 2.3)."""
    if draft.version == 1:
        key: tuple[str | int, ...] = ("trigger", "base")
        count = len(draft.get("component") or ())
        routes: list[tuple[str | int, ...]] = [("component", n, "trigger", "route") for n in range(count)]
    else:
        key = ("application", "trigger", "http", "base")
        count = len(draft.get("trigger", "http") or ())
        routes = [("trigger", "http", n, "route") for n in range(count)]
    value = draft.get(*key)
    if not isinstance(value, str):
        return
    if not value.strip("/"):
        finding = Finding(Level.HINT, "`base` has no effect", YOU, "remove it", place=dotted(key))
        yield finding, draft.remove(key)
        return
    edits = draft.remove(key)
    for route in routes:
        path = draft.get(*route)
        if isinstance(path, str):
            based = draft.replace(route, f"/{value.strip('/')}/{path.lstrip('/')}".removesuffix("/"))
            edits = edits + based if based and edits else []
    finding = Finding(
        *(Level.BROKEN, f'the base path "{value}" is refused', YOU, "put it into the routes"),
        place=dotted(key),
    )
    yield finding, edits


def old_hosts(draft: Draft, _: Path) -> Iterator[tuple[Finding, list[Edit]]]:
    """`allowed_http_hosts` of version 2, and the word that once allowed everything."""
    components = draft.get("component")
    if draft.version != 2 or not isinstance(components, dict):
        return
    for id, component in components.items():
        if not isinstance(component, dict):
            continue
        outbound = component.get("allowed_outbound_hosts")
        key = ("component", id, "allowed_outbound_hosts")
        if outbound == [manifest_v1.ALLOW_ALL]:
            finding = Finding(
                *(Level.BROKEN, f'"{manifest_v1.ALLOW_ALL}" is refused', YOU, 'write "*://*:*"'),
                *(id, dotted(key)),
            )
            yield finding, draft.replace(key, ["*://*:*"])
        if "allowed_http_hosts" not in component:
            continue
        old = ("component", id, "allowed_http_hosts")
        edits: list[Edit] = []
        try:
            hosts = manifest_v1.allowed_http_hosts(Table(Document(draft.text, None), component, old[:2]))
        except ManifestError:
            hosts = None
        if hosts is not None and outbound is None:
            edits = draft.rename(old, "allowed_outbound_hosts") + draft.replace(old, hosts)
        elif hosts is not None and isinstance(outbound, list):
            edits = draft.remove(old) + draft.replace(key, list(dict.fromkeys([*outbound, *hosts])))
        yield (
            Finding(
                *(Level.HINT, "`allowed_http_hosts` is deprecated", YOU),
                *("write the same as `allowed_outbound_hosts`", id, dotted(old)),
            ),
            edits,
        )


def wagi(draft: Draft, _: Path) -> Iterator[tuple[Finding, list[Edit]]]:
    """Executors that are written in a way that is not read, or not read any more."""
    for place, id, trigger in _http_triggers(draft):
        executor = trigger.get("executor")
        key = (*place, "executor")
        if isinstance(executor, str):
            type = "wagi" if executor == "wagi" else "http" if executor in ("http", "spin") else None
            edits = draft.replace(key, {"type": type}) if type else []
            yield (
                Finding(
                    *(Level.BROKEN, "`executor` is a table", YOU),
                    *(f'write `executor = {{ type = "{type or executor}" }}`', id, dotted(key)),
                ),
                edits,
            )
        elif isinstance(executor, dict) and "entrypoint" in executor:
            usual = executor["entrypoint"] == "_start"
            yield (
                Finding(
                    Level.HINT if usual else Level.BROKEN,
                    f"`entrypoint` is {'deprecated' if usual else 'not read: WAGI guests begin at `_start`'}",
                    YOU,
                    "remove it" if usual else "export the entry point as `_start`, and remove the key",
                    id,
                    dotted((*key, "entrypoint")),
                ),
                draft.remove((*key, "entrypoint")) if usual else [],
            )


def _http_triggers(draft: Draft) -> Iterator[tuple[tuple[str | int, ...], str | None, dict[str, Any]]]:
    """The place of each HTTP trigger, its component's id, its table."""
    if draft.version == 1:
        for index, component in enumerate(_list(draft.get("component"))):
            if isinstance(component, dict) and isinstance(component.get("trigger"), dict):
                yield ("component", index, "trigger"), component.get("id"), component["trigger"]
        return
    for index, trigger in enumerate(_list(draft.get("trigger", "http"))):
        if isinstance(trigger, dict):
            id = trigger.get("component")
            yield ("trigger", "http", index), id if isinstance(id, str) else None, trigger


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _components(draft: Draft) -> Iterator[tuple[tuple[str | int, ...], str, dict[str, Any]]]:
    """The place of each component, its id, its table."""
    components = draft.get("component")
    if isinstance(components, dict):
        pairs = ((("component", id), id, table) for id, table in components.items())
    else:
        pairs = (
            (("component", index), table.get("id", ""), table)
            for index, table in enumerate(_list(components))
            if isinstance(table, dict)
        )
    for place, id, table in pairs:
        if isinstance(table, dict):
            yield place, str(id), table


# Keys of a component, and what people call them, besides near misses.
KEYS = {each.name for each in fields(Component)} - {"id", "options"} | {
    "allowed_http_hosts",
    "dependencies_inherit_configuration",
    "profile",
}
OTHER_NAMES = {
    "allowed_models": "ai_models",
    "allowed_hosts": "allowed_outbound_hosts",
    "config": "variables",
    "env": "environment",
    "kv_stores": "key_value_stores",
}


def misspelt(draft: Draft, _: Path) -> Iterator[tuple[Finding, list[Edit]]]:
    """Keys of components that nobody knows, and that resemble one that is not there."""
    if draft.version != 2:
        return
    for place, id, table in _components(draft):
        for key in table:
            if key in KEYS:
                continue
            close = difflib.get_close_matches(key, sorted(KEYS), 1, 0.8)
            meant = OTHER_NAMES.get(key) or (close[0] if close else None)
            if meant is None or meant in table:
                continue
            edits = draft.rename((*place, key), meant)
            for match in _header(re.escape(id), re.escape(key)).finditer(draft.text):
                edits.append(Edit(match.start("key"), match.end("key"), meant))
            what = f"there is no key `{key}`"
            yield Finding(Level.BROKEN, what, YOU, f"write `{meant}`", id, dotted((*place, key))), edits


def _header(id: str, key: str) -> re.Pattern[str]:
    """`[component.ID.KEY]`, with `key` in a group."""
    return re.compile(
        rf"^[ \t]*\[[ \t]*component[ \t]*\.[ \t]*{id}[ \t]*\.[ \t]*(?P<key>{key})[ \t]*[.\]]", re.MULTILINE
    )


_OLD_TARGET = re.compile(r"\bwasm32-wasi\b(?!-)")


def rust_target(draft: Draft, folder: Path) -> Iterator[tuple[Finding, list[Edit]]]:
    """The target wasm32-wasi, which Rust 1.84 has no more, where the guest has still to be built."""
    for place, id, table in _components(draft):
        source = table.get("source")
        build = table.get("build")
        command = build.get("command") if isinstance(build, dict) else None
        commands = [command] if isinstance(command, str) else _list(command)
        if not isinstance(source, str) or (folder / source).exists():
            continue
        if not any(isinstance(each, str) and _OLD_TARGET.search(each) for each in commands):
            continue
        new = [_OLD_TARGET.sub("wasm32-wasip1", str(each)) for each in commands]
        edits = draft.replace((*place, "build", "command"), new[0] if isinstance(command, str) else new)
        if edits and _OLD_TARGET.search(source):
            edits += draft.replace((*place, "source"), _OLD_TARGET.sub("wasm32-wasip1", source))
        what = "its build command asks for the target wasm32-wasi, which Rust has no more (1.84)"
        advice = "build for wasm32-wasip1 (`rustup target add wasm32-wasip1`)"
        yield Finding(Level.RISK, what, YOU, advice, id, dotted((*place, "build", "command"))), edits


def upgrade(draft: Draft, folder: Path) -> Iterator[tuple[Finding, list[Edit]]]:
    """A version 1 manifest can be said as version 2 (Spin: manifest, 6)."""
    if draft.version != 1:
        return
    path = folder / "spin.toml"
    edits = []
    try:
        before = parse_manifest(draft.text, path)
    except ManifestError:
        return  # which is told
    text = upgraded(draft.text)
    try:
        if same(parse_manifest(text, path), before):
            edits = [Edit(0, len(draft.text), text)]
    except ManifestError:
        pass
    what = "a manifest of version 1 runs, and can be upgraded to version 2"
    advice = "upgrade it: only version 2 has middleware, dependencies and the tool.wasm-gateway tables"
    yield Finding(Level.HINT, what, YOU, advice, place="spin_manifest_version"), edits


def same(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests mean the same: an empty table of a trigger's settings says nothing."""
    without, beside = (
        replace(each, application_triggers={k: v for k, v in each.application_triggers.items() if v})
        for each in (one, other)
    )
    return without == beside


def upgraded(text: str) -> str:
    """The version 2 manifest that means the same as `text`, which is one of version 1 without mistakes.

    Comments at the top and those in front of components are kept.
    """
    document = Document(text, None)
    data, _ = manifest_v1.convert(document.root)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines()
    top = lines[: next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    comments = _component_comments(lines)
    out = [*top, "spin_manifest_version = 2", "", "[application]"]
    application = dict(data["application"])
    triggers = application.pop("trigger")
    out += _pairs(application)
    for type, table in triggers.items():
        if table:
            out += ["", f"[application.trigger.{name(type)}]", *_pairs(table)]
    if data["variables"]:
        out += ["", "[variables]", *_pairs(data["variables"])]
    ((type, listed),) = data["trigger"].items() or (("http", []),)
    written: set[str] = set()
    last = {trigger["component"]: index for index, trigger in enumerate(listed)}
    for index, trigger in enumerate(listed):
        id = trigger["component"]
        out += ["", *(comments[index] if index < len(comments) else [])]
        head = {"id": trigger["id"], "component": id}
        out += [f"[[trigger.{name(type)}]]", *_pairs({**head, **trigger})]
        if id in written or last[id] != index:  # the last of several with one id counts
            continue
        written.add(id)
        component = dict(data["component"][id])
        tables = {key: component.pop(key, {}) for key in ("variables", "build")}
        if not component["allowed_outbound_hosts"]:
            del component["allowed_outbound_hosts"]
        out += ["", f"[component.{id}]", *_pairs(component)]
        for key, table in tables.items():
            if table:
                out += [f"[component.{id}.{key}]", *_pairs(table)]
    return newline.join(out) + newline


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{name(key)} = {toml(value)}" for key, value in table.items()]


def _component_comments(lines: list[str]) -> list[list[str]]:
    """The comment lines right above each `[[component]]`, in order."""
    found = []
    for index, line in enumerate(lines):
        if re.match(r"\s*\[\[\s*component\s*\]\]", line):
            begin = index
            while begin and lines[begin - 1].lstrip().startswith("#"):
                begin -= 1
            found.append(lines[begin:index] if begin else [])
    return found


# A file of a project -> the command that builds it, and what to watch. Cargo's target is that of the source.
BUILDS: tuple[tuple[str, Any, list[str]], ...] = (
    ("Cargo.toml", "cargo build --target {target} --release", ["src/**/*.rs", "Cargo.toml"]),
    ("package.json", ["npm install", "npm run build"], ["src/**/*.ts", "src/**/*.js", "package.json"]),
    ("Makefile", "make", []),
)


def build(draft: Draft, folder: Path) -> Iterator[tuple[Finding, list[Edit]]]:
    """A component beside whose Wasm lies a project, and no command that builds it."""
    if draft.version != 2:
        return
    for place, id, table in _components(draft):
        source = table.get("source")
        if not isinstance(source, str) or "build" in table:
            continue
        found = _project(folder, source)
        if found is None:
            continue
        workdir, command, watch = found
        lines = ["", f"[component.{name(id)}.build]", f"command = {toml(command)}"]
        lines += [f"workdir = {toml(workdir)}"] if workdir else []
        lines += [f"watch = {toml(watch)}"] if watch else []
        shown = command if isinstance(command, str) else " && ".join(command)
        what = "there is a project, and no `build` table says how it is built"
        finding = Finding(
            Level.HINT, what, YOU, f"name the command (`{shown}`?)", id, dotted((*place, "build"))
        )
        edits = draft.insert(len(draft.text), lines) if isinstance(draft.get("component"), dict) else []
        yield finding, edits


def _project(folder: Path, source: str) -> tuple[str, Any, list[str]] | None:
    """The working directory, command and watch list for what `source` seems to be made from."""
    path = PurePosixPath(source.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        return None
    target = next((part for part in path.parts if part.startswith("wasm32-")), "wasm32-wasip2")
    for parent in path.parents:
        for file, command, watch in BUILDS:
            if not (folder / parent / file).is_file():
                continue
            if file == "package.json" and '"build"' not in (folder / parent / file).read_text(
                errors="replace"
            ):
                continue
            if isinstance(command, str):
                command = command.format(target=target)
            workdir = "" if str(parent) == "." else str(parent)
            return workdir, command, watch
    return None


DIAGNOSES: Iterable[Diagnosis] = (
    version_key,
    v1_trigger,
    trigger_type,
    base,
    misspelt,
    old_hosts,
    wagi,
    rust_target,
    upgrade,
    build,
)
