# fermyon:spin/redis: guests as Redis clients (Spin: host interfaces, 7.2).
#
# Rule 1: the address is checked at each call, and what is checked is what is connected
# to (addresses.py): redis and rediss only, never a socket file.
# Rule 2: what a guest may have done to a connection dies with it. Connections used
# for fixed commands, which leave no trace, are kept for the next call; one that ran
# a command of the guest's choice (`execute`: SELECT, AUTH, MULTI, SUBSCRIBE ...) is
# closed. Spin connects anew for each call of v1.
# Rule 3: a reply is bounded while it is read, since the server may be the guest's.
#
# redis-py is the client: its connections, its encoding. Replies are parsed here, for
# Rule 3 and because redis-py does not tell a status from a string.

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Sequence
from typing import Any

import redis.connection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from ..component.values import Err
from .addresses import Address, BadAddress, parse_address
from .base import Deadline, HostContext
from .limits import RESULT_TOO_LARGE, VALUE_OVERHEAD, Budget
from .network import BoundedSocket, BoundedSSLSocket, Network, is_idle
from .pools import Places, Pool, PoolFull

_TYPES = """
interface redis-types {
  enum error { success, error }
  type payload = list<u8>;
  variant redis-parameter { int64(s64), binary(payload) }
  variant redis-result { nil, status(string), int64(s64), binary(payload) }
}
"""
_REDIS = """
interface redis {
  use redis-types.{payload, redis-parameter, redis-result, error};
  publish: func(address: string, channel: string, payload: payload) -> result<_, error>;
  get: func(address: string, key: string) -> result<payload, error>;
  set: func(address: string, key: string, value: payload) -> result<_, error>;
  incr: func(address: string, key: string) -> result<s64, error>;
  del: func(address: string, keys: list<string>) -> result<s64, error>;
  sadd: func(address: string, key: string, values: list<string>) -> result<s64, error>;
  smembers: func(address: string, key: string) -> result<list<string>, error>;
  srem: func(address: string, key: string, values: list<string>) -> result<s64, error>;
  execute: func(address: string, command: string, arguments: list<redis-parameter>)
    -> result<list<redis-result>, error>;
}
"""
INTERFACES = {
    "fermyon:spin/redis-types": "package fermyon:spin;" + _TYPES,
    "fermyon:spin/redis": "package fermyon:spin;" + _TYPES + _REDIS,
}

SCHEMES = ("redis", "rediss")
# Connections that one instance may hold (Spin: host interfaces, 7.2).
MAX_CONNECTIONS = 1024
# Idle connections are kept for this many addresses, and at most as many per address.
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


def _case(text: str) -> str:
    return "type-error" if text.startswith("WRONGTYPE") else "other"


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
            per_key=POOL_SIZE,
            keys=POOL_ADDRESSES,
            places=Places(max_connections, network.places),
        )

    def call(
        self, address: Address, deadline: Deadline, *command: str | int | bytes, keep: bool = True
    ) -> Reply:
        """The reply to `command`, which must leave no trace on the connection unless `keep` is false.

        Raises RedisFailure, DeadlineExceeded.
        """
        try:
            connection = self._pool.take(address, deadline, fresh=not keep)
        except PoolFull:
            raise RedisFailure("too-many-connections") from None
        try:
            if connection is not None and not connection.is_usable:
                connection.close()
                connection = None
            if connection is None:
                connection = RedisConnection(address, self._network, deadline)
            return connection.call(deadline, *command)
        finally:
            if connection is not None and not (keep and connection.is_usable):
                connection.close()
                connection = None
            self._pool.give(address, connection)

    def close(self) -> None:
        self._pool.close()


# What the operations of the interfaces are, over any way to call the server.

Call = Callable[..., Reply]


def _int(reply: Reply) -> int:
    if not isinstance(reply, int):
        raise RedisFailure("other", "unexpected reply")
    return reply


def get(call: Call, key: str) -> bytes | None:
    reply = call("GET", key)
    if reply is not None and not isinstance(reply, bytes):
        raise RedisFailure("other", "unexpected reply")
    return reply


