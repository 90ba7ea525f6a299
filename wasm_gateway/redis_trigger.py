# The Redis trigger: subscribe to channels, and call a guest for each message.
#
# Rule 1: one subscription connection for each server address, however many triggers
# name it; a channel may have several triggers, whose components are all called
# (Spin: manifest, trigger.redis). Each call has an instance of its own.
# Rule 2: no error ends the loop. A guest that fails is logged and its message is
# gone; a connection that breaks is made again, after a pause that grows.
# Rule 3: at most `concurrency` guests run at once and `backlog` messages wait. When
# these are full nothing more is read: the server buffers, then cuts us off, and we
# subscribe again. Redis keeps no message for a subscriber that is away.
# Rule 4: exactly one process of an application runs this, or every message is
# handled more than once.

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from .errors import GatewayError, HostError, ManifestError

if TYPE_CHECKING:
    from .manifest import RedisTrigger as TriggerOfManifest

log = logging.getLogger("wasm_gateway.redis_trigger")

CONCURRENCY = 16
BACKLOG = 256
# How often a quiet subscription looks whether it shall stop, in seconds.
STOP_CHECK_SECONDS = 0.25
# A connection on which nothing comes is asked for a PONG this often, in seconds: a server that
# vanished without a word is noticed.
HEALTH_CHECK_SECONDS = 30
CONNECT_TIMEOUT_SECONDS = 10.0
# What is under way when we stop may go on for this long.
GRACE_SECONDS = 30.0
# The pause before connecting again doubles between these, in seconds, less up to a half by chance.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0


class MessageHandler(Protocol):
    """What this trigger needs of a Gateway."""

    def handle_redis(self, component_id: str, payload: bytes) -> None: ...


