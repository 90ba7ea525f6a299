# fermyon:spin/mysql, spin:mysql: guests as MySQL and MariaDB clients (Spin: host interfaces, 7.3).
#
# Rule 1: the address is checked whenever one is given, and what is checked is what is
# connected to (addresses.py).
# Rule 2: values never become part of the SQL text. Statements are prepared and run by
# the server with values beside them (COM_STMT_PREPARE, COM_STMT_EXECUTE), as Spin
# does; PyMySQL itself would paste them in.
# Rule 3: a connection goes back to the pool as it was when new (COM_RESET_CONNECTION),
# or is closed; in the pool it is known by the whole address.
# Rule 4: rows are bounded while they come, and the socket ends all waits at the deadline.
#
# The driver is PyMySQL, which knows no prepared statements: logging in, packets,
# errors and column definitions are its, the binary protocol is here (MySQL
# Client/Server Protocol, "Binary Protocol Resultset").

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

import pymysql.connections
from pymysql.constants import COMMAND, FIELD_TYPE, FLAG, SERVER_STATUS
from pymysql.err import MySQLError
from pymysql.protocol import FieldDescriptorPacket

from ..component.values import Err
from ..errors import DeadlineExceeded
from .addresses import Address, BadAddress, parse_address
from .base import Deadline, HostContext
from .limits import MAX_HOST_BUFFERED_BYTES, RESULT_TOO_LARGE, VALUE_OVERHEAD, Budget
from .mysql_wit import INTERFACES as INTERFACES
from .network import BoundedSocket, BoundedSSLSocket, Network, is_idle
from .offload import Workers
from .rdbms import (
    NULL,
    DatabaseFailure,
    Databases,
    RowSet,
    Sessions,
    Value,
    streamed,
)

COM_STMT_PREPARE, COM_STMT_EXECUTE, COM_RESET_CONNECTION = 0x16, 0x17, 0x1F
UNSIGNED = 0x80  # in the second byte of a parameter's type

# Data type of a column -> how the binary protocol lays out a value of that size.
_INTEGERS: dict[int, tuple[str, struct.Struct, str, struct.Struct]] = {
    FIELD_TYPE.TINY: ("int8", struct.Struct("<b"), "uint8", struct.Struct("<B")),
    FIELD_TYPE.SHORT: ("int16", struct.Struct("<h"), "uint16", struct.Struct("<H")),
    FIELD_TYPE.INT24: ("int32", struct.Struct("<i"), "uint32", struct.Struct("<I")),
    FIELD_TYPE.LONG: ("int32", struct.Struct("<i"), "uint32", struct.Struct("<I")),
    FIELD_TYPE.LONGLONG: ("int64", struct.Struct("<q"), "uint64", struct.Struct("<Q")),
}
_FLOATS = {
    FIELD_TYPE.FLOAT: ("floating32", struct.Struct("<f")),
    FIELD_TYPE.DOUBLE: ("floating64", struct.Struct("<d")),
}
_BLOBS = (FIELD_TYPE.BLOB, FIELD_TYPE.STRING, FIELD_TYPE.VAR_STRING)
_LARGE_BLOBS = (FIELD_TYPE.MEDIUM_BLOB, FIELD_TYPE.LONG_BLOB)
_TEMPORAL = (FIELD_TYPE.DATE, FIELD_TYPE.TIME, FIELD_TYPE.DATETIME, FIELD_TYPE.TIMESTAMP)
_TWO_BYTES = struct.Struct("<H")

_SSL_PARAMETER = re.compile(r"ssl-?mode", re.IGNORECASE)


class _Connection(pymysql.connections.Connection):  # type: ignore[misc]
    """A connection that takes no more than `room` bytes before it is given more: rows are bounded one by one,
    but what a hostile server calls one packet has no end."""

    room = MAX_HOST_BUFFERED_BYTES

    def _read_bytes(self, num_bytes: int) -> bytes:
        self.room -= num_bytes
        if self.room < 0:
            self._force_close()
            raise DatabaseFailure("other", RESULT_TOO_LARGE)
        data: bytes = super()._read_bytes(num_bytes)
        return data


class _Field:
    """A column of a result: its name, data type, and how to read a value of it off a packet."""

    __slots__ = ("data_type", "name", "read")

    def __init__(self, field: Any) -> None:
        self.name: str = field.name
        self.data_type, self.read = _layout(field.type_code, field.flags)


