# Metrics for Prometheus, by prometheus-client.
#
# Rule 1: names, types and labels are in this file, and are bounded: a
# request can make no new time series but by what the manifest names.
# Rule 2: where processes share PROMETHEUS_MULTIPROC_DIR, the client adds them up; nothing
# here knows how many there are.

from __future__ import annotations

import glob
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, cast
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from . import MULTIPROC_DIR, Call, Quiet

# Upper bounds in seconds: a guest may answer in 50 us, and has 30 s by default.
_REQUEST_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_START_BUCKETS = (0.00002, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1)


class _Families:
    """The metrics of one registry; several gateways of a process share them."""

    _lock = threading.Lock()  # guards the next, for as long as it takes to make one
    _made: WeakKeyDictionary[CollectorRegistry, _Families] = WeakKeyDictionary()

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "wasm_gateway_requests",
            "Requests that a guest was asked to answer, and what became of them",
            ("component", "route", "outcome", "role", "code"),
            registry=registry,
        )
        self.duration = Histogram(
            "wasm_gateway_request_duration_seconds",
            "How long these took, the response and its sending included",
            ("component", "route"),
            registry=registry,
            buckets=_REQUEST_BUCKETS,
        )
        self.start = Histogram(
            "wasm_gateway_instance_start_seconds",
            "How long fresh instances took to be made",
            ("component",),
            registry=registry,
            buckets=_START_BUCKETS,
        )
        self.response_bytes = Counter(
            "wasm_gateway_response_bytes",
            "Bytes of response bodies",
            ("component", "route"),
            registry=registry,
        )
        self.in_progress = Gauge(
            "wasm_gateway_requests_in_progress",
            "Requests that guests are at work on",
            ("component",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.native = Counter(
            "wasm_gateway_native_requests",
            "Requests of a guest's route that the site answered without asking the guest",
            ("component", "route", "reason"),
            registry=registry,
        )

    @classmethod
    def of(cls, registry: CollectorRegistry) -> _Families:
        with cls._lock:
            found = cls._made.get(registry)
            if found is None:
                found = cls._made[registry] = cls(registry)
            return found


class Metrics(Quiet):
    """The Observer that counts, in `registry`."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._families = _Families.of(registry)
        # Looking a time series up by its labels takes a lock and 2 us: each is kept by what it is of.
        self._in_progress: dict[str, Gauge] = {}
        self._requests: dict[tuple[object, ...], Counter] = {}
        self._of_route: dict[tuple[str, str], tuple[Callable[[float], object], ...]] = {}
        self._starts: dict[str, Histogram] = {}

    def begin(self, call: Call) -> Gauge:
        gauge = self._in_progress.get(call.component)
        if gauge is None:
            gauge = self._in_progress[call.component] = self._families.in_progress.labels(call.component)
        gauge.inc()
        return gauge

    def end(self, call: Call, begun: Gauge) -> None:
        begun.dec()
        # the first digit of a status: a guest may choose any of 800
        digit = (call.status or 0) // 100
        key = (call.component, call.route, call.outcome, call.role, digit)
        counter = self._requests.get(key)
        if counter is None:
            labels = (call.component, call.route, call.outcome.value, call.role.value, _code(digit))
            counter = self._requests[key] = self._families.requests.labels(*labels)
        counter.inc()
        route = (call.component, call.route)
        told = self._of_route.get(route)
        if told is None:
            families = self._families
            told = families.duration.labels(*route).observe, families.response_bytes.labels(*route).inc
            self._of_route[route] = told
        observe, add = told
        observe(call.seconds)
        if call.response_bytes:
            add(call.response_bytes)
        if call.start_seconds is not None:
            histogram = self._starts.get(call.component)
            if histogram is None:
                histogram = self._starts[call.component] = self._families.start.labels(call.component)
            histogram.observe(call.start_seconds)

    def passed(self, component: str, route: str, reason: str) -> None:
        self._families.native.labels(component, route, reason).inc()


def _code(digit: int) -> str:
    return f"{digit}xx" if 1 <= digit <= 9 else "none"


class _Shared:
    """Collects what all processes wrote to a folder; those that are gone are at work on nothing."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._all = MultiProcessCollector(None, folder)

    def collect(self) -> Iterable[Metric]:
        for path in glob.glob(os.path.join(self._folder, "gauge_live*.db")):
            found = re.search(r"_(\d+)\.db$", path)
            if found is not None and not _lives(int(found[1])):
                try:
                    mark_process_dead(int(found[1]), self._folder)
                except FileNotFoundError:
                    pass  # somebody else collects too
        return cast(Iterable[Metric], self._all.collect())


def _lives(pid: int) -> bool:
    if sys.platform == "win32":  # where 0 is no signal that only asks
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return True


def serve(host: str, port: int) -> tuple[Any, threading.Thread]:
    """Answer GET /metrics at this address, for all processes, in a thread. The server, and this; OSError."""
    folder = os.environ.get(MULTIPROC_DIR)
    registry = REGISTRY
    if folder is not None:
        registry = CollectorRegistry()
        registry.register(_Shared(folder))
    return start_http_server(port, host, registry)
