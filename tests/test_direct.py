# Requests that go from a server's thread to one of ours. granian's ends of a connection are played
# here; tests/test_serve.py has the real ones.

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import granian
import pytest
from granian import _futures

from wasm_gateway import direct, exchange
from wasm_gateway.asgi import AsgiGateway
from wasm_gateway.exchange import Lookouts
from wasm_gateway.messages import STREAMED, Begin, Headers, Request, Response
from wasm_gateway.router import RouteMatch, Router

SECONDS = 60  # what may never be reached

Guest = Callable[[Request, Begin], Response | None]


class Guests:
    """Routes whose guests are functions."""

    def __init__(self, routes: dict[str, Guest], inline: bool = False) -> None:
        self.match = Router(routes.items()).match
        self.inline = inline
        self.left = 0

    def runs_inline(self, match: RouteMatch) -> bool:
        return self.inline

    def leave_loop(self, match: RouteMatch) -> None:
        self.left += 1

    def follow(self) -> None:
        """There is no ledger."""

    def handle(self, request: Request, match: RouteMatch, begin: Begin, turn: None) -> Response | None:
        guest: Any = match.route.target
        response: Response | None = guest(request, begin)
        return response


class Connection:
    """Takes a response from any thread; the client leaves when it is told to."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.sent: list[Any] = []
        self.threads: set[str] = set()
        self.leaves = loop.create_future()
        self._asked = False

    async def receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.leaves
        return {"type": "http.disconnect"}

    def send(self, message: Any) -> Any:
        self.sent.append(message)
        self.threads.add(threading.current_thread().name)
        return _Done()


class _Done:
    def __await__(self) -> Iterator[Any]:
        return iter(())


class Call:
    def __init__(self, loop: asyncio.AbstractEventLoop, path: str, *headers: tuple[bytes, bytes]) -> None:
        self.scope: Any = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"h"), *headers],
            "http_version": "1.1",
        }
        self.proto = Connection(loop)
        self.error: BaseException | None = None
        self.over = threading.Event()

    def done(self) -> None:
        self.over.set()

    def err(self, error: BaseException) -> None:
        self.error = error
        self.over.set()

    def answered(self) -> list[Any]:
        """Status, headers and chunks, once the body has ended."""
        end = time.monotonic() + SECONDS
        while not self.proto.sent or self.proto.sent[-1].get("more_body", "headers" in self.proto.sent[-1]):
            assert time.monotonic() < end, self.proto.sent
            time.sleep(0.001)
        start, *rest = self.proto.sent
        return [start["status"], start["headers"], *[message["body"] for message in rest]]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loop")
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


Door = Callable[..., tuple[AsgiGateway, Callable[..., Call], partial[bool]]]


@pytest.fixture
def door(loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    """Makes a door: how a call is made, and handed to it."""
    doors: list[AsgiGateway] = []

    def make(guest: Guest, *, inline: bool = False, **options: Any) -> Any:
        made = AsgiGateway(Guests({"/guest": guest}, inline), **options)  # type: ignore[arg-type]
        doors.append(made)
        return made, partial(Call, loop), partial(direct.take, made, lookouts=Lookouts(loop))

    yield make
    for made in doors:
        made.workers.close()


def hello(request: Request, begin: Begin) -> Response:
    return Response(200, Headers([("x", "y")]), (b"hel", b"lo"))


def test_the_installed_granian_is_one_that_is_known(monkeypatch: pytest.MonkeyPatch, door: Door) -> None:
    if not granian.__version__.startswith(direct.KNOWN):
        pytest.skip("somebody has to look whether what direct.py relies on is so in this granian")
    monkeypatch.setattr(_futures, direct.SCHEDULE, usual := getattr(_futures, direct.SCHEDULE))

    assert direct.install(door(hello)[0])
    assert getattr(_futures, direct.SCHEDULE) is not usual


def test_what_nobody_expects_is_the_loops(monkeypatch: pytest.MonkeyPatch, door: Door) -> None:
    taken: list[Any] = []

    def usual(loop: object, ctx: object, cb: object) -> Callable[[Any], object]:
        return taken.append

    monkeypatch.setattr(granian, "__version__", f"{direct.KNOWN[0]}0")
    monkeypatch.setattr(_futures, direct.SCHEDULE, usual)
    made, make, _ = door(hello)
    assert direct.install(made)
    call = make("/guest")
    del call.scope["method"]
    getattr(_futures, direct.SCHEDULE)(None, None, None)(call)

    assert taken == [call]


def test_another_granian_is_left_alone(monkeypatch: pytest.MonkeyPatch, door: Door) -> None:
    def other(loop: object, callback: object) -> None: ...

    monkeypatch.setattr(granian, "__version__", f"{direct.KNOWN[0]}0")
    monkeypatch.setattr(_futures, direct.SCHEDULE, other)
    assert not direct.install(door(hello)[0])
    assert getattr(_futures, direct.SCHEDULE) is other

    monkeypatch.delattr(_futures, direct.SCHEDULE)
    assert not direct.install(door(hello)[0])


def test_a_later_granian_is_left_alone(monkeypatch: pytest.MonkeyPatch, door: Door) -> None:
    usual = getattr(_futures, direct.SCHEDULE)
    monkeypatch.setattr(granian, "__version__", "2.90.0")
    assert not direct.install(door(hello)[0])
    assert getattr(_futures, direct.SCHEDULE) is usual


def test_a_thread_answers(door: Door) -> None:
    _, make, take = door(hello)
    call = make("/guest")
    assert take(call)

    assert call.answered() == [200, [(b"x", b"y"), (b"content-length", b"5")], b"hello"]
    assert call.proto.threads == {"wasm-guest"}


def test_a_quick_guest_runs_where_the_request_comes_in(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "LOOP_SECONDS", SECONDS)
    made, make, take = door(hello, inline=True)
    call = make("/guest")
    assert take(call)

    assert call.proto.threads == {threading.current_thread().name}
    assert call.answered()[0] == 200
    assert made.gateway.left == 0  # type: ignore[attr-defined]


def test_one_that_is_not_quick_leaves(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "LOOP_SECONDS", 0.0)
    made, make, take = door(hello, inline=True)
    assert take(make("/guest"))

    assert made.gateway.left == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/elsewhere", ()),
        ("/guest", [(b"content-length", b"1")]),
        ("/guest", [(b"transfer-encoding", b"chunked")]),
        ("/guest", [(b"host", b"other")]),  # to be refused
    ],
)
def test_what_the_loop_answers(door: Door, path: str, headers: list[tuple[bytes, bytes]]) -> None:
    _, make, take = door(hello)
    call = make(path, *headers)
    assert not take(call)
    call.scope["type"] = "websocket"
    assert not take(call)
    assert call.proto.sent == []


def test_a_full_pool_is_the_loops_to_tell(door: Door) -> None:
    go = threading.Event()

    def waits(request: Request, begin: Begin) -> Response:
        go.wait(SECONDS)
        return Response(200)

    made, make, take = door(waits, threads=1)
    made.workers.backlog = 0
    first = make("/guest")
    assert take(first)
    assert not take(make("/guest"))
    go.set()
    assert first.answered()[0] == 200


def test_a_long_response_goes_out_from_the_loop(door: Door) -> None:
    go = threading.Event()

    def streams(request: Request, begin: Begin) -> Response:
        send = begin(Response(200))
        send(b"first")
        go.wait(SECONDS)
        send(b"second")
        return STREAMED

    _, make, take = door(streams)
    call = make("/guest")
    assert take(call)
    end = time.monotonic() + SECONDS
    while len(call.proto.sent) < 2:
        assert time.monotonic() < end
        time.sleep(0.001)
    assert call.proto.sent[1] == {"type": "http.response.body", "body": b"first", "more_body": True}
    go.set()

    assert call.answered() == [200, [], b"first", b"second", b""]
    assert call.proto.threads == {"loop"}
    assert call.over.wait(SECONDS)
    assert call.error is None


def test_a_response_that_is_cut_off_is_an_error(door: Door) -> None:
    def fails(request: Request, begin: Begin) -> Response:
        begin(Response(200))(b"first")
        return Response(500)

    _, make, take = door(fails)
    call = make("/guest")
    assert take(call)

    assert call.over.wait(SECONDS)
    assert str(call.error) == "the response was cut off"
    assert call.proto.sent[-1]["more_body"]


def test_an_error_of_ours_is_granians_to_log(door: Door) -> None:
    def fails(request: Request, begin: Begin) -> Response:
        raise ZeroDivisionError

    _, make, take = door(fails)
    call = make("/guest")
    assert take(call)

    assert call.over.wait(SECONDS)
    assert isinstance(call.error, ZeroDivisionError)
    assert call.proto.sent == []


def test_a_client_that_leaves_is_noticed(
    door: Door, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "WATCH_SECONDS", 0.001)
    began, noticed = threading.Event(), threading.Event()

    def waits(request: Request, begin: Begin) -> Response:
        began.set()
        end = time.monotonic() + SECONDS
        assert request.gone is not None
        while not request.gone():
            assert time.monotonic() < end
            time.sleep(0.001)
        noticed.set()
        return Response(200)

    _, make, take = door(waits)
    call = make("/guest")
    assert take(call)
    assert began.wait(SECONDS)  # a guest whose client has left before is not run
    loop.call_soon_threadsafe(call.proto.leaves.set_result, None)

    assert noticed.wait(SECONDS)


def test_nobody_looks_out_once_the_answer_is_out(door: Door) -> None:
    _, make, take = door(hello)
    call = make("/guest")
    assert take(call)

    assert call.answered()[0] == 200
    assert not take.keywords["lookouts"]._due
