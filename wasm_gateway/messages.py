# HTTP messages between the doors and the executors.
#
# Rule 1: framework-free, and never changed once made; a door translates into these
# and back. Nothing enforces it: a frozen dataclass takes 2 us more to make, each.
# Rule 2: header names are lower-case ASCII; header values are text in which each
# character is one byte (latin-1), exactly as WSGI and HTTP/1.1 have them on the
# wire. Whoever needs other encodings decodes, and decides what to do on failure.
# Rule 3: bodies are iterables of bytes, read once, never buffered here. What follows
# one, the trailers, is known when it has been read to its end, and not before. The body
# of a request may have `wait(seconds) -> bool`: whether its next chunk, or its end, comes
# within that time. It takes what is to be called when there is something new, from any
# thread, as its attribute `news`. Without them nobody but the server can end the waiting
# for a client.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .errors import GatewayError, Saturated


class Headers:
    """An immutable, ordered multi-map of header fields.

    Made from (name, value) pairs; names are matched in any case.
    """

    __slots__ = ("pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self.pairs: tuple[tuple[str, str], ...] = tuple((name.lower(), value) for name, value in pairs)

    @classmethod
    def trusted(cls, pairs: tuple[tuple[str, str], ...]) -> Headers:
        """The same from pairs whose names are lower-case already, without looking at them again."""
        headers = cls.__new__(cls)
        headers.pairs = pairs
        return headers

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of `name`, or `default`."""
        name = name.lower()
        for key, value in self.pairs:
            if key == name:
                return value
        return default

    def get_all(self, name: str) -> list[str]:
        """Every value of `name`, in order."""
        name = name.lower()
        return [value for key, value in self.pairs if key == name]

    def without(self, *names: str) -> Headers:
        """A copy that lacks `names` (lower case)."""
        return Headers.trusted(tuple(pair for pair in self.pairs if pair[0] not in names))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __repr__(self) -> str:
        return f"Headers({list(self.pairs)!r})"


NO_HEADERS = Headers()

# The fields behind a body (RFC 9110, 6.5), asked for when that has been read to its end.
Trailers = Callable[[], Headers]

# Names that are none of them: they say how to read the message, or what may be done with it (6.5.1).
_NOT_TRAILERS = """authorization cache-control connection content-encoding content-length content-range
content-type host keep-alive max-forwards set-cookie te trailer transfer-encoding upgrade"""
NOT_TRAILERS = frozenset(_NOT_TRAILERS.split())


@dataclass(slots=True)
class Request:
    """A request as the gateway routes it.

    `path` is raw (never percent-decoded), begins with "/" and has no query; `query` is the raw text
    behind "?", None without one. `authority` is what the Host header or the request line said, None
    without one. `client` is the peer's (address, port). `trailers` is None where none can follow the body;
    `gone` says whether nobody waits for the response any more, None where a door learns that by sending.
    """

    method: str
    path: str
    query: str | None = None
    headers: Headers = NO_HEADERS
    body: Iterable[bytes] = ()
    scheme: str = "http"
    authority: str | None = None
    client: tuple[str, int] | None = None
    protocol: str = "HTTP/1.1"
    trailers: Trailers | None = None
    gone: Callable[[], bool] | None = None

    @property
    def target(self) -> str:
        """Path and query, as in the request line."""
        return self.path if self.query is None else f"{self.path}?{self.query}"


@dataclass(slots=True)
class Response:
    """A response; `body` is iterated once, then `close()` frees what stands behind it.

    A body that is a tuple is complete, so that a door may state its length. `trailers` is None where none
    can follow the body; a door that cannot send any leaves them out.
    """

    status: int
    headers: Headers = NO_HEADERS
    body: Iterable[bytes] = ()
    trailers: Trailers | None = None

    def close(self) -> None:
        close = getattr(self.body, "close", None)
        if close is not None:
            close()


def refusal(error: GatewayError) -> Response:
    """What a client learns of an error: its status, and when to come back; the reason is for the log."""
    if isinstance(error, Saturated):
        return Response(error.status, Headers([("retry-after", str(error.retry_after))]))
    return Response(error.status)


# What a door gives that can send a response before it is whole. It is called once at the most, with a
# response that has no body yet, in the thread that asked for the response; what it gives takes each chunk,
# in order, and may block. Either raises GatewayError when the client cannot get it. None stands for the end
# of the body, where the guest goes on after it; a door that cannot end the response before ignores it.
Begin = Callable[[Response], Callable[[bytes | None], object]]

# Stands for a response that has gone through a Begin whole.
STREAMED = Response(200)
