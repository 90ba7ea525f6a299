from __future__ import annotations

import random
from typing import Any

import pytest

from wasm_gateway.component.types import PRIMITIVES, FuncType, InterfaceType, OwnType, ResourceType
from wasm_gateway.component.wit import WitError, parse, parse_interface
from wasm_gateway.errors import UnsupportedError

KEY_VALUE = """
package test:kv@1.2.3-rc.1;   // a comment
/* a block /* in a block */ */
@since(version = 1.0.0)
interface types {
  /// what can go wrong
  variant error { no-such-key, io(string), }
  type key = string;
  resource lease;
}
interface key-value {
  use types.{error as failure, key, lease};
  type store = u32;
  open: func(name: string) -> result<store, failure>;
  @unstable(feature = fancy)
  @deprecated(version = 1.2.0)
  get: func(store: store, key: key) -> result<list<u8>, failure>;
  close: func(store: store);
  renew: func(lease: borrow<lease>) -> lease;
}
"""


def test_interface() -> None:
    document = parse(KEY_VALUE)
    assert list(document.interfaces) == ["test:kv/types@1.2.3-rc.1", "test:kv/key-value@1.2.3-rc.1"]
    interface = document.interfaces["test:kv/key-value@1.2.3-rc.1"]
    error = "variant { no-such-key, io(string) }"
    assert {name: str(ft) for name, ft in interface.funcs.items()} == {
        "open": f"func(name: string) -> result<u32, {error}>",
        "get": f"func(store: u32, key: string) -> result<list<u8>, {error}>",
        "close": "func(store: u32)",
        "renew": "func(lease: borrow<lease>) -> own<lease>",
    }
    assert str(interface.types["failure"]) == error
    assert interface.types["lease"] == ResourceType("lease", "test:kv/types@1.2.3-rc.1")
    assert parse_interface(interface.name, KEY_VALUE) == interface
    with pytest.raises(WitError, match="no interface test:kv/other but test:kv/types@"):
        parse_interface("test:kv/other", KEY_VALUE)


TYPES = """
interface i {
  record r { a: u8, %list: option<string>, from-x: f64 }
  enum e { a, b, }
  flags f { a, b, c }
  type t = tuple<bool, char, s8, s16, s32, s64, u8, u16, u32, u64, f32, f64, string,>;
  type results = tuple<result, result<u8>, result<_, u8>, result<u8, string>>;
  type fixed = list<u16, 4>;
  type later = list<defined-below>;
  type defined-below = e;
  type old = tuple<float32, float64>;
  type asynchronous = tuple<stream<u8>, stream, future<string>, future>;
  type failed = list<error-context>;
}
"""


def test_types() -> None:
    interface = parse(TYPES).interfaces["i"]
    assert {name: str(t) for name, t in interface.types.items()} == {
        "r": "record { a: u8, list: option<string>, from-x: f64 }",
        "e": "enum { a, b }",
        "f": "flags { a, b, c }",
        "t": "tuple<bool, char, s8, s16, s32, s64, u8, u16, u32, u64, f32, f64, string>",
        "results": "tuple<result, result<u8>, result<_, u8>, result<u8, string>>",
        "fixed": "list<u16, 4>",
        "later": "list<enum { a, b }>",
        "defined-below": "enum { a, b }",
        "old": "tuple<f32, f64>",
        "asynchronous": "tuple<stream<u8>, stream, future<string>, future>",
        "failed": "list<error-context>",
    }


