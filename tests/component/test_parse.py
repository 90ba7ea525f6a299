"""The binary format of components: every definition, every byte of it."""

from __future__ import annotations

import random
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from tests.component.seeds import EVERYTHING
from wasm_gateway.component import syntax as s
from wasm_gateway.component.core import core_module
from wasm_gateway.component.layout import CoreFuncType
from wasm_gateway.component.parse import BUILTINS, MAX_NESTING, parse_component
from wasm_gateway.component.reader import MAX_ITEMS, Quota
from wasm_gateway.component.resolve import resolve, validate
from wasm_gateway.engine import wat2wasm
from wasm_gateway.errors import ComponentError, DecodeError, UnsupportedError

EMPTY = b"\0asm\x0d\0\1\0"


def stripped(node: Any) -> Any:
    """A definition without its offsets, memoryviews as bytes."""
    if isinstance(node, memoryview):
        return bytes(node)
    if isinstance(node, tuple) and not hasattr(node, "_fields"):
        return tuple(map(stripped, node))
    if is_dataclass(node) and not isinstance(node, type):
        values = {f.name: stripped(getattr(node, f.name)) for f in fields(node)}
        return type(node)(**({**values, "offset": 0} if "offset" in values else values))
    return node


def parsed(*definitions: str) -> tuple[Any, ...]:
    component = parse_component(wat2wasm(f"(component {' '.join(definitions)})".encode()))
    return tuple(map(stripped, component.definitions))


@pytest.fixture(scope="module")
def everything() -> bytes:
    return wat2wasm(EVERYTHING.encode())


def test_every_kind_is_read(everything: bytes) -> None:
    component = parse_component(everything)
    seen: set[type] = set()

    def walk(node: Any) -> None:
        if isinstance(node, tuple):
            for each in node:
                walk(each)
        elif is_dataclass(node):
            seen.add(type(node))
            for f in fields(node):
                walk(getattr(node, f.name))

    walk(component)
    kinds = {t for t in vars(s).values() if isinstance(t, type) and is_dataclass(t)}
    # what the text format has no words for (values, start), and what has a test of its own
    assert kinds - seen == {s.ValueDef, s.Start, s.CanonBuiltin}
    [(name, content)] = [(name, bytes(data)) for name, data in component.custom_sections if name == "hello"]
    assert (name, content) == ("hello", b"world")


def test_everything_is_valid(everything: bytes) -> None:
    """What is mutated below leads to every corner."""
    validate(parse_component(everything))


def test_offsets_are_those_of_the_outermost_binary(everything: bytes) -> None:
    [nested] = [d for d in parse_component(everything).definitions if isinstance(d, s.ComponentDef)]
    assert everything[nested.offset :].startswith(EMPTY)
    [deeper] = [d for d in nested.definitions if isinstance(d, s.ComponentDef)]
    assert everything[deeper.offset :].startswith(EMPTY)
    exports = [d for d in nested.definitions if isinstance(d, s.Export)]
    assert [everything[e.offset : e.offset + 3] for e in exports] == [b"\0\1f", b"\0\1g"]
    [module, *_] = [d for d in parse_component(everything).definitions if isinstance(d, s.CoreModuleDef)]
    assert everything[module.offset :].startswith(b"\0asm\1\0\0\0")
    assert module.code.obj is everything, "code is never copied"


