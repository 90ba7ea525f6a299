# The ASGI door and the bridge between an event loop and the threads of guests. A
# guest here is a Python function; tests/integrations/test_servers.py runs real ones.

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from wasm_gateway import asgi, exchange, workers
from wasm_gateway.asgi import AsgiGateway, raw_path, to_request
from wasm_gateway.errors import ComponentError, Disconnected, GuestError, RequestError, Saturated
from wasm_gateway.exchange import Exchange, Inbox
from wasm_gateway.messages import Begin, Headers, Request, Response
from wasm_gateway.router import RouteMatch, Router
from wasm_gateway.workers import Workers

SECONDS = 60  # what may never be reached


class Guests:
    """Routes whose guests are functions, run as Gateway runs them."""

    def __init__(
        self, routes: dict[str, Callable[[Request], Response | None]], fail: Exception | None = None
    ) -> None:
        self.match = Router(routes.items()).match
        self.calls: list[str] = []
        self.fail = fail
        self.quick: list[Any] = []

    def runs_inline(self, match: RouteMatch) -> bool:
        return match.route.target in self.quick

    def leave_loop(self, match: RouteMatch) -> None:
        """A machine may be slow."""

    def choose(self, match: RouteMatch, facts: object) -> None:
        return None

    def follow(self) -> None:
        """There is no ledger."""

    def handle(
        self, request: Request, match: RouteMatch, begin: Begin | None = None, turn: object = None
    ) -> Response | None:
        guest: Any = match.route.target
        try:
            response: Response | None = guest(request)
        except RequestError as error:
            return Response(error.status)
        return response

    def open(self) -> None:
        self.calls.append("open")
        if self.fail is not None:
            raise self.fail

    def close(self) -> None:
        self.calls.append("close")


def door(
    guest: Callable[[Request], Response | None], app: Any = None, route: str = "/...", **options: Any
) -> AsgiGateway:
    return AsgiGateway(Guests({route: guest}), app, **options)  # type: ignore[arg-type]


def text(*chunks: bytes, status: int = 200) -> Response:
    return Response(status, Headers([("content-type", "text/plain")]), chunks)


def http(path: str = "/", method: str = "GET", **extra: Any) -> dict[str, Any]:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.com")],
        "client": ("10.0.0.7", 4711),
        "server": ("127.0.0.1", 80),
    }
    return scope | extra


def upload(path: str = "/", length: int | None = None, **fields: str) -> dict[str, Any]:
    headers = [(b"host", b"example.com")]
    headers += [(name.encode(), value.encode()) for name, value in fields.items()]
    if length is None:
        headers.append((b"transfer-encoding", b"chunked"))
    else:
        headers.append((b"content-length", str(length).encode()))
    return http(path, "POST", headers=headers)


class Server:
    """One connection of a server: what it receives is what a test sends."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for message in messages:
            self.inbox.put_nowait(message)
        self.sent: list[dict[str, Any]] = []
        self.asked = 0

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        return await self.inbox.get()

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def disconnect(self) -> None:
        self.inbox.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = self.sent[0]["headers"]
        return headers

    @property
    def body(self) -> bytes:
        """All of it, which ends with the last message."""
        assert [message.get("more_body", False) for message in self.sent[1:]] == [True] * (
            len(self.sent) - 2
        ) + [False]
        return b"".join(message["body"] for message in self.sent[1:])


def chunk(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(SECONDS):
            return await main()

    return asyncio.run(bounded())


def ask(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> Server:
    async def main() -> Server:
        server = Server(*(messages or (chunk(b""),)))
        await app(scope, server.receive, server.send)
        return server

    result: Server = run(main)
    return result


async def native(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"native"})


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


async def until_async(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No guest is a long one, whatever a machine takes for it."""
    monkeypatch.setattr(exchange, "WATCH_SECONDS", 2 * SECONDS)


# Who answers


@pytest.mark.parametrize("inline", [False, True])
def test_a_matched_path_is_the_guests_and_any_other_the_apps(inline: bool) -> None:
    app = door(lambda request: text(b"guest"), native, "/wasm/...", inline=inline)
    assert ask(app, http("/wasm/x")).body == b"guest"
    assert ask(app, http("/other")).body == b"native"


