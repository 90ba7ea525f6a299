"""wasi:otel: spans, log records and metrics that a guest makes itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from wasm_gateway.component.types import RecordType
from wasm_gateway.component.values import Ok, record_class
from wasm_gateway.errors import LimitExceeded, Trap
from wasm_gateway.host.application import Hosts
from wasm_gateway.host.base import Deadline, Grants, HostContext
from wasm_gateway.host.trace_context import traced
from wasm_gateway.host.wasi.otel import MAX_SPANS, WasiOtel
from wasm_gateway.messages import Request
from wasm_gateway.observe import Call, Watch, guest_spans
from wasm_gateway.observe.tracing import Tracing
from wasm_gateway.runtime_config import RuntimeConfig

RC = "0.2.0-rc.2"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def record(interface: str, name: str) -> Any:
    """The class of values that a guest's record arrives as."""
    offered = Hosts(RuntimeConfig()).interface(f"wasi:otel/{interface}@{RC}")
    assert offered is not None
    type_ = offered.type.types[name]
    assert isinstance(type_, RecordType)
    return record_class(tuple(field.label for field in type_.fields), name)


CONTEXT, DATA, EVENT, LINK = (
    record("tracing", name) for name in ("span-context", "span-data", "event", "link")
)
KEY_VALUE, SCOPE = record("types", "key-value"), record("types", "instrumentation-scope")
MOMENT = record_class(("seconds", "nanoseconds"), "datetime")
LOG = record("logs", "log-record")


def context(span: str, trace: str = TRACE, flags: int = 1) -> Any:
    return CONTEXT(trace, span, flags, False, [("a", "1")])


def data(span: str, **changes: Any) -> Any:
    """A span-data of little content."""
    values: dict[str, Any] = {
        "span_context": context(span),
        "parent_span_id": "b7ad6b7169203331",
        "span_kind": "client",
        "name": "work",
        "start_time": MOMENT(1, 5),
        "end_time": MOMENT(2, 0),
        "attributes": [],
        "events": [],
        "links": [],
        "status": ("unset", None),
        "instrumentation_scope": SCOPE("scope", "1.0", None, []),
        "dropped_attributes": 0,
        "dropped_events": 0,
        "dropped_links": 0,
    }
    return DATA(**values | changes)


class Guest:
    """An instance in the middle of a request that is traced, or is not."""

    def __init__(self, traced: bool) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, resource=Resource({"service.name": "site"}))
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.watch = Watch([Tracing(self.provider)] if traced else [])
        self.call = Call("guest", "/", Request("GET", "/"))
        self.ctx = HostContext(Grants("guest"), Deadline(120))
        self.host = WasiOtel()

    def start(self, span: Any) -> None:
        self.host.on_start(self.ctx, span)

    def end(self, span: Any) -> None:
        self.host.on_end(self.ctx, span)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())


@pytest.fixture(params=[True])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    guest = Guest(request.param)
    outer, begun = guest.watch._begin(guest.call)
    yield guest
    guest.watch._end(guest.call, outer, begun)


def pairs(**values: Any) -> list[Any]:
    return [KEY_VALUE(key, json.dumps(value)) for key, value in values.items()]


ONE, TWO, THREE = "1" * 16, "2" * 16, "3" * 16


def test_a_span(guest: Guest) -> None:
    attributes = {"text": "a", "number": 1, "part": 0.5, "flag": True, "list": ["a", "b"], "none": []}
    guest.start(context(ONE))
    guest.end(
        data(
            ONE,
            attributes=pairs(**attributes),
            events=[EVENT("happened", MOMENT(1, 7), pairs(x=1))],
            links=[LINK(context(THREE), pairs(y=2))],
            status=("error", "broken"),
        )
    )
    [span] = guest.spans
    assert (span.name, span.kind, dict(span.attributes or {})) == ("work", SpanKind.CLIENT, attributes)
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.context.span_id:016x}" == ONE
    assert span.context.trace_state.to_header() == "a=1"
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert (span.start_time, span.end_time) == (10**9 + 5, 2 * 10**9)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "broken")
    [event], [link] = span.events, span.links
    assert (event.name, event.timestamp, dict(event.attributes or {})) == ("happened", 10**9 + 7, {"x": 1})
    assert (f"{link.context.span_id:016x}", dict(link.attributes or {})) == (THREE, {"y": 2})
    assert (span.instrumentation_scope.name, span.instrumentation_scope.version) == ("scope", "1.0")
    assert span.resource.attributes["service.name"] == "site"
    # as exporters read it
    assert json.loads(span.to_json())["name"] == "work"


def test_the_span_around(guest: Guest) -> None:
    """That of the gateway, which the guest's own belong to."""
    outer = CONTEXT(*guest.host.outer_span_context(guest.ctx))
    assert guest.call.spans is not None
    [(_, parent)] = [pair for pair in guest.call.request.headers.pairs if pair[0] == "traceparent"]
    assert parent.startswith(f"00-{outer.trace_id}-{outer.span_id}-")
    assert (outer.trace_flags, outer.is_remote, outer.trace_state) == (1, False, [])


