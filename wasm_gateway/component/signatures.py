# Core signatures of canonical definitions, and what they need of their options
# (CanonicalABI.md, Canonical Definitions; Binary.md, canonical definitions).
#
# Signatures are letters of core types, as in layout.CoreFuncType.

from __future__ import annotations

from .items import Facts
from .layout import CORE_LETTER, MAX_FLAT_PARAMS, CoreFuncType, flatten_type, flatten_types
from .types import FuncType, ValType

MAX_FLAT_ASYNC_PARAMS = 4

REALLOC = CoreFuncType("iiii", "i")
CALLBACK = CoreFuncType("iii", "i")
DESTRUCTOR = CoreFuncType("i", "")

# Built-ins whose signature depends on nothing.
BUILTINS = {
    "task.cancel": ("", ""),
    "subtask.cancel": ("i", "i"),
    "subtask.drop": ("i", ""),
    "backpressure.set": ("i", ""),
    "backpressure.inc": ("", ""),
    "backpressure.dec": ("", ""),
    "stream.new": ("", "l"),
    "stream.read": ("iii", "i"),
    "stream.write": ("iii", "i"),
    "stream.cancel-read": ("i", "i"),
    "stream.cancel-write": ("i", "i"),
    "stream.drop-readable": ("i", ""),
    "stream.drop-writable": ("i", ""),
    "future.new": ("", "l"),
    "future.read": ("ii", "i"),
    "future.write": ("ii", "i"),
    "future.cancel-read": ("i", "i"),
    "future.cancel-write": ("i", "i"),
    "future.drop-readable": ("i", ""),
    "future.drop-writable": ("i", ""),
    "error-context.new": ("ii", "i"),
    "error-context.debug-message": ("ii", ""),
    "error-context.drop": ("i", ""),
    "waitable-set.new": ("", "i"),
    "waitable-set.wait": ("ii", "i"),
    "waitable-set.poll": ("ii", "i"),
    "waitable-set.drop": ("i", ""),
    "waitable.join": ("ii", ""),
    "thread.index": ("", "i"),
    "thread.new-indirect": ("ii", "i"),
    "thread.resume-later": ("i", ""),
    "thread.yield": ("", "i"),
    "thread.suspend": ("", "i"),
    "thread.suspend-then-resume": ("i", "i"),
    "thread.yield-then-resume": ("i", "i"),
    "thread.suspend-then-promote": ("i", "i"),
    "thread.yield-then-promote": ("i", "i"),
    "thread.spawn-ref": ("ri", "i"),
    "thread.spawn-indirect": ("ii", "i"),
    "thread.available-parallelism": ("", "i"),
}


def letters(ts: tuple[ValType, ...]) -> str:
    return "".join(CORE_LETTER[core] for core in flatten_types(ts))


def result_letters(t: ValType | None) -> str:
    return "" if t is None else "".join(CORE_LETTER[core] for core in flatten_type(t))


class Lifting:
    """What `canon lift` of a function of type `ft` asks for."""

    def __init__(self, ft: FuncType, facts: Facts, async_: bool = False, callback: bool = False) -> None:
        params = letters(ft.param_types())
        results = result_letters(ft.result)
        spilled = len(params) > MAX_FLAT_PARAMS
        self.realloc = spilled or any(map(facts.has_pointers, ft.param_types()))
        self.memory = self.realloc
        most = MAX_FLAT_PARAMS if async_ else 1
        self.memory |= len(results) > most or facts.has_pointers(ft.result)
        if async_:
            flat = "i" if callback else ""
        else:
            flat = results if len(results) <= 1 else "i"
        self.core = CoreFuncType("i" if spilled else params, flat)


class Lowering:
    """What `canon lower` of a function of type `ft` asks for."""

    def __init__(self, ft: FuncType, facts: Facts, async_: bool = False) -> None:
        params = letters(ft.param_types())
        results = result_letters(ft.result)
        spilled = len(params) > (MAX_FLAT_ASYNC_PARAMS if async_ else MAX_FLAT_PARAMS)
        returned = bool(results) if async_ else len(results) > 1
        self.realloc = facts.has_pointers(ft.result)
        self.memory = spilled or returned or self.realloc or any(map(facts.has_pointers, ft.param_types()))
        flat = ("i" if spilled else params) + ("i" if returned else "")
        self.core = CoreFuncType(flat, "i" if async_ else "" if returned else results)


class Returning:
    """What `canon task.return` of a result of type `t` asks for."""

    def __init__(self, t: ValType | None, facts: Facts) -> None:
        flat = result_letters(t)
        spilled = len(flat) > MAX_FLAT_PARAMS
        self.realloc = False
        self.memory = spilled or facts.has_pointers(t)
        self.core = CoreFuncType("i" if spilled else flat, "")