def test_without_an_app_no_route_is_an_empty_404() -> None:
    server = ask(door(lambda request: text(b"guest"), route="/wasm"), http("/other"))
    assert (server.status, server.headers, server.body) == (404, [(b"content-length", b"0")], b"")


def test_guests_run_in_a_thread_unless_inline() -> None:
    threads: list[threading.Thread] = []

    def guest(request: Request) -> Response:
        threads.append(threading.current_thread())
        return text()

    quick = door(guest)
    quick.gateway.quick.append(guest)  # type: ignore[attr-defined]
    ask(door(guest), http())
    ask(door(guest, inline=True), http())
    ask(quick, http())
    assert [thread is threading.main_thread() for thread in threads] == [False, True, True]


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("inline", [False, True])
def test_a_request_leaves_nothing_to_the_garbage_collector(inline: bool) -> None:
    app, server = door(lambda request: text(b"guest"), inline=inline), Server()

    async def main() -> int:
        await app(http(), server.receive, server.send)
        await until_async(lambda: not app.workers._busy)
        while gc.collect():
            pass  # what others left, and then what that has kept
        gc.disable()
        try:
            left = []
            for _ in range(3):  # once may be what another test's thread has let go
                for _ in range(3):
                    await app(http(), server.receive, server.send)
                await until_async(lambda: not app.workers._busy)
                left.append(gc.collect())
            return min(left)
        finally:
            gc.enable()

    assert run(main) == 0


def test_one_timer_watches_all_requests() -> None:
    go = threading.Event()

    def guest(request: Request) -> Response:
        assert go.wait(SECONDS)
        return text(b"guest")

    app = door(guest)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        servers = [Server() for _ in range(5)]
        tasks = [asyncio.ensure_future(app(http(), s.receive, s.send)) for s in servers]
        await until_async(lambda: len(app.workers._threads) == 5)
        assert len(loop._scheduled) <= 2  # one of them is until_async's
        await until_async(lambda: all(server.asked for server in servers))
        go.set()
        await asyncio.gather(*tasks)
        assert app._lookouts is not None
        assert not app._lookouts._due

    run(main)


def test_context_variables_reach_the_guests_thread() -> None:
    from contextvars import ContextVar

    variable: ContextVar[bytes] = ContextVar("variable", default=b"nothing")
    app = door(lambda request: text(variable.get()))

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        variable.set(b"request 1")
        await app(scope, receive, send)

    assert ask(outer, http()).body == b"request 1"


# The path


@pytest.mark.parametrize(
    ("path", "raw", "root", "expected"),
    [
        ("/a/b", b"/a/b", "", "/a/b"),
        ("/a/b", b"/a%2Fb", "", "/a%2Fb"),
        ("/caf\xe9", b"/caf%C3%A9", "", "/caf%C3%A9"),
        ("/caf\xe9 %", None, "", "/caf%C3%A9%20%25"),
        ("/app/a/b", b"/app/a%2Fb", "/app", "/a%2Fb"),
        ("/app", b"/app", "/app", "/"),
        ("/application", b"/application", "/app", "/application"),
        # servers that leave root_path out of one of the two, or of both
        ("/a/b", b"/app/a%2Fb", "/app", "/a%2Fb"),
        ("/app/a/b", b"/a%2Fb", "/app", "/a%2Fb"),
        ("/a/b", b"/a%2Fb", "/app", "/a%2Fb"),
        # a middleware rewrote the path
        ("/new", b"/old", "", "/new"),
        ("/\ufffd", b"/%ff", "", "/%ff"),
        ("/a", b"/a?query", "", "/a"),
        ("*", b"*", "", None),
    ],
)
def test_raw_path(path: str, raw: bytes | None, root: str, expected: str | None) -> None:
    scope = {"path": path, "root_path": root}
    if raw is not None:
        scope["raw_path"] = raw  # type: ignore[assignment]
    assert raw_path(scope) == expected


