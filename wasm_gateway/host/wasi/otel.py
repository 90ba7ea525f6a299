# wasi:otel 0.2.0-rc.2, which Spin has behind a flag: spans, log records and metrics that a
# guest makes itself (spin, crates/factor-otel).
#
# Rule 1: spans go where those of the gateway go (observe/tracing.py), if there is such a place;
# else, and for metrics in any case, what the guest tells is taken and forgotten.
# Rule 2: a log record is a line of the guest's output, and bounded as that is.
# Rule 3: a guest may start so many spans, and no more.

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ...component.values import Ok
from ...errors import LimitExceeded, Trap
from ...observe import current as watched
from ..base import HostContext
from ..trace_context import SPANS, SpanContext

_WIT = """
package wasi:otel@0.2.0-rc.2;
interface types {
  type key = string;
  type value = string;
  record key-value { key: key, value: value }
  record %resource { attributes: list<key-value>, schema-url: option<string> }
  record instrumentation-scope {
    name: string, version: option<string>, schema-url: option<string>, attributes: list<key-value>,
  }
}
interface tracing {
  use wasi:clocks/wall-clock@0.2.0.{datetime};
  use types.{key-value, instrumentation-scope};
  type trace-id = string;
  type span-id = string;
  flags trace-flags { sampled }
  type trace-state = list<tuple<string, string>>;
  record span-context {
    trace-id: trace-id, span-id: span-id, trace-flags: trace-flags, is-remote: bool, trace-state: trace-state,
  }
  enum span-kind { client, server, producer, consumer, internal }
  record event { name: string, time: datetime, attributes: list<key-value> }
  record link { span-context: span-context, attributes: list<key-value> }
  variant status { unset, ok, error(string) }
  record span-data {
    span-context: span-context,
    parent-span-id: string,
    span-kind: span-kind,
    name: string,
    start-time: datetime,
    end-time: datetime,
    attributes: list<key-value>,
    events: list<event>,
    links: list<link>,
    status: status,
    instrumentation-scope: instrumentation-scope,
    dropped-attributes: u32,
    dropped-events: u32,
    dropped-links: u32,
  }
  on-start: func(context: span-context);
  on-end: func(span: span-data);
  outer-span-context: func() -> span-context;
}
interface logs {
  use types.{instrumentation-scope, %resource, value, key-value};
  use tracing.{span-id, trace-id, trace-flags};
  use wasi:clocks/wall-clock@0.2.0.{datetime};
  record log-record {
    timestamp: option<datetime>,
    observed-timestamp: option<datetime>,
    severity-text: option<string>,
    severity-number: option<u8>,
    body: option<value>,
    attributes: option<list<key-value>>,
    event-name: option<string>,
    %resource: option<%resource>,
    instrumentation-scope: option<instrumentation-scope>,
    trace-id: option<trace-id>,
    span-id: option<span-id>,
    trace-flags: option<trace-flags>,
  }
  on-emit: func(data: log-record);
}
interface metrics {
  use wasi:clocks/wall-clock@0.2.0.{datetime};
  use wasi:clocks/monotonic-clock@0.2.0.{duration};
  use types.{key-value, instrumentation-scope, %resource};
  use tracing.{span-id, trace-id};
  type error = string;
  variant metric-number { %f64(f64), %s64(s64), %u64(u64) }
  enum temporality { cumulative, delta, low-memory }
  record exemplar {
    filtered-attributes: list<key-value>,
    time: datetime,
    value: metric-number,
    span-id: span-id,
    trace-id: trace-id,
  }
  record gauge-data-point { attributes: list<key-value>, value: metric-number, exemplars: list<exemplar> }
  record gauge { data-points: list<gauge-data-point>, start-time: option<datetime>, time: datetime }
  record sum-data-point { attributes: list<key-value>, value: metric-number, exemplars: list<exemplar> }
  record sum {
    data-points: list<sum-data-point>,
    start-time: datetime,
    time: datetime,
    temporality: temporality,
    is-monotonic: bool,
  }
  record histogram-data-point {
    attributes: list<key-value>,
    count: u64,
    bounds: list<f64>,
    bucket-counts: list<u64>,
    min: option<metric-number>,
    max: option<metric-number>,
    sum: metric-number,
    exemplars: list<exemplar>,
  }
  record histogram {
    data-points: list<histogram-data-point>, start-time: datetime, time: datetime, temporality: temporality,
  }
  record exponential-bucket { offset: s32, counts: list<u64> }
  record exponential-histogram-data-point {
    attributes: list<key-value>,
    count: u64,
    min: option<metric-number>,
    max: option<metric-number>,
    sum: metric-number,
    scale: s8,
    zero-count: u64,
    positive-bucket: exponential-bucket,
    negative-bucket: exponential-bucket,
    zero-threshold: f64,
    exemplars: list<exemplar>,
  }
  record exponential-histogram {
    data-points: list<exponential-histogram-data-point>,
    start-time: datetime,
    time: datetime,
    temporality: temporality,
  }
  variant metric-data {
    f64-gauge(gauge),
    f64-sum(sum),
    f64-histogram(histogram),
    f64-exponential-histogram(exponential-histogram),
    u64-gauge(gauge),
    u64-sum(sum),
    u64-histogram(histogram),
    u64-exponential-histogram(exponential-histogram),
    s64-gauge(gauge),
    s64-sum(sum),
    s64-histogram(histogram),
    s64-exponential-histogram(exponential-histogram),
  }
  record metric { name: string, description: string, unit: string, data: metric-data }
  record scope-metrics { scope: instrumentation-scope, metrics: list<metric> }
  record resource-metrics { %resource: %resource, scope-metrics: list<scope-metrics> }
  %export: func(metrics: resource-metrics) -> result<_, error>;
}
"""
INTERFACES = {f"wasi:otel/{name}@0.2.0-rc.2": _WIT for name in ("types", "tracing", "logs", "metrics")}

