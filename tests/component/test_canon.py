# The generated functions against the oracle, and inside real guests.

from __future__ import annotations

import inspect
import math
import threading
import traceback
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from wasm_gateway.component.canon import (
    check_supported,
    lift_export,
    lower_import,
    raw_import,
    resource_import,
    source,
)
from wasm_gateway.component.handles import BorrowScope
from wasm_gateway.component.layout import flatten_functype
from wasm_gateway.component.lift import LIFT_LIMIT
from wasm_gateway.component.memory import Memory
from wasm_gateway.component.types import (
    PRIMITIVES,
    BorrowType,
    CaseType,
    EnumType,
    FlagsType,
    FuncType,
    ListType,
    OptionType,
    OwnType,
    ResourceType,
    ResultType,
    TupleType,
    ValType,
    VariantType,
)
from wasm_gateway.component.values import Err, Ok
from wasm_gateway.errors import Trap, UnsupportedError

U8, U32, STRING = PRIMITIVES["u8"], PRIMITIVES["u32"], PRIMITIVES["string"]
ENCODINGS = ["utf8", "utf16", "latin1+utf16"]

# no failure for slowness
relaxed = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def function(ts: list[ValType], result: ValType | None = None) -> FuncType:
    return FuncType(tuple((f"p{i}", t) for i, t in enumerate(ts)), result)


def supported(ts: list[ValType], result: ValType | None = None) -> bool:
    """Whether code is generated for them: types that are drawn may be too large together."""
    try:
        check_supported("f", function(ts, result))
    except UnsupportedError:
        return False
    return True


# Against the oracle.


@relaxed
@given(data=st.data(), encoding=st.sampled_from(ENCODINGS))
def test_import_lifts_parameters(data, encoding, types, oracle, new_instance, current) -> None:
    ts = data.draw(st.lists(types.TYPES, max_size=4))
    assume(supported(ts))
    values = [data.draw(types.values_of(t)) for t in ts]
    inst = new_instance()
    cx = oracle.Context(inst.bytes, inst.allocate, encoding)
    flat = oracle.lower_flat_values(cx, 16, values, ts)

    seen: list[Any] = []
    ft = function(ts)
    callback = lower_import("f", ft, lambda _, *args: seen.extend(args), current, 0, encoding)
    inst.call(callback, flatten_functype(ft, "lower"), *flat)

    assert types.plain(seen) == types.plain(values)


@relaxed
@given(data=st.data(), encoding=st.sampled_from(ENCODINGS), each=st.booleans())
def test_import_lowers_result(data, encoding, each, types, oracle, new_instance, current) -> None:
    t = data.draw(types.TYPES)
    assume(supported([], t))
    value = data.draw(types.values_of(t))
    ft = function([], t)
    inst, other = new_instance(each=each), new_instance()
    cx = oracle.Context(
        other.bytes, lambda *args: other.reallocs.append(args) or other.allocate(*args), encoding
    )
    spilled = len(oracle.flatten(t)) > 1
    expected = oracle.lower_flat_values(cx, 1, [value], [t], 64 if spilled else None)

    current.instance = inst
    callback = lower_import("f", ft, lambda _: value, current, 0, encoding)
    result = inst.call(callback, flatten_functype(ft, "lower"), *[64] * spilled)

    assert inst.reallocs == other.reallocs
    assert inst.bytes == other.bytes
    assert types.plain([result] * (not spilled)) == types.plain(expected)
    assert inst.may_leave


