from __future__ import annotations

import random

import pytest
import wasmtime

from wasm_gateway.component import wit
from wasm_gateway.component.decode import World, core_module, embedded_worlds
from wasm_gateway.component.types import FuncType, InterfaceType, OwnType, ResourceType
from wasm_gateway.errors import DecodeError, UnsupportedError

MODULE = b"\0asm\1\0\0\0"

# A world with all that a world may have, as wit-component writes it.
WORLD = """
  (component
    (type $errors (instance
      (export "error" (type $error (sub resource)))
      (type $own (own $error))
      (type $stream-error (variant (case "closed") (case "failed" $own)))
      (export "stream-error" (type (eq $stream-error)))
      (type $borrow (borrow $error))
      (type $debug (func (param "self" $borrow) (result string)))
      (export "[method]error.to-debug-string" (func (type $debug)))
    ))
    (import "test:io/errors@1.0.0" (instance $io (type $errors)))
    (alias export $io "stream-error" (type $stream-error))
    (alias export $io "error" (type $error))
    (type $store (instance
      (alias outer 1 $stream-error (type $se))
      (export "stream-error" (type $e1 (eq $se)))
      (alias outer 1 $error (type $er))
      (export "error" (type (eq $er)))
      (type $strings (list string))
      (type $triple (tuple u8 f64 char))
      (type $thing (record (field "a" u8) (field "b-c" $strings) (field "d" $triple)))
      (export "thing" (type $a-thing (eq $thing)))
      (type $e (enum "x" "y"))
      (export "e" (type $an-e (eq $e)))
      (type $f (flags "read" "write"))
      (export "f" (type $an-f (eq $f)))
      (type $maybe (option $a-thing))
      (type $result (result $maybe (error $e1)))
      (type $get (func (param "e" $an-e) (param "f" $an-f) (result $result)))
      (export "get" (func (type $get)))
      (type $put (func (param "s" s64) (param "b" bool)))
      (export "put" (func (type $put)))
      (type $four (list u8 4))
      (type $void (result))
      (type $later (func async (param "x" $four) (result $void)))
      (export "later" (func (type $later)))
    ))
    (import "test:kv/store" (instance (type $store)))
    (type $log (func (param "line" string)))
    (import "log" (func (type $log)))
    (type $handler (instance (type (func)) (export "handle" (func (type 0)))))
    (export "test:app/handler" (instance (type $handler)))
    (export "tick" (func (type $log)))
  )
"""

WIT = """
package test:app;
package test:io@1.0.0 {
  interface errors {
    resource error { to-debug-string: func() -> string; }
    variant stream-error { closed, failed(error) }
  }
}
package test:kv {
  interface store {
    use test:io/errors@1.0.0.{error, stream-error};
    record thing { a: u8, b-c: list<string>, d: tuple<u8, f64, char> }
    enum e { x, y }
    flags f { read, write }
    get: func(e: e, f: f) -> result<option<thing>, stream-error>;
    put: func(s: s64, b: bool);
    later: async func(x: list<u8, 4>) -> result;
  }
}
interface handler { handle: func(); }
world app {
  import test:io/errors@1.0.0;
  import test:kv/store;
  import log: func(line: string);
  export handler;
  export tick: func(line: string);
}
"""


