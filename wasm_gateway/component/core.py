# What a core module imports, exports and carries beside its code (core spec 5).
#
# Rule 1: exact and bounded. Every section that is read has to be used up to its end;
# functions' bodies, data and elements are stepped over, the engine validates them.
# Rule 2: core types are letters: i (i32), l (i64), f (f32), d (f64), v (v128),
# r (any reference).

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ..errors import DecodeError, UnsupportedError
from .layout import CoreFuncType
from .reader import Reader

MAGIC = b"\0asm"

Kind = Literal["func", "table", "memory", "global", "tag"]
KINDS: tuple[Kind, ...] = ("func", "table", "memory", "global", "tag")
SECTIONS = {1: "type", 2: "import", 3: "function", 4: "table", 5: "memory", 6: "global", 7: "export"}
SECTIONS |= {8: "start", 9: "element", 10: "code", 11: "data", 12: "data count", 13: "tag"}
LETTERS = {0x7F: "i", 0x7E: "l", 0x7D: "f", 0x7C: "d", 0x7B: "v"}


@dataclass(frozen=True, slots=True)
class CoreImport:
    """`kind` is func, table, memory, global or tag; `type` is that of a func."""

    module: str
    name: str
    kind: str
    type: CoreFuncType | None = None

    @property
    def signature(self) -> CoreFuncType:
        """Letters of parameters and results of a func."""
        assert self.type is not None
        return self.type


@dataclass(frozen=True, slots=True)
class CoreExport:
    """The export of the item `index` of its kind; `type` is that of a func."""

    name: str
    kind: Kind
    index: int
    type: CoreFuncType | None = None


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
        """What the `producers` section says; nothing where it is malformed, as for any custom section."""
        for name, data in self.custom_sections:
            if name == "producers":
                try:
                    return producers(data)
                except DecodeError:
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


def sections(wasm: bytes | memoryview) -> Iterator[tuple[int, str, Reader]]:
    """The sections behind the preamble: id, the name of a custom one, content."""
    reader = Reader(wasm, 8)
    while reader.left:
        number = reader.byte()
        section = reader.sub(reader.u32())
        yield number, section.name() if number == 0 else "", section


def core_module(wasm: bytes | memoryview) -> CoreModule:
    """What the core module `wasm` imports, exports and carries.

    Raises DecodeError for malformed bytes, UnsupportedError for a component.
    """
    if preamble(wasm) != "module":
        raise UnsupportedError("a component where a core module is needed", "components")
    types: list[CoreFuncType | None] = []
    functions: list[int] = []
    imports: list[CoreImport] = []
    raw_exports: list[tuple[int, str, int, int]] = []
    custom: list[tuple[str, bytes | memoryview]] = []
    seen: set[int] = set()
    for number, name, section in sections(memoryview(wasm)):
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
            case _:
                continue
        section.finish(f"the {SECTIONS[number]} section")
    exports: dict[str, CoreExport] = {}
    for offset, name, kind, index in raw_exports:
        if name in exports:
            raise DecodeError(f"{name!r} is exported twice", offset)
        ft = None
        if kind == 0:
            if index >= len(functions):
                raise DecodeError(f"there is no function {index}", offset)
            ft = func_type(types, functions[index], offset)
        exports[name] = CoreExport(name, KINDS[kind], index, ft)
    return CoreModule(
        tuple(imports), tuple(exports.values()), tuple(custom), 8 in seen, len(types), len(functions)
    )


def func_type(types: list[CoreFuncType | None], index: int, offset: int) -> CoreFuncType:
    ft = types[index] if index < len(types) else None
    if ft is None:
        raise DecodeError(f"type {index} is not that of a function", offset)
    return ft


def core_import(reader: Reader, types: list[CoreFuncType | None], functions: list[int]) -> CoreImport:
    module, name = reader.name(), reader.name()
    ft = None
    start = reader.pos
    match reader.expect("kind of import", 0, 1, 2, 3, 4):
        case 0:
            functions.append(reader.u32())
            ft = func_type(types, functions[-1], start)
        case 1:
            value_type(reader)
            limits(reader)
        case 2:
            limits(reader)
        case 3:
            value_type(reader)
            reader.expect("mutability", 0, 1)
        case 4:
            reader.expect("attribute of a tag", 0)
            func_type(types, reader.u32(), start)
    return CoreImport(module, name, KINDS[reader.data[start]], ft)


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
        case form:
            raise DecodeError(f"{form:#04x} is no form of a type", start)
    return None


def value_type(reader: Reader) -> str:
    """The letter of a value type."""
    start, code = reader.pos, reader.byte()
    if code in LETTERS:
        return LETTERS[code]
    if code in (0x63, 0x64):
        reader.s33()
    elif not 0x68 <= code <= 0x75:
        raise DecodeError(f"{code:#04x} is no value type", start)
    return "r"


def field_type(reader: Reader) -> None:
    if reader.peek() in (0x77, 0x78):
        reader.byte()
    else:
        value_type(reader)
    reader.expect("mutability", 0, 1)


def limits(reader: Reader) -> None:
    flags = reader.byte()
    if flags > 0x0F:
        raise DecodeError(f"{flags:#04x} is no kind of limits", reader.pos - 1)
    number = reader.u64 if flags & 4 else reader.u32
    for _ in range(2 if flags & 1 else 1):
        number()
    if flags & 8:
        reader.u32()


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
