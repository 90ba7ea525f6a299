# fermyon:spin/postgres, spin:postgres: guests as PostgreSQL clients (Spin: host interfaces, 7.3).
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
# Rule 5: how long a login takes is the server's to say: it names how often a password is
# hashed (SCRAM, RFC 5802), and libpq does that, for an hour if asked to. So it happens in
# a thread that is left behind at the deadline, without the GIL; few do so at once, fewer for
# one server, and who is left behind gives way to everybody else.
#
# The driver is libpq, through psycopg's wrapper of it (psycopg.pq).

from __future__ import annotations

import ctypes
import os
import queue
import ssl
import struct
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .. import forks
from ..component.values import Err
from ..errors import DeadlineExceeded, Trap
from .addresses import MAX_ADDRESS
from .base import Deadline, HostContext
from .limits import VALUE_OVERHEAD, Budget, Held
from .network import Breakable, Network, shares, wait_ready
from .offload import Workers
from .outbound import parse_url
from .postgres_values import BASIC, DATED, FULL, MAX_PARAMETERS, Types, parameter, spend
from .postgres_wit import INTERFACES as INTERFACES
from .rdbms import (
    NULL,
    Column,
    DatabaseFailure,
    Databases,
    RowSet,
    Sessions,
    Value,
    streamed,
)

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

# How often a wait for the server looks whether it is broken off.
BREAK_SECONDS = 0.25
# Cancelling opens a connection of its own, which libpq cannot bound; so many may hang at once.
MAX_CANCELS = 8
# Logins that are under way or left behind.
MAX_LOGINS = 16
# Of these, those that may be hashing, and those for one address: what others wait for then is a processor.
MAX_HASHING = 4
MAX_HASHING_FOR_ONE = 2
# The niceness of a thread that is left behind.
LEAST_PRIORITY = 19

# What builders of one instance hold: so many of them, each with an address and certificates of this length
# (a chain is some 10 KB).
MAX_BUILDERS = 1024
MAX_ROOTS = 64 << 10

