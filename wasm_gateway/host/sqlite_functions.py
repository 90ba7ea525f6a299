# Functions of SQL whose own implementation in SQLite takes time with the product of the
# lengths of its arguments, made anew: trim, ltrim, rtrim, instr, replace.
#
# SQLite asks for the deadline between the instructions of its machine, and a function is
# one: trim() of 250,000 characters by 100,000 took 179 s, and of values as large as
# guests may have, years. What they come to is as the SQLite documentation has it (Built-In
# Scalar SQL Functions).

from __future__ import annotations

import math
import sqlite3
from functools import partial

from .limits import MAX_HOST_BUFFERED_BYTES

Value = None | int | float | str | bytes


def install(connection: sqlite3.Connection) -> None:
    """Have `connection` use these."""
    for name, left, right in (("trim", True, True), ("ltrim", True, False), ("rtrim", False, True)):
        connection.create_function(name, 2, partial(_trim, left, right), deterministic=True)
    connection.create_function("instr", 2, _instr, deterministic=True)
    connection.create_function("replace", 3, _replace, deterministic=True)


def _text(value: Value) -> str:
    """A value as text: CAST(value AS TEXT)."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float):
        if math.isinf(value):
            return "Inf" if value > 0 else "-Inf"
        digits, exponent, power = format(value + 0.0, ".15g").partition("e")
        return f"{digits if '.' in digits else digits + '.0'}{exponent}{power}"
    return str(value)


def _trim(left: bool, right: bool, value: Value, characters: Value) -> str | None:
    if value is None or characters is None:
        return None
    text, known = _text(value), frozenset(_text(characters).partition("\0")[0])
    start, end = 0, len(text)
    while left and start < end and text[start] in known:
        start += 1
    while right and start < end and text[end - 1] in known:
        end -= 1
    return text[start:end]


def _instr(value: Value, wanted: Value) -> int | None:
    if value is None or wanted is None:
        return None
    if isinstance(value, bytes) and isinstance(wanted, bytes):
        return value.find(wanted) + 1
    return _text(value).find(_text(wanted)) + 1


def _replace(value: Value, old: Value, new: Value) -> Value:
    if value is None or old is None:
        return None
    before = _text(old)
    if before[:1] in ("", "\0"):
        return _text(value) if isinstance(value, bytes) else value
    if new is None:
        return None
    text, after = _text(value), _text(new)
    if len(text) + text.count(before) * (len(after) - len(before)) > MAX_HOST_BUFFERED_BYTES:
        raise ValueError("string or blob too big")
    return text.replace(before, after)
