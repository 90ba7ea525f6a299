"""Instances of wasi:http 0.3 that answer several requests, one after the other."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest

from tests.executors.test_wasi_http_p3 import DATA, ECHO, PASS_ON, WAITS, request, whole
from tests.wasi_p3_wat import P3Toolkit
from wasm_gateway import Gateway
from wasm_gateway.cli import up
from wasm_gateway.component_options import ComponentOptions
from wasm_gateway.errors import ManifestError
from wasm_gateway.executors.reuse import Reuse
from wasm_gateway.executors.wasi_http_p3 import WasiHttpP3Executor

# Answers with the letters from A on, one for each request that this instance has had.
COUNT = """
  (i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 100)) (i32.const 65)))
  (i32.store8 (i32.const 100) (i32.add (i32.load8_u (i32.const 100)) (i32.const 1)))
  (call $drop.request (local.get $request))
  (call $return (call $new))
  (call $write (i32.const 0) (i32.const 1))
  (call $finish)
  {}
  (i32.const 0)"""

Serve = Callable[..., Gateway]


@pytest.fixture
def serve(application: Any) -> Serve:
    toolkit = P3Toolkit()

    def serve(code: str, uses: Any = None, async_uses: Any = None, **options: Any) -> Gateway:
        wasm = toolkit.handler(code, uses, async_uses=async_uses, data=DATA)
        made: Gateway = application(a=application.part(wasm, **{"tool.wasm-gateway": options}))
        return made

    return serve


def answers(gateway: Gateway, count: int) -> list[bytes]:
    return [whole(gateway.handle(request()))[1] for _ in range(count)]


def reuse_of(gateway: Gateway) -> Reuse:
    assert gateway._entries is not None
    executor = gateway._entries["a"].http
    assert isinstance(executor, WasiHttpP3Executor)
    assert executor._reuse is not None
    return executor._reuse


def idle(gateway: Gateway) -> list[Any]:
    return reuse_of(gateway)._idle


def test_off_by_default(serve: Serve) -> None:
    assert answers(serve(COUNT.format("")), 3) == [b"A"] * 3


def test_an_instance_answers_so_many_requests(serve: Serve) -> None:
    assert answers(serve(COUNT.format(""), max_instance_reuse_count=3), 7) == [*map(bytes, zip(b"ABCABCA"))]


def test_the_number_may_be_chosen_by_chance(serve: Serve) -> None:
    got = b"".join(answers(serve(COUNT.format(""), max_instance_reuse_count="2..4"), 60))
    lengths = {len(run) for run in got[1:].split(b"A")[:-1]}
    assert lengths == {1, 2}  # B, or B and C, behind each A


def test_one_that_failed_is_not_used_again(serve: Serve, caplog: Any) -> None:
    fails = COUNT.format("(if (i32.eq (i32.load8_u (i32.const 0)) (i32.const 66)) (then unreachable))")
    assert answers(serve(fails, max_instance_reuse_count=9), 4) == [b"A", b"B", b"A", b"B"]
    assert len(caplog.records) == 2


def test_at_most_one_request_at_a_time(serve: Serve) -> None:
    """Two at once have an instance each, and both are kept."""
    reads = COUNT.format("").replace(
        "(call $drop.request (local.get $request))",
        """(call $consume (local.get $request))
        (drop (call $body.read (global.get $rx) (i32.const 1024) (i32.const 8)))""",
    )
    gateway = serve(reads, max_instance_reuse_count=9)
    together = threading.Barrier(2)
    got: list[bytes] = []

    def body() -> Iterator[bytes]:
        together.wait(60)
        yield b"x"

    def ask() -> None:
        got.append(whole(gateway.handle(request(body(), "POST")))[1])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [b"A", b"A"]
    assert len(idle(gateway)) == 2
    assert answers(gateway, 1) == [b"B"]


def test_no_call_may_be_left(serve: Serve) -> None:
    """One that waits for something yet is not kept: the next request would see what comes of it."""
    waits = COUNT.format("(drop (call $wait-for~ (i64.const 60_000_000_000)))")
    assert answers(serve(waits, None, WAITS, max_instance_reuse_count=9), 3) == [b"A"] * 3


def test_idle_instances_are_closed(serve: Serve) -> None:
    gateway = serve(COUNT.format(""), max_instance_reuse_count=9, idle_instance_timeout="600s")
    assert answers(gateway, 2) == [b"A", b"B"]
    reuse = reuse_of(gateway)
    [kept] = reuse._idle
    with reuse._lock:
        assert reuse._timer is not None
        reuse._timer.cancel()
        reuse._timer, reuse._idle_seconds = None, 0.05
    assert answers(gateway, 1) == [b"C"]
    end = time.monotonic() + 60
    while not kept.instance.closed:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert idle(gateway) == []
    assert answers(gateway, 1) == [b"A"]


def test_they_are_closed_with_the_gateway(serve: Serve) -> None:
    gateway = serve(COUNT.format(""), max_instance_reuse_count=9)
    assert answers(gateway, 1) == [b"A"]
    [kept] = idle(gateway)
    gateway.close()
    assert kept.instance.closed


BODILESS = """(local $t i64)
  (call $drop.request (local.get $request))
  (local.set $t (call $trailers.new))
  (call $response.new (call $fields)
    (i32.const 0) (i32.const 0) (i32.wrap_i64 (local.get $t)) (i32.const 4000))
  (call $sent.drop-readable (i32.load (i32.const 4004)))
  (call $return (i32.load (i32.const 4000)))
  (memory.fill (i32.const 3904) (i32.const 0) (i32.const 64))
  (drop (call $trailers.write (call $high (local.get $t)) (i32.const 3904)))
  (call $trailers.drop-writable (call $high (local.get $t)))
  (i32.const 0)"""


ECHO_ALL = f"""{ECHO.removesuffix("(i32.const 0)")}
  (call $trailers.drop-readable (global.get $rtrailers)) (i32.const 0)"""


@pytest.mark.parametrize("code", [COUNT.format(""), ECHO_ALL, PASS_ON, BODILESS])
def test_nothing_of_a_request_is_left_in_an_instance(serve: Serve, code: str) -> None:
    gateway = serve(code, max_instance_reuse_count=99)
    for method in ("GET", "HEAD", "POST"):
        assert whole(gateway.handle(request((b"a", b"b"), method)))[0] == 200
    [kept] = idle(gateway)
    assert kept.left == 96
    assert len(kept.instance.handles) == 0
    assert not kept.instance.loop._closers
    assert not kept.instance.loop.waiting


def test_the_body_of_a_request_ends_with_it(serve: Serve) -> None:
    """A guest that keeps it finds it at its end, not what is still to come of it."""
    keep = """
      (if (i32.eqz (i32.load8_u (i32.const 100))) (then
        (call $consume (local.get $request)) (i32.store (i32.const 104) (global.get $rx))))
      (if (i32.load8_u (i32.const 100)) (then
        (call $drop.request (local.get $request))
        (i32.store8 (i32.const 101)
          (call $body.read (i32.load (i32.const 104)) (i32.const 1024) (i32.const 8)))))
      (i32.store8 (i32.const 100) (i32.const 1))
      (call $return (call $new))
      (call $write (i32.const 101) (i32.const 1))
      (call $finish)
      (i32.const 0)"""
    gateway = serve(keep, max_instance_reuse_count=9)
    bodies = [whole(gateway.handle(request(iter((b"a", b"b")), "POST")))[1] for _ in range(2)]
    assert bodies == [b"\0", b"\1"]


def test_one_that_answers_while_the_gateway_closes_is_closed_then(serve: Serve) -> None:
    reuse = reuse_of(serve(COUNT.format(""), max_instance_reuse_count=9))
    with reuse.instance() as instance:
        reuse.close()
        assert not instance.closed
    assert instance.closed
    reuse.reopen()
    with reuse.instance() as instance:
        pass
    assert not instance.closed


@pytest.mark.parametrize("seconds", ["60s", "50ms"], ids=["with the gateway", "after a time"])
def test_one_that_cannot_be_closed_is_in_nobodys_way(serve: Serve, caplog: Any, seconds: str) -> None:
    gateway = serve(COUNT.format(""), max_instance_reuse_count=9, idle_instance_timeout=seconds)
    reuse, ended = reuse_of(gateway), threading.Event()

    def fail() -> None:
        raise OSError("no space left on device")

    with reuse.instance() as first, reuse.instance() as second:
        first.on_close(fail)
        first.on_close(ended.set)
        second.on_close(fail)
    if seconds == "60s":
        gateway.close()
    assert ended.wait(60)
    end = time.monotonic() + 60
    while len(caplog.records) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert first.closed
    assert second.closed
    assert {record.getMessage() for record in caplog.records} == {
        "component a: an instance could not be closed"
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_begins_with_none(serve: Serve) -> None:
    gateway = serve(COUNT.format(""), max_instance_reuse_count=9, idle_instance_timeout="60s")
    assert answers(gateway, 2) == [b"A", b"B"]
    child = os.fork()
    if not child:
        try:
            os._exit(0 if answers(gateway, 2) == [b"A", b"B"] else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert answers(gateway, 1) == [b"C"]


def test_it_can_be_asked_for_on_the_command_line() -> None:
    options = {name: parameter for parameter in up.params for name in parameter.opts}
    parameter = options["--max-instance-reuse-count"]
    context = click.Context(up)
    assert parameter.process_value(context, "5") == (5, 6)
    assert parameter.process_value(context, "2..4") == (2, 4)
    assert ComponentOptions().updated({"max_instance_reuse_count": (2, 4)}).max_instance_reuse_count == (2, 4)
    with pytest.raises(click.BadParameter, match="number"):
        parameter.process_value(context, "4..2")


def test_requests_at_the_same_time_have_instances_of_their_own() -> None:
    assert ComponentOptions().updated({"max_instance_concurrent_reuse_count": 1}) == ComponentOptions()
    for value in (0, 2, 16, "1..4", True):
        with pytest.raises(ManifestError, match="one at a time"):
            ComponentOptions().updated({"max_instance_concurrent_reuse_count": value})


@pytest.mark.parametrize("value", [0, -1, "0..3", "3..3", "x", "4..", True, 1.5])
def test_what_is_no_number_of_requests(value: object) -> None:
    with pytest.raises(ManifestError, match="number"):
        ComponentOptions().updated({"max_instance_reuse_count": value})
