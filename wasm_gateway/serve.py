# The production server behind `wasm-gateway up`: granian's workers in front of
# Gateway.asgi(), and the Redis trigger beside them.
#
# Rule 1: the parent compiles, checks, applies --key-value and --sqlite, and subscribes
# to Redis: once. A worker only loads what the disk cache holds and serves.
# Rule 2: workers are spawned, never forked, whatever the platform's habit is: a child
# forked from a process that has compiled must not compile itself (it hangs for ever).
# Rule 3: the port is taken before anything starts, and announced when it answers.
# Rule 4: SIGHUP loads manifest and guests again: in the parent, and where it can, in the workers, which look
# at a number that they share with it. A signal to a worker that is just starting would end it.
# Rule 5: whoever ends first ends all: a worker that cannot start or keeps dying, the Redis trigger, a
# signal, the parent. No process outlives its parent.
#
# Why granian, and why its ASGI interface: measured with a hello in one worker and
# four threads, medians of two rounds, wrk -c16 on two cores:
#                        requests/s   CPU per request   raw path   peer port   cut-off bodies
#   granian wsgi           35,800          32 us           no          no       look complete
#   granian rsgi + pool    12,900         101 us           no         yes       look complete
#   granian asgi + pool    13,400          97 us          yes         yes       seen
#   uvicorn asgi + pool     4,900         208 us          yes         yes       seen
#   gunicorn gthread        3,200         325 us          yes         yes       seen
# "Cut-off bodies": a request body that ends too early, and a response whose guest
# failed half way, must not look complete to the other side. All five stream, answer
# HEAD and Expect: 100-continue, and read chunked bodies; only granian speaks HTTP/2
# without TLS. Its WSGI interface moreover empties header values that are not ASCII
# and mixes the process's environment into that of the request. Most of what ASGI
# and RSGI cost is their way through the event loop, which direct.py spares.

from __future__ import annotations

import atexit
import logging
import logging.config
import multiprocessing
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from . import observe
from .errors import GatewayError

if TYPE_CHECKING:
    from .gateway import Gateway
    from .redis_trigger import RedisTrigger
    from .redis_trigger import Server as RedisServer

log = logging.getLogger("wasm_gateway.serve")

# --find-free-port looks at the port asked for and as many above it (Spin: command line, 3.5).
FREE_PORT_TRIES = 10
# What is under way when the server stops may go on for this long, in seconds; a guest has 30 by default.
GRACE_SECONDS = 35
# How often the new server is asked whether it answers, in seconds.
SIGNAL_CHECK_SECONDS = 0.5
READY_CHECK_SECONDS = 0.02
BACKLOG = 1024


