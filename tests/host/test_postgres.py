from __future__ import annotations

import math
import multiprocessing
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.sql_guests import Connected, Guest, failed
from wasm_gateway.component.values import Err
from wasm_gateway.component.wit import parse_interface
from wasm_gateway.errors import DeadlineExceeded, Trap
from wasm_gateway.host import postgres
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.limits import RESULT_TOO_LARGE, Budget
from wasm_gateway.host.network import Breakable, Network, wait_ready
from wasm_gateway.host.postgres import INTERFACES, MAX_BUILDERS, PgClient, Postgres, parse
from wasm_gateway.host.rdbms import DatabaseFailure

INTERFACE = "fermyon:spin/postgres"
services = pytest.mark.services


@pytest.fixture
def family(network: Network) -> Iterator[Postgres]:
    made = Postgres(network)
    yield made
    made.close()


@pytest.fixture
def guest(context: Callable[..., Any]) -> Any:
    return context(allowed=["postgres://127.0.0.1:*"])


@pytest.fixture
def db(family: Postgres, guest: Any, postgres_server: str) -> Guest:
    made = Guest(family, guest, postgres_server)
    made.execute("DROP TABLE IF EXISTS t")
    return made


def test_functions_are_those_of_the_interface(family: Postgres) -> None:
    declared = parse_interface(INTERFACE, INTERFACES[INTERFACE])
    assert set(family.functions(INTERFACE)) == set(declared.funcs)
    assert family.functions("fermyon:spin/other") == {}


@services
@pytest.mark.parametrize(
    ("expression", "data_type", "value"),
    [
        ("true", "boolean", True),
        ("false", "boolean", False),
        ("(-5)::int2", "int16", -5),
        ("-2147483648", "int32", -(2**31)),
        ("9223372036854775807", "int64", 2**63 - 1),
        ("0.5::float4", "floating32", 0.5),
        ("'-infinity'::float4", "floating32", -math.inf),
        ("0.1::float8", "floating64", 0.1),
        ("'häß 🐈'::text", "str", "häß 🐈"),
        ("'v'::varchar(9)", "str", "v"),
        ("'c'::char(3)", "str", "c  "),
        ("''::text", "str", ""),
        (r"'\x00ff'::bytea", "binary", b"\x00\xff"),
    ],
)
def test_values_come_out(db: Guest, expression: str, data_type: str, value: Any) -> None:
    assert db.query(f"SELECT {expression} AS a") == ([("a", data_type)], [[(data_type, value)]])
    assert db.query(f"SELECT NULLIF({expression}, {expression}) AS a") == (
        [("a", data_type)],
        [[("db-null", None)]],
    )


@services
@pytest.mark.parametrize(
    "expression",
    ["now()", "1.5::numeric", "'{}'::json", "'{1,2}'::int[]", "'a'::name", "'a'::\"char\"", "1::oid"],
)
def test_other_types_are_unsupported(db: Guest, expression: str) -> None:
    assert db.query(f"SELECT {expression} AS a") == ([("a", "other")], [[("unsupported", None)]])


