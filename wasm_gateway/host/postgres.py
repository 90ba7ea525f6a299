# fermyon:spin/postgres: guests as PostgreSQL clients (Spin: host interfaces, 7.3).
#
# Rule 1: a connection string says where to connect and as whom, and nothing else: of
# libpq's options only those in OPTIONS are taken from a guest, since others read and
# write files of this host, and everything that libpq would take from our environment
# (PGPASSWORD, ~/.pgpass, client certificates) is set to nothing.
# Rule 2: each host is checked, and connected to at a checked address.
# Rule 3: a connection goes back to the pool as it was when new (DISCARD ALL), or is
# closed; in the pool it is known by the whole connection string, so that nobody gets
# one that he could not have opened.
# Rule 4: rows are bounded while they come (single-row mode); waits are ours, so that
# they end at the deadline, and the server is then told to stop (cancel).
#
# The driver is libpq, through psycopg's wrapper of it (psycopg.pq).

from __future__ import annotations

import os
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .. import forks
from ..component.values import Err
from ..errors import DeadlineExceeded
from .base import Deadline, HostContext
from .limits import RESULT_TOO_LARGE, VALUE_OVERHEAD, Budget
from .network import Network, shares, wait_ready
from .outbound import parse_url
from .rdbms import NULL, TYPES, UNSUPPORTED, Column, DatabaseFailure, RowSet, Sessions, Value

INTERFACES = {
    "fermyon:spin/rdbms-types": "package fermyon:spin;" + TYPES,
    "fermyon:spin/postgres": "package fermyon:spin;"
    + TYPES
    + """
interface postgres {
  use rdbms-types.{parameter-value, row-set};
  variant pg-error {
    success, connection-failed(string), bad-parameter(string), query-failed(string),
    value-conversion-failed(string), other-error(string),
  }
  query: func(address: string, statement: string, params: list<parameter-value>)
    -> result<row-set, pg-error>;
  execute: func(address: string, statement: string, params: list<parameter-value>)
    -> result<u64, pg-error>;
}
""",
}


# The options that a guest may set, which are those of Spin's client that have a meaning here: those that
# go to libpq as they are, and those of which `Target` makes something.
PASSED = frozenset(
    {"user", "password", "dbname", "options", "application_name", "channel_binding", "target_session_attrs"}
)
OPTIONS = PASSED | {"host", "port", "sslmode"}
# These only bound waits or keep sockets alive, which is our business.
IGNORED = frozenset(
    {"connect_timeout", "tcp_user_timeout", "load_balance_hosts"}
    | {"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"}
)
# Spin's client verifies the certificate and the name whenever it insists on TLS; libpq's `require` would not.
SSL_MODES = {
    "disable": "disable",
    "prefer": "prefer",
    "require": "verify-full",
    "verify-ca": "verify-ca",
    "verify-full": "verify-full",
}
ROOT_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)

# Cancelling opens a connection of its own, which libpq cannot bound; so many may hang at once.
MAX_CANCELS = 8

_INT2, _INT4, _INT8 = struct.Struct(">h"), struct.Struct(">i"), struct.Struct(">q")
_FLOAT4, _FLOAT8 = struct.Struct(">f"), struct.Struct(">d")

