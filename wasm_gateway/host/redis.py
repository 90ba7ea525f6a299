# fermyon:spin/redis, spin:redis: guests as Redis clients (Spin: host interfaces, 7.2).
#
# Rule 1: the address is checked whenever one is given, and what is checked is what is
# connected to (addresses.py): redis and rediss only, never a socket file.
# Rule 2: what a guest may have done to a connection dies with it. Connections used
# for fixed commands, which leave no trace, are kept for the next guest; one that ran
# a command of the guest's choice (`execute`: SELECT, AUTH, MULTI, SUBSCRIBE ...) is
# closed. Spin connects anew for each call of v1, and for each `open`.
# Rule 3: a reply is bounded while it is read, since the server may be the guest's.
# Rule 4: the versions differ in how a connection is found and in their errors; what they
# do is in _OPERATIONS once.
#
# redis-py is the client: its connections, its encoding. Replies are parsed here, for
# Rule 3 and because redis-py does not tell a status from a string.

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import redis.connection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from ..component.values import Err
from .addresses import Address, BadAddress, parse_address
from .base import Deadline, HostContext
from .limits import MAX_CONNECTIONS, RESULT_TOO_LARGE, VALUE_OVERHEAD, Budget, Held
from .network import BoundedSocket, BoundedSSLSocket, Network, is_idle
from .offload import Turns, Workers
from .pools import Places, Pool, PoolFull
from .redis_wit import INTERFACES as INTERFACES

SCHEMES = ("redis", "rediss")
# Idle connections are kept for this many addresses, and at most as many per address. In use there are as
# many as guests keep open.
POOL_ADDRESSES = 16
POOL_SIZE = 64
# Arrays in arrays; real commands stay below 5 (XREAD, COMMAND DOCS).
MAX_NESTING = 16


class RedisFailure(Exception):
    """A call that did not work; `case` is that of the versioned interfaces' error."""

    def __init__(self, case: str, text: str = "") -> None:
        super().__init__(text)
        self.case = case
        self.text = text

    def v2(self) -> tuple[str, str | None]:
        return self.case, self.text if self.case == "other" else None


class Status(str):
    """A simple string of the server, "+OK"."""

    __slots__ = ()


# bytes is a bulk string, a list an array.
Reply = None | int | bytes | Status | list[Any]


