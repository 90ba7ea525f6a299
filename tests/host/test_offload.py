"""Calls that wait for somebody else: where they are made, in which order, and how they are broken off."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wasm_gateway.component.concurrency import wait
from wasm_gateway.component.values import End
from wasm_gateway.errors import DeadlineExceeded, LimitExceeded
from wasm_gateway.host import limits
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.network import Breakable, Network
from wasm_gateway.host.offload import MAX_OF_INSTANCE, Elements, Turns, Workers, share_of
from wasm_gateway.host.wasi.io import Timer

SOON = 60.0


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.close()


def thread(deadline: Deadline, *arguments: Any) -> tuple[int, tuple[Any, ...]]:
    assert deadline.remaining() > 0
    return threading.get_ident(), arguments


HERE = threading.get_ident


def test_who_is_alone_is_called_where_it_is(workers: Workers, context: Callable[..., Any]) -> None:
    ctx = context()
    told: list[str] = []
    ctx.before_wait = lambda: told.append("before")
    [(_, found)] = ctx.run(workers.run(ctx, thread, 1, "a"))
    assert found == (HERE(), (1, "a"))
    assert told == ["before"]
    assert workers._threads is None


def test_calls_beside_each_other_run_at_once(workers: Workers, context: Callable[..., Any]) -> None:
    ctx, together = context(), threading.Barrier(3)

    def meet(deadline: Deadline) -> int:
        together.wait(SOON)
        return HERE()

    found = ctx.run(*(workers.run(ctx, meet) for _ in range(3)))
    assert len({ident for _, ident in found} - {HERE()}) == 3


def test_a_call_holds_up_nobody_who_waits_for_something_outside(
    workers: Workers, context: Callable[..., Any]
) -> None:
    ctx, done = context(), threading.Event()

    async def timer() -> None:
        await wait(Timer(time.monotonic() + 0.01))
        done.set()

    def until_done(deadline: Deadline) -> bool:
        return done.wait(SOON)

    assert [i for i, _ in ctx.run(workers.run(ctx, until_done), timer())] == [1, 0]


def test_a_call_holds_up_no_task_that_can_go_on(workers: Workers, context: Callable[..., Any]) -> None:
    class Task:
        can = True

        def ready(self) -> bool:
            return self.can

    ctx, task = context(), Task()
    ctx.loop.waiting[task] = None
    assert ctx.loop.has_others()
    task.can = False
    assert not ctx.loop.has_others()
    ctx.loop.waiting.clear()


@pytest.mark.parametrize("beside", [False, True])
def test_errors_come_back(workers: Workers, context: Callable[..., Any], beside: bool) -> None:
    def fail(deadline: Deadline) -> None:
        raise KeyError("k")

    ctx = context()
    if beside:
        ctx.loop.spawn(ctx.patient())
    with pytest.raises(KeyError, match="k"):
        ctx.run(workers.run(ctx, fail))


def test_a_thing_is_used_by_one_call_at_a_time(workers: Workers, context: Callable[..., Any]) -> None:
    ctx, turns = context(), Turns()
    inside: list[int] = []
    order: list[int] = []

    def use(deadline: Deadline, number: int) -> None:
        inside.append(number)
        assert len(inside) == 1
        time.sleep(0.001)
        order.append(inside.pop())

    ctx.run(*(workers.run(ctx, use, i, turns=turns) for i in range(10)))
    assert order == list(range(10))
    assert turns.ready()


def test_the_order_stays_where_threads_are_few(workers: Workers, context: Callable[..., Any]) -> None:
    ctx, turns, order = context(), Turns(), list[int]()

    def short(deadline: Deadline) -> None:
        time.sleep(0.0005)

    others = [workers.run(ctx, short) for _ in range(2 * MAX_OF_INSTANCE)]
    ctx.run(*others, *(workers.run(ctx, lambda _, i: order.append(i), i, turns=turns) for i in range(30)))
    assert order == list(range(30))


def test_nobody_holds_a_turn_who_waits_for_a_thread(workers: Workers, context: Callable[..., Any]) -> None:
    """So that a call in the guest's own thread, meanwhile, does not wait in vain."""
    ctx, turns, go_on = context(), Turns(), threading.Event()
    used: list[int] = []

    def wait_for_it(deadline: Deadline) -> None:
        assert go_on.wait(SOON)

    for _ in range(MAX_OF_INSTANCE):
        ctx.loop.spawn(workers.run(ctx, wait_for_it))
    ctx.loop.spawn(ctx.patient())
    ctx.loop.spawn(workers.run(ctx, lambda deadline: used.append(1), turns=turns))
    while ctx.loop.step():
        pass
    turns.settle(ctx)
    assert used == []
    go_on.set()
    ctx.loop.run_until(lambda: bool(used))
    turns.settle(ctx)


