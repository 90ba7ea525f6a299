"""Components of wasi:http 0.3: bodies that are streams, in both directions, at once and in turn."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.executors.test_wasi_http import Door
from tests.wasi_p3_wat import CLOCK, HTTP, P3Toolkit
from wasm_gateway import Gateway
from wasm_gateway.errors import DeadlineExceeded, Disconnected
from wasm_gateway.exchange import Inbox
from wasm_gateway.messages import STREAMED, Headers, Request, Response

RC = "0.3.0-rc-2026-03-15"
HELLO = """
  (call $request.drop (local.get $request))
  (call $return (call $new))
  (call $write (i32.const 0) (i32.const 5))
  (call $finish)
  (i32.const 0)""".replace("$request.drop", "$drop.request")
ECHO = """
  (call $consume (local.get $request))
  (call $return (call $new))
  (call $echo)
  (call $finish)
  (i32.const 0)"""
# The body and what follows it are passed on as they are.
PASS_ON = """
  (call $consume (local.get $request))
  (call $response.new (call $fields) (i32.const 1) (global.get $rx) (global.get $rtrailers) (i32.const 4000))
  (call $sent.drop-readable (i32.load (i32.const 4004)))
  (call $return (i32.load (i32.const 4000)))
  (i32.const 0)"""
DATA = '(data (i32.const 0) "hello")'
WAITS = {CLOCK: ("wait-for",)}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent on for the mere time that a slow machine takes."""
    monkeypatch.setattr("wasm_gateway.executors.wasi_http.CHUNK_SECONDS", 60.0)


@pytest.fixture(scope="session")
def toolkit() -> P3Toolkit:
    return P3Toolkit()


Serve = Callable[..., Gateway]


@pytest.fixture
def serve(application: Any, toolkit: P3Toolkit) -> Serve:
    """`serve(body, uses)` is a gateway whose component `a` runs that code; see P3Toolkit.handler."""

    def serve(body: str, uses: Any = None, *, settings: Any = None, **options: Any) -> Gateway:
        wasm = toolkit.handler(body, uses, data=DATA, **options)
        gateway: Gateway = application(a=application.part(wasm, **settings) if settings else wasm)
        return gateway

    return serve


def request(body: Any = (), method: str = "GET", **fields: Any) -> Request:
    return Request(method, "/a", None, Headers(), body, authority="x", **fields)


def whole(response: Response | None) -> tuple[int, bytes]:
    assert response is not None
    return response.status, b"".join(response.body)


def failure(caplog: Any) -> str:
    [record] = caplog.records
    return str(record.getMessage())


@pytest.mark.parametrize("version", ["0.3.0", "0.3.7", RC])
def test_a_short_answer_is_whole(serve: Serve, version: str) -> None:
    door = Door()
    assert whole(serve(HELLO, version=version).handle(request(), begin=door)) == (200, b"hello")
    assert door.head is None


def test_each_request_has_an_instance_of_its_own(serve: Serve) -> None:
    once = f"""(if (i32.load (i32.const 100)) (then unreachable))
      (i32.store (i32.const 100) (i32.const 1)) {HELLO}"""
    gateway = serve(once)
    for _ in range(3):
        assert whole(gateway.handle(request())) == (200, b"hello")


@pytest.mark.parametrize("code", [ECHO, PASS_ON])
def test_what_comes_in_goes_out(serve: Serve, code: str) -> None:
    gateway = serve(code)
    for body in ((), (b"one",), (b"one", b"", b"two"), (bytes(range(256)) * 1024,) * 5):
        assert whole(gateway.handle(request(body, "POST"))) == (200, b"".join(body))


