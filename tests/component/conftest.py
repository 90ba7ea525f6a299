# What the tests of the Component Model room share: the oracle, an instance without an
# engine, and one around a real guest.

from __future__ import annotations

import ctypes
import importlib.util
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from ctypes import c_char, c_size_t, c_void_p, cast
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import wasmtime
from hypothesis import strategies as st
from wasmtime import _bindings

from wasm_gateway.component.handles import HandleTable
from wasm_gateway.component.memory import Memory
from wasm_gateway.component.types import (
    PRIMITIVES,
    BoolType,
    CaseType,
    CharType,
    EnumType,
    F32Type,
    F64Type,
    FieldType,
    FlagsType,
    ListType,
    OptionType,
    RecordType,
    ResultType,
    S8Type,
    S16Type,
    S32Type,
    S64Type,
    StringType,
    TupleType,
    U8Type,
    U16Type,
    U32Type,
    U64Type,
    ValType,
    VariantType,
    children,
)
from wasm_gateway.component.values import Err, Ok, Some
from wasm_gateway.errors import Trap

LETTERS = {"i": "I", "l": "Q", "f": "f", "d": "d"}


class Current(threading.local):
    instance: Any = None


class FakeInstance:
    """An instance whose memory is a bytearray and whose allocator only goes up.

    `visible` is how much of the memory the guest has so far; it grows without moving.
    `each` gives it the function that allocates for a whole list in one crossing.
    """

    def __init__(self, memory: bytearray, heap: int, current: Current, each: bool) -> None:
        self.realloc_each = self.allocate_each if each else None
        self.bytes = memory
        self.visible = len(memory)
        self.memories = [Memory(lambda: memoryview(self.bytes)[: self.visible])]
        self.heap = heap
        self.reallocs: list[tuple[int, int, int, int]] = []
        self.may_leave = True
        self.handles = HandleTable()
        self.parked: BaseException | None = None
        self.current = current
        current.instance = self

    def realloc(self, slot: int, old: int, old_size: int, align: int, new_size: int) -> int:
        assert slot == 0
        assert not self.may_leave, "realloc runs guest code, which may not call out"
        self.reallocs.append((old, old_size, align, new_size))
        return self.allocate(old, old_size, align, new_size)

    def allocate(self, old: int, old_size: int, align: int, new_size: int) -> int:
        ptr = (self.heap + align - 1) // align * align
        self.heap = ptr + new_size
        return ptr

    def allocate_each(self, slot: int, base: int, count: int) -> None:
        for at in range(base, base + 8 * count, 8):
            size = int.from_bytes(self.bytes[at + 4 : at + 8], "little")
            self.bytes[at : at + 4] = self.realloc(slot, 0, 0, 1, size).to_bytes(4, "little")

    def park(self, exc: BaseException) -> int:
        self.parked = exc
        return 0xBAD

    def call(self, callback: Callable[..., int | None], signature: tuple[str, str], *values: Any) -> Any:
        """What a guest gets that calls the import; what was parked is raised."""
        params, results = signature
        raw = (c_char * (16 * max(len(params), len(results), 1)))()
        for i, (letter, value) in enumerate(zip(params, values, strict=True)):
            raw[16 * i : 16 * i + 16] = b"\xa5" * 16  # what lies above an i32 is anything
            struct.pack_into(f"<{LETTERS[letter]}", raw, 16 * i, value)
        trap = callback(0, 0, ctypes.addressof(raw), len(params))
        parked, self.parked = self.parked, None
        assert (parked is None) == (trap is None)
        if parked is not None:
            raise parked
        return struct.unpack_from(f"<{LETTERS[results]}", raw)[0] if results else None


