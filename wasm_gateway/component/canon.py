# The canonical ABI as generated Python: one function for each imported
# ("lowered") and exported ("lifted") function, made from its signature.
#
# Rule 1: nothing that the signature decides is decided again at a call. Offsets,
# masks, sizes and bounds checks stand in the generated text; `source(f)` shows it.
# Rule 2: semantics and order are those of CanonicalABI.md. Two differences: padding
# between fields is written as zeros, and what one list may cost the host is
# bounded (lift.LIFT_LIMIT).
# Rule 3: a guest's mistake is a Trap that names function and reason; a value of
# the host that does not fit its declaration is a TypeError.
#
# What is asked of an instance (`inst`):
#   memories[slot]    Memory
#   realloc(slot, old_ptr, old_size, align, new_size) -> ptr, unsigned
#   may_leave         bool
#   handles           HandleTable
#   park(exc)         keeps the exception, returns the address of a trap
# Core values are unsigned ints (i32, i64) and floats (f32, f64).

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from ctypes import c_char
from typing import Any, Literal

from ..errors import UnsupportedError
from .emit import Writer, build, callback, lazy, letters, named, source, targets
from .handles import (
    BorrowScope,
    canon_resource_drop,
    canon_resource_new,
    canon_resource_rep,
    enter,
    leave,
)
from .layout import (
    MAX_FLAT_ASYNC_PARAMS,
    MAX_FLAT_PARAMS,
    MAX_FLAT_RESULTS,
    CoreType,
    alignment,
    elem_size,
    flags_size,
    flatten_type,
    flatten_types,
)
from .lift import LIFT_LIMIT, SCALARS, FlatValue, Lifting, StringEncoding, lift_cost
from .lift import SUPPORT as LIFT_SUPPORT
from .lower import SUPPORT as LOWER_SUPPORT
from .lower import Lowering
from .types import (
    BoolType,
    BorrowType,
    FlagsType,
    FuncType,
    ListType,
    RecordType,
    ResourceType,
    ResultType,
    StringType,
    TupleType,
    U8Type,
    U16Type,
    ValType,
    bounded,
    children,
    contains,
    weight_of,
)

__all__ = [
    "Callback",
    "canon_resource_drop",
    "canon_resource_new",
    "canon_resource_rep",
    "lift_export",
    "lower_import",
    "raw_import",
    "resource_import",
    "source",
]

# The body of a core callback: (env, caller, raw, nargs) -> address of a trap, or None.
Callback = Callable[[int, int, int, int], "int | None"]

# Nodes of all types of one function. Each takes up to a millisecond and some kilobytes to generate, which a
# guest may ask for in the middle of a request. The largest function of WASI and Spin has some 300.
MAX_WEIGHT = 2000

VAL_RAW = 16  # bytes of a wasmtime_val_raw_t
# The address space of this process as one buffer, in which an address is an offset: the core values of a
# call lie somewhere else each time, and a buffer of their own would cost more than reading them.
NATIVE = (c_char * sys.maxsize).from_address(0)
# Struct letters of core values, by their type or by the letter of a core signature.
CORE_LETTER: dict[CoreType, str] = {"i32": "I", "i64": "Q", "f32": "f", "f64": "d"}
SIGNATURE_LETTER = {"i": "I", "l": "Q", "f": "f", "d": "d"}


SUPPORT: dict[str, Any] = {
    **LIFT_SUPPORT,
    **LOWER_SUPPORT,
    "BorrowScope": BorrowScope,
    "NATIVE": NATIVE,
    "named": named,
}