@pytest.mark.parametrize("code", [ECHO, PASS_ON])
def test_a_long_answer_goes_out_while_it_is_made(serve: Serve, code: str) -> None:
    read = 0

    def body() -> Iterator[bytes]:
        nonlocal read
        for _ in range(64):
            read += 1
            yield bytes(1 << 20)

    waiting: list[int] = []

    class Counting(Door):
        def __call__(self, head: Response) -> Callable[[bytes], object]:
            super().__call__(head)

            def send(chunk: bytes) -> None:
                self.chunks.append(chunk[:1])
                waiting.append((read << 20) - sum(sizes))
                sizes.append(len(chunk))

            sizes: list[int] = []
            return send

    limits = {"tool.wasm-gateway": {"max_response_body": "64MiB", "max_request_body": "64MiB"}}
    door = Counting()
    response = serve(code, settings=limits).handle(request(body(), "POST"), begin=door)
    assert response is STREAMED
    assert door.head is not None
    assert max(waiting) < 8 << 20


def test_trailers_are_passed_on(serve: Serve) -> None:
    trailers = Headers([("x-sum", "1")])
    response = serve(PASS_ON).handle(request((b"a",), "POST", trailers=lambda: trailers))
    assert whole(response) == (200, b"a")
    assert response is not None
    assert response.trailers is not None
    assert response.trailers() == trailers


def test_a_guest_sees_what_was_asked(serve: Serve) -> None:
    code = (
        """
      (call $request.get-method (local.get $request) (i32.const 200))
      (i32.store8 (i32.const 0) (i32.load8_u (i32.const 200)))
      (call $request.get-scheme (local.get $request) (i32.const 200))
      (i32.store8 (i32.const 1) (i32.load8_u (i32.const 204)))
      (call $request.get-path-with-query (local.get $request) (i32.const 200))
      (i32.store8 (i32.const 2) (i32.load (i32.const 208)))
      (call $request.get-authority (local.get $request) (i32.const 200))
      (i32.store8 (i32.const 3) (i32.load (i32.const 208)))
      (call $fields.copy-all (call $request.get-headers (local.get $request)) (i32.const 200))
      (i32.store8 (i32.const 4) (i32.load (i32.const 204)))"""
        + HELLO
    )
    uses = {
        HTTP: (
            *("[method]request.get-method", "[method]request.get-scheme", "[method]request.get-authority"),
            *(
                "[method]request.get-path-with-query",
                "[method]request.get-headers",
                "[method]fields.copy-all",
            ),
        )
    }
    fields = [("host", "x.test"), ("connection", "close"), ("x-a", "1")]
    asked = Request("PUT", "/a", "b=c", Headers(fields), (), "https", "x.test")
    status, body = whole(serve(code, uses).handle(asked))
    # put, https, "/a?b=c", "x.test"; host and x-a, and what the gateway adds
    assert (status, *body[:4]) == (200, 3, 1, 6, 6)
    hidden, shown = ({"connection"}, {"host", "x-a"})
    assert body[4] >= len(shown)
    assert hidden


def test_events_arrive_one_by_one(serve: Serve) -> None:
    code = """
      (call $drop.request (local.get $request))
      (call $return (call $new))
      (call $write (i32.const 0) (i32.const 5))
      (call $wait-for (i64.const 100000000))
      (call $write (i32.const 0) (i32.const 4))
      (call $wait-for (i64.const 100000000))
      (call $write (i32.const 0) (i32.const 3))
      (call $finish)
      (i32.const 0)"""
    door = Door()
    assert serve(code, WAITS).handle(request(), begin=door) is STREAMED
    assert door.chunks == [b"hello", b"hell", b"hel"]