@services
@pytest.mark.parametrize(
    ("type", "param", "value"),
    [
        ("boolean", ("boolean", True), ("boolean", True)),
        ("boolean", ("boolean", False), ("boolean", False)),
        ("int2", ("int8", -128), ("int16", -128)),
        ("int2", ("int16", -32768), ("int16", -32768)),
        ("int4", ("int32", 2**31 - 1), ("int32", 2**31 - 1)),
        ("int8", ("int64", -(2**63)), ("int64", -(2**63))),
        ("int8", ("int32", 5), ("int64", 5)),
        ("float4", ("floating32", 0.10000000149011612), ("floating32", 0.10000000149011612)),
        ("float8", ("floating64", 0.1), ("floating64", 0.1)),
        ("float8", ("floating64", math.inf), ("floating64", math.inf)),
        ("float8", ("floating64", -math.inf), ("floating64", -math.inf)),
        ("text", ("str", "'; DROP TABLE t; -- 🐈"), ("str", "'; DROP TABLE t; -- 🐈")),
        ("text", ("str", ""), ("str", "")),
        ("bytea", ("binary", bytes(range(256))), ("binary", bytes(range(256)))),
        ("bytea", ("binary", b""), ("binary", b"")),
        ("text", ("db-null", None), ("db-null", None)),
        ("int4", ("db-null", None), ("db-null", None)),
    ],
)
def test_values_go_in(db: Guest, type: str, param: tuple[str, Any], value: tuple[str, Any]) -> None:
    assert db.value(f"$1::{type}", param) == value
    db.execute(f"CREATE TABLE t (a {type})")
    assert db.execute("INSERT INTO t VALUES ($1)", param) == 1
    assert db.query("SELECT a FROM t")[1] == [[value]]


@services
def test_not_a_number_goes_through(db: Guest) -> None:
    case, value = db.value("$1::float8", ("floating64", math.nan))
    assert case == "floating64"
    assert math.isnan(value)


@services
def test_text_becomes_what_the_statement_wants(db: Guest) -> None:
    db.execute("CREATE TABLE t (a timestamptz, b numeric, c jsonb)")
    values = [("str", "2026-01-02T03:04:05Z"), ("str", "1.25"), ("str", '{"a": 1}')]
    assert db.execute("INSERT INTO t VALUES ($1, $2, $3)", *values) == 1
    assert db.value("count(*) FROM t WHERE b > $1 AND c->>'a' = '1'", ("floating64", 1.2)) == ("int64", 1)


@services
@pytest.mark.parametrize("case", ["uint8", "uint16", "uint32", "uint64"])
def test_unsigned_values_cannot_be_converted(db: Guest, case: str) -> None:
    text = failed(db.query("SELECT $1", (case, 1)), "value-conversion-failed")
    assert text == "Postgres does not support unsigned integers"
    failed(db.execute("SELECT $1", (case, 1)), "value-conversion-failed")


@services
def test_execute_counts_rows(db: Guest) -> None:
    assert db.execute("CREATE TABLE t (a int)") == 0
    assert db.execute("INSERT INTO t VALUES (1), (2), (3)") == 3
    assert db.execute("UPDATE t SET a = 0 WHERE a > 1") == 2
    assert db.execute("SELECT * FROM t") == 3
    assert db.execute("DELETE FROM t WHERE a = 99") == 0
    assert db.execute("") == 0


@services
def test_query_gives_columns_without_rows(db: Guest) -> None:
    db.execute("CREATE TABLE t (a int, b text)")
    assert db.query("SELECT a, b AS c FROM t") == ([("a", "int32"), ("c", "str")], [])
    assert db.query("INSERT INTO t VALUES (1, 'x') RETURNING b") == ([("b", "str")], [[("str", "x")]])
    assert db.query("DELETE FROM t") == ([], [])


@services
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("SELEC", "syntax error"),
        ("SELECT * FROM missing", '"missing" does not exist'),
        ("SELECT 1; SELECT 2", "multiple commands"),
        ("SELECT 1/0", "division by zero"),
        ("SELECT $1::int", "parameter"),
        ("SELECT 1\0", "null character"),
        ("COPY (SELECT 1) TO STDOUT", "COPY"),
        ("CREATE TABLE t (a int); COPY t FROM STDIN", "multiple commands"),
    ],
)
def test_mistakes_are_query_failures(db: Guest, statement: str, words: str) -> None:
    assert words in failed(db.query(statement))
    assert db.value("1") == ("int32", 1)


@services
def test_values_that_cannot_be(db: Guest) -> None:
    assert "null character" in failed(db.query("SELECT $1::text", ("str", "a\0b")))
    assert "out of range" in failed(db.query("SELECT $1::int4", ("int64", 2**40)))
    failed(db.query("SELECT $1::int4", ("binary", b"1234")))
    failed(db.query("SELECT 1", ("int32", 1)))


