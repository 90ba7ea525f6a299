"""Metrics, read from a registry as Prometheus would read them."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.test_gateway import relay, say
from wasm_gateway.observe import Call, Quiet
from wasm_gateway.observe.metrics import Metrics

TRAP = say("never").replace("(call $text", "unreachable (call $text", 1)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(registry: CollectorRegistry) -> Samples:
    """Every sample, as it is scraped."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"wasm_gateway_{name}", labels)


def test_what_is_counted(application: Any, wat: Any, ask: Any, registry: CollectorRegistry) -> None:
    gateway = application(
        "",
        {"observers": [Metrics(registry)]},
        hello=application.part(wat.spin(say("hello")), route="/items/:id"),
        trap=application.part(wat.spin(TRAP), route="/trap"),
        gone=application.part(wat.spin(say("gone", 410)), route="/gone"),
    )
    for path in ("/items/1", "/items/2", "/items/3", "/trap", "/gone", "/nobody"):
        ask(gateway, path)
    of = {"role": "answer"}
    hello = {"component": "hello", "route": "/items/:id"}
    assert value(registry, "requests_total", **hello, outcome="ok", code="2xx", **of) == 3
    trap = {"component": "trap", "route": "/trap"}
    assert value(registry, "requests_total", **trap, outcome="trap", code="5xx", **of) == 1
    gone = {"component": "gone", "route": "/gone"}
    assert value(registry, "requests_total", **gone, outcome="ok", code="4xx", **of) == 1
    assert value(registry, "response_bytes_total", **hello) == 15
    assert value(registry, "request_duration_seconds_count", **hello) == 3
    whole = value(registry, "request_duration_seconds_sum", **hello)
    start = value(registry, "instance_start_seconds_sum", component="hello")
    assert whole is not None
    assert start is not None
    assert 0 < start < whole
    assert value(registry, "instance_start_seconds_count", component="hello") == 3
    assert value(registry, "requests_in_progress", component="hello") == 0


def test_no_request_makes_a_new_time_series(
    application: Any, wat: Any, ask: Any, registry: CollectorRegistry
) -> None:
    """Whatever a client sends and a guest answers."""
    # the last two digits of the status are those of the path
    echo = wat.spin(
        """(call $respond (i32.add (i32.const 200) (i32.add
          (i32.mul (i32.const 10) (i32.sub (i32.load8_u offset=1 (local.get $uri)) (i32.const 48)))
          (i32.sub (i32.load8_u offset=2 (local.get $uri)) (i32.const 48)))))"""
    )
    gateway = application("", {"observers": [Metrics(registry)]}, echo=application.part(echo, route="/..."))
    assert ask(gateway, "/00/first")[0] == 200
    before = samples(registry).keys()
    for number in range(1, 100):
        method = ("GET", "POST", "DELETE")[number % 3]
        assert (
            ask(gateway, f"/{number:02}/{number}?{number}", method, [("x", f"{number}")])[0] == 200 + number
        )
    after = samples(registry)
    assert after.keys() == before
    assert sum(v for (name, _), v in after.items() if name == "wasm_gateway_requests_total") == 100
    labels = {label for _, pairs in after for label, _ in pairs}
    assert labels == {"component", "route", "outcome", "role", "code", "le"}


def test_requests_in_progress(application: Any, wat: Any, ask: Any, registry: CollectorRegistry) -> None:
    seen = []

    class Looker(Quiet):
        def end(self, call: Call, begun: Any) -> None:
            seen.append([value(registry, "requests_in_progress", component=name) for name in "ab"])

    gateway = application(
        "",
        {"observers": [Metrics(registry), Looker()]},
        a=application.part(
            wat.spin(relay("http://b.spin.internal/x")), allowed_outbound_hosts=["http://b.spin.internal"]
        ),
        b=wat.spin(TRAP),
    )
    ask(gateway, "/a")
    assert seen == [[1, 1], [1, 0]]
    assert [value(registry, "requests_in_progress", component=name) for name in "ab"] == [0, 0]
    chained = {"component": "b", "route": "chained", "outcome": "trap", "role": "answer", "code": "5xx"}
    assert value(registry, "requests_total", **chained) == 1


FALLBACK = {"fallback": ["trap"]}


def test_what_the_site_answers(application: Any, wat: Any, registry: CollectorRegistry) -> None:
    def site(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"native"]

    gateway = application(
        "",
        {"observers": [Metrics(registry)]},
        trap=application.part(wat.spin(TRAP), route="/trap", tool=FALLBACK),
        killed=application.part(wat.spin(say("never")), route="/killed/...", tool={"mode": "native"}),
    )
    door = gateway.wsgi(site)
    for path in ("/trap", "/killed/1", "/killed/2"):
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "HTTP_HOST": "x", "wsgi.url_scheme": "http"}
        assert door(environ, lambda *_: None) == [b"native"]
    trap = {"component": "trap", "route": "/trap", "outcome": "trap", "role": "fallback", "code": "none"}
    assert value(registry, "requests_total", **trap) == 1
    killed = {"component": "killed", "route": "/killed/...", "reason": "native"}
    assert value(registry, "native_requests_total", **killed) == 2
    assert value(registry, "request_duration_seconds_count", component="killed", route="/killed/...") is None


def test_gateways_of_one_process_share_a_registry(
    application: Any, wat: Any, ask: Any, registry: CollectorRegistry
) -> None:
    for _ in range(2):
        ask(application("", {"observers": [Metrics(registry)]}, hello=wat.spin(say("hello"))), "/hello/...")
    of = {"component": "hello", "route": "/hello/...", "outcome": "ok", "role": "answer", "code": "2xx"}
    assert value(registry, "requests_total", **of) == 2


def test_the_option(application: Any, wat: Any, ask: Any) -> None:
    """In the registry that everybody shares."""
    from prometheus_client import REGISTRY

    of = {"component": "default", "route": "/default/...", "outcome": "ok", "role": "answer", "code": "2xx"}
    before = value(REGISTRY, "requests_total", **of) or 0
    ask(application("", {"metrics": True}, default=wat.spin(say("hello"))), "/default")
    assert value(REGISTRY, "requests_total", **of) == before + 1


# A process that is at work on a request when it is killed, and one that serves what all of them counted.
DIES = """
import os, signal
from prometheus_client import REGISTRY
from wasm_gateway.messages import Request
from wasm_gateway.observe import Call
from wasm_gateway.observe.metrics import Metrics

metrics = Metrics()
for number in range(3):
    call = Call("hello", "/hello", Request("GET", "/hello"))
    begun = metrics.begin(call)
    if number < 2:
        metrics.end(call, begun)
os.kill(os.getpid(), signal.SIGKILL)
"""
SERVES = """
import sys
from wasm_gateway.observe.metrics import serve

server, thread = serve("127.0.0.1", 0)
print(server.server_port, flush=True)
sys.stdin.read()
server.shutdown()
thread.join()
server.server_close()
"""


def test_processes_that_are_gone(tmp_path: Path) -> None:
    """What they counted counts on; nobody is at work on what they were at work on."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        died = subprocess.run([sys.executable, "-c", DIES], env=environment, check=False)
        assert died.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("gauge_livesum_*.db"))) == 2
    with subprocess.Popen(
        [sys.executable, "-c", SERVES],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        assert server.stdin is not None
        server.stdin.close()
    assert server.returncode == 0
    assert 'wasm_gateway_request_duration_seconds_count{component="hello",route="/hello"} 4.0' in text
    assert "wasm_gateway_requests_in_progress{" not in text
    assert list(tmp_path.glob("gauge_livesum_*.db")) == []