@relaxed
@given(data=st.data(), encoding=st.sampled_from(ENCODINGS), each=st.booleans())
def test_export(data, encoding, each, types, oracle, new_instance) -> None:
    ts = data.draw(st.lists(types.TYPES, max_size=3))
    t = data.draw(st.one_of(st.none(), types.TYPES))
    assume(supported(ts, t))
    values = [data.draw(types.values_of(u)) for u in ts]
    answer = None if t is None else data.draw(types.values_of(t))
    inst, other = new_instance(each=each), new_instance()
    cx = oracle.Context(
        other.bytes, lambda *args: other.reallocs.append(args) or other.allocate(*args), encoding
    )
    expected = oracle.lower_flat_values(cx, 16, values, ts)
    events: list[Any] = []

    def core_call(*flat: Any) -> Any:
        assert inst.reallocs == other.reallocs
        assert inst.bytes == other.bytes
        assert inst.may_leave
        assert types.plain(flat) == types.plain(expected)
        cx = oracle.Context(inst.bytes, inst.allocate, encoding)
        if t is None:
            return None
        if len(oracle.flatten(t)) > 1:
            events.append(inst.allocate(0, 0, 8, oracle.elem_size(t)))
            oracle.lower_flat_values(cx, 1, [answer], [t], events[0])
        else:
            events.extend(oracle.lower_flat_values(cx, 1, [answer], [t]))
        return events[0]

    def post_return(*flat: Any) -> None:
        assert not inst.may_leave
        assert types.plain(flat) == types.plain(events)
        events.append("freed")

    lifted = lift_export("f", function(ts, t), 0, encoding)
    assert types.plain(lifted(inst, core_call, post_return, *values)) == types.plain(answer)
    assert events[-1] == "freed"
    assert inst.may_leave


@settings(relaxed, max_examples=150)
@given(data=st.data(), encoding=st.sampled_from(ENCODINGS))
def test_import_with_hostile_arguments(data, encoding, types, oracle, new_instance, current) -> None:
    """Any numbers over any memory: both trap, or both see the same values."""
    ts = data.draw(st.lists(types.TYPES, min_size=1, max_size=3))
    assume(supported(ts))
    memory = bytearray(data.draw(st.binary(min_size=64, max_size=64)))
    ft = function(ts)
    signature = flatten_functype(ft, "lower")
    small = st.integers(0, 70)
    numbers = {
        "i": st.one_of(small, small.map(lambda n: n & ~7), st.integers(0, 2**32 - 1)),
        "l": st.one_of(small, st.integers(0, 2**64 - 1)),
        "f": st.floats(width=32),
        "d": st.floats(),
    }
    flat = [data.draw(numbers[letter]) for letter in signature.params]
    inst = new_instance(memory)
    cx = oracle.Context(memory, inst.allocate, encoding)
    try:
        expected = oracle.lift_flat_values(cx, 16, flat, ts)
    except oracle.OracleTrap:
        expected = None

    seen: list[Any] = []
    callback = lower_import("f", ft, lambda _, *args: seen.extend(args), current, 0, encoding)
    if expected is None:
        with pytest.raises(Trap, match=r"^f: "):
            inst.call(callback, signature, *flat)
        assert not seen
    else:
        inst.call(callback, signature, *flat)
        assert types.plain(seen) == types.plain(expected)


def nested(depth: int, wrap: Any) -> ValType:
    t: ValType = STRING
    for _ in range(depth):
        t = wrap(t)
    return t


@pytest.mark.parametrize(
    ("wrap", "value"),
    [
        (ListType, lambda v: [v]),
        (lambda t: VariantType((CaseType("a"), CaseType("b", t))), lambda v: ("b", v)),
        (lambda t: ListType(OptionType(t)), lambda v: [v]),
        (lambda t: TupleType((ResultType(t), U8)), lambda v: (Ok(v), 7)),
    ],
)
def test_deep_types(wrap, value, types, oracle, new_instance, current) -> None:
    """Far deeper than Python lets loops be nested."""
    t, v = nested(30, wrap), "deep"
    for _ in range(30):
        v = value(v)
    inst = new_instance()
    [ptr, *rest] = oracle.lower_flat_values(oracle.Context(inst.bytes, inst.allocate), 16, [v], [t])
    seen = []
    ft = function([t], t)
    callback = lower_import("f", ft, lambda _, arg: seen.append(arg) or arg, current)
    inst.call(callback, flatten_functype(ft, "lower"), ptr, *rest, 64)
    assert types.plain(seen) == types.plain([v])
    assert types.plain(oracle.load(oracle.Context(inst.bytes, inst.allocate), 64, t)) == types.plain(v)