class ListenError(GatewayError):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Application:
    """What a process needs to make the gateway: it is sent to each worker.

    `options` are the fields of GatewayOptions.
    """

    manifest: Path
    components: tuple[str, ...] | None = None
    profile: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def gateway(self) -> Gateway:
        """A gateway that is not open yet. Raises ManifestError."""
        from .gateway import Gateway

        return Gateway.from_manifest(
            self.manifest, components=self.components, profile=self.profile, **self.options
        )

    def for_workers(self) -> Application:
        """The same without what is done once for all processes."""
        options = {name: value for name, value in self.options.items() if name not in ("key_value", "sqlite")}
        return Application(self.manifest, self.components, self.profile, options)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where and how the server listens; `port` 0 is any free one."""

    host: str = "127.0.0.1"
    port: int = 3000
    find_free_port: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    http1_max_buf_size: int | None = None

    @property
    def scheme(self) -> str:
        return "https" if self.tls_cert else "http"


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[V6]:PORT`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, as in [::1]:3000")
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host, int(port)


class Port:
    """An address that is ours: bound, and on Linux held until `close` though nobody listens yet.

    Raises ListenError when it is taken, or is no address of this machine.
    """

    def __init__(self, listen: Listen) -> None:
        self.listen = listen
        self.family, self.host = _resolve(listen.host)
        self._held: socket.socket | None = None
        tries = FREE_PORT_TRIES + 1 if listen.find_free_port and listen.port else 1
        for port in range(listen.port, min(listen.port + tries, 65536)):
            try:
                self.port = self._take(port)
            except PermissionError as error:
                raise ListenError(f"{_authority(self.host, port)}: {error.strerror}") from error
            except OSError as error:
                if error.errno not in _IN_USE:
                    raise ListenError(f"{_authority(self.host, port)}: {error.strerror}") from error
            else:
                return
        where = _authority(self.host, listen.port)
        if tries > 1:
            raise ListenError(f"{where} and the {FREE_PORT_TRIES} ports above it are already in use")
        raise ListenError(
            f"{where} is already in use. "
            "To have Spin search for a free port, use the --find-free-port option."  # its words
        )

    def _take(self, port: int) -> int:
        # The first bind says whether the port is free: with SO_REUSEPORT, which the workers use to share
        # it, a second server on the same port would succeed and take half of the requests.
        with socket.socket(self.family) as probe:
            if sys.platform != "win32":  # there it would mean SO_REUSEPORT
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((self.host, port))
            port = int(probe.getsockname()[1])
        if sys.platform == "linux":
            self._held = socket.socket(self.family)
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._held.bind((self.host, port))
            # Off again: two sockets that nobody listens on yet may share a port by it.
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        return port

    @property
    def base_url(self) -> str:
        return f"{self.listen.scheme}://{_authority(self.host, self.port)}"

    def answers(self) -> bool:
        """Whether somebody accepts connections by now."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        try:
            socket.create_connection((host, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        if self._held is not None:
            self._held.close()


def _in_use() -> set[int]:
    import errno

    return {errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)}


_IN_USE = _in_use()


def _resolve(host: str) -> tuple[socket.AddressFamily, str]:
    """The address of `host`; of several, 127.0.0.1 counts first (Spin: command line, 3.5)."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"{host}: {error.strerror}") from error
    addresses = [(family, str(address[0])) for family, _, _, _, address in found]
    return next((pair for pair in addresses if pair[1] == "127.0.0.1"), addresses[0])


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Announcer(Protocol):
    """Told once each, on threads of the server's."""

    def serving(self, base_url: str) -> None:
        """Requests to `base_url` are answered."""

    def subscribed(self, servers: Sequence[RedisServer]) -> None:
        """Messages on all channels of `servers` are handled."""


@contextmanager
def folders(state_dir: str | None, log_dir: str | None, temp: str | None) -> Iterator[dict[str, Any]]:
    """The folders as options of a gateway; `temp` is where this process and its workers make copies of files.

    `--state-dir ''` keeps nothing: Spin then has its stores in memory, of one process. Ours are several
    processes, so theirs lie in a folder that is removed at exit.
    """
    before = os.environ.get("TMPDIR")
    if temp is not None:
        Path(temp).mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = os.path.abspath(temp)
        tempfile.tempdir = None
    try:
        with tempfile.TemporaryDirectory(prefix="wasm-gateway-") as folder:
            if state_dir == "":
                yield {"state_dir": Path(folder), "log_dir": log_dir or ""}
            else:
                yield {"state_dir": state_dir, "log_dir": log_dir}
    finally:
        if temp is not None:
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before
            tempfile.tempdir = None


@contextmanager
def serving_metrics(address: tuple[str, int] | None) -> Iterator[str | None]:
    """Serve what this process and its workers count, at `address`, None for nowhere; the URL.

    They share the folder PROMETHEUS_MULTIPROC_DIR: one that the environment names, else one of their own.
    It has to be known before the client is imported. Raises ManifestError, ListenError.
    """
    if address is None:
        yield None
        return
    with ExitStack() as cleanup:
        if observe.MULTIPROC_DIR not in os.environ:
            folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="wasm-gateway-metrics-"))
            os.environ[observe.MULTIPROC_DIR] = folder
            cleanup.callback(os.environ.pop, observe.MULTIPROC_DIR)
        metrics = observe.metrics_module()
        try:
            server, thread = metrics.serve(*address)
        except OSError as error:
            raise ListenError(f"--metrics {_authority(*address)}: {error.strerror}") from error
        cleanup.callback(server.server_close)
        cleanup.callback(thread.join)
        cleanup.callback(server.shutdown)
        yield f"http://{_authority(address[0], server.server_port)}/metrics"


def serve(
    application: Application,
    gateway: Gateway,
    announcer: Announcer,
    port: Port | None,
    *,
    workers: int = 1,
    threads: int | None = None,
) -> int:
    """Serve the triggers of `gateway` (open, made from `application`) until a signal; the exit code.

    `port` is None to serve no HTTP. Must run on the main thread, since it handles SIGINT and SIGTERM.
    Raises ListenError (TLS), ManifestError and HostError (Redis addresses, no Redis client).
    """
    beside = _BesideServer(gateway, announcer)
    try:
        if port is None:
            return beside.run_alone()
        return _serve_http(application, port, workers, threads, beside, announcer)
    finally:
        beside.stop()