def test_a_callback_goes_on(serve: Serve) -> None:
    """The guest leaves its code to wait, and is called back."""
    code = """
      (local $set i32)
      (call $drop.request (local.get $request))
      (call $return (call $new))
      (local.set $set (call $set.new))
      (call $join (i32.shr_u (call $wait-for~ (i64.const 1000000)) (i32.const 4)) (local.get $set))
      (i32.or (i32.const 2) (i32.shl (local.get $set) (i32.const 4)))"""
    callback = """
      (if (i32.ne (local.get $event) (i32.const 1)) (then unreachable))
      (if (i32.ne (local.get $code) (i32.const 2)) (then unreachable))
      (call $join (local.get $waitable) (i32.const 0))
      (call $subtask.drop (local.get $waitable))
      (call $write (i32.const 0) (i32.const 5))
      (call $finish)
      (i32.const 0)"""
    gateway = serve(code, async_uses=WAITS, callback=callback)
    assert whole(gateway.handle(request())) == (200, b"hello")


# What goes wrong


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("unreachable", "unreachable"),
        ("(call $refuse) (i32.const 0)", "internal-error|loop-detected|HTTP-protocol-error"),
        ("(i32.const 0)", "the task ends without having returned"),
        ("(i32.const 7)", "unsupported callback code"),
        ("(call $return (i32.const 99)) (i32.const 0)", "unknown handle index 99"),
        ("(call $return (call $new)) (call $return (call $new)) (i32.const 0)", "has returned"),
        # it waits for the reader of its own response
        ("(drop (call $new)) (call $write (i32.const 0) (i32.const 5)) (i32.const 0)", "deadlock"),
        # the response has no end
        ("(call $return (call $new)) (i32.const 0)", "deadlock|not finish"),
    ],
)
def test_a_guest_that_fails(serve: Serve, caplog: Any, code: str, text: str) -> None:
    gateway = serve(code)
    assert whole(gateway.handle(request())) == (500, b"")
    assert any(word in failure(caplog) for word in text.split("|"))


def test_what_fails_after_the_response_is_logged(serve: Serve, caplog: Any) -> None:
    code = HELLO.removesuffix("(i32.const 0)") + "unreachable"
    assert whole(serve(code).handle(request())) == (200, b"hello")
    assert "failed after its response" in failure(caplog)


def test_work_goes_on_after_the_response(serve: Serve, caplog: Any) -> None:
    """A guest that has answered runs on, here into a trap that is seen in the log."""
    code = HELLO.removesuffix("(i32.const 0)") + "(call $wait-for (i64.const 1000000)) unreachable"
    assert whole(serve(code, WAITS).handle(request())) == (200, b"hello")
    assert "failed after its response" in failure(caplog)


def test_a_task_goes_on_after_the_response(serve: Serve, caplog: Any) -> None:
    """It has left its code to wait, and is called back when the response has long been there."""
    code = f"""(local $set i32) {LATE}
      (local.set $set (call $set.new))
      (call $join (i32.shr_u (call $wait-for~ (i64.const 1000000)) (i32.const 4)) (local.get $set))
      (i32.or (i32.const 2) (i32.shl (local.get $set) (i32.const 4)))"""
    gateway = serve(code, async_uses=WAITS, callback="unreachable")
    assert whole(gateway.handle(request())) == (200, b"hello")
    assert "failed after its response" in failure(caplog)


def test_a_client_does_not_wait_for_what_comes_after_its_response(serve: Serve) -> None:
    """The end is sent on before the guest's work is over, which nobody breaks off then."""
    code = (
        HELLO.removesuffix("(i32.const 0)")
        + """
      (call $wait-for (i64.const 100000000))
      (call $wait-for (i64.const 100000000))
      (i32.const 0)"""
    )
    seen: list[bytes | None] = []
    left = False

    def begin(head: Response) -> Callable[[bytes | None], object]:
        def send(chunk: bytes | None) -> None:
            nonlocal left
            seen.append(chunk)
            left = chunk is None

        return send

    assert serve(code, WAITS).handle(request(gone=lambda: left), begin=begin) is STREAMED
    assert seen == [b"hello", None]
    assert left


