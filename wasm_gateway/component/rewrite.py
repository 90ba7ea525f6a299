# What a core module is given before it is compiled: less to carry, and one function more.
#
# Rule 1: a guest cannot tell. Functions, types and exports are appended, so that no
# index of its own changes; what is removed is custom sections for debuggers, and
# exports that nobody uses.
# Rule 2: the function that is added, REALLOC_EACH, only repeats calls of the guest's
# own allocator that the host would make one by one, with the same arguments in the
# same order (CanonicalABI.md, store_list): a crossing costs 2 us, a call a few ns.

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass

from .core import LETTERS, CoreModule, limits, sections, value_type
from .layout import CoreFuncType
from .reader import Reader

# (base: i32, count: i32): for each of `count` pairs (pointer, length) at `base`,
# pointer = realloc(0, 0, 1, length).
REALLOC_EACH = "wasm-gateway:realloc-each"

# Changes whenever `rewrite` makes something else of the same module: part of what names
# compiled code.
REVISION = "rewrite-2"

ALLOCATORS = ("cabi_realloc", "canonical_abi_realloc")

# Only debuggers read these, and they are most of a module of the Spin 1 SDK.
_FOR_DEBUGGERS = (".debug_", "reloc.", "external_debug_info", "sourceMappingURL")

_TYPE, _IMPORT, _FUNCTION, _EXPORT, _CODE = 1, 2, 3, 7, 10

# ref.func and an index, wherever these bytes stand; an index may be written longer than it needs to be.
_REF_FUNC = re.compile(rb"\xd2(?=([\x80-\xff]{0,4}[\x00-\x7f]))")

_CODES = {letter: code for code, letter in LETTERS.items()}

# Module name of imports that the host meets, in a module that is linked with others.
NAME_OF_HOST = "h"


@dataclass(frozen=True, slots=True)
class Names:
    """What the imports of a module, and those of its exports that are kept, are called from now on."""

    imports: Mapping[tuple[str, str], tuple[str, str]]
    exports: Mapping[str, str]

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return f"{sorted(self.imports.items())} {sorted(self.exports.items())}"


def rewrite(wasm: bytes | memoryview, module: CoreModule, names: Names | None = None) -> bytes:
    """`wasm` without sections for debuggers, and with REALLOC_EACH where it has an allocator.

    `module` is what core_module(wasm) gave; `names` renames its imports and exports.
    """
    allocator = _allocator(module)
    additions = {} if allocator is None else _additions(module, allocator)
    referred = set() if names is None else _referred(wasm)
    out = bytearray(wasm[:8])
    for number, name, section in sections(memoryview(wasm)):
        if number == 0:
            if name.startswith(_FOR_DEBUGGERS):
                continue
            content = _name(name) + bytes(section.take(section.left))
        else:
            if names is not None and number == _IMPORT:
                content = _renamed_imports(section, names)
            elif names is not None and number == _EXPORT:
                content = _renamed_exports(section, names, referred)
            else:
                content = bytes(section.take(section.left))
            if number in additions:
                content = _appended(content, additions[number])
        out.append(number)
        out += u32(len(content))
        out += content
    return bytes(out)


def exports(module: CoreModule) -> dict[str, tuple[str, str]]:
    """Parameters and results (letters) of the functions that `module` exports once it is rewritten."""
    found = {
        item.name: (item.type.params, item.type.results) for item in module.exports if item.type is not None
    }
    if _allocator(module) is not None:
        found[REALLOC_EACH] = ("ii", "")
    return found


def has_realloc_each(module: CoreModule, memory: str, allocator: str) -> bool:
    """Whether REALLOC_EACH calls the export `allocator` of `module` for its export `memory`."""
    index = _allocator(module)
    exports = {(item.name, item.kind): item.index for item in module.exports}
    return (
        index is not None
        and exports.get((allocator, "func")) == index
        and exports.get((memory, "memory")) == 0
    )