@pytest.mark.parametrize(
    ("path", "raw", "root", "expected"),
    [
        ("/shop/a b", b"/shop/a%20b", "", "/a%20b"),
        ("/shop/a%b", None, "", "/a%25b"),
        ("/app/shop/a/b", b"/app/shop/a%2Fb", "/app", "/a%2Fb"),
        ("/shop/a/b", b"/app/shop/a%2Fb", "/app", "/a%2Fb"),
        ("/shop/a", b"/sh%6fp/a", "", "/a"),
        ("/shop", b"/shop", "", "/"),
        ("/shop/", b"/shop/", "", "/"),
        ("/shopping", b"/shopping", "", None),
        ("/", b"/", "", None),
        ("/app/a", b"/app/a", "/app", None),
    ],
)
def test_raw_path_below_a_prefix(path: str, raw: bytes | None, root: str, expected: str | None) -> None:
    scope = {"path": path, "root_path": root} | ({} if raw is None else {"raw_path": raw})
    assert raw_path(scope, "/shop") == expected


# The request


def test_every_part_of_a_request() -> None:
    scope = http(
        "/a",
        "PATCH",
        scheme="https",
        query_string=b"x=%20",
        headers=[(b"host", b"example.com"), (b"x-a", b"1"), (b"x-a", b"caf\xe9")],
        http_version="2",
    )
    request = to_request(scope, "/a", ())
    assert (request.method, request.target, request.scheme) == ("PATCH", "/a?x=%20", "https")
    assert (request.authority, request.client, request.protocol) == (
        "example.com",
        ("10.0.0.7", 4711),
        "HTTP/2",
    )
    assert list(request.headers) == [("host", "example.com"), ("x-a", "1"), ("x-a", "caf\xe9")]


def test_a_request_of_which_little_is_known() -> None:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"a")], "client": None}
    request = to_request(scope, "/", ())
    assert (request.query, request.client, request.protocol) == (None, None, "HTTP/1.1")


@pytest.mark.parametrize("hosts", [[], [b"a.example", b"b.example"], [b"a.example", b"a.example"], [b"a b"]])
def test_no_host_several_and_bad_ones_are_a_400(hosts: list[bytes]) -> None:
    scope = http(headers=[(b"host", host) for host in hosts])
    server = ask(door(lambda request: text(b"guest")), scope)
    assert (server.status, server.body) == (400, b"")


# The request body


def read_all(request: Request) -> Response:
    return text(*request.body)


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("chunks", [[b"hello"], [b"he", b"", b"llo"], [b"hello", b""]])
def test_a_body_reaches_the_guest(chunks: list[bytes], inline: bool) -> None:
    messages = [chunk(data, index < len(chunks) - 1) for index, data in enumerate(chunks)]
    for scope in (upload(length=5), upload(), http(method="POST", http_version="2")):
        assert ask(door(read_all, inline=inline), scope, *messages).body == b"hello"


@pytest.mark.usefixtures("unwatched")
def test_a_request_that_announces_no_body_has_none() -> None:
    seen: list[Request] = []

    def guest(request: Request) -> Response:
        seen.append(request)
        return text()

    async def main() -> int:
        server = Server()
        await door(guest)(http(), server.receive, server.send)
        return server.asked

    assert run(main) == 0  # a quick guest costs no look at the connection either
    assert seen[0].body == ()


def test_the_body_is_bounded_on_its_way() -> None:
    go = threading.Event()

    def guest(request: Request) -> Response:
        body = iter(request.body)
        first = next(body)
        assert go.wait(SECONDS)
        return text(first + b"".join(body))

    data = bytes(exchange.INBOX_BYTES)

    async def main() -> Server:
        server = Server(*[chunk(data, True) for _ in range(5)], chunk(b"end"))
        task = asyncio.ensure_future(door(guest)(upload(), server.receive, server.send))
        await until_async(lambda: server.asked >= 2)
        for _ in range(20):
            await asyncio.sleep(0)
        # one taken, one waiting, and no more asked for
        assert server.asked == 2
        go.set()
        await task
        return server

    assert run(main).body == data * 5 + b"end"


def test_100_continue_is_the_guests_to_cause() -> None:
    # a server sends it when the application first receives
    waiting = threading.Event()

    def guest(request: Request) -> Response:
        assert waiting.wait(SECONDS)
        return text(status=403)

    async def main() -> Server:
        server = Server()
        scope = upload(length=5, expect="100-continue")
        task = asyncio.ensure_future(door(guest)(scope, server.receive, server.send))
        await asyncio.sleep(exchange.WATCH_SECONDS * 2)
        assert server.asked == 0
        waiting.set()
        await task
        return server

    assert run(main).status == 403
    assert ask(door(read_all), upload(length=5, expect="100-continue"), chunk(b"hello")).body == b"hello"


