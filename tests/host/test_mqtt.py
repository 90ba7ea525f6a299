from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway.component.values import Err
from wasm_gateway.errors import DeadlineExceeded, Trap
from wasm_gateway.host import mqtt
from wasm_gateway.host.limits import MAX_CONNECTIONS
from wasm_gateway.host.mqtt import MAX_KEEP_ALIVE, Mqtt, MqttFailure, login
from wasm_gateway.host.network import Network

INTERFACE = "fermyon:spin/mqtt@2"
services = pytest.mark.services

# Packets of MQTT 3.1.1
CONNACK, REFUSED = b"\x20\x02\x00\x00", b"\x20\x02\x00\x05"


class Guest:
    """Calls the interface as the guest `ctx`."""

    def __init__(self, family: Mqtt, ctx: Any, interface: str = INTERFACE) -> None:
        self.ctx = ctx
        self._functions = family.functions(interface)

    def open(self, address: str, username: str = "", password: str = "", keep_alive: int = 30) -> Any:
        function = self._functions["[static]connection.open"]
        return self.ctx.settle(function(self.ctx, address, username, password, keep_alive))

    def publish(self, conn: int, topic: str, payload: bytes, qos: str = "at-most-once") -> Any:
        function = self._functions["[method]connection.publish"]
        return self.ctx.settle(function(self.ctx, conn, topic, payload, qos))

    def drop(self, conn: int) -> None:
        self._functions["[resource-drop]connection"](self.ctx, conn)


Make = Callable[..., Guest]


@pytest.fixture(params=[INTERFACE, "spin:mqtt/mqtt@3"])
def guest(request: pytest.FixtureRequest, context: Callable[..., Any], network: Network) -> Make:
    """`guest(family, seconds=20)`: one that may connect to this machine."""

    def make(family: Mqtt | None = None, **options: Any) -> Guest:
        ctx = context(allowed=["mqtt://127.0.0.1:*"], **options)
        return Guest(family or Mqtt(network), ctx, request.param)

    return make


@contextmanager
def server(
    *answers: bytes | float, encrypt: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says one of `answers` after each thing it hears, or waits so many seconds.

    Gives its address, and what it hears.
    """
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                connection, _ = listener.accept()
                if encrypt is not None:
                    connection = encrypt.wrap_socket(connection, server_side=True)
                with connection:
                    for answer in answers:
                        heard.append(connection.recv(65536))
                        if isinstance(answer, bytes):
                            connection.sendall(answer)
                        else:
                            time.sleep(answer)
                    while data := connection.recv(65536):
                        heard.append(data)
            except OSError:
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}", heard
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)
    assert not thread.is_alive()


def failed(answer: Any, case: str) -> str:
    assert isinstance(answer, Err), answer
    assert answer.value[0] == case, answer
    return str(answer.value[1])


# A real server.


@services
@pytest.mark.parametrize("qos", ["at-most-once", "at-least-once", "exactly-once"])
def test_messages_arrive(guest: Make, mosquitto_server: str, mqtt_messages: Any, qos: str) -> None:
    call = guest()
    conn = call.open(mosquitto_server)
    for payload in (b"\x00\xff", b"", bytes(300_000)):
        assert call.publish(conn, "a/täpic", payload, qos) is None
        assert mqtt_messages.get(timeout=60) == ("a/täpic", payload, mqtt.QOS[qos])


@services
def test_a_large_message_arrives(guest: Make, mosquitto_server: str, mqtt_messages: Any) -> None:
    call = guest()
    payload = os.urandom(1 << 20) * 16
    assert call.publish(call.open(mosquitto_server), "large", payload) is None
    assert mqtt_messages.get(timeout=60) == ("large", payload, 0)


@services
@pytest.mark.parametrize("topic", ["", "a/+", "#", "x" * 65536])
def test_topics_that_are_none(guest: Make, mosquitto_server: str, mqtt_messages: Any, topic: str) -> None:
    call = guest()
    conn = call.open(mosquitto_server)
    failed(call.publish(conn, topic, b"", "at-least-once"), "other")
    assert call.publish(conn, "fine", b"", "at-least-once") is None
    assert mqtt_messages.get(timeout=60)[0] == "fine"


@services
def test_names_and_passwords(guest: Make, mosquitto_server: str) -> None:
    call = guest()
    assert call.publish(call.open(mosquitto_server, "guest", "secret"), "a", b"", "at-least-once") is None
    for name, password in (("guest", "wrong"), ("guest", ""), ("other", "secret")):
        conn = call.open(mosquitto_server, name, password)
        answer = call.publish(conn, "a", b"", "at-least-once")
        assert "authori" in failed(answer, "connection-failed")
    # a password alone is nobody's
    assert call.publish(call.open(mosquitto_server, "", "secret"), "a", b"", "at-least-once") is None


@services
def test_a_connection_that_the_server_gave_up_is_made_again(
    guest: Make, mosquitto_server: str, mqtt_messages: Any
) -> None:
    """Two clients with one identifier: the later one displaces the earlier one."""
    call = guest()
    address = f"{mosquitto_server}?client_id=the-only-one"
    one, two = call.open(address), call.open(address)
    for conn in (one, two, one, two):
        assert call.publish(conn, "a", b"x", "exactly-once") is None
        assert mqtt_messages.get(timeout=60)[1] == b"x"
        if conn == two:
            time.sleep(0.05)  # the server has displaced the other one before it answered


@services
def test_nothing_is_left_behind(guest: Make, mosquitto_server: str) -> None:
    def threads() -> int:
        """Those of calls are the application's."""
        return sum(not thread.name.startswith("wasm-call") for thread in threading.enumerate())

    before, descriptors = threads(), len(os.listdir("/proc/self/fd"))
    call = guest()
    conns = [call.open(mosquitto_server) for _ in range(5)]
    for conn in conns:
        assert call.publish(conn, "a", b"", "at-least-once") is None
    assert threads() <= before
    call.drop(conns[0])
    with pytest.raises(Trap):
        call.publish(conns[0], "a", b"")
    assert call.ctx.run_closers() == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors


# Addresses.


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("mqtt://h", ("h", 1883, False)),
        ("mqtt://h:5?client_id=me", ("h", 5, False)),
        ("mqtts://H.Example", ("h.example", 8883, True)),
        ("mqtt://[::1]:7/", ("::1", 7, False)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int, bool]) -> None:
    made = login(address, "u", "p", 10)
    assert (made.host, made.port, made.tls) == expected
    assert made.client_id == "me" if "client_id" in address else 1 <= len(made.client_id) <= 23


