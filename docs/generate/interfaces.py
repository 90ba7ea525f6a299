# The host interfaces, from the registry that guests are linked from and the WIT that it parses.

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

from wasm_gateway.component.types import FuncType
from wasm_gateway.host import application
from wasm_gateway.host.application import EXTRAS, FAMILIES, Hosts
from wasm_gateway.host.wasi.preview1 import FUNCTIONS, MODULE
from wasm_gateway.manifest import Component
from wasm_gateway.runtime_config import RuntimeConfig

from .text import code, table, words

# What grants the interfaces of a family: a key of the component, "" where nothing has to be granted.
OUTBOUND, FREE = "allowed_outbound_hosts", ""
GRANTS = {
    "key_value": "key_value_stores",
    "key_value_resources": "key_value_stores",
    "sqlite": "sqlite_databases",
    "config": "variables",
    "outbound_http": OUTBOUND,
    "redis": OUTBOUND,
    "rdbms": FREE,
    "postgres": OUTBOUND,
    "mysql": OUTBOUND,
    "mqtt": OUTBOUND,
    "llm": "ai_models",
    "wasi.otel": FREE,
    "wasi.io": FREE,
    "wasi.clocks": FREE,
    "wasi.cli": "environment",
    "wasi.filesystem": "files",
    "wasi.sockets": OUTBOUND,
    "wasi.tcp": OUTBOUND,
    "wasi.udp": OUTBOUND,
    "wasi.http": FREE,
    "wasi.outgoing": OUTBOUND,
    "wasi_p3.clocks": FREE,
    "wasi_p3.cli": "environment",
    "wasi_p3.filesystem": "files",
    "wasi_p3.sockets": OUTBOUND,
    "wasi_p3.http": FREE,
    "wasi_p3.client": OUTBOUND,
}
# What a guest's dialect of Spin has, by the version in a name; the first that fits counts.
SPIN_1, SPIN_2, SPIN_3, SPIN_4 = GENERATIONS = ("Spin 1", "Spin 2", "Spin 3", "Spin 4")
SINCE = (
    (r"fermyon:spin/[^@]+", SPIN_1),
    (r"fermyon:spin/.+@2|wasi:.+@0\.2(\.0-rc-2023-\d\d-\d\d)?", SPIN_2),
    (r"wasi:(keyvalue|config)/.+|spin:(postgres|sqlite)/.+", SPIN_3),
    (r"spin:.+@3|wasi:.+@0\.3.*|wasi:otel/.+", SPIN_4),
)


def since(name: str) -> str:
    return next(generation for pattern, generation in SINCE if re.fullmatch(pattern, name))


def package(name: str) -> str:
    """ "wasi:io/streams@0.2" -> "wasi:io@0.2"; those of Spin are one by one."""
    if name.startswith(("fermyon:spin/", "spin:")):
        return name
    return re.sub(r"/[^@]+", "", name)


# WASI of its own, whose packages go through the versions together.
WASI = {
    "wasi:http": "Requests, responses, streamed bodies",
    "wasi:io": "Streams, waiting; part of the Component Model in 0.3",
    "wasi:cli": "Environment, output, exit",
    "wasi:clocks": "Clocks",
    "wasi:random": "Random numbers",
    "wasi:filesystem": "Files",
    "wasi:sockets": "TCP, UDP",
}
# What a package of Spin's, or of what Spin offers beside WASI, is about.
SUBJECTS = {
    "http": "HTTP to other servers",
    "key-value": "Key-value stores",
    "variables": "Variables",
    "sqlite": "SQLite",
    "postgres": "PostgreSQL",
    "mysql": "MySQL",
    "rdbms-types": "Types of both",
    "redis": "Redis",
    "mqtt": "MQTT",
    "llm": "Language models",
    "otel": "Spans of the guest's own",
}
ALIASES = {"config": "variables", "keyvalue": "key-value"}


def wasi() -> str:
    """Which version of WASI has which package here."""
    found: dict[str, set[str]] = {}
    for name in FAMILIES:
        title, _, version = package(name).partition("@")
        if title in WASI:
            found.setdefault(title, set()).add(version)
    versions = sorted(set().union(*found.values()), key=lambda version: (version[:3], "rc" not in version))
    shown = [f"{version}.x" if version == "0.2" else version for version in versions]
    rows = [
        (code(name), *("yes" if version in found[name] else "" for version in versions), text)
        for name, text in WASI.items()
    ]
    return table(("", *map(code, shown), ""), rows)


