# Traces, by the API of OpenTelemetry: what becomes of them is up to the SDK that the
# site sets up; without one nothing does.
#
# Rule 1: one span for each request or message, below the framework's where there is one, else
# the server's own, whose parent is what the client's traceparent says.
# Rule 2: names and values are those of the semantic conventions (HTTP spans, exceptions), stable ones;
# what they have not begins with `wasm.`.
# Rule 3: a guest gets the W3C headers of its span and no baggage: that is the site's own.

from __future__ import annotations

from typing import Any

from opentelemetry.context import Context, attach, detach
from opentelemetry.propagate import extract
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    TracerProvider,
    get_current_span,
    get_tracer,
    get_tracer_provider,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..errors import Trap
from ..guest_logs import printable
from ..messages import Headers
from . import Call, Outcome, Quiet
from .guest_spans import GuestSpans

SCHEMA = "https://opentelemetry.io/schemas/1.37.0"

# RFC 9110 and PATCH; a client may send any word (semantic conventions: http.request.method).
_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
_W3C = ("traceparent", "tracestate")
# Characters of a guest's message, and lines of its backtrace, in an event.
_MESSAGE, _FRAMES = 1000, 20
_FLUSH_MILLISECONDS = 5000
# What is the client's doing is no error of the server (semantic conventions: HTTP server spans, status).
_NOT_OURS = (Outcome.REFUSED, Outcome.DISCONNECTED)


class Tracing(Quiet):
    """The Observer that makes spans; by `provider`, or the one that is set for the process."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = get_tracer("wasm_gateway", tracer_provider=provider, schema_url=SCHEMA)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, call: Call) -> tuple[Span, Any]:
        span, context = self._message(call) if call.is_message else self._request(call)
        context = set_span_in_context(span, context)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context)
        if carrier:
            call.carry(carrier.items(), instead=_W3C)
        if span.is_recording():
            call.spans = GuestSpans(self._provider or get_tracer_provider(), span)
        return span, attach(context)

    def _message(self, call: Call) -> tuple[Span, None]:
        attributes = {
            "messaging.system": "redis",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "wasm.component": call.component,
        }
        name = f"process {call.component}"
        return self._tracer.start_span(name, None, SpanKind.CONSUMER, attributes), None

    def _request(self, call: Call) -> tuple[Span, Context | None]:
        request = call.request
        known = request.method in _METHODS
        attributes = {
            "http.request.method": request.method if known else "_OTHER",
            "http.route": call.route,
            "url.scheme": request.scheme,
            "url.path": request.path,
            "wasm.component": call.component,
        }
        if not known:
            attributes["http.request.method_original"] = _text(request.method)
        around = get_current_span().get_span_context()
        context = None if around.is_valid else extract(request.headers, getter=_GETTER)
        if around.is_valid and not around.is_remote:
            name, kind = f"wasm {call.component}", SpanKind.INTERNAL
        else:
            name, kind = f"{request.method if known else 'HTTP'} {call.route}", SpanKind.SERVER
        return self._tracer.start_span(name, context, kind, attributes), context

    def end(self, call: Call, begun: tuple[Span, Any]) -> None:
        span, token = begun
        detach(token)
        if span.is_recording():
            _describe(span, call)
        span.end()

    def close(self) -> None:
        # of the SDK; a worker of `wasm-gateway up` ends before the SDK's own end would come
        flush = getattr(self._provider or get_tracer_provider(), "force_flush", None)
        if flush is not None:
            flush(_FLUSH_MILLISECONDS)


def _describe(span: Span, call: Call) -> None:
    span.set_attribute("wasm.outcome", call.outcome.value)
    span.set_attribute("wasm.role", call.role.value)
    if call.dialect:
        span.set_attribute("wasm.dialect", call.dialect)
    if call.start_seconds is not None:
        span.set_attribute("wasm.instance_start", call.start_seconds)
    if call.status is not None:
        span.set_attribute("http.response.status_code", call.status)
        span.set_attribute("http.response.body.size", call.response_bytes)
    error = call.error
    if error is not None:
        if call.outcome not in _NOT_OURS:
            span.set_attribute("error.type", call.outcome.value)
            span.set_status(StatusCode.ERROR, _text(str(error)))
        event = {
            "exception.type": f"{type(error).__module__}.{type(error).__qualname__}",
            "exception.message": _text(str(error)),
        }
        if isinstance(error, Trap) and error.frames:
            event["exception.stacktrace"] = "\n".join(map(_text, error.frames[:_FRAMES]))
        span.add_event("exception", event)
    elif call.status is not None and call.status >= 500:
        span.set_attribute("error.type", str(call.status))
        span.set_status(StatusCode.ERROR)


def _text(text: str) -> str:
    return printable(text[:_MESSAGE].encode(errors="backslashreplace"))


class _HeadersGetter(Getter[Headers]):
    def get(self, carrier: Headers, key: str) -> list[str] | None:
        return carrier.get_all(key) or None

    def keys(self, carrier: Headers) -> list[str]:
        return [name for name, _ in carrier.pairs]


_GETTER = _HeadersGetter()
