# The Gateway as an ASGI application or middleware.
#
# Rule 1: guests block, so they run in threads of our own, a bounded number of them; the loop only
# passes bytes on (exchange.py). `inline`, of the door or of a component, is the site's promise that
# its guests are quick enough for the loop.
# Rule 2: what an application below sees of a request, its body included, is what the server sent,
# whoever has looked at it before.

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .errors import Disconnected, RequestError, Saturated
from .exchange import AsyncAnswer, Exchange, Inbox, Lookouts, Message, Outbox, Receive
from .messages import Headers, Request, Response, Trailers, refusal
from .migration.compare import Answer
from .migration.counters import Unseen
from .migration.requests import RequestFacts, set_cookie
from .migration.tee import Tee
from .workers import Workers
from .wsgi import (
    Outgoing,
    OutputBody,
    below,
    checked_authority,
    content_length,
    is_bodiless,
    outgoing,
    pick_path,
    trailing,
    visible,
)

if TYPE_CHECKING:
    from .gateway import Gateway
    from .migration.pilot import Turn
    from .policy import Visitor
    from .router import RouteMatch

log = logging.getLogger("wasm_gateway")

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Guests that run at once in a process. They are started when there is work for them, and one that waits
# for somebody holds its own: with 100 slow requests in two processes, 32 (asyncio; anyio has 40) made
# quick ones wait for 175 ms at the 99th percentile, 128 for 23 to 32.
THREADS = 128

# Seconds of the loop that a component may take which its manifest calls quick; then it runs in threads.
LOOP_SECONDS = 0.25

# Bytes that a request body may have for its guest to run on the loop.
INLINE_BODY_BYTES = 64 << 10

# The extension of a server that sends trailers; those of requests reach no application yet.
# - hypercorn, gunicorn: over HTTP/2
TRAILERS = "http.response.trailers"

# Messages that stand for the bytes of a file.
ELSEWHERE = ("http.response.pathsend", "http.response.zerocopysend")


