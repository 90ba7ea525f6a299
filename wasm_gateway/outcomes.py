# What became of a guest that was asked: for metrics, for logs, and for who answers instead.
#
# Rule: whatever ends a request is told apart here, and nowhere else.

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from .errors import (
    ComponentError,
    DeadlineExceeded,
    Disconnected,
    GatewayError,
    GuestError,
    LimitExceeded,
    RequestError,
    Saturated,
)


class Outcome(StrEnum):
    """What became of a guest that was asked."""

    OK = "ok"  #: It answered, with whatever status.
    TRAP = "trap"  #: It stopped, or gave no valid answer.
    DEADLINE = "deadline"  #: It took longer than its `timeout`.
    LIMIT = "limit"  #: It asked for more memory, or answered more, than it may.
    SATURATED = "saturated"  #: There was no place for it.
    LINK = "link"  #: It cannot be loaded, or exports no handler.
    HOST = "host"  #: What stands behind a host interface failed, or the manifest.
    REFUSED = "refused"  #: The request was not to be served.
    DISCONNECTED = "disconnected"  #: The client left.
    ERROR = "error"  #: A mistake of the gateway.


# The first that fits counts.
_OUTCOMES: Sequence[tuple[type[BaseException], Outcome]] = (
    (DeadlineExceeded, Outcome.DEADLINE),
    (LimitExceeded, Outcome.LIMIT),
    (GuestError, Outcome.TRAP),
    (Saturated, Outcome.SATURATED),
    (ComponentError, Outcome.LINK),
    (Disconnected, Outcome.DISCONNECTED),
    (RequestError, Outcome.REFUSED),
    (GatewayError, Outcome.HOST),
)


def outcome_of(error: BaseException) -> Outcome:
    """What an exception means for the request that it ended."""
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), Outcome.ERROR)