# What functions may return, and what goes wrong.


@pytest.mark.parametrize(
    ("returned", "stored"), [(b"ab", "Ok"), (Ok(b"ab"), "Ok"), (Err("gone"), "Err"), (Err("here"), "Err")]
)
def test_bare_value_is_ok(returned, stored, oracle, new_instance, current) -> None:
    t = ResultType(ListType(U8), EnumType(("here", "gone")))
    inst = new_instance()
    inst.call(lower_import("f", function([], t), lambda _: returned, current), ("i", ""), 64)
    loaded = oracle.load(oracle.Context(inst.bytes, inst.allocate), 64, t)
    assert type(loaded).__name__ == stored
    assert loaded.value == getattr(returned, "value", returned)


@pytest.mark.parametrize(
    ("t", "value"),
    [
        (U8, 256),
        (U8, -1),
        (U32, "1"),
        (STRING, b"bytes"),
        (STRING, "\ud800"),
        (PRIMITIVES["char"], "ab"),
        (PRIMITIVES["char"], "\udfff"),
        (ListType(U8), "text"),
        (ListType(U8), [1, 2]),
        (ListType(U32), [2**32]),
        (ListType(U32, 2), [1]),
        (TupleType((U8, U8)), (1,)),
        (EnumType(("a", "b")), "c"),
        (VariantType((CaseType("a", U8), CaseType("b"))), ("c", None)),
        (VariantType((CaseType("a", U8), CaseType("b"))), "b"),
        (ResultType(STRING), Ok(3)),
        (TupleType((ResultType(U8), U8)), (3, 3)),
        (FlagsType(("a", "b")), {"a"}),
        (OptionType(STRING), 7),
    ],
)
def test_host_returns_what_does_not_fit(t, value, new_instance, current) -> None:
    inst = new_instance()
    ft = function([], t)
    signature = flatten_functype(ft, "lower")
    with pytest.raises(TypeError, match=r"^the-host: the value does not fit"):
        inst.call(
            lower_import("the-host", ft, lambda _: value, current), signature, *[64] * len(signature.params)
        )


def test_caller_passes_what_does_not_fit(new_instance) -> None:
    lifted = lift_export("f", function([STRING]))
    with pytest.raises(TypeError, match=r"^f: the value does not fit func\(p0: string\)"):
        lifted(new_instance(), None, None, 7)


@pytest.mark.parametrize("error", [KeyError("mine"), SystemExit(3), KeyboardInterrupt(), Trap("bad handle")])
def test_host_raises(error, new_instance, current) -> None:
    def host(inst: Any) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        new_instance().call(lower_import("f", function([]), host, current), ("", ""))
    assert caught.value is error


def test_traps_name_the_function(new_instance, current) -> None:
    def host(inst: Any) -> None:
        raise Trap("bad handle")

    with pytest.raises(Trap, match=r"^kv\.get: bad handle$"):
        new_instance().call(lower_import("kv.get", function([]), host, current), ("", ""))


def test_guest_cannot_leave(new_instance, current) -> None:
    inst = new_instance()
    inst.may_leave = False
    with pytest.raises(Trap, match="cannot be left now"):
        inst.call(lower_import("f", function([]), lambda _: None, current), ("", ""))


@pytest.mark.parametrize(
    ("ptr", "message"),
    [
        (2, "f: realloc returned 0x2, which is not aligned to 4"),
        (16380, "f: out of bounds memory access: 0x400c"),
    ],
)
def test_bad_realloc(ptr, message, new_instance, current) -> None:
    inst = new_instance()
    inst.allocate = lambda *_: ptr
    with pytest.raises(Trap, match=message):
        inst.call(
            lower_import("f", function([], ListType(U32)), lambda _: [1, 2, 3, 4], current), ("i", ""), 64
        )
    assert not any(inst.bytes)