def _serve_http(
    application: Application,
    port: Port,
    workers: int,
    threads: int | None,
    beside: _BesideServer,
    announcer: Announcer,
) -> int:
    multiprocessing.set_start_method("spawn", force=True)
    server = _server(port, workers)
    # granian's own way replaces the workers, whether or not new ones could start
    server.signal_handler_reload = beside.reload_soon
    loader = partial(load, application.for_workers(), threads, beside.reloads, beside.stillborn)
    ended = threading.Event()

    def watch() -> None:
        while not port.answers():
            if ended.wait(READY_CHECK_SECONDS):
                return
        # From now on a worker that dies is replaced; one that cannot even start ends the server. granian
        # takes for that what dies within 5.5 s, which a slow machine needs to start it.
        server.respawn_failed_workers = _AllStart(beside.stillborn)
        announcer.serving(port.base_url)
        beside.may_announce.set()

    watcher = threading.Thread(target=watch, name="wasm-announce")
    server.on_startup(beside.start)
    server.on_startup(watcher.start)
    try:
        server.serve(target_loader=loader, wrap_loader=False)
    except SystemExit as error:
        return int(error.code or 0)
    finally:
        ended.set()
        if beside.stillborn.value:
            log.error("a worker cannot start. Terminating.")
    return 1 if beside.failed else 0


class _AllStart:
    """True as long as no worker was `stillborn`."""

    def __init__(self, stillborn: Number) -> None:
        self._stillborn = stillborn

    def __bool__(self) -> bool:
        return not self._stillborn.value


def _server(port: Port, workers: int) -> Any:
    listen = port.listen
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces, SSLProtocols
    from granian.http import HTTP1Settings
    from granian.log import LogLevels

    try:
        server = Granian(
            "wasm_gateway",
            address=port.host,
            port=port.port,
            interface=Interfaces.ASGI,
            workers=workers,
            http=HTTPModes.auto,
            http1_settings=HTTP1Settings(max_buffer_size=listen.http1_max_buf_size)
            if listen.http1_max_buf_size
            else None,
            websockets=False,
            backlog=BACKLOG,
            ssl_cert=listen.tls_cert,
            ssl_key=listen.tls_key,
            ssl_protocol_min=SSLProtocols.tls12,  # as Spin: its clients may be older than TLS 1.3
            workers_kill_timeout=GRACE_SECONDS,
            respawn_interval=0.5,
            log_level=LogLevels.warning,
            log_dictconfig=_SERVER_LOGGING,
        )
    except OSError as error:  # certificate or key: ssl.SSLError is one too
        raise ListenError(f"TLS certificate {listen.tls_cert} and key {listen.tls_key}: {error}") from error
    server.signal_handler_interrupt = _beside(server.signal_handler_interrupt)  # type: ignore[method-assign]
    return server


def _beside(handler: Callable[[], object]) -> Callable[..., None]:
    """A handler of signals that runs `handler` in a thread of its own.

    granian's sets an event, whose lock the thread that is interrupted may hold: two signals in a row (Ctrl-C
    reaches a group of processes, one of which then ends another) made the server hang for ever.
    """

    def handle(*_: object) -> None:
        threading.Thread(target=handler, name="wasm-signal", daemon=True).start()

    return handle


# granian's own, on stderr: stdout belongs to the announcement.
_SERVER_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}
    },
    "loggers": {"_granian": {"handlers": ["stderr"], "level": "WARNING", "propagate": False}},
}


def configure_logging(*, access_log: bool = False) -> None:
    """Our log to stderr, for a process of our own; output of guests is copied there raw already."""
    logging.config.dictConfig(
        {
            **_SERVER_LOGGING,
            "loggers": {
                "wasm_gateway": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
                "wasm_gateway.guest": {"level": "CRITICAL", "propagate": False},
                "wasm_gateway.access": {"level": "INFO" if access_log else "WARNING"},
            },
        }
    )


# In a worker


def load(application: Application, threads: int | None, reloads: Number, stillborn: Number) -> Any:
    """The ASGI application of a worker; its gateway opens at the lifespan's startup.

    It is loaded again when the number of `reloads` has changed. `stillborn` is set where it cannot be loaded.
    """
    from .direct import install

    _end_with_parent()
    configure_logging(access_log=application.options.get("access_log", False))
    seen = reloads.value
    try:
        gateway = application.gateway()
    except BaseException:
        stillborn.value = 1
        raise
    _reload_with_parent(gateway, reloads, seen)
    app = gateway.asgi() if threads is None else gateway.asgi(threads=threads)
    install(app)
    return _InWorker(app, stillborn)