# Later versions.

V2, V3, V4 = "fermyon:spin/postgres@2", "spin:postgres/postgres@3", "spin:postgres/postgres@4"
BUILD, SET_CA_ROOT = "[method]connection-builder.build", "[method]connection-builder.set-ca-root"


@services
def test_what_the_server_says_is_told_apart(family: Postgres, guest: Any, postgres_server: str) -> None:
    db = Connected(family, V4, guest, postgres_server)
    db.execute("DROP TABLE IF EXISTS unique_one")
    db.execute("CREATE TABLE unique_one (a int CONSTRAINT only_once UNIQUE)")
    db.execute("INSERT INTO unique_one VALUES (7)")
    case, details = failed(db.execute("INSERT INTO unique_one VALUES (7)"))
    as_text, severity, code, message, detail, extras = details
    assert (case, severity, code, detail) == ("db-error", "ERROR", "23505", "Key (a)=(7) already exists.")
    assert message == 'duplicate key value violates unique constraint "only_once"'
    assert message in as_text
    found = dict(extras)
    assert list(found) == ["constraint", "routine", "table", "schema", "file", "line"]
    assert (found["constraint"], found["table"], found["schema"]) == ("only_once", "unique_one", "public")
    _, (*_, extras) = failed(db.query("SELECT nearby FROM (SELECT 1 AS near_by) AS x"))
    assert "near_by" in dict(extras)["hint"]
    _, (*_, extras) = failed(db.query("DO $$ BEGIN RAISE 'no' USING COLUMN = 'c', DATATYPE = 'd'; END $$"))
    assert (dict(extras)["column"], dict(extras)["datatype"]) == ("c", "d")
    assert "PL/pgSQL" in dict(extras)["where_"]
    # what did not come from the server
    assert failed(db.query("COPY (SELECT 1) TO STDOUT"))[0] == "text"
    for version in (V2, V3):
        text = failed(Connected(family, version, guest, postgres_server).query("SELEC"))
        assert "syntax error" in text


@services
def test_parameters_of_later_versions(family: Postgres, guest: Any, postgres_server: str) -> None:
    db = Connected(family, V2, guest, postgres_server)
    failed(db.query("SELECT $1", ("uint8", 1)), "value-conversion-failed")
    for version in (V3, V4):
        db = Connected(family, version, guest, postgres_server)
        assert "date" in failed(db.query("SELECT $1::date", ("date", (2026, 2, 30))), "bad-parameter")
        assert "65535" in failed(db.query("SELECT 1", *[("int32", 1)] * 65_536), "bad-parameter")
        assert db.execute("SELECT 1 UNION SELECT 2") == 2


class Builder:
    """A guest with a connection-builder."""

    def __init__(self, family: Postgres, ctx: Any, address: str) -> None:
        self.functions = family.functions(V4)
        self.family = family
        self.ctx = ctx
        self.builder = self.functions["[constructor]connection-builder"](ctx, address)

    def trust(self, certificate: str) -> Any:
        return self.functions[SET_CA_ROOT](self.ctx, self.builder, certificate)

    def build(self) -> Any:
        return self.functions[BUILD](self.ctx, self.builder)

    def value(self, expression: str) -> Any:
        """Of a connection that is dropped again."""
        conn = self.build()
        assert not isinstance(conn, Err), conn
        query = self.functions["[method]connection.query"]
        ((value,),) = query(self.ctx, conn, f"SELECT {expression}", [])[1]
        self.functions["[resource-drop]connection"](self.ctx, conn)
        return value


@services
def test_builders_build(family: Postgres, guest: Any, postgres_server: str) -> None:
    builder = Builder(family, guest, postgres_server)
    assert builder.value("1") == builder.value("1") == ("int32", 1)
    builder.functions["[resource-drop]connection-builder"](guest, builder.builder)
    with pytest.raises(Trap):
        builder.build()


