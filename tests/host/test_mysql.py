from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.sql_guests import Guest, failed
from wasm_gateway.component.values import Err
from wasm_gateway.component.wit import parse_interface
from wasm_gateway.errors import DeadlineExceeded
from wasm_gateway.host import mysql
from wasm_gateway.host.addresses import parse_address
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.limits import RESULT_TOO_LARGE, Budget
from wasm_gateway.host.mysql import INTERFACES, MySql, MySqlClient
from wasm_gateway.host.network import Network
from wasm_gateway.host.rdbms import DatabaseFailure

INTERFACE = "fermyon:spin/mysql"
services = pytest.mark.services


@pytest.fixture
def family(network: Network) -> Iterator[MySql]:
    made = MySql(network)
    yield made
    made.close()


@pytest.fixture
def guest(context: Callable[..., Any]) -> Any:
    return context(allowed=["mysql://127.0.0.1:*"])


@pytest.fixture
def db(family: MySql, guest: Any, mariadb_server: str) -> Guest:
    made = Guest(family, guest, mariadb_server)
    assert made.execute("DROP TABLE IF EXISTS t") is None
    return made


def test_functions_are_those_of_the_interface(family: MySql) -> None:
    declared = parse_interface(INTERFACE, INTERFACES[INTERFACE])
    assert set(family.functions(INTERFACE)) == set(declared.funcs)
    assert family.functions("fermyon:spin/other") == {}


@services
@pytest.mark.parametrize(
    ("type", "param", "value"),
    [
        ("TINYINT", ("int8", -128), ("int8", -128)),
        ("TINYINT UNSIGNED", ("uint8", 255), ("uint8", 255)),
        ("SMALLINT", ("int16", -(2**15)), ("int16", -(2**15))),
        ("SMALLINT UNSIGNED", ("uint16", 2**16 - 1), ("uint16", 2**16 - 1)),
        ("MEDIUMINT", ("int32", -(2**23)), ("int32", -(2**23))),
        ("MEDIUMINT UNSIGNED", ("uint32", 2**24 - 1), ("uint32", 2**24 - 1)),
        ("INT", ("int32", -(2**31)), ("int32", -(2**31))),
        ("INT UNSIGNED", ("uint32", 2**32 - 1), ("uint32", 2**32 - 1)),
        ("BIGINT", ("int64", -(2**63)), ("int64", -(2**63))),
        ("BIGINT UNSIGNED", ("uint64", 2**64 - 1), ("uint64", 2**64 - 1)),
        ("BOOLEAN", ("boolean", True), ("int8", 1)),
        ("BOOLEAN", ("boolean", False), ("int8", 0)),
        ("FLOAT", ("floating32", 0.10000000149011612), ("floating32", 0.10000000149011612)),
        ("FLOAT", ("floating32", 16777217.0), ("floating32", 16777216.0)),
        ("DOUBLE", ("floating64", 0.1), ("floating64", 0.1)),
        ("VARCHAR(50)", ("str", "'; DROP TABLE t; -- ?"), ("str", "'; DROP TABLE t; -- ?")),
        ("VARCHAR(50)", ("str", "häß 🐈\\'\0"), ("str", "häß 🐈\\'\0")),
        ("CHAR(5)", ("str", "ab"), ("str", "ab")),
        ("TEXT", ("str", ""), ("str", "")),
        ("LONGTEXT", ("str", "x" * 300), ("str", "x" * 300)),
        ("VARBINARY(300)", ("binary", bytes(range(256))), ("binary", bytes(range(256)))),
        ("BINARY(3)", ("binary", b"\xff"), ("binary", b"\xff\x00\x00")),
        ("BLOB", ("binary", b"\x00\xff"), ("binary", b"\x00\xff")),
        ("LONGBLOB", ("binary", bytes(70_000)), ("binary", bytes(70_000))),
        ("INT", ("db-null", None), ("db-null", None)),
        ("DATE", ("db-null", None), ("db-null", None)),
    ],
)
def test_values_go_in_and_come_out(
    db: Guest, type: str, param: tuple[str, Any], value: tuple[str, Any]
) -> None:
    db.execute(f"CREATE TABLE t (a {type})")
    assert db.execute("INSERT INTO t VALUES (?)", param) is None
    columns, rows = db.query("SELECT a FROM t")
    assert rows == [[value]]
    ((name, data_type),) = columns
    assert name == "a"
    assert value[0] in (data_type, "db-null")


