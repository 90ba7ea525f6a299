from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway.component.values import Err
from wasm_gateway.component.wit import parse_interface
from wasm_gateway.errors import DeadlineExceeded, HostError, Trap
from wasm_gateway.host import sqlite
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.sqlite import INTERFACES, Connection, Database, SqlError, Sqlite

INTERFACE = "fermyon:spin/sqlite"


def integer(value: int) -> tuple[str, Any]:
    return ("integer", value)


def text(value: str) -> tuple[str, Any]:
    return ("text", value)


class Guest:
    """Calls the interface as one instance does, through a handle of its own."""

    def __init__(self, family: Sqlite, ctx: Any, label: str = "default") -> None:
        self.family = family
        self.ctx = ctx
        self.handle = family.open(ctx, label)
        assert isinstance(self.handle, int), self.handle

    def run(self, statement: str, *parameters: tuple[str, Any]) -> Any:
        return self.family.execute(self.ctx, self.handle, statement, list(parameters))

    def rows(self, statement: str, *parameters: tuple[str, Any]) -> list[list[Any]]:
        """The rows without the kinds of their values."""
        _, rows = self.run(statement, *parameters)
        return [[value for _, value in values] for (values,) in rows]

    def error(self, statement: str, *parameters: tuple[str, Any]) -> str:
        answer = self.run(statement, *parameters)
        assert isinstance(answer, Err), answer
        case, message = answer.value
        assert case == "io"
        return str(message)

    def end(self) -> None:
        assert self.ctx.run_closers() == []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sqlite_db.db"


@pytest.fixture
def family(file: Path) -> Iterator[Sqlite]:
    made = Sqlite({"default": Database(file), "memory": Database(None), "secret": Database(None)})
    yield made
    made.close()


@pytest.fixture
def guest(family: Sqlite, context: Callable[..., Any]) -> Callable[..., Guest]:
    """Makes guests, each an instance of its own."""

    def make(label: str = "default", **options: Any) -> Guest:
        options.setdefault("sqlite_databases", frozenset({"default", "memory", "unconfigured"}))
        return Guest(family, context(**options), label)

    return make


@pytest.mark.parametrize(
    ("interface", "version"),
    [(INTERFACE, ""), (f"{INTERFACE}@2", "@2.0.0"), ("spin:sqlite/sqlite@3", "@3.1.0")],
)
def test_functions_are_those_of_the_interface(family: Sqlite, interface: str, version: str) -> None:
    declared = parse_interface(interface.partition("@")[0] + version, INTERFACES[interface])
    functions = set(family.functions(interface))
    assert functions - {"[resource-drop]connection"} == set(declared.funcs)
    assert family.functions("fermyon:spin/other") == {}


def test_values_go_in_and_come_out(guest: Callable[..., Guest]) -> None:
    db = guest()
    assert db.run("CREATE TABLE t (a, b, c, d, e)") == ([], [])
    values = [integer(-(2**63)), ("real", 0.1), text("häß\0lich 🐈"), ("blob", b"\x00\xff"), ("null", None)]
    assert db.run("INSERT INTO t VALUES (?, ?, ?, ?, ?)", *values) == ([], [])
    assert db.run('SELECT *, a AS "again [x]" FROM t') == (
        ["a", "b", "c", "d", "e", "again [x]"],
        [([*values, values[0]],)],
    )
    assert db.run("SELECT a FROM t WHERE a = 1") == (["a"], [])


def test_parameters_are_positional(guest: Callable[..., Guest]) -> None:
    db = guest()
    assert db.rows("SELECT ?2, ?1", text("a"), text("b")) == [["b", "a"]]
    assert db.rows("SELECT :b, :a, @c, $d, :b", *map(integer, range(4))) == [[0, 1, 2, 3, 0]]
    assert db.rows("SELECT ? || ':name' || '@home'", text("x")) == [["x:name@home"]]


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        ("SELECT ?", []),
        ("SELECT ?", [1, 2]),
        ("SELECT 1", [1]),
        ("SELECT :a, :b", [1]),
        ("SELECT :a", [1, 2]),
        ("SELECT :a, ?", [1, 2]),
        ("SELEC", []),
        ("SELECT * FROM missing", []),
        ("SELECT 1; SELECT 2", []),
        ("SELECT 1\0", []),
        ("INSERT INTO sqlite_master VALUES (1)", []),
    ],
)
def test_mistakes_are_io_errors(guest: Callable[..., Guest], statement: str, parameters: list[int]) -> None:
    db = guest()
    assert db.error(statement, *map(integer, parameters))
    assert db.rows("SELECT 1") == [[1]]


def test_the_message_is_that_of_sqlite(guest: Callable[..., Guest]) -> None:
    assert guest().error("SELECT * FROM missing") == "no such table: missing"


def test_text_that_is_not_utf8_is_an_error(guest: Callable[..., Guest]) -> None:
    assert "UTF-8" in guest().error("SELECT CAST(x'ff' AS TEXT)")


