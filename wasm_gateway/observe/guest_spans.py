# Spans that guests make themselves (host/wasi/otel.py) -> the SDK's processors.
#
# The API of OpenTelemetry has no way to hand over a span that is over, with ids of its own: so
# this is the one place that knows the SDK, and without one there are no such spans.
#
# Rule: all of it is a guest's. It is cut to what an exporter can carry, so that one guest
# does not spoil the batch in which the spans of others go out.

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
    TraceState,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

# What one span may have of attributes, events and links: the SDK's own limit for each.
MAX_ITEMS = 128
# Characters of a text, and of all texts of a span: some 2,000 spans may wait to go out.
MAX_TEXT = 4096
MAX_SPAN = 64 << 10
ITEM_COST = 64  # of each, over and above its text
_MAX_TIME = (1 << 63) - 1  # nanoseconds
_STATUS = {"unset": StatusCode.UNSET, "ok": StatusCode.OK, "error": StatusCode.ERROR}


class GuestSpans:
    """Takes the spans of a guest that are below `outer`, for one call."""

    __slots__ = ("_outer", "_provider")

    def __init__(self, provider: TracerProvider, outer: Span) -> None:
        self._provider = provider
        self._outer = outer

    def outer(self) -> tuple[Any, ...]:
        """The span-context of wasi:otel/tracing that the guest's own spans belong to."""
        context = self._outer.get_span_context()
        ids = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        sampled = int(context.trace_flags & TraceFlags.SAMPLED)
        return (*ids, sampled, context.is_remote, list(context.trace_state.items()))

    def export(self, data: Any) -> None:
        """Pass on a span-data of wasi:otel/tracing, if it is one and somebody takes it."""
        context = _context(data.span_context)
        processor: Any = getattr(self._provider, "_active_span_processor", None)
        if processor is not None and context.is_valid:
            processor.on_end(self._readable(data, context))

    def _readable(self, data: Any, context: SpanContext) -> ReadableSpan:
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        take = _Bounded()
        parent = _context(data.span_context._replace(span_id=data.parent_span_id, is_remote=False))
        scope = data.instrumentation_scope
        kind, text = data.status
        return ReadableSpan(
            name=take.text(data.name),
            context=context,
            parent=parent if parent.is_valid else None,
            resource=getattr(self._provider, "resource", None),
            kind=SpanKind[data.span_kind.upper()],
            status=Status(_STATUS[kind], None if text is None else take.text(text)),
            start_time=_time(data.start_time),
            end_time=_time(data.end_time),
            instrumentation_scope=InstrumentationScope(
                take.text(scope.name), take.text(scope.version or ""), take.text(scope.schema_url or "")
            ),
            attributes=take.attributes(data.attributes),
            events=[
                Event(take.text(event.name), take.attributes(event.attributes), _time(event.time))
                for event in take.items(data.events)
            ],
            links=[
                Link(linked, take.attributes(link.attributes))
                for link in take.items(data.links)
                if (linked := _context(link.span_context)).is_valid
            ],
        )


class _Bounded:
    """Takes from a guest's span what MAX_SPAN has room for, in the order in which it is asked for."""

    def __init__(self) -> None:
        self._left = MAX_SPAN

    def text(self, text: str) -> str:
        text = text[: min(MAX_TEXT, max(self._left, 0))]
        self._left -= len(text)
        return text

    def items(self, items: Sequence[Any]) -> Iterator[Any]:
        for item in items[:MAX_ITEMS]:
            self._left -= ITEM_COST
            if self._left <= 0:
                return
            yield item

    def attributes(self, pairs: Sequence[Any]) -> dict[str, Any]:
        return {self.text(pair.key): self.value(pair.value) for pair in self.items(pairs)}

    def value(self, text: str) -> Any:
        """A bool, number or string in JSON, or a list of one of these; anything else as it stands."""
        whole = self.text(text)
        try:
            value = json.loads(whole)
        except (ValueError, RecursionError):
            return whole
        if isinstance(value, list):
            return value if len(set(map(type, value))) <= 1 and all(map(_is_scalar, value)) else whole
        return value if _is_scalar(value) else whole


def _context(context: Any) -> SpanContext:
    state = [(key, value) for key, value in context.trace_state[:32] if len(key) + len(value) <= 256]
    return SpanContext(
        _number(context.trace_id, 32),
        _number(context.span_id, 16),
        context.is_remote,
        TraceFlags(context.trace_flags),
        TraceState(state),
    )


def _number(text: str, digits: int) -> int:
    """An id, 0 for what is none."""
    if len(text) != digits or not text.isascii() or not text.isalnum():
        return 0
    try:
        return int(text, 16)
    except ValueError:
        return 0


def _time(moment: Any) -> int:
    return min(int(moment.seconds) * 10**9 + int(moment.nanoseconds), _MAX_TIME)


def _is_scalar(value: object) -> bool:
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 63
    if isinstance(value, str):
        return value.isascii() or value.encode(errors="replace").decode() == value  # no half of a surrogate
    return isinstance(value, float)