class AsgiGateway:
    """`gateway` as an ASGI application, or as middleware around `app`.

    A path that no route of the manifest answers goes to `app`, as do websockets; without one it is a 404,
    and websockets are closed. Routes lie below root_path, and there below `prefix` ("/shop"), which guests
    do not see and `app` does. `threads` bounds how many guests run at once. `inline` runs guests on the
    event loop, for guests that answer within a millisecond; large uploads still go to a thread. Of a
    component with the option `inline` it is so in any case.
    """

    def __init__(
        self,
        gateway: Gateway,
        app: App | None = None,
        *,
        prefix: str = "",
        threads: int = THREADS,
        inline: bool = False,
        visitor: Callable[[Scope], Visitor] | None = None,
    ) -> None:
        self.gateway = gateway
        self.app = app
        self.prefix = prefix
        self.visitor = visitor
        self.inline = inline
        self.workers = Workers(threads)
        self._match = gateway.match
        self._lookouts: Lookouts | None = None  # of the last loop that was seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            path = raw_path(scope, self.prefix)
            match = None if path is None else self._match(path)
            if match is not None:
                assert path is not None
                turn = None
                if self.app is None:
                    self.gateway.follow()
                else:
                    turn = self.gateway.choose(match, _Facts(scope, self.visitor))
                if turn is None:
                    await self._http(scope, receive, send, path, match)
                else:
                    await self._shared(scope, receive, send, path, match, turn)
            elif self.app is not None:
                await self.app(scope, receive, send)
            else:
                await send_answer(send, outgoing(Response(404), scope["method"]))
        elif kind == "lifespan":
            await _Lifespan(self, receive, send).run(scope)
        elif self.app is not None:
            await self.app(scope, receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise ValueError(f"scope of type {kind!r} is not served here")

    async def _shared(
        self, scope: Scope, receive: Receive, send: Send, path: str, match: RouteMatch, turn: Turn
    ) -> None:
        """A request that the guest answers, or the app, or first the one and then the other."""
        assert self.app is not None
        if turn.choice.cookie is not None:
            send = _with_cookie(scope, send, turn.choice.cookie)
        if turn.keeps_body:
            try:
                turn.kept = await keep_body(scope, receive, turn.limit)
            except Disconnected as error:
                log.info("%s %r: %s", scope["method"], path, error)
                return
        if turn.choice.guest:
            await self._http(scope, receive, send, path, match, turn)
            return
        if turn.kept is not None:
            receive = replaying(turn.kept, receive)
            if turn.choice.shadow:
                await self._overheard(scope, receive, send, path, turn)
                return
        elif turn.choice.shadow:
            turn.unseen(Unseen.REQUEST)
        elif turn.times_native:
            await self._timed(scope, receive, send, turn)
            return
        await self.app(scope, receive, send)

    async def _timed(self, scope: Scope, receive: Receive, send: Send, turn: Turn) -> None:
        """What the app answers, as one side of a canary."""
        assert self.app is not None
        overheard = Overheard(send, 0)
        try:
            await self.app(scope, receive, overheard.send)
        except Exception:
            turn.native(0, 0.0)
            raise
        native = overheard.answer()
        if native.seconds:  # else the client has left
            turn.native(native.status, native.seconds)

    async def _overheard(self, scope: Scope, receive: Receive, send: Send, path: str, turn: Turn) -> None:
        """What the app answers; once it has gone out, the guest gets the same request."""
        assert self.app is not None
        given = {**scope}  # the app may change it
        overheard = Overheard(send, turn.limit)
        await self.app(scope, receive, overheard.send)
        try:
            request = to_request(given, path, (turn.kept,) if turn.kept else ())
        except RequestError:
            turn.unseen(Unseen.REFUSED)
        else:
            turn.shadowed(request, overheard.answer())

    async def _http(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        path: str,
        match: RouteMatch,
        turn: Turn | None = None,
    ) -> None:
        method: str = scope["method"]
        kept = None if turn is None else turn.kept
        inbox = Inbox(receive) if kept is None and has_body(scope) else None
        exchange = None
        answer: Outgoing | AsyncAnswer | None
        trailers: Trailers | None = None
        try:
            try:
                request = to_request(scope, path, (kept,) if kept else () if inbox is None else inbox)
                if (self.inline or self.gateway.runs_inline(match)) and _is_short(request):
                    if inbox is not None:
                        request = replace(request, body=await inbox.whole())
                    since = time.monotonic()
                    response = self.gateway.handle(request, match, None, turn)
                    if not self.inline and time.monotonic() - since > LOOP_SECONDS:
                        self.gateway.leave_loop(match)
                    answer = None
                    if response is not None:
                        answer, trailers = outgoing(response, method), response.trailers
                else:
                    exchange = Exchange(self.gateway, request, match, receive, inbox, turn)
                    answer = await exchange.run(self.workers, self._lookouts_here())
                    inbox, trailers = exchange.inbox, exchange.trailers
            except Disconnected:
                raise
            except (RequestError, Saturated) as error:
                log.info("%s %r: %s", method, path, error)
                answer = outgoing(refusal(error), method)
                if turn is not None and turn.failed(error):
                    answer = None
            if answer is None:
                if self.app is not None:
                    if inbox is not None:
                        receive = await inbox.give_back()
                    await self.app(scope, receive if kept is None else replaying(kept, receive), send)
                    return
                answer = outgoing(Response(404), method)
            if is_bodiless(method, answer[0]) or TRAILERS not in (scope.get("extensions") or ()):
                trailers = None
            await send_answer(send, answer, trailers)
        except Disconnected as error:
            log.info("%s %r: %s", method, path, error)
        finally:
            if exchange is not None:
                exchange.close()

    def _lookouts_here(self) -> Lookouts:
        loop = asyncio.get_running_loop()
        lookouts = self._lookouts
        if lookouts is None or lookouts.loop is not loop:
            lookouts = self._lookouts = Lookouts(loop)
        return lookouts


# Requests that are shared out


class _Facts(RequestFacts):
    """policy.Facts of an http scope."""

    def __init__(self, scope: Scope, visitor: Callable[[Scope], Visitor] | None) -> None:
        query = scope.get("query_string", b"")
        text = query.decode("latin-1") if isinstance(query, bytes) else query
        super().__init__(scope["method"], text, partial(visitor, scope) if visitor else None)
        self._headers = scope["headers"]

    def header(self, name: str) -> str | None:
        wanted = name.encode("latin-1")
        for key, value in self._headers:
            if key == wanted:
                text: str = value.decode("latin-1")
                return text
        return None


def _with_cookie(scope: Scope, send: Send, value: str) -> Send:
    secure = scope.get("scheme") == "https"
    field = b"set-cookie", set_cookie(value, secure, scope.get("root_path") or "/").encode("latin-1")

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), field]}
        await send(message)

    return sending


class Overheard:
    """A `send` that sees a response go by."""

    def __init__(self, send: Send, limit: int) -> None:
        self._send = send
        self._tee = Tee(limit)
        self._status = 0
        self._headers: Iterable[tuple[bytes, bytes]] = ()
        self._ended = False
        self._begin = perf_counter()
        self._waited = 0.0

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.body":
            self._tee.see(message.get("body", b""))
            if not message.get("more_body", False):
                self._ended = True
                self._stop()
        elif kind == "http.response.start":
            self._status, self._headers = message["status"], message.get("headers", ())
        elif kind in ELSEWHERE:
            self._tee.lose(Unseen.FILE)
            self._stop()
        begin = perf_counter()
        await self._send(message)
        self._waited += perf_counter() - begin

    def _stop(self) -> None:
        self._tee.seconds = perf_counter() - self._begin - self._waited

    def answer(self) -> Answer:
        if not self._ended:
            self._tee.lose(Unseen.CUT)
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers]
        return self._tee.answer(self._status, Headers(fields))


