# The component binary format -> the tree of definitions in syntax.py (Binary.md).
#
# Rule 1: bytes are read once, in order; code of core modules is sliced, never copied.
# Rule 2: this is syntax. What an index leads to is not looked at (resolve.py does).
# Rule 3: foreign bytes raise DecodeError (malformed, with the offset in the outermost
# binary) or UnsupportedError (a feature that is not implemented), and nothing else.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ..errors import DecodeError, UnsupportedError
from . import syntax as s
from .core import (
    core_import,
    core_module,
    global_type,
    memory_type,
    preamble,
    rectype,
    table_type,
    tag_type,
    value_type,
)
from .layout import CoreFuncType
from .reader import Reader

# Components and types inside each other; wit-component needs 4, Python's own stack allows some 150.
MAX_NESTING = 64

PRIMITIVE_CODES = {
    0x7F: "bool",
    0x7E: "s8",
    0x7D: "u8",
    0x7C: "s16",
    0x7B: "u16",
    0x7A: "s32",
    0x79: "u32",
    0x78: "s64",
    0x77: "u64",
    0x76: "f32",
    0x75: "f64",
    0x74: "char",
    0x73: "string",
    0x64: "error-context",
}
CORE_SORTS: dict[int, s.Sort] = {
    0x00: "core func",
    0x01: "core table",
    0x02: "core memory",
    0x03: "core global",
    0x04: "core tag",
    0x10: "core type",
    0x11: "core module",
    0x12: "core instance",
}
SORTS: dict[int, s.Sort] = {1: "func", 2: "value", 3: "type", 4: "component", 5: "instance"}
ENCODINGS: tuple[Literal["utf8", "utf16", "latin1+utf16"], ...] = ("utf8", "utf16", "latin1+utf16")
ATTRIBUTES = {0: "implements", 1: "versionsuffix", 2: "external-id"}
SECTIONS = (
    *("custom", "core module", "core instance", "core type", "component", "instance", "alias"),
    *("type", "canon", "start", "import", "export", "value"),
)

# Built-ins that have no form of their own in syntax.py: name, and what follows the opcode.
# t type index, o options, a async?, c cancellable?, m core memory, r result list, v core value type,
# u number, y core type, b core table, h shared?
BUILTINS = {
    0x05: ("task.cancel", ""),
    0x06: ("subtask.cancel", "a"),
    0x08: ("backpressure.set", ""),
    0x09: ("task.return", "ro"),
    0x0A: ("context.get", "vu"),
    0x0B: ("context.set", "vu"),
    0x0C: ("thread.yield", "c"),
    0x0D: ("subtask.drop", ""),
    0x0E: ("stream.new", "t"),
    0x0F: ("stream.read", "to"),
    0x10: ("stream.write", "to"),
    0x11: ("stream.cancel-read", "ta"),
    0x12: ("stream.cancel-write", "ta"),
    0x13: ("stream.drop-readable", "t"),
    0x14: ("stream.drop-writable", "t"),
    0x15: ("future.new", "t"),
    0x16: ("future.read", "to"),
    0x17: ("future.write", "to"),
    0x18: ("future.cancel-read", "ta"),
    0x19: ("future.cancel-write", "ta"),
    0x1A: ("future.drop-readable", "t"),
    0x1B: ("future.drop-writable", "t"),
    0x1C: ("error-context.new", "o"),
    0x1D: ("error-context.debug-message", "o"),
    0x1E: ("error-context.drop", ""),
    0x1F: ("waitable-set.new", ""),
    0x20: ("waitable-set.wait", "cm"),
    0x21: ("waitable-set.poll", "cm"),
    0x22: ("waitable-set.drop", ""),
    0x23: ("waitable.join", ""),
    0x24: ("backpressure.inc", ""),
    0x25: ("backpressure.dec", ""),
    0x26: ("thread.index", ""),
    0x27: ("thread.new-indirect", "yb"),
    0x28: ("thread.resume-later", ""),
    0x29: ("thread.suspend", "c"),
    0x2A: ("thread.suspend-then-resume", "c"),
    0x2B: ("thread.yield-then-resume", "c"),
    0x2C: ("thread.suspend-then-promote", "c"),
    0x2D: ("thread.yield-then-promote", "c"),
    0x40: ("thread.spawn-ref", "hy"),
    0x41: ("thread.spawn-indirect", "hyb"),
    0x42: ("thread.available-parallelism", "h"),
}