@pytest.mark.parametrize(
    ("ret", "message"), [(65, "pointer 0x41 is not aligned to 4"), (16380, "0x4004 is past the end")]
)
def test_bad_return_pointer(ret, message, new_instance, current) -> None:
    inst = new_instance()
    with pytest.raises(Trap, match=f"^f: .*{message}"):
        inst.call(lower_import("f", function([], STRING), lambda _: "", current), ("i", ""), ret)
    assert not any(inst.bytes)


def test_bad_result_of_export(new_instance) -> None:
    lifted = lift_export("f", function([], STRING))
    for pointer, message in [(2, "aligned"), (2**32 - 4, "out of bounds")]:
        with pytest.raises(Trap, match=f"^f: .*{message}"):
            lifted(new_instance(), lambda pointer=pointer: pointer, None)


def test_guest_trap_leaves_the_export_as_it_is(new_instance) -> None:
    def core_call() -> None:
        raise Trap("unreachable", ["main"])

    with pytest.raises(Trap, match=r"^unreachable$") as caught:
        lift_export("f", function([]))(new_instance(), core_call, None)
    assert caught.value.frames == ("main",)


def test_memory_that_grows_while_lowering(new_instance, current, oracle) -> None:
    inst = new_instance(1 << 17, heap=0)

    def grow(old: int, old_size: int, align: int, size: int) -> int:
        ptr, inst.visible = inst.visible, inst.visible + 8192
        return ptr

    inst.allocate = grow
    t = ListType(TupleType((STRING, ListType(U8))))
    value = [("name", b"value"), ("other", b"")]

    def host(_: Any) -> Any:
        inst.visible = 8192
        inst.memories[0].ensure(8192)
        return value

    inst.visible = 4096
    inst.memories = [Memory(lambda: memoryview(inst.bytes)[: inst.visible])]
    inst.call(lower_import("f", function([], t), host, current), ("i", ""), 64)
    assert inst.memories[0].size == 8192 * 5  # an empty list at the very end needs no look
    assert oracle.load(oracle.Context(inst.bytes, grow), 64, t) == value


def test_shared_list_elements_are_paid_for(new_instance, current) -> None:
    """A thousand strings that are all the same megabyte."""
    inst = new_instance(1 << 20)
    size = 1 << 19
    for i in range(1000):
        inst.bytes[8 * i : 8 * i + 8] = (65536).to_bytes(4, "little") + size.to_bytes(4, "little")
    callback = lower_import("f", function([ListType(STRING)]), lambda *_: None, current)
    with pytest.raises(Trap, match=f"f: list holds more than {LIFT_LIMIT} bytes"):
        inst.call(callback, ("ii", ""), 0, 1000)


@pytest.mark.parametrize(
    "t", [U8, U32, STRING, TupleType((STRING, STRING)), ListType(U8), PRIMITIVES["bool"]]
)
def test_gigantic_lists_cost_nothing(t, new_instance, current) -> None:
    callback = lower_import("f", function([ListType(t)]), lambda *_: None, current)
    for length in (2**32 - 1, 2**31, 2**28, 65537):
        with pytest.raises(Trap, match=r"^f: (list|string or list) of|out of bounds"):
            new_instance().call(callback, ("ii", ""), 8, length)


def test_gigantic_string(new_instance, current) -> None:
    for encoding in ENCODINGS:
        callback = lower_import("f", function([STRING]), lambda *_: None, current, 0, encoding)
        with pytest.raises(Trap, match=r"^f: string or list of .* bytes is too long"):
            new_instance().call(callback, ("ii", ""), 8, 2**31 - 1)


