# Metrics, spans and log fields, from what makes them.

from __future__ import annotations

import inspect
import re

from prometheus_client import CollectorRegistry

from wasm_gateway import policy
from wasm_gateway.observe import Call, Role, tracing
from wasm_gateway.observe.metrics import Metrics
from wasm_gateway.outcomes import Outcome

from .text import code, comments, table, words

LABELS = {
    "component": "The id of a component.",
    "route": "The pattern of a route; `chained` for a component that another one called, `redis` for a "
    "message.",
    "outcome": "What became of the guest, see below.",
    "role": "What it was asked for, see below.",
    "code": "`2xx` and so on, what the client got from the guest; `none` for nothing.",
    "reason": "Why the guest was not asked, see below.",
}
REASONS = {
    "native": "The mode is `native`, the kill switch.",
    "method": "`methods` does not name that of the request.",
    "opt-out": "The request has a switch of `opt_out`.",
    "canary": "The visitor is not among the share.",
    "no header": "`sticky` names a header that the request does not have.",
    "shadow": "The mode is `shadow`: the site answers, the guest is asked beside it.",
    "breaker": "The guest has failed too often; the site answers for `breaker_pause`.",
}
ATTRIBUTES = {
    "http.request.method": "The method; `_OTHER` for an unusual one.",
    "http.request.method_original": "That one.",
    "http.route": "The pattern of the route.",
    "http.response.status_code": "The status that the client got from the guest.",
    "http.response.body.size": "Bytes of the body.",
    "url.scheme": "`http` or `https`.",
    "url.path": "The path.",
    "messaging.system": "`redis`, of a message.",
    "messaging.operation.type": "`process`.",
    "messaging.operation.name": "`process`.",
    "wasm.component": "The id of the component.",
    "wasm.dialect": "The guest's dialect.",
    "wasm.outcome": "What became of the guest, as in the metrics.",
    "wasm.role": "What it was asked for, as in the metrics.",
    "wasm.instance_start": "Seconds that making the instance took.",
    "error.type": "The outcome of a guest that failed, or a status from 500 on.",
    "exception.type": "Of the event `exception`: the class.",
    "exception.message": "Of the event: the reason, at most 1,000 characters.",
    "exception.stacktrace": "Of the event: the guest's backtrace, where it trapped.",
}
FIELDS = {
    "component": "The id of the component.",
    "route": "The pattern of the route.",
    "dialect": "The guest's dialect.",
    "method": "The method of the request.",
    "status": "The status that the client got from the guest.",
    "outcome": "What became of the guest.",
    "role": "What it was asked for.",
    "duration": "Seconds, to the end of the response.",
    "instance_start": "Seconds that making the instance took.",
    "response_bytes": "Bytes of the body.",
}


def metrics() -> str:
    registry = CollectorRegistry()
    made = vars(Metrics(registry)._families)
    assert len(made) == len(list(registry.collect()))
    rows = []
    for metric in made.values():
        [family] = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = " ".join(map(code, metric._labelnames))
        rows.append((code(name), family.type, labels, f"{family.documentation}."))
    return table(("metric", "type", "labels", "meaning"), rows)


def labels() -> str:
    """The labels, and the words that some of them may have."""
    families = vars(Metrics(CollectorRegistry())._families).values()
    known = words([label for metric in families for label in metric._labelnames], LABELS)
    parts = [table(("label", "meaning"), [(code(name), text) for name, text in known.items()])]
    for title, kind in (("outcome", Outcome), ("role", Role)):
        meanings = comments(kind.__module__, kind.__name__)
        parts.append(table((title, "meaning"), [(code(each.value), meanings[each.name]) for each in kind]))
    fixed = {c.reason for c in vars(policy).values() if isinstance(c, policy.Choice) and not c.guest}
    reasons = words([*fixed, "shadow", "breaker"], REASONS)
    parts.append(table(("reason", "meaning"), [(code(name), text) for name, text in reasons.items()]))
    return "\n".join(parts)


def spans() -> str:
    source = inspect.getsource(tracing)
    found = re.findall(r'"((?:http|url|messaging|wasm|error|exception)\.[a-z_.]+)"', source)
    rows = [(code(name), text) for name, text in words(found, ATTRIBUTES).items()]
    return table(("attribute", "meaning"), sorted(rows))


def log_fields() -> str:
    found = words(Call("a", "/a").fields(), FIELDS)
    return table(("field", "meaning"), [(code(name), text) for name, text in found.items()])