# Parts of a server's error that are told by name, beside those with a field of their own.
_EXTRAS = {
    "column": pq.DiagnosticField.COLUMN_NAME,
    "constraint": pq.DiagnosticField.CONSTRAINT_NAME,
    "routine": pq.DiagnosticField.SOURCE_FUNCTION,
    "hint": pq.DiagnosticField.MESSAGE_HINT,
    "table": pq.DiagnosticField.TABLE_NAME,
    "datatype": pq.DiagnosticField.DATATYPE_NAME,
    "schema": pq.DiagnosticField.SCHEMA_NAME,
    "file": pq.DiagnosticField.SOURCE_FILE,
    "line": pq.DiagnosticField.SOURCE_LINE,
    "where_": pq.DiagnosticField.CONTEXT,
}


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a connection string; `shown` is how an error names it."""

    host: str
    port: int
    shown: str


@dataclass(frozen=True, slots=True)
class Target:
    """A connection string, taken apart: the servers to try, and how to log in to any of them.

    `roots` are certificates in PEM that are trusted beside the platform's.
    """

    servers: tuple[Server, ...]
    options: tuple[tuple[str, str], ...]
    roots: str | None = None

    def trusting(self, roots: str) -> Target:
        """The same with certificates that the guest trusts.

        Who names one wants it verified. libpq would go on without TLS if it could not be ("prefer").
        """
        options = dict(self.options)
        if options["sslmode"] == "prefer":
            options["sslmode"] = "verify-full"
        return replace(self, options=tuple(sorted(options.items())), roots=roots)


def parse(text: str) -> Target:
    """A URL or key=value string as libpq reads it; DatabaseFailure for one that cannot be used."""
    if "\0" in text or len(text) > MAX_ADDRESS:
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
        # what libpq would otherwise look for in the environment and the home directory; of a file that is no
        # plain one it complains on stderr
        "passfile": os.path.join(os.devnull, "none"),
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
        self._names: dict[int, str] = {}  # of types that have no words of their own
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

    def query(
        self, statement: str, params: Sequence[Value], deadline: Deadline, types: Types = BASIC
    ) -> tuple[RowSet, int]:
        """The rows of one statement, in the words of `types`, and how many it touched."""
        values, oids, formats = _parameters(params)
        if "\0" in statement:
            raise DatabaseFailure("query-failed", "the statement contains a null character")
        pg = self._pg
        columns: list[tuple[str, int]] = []
        rows: list[list[Value]] = []
        budget = Budget()
        touched = 0
        failure: DatabaseFailure | None = None
        try:
            pg.send_query_params(statement.encode(), values, oids, formats, pq.Format.BINARY)
            pg.set_single_row_mode()
            while (result := self._result(deadline)) is not None:
                status = result.status
                if status in (pq.ExecStatus.SINGLE_TUPLE, pq.ExecStatus.TUPLES_OK):
                    columns = columns or _columns(result)
                    for row in range(result.ntuples):
                        rows.append(_row(result, row, columns, types, budget))
                if status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                    touched = result.command_tuples or 0
                elif status == pq.ExecStatus.FATAL_ERROR:
                    failure = _failure(result)
                elif status not in (pq.ExecStatus.SINGLE_TUPLE, pq.ExecStatus.EMPTY_QUERY):
                    raise DatabaseFailure("query-failed", "COPY is not supported")
        except psycopg.Error as error:
            self.close()
            raise DatabaseFailure("query-failed", str(error).strip()) from error
        except (ValueError, IndexError, struct.error) as error:
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
            raise failure
        return (self._described(columns, types, deadline), rows), touched

    def _described(self, columns: list[tuple[str, int]], types: Types, deadline: Deadline) -> list[Column]:
        known = types.decoders
        if not types.detailed:
            return [(name, known[oid][0] if oid in known else "other") for name, oid in columns]
        self._learn({oid for _, oid in columns if oid not in known and oid not in self._names}, deadline)
        return [
            (name, (known[oid][0], None) if oid in known else ("other", self._names.get(oid, "unknown")))
            for name, oid in columns
        ]

    def _learn(self, oids: set[int], deadline: Deadline) -> None:
        """Ask the server for the names of types."""
        if oids:
            statement = "SELECT oid::int8, typname::text FROM pg_catalog.pg_type WHERE oid = ANY($1::int8[])"
            (_, rows), _ = self.query(statement, [("array-int64", sorted(oids))], deadline)
            self._names.update((row[0][1], row[1][1]) for row in rows)

    def _result(self, deadline: Deadline) -> Any:
        """The next result of what was sent, None when there are no more."""
        pg = self._pg
        while pg.flush():
            readable, _ = wait_ready(pg.socket, deadline.remaining(), writable=True)
            if readable:
                pg.consume_input()
        while pg.is_busy():
            left = deadline.remaining()
            if isinstance(deadline, Breakable):
                left = min(left, BREAK_SECONDS)
            readable, _ = wait_ready(pg.socket, left)
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
        slots = _cancels.free
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

        try:
            threading.Thread(target=cancel, name="cancel PostgreSQL statement", daemon=True).start()
        except RuntimeError:  # there are too many; the server will notice
            canceller.free()
            slots.release()


class _Slots:
    """Places for threads of this process that libpq may keep for long."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self.free = threading.Semaphore(self._count)


class _Hashing:
    """Places for the steps of logins, any of which may be the one that hashes."""

    def __init__(self) -> None:
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self._free = threading.Condition()  # guards the numbers
        self._used: Counter[str] = Counter()

    @contextmanager
    def place(self, address: str, deadline: Deadline) -> Iterator[None]:
        """One for the server at `address`, until this is left; DeadlineExceeded, DatabaseFailure."""
        used = self._used
        with self._free:
            while used.total() >= MAX_HASHING or used[address] >= MAX_HASHING_FOR_ONE:
                if not self._free.wait(deadline.remaining()):
                    deadline.remaining()
                    raise DatabaseFailure("connection-failed", "too many connections are being made")
            used[address] += 1
        try:
            yield
        finally:
            with self._free:
                used[address] -= 1
                if not used[address]:
                    del used[address]
                self._free.notify_all()