@dataclass(slots=True)
class Server:
    """The subscriptions on one server: channel -> ids of components, in the manifest's order."""

    address: str
    channels: dict[str, list[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The address without user and password."""
        parts = urlsplit(self.address)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def subscriptions(triggers: Iterable[TriggerOfManifest], resolve: Any) -> tuple[Server, ...]:
    """The servers that `triggers` name, templates resolved by `resolve(text) -> text`.

    Raises ManifestError for an address that no Redis client can use.
    """
    servers: dict[str, Server] = {}
    for trigger in triggers:
        address, channel = resolve(trigger.address), resolve(trigger.channel)
        if not address:
            raise ManifestError(
                "no address: set it here or in [application.trigger.redis]", key=f"trigger.redis.{trigger.id}"
            )
        server = servers.get(address)
        if server is None:
            try:
                _client(address).close()
            except ValueError as error:
                raise ManifestError(str(error), key=f"trigger.redis.{trigger.id}.address") from error
            server = servers[address] = Server(address)
        server.channels.setdefault(channel, []).append(trigger.component)
    return tuple(servers.values())


def _client(address: str) -> Any:
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise HostError("the Redis trigger needs redis-py: pip install 'wasm-gateway[redis]'") from error
    return redis.Redis.from_url(
        address,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_keepalive=True,
        health_check_interval=HEALTH_CHECK_SECONDS,
        retry=Retry(NoBackoff(), 0),  # the pauses are ours, since they must end when we stop
    )


class RedisTrigger:
    """Serves the Redis triggers of `gateway` (a Gateway) until it is told to stop.

    `servers` are its subscriptions, by default those of the gateway's manifest. Raises ManifestError for
    an address that cannot be used and HostError without redis-py; nothing is connected yet.
    """

    def __init__(
        self,
        gateway: Any,
        *,
        servers: Iterable[Server] | None = None,
        concurrency: int = CONCURRENCY,
        backlog: int = BACKLOG,
    ) -> None:
        self._gateway: MessageHandler = gateway
        self.servers = tuple(_of_gateway(gateway) if servers is None else servers)
        self._concurrency = concurrency
        self._places = threading.BoundedSemaphore(concurrency + backlog)
        self._unconfirmed = len(self.servers)
        self._lock = threading.Lock()  # guards _unconfirmed
        # Set once every channel of every server has been subscribed to for the first time.
        self.ready = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Handle messages until `stop` is set, then let what is under way finish (GRACE_SECONDS)."""
        pool = ThreadPoolExecutor(self._concurrency, "wasm-redis")
        threads = [
            threading.Thread(target=self._serve, args=(server, pool, stop), name=f"redis {server.name}")
            for server in self.servers
        ]
        for thread in threads:
            thread.start()
        stop.wait()
        for thread in threads:
            thread.join()
        self._finish(pool)

    def _finish(self, pool: ThreadPoolExecutor) -> None:
        done = threading.Event()

        def wait() -> None:
            pool.shutdown(wait=True)
            done.set()

        threading.Thread(target=wait, daemon=True).start()
        if not done.wait(GRACE_SECONDS):
            pool.shutdown(wait=False, cancel_futures=True)
            log.warning("stopped although messages were still waiting after %g s", GRACE_SECONDS)

    # One server, on a thread of its own

    def _serve(self, server: Server, pool: ThreadPoolExecutor, stop: threading.Event) -> None:
        pauses = Pauses()
        while not stop.is_set():
            try:
                self._listen(server, pool, stop, pauses)
            except Exception as error:
                pause = pauses.next()
                # A bug of ours has a trace; a server that is away needs none.
                trace = error if not _is_redis_error(error) else None
                log.error("%s: %s; trying again in %.1f s", server.name, error, pause, exc_info=trace)
                stop.wait(pause)

    def _listen(
        self, server: Server, pool: ThreadPoolExecutor, stop: threading.Event, pauses: Pauses
    ) -> None:
        """Subscribe, and pass messages on until told to stop; whatever goes wrong is raised."""
        client = _client(server.address)
        try:
            pubsub = client.pubsub()
            # A channel is bytes for Redis; the names in the manifest are text.
            channels = {channel.encode(): components for channel, components in server.channels.items()}
            pubsub.subscribe(*channels)
            missing = set(channels)
            while not stop.is_set():
                message = pubsub.get_message(timeout=STOP_CHECK_SECONDS)
                if message is None:
                    continue
                if message["type"] == "message":
                    for component in channels.get(message["channel"], ()):
                        self._submit(pool, stop, component, server, message)
                elif message["type"] == "subscribe" and missing:
                    missing.discard(message["channel"])
                    if not missing:
                        pauses.reset()
                        self._confirmed(server)
        finally:
            client.close()

    def _confirmed(self, server: Server) -> None:
        log.info("subscribed to %s: %s", server.name, ", ".join(server.channels))
        with self._lock:
            self._unconfirmed -= 1
            if self._unconfirmed == 0:
                self.ready.set()

    def _submit(
        self,
        pool: ThreadPoolExecutor,
        stop: threading.Event,
        component: str,
        server: Server,
        message: Mapping[str, Any],
    ) -> None:
        while not self._places.acquire(timeout=STOP_CHECK_SECONDS):
            if stop.is_set():
                log.warning("%s: a message for component %r is lost: stopping", server.name, component)
                return
        pool.submit(self._handle, component, message["channel"], message["data"])

    # One message, on a thread of the pool

    def _handle(self, component: str, channel: bytes, payload: bytes) -> None:
        try:
            self._gateway.handle_redis(component, payload)
        except GatewayError as error:
            frames = "".join(f"\n    {frame}" for frame in getattr(error, "frames", ())[:20])
            kind = type(error).__name__
            log.error(
                "component %s: message on channel %r: %s: %s%s", component, channel, kind, error, frames
            )
        except Exception:
            log.exception("component %s: message on channel %r: error of the gateway", component, channel)
        finally:
            self._places.release()


def _of_gateway(gateway: Any) -> tuple[Server, ...]:
    from .variables import Variables

    variables = Variables.from_manifest(gateway.manifest, gateway.runtime_config, gateway.options.variables)
    return subscriptions(gateway.manifest.redis_triggers, variables.resolve_template)


def _is_redis_error(error: Exception) -> bool:
    import redis

    return isinstance(error, (redis.RedisError, OSError))


class Pauses:
    """How long to wait before each new attempt: doubling, with chance, so that many do not come at once."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def next(self) -> float:
        pause, self._next = self._next, min(self._next * 2, LONGEST_PAUSE)
        return pause * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._next = FIRST_PAUSE