def test_builders_ask_for_permission(family: Postgres, guest: Any) -> None:
    """In Spin this one function does not."""
    answer = Builder(family, guest, "postgres://u@127.0.0.2:1/").build()
    assert answer == Err(("connection-failed", "address postgres://127.0.0.2:1 is not permitted"))


def test_builders_are_bounded(family: Postgres, guest: Any, certificate: Path) -> None:
    assert "too long" in failed(Builder(family, guest, "x" * 70_000).build(), "connection-failed")
    builder = Builder(family, guest, "postgres://u@127.0.0.1:1/")
    assert "longer" in failed(builder.trust((certificate / "cert.pem").read_text() * 100), "other")
    for _ in range(MAX_BUILDERS - 2):
        Builder(family, guest, "")
    with pytest.raises(Trap):
        Builder(family, guest, "")


@pytest.mark.parametrize(
    "text", ["", "certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "ä", "\0"]
)
def test_certificates_that_are_none(family: Postgres, guest: Any, text: str) -> None:
    builder = Builder(family, guest, "postgres://u@127.0.0.1:1/")
    assert "invalid root certificate" in failed(builder.trust(text), "other")


@pytest.fixture
def encrypted_server(postgres_server: str, certificate: Path) -> Iterator[str]:
    """The server, by the name in its certificate, with TLS as long as the test runs."""
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        for name in ("cert", "key"):
            lines = sql.Literal((certificate / f"{name}.pem").read_text().splitlines())
            to = sql.Literal(f"umask 077; cat > test-{name}.pem")
            admin.execute(sql.SQL("COPY (SELECT unnest({}::text[])) TO PROGRAM {}").format(lines, to))
            admin.execute(f"ALTER SYSTEM SET ssl_{name}_file = 'test-{name}.pem'".encode())
        admin.execute("ALTER SYSTEM SET ssl = on")
        _reload(admin, "on")
        yield postgres_server.replace("127.0.0.1", "localhost")
        admin.execute("ALTER SYSTEM RESET ALL")
        _reload(admin, "off")


def _reload(admin: Any, ssl: str) -> None:
    admin.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + 60
    while admin.execute("SHOW ssl").fetchone() != (ssl,):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@services
def test_builders_trust_a_certificate(
    family: Postgres, context: Callable[..., Any], encrypted_server: str, certificate: Path
) -> None:
    ctx = context(allowed=["postgres://localhost:*", "postgres://127.0.0.1:*"])
    is_encrypted = "ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    pem = (certificate / "cert.pem").read_text()
    for mode in ("", "?sslmode=require", "?sslmode=verify-full"):
        builder = Builder(family, ctx, encrypted_server + mode)
        assert builder.trust(pem) is None
        assert builder.value(is_encrypted) == ("boolean", True)
    # nobody else's trust, though there is such a connection in the pool
    strict = encrypted_server + "?sslmode=require"
    assert "certificate" in failed(Builder(family, ctx, strict).build(), "connection-failed")
    assert "certificate" in failed(Connected(family, V4, ctx, strict).conn, "connection-failed")
    # the name is verified, too, and TLS is not left out where that fails
    builder = Builder(family, ctx, encrypted_server.replace("localhost", "127.0.0.1"))
    assert builder.trust(pem) is None
    assert "certificate" in failed(builder.build(), "connection-failed")
    builder = Builder(family, ctx, encrypted_server + "?sslmode=disable")
    assert builder.trust(pem) is None
    assert builder.value(is_encrypted) == ("boolean", False)


@services
def test_trust_wants_encryption(
    family: Postgres, guest: Any, postgres_server: str, certificate: Path
) -> None:
    builder = Builder(family, guest, postgres_server)
    assert builder.trust((certificate / "cert.pem").read_text()) is None
    assert "SSL" in failed(builder.build(), "connection-failed")


# Addresses.


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("postgres://u:p@h/db", [("h", 5432)]),
        ("postgresql://u:p%23@h:1/db?sslmode=disable", [("h", 1)]),
        ("postgres://u:p#@h:1/db", [("h", 1)]),
        ("host=h port=2 user=u password='p w' dbname=d", [("h", 2)]),
        ("host=a,b port=1,2 user=u", [("a", 1), ("b", 2)]),
        ("host=a,b port=9 user=u", [("a", 9), ("b", 9)]),
        ("postgres://u@a:1,b:2/db", [("a", 1), ("b", 2)]),
        ("postgres://u@[::1]:7/db", [("::1", 7)]),
        ("host=::1 user=u", [("::1", 5432)]),
        ("postgres://u@H.Example/db?connect_timeout=5&application_name=x", [("h.example", 5432)]),
    ],
)
def test_connection_strings(address: str, hosts: list[tuple[str, int]]) -> None:
    assert [(server.host, server.port) for server in parse(address).servers] == hosts


