# What is seen of the requests that guests answer, by whoever watches: metrics, traces,
# logs, the site's own observers.
#
# Rule 1: an observer watches. One that raises is logged, and the request goes on.
# Rule 2: what a metric may be labelled with is bounded by the manifest and by this file:
# component, route pattern, outcome, role. Paths, headers and words of a guest are not.
# Rule 3: a request that nobody watches pays for one test in the gateway, and two for its instance.

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from enum import StrEnum
from importlib import import_module
from time import perf_counter
from types import ModuleType
from typing import Any, Protocol

from ..errors import ManifestError
from ..messages import STREAMED, Begin, Headers, Request, Response
from ..outcomes import Outcome as Outcome  # observers ask for it here
from ..outcomes import outcome_of

log = logging.getLogger("wasm_gateway")

# The folder in which processes keep their counts, to be added up.
MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"


class Role(StrEnum):
    """What a guest was asked for."""

    ANSWER = "answer"  #: For the client.
    FALLBACK = "fallback"  #: For the client, but the site answered in its place.
    SHADOW = "shadow"  #: For nobody: the site answered beside it.


# What stands for the route of a message; that of a component which another one called is "chained".
REDIS = "redis"
# What stands for the request of a message, which may still carry headers.
_MESSAGE = Request("", "")


class GuestSpans(Protocol):
    """Where spans go that a guest makes itself, in terms of wasi:otel/tracing."""

    def outer(self) -> tuple[Any, ...]:
        """The span-context that they belong to."""
        ...

    def export(self, data: Any) -> None:
        """Take a span-data."""


class Call:
    """One request of a guest, or one message for it, as far as it has come.

    `component` is its id, `route` the pattern of its route (RouteMatch.label) or REDIS, `dialect` that of
    the guest. `status` is what the client got from it, None for nothing yet, and `response_bytes` are those
    of the body. `error` is why there is no answer, up to the end of the call. `seconds` is how long all of it
    took, `start_seconds` what of this the fresh instance took, None where there was none. `request` is what
    the guest is given: `carry` adds to it. `spans` takes those that the guest makes itself, if anybody does.
    """

    __slots__ = (
        "_starting",
        "began",
        "component",
        "dialect",
        "error",
        "inner",
        "is_message",
        "outcome",
        "request",
        "response_bytes",
        "role",
        "route",
        "seconds",
        "spans",
        "start_seconds",
        "started",
        "status",
    )

    def __init__(self, component: str, route: str, request: Request = _MESSAGE) -> None:
        self.component = component
        self.route = route
        self.request = request
        self.is_message = request is _MESSAGE
        self.dialect = ""
        self.role = Role.ANSWER
        self.outcome = Outcome.OK
        self.error: BaseException | None = None
        self.status: int | None = None
        self.response_bytes = 0
        self.inner = False  # another guest's request
        self.spans: GuestSpans | None = None
        self.seconds = 0.0
        self.start_seconds: float | None = None
        self.started: float | None = None
        self._starting = 0.0
        self.began = perf_counter()

    # told by whoever does it

    def starting(self) -> None:
        """An instance is about to be made."""
        self._starting = perf_counter()

    def has_started(self) -> None:
        """It is there. Only the first one counts."""
        if self.started is None:
            self.started = perf_counter()
            self.start_seconds = self.started - self._starting

    def failed(self, error: BaseException) -> None:
        """The guest gave no answer, or went wrong after it had; the first reason counts."""
        if self.error is None:
            self.error = error
            self.outcome = outcome_of(error)

    # asked by observers

    def carry(self, pairs: Iterable[tuple[str, str]], instead: Collection[str]) -> None:
        """Give the guest the headers `pairs`, and not those that have the names `instead`."""
        kept = [pair for pair in self.request.headers.pairs if pair[0] not in instead]
        self.request = replace(self.request, headers=Headers.trusted((*kept, *pairs)))

    @property
    def guest_seconds(self) -> float | None:
        """How long the instance was at work, up to now, with the host functions that it called."""
        if self.started is None:
            return None
        return (self.seconds or self.elapsed) - (self.started - self.began)

    @property
    def elapsed(self) -> float:
        return perf_counter() - self.began

    def fields(self) -> dict[str, Any]:
        """The same for the `extra` of a log record; times in seconds."""
        return {
            "component": self.component,
            "route": self.route,
            "dialect": self.dialect,
            "method": self.request.method or None,
            "status": self.status,
            "outcome": self.outcome.value,
            "role": self.role.value,
            "duration": self.seconds or self.elapsed,
            "instance_start": self.start_seconds,
            "response_bytes": self.response_bytes,
        }


class Observer(Protocol):
    """Somebody who watches; `Quiet` is one who does not care, to extend.

    All is called in the thread that serves the request, which may be one of many.
    """

    def begin(self, call: Call) -> Any:
        """A guest is asked. What this returns is given to `end`."""

    def end(self, call: Call, begun: Any) -> object:
        """The response is there, or has gone out; the call is complete."""

    def passed(self, component: str, route: str, reason: str) -> object:
        """The site answered a request of this route, and the guest was not asked (policy.Choice.reason)."""

    def close(self) -> object:
        """The gateway is closed, and the process may end: pass on what is kept. There may be more later."""


class Quiet:
    """An Observer that does nothing."""

    def begin(self, call: Call) -> Any:
        return None

    def end(self, call: Call, begun: Any) -> object:
        return None

    def passed(self, component: str, route: str, reason: str) -> object:
        return None

    def close(self) -> object:
        return None