@services
def test_many_values_in_a_row(db: Guest) -> None:
    """The map of nulls has its first two bits elsewhere, and more than one byte."""
    params = [("int32", 1), ("db-null", None), ("str", "x")] * 7
    columns, rows = db.query("SELECT " + ", ".join("?" * len(params)), *params)
    types = ["int64" if case == "int32" else case for case, _ in params]
    assert [case for case, _ in rows[0]] == types
    assert [value for _, value in rows[0]] == [value for _, value in params]
    assert len(columns) == 21


@services
@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("1.5", "b'1.5'"),
        ("CAST('2026-01-02' AS DATE)", "b'\\xea\\x07\\x01\\x02'"),
        ("CAST('2026-01-02 03:04:05' AS DATETIME)", "b'\\xea\\x07\\x01\\x02\\x03\\x04\\x05'"),
        ("CAST('00:00:00' AS TIME)", "b''"),
        ("y FROM t", "2026"),
        ("b FROM t", "b'\\x05'"),
    ],
)
def test_other_types_cannot_be_converted(db: Guest, expression: str, shown: str) -> None:
    db.execute("CREATE TABLE t (y YEAR, b BIT(3))")
    db.execute("INSERT INTO t VALUES (2026, b'101')")
    text = failed(db.query(f"SELECT 'a', {expression}"), "value-conversion-failed")
    assert text.startswith(f"Cannot convert value {shown} in column "), text
    assert db.value("'fine'") == ("str", "fine")


@services
def test_rows_and_columns(db: Guest) -> None:
    db.execute("CREATE TABLE t (a INT, b TEXT)")
    assert db.query("SELECT a, b AS c FROM t") == ([("a", "int32"), ("c", "str")], [])
    db.execute("INSERT INTO t VALUES (1, 'x'), (2, NULL)")
    assert db.query("SELECT a, b AS c FROM t ORDER BY a") == (
        [("a", "int32"), ("c", "str")],
        [[("int32", 1), ("str", "x")], [("int32", 2), ("db-null", None)]],
    )
    assert db.query("UPDATE t SET a = 5") == ([], [])
    assert db.value("count(*) FROM t WHERE a = 5") == ("int64", 2)


@services
@pytest.mark.parametrize(
    ("statement", "params", "words"),
    [
        ("SELEC", [], "syntax"),
        ("SELECT * FROM missing", [], "missing"),
        ("SELECT 1; SELECT 2", [], "syntax"),
        ("SELECT ?", [], "1 parameters but 0"),
        ("SELECT 1", [("int32", 1)], "0 parameters but 1"),
        ("SELECT '?'", [("int32", 1)], "0 parameters but 1"),
        ("", [], "empty"),
        ("LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE t", [], ""),
    ],
)
def test_mistakes_are_query_failures(
    db: Guest, statement: str, params: list[tuple[str, Any]], words: str
) -> None:
    assert words in failed(db.query(statement, *params))
    assert words in failed(db.execute(statement, *params))
    assert db.value("'fine'") == ("str", "fine")


@services
def test_procedures_with_several_results(db: Guest) -> None:
    db.execute("DROP PROCEDURE IF EXISTS p")
    assert db.execute("CREATE PROCEDURE p() BEGIN SELECT 'first'; SELECT 'second'; END") is None
    _, rows = db.query("CALL p()")
    assert rows == [[("str", "first")]]
    assert db.value("'after'") == ("str", "after")


# Addresses.


