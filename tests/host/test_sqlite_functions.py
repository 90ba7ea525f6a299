"""They say what SQLite's own say, in time with the lengths of their arguments."""

from __future__ import annotations

import itertools
import sqlite3
from typing import Any

import pytest

from wasm_gateway.host import sqlite
from wasm_gateway.host.limits import MAX_HOST_BUFFERED_BYTES
from wasm_gateway.host.sqlite import SMALL_VALUE_BYTES, Connection, SqlError
from wasm_gateway.host.sqlite_functions import install

FUNCTIONS = {"trim": 2, "ltrim": 2, "rtrim": 2, "instr": 2, "replace": 3}
VALUES: list[Any] = [
    *(None, 0, -5, 10, 2**62, 1.5, 100.0, 1e20, 1e-7, -0.0, 1e15, 123456789012345678.0, float("inf")),
    *("", "a", "aXa", "  a b ", "\xe4\xf6a", "1.0", "0", "..", "aa", "a\0b", "\0"),
    *(b"", b"a", b"abc", b"\xc3\xa4b"),
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_they_say_what_those_of_sqlite_say(name: str) -> None:
    theirs, ours = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    install(ours)
    statement = f"SELECT {name}({','.join('?' * FUNCTIONS[name])})"
    for values in itertools.product(VALUES, repeat=FUNCTIONS[name]):
        [expected], [found] = (each.execute(statement, values).fetchone() for each in (theirs, ours))
        assert (type(found), found) == (type(expected), expected), values
    theirs.close()
    ours.close()


@pytest.fixture
def database() -> Any:
    made = Connection(None)
    yield made
    made.close()


def one(database: Connection, statement: str, *values: tuple[str, Any]) -> Any:
    [(row,)] = database.execute(statement, list(values))[1]
    return row[0][1]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_guests_have_these(database: Connection, name: str) -> None:
    """SQLite's own take minutes for the values of the next test, which nothing can end."""
    counts = f"name = '{name}' AND narg = {FUNCTIONS[name]}"
    assert one(database, f"SELECT min(builtin) FROM pragma_function_list WHERE {counts}") == 0


def test_long_values_take_no_long_time(database: Connection) -> None:
    long = ("text", "a" * 250_000)
    other = ("text", "".join(map(chr, range(256, 20_000))) + "b" * 50_000 + "a")
    assert one(database, "SELECT trim(?, ?)", long, other) == ""
    assert one(database, "SELECT rtrim(?, ?)", long, ("text", "b")) == long[1]
    assert one(database, "SELECT instr(?, ?)", long, ("text", "a" * 125_000 + "b")) == 0
    assert one(database, "SELECT replace(?, ?, 'x')", long, ("text", "a" * 125_000)) == "xx"


def test_a_result_is_bounded_before_it_is_there(database: Connection) -> None:
    long = ("text", "a" * 250_000)
    assert len(long[1]) ** 2 > MAX_HOST_BUFFERED_BYTES
    with pytest.raises(SqlError):
        database.execute("SELECT replace(?, 'a', ?)", [long, long])


@pytest.mark.parametrize(
    ("expression", "largest"),
    [
        ("length(?)", MAX_HOST_BUFFERED_BYTES),
        ("? LIKE '%x'", 8 << 20),
        ("? GLOB '*x'", 8 << 20),
        ("(SELECT ? LIKE '%x')", 8 << 20),
        ("json_patch(?, '{}')", SMALL_VALUE_BYTES),
    ],
)
def test_slow_functions_get_no_large_values(database: Connection, expression: str, largest: int) -> None:
    def asked(size: int) -> Any:
        return one(database, f"SELECT {expression} IS NULL", ("text", "1" * size))

    for transaction in (False, True):
        if transaction:
            database.execute("BEGIN", [])
        assert asked(100) == 0
        # a share of what a statement may hold is less than that
        assert asked(min(largest, 64 << 20)) == 0 or expression.startswith("json")
        if largest < MAX_HOST_BUFFERED_BYTES:
            with pytest.raises(SqlError, match="too big"):
                asked(largest + 1)


@pytest.mark.parametrize("operator", ["LIKE", "GLOB"])
def test_patterns_are_short(database: Connection, operator: str) -> None:
    statement = f"SELECT 'text' {operator} ?"
    assert one(database, statement, ("text", "x" * sqlite.MAX_PATTERN)) == 0
    with pytest.raises(SqlError, match="pattern too complex"):
        one(database, statement, ("text", "x" * (sqlite.MAX_PATTERN + 1)))
