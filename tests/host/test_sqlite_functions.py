"""They say what SQLite's own say, in time with the lengths of their arguments."""

from __future__ import annotations

import itertools
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway.errors import DeadlineExceeded
from wasm_gateway.host import sqlite
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.limits import MAX_HOST_BUFFERED_BYTES
from wasm_gateway.host.sqlite import Connection, SqlError
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
        ("? LIKE '%x'", 4 << 20),
        ("? GLOB '*x'", 4 << 20),
        ("(SELECT ? LIKE '%x')", 4 << 20),
        ("json_patch(?, '{}')", 128 << 10),
        ("?1 LIKE '%x' + ?1 LIKE '%y'", 2 << 20),
        ("?1 LIKE 'x'" + 99 * " + ?1 LIKE 'x'", (4 << 20) // 100),
        ("length(?1)" + 899 * " + length(?1)", (128 << 20) // 900),
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


LONG = ("text", "a" * 200_000)
MANY = " + ".join(["(?1 LIKE '%b')"] * 100)


def test_what_a_statement_weighs_is_all_of_it(database: Connection) -> None:
    """Also in views and triggers, and in the midst of a transaction."""
    database.execute("CREATE TABLE t (a)", [])
    database.execute("INSERT INTO t VALUES (?)", [LONG])
    database.execute(f"CREATE VIEW v AS SELECT {MANY.replace('?1', 'a')} AS n FROM t", [])
    database.execute(
        f"CREATE TRIGGER g AFTER UPDATE ON t BEGIN SELECT {MANY.replace('?1', 'new.a')}; END", []
    )
    for transaction in (False, True):
        if transaction:
            database.execute("BEGIN", [])
        for statement in (f"SELECT {MANY}", "SELECT n FROM v", "UPDATE t SET a = ?1 || 'b'"):
            parameters = [LONG] if "?1" in statement else []
            for _ in range(2):  # nor does it matter that it was compiled already
                with pytest.raises(SqlError, match="too big"):
                    database.execute(statement, parameters)
    database.execute("ROLLBACK", [])
    database.execute("UPDATE t SET a = ?1", [("text", "short")])
    assert one(database, "SELECT n FROM v") == 0
    assert one(database, f"SELECT {MANY}", ("text", "b" * 30_000)) == 100
    assert one(database, "SELECT ?1 LIKE '%b'", LONG) == 0


def test_a_view_that_becomes_heavy_is_noticed(tmp_path: Path) -> None:
    """The statement was light when it was compiled, and SQLite compiles it again."""
    first, second = Connection(tmp_path / "a.db"), Connection(tmp_path / "a.db")
    first.execute("CREATE TABLE t (a)", [])
    first.execute("INSERT INTO t VALUES (?)", [LONG])
    first.execute("CREATE VIEW v AS SELECT a LIKE '%b' AS n FROM t", [])
    assert one(first, "SELECT n FROM v") == 0
    second.execute("DROP VIEW v", [])
    second.execute(f"CREATE VIEW v AS SELECT {MANY.replace('?1', 'a')} AS n FROM t", [])
    with pytest.raises(SqlError, match="too big"):
        one(first, "SELECT n FROM v")
    first.close()
    second.close()


def test_slow_functions_are_interrupted(database: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before SQLite asks by itself, which it does after so many instructions."""
    calls = 0

    def slow() -> int:
        nonlocal calls
        calls += 1
        time.sleep(0.02)
        return 0

    database._sql.create_function("slow", 0, slow)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE slow()"
    for _ in range(2):
        calls = 0
        database.start(Deadline(0.1))
        with pytest.raises(DeadlineExceeded):
            database.execute(endless, [])
        assert calls < 200
        database.start(Deadline(60))
        assert one(database, "SELECT 1") == 1
    assert not sqlite._watch._running


def test_the_watch_sleeps_when_nothing_runs(database: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "WATCH_SECONDS", 0.001)
    watch = sqlite.Watch()
    monkeypatch.setattr(sqlite, "_watch", watch)
    wakes, wake = [], watch._wake.set
    monkeypatch.setattr(watch._wake, "set", lambda: (wakes.append(True), wake()))
    for times in range(1, 4):
        assert one(database, "SELECT 1") == 1
        assert len(wakes) == times  # it may sleep again already
        while watch._wake.is_set():
            time.sleep(0.001)
    watch.after_fork()
    assert one(database, "SELECT 1") == 1
