# What a choice needs of a request, and what it adds to a response, whatever the door.

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

from ..policy import COOKIE, COOKIE_SECONDS, NOBODY, Visitor

# Query parameters that are looked at.
MAX_PARAMETERS = 100


class RequestFacts:
    """policy.Facts but for the headers; each is looked for when a rule asks for it."""

    def __init__(self, method: str, query_string: str, visitor: Callable[[], Visitor] | None = None) -> None:
        self.method = method
        self._query_string = query_string
        self._visitor = visitor
        self._query: Mapping[str, list[str]] | None = None

    def header(self, name: str) -> str | None:
        """The value of a header, by its name in lower case."""
        raise NotImplementedError

    def query(self, name: str) -> str | None:
        if self._query is None:
            try:
                self._query = parse_qs(self._query_string, True, max_num_fields=MAX_PARAMETERS)
            except ValueError:
                self._query = {}
        values = self._query.get(name)
        return values[0] if values else None

    def cookie(self, name: str) -> str | None:
        return cookie_of(self.header("cookie") or "", name)

    def visitor(self) -> Visitor:
        return NOBODY if self._visitor is None else self._visitor()


def cookie_of(header: str, name: str) -> str | None:
    """The first cookie `name` of a Cookie header."""
    for part in header.split(";"):
        key, equals, value = part.partition("=")
        if equals and key.strip() == name:
            return value.strip().strip('"')
    return None


def set_cookie(value: str, secure: bool, path: str = "/") -> str:
    """A Set-Cookie field that keeps a visitor on his side."""
    text = f"{COOKIE}={value}; Path={path}; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax"
    return text + "; Secure" if secure else text