@pytest.mark.parametrize(
    ("ft", "feature"),
    [
        (function([FlagsType(tuple(f"l{i}" for i in range(33)))]), "flags of more than 32 labels"),
        (function([ListType(U32, 2**26)]), "large types"),
        (function([nested(65, ListType)]), "large types"),
        (function([nested(14, lambda t: TupleType((t, t)))]), "large types"),
        (function([ListType(U32, 2**21)] * 2, U8), "large types"),
        (function([TupleType((U8,) * 999)], TupleType((U8,) * 1000)), "large types"),
    ],
)
def test_unsupported_is_said_at_load(ft, feature, current) -> None:
    for make in (lambda: lower_import("f", ft, print, current), lambda: lift_export("f", ft)):
        with pytest.raises(UnsupportedError) as caught:
            make()
        assert caught.value.feature == feature


# Resources.


def test_own_and_borrow(new_instance, current) -> None:
    store = ResourceType("store", "test:kv/store")
    inst = new_instance()
    opened = lower_import("open", function([], OwnType(store)), lambda _: {"a": 1}, current)
    get = lower_import("get", function([BorrowType(store)], U32), lambda _, s: s["a"], current)
    take = lower_import("take", function([OwnType(store)]), lambda _, s: s.clear(), current)

    handle = inst.call(opened, ("", "i"))
    assert handle == 1
    assert inst.call(get, ("i", "i"), handle) == 1
    assert inst.handles.array[handle].num_lends == 0
    inst.call(take, ("i", ""), handle)
    for wrong in (handle, 0, 2, 2**32 - 1):
        with pytest.raises(Trap, match=f"^get: unknown handle index {wrong}$"):
            inst.call(get, ("i", "i"), wrong)


def test_handle_of_another_type(new_instance, current) -> None:
    inst = new_instance()
    index = inst.handles.lower_own(ResourceType("a", "test:x/y"), "rep")
    same, other = ResourceType("a", "test:x/y"), ResourceType("b", "test:x/y")
    assert (
        inst.call(
            lower_import("f", function([BorrowType(same)]), lambda _, x: None, current), ("i", ""), index
        )
        is None
    )
    with pytest.raises(Trap, match=f"handle index {index} is of type a, not b"):
        inst.call(lower_import("f", function([BorrowType(other)]), print, current), ("i", ""), index)


def test_what_is_borrowed_cannot_be_given_away(new_instance: Any, current: Any) -> None:
    store = ResourceType("store", "test:x/y")
    inst = new_instance()
    index = inst.handles.lower_borrow(store, "rep", BorrowScope())
    take = lower_import("take", function([OwnType(store)]), lambda *_: None, current)
    with pytest.raises(Trap, match="take: handle index 1 is borrowed, not owned"):
        inst.call(take, ("i", ""), index)


@pytest.mark.parametrize("order", [[BorrowType, OwnType], [OwnType, BorrowType]])
def test_lent_handle_cannot_be_given_away(order, new_instance, current) -> None:
    rt = ResourceType("r", "test:x/y")
    inst = new_instance()
    index = inst.handles.lower_own(rt, "rep")
    with pytest.raises(Trap, match=r"still lent|unknown handle"):
        inst.call(
            lower_import("f", function([kind(rt) for kind in order]), print, current),
            ("ii", ""),
            index,
            index,
        )


def test_borrows_in_lists_and_variants_are_returned(new_instance, current) -> None:
    rt = ResourceType("r", "test:x/y")
    inst = new_instance()
    indices = [inst.handles.lower_own(rt, f"rep{i}") for i in range(3)]
    inst.bytes[64:72] = b"".join(i.to_bytes(4, "little") for i in indices[:2])
    lends: list[int] = []

    def host(inst: Any, many: list[str], one: str | None) -> None:
        assert (many, one) == (["rep0", "rep1"], "rep2")
        lends.extend(inst.handles.array[i].num_lends for i in indices)

    ft = function([ListType(BorrowType(rt)), OptionType(BorrowType(rt))])
    inst.call(lower_import("f", ft, host, current), ("iiii", ""), 64, 2, 1, indices[2])
    assert lends == [1, 1, 1]
    assert [inst.handles.array[i].num_lends for i in indices] == [0, 0, 0]