def parse_component(wasm: bytes | memoryview) -> s.ComponentDef:
    """The definitions of the component `wasm`.

    Raises DecodeError for malformed bytes, UnsupportedError for a core module and for features that are
    not implemented.
    """
    if preamble(wasm) != "component":
        raise UnsupportedError("a core module where a component is needed", "core modules")
    return _Parser(Reader(memoryview(wasm)), 0).component()


class _Parser:
    """Reads from `r`; methods are called by what they read, in the words of Binary.md."""

    def __init__(self, r: Reader, depth: int) -> None:
        self.r = r
        self.depth = depth

    def deeper(self, r: Reader) -> _Parser:
        if self.depth >= MAX_NESTING:
            raise UnsupportedError(f"definitions nested more than {MAX_NESTING} deep", "deep nesting")
        return _Parser(r, self.depth + 1)

    def component(self) -> s.ComponentDef:
        r = self.r
        start = r.pos
        if preamble(r.data[r.pos : r.pos + 8]) != "component":
            raise DecodeError("a component where its first bytes are those of a core module", start)
        r.take(8)
        definitions: list[s.Definition] = []
        custom: list[tuple[str, memoryview]] = []
        while r.left:
            r.quota.spend(1)
            at = r.pos
            number = r.byte()
            section = r.sub(r.u32())
            if number >= len(SECTIONS):
                raise DecodeError(f"there is no section {number}", at)
            if number == 0:
                name = section.name()
                custom.append((name, _view(section.take(section.left))))
                continue
            inner = self.deeper(section) if number == 4 else _Parser(section, self.depth)
            match number:
                case 1:
                    definitions.append(inner.core_module())
                case 4:
                    definitions.append(inner.component())
                case 9:
                    definitions.append(inner.start())
                case _:
                    definitions += section.vec(_READERS[number].__get__(inner))
            section.finish(f"the {SECTIONS[number]} section")
        return s.ComponentDef(start, tuple(definitions), tuple(custom))

    def core_module(self) -> s.CoreModuleDef:
        start = self.r.pos
        code = _view(self.r.take(self.r.left))
        try:
            if preamble(code) != "module":
                raise DecodeError("these are the first bytes of a component", 0)
            return s.CoreModuleDef(start, code, core_module(code, self.r.quota))
        except DecodeError as error:
            raise DecodeError(f"core module: {error.reason}", start + error.offset) from None

    # Core instances and types.

    def core_instance(self) -> s.Definition:
        r, start = self.r, self.r.pos
        if r.expect("core instance", 0, 1) == 0:
            return s.CoreInstantiate(start, r.u32(), tuple(r.vec(self.core_argument)))
        return s.CoreInlineExports(start, tuple(r.vec(lambda: (r.name(), self.core_sort_index()))))

    def core_argument(self) -> tuple[str, int]:
        name = self.r.name()
        self.r.expect("sort of an argument", 0x12)
        return name, self.r.u32()

    def core_sort(self) -> s.Sort:
        start, code = self.r.pos, self.r.byte()
        if code not in CORE_SORTS:
            raise DecodeError(f"{code:#04x} is no core sort", start)
        return CORE_SORTS[code]

    def core_sort_index(self) -> s.SortIndex:
        sort = self.core_sort()
        return s.SortIndex(sort, self.r.u32())

    def core_type(self) -> s.CoreTypeDef:
        start = self.r.pos
        if self.r.peek() == 0x50:
            self.r.byte()
            return s.CoreTypeDef(start, self.deeper(self.r).module_type())
        return s.CoreTypeDef(start, tuple(self.subtypes()))

    def subtypes(self) -> list[CoreFuncType | None]:
        """core:rectype, or the 0x00 that tells a subtype from a module type."""
        if self.r.peek() == 0x00:
            self.r.byte()
            if self.r.peek() != 0x50:
                self.r.expect("form of a subtype", 0x50)
        return rectype(self.r)

    def module_type(self) -> s.ModuleType:
        r = self.r
        types: list[Any] = []
        imports, exports = [], []
        for _ in range(r.count()):
            start = r.pos
            match r.byte():
                case 0x00:
                    imports.append(core_import(r, types, []))
                case 0x01:
                    types += self.subtypes()
                case 0x02:
                    r.expect("sort of an alias", 0x10)
                    r.expect("target of an alias", 0x01)
                    types.append(s.OuterCoreType(start, r.u32(), r.u32()))
                case 0x03:
                    name = r.name()
                    exports.append((name, self.core_extern(types)))
                case code:
                    raise DecodeError(f"{code:#04x} is no declaration of a module type", start)
        return s.ModuleType(tuple(imports), tuple(exports), tuple(types))

    def core_extern(self, types: list[Any]) -> tuple[str, object]:
        """Kind and type; a type of the module type may be one from outside (OuterCoreType)."""
        r, start = self.r, self.r.pos
        match r.expect("kind of export", 0, 1, 2, 3, 4):
            case 1:
                return "table", table_type(r)
            case 2:
                return "memory", memory_type(r)
            case 3:
                return "global", global_type(r)
            case code:
                index = tag_type(r) if code else r.u32()
                if index >= len(types):
                    raise DecodeError(f"there is no type {index}", start)
                return "tag" if code else "func", types[index]

    # Instances, aliases.

    def instance(self) -> s.Definition:
        r, start = self.r, self.r.pos
        if r.expect("instance", 0, 1) == 0:
            return s.Instantiate(start, r.u32(), tuple(r.vec(lambda: (r.name(), self.sort_index()))))
        return s.InlineExports(start, tuple(r.vec(lambda: (self.extern_name(), self.sort_index()))))

    def sort(self) -> s.Sort:
        start, code = self.r.pos, self.r.byte()
        if code == 0:
            return self.core_sort()
        if code not in SORTS:
            raise DecodeError(f"{code:#04x} is no sort", start)
        return SORTS[code]

    def sort_index(self) -> s.SortIndex:
        sort = self.sort()
        return s.SortIndex(sort, self.r.u32())

    def alias(self) -> s.Definition:
        r, start = self.r, self.r.pos
        sort = self.sort()
        match r.expect("target of an alias", 0, 1, 2):
            case 0:
                return s.AliasExport(start, sort, r.u32(), r.name())
            case 1:
                return s.AliasCoreExport(start, sort, r.u32(), r.name())
            case _:
                return s.AliasOuter(start, sort, r.u32(), r.u32())

    # Types.

    def type(self) -> s.TypeDef:
        start = self.r.pos
        return s.TypeDef(start, self.deftype())

    def deftype(self) -> s.DefType:
        start, code = self.r.pos, self.r.byte()
        if code in PRIMITIVE_CODES:
            return s.PrimitiveDef(PRIMITIVE_CODES[code])
        r = self.r
        match code:
            case 0x72:
                return s.RecordDef(tuple(r.vec(lambda: (r.name(), self.valtype()))))
            case 0x71:
                return s.VariantDef(tuple(r.vec(self.case)))
            case 0x70:
                return s.ListDef(self.valtype())
            case 0x67:
                return s.ListDef(self.valtype(), r.u32())
            case 0x6F:
                return s.TupleDef(tuple(r.vec(self.valtype)))
            case 0x6E:
                return s.FlagsDef(tuple(r.vec(r.name)))
            case 0x6D:
                return s.EnumDef(tuple(r.vec(r.name)))
            case 0x6B:
                return s.OptionDef(self.valtype())
            case 0x6A:
                return s.ResultDef(self.optional_valtype(), self.optional_valtype())
            case 0x69:
                return s.OwnDef(r.u32())
            case 0x68:
                return s.BorrowDef(r.u32())
            case 0x66:
                return s.StreamDef(self.optional_valtype())
            case 0x65:
                return s.FutureDef(self.optional_valtype())
            case 0x63:
                return s.MapDef(self.valtype(), self.valtype())
            case 0x40 | 0x43:
                params = tuple(r.vec(lambda: (r.name(), self.valtype())))
                return s.FuncDef(params, self.results(), code == 0x43)
            case 0x41:
                return s.ComponentTypeDef(tuple(r.vec(self.deeper(r).componentdecl)))
            case 0x42:
                return s.InstanceTypeDef(tuple(r.vec(self.deeper(r).instancedecl)))
            case 0x3F | 0x3E:
                rep = value_type(r)
                dtor = r.u32() if r.expect("destructor", 0, 1) else None
                if code == 0x3E and r.expect("callback", 0, 1):
                    r.u32()
                return s.ResourceDef(rep, dtor, code == 0x3E)
        raise DecodeError(f"{code:#04x} is no type", start)

    def case(self) -> tuple[str, s.ValTypeRef | None]:
        label, t = self.r.name(), self.optional_valtype()
        if self.r.expect("end of a case", 0, 1):
            self.r.u32()  # `refines`, of 2022 and 2023
        return label, t

    def results(self) -> s.ValTypeRef | None:
        start = self.r.pos
        if self.r.expect("kind of result", 0, 1) == 0:
            return self.valtype()
        if self.r.u32():  # until 2024
            raise UnsupportedError(f"a function with named results at byte {start:#x}", "named results")
        return None

    def valtype(self) -> s.ValTypeRef:
        start, code = self.r.pos, self.r.peek()
        if code in PRIMITIVE_CODES:
            self.r.byte()
            return PRIMITIVE_CODES[code]
        index = self.r.s33()
        if index < 0:
            raise DecodeError(f"{code:#04x} is no value type", start)
        return index

    def optional_valtype(self) -> s.ValTypeRef | None:
        return self.valtype() if self.r.expect("optional type", 0, 1) else None

    def instancedecl(self) -> s.Definition:
        return self.declaration(False)

    def componentdecl(self) -> s.Definition:
        return self.declaration(True)

    def declaration(self, of_component: bool) -> s.Definition:
        start = self.r.pos
        match self.r.byte():
            case 0x00:
                return self.core_type()
            case 0x01:
                return self.type()
            case 0x02:
                return self.alias()
            case 0x03 if of_component:
                return self.import_()
            case 0x04:
                return s.Export(start, self.extern_name(), None, self.externdesc())
            case code:
                raise DecodeError(f"{code:#04x} is no declaration", start)

    def externdesc(self) -> s.ExternDesc:
        r, start = self.r, self.r.pos
        match r.byte():
            case 0x00:
                r.expect("core extern", 0x11)
                return s.ExternDesc("core module", r.u32())
            case 0x01:
                return s.ExternDesc("func", r.u32())
            case 0x02:
                if r.expect("bound of a value", 0, 1) == 0:
                    return s.ExternDesc("value", r.u32(), "eq")
                return s.ExternDesc("value", None, None, self.valtype())
            case 0x03:
                if r.expect("bound of a type", 0, 1) == 0:
                    return s.ExternDesc("type", r.u32(), "eq")
                return s.ExternDesc("type", None, "sub resource")
            case 0x04:
                return s.ExternDesc("component", r.u32())
            case 0x05:
                return s.ExternDesc("instance", r.u32())
            case code:
                raise DecodeError(f"{code:#04x} is no kind of import or export", start)

    # Canonical definitions.

    def canon(self) -> s.Definition:
        r, start = self.r, self.r.pos
        code = r.byte()
        match code:
            case 0x00:
                r.expect("sort of a lifted function", 0)
                return s.CanonLift(start, r.u32(), self.options(), r.u32())
            case 0x01:
                r.expect("sort of a lowered function", 0)
                return s.CanonLower(start, r.u32(), self.options())
            case 0x02:
                return s.CanonResource(start, "new", r.u32())
            case 0x03:
                return s.CanonResource(start, "drop", r.u32())
            case 0x04:
                return s.CanonResource(start, "rep", r.u32())
            case 0x07:
                return s.CanonResource(start, "drop", r.u32(), True)
        if code not in BUILTINS:
            raise DecodeError(f"{code:#04x} is no canonical definition", start)
        name, operands = BUILTINS[code]
        immediates: list[object] = []
        options = None
        for operand in operands:
            match operand:
                case "o":
                    options = self.options()
                case "a" | "c" | "h":
                    immediates.append(bool(r.expect("flag", 0, 1)))
                case "r":
                    immediates.append(self.results())
                case "v":
                    immediates.append(value_type(r))
                case _:
                    immediates.append(r.u32())
        return s.CanonBuiltin(start, name, tuple(immediates), options)

    def options(self) -> s.CanonOptions:
        r = self.r
        found: dict[str, Any] = {}
        for _ in range(r.count()):
            start = r.pos
            code = r.byte()
            key, value = self.option(code, start)
            if key in found:
                raise DecodeError(f"the option {key} is there twice", start)
            found[key] = value
        return s.CanonOptions(**found)

    def option(self, code: int, start: int) -> tuple[str, object]:
        match code:
            case 0x00 | 0x01 | 0x02:
                return "encoding", ENCODINGS[code]
            case 0x03:
                return "memory", self.r.u32()
            case 0x04:
                return "realloc", self.r.u32()
            case 0x05:
                return "post_return", self.r.u32()
            case 0x06:
                return "async_", True
            case 0x07:
                return "callback", self.r.u32()
            case 0x08 | 0x09:
                raise UnsupportedError("canonical options of the GC proposal", "gc")
        raise DecodeError(f"{code:#04x} is no canonical option", start)

    # Start, imports, exports, values.

    def start(self) -> s.Start:
        r, start = self.r, self.r.pos
        return s.Start(start, r.u32(), tuple(r.vec(r.u32)), r.u32())

    def extern_name(self) -> s.ExternName:
        r = self.r
        kind = r.expect("kind of name", 0, 1, 2)
        name = r.name()
        if kind < 2:
            return s.ExternName(name)
        attributes: dict[str, str] = {}
        for _ in range(r.count()):
            start = r.pos
            attribute = ATTRIBUTES[r.expect("attribute", *ATTRIBUTES)]
            if attribute in attributes:
                raise DecodeError(f"the attribute {attribute} is there twice", start)
            attributes[attribute] = r.name()
        return s.ExternName(name, tuple(attributes.items()))

    def import_(self) -> s.Import:
        start = self.r.pos
        return s.Import(start, self.extern_name(), self.externdesc())

    def export(self) -> s.Export:
        start = self.r.pos
        name, item = self.extern_name(), self.sort_index()
        ascribed = self.externdesc() if self.r.expect("ascribed type", 0, 1) else None
        return s.Export(start, name, item, ascribed)

    def value(self) -> s.ValueDef:
        start = self.r.pos
        return s.ValueDef(start, self.valtype(), _view(self.r.take(self.r.u32())))


def _view(data: bytes | memoryview) -> memoryview:
    return data if isinstance(data, memoryview) else memoryview(data)


_READERS: dict[int, Callable[[_Parser], s.Definition]] = {
    2: _Parser.core_instance,
    3: _Parser.core_type,
    5: _Parser.instance,
    6: _Parser.alias,
    7: _Parser.type,
    8: _Parser.canon,
    10: _Parser.import_,
    11: _Parser.export,
    12: _Parser.value,
}
