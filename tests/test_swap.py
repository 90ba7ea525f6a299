"""Guests, and a manifest, that are replaced while they are served."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.executors.test_reuse import COUNT
from tests.executors.test_wasi_http_p3 import DATA
from tests.test_gateway import say
from tests.wasi_p3_wat import P3Toolkit
from wasm_gateway import Gateway, watch
from wasm_gateway.errors import ComponentError, HostError, ManifestError
from wasm_gateway.loader import Loader
from wasm_gateway.messages import Request

PATIENCE = 120.0

UNLINKED = '(module (import "spin" "warp" (func)))'


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def put(path: Path, data: bytes | str) -> None:
    """As a good compiler does it: the file is there as a whole, or not."""
    part = path.with_name(".part")
    part.write_bytes(data.encode() if isinstance(data, str) else data)
    os.replace(part, path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watch, "FIRST_LOOK_SECONDS", PATIENCE)


@pytest.fixture
def looking() -> Callable[[], set[threading.Thread]]:
    """The threads that look for changes, but those that were there before the test."""
    others = {*threading.enumerate()}
    return lambda: {each for each in threading.enumerate() if each.name == "wasm-watch"} - others


@pytest.fixture
def watching(application: Any, quick: None) -> Callable[..., Gateway]:
    """A gateway that watches; the thread runs."""

    def make(extra: str = "", **parts: Any) -> Gateway:
        gateway: Gateway = application(extra, options={"watch": True}, **parts)
        gateway.match("/")
        return gateway

    return make


@pytest.fixture
def steps(application: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Gateway]:
    """A gateway that watches, but looks only when `look` says so."""

    def make(extra: str = "", **parts: Any) -> Gateway:
        gateway: Gateway = application(extra, options={"watch": True}, **parts)
        assert gateway._watcher is not None
        gateway._watcher.running = True
        look(gateway)
        return gateway

    return make


def look(gateway: Gateway) -> None:
    """Twice: a change has to stand still."""
    for _ in range(2):
        gateway.swaps.look()


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


# By hand


def test_a_component_is_loaded_again_when_told(wat: Any, application: Any, ask: Any) -> None:
    gateway = application(a=wat.flat(say("old")), b=wat.flat(say("b")))
    kept = gateway._entries["b"]
    put(application.folder / "a.wasm", wat.spin(say("new")))
    put(application.folder / "b.wasm", wat.spin(say("newer")))
    assert ask(gateway, "/a") == (200, b"old")
    gateway.reload("a")
    assert (ask(gateway, "/a"), ask(gateway, "/b")) == ((200, b"new"), (200, b"b"))
    assert gateway._entries["b"] is kept
    gateway.reload()
    assert (ask(gateway, "/a"), ask(gateway, "/b")) == ((200, b"new"), (200, b"newer"))
    assert [row["dialect"] for row in gateway.describe()] == ["spin", "spin"]


def test_what_cannot_be_loaded_leaves_the_old_one(wat: Any, application: Any, ask: Any) -> None:
    gateway = application(a=wat.flat(say("old")))
    (application.folder / "a.wasm").write_bytes(b"garbage")
    with pytest.raises(ComponentError, match="component 'a'"):
        gateway.reload("a")
    with pytest.raises(ManifestError, match="nobody"):
        gateway.reload("nobody")
    with pytest.raises(ComponentError):
        gateway.reload()
    assert ask(gateway, "/a") == (200, b"old")


def test_what_is_not_open_is_opened(wat: Any, application: Any) -> None:
    gateway = application.gateway(application.manifest({"a": wat.flat(say("a"))}))
    gateway.reload()
    assert gateway.stats()[0].swaps == 0


def test_the_manifest_is_read_again_when_told(wat: Any, application: Any, ask: Any) -> None:
    gateway = application(a=wat.flat(say("a")))
    application.manifest({"a": application.part(wat.flat(say("a")), route="/moved"), "b": wat.flat(say("b"))})
    gateway.reload("a")
    assert ask(gateway, "/b") == (0, b"")
    gateway.reload()
    assert ask(gateway, "/moved") == (200, b"a")
    assert ask(gateway, "/b") == (200, b"b")
    assert ask(gateway, "/a") == (0, b"")


def test_what_was_left_out_stays_out(wat: Any, application: Any, ask: Any) -> None:
    path = application.manifest({"a": wat.flat(say("a")), "b": b"no wasm"})
    gateway = application.gateway(path, components=["a"]).open()
    gateway.reload()
    assert ask(gateway, "/b") == (0, b"")


# Watching


def test_nothing_is_watched_unless_somebody_asks(
    wat: Any, application: Any, ask: Any, quick: None, looking: Any
) -> None:
    gateway = application(a=wat.flat(say("old")))
    put(application.folder / "a.wasm", wat.flat(say("new")))
    ask(gateway, "/a")
    assert looking() == set()
    assert not gateway.watching


def test_a_changed_guest_answers_soon(
    wat: Any, looking: Any, watching: Any, application: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = watching(a=wat.flat(say("old")), b=wat.flat(say("b")))
    assert gateway.watching
    assert gateway.watched_files() == {
        application.folder / name for name in ("spin.toml", "a.wasm", "b.wasm")
    }
    assert ask(gateway, "/a") == (200, b"old")
    put(application.folder / "a.wasm", wat.spin(say("new")))
    until(lambda: messages(caplog, logging.WARNING))
    assert messages(caplog, logging.WARNING) == ["component a: its changed guest answers from now on"]
    assert ask(gateway, "/a") == (200, b"new")
    a, b = gateway.stats()
    assert (a.swaps, a.refused, b.swaps) == (1, None, 0)
    assert a.started == 2  # those of before count too
    gateway.close()
    until(lambda: not looking())


def test_a_dependency_is_watched_too(wat: Any, steps: Any, application: Any, ask: Any) -> None:
    provider = """(component (core module $m (func (export "f") (result i32) (i32.const {})))
      (core instance $m (instantiate $m))
      (func $f (result u32) (canon lift (core func $m "f")))
      (instance $i (export "f" (func $f))) (export "x:y/z" (instance $i)))"""
    (application.folder / "p.wasm").write_bytes(wat.assemble(provider.format(1)))
    guest = wat.assemble(
        """(component (import "x:y/z" (instance $i (export "f" (func (result u32)))))
      (core func $f (canon lower (func $i "f")))
      (core module $m (import "" "f" (func (result i32))) (func (export "run") (result i32) (i32.const 0)))
      (core instance $m (instantiate $m (with "" (instance (export "f" (func $f))))))
      (func $run (result (result)) (canon lift (core func $m "run")))
      (instance $run (export "run" (func $run)))
      (export "wasi:cli/run@0.2.0" (instance $run)))"""
    )
    part = application.part(guest, wagi=True, dependencies={"x:y/z": {"path": "p.wasm"}})
    gateway = steps(a=part)
    assert application.folder / "p.wasm" in gateway.watched_files()
    put(application.folder / "p.wasm", wat.assemble(provider.format(2)))
    look(gateway)
    assert gateway.stats()[0].swaps == 1
    put(application.folder / "p.wasm", b"garbage")
    look(gateway)
    assert gateway.stats()[0].swaps == 1
    assert gateway.stats()[0].refused


def test_the_same_content_is_no_change(
    wat: Any, steps: Any, application: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = steps(a=wat.flat(say("old")))
    path = application.folder / "a.wasm"
    put(path, path.read_bytes())
    os.utime(application.folder / "spin.toml")
    look(gateway)
    assert gateway.stats()[0].swaps == 0
    assert caplog.records == []


def test_what_has_not_changed_is_not_read(
    wat: Any, application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = application(options={"watch": True}, a=wat.flat(say("old")))
    monkeypatch.setattr(Loader, "read", None)
    look(gateway)
    assert gateway.stats()[0].refused is None


def test_what_is_half_written_is_not_taken(
    wat: Any, steps: Any, application: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = steps(a=wat.flat(say("old")))
    new = wat.flat(say("new"))
    for size in range(len(new) - 50, len(new) + 1, 10):
        (application.folder / "a.wasm").write_bytes(new[:size])
        gateway.swaps.look()
        assert ask(gateway, "/a") == (200, b"old")
    (application.folder / "a.wasm").write_bytes(new)
    look(gateway)
    assert ask(gateway, "/a") == (200, b"new")
    assert messages(caplog, logging.ERROR) == []


@pytest.mark.parametrize("how", ["garbage", "truncated", "unlinked", "no handler", "gone", "bad text"])
def test_a_guest_that_cannot_be_loaded_is_told_of_once(
    wat: Any, steps: Any, application: Any, ask: Any, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    old = wat.flat(say("old"))
    gateway = steps(a=old, b=wat.flat(say("b")))
    path = application.folder / "a.wasm"
    bad = {
        "garbage": b"no wasm",
        "truncated": old[:-20],
        "unlinked": wat.assemble(UNLINKED),
        "no handler": wat.assemble("(module)"),
        "bad text": b"",
    }
    if how == "gone":
        path.unlink()
    else:
        put(path, bad[how])
    for _ in range(5):
        look(gateway)
    (text,) = messages(caplog, logging.ERROR)
    assert text.startswith("component a: its changed guest is not taken, the one before goes on: ")
    assert ask(gateway, "/a") == (200, b"old")
    a, b = gateway.stats()
    assert (a.swaps, b.refused) == (0, None)
    assert a.refused
    assert a.refused in text
    assert [row["refused"] for row in gateway.describe()] == [a.refused, None]

    # a second change is told of again, a third one that is good is taken
    put(path, b"other garbage")
    look(gateway)
    assert len(messages(caplog, logging.ERROR)) == 2
    put(path, wat.spin(say("new")))
    look(gateway)
    assert ask(gateway, "/a") == (200, b"new")
    assert (gateway.stats()[0].refused, gateway.stats()[0].swaps) == (None, 1)


def test_a_guest_that_comes_back_is_as_if_nothing_had_been(wat: Any, steps: Any, application: Any) -> None:
    old = wat.flat(say("old"))
    gateway = steps(a=old)
    put(application.folder / "a.wasm", b"garbage")
    look(gateway)
    assert gateway.stats()[0].refused
    put(application.folder / "a.wasm", old)
    look(gateway)
    assert (gateway.stats()[0].refused, gateway.stats()[0].swaps) == (None, 0)


def test_a_guest_that_the_site_stands_in_for_is_taken_once_it_is_good(
    wat: Any, steps: Any, application: Any, ask: Any
) -> None:
    gateway = steps(a=application.part(b"garbage", tool={"fallback": ["link"]}))
    assert ask(gateway, "/a") == (500, b"")
    put(application.folder / "a.wasm", b"other garbage")
    look(gateway)
    put(application.folder / "a.wasm", wat.flat(say("good")))
    look(gateway)
    assert ask(gateway, "/a") == (200, b"good")
    put(application.folder / "a.wasm", b"garbage")
    look(gateway)
    assert ask(gateway, "/a") == (200, b"good")
    with pytest.raises(HostError, match="no earlier guest"):
        gateway.rollback("a")


def test_what_changed_before_the_first_request_is_what_it_meets(
    wat: Any, application: Any, ask: Any, quick: None
) -> None:
    gateway = application(a=wat.flat(say("old")), options={"watch": True})
    put(application.folder / "a.wasm", wat.flat(say("new")))
    time.sleep(0.05)  # more than LOOK_SECONDS: nobody writes any more
    assert ask(gateway, "/a") == (200, b"new")


# Under load


def test_every_answer_is_of_the_old_or_of_the_new_guest(wat: Any, application: Any, watching: Any) -> None:
    guests = {name: wat.spin(say(name)) for name in ("one", "two")}
    gateway = watching(a=guests["one"])
    path, stop = application.folder / "a.wasm", threading.Event()
    wrong: list[object] = []
    counts = [0] * 4

    def client(number: int) -> None:
        while not stop.is_set():
            response = gateway.handle(Request("GET", "/a"))
            answer = (response.status, b"".join(response.body)) if response else None
            if answer not in [(200, b"one"), (200, b"two")]:
                wrong.append(answer)
            counts[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(1, 21):
            put(path, guests["two" if turn % 2 else "one"])
            until(lambda turn=turn: gateway.stats()[0].swaps == turn)  # type: ignore[misc]
            before = sum(counts)
            until(lambda before=before: sum(counts) > before)  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    (row,) = gateway.stats()
    assert (row.started, row.failed) == (sum(counts), 0)
    assert gateway._entries is not None
    assert gateway._entries["a"]._places.free == 64


def test_a_request_under_way_ends_on_the_guest_that_it_began_with(
    wat: Any, application: Any, components: Any
) -> None:
    """It has the connection of a guest that waits; the new one answers beside it."""
    begun, go_on = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        begun.set()
        go_on.wait(PATIENCE)
        yield b"late"

    gateway = application(a=components.echo())
    answers: list[bytes] = []

    def client() -> None:
        response = gateway.handle(Request("POST", "/a", body=body()))
        answers.append(b"".join(response.body))

    thread = threading.Thread(target=client)
    thread.start()
    assert begun.wait(PATIENCE)
    old = weakref.ref(gateway._entries["a"].http.guest.program)
    for number in range(2):
        put(application.folder / "a.wasm", wat.flat(say(f"new {number}")))
        gateway.reload("a")
    assert b"".join(gateway.handle(Request("GET", "/a")).body) == b"new 1"
    assert old() is not None
    go_on.set()
    thread.join()
    assert answers == [b"late"]
    until(lambda: old() is None)


def test_places_are_shared_with_the_guest_that_goes(wat: Any, application: Any, components: Any) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        begun.set()
        go_on.wait(PATIENCE)
        yield b""

    gateway = application(a=application.part(components.echo(), tool={"max_concurrency": 1}))
    thread = threading.Thread(target=lambda: gateway.handle(Request("POST", "/a", body=body())))
    thread.start()
    assert begun.wait(PATIENCE)
    put(application.folder / "a.wasm", wat.flat(say("new")))
    gateway.reload("a")
    assert gateway.handle(Request("GET", "/a")).status == 503
    go_on.set()
    thread.join()
    assert gateway.handle(Request("GET", "/a")).status == 200


@pytest.mark.parametrize("disable_cache", [True, False])
def test_what_was_replaced_is_freed(
    wat: Any, application: Any, ask: Any, tmp_path: Path, disable_cache: bool
) -> None:
    """Of 50 guests two are left, the last one and the one that a rollback would bring back."""
    ballast = " ".join(
        f'(func (export "f{i}") (param i64) (result i64) {"(local.get 0)"})' for i in range(50)
    )
    options = {"disable_cache": disable_cache, "cache_dir": tmp_path / "cache"}
    gateway = application(options=options, a=wat.spin(say("0"), ballast))
    gone = []
    gc.collect()
    gc.disable()
    try:
        for number in range(1, 51):
            gone.append(weakref.ref(gateway._entries["a"].http.guest.program))
            put(application.folder / "a.wasm", wat.spin(say(str(number)), ballast))
            gateway.reload("a")
            assert ask(gateway, "/a") == (200, str(number).encode())
        assert [each() is None for each in gone] == [True] * 49 + [False]
    finally:
        gc.enable()


def test_memory_does_not_grow(wat: Any, application: Any, ask: Any) -> None:
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("no /proc here")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    ballast = f'(data "{"x" * (1 << 20)}")'

    guests = [wat.spin(say(str(number)), ballast) for number in range(2)]
    gateway = application(a=guests[1])

    def swap(times: int) -> None:
        for number in range(times):
            put(application.folder / "a.wasm", guests[number % 2])
            gateway.reload("a")
            assert ask(gateway, "/a") == (200, str(number % 2).encode())

    swap(4)
    before = resident()
    swap(50)
    assert resident() - before < 25 << 20


def test_instances_that_wait_are_closed_with_their_guest(application: Any, tmp_path: Path) -> None:
    toolkit = P3Toolkit()

    def guest(more: str = "") -> bytes:
        return toolkit.handler(COUNT.format(more), None, data=DATA)

    def answers(count: int) -> bytes:
        found = [gateway.handle(Request("GET", "/a")) for _ in range(count)]
        return b"".join(b"".join(response.body) for response in found)

    tool = {"max_instance_reuse_count": 9, "idle_instance_timeout": "600s"}
    gateway = application(a=application.part(guest(), tool=tool))
    reuse = gateway._entries["a"].http._reuse
    assert answers(3) == b"ABC"
    (kept,) = reuse._idle
    put(tmp_path / "a.wasm", guest("(drop (i32.const 5))"))
    gateway.reload("a")
    assert kept.instance.closed
    assert reuse._idle == []
    assert answers(3) == b"ABC"
    (kept,) = gateway._entries["a"].http._reuse._idle
    gateway.rollback("a")
    assert kept.instance.closed
    assert gateway._entries["a"].http._reuse is reuse
    assert answers(3) == b"ABC"  # it keeps instances again
    assert len(reuse._idle) == 1


# Rollback


def test_rollback_until_something_newer_comes(
    wat: Any, steps: Any, application: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = steps(a=wat.flat(say("one")))
    path = application.folder / "a.wasm"
    with pytest.raises(HostError, match="'a' has no earlier guest"):
        gateway.rollback("a")
    put(path, wat.flat(say("two")))
    look(gateway)
    put(path, b"garbage")  # is not what there is to go back to
    look(gateway)
    assert ask(gateway, "/a") == (200, b"two")
    gateway.rollback("a")
    assert ask(gateway, "/a") == (200, b"one")
    with pytest.raises(HostError):
        gateway.rollback("a")
    for text in (wat.flat(say("two")), wat.flat(say("two"))):
        put(path, text)  # what was rolled back does not come again
        look(gateway)
        assert ask(gateway, "/a") == (200, b"one")
    put(path, wat.flat(say("three")))
    look(gateway)
    assert ask(gateway, "/a") == (200, b"three")
    gateway.rollback("a")
    assert ask(gateway, "/a") == (200, b"one")
    assert gateway.stats()[0].swaps == 4


def test_rollback_without_watching(wat: Any, application: Any, ask: Any) -> None:
    gateway = application(a=wat.flat(say("one")))
    put(application.folder / "a.wasm", wat.flat(say("two")))
    gateway.reload("a")
    gateway.rollback("a")
    assert ask(gateway, "/a") == (200, b"one")
    gateway.reload("a")
    assert ask(gateway, "/a") == (200, b"two")


def test_a_new_guest_begins_with_a_closed_breaker(wat: Any, application: Any) -> None:
    tool = {"fallback": True, "breaker_failures": 1}
    parts = {name: application.part(wat.flat(say(name)), tool=tool) for name in "ab"}
    gateway = application(**parts)
    for name in "ab":
        gateway.pilot.breaker(name).failed()
    gateway.reload("a")
    assert [gateway.pilot.breaker(name).admits() for name in "ab"] == [True, False]


# Files of guests


@pytest.mark.parametrize("how", ["by hand", "watching"])
def test_each_guest_sees_the_files_of_when_it_was_loaded(
    wat: Any, steps: Any, application: Any, tmp_path: Path, how: str
) -> None:
    (tmp_path / "page.txt").write_text("old")
    gateway = steps(a=application.part(wat.flat(say("a")), files=["page.txt"]))

    def copies() -> list[str]:
        return sorted(path.read_text() for path in gateway.work_dir.rglob("page.txt"))

    (tmp_path / "page.txt").write_text("new")
    for number, expected in enumerate((["new", "old"], ["new", "new", "old"], ["new", "new", "old"])):
        if how == "watching":
            put(tmp_path / "a.wasm", wat.flat(say(str(number))))
            look(gateway)
        else:
            gateway.reload("a")
        gc.collect()
        assert copies() == expected  # the first one belongs to the gateway, two to guests
    folder = gateway.work_dir
    gateway.close()
    assert not folder.exists()


# The manifest


def test_a_changed_manifest_is_in_force_soon(wat: Any, watching: Any, application: Any, ask: Any) -> None:
    gateway = watching(STATIC.format("old"), a=wat.flat(say("a")), b=wat.flat(say("b")))
    kept = gateway._entries["a"]
    parts = {"a": wat.flat(say("a")), "c": wat.flat(say("c"))}
    put(application.folder / "c.wasm", parts["c"])
    manifest = application.manifest
    text = manifest(parts, STATIC.format("new")).read_text()
    put(application.folder / "spin.toml", text)
    until(lambda: ask(gateway, "/c") == (200, b"c"))
    assert ask(gateway, "/static") == (200, b"new")
    assert ask(gateway, "/b") == (0, b"")
    assert [row.component for row in gateway.stats()] == ["a", "c"]
    assert [row["id"] for row in gateway.describe()] == ["a", "c", "static"]
    assert gateway._entries["a"] is kept  # nothing of it has changed


STATIC = """
[[trigger.http]]
id = "static"
route = "/static"
static_response = {{ body = "{}" }}
"""


def test_a_request_that_was_matched_before_is_answered_as_it_was(
    wat: Any, steps: Any, application: Any
) -> None:
    """Ids of triggers may have moved on to others."""
    triggers = '[[trigger.http]]\nroute = "/{}"\ncomponent = {{ source = "{}.wasm" }}\n'
    for name in "ab":
        (application.folder / f"{name}.wasm").write_bytes(wat.flat(say(name)))
    gateway = steps(triggers.format("a", "a") + STATIC.format("old"))
    matches = {path: gateway.match(path) for path in ("/a", "/static")}
    application.manifest({}, triggers.format("b", "b"))
    look(gateway)
    assert gateway.match("/a") is None

    def answer(path: str) -> bytes:
        return b"".join(gateway.handle(Request("GET", path), matches.get(path)).body)

    assert answer("/b") == b"b"
    assert answer("/static") == b"old"
    assert gateway.streams(matches["/a"]) in (True, False)
    assert gateway.choose(matches["/a"], None) is None
    assert answer("/a") in (b"a", b"b")


def test_a_request_that_was_matched_with_what_is_gone_now(wat: Any, steps: Any, application: Any) -> None:
    gateway = steps(a=wat.flat(say("a")), b=wat.flat(say("b")))
    match = gateway.match("/b")
    for times in (1, 2):
        application.manifest({"a": application.part(wat.flat(say("a")), route=f"/{times}")})
        look(gateway)
        assert gateway.match("/b") is None
        assert set(gateway._entries) == ({"a", "b"} if times == 1 else {"a"})
        if times == 1:
            assert b"".join(gateway.handle(Request("GET", "/b"), match).body) == b"b"


@pytest.mark.parametrize("text", ["not toml", "spin_manifest_version = 2\n[application]\nname = 'x'", None])
def test_a_manifest_that_cannot_be_taken_leaves_the_old_one(
    wat: Any, steps: Any, application: Any, ask: Any, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    gateway = steps(a=wat.flat(say("a")))
    path = application.folder / "spin.toml"
    good = path.read_text()
    if text is None:
        path.unlink()
    else:
        put(path, text)
    for _ in range(3):
        look(gateway)
    (message,) = messages(caplog, logging.ERROR)
    assert message.startswith("the changed manifest is not taken, the one before goes on: ")
    assert ask(gateway, "/a") == (200, b"a")
    (row,) = gateway.describe()
    assert row["refused"]
    assert row["refused"] in message
    # guests are looked at all the same
    put(application.folder / "a.wasm", wat.flat(say("new")))
    look(gateway)
    assert ask(gateway, "/a") == (200, b"new")
    put(path, good)
    look(gateway)
    assert gateway.describe()[0]["refused"] is None


def test_a_manifest_waits_for_its_guests(wat: Any, steps: Any, application: Any, ask: Any) -> None:
    gateway = steps(a=wat.flat(say("a")))
    application.manifest({"a": wat.flat(say("a")), "b": b""})
    (application.folder / "b.wasm").unlink()
    look(gateway)
    assert "b.wasm, does not exist" in str(gateway.describe()[0]["refused"])
    assert ask(gateway, "/a") == (200, b"a")
    (application.folder / "b.wasm").write_bytes(b"garbage")
    look(gateway)
    assert gateway.describe()[0]["refused"]
    (application.folder / "b.wasm").write_bytes(wat.flat(say("b")))
    look(gateway)
    assert ask(gateway, "/b") == (200, b"b")
    assert gateway.describe()[0]["refused"] is None


def test_a_guest_is_taken_though_its_manifest_is_not(
    wat: Any, steps: Any, application: Any, ask: Any
) -> None:
    gateway = steps(a=wat.flat(say("old")))
    new = application.part(wat.flat(say("new")), environment={"A": "b"})
    application.manifest({"a": new, "b": b"garbage"})
    look(gateway)
    assert ask(gateway, "/a") == (200, b"new")
    assert ask(gateway, "/b") == (0, b"")
    assert gateway.describe()[0]["refused"]


def test_a_route_may_move_whatever_lies_there(wat: Any, steps: Any, application: Any, ask: Any) -> None:
    wasm = wat.flat(say("a"))
    gateway = steps(a=wasm)
    entry = gateway._entries["a"]
    application.manifest({"a": application.part(b"garbage", route="/moved")})
    look(gateway)
    assert ask(gateway, "/moved") == (200, b"a")
    assert gateway._entries["a"] is entry
    assert entry.refused


def test_what_a_manifest_forbids_does_not_come_back(wat: Any, steps: Any, application: Any) -> None:
    wasm = wat.flat(say("a"))
    gateway = steps(a=application.part(wasm, environment={"SECRET": "x"}), b=wat.flat(say("b")))
    for name in "ab":
        put(application.folder / f"{name}.wasm", wat.flat(say("new")))
    look(gateway)
    new = wat.flat(say("new"))
    application.manifest({"a": new, "b": new})
    look(gateway)
    with pytest.raises(HostError):
        gateway.rollback("a")
    gateway.rollback("b")


def test_limits_that_change_are_in_force(wat: Any, steps: Any, application: Any) -> None:
    wasm = wat.flat(say("a"))
    gateway = steps(a=application.part(wasm, tool={"max_concurrency": 5}))
    application.manifest({"a": application.part(wasm, tool={"max_concurrency": 3, "mode": "native"})})
    look(gateway)
    entry = gateway._entries["a"]
    assert (entry._places.free, entry._places.limit, entry.options.max_concurrency) == (3, 3, 3)
    assert gateway.pilot.rule("a", "/a/...").mode == "native"
    compared = gateway.pilot.comparison("a", "/a/...")
    application.manifest({"a": application.part(wasm, tool={"mode": "canary"})})
    look(gateway)
    assert gateway.pilot.rule("a", "/a/...").mode == "canary"
    assert gateway.pilot.comparison("a", "/a/...") is not compared


def test_a_manifest_that_changes_before_it_is_open(wat: Any, application: Any, ask: Any, quick: None) -> None:
    gateway = application.gateway(application.manifest({"a": wat.flat(say("a"))}), watch=True)
    assert gateway.match("/b") is None
    application.manifest({"b": wat.flat(say("b"))})
    until(lambda: gateway.match("/b"))
    assert ask(gateway, "/b") == (200, b"b")


def test_a_manifest_that_changes_while_it_is_opened(
    wat: Any, application: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = application.gateway(application.manifest({"a": wat.flat(say("a"))}), watch=True)
    gateway._watcher.running = True
    load, loading, looked = Gateway._load, threading.Event(), threading.Event()

    def slowly(self: Gateway, *arguments: Any) -> Any:
        loaded = load(self, *arguments)
        loading.set()
        looked.wait(0.3)
        return loaded

    def change() -> None:
        loading.wait(PATIENCE)
        application.manifest({"b": wat.flat(say("b"))})
        look(gateway)
        looked.set()

    monkeypatch.setattr(Gateway, "_load", slowly)
    thread = threading.Thread(target=change)
    thread.start()
    gateway.open()
    thread.join()
    assert ask(gateway, "/b") == (200, b"b")


def test_a_bare_guest_is_watched(wat: Any, application: Any, ask: Any, tmp_path: Path) -> None:
    path = tmp_path / "guest.wasm"
    path.write_bytes(wat.flat(say("old")))
    gateway = application.gateway(path, watch=True).open()
    gateway._watcher.running = True
    put(path, wat.flat(say("new")))
    look(gateway)
    assert ask(gateway, "/") == (200, b"new")
    put(path, b"garbage")
    look(gateway)
    assert ask(gateway, "/") == (200, b"new")
    assert gateway.stats()[0].refused


# Forks

CHILD = """
import os, signal, sys, threading, time, warnings
from pathlib import Path
warnings.simplefilter("ignore", DeprecationWarning)
signal.alarm(60)  # a hang is a failure
from wasm_gateway import Gateway, watch
from wasm_gateway.messages import Request
watch.LOOK_SECONDS, watch.FIRST_LOOK_SECONDS = 0.02, 60
path, new = Path({path!r}), Path({new!r}).read_bytes()
gateway = Gateway.from_manifest({manifest!r}, disable_cache=True, watch=True).open()
def ask():
    return b"".join(gateway.handle(Request("GET", "/a")).body)
