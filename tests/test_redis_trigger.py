# The Redis trigger against a real server: who is called, what survives, how it ends.

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.services import free_port
from wasm_gateway import redis_trigger
from wasm_gateway.errors import GatewayError, ManifestError, Trap
from wasm_gateway.manifest import RedisTrigger as TriggerOfManifest
from wasm_gateway.redis_trigger import Pauses, RedisTrigger, Server, subscriptions

pytestmark = pytest.mark.services

WAIT = 60.0


class Guests:
    """Stands for a gateway: remembers what it was given, and does what `behaviour` says."""

    def __init__(self, behaviour: Callable[[str, bytes], None] = lambda component, payload: None) -> None:
        self.behaviour = behaviour
        self.handled: list[tuple[str, bytes]] = []
        self._changed = threading.Condition()

    def handle_redis(self, component_id: str, payload: bytes) -> None:
        try:
            self.behaviour(component_id, payload)
        finally:
            with self._changed:
                self.handled.append((component_id, payload))
                self._changed.notify_all()

    def wait_for(self, number: int) -> list[tuple[str, bytes]]:
        """The first `number` messages, sorted."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.handled) >= number, WAIT), self.handled
            return sorted(self.handled)


@contextmanager
def running(trigger: RedisTrigger, *, wait: bool = True) -> Iterator[threading.Event]:
    """`trigger` on a thread; it must have ended soon after the block."""
    stop = threading.Event()
    thread = threading.Thread(target=trigger.run, args=(stop,))
    thread.start()
    try:
        if wait:
            assert trigger.ready.wait(WAIT)
        yield stop
    finally:
        stop.set()
        thread.join(WAIT)
        assert not thread.is_alive()


class PrivateServer:
    """A redis-server of one test, which may stop and start it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                "redis-server",
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                self.folder,
            ],
            stdout=subprocess.DEVNULL,
        )
        with redis.Redis.from_url(self.url) as client:
            deadline = time.monotonic() + WAIT
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrivateServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = PrivateServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(server: PrivateServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client


def test_a_message_reaches_the_component_of_its_channel(server: PrivateServer, client: redis.Redis) -> None:
    guests = Guests()
    with running(RedisTrigger(guests, servers=[Server(server.url, {"one": ["a"], "two": ["b"]})])):
        client.publish("one", b"\x00\xff binary")
        client.publish("two", b"")
        client.publish("three", b"for nobody")

        assert guests.wait_for(2) == [("a", b"\x00\xff binary"), ("b", b"")]


def test_every_trigger_of_a_channel_is_called(server: PrivateServer, client: redis.Redis) -> None:
    guests = Guests()
    with running(RedisTrigger(guests, servers=[Server(server.url, {"c": ["a", "b", "a"]})])):
        client.publish("c", b"x")

        assert guests.wait_for(3) == [("a", b"x"), ("a", b"x"), ("b", b"x")]


def test_a_channel_is_any_text(server: PrivateServer, client: redis.Redis) -> None:
    guests = Guests()
    with running(RedisTrigger(guests, servers=[Server(server.url, {"caf\u00e9 *": ["a"]})])):
        assert client.publish("caf\u00e9 x", b"no pattern") == 0
        client.publish("caf\u00e9 *", b"x")

        assert guests.wait_for(1) == [("a", b"x")]


def subscribed(client: redis.Redis) -> list[str]:
    """The number of subscriptions of each connection that has any."""
    return [entry["sub"] for entry in client.client_list() if entry["sub"] != "0"]


def test_one_connection_for_all_channels_of_a_server(server: PrivateServer, client: redis.Redis) -> None:
    channels = {f"channel-{i}": ["a"] for i in range(20)}
    with running(RedisTrigger(Guests(), servers=[Server(server.url, channels)])):
        assert subscribed(client) == ["20"]

    deadline = time.monotonic() + WAIT
    while subscribed(client):  # the server may not have looked yet
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("error", [Trap("unreachable", ["frame of the guest"]), ValueError("ours")])
def test_a_failure_is_logged_and_the_next_message_handled(
    server: PrivateServer, client: redis.Redis, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def behaviour(component: str, payload: bytes) -> None:
        if payload == b"bad":
            raise error

    guests = Guests(behaviour)
    with running(RedisTrigger(guests, servers=[Server(server.url, {"c": ["a"]})], concurrency=1, backlog=0)):
        for payload in (b"bad", b"bad", b"good"):
            client.publish("c", payload)
        guests.wait_for(3)

    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 2
    assert "component a: message on channel b'c'" in errors[0].getMessage()
    if isinstance(error, GatewayError):
        assert "Trap: unreachable\n    frame of the guest" in errors[0].getMessage()
    else:
        assert errors[0].exc_info is not None


def test_not_more_than_so_many_guests_at_once(server: PrivateServer, client: redis.Redis) -> None:
    now, most, lock, three = 0, 0, threading.Lock(), threading.Barrier(3)

    def behaviour(component: str, payload: bytes) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        three.wait(WAIT)
        time.sleep(0.02)  # for a fourth one
        with lock:
            now -= 1

    guests = Guests(behaviour)
    with running(RedisTrigger(guests, servers=[Server(server.url, {"c": ["a"]})], concurrency=3, backlog=2)):
        for i in range(12):
            client.publish("c", b"%d" % i)
        guests.wait_for(12)

    assert most == 3


def test_a_server_that_went_away_is_subscribed_to_again(
    server: PrivateServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_trigger, "FIRST_PAUSE", 0.01)
    guests = Guests()
    with running(RedisTrigger(guests, servers=[Server(server.url, {"c": ["a"]})])):
        server.stop()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            deadline = time.monotonic() + WAIT
            while client.publish("c", b"again") == 0:  # nobody listens yet
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert guests.wait_for(1) == [("a", b"again")]

    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert errors
    assert "trying again" in errors[0].getMessage()
    assert errors[0].exc_info is None


def test_a_server_that_comes_late(server: PrivateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_trigger, "FIRST_PAUSE", 0.01)
    server.stop()
    trigger = RedisTrigger(Guests(), servers=[Server(server.url, {"c": ["a"]})])
    with running(trigger, wait=False):
        assert not trigger.ready.wait(0.05)
        server.start()
        assert trigger.ready.wait(WAIT)


def test_a_server_that_is_away_does_not_hold_back_another(server: PrivateServer, client: redis.Redis) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = Server(f"redis://127.0.0.1:{closed.getsockname()[1]}", {"c": ["b"]})
        guests = Guests()
        with running(RedisTrigger(guests, servers=[away, Server(server.url, {"c": ["a"]})]), wait=False):
            deadline = time.monotonic() + WAIT
            while client.publish("c", b"x") == 0:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert guests.wait_for(1) == [("a", b"x")]


def test_what_is_under_way_is_finished(server: PrivateServer, client: redis.Redis) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def behaviour(component: str, payload: bytes) -> None:
        begun.set()
        assert go_on.wait(WAIT)

    guests = Guests(behaviour)
    with running(RedisTrigger(guests, servers=[Server(server.url, {"c": ["a"]})], concurrency=1)) as stop:
        client.publish("c", b"x")
        assert begun.wait(WAIT)
        stop.set()
        threading.Timer(0.05, go_on.set).start()

    assert guests.handled == [("a", b"x")]


def test_it_stops_although_it_is_full_and_a_guest_hangs(
    server: PrivateServer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(redis_trigger, "GRACE_SECONDS", 0.05)
    begun, go_on = threading.Event(), threading.Event()

    def behaviour(component: str, payload: bytes) -> None:
        begun.set()
        assert go_on.wait(WAIT)

    trigger = RedisTrigger(
        Guests(behaviour), servers=[Server(server.url, {"c": ["a"]})], concurrency=1, backlog=1
    )
    with running(trigger):
        for _ in range(3):
            client.publish("c", b"x")
        assert begun.wait(WAIT)
    go_on.set()

    assert any("stopped although" in record.getMessage() for record in caplog.records)


# What the manifest says


def trigger_of(channel: str, address: str = "redis://h:1", component: str = "a") -> TriggerOfManifest:
    return TriggerOfManifest("t1", component, channel, address)


def test_subscriptions_are_gathered_by_server() -> None:
    values = {"{{ host }}": "redis://h:1", "{{ channel }}": "x"}
    servers = subscriptions(
        [
            trigger_of("x", component="a"),
            trigger_of("{{ channel }}", "{{ host }}", component="b"),
            trigger_of("y", "redis://h:2"),
        ],
        lambda text: values.get(text, text),
    )

    assert servers == (Server("redis://h:1", {"x": ["a", "b"]}), Server("redis://h:2", {"y": ["a"]}))


@pytest.mark.parametrize("address", ["", "http://h", "localhost:6379", "redis://h:x"])
def test_an_address_that_cannot_be(address: str) -> None:
    with pytest.raises(ManifestError) as raised:
        subscriptions([trigger_of("x", address)], str)

    assert raised.value.key is not None
    assert raised.value.key.startswith("trigger.redis.t1")


def test_a_name_shows_no_password() -> None:
    assert Server("redis://user:secret@h:1/2").name == "redis://h:1/2"


def test_pauses_grow_and_start_over() -> None:
    pauses = Pauses()
    first = [pauses.next() for _ in range(20)]
    assert 0 < first[0] <= redis_trigger.FIRST_PAUSE
    assert redis_trigger.LONGEST_PAUSE / 2 <= first[-1] <= redis_trigger.LONGEST_PAUSE

    pauses.reset()
    assert pauses.next() <= redis_trigger.FIRST_PAUSE