F = "core func"
NO_OPTIONS = s.CanonOptions()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(type bool)", s.PrimitiveDef("bool")),
        ("(type error-context)", s.PrimitiveDef("error-context")),
        ('(type (record (field "a-b" u8)))', s.RecordDef((("a-b", "u8"),))),
        ('(type (variant (case "a") (case "b" char)))', s.VariantDef((("a", None), ("b", "char")))),
        ('(type (enum "a" "b"))', s.EnumDef(("a", "b"))),
        ('(type (flags "a" "b"))', s.FlagsDef(("a", "b"))),
        ("(type (list string))", s.ListDef("string")),
        ("(type (list u8 300))", s.ListDef("u8", 300)),
        ("(type (map char f64))", s.MapDef("char", "f64")),
        ("(type (tuple u8 s64))", s.TupleDef(("u8", "s64"))),
        ("(type (option f32))", s.OptionDef("f32")),
        ("(type (result))", s.ResultDef(None, None)),
        ("(type (result u8 (error s8)))", s.ResultDef("u8", "s8")),
        ("(type (own 7))", s.OwnDef(7)),
        ("(type (borrow 200))", s.BorrowDef(200)),
        ("(type (stream u16))", s.StreamDef("u16")),
        ("(type (future))", s.FutureDef(None)),
        ("(type (func))", s.FuncDef((), None)),
        ('(type (func async (param "x" 3) (result u8)))', s.FuncDef((("x", 3),), "u8", True)),
        ("(type (resource (rep i32)))", s.ResourceDef("i", None)),
        ("(type (resource (rep i32) (dtor (core func 2))))", s.ResourceDef("i", 2)),
        ("(type (instance))", s.InstanceTypeDef(())),
        (
            '(type (instance (type u8) (export "t" (type (eq 0)))))',
            s.InstanceTypeDef(
                (
                    s.TypeDef(0, s.PrimitiveDef("u8")),
                    s.Export(0, s.ExternName("t"), None, s.ExternDesc("type", 0, "eq")),
                )
            ),
        ),
        (
            '(type (component (import "r" (type (sub resource))) (export "c" (component (type 1)))))',
            s.ComponentTypeDef(
                (
                    s.Import(0, s.ExternName("r"), s.ExternDesc("type", None, "sub resource")),
                    s.Export(0, s.ExternName("c"), None, s.ExternDesc("component", 1)),
                )
            ),
        ),
    ],
)
def test_types(text: str, expected: s.DefType) -> None:
    assert parsed(text) == (s.TypeDef(0, expected),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(core type (func (param i32) (result i64)))", s.CoreTypeDef(0, (CoreFuncType("i", "l"),))),
        ("(core instance (instantiate 3))", s.CoreInstantiate(0, 3, ())),
        (
            '(core instance (instantiate 3 (with "" (instance 1)) (with "b" (instance 200))))',
            s.CoreInstantiate(0, 3, (("", 1), ("b", 200))),
        ),
        (
            '(core instance (export "a" (func 0)) (export "b" (memory 1)) (export "c" (table 2)))',
            s.CoreInlineExports(
                0,
                tuple(
                    (name, s.SortIndex(f"core {sort}", i))  # type: ignore[arg-type]
                    for i, (name, sort) in enumerate(zip("abc", ("func", "memory", "table"), strict=True))
                ),
            ),
        ),
        ('(alias core export 2 "x" (core func))', s.AliasCoreExport(0, "core func", 2, "x")),
        ('(alias export 2 "x" (instance))', s.AliasExport(0, "instance", 2, "x")),
        ('(alias export 2 "x" (core module))', s.AliasExport(0, "core module", 2, "x")),
        ("(alias outer 1 2 (type))", s.AliasOuter(0, "type", 1, 2)),
        ("(alias outer 0 2 (component))", s.AliasOuter(0, "component", 0, 2)),
        ("(alias outer 0 2 (core module))", s.AliasOuter(0, "core module", 0, 2)),
        (
            '(instance (instantiate 1 (with "f" (func 2)) (with "t" (type 3)) (with "c" (component 4))))',
            s.Instantiate(
                0,
                1,
                (
                    ("f", s.SortIndex("func", 2)),
                    ("t", s.SortIndex("type", 3)),
                    ("c", s.SortIndex("component", 4)),
                ),
            ),
        ),
        (
            '(instance (export "a:b/c@1.0.0" (instance 2)))',
            s.InlineExports(0, ((s.ExternName("a:b/c@1.0.0"), s.SortIndex("instance", 2)),)),
        ),
        ('(import "f" (func (type 1)))', s.Import(0, s.ExternName("f"), s.ExternDesc("func", 1))),
        (
            '(import "m" (core module (type 1)))',
            s.Import(0, s.ExternName("m"), s.ExternDesc("core module", 1)),
        ),
        ('(export "f" (func 1))', s.Export(0, s.ExternName("f"), s.SortIndex("func", 1))),
        (
            '(export "f" (func 1) (func (type 2)))',
            s.Export(0, s.ExternName("f"), s.SortIndex("func", 1), s.ExternDesc("func", 2)),
        ),
        (f"({F} (canon resource.new 1))", s.CanonResource(0, "new", 1)),
        (f"({F} (canon resource.drop 1))", s.CanonResource(0, "drop", 1)),
        (f"({F} (canon resource.rep 1))", s.CanonResource(0, "rep", 1)),
        (f"({F} (canon lower (func 1)))", s.CanonLower(0, 1, NO_OPTIONS)),
        (
            f"({F} (canon lower (func 1) string-encoding=utf16 async (memory 2) (realloc 3)))",
            s.CanonLower(0, 1, s.CanonOptions("utf16", 2, 3, async_=True)),
        ),
        (
            "(func (type 4) (canon lift (core func 1) string-encoding=latin1+utf16 (post-return 5)))",
            s.CanonLift(0, 1, s.CanonOptions("latin1+utf16", post_return=5), 4),
        ),
        (
            "(func (type 4) (canon lift (core func 1) async (callback 5)))",
            s.CanonLift(0, 1, s.CanonOptions(async_=True, callback=5), 4),
        ),
    ],
)
def test_definitions(text: str, expected: s.Definition) -> None:
    assert parsed(text) == (expected,)


