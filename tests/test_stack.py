"""How much stack is left, and that wasmtime takes what it is believed to take."""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

import pytest
import wasmtime

from wasm_gateway import stack
from wasm_gateway.engine import Engine, HostFunction, Program, current
from wasm_gateway.errors import Trap
from wasm_gateway.host.base import Deadline, Grants
from wasm_gateway.instance import Instance, Limits

known = pytest.mark.skipif(sys.platform not in ("linux", "darwin", "win32"), reason="stacks are unknown here")

# Calls the host at each level of a recursion that never ends.
WAT = """(module (import "host" "f" (func $f (param i32)))
  (func $deep (export "deep") (call $f (i32.const 0)) (call $deep))
  (func (export "once") (call $f (i32.const 0))))"""


def addresses(name: str) -> list[int]:
    """Where the arguments of a host function lay, each time that the guest called it."""
    found: list[int] = []

    def callback(env: int, caller: int, raw: int, count: int) -> int | None:
        try:
            found.append(raw)
        except BaseException as error:
            trap: int = current.instance.park(error)
            return trap
        return None

    engine = Engine.shared()
    functions = [HostFunction("host", "f", "i", "", callback)]
    program = Program(engine, engine.compile(bytes(wasmtime.wat2wasm(WAT))), functions, starts=False)
    services: Any = None
    with Instance(program, Grants("g"), Deadline(60), Limits(1 << 20, 10), services) as instance:
        call = instance.function(name)
        assert call is not None
        if name == "deep":
            with pytest.raises(Trap, match="call stack exhausted"):
                call()
        else:
            call()
    return found


@known
def test_arguments_of_host_functions_lie_on_the_stack_of_their_thread() -> None:
    seen: list[tuple[int, int | None]] = []

    def run() -> None:
        (address,) = addresses("once")
        seen.append((address, stack.room(address)))

    run()
    before = threading.stack_size(1 << 20)
    try:
        for _ in range(2):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
    finally:
        threading.stack_size(before)
    (here, room), *others = seen
    assert room is not None
    assert room > stack.MAX_WASM_STACK + stack.RESERVE
    for address, there in others:
        assert there is not None
        assert there > 0
        # the stack of another thread is not this one's
        assert stack.room(address) is None
    assert stack.room(here) == room


def test_other_memory_is_no_stack() -> None:
    buffer = ctypes.create_string_buffer(8)
    assert stack.room(ctypes.addressof(buffer)) is None
    assert stack.room(0) is None


def test_a_guest_takes_no_more_stack_than_is_reckoned_with() -> None:
    found = addresses("deep")
    taken = found[0] - found[-1]
    assert stack.MAX_WASM_STACK * 0.9 < taken <= stack.MAX_WASM_STACK


@pytest.mark.parametrize("failure", [AttributeError("no such function"), OSError("no such library")])
def test_a_platform_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fails() -> tuple[int, int]:
        raise failure

    monkeypatch.setattr(stack, "_BOUNDS", fails)
    rooms: list[int | None] = []

    def run() -> None:
        rooms.append(stack.room(addresses("once")[0]))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert rooms == [None]


def test_where_the_stack_is_unknown_a_callee_calls_no_other(
    wat: Any, application: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "room", lambda address: None)
    body = f"""
      (call $http_send (i32.const 0) (str "http://a.spin.internal/") {"(i32.const 0)" * 7} (i32.const 64))
      (call $out_byte (i32.const 97))
      (call $out (i32.load (i32.const 88)) (i32.load (i32.const 92)))
      (call $respond (i32.const 200))"""
    gateway = application(
        a=application.part(wat.flat(body), allowed_outbound_hosts=["http://a.spin.internal"])
    )
    assert ask(gateway, "/a") == (200, b"aa")