# Spans that one instance may start.
MAX_SPANS = 1000
# Where nobody watches: no trace (Trace Context, 3.2.2.3).
NO_SPAN = SpanContext("0" * 32, "0" * 16, 0, False, [])


class _Spans:
    """Those of one instance that go on, in the order in which they began, and how many there were."""

    def __init__(self) -> None:
        self.active: dict[str, SpanContext] = {}
        self.started = 0


class WasiOtel:
    """The functions that guests import."""

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        match interface:
            case "wasi:otel/tracing@0.2.0-rc.2":
                return {
                    "on-start": self.on_start,
                    "on-end": self.on_end,
                    "outer-span-context": self.outer_span_context,
                }
            case "wasi:otel/logs@0.2.0-rc.2":
                return {"on-emit": self.on_emit}
            case "wasi:otel/metrics@0.2.0-rc.2":
                return {"export": self.export}
        return {}

    def close(self) -> None:
        pass

    def on_start(self, ctx: HostContext, context: Any) -> None:
        if watched.call is None or watched.call.spans is None:
            return
        spans = ctx.state.setdefault(WasiOtel, _Spans())
        spans.started += 1
        if spans.started > MAX_SPANS:
            raise LimitExceeded(f"more than {MAX_SPANS} spans", "spans")
        ctx.state[SPANS] = spans.active
        spans.active[context.span_id] = SpanContext(*context)

    def on_end(self, ctx: HostContext, span: Any) -> None:
        if watched.call is None or watched.call.spans is None:
            return
        spans = ctx.state.get(WasiOtel)
        if spans is None or spans.active.pop(span.span_context.span_id, None) is None:
            raise Trap("a span ends that was not started")
        watched.call.spans.export(span)

    def outer_span_context(self, ctx: HostContext) -> Any:
        if watched.call is None or watched.call.spans is None:
            return NO_SPAN
        return watched.call.spans.outer()

    def on_emit(self, ctx: HostContext, record: Any) -> None:
        """A line as `WARN the body key=value`; values are JSON, and strings among them stand bare."""
        words = [record.severity_text or "", record.event_name or "", _bare(record.body or "")]
        words += [f"{key}={_bare(value)}" for key, value in record.attributes or ()]
        ctx.log(
            "stderr",
            " ".join(filter(None, words)).replace("\n", "\\n").encode(errors="backslashreplace") + b"\n",
        )

    def export(self, ctx: HostContext, metrics: Any) -> Any:
        return Ok()


def _bare(value: str) -> str:
    """A JSON string as it is meant, other JSON as it stands."""
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            pass
    return value
