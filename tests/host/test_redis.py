from __future__ import annotations

import multiprocessing
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.services import free_port
from wasm_gateway.component.values import Err
from wasm_gateway.component.wit import parse_interface
from wasm_gateway.errors import DeadlineExceeded, Trap
from wasm_gateway.host import redis
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.limits import VALUE_OVERHEAD, Budget
from wasm_gateway.host.network import Network
from wasm_gateway.host.redis import (
    INTERFACES,
    POOL_SIZE,
    Redis,
    RedisClient,
    RedisConnection,
    RedisFailure,
    parse,
)

INTERFACE = "fermyon:spin/redis"
FAILED = Err("error")
services = pytest.mark.services


@pytest.fixture
def family(network: Network) -> Iterator[Redis]:
    made = Redis(network)
    yield made
    made.close()


@pytest.fixture
def url(redis_server: str) -> str:
    """A database of the real server, emptied."""
    client = RedisClient(Network())
    address = f"{redis_server}/0"
    client.call(parse(address), Deadline(120), "FLUSHALL")
    client.close()
    return address


@pytest.fixture
def guest(context: Callable[..., Any]) -> Any:
    return context(allowed=["redis://127.0.0.1:*"])


def call(family: Redis, name: str, *arguments: Any) -> Any:
    """A function of the unversioned interface."""
    return family.functions(INTERFACE)[name](*arguments)


