# What hostile bytes may do to the decoder, the validator, the resolver and the reader of WIT: nothing but
# raise their own errors. And how to make such bytes: by blind changes, and by changes that
# keep the sizes of sections right, so that they get past the first check.

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tests.component.seeds import COMPONENTS, HOST
from wasm_gateway.component.assemble import assemble, simplify
from wasm_gateway.component.core import core_module
from wasm_gateway.component.decode import embedded_worlds
from wasm_gateway.component.parse import parse_component
from wasm_gateway.component.resolve import resolve, validate
from wasm_gateway.component.rewrite import exports, rewrite, u32
from wasm_gateway.component.syntax import ComponentDef, CoreModuleDef
from wasm_gateway.component.wit import WitError, parse
from wasm_gateway.engine import wat2wasm
from wasm_gateway.errors import DecodeError, LinkError, UnsupportedError

# What bytes mean most often.
MARKS = b"\x00\x01\x02\x7f\x80\xff\x40\x41\x42\x43\x65\x66\x69\x6a\x70\x72\x73\x7d"

OFFERS = parse(HOST).interfaces

# Component | custom or core section: number and content.
Section = tuple[int, "bytes | list[Section]"]


def seeds() -> dict[str, bytes]:
    return {name: wat2wasm(text.encode()) for name, text in COMPONENTS.items()}


def modules(wasm: bytes) -> list[bytes]:
    """The core modules in a component."""

    def within(definition: ComponentDef) -> Iterator[bytes]:
        for d in definition.definitions:
            match d:
                case CoreModuleDef():
                    yield bytes(d.code)
                case ComponentDef():
                    yield from within(d)

    return list(within(parse_component(wasm)))


# What has to hold.


def component(wasm: bytes) -> str:
    """How far `wasm` comes on the way to a guest that runs; what is no error of ours is raised."""
    try:
        definitions = parse_component(wasm)
    except (DecodeError, UnsupportedError):
        return "malformed"
    try:
        validate(definitions)
        result = "valid"
    except (DecodeError, UnsupportedError):
        result = "invalid"
    try:
        plan = resolve(definitions, OFFERS.get)
    except (DecodeError, UnsupportedError, LinkError):
        return result
    try:
        assemble(simplify(plan))
    except (DecodeError, UnsupportedError, LinkError):
        return f"{result}, resolved"
    return f"{result}, assembled"


def module(wasm: bytes) -> str:
    """The same for a core module, which may have a world in a custom section."""
    try:
        found = core_module(wasm)
    except (DecodeError, UnsupportedError):
        return "malformed"
    try:
        exports(found)
        rewrite(wasm, found)
        embedded_worlds(found)
    except (DecodeError, UnsupportedError):
        return "invalid"
    return "valid"


def wit(data: bytes) -> str:
    try:
        parse(data.decode("utf-8", "replace"), OFFERS)
    except (WitError, UnsupportedError):
        return "malformed"
    return "valid"


TARGETS: dict[str, Callable[[bytes], str]] = {"component": component, "module": module, "wit": wit}


# Sections, and components inside of each other.


def split(wasm: bytes) -> list[Section] | None:
    """The sections behind the preamble of a component; None where their sizes are wrong."""
    sections: list[Section] = []
    pos = 8
    while pos < len(wasm):
        number, size, shift = wasm[pos], 0, 0
        pos += 1
        while pos < len(wasm) and shift < 35:
            byte = wasm[pos]
            size, shift, pos = size | (byte & 0x7F) << shift, shift + 7, pos + 1
            if byte < 0x80:
                break
        content = wasm[pos : pos + size]
        if len(content) < size:
            return None
        pos += size
        nested = split(content) if number == 4 and len(content) >= 8 else None
        sections.append((number, content if nested is None else nested))
    return sections


def joined(sections: list[Section]) -> bytes:
    parts = [b"\0asm\x0d\0\1\0"]
    for number, content in sections:
        data = joined(content) if isinstance(content, list) else content
        parts += [bytes([number]), u32(len(data)), data]
    return b"".join(parts)


def lists(sections: list[Section]) -> list[list[Section]]:
    """The sections of the component and of all that are in it."""
    found = [sections]
    for _, content in sections:
        if isinstance(content, list):
            found += lists(content)
    return found


# Changes.


def changed(rng: random.Random, data: bytes) -> bytes:
    """Some bytes of `data` otherwise."""
    array = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not array:
            break
        at = rng.randrange(len(array))
        match rng.randrange(6):
            case 0:
                array[at] = rng.randrange(256)
            case 1:
                array[at] ^= 1 << rng.randrange(8)
            case 2:
                array[at] = rng.choice(MARKS)
            case 3:
                array[at] = (array[at] + rng.choice((-1, 1))) & 0xFF
            case 4:
                del array[at : at + rng.randrange(1, 4)]
            case _:
                other = rng.randrange(len(array))
                array[at:at] = array[other : other + rng.randrange(1, 9)]
    return bytes(array)


def mutated(rng: random.Random, wasm: bytes, other: bytes) -> bytes:
    """`wasm` changed; sections may come from `other`."""
    sections, more = split(wasm), split(other)
    if sections is None or not sections or not rng.randrange(4):
        return wasm[:8] + changed(rng, wasm[8:])
    for _ in range(rng.choice((1, 1, 2, 3))):
        where = rng.choice([found for found in lists(sections) if found] or [sections])
        if not where:
            break
        i = rng.randrange(len(where))
        number, content = where[i]
        match rng.randrange(8):
            case 0:
                del where[i]
            case 1:
                where.insert(rng.randrange(len(where) + 1), where[i])
            case 2:
                where.append(where.pop(i))
            case 3 if more:
                found = rng.choice(rng.choice([found for found in lists(more) if found]))
                where.insert(i, (found[0], joined(found[1]) if isinstance(found[1], list) else found[1]))
            case 4:
                where[i] = 4, [(number, content), *where[i + 1 :]]
            case _ if not isinstance(content, list):
                where[i] = number, changed(rng, content)
    return joined(sections)