class _Replies:
    """Reads RESP 2 from a connection of redis-py; takes the place of its parser."""

    def __init__(self, socket_read_size: int = 65536) -> None:
        self._size = socket_read_size
        self._stream: io.BufferedReader | None = None

    def on_connect(self, connection: Any) -> None:
        self._stream = connection._sock.makefile("rb", self._size)

    def on_disconnect(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def can_read(self, timeout: float) -> bool:
        raise NotImplementedError  # is_idle() asks the socket itself

    def read_response(self, disable_decoding: bool = False, **_: Any) -> Reply | ResponseError:
        return self._read(Budget(), 0)

    def _read(self, budget: Budget, depth: int) -> Reply | ResponseError:
        assert self._stream is not None
        # The longest line is an error's text; 64 KiB is Redis' own limit for inline text.
        line = self._stream.readline(65536)
        if line[-2:] != b"\r\n":
            raise ConnectionError("connection closed by server" if not line else "malformed reply")
        kind, rest = line[:1], line[1:-2]
        if not budget.spend(VALUE_OVERHEAD + len(rest)):
            raise RedisFailure("other", RESULT_TOO_LARGE)
        match kind:
            case b"+":
                return Status(rest.decode("utf-8", "replace"))
            case b"-":
                return ResponseError(rest.decode("utf-8", "replace"))
            case b":":
                return _integer(rest)
            case b"$":
                return self._bulk(_integer(rest), budget)
            case b"*":
                size = _integer(rest)
                if size < 0:
                    return None
                if depth == MAX_NESTING:
                    raise RedisFailure("other", "reply is nested too deeply")
                return [self._read(budget, depth + 1) for _ in range(size)]
            case _:
                raise ConnectionError("malformed reply")

    def _bulk(self, size: int, budget: Budget) -> bytes | None:
        if size < 0:
            return None
        if not budget.spend(size):
            raise RedisFailure("other", RESULT_TOO_LARGE)
        assert self._stream is not None
        data = self._stream.read(size + 2)
        if len(data) != size + 2 or data[-2:] != b"\r\n":
            raise ConnectionError("connection closed by server")
        return data[:-2]


def _integer(text: bytes) -> int:
    # int() alone would take "1_000" and " 1"
    if not text.removeprefix(b"-").isdigit() or len(text) > 20:
        raise ConnectionError("malformed reply")
    return int(text)


# redis-py tells servers its name and version unless asked not to; how to ask depends on its version.
_ANONYMOUS = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(redis.connection.AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)


class _Socket(redis.connection.Connection):
    """A connection of redis-py over a socket of ours."""

    def __init__(self, address: Address, network: Network, deadline: Deadline) -> None:
        self._address = address
        self._network = network
        self.deadline = deadline
        super().__init__(  # type: ignore[no-untyped-call]
            host=address.host,
            port=address.port,
            protocol=2,
            parser_class=_Replies,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=None,
            **_ANONYMOUS,
        )

    def _connect(self) -> BoundedSocket | BoundedSSLSocket:
        sock = self._network.connect(self._address.host, self._address.port, self.deadline)
        if self._address.scheme == "rediss":
            return self._network.wrap(sock, self._address.host)
        return sock


class RedisConnection:
    """A session on one server; `call` sends a command and waits for its reply.

    Raises RedisFailure for every failure, after which the connection may be closed; and
    DeadlineExceeded, after which it is.
    """

    def __init__(self, address: Address, network: Network, deadline: Deadline) -> None:
        self._socket: Any = _Socket(address, network, deadline)
        try:
            self._socket.connect()  # type: ignore[no-untyped-call]
            if address.password is not None:
                user = () if address.user is None else (address.user,)
                self.call(deadline, "AUTH", *user, address.password)
            database = address.path.strip("/")
            if database:
                self.call(deadline, "SELECT", database)
        except (RedisError, OSError) as error:
            self.close()
            raise RedisFailure("other", str(error)) from error
        except BaseException:
            self.close()
            raise

    def call(self, deadline: Deadline, *command: str | int | bytes) -> Reply:
        connection = self._socket
        sock = connection._sock
        if sock is None:
            raise RedisFailure("other", "connection is closed")
        sock.deadline = deadline
        try:
            connection.send_command(*command, check_health=False)
            reply: Reply = connection.read_response()
        except ResponseError as error:
            raise RedisFailure(_case(str(error)), str(error)) from error
        except (RedisError, OSError) as error:
            self.close()
            raise RedisFailure("other", str(error)) from error
        except BaseException:
            self.close()
            raise
        return reply

    @property
    def is_usable(self) -> bool:
        """Whether nothing has gone wrong with it, as far as can be known without asking the server."""
        sock = self._socket._sock
        return sock is not None and is_idle(sock)

    def close(self) -> None:
        self._socket.disconnect()


# What servers say of a value that is not of the type that a command is for. Spin has this case for few of
# these; the interface says that they are it.
_TYPE_ERRORS = ("WRONGTYPE", "ERR value is not an integer")


def _case(text: str) -> str:
    return "type-error" if text.startswith(_TYPE_ERRORS) else "other"


def parse(text: str) -> Address:
    """A Redis URL; RedisFailure for one that cannot be used."""
    try:
        address = parse_address(text, SCHEMES)
    except BadAddress as error:
        raise RedisFailure("invalid-address", str(error)) from error
    if not address.path.strip("/").isdigit() and address.path.strip("/"):
        raise RedisFailure("invalid-address", f"invalid database number {address.path!r}")
    return address


class RedisClient:
    """Calls to Redis servers over connections that are kept; one for an application.

    `max_connections` limits those in use at once (runtime config: outbound_redis.max_connections).
    """

    def __init__(self, network: Network, max_connections: int | None = None) -> None:
        self._network = network
        self._pool: Pool[RedisConnection] = Pool(
            RedisConnection.close,
            per_key=MAX_CONNECTIONS,
            keys=POOL_ADDRESSES,
            idle=POOL_SIZE,
            places=Places(max_connections, network.places),
        )

    def take(self, address: Address, deadline: Deadline, *, fresh: bool = False) -> RedisConnection:
        """A connection, which must be given back; RedisFailure, DeadlineExceeded."""
        try:
            connection = self._pool.take(address, deadline, fresh=fresh)
        except PoolFull:
            raise RedisFailure("too-many-connections") from None
        try:
            if connection is not None and not connection.is_usable:
                connection.close()
                connection = None
            return connection or RedisConnection(address, self._network, deadline)
        except BaseException:
            self._pool.give(address, None)
            raise

    def give(self, address: Address, connection: RedisConnection, *, keep: bool = True) -> None:
        """`keep` it for others, if it is as it was when taken."""
        if keep and connection.is_usable:
            self._pool.give(address, connection)
        else:
            connection.close()
            self._pool.give(address, None)

    def call(
        self, address: Address, deadline: Deadline, *command: str | int | bytes, keep: bool = True
    ) -> Reply:
        """The reply to `command`, which must leave no trace on the connection unless `keep` is false.

        Raises RedisFailure, DeadlineExceeded.
        """
        connection = self.take(address, deadline, fresh=not keep)
        try:
            return connection.call(deadline, *command)
        finally:
            self.give(address, connection, keep=keep)

    def close(self) -> None:
        self._pool.close()


# What the operations of the interfaces are, over any way to call the server.

Call = Callable[..., Reply]


def _number(reply: Reply) -> int:
    if not isinstance(reply, int) or not -(2**63) <= reply < 2**63:
        raise RedisFailure("other", "unexpected reply")
    return reply


def _count(reply: Reply) -> int:
    count = _number(reply)
    if not 0 <= count < 2**32:
        raise RedisFailure("other", "unexpected reply")
    return count


def _get(call: Call, key: str) -> bytes | None:
    reply = call("GET", key)
    if reply is not None and not isinstance(reply, bytes):
        raise RedisFailure("other", "unexpected reply")
    return reply


def _smembers(call: Call, key: str) -> list[str]:
    reply = call("SMEMBERS", key)
    if not isinstance(reply, list):
        raise RedisFailure("other", "unexpected reply")
    try:
        return [member.decode() for member in reply]
    except (UnicodeDecodeError, AttributeError):
        raise RedisFailure("other", "a member is not UTF-8") from None


def _execute(call: Call, command: str, arguments: Sequence[tuple[str, int | bytes]]) -> list[tuple[str, Any]]:
    """Any command; arrays of the reply are flattened."""
    results: list[tuple[str, Any]] = []
    _flatten(call(command, *(value for _, value in arguments)), results)
    return results


def _flatten(reply: Reply, results: list[tuple[str, Any]]) -> None:
    match reply:
        case None:
            results.append(("nil", None))
        case int():
            results.append(("int64", _number(reply)))
        case Status():
            results.append(("status", str(reply)))
        case bytes():
            results.append(("binary", reply))
        case list():
            for item in reply:
                _flatten(item, results)
        case _:  # an error in an array, as EXEC has them
            raise RedisFailure("other", str(reply))


def _ignored(reply: Reply) -> None:
    pass


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "publish": lambda call, channel, payload: _ignored(call("PUBLISH", channel, payload)),
    "get": _get,
    "set": lambda call, key, value: _ignored(call("SET", key, value)),
    "incr": lambda call, key: _number(call("INCRBY", key, 1)),
    "del": lambda call, keys: _count(call("DEL", *keys)),
    "sadd": lambda call, key, values: _count(call("SADD", key, *values)),
    "smembers": _smembers,
    "srem": lambda call, key, values: _count(call("SREM", key, *values)),
    "execute": _execute,
}