_cancels, _logins, _hashing = _Slots(MAX_CANCELS), _Slots(MAX_LOGINS), _Hashing()


def _open(target: Target, server: Server, address: str, deadline: Deadline) -> Any:
    """A libpq connection to `server` at `address` (Rule 5)."""
    slots = _logins.free
    if not slots.acquire(timeout=deadline.remaining()):
        deadline.remaining()
        raise DatabaseFailure("connection-failed", "too many connections are being made")
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()  # what nobody takes is closed with it

    def log_in() -> None:
        try:
            answers.put(_connect(target, server, address, deadline))
        except BaseException as error:  # a thread has nobody above it
            answers.put(error)
        finally:
            slots.release()

    thread = threading.Thread(target=log_in, name="log in to PostgreSQL", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # there are too many
        slots.release()
        raise DatabaseFailure("connection-failed", str(error)) from error
    while True:
        try:
            left = deadline.remaining()
        except BaseException:
            _give_way(thread)
            raise
        try:
            answer = answers.get(
                timeout=min(left, BREAK_SECONDS) if isinstance(deadline, Breakable) else left
            )
        except queue.Empty:
            continue
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _give_way(thread: threading.Thread) -> None:
    """Let `thread` have what nobody else wants of the processors. (Linux: threads have priorities.)"""
    if sys.platform == "linux" and thread.is_alive() and thread.native_id is not None:
        try:
            os.setpriority(os.PRIO_PROCESS, thread.native_id, LEAST_PRIORITY)
        except OSError:
            pass  # it has ended


def _connect(target: Target, server: Server, address: str, deadline: Deadline) -> Any:
    options = dict(target.options)
    if target.roots is not None:
        # libpq takes certificates from a file, which it reads when the server has said that it has TLS
        with tempfile.NamedTemporaryFile("w", suffix=".pem", encoding="utf-8") as file:
            file.write(_platform_roots(options["sslrootcert"]) + target.roots)
            file.flush()
            return _start(options | {"sslrootcert": file.name}, server, address, deadline)
    return _start(options, server, address, deadline)


def _platform_roots(file: str) -> str:
    try:
        return Path(file).read_text("utf-8") + "\n"
    except (OSError, UnicodeDecodeError):
        return ""  # "system", where no bundle was found


def _polling() -> Callable[[Any], int]:
    """PQconnectPoll, while which other threads run: psycopg's compiled wrapper keeps the GIL."""
    try:
        function = ctypes.CDLL(sys.modules[pq.PGconn.__module__].__file__).PQconnectPoll
    except (OSError, AttributeError):
        return lambda pg: int(pg.connect_poll())  # the wrapper in Python keeps nothing
    function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int
    return lambda pg: int(function(pg.pgconn_ptr))


_poll = _polling()


def _start(options: dict[str, str], server: Server, address: str, deadline: Deadline) -> Any:
    info = make_conninfo(**options, host=server.host, hostaddr=address, port=server.port)
    pg = pq.PGconn.connect_start(info.encode())
    try:
        while True:
            with _hashing.place(address, deadline):
                status = _poll(pg) if pg.status != pq.ConnStatus.BAD else pq.PollingStatus.FAILED
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
    """Values, types and formats for libpq."""
    if len(params) > MAX_PARAMETERS:
        raise DatabaseFailure("bad-parameter", f"{len(params)} parameters, at most {MAX_PARAMETERS} can be")
    encoded = [parameter(case, value) for case, value in params]
    return (
        [data for data, _ in encoded],
        [type for _, type in encoded],
        [pq.Format.BINARY if type else pq.Format.TEXT for _, type in encoded],
    )


def _columns(result: Any) -> list[tuple[str, int]]:
    """Name and type of each."""
    return [
        (result.fname(column).decode("utf-8", "replace"), result.ftype(column))
        for column in range(result.nfields)
    ]


def _row(result: Any, row: int, columns: list[tuple[str, int]], types: Types, budget: Budget) -> list[Value]:
    values: list[Value] = []
    for column, (_, oid) in enumerate(columns):
        data = result.get_value(row, column)
        spend(budget, VALUE_OVERHEAD + len(data or b""))
        if data is None:
            values.append(NULL)
            continue
        decoder = types.decoders.get(oid)
        value = None if decoder is None else decoder[1](data, budget)
        if decoder is None or value is None:
            values.append(("unsupported", data if types.detailed else None))
        else:
            values.append((decoder[0], value))
    return values


def _failure(result: Any) -> DatabaseFailure:
    """What the server said is wrong."""

    def field(which: pq.DiagnosticField) -> str | None:
        data: bytes | None = result.error_field(which)
        return None if data is None else data.decode("utf-8", "replace")

    text = result.error_message.decode("utf-8", "replace").strip()
    code = field(pq.DiagnosticField.SQLSTATE)
    if code is None:  # libpq's own
        return DatabaseFailure("query-failed", text)
    severity, message = field(pq.DiagnosticField.SEVERITY), field(pq.DiagnosticField.MESSAGE_PRIMARY)
    detail = field(pq.DiagnosticField.MESSAGE_DETAIL)
    extras = [(name, value) for name, which in _EXTRAS.items() if (value := field(which)) is not None]
    details = (text, severity or "", code, message or "", detail, extras)
    return DatabaseFailure("query-failed", text, details)


class PgClient(Sessions[Target, PgConnection]):
    """Sessions on PostgreSQL servers (runtime config: outbound_pg.max_connections)."""

    def __init__(self, network: Network, max_connections: int | None = None) -> None:
        super().__init__(PgConnection, network, max_connections)


class Builder:
    """The resource connection-builder. An address that is too long is forgotten, to be refused by `build`."""

    __slots__ = ("address", "roots")

    def __init__(self, address: str) -> None:
        self.address = address if len(address) <= MAX_ADDRESS else None
        self.roots: str | None = None


def _v4(failure: DatabaseFailure) -> tuple[str, Any]:
    """The error of spin:postgres@4, which tells apart what the server said."""
    if failure.case != "query-failed":
        return failure.v2()
    details = failure.details
    return failure.case, ("text", failure.text) if details is None else ("db-error", details)


# Interface -> what its guests know of types, and how they are told of errors.
_VERSIONS: dict[str, tuple[Types, Callable[[DatabaseFailure], Any]]] = {
    "fermyon:spin/postgres@2": (BASIC, DatabaseFailure.v2),
    "spin:postgres/postgres@3": (DATED, DatabaseFailure.v2),
    "spin:postgres/postgres@4": (FULL, _v4),
}


class Postgres(Databases[Target, PgConnection]):
    """fermyon:spin/postgres and spin:postgres, in all their versions."""

    def __init__(
        self, network: Network, max_connections: int | None = None, workers: Workers | None = None
    ) -> None:
        super().__init__(PgClient(network, max_connections), workers)
        self._builders: Held[Builder] = Held(lambda ctx, builder: None, MAX_BUILDERS)

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        if interface == "fermyon:spin/postgres":
            return {"query": self.query, "execute": self.execute}
        if interface not in _VERSIONS:
            return {}
        functions: dict[str, Callable[..., Any]] = {
            "[static]connection.open": self.open,
            "[method]connection.query": partial(self.query_on, *_VERSIONS[interface]),
            "[method]connection.execute": partial(self.execute_on, *_VERSIONS[interface]),
            "[resource-drop]connection": self.drop,
        }
        if interface == "spin:postgres/postgres@4":
            functions |= {
                "[constructor]connection-builder": self.new_builder,
                "[method]connection-builder.set-ca-root": self.set_ca_root,
                "[method]connection-builder.build": self.build,
                "[resource-drop]connection-builder": self._builders.drop,
                "[method]connection-builder.build-async": self.build_async,
                "[static]connection.open-async": self.open_async,
                "[method]connection.query-async": self.query_async,
                "[method]connection.execute-async": self.execute_async,
            }
        return functions

    # Unversioned: an address with each call.

    def query(self, ctx: HostContext, address: str, statement: str, params: list[Value]) -> Any:
        try:
            with self.session(ctx, address) as session:
                return session.query(statement, params, ctx.deadline)[0]
        except DatabaseFailure as failure:
            return Err(failure.v1())

    def execute(self, ctx: HostContext, address: str, statement: str, params: list[Value]) -> Any:
        try:
            with self.session(ctx, address) as session:
                return session.query(statement, params, ctx.deadline)[1]
        except DatabaseFailure as failure:
            return Err(failure.v1())

    # Later: connections that the guest keeps. The first two arguments are those of _VERSIONS.

    def query_on(
        self,
        types: Types,
        error: Callable[[DatabaseFailure], Any],
        ctx: HostContext,
        conn: int,
        statement: str,
        params: list[Value],
    ) -> Any:
        try:
            return self.connection(ctx, conn).query(statement, params, ctx.deadline, types)[0]
        except DatabaseFailure as failure:
            return Err(error(failure))

    def execute_on(
        self,
        types: Types,
        error: Callable[[DatabaseFailure], Any],
        ctx: HostContext,
        conn: int,
        statement: str,
        params: list[Value],
    ) -> Any:
        try:
            return self.connection(ctx, conn).query(statement, params, ctx.deadline, BASIC)[1]
        except DatabaseFailure as failure:
            return Err(error(failure))

    def new_builder(self, ctx: HostContext, address: str) -> int:
        handle = self._builders.of(ctx).push(Builder(address))
        if handle is None:
            raise Trap(f"more than {MAX_BUILDERS} connection builders")
        return handle

    def set_ca_root(self, ctx: HostContext, handle: int, certificate: str) -> Any:
        if len(certificate) > MAX_ROOTS:
            return Err(("other", f"invalid root certificate: longer than {MAX_ROOTS} characters"))
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate)
        except (TypeError, ValueError) as error:  # not ASCII, or nothing
            return Err(("other", f"invalid root certificate: {error}"))
        except ssl.SSLError as error:
            return Err(("other", f"invalid root certificate: {error.reason or error}"))
        self._builders.get(ctx, handle).roots = certificate
        return None

    def build(self, ctx: HostContext, handle: int) -> Any:
        try:
            return self.connect(ctx, self._built(ctx, handle))
        except DatabaseFailure as failure:
            return Err(failure.v2())

    def _built(self, ctx: HostContext, handle: int) -> Target:
        """Spin forgets to ask whether the address is permitted."""
        builder = self._builders.get(ctx, handle)
        if builder.address is None:
            raise DatabaseFailure("connection-failed", "the address is too long")
        target = self.permitted(ctx, builder.address)
        return target if builder.roots is None else target.trusting(builder.roots)

    # Of 4.2.0, the same as coroutines.

    async def build_async(self, ctx: HostContext, handle: int) -> Any:
        try:
            return await self.connect_async(ctx, self._built(ctx, handle))
        except DatabaseFailure as failure:
            return Err(failure.v2())

    async def query_async(self, ctx: HostContext, conn: int, statement: str, params: list[Value]) -> Any:
        def query(session: PgConnection, deadline: Deadline) -> RowSet:
            return session.query(statement, params, deadline, FULL)[0]

        try:
            return streamed(ctx, await self.using(ctx, conn, query))
        except DatabaseFailure as failure:
            return Err(_v4(failure))

    async def execute_async(self, ctx: HostContext, conn: int, statement: str, params: list[Value]) -> Any:
        def execute(session: PgConnection, deadline: Deadline) -> int:
            return session.query(statement, params, deadline, BASIC)[1]

        try:
            return await self.using(ctx, conn, execute)
        except DatabaseFailure as failure:
            return Err(_v4(failure))

    def permitted(self, ctx: HostContext, address: str) -> Target:
        """The servers of a connection string, when the component may connect to every one of them."""
        target = parse(address)
        outbound = ctx.component.outbound
        for server in target.servers:
            url = f"postgres://{server.shown}"
            if outbound is None or not outbound.check_url(url, "postgres"):
                raise DatabaseFailure("connection-failed", f"address {url} is not permitted")
        return target
