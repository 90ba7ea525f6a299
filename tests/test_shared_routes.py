"""Routes that a guest and the site share, through both doors: canary, kill switch, fallback, breaker."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from werkzeug.test import Client, EnvironBuilder

from wasm_gateway import Gateway
from wasm_gateway.migration.ledger import SqliteLedger
from wasm_gateway.migration.report import read
from wasm_gateway.policy import COOKIE, BadValue, Visitor

Answer = tuple[int, bytes, list[str]]  # status, body, cookies that were set
Ask = Callable[..., Answer]


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"native " + body]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan here")
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"native " + body})


def over_wsgi(gateway: Gateway, site: Any = wsgi_app, **options: Any) -> Ask:
    client = Client(gateway.wsgi(site, **options), use_cookies=False)

    def ask(path: str = "/a", body: bytes = b"", **headers: str) -> Answer:
        fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
        method = "POST" if body else "GET"
        with client.open(path, method=method, data=body or None, headers=fields) as response:
            return response.status_code, response.get_data(), response.headers.getlist("set-cookie")

    return ask


def over_asgi(gateway: Gateway, site: Any = asgi_app, **options: Any) -> Ask:
    app = gateway.asgi(site, **options)

    async def exchange(path: str, body: bytes, headers: dict[str, str]) -> Answer:
        fields = [(b"host", b"x.test")]
        fields += [(n.replace("_", "-").lower().encode(), v.encode()) for n, v in headers.items()]
        if body:
            fields.append((b"content-length", str(len(body)).encode()))
        target, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": "POST" if body else "GET",
            "path": target,
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "headers": fields,
            "http_version": "1.1",
        }
        halves = [body[: len(body) // 2], body[len(body) // 2 :]] if body else [b""]
        status, out, cookies = 0, b"", list[str]()

        async def receive() -> Any:
            if halves:
                return {"type": "http.request", "body": halves.pop(0), "more_body": bool(halves)}
            return await asyncio.Future()

        async def send(message: Any) -> None:
            nonlocal status, out
            if message["type"] == "http.response.start":
                status = message["status"]
                cookies.extend(v.decode() for n, v in message["headers"] if n == b"set-cookie")
            else:
                out += message.get("body", b"")

        await app(scope, receive, send)
        return status, out, cookies

    def ask(path: str = "/a", body: bytes = b"", **headers: str) -> Answer:
        return asyncio.run(exchange(path, body, headers))

    return ask


DOORS = {"wsgi": over_wsgi, "asgi": over_asgi}


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Callable[..., Ask]:
    return DOORS[request.param]


@pytest.fixture
def made(application: Any, wat: Any) -> Callable[..., Gateway]:
    """`made("answers" | "traps" | ..., mode=..., ...)`: a gateway whose component `a` does that at /a."""

    def make(kind: str = "answers", options: Any = None, **tool: Any) -> Gateway:
        wasm = {
            "answers": lambda: wat.flat(ANSWER),
            "traps": lambda: wat.flat("unreachable"),
            "loops": lambda: wat.flat("(loop $l (br $l)) unreachable"),
            "broken": lambda: b"\0asm\1\0\0\0\1",
        }[kind]()
        gateway: Gateway = application(options=options, a=application.part(wasm, tool=tool))
        return gateway

    return make


ANSWER = '(call $text (i32.const 200) (str "guest"))'
NATIVE, GUEST = (200, b"native "), (200, b"guest")
Made = Callable[..., Gateway]
Door = Callable[..., Ask]


def test_a_kill_switch(made: Made, door: Door) -> None:
    ask = door(made(mode="native", opt_in="header:x-wasm"))
    assert ask(x_wasm="1")[:2] == NATIVE
    assert ask(body=b"data") == (200, b"native data", [])


def test_methods_that_stay_the_sites(made: Made, door: Door) -> None:
    ask = door(made(methods="GET", fallback=True))
    assert ask() == (*GUEST, [])
    assert ask(body=b"data") == (200, b"native data", [])


def test_testers_choose_a_side(made: Made, door: Door) -> None:
    ask = door(made(mode="canary", percent=0, opt_in=["header:x-wasm=1", "query:wasm"]))
    assert ask()[:2] == NATIVE
    assert ask(x_wasm="1")[:2] == GUEST
    assert ask(x_wasm="2")[:2] == NATIVE
    assert ask("/a?b=c&wasm")[:2] == GUEST
    ask = door(made(opt_out="query:native"))
    assert ask("/a?native=1") == (*NATIVE, [])
    assert ask() == (*GUEST, [])


def test_a_visitor_gets_a_cookie_and_stays(made: Made, door: Door) -> None:
    ask = door(made(mode="canary", percent=50))
    for _ in range(10):
        *first, cookies = ask()
        [cookie] = cookies
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        value = cookie.partition(";")[0]
        assert value.startswith(f"{COOKIE}=")
        for _ in range(3):
            assert ask(cookie=f"other=1; {value}") == (*first, [])


def test_the_share_holds(made: Made) -> None:
    ask = over_wsgi(made(mode="canary", percent=20, sticky="header:x-id"))
    taken = sum(ask(x_id=str(i))[1] == b"guest" for i in range(1500))
    assert abs(taken - 300) < 6 * math.sqrt(1500 * 0.2 * 0.8)


def test_people_are_known_to_the_site(made: Made, door: Door) -> None:
    people = {"1": Visitor("1", staff=True), "2": Visitor("2", frozenset({"testers"})), "3": Visitor("3")}

    def visitor(request: Any) -> Visitor:
        if "HTTP_X_ID" in request:
            return people[request["HTTP_X_ID"]]
        return people[dict(request.get("headers", ()))[b"x-id"].decode()]

    ask = door(made(mode="canary", percent=0, staff=True, groups=["testers"]), visitor=visitor)
    assert [ask(x_id=id_)[1] for id_ in "123"] == [b"guest", b"guest", b"native "]


@pytest.mark.parametrize(("kind", "failure"), [("traps", "trap"), ("broken", "link"), ("loops", "deadline")])
def test_the_site_answers_for_a_guest_that_fails(
    made: Made, door: Door, caplog: Any, kind: str, failure: str
) -> None:
    limit = {"timeout": "50ms"} if kind == "loops" else {}
    gateway = made(kind, fallback=[failure], breaker_failures=100, **limit)
    ask = door(gateway)
    assert ask()[:2] == NATIVE
    assert ask(body=b"all of the body")[:2] == (200, b"native all of the body")
    assert caplog.records
    assert gateway.pilot is not None
    assert gateway.pilot.counts()["a"] == {"wasm": 2, "fallback": 2}


def test_what_is_not_named_is_a_failure(made: Made, door: Door) -> None:
    assert door(made("traps", fallback=["deadline"]))()[0] == 500


def test_a_body_too_long_to_keep(made: Made, door: Door) -> None:
    ask = door(made("traps", fallback=True, max_kept_body=10))
    assert ask(body=b"0123456789")[:2] == (200, b"native 0123456789")
    assert ask(body=b"0123456789a")[0] == 500


def test_a_breaker_spares_the_guest(made: Made, door: Door) -> None:
    gateway = made("traps", fallback=True, breaker_failures=3, breaker_pause="60s")
    ask = door(gateway)
    assert [ask()[:2] for _ in range(6)] == [NATIVE] * 6
    assert gateway.pilot is not None
    assert gateway.pilot.counts()["a"] == {"wasm": 3, "fallback": 3, "breaker": 3}


def test_a_component_that_cannot_be_loaded_needs_somebody_else(made: Made) -> None:
    with pytest.raises(Exception, match="component 'a'"):
        made("broken")


def test_routes_of_a_component_may_differ(application: Any, wat: Any, door: Door) -> None:
    wasm = wat.flat(ANSWER)
    tool = {"mode": "native", "routes": {"/a/new": {"mode": "wasm"}}}
    extra = '[[trigger.http]]\nroute = "/a/new"\ncomponent = "a"\n'
    ask = door(application(extra, a=application.part(wasm, tool=tool)))
    assert ask("/a/old")[:2] == NATIVE
    assert ask("/a/new")[:2] == GUEST


def test_the_site_has_the_last_word(made: Made, door: Door) -> None:
    assert door(made(mode="wasm", options={"rules": {"a": {"mode": "native"}}}))()[:2] == NATIVE
    assert door(made(mode="native", options={"rules": {"/a/...": {"mode": "wasm"}}}))()[:2] == GUEST


# Dials


def test_a_dial_is_turned_while_it_runs(made: Made, door: Door, tmp_path: Path) -> None:
    gateway = made(options={"ledger": tmp_path / "ledger.db"})
    ask = door(gateway)
    assert ask()[:2] == GUEST
    assert gateway.pilot is not None
    gateway.pilot.turn("a", {"mode": "native"}, "me")
    assert ask()[:2] == NATIVE
    gateway.pilot.turn("/a/...", {"mode": "wasm"}, "me")
    assert ask()[:2] == GUEST
    gateway.pilot.turn("/a/...", None, "me")
    gateway.pilot.turn("a", None, "you")
    assert ask()[:2] == GUEST
    changes = gateway.pilot.ledger.changes() if gateway.pilot.ledger else []
    assert [(c.name, c.values, c.by) for c in changes] == [
        ("a", None, "you"),
        ("/a/...", None, "me"),
        ("/a/...", {"mode": "wasm"}, "me"),
        ("a", {"mode": "native"}, "me"),
    ]
    with pytest.raises(BadValue):
        gateway.pilot.turn("a", {"mode": "never"}, "me")


def test_other_processes_hear_of_it(made: Made, tmp_path: Path) -> None:
    """Somebody else turns a dial in the shared file; nobody asks for anything meanwhile."""
    path = tmp_path / "ledger.db"
    gateway = made(options={"ledger": path})
    ask = over_wsgi(gateway)
    assert ask()[:2] == GUEST
    other = made(options={"ledger": path})
    assert over_wsgi(other)()[:2] == GUEST
    assert other.pilot is not None
    other.pilot.turn("a", {"mode": "native"}, "somebody else")
    end = time.monotonic() + 60
    while gateway.pilot is not None and gateway.pilot.rule("a", "/a/...").mode != "native":
        assert time.monotonic() < end
        time.sleep(0.01)
    assert ask()[:2] == NATIVE


def test_a_ledger_that_cannot_be_read(made: Made, tmp_path: Path, caplog: Any) -> None:
    gateway = made(options={"ledger": tmp_path / "no such folder" / "ledger.db"})
    ask = over_wsgi(gateway)
    assert ask()[:2] == GUEST
    assert "the last ones known go on" in caplog.text


def test_nothing_is_left_running(made: Made, tmp_path: Path) -> None:
    others = {*threading.enumerate()}

    def dials() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "wasm-dials" and t not in others]

    gateway = made(options={"ledger": SqliteLedger(tmp_path / "ledger.db")})
    assert over_wsgi(gateway)()[:2] == GUEST
    assert len(dials()) == 1
    gateway.close()
    assert dials() == []


# What a canary tells of both sides


def wsgi_site(environ: Any, start_response: Any) -> Any:
    status = environ["QUERY_STRING"]
    if status == "raise":
        raise ZeroDivisionError
    start_response(f"{status} X", [("content-type", "text/plain")])

    def body() -> Iterator[bytes]:
        time.sleep(0.02)
        yield b"slow"

    return body()


async def asgi_site(scope: Any, receive: Any, send: Any) -> None:
    status = scope["query_string"].decode()
    if status == "raise":
        raise ZeroDivisionError
    await send({"type": "http.response.start", "status": int(status), "headers": []})
    await send({"type": "http.response.body", "body": b"sl", "more_body": True})
    await asyncio.sleep(0.02)
    await send({"type": "http.response.body", "body": b"ow"})


SITES = {over_wsgi: wsgi_site, over_asgi: asgi_site}


def sides(gateway: Gateway, ledger: Any) -> Any:
    """What a report says of them."""
    assert gateway.pilot is not None
    gateway.pilot.flush()
    (one,) = read(ledger, ["a"]).components
    return {side: {end: n for end, n in arm.ends.items() if n} for side, arm in one.canary.items()}, one


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    with closing(SqliteLedger(tmp_path / "ledger.db")) as ledger:
        yield ledger


def test_what_the_site_answers(made: Made, door: Any, ledger: SqliteLedger, tmp_path: Path) -> None:
    tool = {"mode": "canary", "percent": 0, "opt_in": "header:x-wasm", "opt_out": "header:x-native"}
    gateway = made(options={"ledger": tmp_path / "ledger.db"}, **tool)
    ask = door(gateway, SITES[door])
    for status in (200, 204, 302, 404, 503):
        assert ask(f"/a?{status}")[:2] == (status, b"slow")
    with pytest.raises(ZeroDivisionError):
        ask("/a?raise")
    for chosen in ({"x_wasm": "1"}, {"x_native": "1"}):  # who is a tester says nothing
        ask("/a?200", **chosen)
    gateway.pilot.turn("a", {"mode": "native"}, "ada")
    ask("/a?200")
    found, one = sides(gateway, ledger)
    native = {"2xx": 2, "3xx": 1, "4xx": 1, "5xx": 1, "failed": 1}
    assert found == {"native": native, "guest": {}}
    assert one.canary["native"].errors == 2 / 6
    assert one.canary["native"].latency.number == 5
    assert one.canary["native"].latency.p50 > 0.014
    assert one.reasons == {"canary": 6, "opt-in": 1, "opt-out": 1, "native": 1}


def test_what_the_guest_answers(made: Made, door: Door, ledger: SqliteLedger, tmp_path: Path) -> None:
    options, limits = {"ledger": tmp_path / "ledger.db"}, {"breaker_failures": 100}
    for kind, tool, end in (
        ("answers", {}, "2xx"),
        ("traps", {}, "5xx"),
        ("loops", {"timeout": "20ms"}, "5xx"),
        ("loops", {"timeout": "20ms", "fallback": ["deadline"]}, "failed"),
        ("answers", {"max_request_body": 3}, "4xx"),
    ):
        ledger.forget()
        gateway = made(kind, options, mode="canary", percent=100, **tool, **limits)
        ask = door(gateway)
        for _ in range(3):
            ask(body=b"body")
        found, one = sides(gateway, ledger)
        assert found == {"native": {}, "guest": {end: 3}}
        arm = one.canary["guest"]
        assert (arm.errors, arm.latency.number) == ((end in ("5xx", "failed")) * 1.0, (end != "failed") * 3)
        assert kind != "loops" or end == "failed" or arm.latency.p50 > 0.014
        gateway.close()


def test_a_guest_that_streams(
    application: Any, components: Any, door: Door, ledger: SqliteLedger, tmp_path: Path
) -> None:
    wasm = components.http("(call $answer (local.get $out) (i32.const 404) (i32.const 0) (i32.const 200000))")
    part = application.part(wasm, tool={"mode": "canary"})
    gateway = application(options={"ledger": tmp_path / "ledger.db"}, a=part)
    status, body, _ = door(gateway)()
    assert (status, len(body)) == (404, 200000)
    assert sides(gateway, ledger)[0] == {"native": {}, "guest": {"4xx": 1}}


def test_a_site_that_hands_a_file_to_the_server(made: Made, ledger: SqliteLedger, tmp_path: Path) -> None:
    """Nobody sees it go out here; it counts all the same."""
    gateway = made(options={"ledger": tmp_path / "ledger.db"}, mode="canary", percent=0)
    (tmp_path / "file").write_bytes(b"file")

    def wsgi(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": str(tmp_path / "file")})

    environ = EnvironBuilder("/a").get_environ() | {"wsgi.file_wrapper": FileWrapper}
    body = gateway.wsgi(wsgi)(environ, lambda *_: None)
    assert isinstance(body, FileWrapper)
    body.close()
    assert over_asgi(gateway, asgi)()[0] == 200
    assert sides(gateway, ledger)[0] == {"native": {"2xx": 2}, "guest": {}}