def smembers(call: Call, key: str) -> list[str]:
    reply = call("SMEMBERS", key)
    if not isinstance(reply, list):
        raise RedisFailure("other", "unexpected reply")
    try:
        return [member.decode() for member in reply]
    except (UnicodeDecodeError, AttributeError):
        raise RedisFailure("other", "a member is not UTF-8") from None


def execute(call: Call, command: str, arguments: Sequence[tuple[str, int | bytes]]) -> list[tuple[str, Any]]:
    """Any command; arrays of the reply are flattened."""
    results: list[tuple[str, Any]] = []
    _flatten(call(command, *(value for _, value in arguments)), results)
    return results


def _flatten(reply: Reply, results: list[tuple[str, Any]]) -> None:
    match reply:
        case None:
            results.append(("nil", None))
        case int():
            results.append(("int64", reply))
        case Status():
            results.append(("status", str(reply)))
        case bytes():
            results.append(("binary", reply))
        case list():
            for item in reply:
                _flatten(item, results)
        case _:  # an error in an array, as EXEC has them
            raise RedisFailure("other", str(reply))


_FAILED = Err("error")


class Redis:
    """fermyon:spin/redis in its unversioned form: an address with each call, and one error for all."""

    def __init__(self, network: Network, max_connections: int | None = None) -> None:
        self.client = RedisClient(network, max_connections)

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        if interface != "fermyon:spin/redis":
            return {}
        return {
            "publish": self.publish,
            "get": self.get,
            "set": self.set,
            "incr": self.incr,
            "del": self.delete,
            "sadd": self.sadd,
            "smembers": self.smembers,
            "srem": self.srem,
            "execute": self.execute,
        }

    def close(self) -> None:
        self.client.close()

    def caller(self, ctx: HostContext, text: str, *, keep: bool = True) -> Call:
        """A way to call the server at the guest's address `text`; RedisFailure when it must not."""
        address = permitted(ctx, text)
        deadline = ctx.deadline
        return lambda *command: self.client.call(address, deadline, *command, keep=keep)

    def publish(self, ctx: HostContext, address: str, channel: str, payload: bytes) -> Any:
        try:
            self.caller(ctx, address)("PUBLISH", channel, payload)
        except RedisFailure:
            return _FAILED

    def get(self, ctx: HostContext, address: str, key: str) -> Any:
        try:
            # v1 cannot say that there is no such key (Spin: host interfaces, 7.2)
            return get(self.caller(ctx, address), key) or b""
        except RedisFailure:
            return _FAILED

    def set(self, ctx: HostContext, address: str, key: str, value: bytes) -> Any:
        try:
            self.caller(ctx, address)("SET", key, value)
        except RedisFailure:
            return _FAILED

    def incr(self, ctx: HostContext, address: str, key: str) -> Any:
        return self._count(ctx, address, "INCRBY", key, 1)

    def delete(self, ctx: HostContext, address: str, keys: list[str]) -> Any:
        return self._count(ctx, address, "DEL", *keys)

    def sadd(self, ctx: HostContext, address: str, key: str, values: list[str]) -> Any:
        return self._count(ctx, address, "SADD", key, *values)

    def srem(self, ctx: HostContext, address: str, key: str, values: list[str]) -> Any:
        return self._count(ctx, address, "SREM", key, *values)

    def _count(self, ctx: HostContext, address: str, *command: str | int) -> Any:
        try:
            return _int(self.caller(ctx, address)(*command))
        except RedisFailure:
            return _FAILED

    def smembers(self, ctx: HostContext, address: str, key: str) -> Any:
        try:
            return smembers(self.caller(ctx, address), key)
        except RedisFailure:
            return _FAILED

    def execute(
        self, ctx: HostContext, address: str, command: str, arguments: list[tuple[str, int | bytes]]
    ) -> Any:
        try:
            return execute(self.caller(ctx, address, keep=False), command, arguments)
        except RedisFailure:
            return _FAILED


def permitted(ctx: HostContext, text: str) -> Address:
    """The address in `text`, when the component may connect to it; RedisFailure otherwise."""
    outbound = ctx.component.outbound
    if outbound is None or not outbound.check_url(text, "redis"):
        raise RedisFailure("invalid-address", "not permitted")
    return parse(text)
