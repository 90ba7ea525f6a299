"""The world of one request: what a hostile guest does to it, and that nothing of it survives."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import wasmtime

from wasm_gateway import capi
from wasm_gateway.engine import Engine, HostFunction, Program, current, ticks
from wasm_gateway.errors import DeadlineExceeded, GatewayError, HostError, LimitExceeded, Saturated, Trap
from wasm_gateway.host.base import Deadline, Grants
from wasm_gateway.instance import Instance, Limits

PAGE = 65536


class Application:
    """The services of an application that has one component and keeps what it logs."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, bytes]] = []
        self.closed = 0

    def chain(self, caller: Any, component_id: str, request: Any) -> Any:
        return component_id, request

    def self_request(self, caller: Any, request: Any) -> Any:
        return request

    def open_log(self, component_id: str) -> Application:
        return self

    def write(self, stream: str, data: bytes) -> None:
        self.lines.append((stream, data))

    def close(self) -> None:
        self.closed += 1


def program(wat: str, host: Callable[[Instance], Any] | None = None, starts: bool = True) -> Program:
    """A program of `wat`, which may import host.f, a function without arguments."""

    def callback(env: int, caller: int, raw: int, nargs: int) -> int | None:
        instance = current.instance
        try:
            assert host is not None
            host(instance)
        except BaseException as error:
            return instance.park(error)
        return None

    engine = Engine.shared()
    functions = [] if host is None else [HostFunction("host", "f", "", "", callback)]
    return Program(engine, engine.compile(bytes(wasmtime.wat2wasm(wat))), functions, starts=starts)


def instance(
    program: Program, *, seconds: float = 120.0, max_memory: int = 64 * PAGE, services: Any = None
) -> Instance:
    return Instance(program, Grants("guest"), Deadline(seconds), Limits(max_memory, 1000), services)


HOSTILE = """(module
  (memory (export "memory") 1)
  (func (export "unreachable") unreachable)
  (func (export "oob") (drop (i32.load (i32.const -8))))
  (func (export "divide") (drop (i32.div_u (i32.const 1) (i32.const 0))))
  (func $deep (export "deep") (call $deep))
  (func (export "spin") (loop (br 0)))
  (func (export "grow") (result i32) (memory.grow (i32.const 1)))
  (func (export "mix") (param i32 i64 f32 f64) (result i64)
    (i64.add (i64.extend_i32_u (local.get 0)) (local.get 1)))
  (func (export "half") (param f32) (result f32) (f32.mul (local.get 0) (f32.const 0.5)))
  (func (export "set") (i32.store (i32.const 0) (i32.const 7)))
  (func (export "get") (result i32) (i32.load (i32.const 0))))"""


@pytest.fixture(scope="module")
def hostile() -> Program:
    return program(HOSTILE)


def test_core_values_travel_unsigned(hostile: Program) -> None:
    with instance(hostile) as guest:
        assert guest.function("mix")(2**32 - 1, 2**63, 1.0, 2.0) == 2**63 + 2**32 - 1
        assert guest.function("half")(3.0) == 1.5
        assert guest.function("memory") is None
        assert guest.function("nothing") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unreachable", "unreachable"),
        ("oob", "out of bounds memory access"),
        ("divide", "integer divide by zero"),
        ("deep", "call stack exhausted"),
    ],
)
def test_a_trap_says_what_and_where(hostile: Program, name: str, message: str) -> None:
    with instance(hostile) as guest, pytest.raises(Trap, match=message) as caught:
        guest.function(name)()
    assert caught.value.frames
    assert all("+0x" in frame for frame in caught.value.frames)


def test_a_loop_ends_at_its_deadline(hostile: Program) -> None:
    begin = time.monotonic()
    with instance(hostile, seconds=0.1) as guest, pytest.raises(DeadlineExceeded) as caught:
        guest.function("spin")()
    assert caught.value.seconds == 0.1
    assert caught.value.status == 504
    assert time.monotonic() - begin >= 0.1


def test_a_start_function_that_loops_ends_at_its_deadline() -> None:
    looping = program("(module (func $s (loop (br 0))) (start $s))")
    with pytest.raises(DeadlineExceeded), instance(looping, seconds=0.05):
        pass
    assert not looping.engine.ticker.running


def test_a_start_function_that_traps() -> None:
    trapping = program("(module (func $s unreachable) (start $s))")
    with pytest.raises(Trap, match="unreachable"), instance(trapping):
        pass


def test_memory_grows_to_its_limit_and_no_further(hostile: Program) -> None:
    with instance(hostile, max_memory=3 * PAGE) as guest:
        grow = guest.function("grow")
        assert [grow(), grow(), grow()] == [1, 2, 2**32 - 1]
        guest.memories[0].read(3 * PAGE - 1, 1)
        with pytest.raises(Trap, match="out of bounds"):
            guest.memories[0].read(3 * PAGE, 1)


@pytest.mark.parametrize("wat", ["(module (memory 65))", "(module (table 1001 funcref))"])
def test_a_guest_that_begins_over_its_limits(wat: str) -> None:
    with pytest.raises(LimitExceeded, match="exceeds"), instance(program(wat)):
        pass


def test_every_instance_begins_from_the_module(hostile: Program) -> None:
    for _ in range(3):
        with instance(hostile) as guest:
            assert guest.function("get")() == 0
            guest.function("set")()
            assert guest.function("get")() == 7