def until(text):
    while ask() != text:
        time.sleep(0.01)
def in_child(function):
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        function()
        os._exit(0)
    return pid
"""


def python(script: str, **names: Any) -> None:
    text = CHILD.format(**names) + script
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def names(wat: Any, application: Any, tmp_path: Path) -> dict[str, str]:
    manifest = application.manifest({"a": wat.spin(say("old"))})
    (tmp_path / "new").write_bytes(wat.spin(say("new")))
    return {"manifest": str(manifest), "path": str(tmp_path / "a.wasm"), "new": str(tmp_path / "new")}


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@needs_fork
def test_children_swap_by_themselves(names: dict[str, str]) -> None:
    """Of a parent that serves too, and of one that has only compiled."""
    python(
        """
read, write = os.pipe()
def child():
    os.write(write, ask()[:1])
    until(b"new")
pids = [in_child(child) for _ in range(2)]
ask()
pids.append(in_child(child))
assert b"".join(os.read(read, 1) for _ in pids) == b"ooo"
path.write_bytes(new)
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
until(b"new")
gateway.close()
""",
        **names,
    )


@needs_fork
def test_a_child_that_is_born_late_begins_with_what_is_there(names: dict[str, str]) -> None:
    python(
        """
path.write_bytes(new)
time.sleep(0.1)
def child():
    assert ask() == b"new"