def test_export_borrows_end_with_the_call(new_instance) -> None:
    rt, own_rt = ResourceType("r", "test:x/y"), ResourceType("g", part=0)
    inst = new_instance()
    lifted = lift_export("f", function([BorrowType(rt), BorrowType(own_rt)]))

    def core_call(handle: int, rep: int) -> None:
        assert rep == 77  # a guest gets its own resource bare
        assert inst.handles.get(handle, rt).rep == "rep"
        if keep:
            return
        inst.handles.array[handle].borrow_scope.num_borrows -= 1
        inst.handles.remove(handle, rt)

    keep = False
    lifted(inst, core_call, None, "rep", 77)
    keep = True
    with pytest.raises(Trap, match="f: 1 borrow handles still remain"):
        lifted(inst, core_call, None, "rep", 77)


def test_resource_imports(new_instance, current) -> None:
    dropped = []
    rt = ResourceType("r", part=0, dtor=lambda inst, rep: dropped.append(rep))
    inst = new_instance()
    handle = inst.call(resource_import("new", "n", rt, current), ("i", "i"), 42)
    assert inst.call(resource_import("rep", "p", rt, current), ("i", "i"), handle) == 42
    drop = resource_import("drop", "[resource-drop]r", rt, current)
    inst.call(drop, ("i", ""), handle)
    assert dropped == [42]
    with pytest.raises(Trap, match=r"^\[resource-drop\]r: unknown handle index 1$"):
        inst.call(drop, ("i", ""), handle)


# Core-typed functions.


def test_raw_import(new_instance, current) -> None:
    inst = new_instance()
    seen = []
    callback = raw_import("f", "ilfd", "l", lambda *args: seen.append(args) or 2**64 - 1, current)
    assert inst.call(callback, ("ilfd", "l"), 2**32 - 1, 2**63, 0.5, math.pi) == 2**64 - 1
    assert seen == [(inst, 2**32 - 1, 2**63, 0.5, math.pi)]
    assert inst.call(raw_import("g", "", "", lambda _: None, current), ("", "")) is None
    assert inst.call(raw_import("h", "", "i", lambda _: 7, current), ("", "i")) == 7


def test_raw_import_raises(new_instance, current) -> None:
    inst = new_instance(64)
    callback = raw_import("fd_read", "i", "i", lambda inst, ptr: inst.memories[0].load_u32(ptr), current)
    with pytest.raises(Trap, match=r"^fd_read: out of bounds"):
        inst.call(callback, ("i", "i"), 62)


# The text.


def test_source_can_be_read(current, new_instance) -> None:
    def host(inst: Any, text: str) -> None:
        raise LookupError(text)

    callback = lower_import("kv.get", function([STRING]), host, current)
    text = source(callback)
    assert text.startswith("def lower(env, caller, raw, nargs):")
    assert "host(inst, " in text
    assert source(callback) == text
    inst = new_instance()
    with pytest.raises(LookupError) as caught:
        inst.call(callback, ("ii", ""), 0, 0)
    frame = next(f for f in traceback.extract_tb(caught.tb) if f.name == "kv.get")
    assert frame.line is not None
    assert "host(inst, " in frame.line
    assert "def lift(" in inspect.getsource(lift_export("f", function([STRING])))


def test_text_is_written_once_for_equal_signatures(current) -> None:
    a = lower_import("a", function([STRING]), print, current)
    b = lower_import("b", function([STRING]), repr, current)
    assert source(a) == source(b)
    assert a.__code__.co_filename == b.__code__.co_filename
    assert (a.__code__.co_name, b.__code__.co_name) == ("a", "b")


def test_first_call_in_many_threads(current, new_instance) -> None:
    callback = lower_import("f", function([U32], U32), lambda _, n: n + 1, current)
    results: list[int] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        inst = new_instance(64)
        barrier.wait()
        results.append(inst.call(callback, ("i", "i"), 41))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [42] * 8