def spin() -> str:
    """What there is for each subject besides WASI, by the generation of Spin that brought it."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in FAMILIES:
        title = package(name).partition("@")[0]
        if title not in WASI:
            cells = found.setdefault(subject(name), {}).setdefault(since(name), [])
            cells.append(versioned(name))
    titles = words(found, SUBJECTS)
    rows = [
        (
            titles[key],
            *("<br>".join(dict.fromkeys(map(code, found[key].get(each, ())))) for each in GENERATIONS),
        )
        for key in SUBJECTS
    ]
    return table(("", *GENERATIONS), rows)


def subject(name: str) -> str:
    owner, _, interface = name.partition("@")[0].partition("/")
    found = interface if owner == "fermyon:spin" else owner.partition(":")[2]
    return ALIASES.get(found, found)


def versioned(name: str) -> str:
    """The package with the versions that are one interface here: "spin:postgres@4.0.0 to 4.2.0"."""
    owner, _, version = package(name).partition("@")
    if not version:
        return owner
    return f"{owner.partition('/')[0] if owner.startswith('spin:') else owner}@{_versions(name)}"


def _versions(name: str) -> str:
    """The version up to which the text of an interface goes, where a guest may have a lower one."""
    version = name.partition("@")[2]
    if re.fullmatch(r"\d+(\.\d+)?", version) is None:
        return version  # a snapshot
    if version == "0.2":
        return "0.2.x"
    declared = re.search(rf"package [\w-]+:[\w-]+@({re.escape(version)}[\d.]*);", _text(name))
    assert declared is not None, name
    number = declared[1]
    lowest = version + ".0" * (2 - version.count("."))
    return number if number == lowest else f"{lowest} to {number}"


def _text(name: str) -> str:
    return application._text(importlib.import_module(f"wasm_gateway.host.{FAMILIES[name]}"), name)


def sections() -> str:
    """A section for each package and version, with its interfaces and their functions."""
    hosts = Hosts(RuntimeConfig())
    try:
        parts = [_section(title, names, hosts) for title, names in _packages()]
    finally:
        hosts.close()
    return "\n".join(parts)


def _packages() -> Iterator[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for name in FAMILIES:
        found.setdefault(package(name), []).append(name)
    order = {title: index for index, title in enumerate(found)}
    yield from sorted(found.items(), key=lambda item: (not item[0].startswith("wasi:"), order[item[0]]))


def _section(title: str, names: list[str], hosts: Hosts) -> str:
    rows = []
    for name in names:
        offered = hosts.interface(name)
        assert offered is not None, name
        rows.append((code(name), _functions(offered.type.funcs), _granted(name)))
    return f"### {title}\n\n{_accepted(names[0])}\n\n" + table(("interface", "functions", "granted by"), rows)


def _accepted(name: str) -> str:
    """Which versions of an import are met."""
    version = name.partition("@")[2]
    if not version:
        met = "Imports without a version."
    elif re.fullmatch(r"\d+(\.\d+)?", version):
        met = f"Imports of version {_versions(name)}."
    else:
        met = "Imports of exactly this version, which is a draft."
    return f"{met} Since {since(name)}."


def _functions(functions: dict[str, FuncType]) -> str:
    names = (code(("async " if type_.async_ else "") + short(name)) for name, type_ in functions.items())
    return ", ".join(names) or "types only"


def short(name: str) -> str:
    return re.sub(r"^\[(method|static)\]", "", re.sub(r"^\[constructor\](.*)", r"\1()", name))


def _granted(name: str) -> str:
    family = FAMILIES[name]
    if family == "wasi.snapshots_2023":
        family = FAMILIES[re.sub(r"@0\.2\.0-rc-.*", "@0.2", name)]
    grant = GRANTS[family]
    extra = EXTRAS.get(family)
    assert not grant or grant in Component.__dataclass_fields__
    text = code(grant) if grant else "nothing"
    return text if extra is None else f"{text}; extra `{extra}`"


def preview1() -> str:
    names = FUNCTIONS
    return f"`{MODULE}`: " + ", ".join(map(code, sorted(names))) + ".\n"