def test_labels_are_denied_by_default(family: Sqlite, context: Callable[..., Any]) -> None:
    ctx = context(sqlite_databases=frozenset({"default", "unconfigured"}))
    assert family.open(ctx, "secret") == Err(("access-denied", None))
    assert family.open(ctx, "unknown") == Err(("access-denied", None))
    assert family.open(ctx, "unconfigured") == Err(("no-such-database", None))
    assert family.open(context(), "default") == Err(("access-denied", None))


def test_a_bad_handle_is_an_error(family: Sqlite, guest: Callable[..., Guest]) -> None:
    db = guest()
    invalid = Err(("invalid-connection", None))
    assert family.execute(db.ctx, 99, "SELECT 1", []) == invalid
    family.close_connection(db.ctx, db.handle)
    family.close_connection(db.ctx, db.handle)
    assert db.run("SELECT 1") == invalid


def test_connections_are_bounded(family: Sqlite, context: Callable[..., Any]) -> None:
    ctx = context(sqlite_databases=frozenset({"memory"}))
    answers = [family.open(ctx, "memory") for _ in range(257)]
    assert answers[255] == 255
    assert answers[256] == Err(("io", "too many connections opened"))
    assert family.open(ctx, "default") == Err(("access-denied", None))
    family.close_connection(ctx, 3)
    assert family.open(ctx, "memory") == 256


def test_a_database_in_memory_is_new_at_each_open(guest: Callable[..., Guest]) -> None:
    one, two = guest("memory"), guest("memory")
    one.run("CREATE TABLE t (a)")
    assert two.error("SELECT * FROM t") == "no such table: t"
    one.end()
    assert guest("memory").error("SELECT * FROM t") == "no such table: t"


def test_data_lasts(guest: Callable[..., Guest], file: Path) -> None:
    first = guest()
    first.run("CREATE TABLE t (a)")
    first.run("INSERT INTO t VALUES (1)")
    first.end()
    assert guest().rows("SELECT a FROM t") == [[1]]
    other = sqlite3.connect(file)  # as Spin does
    assert other.execute("SELECT a FROM t").fetchall() == [(1,)]
    other.close()


def test_statements_with_returning(guest: Callable[..., Guest]) -> None:
    db = guest()
    db.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    assert db.run("INSERT INTO t (b) VALUES (?), (?) RETURNING a, b", text("x"), text("y")) == (
        ["a", "b"],
        [([integer(1), text("x")],), ([integer(2), text("y")],)],
    )
    assert db.rows("SELECT count(*) FROM t") == [[2]]


def test_transactions(guest: Callable[..., Guest]) -> None:
    db = guest()
    db.run("CREATE TABLE t (a)")
    db.run("BEGIN")
    db.run("INSERT INTO t VALUES (1)")
    assert guest().rows("SELECT count(*) FROM t") == [[0]]
    db.run("ROLLBACK")
    assert db.rows("SELECT count(*) FROM t") == [[0]]


# Rule 1: what guests may not do.


@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH '{file}' AS other",
        "ATTACH 'file:{file}?mode=memory' AS other",
        "ATTACH '{' || 'file}' AS other",
        "VACUUM INTO '{file}'",
        "SELECT load_extension('{file}')",
        "SELECT LOAD_EXTENSION('{file}', 'x')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT FTS3_Tokenizer('simple', x'4141414141410000')",
        "SELECT sqlite_log(1, 'text')",
        "PRAGMA temp_store_directory = '/'",
        "PRAGMA data_store_directory = '/'",
        "PRAGMA hard_heap_limit = 1",
        "PRAGMA soft_heap_limit = 1",
        "SELECT * FROM pragma_soft_heap_limit",
        "PRAGMA main.HARD_HEAP_LIMIT(1)",
        "PRAGMA threads = 4",
        "PRAGMA writable_schema = 1",
        "PRAGMA trusted_schema = 1",
        "PRAGMA no_such_pragma",
        "DROP TABLE wasm_gateway_own",
        "DELETE FROM temp.wasm_gateway_own",
        "INSERT INTO wasm_gateway_own VALUES (5)",
        "SELECT id FROM wasm_gateway_own",
        "ALTER TABLE wasm_gateway_own RENAME TO x",
        "CREATE TEMP TRIGGER t AFTER INSERT ON wasm_gateway_own BEGIN SELECT 1; END",
    ],
)
def test_sql_stays_inside(guest: Callable[..., Guest], tmp_path: Path, statement: str) -> None:
    target = tmp_path / "outside.db"
    db = guest()
    db.run("CREATE TABLE t (a)")
    message = db.error(statement.replace("{file}", str(target)))
    known = ("authoriz", "prohibited", "no such table: pragma", "no such function: fts3")
    assert any(part in message for part in known), message
    assert not target.exists()


