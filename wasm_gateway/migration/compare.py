# Two answers to one request, the site's and the guest's: whether they are the same, and
# what of them may be kept.
#
# Rule 1: the guest is hostile, and both bodies are bounded: nothing here takes more than a time that grows
# with their length, and nothing recurses with their depth.
# Rule 2: differences are for people: few, short, and without secrets (redact.py).

from __future__ import annotations

import json
import logging
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from ..component_options import ComponentOptions
from ..messages import NO_HEADERS, Headers, Request
from . import redact
from .counters import Unseen

log = logging.getLogger("wasm_gateway")

# What is kept of a mismatch.
MAX_DIFFERENCES = 20
MAX_DIFFERENCE = 300  # characters
MAX_BODY = 4096  # bytes of either body, from a little before the first difference
BEFORE = 256
MAX_HEADERS = 40
MAX_HEADER = 300
MAX_TARGET = 1000

# Seconds that a body may take to be made comparable, and bytes that it may have when it is unpacked.
MAX_SECONDS = 1.0
MAX_UNPACKED = 4 << 20
MAX_TEXT = 1 << 20
HTML_CHUNK = 16 << 10


@dataclass(slots=True)
class Answer:
    """What the site, or the guest, answered, and how long that took.

    `body` is None where it was not seen whole; `unseen` says why.
    """

    status: int
    headers: Headers = NO_HEADERS
    body: bytes | None = b""
    seconds: float = 0.0
    unseen: Unseen | None = None


# Of a site's own: what is different, one a line; nothing for the same. It sees bodies as they were sent.
Function = Callable[[Answer, Answer], Sequence[str]]


class Comparison:
    """How the answers of one component are compared; `function` takes the place of all rules for bodies."""

    def __init__(self, options: ComponentOptions, function: Function | None = None) -> None:
        self._headers = tuple(name.lower() for name in options.compare_headers)
        self._body = options.compare_body
        self._ignored = [path.split("/")[1:] for path in options.compare_ignore]
        self._function = function

    def differences(self, request: Request, native: Answer, guest: Answer) -> list[str]:
        """What is different, for people, without secrets; nothing for answers that are the same."""
        found = []
        if native.status != guest.status:
            found.append(f"status: {native.status}, guest {guest.status}")
        found += self._of_headers(request, native, guest)
        if self._function is not None:
            found += self._of_site(self._function, native, guest)
        elif request.method != "HEAD" and native.status not in (204, 304):
            found += self._of_bodies(native, guest)
        bounded = [line if len(line) <= MAX_DIFFERENCE else f"{line[:MAX_DIFFERENCE]} ..." for line in found]
        if len(bounded) > MAX_DIFFERENCES:
            bounded[MAX_DIFFERENCES - 1 :] = [f"and {len(bounded) - MAX_DIFFERENCES + 1} more"]
        return bounded

    def kept(self, native: Answer, guest: Answer) -> tuple[dict[str, Any], dict[str, Any]]:
        """What of two answers may be kept, as JSON has it: status, headers, and of the body what differs."""
        rule = self._rule(native, guest)
        one, other = _text(native, rule), _text(guest, rule)
        at = _place(one, _first_difference(one, other))
        return self._kept(native, one, at, rule), self._kept(guest, other, at, rule)

    def _kept(self, answer: Answer, body: str, at: int, rule: str) -> dict[str, Any]:
        compared = {*self._headers, "set-cookie"}
        fields = [(name, value) for name, value in answer.headers.pairs if name in compared]
        excerpt = body[at : at + MAX_BODY].encode(errors="replace")[:MAX_BODY].decode(errors="ignore")
        if rule == "html":
            excerpt = "\n".join(map(redact.html_tag, excerpt.split("\n")))
        return {
            "status": answer.status,
            "headers": [
                [name, redact.header(name, value)[:MAX_HEADER]] for name, value in fields[:MAX_HEADERS]
            ],
            "body": redact.text(excerpt),
            "offset": at,
            "length": len(answer.body or b""),
        }

    @staticmethod
    def _of_site(function: Function, native: Answer, guest: Answer) -> list[str]:
        try:
            return [redact.text(str(line)) for line in function(native, guest)]
        except Exception as error:
            log.exception("the site's own comparison failed")
            return [f"the site's own comparison failed: {type(error).__name__}"]

    # Headers

    def _of_headers(self, request: Request, native: Answer, guest: Answer) -> Iterator[str]:
        for name in self._headers:
            if name == "set-cookie":
                continue
            one, other = native.headers.get_all(name), guest.headers.get_all(name)
            if _normal(name, one, request) != _normal(name, other, request):
                yield f"{name}: {_shown(name, one)}, guest {_shown(name, other)}"
        cookies, others = _cookie_names(native), _cookie_names(guest)
        if cookies != others:
            yield f"set-cookie: {', '.join(cookies) or 'none'}, guest {', '.join(others) or 'none'}"

    # Bodies

    def _rule(self, native: Answer, guest: Answer) -> str:
        if self._body != "auto":
            return self._body
        kinds = {_media_type(native), _media_type(guest)}
        if len(kinds) == 1:
            [kind] = kinds
            if kind == "application/json" or kind.endswith("+json"):
                return "json"
            if kind == "text/html":
                return "html"
        return "bytes"

    def _of_bodies(self, native: Answer, guest: Answer) -> list[str]:
        rule = self._rule(native, guest)
        if rule == "none" or native.body == guest.body:
            return []
        one, other = unpacked(native), unpacked(guest)
        if one == other:
            return []
        if rule == "json":
            try:
                values = json.loads(one), json.loads(other)
            except (ValueError, RecursionError):
                pass
            else:
                return _of_json(*values, self._ignored)
        elif rule == "html":
            lines, others = html_lines(one), html_lines(other)
            if lines is not None and others is not None:
                return [] if lines == others else _of_lines(lines, others)
        return _of_lines(*(body.decode(errors="replace").splitlines() for body in (one, other)))