@pytest.mark.parametrize(
    "address",
    [
        "",
        "nonsense",
        "postgres://h/db",  # no user
        "postgres://u@/db",
        "dbname=d user=u",
        "host=/var/run user=u",
        "host=@abstract user=u",
        "postgres://u@%2Fvar%2Frun/db",
        "host=h user=u hostaddr=127.0.0.1",
        "host=h user=u service=x",
        "host=h user=u passfile=/etc/passwd",
        "host=h user=u sslrootcert=/etc/passwd",
        "host=h user=u sslkey=/etc/passwd",
        "host=h user=u sslcert=/etc/passwd",
        "host=h user=u sslkeylogfile=/tmp/keys",
        "host=h user=u replication=true",
        "host=h user=u sslmode=never",
        "host=h user=u port=x",
        "host=h user=u port=0",
        "host=a,b user=u port=1,2,3",
        "host=h user=u unknown=1",
        "host=h user=u\0host=i",
        "host='a b' user=u",
    ],
)
def test_connection_strings_that_are_refused(address: str) -> None:
    with pytest.raises(DatabaseFailure) as error:
        parse(address)
    assert error.value.case == "connection-failed"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgres://u:secret@localhost:5432/db", "localhost:5432"),
        ("postgres://u:secret@localhost/db", "localhost"),
        ("host=127.0.0.1,127.0.0.2 port=1 user=u", "127.0.0.2:1"),
        ("postgres://u@127.0.0.1:1@example.com:1/db", "127.0.0.1:1@example.com:1"),
        ("postgres://u@[::1]:1/", "[::1]:1"),
    ],
)
def test_addresses_are_denied_by_default(family: Postgres, guest: Any, address: str, shown: str) -> None:
    expected = Err(("connection-failed", f"address postgres://{shown} is not permitted"))
    assert family.query(guest, address, "SELECT 1", []) == expected
    assert family.execute(guest, address, "SELECT 1", []) == expected


def test_nothing_is_allowed_without_a_grant(family: Postgres, context: Callable[..., Any]) -> None:
    failed(family.query(context(), "postgres://u@127.0.0.1:1/", "SELECT 1", []), "connection-failed")


@services
def test_forms_of_addresses(db: Guest, postgres_server: str) -> None:
    port = postgres_server.rpartition(":")[2].partition("/")[0]
    for address in (
        f"host=127.0.0.1 port={port} user=guest password=secret dbname=site",
        f"host=127.0.0.1,127.0.0.1 port=1,{port} user=guest password=secret dbname=site",
        f"{postgres_server}?sslmode=disable&application_name=x",
    ):
        db.address = address
        assert db.value("current_database()::text") == ("str", "site")
    db.address = f"{postgres_server}?sslmode=require"
    assert "SSL" in failed(db.query("SELECT 1"), "connection-failed")
    db.address = postgres_server.replace("secret", "wrong")
    assert "password" in failed(db.query("SELECT 1"), "connection-failed")


