# Two answers to one request, the site's and the guest's: whether they are the same, and
# what of them may be kept.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..messages import NO_HEADERS, Headers, Request


@dataclass(slots=True)
class Answer:
    """What the site, or the guest, answered, and how long that took.

    `body` is None where it was longer than is kept, or cut off.
    """

    status: int
    headers: Headers = NO_HEADERS
    body: bytes | None = b""
    seconds: float = 0.0


Native = Answer


class Comparison:
    """How the answers of one component are compared."""

    def differences(self, request: Request, native: Answer, guest: Answer) -> list[str]:
        return []

    def kept(self, native: Answer, guest: Answer) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {}


def redacted_target(request: Request) -> str:
    return request.path