@pytest.mark.parametrize(
    "address", ["", "h:1883", "tcp://h:1", "mqtt://h:99999", "mqtt://h:0", "mqtt://" + "h" * 70_000]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(MqttFailure) as error:
        login(address, "", "", 0)
    assert error.value.error == ("invalid-address", None)


@pytest.mark.parametrize("name", ["username", "password"])
def test_texts_are_bounded(name: str) -> None:
    with pytest.raises(MqttFailure) as error:
        login("mqtt://h", **{"username": "", "password": "", name: "ä" * 40_000}, keep_alive=0)
    assert error.value.error[0] == "other"


@pytest.mark.parametrize("address", ["mqtt://127.0.0.2:1", "mqtts://127.0.0.1:1", "mqtt://localhost:1", "x"])
def test_addresses_are_denied_by_default(guest: Make, address: str) -> None:
    expected = Err(("connection-failed", f"address {address} is not permitted"))
    assert guest().open(address) == expected


def test_nothing_is_allowed_without_a_grant(context: Callable[..., Any], network: Network) -> None:
    call = Guest(Mqtt(network), context())
    assert "not permitted" in failed(call.open("mqtt://127.0.0.1:1"), "connection-failed")


def test_blocked_networks_are_blocked(guest: Make) -> None:
    call = guest(Mqtt(Network(lambda address: True)))
    conn = call.open("mqtt://127.0.0.1:1")
    assert "prohibited" in failed(call.publish(conn, "a", b""), "connection-failed")


def test_a_server_that_is_not_there(guest: Make) -> None:
    call = guest()
    assert "refused" in failed(call.publish(call.open("mqtt://127.0.0.1:1"), "a", b""), "connection-failed")


# What is said.


@pytest.mark.parametrize(("given", "said"), [(0, 0), (5, 5), (MAX_KEEP_ALIVE, 0xFFFF), (2**64 - 1, 0xFFFF)])
def test_keep_alive_intervals(guest: Make, given: int, said: int) -> None:
    with server(CONNACK) as (address, heard):
        call = guest()
        assert call.publish(call.open(f"{address}?client_id=me", "u", "p", given), "t", b"x") is None
        call.ctx.run_closers()
    connect, publish = b"\x10\x14\x00\x04MQTT\x04\xc2%b\x00\x02me\x00\x01u\x00\x01p", b"\x30\x04\x00\x01tx"
    assert b"".join(heard) == connect % said.to_bytes(2, "big") + publish + b"\xe0\x00"


def test_a_slow_answer_is_waited_for_with_pings(guest: Make) -> None:
    """So that the server does not believe that nobody is there."""
    with server(CONNACK, 1.5, b"\xd0\x00\x40\x02\x00\x01") as (address, heard):
        call = guest()
        assert call.publish(call.open(address, keep_alive=1), "t", b"x", "at-least-once") is None
        call.ctx.run_closers()
    assert b"\xc0\x00" in heard


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (REFUSED, b""),
        (b"\x20\x02\x00\x01", b""),
        (b"\x20\x00", b""),
        (b"\x20\x7f" + bytes(127), b""),
        (b"\x20\xff\xff\xff\xff\xff", b""),
        (b"\x30\xff\xff\xff\x7f" + bytes(100_000), b""),
        (b"\x00\x00", b""),
        (b"\x34\x05\x00\x01t\x00\x01" * 1000, b""),
        (CONNACK, b"\x50\x00"),
        (CONNACK, b"\x62\x01\x07"),
        (CONNACK, b"\x30\xff\xff\xff\x7f" + bytes(10_000)),
        (CONNACK, b"\x50\x02\x00\x01" * 2000),
    ],
)
def test_a_hostile_server_is_an_error(guest: Make, first: bytes, second: bytes) -> None:
    with server(first, second) as (address, _):
        call = guest()
        failed(call.publish(call.open(address), "a", b"", "exactly-once"), "connection-failed")
        call.ctx.run_closers()