def test_who_is_cancelled_leaves_the_queue(workers: Workers, context: Callable[..., Any]) -> None:
    ctx, turns, go_on = context(), Turns(), threading.Event()
    used: list[int] = []

    def use(deadline: Deadline, number: int) -> None:
        used.append(number)
        assert go_on.wait(SOON)

    ctx.loop.spawn(ctx.patient())
    calls = [ctx.loop.spawn(workers.run(ctx, use, i, turns=turns)) for i in range(3)]
    while ctx.loop.step():
        pass
    calls[1].close()
    go_on.set()
    ctx.loop.run_until(lambda: calls[2].over)
    assert used == [0, 2]


def test_a_thing_ends_with_its_last_call(workers: Workers, context: Callable[..., Any]) -> None:
    ctx, turns = context(), Turns()
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def use(deadline: Deadline) -> None:
        begun.set()
        assert go_on.wait(SOON)

    ctx.loop.spawn(ctx.patient())
    call = ctx.loop.spawn(workers.run(ctx, use, turns=turns))
    assert ctx.loop.step()
    assert begun.wait(SOON)
    turns.end(ended.set)
    call.close()
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(SOON)
    turns.end(ended.clear)
    assert not ended.is_set()


def test_a_call_in_the_thread_of_the_guest_waits_for_its_turn(
    workers: Workers, context: Callable[..., Any]
) -> None:
    """As a synchronous function of the same connection does."""
    ctx, turns = context(), Turns()
    over: list[int] = []

    def use(deadline: Deadline) -> None:
        time.sleep(0.01)
        over.append(1)

    ctx.loop.spawn(ctx.patient())
    ctx.loop.spawn(workers.run(ctx, use, turns=turns))
    assert ctx.loop.step()
    turns.settle(ctx)
    assert over == [1]


@pytest.mark.parametrize("before", [True, False])
def test_what_nobody_waits_for_is_undone(workers: Workers, context: Callable[..., Any], before: bool) -> None:
    """Whether the call was over before it was cancelled or not."""
    ctx, undone = context(), threading.Event()
    begun, go_on = threading.Event(), threading.Event()
    late: list[BaseException | None] = []

    def make(deadline: Deadline) -> str:
        begun.set()
        assert go_on.wait(SOON)
        try:
            deadline.remaining()
            late.append(None)
        except DeadlineExceeded as error:
            late.append(error)
        return "made"

    def undo(made: str) -> None:
        assert made == "made"
        undone.set()

    turns = Turns()
    ctx.loop.spawn(ctx.patient())
    call = ctx.loop.spawn(workers.run(ctx, make, turns=turns, undo=undo))
    assert ctx.loop.step()
    assert begun.wait(SOON)
    if before:
        go_on.set()
        turns.settle(ctx)
    call.close()
    go_on.set()
    assert undone.wait(SOON)
    assert (late[0] is None) is before


