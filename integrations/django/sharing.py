# Requests that guests and views share: what a choice needs of a HttpRequest, and what it
# leaves on a response.
#
# Rule 1: the user is looked up when a rule asks for him, and his groups when it names some:
# a route that needs neither costs no session and no query.
# Rule 2: a view finds its request as it came, whoever has read it before.

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponseBase
from django.http.request import RawPostDataException, UnreadablePostError
from django.utils.cache import patch_vary_headers

from wasm_gateway.errors import GatewayError, RequestError
from wasm_gateway.gateway import Target
from wasm_gateway.messages import Headers
from wasm_gateway.migration.counters import Unseen
from wasm_gateway.migration.requests import RequestFacts
from wasm_gateway.migration.tee import Tee
from wasm_gateway.policy import COOKIE, COOKIE_SECONDS, NOBODY, Visitor
from wasm_gateway.wsgi import BARE_HEADERS, content_length

from .convert import to_request
from .identity import current

if TYPE_CHECKING:
    from wasm_gateway.migration.pilot import Turn
    from wasm_gateway.policy import Rule
    from wasm_gateway.router import RouteMatch


class SiteFacts(RequestFacts):
    """policy.Facts of a HttpRequest, for `rule`."""

    def __init__(self, request: HttpRequest, rule: Rule, visitor: Visitor | None = None) -> None:
        super().__init__(request.META["REQUEST_METHOD"], request.META.get("QUERY_STRING", ""))
        self._request = request
        self._rule = rule
        self._known = visitor

    def header(self, name: str) -> str | None:
        key = name.upper().replace("-", "_")
        value: str | None = self._request.META.get(key if key in BARE_HEADERS else f"HTTP_{key}")
        return value

    def cookie(self, name: str) -> str | None:
        return self._request.COOKIES.get(name)

    def visitor(self) -> Visitor:
        if self._known is None:
            self._known = visitor_of(self._request, self._rule)
        return self._known


@dataclass(slots=True)
class Passage:
    """What became of a request for a Wasm route: `request.wasm`, for whoever asks.

    `turn` is None where only the guest may answer; `by_guest` is whether it has.
    """

    match: RouteMatch
    turn: Turn | None = None
    by_guest: bool = False

    @property
    def component(self) -> str:
        target = self.match.route.target
        return (target.trigger.component or "") if isinstance(target, Target) else ""

    @property
    def route(self) -> str:
        return self.match.route.raw


def visitor_of(request: HttpRequest, rule: Rule) -> Visitor:
    """The user of a request as far as `rule` is concerned; nobody, where no middleware has set one."""
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return NOBODY
    groups: frozenset[str] = frozenset()
    if rule.groups and hasattr(user, "groups"):
        groups = frozenset(user.groups.values_list("name", flat=True))
    return Visitor(str(user.pk), groups, bool(getattr(user, "is_staff", False)))


def keep_body(request: HttpRequest, limit: int) -> bytes | None:
    """The body, for guest and view; None when it is longer, or Django's own limit is lower.

    RequestError when the client leaves before its end. Of one that somebody has used up there is no more
    than the view's own form, which is enough for the view.
    """
    if not hasattr(request, "_body"):
        length = _length(request)
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        if length is None or length > (limit if most is None else min(limit, most)):
            return None
    try:
        body: bytes = request.body
    except RawPostDataException:
        return b""
    except UnreadablePostError as error:
        raise RequestError(f"client disconnected: {error}") from error
    return body if len(body) <= limit else None


def keep_for_shadow(turn: Turn, request: HttpRequest) -> bool:
    """Whether the guest can be given the request after the view has had it."""
    try:
        turn.kept = keep_body(request, turn.limit)
    except RequestError:
        turn.kept = None  # the view will see
    if turn.kept is None:
        turn.unseen(Unseen.REQUEST)
    return turn.kept is not None


def _length(request: HttpRequest) -> int | None:
    """How long the body is at most; None when nobody knows before it is read."""
    length = content_length(request.META.get("CONTENT_LENGTH"))
    if length is not None:
        return length
    file = getattr(request, "_stream", None)
    if hasattr(request, "environ") or file is None or not file.seekable():
        # Django takes it for empty; the server may know better
        return None if "HTTP_TRANSFER_ENCODING" in request.META else 0
    # ASGIHandler has received all of it into a file
    position = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(position)
    return int(end - position)


