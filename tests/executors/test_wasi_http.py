"""Components of wasi:http: a whole response, one that is sent while it is made, and none at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.component_wat import BEGIN, ECHO, ECHO_USES, END, LOCALS
from wasm_gateway import Gateway
from wasm_gateway.errors import GuestError, RequestError
from wasm_gateway.executors.wasi_http import CHUNK_BYTES
from wasm_gateway.messages import STREAMED, Headers, Request, Response
from wasm_gateway.router import RouteMatch
from wasm_gateway.workers import Workers, relay
from wasm_gateway.wsgi import Push

HTTP = "wasi:http/types@0.2.0"
STREAMS = "wasi:io/streams@0.2.0"
CLOCK = "wasi:clocks/monotonic-clock@0.2.0"
POLL = "wasi:io/poll@0.2.0"

WRITES = {STREAMS: ("[method]output-stream.check-write", "[method]output-stream.write")}


def writes(count: int, then: str) -> str:
    """Writes `count` bytes, whatever they are, then does `then`."""
    return f"""{LOCALS}{BEGIN}
  (call $output-stream.check-write (local.get $sink) (i32.const 32))
  (call $output-stream.write (local.get $sink) (i32.const 0) (i32.const {count}) (i32.const 32))
  {then}"""


Serve = Callable[..., Gateway]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent on for the mere time that a slow machine takes."""
    monkeypatch.setattr("wasm_gateway.executors.wasi_http.CHUNK_SECONDS", 60.0)


@pytest.fixture
def serve(application: Any, components: Any) -> Serve:
    """`serve(body, uses)` is a gateway whose component `a` runs that code; see Toolkit.http."""

    def serve(body: str, uses: Any = None, *, data: str = "", **settings: Any) -> Gateway:
        wasm = components.http(body, uses, data=data)
        gateway: Gateway = application(a=application.part(wasm, **settings) if settings else wasm)
        return gateway

    return serve


def request(body: Any = (), method: str = "GET", **headers: str) -> Request:
    return Request(method, "/a", None, Headers(headers.items()), body, authority="x")


class Door:
    """A Begin that notes what it gets."""

    def __init__(self) -> None:
        self.head: Response | None = None
        self.chunks: list[bytes] = []

    def __call__(self, head: Response) -> Callable[[bytes], object]:
        assert self.head is None
        self.head = head
        return self.chunks.append


def test_a_short_answer_is_whole(serve: Serve) -> None:
    gateway = serve(
        "(call $answer (local.get $out) (i32.const 201) (i32.const 0) (i32.const 5))",
        data='(data (i32.const 0) "hello")',
    )
    door = Door()
    response = gateway.handle(request(), begin=door)
    assert response is not None
    assert (response.status, response.body, door.head) == (201, (b"hello",), None)


def test_what_comes_in_goes_out(serve: Serve) -> None:
    gateway = serve(ECHO, ECHO_USES)
    for body in ((), (b"x",), (b"one", b"two", b""), (bytes(range(256)) * 2000,)):
        response = gateway.handle(request(body, "POST"))
        assert response is not None
        assert (response.status, b"".join(response.body)) == (200, b"".join(body))


def test_a_chunk_is_answered_before_the_next_one_is_asked_for(serve: Serve) -> None:
    gateway, door = serve(ECHO, ECHO_USES), Door()

    def body() -> Iterator[bytes]:
        for number in range(5):
            assert len(door.chunks) == number
            yield b"%d" % number

    assert gateway.handle(request(body(), "POST"), begin=door) is STREAMED
    assert door.head is not None
    assert (door.head.status, door.chunks) == (200, [b"0", b"1", b"2", b"3", b"4"])


@pytest.mark.parametrize(
    "body",
    [
        ECHO,
        "(call $answer (local.get $out) (i32.const 200) (i32.const 0) (i32.const 5))",
        f"{LOCALS}{BEGIN}",
        "",
        "unreachable",
    ],
    ids=["echo", "answer", "half of one", "none", "trap"],
)
def test_a_request_leaves_nothing_to_the_garbage_collector(serve: Serve, garbage: Any, body: str) -> None:
    gateway = serve(body, ECHO_USES)

    def work() -> None:
        for door in (None, Door()):
            gateway.handle(request((b"x", bytes(2 * CHUNK_BYTES)), "POST"), begin=door)

    assert garbage(work) == []