assert os.waitpid(in_child(child), 0)[1] == 0
""",
        **names,
    )


@needs_fork
def test_a_fork_waits_for_a_guest_that_is_being_compiled(names: dict[str, str]) -> None:
    """Or the child has a lock of the compiler's, which nobody gives back."""
    python(
        """
from wasm_gateway.loader import Loader
load_guest, loading = Loader.load_guest, threading.Event()
def slowly(*arguments):
    loading.set()
    time.sleep(0.3)
    loaded = load_guest(*arguments)
    loading.clear()
    return loaded
Loader.load_guest = slowly
stop = threading.Event()
def swap():
    while not stop.is_set():
        gateway.reload("a")
thread = threading.Thread(target=swap)
thread.start()
def child():
    Loader.load_guest = load_guest
    assert not loading.is_set()
    assert ask() == b"old"
    gateway.reload("a")
for _ in range(4):
    loading.wait()
    assert os.waitpid(in_child(child), 0)[1] == 0
stop.set()
thread.join()
""",
        **names,
    )


@needs_fork
def test_of_several_processes_one_compiles(names: dict[str, str], tmp_path: Path) -> None:
    python(
        """
from wasm_gateway.compile_cache import CompileCache
from wasm_gateway.engine import Engine
store = CompileCache.store
def slowly(*arguments):
    os.write(write, b"x")
    time.sleep(0.3)  # the others have seen the new guest by now
    store(*arguments)
CompileCache.store = slowly
read, write = os.pipe()
gateway.close()
gateway = Gateway.from_manifest(gateway.manifest.path, cache_dir=CACHE, watch=True).open()
assert os.read(read, 100) == b"x"
pids = [in_child(lambda: until(b"new")) for _ in range(3)]
path.write_bytes(new)
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
assert os.read(read, 100) == b"x"
""".replace("CACHE", repr(str(tmp_path / "cache"))),
        **names,
    )
