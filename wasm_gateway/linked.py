# A guest of several core modules: what a component comes to, linked once and
# instantiated for each request.
#
# Rule 1: it is made from an Assembly (component/assemble.py): its modules are named so
# that wasmtime finds everything by name, natively.
# Rule 2: a module that needs no other one is linked beforehand (an InstancePre). For
# the others a request takes one of a few linkers that know the host's functions and
# puts its own instances over those of the request before: what is left in it there
# names a store that is gone, and is never looked at.
#
# The buffer of an instance goes on behind BUFFER_SIZE with: instances of the steps
# behind the first, memory and realloc (extern) of the slots behind the first.

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import wasmtime

from . import capi
from .compile_cache import CompileCache
from .component.assemble import Assembly
from .component.concurrency import Loop
from .component.handles import HandleTable
from .component.plan import CoreItem
from .component.rewrite import REALLOC_EACH, has_realloc_each, rewrite
from .engine import (
    BUFFER_SIZE,
    INSTANCE,
    MEMORY,
    REALLOC,
    CoreSignature,
    Engine,
    HostFunction,
    define,
    instance_pre,
)

# Handles that each component instance may hold, however many there are.
MIN_HANDLES = 1024

# Modules that are compiled side by side.
COMPILERS = 4

# Linkers that wait for the next request; more are made when more run at once.
KEPT_LINKERS = 64


@dataclass(frozen=True, slots=True)
class LinkedStep:
    """One module of a guest. `at` is where its instance goes in the buffer.

    With `pre` it is instantiated by `instantiate`, without by a linker from `module`. `name` is what later
    steps know it by, None where none does. `memories` are (export, offset in the buffer, slots).
    """

    module: int
    pre: int | None
    instantiate: Callable[..., int | None]
    at: int
    name: bytes | None
    memories: tuple[tuple[bytes, int, tuple[int, ...]], ...]


def compile_all(assembly: Assembly, engine: Engine, cache: CompileCache | None) -> list[wasmtime.Module]:
    """The compiled module of each step; those that are not cached are compiled side by side."""
    plan = assembly.plan

    def one(step: int) -> wasmtime.Module:
        image = assembly.images[step]
        module = plan.modules[image.module]
        prepare = partial(rewrite, module=module.module, names=image.names)
        return engine.compile(module.code, cache, prepare, variant=str(image.names))

    first: dict[object, int] = {}
    for i, image in enumerate(assembly.images):
        first.setdefault(image, i)
    with ThreadPoolExecutor(COMPILERS) as pool:
        compiled = dict(zip(first, pool.map(one, first.values()), strict=True))
    return [compiled[image] for image in assembly.images]


class LinkedProgram:
    """Compiled modules of an assembly (one for each of its steps), linked with the host's functions.

    `functions` are those of `assembly.hosts`, in that order. LinkError when wasmtime refuses an import.
    """

    def __init__(
        self,
        engine: Engine,
        assembly: Assembly,
        modules: Sequence[wasmtime.Module],
        functions: Sequence[HostFunction],
    ) -> None:
        plan = assembly.plan
        self.engine = engine
        self.assembly = assembly
        self.parts = plan.parts
        self.new_handles: Callable[[], HandleTable] = HandleTable
        if self.parts > 1:
            self.new_handles = partial(HandleTable, max(HandleTable.MAX_LENGTH // self.parts, MIN_HANDLES))
        self.new_loop: Callable[[Any], Loop] | None = Loop if plan.concurrent else None
        self._modules = modules
        self._linker = wasmtime.Linker(engine.wasmtime_engine)
        self._callbacks = define(self._linker, functions)  # alive as long as guest code can call them
        self._waiting: deque[int] = deque()
        weakref.finalize(self, _delete, self._waiting)

        end = BUFFER_SIZE
        self._at: list[int] = []
        for i in range(len(plan.steps)):
            self._at.append(INSTANCE if i == 0 else end)
            end += 0 if i == 0 else capi.INSTANCE_SIZE
        places: dict[CoreItem, tuple[int, list[int]]] = {}
        self.realloc_at: list[int] = []
        allocators: list[CoreSignature | None] = []
        for i, slot in enumerate(plan.slots):
            if slot.memory is not None:
                place = MEMORY
                if i and slot.memory not in places:
                    place, end = end, end + capi.EXTERN_SIZE
                places.setdefault(slot.memory, (place, []))[1].append(i)
            self.realloc_at.append(REALLOC if i == 0 else end)
            end += 0 if i == 0 else capi.EXTERN_SIZE
            allocators.append(None if slot.realloc is None else self.core(slot.realloc))
        self.allocators = tuple(allocators) or (None,)
        self.buffer_type: Any = ctypes.c_char * end

        users = [set[int]() for _ in plan.steps]
        for i, step in enumerate(plan.steps):
            for definition in step.imports.values():
                if isinstance(definition, CoreItem):
                    users[definition.step].add(i)
        steps = []
        for i, step in enumerate(plan.steps):
            alone = not any(isinstance(definition, CoreItem) for definition in step.imports.values())
            pre = instance_pre(self, self._linker, modules[i]) if alone else None
            starts = plan.modules[step.module].module.has_start
            steps.append(
                LinkedStep(
                    module=capi.pointer(modules[i]),
                    pre=pre,
                    instantiate=(
                        capi.instance_pre_instantiate_and_start if starts else capi.instance_pre_instantiate
                    ),
                    at=self._at[i],
                    name=str(i).encode() if users[i] else None,
                    memories=tuple(
                        (assembly.name(item).encode(), place, tuple(slots))
                        for item, (place, slots) in places.items()
                        if item.step == i
                    ),
                )
            )
        self.steps = tuple(steps)
        self.realloc_each = self._realloc_each()

    def _realloc_each(self) -> CoreSignature | None:
        """REALLOC_EACH of the module that has the memory and the allocator of the first slot."""
        plan = self.assembly.plan
        slot = plan.slots[0] if plan.slots else None
        if slot is None or slot.memory is None or slot.realloc is None:
            return None
        step = slot.memory.step
        module = plan.modules[plan.steps[step].module].module
        if slot.realloc.step != step or not has_realloc_each(module, slot.memory.name, slot.realloc.name):
            return None
        return CoreSignature(REALLOC_EACH, "ii", "", self._at[step])

    def core(self, definition: CoreItem) -> CoreSignature:
        """How a core function of the plan is called."""
        plan = self.assembly.plan
        module = plan.modules[plan.steps[definition.step].module].module
        [type_] = [e.type for e in module.exports if e.name == definition.name]
        assert type_ is not None
        return CoreSignature(
            self.assembly.name(definition), type_.params, type_.results, self._at[definition.step]
        )

    def take_linker(self) -> int:
        """The address of a linker for one instantiation; `give_back` it."""
        try:
            return self._waiting.pop()
        except IndexError:
            linker: int = capi.linker_clone(capi.pointer(self._linker))
            capi.linker_allow_shadowing(linker, True)
            return linker

    def give_back(self, linker: int) -> None:
        if len(self._waiting) < KEPT_LINKERS:
            self._waiting.append(linker)
        else:
            capi.linker_delete(linker)

    def signature(self, name: str) -> CoreSignature | None:
        """None: what a component exports is called by lifting it."""
        return None


def _delete(linkers: deque[int]) -> None:
    while linkers:
        capi.linker_delete(linkers.pop())