@contextmanager
def server(*answers: bytes) -> Iterator[str]:
    """A server of our own that says `answers` to the first connection, one after each thing it hears."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                for answer in answers:
                    connection.recv(65536)
                    try:
                        connection.sendall(answer)
                    except OSError:
                        return
                try:
                    while connection.recv(65536):
                        pass
                except OSError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)


def test_functions_are_those_of_the_interface(family: Redis) -> None:
    declared = parse_interface(INTERFACE, INTERFACES[INTERFACE])
    assert set(family.functions(INTERFACE)) == set(declared.funcs)
    assert parse_interface("fermyon:spin/redis-types", INTERFACES["fermyon:spin/redis-types"])
    assert family.functions("fermyon:spin/other") == {}


@services
def test_a_guest_uses_redis(family: Redis, guest: Any, url: str) -> None:
    functions = family.functions(INTERFACE)
    assert functions["get"](guest, url, "k") == b""  # v1 knows no absence
    assert functions["set"](guest, url, "k", b"\x00\xffv") is None
    assert functions["get"](guest, url, "k") == b"\x00\xffv"
    assert functions["incr"](guest, url, "n") == 1
    assert functions["incr"](guest, url, "n") == 2
    assert functions["sadd"](guest, url, "s", ["a", "b", "a"]) == 2
    assert sorted(functions["smembers"](guest, url, "s")) == ["a", "b"]
    assert functions["smembers"](guest, url, "missing") == []
    assert functions["srem"](guest, url, "s", ["a", "z"]) == 1
    assert functions["del"](guest, url, ["k", "n", "missing"]) == 2
    assert functions["publish"](guest, url, "channel", b"hello") is None


@services
def test_execute_flattens(family: Redis, guest: Any, url: str) -> None:
    def execute(command: str, *arguments: tuple[str, Any]) -> Any:
        return call(family, "execute", guest, url, command, list(arguments))

    assert execute("PING") == [("status", "PONG")]
    assert execute("set", ("binary", b"k"), ("int64", -5)) == [("status", "OK")]
    assert execute("get", ("binary", b"k")) == [("binary", b"-5")]
    assert execute("get", ("binary", b"missing")) == [("nil", None)]
    assert execute("append", ("binary", b"k"), ("binary", b"\xff")) == [("int64", 3)]
    assert execute("mget", ("binary", b"k"), ("binary", b"missing")) == [("binary", b"-5\xff"), ("nil", None)]
    script = "return {1, {'a', {2, false}}, redis.status_reply('fine')}"
    assert execute("eval", ("binary", script.encode()), ("int64", 0)) == [
        ("int64", 1),
        ("binary", b"a"),
        ("int64", 2),
        ("nil", None),
        ("status", "fine"),
    ]
    assert execute("keys", ("binary", b"nothing*")) == []
    assert execute("no-such-command") == FAILED
    assert execute("eval", ("binary", b"return {redis.error_reply('no')}"), ("int64", 0)) == FAILED


@services
def test_every_failure_is_the_same_error(family: Redis, guest: Any, url: str) -> None:
    call(family, "set", guest, url, "text", b"x")
    assert call(family, "incr", guest, url, "text") == FAILED
    assert call(family, "sadd", guest, url, "text", ["a"]) == FAILED
    assert call(family, "srem", guest, url, "text", ["a"]) == FAILED
    assert call(family, "smembers", guest, url, "text") == FAILED
    assert call(family, "del", guest, url, []) == FAILED
    call(family, "sadd", guest, url, "s", ["a"])
    assert call(family, "get", guest, url, "s") == FAILED
    call(family, "execute", guest, url, "sadd", [("binary", b"s"), ("binary", b"\xff")])
    assert call(family, "smembers", guest, url, "s") == FAILED
    # and the connection goes on
    assert call(family, "get", guest, url, "text") == b"x"


@services
def test_the_error_of_later_interfaces_has_cases(network: Network, url: str) -> None:
    client = RedisClient(network)
    client.call(parse(url), Deadline(120), "SET", "text", b"x")
    with pytest.raises(RedisFailure) as error:
        client.call(parse(url), Deadline(120), "SADD", "text", "a")
    assert error.value.case == "type-error"
    with pytest.raises(RedisFailure) as error:
        client.call(parse(url), Deadline(120), "INCR", "text")
    assert error.value.case == "type-error"
    with pytest.raises(RedisFailure) as error:
        client.call(parse(url), Deadline(120), "NONE")
    assert error.value.case == "other"
    client.close()


# Connections that guests keep.


class Connected:
    """Calls a later interface with a connection that it keeps; `conn` is it, or an error."""

    def __init__(self, interface: str, family: Redis, ctx: Any, address: str) -> None:
        self.ctx = ctx
        self.functions = family.functions(interface)
        self.conn = ctx.settle(self.functions["[static]connection.open"](ctx, address))

    def __call__(self, name: str, *arguments: Any) -> Any:
        function = self.functions[f"[method]connection.{name}"]
        return self.ctx.settle(function(self.ctx, self.conn, *arguments))

    def execute(self, command: str, *arguments: int | bytes) -> Any:
        return self("execute", command, [("int64" if type(a) is int else "binary", a) for a in arguments])

    def drop(self) -> None:
        self.functions["[resource-drop]connection"](self.ctx, self.conn)


Connect = Callable[..., Connected]


@pytest.fixture(params=["fermyon:spin/redis@2", "spin:redis/redis@3"])
def connected(request: pytest.FixtureRequest) -> Connect:
    """`connected(family, ctx, address)` is a connection of one or the other version."""
    return partial(Connected, request.param)


@services
def test_a_guest_keeps_a_connection(family: Redis, guest: Any, url: str, connected: Connect) -> None:
    redis = connected(family, guest, url)
    assert redis("get", "k") is None
    assert redis("set", "k", b"\x00\xffv") is None
    assert redis("get", "k") == b"\x00\xffv"
    assert redis("set", "empty", b"") is None
    assert redis("get", "empty") == b""
    assert [redis("incr", "n") for _ in range(3)] == [1, 2, 3]
    assert redis("sadd", "s", ["a", "b", "a"]) == 2
    assert sorted(redis("smembers", "s")) == ["a", "b"]
    assert redis("srem", "s", ["a", "z"]) == 1
    assert redis("del", ["k", "n", "missing"]) == 2
    assert redis("publish", "channel", b"hello") is None
    assert redis.execute("mget", b"k", b"empty") == [("nil", None), ("binary", b"")]


@services
def test_errors_have_cases(family: Redis, guest: Any, url: str, connected: Connect) -> None:
    redis = connected(family, guest, url)
    redis("set", "text", b"x")
    redis("sadd", "set", ["x"])
    wrong_type = Err(("type-error", None))
    assert redis("incr", "text") == wrong_type
    assert redis("sadd", "text", ["a"]) == wrong_type
    assert redis("smembers", "text") == wrong_type
    assert redis("get", "set") == wrong_type
    for answer in (redis("del", []), redis.execute("no-such-command"), redis.execute("get")):
        assert isinstance(answer, Err)
        assert answer.value[0] == "other"
        assert answer.value[1].startswith("ERR ")
    assert redis("get", "text") == b"x"


@services
def test_a_connection_keeps_its_state(family: Redis, guest: Any, url: str, connected: Connect) -> None:
    redis = connected(family, guest, url)
    assert redis.execute("SELECT", 3) == [("status", "OK")]
    redis("set", "k", b"three")
    assert connected(family, guest, url)("get", "k") is None
    assert connected(family, guest, url.removesuffix("0") + "3")("get", "k") == b"three"
    assert redis.execute("MULTI") == [("status", "OK")]
    assert isinstance(redis("get", "k"), Err)  # "QUEUED"
    assert redis.execute("EXEC") == [("binary", b"three")]


@services
def test_connections_go_back_unless_a_guest_chose_a_command(
    family: Redis, guest: Any, url: str, connected: Connect
) -> None:
    def id() -> Any:
        """Of the connection that the next guest gets."""
        return family.client.call(parse(url), Deadline(120), "CLIENT", "ID")

    redis = connected(family, guest, url)
    redis("set", "k", b"v")
    redis.drop()
    kept = id()
    with pytest.raises(Trap):
        redis("get", "k")
    connected(family, guest, url)("get", "k")
    guest.run_closers()  # the end of the instance is as good as dropping
    assert id() == kept
    redis = connected(family, guest, url)
    redis.execute("SELECT", 3)
    redis.drop()
    assert id() != kept


def test_addresses_of_connections(family: Redis, guest: Any, connected: Connect) -> None:
    invalid = Err(("invalid-address", None))
    for address in (
        "redis://127.0.0.2:1",
        "redis://localhost:1",
        "nonsense",
        "",
        "redis://127.0.0.1:1/first",
    ):
        assert connected(family, guest, address).conn == invalid
    assert connected(family, guest, "redis://127.0.0.1:1/" + "0" * 70_000).conn == invalid
    answer = connected(family, guest, "redis://127.0.0.1:1").conn
    assert isinstance(answer, Err)
    assert (answer.value[0], "refused" in answer.value[1]) == ("other", True)


@services
def test_connections_of_a_guest_are_limited(
    family: Redis, guest: Any, url: str, network: Network, connected: Connect
) -> None:
    too_many = Err(("too-many-connections", None))
    small = Redis(network, max_connections=3)
    small.client._pool._wait = 0.05
    connections = [connected(small, guest, url) for _ in range(3)]
    assert connected(small, guest, url).conn == too_many
    connections[1].drop()
    assert isinstance(connected(small, guest, url).conn, int)
    guest.run_closers()
    assert isinstance(connected(small, guest, url).conn, int)
    guest.run_closers()
    small.close()
    # and those of one instance: more than are kept of an address, too
    family._opened._capacity = POOL_SIZE + 1
    connections = [connected(family, guest, url) for _ in range(POOL_SIZE + 1)]
    assert all(isinstance(connection.conn, int) for connection in connections)
    assert connected(family, guest, url).conn == too_many
    assert connected(family, guest, "nonsense").conn == Err(("invalid-address", None))
    assert guest.run_closers() == []
    (entry,) = family.client._pool._entries.values()
    assert (entry.used, len(entry.idle)) == (0, POOL_SIZE)


@services
def test_a_connection_that_broke_stays_so(family: Redis, context: Callable[..., Any], url: str) -> None:
    ctx = context(allowed=["redis://127.0.0.1:*"])
    redis = Connected("fermyon:spin/redis@2", family, ctx, url)
    for seconds in (0.2, 2, 20):  # where nothing was even asked in that time there is more of it
        ctx.deadline = Deadline(seconds)
        with pytest.raises(DeadlineExceeded):
            redis.execute("BLPOP", b"never", 0)
        ctx.deadline = Deadline(60)
        answer = redis("get", "k")
        if isinstance(answer, Err):
            break
    assert answer == Err(("other", "connection is closed"))


@services
def test_a_call_that_is_cancelled_ends(family: Redis, guest: Any, url: str) -> None:
    """As does its connection, in whose midst it was; it is not given to anybody else."""
    redis = Connected("spin:redis/redis@3", family, guest, url)
    other = guest.loop.spawn(guest.patient())
    arguments = [("binary", b"never"), ("int64", 0)]
    execute = redis.functions["[method]connection.execute"]

    def wait_for(blocked: bytes) -> None:
        while b"blocked_clients:" + blocked not in family.client.call(
            parse(url), Deadline(60), "INFO", "clients"
        ):
            time.sleep(0.005)

    wait_for(b"0")  # that of another test may not be gone yet
    hosted = guest.loop.spawn(execute(guest, redis.conn, "BLPOP", arguments))
    assert guest.loop.step()
    wait_for(b"1")
    hosted.close()
    other.close()
    assert redis("get", "k") == Err(("other", "connection is closed"))
    redis.drop()
    assert family.client._pool._entries[parse(url)].used == 0


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("del", 2**32 - 1, 2**32 - 1),
        ("del", 2**32, None),
        ("del", -1, None),
        ("incr", 2**63 - 1, 2**63 - 1),
        ("incr", -(2**63), -(2**63)),
        ("incr", 2**63, None),
    ],
)
def test_numbers_fit(
    family: Redis, guest: Any, name: str, answer: int, expected: int | None, connected: Connect
) -> None:
    with server(b":%d\r\n" % answer) as url:
        found = connected(family, guest, url)(name, "k")
        guest.run_closers()
        family.close()
    assert found == (Err(("other", "unexpected reply")) if expected is None else expected)


# Addresses.


@pytest.mark.parametrize(
    "address",
    [
        "redis://127.0.0.2:{port}",
        "redis://localhost:{port}",
        "redis://127.0.0.1@127.0.0.2:{port}",
        "redis://127.0.0.1:1@127.0.0.2:{port}/",
        "rediss://127.0.0.1:{port}",
        "http://127.0.0.1:{port}",
        "unix:///tmp/redis.sock",
        "redis+unix:///tmp/redis.sock",
        "redis:///tmp/redis.sock",
        "127.0.0.1:{port}",
        "redis://127.0.0.1:{port}/first",
        "redis://127.0.0.1:99999",
        "redis://",
        "",
    ],
)
def test_addresses_are_denied_by_default(family: Redis, guest: Any, address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        text = address.replace("{port}", str(listener.getsockname()[1]))
        assert call(family, "get", guest, text, "k") == FAILED
        with pytest.raises(TimeoutError):
            listener.accept()


def test_nothing_is_allowed_without_a_grant(family: Redis, context: Callable[..., Any]) -> None:
    ctx = context()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        address = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        assert call(family, "get", ctx, address, "k") == FAILED
        assert call(family, "execute", ctx, address, "PING", []) == FAILED
        with pytest.raises(TimeoutError):
            listener.accept()


def test_blocked_networks_are_blocked(guest: Any) -> None:
    asked: list[str] = []

    def blocked(address: str) -> bool:
        asked.append(address)
        return True

    family = Redis(Network(blocked))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        assert call(family, "get", guest, f"redis://127.0.0.1:{listener.getsockname()[1]}", "k") == FAILED
        with pytest.raises(TimeoutError):
            listener.accept()
    assert asked == ["127.0.0.1"]
    family.close()


@services
def test_databases_and_passwords(family: Redis, guest: Any, url: str) -> None:
    other = url.removesuffix("0") + "5"
    call(family, "set", guest, url, "k", b"zero")
    assert call(family, "get", guest, other, "k") == b""
    call(family, "set", guest, other, "k", b"five")
    assert call(family, "get", guest, url, "k") == b"zero"
    assert call(family, "get", guest, url.removesuffix("0") + "99", "k") == FAILED

    acl = [b"SETUSER", b"al:ice", b"on", b">se#cr@t", b"allkeys", b"+@all"]
    call(family, "execute", guest, url, "ACL", [("binary", word) for word in acl])
    there = url.removeprefix("redis://")
    assert call(family, "get", guest, f"redis://al%3Aice:se%23cr%40t@{there}", "k") == b"zero"
    assert call(family, "get", guest, f"redis://al%3Aice:se#cr@t@{there}", "k") == b"zero"
    assert call(family, "get", guest, f"redis://al%3Aice:wrong@{there}", "k") == FAILED


# What one leaves behind.


@services
def test_execute_leaves_nothing_behind(family: Redis, guest: Any, url: str) -> None:
    call(family, "set", guest, url, "k", b"v")
    for command, arguments in [
        ("SELECT", [("int64", 3)]),
        ("MULTI", []),
        ("WATCH", [("binary", b"k")]),
        ("SUBSCRIBE", [("binary", b"c")]),
        ("HELLO", [("int64", 3)]),
        ("QUIT", []),
    ]:
        call(family, "execute", guest, url, command, arguments)
        assert call(family, "get", guest, url, "k") == b"v", command
        assert call(family, "execute", guest, url, "GET", [("binary", b"k")]) == [("binary", b"v")], command


@services
def test_connections_are_kept_for_fixed_commands(family: Redis, guest: Any, url: str) -> None:
    def connections() -> int:
        ((_, info),) = call(family, "execute", guest, url, "INFO", [("binary", b"stats")])
        (line,) = [
            line for line in info.decode().splitlines() if line.startswith("total_connections_received")
        ]
        return int(line.partition(":")[2])

    before = connections()
    for _ in range(5):
        call(family, "set", guest, url, "k", b"v")
        call(family, "get", guest, url, "k")
    assert connections() - before == 2  # one for them all, one for the question itself


@services
def test_a_kept_connection_that_died_is_replaced(family: Redis, guest: Any, url: str) -> None:
    call(family, "set", guest, url, "k", b"v")
    kill = [("binary", b"KILL"), ("binary", b"TYPE"), ("binary", b"NORMAL")]
    ((_, killed),) = call(family, "execute", guest, url, "CLIENT", kill)
    assert killed >= 1  # the server may not have noticed yet that others hung up
    assert call(family, "get", guest, url, "k") == b"v"


@services
def test_threads_have_connections_of_their_own(family: Redis, guest: Any, url: str) -> None:
    def work() -> None:
        for _ in range(30):
            call(family, "incr", guest, url, "n")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert call(family, "get", guest, url, "n") == b"240"


def _child(family: Redis, ctx: Any, url: str) -> None:
    for _ in range(30):
        assert isinstance(call(family, "incr", ctx, url, "n"), int)


@services
def test_a_forked_child_connects_anew(family: Redis, guest: Any, url: str) -> None:
    call(family, "incr", guest, url, "n")
    children = [
        multiprocessing.get_context("fork").Process(target=_child, args=(family, guest, url))
        for _ in range(3)
    ]
    for child in children:
        child.start()
    _child(family, guest, url)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert call(family, "get", guest, url, "n") == b"121"


# Limits.


@services
def test_a_blocking_command_ends_at_the_deadline(
    family: Redis, context: Callable[..., Any], url: str
) -> None:
    ctx = context(allowed=["redis://127.0.0.1:*"], seconds=0.1)
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        call(family, "execute", ctx, url, "BLPOP", [("binary", b"never"), ("int64", 0)])
    assert time.monotonic() - begin < 50
    with pytest.raises(DeadlineExceeded):
        call(family, "get", ctx, url, "k")


def test_a_server_that_dribbles_ends_at_the_deadline(family: Redis, context: Callable[..., Any]) -> None:
    """Each byte in time, and never done: a timeout for each read would not help."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"$1000000\r\n")
                while not stop.wait(0.01):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        ctx = context(allowed=["redis://127.0.0.1:*"], seconds=0.2)
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            call(family, "get", ctx, f"redis://127.0.0.1:{listener.getsockname()[1]}", "k")
        assert time.monotonic() - begin < 50
        stop.set()
        thread.join(60)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"$134217729\r\n",
        b"$99999999999999999999999\r\n",
        b"$1_0\r\n0123456789\r\n",
        b"$-x\r\n",
        b"$3\r\nabcd\r\n",
        b"*2147483647\r\n" + b"*2147483647\r\n" * 100,
        b"?\r\n",
        b"+" + b"x" * 100_000,
        b"%1\r\n+a\r\n+b\r\n",
        b":1.5\r\n",
        b"\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_a_hostile_server_is_an_error(family: Redis, guest: Any, answer: bytes) -> None:
    with server(answer or b"\n") as url:
        assert call(family, "execute", guest, url, "GET", [("binary", b"k")]) == FAILED


