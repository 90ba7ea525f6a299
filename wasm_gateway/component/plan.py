# The flat link plan of a component: what is left of it once all of its indices,
# aliases, nested components and instances are resolved.
#
# Rule 1: a plan is made once, when a guest is loaded, and says everything: which core
# modules are instantiated in which order, what meets each of their imports, which
# exports are lifted with which options. A request only carries it out.
# Rule 2: nothing here knows wasmtime. Core functions are named by the step whose
# instance exports them.
# Rule 3: a component instance is a number, its `part`: 0 .. parts-1 in the order in which
# they have something to run, or are around one that has. Each part has its own handle
# table and flags (CanonicalABI.md, Component Instance State).

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .core import CoreModule
from .lift import StringEncoding
from .types import FuncType, InterfaceType, ResourceType, ValType


@dataclass(frozen=True, slots=True)
class CoreItem:
    """The export `name` of the core instance that step `step` makes."""

    step: int
    name: str
    kind: Literal["func", "table", "memory", "global", "tag"]


@dataclass(frozen=True, slots=True)
class Options:
    """Canonical options, resolved; `slot` is an index into Plan.slots."""

    encoding: StringEncoding = "utf8"
    slot: int = 0
    post_return: CoreItem | None = None
    async_: bool = False
    callback: CoreItem | None = None


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A function that the host brings: `name` of the interface `interface` as the component imports it.

    `interface` is "" for a function that the component imports by itself. `type` is what the component
    declares, its resources being the host's.
    """

    interface: str
    name: str
    type: FuncType


@dataclass(frozen=True, slots=True)
class Lifted:
    """canon lift: a function of the component instance `part`."""

    core: CoreItem
    type: FuncType
    options: Options
    part: int


@dataclass(frozen=True, slots=True)
class Lowered:
    """canon lower: `callee` as a core function for the code of `part`; `type` as the caller sees it."""

    callee: HostFunction | Lifted
    options: Options
    part: int


@dataclass(frozen=True, slots=True)
class ResourceBuiltin:
    """canon resource.new, .drop or .rep of `rt` for the code of `part`."""

    kind: Literal["new", "drop", "rep"]
    rt: ResourceType
    part: int


@dataclass(frozen=True, slots=True)
class Builtin:
    """Any other canonical built-in, by the name that Binary.md gives it, for the code of `part`.

    `type` is the result of task.return, else the type of the stream or future. `flag` says `async` of what
    may be, `cancellable` of what waits; `number` is the slot of context.get and .set.
    """

    name: str
    part: int
    type: ValType | None = None
    options: Options = Options()
    flag: bool = False
    number: int = 0


# What meets an import of a core module.
CoreDefinition = CoreItem | Lowered | ResourceBuiltin | Builtin


@dataclass(frozen=True, slots=True)
class Step:
    """Instantiate Plan.modules[module] for `part`; `imports` meets each (module, name) that it imports."""

    module: int
    part: int
    imports: Mapping[tuple[str, str], CoreDefinition]


@dataclass(frozen=True, slots=True)
class PlanModule:
    code: memoryview
    module: CoreModule


@dataclass(frozen=True, slots=True)
class Slot:
    """A memory and the allocator that goes with it, as canonical options name them."""

    memory: CoreItem | None
    realloc: CoreItem | None


@dataclass(frozen=True, slots=True)
class GuestResource:
    """A resource type that `part` defines (rt.part is the same number), and its destructor."""

    rt: ResourceType
    part: int
    dtor: CoreItem | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a component comes to.

    `imports` holds what it imports of the host, by the names that it uses; `functions` are the functions
    that it exports by themselves; `exports` are those of each interface, whose types are in `interfaces`.
    `owners` says for each part whose it is: 0 the component itself, k the k-th that it depends on.
    `parents` says for each part which one instantiated it, None for one that the host did.
    """

    modules: tuple[PlanModule, ...] = ()
    steps: tuple[Step, ...] = ()
    slots: tuple[Slot, ...] = ()
    parts: int = 1
    resources: tuple[GuestResource, ...] = ()
    imports: Mapping[str, InterfaceType | FuncType] = field(default_factory=dict)
    functions: Mapping[str, Lifted] = field(default_factory=dict)
    exports: Mapping[str, Mapping[str, Lifted | HostFunction]] = field(default_factory=dict)
    interfaces: Mapping[str, InterfaceType] = field(default_factory=dict)
    owners: tuple[int, ...] = (0,)
    parents: tuple[int | None, ...] = (None,)
    concurrent: bool = False  # whether it has anything asynchronous

    def entering(self, callee: int, caller: int | None) -> tuple[int, ...]:
        """The parts that a call enters, none of which may be run already (CanonicalABI.md, entering_set).

        They are `callee` and those around it, but not those that `caller` (None: the host) is in too.
        """
        around = set() if caller is None else set(self._around(caller))
        return tuple(part for part in self._around(callee) if part not in around)

    def _around(self, part: int | None) -> Iterator[int]:
        while part is not None:
            yield part
            part = self.parents[part]