def test_no_guest_says_where_the_code_of_a_tokenizer_lies(guest: Callable[..., Guest]) -> None:
    """fts3_tokenizer() takes an address, also as a parameter alone, and FTS3 then calls what is there."""
    db = guest()
    db.run("CREATE VIEW v AS SELECT fts3_tokenizer('simple') AS address")
    for statement, *values in (
        ("SELECT * FROM v",),
        ("SELECT fts3_tokenizer(?)", text("simple")),
        ("SELECT fts3_tokenizer(?, ?)", text("own"), ("blob", bytes(8))),
        ("SELECT fts3_tokenizer(:name, :address)", text("simple"), ("blob", bytes(8))),
    ):
        assert "fts3_tokenizer" in db.error(statement, *values)


@pytest.mark.skipif(not hasattr(sqlite3, "SQLITE_DBCONFIG_DEFENSIVE"), reason="Python 3.12 and later")
def test_no_guest_damages_the_inside_of_an_index(guest: Callable[..., Guest]) -> None:
    db = guest()
    db.run("CREATE VIRTUAL TABLE t USING fts5(a)")
    db.run("INSERT INTO t VALUES ('some words')")
    assert db.error("UPDATE t_data SET block = x'00'") == "table t_data may not be modified"
    assert db.rows("SELECT a FROM t WHERE t MATCH 'words'") == [["some words"]]


def test_attach_of_a_parameter_is_denied(guest: Callable[..., Guest], tmp_path: Path) -> None:
    """The authorizer is not told its value."""
    target = tmp_path / "outside.db"
    assert guest().error("ATTACH ? AS other", text(str(target))) == "not authorized"
    assert guest().error("ATTACH ? AS other", text(":memory:")) == "not authorized"
    assert not target.exists()


def test_attach_of_nothing_is_allowed(guest: Callable[..., Guest]) -> None:
    db = guest()
    for name, source in (("a", ""), ("b", ":memory:")):
        assert db.run(f"ATTACH '{source}' AS {name}") == ([], [])
        db.run(f"CREATE TABLE {name}.t (x)")
        db.run(f"INSERT INTO {name}.t VALUES (1)")
        assert db.rows(f"SELECT x FROM {name}.t") == [[1]]
        db.run(f"DETACH {name}")


def test_attach_of_files_can_be_allowed(tmp_path: Path, context: Callable[..., Any]) -> None:
    family = Sqlite({"default": Database(tmp_path / "a.db", allow_attach_file=True)})
    db = Guest(family, context(sqlite_databases=frozenset({"default"})))
    assert db.run("ATTACH ? AS other", text(str(tmp_path / "b.db"))) == ([], [])
    db.run("CREATE TABLE other.t (a)")
    db.end()
    family.close()
    assert (tmp_path / "b.db").exists()


def test_vacuum_is_allowed(guest: Callable[..., Guest]) -> None:
    db = guest()
    db.run("CREATE TABLE t (a)")
    assert db.run("VACUUM") == ([], [])


@pytest.mark.parametrize("pragma", ["busy_timeout", "cache_size", "mmap_size", "page_size", "temp_store"])
def test_limits_can_be_read_but_not_set(guest: Callable[..., Guest], pragma: str) -> None:
    db = guest()
    before = db.rows(f"PRAGMA {pragma}")
    assert isinstance(db.run(f"PRAGMA {pragma} = 1"), tuple)
    assert db.rows(f"PRAGMA {pragma}") == before


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("foreign_keys", 1),
        ("user_version", 7),
        ("recursive_triggers", 1),
        ("synchronous", 1),
        ("query_only", 1),
    ],
)
def test_a_guest_tunes_its_own_connection(guest: Callable[..., Guest], pragma: str, value: int) -> None:
    db = guest()
    assert db.rows(f"PRAGMA {pragma}") != [[value]]
    db.run(f"PRAGMA {pragma} = {value}")
    assert db.rows(f"PRAGMA {pragma}") == [[value]]


def test_pragmas_tell_about_tables(guest: Callable[..., Guest]) -> None:
    db = guest()
    db.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
    assert [row[1] for row in db.rows("PRAGMA table_info(t)")] == ["a", "b"]
    assert db.rows("SELECT name FROM pragma_table_info('t')") == [["a"], ["b"]]


def test_databases_in_memory_are_bounded(
    monkeypatch: pytest.MonkeyPatch, guest: Callable[..., Guest]
) -> None:
    monkeypatch.setattr(sqlite, "MAX_MEMORY_BYTES", 1 << 20)
    db = guest("memory")
    db.run("CREATE TABLE t (a)")
    assert "full" in db.error("INSERT INTO t VALUES (zeroblob(2000000))")
    db.run("PRAGMA max_page_count = 1000000")
    db.run("PRAGMA page_size = 65536")
    db.run("VACUUM")
    assert "full" in db.error("INSERT INTO t VALUES (zeroblob(2000000))")
    file = guest()
    file.run('ATTACH \':memory:\' AS "a""b"')
    file.run('CREATE TABLE "a""b".t (a)')
    assert "full" in file.error("INSERT INTO t VALUES (zeroblob(2000000))")
    file.run("CREATE TABLE main.u (a)")
    assert file.run("INSERT INTO u VALUES (zeroblob(2000000))") == ([], [])


