# What a core module imports, exports and carries beside its code (core spec 5).
#
# Rule 1: exact and bounded. Every section that is read has to be used up to its end;
# functions' bodies, data and elements are stepped over, the engine validates them.
# Tables, memories and globals of the module itself are read where one is exported.
# Rule 2: core types are letters: i (i32), l (i64), f (f32), d (f64), v (v128),
# r (any reference).

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from ..errors import DecodeError, UnsupportedError
from .layout import CoreFuncType
from .reader import Quota, Reader

MAGIC = b"\0asm"

Kind = Literal["func", "table", "memory", "global", "tag"]
KINDS: tuple[Kind, ...] = ("func", "table", "memory", "global", "tag")
SECTIONS = {1: "type", 2: "import", 3: "function", 4: "table", 5: "memory", 6: "global", 7: "export"}
SECTIONS |= {8: "start", 9: "element", 10: "code", 11: "data", 12: "data count", 13: "tag"}
SHARED = 0x65
LETTERS = {0x7F: "i", 0x7E: "l", 0x7D: "f", 0x7C: "d", 0x7B: "v"}


class Limits(NamedTuple):
    """Of a table (elements) or memory (pages of 2**page bytes)."""

    minimum: int
    maximum: int | None = None
    shared: bool = False
    is64: bool = False
    page: int = 16


class MemoryType(NamedTuple):
    limits: Limits


class TableType(NamedTuple):
    """`element` is the binary form of its type, None where that refers to a type of the module."""

    element: bytes | None
    limits: Limits


class GlobalType(NamedTuple):
    """`t` is as TableType.element."""

    t: bytes | None
    mutable: bool


# What is known of the type of an import or export; that of a tag is its function type.
CoreType = CoreFuncType | MemoryType | TableType | GlobalType


@dataclass(frozen=True, slots=True)
class CoreImport:
    """`kind` is func, table, memory, global or tag; `type` is that of a func, `extern` that of others."""

    module: str
    name: str
    kind: str
    type: CoreFuncType | None = None
    extern: CoreType | None = None

    @property
    def signature(self) -> CoreFuncType:
        """Letters of parameters and results of a func."""
        assert self.type is not None
        return self.type


@dataclass(frozen=True, slots=True)
class CoreExport:
    """The export of the item `index` of its kind; `type` is that of a func, `extern` that of others."""

    name: str
    kind: Kind
    index: int
    type: CoreFuncType | None = None
    extern: CoreType | None = None


@dataclass(frozen=True, slots=True)
class CoreModule:
    """A core module from outside. Custom sections are (name, content) in order.

    `type_count` and `func_count` are the sizes of its index spaces, imports included.
    """

    imports: tuple[CoreImport, ...]
    exports: tuple[CoreExport, ...]
    custom_sections: tuple[tuple[str, bytes | memoryview], ...] = ()
    has_start: bool = False
    type_count: int = 0
    func_count: int = 0

    def export(self, name: str) -> CoreExport | None:
        """The export `name`, None where there is none."""
        return next((item for item in self.exports if item.name == name), None)

    @property
    def has_world(self) -> bool:
        """Whether sections component-type* say what the module means in terms of WIT."""
        return any(name.startswith("component-type") for name, _ in self.custom_sections)

    @property
    def producers(self) -> dict[str, dict[str, str]]:
        """What the `producers` section says."""
        return producers_among(self.custom_sections)


def producers_among(sections: Iterable[tuple[str, bytes | memoryview]]) -> dict[str, dict[str, str]]:
    """What a `producers` section says; nothing where it is malformed, as for any custom section."""
    for name, data in sections:
        if name == "producers":
            try:
                return producers(data)
            except (DecodeError, UnsupportedError):
                return {}
    return {}


def preamble(wasm: bytes | memoryview) -> Literal["module", "component"]:
    """What the first 8 bytes say that this is; DecodeError for anything else."""
    if wasm[:4] != MAGIC:
        raise DecodeError("not WebAssembly: the magic bytes are missing", 0)
    match bytes(wasm[4:8]):
        case b"\x01\0\0\0":
            return "module"
        case b"\x0d\0\x01\0":
            return "component"
        case version if len(version) == 4 and version[2:] == b"\x01\0":
            raise UnsupportedError(
                f"component of binary version {version[0]}, this host reads 13", "old component binaries"
            )
        case _:
            raise DecodeError("unknown version of WebAssembly", 4)