@pytest.mark.usefixtures("unwatched")  # or the guest may not run at all
def test_a_client_that_leaves_in_the_middle_of_its_body() -> None:
    seen: list[BaseException] = []

    def guest(request: Request) -> Response:
        try:
            return read_all(request)
        except RequestError as error:
            seen.append(error)
            raise

    async def main() -> Server:
        server = Server(chunk(b"hel", True))
        server.disconnect()
        await door(guest)(upload(length=5), server.receive, server.send)
        await until_async(lambda: seen)
        return server

    assert run(main).sent == []
    assert isinstance(seen[0], Disconnected)


def test_inline_a_client_that_leaves_in_the_middle_of_its_body() -> None:
    def guest(request: Request) -> Response:
        raise AssertionError("called without a body")

    async def main() -> Server:
        server = Server(chunk(b"hel", True))
        server.disconnect()
        await door(guest, inline=True)(upload(length=5), server.receive, server.send)
        return server

    assert run(main).sent == []


def test_a_server_whose_receive_fails_is_a_client_that_left() -> None:
    async def receive() -> Any:
        raise OSError("broken")

    async def main() -> list[Any]:
        server = Server()
        await door(read_all)(upload(length=5), receive, server.send)
        return server.sent

    assert run(main) == []


def test_a_client_that_sends_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "STALL_SECONDS", 0.05)

    async def main() -> Server:
        server = Server(chunk(b"hel", True))
        await door(read_all)(upload(length=5), server.receive, server.send)
        return server

    assert run(main).status == 408


def test_a_body_is_waited_for_as_long_as_its_guest_has_time() -> None:
    waited: list[bool] = []

    def guest(request: Request) -> Response:
        body: Any = request.body
        waited.append(body.wait(SECONDS))
        assert next(body) == b"hel"
        waited.append(body.wait(0.01))
        return text(status=504)

    async def main() -> Server:
        server = Server(chunk(b"hel", True))
        await door(guest)(upload(length=5), server.receive, server.send)
        return server

    assert run(main).status == 504
    assert waited == [True, False]


def test_inline_large_and_endless_uploads_go_to_a_thread() -> None:
    threads: list[threading.Thread] = []

    def guest(request: Request) -> Response:
        threads.append(threading.current_thread())
        return read_all(request)

    app = door(guest, inline=True)
    data = bytes(asgi.INLINE_BODY_BYTES + 1)
    assert ask(app, upload(length=len(data)), chunk(data)).body == data
    assert ask(app, upload(), chunk(b"x")).body == b"x"
    assert threading.main_thread() not in threads


def test_inline_a_content_length_that_is_no_number_is_a_400() -> None:
    headers = [(b"host", b"a.example"), (b"content-length", b"+5")]
    assert ask(door(read_all, inline=True), http(headers=headers), chunk(b"hello")).status == 400


# When the gateway declines


@pytest.mark.parametrize("seconds", [0, exchange.WATCH_SECONDS * 2])
def test_the_app_gets_the_request_from_its_start(seconds: float) -> None:
    """Also when the gateway took so long that the door has begun to watch the connection."""
    received: list[dict[str, Any]] = []
    server: Server

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not received or received[-1]["more_body"]:
            received.append(await receive())
        server.disconnect()
        assert (await receive())["type"] == "http.disconnect"
        await native(scope, receive, send)

    async def main() -> bytes:
        nonlocal server
        server = Server(chunk(b"a", True), chunk(b"b"))
        await door(lambda request: time.sleep(seconds), app)(upload(), server.receive, server.send)
        return server.body

    assert run(main) == b"native"
    assert b"".join(message["body"] for message in received) == b"ab"


def test_without_an_app_that_is_a_404() -> None:
    assert ask(door(lambda request: None), http()).status == 404


# The response


@pytest.mark.parametrize("inline", [False, True])
def test_a_whole_body_is_one_message_with_its_length(inline: bool) -> None:
    server = ask(door(lambda request: text(b"hello", b" world"), inline=inline), http())
    assert server.headers == [(b"content-type", b"text/plain"), (b"content-length", b"11")]
    assert [message.get("body") for message in server.sent] == [None, b"hello world"]