def redacted_target(request: Request) -> str:
    """Path and query of a request as they may be kept."""
    return redact.target(request.target[: 4 * MAX_TARGET])[:MAX_TARGET]


def _media_type(answer: Answer) -> str:
    return (answer.headers.get("content-type") or "").partition(";")[0].strip().lower()


def _cookie_names(answer: Answer) -> list[str]:
    return sorted(value.partition("=")[0].strip() for value in answer.headers.get_all("set-cookie"))


def _shown(name: str, values: Sequence[str]) -> str:
    return ", ".join(repr(redact.header(name, value)) for value in values) or "none"


def _normal(name: str, values: Sequence[str], request: Request) -> object:
    """The values of a header, where different texts that mean the same are the same."""
    match name:
        case "vary":
            return {word.strip().lower() for value in values for word in value.split(",")}
        case "content-type" | "cache-control":
            return ["".join(value.lower().split()) for value in values]
        case "location" | "content-location":
            base = f"{request.scheme}://{request.authority or ''}{request.path}"
            return [_joined(base, value) for value in values]
    return values


def _joined(base: str, target: str) -> str:
    try:
        return urljoin(base, target)
    except ValueError:
        return target


def unpacked(answer: Answer) -> bytes:
    """The body without the compression that its head names, where that can be undone."""
    body = answer.body or b""
    encoding = (answer.headers.get("content-encoding") or "").strip().lower()
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return body
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        plain = unpacker.decompress(body, MAX_UNPACKED)
    except zlib.error:
        return body
    return plain if unpacker.eof else body


# JSON


def _of_json(native: Any, guest: Any, ignored: Sequence[Sequence[str]]) -> list[str]:
    """The differences of two values of JSON, but below the paths `ignored`, where `*` is any key or place."""
    found: list[str] = []
    stack = [_Pair(None, "", native, guest, ignored)]
    while stack and len(found) <= MAX_DIFFERENCES:
        pair = stack.pop()
        one, other = pair.native, pair.guest
        if any(not rest for rest in pair.ignored):
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            keys = [*one, *(key for key in other if key not in one)]
            inner = [(key, one.get(key, _ABSENT), other.get(key, _ABSENT)) for key in keys]
        elif isinstance(one, list) and isinstance(other, list):
            inner = [(str(i), *both) for i, both in enumerate(zip(one, other, strict=False))]
            if len(one) != len(other):
                found.append(f"{pair.path}: {len(one)} items, guest {len(other)}")
        else:
            if one != other or isinstance(one, bool) is not isinstance(other, bool):
                shown = (redact.REDACTED,) * 2 if pair.is_secret else (_json(one), _json(other))
                found.append(f"{pair.path}: {shown[0]}, guest {shown[1]}")
            continue
        for key, value, its in reversed(inner):
            rest = [tail[1:] for tail in pair.ignored if tail[0] in ("*", _escaped(key))]
            stack.append(_Pair(pair, key, value, its, rest))
    return found


class _Pair:
    """Two values at the same place, and what is left of the ignored paths that lead there."""

    __slots__ = ("above", "guest", "ignored", "key", "native")

    def __init__(
        self, above: _Pair | None, key: str, native: Any, guest: Any, ignored: Sequence[Sequence[str]]
    ) -> None:
        self.above = above
        self.key = key
        self.native = native
        self.guest = guest
        self.ignored = ignored

    @property
    def path(self) -> str:
        keys: list[str] = []
        pair = self
        while pair.above is not None and len(keys) < MAX_DIFFERENCE:
            keys.append(_escaped(pair.key[:MAX_DIFFERENCE]))
            pair = pair.above
        return redact.text("/" + "/".join(reversed(keys)))

    @property
    def is_secret(self) -> bool:
        pair: _Pair | None = self
        while pair is not None:
            if redact.SECRET_NAME(pair.key):
                return True
            pair = pair.above
        return False


