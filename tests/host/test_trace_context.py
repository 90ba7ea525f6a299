"""W3C Trace Context on requests of guests: what goes along with them, and what does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from wasm_gateway.host.base import Deadline, Grants, HostContext
from wasm_gateway.host.trace_context import traced
from wasm_gateway.messages import Headers, Request

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"

Pairs = list[tuple[str, str]]


def along(incoming: Pairs, own: Pairs = []) -> Pairs:  # noqa: B006
    """What is sent to a server when a guest, asked with headers `incoming`, sets `own`."""
    ctx = HostContext(Grants("guest"), Deadline(120))
    ctx.request = Request("GET", "/", headers=Headers(incoming))
    return list(traced(ctx, tuple(own)))


@pytest.mark.parametrize(
    "incoming",
    [
        [("traceparent", PARENT)],
        [("traceparent", PARENT), ("tracestate", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")],
        [("traceparent", PARENT.replace("00-", "cc-", 1) + "-what-the-future-will-be-like")],
    ],
)
def test_what_goes_along(incoming: Pairs) -> None:
    assert along(incoming) == incoming
    assert along(incoming, [("accept", "*/*")]) == [("accept", "*/*"), *incoming]


def test_a_state_in_pieces() -> None:
    incoming = [("traceparent", PARENT), ("tracestate", "a=1"), ("x", "y"), ("tracestate", "b=2")]
    assert along(incoming) == [("traceparent", PARENT), ("tracestate", "a=1,b=2")]


@pytest.mark.parametrize("own", [[("traceparent", "mine")], [("tracestate", "mine")]])
def test_the_guest_has_its_own(own: Pairs) -> None:
    assert along([("traceparent", PARENT), ("tracestate", "a=1")], own) == own


@pytest.mark.parametrize(
    "value",
    [
        "",
        "hello",
        PARENT.upper(),
        PARENT.replace("00-", "ff-", 1),
        PARENT.replace(TRACE, "0" * 32),
        PARENT.replace("b7ad6b7169203331", "0" * 16),
        PARENT + "-",  # only a later version has more
        PARENT[:-1],
        PARENT + "\n",
        PARENT.replace("00-", "01-", 1) + "-" + "x" * 300,
        " " + PARENT,
    ],
)
def test_what_a_client_made_up(value: str) -> None:
    assert along([("traceparent", value), ("tracestate", "a=1")]) == []


@pytest.mark.parametrize("state", ["", "x" * 513, "caf\xe9", "a=1\r\nevil: 1"])
def test_a_state_that_is_none(state: str) -> None:
    assert along([("traceparent", PARENT), ("tracestate", state)]) == [("traceparent", PARENT)]


def test_two_parents_are_none() -> None:
    assert along([("traceparent", PARENT), ("traceparent", PARENT)]) == []


def test_a_guest_that_answers_no_request() -> None:
    ctx = HostContext(Grants("guest"), Deadline(120))
    assert traced(ctx, (("a", "b"),)) == (("a", "b"),)


# Through the gateway, on the wire


class Telling(BaseHTTPRequestHandler):
    """Answers with the headers of the request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.dumps([[name.lower(), value] for name, value in self.headers.items()]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer


@pytest.fixture
def backend() -> Iterator[str]:
    """HOST:PORT of a server that answers with the headers that it got."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Telling) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def spin_guest(application: Any, wat: Any, address: str) -> Any:
    """A part that answers with what `address` answers."""
    body = f"""
      (call $http_send (i32.const 0) (str "http://{address}/") {"(i32.const 0)" * 7} (i32.const 64))
      (call $out (i32.load (i32.const 88)) (i32.load (i32.const 92)))
      (call $respond (i32.const 200))"""
    return application.part(wat.spin(body), allowed_outbound_hosts=[f"http://{address}"])


@pytest.mark.parametrize("dialect", ["spin", "wasi-http"])
def test_on_the_wire(
    application: Any, wat: Any, components: Any, ask: Any, backend: str, dialect: str
) -> None:
    if dialect == "spin":
        part = spin_guest(application, wat, backend)
    else:
        part = application.part(components.proxy(backend), allowed_outbound_hosts=[f"http://{backend}"])
    gateway = application(guest=part)
    sent = [("traceparent", PARENT), ("tracestate", "a=1"), ("baggage", "user=1"), ("x-secret", "1")]
    status, body = ask(gateway, "/guest", "POST", sent, (b"hello",))
    assert status == 200
    got = dict(json.loads(body))
    assert (got["traceparent"], got["tracestate"]) == (PARENT, "a=1")
    assert not got.keys() & {"baggage", "x-secret"}
    # and nothing is left in the thread, or the connection
    assert not dict(json.loads(ask(gateway, "/guest", "POST", [], (b"hello",))[1])).keys() & {"traceparent"}


def test_to_another_component(application: Any, wat: Any, ask: Any) -> None:
    """Service chaining is an exchange like any other."""
    echo = """(call $out_headers (local.get $headers) (local.get $headers_len))
      (call $respond (i32.const 200))"""
    gateway = application(
        a=spin_guest(application, wat, "b.spin.internal"), b=application.part(wat.spin(echo), route="/b")
    )
    body = ask(gateway, "/a", headers=[("traceparent", PARENT)])[1]
    assert f"traceparent={PARENT}\n".encode() in body