def test_temporary_tables_are_bounded(monkeypatch: pytest.MonkeyPatch, guest: Callable[..., Guest]) -> None:
    monkeypatch.setattr(sqlite, "MAX_TEMP_BYTES", 1 << 20)
    db = guest()
    db.run("CREATE TEMP TABLE t (a)")
    assert "full" in db.error("INSERT INTO t VALUES (zeroblob(2000000))")


def test_large_values_go_through(guest: Callable[..., Guest]) -> None:
    db = guest()
    db.run("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)")
    large = bytes(5 << 20)
    assert db.run("INSERT INTO t (a) VALUES (?)", ("blob", large)) == ([], [])
    assert db.run("INSERT INTO t (a, b) VALUES (:a, :b)", ("blob", large), text("x" * 300_000)) == ([], [])
    assert db.rows("SELECT id, a FROM t") == [[1, large], [2, large]]
    assert db.run("UPDATE t SET b = 1 WHERE length(a) > ?", integer(5)) == ([], [])
    db.run("BEGIN")
    assert isinstance(db.run("EXPLAIN SELECT 1"), tuple)
    assert db.run("UPDATE t SET a = zeroblob(100000000) WHERE id = ?", integer(1)) == ([], [])
    db.run("COMMIT")
    assert db.rows("SELECT length(a), b FROM t ORDER BY id") == [[100_000_000, 1], [5 << 20, 1]]
    assert len(db.rows("SELECT a FROM t WHERE id = 1")[0][0]) == 100_000_000
    assert db.run("DELETE FROM t WHERE id = 1") == ([], [])
    assert db.run("VACUUM") == ([], [])


@pytest.mark.parametrize("begin", ["SELECT 1", "BEGIN", "SAVEPOINT x"])
def test_a_statement_that_meets_a_large_value_runs_once(guest: Callable[..., Guest], begin: str) -> None:
    """Also within a transaction, where the rows before that value stay changed."""
    db = guest()
    db.run("CREATE TABLE t (n, a)")
    for size in (10, 10, 200_000):
        db.run("INSERT INTO t VALUES (0, zeroblob(?))", integer(size))
    db.run(begin)
    assert db.run("UPDATE t SET n = n + 1, a = zeroblob(length(a) * 2)") == ([], [])
    assert db.rows("SELECT n, length(a) FROM t ORDER BY 2") == [[1, 20], [1, 20], [1, 400_000]]


def test_a_statement_cannot_hold_many_large_values(guest: Callable[..., Guest]) -> None:
    """One row of 2,000 columns of 128 MiB each is the memory of the machine."""
    db = guest()
    many = ", ".join(["randomblob(130000000)"] * 1000)
    begin = time.monotonic()
    assert "too big" in db.error(f"SELECT {many}")
    assert "too big" in db.error(f"SELECT max({', '.join(['randomblob(130000000)'] * 100)})")
    assert "too big" in db.error(f"SELECT json_array({', '.join(['hex(randomblob(130000000))'] * 100)})")
    assert time.monotonic() - begin < 60
    db.run("CREATE TABLE t (a)")
    db.run(f"CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT {many}; END")
    assert "too big" in db.error("INSERT INTO t VALUES (1)")
    assert db.rows("SELECT count(*) FROM t") == [[0]]


def test_results_are_bounded(guest: Callable[..., Guest]) -> None:
    db = guest()
    assert "too big" in db.error("SELECT zeroblob(134217729)")
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 200)"
    assert (
        db.error(f"{many} SELECT i, zeroblob(1000000) FROM n")
        == "query result exceeds limit of 134217728 bytes"
    )
    assert db.rows("SELECT 1") == [[1]]


# Rule 3: a program that is explained is that of now.


@pytest.mark.parametrize(
    "statement", ["EXPLAIN INSERT INTO t VALUES (1)", " -- again\n\ufeffexPlain/**/INSERT INTO t VALUES (1)"]
)
def test_an_explained_statement_is_compiled_again(guest: Callable[..., Guest], statement: str) -> None:
    """SQLite would read the name of a table that is gone from memory that is somebody else's by now."""
    db = guest()
    db.run("CREATE TABLE t (a)")
    assert len(db.rows(statement)) > 5
    db.run("DROP TABLE t")
    assert db.error(statement) == "no such table: t"


def test_a_statement_with_large_values_after_a_change_of_the_schema(guest: Callable[..., Guest]) -> None:
    db = guest()
    insert = "INSERT INTO t VALUES (zeroblob(300000))"
    for _ in range(3):
        db.run("CREATE TABLE t (a)")
        assert db.run(insert) == ([], [])
        db.run("DROP TABLE t")
        assert db.error(insert) == "no such table: t"
        db.run("BEGIN")
        assert db.error(insert) == "no such table: t"
        db.run("ROLLBACK")


# Rule 4: time.