@services
def test_the_environment_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, db: Guest, postgres_server: str
) -> None:
    """A password of the operator must not open what the guest could not."""
    passfile = tmp_path / "pgpass"
    passfile.write_text("*:*:*:*:secret")
    passfile.chmod(0o600)
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    monkeypatch.setenv("PGOPTIONS", "-c geqo=off")
    monkeypatch.setenv("PGAPPNAME", "operator")
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.9")
    db.address = postgres_server.replace(":secret", "")
    assert "password" in failed(db.query("SELECT 1"), "connection-failed")
    db.address = postgres_server
    assert db.value("current_setting('application_name')") == ("str", "")
    assert db.value("current_setting('geqo')") == ("str", "on")


def test_blocked_networks_are_blocked(guest: Any) -> None:
    family = Postgres(Network(lambda address: address == "127.0.0.1"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        address = f"postgres://u@127.0.0.1:{listener.getsockname()[1]}/"
        assert "prohibited" in failed(family.query(guest, address, "SELECT 1", []), "connection-failed")
        with pytest.raises(TimeoutError):
            listener.accept()
    family.close()


def test_a_server_that_is_not_there(family: Postgres, guest: Any) -> None:
    assert "refused" in failed(
        family.query(guest, "postgres://u@127.0.0.1:1/", "SELECT 1", []), "connection-failed"
    )


# What one leaves behind.


@services
@pytest.mark.parametrize(
    "statement",
    [
        "SET search_path = pg_catalog",
        "SET statement_timeout = 1",
        "CREATE TEMP TABLE t (a int)",
        "BEGIN",
        "SELECT pg_advisory_lock(5)",
        "SET ROLE NONE",
        "LISTEN channel",
        "PREPARE p AS SELECT 1",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    ],
)
def test_nothing_is_left_behind(db: Guest, statement: str) -> None:
    def traces() -> Any:
        return db.query(
            "SELECT pg_backend_pid(), current_setting('search_path'), current_setting('statement_timeout'),"
            " to_regclass('pg_temp.t') IS NULL, (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),"
            " (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_prepared_statements),"
            " (SELECT count(*) FROM pg_cursors WHERE is_holdable), now() = statement_timestamp()"
        )

    before = traces()
    assert not isinstance(db.execute(statement), Err)
    assert traces() == before  # the same connection, too


@services
def test_an_open_transaction_is_rolled_back(db: Guest) -> None:
    db.execute("CREATE TABLE t (a int)")
    db.execute("BEGIN")
    assert db.execute("INSERT INTO t VALUES (1)") == 1  # not in that transaction
    assert db.value("count(*) FROM t") == ("int64", 1)


@services
def test_connections_are_kept(db: Guest) -> None:
    pids = {db.value("pg_backend_pid()") for _ in range(5)}
    assert len(pids) == 1


@services
def test_a_kept_connection_that_died_is_replaced(db: Guest, network: Network, guest: Any) -> None:
    _, pid = db.value("pg_backend_pid()")
    other = Guest(Postgres(network), guest, db.address + "?application_name=other")
    assert other.value(f"pg_terminate_backend({pid})") == ("boolean", True)
    deadline = time.monotonic() + 60
    while other.value(f"count(*) FROM pg_stat_activity WHERE pid = {pid}") != ("int64", 0):
        assert time.monotonic() < deadline
    assert db.value("pg_backend_pid()") != ("int32", pid)
    other.family.close()


@services
def test_connections_are_limited(network: Network, postgres_server: str) -> None:
    client = PgClient(network, max_connections=1)
    client._pool._wait = 0.05
    target = parse(postgres_server)
    taken = client.take(target, Deadline(120))
    with pytest.raises(DatabaseFailure, match="too many connections"):
        client.take(target, Deadline(120))
    client.give(target, taken, Deadline(120))
    assert client.take(target, Deadline(120)) is taken
    client.give(target, taken, Deadline(120))
    client.close()


@services
def test_threads_have_connections_of_their_own(db: Guest) -> None:
    db.execute("CREATE TABLE t (a int)")
    db.execute("INSERT INTO t VALUES (0)")

    def work() -> None:
        for _ in range(10):
            assert db.execute("UPDATE t SET a = a + 1") == 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db.value("a FROM t") == ("int32", 60)


def _child(db: Guest) -> None:
    for _ in range(10):
        assert db.execute("UPDATE t SET a = a + 1") == 1


@services
def test_a_forked_child_connects_anew(db: Guest) -> None:
    db.execute("CREATE TABLE t (a int)")
    db.execute("INSERT INTO t VALUES (0)")
    pid = db.value("pg_backend_pid()")
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_child, args=(db,)) for _ in range(3)]
    for child in children:
        child.start()
    _child(db)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert db.value("a FROM t") == ("int32", 40)
    assert db.value("pg_backend_pid()") == pid  # no child said goodbye in its parent's name