def test_large_bodies_pass_through_in_constant_memory(serve: Serve) -> None:
    count, size = 2000, 64 << 10
    gateway = serve(
        ECHO,
        ECHO_USES,
        tool={"max_request_body": "1GiB", "max_response_body": "1GiB", "max_memory": "1MiB"},
    )
    got = most = 0

    def take(chunk: bytes) -> None:
        nonlocal got, most
        got += len(chunk)
        most = max(most, len(chunk))

    response = gateway.handle(request((bytes(size) for _ in range(count)), "POST"), begin=lambda head: take)
    assert response is STREAMED
    assert got == count * size
    assert most <= 2 * CHUNK_BYTES


def test_a_guest_that_waits_sends_what_it_has_before(serve: Serve) -> None:
    uses = WRITES | {CLOCK: ("subscribe-duration",), POLL: ("[method]pollable.block",)}
    gateway = serve(
        writes(3, f"(call $pollable.block (call $subscribe-duration (i64.const 20_000_000_000))) {END}"), uses
    )
    sent = []

    def begin(head: Response) -> Callable[[bytes], object]:
        def send(chunk: bytes) -> None:
            sent.append(chunk)
            raise RequestError("that is all I wanted to know")

        return send

    response = gateway.handle(request(), begin=begin)
    assert response is not None
    assert (response.status, sent) == (400, [bytes(3)])


def test_without_stream_nothing_is_sent_early(serve: Serve) -> None:
    gateway, door = serve(ECHO, ECHO_USES, tool={"stream": False}), Door()
    match = gateway.match("/a")
    assert match is not None
    assert not gateway.streams(match)
    response = gateway.handle(request(iter([b"a", b"b"]), "POST"), begin=door)
    assert response is not None
    assert (b"".join(response.body), door.head) == (b"ab", None)


def test_a_component_says_whether_it_may_run_on_an_event_loop(serve: Serve) -> None:
    for tool, inline in (({}, False), ({"inline": True}, True)):
        gateway = serve(ECHO, ECHO_USES, tool=tool)
        match = gateway.match("/a")
        assert match is not None
        assert gateway.runs_inline(match) is inline
        assert not gateway.runs_inline(RouteMatch.chained("/a"))
        gateway.close()
        assert not gateway.runs_inline(match)  # to open it takes long


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "guest returned without setting a response"),
        (writes(3, ""), "guest did not finish its response body"),
        (writes(3, "unreachable"), "unreachable"),
        (
            """(call $response-outparam.set (local.get $out) (i32.const 1) (i32.const 33) (i32.const 0)
            (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))""",
            "guest answered with the error-code",
        ),
    ],
)
def test_no_answer(serve: Serve, caplog: pytest.LogCaptureFixture, code: str, reason: str) -> None:
    gateway = serve(code, WRITES)
    with caplog.at_level(logging.ERROR):
        response = gateway.handle(request())
    assert response is not None
    assert (response.status, response.body) == (500, ())
    assert reason in caplog.text


STATUS = """(drop (call $outgoing-response.set-status-code (local.get $response) (i32.const {})))
  (call $outgoing-response.body"""


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_a_body_that_nobody_gets_need_not_be_whole(serve: Serve, method: str, status: int) -> None:
    begin = BEGIN.replace("(call $outgoing-response.body", STATUS.format(status))
    gateway, door = serve(f"{LOCALS}{begin}", WRITES), Door()
    response = gateway.handle(request(method=method), begin=door)
    assert response is not None
    assert (response.status, response.body, door.head) == (status, (), None)


