# Components with asynchronous functions: how their calls become tasks (component/concurrency.py).
#
# Rule 1: here meet the plan, the engine's functions and the tasks; what tasks are is the
# Component Model's.
# Rule 2: a host function may be a coroutine function. A guest that calls it synchronously
# waits; one that calls it asynchronously has a subtask. A guest begins thousands of these
# without waiting, so that what they were given counts as kept for it.

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import CoroutineType
from typing import Any

from ..component.canon import lift_export, lift_export_async
from ..component.concurrency import Callee, LiftOptions, Link, Loop, Subtask, Task
from ..component.plan import CoreItem, Lifted, Options, Plan
from ..component.types import FuncType, U32Type
from ..host.limits import Share, kept, weight
from ..instance import Instance
from ..linked import LinkedProgram


class ConcurrentFunction:
    """A function that a guest with tasks exports: called with an instance and Python values."""

    def __init__(self, callee: Callee) -> None:
        self.callee = callee
        self.type = callee.type

    def begin(
        self, instance: Instance, arguments: Sequence[Any], on_resolve: Callable[[tuple[Any] | None], object]
    ) -> Task:
        """A call under way; `on_resolve` gets a tuple of the result, None when it was cancelled."""
        loop: Loop = instance.loop
        return loop.call(self.callee, lambda: arguments, on_resolve, self.callee.around)

    def __call__(self, instance: Instance, *arguments: Any) -> Any:
        """The result of the call. What the guest does after it has returned waits for the next call."""
        results: list[Any] = []
        task = self.begin(instance, arguments, results.append)
        instance.loop.run_until(lambda: task.resolved)
        return results[0][0]


def lift_options(options: Options, plan: Plan) -> LiftOptions:
    memory = plan.slots[options.slot].memory if options.slot < len(plan.slots) else None
    return options.encoding, memory


def callee_of(name: str, lifted: Lifted, plan: Plan, program: LinkedProgram) -> Callee:
    """How the lifted function is called as a task."""
    options, part = lifted.options, lifted.part
    core = program.core(lifted.core)
    make = lift_export_async if options.async_ else lift_export
    lift = make(name, lifted.type, options.slot, options.encoding, part)
    around = plan.entering(part, None)
    if options.async_:

        def begin(inst: Any, scope: Any, arguments: Sequence[Any]) -> Any:
            return lift(inst, inst.core(core), scope, *arguments)

        assert options.callback is not None
        callback = program.core(options.callback)
        kept = lift_options(options, plan)
        return Callee(name, lifted.type, part, begin, lambda inst: inst.core(callback), around, kept)
    post_return = None if options.post_return is None else program.core(options.post_return)

    def call(inst: Any, scope: Any, arguments: Sequence[Any]) -> Any:
        post = None if post_return is None else inst.core(post_return)
        return lift(inst, inst.core(core), post, *arguments)

    return Callee(name, lifted.type, part, call, None, around)


def destructor_of(part: int, definition: CoreItem, plan: Plan, program: LinkedProgram) -> Callable[..., None]:
    """The destructor of a guest's resource, whose component instance is entered by who drops it."""
    core = program.core(definition)

    def call(inst: Any, scope: Any, arguments: Sequence[Any]) -> Any:
        return inst.core(core)(*arguments)

    type_ = FuncType((("rep", U32Type()),))
    callee = Callee("a destructor", type_, part, call, None, plan.entering(part, None))

    def destructor(inst: Any, rep: int) -> None:
        inst.loop.call(callee, lambda: (rep,), lambda result: None, (), Link.SYNC)

    return destructor


# Calls of the host


def waiting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A host function for a guest that calls it synchronously: its coroutine is waited for."""

    def call(inst: Any, *arguments: Any) -> Any:
        result = function(inst, *arguments)
        return inst.loop.result_of(result) if type(result) is CoroutineType else result

    return call


def host_subtask(function: Callable[..., Any], part: int) -> Callable[..., int]:
    """A host function for a guest that calls it asynchronously (canon.lower_import_async, `begin`)."""

    def begin(inst: Any, start: Callable[..., Any], resolve: Callable[[Any], None]) -> int:
        subtask = Subtask()
        arguments = start(subtask.lenders)
        subtask.state = Subtask.State.STARTED
        value = function(inst, *arguments)
        if type(value) is CoroutineType:
            progress = _Progress(subtask)
            shares: list[Share] = []  # of what it was given, while it is under way

            def done(result: Any) -> None:
                shares.clear()
                resolve(result)
                subtask.resolve(Subtask.State.RETURNED)
                progress()

            hosted = inst.loop.spawn(value, done)
            if not hosted.over:
                shares.append(kept(inst, weight(arguments)))

                def cancel() -> None:
                    hosted.close()
                    shares.clear()
                    subtask.resolve(Subtask.State.CANCELLED_BEFORE_RETURNED)
                    progress()

                subtask.on_cancel = cancel
                return progress.index_in(inst.parts[part] if part else inst)
        else:
            resolve(value)
            subtask.resolve(Subtask.State.RETURNED)
        subtask.deliver_resolve()
        return int(subtask.state)

    return begin


class _Progress:
    """Tells the guest that a subtask has come further, once it is in its table."""

    def __init__(self, subtask: Subtask) -> None:
        self._subtask = subtask
        self._index = 0

    def index_in(self, state: Any) -> int:
        """The state and the index of the subtask, as the guest gets them."""
        index: int = state.handles.add(self._subtask)
        self._index = index
        return int(self._subtask.state) | index << 4

    def __call__(self) -> None:
        if self._index:
            self._subtask.set_pending_event(self._event)

    def _event(self) -> tuple[int, int, int]:
        subtask = self._subtask
        if subtask.resolved():
            subtask.deliver_resolve()
        return 1, self._index, int(subtask.state)


# Calls of one component instance by another one


def guest_call(callee: Callable[[], Callee], enters: Sequence[int]) -> Callable[..., Any]:
    """A guest's function for another one that calls it synchronously."""

    def call(inst: Any, *arguments: Any) -> Any:
        results: list[Any] = []
        task = inst.loop.call(callee(), lambda: arguments, results.append, enters, Link.SYNC)
        if not task.resolved:
            inst.loop.block(lambda: task.resolved)
        return results[0][0]

    return call


def guest_subtask(callee: Callable[[], Callee], part: int, enters: Sequence[int]) -> Callable[..., int]:
    """The same for one that calls it asynchronously."""

    def begin(inst: Any, start: Callable[..., Any], resolve: Callable[[Any], None]) -> int:
        subtask = Subtask()
        progress = _Progress(subtask)

        def on_start() -> Any:
            subtask.state = Subtask.State.STARTED
            progress()
            return start(subtask.lenders)

        def on_resolve(result: tuple[Any] | None) -> None:
            if result is not None:
                resolve(result[0])
                subtask.resolve(Subtask.State.RETURNED)
            elif subtask.state is Subtask.State.STARTING:
                subtask.resolve(Subtask.State.CANCELLED_BEFORE_STARTED)
            else:
                subtask.resolve(Subtask.State.CANCELLED_BEFORE_RETURNED)
            progress()

        task = inst.loop.call(callee(), on_start, on_resolve, enters, Link.ASYNC)
        if subtask.resolved():
            subtask.deliver_resolve()
            return int(subtask.state)
        subtask.on_cancel = partial(task.request_cancellation, enters)
        return progress.index_in(inst.parts[part] if part else inst)

    return begin