# Real guests.

ALLOCATOR = """
  (memory (export "memory") 1)
  (global $heap (mut i32) (i32.const 4096))
  (func $realloc (export "cabi_realloc")
      (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $ptr i32)
    (local.set $ptr (i32.and (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
                             (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $ptr) (local.get $size)))
    (block $done (loop $again
      (br_if $done (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
      unreachable))
    (local.get $ptr))
"""
STORE_ERROR = VariantType((CaseType("no-such-key"), CaseType("io", STRING)))
GET = FuncType((("store", U32), ("key", STRING)), ResultType(ListType(U8), STORE_ERROR))


def test_guest_calls_host(new_guest, current) -> None:
    calls = []

    def get(inst: Any, store: int, key: str) -> Any:
        calls.append((inst, store, key))
        return Err(("io", "disk ❄")) if key == "bad" else key.encode() * 3

    guest = new_guest(
        f"""(module
          (import "kv" "get" (func $get (param i32 i32 i32 i32)))
          {ALLOCATOR}
          (data (i32.const 16) "keybad")
          (func (export "run") (param $at i32) (result i32)
            (call $get (i32.const 5) (local.get $at) (i32.const 3) (i32.const 64))
            (i32.load (i32.const 68))))""",
        {("kv", "get"): (("iiii", ""), lower_import("kv.get", GET, get, current))},
    )
    ptr = guest.call("run", 16)
    memory = guest.memories[0]
    assert memory.read(64, 12) == bytes(4) + ptr.to_bytes(4, "little") + (9).to_bytes(4, "little")
    assert memory.read(ptr, 9) == b"keykeykey"
    guest.call("run", 19)
    assert memory.load_u8(64) == 1
    assert memory.load_u8(68) == 1
    assert memory.read(memory.load_u32(72), memory.load_u32(76)) == "disk ❄".encode()
    assert calls == [(guest, 5, "key"), (guest, 5, "bad")]
    with pytest.raises(Trap, match=r"^kv\.get: out of bounds memory access"):
        guest.call("run", 65535)
    assert len(calls) == 2


def test_host_calls_guest_that_grows(new_guest) -> None:
    """concat: func(a: string, b: list<string>) -> string, over more than its memory holds at first."""
    guest = new_guest(
        f"""(module {ALLOCATOR}
          (func (export "first") (param $a i32) (param $n i32) (param $b i32) (param $m i32) (result i32)
            (i32.store (i32.const 32) (local.get $a))
            (i32.store (i32.const 36) (local.get $n))
            (i32.const 32))
          (func (export "freed") (param i32) (i32.store (i32.const 40) (local.get 0))))"""
    )
    lifted = lift_export("first", function([STRING, ListType(STRING)], STRING))
    text = "ü" * 50_000
    many = ["x" * 30_000] * 5
    assert lifted(guest, guest.function("first"), guest.function("freed"), text, many) == text
    assert guest.memories[0].load_u32(40) == 32
    assert guest.memories[0].size >= 4 * 65536


def test_guest_that_calls_out_of_realloc(new_guest, current) -> None:
    callback = lower_import("log", function([]), lambda _: None, current)
    guest = new_guest(
        """(module
          (import "host" "log" (func $log))
          (memory (export "memory") 1)
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (call $log) (i32.const 64))
          (func (export "f") (param i32 i32)))""",
        {("host", "log"): (("", ""), callback)},
    )
    with pytest.raises(Trap, match="log: the component instance cannot be left now"):
        lift_export("f", function([STRING]))(guest, guest.function("f"), None, "x")


def test_nothing_is_read_after_close(new_guest) -> None:
    guest = new_guest(f"(module {ALLOCATOR})")
    memory = guest.memories[0]
    guest.close()
    with pytest.raises(ValueError, match="released"):
        memory.read(0, 0)