_FAILED = Err("error")


class _Opened:
    """A connection that a guest keeps. `clean`: nothing but fixed commands ran on it."""

    __slots__ = ("address", "clean", "connection", "turns")

    def __init__(self, address: Address, connection: RedisConnection) -> None:
        self.address = address
        self.connection = connection
        self.clean = True
        self.turns = Turns()


class Redis:
    """fermyon:spin/redis and spin:redis, in all their versions."""

    def __init__(
        self, network: Network, max_connections: int | None = None, workers: Workers | None = None
    ) -> None:
        self.client = RedisClient(network, max_connections)
        self._workers = workers or Workers()
        self._opened: Held[_Opened] = Held(self._release)

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        match interface:
            case "fermyon:spin/redis":
                return {name: partial(self._on_address, name) for name in _OPERATIONS}
            case "fermyon:spin/redis@2":
                return {
                    "[static]connection.open": self.open,
                    **{f"[method]connection.{name}": partial(self._on_opened, name) for name in _OPERATIONS},
                    "[resource-drop]connection": self._opened.drop,
                }
            case "spin:redis/redis@3":
                return {
                    "[static]connection.open": self.open_async,
                    **{f"[method]connection.{name}": partial(self._async, name) for name in _OPERATIONS},
                    "[resource-drop]connection": self._opened.drop,
                }
            case _:
                return {}

    def close(self) -> None:
        self.client.close()

    # Unversioned: an address with each call, and one error for all.

    def _on_address(self, name: str, ctx: HostContext, address: str, *arguments: Any) -> Any:
        try:
            where = permitted(ctx, address)
            call = partial(self.client.call, where, ctx.deadline, keep=name != "execute")
            answer = _OPERATIONS[name](call, *arguments)
        except RedisFailure:
            return _FAILED
        # it cannot say that there is no such key (Spin: host interfaces, 7.2)
        return b"" if name == "get" and answer is None else answer

    # Later: connections that the guest keeps.

    def open(self, ctx: HostContext, address: str) -> Any:
        handles = self._opened.of(ctx)
        try:
            where = permitted(ctx, address)
            if handles.is_full:
                raise RedisFailure("too-many-connections")
            return handles.push(_Opened(where, self.client.take(where, ctx.deadline)))
        except RedisFailure as failure:
            return Err(failure.v2())

    def _release(self, ctx: HostContext, opened: _Opened) -> None:
        give = partial(self.client.give, opened.address, opened.connection)
        opened.turns.end(lambda: give(keep=opened.clean))

    def _on_opened(self, name: str, ctx: HostContext, handle: int, *arguments: Any) -> Any:
        opened = self._opened.get(ctx, handle)
        if name == "execute":
            opened.clean = False
        try:
            return _OPERATIONS[name](partial(opened.connection.call, ctx.deadline), *arguments)
        except RedisFailure as failure:
            return Err(failure.v2())

    # Last: the same as coroutines.

    async def open_async(self, ctx: HostContext, address: str) -> Any:
        handles = self._opened.of(ctx)
        try:
            where = permitted(ctx, address)
            if handles.is_full:
                raise RedisFailure("too-many-connections")
            give = partial(self.client.give, where)
            connection = await self._workers.run(ctx, partial(self.client.take, where), undo=give)
            handle = handles.push(_Opened(where, connection))
            if handle is None:  # filled meanwhile
                give(connection)
                raise RedisFailure("too-many-connections")
            return handle
        except RedisFailure as failure:
            return Err(failure.v2())

    async def _async(self, name: str, ctx: HostContext, handle: int, *arguments: Any) -> Any:
        opened = self._opened.get(ctx, handle)
        if name == "execute":
            opened.clean = False

        def operate(deadline: Deadline) -> Any:
            return _OPERATIONS[name](partial(opened.connection.call, deadline), *arguments)

        try:
            return await self._workers.run(ctx, operate, turns=opened.turns)
        except RedisFailure as failure:
            return Err(failure.v2())


def permitted(ctx: HostContext, text: str) -> Address:
    """The address in `text`, when the component may connect to it; RedisFailure otherwise."""
    outbound = ctx.component.outbound
    if outbound is None or not outbound.check_url(text, "redis"):
        raise RedisFailure("invalid-address", "not permitted")
    return parse(text)