def test_resources() -> None:
    interface = parse(
        """
        package test:r;
        interface i {
          resource blob {
            constructor(init: list<u8>);
            write: func(bytes: list<u8>);
            read: async func(n: u32) -> list<u8>;
            merge: static func(lhs: borrow<blob>, rhs: own<blob>) -> blob;
          }
          resource fallible { constructor() -> result<fallible, string>; }
          resource opaque;
          type alias = opaque;
          pass: func(x: alias, y: borrow<alias>);
        }
        """
    ).interfaces["test:r/i"]
    assert {name: str(ft) for name, ft in interface.funcs.items()} == {
        "[constructor]blob": "func(init: list<u8>) -> own<blob>",
        "[method]blob.write": "func(self: borrow<blob>, bytes: list<u8>)",
        "[method]blob.read": "async func(self: borrow<blob>, n: u32) -> list<u8>",
        "[static]blob.merge": "func(lhs: borrow<blob>, rhs: own<blob>) -> own<blob>",
        "[constructor]fallible": "func() -> result<own<fallible>, string>",
        "pass": "func(x: own<opaque>, y: borrow<opaque>)",
    }
    assert interface.types["alias"] is interface.types["opaque"]


def test_worlds() -> None:
    known: dict[str, Any] = dict(
        parse("package a:b@1.0.0; interface c { resource r; type n = u64; }").interfaces
    )
    known |= parse("package a:w; world base { import a:b/c@1.0.0; export tick: func(); }", known).worlds
    world = parse(
        """
        package my:app;
        use a:b/c@1.0.0 as other;
        interface local { ping: func(); }
        world app {
          include a:w/base with { tick as tock };
          use other.{n, r};
          record item { at: n }
          import local;
          import log: func(text: string, items: list<item>);
          import inline: interface { go: func() -> option<u8>; }
          export run: async func(r: borrow<r>);
          export other;
        }
        """,
        known,
    ).worlds["my:app/app"]
    assert set(world.imports) == {"a:b/c@1.0.0", "my:app/local", "log", "inline"}
    assert set(world.exports) == {"tock", "run", "a:b/c@1.0.0"}
    assert str(world.imports["log"]) == "func(text: string, items: list<record { at: u64 }>)"
    inline = world.imports["inline"]
    assert isinstance(inline, InterfaceType)
    assert str(inline.funcs["go"]) == "func() -> option<u8>"
    assert isinstance(world.exports["run"], FuncType)
    assert world.imports["a:b/c@1.0.0"] is known["a:b/c@1.0.0"]


def test_world_in_parts() -> None:
    document = parse(
        """
        package a:b;
        world base { import tick: func(); }
        world left { include base; }
        world right { include base; }
        world all {
          include left;
          include right;
          resource item { constructor(n: u8); }
          export make: func() -> item;
        }
        """
    )
    world = document.worlds["a:b/all"]
    assert {name: str(item) for name, item in world.imports.items()} == {
        "tick": "func()",
        "[constructor]item": "func(n: u8) -> own<item>",
    }
    assert {name: str(item) for name, item in world.exports.items()} == {"make": "func() -> own<item>"}