# The immediates of a built-in: how the text writes them, and what they are.
IMMEDIATES: dict[str, tuple[bytes, tuple[object, ...]]] = {
    "": (b"", ()),
    "t": (b"\x05", (5,)),
    "a": (b"\x01", (True,)),
    "c": (b"\x00", (False,)),
    "cm": (b"\x01\x03", (True, 3)),
    "vu": (b"\x7f\x01", ("i", 1)),
    "ta": (b"\x05\x01", (5, True)),
    "yb": (b"\x02\x03", (2, 3)),
    "hy": (b"\x00\x02", (False, 2)),
    "hyb": (b"\x01\x02\x03", (True, 2, 3)),
    "h": (b"\x01", (True,)),
}


@pytest.mark.parametrize("opcode", BUILTINS)
def test_built_ins(opcode: int) -> None:
    name, operands = BUILTINS[opcode]
    options = s.CanonOptions(memory=4) if "o" in operands else None
    if operands == "ro":
        data, immediates = b"\x00\x7d", ("u8",)
    else:
        data, immediates = IMMEDIATES[operands.removesuffix("o")]
    data = bytes([opcode]) + data + (b"\x01\x03\x04" if options else b"")
    [found] = parse_component(EMPTY + section(8, b"\x01" + data)).definitions
    assert stripped(found) == s.CanonBuiltin(0, name, immediates, options)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("(canon task.return (result u8) (memory 0) (core func))", "task.return"),
        ("(canon context.get i32 0 (core func))", "context.get"),
        ("(canon waitable-set.new (core func))", "waitable-set.new"),
        ("(canon stream.read 0 async (memory 0) (core func))", "stream.read"),
        ("(canon future.drop-writable 0 (core func))", "future.drop-writable"),
        ("(canon error-context.drop (core func))", "error-context.drop"),
        ("(canon thread.index (core func))", "thread.index"),
        ("(canon backpressure.inc (core func))", "backpressure.inc"),
    ],
)
def test_built_ins_have_the_opcodes_of_other_tools(text: str, name: str) -> None:
    [found] = parsed(text)
    assert isinstance(found, s.CanonBuiltin)
    assert found.name == name


def test_names_with_attributes() -> None:
    name = b"\x02\x01a\x02\x00\x07a:b/c@1\x02\x01x"
    [found] = parse_component(EMPTY + section(10, b"\x01" + name + b"\x05\x00")).definitions
    assert isinstance(found, s.Import)
    assert found.name == s.ExternName("a", (("implements", "a:b/c@1"), ("external-id", "x")))


@pytest.mark.parametrize("prefix", [b"", b"\x00"])
def test_a_type_with_subtypes_in_a_module_type(prefix: bytes) -> None:
    """0x50 is not ambiguous there, and needs no prefix (Binary.md, core:deftype)."""
    declaration = b"\x01" + prefix + b"\x50\x00\x60\x00\x00"
    component = parse_component(EMPTY + section(3, b"\x01\x50\x01" + declaration))
    assert component.definitions == (s.CoreTypeDef(11, s.ModuleType((), (), (CoreFuncType("", ""),))),)


def test_start_and_values() -> None:
    start, value = parse_component(
        EMPTY + section(9, b"\x07\x02\x00\x01\x01") + section(12, b"\x01\x7d\x01\x2a")
    ).definitions
    assert stripped(start) == s.Start(0, 7, (0, 1), 1)
    assert stripped(value) == s.ValueDef(0, "u8", b"\x2a")  # type: ignore[arg-type]


# Malformed


def section(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number, len(content)]) + content


MODULE = b"\0asm\1\0\0\0"