# Limits.


@pytest.mark.parametrize(
    "answers",
    [
        (),
        (b"\x20\x02\x00",),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n",),  # the beginning of a PUBACK
        (CONNACK,),
        (CONNACK, b"\x40\x02\x00\x07"),  # of another message
    ],
)
def test_a_server_that_says_too_little_ends_at_the_deadline(guest: Make, answers: tuple[bytes, ...]) -> None:
    with server(*answers) as (address, _):
        call = guest(seconds=0.2)
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            call.publish(call.open(address), "a", b"", "at-least-once")
        assert time.monotonic() - begin < 50
        call.ctx.run_closers()


def test_a_server_that_takes_nothing_ends_at_the_deadline(guest: Make) -> None:
    with server(CONNACK, 1.0) as (address, _):
        call = guest(seconds=0.4)
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            call.publish(call.open(address), "a", bytes(64 << 20))
        call.ctx.run_closers()
        assert time.monotonic() - begin < 50


def test_payloads_are_limited(guest: Make, network: Network) -> None:
    call = guest(Mqtt(network, max_payload_size=3))
    conn = call.open("mqtt://127.0.0.1:1")
    text = "payload size 4 exceeds the maximum allowed size of 3 bytes"
    assert call.publish(conn, "a", b"1234") == Err(("other", text))
    failed(call.publish(conn, "a", b"123"), "connection-failed")


def test_connections_of_an_instance_are_limited(guest: Make) -> None:
    call = guest()
    conns = [call.open("mqtt://127.0.0.1:1") for _ in range(MAX_CONNECTIONS)]
    assert call.open("mqtt://127.0.0.1:1") == Err(("too-many-connections", None))
    call.drop(conns[7])
    assert isinstance(call.open("mqtt://127.0.0.1:1"), int)
    failed(call.open("mqtt://127.0.0.2:1"), "connection-failed")


def test_connections_of_an_application_are_limited(
    guest: Make, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "WAIT", 0.05)
    family = Mqtt(network, max_connections=2)
    one, two = guest(family), guest(family)
    one.open("mqtt://127.0.0.1:1")
    conn = two.open("mqtt://127.0.0.1:1")
    assert two.open("mqtt://127.0.0.1:1") == Err(("too-many-connections", None))
    two.drop(conn)
    assert isinstance(two.open("mqtt://127.0.0.1:1"), int)
    assert one.ctx.run_closers() == []
    assert isinstance(two.open("mqtt://127.0.0.1:1"), int)
    family.close()


# TLS.


def test_tls_verifies_certificates_and_names(certificate: Path, context: Callable[..., Any]) -> None:
    encrypt = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    encrypt.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    network = Network()

    def publish(host: str) -> Any:
        with server(CONNACK, b"\x40\x02\x00\x01", encrypt=encrypt) as (address, _):
            call = Guest(Mqtt(network), context(allowed=["mqtts://*:*"]))
            conn = call.open(address.replace("mqtt://127.0.0.1", f"mqtts://{host}"))
            answer = call.publish(conn, "a", b"", "at-least-once")
            call.ctx.run_closers()
        return answer

    assert "certificate" in failed(publish("localhost"), "connection-failed")
    network.tls_context().load_verify_locations(certificate / "cert.pem")
    assert publish("localhost") is None
    assert "certificate" in failed(publish("127.0.0.1"), "connection-failed")