def lower_import(
    name: str,
    ft: FuncType,
    host: Callable[..., Any],
    current: Any,
    slot: int = 0,
    encoding: StringEncoding = "utf8",
    part: int = 0,
) -> Callback:
    """canon lower of a host function, as the body of a core callback (env, caller, raw, nargs).

    `raw` is the address of the arguments (wasmtime_val_raw_t), where the result goes too. The callback
    calls `host(inst, *args)` with the lifted arguments, inst being `current.instance`, and lowers what
    that returns; for a `result` Ok(x), Err(x) or the bare x of an Ok. It returns None, or what
    `inst.park(exc)` returned. Its text is written at the first call.

    UnsupportedError: the signature needs something that is not implemented.
    """
    check_supported(name, ft)
    return lazy(name, current, lambda: write_import(ft, host, slot, encoding, part))


def write_import(
    ft: FuncType, host: Callable[..., Any], slot: int, encoding: StringEncoding, part: int
) -> tuple[str, dict[str, Any]]:
    out = Writer(part)
    lifting, lowering = Lifting(out, encoding), Lowering(out, encoding, slot)
    emit, block = out.emit, out.block
    ts, t = ft.param_types(), ft.result
    lifting.share(ts)
    spilled_params = len(flatten_types(ts)) > MAX_FLAT_PARAMS
    spilled_result = t is not None and len(flatten_type(t)) > MAX_FLAT_RESULTS

    leaves = [("I", None)] if spilled_params else [leaf for u in ts for leaf in leaves_of(u)]
    flat: list[FlatValue] = [(out.temp("a"), have) for _, have in leaves]
    core = letters(
        [(i * VAL_RAW, letter) for i, letter in enumerate([x for x, _ in leaves] + ["I"] * spilled_result)], 0
    )

    with out.aside(3) as lift:
        args = ["inst", *map(out.bind, lift_values(lifting, ts, flat, spilled_params))]
    with out.aside(2) as body:
        if core:
            names = [value for value, _ in flat] + ["ret"] * spilled_result
            emit(f"{targets(names)} = {out.struct('unpack_from', core)}(NATIVE, raw)")
        if spilled_params or spilled_result or any(map(uses_memory, (*ts, t))):
            emit(f"mem = inst.memories[{slot}]")
        if spilled_params:
            check_pointer(out, flat[0][0], TupleType(ts))
        emit_lift(lifting, lift, spilled_params or any(map(uses_memory, ts)))
        emit(f"{'' if t is None else 'result = '}host({', '.join(args)})")
        if t is not None:
            with block("try:"):
                lower_result(lowering, t, spilled_result)
            with block("except MISFITS as exc:"):
                emit("raise misfit(NAME, TYPE, exc) from exc")
        for h in lifting.lent:
            emit(f"{h}.num_lends -= 1")
        if lifting.lenders:
            with block("for handle in lenders:"):
                emit("handle.num_lends -= 1")

    out.lines += lifting.helpers + lowering.helpers
    with callback(out):
        emit("inst = current.instance")
        with block(f"if not {out.state}.may_leave:"):
            emit('raise Trap("the component instance cannot be left now")')
        out.lines += body
    return out.text(), {**SUPPORT, **out.constants, "TYPE": t, "host": host}


def lower_result(lowering: Lowering, t: ValType, spilled: bool) -> None:
    """What a host function returned, to `ret` or to `raw`; a bare value counts as the Ok of a `result`."""
    emit, bare = lowering.out.emit, isinstance(t, ResultType)
    if uses_memory(t):
        emit(f"realloc = inst.realloc; {lowering.out.state}.may_leave = False")
    if spilled:
        check_pointer(lowering.out, "ret", t)
        if bare:
            lowering.pack(lowering.store_variant(t, "result", "ret", 0, bare), "ret")
        else:
            lowering.store(t, "result", "ret", 0)
    else:
        letter = FLAT_RESULT.get(type(t))
        if letter is not None:
            value = lowering.scalar(t, "result")
        else:
            [value] = lowering.lower_flat(t, "result", bare)
            letter = CORE_LETTER[flatten_type(t)[0]]
        emit(f"{lowering.out.struct('pack_into', letter)}(NATIVE, raw, {value})")
    if uses_memory(t):
        emit(f"{lowering.out.state}.may_leave = True")


