"""Guests that run beside the site, through both doors: nothing of them is seen, and everything is counted."""

from __future__ import annotations

import itertools
import json
import logging
import math
import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from tests.executors.test_reuse import COUNT as P3_COUNT
from tests.executors.test_wasi_http_p3 import DATA
from tests.test_gateway import COUNT, relay, say
from tests.test_shared_routes import Ask, over_asgi, over_wsgi
from tests.wasi_p3_wat import P3Toolkit
from wasm_gateway import Gateway, HostInterface
from wasm_gateway.engine import wat2wasm
from wasm_gateway.errors import ManifestError
from wasm_gateway.messages import Request
from wasm_gateway.migration.compare import Answer
from wasm_gateway.migration.counters import OUTCOMES, Unseen, uncompared
from wasm_gateway.migration.ledger import Mismatch, SqliteLedger
from wasm_gateway.migration.requests import RequestFacts
from wasm_gateway.migration.shadow import BACKLOG, MAX_RECORDS, THREADS
from wasm_gateway.observe import Call, Quiet


@dataclass
class Site:
    """An app that answers each request the same, or with the request's target and body."""

    body: bytes | None = None
    status: int = 200
    headers: Sequence[tuple[str, str]] = (("content-type", "text/plain"),)
    asked: list[str] = field(default_factory=list)

    def _answer(self, target: str, body: bytes) -> bytes:
        self.asked.append(target)
        return target.encode() + b"\n" + body if self.body is None else self.body

    def wsgi(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        query = environ.get("QUERY_STRING")
        target = environ["PATH_INFO"] + (f"?{query}" if query else "")
        given = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ.update(PATH_INFO="/x", QUERY_STRING="x", REQUEST_METHOD="X")  # as a framework may
        body = self._answer(target, given)
        start_response(f"{self.status} Fine", [*self.headers])
        yield body[: len(body) // 2]
        yield body[len(body) // 2 :]

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        query = scope["query_string"].decode()
        target = scope["path"] + (f"?{query}" if query else "")
        given = b""
        while True:
            message = await receive()
            given += message.get("body", b"")
            if not message.get("more_body"):
                break
        body = self._answer(target, given)
        headers = [(name.encode(), value.encode()) for name, value in self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        half = len(body) // 2
        await send({"type": "http.response.body", "body": body[:half], "more_body": True})
        await send({"type": "http.response.body", "body": body[half:]})


DOORS: dict[str, Callable[..., Ask]] = {
    "wsgi": lambda gateway, site, **options: over_wsgi(gateway, site.wsgi, **options),
    "asgi": lambda gateway, site, **options: over_asgi(gateway, site.asgi, **options),
}
Door = Callable[..., Ask]
Made = Callable[..., Gateway]


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


@pytest.fixture
def made(application: Any, wat: Any, tmp_path: Path) -> Made:
    """`made(wasm, mode=..., ...)`: a gateway whose component `a` runs beside the site."""

    def make(
        wasm: bytes | str, options: Any = None, keys: Any = None, extra: str = "", **tool: Any
    ) -> Gateway:
        wasm = wat.flat(wasm) if isinstance(wasm, str) else wasm
        tool = {"mode": "shadow", **tool}
        options = {"ledger": tmp_path / "ledger.db", "state_dir": tmp_path / "state", **(options or {})}
        part = application.part(wasm, tool=tool, **(keys or {}))
        gateway: Gateway = application(extra, options=options, a=part)
        return gateway

    return make


def outcomes(gateway: Gateway) -> dict[str, int]:
    assert gateway.pilot is not None
    counts = gateway.pilot.counts().get("a", {})
    return {name.removeprefix("shadow "): counts[name] for name in OUTCOMES if name in counts}


def unseen(gateway: Gateway) -> dict[str, int]:
    """Why what is uncompared is."""
    assert gateway.pilot is not None
    counts = gateway.pilot.counts()["a"]
    return {str(why): counts[uncompared(why)] for why in Unseen if uncompared(why) in counts}


def settled(gateway: Gateway, number: int) -> dict[str, int]:
    """What became of the shadows, once there are so many."""
    end = time.monotonic() + 60
    while sum(outcomes(gateway).values()) < number:
        assert time.monotonic() < end, outcomes(gateway)
        time.sleep(0.005)
    return outcomes(gateway)


def mismatches(gateway: Gateway) -> list[Mismatch]:
    assert gateway.pilot is not None
    assert gateway.pilot.ledger is not None
    # counted first, recorded afterwards
    end = time.monotonic() + 60
    while not (found := gateway.pilot.ledger.mismatches()):
        assert time.monotonic() < end
        time.sleep(0.005)
    return found


ECHO = """
  (call $out (local.get $uri) (local.get $uri_len)) (call $out_byte (i32.const 10))
  (call $out (local.get $body) (local.get $body_len))
  (call $respond (i32.const 200))"""


def test_the_guest_gets_the_same_request(made: Made, door: Door) -> None:
    gateway = made(ECHO, compare_headers=[])
    ask = door(gateway, Site())
    assert ask("/a/x?y=1")[:2] == (200, b"/a/x?y=1\n")
    assert ask("/a/z", b"some data")[:2] == (200, b"/a/z\nsome data")
    assert settled(gateway, 2) == {"equal": 2}


def test_an_instance_answers_one_request_only(made: Made, door: Door) -> None:
    """Also of a component whose instances answer several when they answer for the site."""
    wasm = P3Toolkit().handler(P3_COUNT.format(""), None, data=DATA)
    gateway = made(wasm, max_instance_reuse_count=3, compare_headers=[])
    ask = door(gateway, Site(b"A"))
    for number in range(1, 5):
        ask()
        settled(gateway, number)
    assert outcomes(gateway) == {"equal": 4}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("unreachable", "Trap"),
        ("(loop $l (br $l)) unreachable", "DeadlineExceeded"),
        ('(call $text (i32.const 5) (str "no such status"))', "GuestError"),
    ],
)
def test_a_guest_that_fails(made: Made, door: Door, body: str, kind: str, caplog: Any) -> None:
    gateway = made(body, **({"timeout": "50ms"} if kind == "DeadlineExceeded" else {}))
    assert door(gateway, Site(b"native"))()[:2] == (200, b"native")
    assert settled(gateway, 1) == {"failed": 1}
    [mismatch] = mismatches(gateway)
    assert mismatch.differences == (f"guest failed: {kind}",)
    assert "beside the site" in caplog.text


def test_a_guest_that_cannot_be_loaded(made: Made, door: Door) -> None:
    gateway = made(b"\0asm\1\0\0\0\1", fallback=["link"])
    assert door(gateway, Site(b"native"))()[:2] == (200, b"native")
    assert settled(gateway, 1) == {"failed": 1}


def test_a_difference_is_recorded_without_secrets(made: Made, door: Door) -> None:
    body = json.dumps({"name": "Ada", "api_token": "t0psecret", "note": "password=t0psecret", "n": 1})
    headers = [("content-type", "application/json"), ("set-cookie", "sid=t0psecret"), ("x-key", "t0psecret")]
    site = Site(body.encode(), headers=headers)
    gateway = made(say('{\\"name\\": \\"Bob\\", \\"api_token\\": \\"t0psecret2\\"}'), compare_body="json")
    status, sent, cookies = door(gateway, site)("/a/x?id=3&session=t0psecret", cookie="sid=t0psecret")
    assert (status, sent, cookies) == (200, body.encode(), ["sid=t0psecret"])
    assert settled(gateway, 1) == {"different": 1}
    [mismatch] = mismatches(gateway)
    assert (mismatch.component, mismatch.route, mismatch.method) == ("a", "/a/...", "GET")
    assert mismatch.target == "/a/x?id=3&session=[redacted]"
    assert '/name: "Ada", guest "Bob"' in mismatch.differences
    assert "/api_token: [redacted], guest [redacted]" in mismatch.differences
    assert "set-cookie: sid, guest none" in mismatch.differences
    assert mismatch.native_seconds > 0
    assert mismatch.guest_seconds > 0
    assert "Ada" in mismatch.native["body"]
    assert "t0psecret" not in json.dumps(asdict(mismatch))


def test_few_are_recorded(made: Made, caplog: Any) -> None:
    gateway = made(say("other"))
    ask = over_wsgi(gateway, Site(b"native").wsgi)
    for number in range(1, MAX_RECORDS + 6):
        ask()
        settled(gateway, number)
    gateway_ledger = gateway.pilot and gateway.pilot.ledger
    assert gateway_ledger is not None
    gateway.close()
    assert len(gateway_ledger.mismatches()) == MAX_RECORDS
    assert gateway_ledger.counters()["a"]["shadow different"] == MAX_RECORDS + 5
    gateway_ledger.close()


def test_a_ledger_that_cannot_be_written(made: Made, door: Door, tmp_path: Path, caplog: Any) -> None:
    gateway = made(say("other"), options={"ledger": tmp_path / "no such folder" / "ledger.db"})
    assert door(gateway, Site(b"native"))()[:2] == (200, b"native")
    assert settled(gateway, 1) == {"different": 1}
    gateway.close()
    assert "could not be recorded" in caplog.text


def test_without_a_ledger_it_is_counted_all_the_same(made: Made, door: Door) -> None:
    gateway = made(say("other"), options={"ledger": None})
    assert door(gateway, Site(b"native"))()[:2] == (200, b"native")
    assert settled(gateway, 1) == {"different": 1}


def test_a_share_of_requests(made: Made) -> None:
    gateway = made(say("native"), percent=30, compare_headers=[])
    ask = over_wsgi(gateway, Site(b"native").wsgi)
    for _ in range(500):
        assert ask()[:2] == (200, b"native")
    assert gateway.pilot is not None
    gateway.pilot.shadows.close()
    # those that the end of the pool has forgotten are not counted
    taken = sum(outcomes(gateway).values())
    deviation = 6 * math.sqrt(500 * 0.3 * 0.7)
    assert 150 - deviation - BACKLOG < taken < 150 + deviation


def test_a_dial_turns_it_on_and_off(made: Made, door: Door) -> None:
    gateway = made(say("native"), mode="native", compare_headers=[])
    ask = door(gateway, Site(b"native"))
    assert gateway.pilot is not None
    ask()
    gateway.pilot.turn("a", {"mode": "shadow"}, "me")
    ask()
    assert settled(gateway, 1) == {"equal": 1}
    gateway.pilot.turn("a", {"mode": "native"}, "me")
    ask()
    gateway.close()
    assert gateway.pilot is None


# What is too much


def test_bodies_that_are_too_long(made: Made, door: Door) -> None:
    gateway = made(ECHO, max_kept_body=100, compare_headers=[])
    site = Site()
    ask = door(gateway, site)
    assert ask("/a", b"x" * 101)[:2] == (200, b"/a\n" + b"x" * 101)
    assert ask("/a", b"x" * 99)[:2] == (200, b"/a\n" + b"x" * 99)
    assert ask("/a", b"x" * 90)[:2] == (200, b"/a\n" + b"x" * 90)
    assert settled(gateway, 3) == {"equal": 1, "uncompared": 2}
    assert unseen(gateway) == {"request too long": 1, "answer too long": 1}


def test_a_guest_whose_answer_is_too_long(made: Made, door: Door) -> None:
    gateway = made(say("x" * 101), max_kept_body=100)
    assert door(gateway, Site(b"native"))()[:2] == (200, b"native")
    assert settled(gateway, 1) == {"uncompared": 1}
    assert unseen(gateway) == {"guest's answer too long": 1}


class Gate(HostInterface):
    """Guests wait here until they are let through."""

    wit = "package test:dep@1.2.0; interface ops { count: func(more: u32) -> u32; }"
    shadow_safe = True

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.asked: list[float] = []

    def count(self, guest: Any, more: int) -> int:
        self.asked.append(time.monotonic())
        self.waiting.release()
        assert self.open.wait(60)
        return more


MAIN = """
  (i32.store8 (i32.const 0) (i32.add (i32.const 48) (call $count (i32.const 3))))
  (call $answer (local.get $out) (i32.const 200) (i32.const 0) (i32.const 1))"""
OPS = "test:dep/ops@1.2.0"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def gated(made: Made, components: Any, gate: Gate) -> Gateway:
    wasm = components.with_interfaces(gate).http(MAIN, {OPS: ("count",)})
    return made(wasm, options={"interfaces": [gate]}, host_interfaces=[OPS], compare_headers=[])


def test_what_waits_is_bounded(gated: Gateway, gate: Gate, door: Door) -> None:
    ask = door(gated, Site(b"3"))
    room = THREADS + BACKLOG
    for _ in range(room + 7):
        assert ask()[:2] == (200, b"3")
    assert outcomes(gated) == {"dropped": 7}
    # then a request costs no more than one of the site's own
    match = gated.match("/a")
    assert match is not None
    turn = gated.choose(match, RequestFacts("GET", ""))
    assert turn is not None
    assert (turn.choice.reason, turn.choice.shadow, turn.keeps_body) == ("shadow", False, False)
    assert outcomes(gated) == {"dropped": 8}
    gate.open.set()
    assert settled(gated, room + 8) == {"equal": room, "dropped": 8}


def test_guests_have_a_small_share_of_a_busy_process(
    gated: Gateway, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes 6 ms of a CPU is not followed by another one for 300."""
    used = iter(range(1000))
    monkeypatch.setattr(time, "process_time", time.monotonic)  # it is always busy
    monkeypatch.setattr(time, "thread_time", lambda: next(used) * 0.006)
    ask = DOORS["wsgi"](gated, Site(b"3"))
    for _ in range(4):
        ask()
    assert gate.waiting.acquire(timeout=60)
    gate.open.set()
    settled(gated, 4)
    # the second one may have begun while the first one ran
    assert all(later - earlier >= 0.3 for earlier, later in itertools.pairwise(gate.asked[1:]))


def test_closing_waits_for_those_that_run(gated: Gateway, gate: Gate, door: Door) -> None:
    before = {*threading.enumerate()}  # those of other tests may be idle
    ask = door(gated, Site(b"3"))
    pilot = gated.pilot
    assert pilot is not None
    for _ in range(THREADS + 3):
        ask()
    for _ in range(THREADS):
        assert gate.waiting.acquire(timeout=60)
    closing = threading.Thread(target=gated.close)
    closing.start()
    end = time.monotonic() + 60
    while not pilot.shadows._closed:
        assert time.monotonic() < end
        time.sleep(0.005)
    closing.join(0.1)
    assert closing.is_alive()
    gate.open.set()
    closing.join(60)
    assert not closing.is_alive()
    assert not any(t.name == "wasm-guest" for t in threading.enumerate() if t not in before)
    # those that waited were not run
    assert sum(pilot.counts()["a"][name] for name in OUTCOMES if name in pilot.counts()["a"]) <= THREADS
    assert not gate.waiting.acquire(blocking=False)


def test_closing_with_requests_just_behind(made: Made) -> None:
    """Nobody waits for somebody who waits for him."""
    for _ in range(10):
        gateway = made(say("native"), options={"ledger": None})
        ask = over_wsgi(gateway, Site(b"native").wsgi)
        for _ in range(THREADS + 2):
            ask()
        closing = threading.Thread(target=gateway.close, daemon=True)
        closing.start()
        closing.join(60)
        assert not closing.is_alive()


def test_a_swapped_guest_and_other_rules(made: Made, wat: Any, tmp_path: Path) -> None:
    gateway = made(say("one"), compare_headers=[])
    ask = over_wsgi(gateway, Site(b"two").wsgi)
    ask()
    assert settled(gateway, 1) == {"different": 1}
    (tmp_path / "a.wasm").write_bytes(wat.flat(say("two")))
    gateway.reload("a")
    ask()
    assert settled(gateway, 2) == {"different": 1, "equal": 1}
    (tmp_path / "a.wasm").write_bytes(wat.flat(say("three")))
    manifest = tmp_path / "spin.toml"
    manifest.write_text(
        manifest.read_text().replace("compare_headers", 'compare_body = "none"\ncompare_headers')
    )
    gateway.reload()
    ask()
    assert settled(gateway, 3) == {"different": 1, "equal": 2}


# What a guest does is not seen


def test_writes_to_stores_stay_with_the_instance(made: Made, wat: Any, door: Door) -> None:
    """It sees what is there, and what it has written itself."""
    keys = {"key_value_stores": ["default"]}
    body = COUNT.replace("(call $text", "(drop (call $again))\n  (call $text")
    again = """(func $again (result i32)
      (call $kv_open (str "default") (i32.const 64))
      (call $kv_get (i32.load (i32.const 68)) (str "count") (i32.const 64))
      (i32.store8 (i32.const 96) (i32.add (i32.const 3) (i32.load8_u (i32.load (i32.const 68)))))
      (i32.const 0))"""
    gateway = made(
        wat.flat(body, again), options={"key_value": {"count": "1"}}, keys=keys, compare_headers=[]
    )
    # 1 was there, 2 was written, and 3 more are said
    ask = door(gateway, Site(b"5"))
    for number in range(1, 4):
        ask()
        settled(gateway, number)
    assert outcomes(gateway) == {"equal": 3}
    assert gateway.hosts is not None
    _, family = gateway.hosts._family("key_value")
    assert family.stores["default"].get("count") == b"1"


SQL = """
  (call $sql_open (str "default") (i32.const 64))
  (local.set $i (i32.load (i32.const 68)))
  (call $sql_execute (local.get $i) (str "INSERT INTO t VALUES (2)")
    (i32.const 0) (i32.const 0) (i32.const 64))
  (call $out_number (i32.load8_u (i32.const 64)))
  (call $sql_execute (local.get $i) (str "SELECT a FROM t")
    (i32.const 0) (i32.const 0) (i32.const 64))
  (call $out_number (i32.load8_u (i32.const 64)))
  (call $respond (i32.const 200))"""


def test_databases_can_be_read(made: Made, door: Door, tmp_path: Path) -> None:
    """The first statement is an error that the guest sees, the second one is none."""
    keys = {"sqlite_databases": ["default"]}
    options = {"sqlite": ["CREATE TABLE t (a); INSERT INTO t VALUES (1)"]}
    gateway = made(SQL, options=options, keys=keys, compare_headers=[])
    door(gateway, Site(b"10"))()
    assert settled(gateway, 1) == {"equal": 1}
    with sqlite3.connect(tmp_path / "state" / "sqlite_db.db") as database:
        assert database.execute("SELECT a FROM t").fetchall() == [(1,)]
    database.close()


@contextmanager
def other_server() -> Iterator[tuple[str, list[str]]]:
    """The URL of a server, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"hi")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_other_servers_are_not_asked(made: Made, door: Door, caplog: Any) -> None:
    with other_server() as (url, asked):
        gateway = made(relay(f"{url}/x"), keys={"allowed_outbound_hosts": [url]}, compare_headers=[])
        door(gateway, Site(b"error 1"))()
        assert settled(gateway, 1) == {"equal": 1}
        assert asked == []
        assert "shadow_allowed_hosts" in caplog.text
        safe = made(
            relay(f"{url}/y"),
            keys={"allowed_outbound_hosts": [url]},
            shadow_allowed_hosts=[url],
            compare_headers=[],
        )
        door(safe, Site(b"200 hi"))()
        assert settled(safe, 1) == {"equal": 1}
        assert asked == ["/y"]


def test_what_is_safe_has_to_be_allowed_too(made: Made, door: Door) -> None:
    with other_server() as (url, asked):
        gateway = made(relay(f"{url}/x"), shadow_allowed_hosts=[url], compare_headers=[])
        door(gateway, Site(b"error 1"))()
        assert settled(gateway, 1) == {"equal": 1}
        assert asked == []


def test_hosts_that_are_none(made: Made) -> None:
    with pytest.raises(ManifestError, match="shadow_allowed_hosts"):
        made(say("a"), shadow_allowed_hosts=["nonsense"])


@pytest.mark.parametrize(
    ("target", "host"), [("http://b.spin.internal/b", "http://b.spin.internal"), ("/b", "http://self")]
)
def test_the_application_itself(
    application: Any, wat: Any, door: Door, tmp_path: Path, target: str, host: str
) -> None:
    """Another component runs beside the site as well, where it may be asked at all."""
    counting = application.part(wat.flat(COUNT), key_value_stores=["default"])
    options = {"key_value": {"count": "1"}, "state_dir": tmp_path / "state"}
    expected = {(): b"error 1", (host,): b"200 2"}
    for safe, body in expected.items():
        tool = {"mode": "shadow", "shadow_allowed_hosts": list(safe), "compare_headers": []}
        asking = application.part(wat.flat(relay(target)), allowed_outbound_hosts=[host], tool=tool)
        gateway = application(options=options, a=asking, b=counting)
        ask = door(gateway, Site(body))
        for number in range(1, 3):
            ask()
            settled(gateway, number)
        assert outcomes(gateway) == {"equal": 2}
        gateway.close()


class Unsafe(Gate):
    shadow_safe = False


def test_what_the_site_lends(made: Made, components: Any, door: Door) -> None:
    unsafe = Unsafe()
    unsafe.open.set()
    wasm = components.with_interfaces(unsafe).http(MAIN, {OPS: ("count",)})
    gateway = made(wasm, options={"interfaces": [unsafe]}, host_interfaces=[OPS])
    assert door(gateway, Site(b"native"))()[:2] == (200, b"native")
    assert settled(gateway, 1) == {"failed": 1}
    [mismatch] = mismatches(gateway)
    assert mismatch.differences == ("guest failed: Withheld",)
    assert not unsafe.waiting.acquire(blocking=False)
    # it is lent all the same to a guest that answers
    assert gateway.pilot is not None
    gateway.pilot.turn("a", {"mode": "wasm"}, "me")
    assert door(gateway, Site(b"native"))()[:2] == (200, b"3")


DEPENDENCY = """(component
  (import "test:site/ops@1.0.0" (instance $site (export "count" (func (param "more" u32) (result u32)))))
  (core func $lowered (canon lower (func $site "count")))
  (core module $main
    (import "h" "count" (func $count (param i32) (result i32)))
    (func (export "count") (param i32) (result i32) (call $count (local.get 0))))
  (core instance $i (instantiate $main (with "h" (instance (export "count" (func $lowered))))))
  (func $count (param "more" u32) (result u32) (canon lift (core func $i "count")))
  (instance $ops (export "count" (func $count)))
  (export "test:dep/ops@1.2.0" (instance $ops)))"""


class Lent(Gate):
    wit = "package test:site@1.0.0; interface ops { count: func(more: u32) -> u32; }"
    shadow_safe = False


def test_what_a_dependency_does_is_not_seen_either(
    made: Made, components: Any, door: Door, tmp_path: Path
) -> None:
    lent = Lent()
    lent.open.set()
    (tmp_path / "dep.wasm").write_bytes(wat2wasm(DEPENDENCY.encode()))
    keys = {"dependencies": {OPS: {"path": "dep.wasm", "inherit_configuration": True}}}
    main = components.with_interfaces(Gate()).http(MAIN, {OPS: ("count",)})
    interfaces = {"options": {"interfaces": [lent]}, "host_interfaces": ["test:site/ops@1.0.0"]}
    gateway = made(main, keys=keys, **interfaces)
    assert door(gateway, Site(b"native"))()[:2] == (200, b"native")
    assert settled(gateway, 1) == {"failed": 1}
    assert mismatches(gateway)[0].differences == ("guest failed: Withheld",)
    assert not lent.waiting.acquire(blocking=False)
    assert gateway.pilot is not None
    gateway.pilot.turn("a", {"mode": "wasm"}, "me")
    assert door(gateway, Site(b"native"))()[:2] == (200, b"3")


def test_logs_are_marked(made: Made, wat: Any, door: Door, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    printing = wat.flat('(call $write (i32.const 2) (str "from the guest\\n"))' + say("native"))
    gateway = made(printing, compare_headers=[])
    door(gateway, Site(b"native"))()
    assert settled(gateway, 1) == {"equal": 1}
    [record] = [each for each in caplog.records if each.getMessage() == "from the guest"]
    assert record.name == "wasm_gateway.guest.a.shadow"


def test_observers_see_what_it_is(made: Made, door: Door) -> None:
    seen: list[tuple[str, str, str]] = []

    class Observer(Quiet):
        def end(self, call: Call, begun: Any) -> None:
            seen.append((call.role.value, call.outcome.value, call.route))

        def passed(self, component: str, route: str, reason: str) -> None:
            seen.append((component, route, reason))

    gateway = made("unreachable", options={"observers": [Observer()]})
    door(gateway, Site(b"native"))()
    assert settled(gateway, 1) == {"failed": 1}
    assert seen[0] == ("a", "/a/...", "shadow")
    assert seen[1][:2] == ("shadow", "trap")
    assert len(seen) == 2


WRITES = """
  (drop (call $path_open (i32.const 3) (i32.const 0) (str "made") (i32.const 1) (i64.const 64)
    (i64.const 64) (i32.const 0) (i32.const 96)))
  (call $print (str "content-type: text/plain\\n\\nnative"))"""


def test_files_are_not_written(application: Any, wat: Any, door: Door, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    part = application.part(
        wat.command(WRITES),
        wagi=True,
        files=[{"source": "files", "destination": "/"}],
        tool={"mode": "shadow"},
    )
    gateway = application(options={"allow_transient_write": True, "direct_mounts": True}, a=part)
    ask = door(gateway, Site(b"native"))
    ask()
    assert settled(gateway, 1) == {"equal": 1}
    assert list((tmp_path / "files").iterdir()) == []
    assert gateway.handle(Request("GET", "/a", authority="x")) is not None
    assert [each.name for each in (tmp_path / "files").iterdir()] == ["made"]


# The site's own comparison


def test_a_function_of_the_site(made: Made, door: Door) -> None:
    def compare(native: Answer, guest: Answer) -> list[str]:
        assert native.body == b"native"
        return [] if guest.body == b"as good" else ["worse"]

    gateway = made(say("as good"), options={"compare": {"a": compare}}, compare_headers=[])
    door(gateway, Site(b"native"))()
    assert settled(gateway, 1) == {"equal": 1}
    other = made(say("other"), options={"compare": {"/a/...": compare}}, compare_headers=[])
    door(other, Site(b"native"))()
    assert settled(other, 1) == {"different": 1}
    assert mismatches(other)[0].differences == ("worse",)


@pytest.mark.parametrize("name", ["no_such_module.compare", "json.no_such_thing", "nothing", "math.pi", 3])
def test_a_function_that_is_none(made: Made, name: Any) -> None:
    with pytest.raises(ManifestError, match=r"COMPARE\.a"):
        made(say("a"), options={"compare": {"a": name}})


# What passes through the WSGI door unchanged


def wsgi_exchange(gateway: Gateway, app: Any, **environ: Any) -> tuple[Any, list[Any]]:
    """The iterable that a server gets, and what its start_response and write have got."""
    client = Client(app, use_cookies=False)
    got: list[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        got.append((status, headers, exc_info))
        return lambda data: got.append(data)

    with client.open("/a") as response:
        whole = {**response.request.environ, **environ}
    got.clear()
    return gateway.wsgi(app)(whole, start_response), got


def test_servers_see_a_list_with_one_item(made: Made) -> None:
    gateway = made(say("x"), compare_headers=[])

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x"]

    body, _ = wsgi_exchange(gateway, app)
    assert len(body) == 1
    assert list(body) == [b"x"]
    assert outcomes(gateway) == {}  # not before it is closed
    body.close()
    assert settled(gateway, 1) == {"equal": 1}


def test_write_and_close(made: Made) -> None:
    gateway = made(say("one two"), compare_headers=[])
    closed: list[bool] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b" two"])

        def close(self) -> None:
            closed.append(True)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])(b"one")
        return Body()

    body, got = wsgi_exchange(gateway, app)
    assert got == [("200 OK", [], None), b"one"]
    assert not hasattr(body, "__len__")
    assert list(body) == [b" two"]
    body.close()
    assert closed == [True] * 2  # once for the environ
    assert settled(gateway, 1) == {"equal": 1}


def test_a_file_goes_out_as_one(made: Made, tmp_path: Path) -> None:
    from wsgiref.util import FileWrapper

    gateway = made(say("x"))
    path = tmp_path / "file"
    path.write_bytes(b"data")

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ.get("wsgi.file_wrapper", FileWrapper)(path.open("rb"))

    body, _ = wsgi_exchange(gateway, app, **{"wsgi.file_wrapper": FileWrapper})
    assert isinstance(body, FileWrapper)
    assert list(body) == [b"data"]
    body.close()
    assert outcomes(gateway) == {"uncompared": 1}
    assert unseen(gateway) == {"file": 1}


def test_a_client_that_leaves(made: Made) -> None:
    gateway = made(say("x"))

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"one"
        yield b"two"

    body, _ = wsgi_exchange(gateway, app)
    assert next(body) == b"one"
    body.close()
    assert outcomes(gateway) == {"uncompared": 1}
    assert unseen(gateway) == {"answer cut off": 1}


@pytest.mark.parametrize("kind", ["http.response.pathsend", "http.response.zerocopysend"])
def test_an_asgi_server_sends_a_file(made: Made, kind: str) -> None:
    gateway = made(say("x"))

    class Sends(Site):
        async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": kind, "more_body": True})
            await send({"type": "http.response.body", "body": b"x"})

    DOORS["asgi"](gateway, Sends())()
    assert settled(gateway, 1) == {"uncompared": 1}
    assert unseen(gateway) == {"file": 1}


def test_an_app_that_fails(made: Made) -> None:
    gateway = made(say("x"))

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"one"
        raise KeyError("the app")

    def wsgi(environ: Any, start_response: Any) -> Any:
        return app(environ, start_response)

    client = Client(gateway.wsgi(wsgi), use_cookies=False)
    with pytest.raises(KeyError, match="the app"):
        client.open("/a", buffered=True)

    class Failing(Site):
        async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
            raise KeyError("the app")

    with pytest.raises(KeyError, match="the app"):
        DOORS["asgi"](gateway, Failing())()
    assert "equal" not in outcomes(gateway)
    assert "different" not in outcomes(gateway)


# Processes


def test_a_forked_child_runs_its_own(made: Made) -> None:
    gateway = made(say("other"))
    ask = over_wsgi(gateway, Site(b"native").wsgi)
    ask()
    settled(gateway, 1)
    mismatches(gateway)

    def child() -> None:
        assert outcomes(gateway) == {}
        ask()
        assert settled(gateway, 1) == {"different": 1}
        gateway.close()

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    assert gateway.pilot is not None
    with gateway.pilot.shadows._lock:  # as another thread may hold it
        process.start()
    process.join(60)
    process.kill()
    assert process.exitcode == 0
    assert len(mismatches(gateway)) == 2
    ask()
    assert settled(gateway, 2) == {"different": 2}


def test_all_processes_count_together(made: Made, tmp_path: Path) -> None:
    for _ in range(2):
        gateway = made(say("native"), compare_headers=[])
        over_wsgi(gateway, Site(b"native").wsgi)()
        settled(gateway, 1)
        gateway.close()
    ledger = SqliteLedger(tmp_path / "ledger.db")
    counters = ledger.counters()["a"]
    assert (counters["shadow"], counters["shadow equal"]) == (2, 2)
    ledger.close()