@pytest.mark.parametrize(
    ("sections", "message", "offset"),
    [
        (section(13, b""), "there is no section 13", 8),
        (b"\x07\x05\x00", "5 bytes expected, 1 left", 10),
        (section(7, b"\x00\x00"), "1 bytes too many in the type section", 11),
        (section(7, b"\x01\x10"), "0x10 is no type", 11),
        (section(7, b"\x01\x70\x55"), "0x55 is no value type", 12),
        (section(7, b"\xff\xff\xff\xff\x0f"), "4294967295 items in 0 bytes", 10),
        (section(7, b"\x01\x40\x00\x02"), "0x02 is no kind of result", 13),
        (section(7, b"\x01\x6b"), "1 byte expected", 12),
        (section(7, b"\x01\x42\x01\x03\x00\x01a\x01\x00"), "0x03 is no declaration", 13),
        (section(7, b"\x01\x3f\x7f\x02"), "0x02 is no destructor", 13),
        (section(1, b"\0asn\1\0\0\0"), "core module: not WebAssembly", 10),
        (section(1, EMPTY), "core module: these are the first bytes of a component", 10),
        (section(1, MODULE + b"\x0e\x00"), "core module: there is no section 14", 20),
        (section(4, MODULE), "a component where its first bytes are those of a core module", 10),
        (section(4, EMPTY + b"\x0d\x00"), "there is no section 13", 18),
        (section(2, b"\x01\x02"), "0x02 is no core instance", 11),
        (section(2, b"\x01\x00\x00\x01\x01a\x00\x00"), "0x00 is no sort of an argument", 16),
        (section(2, b"\x01\x01\x01\x01a\x05\x00"), "0x05 is no core sort", 15),
        (section(3, b"\x01\x50\x01\x04"), "0x04 is no declaration of a module type", 13),
        (section(3, b"\x01\x50\x01\x01\x50\x00"), "1 byte expected", 16),
        (section(3, b"\x01\x00\x60\x00\x00"), "0x60 is no form of a subtype", 12),
        (section(3, b"\x01\x50\x01\x03\x01a\x00\x00"), "there is no type 0", 16),
        (section(3, b"\x01\x50\x01\x02\x10\x00\x00\x00"), "0x00 is no target of an alias", 15),
        (section(5, b"\x01\x07"), "0x07 is no instance", 11),
        (section(5, b"\x01\x00\x00\x01\x01a\x06\x00"), "0x06 is no sort", 16),
        (section(6, b"\x01\x03\x03\x00\x00"), "0x03 is no target of an alias", 12),
        (section(6, b"\x01\x00\x07\x00\x00\x00"), "0x07 is no core sort", 12),
        (section(8, b"\x01\x99\x00"), "0x99 is no canonical definition", 11),
        (section(8, b"\x01\x01\x01\x00\x00"), "0x01 is no sort of a lowered function", 12),
        (section(8, b"\x01\x01\x00\x00\x01\x0a"), "0x0a is no canonical option", 15),
        (section(8, b"\x01\x01\x00\x00\x02\x03\x00\x03\x00"), "the option memory is there twice", 17),
        (section(8, b"\x01\x01\x00\x00\x02\x00\x01"), "the option encoding is there twice", 16),
        (section(10, b"\x01\x03\x01a\x01\x00"), "0x03 is no kind of name", 11),
        (section(10, b"\x01\x00\x01\xff\x01\x00"), "name is not UTF-8", 12),
        (section(10, b"\x01\x00\x01a\x06\x00"), "0x06 is no kind of import or export", 14),
        (section(10, b"\x01\x00\x01a\x03\x02"), "0x02 is no bound of a type", 15),
        (section(10, b"\x01\x00\x01a\x00\x10\x00"), "0x10 is no core extern", 15),
        (section(10, b"\x01\x02\x01a\x02\x01\x00\x01\x00\x05\x00"), "versionsuffix is there twice", 17),
        (section(11, b"\x01\x00\x01a\x01\x00\x02"), "0x02 is no ascribed type", 16),
        (section(12, b"\x01\x7d\x05\x2a"), "5 bytes expected, 1 left", 13),
    ],
)
def test_malformed(sections: bytes, message: str, offset: int) -> None:
    with pytest.raises(DecodeError, match=message) as caught:
        parse_component(EMPTY + sections)
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("wasm", "feature"),
    [
        (MODULE, "core modules"),
        (b"\0asm\x0c\0\1\0", "old component binaries"),
        (EMPTY + section(7, b"\x01\x40\x00\x01\x01\x01a\x7d"), "named results"),
        (EMPTY + section(8, b"\x01\x01\x00\x00\x01\x08"), "gc"),
    ],
)
def test_what_is_not_supported(wasm: bytes, feature: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        parse_component(wasm)
    assert caught.value.feature == feature


@pytest.mark.parametrize("wasm", [b"", b"\0as", b"\0asm", b"\0asm\x0d\0\1", b"(component)", b"\0asm\2\0\0\0"])
def test_no_component_at_all(wasm: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_component(wasm)


@pytest.mark.parametrize(
    "opening", ["(component ", '(type (instance (export "x" ', "(type (component (type "]
)
def test_nesting_is_bounded(opening: str) -> None:
    """Not by Python's stack: what is deeper than anybody needs is said to be."""

    def nested(depth: int) -> bytes:
        if opening == "(component ":
            return wat2wasm(f"{'(component ' * (depth + 1)}{')' * (depth + 1)}".encode())
        wasm = b"\x41\x00"
        for _ in range(depth - 1):
            wasm = b"\x41\x01\x01" + wasm
        content = b"\x01" + wasm
        return EMPTY + b"\x07" + bytes([len(content) & 0x7F | 0x80, len(content) >> 7]) + content

    parse_component(nested(MAX_NESTING))
    with pytest.raises(UnsupportedError, match=f"more than {MAX_NESTING} deep"):
        parse_component(nested(MAX_NESTING + 1))


@pytest.mark.parametrize("inside", [False, True], ids=["a component", "its module"])
def test_a_flood_of_definitions_ends(inside: bool) -> None:
    """Of a byte each, and a hundred for us."""

    def long_section(number: int, content: bytes) -> bytes:
        size = len(content)
        return bytes([number, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + content

    flood = b"\xc1\x84\x3d" + b"\x7d" * (MAX_ITEMS + 1)  # 1,000,001
    wasm = long_section(1, MODULE + long_section(3, flood)) if inside else long_section(7, flood)
    with pytest.raises(UnsupportedError, match="definitions in one binary"):
        parse_component(EMPTY + wasm)


def test_modules_count_for_the_component_around_them() -> None:
    quota = Quota()
    quota.left = 3
    module = MODULE + section(1, b"\x01\x60\0\0") + section(0, b"\0") * 2
    with pytest.raises(UnsupportedError, match="definitions in one binary"):
        core_module(module, quota)
    assert core_module(module).type_count == 1


def test_every_truncation(everything: bytes) -> None:
    """What is cut off between two sections is a component, anywhere else it is malformed."""
    ends = set()
    at = 8
    while at < len(everything):
        ends.add(at)
        size, shift, at = 0, 0, at + 1
        while True:
            byte = everything[at]
            size |= (byte & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if byte < 0x80:
                break
        at += size
    for size in range(len(everything)):
        if size in ends:
            parse_component(everything[:size])
            continue
        with pytest.raises(DecodeError) as caught:
            parse_component(everything[:size])
        assert caught.value.offset <= size


def survives(wasm: bytes) -> str:
    """How far `wasm` comes; anything but an error of ours is raised."""
    try:
        component = parse_component(wasm)
    except (DecodeError, UnsupportedError):
        return "malformed"
    try:
        validate(component)
    except (DecodeError, UnsupportedError):
        result = "invalid"
    else:
        result = "valid"
    try:
        resolve(component, lambda name: None)
    except ComponentError:
        return result
    return f"{result}, resolved"


@pytest.mark.parametrize("seed", range(4))
def test_mutations(everything: bytes, seed: int) -> None:
    """Thousands of changed bytes: whatever they are, the answer is one of our own errors or a plan."""
    rng = random.Random(seed)
    outcomes = set()
    for _ in range(1000):
        wasm = bytearray(everything)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at = rng.randrange(8, len(wasm))
            match rng.randrange(4):
                case 0:
                    wasm[at] = rng.randrange(256)
                case 1:
                    wasm[at] ^= 1 << rng.randrange(8)
                case 2:
                    wasm[at] = rng.choice(b"\x00\x01\x7f\x80\xff")
                case _:
                    size = rng.randrange(1, 6)
                    other = rng.randrange(8, len(wasm) - size)
                    wasm[at : at + size] = wasm[other : other + size]
        outcomes.add(survives(bytes(wasm)))
    assert {"malformed", "invalid"} <= outcomes