@pytest.mark.parametrize("failure", ["unreachable", "(loop (br 0))"])
def test_a_response_stands_when_it_is_finished(
    serve: Serve, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    gateway = serve(
        f"(call $answer (local.get $out) (i32.const 201) (i32.const 0) (i32.const 5)) {failure}",
        data='(data (i32.const 0) "hello")',
        tool={"timeout": "2s"} if "loop" in failure else {},
    )
    with caplog.at_level(logging.ERROR):
        response = gateway.handle(request())
    assert response is not None
    assert (response.status, response.body) == (201, (b"hello",))
    [record] = caplog.records
    assert "failed after its response: " in record.getMessage()


LONG = """(local $i i32) (loop $again
  (call $output-stream.check-write (local.get $sink) (i32.const 32))
  (call $output-stream.write (local.get $sink) (i32.const 0) (i32.const 65536) (i32.const 32))
  (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10))))"""


def long(then: str) -> str:
    loop = LONG.replace("(local $i i32)", "")
    return f"(local $i i32) {LOCALS}{BEGIN}{loop}{then}"


def test_a_failure_after_the_head_is_told_to_the_door(serve: Serve) -> None:
    gateway, door = serve(long("unreachable"), WRITES), Door()
    response = gateway.handle(request(), begin=door)
    assert door.head is not None
    assert response is not None
    assert response is not STREAMED
    assert response.status == 500


@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_that_is_too_long(serve: Serve, caplog: pytest.LogCaptureFixture, streamed: bool) -> None:
    gateway, door = serve(long(END), WRITES, tool={"max_response_body": "128KiB"}), Door()
    response = gateway.handle(request(), begin=door if streamed else None)
    assert response is not None
    assert response.status == 500
    assert "longer than 131072 bytes" in caplog.text
    assert sum(map(len, door.chunks)) == (131072 if streamed else 0)


@pytest.mark.parametrize("begun", [False, True])
def test_a_request_that_is_too_long(serve: Serve, begun: bool) -> None:
    """Nothing says how long it is; part of it may have been answered already."""
    gateway, door = serve(ECHO, ECHO_USES, tool={"max_request_body": "128KiB"}), Door()
    response = gateway.handle(request(iter([bytes(65536)] * 3), "POST"), begin=door if begun else None)
    assert response is not None
    assert response.status == 413
    assert sum(map(len, door.chunks)) == (131072 if begun else 0)


def test_a_door_that_nobody_listens_at_ends_the_guest(serve: Serve) -> None:
    gateway = serve(long(END), WRITES)

    def begin(head: Response) -> Callable[[bytes], object]:
        def send(chunk: bytes) -> None:
            raise RequestError("the client left")

        return send

    response = gateway.handle(request(), begin=begin)
    assert response is not None
    assert response.status == 400


# Trailers


def trailing(*pairs: tuple[str, str]) -> Callable[[], Headers]:
    return lambda: Headers(pairs)


def test_trailers_come_and_go_with_their_bodies(components: Any, application: Any) -> None:
    gateway, door = application(a=components.passing_on()), Door()
    sent = request((b"one", b"two"), "POST")
    sent.trailers = trailing(("x-sum", "6"), ("x-latin", "\xe9"), ("host", "evil"), ("upgrade", "h3"))
    wanted = Headers([("x-sum", "6"), ("x-latin", "\xe9")])
    response = gateway.handle(sent)
    assert b"".join(response.body) == b"onetwo"
    assert response.trailers() == wanted

    def body() -> Iterator[bytes]:
        yield b"first"
        assert not asked  # the trailers are known when the body has been read, and not before
        yield b"second"

    asked = []
    sent.body, sent.trailers = body(), lambda: asked.append(1) or wanted
    assert gateway.handle(sent, begin=door) is STREAMED
    assert door.chunks == [b"first", b"second"]
    assert door.head is not None
    assert door.head.trailers is not None
    assert door.head.trailers() == wanted


def test_without_trailers_there_are_none(components: Any, application: Any) -> None:
    gateway, door = application(a=components.passing_on()), Door()
    for trailers in (None, trailing(), trailing(("host", "x"))):
        sent = request((b"x",), "POST")
        sent.trailers = trailers
        response = gateway.handle(sent)
        assert (response.body, response.trailers) == ((b"x",), None)
    assert gateway.handle(request(iter([b"x", b"y"]), "POST"), begin=door) is STREAMED
    assert door.head is not None
    assert door.head.trailers is not None
    assert door.head.trailers() == Headers()


def test_trailers_of_components_that_call_each_other(components: Any, application: Any) -> None:
    gateway = application(
        a=application.part(
            components.proxy("b.spin.internal"), allowed_outbound_hosts=["http://b.spin.internal"]
        ),
        b=components.passing_on(),
    )
    sent = request((b"hello",), "POST")
    sent.trailers = trailing(("x-sum", "5"))
    response = gateway.handle(sent)
    assert (response.body, response.trailers()) == ((b"hello",), Headers([("x-sum", "5")]))


# Doors


class Server:
    """What a WSGI server is to an application."""

    def __init__(self, writes: bool = True) -> None:
        self.writes = writes
        self.status = ""
        self.headers: dict[str, str] = {}
        self.sent: list[bytes] = []

    def __call__(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        assert not self.status
        self.status, self.headers = status, dict(headers)
        return self.sent.append if self.writes else None

    def run(self, app: Any, method: str = "GET", **extra: Any) -> bytes:
        environ = extra | {
            "REQUEST_METHOD": method,
            "PATH_INFO": "/a",
            "SCRIPT_NAME": "",
            "HTTP_HOST": "x",
            "wsgi.url_scheme": "http",
            "SERVER_PROTOCOL": "HTTP/1.1",
        }
        self.sent += app(environ, self)
        return b"".join(self.sent)


def test_the_wsgi_door_writes(serve: Serve) -> None:
    app = serve(long(END), WRITES).wsgi()
    server = Server()
    assert len(server.run(app)) == 655360
    assert len(server.sent) == 10
    assert (server.status, "content-length" in server.headers) == ("200 OK", False)
    assert Server().run(app, "HEAD") == b""


def test_the_wsgi_door_without_write_gives_an_iterable(serve: Serve) -> None:
    app = serve(long(END), WRITES).wsgi()
    lengths = []
    for _ in range(2):
        server = Server(writes=False)
        assert len(server.run(app)) == 655360
        lengths.append(server.headers.get("content-length"))
    assert lengths == [None, "655360"]  # it has learned that this server takes nothing early


def test_trailers_leave_through_the_doors(components: Any, application: Any) -> None:
    """After a body that was sent while it was made, too; with and without the server's help."""
    gateway = application(a=components.passing_on())
    door, chunks = gateway.wsgi(), (b"one", b"two")
    handle = gateway.handle

    def with_trailers(request: Request, *arguments: Any) -> Any:
        request.body, request.trailers = iter(chunks), trailing(("x-sum", "6"))
        return handle(request, *arguments)

    gateway.handle = with_trailers
    for extra in ({}, {"gunicorn.http2.send_trailers": (taken := []).append}):
        server = Server()
        assert server.run(door, "POST", **extra) == b"onetwo"
        assert server.sent == [b"one", b"two"]
    assert taken == [[("x-sum", "6")]]
    relayed = relay(Workers(1), lambda begin: with_trailers(request((), "POST"), None, begin))
    assert relayed is not None
    assert b"".join(relayed.body) == b"onetwo"
    assert relayed.trailers is not None
    assert relayed.trailers() == Headers([("x-sum", "6")])


class Connection:
    """What an ASGI server is to an application; nothing is sent while `go` is not set."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for message in messages:
            self.inbox.put_nowait(message)
        self.sent: list[dict[str, Any]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        await self.go.wait()

    async def run(self, app: Any, method: str = "GET") -> None:
        headers = [(b"host", b"x"), *([(b"transfer-encoding", b"chunked")] if method == "POST" else ())]
        scope = {"type": "http", "method": method, "path": "/a", "headers": headers}
        await app(scope, self.inbox.get, self.send)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.001)


# Waits for a minute, with some of its response sent, or none.
SLEEP = "(call $pollable.block (call $subscribe-duration (i64.const 60_000_000_000)))"
SLEEPS = WRITES | {CLOCK: ("subscribe-duration",), POLL: ("[method]pollable.block",)}


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves_ends_a_guest_that_waits(serve: Serve, begun: bool) -> None:
    app = serve(writes(3, SLEEP + END) if begun else SLEEP, SLEEPS, tool={"timeout": "600s"}).asgi()

    async def main() -> None:
        server = Connection({"type": "http.request"})
        task = asyncio.ensure_future(server.run(app))
        await server.until(lambda: len(server.sent) == 2 or (not begun and app.workers._busy))
        server.inbox.put_nowait({"type": "http.disconnect"})
        await task
        await server.until(lambda: not app.workers._busy)

    asyncio.run(main())


def test_a_client_that_does_not_read_slows_the_guest(serve: Serve) -> None:
    again = LONG.replace("(local $i i32)", "(local.set $i (i32.const 0))")
    app = serve(long(again + END), WRITES).asgi()

    async def main() -> list[dict[str, Any]]:
        server = Connection({"type": "http.request"})
        server.go.clear()
        task = asyncio.ensure_future(server.run(app))
        await server.until(lambda: server.sent)
        await asyncio.sleep(0.05)
        assert app.workers._busy  # 20 chunks do not fit
        server.go.set()
        await task
        return server.sent

    body = [message["body"] for message in asyncio.run(main())[1:]]
    assert sum(map(len, body)) == 2 * 655360


def test_an_upload_that_does_not_end_is_given_up_at_the_deadline(serve: Serve) -> None:
    app = serve(ECHO, ECHO_USES, tool={"timeout": "200ms", "stream": False}).asgi()

    async def main() -> Connection:
        server = Connection({"type": "http.request", "body": b"hel", "more_body": True})
        async with asyncio.timeout(60):
            await server.run(app, "POST")
        return server

    assert asyncio.run(main()).sent[0]["status"] == 504


def test_the_wsgi_door_breaks_off(serve: Serve) -> None:
    server = Server()
    with pytest.raises(GuestError, match="cut off"):
        server.run(serve(long("unreachable"), WRITES).wsgi())
    assert server.status == "200 OK"


def test_a_promise_of_a_length_is_kept() -> None:
    server = Server()
    push = Push(server, "GET")
    send = push(Response(200, Headers([("content-length", "3")])))
    send(b"ab")
    with pytest.raises(GuestError, match="1 bytes before"):
        push.end(STREAMED)
    with pytest.raises(GuestError, match="longer"):
        send(b"cd")


def test_a_response_read_in_another_thread(serve: Serve) -> None:
    gateway, workers = serve(long(END), WRITES), Workers(2)
    response = relay(workers, lambda begin: gateway.handle(request(), begin=begin))
    assert response is not None
    assert response.status == 200
    assert sum(map(len, response.body)) == 655360
    response.close()


def test_a_reader_that_leaves_ends_the_guest(serve: Serve) -> None:
    gateway, workers = serve(long("(br 0)"), WRITES), Workers(1)
    response = relay(workers, lambda begin: gateway.handle(request(), begin=begin))
    assert response is not None
    next(iter(response.body))
    response.close()
    # the only thread is free again
    again = relay(workers, lambda begin: Response(204))
    assert again is not None
    assert again.status == 204


def test_a_failure_is_known_where_it_is_read(serve: Serve) -> None:
    gateway, workers = serve(long("unreachable"), WRITES), Workers(1)
    response = relay(workers, lambda begin: gateway.handle(request(), begin=begin))
    assert response is not None
    with pytest.raises(GuestError, match="cut off"):
        list(response.body)

    def fail(begin: object) -> Response:
        raise RequestError("no")

    with pytest.raises(RequestError, match="no"):
        relay(workers, fail)


# Requests to components of the application

CHAIN_USES = {
    HTTP: (
        *("[constructor]outgoing-request", "[method]outgoing-request.set-authority"),
        *("[method]outgoing-request.set-path-with-query", "[method]future-incoming-response.subscribe"),
        *("[method]future-incoming-response.get", "[method]incoming-response.status"),
    ),
    "wasi:http/outgoing-handler@0.2.0": ("handle",),
    POLL: ("[method]pollable.block",),
}
# Asks itself, and answers with 200 and the last digit of the status that it got.
CHAIN = """(local $request2 i32) (local $future i32)
  (local.set $request2 (call $outgoing-request (call $fields)))
  (drop (call $outgoing-request.set-authority (local.get $request2)
    (i32.const 1) (i32.const 0) (i32.const 15)))
  (drop (call $outgoing-request.set-path-with-query (local.get $request2)
    (i32.const 1) (i32.const 15) (i32.const 2)))
  (call $handle (local.get $request2) (i32.const 0) (i32.const 0) (i32.const 32))
  (if (i32.load8_u (i32.const 32)) (then (unreachable)))
  (local.set $future (i32.load (i32.const 40)))
  (call $pollable.block (call $future-incoming-response.subscribe (local.get $future)))
  (call $future-incoming-response.get (local.get $future) (i32.const 64))
  (i32.store8 (i32.const 0) (i32.add (i32.const 48) (i32.rem_u
    (call $incoming-response.status (i32.load (i32.const 88))) (i32.const 10))))
  (call $answer (local.get $out) (i32.const 203) (i32.const 0) (i32.const 1))"""


def test_components_that_call_each_other_without_end(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    gateway = serve(
        CHAIN,
        CHAIN_USES,
        data='(data (i32.const 0) "a.spin.internal/a")',
        allowed_outbound_hosts=["*://a.spin.internal:*"],
    )
    for _ in range(3):
        response = gateway.handle(request())
        assert response is not None
        assert (response.status, response.body) == (203, (b"3",))
    # the innermost of them got no instance, and who had asked for it a 500
    assert "components call each other more than" in caplog.text