def lower_import_async(
    name: str,
    ft: FuncType,
    begin: Callable[..., int],
    current: Any,
    slot: int = 0,
    encoding: StringEncoding = "utf8",
    part: int = 0,
) -> Callback:
    """canon lower with the option async, as `lower_import`.

    The callback calls `begin(inst, start, resolve)` and writes what that returns: a state, and the index of
    a subtask. `start(lenders)` lifts the arguments into a tuple, and adds what they lend to `lenders`;
    `resolve(result)` puts the result where the guest wants it.
    """
    check_supported(name, ft)
    return lazy(name, current, lambda: write_import_async(ft, begin, slot, encoding, part))


def write_import_async(
    ft: FuncType, begin: Callable[..., int], slot: int, encoding: StringEncoding, part: int
) -> tuple[str, dict[str, Any]]:
    out = Writer(part)
    lifting, lowering = Lifting(out, encoding, lends_on=True), Lowering(out, encoding, slot)
    emit, block = out.emit, out.block
    ts, t = ft.param_types(), ft.result
    spilled = len(flatten_types(ts)) > MAX_FLAT_ASYNC_PARAMS

    leaves = [("I", None)] if spilled else [leaf for u in ts for leaf in leaves_of(u)]
    flat: list[FlatValue] = [(out.temp("a"), have) for _, have in leaves]
    returned = ["I"] * (t is not None)
    core = letters(((i * VAL_RAW, x) for i, x in enumerate([x for x, _ in leaves] + returned)), 0)
    names = [value for value, _ in flat] + ["ret"] * len(returned)

    with out.aside(4) as lift:
        args = list(map(out.bind, lift_values(lifting, ts, flat, spilled)))
    with out.aside(2) as body:
        if names:
            emit(f"{targets(names)} = {out.struct('unpack_from', core)}(NATIVE, raw)")
        with block("def start(lenders):"):
            if spilled or any(map(uses_memory, ts)):
                emit(f"mem = inst.memories[{slot}]")
            if spilled:
                check_pointer(out, flat[0][0], TupleType(ts))
            emit_lift(lifting, lift, spilled or any(map(uses_memory, ts)), lenders=False)
            emit(f"return ({', '.join(args)}{',' * (len(args) == 1)})")
        with block("def resolve(result):"):
            if t is None:
                emit("pass")
            else:
                emit(f"mem = inst.memories[{slot}]")
                with block("try:"):
                    lower_result(lowering, t, True)
                with block("except MISFITS as exc:"):
                    emit("raise misfit(NAME, TYPE, exc) from exc")
        emit(f"{out.struct('pack_into', 'I')}(NATIVE, raw, begin(inst, start, resolve))")

    out.lines += lifting.helpers + lowering.helpers
    with callback(out):
        emit("inst = current.instance")
        with block(f"if not {out.state}.may_leave:"):
            emit('raise Trap("the component instance cannot be left now")')
        out.lines += body
    return out.text(), {**SUPPORT, **out.constants, "TYPE": t, "begin": begin}


def lift_export_async(
    name: str, ft: FuncType, slot: int = 0, encoding: StringEncoding = "utf8", part: int = 0
) -> Callable[..., Any]:
    """canon lift with the options async and callback: (inst, core_call, scope, *args) -> packed code.

    `scope` is that of the borrows among the arguments.
    """
    check_supported(name, ft)
    text, constants = write_export_async(name, ft, slot, encoding, part)
    return build(name, "lift", text, constants)