def test_requests_go_out_below_the_span_that_goes_on(guest: Guest) -> None:
    def sent() -> dict[str, str]:
        return dict(traced(guest.ctx, ()))

    guest.ctx.request = guest.call.request
    around = sent()["traceparent"]
    guest.start(context(ONE))
    guest.start(context(TWO))
    assert sent() == {"traceparent": f"00-{TRACE}-{TWO}-01", "tracestate": "a=1"}
    guest.end(data(TWO))
    assert sent()["traceparent"] == f"00-{TRACE}-{ONE}-01"
    guest.start(context(THREE, trace="not hexadecimal"))
    assert sent() == {}
    guest.end(data(THREE))
    guest.end(data(ONE))
    assert sent()["traceparent"] == around


def test_a_span_that_was_not_started(guest: Guest) -> None:
    with pytest.raises(Trap, match="not started"):
        guest.end(data(ONE))
    guest.start(context(ONE))
    guest.end(data(ONE))
    with pytest.raises(Trap, match="not started"):
        guest.end(data(ONE))


def test_there_are_so_many_spans(guest: Guest) -> None:
    for number in range(MAX_SPANS):
        guest.start(context(f"{number + 1:016x}"))
        guest.end(data(f"{number + 1:016x}"))
    assert len(guest.spans) == MAX_SPANS
    with pytest.raises(LimitExceeded):
        guest.start(context(ONE))


@pytest.mark.parametrize(
    "text", ["{}", "null", "nothing", "", '[1, "a"]', "[[1]]", "[" * 5000, '"\\ud800"', str(1 << 64)]
)
def test_a_value_that_no_exporter_takes_is_text(guest: Guest, text: str) -> None:
    guest.start(context(ONE))
    guest.end(data(ONE, attributes=[KEY_VALUE("key", text)]))
    [span] = guest.spans
    assert dict(span.attributes or {}) == {"key": text[: guest_spans.MAX_TEXT]}
    span.to_json()


def test_a_span_is_bounded(guest: Guest) -> None:
    """However it is made: in texts, in attributes, in events of attributes, in links of them."""
    long = "x" * 100_000
    many = [KEY_VALUE(f"{number}{long}", json.dumps(long)) for number in range(1000)]
    guest.start(context(ONE))
    guest.end(
        data(
            ONE,
            name=long,
            attributes=many,
            events=[EVENT(long, MOMENT((1 << 64) - 1, 0), many)] * 1000,
            links=[LINK(context(TWO), many)] * 1000,
            status=("error", long),
            instrumentation_scope=SCOPE(long, long, long, many),
            end_time=MOMENT((1 << 64) - 1, 0),
        )
    )
    [span] = guest.spans
    assert span.end_time == (1 << 63) - 1
    assert len(span.to_json()) < 2 * guest_spans.MAX_SPAN
    # small ones, by their number
    guest.start(context(TWO))
    guest.end(data(TWO, attributes=pairs(**{f"k{number}": number for number in range(1000)})))
    assert len(guest.spans[1].attributes or {}) == guest_spans.MAX_ITEMS


@pytest.mark.parametrize(
    "span", ["", "0" * 16, "x" * 16, "1" * 15, "1_1" + "1" * 13, "\u0661" * 16, "1" * 32]
)
def test_a_span_without_an_id_goes_nowhere(guest: Guest, span: str) -> None:
    guest.start(context(span))
    guest.end(data(span))
    assert guest.spans == []


@pytest.mark.parametrize("guest", [False], indirect=True)
def test_where_nobody_traces(guest: Guest) -> None:
    """All is taken, and forgotten."""
    assert guest.host.outer_span_context(guest.ctx) == ("0" * 32, "0" * 16, 0, False, [])
    guest.start(context(ONE))
    guest.end(data(ONE))
    guest.end(data(TWO))
    assert guest.spans == []
    assert traced(guest.ctx, ()) == ()
    assert guest.host.export(guest.ctx, (None, [])) == Ok()


def test_log_records(guest: Guest) -> None:
    """Lines of the guest's own output, which is bounded and kept with all it says."""
    lines: list[bytes] = []

    class Logged(HostContext):
        def log(self, stream: str, data: bytes) -> None:
            lines.append(data)

    ctx = Logged(Grants("guest"), Deadline(120))
    nothing = dict.fromkeys(LOG._fields)
    said = {"severity_text": "WARN", "body": '"the\\nbody"', "attributes": pairs(a="x", b=[1])}
    guest.host.on_emit(ctx, LOG(**nothing | said))
    guest.host.on_emit(ctx, LOG(**nothing | {"body": "{}"}))
    guest.host.on_emit(ctx, LOG(**nothing | {"body": r'"\ud800"'}))  # JSON, and no text
    assert lines == [b"WARN the\\nbody a=x b=[1]\n", b"{}\n", b"\\ud800\n"]


def test_a_guest(application: Any, components: Any) -> None:
    """A component that imports all of it: what it gets of the span around is what the gateway made."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # the record of outer-span-context begins with address and size of the trace's id
    wasm = components.http(
        """(call $outer-span-context (i32.const 256))
        (call $answer (local.get $out) (i32.const 200)
          (i32.load (i32.const 256)) (i32.load (i32.const 260)))""",
        {f"wasi:otel/tracing@{RC}": ("outer-span-context",)},
    )
    gateway = application("", {"observers": [Tracing(provider)]}, guest=wasm)
    response = gateway.handle(Request("GET", "/guest"))
    [span] = exporter.get_finished_spans()
    assert b"".join(response.body).decode() == f"{span.context.trace_id:032x}"