def test_the_deadline_ends_waiting(serve: Serve, caplog: Any) -> None:
    settings = {"tool.wasm-gateway": {"timeout": "50ms"}}
    code = "(call $wait-for (i64.const -1)) (i32.const 0)"
    start = time.monotonic()
    assert whole(serve(code, WAITS, settings=settings).handle(request()))[0] >= 500
    assert time.monotonic() - start < 60
    assert DeadlineExceeded.__name__ in failure(caplog)


def test_a_body_too_large(serve: Serve) -> None:
    settings = {"tool.wasm-gateway": {"max_request_body": 10}}
    gateway = serve(ECHO, settings=settings)
    assert whole(gateway.handle(request((b"12345", b"67890"), "POST"))) == (200, b"1234567890")
    assert whole(gateway.handle(request(iter((b"12345", b"67890", b"1")), "POST"))) == (413, b"")


def test_a_response_too_large(serve: Serve, caplog: Any) -> None:
    settings = {"tool.wasm-gateway": {"max_response_body": 4}}
    assert whole(serve(HELLO, settings=settings).handle(request())) == (500, b"")
    assert "max_response_body" in failure(caplog) or "longer than 4 bytes" in failure(caplog)


CONTENT_LENGTH = """
  (call $drop.request (local.get $request))
  (call $fields.from-list (i32.const 300) (i32.const 1) (i32.const 200))
  (local.set $fields (i32.load (i32.const 204)))
  (local.set $b (call $body.new)) (local.set $t (call $trailers.new))
  (global.set $tx (call $high (local.get $b))) (global.set $ttx (call $high (local.get $t)))
  (call $response.new (local.get $fields) (i32.const 1) (i32.wrap_i64 (local.get $b))
    (i32.wrap_i64 (local.get $t)) (i32.const 4000))
  (local.set $sent (i32.load (i32.const 4004)))
  (call $return (i32.load (i32.const 4000)))
  (call $write (i32.const 0) (i32.const 5))
  (call $finish)
  (drop (call $sent.read (local.get $sent) (i32.const 3904)))
  (call $report (i32.load8_u (i32.const 3904)) (i32.load8_u (i32.const 3912)))
  (i32.const 0)"""


@pytest.mark.parametrize(("length", "case"), [("5", None), ("4", "HTTP-response-body-size"), ("6", "size")])
def test_content_length_is_kept(serve: Serve, caplog: Any, length: str, case: str | None) -> None:
    """The guest hears by its `sent` future whether the body was what it had announced."""
    report = f"""(func $report (param $error i32) (param $case i32)
      (if (i32.ne (local.get $error) (i32.const {int(case is not None)})) (then unreachable)))"""
    data = f"""(data (i32.const 300) "\\40\\01\\00\\00\\0e\\00\\00\\00\\50\\01\\00\\00\\01\\00\\00\\00")
      (data (i32.const 320) "content-length") (data (i32.const 336) "{length}")"""
    locals_ = "(local $fields i32) (local $b i64) (local $t i64) (local $sent i32)"
    gateway = serve(
        locals_ + CONTENT_LENGTH,
        {HTTP: ("[static]fields.from-list",)},
        functions=report + data,
    )
    response = gateway.handle(request())
    if case is None:
        assert whole(response) == (200, b"hello")
        assert not caplog.records
    else:
        assert whole(response) == (500, b"")
        assert "did not finish" in failure(caplog)


def test_a_guest_that_writes_more_than_it_announced_is_told_at_once(serve: Serve, caplog: Any) -> None:
    """By its `sent` future, and by its next write: nobody reads any more."""
    data = """(data (i32.const 300) "\\40\\01\\00\\00\\0e\\00\\00\\00\\50\\01\\00\\00\\01\\00\\00\\00")
      (data (i32.const 320) "content-length") (data (i32.const 336) "4")"""
    locals_ = "(local $fields i32) (local $b i64) (local $t i64) (local $sent i32)"
    begun, _, _ = CONTENT_LENGTH.partition("(call $finish)")
    code = f"""{locals_} {begun}
      (if (i32.ne (call $sent.read~ (local.get $sent) (i32.const 3904)) (i32.const 0)) (then (unreachable)))
      (if (i32.ne (call $body.write (global.get $tx) (i32.const 0) (i32.const 1)) (i32.const 1))
        (then (unreachable)))
      (call $finish) (i32.const 0)"""
    gateway = serve(code, {HTTP: ("[static]fields.from-list",)}, functions=data)
    assert whole(gateway.handle(request())) == (500, b"")
    assert "did not finish" in failure(caplog)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 500)])