def write_export_async(
    name: str, ft: FuncType, slot: int, encoding: StringEncoding, part: int
) -> tuple[str, dict[str, Any]]:
    out = Writer(part)
    lowering = Lowering(out, encoding, slot)
    emit, block = out.emit, out.block
    params = [f"arg{i}" for i in range(len(ft.params))]
    lowering.scope = "scope"
    with out.aside(2) as lower:
        args = lower_params(lowering, ft.param_types(), params)
    out.lines += lowering.helpers
    with block(f"def lift({', '.join(['inst', 'core_call', 'scope', *params])}):"):
        if any("mem" in line for _, line in lower):
            emit(f"mem = inst.memories[{slot}]")
        if lower:
            with block("try:"):
                out.lines += lower
            with block("except MISFITS as exc:"):
                emit("raise misfit(NAME, TYPE, exc) from exc")
            with block("except Trap as exc:"):
                emit("raise named(exc, NAME)")
        emit(f"return core_call({', '.join(args)})")
    return out.text(), {**SUPPORT, **out.constants, "NAME": name, "TYPE": ft}


def lower_params(lowering: Lowering, ts: Sequence[ValType], params: Sequence[str]) -> list[str]:
    """lower_flat_values of arguments: expressions for the core values."""
    out, emit = lowering.out, lowering.out.emit
    spilled = len(flatten_types(tuple(ts))) > MAX_FLAT_PARAMS
    reallocs = spilled or any(map(uses_memory, ts))
    if reallocs:
        emit(f"realloc = inst.realloc; {out.state}.may_leave = False")
    if spilled:
        pointee = TupleType(tuple(ts))
        args = [lowering.allocate(str(elem_size(pointee)), alignment(pointee))]
        lowering.store(pointee, f"({', '.join(params)},)", args[0], 0)
    else:
        args = []
        for u, param in zip(ts, params, strict=True):
            args += map(out.bind, lowering.lower_flat(u, param))
    if reallocs:
        emit(f"{out.state}.may_leave = True")
    return args