def leb(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def custom(name: str, data: bytes) -> bytes:
    content = leb(len(name)) + name.encode() + data
    return b"\0" + leb(len(content)) + content


def version4(world: str, encoding: int = 0, name: str = "test:app/app", extra: str = "") -> bytes:
    """What wit-bindgen embeds since the middle of 2023."""
    return bytes(
        wasmtime.wat2wasm(
            f"""(component
              (@custom "wit-component-encoding" "\\04\\{encoding:02x}")
              (type (component
                {world.replace("(component", "(type (component", 1)})
                (export "{name}" (component (type 0)))))
              (export "app" (type 0)) {extra}
              (@producers (processed-by "wit-component" "0.227.0")))"""
        )
    )


def version3(world: str, name: str = "app") -> bytes:
    """What the SDKs of Spin 1 embed: the types of a whole package, and which world of it is meant."""
    component = bytes(
        wasmtime.wat2wasm(
            f"""(component
              (type (component
                (type (instance (type (func)) (export "handle" (func (type 0)))))
                (export "test:app/handler" (instance (type 0)))
                {world.replace("(component", "(type (component", 1)})
                (export "test:app/app" (component (type 1)))
                (type (component))
                (export "test:app/other" (component (type 2)))))
              (export "test:app/wit" (type 0)))"""
        )
    )
    return b"\x03\x00" + leb(len(name)) + name.encode() + component


def module(*sections: bytes) -> bytes:
    return MODULE + b"".join(custom(f"component-type:{i}", data) for i, data in enumerate(sections))


def texts(item: InterfaceType | FuncType) -> dict[str, str]:
    return {k: str(f) for k, f in item.funcs.items()} if isinstance(item, InterfaceType) else {"": str(item)}


@pytest.mark.parametrize("section", [version4(WORLD), version3(WORLD)], ids=["version 4", "version 3"])
def test_world(section: bytes) -> None:
    """Decoded bytes and parsed text say the same."""
    world = embedded_worlds(module(section))
    expected = wit.parse(WIT).worlds["test:app/app"]
    assert world.name == "test:app/app"
    for side in ("imports", "exports"):
        decoded, parsed = getattr(world, side), getattr(expected, side)
        assert list(decoded) == list(parsed)
        for name, item in decoded.items():
            assert texts(item) == texts(parsed[name])
    store = world.imports["test:kv/store"]
    assert isinstance(store, InterfaceType)
    parsed_store = expected.imports["test:kv/store"]
    assert isinstance(parsed_store, InterfaceType)
    assert {k: str(t) for k, t in store.types.items()} == {k: str(t) for k, t in parsed_store.types.items()}
    assert store.types["error"] == ResourceType("error", "test:io/errors@1.0.0")
    assert store.types["thing"].name == "thing"  # type: ignore[union-attr]
    assert world.encoding == "utf8"


def test_producers_and_encoding() -> None:
    world = embedded_worlds(module(version4(WORLD, 2)))
    assert world.encoding == "latin1+utf16"
    assert world.producers == {"processed-by": {"wit-component": "0.227.0"}}


def test_module_may_be_decoded_already() -> None:
    wasm = module(version4(WORLD))
    assert embedded_worlds(core_module(wasm)) == embedded_worlds(wasm)
    assert embedded_worlds(MODULE) == World("root")


def test_resources_of_the_world_itself() -> None:
    world = embedded_worlds(
        module(
            version4(
                """(component
                  (import "a" (type (sub resource)))
                  (type (own 0))
                  (type (list 1))
                  (type (func (param "many" 2) (result 1)))
                  (import "[constructor]a" (func (type 3))))"""
            )
        )
    )
    make = world.imports["[constructor]a"]
    assert isinstance(make, FuncType)
    assert isinstance(make.result, OwnType)
    assert str(make) == "func(many: list<own<a>>) -> own<a>"


def test_sections_are_merged() -> None:
    half = """(component
      (type (instance (type (func)) (export "{}" (func (type 0)))))
      (import "test:x/y" (instance (type 0)))
      (type (func))
      (export "{}" (func (type 1))))"""
    world = embedded_worlds(module(*(version4(half.format(a, b)) for a, b in [("f", "one"), ("g", "two")])))
    assert texts(world.imports["test:x/y"]) == {"f": "func()", "g": "func()"}
    assert set(world.exports) == {"one", "two"}


def test_sections_that_contradict_each_other() -> None:
    one = '(component (type (func)) (import "f" (func (type 0))))'
    other = '(component (type (func (param "a" u8))) (import "f" (func (type 0))))'
    with pytest.raises(DecodeError, match=r"f is declared in two ways: func\(\) and func\(a: u8\)"):
        embedded_worlds(module(version4(one), version4(other)))
    interface = '(component (type (instance)) (import "f" (instance (type 0))))'
    with pytest.raises(DecodeError, match=r"f is declared in two ways: an interface and func\(\)"):
        embedded_worlds(module(version4(interface), version4(one)))
    with pytest.raises(UnsupportedError, match="several string encodings"):
        embedded_worlds(module(version4(one), version4(one, 1)))


def test_old_forms() -> None:
    """Named results (now always empty) and `refines` of a case, as bytes of 2023 have them."""
    declarations = [
        b"\1\x40\0\1\2\1a\x79\1b\x73",
        b"\1\x40\0\1\1\1a\x79",
        b"\1\x71\2\1x\0\0\1y\0\1\0",
        b"\1\x40\1\1v\2\1\0",
        *(b"\4\0\1" + name + b"\1" + bytes([i]) for name, i in ((b"f", 0), (b"g", 1), (b"h", 3))),
    ]
    package = b"\x41\2\1\x41" + leb(len(declarations)) + b"".join(declarations) + b"\4\0\1w\4\0"
    export = b"\x0b\x07\1\0\1w\3\0\0"
    exports = embedded_worlds(module(b"\3\0\1w" + types_of(package) + export)).exports
    assert {name: str(item) for name, item in exports.items()} == {
        "f": "func() -> tuple<u32, string>",
        "g": "func() -> u32",
        "h": "func(v: variant { x, y })",
    }


def test_attributes_of_names_are_read() -> None:
    """nameattributes 0x02, and an import and exports of the component around the world."""
    function = b"\1\x40\0\1\0"
    interface = b"\1\x42\0"
    attributed = b"\3\2\1x\2\0\5a:b/c\2\3who\5\1"
    world = b"\x41\3" + function + interface + attributed
    package = b"\x41\2\1" + world + b"\4\0\1w\4\0"
    imports = b"\x0a\x06\1\0\1i\5\1"
    content = b"\3" + b"\0\1w\3\0\0" + b"\0\1i\5\0\0" + b"\0\1t\3\0\0"
    exports = b"\x0b" + leb(len(content)) + content
    component = types_of(package, b"\x42\0") + imports + exports
    assert list(embedded_worlds(module(component)).imports) == ["x"]


@pytest.mark.parametrize(
    ("world", "feature"),
    [
        ('(component (type (component)) (import "c" (component (type 0))))', "components in a world"),
        (
            """(component
              (type (instance (export "r" (type (sub resource)))))
              (import "test:a/one" (instance (type 0)))
              (import "test:a/two" (instance (type 0))))""",
            "one resource type under two names",
        ),
    ],
)
def test_worlds_that_are_not_read(world: str, feature: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        embedded_worlds(module(version4(world)))
    assert caught.value.feature == feature


def types_of(*types: bytes) -> bytes:
    """A component with these types."""
    content = leb(len(types)) + b"".join(types)
    return b"\0asm\x0d\0\1\0\x07" + leb(len(content)) + content


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (b"", "1 byte expected"),
        (b"\0asm\x0d\0\1\0", "one world expected, not 0"),
        (MODULE, "holds no component"),
        (types_of(b"\x10"), "0x10 is no type"),
        (types_of(b"\x72\0"), "type is empty"),
        (types_of(b"\x6d\0"), "type is empty"),
        (types_of(b"\x6f\0"), "type is empty"),
        (types_of(b"\x6b\0"), "there is no type 0"),
        (types_of(b"\x40\0\1\0", b"\x6b\0"), "type 0 is not that of a value"),
        (types_of(b"\x6b\x5f"), "0x5f is no value type"),
        (types_of(b"\x72\1\3a b\x7f"), "'a b' is no label"),
        (types_of(b"\x72\2\1a\x7f\1A\x7f"), "a label is there twice"),
        (types_of(b"\x67\x7d\0"), "list of length 0"),
        (types_of(b"\x71\1\1a\0\2"), "0x02 is no end of a case"),
        (types_of(b"\x6a\2"), "0x02 is no optional type"),
        (types_of(b"\x40\0\2"), "0x02 is no kind of result"),
        (types_of(b"\x6b\x7d", b"\x69\0"), "type ResourceType expected, not OptionType"),
        (types_of(b"\x42\1\3\0\1r\3\1"), "0x03 is no declaration"),
        (types_of(b"\x42\1\5"), "0x05 is no declaration"),
        (types_of(b"\x42\2\4\0\1r\3\1\4\0\1r\3\1"), "'r' is there twice"),
        (types_of(b"\x42\1\2\3\2\5\0"), "alias reaches out too far"),
        (types_of(b"\x42\1\2\3\2\1\0"), "there is no type 0"),
        (types_of(b"\x42\1\2\3\0\0\1a"), "there is no instance 0"),
        (types_of(b"\x42\1\2\5\2\0\0"), "a instance cannot be aliased"),
        (types_of(b"\x42\1\2\7"), "0x07 is no sort"),
        (types_of(b"\x42\1\4\3\1a"), "0x03 is no kind of name"),
        (types_of(b"\x42\1\4\0\1a\6"), "0x06 is no kind of import or export"),
        (types_of(b"\x42\1\4\0\1a\1\0"), "there is no type 0"),
        (types_of(b"\x42\2\1\x6b\x7d\4\0\1a\1\0"), "type FuncType expected"),
        (types_of() + b"\x0d\0", "there is no section 13"),
        (types_of() + b"\x0b\3\0\0\0", "2 bytes too many"),
        (b"\3\7\1w" + types_of(), "there is no string encoding 7"),
    ],
)
def test_malformed(section: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        embedded_worlds(module(section))


def test_function_that_returns_a_borrow() -> None:
    inner = b"\x41\3\3\0\1r\3\1\1\x68\0\1\x40\0\0\1"
    with pytest.raises(DecodeError, match="cannot return a borrow"):
        embedded_worlds(module(types_of(inner)))


def nested(depth: int) -> bytes:
    body = b"\x42\0"
    for _ in range(depth):
        body = b"\x42\1\1" + body
    return body


def index(i: int) -> bytes:
    """Of a type, as a signed number."""
    return bytes([i]) if i < 64 else bytes([i & 0x7F | 0x80, i >> 7])


@pytest.mark.parametrize(
    ("section", "feature"),
    [
        (b"\x02\0", "component-type versions"),
        (b"\xff", "component-type versions"),
        (types_of() + custom("wit-component-encoding", b"\5\0"), "component-type versions"),
        (types_of(b"\x63\x73\x7d"), "maps"),
        (types_of(b"\x6e\x21" + b"".join(b"\3a%02d" % i for i in range(33))), "flags of more than 32 labels"),
        (types_of(b"\x3f\x7f\0"), "defined resources"),
        (types_of(b"\x42\1\0\x50\0"), "core types"),
        (types_of(b"\x42\1\2\0\x11"), "core definitions"),
        (types_of(b"\x42\1\4\0\1m\0\x11\0"), "imported core modules"),
        (types_of(b"\x42\1\4\0\1v\2\1\x7f"), "values"),
        (types_of(nested(40)), "deeply nested types"),
        (types_of(b"\x6f\2\x7d\x7d", *(b"\x6f\2" + bytes([i, i]) for i in range(60))), "large types"),
        (types_of(b"\x70\x7d", *(b"\x70" + index(i) for i in range(70))), "large types"),
        (types_of() + b"\x01\0", "components in a world"),
    ],
)
def test_unsupported(section: bytes, feature: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        embedded_worlds(module(section))
    assert caught.value.feature == feature


def test_every_truncation() -> None:
    section = version4(WORLD)
    whole = []
    for size in range(len(section)):
        try:
            whole.append(embedded_worlds(module(section[:size])))
        except (DecodeError, UnsupportedError):
            pass
    [world] = whole  # cut in front of the section `producers`
    assert not world.producers
    assert world.imports.keys() == embedded_worlds(module(section)).imports.keys()


@pytest.mark.parametrize("section", [version4(WORLD), version3(WORLD)], ids=["version 4", "version 3"])
def test_many_mutations(section: bytes) -> None:
    rng = random.Random(11)
    refused = 0
    for _ in range(500):
        data = bytearray(section)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(data))
            match rng.randrange(3):
                case 0:
                    data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, *range(0x3F, 0x74)))
                case 1:
                    del data[at : at + rng.randrange(4)]
                case 2:
                    data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(20)]
        try:
            embedded_worlds(module(bytes(data)))
        except (DecodeError, UnsupportedError):
            refused += 1
    assert 250 < refused < 500


def test_work_is_bounded() -> None:
    """Small sections whose types are large in many ways."""
    wide = b"\x6f\x40" + b"\x73" * 64
    wider = b"\x6f\x40" + b"\0" * 64
    functions = [b"\x40\0\0\1"] * 20_000
    with pytest.raises(UnsupportedError, match="functions whose types"):
        embedded_worlds(module(types_of(wide, wider, *functions)))


def test_a_module_has_not_too_many_worlds() -> None:
    """Each of them may be as large as one may be."""
    embedded_worlds(module(*[version4(WORLD)] * 32))
    with pytest.raises(UnsupportedError, match="more than 32 sections"):
        embedded_worlds(module(*[version4(WORLD)] * 33))