def test_a_length_without_a_body(serve: Serve, method: str, status: int) -> None:
    """An answer to HEAD says how long the body would be (RFC 9110, 8.6), and nothing is wrong with that."""
    code = """
      (local $fields i32) (local $t i64) (local $sent i32)
      (call $drop.request (local.get $request))
      (call $fields.from-list (i32.const 300) (i32.const 1) (i32.const 200))
      (local.set $fields (i32.load (i32.const 204)))
      (local.set $t (call $trailers.new))
      (call $response.new (local.get $fields) (i32.const 0) (i32.const 0) (i32.wrap_i64 (local.get $t))
        (i32.const 4000))
      (local.set $sent (i32.load (i32.const 4004)))
      (call $return (i32.load (i32.const 4000)))
      (drop (call $sent.read (local.get $sent) (i32.const 3904)))
      (if (i32.load8_u (i32.const 3904)) (then unreachable))
      (memory.fill (i32.const 3904) (i32.const 0) (i32.const 64))
      (drop (call $trailers.write (call $high (local.get $t)) (i32.const 3904)))
      (i32.const 0)"""
    data = """(data (i32.const 300) "\\40\\01\\00\\00\\0e\\00\\00\\00\\50\\01\\00\\00\\01\\00\\00\\00")
      (data (i32.const 320) "content-length") (data (i32.const 336) "5")"""
    gateway = serve(code, {HTTP: ("[static]fields.from-list",)}, functions=data)
    response = gateway.handle(request(method=method))
    assert whole(response)[0] == status
    if status == 200:
        assert response is not None
        assert response.headers.get("content-length") == "5"


LATE = HELLO.removesuffix("(i32.const 0)")
ENDS = {
    "hello": HELLO,
    "echo": ECHO,
    "passed on": PASS_ON,
    "an error": "(call $refuse) (i32.const 0)",
    "a trap": "unreachable",
    "a late trap": f"{LATE} unreachable",
    "a later trap": f"{LATE} (call $wait-for (i64.const 1000)) unreachable",
    "nothing": "(i32.const 0)",
    "half of a response": """(call $return (call $new)) (call $write (i32.const 0) (i32.const 5))
      (i32.const 0)""",
    "half of a long response": """(call $return (call $new)) (call $write (i32.const 0) (i32.const 65536))
      (call $write (i32.const 0) (i32.const 65536)) (i32.const 0)""",
    "a deadlock": "(drop (call $new)) (call $write (i32.const 0) (i32.const 5)) (i32.const 0)",
    "a read": """(call $consume (local.get $request))
      (drop (call $body.read~ (global.get $rx) (i32.const 1024) (i32.const 1)))
      (drop (call $body.read~ (global.get $rx) (i32.const 1024) (i32.const 100_000)))
      (call $return (call $new)) (call $write (i32.const 0) (i32.const 5)) (call $finish) (i32.const 0)""",
}


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS)
def test_a_request_leaves_nothing_to_the_garbage_collector(serve: Serve, garbage: Any, code: str) -> None:
    gateway = serve(code, WAITS)

    def work() -> None:
        for door in (None, Door()):
            gateway.handle(request(iter((b"x", bytes(1 << 17))), "POST"), begin=door)

    assert garbage(work) == []


# A body that comes while the guest does something else


