# The settings of a site, from where they are read.

from __future__ import annotations

import dataclasses

from wasm_gateway.asgi import THREADS
from wasm_gateway.gateway import GatewayOptions
from wasm_gateway.integrations import options
from wasm_gateway.integrations.django import conf
from wasm_gateway.integrations.flask import extension

from .text import code, comments, table, words

_DEFAULTS = {
    "MANIFEST": "`spin.toml`",
    "HARDENED": "`False`",
    "POOLING": "`True`",
    "CSRF": "`False`",
    "THREADS": f"`{THREADS}`",
}


def shared() -> str:
    """The settings of every site: those of their own, and those that are fields of GatewayOptions."""
    fields = {field.name: field for field in dataclasses.fields(GatewayOptions)}
    meanings = comments("wasm_gateway.gateway", "GatewayOptions")
    assert meanings.keys() == fields.keys(), meanings.keys() ^ fields.keys()
    rows = []
    for key in sorted(options.KEYS):
        if key in options.OWN_KEYS:
            rows.append((code(key), "", _DEFAULTS.get(key, ""), options.OWN_KEYS[key]))
            continue
        field = fields[key.lower()]
        rows.append((code(key), code(field.type), _default(field), meanings[field.name]))
    return table(("setting", "type", "default", "meaning"), rows)


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is dataclasses.MISSING or field.default is None or field.default == ():
        return ""
    return code(field.default)


def django() -> str:
    return _own(conf.OWN_KEYS)


def flask() -> str:
    return _own(extension.OWN_KEYS)


def _own(keys: dict[str, str]) -> str:
    rows = [(code(key), _DEFAULTS.get(key, ""), meaning) for key, meaning in words(keys, keys).items()]
    return table(("setting", "default", "meaning"), rows)