def test_a_long_statement_ends_at_the_deadline(guest: Callable[..., Guest]) -> None:
    db = guest()
    db.ctx.deadline = Deadline(0.1)
    with pytest.raises(DeadlineExceeded):
        db.run("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n")


def test_waiting_for_a_lock_ends_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch, guest: Callable[..., Guest], file: Path
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 60.0)
    guest().run("CREATE TABLE t (a)")
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    db = guest()
    db.run("PRAGMA busy_timeout = 60000")
    db.ctx.deadline = Deadline(0.1)
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        db.run("INSERT INTO t VALUES (1)")
    assert time.monotonic() - begin < 50
    other.close()


def test_waiting_for_a_lock_ends(
    monkeypatch: pytest.MonkeyPatch, guest: Callable[..., Guest], file: Path
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    db = guest()
    db.run("CREATE TABLE t (a)")
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    assert db.error("INSERT INTO t VALUES (1)") == "database is locked"
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 60.0)
    timer = threading.Timer(0.05, other.execute, ["COMMIT"])
    timer.start()
    assert db.run("INSERT INTO t VALUES (1)") == ([], [])
    timer.join()
    other.close()


# Rule 2: nothing outlives the instance.

TRACES = [
    # what an instance does, and what the next one must not see
    ("CREATE TEMP TABLE x (a)", "SELECT * FROM x"),
    ("CREATE TEMP VIEW x AS SELECT 1", "SELECT * FROM x"),
    (
        "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM t; END",
        "SELECT name FROM sqlite_temp_master WHERE type='trigger'",
    ),
    ("ATTACH ':memory:' AS x", "SELECT name FROM pragma_database_list WHERE name='x'"),
    ("PRAGMA foreign_keys = 1", "PRAGMA foreign_keys"),
    ("PRAGMA case_sensitive_like = 1", "SELECT 'a' LIKE 'A'"),
    ("PRAGMA query_only = 1", "PRAGMA query_only"),
    ("PRAGMA recursive_triggers = 1", "PRAGMA recursive_triggers"),
    ("PRAGMA defer_foreign_keys = 1", "PRAGMA defer_foreign_keys"),
    ("PRAGMA ignore_check_constraints = 1", "PRAGMA ignore_check_constraints"),
    ("PRAGMA synchronous = 0", "PRAGMA synchronous"),
    ("PRAGMA locking_mode = exclusive", "PRAGMA locking_mode"),
    ("PRAGMA journal_size_limit = 1234", "PRAGMA journal_size_limit"),
    ("PRAGMA analysis_limit = 12", "PRAGMA analysis_limit"),
    ("PRAGMA reverse_unordered_selects = 1", "PRAGMA reverse_unordered_selects"),
    ("INSERT INTO t VALUES (77)", "SELECT last_insert_rowid(), changes(), total_changes()"),
    ("DELETE FROM t", "SELECT last_insert_rowid(), changes(), total_changes()"),
    ("INSERT INTO t SELECT 1 UNION SELECT 2 UNION SELECT 3", "SELECT changes()"),
    ("BEGIN", "ROLLBACK"),
    ("SAVEPOINT x", "RELEASE x"),
    ("BEGIN IMMEDIATE", "COMMIT"),
]


@pytest.mark.parametrize(("statement", "question"), TRACES)
def test_nothing_outlives_the_instance(guest: Callable[..., Guest], statement: str, question: str) -> None:
    """The same question is answered alike by a new connection and by one after a guest that left a trace."""
    first = guest()
    first.run("CREATE TABLE t (a)")
    first.run("INSERT INTO t VALUES (1)")
    first.family.databases["default"].close()
    first.end()
    for database in first.family.databases.values():
        database.close()

    fresh = guest()
    expected = fresh.run(question)
    fresh.end()
    first.family.databases["default"].close()

    tracer = guest()
    before = tracer.run(question)
    assert not isinstance(tracer.run(statement), Err)
    assert tracer.run(question) != before or isinstance(before, Err) or "RELEASE" in question
    again = guest()  # beside it, on another connection
    assert again.run(question) == expected
    again.end()
    tracer = guest()
    tracer.run(statement)
    tracer.end()
    for _ in range(3):
        after = guest()
        assert after.run(question) == expected
        after.end()


def test_connections_are_kept(guest: Callable[..., Guest], family: Sqlite) -> None:
    """Or all that proves nothing, and costs 250 us a request."""
    db = guest()
    db.run("CREATE TABLE IF NOT EXISTS t (a)")
    db.run("CREATE INDEX i ON t (a)")
    db.run("INSERT INTO t VALUES (?)", integer(5))
    db.run("BEGIN")
    db.run("UPDATE t SET a = 6")
    db.rows("SELECT count(*), max(a) FROM t")
    db.end()
    (kept,) = family.databases["default"]._idle
    for _ in range(5):
        db = guest()
        assert db.rows("SELECT a FROM t") == [[5]]
        db.end()
    assert family.databases["default"]._idle == [kept]