def test_the_end_of_an_instance_ends_its_calls(workers: Workers, context: Callable[..., Any]) -> None:
    """Also one that hears nothing from a peer."""
    ctx, begun, ended = context(seconds=1000), threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def listen(deadline: Deadline) -> None:
            sock = Network().connect("127.0.0.1", port, deadline)
            begun.set()
            try:
                sock.recv(1)
            finally:
                sock.close()
                ended.set()

        ctx.loop.spawn(ctx.patient())
        ctx.loop.spawn(workers.run(ctx, listen))
        assert ctx.loop.step()
        assert begun.wait(SOON)
        assert ctx.run_closers() == []
        assert ended.wait(SOON)


def test_a_deadline_that_was_cut_is_over() -> None:
    deadline = Breakable(Deadline(1000))
    assert 0 < deadline.remaining() <= 1000
    deadline.cut()
    with pytest.raises(DeadlineExceeded):
        deadline.remaining()


def test_threads_of_an_instance_are_limited(workers: Workers, context: Callable[..., Any]) -> None:
    """More calls wait until one is over; the last is not forgotten."""
    lock, now, most, together = threading.Lock(), [0], [0], threading.Barrier(2)

    def count(deadline: Deadline, number: int) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        if number < 2:
            together.wait(SOON)
        time.sleep(0.002)
        with lock:
            now[0] -= 1

    ctx = context()
    calls = [workers.run(ctx, count, number) for number in range(3 * MAX_OF_INSTANCE)]
    assert len(ctx.run(*calls)) == len(calls)
    assert 1 < most[0] <= MAX_OF_INSTANCE


def test_the_deadline_of_an_instance_ends_its_waiting(workers: Workers, context: Callable[..., Any]) -> None:
    def wait_for_the_end(deadline: Deadline) -> None:
        while True:
            time.sleep(0.001)
            deadline.remaining()

    ctx = context(seconds=0.02)
    ctx.loop.spawn(ctx.patient())
    with pytest.raises(DeadlineExceeded):
        ctx.run(workers.run(ctx, wait_for_the_end))


def test_a_fork_starts_threads_of_its_own(workers: Workers, context: Callable[..., Any]) -> None:
    ctx = context()
    ctx.run(workers.run(ctx, thread), workers.run(ctx, thread))
    before = workers._threads
    workers.after_fork()
    ctx.run(workers.run(ctx, thread), workers.run(ctx, thread))
    assert workers._threads is not before
    assert before is not None
    before.shutdown()


def test_no_thread_is_kept_after_the_end(workers: Workers, context: Callable[..., Any]) -> None:
    """A request may go on for a moment when its application is closed."""
    ctx = context()
    workers.close()
    found = ctx.run(*(workers.run(ctx, lambda deadline: threading.current_thread()) for _ in range(3)))
    threads = [thread for _, thread in found if thread is not threading.current_thread()]
    assert len(threads) >= 2  # the last may have nobody beside it by then
    for each in threads:
        each.join(SOON)
        assert not each.is_alive()


def test_elements_are_read_in_pieces() -> None:
    source = Elements([1, 2, 3])
    assert source.pollable().ready()
    assert source.read(None, 2) == [1, 2]
    assert source.read(None, 2) == [3]
    for empty in (source, Elements(())):
        with pytest.raises(End):
            empty.read(None, 2)
    dropped = Elements([1])
    dropped.close(None)
    with pytest.raises(End):
        dropped.read(None, 1)


def test_rows_that_nobody_reads_count_as_kept(
    context: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_KEPT_BYTES", 4 * limits.VALUE_OVERHEAD + 10)
    ctx, rows = context(), [[("text", "12345"), ("blob", b"12345"), ("array", [1]), ("null", None)]]
    with pytest.raises(LimitExceeded):
        share_of(ctx, rows)
    rows[0].pop()
    elements = Elements(rows, share_of(ctx, rows))
    with pytest.raises(LimitExceeded):
        share_of(ctx, [[("null", None)]])
    elements.close(ctx)
    share_of(ctx, rows)