def sections(wasm: bytes | memoryview, quota: Quota | None = None) -> Iterator[tuple[int, str, Reader]]:
    """The sections behind the preamble: id, the name of a custom one, content."""
    reader = Reader(wasm, 8, quota=quota)
    while reader.left:
        reader.quota.spend(1)
        number = reader.byte()
        section = reader.sub(reader.u32())
        yield number, section.name() if number == 0 else "", section


def core_module(wasm: bytes | memoryview, quota: Quota | None = None) -> CoreModule:
    """What the core module `wasm` imports, exports and carries; `quota` is that of the component around it.

    Raises DecodeError for malformed bytes, UnsupportedError for a component and for what is too large.
    """
    if preamble(wasm) != "module":
        raise UnsupportedError("a component where a core module is needed", "components")
    types: list[CoreFuncType | None] = []
    functions: list[int] = []
    imports: list[CoreImport] = []
    raw_exports: list[tuple[int, str, int, int]] = []
    custom: list[tuple[str, bytes | memoryview]] = []
    own: dict[str, Reader] = {}
    tags: list[int] = []
    seen: set[int] = set()
    for number, name, section in sections(memoryview(wasm), quota):
        if number == 0:
            custom.append((name, section.take(section.left)))
            continue
        if number not in SECTIONS:
            raise DecodeError(f"there is no section {number}", section.pos)
        if number in seen:
            raise DecodeError(f"a second {SECTIONS[number]} section", section.pos)
        seen.add(number)
        match number:
            case 1:
                for _ in range(section.count()):
                    types += rectype(section)
            case 2:
                imports = section.vec(partial(core_import, section, types, functions))
            case 3:
                functions += section.vec(section.u32)
            case 7:
                raw_exports = section.vec(partial(core_export, section))
            case 4 | 5 | 6:
                own[SECTIONS[number]] = section
                continue
            case 13:
                tags = section.vec(partial(tag_type, section))
            case _:
                continue
        section.finish(f"the {SECTIONS[number]} section")
    spaces: dict[str, list[CoreType | None]] = {}
    exports: dict[str, CoreExport] = {}
    for offset, name, code, index in raw_exports:
        if name in exports:
            raise DecodeError(f"{name!r} is exported twice", offset)
        kind: Kind = KINDS[code]
        if kind == "func":
            if index >= len(functions):
                raise DecodeError(f"there is no function {index}", offset)
            exports[name] = CoreExport(name, kind, index, func_type(types, functions[index], offset))
            continue
        if kind not in spaces:
            spaces[kind] = [item.extern for item in imports if item.kind == kind]
            if kind == "tag":
                spaces[kind] += [func_type(types, each, offset) for each in tags]
            elif kind in own:
                spaces[kind] += own_items(kind, own[kind])
        if index >= len(spaces[kind]):
            raise DecodeError(f"there is no {kind} {index}", offset)
        exports[name] = CoreExport(name, kind, index, None, spaces[kind][index])
    return CoreModule(
        tuple(imports), tuple(exports.values()), tuple(custom), 8 in seen, len(types), len(functions)
    )


def own_items(kind: str, section: Reader) -> list[CoreType | None]:
    """The types of the tables, memories or globals that a module defines; None where one is not known."""
    count = section.count()
    found: list[CoreType | None] = []
    for _ in range(count):
        if kind == "memory":
            found.append(memory_type(section))
            continue
        initialized = kind == "global"
        if kind == "table" and section.peek() == 0x40:
            section.byte()
            section.expect("form of a table", 0)
            initialized = True
        found.append(global_type(section) if kind == "global" else table_type(section))
        if initialized and not skip_expression(section):
            return found + [None] * (count - len(found))
    section.finish(f"the {kind} section")
    return found


def skip_expression(reader: Reader) -> bool:
    """Step over a constant expression; False where one is met that is not known here (core spec 3.4)."""
    while True:
        match reader.byte():
            case 0x0B:
                return True
            case 0x41 | 0x42 | 0x23 | 0xD0 | 0xD2:  # i32.const, i64.const, global.get, ref.null, ref.func
                while reader.byte() & 0x80:
                    pass
            case 0x43:
                reader.take(4)
            case 0x44:
                reader.take(8)
            case 0x6A | 0x6B | 0x6C | 0x7C | 0x7D | 0x7E:  # add, sub, mul
                pass
            case _:
                return False


def func_type(types: list[CoreFuncType | None], index: int, offset: int) -> CoreFuncType:
    ft = types[index] if index < len(types) else None
    if ft is None:
        raise DecodeError(f"type {index} is not that of a function", offset)
    return ft


