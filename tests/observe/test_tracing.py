"""Spans, as the SDK's in-memory exporter gets them, and the trace that guests are told of."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode, get_current_span

from tests.host.test_trace_context import PARENT, TRACE, backend, spin_guest
from tests.observe.test_observe import REDIS
from tests.test_gateway import headers_of, say
from wasm_gateway.messages import Request
from wasm_gateway.observe import Call, Quiet
from wasm_gateway.observe.tracing import Tracing
from wasm_gateway.workers import Workers, relay

__all__ = ["backend"]  # a fixture

TRAP = say("never").replace("(call $text", "unreachable (call $text", 1)
ECHO = """(call $out_byte (i32.const 10)) (call $out_headers (local.get $headers) (local.get $headers_len))
  (call $respond (i32.const 200))"""


class Traces:
    """An SDK whose finished spans can be looked at."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(self.provider)
        self.tracer = self.provider.get_tracer("site")

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def wait_for(self, name: str) -> ReadableSpan:
        """A span that may end behind the response, in the thread of the guest."""
        end = time.monotonic() + 60
        while name not in self.spans:
            assert time.monotonic() < end, self.spans
            time.sleep(0.001)
        return self.spans[name]


@pytest.fixture
def traces() -> Traces:
    return Traces()


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def names(traceparent: str, span: ReadableSpan) -> bool:
    """Whether it is that of `span`, sampled; a newer SDK also says that the trace's id is random."""
    begin = f"00-{trace_of(span)}-{span.context.span_id:016x}-"
    return traceparent.startswith(begin) and traceparent[len(begin) :] in ("01", "03")


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def test_the_span_of_a_request(application: Any, wat: Any, ask: Any, traces: Traces) -> None:
    part = application.part(wat.spin(say("hello", 201)), route="/items/:id")
    gateway = application("", {"observers": [traces.tracing]}, hello=part)
    ask(gateway, "/items/7?token=secret", "POST")
    [span] = traces.spans.values()
    assert (span.name, span.kind, span.parent) == ("POST /items/:id", SpanKind.SERVER, None)
    attributes = dict(span.attributes or {})
    assert 0 < attributes.pop("wasm.instance_start") < 30  # type: ignore[operator]
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/items/:id",
        "http.response.status_code": 201,
        "http.response.body.size": 5,
        "url.scheme": "http",
        "url.path": "/items/7",
        "wasm.component": "hello",
        "wasm.dialect": "spin",
        "wasm.outcome": "ok",
        "wasm.role": "answer",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert span.instrumentation_scope.name == "wasm_gateway"
    assert not get_current_span().get_span_context().is_valid