def test_an_aborted_statement_leaves_nothing(guest: Callable[..., Guest], family: Sqlite) -> None:
    before = guest()
    before.run("CREATE TABLE t (a)")
    before.end()
    db = guest()
    db.ctx.deadline = Deadline(0.05)

    def fill() -> None:
        db.run("BEGIN")
        db.run("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) INSERT INTO t SELECT i FROM n")

    with pytest.raises(DeadlineExceeded):
        fill()
    db.end()
    after = guest()
    assert after.rows("SELECT count(*) FROM t") == [[0]]
    assert after.run("INSERT INTO t VALUES (1)") == ([], [])


def test_a_handle_that_is_left_open_is_released(guest: Callable[..., Guest], family: Sqlite) -> None:
    one = guest()
    two = family.open(one.ctx, "default")
    assert isinstance(two, int)
    one.end()
    database = family.databases["default"]
    assert len(database._idle) == 2
    assert database._open == set()


def test_long_statements_are_not_kept(guest: Callable[..., Guest], family: Sqlite) -> None:
    db = guest()
    assert db.rows(f"SELECT 1 -- {'x' * sqlite.MAX_KEPT_SQL}") == [[1]]
    db.end()
    assert family.databases["default"]._idle == []


def test_idle_connections_are_bounded(guest: Callable[..., Guest], family: Sqlite) -> None:
    guests = [guest() for _ in range(sqlite.MAX_IDLE + 5)]
    for each in guests:
        each.end()
    assert len(family.databases["default"]._idle) == sqlite.MAX_IDLE


def test_a_file_that_is_replaced_is_noticed(guest: Callable[..., Guest], file: Path) -> None:
    db = guest()
    db.run("CREATE TABLE t (a)")
    db.end()
    for path in file.parent.iterdir():
        path.unlink()
    db = guest()
    assert db.error("SELECT * FROM t") == "no such table: t"
    db.run("CREATE TABLE u (a)")
    db.end()
    assert file.exists()


def test_total_changes_counts_for_this_instance(guest: Callable[..., Guest]) -> None:
    db = guest()
    db.run("CREATE TABLE t (a)")
    db.run("INSERT INTO t VALUES (1), (2)")
    assert db.rows("SELECT total_changes(), changes(), last_insert_rowid()") == [[2, 2, 2]]
    db.end()
    db = guest()
    db.run("INSERT INTO t VALUES (3)")
    assert db.rows("SELECT total_changes(), changes(), last_insert_rowid()") == [[1, 1, 3]]


@pytest.mark.parametrize(
    ("interface", "suffix"),
    [(f"{INTERFACE}@2", ""), ("spin:sqlite/sqlite@3", ""), ("spin:sqlite/sqlite@3", "-async")],
)
def test_connections_as_resources(
    family: Sqlite, context: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, interface: str, suffix: str
) -> None:
    monkeypatch.setattr(sqlite, "MAX_CONNECTIONS", 3)
    call, ctx = family.functions(interface), context(sqlite_databases=frozenset({"default", "unconfigured"}))

    def function(name: str) -> Callable[..., Any]:
        return lambda *arguments: ctx.settle(call[name + suffix](*arguments))

    open_, execute = function("[static]connection.open"), function("[method]connection.execute")
    assert open_(ctx, "secret") == Err(("access-denied", None))
    assert open_(ctx, "unconfigured") == Err(("no-such-database", None))
    one, two, three = (open_(ctx, "default") for _ in range(3))
    assert open_(ctx, "default") == Err(("io", "too many connections opened"))
    assert execute(ctx, one, "CREATE TABLE t (a)", []) == ([], [])
    assert execute(ctx, two, "INSERT INTO t VALUES (?)", [integer(7)]) == ([], [])
    assert execute(ctx, three, "SELECT a FROM t", []) == (["a"], [([integer(7)],)])
    assert execute(ctx, one, "SELEC", []).value[0] == "io"
    call["[resource-drop]connection"](ctx, two)
    assert execute(ctx, two, "SELECT 1", []) == Err(("invalid-connection", None))
    assert isinstance(open_(ctx, "default"), int)


@pytest.mark.parametrize("suffix", ["", "-async"])
def test_changes_and_the_last_row(family: Sqlite, context: Callable[..., Any], suffix: str) -> None:
    call, ctx = family.functions("spin:sqlite/sqlite@3"), context(sqlite_databases=frozenset({"default"}))
    db = call["[static]connection.open"](ctx, "default")

    def counts() -> tuple[int, int]:
        names = ("changes", "last-insert-rowid")
        changes, row = (ctx.settle(call[f"[method]connection.{name}{suffix}"](ctx, db)) for name in names)
        return changes, row

    def execute(statement: str) -> None:
        answer = call[f"[method]connection.execute{suffix}"](ctx, db, statement, [])
        assert not isinstance(ctx.settle(answer), Err)

    assert counts() == (0, 0)
    execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    execute("INSERT INTO t VALUES (-5, 1), (40, 2)")
    assert counts() == (2, 40)
    execute("SELECT * FROM t")
    assert counts() == (2, 40)
    execute("UPDATE t SET b = zeroblob(300000)")  # which is judged by its EXPLAIN first
    assert counts() == (2, 40)
    execute("INSERT INTO t VALUES (-9223372036854775808, 1)")
    assert counts() == (1, -(2**63))
    execute("DELETE FROM t")
    assert counts() == (3, -(2**63))
    call["[resource-drop]connection"](ctx, db)
    for name in ("changes", "last-insert-rowid"):
        with pytest.raises(Trap):
            ctx.settle(call[f"[method]connection.{name}{suffix}"](ctx, db))
    db = call["[static]connection.open"](ctx, "default")  # the same connection, for somebody else
    assert counts() == (0, 0)


