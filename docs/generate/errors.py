# The exceptions, from errors.py: the tree and who has to act, as its first lines say.

from __future__ import annotations

import inspect
import re

from wasm_gateway import errors

from .text import code, words
from .text import table as rendered

_LINE = re.compile(r"#( +)(\w+)(?: {2,}(\S.*))?")


def table_of() -> list[tuple[type[errors.GatewayError], int, str]]:
    """Each class, its depth, and what the head of the module says of it."""
    source = inspect.getsource(errors)
    head = source[source.index("# GatewayError") :].partition("\n#\n")[0]
    lines = [match for line in head.splitlines() if (match := _LINE.fullmatch(line))]
    notes = {match[2]: match[3] or "" for match in lines}
    classes = {name: value for name, value in vars(errors).items() if _is_own(value)}
    notes = words(classes, notes)
    return [(classes[match[2]], (len(match[1]) - 1) // 2, notes[match[2]]) for match in lines]


def _is_own(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, errors.GatewayError)


def table() -> str:
    rows = []
    notes: list[str] = []  # of the classes around one
    for kind, depth, note in table_of():
        notes[depth:] = [note or (notes[depth - 1] if depth else "")]
        name = "&emsp;" * depth + f"{{py:exc}}`{kind.__name__} <wasm_gateway.errors.{kind.__name__}>`"
        rows.append((name, code(kind.status), notes[depth]))
    return rendered(("exception", "status", "who has to act"), rows)
