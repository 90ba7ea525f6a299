# fermyon:spin/mqtt, spin:mqtt: guests as MQTT clients (Spin: host interfaces, 7.4).
#
# Rule 1: the address is checked when a connection is opened, and what is checked is
# what is connected to (addresses.py).
# Rule 2: as in Spin, `open` speaks to nobody. The first `publish` connects, and so does
# one that finds that the server has hung up meanwhile: while a guest is busy with
# something else nobody keeps the connection alive for it.
# Rule 3: `publish` returns when the server has the message: it is sent (QoS 0), acknowledged
# (1) or complete (2). After a failure the connection is given up, and its message with it.
# Rule 4: nothing goes on behind the guest's back. Every wait is that of a call of the
# guest's and ends at its deadline, and a connection ends with its instance: no pool.
#
# The client is paho-mqtt, without its thread and over a socket of ours.

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from ..component.values import Err
from ..errors import DeadlineExceeded
from .addresses import BadAddress, parse_address
from .base import Deadline, HostContext
from .limits import Held
from .mqtt_wit import INTERFACES as INTERFACES
from .network import BoundedSocket, BoundedSSLSocket, Network, is_idle, wait_ready
from .offload import Turns, Workers
from .pools import WAIT, Places

SCHEMES = ("mqtt", "mqtts")
QOS = {"at-most-once": 0, "at-least-once": 1, "exactly-once": 2}
# Lengths of texts, and the keep-alive interval in seconds, are 16 bits (MQTT 3.1.1: 1.5.3, 3.1.2.10).
MAX_TEXT_BYTES = MAX_KEEP_ALIVE = 0xFFFF
# What a server may say during one call: its answers to a client that only publishes have 2 to 5 bytes.
MAX_ANSWER_BYTES = 4096


class MqttFailure(Exception):
    """A call that did not work; `case` is that of the interface's error."""

    def __init__(self, case: str, text: str | None = None) -> None:
        super().__init__(text or case)
        self.error = (case, text)


@dataclass(frozen=True, slots=True)
class Login:
    """Where to connect, and as whom; "" for no user name or no password."""

    host: str
    port: int
    tls: bool
    client_id: str
    username: str
    password: str
    keep_alive: int


def login(address: str, username: str, password: str, keep_alive: int) -> Login:
    """What `open` is given, in one; MqttFailure for what cannot be used."""
    try:
        url = parse_address(address, SCHEMES)
    except BadAddress as error:
        raise MqttFailure("invalid-address") from error
    # Spin's client wants an identifier; each server takes one of 23 letters and digits (MQTT 3.1.1, 3.1.3.1)
    client_id = dict(parse_qsl(url.query or "")).get("client_id") or secrets.token_hex(11)
    for name, text in (("user name", username), ("password", password), ("client_id", client_id)):
        if len(text.encode()) > MAX_TEXT_BYTES:
            raise MqttFailure("other", f"the {name} is longer than {MAX_TEXT_BYTES} bytes")
    # a longer interval than can be said: more often is fine too
    keep_alive = min(keep_alive, MAX_KEEP_ALIVE)
    return Login(url.host, url.port, url.scheme == "mqtts", client_id, username, password, keep_alive)


class _Wire:
    """The socket, as paho-mqtt uses it: a packet is sent by one call, a failure is not kept quiet."""

    def __init__(self, sock: BoundedSocket | BoundedSSLSocket) -> None:
        self.sock = sock
        self.room = MAX_ANSWER_BYTES

    def recv(self, size: int) -> bytes:
        try:
            data: bytes = self.sock.recv(min(size, self.room))
        except OSError as error:
            raise MqttFailure("connection-failed", str(error)) from error
        if not data:
            raise MqttFailure(
                "connection-failed", "connection closed by server" if self.room else "malformed"
            )
        self.room -= len(data)
        return data

    def send(self, data: bytes) -> int:
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise MqttFailure("connection-failed", str(error)) from error
        return len(data)

    def is_readable(self, timeout: float) -> bool:
        if isinstance(self.sock, BoundedSSLSocket) and self.sock.pending():
            return True
        return wait_ready(self.sock.fileno(), timeout)[0]

    def setblocking(self, flag: bool) -> None:
        pass  # the deadline is the only timeout

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()