class Guest:
    """A real guest: a core module in text, `imports` maps (module, name) to (signature, callback)."""

    def __init__(
        self, wat: str, imports: dict[tuple[str, str], tuple[tuple[str, str], Any]], current: Current
    ):
        engine = wasmtime.Engine()
        self.store = wasmtime.Store(engine)
        self.current = current
        linker = wasmtime.Linker(engine)
        self.alive = []
        for (module, name), ((params, results), callback) in imports.items():
            kinds = {"i": "i32", "l": "i64", "f": "f32", "d": "f64"}
            ft = wasmtime.FuncType(
                *([getattr(wasmtime.ValType, kinds[c])() for c in s] for s in (params, results))
            )
            native = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_void_p, c_size_t)(callback)
            self.alive.append(native)
            error = _bindings.wasmtime_linker_define_func_unchecked(
                linker.ptr(),
                *(ctypes.create_string_buffer(module.encode()), len(module.encode())),
                *(ctypes.create_string_buffer(name.encode()), len(name.encode())),
                ft.ptr(),
                cast(native, _bindings.wasmtime_func_unchecked_callback_t),
                None,
                cast(None, ctypes.CFUNCTYPE(None, c_void_p)),
            )
            assert not error
        self.instance = linker.instantiate(self.store, wasmtime.Module(engine, wat))
        self.exports = self.instance.exports(self.store)
        self.memories = [Memory(self.view)]
        self.may_leave = True
        self.handles = HandleTable()
        self.parked: BaseException | None = None

    def view(self) -> memoryview:
        memory = self.exports["memory"]
        size = memory.data_len(self.store)
        base = ctypes.addressof(memory.data_ptr(self.store).contents)
        return memoryview((ctypes.c_ubyte * size).from_address(base)).cast("B")

    def realloc(self, slot: int, old: int, old_size: int, align: int, new_size: int) -> int:
        return self.call("cabi_realloc", old, old_size, align, new_size)

    def park(self, exc: BaseException) -> int:
        self.parked = exc
        message = ctypes.create_string_buffer(b"parked")
        return ctypes.addressof(_bindings.wasmtime_trap_new(message, 6).contents)

    def call(self, name: str, *values: Any) -> Any:
        """Call an export with core values, unsigned as those of the canonical ABI."""
        function = self.exports[name]
        wraps = {"i32": 32, "i64": 64}
        signed = [
            v - (1 << wraps[str(t)]) if str(t) in wraps and v >> (wraps[str(t)] - 1) else v
            for v, t in zip(values, function.type(self.store).params, strict=True)
        ]
        outer, self.current.instance = self.current.instance, self
        try:
            result = function(self.store, *signed)
        except wasmtime.WasmtimeError as error:
            self.raise_parked(error)
        except wasmtime.Trap as error:
            self.raise_parked(error)
        finally:
            self.current.instance = outer
        return (
            result % 2**64
            if isinstance(result, int) and result < -(2**31)
            else (result % 2**32 if isinstance(result, int) and result < 0 else result)
        )

    def raise_parked(self, error: Exception) -> None:
        parked, self.parked = self.parked, None
        raise parked or Trap(str(error)) from None

    def function(self, name: str) -> Callable[..., Any]:
        return lambda *values: self.call(name, *values)

    def close(self) -> None:
        for memory in self.memories:
            memory.close()
        self.store.close()


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    spec = importlib.util.spec_from_file_location("component_oracle", Path(__file__).with_name("oracle.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def current() -> Current:
    return Current()


@pytest.fixture(scope="session")
def new_instance(current: Current) -> Callable[..., FakeInstance]:
    def new(memory: bytearray | int = 16384, heap: int = 1024, each: bool = False) -> FakeInstance:
        return FakeInstance(bytearray(memory) if isinstance(memory, int) else memory, heap, current, each)

    return new


@pytest.fixture
def new_guest(current: Current) -> Iterator[Callable[..., Guest]]:
    guests: list[Guest] = []

    def new(wat: str, imports: dict[tuple[str, str], tuple[tuple[str, str], Any]] | None = None) -> Guest:
        guests.append(Guest(wat, imports or {}, current))
        return guests[-1]

    yield new
    for guest in guests:
        guest.close()


# Types and their values, for hypothesis.


def labels(count: int) -> tuple[str, ...]:
    return tuple(f"l{i}" for i in range(count))


BASIC = [PRIMITIVES[name] for name in PRIMITIVES if name != "error-context"]


def compound(inner: st.SearchStrategy[ValType]) -> st.SearchStrategy[ValType]:
    some = st.lists(inner, min_size=1, max_size=4)
    maybe = st.one_of(st.none(), inner)
    return st.one_of(
        inner.map(ListType),
        st.tuples(inner, st.integers(1, 3)).map(lambda x: ListType(*x)),
        some.map(lambda ts: TupleType(tuple(ts))),
        some.map(
            lambda ts: RecordType(
                tuple(FieldType(*x) for x in zip(labels(len(ts)), ts, strict=True)), "some-record"
            )
        ),
        st.lists(maybe, min_size=1, max_size=5).map(
            lambda ts: VariantType(tuple(CaseType(*x) for x in zip(labels(len(ts)), ts, strict=True)))
        ),
        inner.map(OptionType),
        st.tuples(maybe, maybe).map(lambda x: ResultType(*x)),
    )


TYPES = st.recursive(
    st.one_of(
        st.sampled_from(BASIC),
        st.sampled_from([1, 2, 7, 300]).map(lambda n: EnumType(labels(n))),
        st.sampled_from([1, 8, 9, 16, 17, 32]).map(lambda n: FlagsType(labels(n))),
    ),
    compound,
    max_leaves=8,
)

INTEGERS = [U8Type, U16Type, U32Type, U64Type, S8Type, S16Type, S32Type, S64Type]
INTEGER_BITS = {kind: (8 << i % 4, i >= 4) for i, kind in enumerate(INTEGERS)}


def values_of(t: ValType) -> st.SearchStrategy[Any]:
    match t:
        case BoolType():
            return st.booleans()
        case F32Type():
            return st.floats(width=32)
        case F64Type():
            return st.floats()
        case CharType():
            return st.characters(exclude_categories=["Cs"])
        case StringType():
            return st.text(max_size=6)
        case ListType(U8Type(), None):
            return st.binary(max_size=6)
        case ListType(U8Type(), int(length)):
            return st.binary(min_size=length, max_size=length)
        case ListType(u, None):
            return st.lists(values_of(u), max_size=3)
        case ListType(u, int(length)):
            return st.lists(values_of(u), min_size=length, max_size=length)
        case RecordType() | TupleType():
            return st.tuples(*map(values_of, children(t)))
        case EnumType(names):
            return st.sampled_from(names)
        case FlagsType(names):
            return st.integers(0, 2 ** len(names) - 1)
        case OptionType(u):
            some = values_of(u)
            return st.one_of(st.none(), some.map(Some) if isinstance(u, OptionType) else some)
        case ResultType(ok, err):
            sides = [(Ok, ok), (Err, err)]
            return st.one_of(*((st.none() if u is None else values_of(u)).map(side) for side, u in sides))
        case VariantType(cases):
            return st.one_of(
                *(st.tuples(st.just(c.label), st.none() if c.t is None else values_of(c.t)) for c in cases)
            )
    bits, signed = INTEGER_BITS[type(t)]
    low = -(1 << bits - 1) if signed else 0
    return st.integers(low, low + (1 << bits) - 1)


def plain(value: Any) -> Any:
    """A value in a form in which NaN equals itself."""
    match value:
        case float():
            return repr(value)
        case tuple() | list():
            return [plain(v) for v in value]
        case Ok() | Err() | Some():
            return type(value).__name__, plain(value.value)
    return value


@pytest.fixture(scope="session")
def types() -> SimpleNamespace:
    """Strategies of types and values, and what makes values comparable."""
    return SimpleNamespace(TYPES=TYPES, values_of=values_of, plain=plain)
