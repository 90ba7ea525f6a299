"""Tasks, subtasks and waitable sets, in guests made from text, and the loop that drives them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tasks_wat import Host, Part, running, said
from wasm_gateway.component import concurrency
from wasm_gateway.component.concurrency import (
    MAX_WAITING,
    Condition,
    Loop,
    Subtask,
    Waitable,
    WaitableSet,
    wait,
)
from wasm_gateway.component.handles import HandleTable
from wasm_gateway.errors import DeadlineExceeded, Trap
from wasm_gateway.host.base import Deadline

EXIT, YIELD = "(i32.const 0)", "(i32.const 1)"
RUN = '(func (export "run") (param $x i32) (result i32)'
ASYNC = {"run": ("u", "u", True)}
U = ("u", "u", True)


def wait_on(wset: str) -> str:
    """The code by which a task says that it waits."""
    return f"(i32.or (i32.const 2) (i32.shl {wset} (i32.const 4)))"


def callback(name: str, code: str = "unreachable") -> str:
    return (
        f'(func (export "callback-{name}") (param $event i32) (param $index i32) (param $payload i32) '
        f"(result i32) {code})"
    )


def asynchronous(name: str, code: str, back: str = "unreachable") -> str:
    return f'(func (export "{name}") (param $x i32) (result i32) {code}) {callback(name, back)}'


def caller(code: str, **imports: Any) -> Part:
    """Its run is lifted synchronously, so it may block in the middle; $i is a local."""
    return Part(f"{RUN} (local $i i32) (local $j i32) (local $set i32) {code})", ASYNC, imports)


def callee(code: str, back: str = "unreachable", more: str = "") -> Part:
    return Part(more + asynchronous("work", code, back), {"work": U})


# Tasks.


def test_a_synchronous_lift() -> None:
    assert said(caller("(call $say (i32.const 5)) (i32.add (local.get $x) (i32.const 1))"), n=41) == [5, 42]


def test_a_task_returns_and_goes_on() -> None:
    work = callee(
        f"(call $return (i32.const 7)) {YIELD}",
        f"(call $say (local.get $event)) (call $say (i32.const 8)) {EXIT}",
    )
    run = caller(
        """(call $say (call $work (i32.const 0)))
           (drop (call $yield))
           (i32.const 9)""",
        work=U,
    )
    assert said(work, run) == [7, 0, 8, 9]


def test_what_a_task_does_after_it_has_returned_waits_for_the_next_call() -> None:
    part = Part(
        asynchronous("run", f"(call $return (local.get $x)) {YIELD}", f"(call $say (i32.const 8)) {EXIT}")
    )
    with running(part) as guest:
        assert guest.run(1) == 1
        assert guest.host.said == []
        assert not guest.instance.loop.idle
        assert guest.run(2) == 2
        guest.instance.loop.run_until(lambda: guest.instance.loop.idle)
        assert guest.host.said == [8, 8]


@pytest.mark.parametrize(
    ("code", "back", "message"),
    [
        (EXIT, "unreachable", "ends without having returned"),
        (YIELD, EXIT, "ends without having returned"),
        (f"(call $return (i32.const 1)) (call $return (i32.const 1)) {EXIT}", "unreachable", "has returned"),
        (f"(call $cancel) {EXIT}", "unreachable", "whose cancellation was not requested"),
        (f"(call $return (i32.const 1)) (call $cancel) {EXIT}", "unreachable", "or that has returned"),
        (f"(call $return-s (i32.const 1)) {EXIT}", "unreachable", "handle index 1"),
        ("(call $return-s (call $low (call $s.new))) (i32.const 0)", "unreachable", "of another type"),
        ("(i32.const 3)", "unreachable", "unsupported callback code 3"),
        ("(i32.const 15)", "unreachable", "unsupported callback code 15"),
        (wait_on("(i32.const 77)"), "unreachable", "unknown handle index 77"),
        (wait_on("(call $low (call $s.new))"), "unreachable", "is not a WaitableSet"),
    ],
)
def test_what_a_task_may_not_do(code: str, back: str, message: str) -> None:
    low = "(func $low (param i64) (result i32) (i32.wrap_i64 (local.get 0)))"
    with pytest.raises(Trap, match=message):
        said(Part(low + asynchronous("run", code, back)))


@pytest.mark.parametrize(
    ("code", "message"),
    [("(call $return (i32.const 1))", "task.return in a task"), ("(call $cancel)", "task.cancel in a task")],
)
def test_a_synchronous_lift_has_no_task_return(code: str, message: str) -> None:
    with pytest.raises(Trap, match=message):
        said(caller(f"{code} (i32.const 0)"))


def test_what_a_function_that_is_not_async_calls_cannot_block_either() -> None:
    work = Part(
        """(func (export "work") (param i32) (result i32) (drop (call $gate (i32.const 1))) (i32.const 0))""",
        {"work": U},
    )
    part = Part(f"{RUN} (call $work (i32.const 0)))", {"run": ("u", "u", False)}, {"work": U})
    with pytest.raises(Trap, match="cannot block a synchronous task before returning"):
        said(work, part)


def test_what_blocks_below_a_caller_that_goes_on_needs_a_second_stack() -> None:
    inner = Part(
        """(func (export "inner") (param i32) (result i32)
          (drop (call $gate (i32.const 1))) (i32.const 0))""",
        {"inner": U},
    )
    work = Part(
        """(func (export "work") (param i32) (result i32) (call $inner (i32.const 0)))""",
        {"work": U},
        {"inner": U},
    )
    run = caller("(call $work-async (i32.const 0) (i32.const 32))", work=U)
    with pytest.raises(Trap, match="blocks while its caller goes on, which needs a second stack"):
        said(inner, work, run)


@pytest.mark.parametrize(
    "code",
    [
        "(drop (call $gate (i32.const 1)))",
        "(drop (call $set-wait (call $set-new) (i32.const 16)))",
        "(drop (call $s.read-sync (i32.wrap_i64 (call $s.new)) (i32.const 0) (i32.const 1)))",
    ],
)
def test_a_function_that_is_not_async_cannot_block(code: str) -> None:
    part = Part(f"{RUN} {code} (i32.const 0))", {"run": ("u", "u", False)})
    with pytest.raises(Trap, match="cannot block a synchronous task before returning"):
        said(part)


def test_each_task_has_its_own_storage() -> None:
    work = callee(
        f"(call $say (call $get)) (call $set (local.get $x)) {YIELD}",
        f"(call $say (call $get)) (call $return (call $get)) {EXIT}",
    )
    run = caller(
        """(call $set (i32.const 1))
           (local.set $i (call $index (call $work-async (i32.const 10) (i32.const 32))))
           (local.set $j (call $index (call $work-async (i32.const 20) (i32.const 36))))
           (drop (call $await (local.get $j))) (drop (call $await (local.get $i)))
           (call $say (i32.load (i32.const 32))) (call $say (i32.load (i32.const 36)))
           (call $get)""",
        work=U,
    )
    assert said(work, run) == [0, 0, 10, 20, 10, 20, 1]


# Backpressure and turns.


def test_backpressure_holds_calls_back_in_order() -> None:
    work = Part(
        f"""(func (export "hold") (param i32) (result i32) (call $inc) (i32.const 0))
            (func (export "free") (param i32) (result i32) (call $dec) (i32.const 0))
            {asynchronous("work", f"(call $say (local.get $x)) (call $return (i32.const 0)) {EXIT}")}""",
        {"hold": ("u", "u", False), "free": ("u", "u", False), "work": U},
    )
    run = caller(
        """(drop (call $hold (i32.const 0)))
           (call $say (call $state (call $work-async (i32.const 1) (i32.const 32))))
           (local.set $i (call $work-async (i32.const 2) (i32.const 32)))
           (local.set $j (call $work-async (i32.const 3) (i32.const 32)))
           (call $say (call $state (local.get $j)))
           (drop (call $free (i32.const 0)))
           ;; those that wait go first
           (call $say (i32.add (i32.const 40) (call $state (call $work-async (i32.const 4) (i32.const 32)))))
           (call $say (call $await (call $index (local.get $j))))
           (drop (call $yield))
           (i32.const 99)""",
        work=U,
        hold=("u", "u", False),
        free=("u", "u", False),
    )
    # the fourth call finds nobody in front of it any more only after a turn of the others
    assert said(work, run) == [0, 0, 40, 1, 2, 3, Subtask.State.RETURNED, 4, 99]


@pytest.mark.parametrize(
    "code",
    [
        "(call $dec)",
        "(loop $on (call $inc) (br $on))",
        "(call $inc) (call $dec) (call $dec)",
    ],
)
def test_the_count_of_backpressure_has_bounds(code: str) -> None:
    with pytest.raises(Trap, match="backpressure counter overflow or underflow"):
        said(caller(f"{code} (i32.const 0)"))


def test_a_second_task_starts_while_the_first_waits_and_not_before() -> None:
    """A task that runs has its component instance for itself, until it says that it waits."""
    work = callee(
        f"(call $say (local.get $x)) (call $say (i32.add (local.get $x) (i32.const 1))) {YIELD}",
        f"(call $say (i32.const 7)) (call $return (i32.const 0)) {EXIT}",
    )
    run = caller(
        """(local.set $i (call $index (call $work-async (i32.const 10) (i32.const 32))))
           (local.set $j (call $index (call $work-async (i32.const 20) (i32.const 32))))
           (drop (call $await (local.get $j)))
           (i32.const 0)""",
        work=U,
    )
    assert said(work, run) == [10, 11, 20, 21, 7, 7, 0]


def test_a_task_that_blocks_keeps_others_out() -> None:
    """It blocks in the middle of its code, so its component instance is not entered before it is over."""
    work = Part(
        f"""(func (export "block") (param i32) (result i32) (call $say (i32.const 1))
              (drop (call $gate (i32.const 5))) (call $say (i32.const 2)) (i32.const 0))
            {asynchronous("work", f"(call $say (i32.const 3)) (call $return (i32.const 0)) {EXIT}")}""",
        {"block": U, "work": U},
    )
    one = Part(
        asynchronous("one", YIELD, f"(call $return (call $block (i32.const 0))) {EXIT}"),
        {"one": U},
        {"block": U},
    )
    two = Part(
        asynchronous(
            "two",
            YIELD,
            f"""(call $say (call $state (call $work-async (i32.const 0) (i32.const 32))))
                (call $opened (i32.const 5)) (call $return (i32.const 0)) {EXIT}""",
        ),
        {"two": U},
        {"work": U},
    )
    with running(work, one, two) as guest:
        loop = guest.instance.loop
        for name in ("one", "two"):
            guest.functions["", name].begin(guest.instance, (0,), lambda result: None)
        loop.run_until(lambda: loop.idle)
        assert guest.host.said == [1, Subtask.State.STARTING, 2, 3]


def test_a_callback_that_blocks_keeps_others_out() -> None:
    part = Part(
        asynchronous(
            "run",
            YIELD,
            f"""(call $say (i32.const 1)) (drop (call $sleep (i32.const 5))) (call $say (i32.const 2))
                (call $return (i32.const 0)) {EXIT}""",
        )
    )
    with running(part) as guest:
        loop = guest.instance.loop
        for _ in range(2):
            guest.functions["", "run"].begin(guest.instance, (0,), lambda result: None)
        loop.run_until(lambda: loop.idle)
        assert guest.host.said == [1, 2, 1, 2]


def test_yield_lets_another_task_go_on() -> None:
    work = callee(YIELD, f"(call $say (i32.const 1)) (call $return (i32.const 0)) {EXIT}")
    run = caller(
        """(local.set $i (call $index (call $work-async (i32.const 0) (i32.const 32))))
           (call $say (i32.const 0)) (call $say (call $yield)) (call $say (i32.const 2))
           (i32.const 3)""",
        work=U,
    )
    assert said(work, run) == [0, 1, 0, 2, 3]


def test_yields_do_not_pile_up() -> None:
    """Each of many tasks yields in the middle of its code: the next one would run on top of it."""
    part = Part(
        asynchronous("run", YIELD, "(drop (call $yield)) (call $return (local.get $event)) (i32.const 0)")
    )
    with running(part) as guest:
        results: list[Any] = []
        for _ in range(500):
            guest.functions["", "run"].begin(guest.instance, (0,), results.append)
        guest.instance.loop.run_until(lambda: len(results) == 500)
        assert results == [(0,)] * 500


def test_tasks_block_on_top_of_each_other() -> None:
    """One of each component instance."""
    names = [f"work{i}" for i in range(12)]
    parts = [
        Part(
            asynchronous(
                name,
                YIELD,
                f"""(call $say (i32.const {i})) (drop (call $gate (i32.const 1))) (call $say (i32.const {i}))
                    (call $return (i32.const 0)) {EXIT}""",
            ),
            {name: U},
        )
        for i, name in enumerate(names)
    ]
    with running(*parts) as guest:
        loop = guest.instance.loop
        for name in names:
            guest.functions["", name].begin(guest.instance, (0,), lambda result: None)
        with pytest.raises(Trap, match="deadlock detected"):
            loop.run_until(lambda: loop.idle)
        assert guest.host.said == list(range(12))
    with running(*parts) as guest:
        loop = guest.instance.loop
        for name in names:
            guest.functions["", name].begin(guest.instance, (0,), lambda result: None)
        guest.host.opened.add(1)
        loop.run_until(lambda: loop.idle)
        assert guest.host.said == [i for i in range(12) for _ in range(2)]


# Subtasks.


def test_a_call_that_returns_at_once_makes_no_subtask() -> None:
    work = callee(f"(call $return (i32.const 7)) {EXIT}")
    run = caller(
        "(call $say (call $work-async (i32.const 0) (i32.const 32))) (i32.load (i32.const 32))", work=U
    )
    assert said(work, run) == [Subtask.State.RETURNED, 7]


GATED = callee(
    f"""(call $set (call $only (call $index (call $gate-async (local.get $x) (i32.const 48)))))
        {wait_on("(call $get)")}""",
    f"""(call $say (local.get $event))
        (if (i32.eq (local.get $event) (i32.const 6)) (then (call $cancel) (return {EXIT})))
        (call $return (i32.load (i32.const 48))) {EXIT}""",
)
BEGIN = "(local.set $i (call $work-async (i32.const 3) (i32.const 32)))"


def test_a_subtask_tells_when_it_is_done() -> None:
    run = caller(
        f"""{BEGIN} (call $say (call $state (local.get $i)))
            (call $opened (i32.const 3))
            (call $say (call $await (call $index (local.get $i))))
            (call $sub-drop (call $index (local.get $i)))
            (i32.load (i32.const 32))""",
        work=U,
    )
    assert said(GATED, run) == [Subtask.State.STARTED, 1, Subtask.State.RETURNED, 103]


@pytest.mark.parametrize("suffix", ["", "-async"])
def test_cancel_while_the_callee_waits(suffix: str) -> None:
    run = caller(f"{BEGIN} (call $sub-cancel{suffix} (call $index (local.get $i)))", work=U)
    host = Host()
    assert said(GATED, run, host=host) == [6, Subtask.State.CANCELLED_BEFORE_RETURNED]
    assert host.ended == [3], "when the instance is closed"


def test_a_callee_may_return_though_it_is_cancelled() -> None:
    work = callee(YIELD, f"(call $say (local.get $event)) (call $return (i32.const 66)) {EXIT}")
    run = caller(
        f"{BEGIN} (call $say (call $sub-cancel (call $index (local.get $i)))) (i32.load (i32.const 32))",
        work=U,
    )
    assert said(work, run) == [6, Subtask.State.RETURNED, 66]


def test_a_callee_may_take_its_time_to_be_cancelled() -> None:
    work = callee(
        YIELD,
        f"""(call $say (local.get $event))
            (if (i32.eq (local.get $event) (i32.const 6)) (then (return {YIELD})))
            (call $cancel) {EXIT}""",
    )
    run = caller(
        f"""{BEGIN} (local.set $i (call $index (local.get $i)))
            (call $say (call $sub-cancel-async (local.get $i)))
            (call $await (local.get $i))""",
        work=U,
    )
    blocked = 0xFFFFFFFF
    assert said(work, run) == [6, blocked, 0, Subtask.State.CANCELLED_BEFORE_RETURNED]


# Calls work, goes on when it is its turn to cancel that, and then waits for its end.
CANCELS = Part(
    f"""(global $i (mut i32) (i32.const 0))
        {
        asynchronous(
            "run",
            f"(global.set $i (call $index (call $work-async (i32.const 3) (i32.const 32)))) {YIELD}",
            f'''(if (local.get $event) (then
                  (call $say (local.get $payload)) (call $return (i32.const 0)) (return {EXIT})))
                (call $say (call $sub-cancel-async (global.get $i)))
                (call $opened (i32.const 3)) (call $opened (i32.const 5))
                {wait_on("(call $only (global.get $i))")}''',
        )
    }""",
    ASYNC,
    {"work": U},
)


def cancelled(*parts: Part) -> list[int]:
    """What is said while CANCELS runs, beside "two" where there is one."""
    with running(*parts) as guest:
        loop = guest.instance.loop
        for name in ("run", "two"):
            if ("", name) in guest.functions:
                guest.functions["", name].begin(guest.instance, (0,), lambda result: None)
        loop.run_until(lambda: loop.idle)
        return guest.host.said


def test_a_cancellation_waits_while_another_task_has_the_component_instance() -> None:
    """It is told to the task that it is for when that waits again, after what it waited for before."""
    hold = """(func (export "hold") (param i32) (result i32)
      (drop (call $gate (i32.const 5))) (i32.const 0))"""
    work = Part(
        callee(
            f"""(call $set (call $only (call $index (call $gate-async (local.get $x) (i32.const 48)))))
                {wait_on("(call $get)")}""",
            f"""(call $say (local.get $event))
                (if (i32.eq (local.get $event) (i32.const 6)) (then (call $cancel) (return {EXIT})))
                {YIELD}""",
        ).core
        + hold,
        {"work": U, "hold": U},
    )
    two = Part(
        asynchronous("two", f"(call $return (call $hold (i32.const 0))) {EXIT}"), {"two": U}, {"hold": U}
    )
    blocked, before_returned = 0xFFFFFFFF, Subtask.State.CANCELLED_BEFORE_RETURNED
    assert cancelled(work, two, CANCELS) == [blocked, 1, 6, before_returned]


def test_a_wait_in_the_middle_that_cannot_be_cancelled_goes_on() -> None:
    work = callee(
        YIELD,
        f"""(call $say (call $await (call $index (call $gate-async (i32.const 5) (i32.const 48)))))
            (call $return (i32.const 0)) {EXIT}""",
    )
    assert cancelled(work, CANCELS) == [0xFFFFFFFF, Subtask.State.RETURNED, Subtask.State.RETURNED]


def test_cancel_before_the_callee_starts() -> None:
    work = Part(
        '(func (export "hold") (param i32) (result i32) (call $inc) (i32.const 0))'
        + asynchronous("work", "unreachable"),
        {"hold": ("u", "u", False), "work": U},
    )
    run = caller(
        f"(drop (call $hold (i32.const 0))) {BEGIN} (call $sub-cancel (call $index (local.get $i)))",
        work=U,
        hold=("u", "u", False),
    )
    assert said(work, run) == [Subtask.State.CANCELLED_BEFORE_STARTED]


def test_cancel_of_a_call_of_the_host() -> None:
    run = caller(
        """(local.set $i (call $index (call $gate-async (i32.const 3) (i32.const 32))))
           (call $say (call $sub-cancel (local.get $i)))
           (call $sub-drop (local.get $i)) (i32.const 0)"""
    )
    host = Host()
    with running(run, host=host) as guest:
        guest.run()
        assert host.said == [Subtask.State.CANCELLED_BEFORE_RETURNED]
        assert host.ended == [3]
        assert guest.instance.loop.idle
    assert host.ended == [3], "once"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("(call $sub-drop (local.get $i))", "cannot drop a subtask which has not yet resolved"),
        (
            "(drop (call $sub-cancel (local.get $i))) (drop (call $sub-cancel (local.get $i)))",
            "resolved already",
        ),
        (
            "(call $join (local.get $i) (call $set-new)) (drop (call $sub-cancel (local.get $i)))",
            "in a waitable set",
        ),
        ("(drop (call $sub-cancel (call $set-new)))", "is not a Subtask"),
        ("(drop (call $sub-cancel (i32.const 0)))", "unknown handle index 0"),
        ("(call $sub-drop (i32.const -1))", "unknown handle index 4294967295"),
        (
            """(drop (call $sub-cancel (local.get $i)))
               (call $sub-drop (local.get $i)) (call $sub-drop (local.get $i))""",
            "unknown handle index",
        ),
        # it has resolved, but its caller does not know yet
        (
            "(call $opened (i32.const 3)) (drop (call $yield)) (call $sub-drop (local.get $i))",
            "cannot drop a subtask which has not yet resolved",
        ),
    ],
)
def test_what_may_not_be_done_to_a_subtask(code: str, message: str) -> None:
    run = caller(
        f"(local.set $i (call $index (call $gate-async (i32.const 3) (i32.const 32)))) {code} (i32.const 0)"
    )
    with pytest.raises(Trap, match=message):
        said(run)


def test_a_subtask_is_cancelled_once() -> None:
    work = callee(YIELD, YIELD)
    run = caller(
        f"""{BEGIN} (local.set $i (call $index (local.get $i)))
            (drop (call $sub-cancel-async (local.get $i)))
            (drop (call $sub-cancel-async (local.get $i))) (i32.const 0)""",
        work=U,
    )
    with pytest.raises(Trap, match="that is being cancelled"):
        said(work, run)


LEND = """(local.set $j (call $make (i32.const 0)))
  (local.set $i (call $index (call $lend-async (local.get $j) (i32.const 32))))"""


def test_a_handle_is_lent_until_the_subtask_is_known_to_be_done() -> None:
    run = caller(
        f"""{LEND} (call $opened (i32.const 1)) (drop (call $await (local.get $i)))
            (call $thing-drop (local.get $j)) (call $sub-drop (local.get $i)) (i32.const 0)"""
    )
    host = Host()
    said(run, host=host)
    assert [thing.closed for thing in host.things] == [1]


@pytest.mark.parametrize("before", ["", "(call $opened (i32.const 1)) (drop (call $yield))"])
def test_a_lent_handle_cannot_be_dropped(before: str) -> None:
    with pytest.raises(Trap, match="still lent"):
        said(caller(f"{LEND} {before} (call $thing-drop (local.get $j)) (i32.const 0)"))


def test_a_cancelled_subtask_gives_back_what_it_was_lent() -> None:
    run = caller(
        f"{LEND} (drop (call $sub-cancel (local.get $i))) (call $thing-drop (local.get $j)) (i32.const 0)"
    )
    assert said(run) == [0]


# Waitable sets.

TWO = """(local.set $set (call $set-new))
  (local.set $i (call $index (call $gate-async (i32.const 1) (i32.const 32))))
  (local.set $j (call $index (call $gate-async (i32.const 2) (i32.const 36))))
  (call $join (local.get $i) (local.get $set)) (call $join (local.get $j) (local.get $set))"""


def test_events_come_in_the_order_in_which_they_happened() -> None:
    run = caller(
        f"""{TWO} (call $say (call $set-poll (local.get $set) (i32.const 16)))
            (call $opened (i32.const 2)) (drop (call $yield))
            (call $opened (i32.const 1)) (drop (call $yield))
            (call $say (call $set-wait (local.get $set) (i32.const 16)))
            (call $say (i32.sub (i32.load (i32.const 16)) (local.get $j)))
            (call $say (call $set-poll (local.get $set) (i32.const 16)))
            (call $say (i32.sub (i32.load (i32.const 16)) (local.get $i)))
            (call $say (i32.load (i32.const 20)))
            (call $set-poll (local.get $set) (i32.const 16))"""
    )
    assert said(run) == [0, 1, 0, 1, 0, Subtask.State.RETURNED, 0]


class Made(Waitable):
    pass


def test_a_set_is_fair() -> None:
    """What always has an event does not keep another one from being heard."""
    wset, busy, other = WaitableSet(), Made(), Made()
    told: list[str] = []

    def event_of(name: str) -> Any:
        return lambda: (told.append(name), 0, 0)

    for waitable in (busy, other):
        waitable.join(wset)
    busy.set_pending_event(event_of("busy"))
    other.set_pending_event(event_of("other"))
    for _ in range(3):
        wset.get_pending_event()
        if told[-1] == "busy":
            busy.set_pending_event(event_of("busy"))
    assert told == ["busy", "other", "busy"]
    assert wset.has_pending_event()


def test_events_move_with_what_has_them() -> None:
    one, other, waitable = WaitableSet(), WaitableSet(), Made()
    waitable.set_pending_event(lambda: (1, 2, 3))
    waitable.join(one)
    assert one.has_pending_event()
    waitable.join(other)
    assert (one.has_pending_event(), other.has_pending_event()) == (False, True)
    waitable.set_pending_event(lambda: (4, 5, 6))
    assert other.get_pending_event() == (4, 5, 6), "the newer event takes the place of the older one"
    assert not other.has_pending_event()
    waitable.set_pending_event(lambda: (7, 8, 9))
    waitable.join(None)
    assert not other.has_pending_event()
    assert waitable.get_pending_event() == (7, 8, 9)
    one.drop()
    other.drop()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (f"{TWO} (call $set-drop (local.get $set))", "that has waitables in it"),
        ("(call $set-drop (i32.const 9))", "unknown handle index 9"),
        ("(drop (call $set-wait (call $make (i32.const 0)) (i32.const 16)))", "is not a WaitableSet"),
        ("(drop (call $set-poll (call $set-new) (i32.const 18)))", "not aligned to 4"),
        ("(drop (call $set-poll (call $set-new) (i32.const 0x20000)))", "out of bounds"),
        ("(drop (call $set-poll (call $set-new) (i32.const -4)))", "out of bounds"),
        ("(call $join (call $set-new) (i32.const 0))", "is not a Waitable"),
        ("(call $join (i32.wrap_i64 (call $s.new)) (i32.wrap_i64 (call $s.new)))", "is not a WaitableSet"),
        ("(drop (call $set-wait (call $set-new) (i32.const 16)))", "deadlock detected"),
    ],
)
def test_what_may_not_be_done_to_a_set(code: str, message: str) -> None:
    with pytest.raises(Trap, match=message):
        said(caller(f"{code} (i32.const 0)"))


def test_a_set_that_a_task_waits_for_cannot_be_dropped() -> None:
    part = Part(
        f"""(global $set (mut i32) (i32.const 0))
            {asynchronous("run", f"(global.set $set (call $set-new)) {wait_on('(global.get $set)')}")}
            (func (export "drop") (param i32) (result i32)
              (call $set-drop (global.get $set)) (i32.const 0))""",
        {"run": U, "drop": ("u", "u", False)},
    )
    with running(part) as guest:
        guest.functions["", "run"].begin(guest.instance, (0,), lambda result: None)
        with pytest.raises(Trap, match="that somebody waits for"):
            guest.call("drop", 0)


def test_what_a_task_blocks_for_cannot_join_a_set() -> None:
    """One task blocks in a synchronous read, another one puts that end into a set."""
    part = Part(
        f"""(global $end (mut i32) (i32.const 0))
            {
            asynchronous(
                "run",
                YIELD,
                '''
              (call $join (global.get $end) (call $set-new)) (call $return (i32.const 0)) (i32.const 0)''',
            )
        }
            (func (export "block") (param i32) (result i32)
              (global.set $end (i32.wrap_i64 (call $s.new)))
              (call $s.read-sync (global.get $end) (i32.const 64) (i32.const 1)))""",
        {"run": U, "block": U},
    )
    with running(part) as guest:
        guest.functions["", "run"].begin(guest.instance, (0,), lambda result: None)
        # `block` has the component instance for itself: the other task cannot get in, and nothing goes on
        with pytest.raises(Trap, match="deadlock detected"):
            guest.call("block", 0)


def test_a_wait_inside_of_a_wait() -> None:
    """A task waits in the middle of its code; what it calls meanwhile waits in the same way."""
    work = callee(YIELD, f"(call $say (call $gate (local.get $payload))) (call $return (i32.const 5)) {EXIT}")
    run = caller(
        """(local.set $i (call $index (call $work-async (i32.const 0) (i32.const 32))))
           (call $opened (i32.const 0))
           (call $say (call $gate (i32.const 0)))
           (drop (call $await (local.get $i)))
           (i32.load (i32.const 32))""",
        work=U,
    )
    assert sorted(said(work, run)) == [5, 100, 100]


# The loop.


def test_a_deadlock_is_seen() -> None:
    with pytest.raises(Trap, match="deadlock detected"):
        said(caller("(call $gate (i32.const 1))"))


def test_a_deadlock_of_tasks_is_seen() -> None:
    with pytest.raises(Trap, match="deadlock detected"):
        said(GATED, caller("(call $work (i32.const 1))", work=U))


class Late(Host):
    async def sleep(self, guest: Any, ms: int) -> int:
        guest.deadline = Deadline(0.05)
        return await super().sleep(guest, ms)


def test_a_wait_ends_with_the_deadline() -> None:
    host = Late()
    with pytest.raises(DeadlineExceeded):
        said(caller("(call $sleep (i32.const 60_000))"), host=host)
    assert host.ended == [60_000]


class Busy(Host):
    async def gate(self, guest: Any, n: int) -> int:
        """Always ready for more."""
        turns: Iterator[bool] = iter(lambda: True, None)
        while next(turns):
            asked = iter((False, True, True))
            await wait(Condition(lambda asked=asked: next(asked)))  # type: ignore[misc]
        return 0


def test_a_coroutine_that_is_always_ready_ends_with_the_deadline() -> None:
    with pytest.raises(DeadlineExceeded):
        said(caller("(call $gate (i32.const 1))"), host=Busy(), seconds=0.05)


MANY = """(loop $on
    (drop (call $gate-async (i32.const 1) (i32.const 32)))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $on (i32.lt_u (local.get $i) (local.get $x))))
  (i32.const 0)"""


def test_so_many_may_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_WAITING == 10_000
    monkeypatch.setattr(concurrency, "MAX_WAITING", 50)
    host = Host()
    said(caller(MANY), n=50, host=host)
    assert len(host.ended) == 50
    host = Host()
    with pytest.raises(Trap, match="more than 50 tasks wait"):
        said(caller(MANY), n=51, host=host)
    assert len(host.ended) == 50
    run = caller(MANY.replace("gate", "work"), work=U)
    with running(callee(YIELD), run) as guest, pytest.raises(Trap, match="more than 50 tasks wait"):
        guest.run(51)


def test_what_is_under_way_is_broken_off_once() -> None:
    host = Host()
    with running(caller(MANY), host=host) as guest:
        guest.run(3)
        assert len(guest.instance.loop.hosted) == 3
    assert host.ended == [1, 1, 1]
    guest.instance.close()
    assert host.ended == [1, 1, 1]


class Failing(Host):
    async def gate(self, guest: Any, n: int) -> int:
        self.said.append(len(self.said))
        number = len(self.said)
        try:
            return await super().gate(guest, n)
        finally:
            if number == 2:
                raise RuntimeError("its end failed")


def test_an_error_at_the_end_keeps_no_other_from_its_end() -> None:
    host = Failing()
    with pytest.raises(RuntimeError, match="its end failed"), running(caller(MANY), host=host) as guest:
        guest.run(3)
    assert host.ended == [1, 1, 1]


class Owner:
    """What a loop asks of an instance, where nothing of a guest runs."""

    class deadline:
        remaining = staticmethod(lambda: 1.0)

    role = None
    parts = ()
    handles = HandleTable()


def test_a_coroutine_that_finds_no_place_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "MAX_WAITING", 1)
    loop = Loop(Owner())

    async def never() -> None:
        await wait(Condition(lambda: False))

    first, second = never(), never()
    loop.spawn(first)
    with pytest.raises(Trap, match="more than 1 tasks wait"):
        loop.spawn(second)
    assert second.cr_frame is None
    loop.close()
    assert first.cr_frame is None
    assert loop.idle


def test_closers_are_called_newest_first_and_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "MAX_WAITING", 3)
    loop = Loop(Owner())
    called: list[int] = []
    keys = [object() for _ in range(4)]
    for i in range(3):
        loop.on_close(keys[i], lambda i=i: called.append(i))  # type: ignore[misc]
    with pytest.raises(Trap, match="streams of the host are open"):
        loop.on_close(keys[3], lambda: called.append(3))
    loop.settled(keys[1])
    loop.close()
    loop.close()
    assert called == [2, 0]


def test_storage_is_that_of_the_task_but_for_allocators_and_start_functions() -> None:
    loop = Loop(Owner())
    loop.storage(0)[1] = 9
    assert (loop.storage(0), loop.storage(1)) == ([0, 9], [0, 0])
    task: Any = SimpleNamespace(storage=[7, 8])
    loop.stack.append(task)
    assert loop.storage(0) is task.storage
    loop.allocating = [0, 0]
    assert loop.storage(0) is loop.allocating