def test_a_reply_is_bounded(monkeypatch: pytest.MonkeyPatch, family: Redis, guest: Any) -> None:
    """Counting all levels of it together."""
    monkeypatch.setattr(redis, "Budget", lambda: Budget(400 * VALUE_OVERHEAD))
    for size, expected in ((100, [("nil", None)] * 300), (200, FAILED)):
        with server(b"*3\r\n" + (b"*%d\r\n" % size + b"$-1\r\n" * size) * 3) as url:
            assert call(family, "execute", guest, url, "GET", [("binary", b"k")]) == expected


def test_a_server_that_is_not_there(family: Redis, guest: Any) -> None:
    assert call(family, "get", guest, "redis://127.0.0.1:1", "k") == FAILED
    assert call(family, "get", guest, f"redis://127.0.0.1:{free_port()}", "k") == FAILED


@services
@pytest.mark.parametrize(("own", "total"), [(1, None), (None, 1)])
def test_connections_are_limited(url: str, own: int | None, total: int | None) -> None:
    client = RedisClient(Network(max_connections=total), max_connections=own)
    client._pool._wait = 0.05
    address = parse(url)
    taken = client._pool.take(address, Deadline(120))
    with pytest.raises(RedisFailure) as error:
        client.call(address, Deadline(120), "PING")
    assert error.value.case == "too-many-connections"
    with pytest.raises(DeadlineExceeded):
        client.call(address, Deadline(0.01), "PING")
    client._pool.give(address, taken)
    assert client.call(address, Deadline(120), "PING") == "PONG"
    client.close()