def test_a_client_that_has_a_trace(application: Any, wat: Any, ask: Any, traces: Traces) -> None:
    """The span belongs to it, and the guest hears of the span."""
    gateway = application("", {"observers": [traces.tracing]}, echo=wat.spin(ECHO))
    sent = [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2"), ("x", "y")]
    seen = headers_of(ask(gateway, "/echo", headers=sent)[1])
    [span] = traces.spans.values()
    assert (trace_of(span), span.kind) == (TRACE, SpanKind.SERVER)
    assert parent_of(span) == int("b7ad6b7169203331", 16)
    assert seen["traceparent"] == [f"00-{TRACE}-{span.context.span_id:016x}-01"]
    assert seen["tracestate"] == ["a=1,b=2"]
    assert seen["x"] == ["y"]


def test_below_the_span_of_the_site(application: Any, wat: Any, ask: Any, traces: Traces) -> None:
    """Whatever the client says: the framework has decided about that. And without the site's baggage."""
    gateway = application("", {"observers": [traces.tracing]}, echo=wat.spin(ECHO))
    with traces.tracer.start_as_current_span("GET", kind=SpanKind.SERVER) as site:
        token = context.attach(baggage.set_baggage("user", "secret"))
        seen = headers_of(ask(gateway, "/echo", headers=[("traceparent", PARENT), ("tracestate", "a=1")])[1])
        context.detach(token)
        assert get_current_span() is site
    span = traces.spans["wasm echo"]
    assert (parent_of(span), span.kind) == (site.get_span_context().span_id, SpanKind.INTERNAL)
    assert names(seen["traceparent"][0], span)
    assert not seen.keys() & {"tracestate", "baggage"}


def test_what_happens_meanwhile_is_below_the_span(
    application: Any, wat: Any, ask: Any, traces: Traces
) -> None:
    """Spans of what the host does for the guest; and its log records."""

    class Site(Quiet):
        def begin(self, call: Call) -> None:
            with traces.tracer.start_as_current_span("inside"):
                pass

    gateway = application("", {"observers": [traces.tracing, Site()]}, hello=wat.spin(say("hello")))
    ask(gateway, "/hello")
    spans = traces.spans
    assert parent_of(spans["inside"]) == spans["GET /hello/..."].context.span_id


@pytest.mark.parametrize(
    ("body", "tool", "kind"),
    [
        (TRAP, {}, "trap"),
        (f"(loop $on (br $on)) {say('never')}", {"timeout": "50ms"}, "deadline"),
        (say("too long"), {"max_response_body": 3}, "limit"),
    ],
)
def test_a_guest_that_fails(
    application: Any, wat: Any, ask: Any, traces: Traces, body: str, tool: dict[str, Any], kind: str
) -> None:
    gateway = application(
        "", {"observers": [traces.tracing]}, bad=application.part(wat.spin(body), tool=tool)
    )
    status = ask(gateway, "/bad")[0]
    [span] = traces.spans.values()
    attributes = span.attributes or {}
    assert (attributes["error.type"], attributes["wasm.outcome"]) == (kind, kind)
    assert attributes["http.response.status_code"] == status
    assert span.status.status_code is StatusCode.ERROR
    [event] = span.events
    facts = dict(event.attributes or {})
    assert event.name == "exception"
    name = {"trap": "Trap", "deadline": "DeadlineExceeded", "limit": "LimitExceeded"}[kind]
    assert facts["exception.type"] == f"wasm_gateway.errors.{name}"
    assert facts["exception.message"] == span.status.description
    if kind == "trap":
        # the guest's frames, not ours
        assert "function[" in str(facts["exception.stacktrace"])
        assert ".py" not in str(facts["exception.stacktrace"])


def test_what_is_the_clients_doing_is_no_error(application: Any, wat: Any, ask: Any, traces: Traces) -> None:
    part = application.part(wat.spin(say("no")), tool={"max_request_body": 3})
    gateway = application("", {"observers": [traces.tracing]}, small=part)
    assert ask(gateway, "/small", "POST", [("content-length", "4")])[0] == 413
    [span] = traces.spans.values()
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in (span.attributes or {})
    assert [event.name for event in span.events] == ["exception"]


def test_a_guest_that_answers_500_itself(application: Any, wat: Any, ask: Any, traces: Traces) -> None:
    gateway = application("", {"observers": [traces.tracing]}, bad=wat.spin(say("sorry", 503)))
    ask(gateway, "/bad")
    [span] = traces.spans.values()
    assert (span.attributes or {})["error.type"] == "503"
    assert (span.status.status_code, span.events) == (StatusCode.ERROR, ())


def test_a_method_that_a_client_made_up(application: Any, wat: Any, ask: Any, traces: Traces) -> None:
    gateway = application("", {"observers": [traces.tracing]}, hello=wat.spin(say("hello")))
    ask(gateway, "/hello", "BREW\n")
    [span] = traces.spans.values()
    assert span.name == "HTTP /hello/..."
    attributes = span.attributes or {}
    assert attributes["http.request.method"] == "_OTHER"
    assert attributes["http.request.method_original"] == "BREW\\n"


def test_outbound_requests_belong_to_the_span(
    application: Any, wat: Any, components: Any, ask: Any, traces: Traces, backend: str
) -> None:
    gateway = application(
        "",
        {"observers": [traces.tracing]},
        spin=spin_guest(application, wat, backend),
        wasi=application.part(components.proxy(backend), allowed_outbound_hosts=[f"http://{backend}"]),
    )
    for path in ("/spin", "/wasi"):
        sent = dict(json.loads(ask(gateway, path, "POST", body=(b"hello",))[1]))
        span = traces.spans[f"POST {path}/..."]
        assert names(sent["traceparent"], span)


def test_components_that_call_components(application: Any, wat: Any, ask: Any, traces: Traces) -> None:
    gateway = application(
        "",
        {"observers": [traces.tracing]},
        a=spin_guest(application, wat, "b.spin.internal"),
        b=wat.spin(ECHO),
    )
    seen = headers_of(ask(gateway, "/a", headers=[("traceparent", PARENT)])[1])
    spans = traces.spans
    outer, inner = spans["GET /a/..."], spans["wasm b"]
    assert (trace_of(inner), parent_of(inner)) == (TRACE, outer.context.span_id)
    assert seen["traceparent"] == [f"00-{TRACE}-{inner.context.span_id:016x}-01"]


def test_a_message(application: Any, wat: Any, traces: Traces, backend: str) -> None:
    """A trace begins with it, and goes along with the requests of its handler."""
    guest = wat.flat(
        say("a"),
        f"""(func (export "handle-redis-message") (param i32 i32) (result i32)
          (call $http_send (i32.const 0) (str "http://{backend}/") {"(i32.const 0)" * 7} (i32.const 64))
          (call $print (i32.load (i32.const 88)) (i32.load (i32.const 92)))
          (i32.store (i32.const 64) (i32.const 0)) (i32.const 64))""",
    )
    output: list[bytes] = []

    class Log:
        def write(self, stream: str, data: bytes) -> None:
            output.append(data)

        def close(self) -> None:
            pass

    part = application.part(guest, allowed_outbound_hosts=[f"http://{backend}"])
    gateway = application(REDIS, {"observers": [traces.tracing]}, a=part)
    gateway.open_log = lambda component: Log()
    for _ in range(2):
        gateway.handle_redis("a", b"hello")
    first, second = traces.exporter.get_finished_spans()
    assert (first.name, first.kind, first.parent) == ("process a", SpanKind.CONSUMER, None)
    assert trace_of(first) != trace_of(second)
    assert (first.attributes or {})["messaging.system"] == "redis"
    assert not [name for name in first.attributes or {} if name.startswith(("http.", "url."))]
    [sent, _] = [dict(json.loads(data)) for data in output]
    assert names(sent["traceparent"], first)


def test_a_trace_that_is_not_sampled(application: Any, wat: Any, ask: Any) -> None:
    """Nothing is recorded, and the guest is told so."""
    traces = Traces(sampler=ALWAYS_OFF)
    gateway = application("", {"observers": [traces.tracing]}, echo=wat.spin(ECHO), trap=wat.spin(TRAP))
    [parent] = headers_of(ask(gateway, "/echo", headers=[("traceparent", PARENT)])[1])["traceparent"]
    assert parent.startswith(f"00-{TRACE}-")
    assert parent.endswith("-00")
    assert ask(gateway, "/trap")[0] == 500
    assert traces.spans == {}


def test_without_an_sdk(application: Any, wat: Any, ask: Any) -> None:
    """The guest gets what the client sent, as if there were no tracing."""
    gateway = application("", {"observers": [Tracing(NoOpTracerProvider())]}, echo=wat.spin(ECHO))
    seen = headers_of(ask(gateway, "/echo", headers=[("traceparent", PARENT), ("tracestate", "a=1")])[1])
    assert (seen["traceparent"], seen["tracestate"]) == ([PARENT], ["a=1"])
    assert "traceparent" not in headers_of(ask(gateway, "/echo")[1])


def test_the_option_uses_the_provider_of_the_process(application: Any, wat: Any, ask: Any) -> None:
    gateway = application("", {"tracing": True}, hello=wat.spin(say("hello")))
    assert ask(gateway, "/hello") == (200, b"hello")
    [tracing] = gateway.watch.observers
    assert isinstance(tracing, Tracing)


def test_spans_that_wait_go_out_when_the_gateway_is_closed(application: Any, wat: Any, ask: Any) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    try:
        gateway = application("", {"observers": [Tracing(provider)]}, hello=wat.spin(say("hello")))
        ask(gateway, "/hello")
        assert exporter.get_finished_spans() == ()
        gateway.close()
        assert [span.name for span in exporter.get_finished_spans()] == ["GET /hello/..."]
    finally:
        provider.shutdown()


# Guests in other threads


def test_the_threads_of_asgi(application: Any, components: Any, traces: Traces) -> None:
    gateway = application("", {"observers": [traces.tracing]}, echo=components.echo())
    messages: list[Any] = []

    body = [{"type": "http.request", "body": b"hello"}]

    async def receive() -> dict[str, Any]:
        if not body:
            await asyncio.Event().wait()  # the client stays
        return body.pop()

    async def send(message: Any) -> None:
        messages.append(message)

    async def request() -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/echo",
            "raw_path": b"/echo",
            "query_string": b"",
            "headers": [(b"host", b"x"), (b"content-length", b"5")],
            "scheme": "http",
            "http_version": "1.1",
            "client": ("127.0.0.1", 1),
            "root_path": "",
        }
        with traces.tracer.start_as_current_span("site"):
            await gateway.asgi()(scope, receive, send)

    asyncio.run(request())
    assert b"".join(message.get("body", b"") for message in messages) == b"hello"
    assert parent_of(traces.wait_for("wasm echo")) == traces.spans["site"].context.span_id


def test_the_threads_of_a_relay(application: Any, components: Any, traces: Traces) -> None:
    """Django's, of a synchronous site."""
    gateway = application("", {"observers": [traces.tracing]}, echo=components.echo())
    threads = []

    def handle(begin: Any) -> Any:
        threads.append(threading.current_thread())
        return gateway.handle(Request("POST", "/echo", body=iter([b"x" * 70_000, b"y"])), begin=begin)

    with traces.tracer.start_as_current_span("site"):
        response = relay(Workers(1), handle)
    assert response is not None
    assert len(b"".join(response.body)) == 70_001
    assert threads != [threading.current_thread()]
    assert parent_of(traces.wait_for("wasm echo")) == traces.spans["site"].context.span_id


def test_nothing_is_left_to_the_garbage_collector(application: Any, wat: Any, ask: Any, garbage: Any) -> None:
    tracing = Tracing(TracerProvider(shutdown_on_exit=False))
    gateway = application("", {"observers": [tracing]}, hello=wat.spin(say("hello")), trap=wat.spin(TRAP))

    def work() -> None:
        ask(gateway, "/hello", headers=[("traceparent", PARENT)])
        ask(gateway, "/trap")

    assert garbage(work) == []