def test_other_tasks_go_on_while_the_body_is_awaited(serve: Serve) -> None:
    """The guest reads its body asynchronously, waits for a clock, and answers before the body has come."""
    code = """
      (call $consume (local.get $request))
      (if (i32.ne (call $body.read~ (global.get $rx) (i32.const 1024) (i32.const 100)) (i32.const -1))
        (then unreachable))
      (call $wait-for (i64.const 50000000))
      (call $return (call $new))
      (call $write (i32.const 0) (i32.const 5))
      (call $wait-for (i64.const 50000000))
      (local.set $set (call $set.new))
      (call $join (global.get $rx) (local.get $set))
      (drop (call $set.wait (local.get $set) (i32.const 200)))
      (call $write (i32.const 1024) (i32.shr_u (i32.load (i32.const 204)) (i32.const 4)))
      (call $finish)
      (i32.const 0)"""
    gateway = serve("(local $set i32)" + code, WAITS)

    async def main() -> list[bytes]:
        answered = asyncio.Event()
        loop = asyncio.get_running_loop()
        messages = [{"type": "http.request", "body": b" world", "more_body": False}]

        async def receive() -> Any:
            if messages:
                await answered.wait()  # the client sends nothing before it has heard something
                return messages.pop()
            return await asyncio.Future()

        inbox = Inbox(receive)
        door = Door()

        def begin(head: Response) -> Callable[[bytes], object]:
            append = door(head)

            def send(chunk: bytes) -> None:
                append(chunk)
                loop.call_soon_threadsafe(answered.set)

            return send

        response = await asyncio.to_thread(gateway.handle, request(inbox, "POST"), None, begin)
        inbox.stop()
        assert response is STREAMED
        return door.chunks

    assert asyncio.run(main()) == [b"hello", b" world"]


def test_a_client_that_leaves_ends_the_guest(serve: Serve) -> None:
    gone = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"a"
        gone.set()
        raise Disconnected("client disconnected")

    door = Door()
    response = serve(ECHO).handle(request(body(), "POST"), begin=door)
    assert whole(response)[0] == Disconnected.status
    assert gone.is_set()


def test_a_client_that_takes_nothing_more(serve: Serve) -> None:
    """A door that cannot send any more ends the guest in its write."""
    code = """
      (call $drop.request (local.get $request))
      (call $return (call $new))
      (loop $more
        (call $write (i32.const 0) (i32.const 4096))
        (br $more))
      (i32.const 0)"""
    sent = 0

    def begin(head: Response) -> Callable[[bytes], object]:
        def send(chunk: bytes) -> None:
            nonlocal sent
            sent += len(chunk)
            if sent > 1 << 20:
                raise Disconnected("client disconnected")

        return send

    limits = {"tool.wasm-gateway": {"max_response_body": "1GiB"}}
    response = serve(code, settings=limits).handle(request(), begin=begin)
    assert whole(response)[0] == Disconnected.status
    assert 1 << 20 < sent < 2 << 20


def test_a_guest_that_waits_leaves_the_event_loop(serve: Serve, caplog: Any) -> None:
    """Its manifest calls it quick; once it has held the loop for long it gets a thread."""
    code = "(call $wait-for (i64.const 300000000))" + HELLO
    gateway = serve(code, WAITS, settings={"tool.wasm-gateway": {"inline": True}})
    match = gateway.match("/a")
    assert match is not None
    assert gateway.runs_inline(match)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/a",
        "raw_path": b"/a",
        "query_string": b"",
        "headers": [(b"host", b"x")],
        "http_version": "1.1",
    }

    async def main() -> bytes:
        out = b""

        async def receive() -> Any:
            return await asyncio.Future()

        async def send(message: Any) -> None:
            nonlocal out
            out += message.get("body", b"")

        app = gateway.asgi()
        await app(scope, receive, send)
        await app(scope, receive, send)
        return out

    assert asyncio.run(main()) == b"hello" * 2
    assert not gateway.runs_inline(match)
    assert "has held the event loop" in failure(caplog)
