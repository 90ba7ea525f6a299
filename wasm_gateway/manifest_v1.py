# A version 1 manifest -> the same application as a version 2 document.
#
# Rule 1: only what the versions spell differently is looked at; the rest is passed
# through unseen and checked by manifest.py, under the place it has in the v1 text.
# Rule 2: no dataclass of manifest.py is known here.
#
# Spin: manifest, section 6.

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .manifest_ids import id_error
from .toml import Key, Table

# what a v1 component without `allowed_outbound_hosts` may reach besides HTTP
DATABASE_HOSTS = ("redis://*:*", "mysql://*:*", "postgres://*:*")
ALLOW_ALL = "insecure:allow-all"

_SAME = (
    "source",
    "description",
    "environment",
    "files",
    "exclude_files",
    "key_value_stores",
    "sqlite_databases",
    "ai_models",
    "build",
)


def convert(root: Table) -> tuple[dict[str, Any], dict[Key, Key]]:
    """The v2 document of a v1 one, and where the heads of its key paths stand in the v1 text."""
    versions = (root.take("spin_manifest_version"), root.take("spin_version"))
    if None not in versions:
        raise root.error("duplicate field `spin_manifest_version`", "spin_version")

    aliases: dict[Key, Key] = {}
    application: dict[str, Any] = {}
    root.required("name")
    for name in ("name", "version", "description", "authors"):
        value = root.take(name)
        if value is not None:
            application[name] = value
        aliases["application", name] = (name,)

    root.required("trigger")
    trigger = root.table("trigger")
    trigger_type = trigger.text("type")
    application["trigger"] = {trigger_type: {key: v for key, v in trigger.data.items() if key != "type"}}
    aliases["application", "trigger", trigger_type] = ("trigger",)

    variables = root.table("variables").data
    components: dict[str, Any] = {}
    triggers: list[dict[str, Any]] = []
    for index, table in enumerate(root.tables("component")):
        id, component = _component(table)
        # a second component of the same id replaces the first, and both triggers call it
        components[id] = component
        triggers.append({**_trigger(table), "id": f"trigger-{id}", "component": id})
        aliases["component", id] = ("component", index)
        aliases["component", id, "variables"] = ("component", index, "config")
        aliases["trigger", trigger_type, index] = ("component", index, "trigger")
    root.done()

    document = {
        "spin_manifest_version": 2,
        "application": application,
        "variables": variables,
        "trigger": {trigger_type: triggers},
        "component": components,
    }
    return document, aliases


def _component(table: Table) -> tuple[str, dict[str, Any]]:
    text = table.text("id")
    id = text if id_error(text, "-") is None else text.replace("_", "-").lower()
    problem = id_error(id, "-")
    if problem is not None:
        raise table.error(f'invalid id "{text}": {problem}', "id")

    component: dict[str, Any] = {}
    for name in _SAME:
        value = table.take(name)
        if value is not None:
            component[name] = value
    component["variables"] = table.table("config").data

    outbound = table.texts("allowed_outbound_hosts")
    if "allowed_outbound_hosts" not in table:
        outbound = DATABASE_HOSTS
    component["allowed_outbound_hosts"] = [*outbound, *allowed_http_hosts(table)]

    table.required("trigger")
    table.done()
    return id, component


def _trigger(table: Table) -> dict[str, Any]:
    trigger = table.table("trigger")
    for name in ("id", "component"):
        if name in trigger:
            raise trigger.error(f"unknown field `{name}`", name)
    return dict(trigger.data)


_AUTHORITY = re.compile(r"(?:[^\s/?#@:*\[\]\\]+|\[[0-9a-fA-F:.]+\])(?::([0-9]{1,5}))?")


def allowed_http_hosts(table: Table) -> list[str]:
    """The `allowed_outbound_hosts` that the old `allowed_http_hosts` of a component mean."""
    entries: Sequence[str] = table.texts("allowed_http_hosts")
    if ALLOW_ALL in entries:
        return ["http://*:*", "https://*:*", "http://self"]
    hosts: list[str] = []
    problems: list[str] = []
    for entry in entries:
        text = entry.strip()
        if text == "self":
            hosts.append("http://self")
            continue
        scheme, separator, rest = text.rpartition("://")
        if separator and scheme not in ("http", "https"):
            problems.append(f"{entry} isn't a valid host or host:port string")
            continue
        rest = rest.removesuffix("/")
        authority, slash, _ = rest.partition("/")
        match = _AUTHORITY.fullmatch(authority)
        if match is None or int(match[1] or 0) > 65535:
            problems.append(f"{entry} isn't a valid host or host:port string")
        elif slash:
            problems.append(f"{entry} contains a path, should be host and optional port only")
        else:
            hosts += [f"http://{authority}", f"https://{authority}"]
    if problems:
        raise table.error(
            "One or more allowed_http_hosts entries was invalid:\n" + "\n".join(problems),
            "allowed_http_hosts",
        )
    return hosts