# TLS.


@contextmanager
def tls_server(certificate: Path) -> Iterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(connection, server_side=True) as encrypted:
                        while encrypted.recv(65536):
                            encrypted.sendall(b"$3\r\ntls\r\n")
                except OSError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)


def test_tls_verifies_certificates_and_names(certificate: Path, context: Callable[..., Any]) -> None:
    ctx = context(allowed=["rediss://*:*"])
    network = Network()

    def get(address: str) -> Any:
        family = Redis(network)
        try:
            return call(family, "get", ctx, address, "k")
        finally:
            family.close()

    with tls_server(certificate) as port:
        assert get(f"rediss://localhost:{port}") == FAILED
        network.tls_context().load_verify_locations(certificate / "cert.pem")
        assert get(f"rediss://localhost:{port}") == b"tls"
        assert get(f"rediss://127.0.0.1:{port}") == FAILED


def test_a_handshake_ends_at_the_deadline(context: Callable[..., Any]) -> None:
    ctx = context(allowed=["rediss://*:*"], seconds=0.1)
    family = Redis(Network())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            call(family, "get", ctx, f"rediss://127.0.0.1:{listener.getsockname()[1]}", "k")
        assert time.monotonic() - begin < 50


@services
def test_a_connection_serves_several_calls(network: Network, url: str) -> None:
    connection = RedisConnection(parse(url), network, Deadline(120))
    deadline = Deadline(120)
    assert connection.call(deadline, "SET", "k", 5) == "OK"
    assert connection.call(deadline, "GET", "k") == b"5"
    assert connection.is_usable
    connection.close()
    assert not connection.is_usable
    with pytest.raises(RedisFailure):
        connection.call(deadline, "GET", "k")