# Type OID -> data type, and the value in PostgreSQL's binary format -> Python.
DECODERS: dict[int, tuple[str, Callable[[bytes], Any]]] = {
    16: ("boolean", lambda data: data != b"\0"),
    17: ("binary", bytes),
    20: ("int64", lambda data: _INT8.unpack(data)[0]),
    21: ("int16", lambda data: _INT2.unpack(data)[0]),
    23: ("int32", lambda data: _INT4.unpack(data)[0]),
    25: ("str", bytes.decode),  # text
    700: ("floating32", lambda data: _FLOAT4.unpack(data)[0]),
    701: ("floating64", lambda data: _FLOAT8.unpack(data)[0]),
    1042: ("str", bytes.decode),  # character(n)
    1043: ("str", bytes.decode),  # character varying
}
BYTEA = 17


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a connection string; `shown` is how an error names it."""

    host: str
    port: int
    shown: str


@dataclass(frozen=True, slots=True)
class Target:
    """A connection string, taken apart: the servers to try, and how to log in to any of them."""

    servers: tuple[Server, ...]
    options: tuple[tuple[str, str], ...]


def parse(text: str) -> Target:
    """A URL or key=value string as libpq reads it; DatabaseFailure for one that cannot be used."""
    if "\0" in text:
        raise DatabaseFailure("connection-failed", "invalid connection string")
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(text).items()}
    except psycopg.Error as error:
        raise DatabaseFailure("connection-failed", str(error).strip()) from error
    for name in given:
        if name not in OPTIONS and name not in IGNORED:
            raise DatabaseFailure("connection-failed", f"unknown option `{name}`")
    hosts = [host for host in given.get("host", "").split(",") if host]
    if not hosts:
        raise DatabaseFailure("connection-failed", "host missing")
    ports = given["port"].split(",") if "port" in given else []
    if len(ports) not in (0, 1, len(hosts)):
        raise DatabaseFailure("connection-failed", "invalid number of ports")
    servers = []
    for index, host in enumerate(hosts):
        if host.startswith(("/", "@")):
            raise DatabaseFailure("connection-failed", "Unix sockets are not supported on WebAssembly")
        port = (ports[index] if len(ports) == len(hosts) else ports[0]) if ports else ""
        # libpq hands out IPv6 addresses without their brackets
        shown = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
        url = parse_url(f"postgres://{shown}", "postgres")
        if url is None or not url.port:
            raise DatabaseFailure("connection-failed", f"invalid host {shown!r}")
        servers.append(Server(url.host.strip("[]"), url.port, shown))
    return Target(tuple(servers), _login(given))


def _login(given: dict[str, str]) -> tuple[tuple[str, str], ...]:
    mode = given.get("sslmode", "prefer")
    if mode not in SSL_MODES:
        raise DatabaseFailure("connection-failed", f"invalid value `{mode}` for option `sslmode`")
    if not given.get("user"):
        # libpq and Spin would take the name of the account that the server runs as
        raise DatabaseFailure("connection-failed", "user missing")
    options = {
        # what libpq would otherwise look for in the environment and the home directory
        "passfile": os.devnull,
        "password": "",
        "options": "",
        "application_name": "",
        "gssencmode": "disable",
        "channel_binding": "prefer",
        "target_session_attrs": "any",
        "sslmode": SSL_MODES[mode],
        "sslrootcert": _root_certificates(),
        "sslcrl": "",
        "client_encoding": "UTF8",
        "connect_timeout": "0",
        "dbname": given["user"],
    }
    if pq.version() >= 160000:
        # all but Kerberos and OAuth, which would be those of the account that the server runs as
        options |= {"sslcertmode": "disable", "require_auth": "password,md5,scram-sha-256,none"}
    options |= {name: value for name, value in given.items() if name in PASSED}
    return tuple(sorted(options.items()))


def _root_certificates() -> str:
    found = ssl.get_default_verify_paths().cafile
    return found or next(filter(os.path.exists, ROOT_CERTIFICATES), "system")


class PgConnection:
    """A session on one server.

    Raises DatabaseFailure; and DeadlineExceeded, after which the session is closed and its statement
    cancelled.
    """

    def __init__(self, target: Target, network: Network, deadline: Deadline) -> None:
        failure: Exception | None = None
        places = []
        for server in target.servers:
            try:
                found = network.resolve(server.host, server.port, deadline)
            except OSError as error:
                failure = error
            else:
                places += [(server, address[0]) for _, address in found]
        for (server, address), share in zip(places, shares(len(places), deadline), strict=True):
            try:
                self._pg = _open(target, server, address, share)
                return
            except DatabaseFailure as error:
                failure = error
            except DeadlineExceeded as error:
                deadline.remaining()
                failure = error
        raise DatabaseFailure("connection-failed", str(failure)) from failure

    def query(self, statement: str, params: Sequence[Value], deadline: Deadline) -> tuple[RowSet, int]:
        """The rows of one statement, and how many it touched."""
        values, types, formats = _parameters(params)
        if "\0" in statement:
            raise DatabaseFailure("query-failed", "the statement contains a null character")
        pg = self._pg
        columns: list[Column] = []
        rows: list[list[Value]] = []
        decoders: list[tuple[str, Callable[[bytes], Any]] | None] = []
        budget = Budget()
        touched = 0
        failure: str | None = None
        try:
            pg.send_query_params(statement.encode(), values, types, formats, pq.Format.BINARY)
            pg.set_single_row_mode()
            while (result := self._result(deadline)) is not None:
                status = result.status
                if status in (pq.ExecStatus.SINGLE_TUPLE, pq.ExecStatus.TUPLES_OK):
                    if not columns:
                        columns, decoders = _columns(result)
                    for row in range(result.ntuples):
                        rows.append(_row(result, row, decoders, budget))
                if status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                    touched = result.command_tuples or 0
                elif status == pq.ExecStatus.FATAL_ERROR:
                    failure = result.error_message.decode("utf-8", "replace").strip()
                elif status not in (pq.ExecStatus.SINGLE_TUPLE, pq.ExecStatus.EMPTY_QUERY):
                    raise DatabaseFailure("query-failed", "COPY is not supported")
        except psycopg.Error as error:
            self.close()
            raise DatabaseFailure("query-failed", str(error).strip()) from error
        except (UnicodeDecodeError, struct.error) as error:
            self.close()
            raise DatabaseFailure("value-conversion-failed", str(error)) from error
        except DatabaseFailure:
            self.close()  # in the midst of a result
            raise
        except BaseException:
            self._cancel()
            self.close()
            raise
        if failure is not None:
            raise DatabaseFailure("query-failed", failure)
        return (columns, rows), touched

    def _result(self, deadline: Deadline) -> Any:
        """The next result of what was sent, None when there are no more."""
        pg = self._pg
        while pg.flush():
            readable, _ = wait_ready(pg.socket, deadline.remaining(), writable=True)
            if readable:
                pg.consume_input()
        while pg.is_busy():
            readable, _ = wait_ready(pg.socket, deadline.remaining())
            if readable:
                pg.consume_input()
            else:
                deadline.remaining()
        return pg.get_result()

    def reset(self, deadline: Deadline) -> bool:
        """Make the session as new; whether that worked."""
        try:
            if self._pg.status != pq.ConnStatus.OK:
                return False
            if self._pg.transaction_status != pq.TransactionStatus.IDLE:
                self.query("ROLLBACK", (), deadline)
            self.query("DISCARD ALL", (), deadline)
        except Exception:
            return False
        return True

    @property
    def is_usable(self) -> bool:
        """Whether the server has neither hung up nor said anything while nobody listened."""
        return self._pg.status == pq.ConnStatus.OK and not wait_ready(self._pg.socket, 0)[0]

    def close(self) -> None:
        self._pg.finish()

    def _cancel(self) -> None:
        """Ask the server to stop what it does for us, without waiting for an answer."""
        slots = _cancels.slots
        if self._pg.status != pq.ConnStatus.OK or not slots.acquire(blocking=False):
            return
        canceller = self._pg.get_cancel()

        def cancel() -> None:
            try:
                canceller.cancel()
            except psycopg.Error:
                pass  # the server will notice when it wants to send its result
            finally:
                canceller.free()
                slots.release()

        threading.Thread(target=cancel, name="cancel PostgreSQL statement", daemon=True).start()


class _Cancels:
    """The places for cancellations that are under way in this process."""

    def __init__(self) -> None:
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self.slots = threading.Semaphore(MAX_CANCELS)


_cancels = _Cancels()


def _open(target: Target, server: Server, address: str, deadline: Deadline) -> Any:
    """A libpq connection to `server` at `address`."""
    info = make_conninfo(**dict(target.options), host=server.host, hostaddr=address, port=server.port)
    pg = pq.PGconn.connect_start(info.encode())
    try:
        while True:
            status = pg.connect_poll() if pg.status != pq.ConnStatus.BAD else pq.PollingStatus.FAILED
            match status:
                case pq.PollingStatus.OK:
                    break
                case pq.PollingStatus.FAILED:
                    raise DatabaseFailure("connection-failed", pg.get_error_message().strip())
                case pq.PollingStatus.WRITING:
                    wait_ready(pg.socket, deadline.remaining(), writable=True)
                case _:
                    wait_ready(pg.socket, deadline.remaining())
        pg.nonblocking = 1
        return pg
    except BaseException:
        pg.finish()
        raise


def _parameters(
    params: Sequence[Value],
) -> tuple[list[bytes | None], list[int], list[pq.Format]]:
    """Values, types and formats for libpq.

    The server infers all types from the statement, as Spin's client has it do, except that of bytes.
    """
    values: list[bytes | None] = []
    types: list[int] = []
    formats: list[pq.Format] = []
    for case, value in params:
        type = 0
        data: bytes | None
        match case:
            case "boolean":
                data = b"t" if value else b"f"
            case "str":
                if "\0" in value:
                    raise DatabaseFailure("query-failed", "PostgreSQL has no null characters in text")
                data = value.encode()
            case "binary":
                data, type = value, BYTEA
            case "db-null":
                data = None
            case "uint8" | "uint16" | "uint32" | "uint64":
                raise DatabaseFailure(
                    "value-conversion-failed", "Postgres does not support unsigned integers"
                )
            case _:
                data = repr(value).encode()
        values.append(data)
        types.append(type)
        formats.append(pq.Format.BINARY if type else pq.Format.TEXT)
    return values, types, formats


def _columns(result: Any) -> tuple[list[Column], list[tuple[str, Callable[[bytes], Any]] | None]]:
    decoders = [DECODERS.get(result.ftype(column)) for column in range(result.nfields)]
    names = [result.fname(column).decode("utf-8", "replace") for column in range(result.nfields)]
    return [
        (name, decoder[0] if decoder else "other") for name, decoder in zip(names, decoders, strict=True)
    ], decoders


def _row(
    result: Any, row: int, decoders: list[tuple[str, Callable[[bytes], Any]] | None], budget: Budget
) -> list[Value]:
    values: list[Value] = []
    for column, decoder in enumerate(decoders):
        data = result.get_value(row, column)
        if not budget.spend(VALUE_OVERHEAD + len(data or b"")):
            raise DatabaseFailure("query-failed", RESULT_TOO_LARGE)
        if data is None:
            values.append(NULL)
        elif decoder is None:
            values.append(UNSUPPORTED)
        else:
            values.append((decoder[0], decoder[1](data)))
    return values


class PgClient(Sessions[Target, PgConnection]):
    """Sessions on PostgreSQL servers (runtime config: outbound_pg.max_connections)."""

    def __init__(self, network: Network, max_connections: int | None = None) -> None:
        super().__init__(PgConnection, network, max_connections)


class Postgres:
    """fermyon:spin/postgres in its unversioned form: an address with each call."""

    def __init__(self, network: Network, max_connections: int | None = None) -> None:
        self.client = PgClient(network, max_connections)

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return {"query": self.query, "execute": self.execute} if interface == "fermyon:spin/postgres" else {}

    def close(self) -> None:
        self.client.close()

    def query(self, ctx: HostContext, address: str, statement: str, params: list[Value]) -> Any:
        try:
            return self._run(ctx, address, statement, params)[0]
        except DatabaseFailure as failure:
            return Err(failure.v1())

    def execute(self, ctx: HostContext, address: str, statement: str, params: list[Value]) -> Any:
        try:
            return self._run(ctx, address, statement, params)[1]
        except DatabaseFailure as failure:
            return Err(failure.v1())

    def _run(self, ctx: HostContext, address: str, statement: str, params: list[Value]) -> tuple[RowSet, int]:
        target = permitted(ctx, address)
        deadline = ctx.deadline
        connection = self.client.take(target, deadline)
        try:
            return connection.query(statement, params, deadline)
        finally:
            self.client.give(target, connection, deadline)


def permitted(ctx: HostContext, text: str) -> Target:
    """The servers of a connection string, when the component may connect to every one of them."""
    target = parse(text)
    outbound = ctx.component.outbound
    for server in target.servers:
        url = f"postgres://{server.shown}"
        if outbound is None or not outbound.check_url(url, "postgres"):
            raise DatabaseFailure("connection-failed", f"address {url} is not permitted")
    return target