def _end_with_parent() -> None:
    """Stop serving when the parent is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="wasm-parent", daemon=True).start()


def _reload_with_parent(gateway: Gateway, reloads: Number, seen: int) -> None:
    def watch() -> None:
        nonlocal seen
        while True:
            time.sleep(SIGNAL_CHECK_SECONDS)
            now = reloads.value
            if now != seen:
                seen = now
                reload(gateway)

    threading.Thread(target=watch, name="wasm-reload", daemon=True).start()


def reload(gateway: Gateway) -> bool:
    """Load manifest and guests again; whether that could be done, else the log says why not."""
    try:
        gateway.reload()
    except Exception as error:
        # a bug of ours has a trace; a guest that does not load needs none
        trace = None if isinstance(error, GatewayError) else error
        log.error("nothing is reloaded, what was there goes on: %s", error, exc_info=trace)
        return False
    return True


class _InWorker:
    """`app`, and a process that ends without tearing the interpreter down once `app` has shut down.

    `stillborn` is set when `app` cannot start.

    Threads of the server may want the interpreter when it is half gone, which aborts the process
    (seen with granian 2.8: "panic in a function that cannot unwind", exit by SIGABRT).
    """

    def __init__(self, app: Any, stillborn: Number) -> None:
        self._app = app
        self._stillborn = stillborn
        self._shut_down = False
        atexit.register(self._leave)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def watched(message: Any) -> None:
            if message["type"] == "lifespan.startup.failed":
                self._stillborn.value = 1
            self._shut_down |= message["type"] == "lifespan.shutdown.complete"
            await send(message)

        await self._app(scope, receive, watched)

    def _leave(self) -> None:
        if self._shut_down:
            logging.shutdown()
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except OSError:
                    pass  # nobody reads it any more
            os._exit(0)


# In the parent


class Number(Protocol):
    """A number in memory that processes share."""

    value: int


class _BesideServer:
    """What runs in the parent while the workers serve: reloads, and the Redis trigger, if there is one.

    `reloads` is how often the application was loaded again, `stillborn` whether a worker could not start.
    """

    def __init__(self, gateway: Gateway, announcer: Announcer) -> None:
        self._gateway = gateway
        self._announcer = announcer
        self.reloads: Number = multiprocessing.get_context("spawn").RawValue("Q", 0)
        self.stillborn: Number = multiprocessing.get_context("spawn").RawValue("Q", 0)
        # a queue whose `put` may interrupt itself, as a signal does; None is the end
        self._asked: queue.SimpleQueue[bool | None] = queue.SimpleQueue()
        self._reloader = threading.Thread(target=self._reload, name="wasm-reload")
        self._stop = threading.Event()
        self.may_announce = threading.Event()  # after the HTTP routes, so that the order is always the same
        self._threads: list[threading.Thread] = []
        self._trigger: RedisTrigger | None = None
        self.failed = False
        if gateway.manifest.redis_triggers:
            from .redis_trigger import RedisTrigger

            self._trigger = RedisTrigger(gateway)

    def reload_soon(self, *_: object) -> None:
        """The handler of SIGHUP."""
        self._asked.put(True)

    def _reload(self) -> None:
        while self._asked.get():
            if reload(self._gateway):
                self.reloads.value += 1
                log.warning("manifest and guests are loaded again")

    def start(self) -> None:
        self._reloader.start()
        if self._trigger is not None:
            self._threads = [
                threading.Thread(target=self._run, args=(self._trigger,), name="wasm-redis"),
                threading.Thread(target=self._announce, args=(self._trigger,), name="wasm-announce"),
            ]
            for thread in self._threads:
                thread.start()

    def _run(self, trigger: RedisTrigger) -> None:
        try:
            trigger.run(self._stop)
        except Exception:
            log.exception("the Redis trigger failed. Terminating.")
            self.failed = True
            os.kill(os.getpid(), signal.SIGTERM)

    def _announce(self, trigger: RedisTrigger) -> None:
        while not self._stop.is_set():
            if trigger.ready.wait(READY_CHECK_SECONDS) and self.may_announce.wait(READY_CHECK_SECONDS):
                self._announcer.subscribed(trigger.servers)
                return

    def stop(self) -> None:
        self._stop.set()
        self._asked.put(None)
        if self._reloader.ident is not None:
            self._reloader.join()
        for thread in self._threads:
            thread.join()

    def run_alone(self) -> int:
        """Without a server: until a signal."""
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self.reload_soon)
        self.may_announce.set()
        self.start()
        while not ended.wait(SIGNAL_CHECK_SECONDS):  # a wait without end may miss a signal
            pass
        return 1 if self.failed else 0