def core_import(reader: Reader, types: list[CoreFuncType | None], functions: list[int]) -> CoreImport:
    module, name = reader.name(), reader.name()
    start = reader.pos
    kind = KINDS[reader.expect("kind of import", 0, 1, 2, 3, 4)]
    extern: CoreType
    match kind:
        case "func":
            functions.append(reader.u32())
            ft = func_type(types, functions[-1], start)
            return CoreImport(module, name, kind, ft)
        case "table":
            extern = table_type(reader)
        case "memory":
            extern = memory_type(reader)
        case "global":
            extern = global_type(reader)
        case "tag":
            extern = func_type(types, tag_type(reader), start)
    return CoreImport(module, name, kind, None, extern)


def core_export(reader: Reader) -> tuple[int, str, int, int]:
    start, name = reader.pos, reader.name()
    return start, name, reader.expect("kind of export", 0, 1, 2, 3, 4), reader.u32()


def rectype(reader: Reader) -> list[CoreFuncType | None]:
    """One entry of the type section, which may define several types; None for what is no function."""
    if reader.peek() != 0x4E:
        return [subtype(reader)]
    reader.byte()
    return reader.vec(partial(subtype, reader))


def subtype(reader: Reader) -> CoreFuncType | None:
    if reader.peek() in (0x4F, 0x50):
        reader.byte()
        reader.vec(reader.u32)
    start = reader.pos
    match reader.byte():
        case 0x60:
            params = reader.vec(partial(value_type, reader))
            return CoreFuncType("".join(params), "".join(reader.vec(partial(value_type, reader))))
        case 0x5F:
            reader.vec(partial(field_type, reader))
        case 0x5E:
            field_type(reader)
        case form if form == SHARED:
            raise shared_types()
        case form:
            raise DecodeError(f"{form:#04x} is no form of a type", start)
    return None


def shared_types() -> UnsupportedError:
    return UnsupportedError("types of what threads share are not supported", "shared types")


def value_type(reader: Reader) -> str:
    """The letter of a value type."""
    start, code = reader.pos, reader.byte()
    if code in LETTERS:
        return LETTERS[code]
    if code in (0x63, 0x64):
        reader.s33()
    elif code == SHARED:
        raise shared_types()
    elif not 0x68 <= code <= 0x75:
        raise DecodeError(f"{code:#04x} is no value type", start)
    return "r"


def field_type(reader: Reader) -> None:
    if reader.peek() in (0x77, 0x78):
        reader.byte()
    else:
        value_type(reader)
    reader.expect("mutability", 0, 1)


def tag_type(reader: Reader) -> int:
    reader.expect("attribute of a tag", 0)
    return reader.u32()


def table_type(reader: Reader) -> TableType:
    return TableType(exact_type(reader), limits(reader))


def memory_type(reader: Reader) -> MemoryType:
    """DecodeError where it says more than there are addresses for."""
    start = reader.pos
    found = limits(reader)
    most = (64 if found.is64 else 32) - found.page
    if any(number is not None and number > 1 << most for number in found[:2]):
        raise DecodeError(f"a memory has at most 2**{most} pages", start)
    return MemoryType(found)


def global_type(reader: Reader) -> GlobalType:
    return GlobalType(exact_type(reader), reader.expect("mutability", 0, 1) == 1)


def exact_type(reader: Reader) -> bytes | None:
    """The bytes of a value type, which tell it apart; None for a reference to a type of the module."""
    start = reader.pos
    value_type(reader)
    if reader.data[start] in (0x63, 0x64) and reader.data[start + 1] < 0x40:
        return None
    found = bytes(reader.data[start : reader.pos])
    # (ref null ht) of an abstract heap type has a short form
    return found[1:] if len(found) == 2 and found[0] == 0x63 else found


def limits(reader: Reader) -> Limits:
    start, flags = reader.pos, reader.byte()
    if flags > 0x0F:
        raise DecodeError(f"{flags:#04x} is no kind of limits", start)
    number = reader.u64 if flags & 4 else reader.u32
    minimum = number()
    maximum = number() if flags & 1 else None
    page = reader.u32() if flags & 8 else 16
    if page > 16:
        raise DecodeError(f"pages of 2**{page} bytes", start)
    return Limits(minimum, maximum, bool(flags & 2), bool(flags & 4), page)


def producers(data: bytes | memoryview) -> dict[str, dict[str, str]]:
    """The content of a `producers` section: field ("language", "processed-by", "sdk") -> name -> version."""
    reader = Reader(data)
    fields: dict[str, dict[str, str]] = {}
    for _ in range(reader.count()):
        values = fields.setdefault(reader.name(), {})
        for _ in range(reader.count()):
            name = reader.name()
            values[name] = reader.name()
    reader.finish("the producers section")
    return fields