# Files.


def test_a_database_of_spin_stays_as_it_is(tmp_path: Path, context: Callable[..., Any]) -> None:
    path = tmp_path / "spin.db"
    spin = sqlite3.connect(path)
    spin.execute("CREATE TABLE t (a)")
    spin.close()
    family = Sqlite({"default": Database(path)})
    db = Guest(family, context(sqlite_databases=frozenset({"default"})))
    db.run("INSERT INTO t VALUES (1)")
    assert db.rows("PRAGMA journal_mode") == [["delete"]]
    db.end()
    family.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["spin.db"]


def test_a_database_that_cannot_be_opened(tmp_path: Path, context: Callable[..., Any]) -> None:
    (tmp_path / "file").write_text("not a database" * 100)
    family = Sqlite(
        {
            "folder": Database(tmp_path),
            "beneath": Database(tmp_path / "file" / "x.db"),
            "text": Database(tmp_path / "file"),
        }
    )
    ctx = context(sqlite_databases=frozenset(family.databases))
    for label in family.databases:
        answer = family.open(ctx, label)
        if isinstance(answer, int):
            answer = family.execute(ctx, answer, "SELECT * FROM sqlite_master", [])
        assert isinstance(answer, Err)
        assert answer.value[0] == "io"
        assert str(tmp_path) not in answer.value[1]


# Beside the site


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t VALUES (2)",
        "UPDATE t SET a = 2",
        "DELETE FROM t",
        "CREATE TABLE other (a)",
        "DROP TABLE t",
        "PRAGMA user_version = 5",
        "VACUUM",
        "REINDEX",
    ],
)
def test_beside_the_site_nothing_is_written(guest: Callable[..., Guest], file: Path, statement: str) -> None:
    writer = guest()
    writer.run("CREATE TABLE t (a PRIMARY KEY)")
    writer.run("INSERT INTO t VALUES (1)")
    writer.end()
    reader = guest(scratch=True)
    for begin in ("", "BEGIN IMMEDIATE"):
        if begin:
            reader.run(begin)
        answer = reader.run(statement)
        assert isinstance(answer, Err) or statement.startswith("PRAGMA")
        assert reader.rows("SELECT a FROM t") == [[1]]
        # nobody has to wait for it
        other = guest()
        other.run("UPDATE t SET a = 1")
        other.end()
    # what is its own may be changed
    reader.run("ROLLBACK")
    reader.run("CREATE TEMP TABLE own (a)")
    reader.run("INSERT INTO own VALUES (1)")
    assert reader.rows("SELECT a FROM own") == [[1]]
    reader.end()
    with closing(sqlite3.connect(file)) as found:
        assert found.execute("SELECT a FROM t").fetchall() == [(1,)]
        assert found.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (2,)
        assert found.execute("PRAGMA user_version").fetchone() == (0,)


def test_beside_the_site_no_file_is_made(
    guest: Callable[..., Guest], file: Path, context: Callable[..., Any], tmp_path: Path
) -> None:
    reader = guest(scratch=True)
    assert reader.rows("SELECT name FROM sqlite_schema") == []
    reader.end()
    assert not file.exists()
    guest().run("CREATE TABLE t (a)")
    for database in (
        Database(file, allow_attach_file=True),
        Database(tmp_path / "no", allow_attach_file=True),
    ):
        connection = database.connect(read_only=True)
        for name in (tmp_path / "new", f"file:{tmp_path}/new?mode=rwc"):
            with pytest.raises(SqlError, match="not authorized"):
                connection.execute(f"ATTACH '{name}' AS n", [])
        database.release(connection)
    assert not (tmp_path / "new").exists()


def test_scripts_of_the_operator(file: Path, context: Callable[..., Any]) -> None:
    database = Database(file)
    database.script("CREATE TABLE t (a); INSERT INTO t VALUES (1); PRAGMA user_version = 5;")
    with pytest.raises(HostError, match="no such table"):
        database.script("INSERT INTO missing VALUES (1)")
    db = Guest(Sqlite({"default": database}), context(sqlite_databases=frozenset({"default"})))
    assert db.rows("SELECT a FROM t") == [[1]]
    db.end()
    database.close()


def _increment(database: Database, count: int) -> None:
    for _ in range(count):
        connection = database.connect()
        connection.execute("UPDATE t SET a = a + 1", [])
        database.release(connection)


