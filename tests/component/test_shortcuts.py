"""The short ways of the built-ins against the whole ones, which are builtins.py's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wasm_gateway.component import shortcuts
from wasm_gateway.component.builtins import builtin
from wasm_gateway.component.canon import raw_import
from wasm_gateway.component.concurrency import Loop, WaitableSet
from wasm_gateway.component.plan import Builtin
from wasm_gateway.component.shortcuts import SHORT, builtin_import
from wasm_gateway.component.signatures import BUILTINS
from wasm_gateway.component.streams import CopyEnd, Drain, SharedFuture, SharedStream
from wasm_gateway.component.types import PRIMITIVES, FutureType, ResultType, StreamType
from wasm_gateway.errors import Trap

SIGNATURES = {**BUILTINS, "context.get": ("", "i"), "context.set": ("i", "")}
BYTES, NUMBERS, UNITS = StreamType(PRIMITIVES["u8"]), StreamType(PRIMITIVES["u32"]), StreamType(None)
VALUE, RESULT = FutureType(PRIMITIVES["u32"]), FutureType(ResultType(None, PRIMITIVES["u8"]))


def definitions() -> dict[str, Builtin]:
    found = {
        name: Builtin(name, 0, number=1)
        for name in (*SIGNATURES,)
        if name in ("context.get", "context.set") or name.startswith("waitable")
    }
    for kind, types in {"stream": (BYTES, NUMBERS, UNITS), "future": (VALUE, RESULT)}.items():
        for t in types:
            for verb in ("new", "read", "write", "drop-readable", "drop-writable", "cancel-read"):
                for flag in (False, True):
                    name = f"{kind}.{verb}"
                    found[f"{name} {t.t}{' async' * flag}"] = Builtin(name, 0, t, flag=flag)
    return found


DEFINITIONS = definitions()


class World:
    """An instance and what its guest did: results, and what the host took."""

    def __init__(self, new_instance: Any, short: bool) -> None:
        self.inst = inst = new_instance(64)
        inst.bytes[:] = bytes(64)
        inst.bytes[8:16] = bytes(range(8))
        inst.role = inst.loop = None
        inst.parts = [inst]
        inst.deadline = SimpleNamespace(remaining=lambda: 1.0)
        inst.loop = Loop(inst)
        callee = SimpleNamespace(part=0, type=SimpleNamespace(async_=False))
        task: Any = SimpleNamespace(callee=callee, storage=[0, 7], deliver_pending_cancel=lambda c: False)
        inst.loop.stack.append(task)
        self.task = task
        self.log: list[Any] = []
        self.make = builtin_import if short else self.whole

    @staticmethod
    def whole(definition: Builtin, params: str, results: str, current: Any) -> Any:
        return raw_import(definition.name, params, results, builtin(definition), current)

    def call(self, what: str, *values: int) -> Any:
        """A built-in, or what the host does with the readable end at an index."""
        inst = self.inst
        inst.current.instance = inst
        if what == "take":
            return self.take(values[0])
        if what == "leave":
            inst.may_leave = not inst.may_leave
            return None
        if what == "allocate":
            inst.loop.allocating = [3, 4] if inst.loop.allocating is None else None
            return None
        definition = DEFINITIONS[what]
        params, results = SIGNATURES[definition.name]
        callback = self.make(definition, params, results, inst.current)
        return inst.call(callback, (params, results), *values[: len(params)])

    def take(self, index: int) -> str:
        array = self.inst.handles.array
        end = array[index] if index < len(array) else None
        shared = getattr(end, "shared", None)
        if shared is None or getattr(end, "wset", None) is not None:
            return "nothing"
        if isinstance(shared, SharedStream) and shared.buffer is None:
            Drain(shared, lambda values: self.log.append(list(values)), lambda: self.log.append("over"))
        elif isinstance(shared, SharedFuture) and shared.buffer is None:
            shared.then(self.log.append)
        return "taken"

    def state(self) -> Any:
        array = self.inst.handles.array
        entries = []
        for entry in array:
            more: Any = None
            if isinstance(entry, CopyEnd):
                wset = None if entry.wset is None else array.index(entry.wset)
                shared = entry.shared
                more = entry.state, wset, entry.event is None, shared.dropped, type(shared.buffer)
            elif isinstance(entry, WaitableSet):
                more = [array.index(elem) for elem in entry.elems], entry.num_waiting
            entries.append((type(entry), more))
        return entries, self.inst.handles.free, self.task.storage, self.inst.loop.allocating, self.log


def outcome(world: World, step: tuple[Any, ...]) -> Any:
    try:
        return world.call(*step)
    except Trap as trap:
        return str(trap)


NEW_BYTES, WRITE_BYTES = "stream.new u8", "stream.write u8 async"
STEPS = st.tuples(
    st.sampled_from(["take", "take", "leave", "allocate", *DEFINITIONS, *DEFINITIONS]),
    st.integers(0, 6),
    st.sampled_from([0, 2, 8, 12, 60, 64]),
    st.sampled_from([0, 1, 2, 4]),
)
JOIN = st.tuples(st.just("waitable.join"), st.integers(0, 6), st.integers(0, 6))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS | JOIN, max_size=14))
@example([(NEW_BYTES,), ("take", 1), (WRITE_BYTES, 2, 8, 4), ("stream.drop-writable u8", 2)])
@example([(NEW_BYTES,), ("take", 1), (WRITE_BYTES, 2, 62, 4)])
@example([(NEW_BYTES,), ("take", 1), (WRITE_BYTES, 2, 8, 0)])
@example([(NEW_BYTES,), ("take", 1), ("stream.write u32 async", 2, 8, 1)])
@example([(NEW_BYTES,), ("take", 1), ("leave",), (WRITE_BYTES, 2, 8, 1)])
@example([("stream.new u32",), ("take", 1), ("stream.write u32", 2, 8, 2), ("stream.write u32", 2, 10, 1)])
@example([("future.new u32",), ("take", 1), ("future.write u32", 2, 8), ("future.drop-writable u32", 2)])
@example([("future.new u32",), ("take", 1), ("future.write u32", 2, 8), ("future.write u32", 2, 8)])
@example([("future.new u32",), ("future.drop-writable u32", 2)])
@example([("allocate",), ("context.get",), ("context.set", 8), ("allocate",), ("context.get",)])
@example([(NEW_BYTES,), (WRITE_BYTES, 2, 8, 4), ("stream.drop-writable u8", 2)])
@example(
    [
        (NEW_BYTES,),
        ("waitable-set.new",),
        ("waitable.join", 2, 3),
        ("take", 1),
        ("stream.write u8", 2, 8, 1),
    ]
)
@example([(NEW_BYTES,), ("waitable-set.new",), ("waitable.join", 2, 3), ("stream.drop-writable u8", 2)])
@example([("waitable-set.new",), (NEW_BYTES,), ("waitable.join", 2, 1), ("waitable-set.drop", 1)])
def test_the_short_way_ends_where_the_whole_one_does(new_instance: Any, steps: list[Any]) -> None:
    short, whole = World(new_instance, True), World(new_instance, False)
    for step in steps:
        step = (*step, 0, 0, 0)
        found, expected = outcome(short, step), outcome(whole, step)
        assert found == expected, step
        if isinstance(expected, str) and step[0] != "take":
            return  # the instance has trapped
        assert short.state() == whole.state(), step


def test_what_is_usual_is_done_in_line(new_instance: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(definition: Builtin) -> Any:
        def whole(*_: object) -> Any:
            raise AssertionError(definition.name)

        return whole

    monkeypatch.setattr(shortcuts, "builtin", unexpected)
    world, done = World(new_instance, True), set()
    for step, expected in (
        (("context.set", 5), None),
        (("context.get",), 5),
        (("waitable-set.new",), 1),
        ((NEW_BYTES,), 2 | 3 << 32),
        (("waitable.join", 3, 1), None),
        (("waitable.join", 3, 0), None),
        (("waitable-set.drop", 1), None),
        (("take", 2), "taken"),
        ((WRITE_BYTES, 3, 9, 3), 3 << 4),
        (("stream.drop-writable u8", 3), None),
        (("stream.drop-readable u8", 2), None),
        (("future.new u32",), 2 | 3 << 32),
        (("take", 2), "taken"),
        (("future.write u32", 3, 8), 0),
        (("future.drop-writable u32", 3), None),
        (("future.drop-readable u32", 2), None),
    ):
        assert world.call(*step, *[0] * (4 - len(step))) == expected, step
        done.add(step[0].partition(" ")[0])
    assert world.log == [[1, 2, 3], "over", 0x03020100]
    assert done >= set(SHORT)