@pytest.mark.parametrize("inline", [False, True])
def test_head(inline: bool) -> None:
    server = ask(door(lambda request: text(b"hello"), inline=inline), http(method="HEAD"))
    assert (server.headers[1], server.body) == ((b"content-length", b"5"), b"")


def test_what_http_cannot_carry_is_an_empty_500() -> None:
    response = Response(200, Headers([("x", "a\r\nb: c")]), (b"hello",))
    server = ask(door(lambda request: response), http())
    assert (server.status, server.headers, server.body) == (500, [(b"content-length", b"0")], b"")


def test_an_error_of_the_gateway_is_the_servers_to_report() -> None:
    def guest(request: Request) -> Response:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(door(guest), http())


class Stream:
    """A body that is still being made, closed by the thread that makes it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.thread = threading.current_thread()
        self.closed: list[bool] = []

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks

    def close(self) -> None:
        self.closed.append(self.thread is threading.current_thread())


@pytest.mark.parametrize("inline", [False, True])
def test_a_stream_goes_out_chunk_by_chunk_and_is_closed_where_it_was_made(inline: bool) -> None:
    streams: list[Stream] = []

    def guest(request: Request) -> Response:
        streams.append(Stream(iter([b"a", b"b"])))
        return Response(200, Headers(), streams[0])

    server = ask(door(guest, inline=inline), http())
    assert server.body == b"ab"
    assert [message.get("body") for message in server.sent] == [None, b"a", b"b", b""]
    until(lambda: streams[0].closed)
    assert streams[0].closed == [True]


def test_the_first_byte_leaves_before_the_guest_has_finished() -> None:
    go = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"a"
        assert go.wait(SECONDS)
        yield b"b"

    async def main() -> Server:
        server = Server()
        app = door(lambda request: Response(200, Headers(), Stream(chunks())))
        task = asyncio.ensure_future(app(http(), server.receive, server.send))
        await until_async(lambda: len(server.sent) == 2)
        assert server.sent[1]["body"] == b"a"
        go.set()
        await task
        return server

    assert run(main).body == b"ab"


def test_a_slow_client_slows_the_guest() -> None:
    made = 0

    def chunks() -> Iterator[bytes]:
        nonlocal made
        while made < 100:
            made += 1
            yield b"x"

    async def main() -> Server:
        go = asyncio.Event()
        server = Server()

        async def send(message: dict[str, Any]) -> None:
            await server.send(message)
            await go.wait()

        app = door(lambda request: Response(200, Headers(), Stream(chunks())))
        task = asyncio.ensure_future(app(http(), server.receive, send))
        await until_async(lambda: made > workers.OUTBOX_CHUNKS)
        await asyncio.sleep(0.02)
        assert made == workers.OUTBOX_CHUNKS + 1
        go.set()
        await task
        return server

    assert run(main).body == b"x" * 100


def test_a_client_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "STALL_SECONDS", 0.05)
    stream = Stream(iter([b"x"] * 100))

    def guest(request: Request) -> Response:
        stream.thread = threading.current_thread()
        return Response(200, Headers(), stream)

    async def main() -> None:
        go = asyncio.Event()

        async def send(message: dict[str, Any]) -> None:
            await go.wait()

        task = asyncio.ensure_future(door(guest)(http(), Server().receive, send))
        await until_async(lambda: stream.closed)
        go.set()
        with pytest.raises(workers.Stalled):
            await task

    run(main)
    assert stream.closed == [True]


@pytest.mark.parametrize("inline", [False, True])
def test_a_guest_that_fails_in_the_middle_breaks_the_connection(inline: bool) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"a"
        raise GuestError("trapped")

    stream = Stream(chunks())

    def guest(request: Request) -> Response:
        stream.thread = threading.current_thread()
        return Response(200, Headers(), stream)

    async def main() -> Server:
        server = Server()
        with pytest.raises(GuestError, match="trapped"):
            await door(guest, inline=inline)(http(), server.receive, server.send)
        return server

    assert [message.get("body") for message in run(main).sent] == [None, b"a"]
    until(lambda: stream.closed)
    assert stream.closed == [True]


# Trailers

WITH_TRAILERS = {"extensions": {"http.response.trailers": {}}}


def trailing(response: Response, *pairs: tuple[str, str]) -> Response:
    response.trailers = lambda: Headers(pairs)
    return response


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_trailers_go_to_a_server_that_offers_it(inline: bool, whole: bool) -> None:
    def guest(request: Request) -> Response:
        body: Any = (b"a", b"b") if whole else Stream(iter([b"a", b"b"]))
        pairs = [("x-sum", "2"), ("x-latin", " \xe9"), ("content-length", "9"), ("connection", "close")]
        return trailing(Response(200, Headers(), body), *pairs)

    server = ask(door(guest, inline=inline), http(**WITH_TRAILERS))
    assert server.sent[0]["trailers"] is True
    last = server.sent.pop()
    assert last == {
        "type": "http.response.trailers",
        "headers": [(b"x-sum", b"2"), (b"x-latin", b"\xe9")],
    }
    assert server.body == b"ab"


@pytest.mark.parametrize(
    ("scope", "status", "trailers"),
    [
        (http(), 200, True),  # not offered
        (http(extensions=None), 200, True),
        (http(**WITH_TRAILERS), 200, False),  # there are none
        (http(**WITH_TRAILERS), 204, True),
        (http(**WITH_TRAILERS), 304, True),
        (http(method="HEAD", **WITH_TRAILERS), 200, True),
    ],
)
@pytest.mark.parametrize("inline", [False, True])
def test_nothing_follows_the_body(scope: dict[str, Any], status: int, trailers: bool, inline: bool) -> None:
    def guest(request: Request) -> Response:
        response = Response(status, Headers(), (b"a",))
        return trailing(response, ("x", "1")) if trailers else response

    server = ask(door(guest, inline=inline), scope)
    assert "trailers" not in server.sent[0]
    assert [message["type"] for message in server.sent] == ["http.response.start", "http.response.body"]


def test_trailers_that_http_does_not_allow_break_the_connection() -> None:
    def guest(request: Request) -> Response:
        return trailing(Response(200, Headers(), (b"a",)), ("x", "a\r\nb: c"))

    with pytest.raises(GuestError, match="invalid trailer 'x'"):
        ask(door(guest), http(**WITH_TRAILERS))


def endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 1000


def test_a_client_that_leaves_ends_the_stream() -> None:
    stream = Stream(endless())

    def guest(request: Request) -> Response:
        stream.thread = threading.current_thread()
        return Response(200, Headers(), stream)

    async def main() -> None:
        server = Server(chunk(b""))
        task = asyncio.ensure_future(door(guest)(http(), server.receive, server.send))
        await until_async(lambda: len(server.sent) > 20)
        server.disconnect()
        await task

    run(main)
    until(lambda: stream.closed)
    assert stream.closed == [True]


def test_a_client_that_leaves_before_the_head() -> None:
    began, go = threading.Event(), threading.Event()
    stream = Stream(endless())

    def guest(request: Request) -> Response:
        stream.thread = threading.current_thread()
        began.set()
        assert go.wait(SECONDS)
        return Response(200, Headers(), stream)

    async def main() -> Server:
        server = Server(chunk(b""))
        task = asyncio.ensure_future(door(guest)(http(), server.receive, server.send))
        await until_async(began.is_set)
        server.disconnect()
        await task  # while the guest is at it
        go.set()
        return server

    assert run(main).sent == []
    until(lambda: stream.closed)
    assert stream.closed == [True]


def test_a_cancelled_exchange_is_known_to_its_guest() -> None:
    """Without an inbox, as Django has it."""
    seen: list[Request] = []
    go = threading.Event()

    def guest(request: Request) -> Response:
        assert request.gone is not None
        assert not request.gone()
        seen.append(request)
        assert go.wait(SECONDS)
        return text(b"late")

    async def main() -> None:
        guests: Any = Guests({"/...": guest})
        request = to_request(http(), "/", ())
        exchange = Exchange(guests, request, guests.match("/"))
        task = asyncio.ensure_future(exchange.run(Workers(1)))
        await until_async(lambda: seen)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert request.gone is not None
        assert request.gone()
        go.set()

    run(main)


def test_a_cancelled_task_ends_the_stream() -> None:
    stream = Stream(endless())

    def guest(request: Request) -> Response:
        stream.thread = threading.current_thread()
        return Response(200, Headers(), stream)

    async def main() -> None:
        server = Server()
        task = asyncio.ensure_future(door(guest)(http(), server.receive, server.send))
        await until_async(lambda: len(server.sent) > 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
    until(lambda: stream.closed)
    assert stream.closed == [True]


def test_a_loop_that_is_closed_ends_the_stream() -> None:
    stream = Stream(endless())
    loop = asyncio.new_event_loop()

    def guest(request: Request) -> Response:
        stream.thread = threading.current_thread()
        return Response(200, Headers(), stream)

    async def main() -> Any:
        exchange = Exchange(Guests({"/": guest}), Request("GET", "/"), match)  # type: ignore[arg-type]
        answer = await exchange.run(Workers(1))
        assert answer is not None
        return exchange, answer

    match = Guests({"/": guest}).match("/")
    assert match is not None
    kept = loop.run_until_complete(main())
    loop.close()
    kept[1][2].close()  # as a framework does when it drops the response
    until(lambda: stream.closed)
    assert stream.closed == [True]


# Threads


def test_at_most_size_threads_run_and_the_rest_wait() -> None:
    pool = Workers(2)
    go = threading.Event()
    lock = threading.Lock()
    running = most = done = 0

    def job() -> None:
        nonlocal running, most, done
        with lock:
            running += 1
            most = max(most, running)
        assert go.wait(SECONDS)
        with lock:
            running -= 1
            done += 1

    for _ in range(6):
        pool.submit(job)
    until(lambda: running == 2)
    go.set()
    until(lambda: done == 6)
    assert most == 2


def test_threads_start_when_needed_and_end_when_idle() -> None:
    pool = Workers(8, idle=SECONDS)
    names: set[int] = set()
    assert not pool._threads
    for _ in range(5):
        done = threading.Event()
        pool.submit(lambda done: (names.add(threading.get_ident()), done.set()), done)
        assert done.wait(SECONDS)
        until(lambda: not pool._busy)
    assert len(pool._threads) == 1
    assert len(names) == 1
    pool.idle = 0.05
    pool.submit(print)
    until(lambda: not pool._threads)
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(SECONDS)


def test_a_full_backlog_is_a_503() -> None:
    go = threading.Event()

    def guest(request: Request) -> Response:
        assert go.wait(SECONDS)
        return text(b"guest")

    app = door(guest, threads=1)
    app.workers.backlog = 1

    async def main() -> list[Server]:
        servers = [Server() for _ in range(3)]
        tasks = [asyncio.ensure_future(app(http(), s.receive, s.send)) for s in servers]
        await until_async(lambda: servers[2].sent)
        go.set()
        await asyncio.gather(*tasks)
        return servers

    answers = run(main)
    assert [server.status for server in answers] == [200, 200, 503]
    assert (b"retry-after", b"1") in answers[2].headers
    assert answers[2].body == b""


def test_jobs_that_wait_have_their_turn() -> None:
    """Many of one route do not stand before those of another."""
    pool, go, done = Workers(1), threading.Event(), threading.Event()
    order: list[str] = []
    pool.submit(go.wait, SECONDS)
    for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
        pool.submit(order.append, name, of=name[0])
    pool.submit(done.set, of="a")
    go.set()
    assert done.wait(SECONDS)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_job_that_fails_costs_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    pool = Workers(1)

    def fail() -> None:
        raise SystemExit

    pool.submit(fail)
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(SECONDS)
    assert "a job of the thread pool failed" in caplog.text


def test_a_pool_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Workers(0)


def test_when_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = Workers(2)
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(Saturated, match="can't start"):
        pool.submit(print)
    monkeypatch.undo()
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(SECONDS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    pool = Workers(1)
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(SECONDS)

    pid = os.fork()
    if pid == 0:
        try:
            in_child = threading.Event()
            pool.submit(in_child.set)
            os._exit(0 if in_child.wait(SECONDS) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_door_that_is_dropped_is_garbage() -> None:
    app = door(read_all)
    ask(app, http())
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None


# Lifespan


def lifespan(app: Any, *messages: str) -> list[dict[str, Any]]:
    async def main() -> list[dict[str, Any]]:
        server = Server(*({"type": f"lifespan.{name}"} for name in messages))
        await app({"type": "lifespan", "asgi": {"version": "3.0"}}, server.receive, server.send)
        return server.sent

    result: list[dict[str, Any]] = run(main)
    return result


def test_lifespan_without_an_app() -> None:
    app = door(read_all)
    guests: Any = app.gateway
    assert [m["type"] for m in lifespan(app, "startup", "shutdown")] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert guests.calls == ["open", "close"]


def test_lifespan_around_an_app() -> None:
    calls: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for name in ("startup", "shutdown"):
            calls.append((await receive())["type"])
            await send({"type": f"lifespan.{name}.complete"})

    middleware = door(read_all, app)
    guests: Any = middleware.gateway
    guests.calls = calls
    assert [m["type"] for m in lifespan(middleware, "startup", "shutdown")] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert calls == ["open", "lifespan.startup", "lifespan.shutdown", "close"]


@pytest.mark.parametrize("reads", [False, True])
def test_an_app_without_lifespan(reads: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if reads:
            await receive()
        raise ValueError("what is a lifespan?")

    middleware = door(read_all, app)
    guests: Any = middleware.gateway
    assert [m["type"] for m in lifespan(middleware, "startup", "shutdown")] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert guests.calls == ["open", "close"]


def test_an_app_that_returns_at_once() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    assert len(lifespan(door(read_all, app), "startup", "shutdown")) == 2


def test_an_app_that_fails_to_start() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    middleware = door(read_all, app)
    guests: Any = middleware.gateway
    assert lifespan(middleware, "startup") == [{"type": "lifespan.startup.failed", "message": "no database"}]
    assert guests.calls == ["open", "close"]


def test_an_app_that_raises_after_it_has_shut_down() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for name in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{name}.complete"})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lifespan(door(read_all, app), "startup", "shutdown")


@pytest.mark.parametrize("swallows", [None, False, True])
def test_a_gateway_that_cannot_be_opened_keeps_the_server_from_starting(swallows: bool | None) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
        except Exception:
            if not swallows:
                raise
            await send({"type": "lifespan.startup.complete"})

    guests = Guests({"/": read_all}, fail=ComponentError("no such file"))
    middleware = AsgiGateway(guests, None if swallows is None else app)  # type: ignore[arg-type]
    assert lifespan(middleware, "startup") == [{"type": "lifespan.startup.failed", "message": "no such file"}]


# Other scopes


def test_websockets_are_the_apps() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    for kind in ("websocket", "webtransport"):
        ask(door(read_all, app), {"type": kind, "path": "/"})
    assert seen == ["websocket", "webtransport"]


def test_without_an_app_a_websocket_is_closed() -> None:
    server = ask(door(read_all), {"type": "websocket", "path": "/"}, {"type": "websocket.connect"})
    assert server.sent == [{"type": "websocket.close", "code": 1000}]


def test_without_an_app_another_scope_is_an_error() -> None:
    with pytest.raises(ValueError, match="webtransport"):
        ask(door(read_all), {"type": "webtransport"})


# Other people's tools


def test_with_asgirefs_communicator() -> None:
    async def main() -> None:
        app: Any = door(read_all)
        communicator = ApplicationCommunicator(app, upload(length=5))
        await communicator.send_input(chunk(b"he", True))
        await communicator.send_input(chunk(b"llo"))
        start = await communicator.receive_output(timeout=SECONDS)
        assert (start["type"], start["status"]) == ("http.response.start", 200)
        body = await communicator.receive_output(timeout=SECONDS)
        assert body == {"type": "http.response.body", "body": b"hello"}
        await communicator.wait(timeout=SECONDS)
        assert await communicator.receive_nothing()

    run(main)


def test_an_inbox_may_be_stopped_while_a_thread_waits_for_it() -> None:
    seen: list[BaseException] = []

    async def main() -> None:
        inbox = Inbox(Server(chunk(b"a", True)).receive)

        def read() -> None:
            try:
                list(inbox)
            except RequestError as error:
                seen.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        await asyncio.sleep(0.01)
        inbox.stop()
        await until_async(lambda: seen)
        thread.join()

    run(main)