@pytest.mark.parametrize(
    "address",
    [
        "mysql://u:p@127.0.0.2:{port}/db",
        "mysql://u:p@localhost:{port}/db",
        "mysql://u@127.0.0.1:1@127.0.0.2:{port}/",
        "postgres://u@127.0.0.1:{port}/",
    ],
)
def test_addresses_are_denied_by_default(family: MySql, guest: Any, address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        address = address.replace("{port}", str(listener.getsockname()[1]))
        expected = Err(("connection-failed", f"address {address} is not permitted"))
        assert family.query(guest, address, "SELECT 1", []) == expected
        assert family.execute(guest, address, "SELECT 1", []) == expected
        with pytest.raises(TimeoutError):
            listener.accept()


def test_nothing_is_allowed_without_a_grant(family: MySql, context: Callable[..., Any]) -> None:
    failed(family.query(context(), "mysql://u@127.0.0.1:1/", "SELECT 1", []), "connection-failed")


@pytest.mark.parametrize("address", ["127.0.0.1:3306", "mysql://127.0.0.1:99999", "mysql:///tmp/socket", ""])
def test_addresses_that_are_none(family: MySql, context: Callable[..., Any], address: str) -> None:
    ctx = context(allowed=["*://*:*"])
    failed(family.query(ctx, address, "SELECT 1", []), "connection-failed")


@services
def test_forms_of_addresses(db: Guest, mariadb_server: str) -> None:
    db.execute("CREATE TABLE t (a INT)")
    db.address = f"{mariadb_server}?ssl-mode=DISABLED&pool_max=3"
    assert db.value("DATABASE()") == ("str", "site")
    db.address = mariadb_server.replace("secret", "wrong")
    assert "denied" in failed(db.query("SELECT 1"), "connection-failed")
    # not as the account that runs this, which the server may know
    db.address = mariadb_server.replace("guest:secret@", "")
    assert "no user" in failed(db.query("SELECT 1"), "connection-failed")
    # without a database, which the next one must not find chosen
    db.address = mariadb_server.removesuffix("site")
    db.execute("USE site")
    assert db.value("DATABASE()") == ("db-null", None)
    db.address = f"{mariadb_server}?sslMode=REQUIRED"
    failed(db.query("SELECT 1"), "connection-failed")  # its certificate is nobody's


def test_blocked_networks_are_blocked(guest: Any) -> None:
    family = MySql(Network(lambda address: address == "127.0.0.1"))
    answer = family.query(guest, "mysql://u@127.0.0.1:1/", "SELECT 1", [])
    assert "prohibited" in failed(answer, "connection-failed")
    family.close()


def test_a_server_that_is_not_there(family: MySql, guest: Any) -> None:
    failed(family.query(guest, "mysql://u@127.0.0.1:1/", "SELECT 1", []), "connection-failed")


# What one leaves behind.


@services
@pytest.mark.parametrize(
    "statement",
    [
        "SET @mine = 5",
        "SET SESSION sql_mode = ''",
        "SET NAMES latin1",
        "SET autocommit = 0",
        "CREATE TEMPORARY TABLE temporary_one (a INT)",
        "DO GET_LOCK('lock', 0)",
        "SET SESSION group_concat_max_len = 8",
        "USE information_schema",
    ],
)
def test_nothing_is_left_behind(db: Guest, statement: str) -> None:
    def traces() -> Any:
        return db.query(
            "SELECT CONNECTION_ID(), @mine, @@sql_mode, @@character_set_client, @@autocommit,"
            " @@group_concat_max_len, IS_USED_LOCK('lock'), DATABASE(), 'ä'"
        )

    before = traces()
    assert not isinstance(before, Err)
    answer = db.execute(statement)
    if isinstance(answer, Err):  # not everything can be prepared
        assert "prepared statement protocol" in failed(answer)
    after = traces()
    assert isinstance(db.query("SELECT * FROM temporary_one"), Err)
    assert after == before


@services
def test_an_open_transaction_is_rolled_back(db: Guest) -> None:
    db.execute("CREATE TABLE t (a INT)")
    db.execute("START TRANSACTION")
    db.execute("INSERT INTO t VALUES (1)")
    assert db.value("count(*) FROM t") == ("int64", 1)


@services
def test_connections_are_kept(db: Guest) -> None:
    assert len({db.value("CONNECTION_ID()") for _ in range(5)}) == 1
    db.query("SELECT * FROM missing")
    assert len({db.value("CONNECTION_ID()") for _ in range(5)}) == 1


@services
def test_a_kept_connection_that_died_is_replaced(db: Guest) -> None:
    _, id = db.value("CONNECTION_ID()")
    other = Guest(db.family, db.ctx, db.address + "?other")
    assert other.execute(f"KILL {id}") is None
    deadline = time.monotonic() + 60
    while other.value(f"count(*) FROM information_schema.processlist WHERE id = {id}") != ("int64", 0):
        assert time.monotonic() < deadline
    assert db.value("CONNECTION_ID()")[1] != id


@services
def test_connections_are_limited(network: Network, mariadb_server: str) -> None:
    client = MySqlClient(network, max_connections=1)
    client._pool._wait = 0.05
    address = parse_address(mariadb_server, ("mysql",))
    taken = client.take(address, Deadline(120))
    with pytest.raises(DatabaseFailure, match="too many connections"):
        client.take(address, Deadline(120))
    client.give(address, taken, Deadline(120))
    assert client.take(address, Deadline(120)) is taken
    client.give(address, taken, Deadline(120))
    client.close()


def _add(db: Guest, count: int = 10) -> None:
    for _ in range(count):
        assert db.execute("UPDATE t SET a = a + 1") is None


@services
def test_threads_have_connections_of_their_own(db: Guest) -> None:
    db.execute("CREATE TABLE t (a INT)")
    db.execute("INSERT INTO t VALUES (0)")
    threads = [threading.Thread(target=_add, args=(db,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db.value("a FROM t") == ("int32", 60)


@services
def test_a_forked_child_connects_anew(db: Guest) -> None:
    db.execute("CREATE TABLE t (a INT)")
    db.execute("INSERT INTO t VALUES (0)")
    id = db.value("CONNECTION_ID()")
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_add, args=(db,)) for _ in range(3)]
    for child in children:
        child.start()
    _add(db)
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    assert db.value("a FROM t") == ("int32", 40)
    assert db.value("CONNECTION_ID()") == id


# Limits.


@services
def test_a_long_statement_ends_at_the_deadline(
    family: MySql, context: Callable[..., Any], mariadb_server: str
) -> None:
    ctx = context(allowed=["mysql://127.0.0.1:*"], seconds=0.3)
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        Guest(family, ctx, mariadb_server).query("SELECT SLEEP(60)")
    assert time.monotonic() - begin < 50


def test_a_server_that_says_nothing_ends_at_the_deadline(family: MySql, context: Callable[..., Any]) -> None:
    ctx = context(allowed=["mysql://127.0.0.1:*"], seconds=0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            family.query(ctx, f"mysql://u@127.0.0.1:{listener.getsockname()[1]}/", "SELECT 1", [])
        assert time.monotonic() - begin < 50


@pytest.mark.parametrize(
    "data", [b"\x00", b"\xff\xff\xff\x00", b"\x05\x00\x00\x00hello", b"HTTP/1.1 400\r\n\r\n"]
)
def test_a_hostile_server_is_an_error(family: MySql, guest: Any, data: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # who hangs up may leave something unread
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"mysql://u@127.0.0.1:{listener.getsockname()[1]}/"
        failed(family.query(guest, address, "SELECT 1", []), "connection-failed")
        thread.join(60)


@services
def test_results_are_bounded(monkeypatch: pytest.MonkeyPatch, db: Guest) -> None:
    monkeypatch.setattr(mysql, "Budget", lambda: Budget(10_000))
    many = "SELECT REPEAT('x', 100) FROM seq_1_to_100000000"
    assert failed(db.query(many), "other-error") == RESULT_TOO_LARGE
    assert db.value("'fine'") == ("str", "fine")


def test_a_packet_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch, family: MySql, guest: Any) -> None:
    monkeypatch.setattr(mysql._Connection, "room", 40 << 20)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sent = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    for number in range(100):
                        connection.sendall(b"\xff\xff\xff" + bytes([number]) + bytes(0xFFFFFF))
                        sent.append(number)
                except OSError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"mysql://u@127.0.0.1:{listener.getsockname()[1]}/"
        answer = family.query(guest, address, "SELECT 1", [])
        assert RESULT_TOO_LARGE in failed(answer, "connection-failed")
        thread.join(60)
        assert len(sent) < 5


@services
def test_large_values_go_through(db: Guest) -> None:
    """More than one packet of 16 MiB would hold is refused by the server; 3 MiB are not."""
    db.execute("CREATE TABLE t (a LONGBLOB)")
    data = bytes(3 << 20)
    assert db.execute("INSERT INTO t VALUES (?)", ("binary", data)) is None
    assert db.value("a FROM t") == ("binary", data)
    failed(db.execute("INSERT INTO t VALUES (?)", ("binary", bytes(17 << 20))))
    assert db.value("count(*) FROM t") == ("int64", 1)