def test_no_view_of_memory_outlives_the_instance(hostile: Program) -> None:
    with instance(hostile) as guest:
        memory, get = guest.memories[0], guest.function("get")
        view = memory.view
    with pytest.raises(ValueError, match="released"):
        view[0]
    with pytest.raises(ValueError, match="closed"):
        memory.read(0, 1)
    with pytest.raises(AssertionError, match="closed"):
        get()


def test_the_pool_has_an_end_and_gives_back(hostile: Program) -> None:
    guests: list[Instance] = []

    def exhaust() -> None:
        for _ in range(5000):
            guests.append(instance(hostile).__enter__())

    with pytest.raises(Saturated) as caught:
        exhaust()
    assert caught.value.status == 503
    for guest in guests:
        guest.close()
    with instance(hostile) as guest:
        assert guest.function("get")() == 0


def test_closers_run_last_first_and_none_is_skipped(hostile: Program) -> None:
    order: list[int] = []

    def fails() -> None:
        order.append(2)
        raise HostError("two")

    guest = instance(hostile).__enter__()
    for closer in (lambda: order.append(1), fails, lambda: order.append(3)):
        guest.on_close(closer)
    with pytest.raises(HostError, match="two"):
        guest.close()
    assert order == [3, 2, 1]
    guest.close()  # a second time does nothing
    assert order == [3, 2, 1]


# Host functions

CALLS_HOST = """(module (import "host" "f" (func $f)) (memory (export "memory") 1)
  (func (export "call") (call $f))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (call $f) (i32.const 64)))"""


def test_what_a_host_function_raises_reaches_the_caller_as_it_is() -> None:
    error = HostError("the store is gone")

    def raises(guest: Instance) -> None:
        raise error

    with instance(program(CALLS_HOST, raises)) as guest, pytest.raises(HostError) as caught:
        guest.function("call")()
    assert caught.value is error


def test_the_first_failure_counts_when_cleaning_up_fails_too() -> None:
    def raises(guest: Instance) -> None:
        try:
            raise HostError("first")
        except HostError as error:
            guest.park(error)
            raise HostError("second") from None

    with instance(program(CALLS_HOST, raises)) as guest, pytest.raises(HostError, match="first"):
        guest.function("call")()


def test_an_interrupt_is_not_lost_behind_another_failure() -> None:
    def raises(guest: Instance) -> None:
        guest.park(HostError("first"))
        raise SystemExit

    with instance(program(CALLS_HOST, raises)) as guest, pytest.raises(SystemExit):
        guest.function("call")()


def test_a_nested_instance_leaves_the_outer_one_current() -> None:
    inner = program('(module (func (export "one") (result i32) (i32.const 1)))')
    seen: list[Any] = []

    def nests(guest: Instance) -> None:
        with instance(inner) as other:
            seen.append(other.function("one")())
        seen.append(current.instance is guest)

    with instance(program(CALLS_HOST, nests)) as guest:
        guest.function("call")()
    assert seen == [1, True]
    assert current.instance is None


def test_the_allocator_may_fail_like_any_call() -> None:
    def raises(guest: Instance) -> None:
        raise HostError("within realloc")

    with instance(program(CALLS_HOST, raises)) as guest, pytest.raises(HostError, match="within realloc"):
        guest.realloc(0, 0, 0, 1, 10)


def test_a_guest_without_allocator_cannot_be_given_strings(hostile: Program) -> None:
    with instance(hostile) as guest, pytest.raises(Trap, match="cabi_realloc"):
        guest.realloc(0, 0, 0, 1, 10)


def test_output_goes_to_one_log_that_is_closed_with_the_instance(hostile: Program) -> None:
    application = Application()
    with instance(hostile, services=application) as guest:
        guest.log("stdout", b"a")
        guest.log("stderr", b"b")
        assert application.closed == 0
    assert application.lines == [("stdout", b"a"), ("stderr", b"b")]
    assert application.closed == 1


# Threads and leaks


def test_guests_of_several_threads_run_at_once(hostile: Program) -> None:
    """A guest that never returns holds no lock that another one needs."""
    spinning = threading.Event()

    def spin() -> None:
        with instance(hostile, seconds=600) as guest:
            spinning.set()
            with pytest.raises(GatewayError):
                guest.function("spin")()

    thread = threading.Thread(target=spin)
    thread.start()
    spinning.wait()
    for _ in range(100):
        with instance(hostile) as guest:
            assert guest.function("get")() == 0
    assert thread.is_alive()  # 100 requests were served meanwhile
    for _ in range(2 * ticks(600)):
        capi.engine_increment_epoch(hostile.engine.address)
    thread.join(60)
    assert not thread.is_alive()


def test_an_instance_that_is_closed_waits_for_no_garbage_collection(hostile: Program) -> None:
    gc.collect()
    gc.disable()
    try:
        left = []
        for _ in range(3):  # once may be what another test's thread has let go
            for _ in range(10):
                with instance(hostile) as guest:
                    guest.function("get")()
            del guest
            left.append(gc.collect())
        assert 0 in left
    finally:
        gc.enable()


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
def test_ten_thousand_instances_leave_nothing_behind(hostile: Program) -> None:
    def resident_kib() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def work(times: int) -> None:
        for number in range(times):
            with instance(hostile) as guest:
                if number % 10:
                    guest.function("set")()
                else:
                    with pytest.raises(Trap):
                        guest.function("oob")()

    work(2000)
    gc.collect()
    before, descriptors = resident_kib(), len(os.listdir("/proc/self/fd"))
    work(10_000)
    gc.collect()
    assert resident_kib() - before < 4 << 10
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert not hostile.engine.ticker.running