def _layout(type: int, flags: int) -> tuple[str, Callable[[Any], Any]]:
    if type in _INTEGERS:
        signed, signed_struct, unsigned, unsigned_struct = _INTEGERS[type]
        if flags & FLAG.UNSIGNED:
            return unsigned, lambda packet: _fixed(packet, unsigned_struct)
        return signed, lambda packet: _fixed(packet, signed_struct)
    if type in _FLOATS:
        name, layout = _FLOATS[type]
        return name, lambda packet: _fixed(packet, layout)
    if type in _BLOBS:
        # Spin goes by this flag, so that text with a binary collation is `binary` too
        if flags & FLAG.BINARY:
            return "binary", _sized
        return "str", lambda packet: _sized(packet).decode()
    if type in _LARGE_BLOBS:
        return "binary", _sized
    if type == FIELD_TYPE.YEAR:
        return "other", lambda packet: _fixed(packet, _TWO_BYTES)
    if type in _TEMPORAL:
        return "other", lambda packet: packet.read(packet.read_uint8())
    return "other", _sized


def _fixed(packet: Any, layout: struct.Struct) -> Any:
    return layout.unpack(packet.read(layout.size))[0]


def _sized(packet: Any) -> bytes:
    data = packet.read_length_coded_string()
    if not isinstance(data, bytes):
        raise ValueError("malformed value")
    return data