def test_forked_children_open_connections_of_their_own(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 60.0)
    database = Database(file)
    connection = database.connect()
    connection.execute("CREATE TABLE t (a)", [])
    connection.execute("INSERT INTO t VALUES (0)", [])
    database.release(connection)
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_increment, args=(database, 40)) for _ in range(3)]
    for child in children:
        child.start()
    _increment(database, 40)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    connection = database.connect()
    assert connection.execute("SELECT a FROM t", [])[1] == [([integer(160)],)]
    assert connection.execute("PRAGMA integrity_check", [])[1] == [([text("ok")],)]
    database.release(connection)
    database.close()


def test_threads_have_connections_of_their_own(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 60.0)
    database = Database(file)
    connection = database.connect()
    connection.execute("CREATE TABLE t (a)", [])
    connection.execute("INSERT INTO t VALUES (0)", [])
    threads = [threading.Thread(target=_increment, args=(database, 30)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert connection.execute("SELECT a FROM t", [])[1] == [([integer(180)],)]
    database.release(connection)
    database.close()


def test_errors_name_no_path(tmp_path: Path) -> None:
    with pytest.raises(SqlError) as error:
        Connection(tmp_path)
    assert os.fspath(tmp_path) not in str(error.value)


@pytest.mark.parametrize("suffix", ["", "-async"])
def test_a_connection_serves_a_later_request(
    family: Sqlite, context: Callable[..., Any], suffix: str
) -> None:
    """Of an instance that is used again: its deadline is that of the call."""
    call = family.functions("spin:sqlite/sqlite@3")
    ctx = context(sqlite_databases=frozenset({"default"}), seconds=0.01)
    db = call["[static]connection.open"](ctx, "default")
    time.sleep(0.02)
    ctx.deadline = Deadline(120)
    answer = ctx.settle(call[f"[method]connection.execute{suffix}"](ctx, db, "SELECT 1 AS a", []))
    assert answer == (["a"], [([integer(1)],)])


# Size


def test_files_are_bounded(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", max_size=1 << 20)
    for _ in range(2):  # also for who comes later
        connection = database.connect()
        connection.execute("CREATE TABLE IF NOT EXISTS t (a)", [])
        connection.execute("PRAGMA max_page_count = 1000000", [])
        for statement in (
            "INSERT INTO t VALUES (zeroblob(1000000)), (zeroblob(1000000))",
            "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        ):
            with pytest.raises(SqlError, match="full"):
                connection.execute(statement, [])
        connection.execute("INSERT INTO t VALUES (zeroblob(300000))", [])
        database.release(connection)
    database.close()
    assert (tmp_path / "a.db").stat().st_size <= 1 << 20


def test_a_file_that_is_larger_already_only_shrinks(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    large = sqlite3.connect(file)
    large.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(3000000)), (zeroblob(100000))")
    large.close()
    size = file.stat().st_size
    database = Database(file, max_size=1 << 20)
    connection = database.connect()
    with pytest.raises(SqlError, match="full"):
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))", [])
    connection.execute("DELETE FROM t", [])
    connection.execute("INSERT INTO t VALUES (zeroblob(100000))", [])
    database.release(connection)
    database.close()
    assert file.stat().st_size <= size


def test_files_that_are_attached_are_bounded(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", allow_attach_file=True, max_size=1 << 20)
    connection = database.connect()
    connection.execute("ATTACH ? AS other", [("text", str(tmp_path / "b.db"))])
    connection.execute("CREATE TABLE other.t (a)", [])
    with pytest.raises(SqlError, match="full"):
        connection.execute("INSERT INTO t VALUES (zeroblob(2000000))", [])
    database.release(connection)
    database.close()


def test_a_log_that_readers_hold_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(sqlite, "LOG_SECONDS", 0.0)
    database = Database(tmp_path / "a.db", max_size=1 << 20)
    writer, reader, other = (database.connect(Deadline(60)) for _ in range(3))
    writer.execute("CREATE TABLE t (a)", [])
    writer.execute("INSERT INTO t VALUES (zeroblob(200000))", [])
    reader.execute("BEGIN", [])
    reader.execute("SELECT count(*) FROM t", [])
    log = tmp_path / "a.db-wal"

    def write() -> None:
        writer.execute("UPDATE t SET a = randomblob(200000)", [])

    while log.stat().st_size <= 1 << 20:
        write()
    with pytest.raises(SqlError, match="full"):
        write()
    assert log.stat().st_size < 2 << 20
    other.start(Deadline(0.05))
    with pytest.raises((SqlError, DeadlineExceeded)):
        other.execute("SELECT count(*) FROM t", [])
    reader.execute("SELECT count(*) FROM t", [])  # who has begun goes on
    reader.execute("COMMIT", [])
    writer.start(Deadline(60))
    write()
    assert log.stat().st_size < 1 << 20
    for connection in (writer, reader, other):
        database.release(connection)
    database.close()