# Limits.


@services
def test_a_long_statement_ends_at_the_deadline(
    family: Postgres, context: Callable[..., Any], postgres_server: str, db: Guest
) -> None:
    """And the server is told to stop."""
    ctx = context(allowed=["postgres://127.0.0.1:*"], seconds=0.3)
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        Guest(family, ctx, postgres_server).query("SELECT pg_sleep(300), 'long statement'")
    assert time.monotonic() - begin < 50
    running = "count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%''long statement''%'"
    deadline = time.monotonic() + 60
    while db.value(running + " AND pid <> pg_backend_pid()") != ("int64", 0):
        assert time.monotonic() < deadline


def test_a_server_that_says_nothing_ends_at_the_deadline(
    family: Postgres, context: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    ctx = context(allowed=["postgres://127.0.0.1:*"], seconds=0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            family.query(ctx, f"postgres://u@127.0.0.1:{listener.getsockname()[1]}/", "SELECT 1", [])
        assert time.monotonic() - begin < 50
    assert capfd.readouterr() == ("", "")  # a guest could fill the log


def test_a_server_that_has_a_password_hashed_for_long_holds_nobody(
    family: Postgres, context: Callable[..., Any]
) -> None:
    """Neither other threads nor the guest beyond its deadline: libpq hashes as often as a server says."""
    for slower in (1, 10):  # a machine that is very slow has the time to ask, and hashes to the end, at once
        ctx = context(allowed=["postgres://127.0.0.1:*"], seconds=0.5 * slower)
        peers: list[socket.socket] = []
        asked: list[int] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            arguments = (listener, peers, asked, 4_000_000 * slower)
            server = threading.Thread(target=_has_asked_for_a_hash, args=arguments)
            server.start()
            address = f"postgres://u:p@127.0.0.1:{listener.getsockname()[1]}/?sslmode=disable"
            with pytest.raises(DeadlineExceeded):
                family.query(ctx, address, "SELECT 1", [])
            listener.shutdown(socket.SHUT_RDWR)
            server.join()
        hashes = bool(asked) and not wait_ready(peers[0].fileno(), 0)[0]
        for peer in peers:
            peer.close()
        if hashes:
            return
    pytest.fail("it has hashed to the end")


@pytest.mark.skipif(sys.platform != "linux", reason="needs more than one loopback address")
def test_few_hash_at_once_and_fewer_for_one_server(
    family: Postgres, context: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are left behind give way to everybody else."""
    ctx = context(allowed=["postgres://*:*"])
    monkeypatch.setattr(postgres, "MAX_HASHING", 3)
    used = postgres._hashing._used

    def left_behind() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "log in to PostgreSQL"]

    for thread in left_behind():  # by other tests
        thread.join()

    def log_in(host: str, deadline: Breakable, then: Callable[[], object] = lambda: None) -> None:
        def serve() -> None:
            with suppress(OSError, struct.error):
                _ask_for_a_hash(listener, peers, 8_000_000)
                then()

        peers: list[socket.socket] = []
        ctx.deadline = deadline
        with socket.create_server((host, 0)) as listener:
            server = threading.Thread(target=serve)
            server.start()
            address = f"postgres://u:p@{host}:{listener.getsockname()[1]}/?sslmode=disable"
            with pytest.raises(DeadlineExceeded):
                family.query(ctx, address, "SELECT 1", [])
            listener.shutdown(socket.SHUT_RDWR)
            server.join()
        for peer in peers:
            peer.close()

    def hashes(host: str) -> None:
        """One more login that is left behind when it has been hashing for a while."""
        deadline, count = Breakable(Deadline(60)), used[host] + 1

        def leave() -> None:
            seen = 0
            while seen < 5:
                time.sleep(0.02)
                seen = seen + 1 if used[host] == count else 0
            deadline.cut()

        log_in(host, deadline, leave)

    def waits(host: str) -> None:
        """One that is not asked to hash, since nobody takes what the server says."""
        asked: list[str] = []
        log_in(host, Breakable(Deadline(0.2)), lambda: asked.append(host))
        assert not asked

    hashes("127.0.0.3")
    hashes("127.0.0.3")
    waits("127.0.0.3")
    hashes("127.0.0.4")
    waits("127.0.0.4")
    assert used == {"127.0.0.3": 2, "127.0.0.4": 1}
    for thread in (left := left_behind()):
        assert thread.native_id is not None
        assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == postgres.LEAST_PRIORITY
    assert len(left) == 3


def _has_asked_for_a_hash(
    listener: socket.socket, peers: list[socket.socket], asked: list[int], times: int
) -> None:
    with suppress(OSError, struct.error):  # it may be given up before
        _ask_for_a_hash(listener, peers, times)
        asked.append(times)


def _ask_for_a_hash(listener: socket.socket, peers: list[socket.socket], times: int) -> None:
    """A server's side of a login up to server-first-message (RFC 5802, 7)."""
    peer, _ = listener.accept()
    peers.append(peer)
    with peer.makefile("rb") as file:

        def authentication(kind: int, text: bytes) -> None:
            peer.sendall(b"R" + struct.pack("!II", 8 + len(text), kind) + text)

        file.read(struct.unpack("!I", file.read(4))[0] - 4)
        authentication(10, b"SCRAM-SHA-256\0\0")
        file.read(1)
        first = file.read(struct.unpack("!I", file.read(4))[0] - 4)
        nonce = first.partition(b"r=")[2]
        authentication(11, b"r=%sx,s=c2FsdA==,i=%d" % (nonce, times))


@services
def test_results_are_bounded(monkeypatch: pytest.MonkeyPatch, db: Guest) -> None:
    monkeypatch.setattr(postgres, "Budget", lambda: Budget(10_000))
    endless = "SELECT repeat('x', 100), generate_series(1, 1000000000)"
    assert failed(db.query(endless)) == RESULT_TOO_LARGE
    assert failed(db.query("SELECT repeat('x', 20000)")) == RESULT_TOO_LARGE
    assert db.value("1") == ("int32", 1)


@services
def test_large_values_go_through(db: Guest) -> None:
    data = bytes(3 << 20)
    assert db.value("$1::bytea", ("binary", data)) == ("binary", data)


@services
def test_text_that_is_not_utf8(db: Guest) -> None:
    """Only a database without an encoding has it."""
    db.execute("DROP DATABASE IF EXISTS raw")
    assert db.execute("CREATE DATABASE raw ENCODING SQL_ASCII TEMPLATE template0") == 0
    raw = Guest(db.family, db.ctx, db.address.replace("/site", "/raw"))
    answer = raw.query(r"SELECT convert_from('\xff'::bytea, 'SQL_ASCII')")
    assert isinstance(answer, Err)
    assert raw.value("1") == ("int32", 1)