class MySqlConnection:
    """A session on one server.

    Raises DatabaseFailure; and DeadlineExceeded, after which the session is closed.
    """

    def __init__(self, address: Address, network: Network, deadline: Deadline) -> None:
        if not address.user:
            # PyMySQL would take the name of the account that the server runs as
            raise DatabaseFailure("connection-failed", "the address names no user")
        database = unquote(address.path.strip("/"))
        self._database = database.encode()
        try:
            # Nothing from this host: no option file, no LOAD DATA LOCAL.
            self._connection = connection = _Connection(
                host=address.host,
                port=address.port,
                user=address.user,
                password=address.password or "",
                database=database or None,
                charset="utf8mb4",
                autocommit=None,  # as the server has it
                local_infile=False,
                defer_connect=True,
                ssl=network.tls_context() if _wants_tls(address) else None,
                ssl_disabled=not _wants_tls(address),
                read_timeout=None,
                write_timeout=None,
            )
            sock = network.connect(address.host, address.port, deadline)
            connection.connect(sock)
            if _wants_tls(address) and not isinstance(connection._sock, BoundedSSLSocket):
                connection._force_close()  # PyMySQL before 1.2 goes on without
                raise OSError("the server does not support TLS")
        except DeadlineExceeded:
            raise
        except Exception as error:  # PyMySQL believes what a server says, and stumbles in any way if it lies
            raise DatabaseFailure("connection-failed", _text(error)) from error

    @property
    def _socket(self) -> BoundedSocket:
        sock: BoundedSocket = self._connection._sock
        return sock

    def query(self, statement: str, params: Sequence[Value], deadline: Deadline) -> RowSet:
        """The rows of one statement."""
        if self._connection._sock is None:
            raise DatabaseFailure("query-failed", "connection is closed")
        try:
            self._socket.deadline = deadline
            # the limit of a result counts more for a value than its bytes, so this is room enough
            self._connection.room = MAX_HOST_BUFFERED_BYTES
            return self._query(statement, params)
        except MySQLError as error:
            # An error of the server leaves the session as it is; with any other it is gone already.
            raise DatabaseFailure("query-failed", _text(error)) from error
        except (DatabaseFailure, DeadlineExceeded):
            self.close()
            raise
        except Exception as error:  # as above
            self.close()
            raise DatabaseFailure("other", f"malformed answer: {error}") from error
        except BaseException:
            self.close()
            raise

    def _query(self, statement: str, params: Sequence[Value]) -> RowSet:
        connection = self._connection
        connection._execute_command(COM_STMT_PREPARE, statement.encode())
        prepared = connection._read_packet()
        _, statement_id, columns, parameters = struct.unpack_from("<BIHH", prepared.get_all_data())
        for _ in range(parameters + (parameters > 0) + columns + (columns > 0)):
            connection._read_packet()  # definitions, and the packet that ends them
        if parameters != len(params):
            raise MySQLError(f"Statement takes {parameters} parameters but {len(params)} was supplied")
        connection._execute_command(COM_STMT_EXECUTE, _execution(statement_id, params))
        answer = connection._read_packet()
        if answer.is_ok_packet():
            self._end(_status_of_ok(answer))
            return [], []
        if not answer.is_resultset_packet():
            raise ValueError("unexpected packet")  # LOAD DATA LOCAL, for one
        fields = [
            _Field(connection._read_packet(FieldDescriptorPacket))
            for _ in range(answer.read_length_encoded_integer())
        ]
        connection._read_packet()
        rows: list[list[Value]] = []
        budget = Budget()
        while True:
            packet = connection._read_packet()
            if packet.is_eof_packet():
                self._end(struct.unpack_from("<H", packet.get_all_data(), 3)[0])
                return [(field.name, field.data_type) for field in fields], rows
            rows.append(self._row(packet, fields, budget))

    def _row(self, packet: Any, fields: list[_Field], budget: Budget) -> list[Value]:
        data = packet.get_all_data()
        if not budget.spend(len(data) + VALUE_OVERHEAD * len(fields)):
            raise DatabaseFailure("other", RESULT_TOO_LARGE)
        packet.advance(1)
        nulls = packet.read((len(fields) + 9) // 8)
        row: list[Value] = []
        for index, field in enumerate(fields, 2):
            if nulls[index // 8] & 1 << index % 8:
                row.append(NULL)
                continue
            try:
                value = field.read(packet)
            except UnicodeDecodeError as error:
                raise DatabaseFailure("value-conversion-failed", str(error)) from error
            if field.data_type == "other":
                raise DatabaseFailure(
                    "value-conversion-failed",
                    f"Cannot convert value {value!r} in column {field.name} data type DbDataType::Other",
                )
            row.append((field.data_type, value))
        return row

    def _end(self, status: int) -> None:
        """After the last packet of a result."""
        if status & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS:
            self.close()  # a procedure has more to say, which nobody will hear

    def reset(self, deadline: Deadline) -> bool:
        """Make the session as new; whether that worked."""
        connection = self._connection
        if connection._sock is None or not self._database:
            return False  # nobody can undo the choice of a database where there was none
        try:
            self._socket.deadline = deadline
            connection.room = MAX_HOST_BUFFERED_BYTES
            # One journey for all: a reset leaves the database that the guest chose last, and sets the
            # character set to the server's default.
            commands = (
                (COM_RESET_CONNECTION, b""),
                (COMMAND.COM_QUERY, b"SET NAMES utf8mb4"),
                (COMMAND.COM_INIT_DB, self._database),
            )
            for command, argument in commands:
                connection._execute_command(command, argument)
            for _ in commands:
                connection._next_seq_id = 1
                connection._read_packet()
        except Exception:
            return False
        return True

    @property
    def is_usable(self) -> bool:
        return self._connection._sock is not None and is_idle(self._connection._sock)

    def close(self) -> None:
        self._connection._force_close()


def _execution(statement_id: int, params: Sequence[Value]) -> bytes:
    """The body of COM_STMT_EXECUTE."""
    packet = bytearray(struct.pack("<IBI", statement_id, 0, 1))
    if not params:
        return bytes(packet)
    nulls = bytearray((len(params) + 7) // 8)
    types, values = bytearray(), bytearray()
    for index, (case, value) in enumerate(params):
        flag = 0
        match case:
            case "db-null":
                nulls[index // 8] |= 1 << index % 8
                type = FIELD_TYPE.NULL
            case "boolean" | "int8" | "int16" | "int32" | "int64":
                type = FIELD_TYPE.LONGLONG
                values += struct.pack("<q", value)
            case "uint8" | "uint16" | "uint32" | "uint64":
                type, flag = FIELD_TYPE.LONGLONG, UNSIGNED
                values += struct.pack("<Q", value)
            case "floating32":
                type = FIELD_TYPE.FLOAT
                values += struct.pack("<f", value)
            case "floating64":
                type = FIELD_TYPE.DOUBLE
                values += struct.pack("<d", value)
            case _:
                text = case == "str"
                type = FIELD_TYPE.VAR_STRING if text else FIELD_TYPE.BLOB
                data = value.encode() if text else value
                values += _length(len(data)) + data
        types += bytes((type, flag))
    return bytes(packet + nulls + b"\x01" + types + values)


def _length(size: int) -> bytes:
    """A length-encoded integer."""
    if size < 251:
        return bytes((size,))
    if size < 1 << 16:
        return b"\xfc" + size.to_bytes(2, "little")
    if size < 1 << 24:
        return b"\xfd" + size.to_bytes(3, "little")
    return b"\xfe" + size.to_bytes(8, "little")


def _status_of_ok(packet: Any) -> int:
    packet.advance(1)
    packet.read_length_encoded_integer()
    packet.read_length_encoded_integer()
    status: int = packet.read_uint16()
    return status


def _text(error: Exception) -> str:
    """What the server said, without PyMySQL's tuple around it."""
    if isinstance(error, MySQLError) and len(error.args) == 2:
        return f"ERROR {error.args[0]}: {error.args[1]}"
    return str(error)


def _wants_tls(address: Address) -> bool:
    """Spin: TLS is used when the query asks for any `ssl-mode` but "disabled"."""
    return any(
        _SSL_PARAMETER.fullmatch(name) and value.lower() != "disabled"
        for name, value in parse_qsl(address.query or "", keep_blank_values=True)
    )


class MySqlClient(Sessions[Address, MySqlConnection]):
    """Sessions on MySQL servers (runtime config: outbound_mysql.max_connections)."""

    def __init__(self, network: Network, max_connections: int | None = None) -> None:
        super().__init__(MySqlConnection, network, max_connections)


class MySql(Databases[Address, MySqlConnection]):
    """fermyon:spin/mysql and spin:mysql, in all their versions."""

    def __init__(
        self, network: Network, max_connections: int | None = None, workers: Workers | None = None
    ) -> None:
        super().__init__(MySqlClient(network, max_connections), workers)

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        match interface:
            case "fermyon:spin/mysql":
                return {"query": self.query, "execute": self.execute}
            case "fermyon:spin/mysql@2":
                return {
                    "[static]connection.open": self.open,
                    "[method]connection.query": self.query_on,
                    "[method]connection.execute": self.execute_on,
                    "[resource-drop]connection": self.drop,
                }
            case "spin:mysql/mysql@3":
                return {
                    "[static]connection.open": self.open_async,
                    "[method]connection.query": self.query_async,
                    "[method]connection.execute": self.execute_async,
                    "[resource-drop]connection": self.drop,
                }
            case _:
                return {}

    # Unversioned: an address with each call.

    def query(self, ctx: HostContext, address: str, statement: str, params: list[Value]) -> Any:
        try:
            with self.session(ctx, address) as session:
                return session.query(statement, params, ctx.deadline)
        except DatabaseFailure as failure:
            return Err(failure.v1())

    def execute(self, ctx: HostContext, address: str, statement: str, params: list[Value]) -> Any:
        answer = self.query(ctx, address, statement, params)
        return answer if isinstance(answer, Err) else None

    # Later: connections that the guest keeps.

    def query_on(self, ctx: HostContext, conn: int, statement: str, params: list[Value]) -> Any:
        try:
            return self.connection(ctx, conn).query(statement, params, ctx.deadline)
        except DatabaseFailure as failure:
            return Err(failure.v2())

    def execute_on(self, ctx: HostContext, conn: int, statement: str, params: list[Value]) -> Any:
        answer = self.query_on(ctx, conn, statement, params)
        return answer if isinstance(answer, Err) else None

    # Last: the same as coroutines.

    async def query_async(self, ctx: HostContext, conn: int, statement: str, params: list[Value]) -> Any:
        def query(session: MySqlConnection, deadline: Deadline) -> RowSet:
            return session.query(statement, params, deadline)

        try:
            return streamed(ctx, await self.using(ctx, conn, query))
        except DatabaseFailure as failure:
            return Err(failure.v2())

    async def execute_async(self, ctx: HostContext, conn: int, statement: str, params: list[Value]) -> Any:
        answer = await self.query_async(ctx, conn, statement, params)
        return answer if isinstance(answer, Err) else None

    def permitted(self, ctx: HostContext, address: str) -> Address:
        outbound = ctx.component.outbound
        if outbound is None or not outbound.check_url(address, "mysql"):
            raise DatabaseFailure("connection-failed", f"address {address} is not permitted")
        try:
            return parse_address(address, ("mysql",))
        except BadAddress as error:
            raise DatabaseFailure("connection-failed", str(error)) from error