def test_nested_packages() -> None:
    document = parse(
        """
        package a:outer;
        package a:inner@0.1.0 { interface i { type t = u8; } }
        interface j { use a:inner/i@0.1.0.{t}; f: func(x: t); }
        """
    )
    assert str(document.interfaces["a:outer/j"].funcs["f"]) == "func(x: u8)"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("interface i {", 1, "a name expected"),
        ("interface i {\n  f: func()\n}", 3, "';' expected, not '}'"),
        ("interface i {\n f: fun();\n}", 2, "'func' expected, not 'fun'"),
        ("interface i { f: func(a: b); }", 1, "type b is not defined"),
        ("interface i {\n type a = list<b>;\n type b = option<a>;\n}", 3, "type a contains itself"),
        ("interface i { type a = a; }", 1, "type a contains itself"),
        ("interface i {\n enum e {}\n}", 2, "enum e is empty"),
        ("interface i { record r { } }", 1, "record r is empty"),
        ("interface i { enum e { a, A } }", 1, "A is there twice"),
        ("interface i { f: func(a: u8, a: u8); }", 1, "a is there twice"),
        ("interface i { f: func(); f: func(); }", 1, "function f is defined twice"),
        ("interface i { type a = u8;\n type a = u8; }", 2, "type a is defined twice"),
        ("interface i {}\ninterface i {}", 2, "i is defined twice"),
        ("interface i { use j.{a}; }", 1, "interface j is not known"),
        ("interface j {} interface i {\n use j.{a}; }", 2, "interface j has no type a"),
        ("interface i { use j.{a}; } interface j { use i.{a}; }", 1, "uses itself"),
        ("interface i { f: func(a: borrow<b>); type b = u8; }", 1, "b is not a resource"),
        ("interface i { type a = borrow<u8>; }", 1, "a name expected, not 'u8'"),
        ("interface i { type a = list<u8, 0>; }", 1, "a number from 1"),
        ("interface i { type a = list<u8, 99999999999>; }", 1, "a number from 1"),
        ("interface i { type a = option<u8, u8>; }", 1, "option takes 1 types"),
        ("interface i { type a = tuple<>; }", 1, "tuple takes some types"),
        ("interface i { type a = func; }", 1, "a type expected"),
        ("interface i { list: func(); }", 1, "a name expected, not 'list'"),
        ("\n/* no end", 2, "comment has no end"),
        ("interface i { # }", 1, "'#' is no part"),
        ("@since(version = 1.0.0", 1, "')' expected"),
        ("world w { include v; }", 1, "world v is not known"),
        ("world w { include w; }", 1, "includes itself"),
        ("world w { f: func(); }", 1, "import or export expected"),
        ("world w {\n import f: func();\n import f: func(); }", 3, "f is there twice"),
        (
            "interface i { use j.{t}; type t = u8; } interface j { type t = u8; }",
            1,
            "type t is defined twice",
        ),
        (f"interface i {{ flags f {{ {', '.join(f'a{i}' for i in range(33))} }} }}", 1, "at most 32"),
        ("nonsense", 1, "interface, world or use expected"),
        ("package a; interface i {}", 1, "':' expected"),
    ],
)
def test_errors(text: str, line: int, message: str) -> None:
    with pytest.raises(WitError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert caught.value.line == line
    assert str(caught.value).startswith(f"line {line}: ")


def chain(text: str, count: int) -> str:
    return "".join(text.format(i, i + 1) for i in range(count))


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("interface i { type a = map<string, u8>; }", "maps"),
        (f"interface i {{ type a = {'list<' * 100}u8{'>' * 100}; }}", "large types"),
        (f"interface i {{ type a = {'list<' * 100_000} }}", "large types"),
        (f"interface i {{ {chain('type t{} = tuple<t{}>;', 500)} type t500 = u8; }}", "large types"),
        (f"interface i {{ type t0 = u8; {chain('type t{1} = tuple<t{0}, t{0}>;', 60)} }}", "large types"),
        (
            chain("interface i{} {{ use i{}.{{t}}; }} ", 500) + "interface i500 { type t = u8; }",
            "large types",
        ),
        (chain("world w{} {{ include w{}; }} ", 500) + "world w500 {}", "large types"),
    ],
    ids=lambda x: x[:30],
)
def test_limits(text: str, feature: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        parse(text)
    assert caught.value.feature == feature


def test_every_truncation_and_many_mutations() -> None:
    """A text is read, or refused with one of the documented errors."""
    text = KEY_VALUE + TYPES + "world w { import types; export f: func() -> result; }"
    marks = [*'{}()<>,;:=@%_-*/"\n ', "use", "type", "i", "0", "//", "/*", "resource r {", "func"]
    rng = random.Random(7)
    texts = [text[:end] for end in range(0, len(text), 3)]
    for _ in range(300):
        at = rng.randrange(len(text))
        texts.append(text[:at] + rng.choice(marks) + text[at + rng.randrange(3) :])
    refused = 0
    for candidate in texts:
        try:
            parse(candidate)
        except (WitError, UnsupportedError):
            refused += 1
    assert 300 < refused < len(texts)


def test_fields_keep_their_names() -> None:
    interface = parse("interface i { type own-it = own<r>; resource r; }").interfaces["i"]
    assert interface.types["own-it"] == OwnType(interface.types["r"])
    assert PRIMITIVES["u8"] != interface.types["own-it"]