def forwarding(t: CoreFuncType) -> bytes:
    """A module that exports, as "", the function of this type that it imports as "" of ""."""
    sides = (bytes(_CODES[letter] for letter in letters) for letters in t)
    ft = b"\x01\x60" + b"".join(u32(len(side)) + side for side in sides)
    out = b"\0asm\x01\0\0\0"
    for number, content in ((_TYPE, ft), (_IMPORT, b"\x01\0\0\0\0"), (_EXPORT, b"\x01\0\0\0")):
        out += bytes([number]) + u32(len(content)) + content
    return out


def _allocator(module: CoreModule) -> int | None:
    """The index of the guest's allocator, None where there is none to be called as one, or no memory."""
    exports = {item.name: item for item in module.exports}
    memory = exports.get("memory")
    if memory is None or memory.kind != "memory" or memory.index != 0 or REALLOC_EACH in exports:
        return None
    if module.func_count == sum(item.kind == "func" for item in module.imports):
        return None  # no function of its own, so no section to append to
    for name in ALLOCATORS:
        found = exports.get(name)
        if found is not None and found.type is not None:
            return found.index if (found.type.params, found.type.results) == ("iiii", "i") else None
    return None


def _additions(module: CoreModule, allocator: int) -> dict[int, bytes]:
    """One entry for each of four sections."""
    body = (
        # no locals; loop while count is not 0
        b"\x00\x02\x40\x03\x40\x20\x01\x45\x0d\x01"
        # i32.store base (call allocator 0 0 1 (i32.load offset=4 base))
        b"\x20\x00\x41\x00\x41\x00\x41\x01\x20\x00\x28\x02\x04\x10" + u32(allocator) + b"\x36\x02\x00"
        # base += 8, count -= 1
        b"\x20\x00\x41\x08\x6a\x21\x00\x20\x01\x41\x01\x6b\x21\x01\x0c\x00\x0b\x0b\x0b"
    )
    return {
        _TYPE: b"\x60\x02\x7f\x7f\x00",
        _FUNCTION: u32(module.type_count),
        _EXPORT: _name(REALLOC_EACH) + b"\x00" + u32(module.func_count),
        _CODE: u32(len(body)) + body,
    }


def _renamed_imports(section: Reader, names: Names) -> bytes:
    count = section.u32()
    out = bytearray(u32(count))
    for _ in range(count):
        module, name = names.imports[section.name(), section.name()]
        start = section.pos
        match section.byte():
            case 0:
                section.u32()
            case 1:
                value_type(section)
                limits(section)
            case 2:
                limits(section)
            case 3:
                value_type(section)
                section.byte()
            case _:
                section.byte()
                section.u32()
        out += _name(module) + _name(name) + bytes(section.data[start : section.pos])
    return bytes(out)


def _renamed_exports(section: Reader, names: Names, referred: Container[int]) -> bytes:
    """The exports that `names` keeps, and of the others the functions in `referred`.

    Code may refer only to functions that are named outside of code too (core spec 3.4, C.refs).
    """
    kept: list[bytes] = []
    declared: dict[int, bytes] = {}
    for _ in range(section.u32()):
        name, start = section.name(), section.pos
        kind, index = section.byte(), section.u32()
        item = bytes(section.data[start : section.pos])
        if name in names.exports:
            kept.append(_name(names.exports[name]) + item)
        elif kind == 0 and index in referred:
            declared[index] = _name(f"&{index}") + item
    return u32(len(kept) + len(declared)) + b"".join([*kept, *declared.values()])


def _referred(wasm: bytes | memoryview) -> set[int]:
    """Functions that code may refer to: those that it does, and perhaps some others."""
    for number, _, section in sections(memoryview(wasm)):
        if number == _CODE:
            found = set(_REF_FUNC.findall(section.take(section.left)))
            return {sum((byte & 0x7F) << 7 * i for i, byte in enumerate(index)) for index in found}
    return set()


def _appended(vector: bytes, item: bytes) -> bytes:
    """A vector with one item more."""
    reader = Reader(vector)
    count = reader.u32()
    return u32(count + 1) + vector[reader.pos :] + item


def _name(text: str) -> bytes:
    encoded = text.encode()
    return u32(len(encoded)) + encoded


def u32(value: int) -> bytes:
    """Unsigned LEB128 (core spec 5.2.2)."""
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        if not value:
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)
