# What guests are recognised by, and what they are made from.

from __future__ import annotations

import re
from pathlib import Path

import tomli

from wasm_gateway import executors
from wasm_gateway.executors import guest, legacy_flat, spin
from wasm_gateway.making import scaffold

from .text import code, table, words

ROOT = Path(__file__).resolve().parents[2]


def _exports() -> dict[str, list[str]]:
    """What each dialect is recognised by: asked of the function that recognises it."""
    candidates = [
        *guest.HTTP_P3_HANDLERS,
        *guest.HTTP_0_2_HANDLERS,
        *executors.CLI_RUN,
        spin.HTTP[0],
        spin.REDIS[0],
        spin.REDIS_3[0],
    ]
    found: dict[str, list[str]] = {}
    for name in candidates:
        for dialect in executors.component_dialects([name]):
            found.setdefault(dialect, []).append(name)
    found["legacy-flat"] = [legacy_flat.HTTP_EXPORT]
    found["legacy-flat-redis"] = [legacy_flat.REDIS_EXPORT]
    return found


WORDS = {
    "wasi-http-p3": "Spin 4 SDKs (`spin new http-rust`), `wasmtime serve`; async components in C, Rust, "
    "JavaScript, Python.",
    "wasi-http": "Spin 2 and 3 SDKs, wasmCloud, `wasmtime serve`; C, Rust, Go, JavaScript, Python. Also core "
    "modules of Spin SDK 2 with the world embedded.",
    "spin": "Spin 1 SDKs: core modules and components.",
    "legacy-flat": "Core modules of Spin 0.x; the `redirect` and `fileserver` of Spin's templates.",
    "wagi": "CGI programs in any language: a core module with `_start`, or a command component, and "
    '`executor = { type = "wagi" }` on the trigger.',
    "spin-redis": "Handlers of Redis messages: a `[[trigger.redis]]`.",
    "legacy-flat-redis": "The same of Spin 0.x.",
}


def dialects() -> str:
    exports = _exports()
    meaning = words(exports, WORDS)
    rows = [
        (code(dialect), " ".join(code(name) for name in exports[dialect]), meaning[dialect])
        for dialect in WORDS
    ]
    return table(("dialect", "the guest exports", "where such guests come from"), rows)


EXTRAS = {
    "django": "The middleware, the commands, the admin page.",
    "flask": "The extension, the commands.",
    "redis": "Guests that use Redis; key-value stores and ledgers in one; Redis triggers.",
    "postgres": "Guests that use PostgreSQL.",
    "mysql": "Guests that use MySQL.",
    "mqtt": "Guests that use MQTT.",
    "metrics": "The setting `METRICS`.",
    "otel": "The setting `TRACING`; spans of guests.",
    "docs": "For those who build this site.",
    "dev": "For those who work on the gateway.",
}


def extras() -> str:
    project = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = project["optional-dependencies"]
    rows = [
        (code(name), " ".join(code(re.split(r"[>=\[]", each)[0]) for each in packages[name][:1]), text)
        for name, text in words(packages, EXTRAS).items()
        if name not in ("docs", "dev")
    ]
    return table(("extra", "package", "for"), rows)


def templates() -> str:
    rows = []
    for each in scaffold.find_templates(None).values():
        asked = (
            code(p.name) + (f" ({code(p.default)})" if p.default else "")
            for p in each.parameters
            if p.name != "project-description"
        )
        rows.append((code(each.id), each.description, ", ".join(asked)))
    return table(("template", "what it makes", "asks for"), rows)