class _Client(paho.Client):
    """A client of paho-mqtt over `wire`."""

    def __init__(self, login: Login, wire: _Wire) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, login.client_id, reconnect_on_failure=False)
        self.wire = wire
        self.refused = ""
        # a password without a user name is not possible (MQTT 3.1.1, 3.1.2.9)
        if login.username:
            self.username_pw_set(login.username, login.password or None)
        self.on_connect = self._answered

    def _create_socket(self) -> Any:
        return self.wire

    def _answered(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.refused = str(reason)


class MqttConnection:
    """A connection that a guest keeps, made when it is needed.

    Raises MqttFailure; and DeadlineExceeded. After either it is closed until it is used again.
    """

    def __init__(self, login: Login, network: Network) -> None:
        self.turns = Turns()
        self.give_back: Callable[[], object] | None = None  # its place among all connections
        self._login = login
        self._network = network
        self._client: _Client | None = None

    def publish(self, topic: str, payload: bytes, qos: int, deadline: Deadline) -> None:
        try:
            client = self._connected(deadline)
            try:
                message = client.publish(topic, payload, qos)
            except ValueError as error:  # nothing was sent
                raise MqttFailure("other", str(error)) from error
            self._wait(client, message.is_published, deadline)
        except (MqttFailure, DeadlineExceeded):
            self.close()
            raise
        except Exception as error:  # paho-mqtt believes what a server says
            self.close()
            raise MqttFailure("connection-failed", f"malformed answer: {error}") from error

    def _connected(self, deadline: Deadline) -> _Client:
        client = self._client
        if client is not None and is_idle(client.wire.sock):
            client.wire.sock.deadline = deadline
            client.wire.room = MAX_ANSWER_BYTES
            return client
        self.close()
        login = self._login
        try:
            plain = self._network.connect(login.host, login.port, deadline)
            sock = self._network.wrap(plain, login.host) if login.tls else plain
        except OSError as error:
            raise MqttFailure("connection-failed", str(error)) from error
        client = self._client = _Client(login, _Wire(sock))
        client.connect(login.host, login.port, login.keep_alive)
        self._wait(client, client.is_connected, deadline)
        return client

    def _wait(self, client: _Client, done: Callable[[], bool], deadline: Deadline) -> None:
        """Hear what the server says until `done()`."""
        keep_alive = self._login.keep_alive or MAX_KEEP_ALIVE
        while not done():
            if client.wire.is_readable(min(keep_alive, deadline.remaining())):
                failure = client.loop_read()
            else:
                deadline.remaining()
                failure = client.loop_misc()  # says that we are still there (3.1.2.10)
            if failure or client.socket() is None:
                raise MqttFailure("connection-failed", client.refused or paho.error_string(failure))

    def close(self) -> None:
        """Take leave, without waiting for anything."""
        client, self._client = self._client, None
        if client is None:
            return
        sock = client.wire.sock
        sock.deadline = None
        try:
            sock.settimeout(0)
            client.disconnect()
        except (MqttFailure, OSError):
            pass  # it has hung up already, or will notice
        finally:
            sock.close()


class Mqtt:
    """The functions that guests import."""

    def __init__(
        self,
        network: Network,
        max_connections: int | None = None,
        max_payload_size: int | None = None,
        workers: Workers | None = None,
    ) -> None:
        self._workers = workers or Workers()
        self._network = network
        self._max_payload_size = max_payload_size
        self._held: Held[MqttConnection] = Held(self._release)
        self._places = Places(max_connections, network.places)

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        if interface not in INTERFACES:
            return {}
        later = interface == "spin:mqtt/mqtt@3"
        return {
            "[static]connection.open": self.open_async if later else self.open,
            "[method]connection.publish": self.publish_async if later else self.publish,
            "[resource-drop]connection": self._held.drop,
        }

    def close(self) -> None:
        pass  # each connection ends with its instance

    def open(self, ctx: HostContext, address: str, username: str, password: str, keep_alive: int) -> Any:
        try:
            connection = self._opened(ctx, address, username, password, keep_alive)
            connection.give_back = self._take_place(ctx.deadline)
        except MqttFailure as failure:
            return Err(failure.error)
        return self._held.of(ctx).push(connection)

    def _opened(self, ctx: HostContext, address: str, *arguments: Any) -> MqttConnection:
        outbound = ctx.component.outbound
        if outbound is None or not outbound.check_url(address, "mqtt"):
            raise MqttFailure("connection-failed", f"address {address} is not permitted")
        connection = MqttConnection(login(address, *arguments), self._network)
        if self._held.of(ctx).is_full:
            raise MqttFailure("too-many-connections")
        return connection

    def _take_place(self, deadline: Deadline) -> Callable[[], object]:
        give_back = self._places.take(min(WAIT, deadline.remaining()))
        if give_back is None:
            deadline.remaining()
            raise MqttFailure("too-many-connections")
        return give_back

    def publish(self, ctx: HostContext, handle: int, topic: str, payload: bytes, qos: str) -> Any:
        connection = self._held.get(ctx, handle)
        try:
            self._check_size(payload)
            return connection.publish(topic, payload, QOS[qos], ctx.deadline)
        except MqttFailure as failure:
            return Err(failure.error)

    def _check_size(self, payload: bytes) -> None:
        limit = self._max_payload_size
        if limit is not None and len(payload) > limit:
            text = f"payload size {len(payload)} exceeds the maximum allowed size of {limit} bytes"
            raise MqttFailure("other", text)

    def _release(self, ctx: HostContext, connection: MqttConnection) -> None:
        def end() -> None:
            connection.close()
            if connection.give_back is not None:
                connection.give_back()

        connection.turns.end(end)

    # Last: the same as coroutines.

    async def open_async(
        self, ctx: HostContext, address: str, username: str, password: str, keep_alive: int
    ) -> Any:
        try:
            connection = self._opened(ctx, address, username, password, keep_alive)
            give_back = self._places.take()
            if give_back is None:
                give_back = await self._workers.run(ctx, self._take_place, undo=lambda give_back: give_back())
            connection.give_back = give_back
        except MqttFailure as failure:
            return Err(failure.error)
        handle = self._held.of(ctx).push(connection)
        if handle is None:  # filled meanwhile
            connection.give_back()
            return Err(("too-many-connections", None))
        return handle

    async def publish_async(self, ctx: HostContext, handle: int, topic: str, payload: bytes, qos: str) -> Any:
        connection = self._held.get(ctx, handle)

        def publish(deadline: Deadline) -> None:
            connection.publish(topic, payload, QOS[qos], deadline)

        try:
            self._check_size(payload)
            return await self._workers.run(ctx, publish, turns=connection.turns)
        except MqttFailure as failure:
            return Err(failure.error)
