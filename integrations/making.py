# What the commands wasm_new (Django) and `wasm new` (Flask) say of a guest that they have made.

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wasm_gateway.making.build import read_jobs
from wasm_gateway.making.scaffold import Made, component_name
from wasm_gateway.manifest import MANIFEST_NAME


def said(made: Made, name: str) -> Iterator[str]:
    """Lines for people: the files, and what comes next, where something does."""
    for path in made.files:
        yield _shown(path)
    yield f"Added to {_shown(made.manifest)}"
    component = component_name(name)
    if read_jobs(made.manifest, components=[component]):
        where = "" if made.manifest == Path.cwd() / MANIFEST_NAME else f" -f {_shown(made.manifest)}"
        yield f"Next: wasm-gateway build{where} -c {component} (a development server does so itself)"


def _shown(path: Path) -> str:
    cwd = Path.cwd()
    return str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)