class _Current(threading.local):
    """The watched request of this thread; whoever does something for it tells it here."""

    call: Call | None = None


current = _Current()


def note(error: BaseException) -> None:
    """Say what went wrong with the request of this thread, if it is watched."""
    call = current.call
    if call is not None:
        call.failed(error)


def failure(call: Call | None, component: str, route: str, error: BaseException) -> dict[str, Any]:
    """The fields of the log record about a failure, which the `call` is told of; it has more than others."""
    if call is None:
        return {"component": component, "route": route, "outcome": outcome_of(error).value}
    call.failed(error)
    return call.fields()


class Watch:
    """The observers of an application, asked in their order and told the end in the reverse one.

    With `server_timing` clients get times in a Server-Timing header.
    """

    def __init__(self, observers: Sequence[Observer], server_timing: bool = False) -> None:
        self.observers = tuple(observers)
        self._server_timing = server_timing

    def answer(
        self,
        call: Call,
        begin: Begin | None,
        ask: Callable[[Request, Begin | None], Response | None],
    ) -> Response | None:
        """The response of `ask(request, begin)`, which tells `call` what goes wrong; observed.

        None where the site is to answer instead.
        """
        outer, begun = self._begin(call)
        try:
            response = ask(call.request, None if begin is None else _Counted(self, call, begin))
            if response is None:
                call.role = Role.FALLBACK
            elif response is not STREAMED:
                response = self._count(call, response)
            return response
        except BaseException as error:
            call.failed(error)
            raise
        finally:
            self._end(call, outer, begun)

    def deliver(self, call: Call, deliver: Callable[[], object]) -> None:
        """Hand over a message by `deliver()`, and raise what that raises; observed."""
        outer, begun = self._begin(call)
        try:
            deliver()
        except BaseException as error:
            call.failed(error)
            raise
        finally:
            self._end(call, outer, begun)

    def _begin(self, call: Call) -> tuple[Call | None, list[Any]]:
        outer, current.call = current.call, call
        call.inner = outer is not None
        return outer, [self._guarded(observer.begin, call) for observer in self.observers]

    def _end(self, call: Call, outer: Call | None, begun: list[Any]) -> None:
        call.seconds = call.elapsed
        for observer, token in zip(reversed(self.observers), reversed(begun), strict=True):
            self._guarded(observer.end, call, token)
        current.call = outer
        call.error = None  # whose frames lead back here; nothing is to wait for the garbage collector

    def passed(self, component: str, route: str, reason: str) -> None:
        """The site answered, and the guest was not asked."""
        for observer in self.observers:
            self._guarded(observer.passed, component, route, reason)

    def close(self) -> None:
        for observer in self.observers:
            self._guarded(observer.close)

    @staticmethod
    def _guarded(tell: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return tell(*arguments)
        except Exception:
            log.exception("an observer failed: %r", tell)
            return None

    def _count(self, call: Call, response: Response) -> Response:
        """`response`, whole, as it leaves."""
        if call.status is None:  # else its head is out, and this the failure of the rest
            call.status = response.status
            body = response.body
            if isinstance(body, tuple):
                call.response_bytes = sum(map(len, body))
        return self.timed(call, response)

    def timed(self, call: Call, response: Response) -> Response:
        """`response` with a Server-Timing, if a client is to have that."""
        if not self._server_timing or call.inner:
            return response
        headers = (*response.headers.pairs, ("server-timing", _server_timing(call)))
        return replace(response, headers=Headers.trusted(headers))


def watch(
    observers: Sequence[Observer] = (),
    *,
    metrics: bool = False,
    tracing: bool = False,
    access_log: bool = False,
    server_timing: bool = False,
) -> Watch | None:
    """The Watch of an application, None where there is nothing to watch for.

    Spans are around all other observers. ManifestError for a package that is not installed.
    """
    made: list[Observer] = []
    if tracing:
        _need("opentelemetry.trace", "opentelemetry-api", "tracing", "otel")
        from .tracing import Tracing

        made.append(Tracing())
    if metrics:
        made.append(metrics_module().Metrics())
    made += observers
    if access_log:
        from .access_log import AccessLog

        made.append(AccessLog())
    return Watch(made, server_timing) if made or server_timing else None


def metrics_module() -> ModuleType:
    """metrics.py, which is imported when it is needed; ManifestError where its client is not installed."""
    _need("prometheus_client", "prometheus-client", "metrics", "metrics")
    return import_module(".metrics", __name__)


def _need(module: str, package: str, option: str, extra: str) -> None:
    try:
        import_module(module)
    except ImportError as error:
        raise ManifestError(
            f"{package} is not installed: pip install 'wasm-gateway[{extra}]'", key=option
        ) from error


class _Counted:
    """A Begin that tells `call` what goes through it."""

    __slots__ = ("_begin", "_call", "_watch")

    def __init__(self, watch: Watch, call: Call, begin: Begin) -> None:
        self._watch = watch
        self._call = call
        self._begin = begin

    def __call__(self, head: Response) -> Callable[[bytes | None], object]:
        call = self._call
        send = self._begin(self._watch.timed(call, head))
        call.status = head.status

        def counted(chunk: bytes | None) -> object:
            sent = send(chunk)
            if chunk:
                call.response_bytes += len(chunk)
            return sent

        return counted


def _server_timing(call: Call) -> str:
    """Milliseconds up to now: all of it, the fresh instance, the guest (W3C Server Timing)."""
    times = [("wasm", call.elapsed), ("wasm-start", call.start_seconds), ("wasm-guest", call.guest_seconds)]
    return ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in times if seconds is not None)