def shadow(turn: Turn, request: HttpRequest, path: str, response: HttpResponseBase, seconds: float) -> None:
    """Have the guest answer too, once the view's answer, which took `seconds`, has gone out."""
    # as the view left it: what other middleware adds, the guest would be given too
    status, headers = response.status_code, _fields(response)
    tee = Tee(turn.limit)
    tee.seconds = seconds
    finished: Callable[[], object] | None = None
    if not response.streaming:
        tee.see(response.content)  # type: ignore[attr-defined]
    elif _is_sent_by_server(request, response):
        tee.lose(Unseen.FILE)
    else:
        finished = overhear(response, tee)
    if turn.answer is not None:
        run, answer = copy_context().run, turn.answer
        run(current.set, request)
        turn.answer = lambda message: run(answer, message)

    def gone_out() -> None:
        if finished is not None:
            finished()
        try:
            turn.shadowed(to_request(request, path), tee.answer(status, headers))
        except (GatewayError, DisallowedHost):
            turn.unseen(Unseen.REFUSED)

    _at_close(request, gone_out)


def timed(turn: Turn, request: HttpRequest, response: HttpResponseBase, seconds: float) -> None:
    """The view has answered, in so many seconds, as one side of a canary."""
    status = response.status_code
    if not response.streaming or _is_sent_by_server(request, response):
        turn.native(status, seconds)
        return
    tee = Tee(0)
    tee.seconds = seconds
    overhear(response, tee)
    _at_close(request, lambda: turn.native(status, tee.seconds))


def _at_close(request: HttpRequest, function: Callable[[], object]) -> None:
    """Call `function` when all is over."""
    close = request.close

    def closing() -> None:
        del request.close
        try:
            function()
        finally:
            close()

    # Django closes a request with its last response; the view's own may be another one, of which nobody
    # hears any more (ConditionalGetMiddleware)
    request.close = closing  # type: ignore[method-assign]


def _fields(response: HttpResponseBase) -> Headers:
    fields = [(name.lower(), value) for name, value in response.items()]
    fields += [("set-cookie", cookie.OutputString()) for cookie in response.cookies.values()]
    return Headers.trusted(tuple(fields))


def _is_sent_by_server(request: HttpRequest, response: HttpResponseBase) -> bool:
    """Whether WSGIHandler gives the response to `wsgi.file_wrapper`, so that nobody iterates it here."""
    is_file = getattr(response, "file_to_stream", None) is not None
    return is_file and bool(request.META.get("wsgi.file_wrapper"))


def overhear(response: HttpResponseBase, tee: Tee) -> Callable[[], None]:
    """Have `tee` see the content of a response that streams, in the way in which its view streams it.

    What this returns is called when all is over: what has not been read to its end then is CUT.
    """
    streaming: Any = response
    content = streaming.streaming_content
    whole = False

    def chunks() -> Iterator[bytes]:
        nonlocal whole
        following = iter(content).__next__
        while True:
            begin = perf_counter()
            try:
                chunk = following()
            except StopIteration:
                whole = True
                return
            finally:
                tee.seconds += perf_counter() - begin
            tee.see(chunk)
            yield chunk

    async def async_chunks() -> AsyncIterator[bytes]:
        nonlocal whole
        following = aiter(content).__anext__
        while True:
            begin = perf_counter()
            try:
                chunk = await following()
            except StopAsyncIteration:
                whole = True
                return
            finally:
                tee.seconds += perf_counter() - begin
            tee.see(chunk)
            yield chunk

    def finished() -> None:
        if not whole:
            tee.lose(Unseen.CUT)

    streaming.streaming_content = async_chunks() if streaming.is_async else chunks()
    return finished


def finish(turn: Turn, request: HttpRequest, response: HttpResponseBase) -> None:
    """What a choice adds to the response of either side."""
    choice = turn.choice
    if choice.cookie is not None:
        response.set_cookie(
            COOKIE,
            choice.cookie,
            max_age=COOKIE_SECONDS,
            path=request.META.get("SCRIPT_NAME") or "/",
            secure=request.is_secure(),
            httponly=True,
            samesite="Lax",
        )
    if choice.reason == "canary" and turn.rule.sticky in ("cookie", "user"):
        patch_vary_headers(response, ("Cookie",))  # caches must not give one side's answer to the other