async def keep_body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The request body; None, and nothing is read, when it is longer, or when nobody knows.

    Disconnected when the client leaves before its end.
    """
    if not has_body(scope):
        return b""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    length = content_length(lengths[0].decode("latin-1")) if len(lengths) == 1 else None
    if length is None or length > limit:
        return None
    return (await Inbox(receive).whole())[0]


def replaying(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` first."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


# From the server


def raw_path(scope: Scope, prefix: str = "") -> str | None:
    """The path below root_path as it stood in the request line; None when it is no path.

    With a `prefix` it is what follows that, and None where nothing does. `raw_path` is optional in ASGI, and
    counts where it says the same as `path`, which includes `root_path` from most servers and frameworks and
    not from all.
    """
    path: str = scope["path"]
    script: str = scope.get("root_path", "")
    rest = below(path, script) if script else None
    if rest is not None:
        path = rest
    if prefix:
        rest = below(path, prefix)
        if rest is None:
            return None
        path, script = rest, script + prefix
    raw: bytes | None = scope.get("raw_path")
    return pick_path(None if raw is None else raw.decode("latin-1"), script, path, unquote, "utf-8")


def to_request(
    scope: Scope,
    path: str,
    body: Iterable[bytes],
    *,
    authority: str | None = None,
    scheme: str | None = None,
) -> Request:
    """The request of an http `scope` at the raw `path` (what `raw_path` gave).

    `authority` and `scheme` replace what the scope says. Raises RequestError when there is not one host.
    """
    fields = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
    hosts = [value for name, value in fields if name == "host"]
    if authority is None:
        authority = ",".join(hosts)
    elif hosts != [authority]:
        # The site decided which name counts (a proxy's); the guest sees that one alone.
        fields = (*[field for field in fields if field[0] != "host"], ("host", authority))
    query = scope.get("query_string", b"")
    if isinstance(query, bytes):  # Django's test client has text
        query = query.decode("latin-1")
    client = scope.get("client")
    return Request(
        method=scope["method"],
        path=path,
        query=(query if query.isascii() else visible(query)) or None,
        headers=Headers.trusted(fields),
        body=body,
        scheme=scope.get("scheme", "http") if scheme is None else scheme,
        authority=checked_authority(authority),
        client=(client[0], client[1] or 0) if client else None,
        protocol=f"HTTP/{scope.get('http_version', '1.1')}",
    )


def has_body(scope: Scope) -> bool:
    """Whether a body may follow: HTTP/1 announces it (RFC 9112, 6.3), later versions need not."""
    if scope.get("http_version", "1.1") not in ("1.0", "1.1"):
        return True
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            return True
    return False


def _is_short(request: Request) -> bool:
    if request.body == ():
        return True
    length = content_length(request.headers.get("content-length"))
    return length is not None and length <= INLINE_BODY_BYTES


# To the server


async def send_answer(send: Send, answer: Outgoing | AsyncAnswer, trailers: Trailers | None = None) -> None:
    status, fields, body = answer
    start = head(status, fields)
    if trailers is not None:
        start["trailers"] = True
    await send(start)
    await _send_body(send, body)
    if trailers is not None:
        await send({"type": TRAILERS, "headers": _raw(trailing(trailers))})


def head(status: int, fields: list[tuple[str, str]]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": _raw(fields)}


def whole(body: tuple[bytes, ...]) -> Message:
    return {"type": "http.response.body", "body": body[0] if len(body) == 1 else b"".join(body)}


def _raw(fields: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]


async def _send_body(send: Send, body: tuple[bytes, ...] | OutputBody | Outbox) -> None:
    if isinstance(body, tuple):
        await send(whole(body))
        return
    if isinstance(body, Outbox):
        async for chunk in body:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    else:
        # inline: each chunk is made on the loop
        try:
            for chunk in body:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            body.close()
    await send({"type": "http.response.body", "body": b""})


# Life


class _StartupFailed(Exception):
    """Unwinds the application whose gateway could not be opened."""


class _Lifespan:
    """The lifespan of a process: opens and closes the gateway around what a wrapped app does.

    An app that does not know the protocol raises or returns early; then the gateway answers alone.
    """

    def __init__(self, door: AsgiGateway, receive: Receive, send: Send) -> None:
        self.door = door
        self.receive = receive
        self.send = send
        self.asked: str | None = None  # "startup" or "shutdown", not yet answered
        self.over = False

    async def run(self, scope: Scope) -> None:
        app = self.door.app
        try:
            if app is not None:
                try:
                    await app(scope, self._receive, self._send)
                except Exception as error:
                    if self.over and not isinstance(error, _StartupFailed):
                        raise
                    log.debug("the application has no lifespan: %r", error)
            while not self.over:
                if self.asked is None:
                    await self._receive()
                await self._send({"type": f"lifespan.{self.asked}.complete"})
        except _StartupFailed:
            pass  # the server knows

    async def _receive(self) -> Message:
        message = await self.receive()
        self.asked = message["type"].removeprefix("lifespan.")
        if self.asked == "startup":
            try:
                await self.door.workers.call(self.door.gateway.open)
            except Exception as error:
                self.over = True
                log.exception("the gateway cannot be opened")
                await self.send({"type": "lifespan.startup.failed", "message": str(error)})
                raise _StartupFailed from error
        return message

    async def _send(self, message: Message) -> None:
        if self.over:
            return
        self.asked = None
        if message["type"] != "lifespan.startup.complete":
            self.over = True
            await self.door.workers.call(self.door.gateway.close)
        await self.send(message)