_ABSENT = object()


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")  # RFC 6901, 3


def _json(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return redact.text(json.dumps(value, ensure_ascii=False)[:MAX_DIFFERENCE])


# HTML


def html_lines(body: bytes) -> list[str] | None:
    """A page, a line for each tag and text, without what means nothing; None when there is no telling.

    Without comments; attributes in order, spaces as one, and what is made anew for each visitor (nonces,
    tokens against forged requests) as the same.
    """
    from html.parser import HTMLParser

    lines: list[str] = []
    texts: list[str] = []

    def flush() -> None:
        text = " ".join("".join(texts).split())
        texts.clear()
        if text:
            lines.append(text)

    class Page(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            flush()
            lines.append(_tag(tag, attrs))

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.handle_starttag(tag, attrs)

        def handle_endtag(self, tag: str) -> None:
            flush()
            lines.append(f"</{tag}>")

        def handle_data(self, data: str) -> None:
            texts.append(data)

        def handle_decl(self, decl: str) -> None:
            flush()
            lines.append(f"<!{' '.join(decl.lower().split())}>")

    page = Page(convert_charrefs=True)
    text = body.decode(errors="replace")
    end = time.monotonic() + MAX_SECONDS
    for at in range(0, len(text), HTML_CHUNK):
        try:
            page.feed(text[at : at + HTML_CHUNK])
        except AssertionError:  # how html.parser says that a declaration is none
            return None
        if time.monotonic() > end:
            return None
    # What has no end: `close` would begin again at each "<" of it.
    texts.append(page.rawdata)
    flush()
    return lines


def _tag(tag: str, attrs: Sequence[tuple[str, str | None]]) -> str:
    values = dict(reversed(attrs))  # the first of a name counts
    anew = any(_ANEW(values.get(name) or "") for name in ("name", "id"))
    parts = [tag]
    for name, value in sorted(values.items()):
        if name == "nonce" or (anew and name in ("value", "content")):
            value = redact.REDACTED
        elif value is not None:
            value = " ".join(sorted(value.split()) if name == "class" else value.split())
        parts.append(name if value is None else f'{name}="{value}"')
    return f"<{' '.join(parts)}>"


# Fields whose values are made anew for each visitor, or each page.
_ANEW = re.compile("csrf|xsrf|nonce|authenticity|verificationtoken", re.IGNORECASE).search


# Lines


def _of_lines(native: Sequence[str], guest: Sequence[str]) -> list[str]:
    """The lines that differ, those that are the same at either end left away."""
    first = 0
    shorter = min(len(native), len(guest))
    while first < shorter and native[first] == guest[first]:
        first += 1
    last = 0
    while last < shorter - first and native[-1 - last] == guest[-1 - last]:
        last += 1
    one, other = native[first : len(native) - last], guest[first : len(guest) - last]
    if not one and not other:
        return ["body: other ends of lines"]
    half = MAX_DIFFERENCES // 2 - 1
    found = [f"body: {len(one)} lines from line {first + 1}, guest {len(other)}"]
    for sign, lines in (("-", one), ("+", other)):
        found += [f"{sign} {redact.html_tag(line[: 2 * MAX_DIFFERENCE])}" for line in lines[:half]]
    return found


def _text(answer: Answer, rule: str) -> str:
    """The body as it is shown: in the form in which it was compared."""
    body = unpacked(answer)
    if rule == "none":
        return ""
    if rule == "json":
        try:
            value = redact.json_value(json.loads(body))
            chunks: list[str] = []
            size = 0
            for chunk in json.JSONEncoder(indent=1, ensure_ascii=False).iterencode(value):
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_TEXT:
                    break
            return "".join(chunks)
        except (ValueError, RecursionError):
            pass
    elif rule == "html":
        lines = html_lines(body)
        if lines is not None:
            return "\n".join(lines)
    return body.decode(errors="replace")


def _first_difference(one: str, other: str) -> int:
    """Where two texts differ first: by halves, since slices are compared much faster than characters."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _place(text: str, difference: int) -> int:
    """Where to begin to show a text: a little before the difference, and never within a word.

    A secret is found by the name before it.
    """
    start = max(difference - BEFORE, 0)
    if not start:
        return 0
    line = text.find("\n", start, difference)
    if line >= 0:
        return line + 1
    space = text.find(" ", start, difference)
    return space + 1 if space >= 0 else start