def element_codec(
    name: str, t: ValType, slot: int, encoding: StringEncoding, part: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """How elements of a stream or future lie in memory: load(inst, ptr, n), store(inst, ptr, values)."""
    out = Writer(part)
    lifting, lowering = Lifting(out, encoding), Lowering(out, encoding, slot)
    with out.aside(2) as lift:
        size = elem_size(t)
        value = lifting.load_list_from_valid_range(t, "ptr", f"ptr + n * {size}", "n")
        out.emit(f"return {value}")
    with out.aside(1) as store:
        lowering.store_list_into_valid_range(t, "values", "ptr", "len(values)")
    out.lines += lifting.helpers + lowering.helpers
    with out.block("def load(inst, ptr, n):"):
        out.emit(f"mem = inst.memories[{slot}]")
        emit_lift(lifting, lift, True)
    with out.block("def store(inst, ptr, values):"):
        out.emit(f"mem = inst.memories[{slot}]")
        if uses_memory(t):
            out.emit(f"realloc = inst.realloc; {out.state}.may_leave = False")
        with out.block("try:"):
            out.lines += [(indent + 1, line) for indent, line in store]
        with out.block("except MISFITS as exc:"):
            out.emit("raise misfit(NAME, TYPE, exc) from exc")
        if uses_memory(t):
            out.emit(f"{out.state}.may_leave = True")
    constants = {**SUPPORT, **out.constants, "NAME": name, "TYPE": t}
    load = build(f"{name} load", "load", out.text(), constants)
    return load, constants["store"]


def lift_string(name: str, slot: int, encoding: StringEncoding, part: int) -> Callable[[Any, int, int], str]:
    """load_string_from_range: (inst, ptr, tagged code units) -> text."""
    out = Writer(part)
    lifting = Lifting(out, encoding)
    with out.aside(2) as lines:
        out.emit(f"return {lifting.load_string_from_range('ptr', 'units')}")
    with out.block("def load(inst, ptr, units):"):
        out.emit(f"mem = inst.memories[{slot}]")
        emit_lift(lifting, lines, True)
    return build(name, "load", out.text(), {**SUPPORT, **out.constants, "NAME": name})


def lower_string(
    name: str, slot: int, encoding: StringEncoding, part: int
) -> Callable[[Any, int, str], object]:
    """store_string: (inst, ptr, text) puts pointer and code units at `ptr`."""
    out = Writer(part)
    lowering = Lowering(out, encoding, slot)
    with out.block("def store(inst, ptr, text):"):
        out.emit(f"mem = inst.memories[{slot}]; realloc = inst.realloc")
        check_pointer(out, "ptr", StringType())
        out.emit(f"{out.state}.may_leave = False")
        lowering.store(StringType(), "text", "ptr", 0)
        out.emit(f"{out.state}.may_leave = True")
    return build(name, "store", out.text(), {**SUPPORT, **out.constants, "NAME": name})


def lift_export(
    name: str, ft: FuncType, slot: int = 0, encoding: StringEncoding = "utf8", part: int = 0
) -> Callable[..., Any]:
    """canon lift of a guest's function: (inst, core_call, post_return, *args) -> result.

    The arguments are lowered; `core_call(*flat)` takes core values and returns the core result (if there
    is one), which is lifted; `post_return(flat)`, `post_return()` without a core result, or None then
    lets the guest free it.

    UnsupportedError: the signature needs something that is not implemented.
    """
    check_supported(name, ft)
    text, constants = write_export(name, ft, slot, encoding, part)
    return build(name, "lift", text, constants)


def write_export(
    name: str, ft: FuncType, slot: int, encoding: StringEncoding, part: int = 0
) -> tuple[str, dict[str, Any]]:
    out = Writer(part)
    lifting, lowering = Lifting(out, encoding), Lowering(out, encoding, slot)
    emit, block = out.emit, out.block
    ts, t = ft.param_types(), ft.result
    lifting.share((t,))
    params = [f"arg{i}" for i in range(len(ts))]
    spilled_params = len(flatten_types(ts)) > MAX_FLAT_PARAMS
    spilled_result = t is not None and len(flatten_type(t)) > MAX_FLAT_RESULTS
    flat_result = "" if t is None else "flat"
    borrows = any(contains(u, BorrowType) for u in ts)
    reallocs = spilled_params or any(map(uses_memory, ts))
    lowering.scope = "scope" if borrows else "None"

    with out.aside(2) as lower:
        if borrows:
            emit("scope = BorrowScope()")
        args = lower_params(lowering, ts, params)
    with out.aside(3) as lift:
        if t is not None:
            carried: FlatValue = ("flat", None if spilled_result else flatten_type(t)[0])
            [value] = lift_values(lifting, (t,), [carried], spilled_result)
            emit(f"result = {value}")

    with out.aside(2) as finish:
        if borrows:
            emit("scope.leave()")
        if spilled_result and t is not None:
            check_pointer(out, "flat", t)
        emit_lift(lifting, lift, spilled_result or uses_memory(t))

    out.lines += lifting.helpers + lowering.helpers
    with block(f"def lift({', '.join(['inst', 'core_call', 'post_return', *params])}):"):
        if reallocs or spilled_result or uses_memory(t):
            emit(f"mem = inst.memories[{slot}]")
        if lower:
            with block("try:"):
                out.lines += lower
            with block("except MISFITS as exc:"):
                emit("raise misfit(NAME, TYPE, exc) from exc")
            with block("except Trap as exc:"):
                emit("raise named(exc, NAME)")
        emit(f"{flat_result}{' = ' * (t is not None)}core_call({', '.join(args)})")
        if finish:
            with block("try:"):
                out.lines += finish
            with block("except Trap as exc:"):
                emit("raise named(exc, NAME)")
        with block("if post_return is not None:"):
            emit(f"{out.state}.may_leave = False; post_return({flat_result}); {out.state}.may_leave = True")
        if t is not None:
            emit("return result")
    return out.text(), {**SUPPORT, **out.constants, "NAME": name, "TYPE": ft}


# The letter of a result that is one core value: struct checks the range and clears what lies above.
FLAT_RESULT: dict[type[ValType], str] = {
    **{kind: "i" if letter in "bhi" else letter for kind, letter in SCALARS.items()},
    BoolType: "?3x",
    U8Type: "B3x",
    U16Type: "H2x",
}


def leaves_of(t: ValType) -> list[tuple[str, CoreType | None]]:
    """For each core value of a parameter: the letter to read it with, and the core type that gives.

    A scalar that has its core value for itself is read with its own letter (None): what lies above is
    ignored and the sign extended, as lift_flat_unsigned and lift_flat_signed do.
    """
    match t:
        case RecordType() | TupleType():
            return [leaf for u in children(t) for leaf in leaves_of(u)]
        case ListType(u, int(length)):
            return leaves_of(u) * length
    if type(t) in SCALARS and not isinstance(t, BoolType):
        return [(SCALARS[type(t)], None)]
    return [(CORE_LETTER[core], core) for core in flatten_type(t)]


def lift_values(
    lifting: Lifting, ts: Sequence[ValType], flat: Sequence[FlatValue], spilled: bool
) -> list[str]:
    """lift_flat_values: expressions for values of these types."""
    if spilled:
        return lifting.load_fields(ts, flat[0][0])
    values = iter(flat)
    return [lifting.lift_flat(t, values) for t in ts]


def emit_lift(lifting: Lifting, lines: list[tuple[int, str]], memory: bool, lenders: bool = True) -> None:
    """Place the lines that lift, with what they refer to, inside a `try` for strings that are none."""
    out = lifting.out
    if memory:
        out.emit("view = mem.view; size = mem.size")
    if any("handles" in line for _, line in lines):
        out.emit(f"handles = {out.state}.handles")
    if lifting.lenders and lenders:
        out.emit("lenders = []")
    if lifting.shared:
        out.emit("left = LIFT_LIMIT")
    if any(".decode(" in line for _, line in lines + lifting.helpers):
        with out.block("try:"):
            out.lines += lines
        with out.block("except UnicodeDecodeError as exc:"):
            out.emit(f'raise Trap(f"string is not {lifting.encoding}: {{exc}}") from None')
    else:
        out.lines += [(indent - 1, line) for indent, line in lines]


def check_pointer(out: Writer, ptr: str, t: ValType) -> None:
    """`ptr` has to be where a whole `t` can lie."""
    if alignment(t) > 1:
        with out.block(f"if {ptr} & {alignment(t) - 1}:"):
            out.emit(f'raise Trap(f"pointer {{{ptr}:#x}} is not aligned to {alignment(t)}")')
    with out.block(f"if {ptr} + {elem_size(t)} > mem.size:"):
        out.emit(f"mem.ensure({ptr} + {elem_size(t)})")


def uses_memory(t: ValType | None) -> bool:
    """Whether values of `t` lie partly in memory even where `t` is flat."""
    return contains(t, (StringType, ListType))


def check_supported(name: str, ft: FuncType) -> None:
    weight = weight_of(ft)
    if weight > MAX_WEIGHT:
        raise UnsupportedError(
            f"{name}: its types have {weight} nodes (at most {MAX_WEIGHT}) to generate code for",
            "large types",
        )
    check_values(name, ft.param_types())
    if ft.result is not None:
        check_values(name, [ft.result])


def check_values(name: str, ts: Sequence[ValType]) -> None:
    """UnsupportedError for types of which the host does not lift a value each at once."""
    for t in ts:
        check_type(name, bounded(t))
    if sum(map(lift_cost, ts)) > LIFT_LIMIT:
        raise UnsupportedError(f"{name}: its values are too large", "large types")


def check_type(name: str, t: ValType) -> None:
    if isinstance(t, FlagsType):
        flags_size(len(t.labels))
    for u in children(t):
        check_type(name, u)


def raw_import(name: str, params: str, results: str, host: Callable[..., Any], current: Any) -> Callback:
    """The callback of a host function that speaks core values (WASI preview 1).

    `params` and `results` hold a letter for each: i (i32), l (i64), f (f32), d (f64). It calls
    `host(inst, *values)` and writes what that returns, unsigned; a tuple if there is more than one result.
    """
    return lazy(name, current, lambda: write_raw(params, results, host))


def write_raw(params: str, results: str, host: Callable[..., Any]) -> tuple[str, dict[str, Any]]:
    out = Writer()
    args = [f"a{i}" for i in range(len(params))]
    takes, gives = (
        letters([(i * VAL_RAW, SIGNATURE_LETTER[letter]) for i, letter in enumerate(signature)], 0)
        for signature in (params, results)
    )
    call = f"host({', '.join(['current.instance', *args])})"
    with callback(out):
        if takes:
            out.emit(f"{targets(args)} = {out.struct('unpack_from', takes)}(NATIVE, raw)")
        if gives:
            star = "*" if len(results) > 1 else ""
            call = f"{out.struct('pack_into', gives)}(NATIVE, raw, {star}{call})"
        out.emit(call)
    return out.text(), {**out.constants, "NATIVE": NATIVE, "host": host}


def resource_import(
    kind: Literal["new", "drop", "rep"],
    name: str,
    rt: ResourceType,
    current: Any,
    part: int = 0,
    enters: Sequence[int] = (),
) -> Callback:
    """The callback of a canon resource.new, resource.drop or resource.rep of `rt` for the instance `part`.

    `enters` are the component instances that the destructor enters.
    """

    def state(inst: Any) -> Any:
        return inst.parts[part] if part else inst

    match kind:
        case "new":
            return raw_import(
                name, "i", "i", lambda inst, rep: canon_resource_new(state(inst), rt, rep), current
            )
        case "drop" if not enters:
            return lazy(name, current, lambda: write_drop(rt, part))
        case "drop":
            return raw_import(
                name, "i", "", lambda inst, i: canon_resource_drop(inst, rt, i, state(inst), enters), current
            )
        case "rep":
            return raw_import(name, "i", "i", lambda inst, i: canon_resource_rep(state(inst), rt, i), current)


def write_drop(rt: ResourceType, part: int) -> tuple[str, dict[str, Any]]:
    """canon_resource_drop, in line for what is dropped most: a handle that owns, and that is not lent."""
    out = Writer(part)
    emit, block = out.emit, out.block
    with callback(out):
        emit("inst = current.instance")
        emit(f"i, = {out.struct('unpack_from', 'I')}(NATIVE, raw)")
        emit(f"handles = {out.state}.handles")
        emit("h = handles.array[i] if i < len(handles.array) else None")
        plain = "h is not None and h.rt is RESOURCE and h.own and not h.num_lends"
        with block(f"if {plain} and {out.state}.may_leave:"):
            emit("handles.array[i] = None")
            emit("handles.free.append(i)")
            if rt.dtor is not None:
                emit("DESTRUCTOR(inst, h.rep)")
        with block("else:"):
            emit(f"canon_resource_drop(inst, RESOURCE, i, {out.state})")
    return out.text(), {
        **out.constants,
        "DESTRUCTOR": rt.dtor,
        "NATIVE": NATIVE,
        "RESOURCE": rt,
        "canon_resource_drop": canon_resource_drop,
    }


def fuse(
    name: str,
    ft: FuncType,
    call: Callable[..., Any],
    current: Any,
    slot: int,
    encoding: StringEncoding,
    part: int,
    enters: Sequence[int],
) -> Callback:
    """canon lower of a function that another component instance lifts; for the code of `part`.

    `call(inst, *args)` is the lifted function. Traps when one of the component instances that the call
    enters is being run already (CanonicalABI.md, Store.lift).
    """

    def entering(inst: Any, *args: Any) -> Any:
        states = enter(inst, enters)
        result = call(inst, *args)
        leave(states)
        return result

    return lower_import(name, ft, entering, current, slot, encoding, part)
