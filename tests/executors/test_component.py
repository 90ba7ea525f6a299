"""Components in the real engine: calls between component instances, handles, several memories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from wasm_gateway import HostInterface
from wasm_gateway.component.handles import HandleTable
from wasm_gateway.component.values import Err, Ok, Some
from wasm_gateway.engine import Engine, wat2wasm
from wasm_gateway.errors import ComponentError, LimitExceeded, LinkError, Trap, UnsupportedError
from wasm_gateway.executors.component import Linked, link_component
from wasm_gateway.host.application import Hosts
from wasm_gateway.host.base import Deadline, Grants
from wasm_gateway.instance import Instance, Limits
from wasm_gateway.runtime_config import RuntimeConfig

ENCODINGS = ["utf8", "utf16", "latin1+utf16"]


class Log(HostInterface):
    """What the guests of this module say to the host."""

    wit = """package test:host@1.0.0;
      interface log {
        resource file { constructor(name: string); name: func() -> string; }
        log: func(x: u32); say: func(x: string) -> string; fail: func();
      }"""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def log(self, guest: object, x: int) -> None:
        self.seen.append(x)

    def say(self, guest: object, x: str) -> str:
        self.seen.append(x)
        return x.upper()

    def fail(self, guest: object) -> None:
        raise ZeroDivisionError("the host's own mistake")

    class File:
        closed: list[str] = []

        def __init__(self, guest: object, name: str) -> None:
            self.of = name

        def name(self, guest: object) -> str:
            return self.of

        def close(self, guest: object) -> None:
            self.closed.append(self.of)


LOG = """(import "test:host/log@1.0.0" (instance $host
    (export "file" (type $file (sub resource)))
    (export "log" (func (param "x" u32))) (export "fail" (func))))
  (alias export $host "log" (func $log))
  (core func $log' (canon lower (func $log)))"""


class Running:
    """A component, linked and instantiated; its exports are called as `running("name", ...)`."""

    def __init__(self, linked: Linked, log: Log, stack: ExitStack) -> None:
        self.linked = linked
        services: Any = None  # nothing of an application is needed
        limits = Limits(16 << 20, 1000)
        self.instance = Instance(linked.program, Grants("guest"), Deadline(120), limits, services)
        stack.enter_context(self.instance)
        self.log = log

    def __call__(self, name: str, *arguments: Any, interface: str = "") -> Any:
        return self.linked.functions[interface, name](self.instance, *arguments)


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """`run(definitions...)`: the component of these, running until the test ends."""
    with ExitStack() as stack:

        def run(*definitions: str) -> Running:
            log = Log()
            hosts = Hosts(RuntimeConfig(), interfaces=(log,))
            wasm = wat2wasm(f"(component {' '.join(definitions)})".encode())
            return Running(link_component(wasm, Engine.shared(), None, hosts), log, stack)

        yield run


def memory(label: str = "mem", size: int = 2) -> str:
    """A core instance $label of a memory with an allocator that never frees."""
    return f"""
      (core module ${label}-module (memory (export "memory") {size}) (global $top (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
          (global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
          (global.get $top) (global.set $top (i32.add (global.get $top) (local.get 3)))))
      (core instance ${label} (instantiate ${label}-module))"""


OPTIONS = '(memory (core memory $mem "memory")) (realloc (core func $mem "realloc"))'

# What is given to one component instance and comes back from another one: the memory of each is its own,
# the core code knows nothing of the type.
ECHO = """
  (component $C {memory} {types}
    (core module $m (import "" "memory" (memory 1)) (global $posts (mut i32) (i32.const 0))
      (func (export "echo") (param i32 i32) (result i32)
        (i32.store (i32.const 8) (local.get 0)) (i32.store (i32.const 12) (local.get 1)) (i32.const 8))
      (func (export "post") (param i32)
        (if (i32.ne (local.get 0) (i32.const 8)) (then unreachable))
        (global.set $posts (i32.add (global.get $posts) (i32.const 1))))
      (func (export "posts") (result i32) (global.get $posts)))
    (core instance $i (instantiate $m (with "" (instance $mem))))
    (func (export "echo") (param "a" (list $t)) (result (list $t)) (canon lift (core func $i "echo")
      string-encoding={callee} {options} (post-return (core func $i "post"))))
    (func (export "posts") (result u32) (canon lift (core func $i "posts"))))
  (component $D {memory} {types}
    (import "echo" (func $echo (param "a" (list $t)) (result (list $t))))
    (core func $echo' (canon lower (func $echo) string-encoding={caller} {options}))
    (core module $m (import "" "echo" (func $echo (param i32 i32 i32)))
      (func (export "echo") (param i32 i32) (result i32)
        (call $echo (local.get 0) (local.get 1) (i32.const 64)) (i32.const 64)))
    (core instance $i (instantiate $m (with "" (instance (export "echo" (func $echo'))))))
    (func (export "echo") (param "a" (list $t)) (result (list $t)) (canon lift (core func $i "echo")
      string-encoding={caller} {options})))
  (instance $c (instantiate $C))
  (instance $d (instantiate $D (with "echo" (func $c "echo"))))
  (export "echo" (func $d "echo")) (export "posts" (func $c "posts"))"""


def echo(types: str, caller: str = "utf8", callee: str = "utf8") -> str:
    return ECHO.format(memory=memory(), types=types, options=OPTIONS, caller=caller, callee=callee)


VALUES: list[tuple[str, list[Any]]] = [
    ("bool", [True, False, True]),
    ("s8", [-128, 127, 0]),
    ("s16", [-32768, 32767]),
    ("s32", [-(2**31), 2**31 - 1]),
    ("s64", [-(2**63), 2**63 - 1]),
    ("u16", [0, 65535]),
    ("u32", [0, 2**32 - 1]),
    ("u64", [0, 2**64 - 1]),
    ("f32", [0.5, -1.0, float("inf")]),
    ("f64", [0.1, -0.0, 1e300]),
    ("char", ["a", "é", "😀", "\ud7ff", "\U0010ffff"]),
    ("string", ["", "plain", "naïve", "Ωmega", "\0 😀"]),
    ("(list u8)", [b"", b"\0\xff", bytes(range(256))]),
    ("(list string)", [[], ["a"], ["b", "", "c" * 300]]),
    ("(list u16 3)", [[1, 2, 3], [65535, 0, 7]]),
    ("(tuple u8 u64 string)", [(1, 2**40, "x"), (255, 0, "")]),
    ('(record (field "a" u8) (field "b" string) (field "c" f64))', [(1, "x", 0.5), (2, "", -1.0)]),
    ('(variant (case "a") (case "b" string) (case "c" u64))', [("a", None), ("b", "x"), ("c", 2**60)]),
    ('(enum "a" "b" "c")', ["a", "c", "b"]),
    ('(flags "a" "b" "c" "d" "e" "f" "g" "h" "i")', [0, 1, 0b1_0000_0001]),
    ("(option string)", [None, "x", ""]),
    ("(result)", [Ok(), Err()]),
    ("(result string (error u32))", [Ok("x"), Err(404)]),
    ("(result (error string))", [Ok(), Err("no")]),
    ("(map string u32)", [[("a", 1), ("b", 2)], []]),
]


@pytest.mark.parametrize(("t", "values"), VALUES, ids=[t for t, _ in VALUES])
def test_values_of_all_types_go_through_two_instances(
    run: Callable[..., Running], t: str, values: list[Any]
) -> None:
    running = run(echo(f"(type $t {t})"))
    assert running("echo", values) == values
    assert running("echo", []) == []
    assert running("posts") == 2, "post-return of each call between instances"


def test_values_inside_values(run: Callable[..., Running]) -> None:
    types = """(type $l (list string)) (type $r (record (field "name" string) (field "tags" $l)))
      (type $lr (list $r)) (type $v (variant (case "none") (case "some" $r) (case "many" $lr)))
      (type $i (option u8)) (type $o (option $i)) (type $res (result $r (error $v)))
      (type $t (tuple $v $o $res))"""
    r = ("a", ["x", "y"])
    values = [
        (("none", None), None, Ok(r)),
        (("some", r), Some(None), Err(("some", r))),
        (("many", [r, ("", [])]), Some(7), Err(("none", None))),
    ]
    assert run(echo(types))("echo", values) == values


STRINGS = [
    "",
    "ascii",
    "é",
    "naïve café ÿ",
    "Ω",
    "latin é first, then Ω",
    "😀",
    "\0",
    "x" * 1000,
    "é" * 500 + "Ω",
]


@pytest.mark.parametrize("caller", ENCODINGS)
@pytest.mark.parametrize("callee", ENCODINGS)
def test_strings_between_encodings(run: Callable[..., Running], caller: str, callee: str) -> None:
    assert run(echo("(type $t string)", caller, callee))("echo", STRINGS) == STRINGS


RAW = """{memory}
  (core module $m (import "" "memory" (memory 1))
    (func (export "raw") (param i32 i32 i32) (result i32)
      (i32.store (i32.const 8) (local.get 1))
      (i32.store (i32.const 12) (local.get 0)) (i32.store (i32.const 16) (local.get 2)) (i32.const 8))
    (func (export "cooked") (param i32 i32 i32) (result i32)
      (i32.store (i32.const 8) (local.get 0)) (i32.store (i32.const 12) (local.get 2)) (i32.const 8)))
  (core instance $i (instantiate $m (with "" (instance $mem))))
  (func (export "raw") (param "a" string) (param "n" u32) (result (tuple u32 (list u8)))
    (canon lift (core func $i "raw") string-encoding={encoding} {options}))
  (func (export "cooked") (param "a" (list u8)) (param "n" u32) (result string)
    (canon lift (core func $i "cooked") string-encoding={encoding} {options}))"""


@pytest.mark.parametrize(
    ("encoding", "text", "units", "data"),
    [
        ("utf8", "aé😀", 7, "aé😀".encode()),
        ("utf16", "aé😀", 4, "aé😀".encode("utf-16-le")),
        ("latin1+utf16", "aé", 2, b"a\xe9"),
        ("latin1+utf16", "aé😀", 4 | 1 << 31, "aé😀".encode("utf-16-le")),
    ],
)
def test_how_strings_lie_in_memory(
    run: Callable[..., Running], encoding: str, text: str, units: int, data: bytes
) -> None:
    running = run(RAW.format(memory=memory(), options=OPTIONS, encoding=encoding))
    assert running("raw", text, len(data)) == (units, data)
    assert running("cooked", data, units) == text


@pytest.mark.parametrize(
    ("encoding", "data", "units", "message"),
    [
        ("utf8", b"\xff", 1, "not utf8"),
        ("utf8", b"\xed\xa0\x80", 3, "not utf8"),
        ("utf16", b"\x00\xd8", 1, "not utf16"),
        ("latin1+utf16", b"\x00\xdc", 1 | 1 << 31, "not latin1.utf16"),
        ("utf8", b"", 1 << 20, "out of bounds|too long|memory"),
        ("utf16", b"", 1 << 30, "out of bounds|too long|memory"),
    ],
)
def test_strings_that_are_none(
    run: Callable[..., Running], encoding: str, data: bytes, units: int, message: str
) -> None:
    running = run(RAW.format(memory=memory(), options=OPTIONS, encoding=encoding))
    with pytest.raises(Trap, match=message):
        running("cooked", data, units)


@pytest.mark.parametrize("name", ["x{__import__('os').abort()}", "x\\22); import os; os.abort() #", "none"])
def test_names_of_a_guest_are_no_code(run: Callable[..., Running], name: str) -> None:
    """Of a call between its component instances it names the types; names are not looked at when it runs."""
    types = f"""(type $e' (enum "a" "b")) (export $e "{name}" (type $e'))
      (type $r' (record (field "x" $e))) (export $r "{name}-r" (type $r'))"""
    running = run(
        f"""(component $C {types}
          (core module $m (func (export "f") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1))))
          (core instance $i (instantiate $m))
          (func (export "f") (param "r" $r) (result $e) (canon lift (core func $i "f"))))
        (instance $c (instantiate $C))
        (export "f" (func $c "f"))"""
    )
    assert running("f", ("a",)) == "b"
    with pytest.raises(Trap, match="f: 2 is not a case of enum"):
        running("f", ("b",))


# Handles

# C defines a resource, whose destructor tells the host; D has no part in it.
THINGS = (
    LOG
    + """
  (component $C
    (import "log" (func $log (param "x" u32)))
    (core func $log' (canon lower (func $log)))
    (core module $d (import "" "log" (func $log (param i32)))
      (func (export "dtor") (param i32) (call $log (i32.add (local.get 0) (i32.const 1000)))))
    (core instance $d (instantiate $d (with "" (instance (export "log" (func $log'))))))
    (type $R' (resource (rep i32) (dtor (core func $d "dtor"))))
    (export $R "r" (type $R'))
    (core func $new (canon resource.new $R')) (core func $rep (canon resource.rep $R'))
    (core func $drop (canon resource.drop $R'))
    (core module $m
      (import "" "new" (func $new (param i32) (result i32)))
      (import "" "rep" (func $rep (param i32) (result i32)))
      (import "" "drop" (func $drop (param i32))) (import "" "log" (func $log (param i32)))
      (func (export "make") (param i32) (result i32) (call $new (local.get 0)))
      (func (export "peek") (param i32) (result i32) (local.get 0))
      (func (export "swallow") (param i32) (result i32)
        (call $rep (local.get 0)) (call $drop (local.get 0)))
      (func (export "pass") (param i32) (result i32) (local.get 0)))
    (core instance $i (instantiate $m (with "" (instance (export "new" (func $new)) (export "rep" (func $rep))
      (export "drop" (func $drop)) (export "log" (func $log'))))))
    (func (export "make") (param "x" u32) (result (own $R)) (canon lift (core func $i "make")))
    (func (export "peek") (param "x" (borrow $R)) (result u32) (canon lift (core func $i "peek")))
    (func (export "swallow") (param "x" (own $R)) (result u32) (canon lift (core func $i "swallow")))
    (func (export "pass") (param "x" (own $R)) (result (own $R)) (canon lift (core func $i "pass"))))
  (component $E
    (import "r" (type $R (sub resource)))
    (import "peek" (func $peek (param "x" (borrow $R)) (result u32)))
    (core func $peek' (canon lower (func $peek))) (core func $drop (canon resource.drop $R))
    (core module $m (import "" "peek" (func $peek (param i32) (result i32)))
      (import "" "drop" (func $drop (param i32)))
      (func (export "look") (param i32) (result i32)
        (call $peek (local.get 0)) (call $drop (local.get 0)))
      (func (export "keep") (param i32)))
    (core instance $i (instantiate $m (with "" (instance (export "peek" (func $peek'))
      (export "drop" (func $drop))))))
    (func (export "look") (param "x" (borrow $R)) (result u32) (canon lift (core func $i "look")))
    (func (export "keep") (param "x" (borrow $R)) (canon lift (core func $i "keep"))))
  (instance $c (instantiate $C (with "log" (func $log))))
  (alias export $c "r" (type $R)) (alias export $c "peek" (func $peek))
  (instance $e (instantiate $E (with "r" (type $R)) (with "peek" (func $peek))))
  (instance $other (instantiate $C (with "log" (func $log)))) (alias export $other "r" (type $Q))
  (core func $drop (canon resource.drop $R)) (core func $drop-other (canon resource.drop $Q))
  (core func $make (canon lower (func $c "make"))) (core func $make-other (canon lower (func $other "make")))
  (core func $peek' (canon lower (func $peek)))
  (core func $swallow (canon lower (func $c "swallow"))) (core func $pass (canon lower (func $c "pass")))
  (core func $look (canon lower (func $e "look"))) (core func $keep (canon lower (func $e "keep")))
  (core module $m
    (import "" "drop" (func $drop (param i32))) (import "" "drop-other" (func $drop-other (param i32)))
    (import "" "make" (func $make (param i32) (result i32)))
    (import "" "make-other" (func $make-other (param i32) (result i32)))
    (import "" "peek" (func $peek (param i32) (result i32)))
    (import "" "swallow" (func $swallow (param i32) (result i32)))
    (import "" "pass" (func $pass (param i32) (result i32)))
    (import "" "look" (func $look (param i32) (result i32)))
    (import "" "keep" (func $keep (param i32)))
    (import "" "log" (func $log (param i32)))
    (func (export "run") (local $h i32) {code}))
  (core instance $i (instantiate $m (with "" (instance
    (export "drop" (func $drop)) (export "drop-other" (func $drop-other)) (export "make" (func $make))
    (export "make-other" (func $make-other)) (export "peek" (func $peek')) (export "swallow" (func $swallow))
    (export "pass" (func $pass)) (export "look" (func $look)) (export "keep" (func $keep))
    (export "log" (func $log'))))))
  (func (export "run") (canon lift (core func $i "run")))"""
)


def make(rep: int = 7) -> str:
    return f"(local.set $h (call $make (i32.const {rep})))"


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        # the destructor of an owned handle that is dropped runs where the resource is defined
        (f"{make(7)} (call $drop (local.get $h)) (call $log (i32.const 1))", [1007, 1]),
        # who defines it is lent its own number
        (f"{make(7)} (call $log (call $peek (local.get $h))) (call $drop (local.get $h))", [7, 1007]),
        # another one is lent a handle, and can lend it on
        (f"{make(7)} (call $log (call $look (local.get $h))) (call $drop (local.get $h))", [7, 1007]),
        # given away: whoever has it drops it
        (f"{make(7)} (call $log (call $swallow (local.get $h)))", [1007, 7]),
        # given away and back
        (
            f"{make(7)} (local.set $h (call $pass (local.get $h))) (call $log (call $peek (local.get $h)))",
            [7],
        ),
        # an index that is free is used again, the last one first
        (
            (
                f"{make(7)} (drop (call $make (i32.const 8))) (call $drop (local.get $h)) "
                "(call $log (call $make (i32.const 9)))"
            ),
            [1007, 1],
        ),
        # what is left at the end is forgotten: nothing of the guest runs any more
        (f"{make(7)}", []),
    ],
)
def test_handles_between_instances(run: Callable[..., Running], code: str, seen: list[int]) -> None:
    running = run(THINGS.replace("{code}", code))
    running("run")
    assert running.log.seen == seen


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("(call $drop (i32.const 0))", "unknown handle index 0"),
        ("(call $drop (i32.const 5))", "unknown handle index 5"),
        ("(drop (call $peek (i32.const -1)))", "unknown handle index 4294967295"),
        (f"{make()} (call $drop (local.get $h)) (call $drop (local.get $h))", "unknown handle index 1"),
        (
            f"{make()} (drop (call $swallow (local.get $h))) (drop (call $peek (local.get $h)))",
            "unknown handle index 1",
        ),
        (f"{make()} (call $drop-other (local.get $h))", "handle index 1 is of type"),
        ("(drop (call $peek (call $make-other (i32.const 1))))", "handle index 1 is of type"),
        (f"{make()} (call $keep (local.get $h))", "1 borrow handles still remain"),
    ],
)
def test_handles_that_are_misused(run: Callable[..., Running], code: str, message: str) -> None:
    running = run(THINGS.replace("{code}", code))
    with pytest.raises(Trap, match=message):
        running("run")


# A parent lends what it owns to its child, which calls it meanwhile.
LENT = """
  (type $R (resource (rep i32)))
  (core func $new (canon resource.new $R)) (core func $drop (canon resource.drop $R))
  (core module $inner (import "" "new" (func $new (param i32) (result i32)))
    (import "" "drop" (func $drop (param i32)))
    (func (export "make") (result i32) (call $new (i32.const 7)))
    (func (export "spoil") {spoil}) (func (export "give") (result i32) (i32.const 1)))
  (core instance $i (instantiate $inner (with "" (instance (export "new" (func $new))
    (export "drop" (func $drop))))))
  (func $spoil (canon lift (core func $i "spoil")))
  (func $give (result (own $R)) (canon lift (core func $i "give")))
  (component $C
    (import "r" (type $R (sub resource))) (import "spoil" (func $spoil))
    (import "give" (func $give (result (own $R))))
    (core func $spoil' (canon lower (func $spoil))) (core func $give' (canon lower (func $give)))
    (core func $drop (canon resource.drop $R))
    (core module $m (import "" "spoil" (func $spoil)) (import "" "give" (func $give (result i32)))
      (import "" "drop" (func $drop (param i32)))
      (func (export "use") (param i32) {use} (call $drop (local.get 0))))
    (core instance $i (instantiate $m (with "" (instance (export "spoil" (func $spoil'))
      (export "give" (func $give')) (export "drop" (func $drop))))))
    (func (export "use") (param "x" (borrow $R)) (canon lift (core func $i "use"))))
  (instance $c (instantiate $C (with "r" (type $R)) (with "spoil" (func $spoil)) (with "give" (func $give))))
  (core func $use (canon lower (func $c "use")))
  (core module $outer (import "" "use" (func $use (param i32))) (import "" "make" (func $make (result i32)))
    (import "" "drop" (func $drop (param i32)))
    (func (export "run") (local $h i32) (local.set $h (call $make))
      (call $use (local.get $h)) (call $drop (local.get $h))))
  (core instance $o (instantiate $outer (with "" (instance (export "use" (func $use))
    (export "make" (func $i "make")) (export "drop" (func $drop))))))
  (func (export "run") (canon lift (core func $o "run")))"""


def test_handles_without_end(run: Callable[..., Running]) -> None:
    """All component instances together hold as many as one guest may."""
    running = run(THINGS.replace("{code}", "(loop $l (drop (call $make (i32.const 1))) (br $l))"))
    with pytest.raises(Trap, match=r"more than \d+ handles"):
        running("run")
    tables = [running.instance.handles, *(part.handles for part in running.instance.parts[1:])]
    assert HandleTable.MAX_LENGTH // 8 < sum(map(len, tables)) <= HandleTable.MAX_LENGTH


def test_what_is_lent_can_be_dropped_afterwards(run: Callable[..., Running]) -> None:
    run(LENT.format(spoil="", use="(call $spoil)"))("run")


@pytest.mark.parametrize(
    ("spoil", "use"),
    [
        ("(call $drop (i32.const 1))", "(call $spoil)"),  # its owner drops it meanwhile
        ("", "(drop (call $give))"),  # or gives it away
    ],
)
def test_what_is_lent_stays_where_it_is(run: Callable[..., Running], spoil: str, use: str) -> None:
    with pytest.raises(Trap, match="handle index 1 is still lent"):
        run(LENT.format(spoil=spoil, use=use))("run")


def test_resources_of_the_host_travel(run: Callable[..., Running]) -> None:
    """From the host to one instance, lent to another one, dropped there."""
    running = run(
        memory(),
        """(import "test:host/log@1.0.0" (instance $host
            (export "file" (type $file (sub resource)))
            (export "[constructor]file" (func (param "name" string) (result (own $file))))
            (export "[method]file.name" (func (param "self" (borrow $file)) (result string)))
            (export "say" (func (param "x" string) (result string)))))
          (alias export $host "file" (type $file))""",
        f"""(component $C (import "file" (type $file (sub resource)))
            (import "name" (func $name (param "self" (borrow $file)) (result string)))
            (import "say" (func $say (param "x" string) (result string)))
            {memory()}
            (core func $name' (canon lower (func $name) {OPTIONS}))
            (core func $drop (canon resource.drop $file))
            (core func $say' (canon lower (func $say) {OPTIONS}))
            (core module $m (import "" "name" (func $name (param i32 i32)))
              (import "" "say" (func $say (param i32 i32 i32)))
              (import "" "drop" (func $drop (param i32))) (import "" "memory" (memory 1))
              (func (export "use") (param i32) (call $name (local.get 0) (i32.const 8))
                (call $say (i32.load (i32.const 8)) (i32.load (i32.const 12)) (i32.const 16)))
              (func (export "lent") (param i32) (call $name (local.get 0) (i32.const 8))
                (call $drop (local.get 0)))
              (func (export "end") (param i32) (call $drop (local.get 0))))
            (core instance $i (instantiate $m (with "" (instance (export "name" (func $name'))
              (export "say" (func $say')) (export "drop" (func $drop))
              (export "memory" (memory $mem "memory"))))))
            (func (export "use") (param "x" (own $file)) (canon lift (core func $i "use")))
            (func (export "lent") (param "x" (borrow $file)) (canon lift (core func $i "lent")))
            (func (export "end") (param "x" (own $file)) (canon lift (core func $i "end"))))
          (alias export $host "[method]file.name" (func $name)) (alias export $host "say" (func $say))
          (instance $c (instantiate $C (with "file" (type $file)) (with "name" (func $name))
            (with "say" (func $say))))
          (core func $open (canon lower (func $host "[constructor]file") {OPTIONS}))
          (core func $use (canon lower (func $c "use"))) (core func $lent (canon lower (func $c "lent")))
          (core func $end (canon lower (func $c "end")))
          (core module $m (import "" "open" (func $open (param i32 i32) (result i32)))
            (import "" "use" (func $use (param i32))) (import "" "lent" (func $lent (param i32)))
            (import "" "end" (func $end (param i32))) (import "" "memory" (memory 1))
            (data (i32.const 0) "abc")
            (func $file (param i32) (result i32) (call $open (i32.const 0) (local.get 0)))
            (func (export "run") (local $h i32)
              (local.set $h (call $file (i32.const 1))) (call $lent (local.get $h)) (call $end (local.get $h))
              (call $use (call $file (i32.const 2)))
              (drop (call $file (i32.const 3)))))
          (core instance $i (instantiate $m (with "" (instance (export "open" (func $open))
            (export "use" (func $use)) (export "lent" (func $lent)) (export "end" (func $end))
            (export "memory" (memory $mem "memory"))))))
          (func (export "run") (canon lift (core func $i "run")))""",
    )
    Log.File.closed.clear()
    running("run")
    assert running.log.seen == ["ab"]
    assert Log.File.closed == ["a"]
    running.instance.close()
    # what the two instances still have
    assert sorted(Log.File.closed) == ["a", "ab", "abc"]


# Entering and leaving

# P has the functions g and again, which its child C calls; both run code of P.
DONUT = (
    LOG
    + """
  (core module $m2 (import "" "log" (func $log (param i32)))
    (func (export "g") (call $log (i32.const 2))))
  (core instance $i2 (instantiate $m2 (with "" (instance (export "log" (func $log'))))))
  (func $g (canon lift (core func $i2 "g")))
  (component $C (import "g" (func $g)) (import "log" (func $log (param "x" u32)))
    (core func $g' (canon lower (func $g))) (core func $log' (canon lower (func $log)))
    (core module $m (import "" "g" (func $g)) (import "" "log" (func $log (param i32)))
      (func (export "f") (call $log (i32.const 1)) (call $g) (call $log (i32.const 3))))
    (core instance $i (instantiate $m (with "" (instance (export "g" (func $g'))
      (export "log" (func $log'))))))
    (func (export "f") (canon lift (core func $i "f"))))"""
)


def test_a_child_may_call_its_parent(run: Callable[..., Running]) -> None:
    """CanonicalABI.md, Component Instance State: the parent is stayed in, not entered."""
    running = run(
        DONUT,
        '(instance $c (instantiate $C (with "g" (func $g)) (with "log" (func $log))))',
        '(core func $f (canon lower (func $c "f")))',
        '(core module $m (import "" "f" (func $f)) (func (export "run") (call $f) (call $f)))',
        '(core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))',
        '(func (export "run") (canon lift (core func $i "run")))',
        '(export "f" (func $c "f"))',
    )
    running("run")
    running("f")
    running("run")
    assert running.log.seen == [1, 2, 3] * 5


REENTRANCE = """
  (component $C (import "g" (func $g))
    (core func $g' (canon lower (func $g)))
    (core module $m (import "" "g" (func $g)) (func (export "f") (call $g)) (func (export "ok")))
    (core instance $i (instantiate $m (with "" (instance (export "g" (func $g'))))))
    (func (export "f") (canon lift (core func $i "f"))) (func (export "ok") (canon lift (core func $i "ok"))))
  (core module $table (table (export "t") 1 funcref)
    (func (export "g") (call_indirect (i32.const 0)) (nop)))
  (core instance $t (instantiate $table))
  (func $g (canon lift (core func $t "g")))
  (instance $c (instantiate $C (with "g" (func $g))))
  (core func $f (canon lower (func $c "{again}")))
  (core module $fill (import "" "t" (table 1 funcref)) (import "" "f" (func $f))
    (elem (i32.const 0) func $f))
  (core instance (instantiate $fill (with "" (instance (export "t" (table $t "t")) (export "f" (func $f))))))
  (export "f" (func $c "f")) (export "ok" (func $c "ok"))"""


@pytest.mark.parametrize("again", ["f", "ok"])
def test_a_child_that_is_running_is_not_entered_again(run: Callable[..., Running], again: str) -> None:
    """The host calls the child, that its parent, that the child."""
    running = run(REENTRANCE.format(again=again))
    running("ok")
    with pytest.raises(Trap, match="cannot enter a component instance that is running already"):
        running("f")
    with pytest.raises(Trap, match="cannot enter"):
        running("ok")  # there is no way into what trapped


def test_a_child_may_drop_what_its_parent_defines(run: Callable[..., Running]) -> None:
    """The destructor runs in the parent, which is stayed in."""
    running = run(
        """
      (core module $d (func (export "dtor") (param i32)))
      (component $D (import "r" (type $R (sub resource)))
        (core func $drop (canon resource.drop $R))
        (core module $m (import "" "drop" (func $drop (param i32)))
          (func (export "end") (param i32) (call $drop (local.get 0))))
        (core instance $i (instantiate $m (with "" (instance (export "drop" (func $drop))))))
        (func (export "end") (param "x" (own $R)) (canon lift (core func $i "end"))))
      (component $C (alias outer 1 $d (core module $d)) (alias outer 1 $D (component $D))
        (core instance $d (instantiate $d))
        (type $R (resource (rep i32) (dtor (core func $d "dtor"))))
        (core func $new (canon resource.new $R))
        (instance $e (instantiate $D (with "r" (type $R)))) (core func $end (canon lower (func $e "end")))
        (core module $m (import "" "new" (func $new (param i32) (result i32)))
          (import "" "end" (func $end (param i32)))
          (func (export "run") (call $end (call $new (i32.const 7)))))
        (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))
          (export "end" (func $end))))))
        (func (export "run") (canon lift (core func $i "run"))))
      (instance $c (instantiate $C)) (export "run" (func $c "run"))"""
    )
    running("run")
    running("run")


@pytest.mark.parametrize("dtor", ["", '(dtor (core func $d "dtor"))'])
def test_a_destructor_enters_the_instance_that_defines_the_resource(
    run: Callable[..., Running], dtor: str
) -> None:
    """C runs and calls its parent, which gives a resource of C to D; D drops it."""
    running = run(
        f"""
      (component $C (import "g" (func $g)) (core func $g' (canon lower (func $g)))
        (core module $d (func (export "dtor") (param i32))) (core instance $d (instantiate $d))
        (type $R' (resource (rep i32) {dtor})) (export $R "r" (type $R'))
        (core func $new (canon resource.new $R'))
        (core module $m (import "" "new" (func $new (param i32) (result i32))) (import "" "g" (func $g))
          (func (export "make") (result i32) (call $new (i32.const 7))) (func (export "run") (call $g)))
        (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))
          (export "g" (func $g'))))))
        (func (export "make") (result (own $R)) (canon lift (core func $i "make")))
        (func (export "run") (canon lift (core func $i "run"))))
      (component $D (import "r" (type $R (sub resource))) (core func $drop (canon resource.drop $R))
        (core module $m (import "" "drop" (func $drop (param i32)))
          (func (export "end") (param i32) (call $drop (local.get 0))))
        (core instance $i (instantiate $m (with "" (instance (export "drop" (func $drop))))))
        (func (export "end") (param "x" (own $R)) (canon lift (core func $i "end"))))
      (core module $table (table (export "t") 1 funcref)
        (func (export "g") (call_indirect (i32.const 0)) (nop)))
      (core instance $t (instantiate $table)) (func $g (canon lift (core func $t "g")))
      (instance $c (instantiate $C (with "g" (func $g)))) (alias export $c "r" (type $R))
      (instance $d (instantiate $D (with "r" (type $R))))
      (core func $make (canon lower (func $c "make"))) (core func $end (canon lower (func $d "end")))
      (core module $m (import "" "make" (func $make (result i32))) (import "" "end" (func $end (param i32)))
        (import "" "t" (table 1 funcref)) (elem (i32.const 0) func $finish)
        (func (export "make") (drop (call $make))) (func $finish (export "end") (call $end (i32.const 1))))
      (core instance $i (instantiate $m (with "" (instance (export "make" (func $make))
        (export "end" (func $end)) (export "t" (table $t "t"))))))
      (func (export "make") (canon lift (core func $i "make")))
      (func (export "end") (canon lift (core func $i "end")))
      (export "run" (func $c "run"))"""
    )
    running("make")
    running("end")
    running("make")
    with pytest.raises(Trap, match="cannot enter a component instance that is running already"):
        running("run")


LEAVING = (
    LOG
    + """
  (core module $m (import "" "log" (func $log (param i32))) (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) {realloc} (i32.const 512))
    (func (export "f") (param i32 i32) (result i32)
      (i32.store (i32.const 8) (local.get 0)) (i32.store (i32.const 12) (local.get 1)) (i32.const 8))
    (func (export "post") (param i32) {post}))
  (core instance $i (instantiate $m (with "" (instance (export "log" (func $log'))))))
  (func (export "f") (param "x" string) (result string) (canon lift (core func $i "f")
    (memory (core memory $i "memory")) (realloc (core func $i "realloc"))
    (post-return (core func $i "post"))))"""
)


def test_leaving_is_allowed_in_between(run: Callable[..., Running]) -> None:
    assert run(LEAVING.format(realloc="", post=""))("f", "abc") == "abc"


@pytest.mark.parametrize("place", ["realloc", "post"])
def test_nobody_leaves_while_values_are_on_their_way(run: Callable[..., Running], place: str) -> None:
    code = {"realloc": "", "post": "", place: "(call $log (i32.const 1))"}
    running = run(LEAVING.format(**code))
    with pytest.raises(Trap, match="the component instance cannot be left now"):
        running("f", "abc")
    assert running.log.seen == []


# Memories, instances, start functions


def test_each_call_uses_its_own_memory(run: Callable[..., Running]) -> None:
    """Two memories of one instance, each with its allocator: lists of strings go to the one that is named."""
    running = run(
        memory("one"),
        memory("two"),
        """(core module $m (import "" "one" (memory $one 1)) (func (export "f") (param i32 i32) (result i32)
            (i32.store $one (i32.const 8) (local.get 0)) (i32.store $one (i32.const 12) (local.get 1))
            (i32.const 8)))
          (core instance $i (instantiate $m (with "" (instance (export "one" (memory $one "memory"))))))
          (core instance $j (instantiate $m (with "" (instance (export "one" (memory $two "memory"))))))
          (func (export "one") (param "x" (list string)) (result (list string)) (canon lift (core func $i "f")
            (memory (core memory $one "memory")) (realloc (core func $one "realloc"))))
          (func (export "two") (param "x" (list string)) (result (list string)) (canon lift (core func $j "f")
            (memory (core memory $two "memory")) (realloc (core func $two "realloc"))))
          (core module $peek (import "" "m" (memory 1))
            (func (export "f") (result i32) (i32.load (i32.const 12))))
          (core instance $p (instantiate $peek (with "" (instance (export "m" (memory $one "memory"))))))
          (core instance $q (instantiate $peek (with "" (instance (export "m" (memory $two "memory"))))))
          (func (export "peek-one") (result u32) (canon lift (core func $p "f")))
          (func (export "peek-two") (result u32) (canon lift (core func $q "f")))""",
    )
    one, two = ["a", "", "b" * 100], [str(i) for i in range(50)]
    assert (running("one", one), running("two", two)) == (one, two)
    assert (running("peek-one"), running("peek-two")) == (3, 50)


def test_one_module_may_have_several_memories_and_tables(run: Callable[..., Running]) -> None:
    """The pool hands them all out, and each begins anew."""
    running = run(
        """(core module $m (memory $a (export "a") 1) (memory $b (export "b") 2)
            (data (memory $b) (i32.const 0) "second") (data (memory $a) (i32.const 0) "first!")
            (table $t 1 funcref) (table $u 3 externref)
            (func (export "f") (result i32)
              (i32.store $a (i32.const 16) (i32.const 0)) (i32.store $a (i32.const 20) (i32.const 6))
              (i32.store $b (i32.const 16) (i32.const 0)) (i32.store $b (i32.const 20) (i32.const 6))
              (i32.const 16))
            (func (export "sizes") (result i32)
              (drop (memory.grow $b (i32.const 1))) (drop (table.grow $u (ref.null extern) (i32.const 1)))
              (i32.add (i32.mul (memory.size $b) (i32.const 10)) (table.size $u))))
          (core instance $i (instantiate $m))
          (func (export "one") (result string) (canon lift (core func $i "f") (memory (core memory $i "a"))))
          (func (export "two") (result string) (canon lift (core func $i "f") (memory (core memory $i "b"))))
          (func (export "sizes") (result u32) (canon lift (core func $i "sizes")))""",
    )
    assert (running("one"), running("two"), running("sizes")) == ("first!", "second", 34)
    again = Instance(running.linked.program, Grants("x"), Deadline(120), Limits(1 << 20, 10), None)  # type: ignore[arg-type]
    with again as other:
        assert running.linked.functions["", "sizes"](other) == 34


COUNTER = """
  (component $C
    (core module $m (global $n (mut i32) (i32.const 0))
      (func (export "bump") (result i32)
        (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n)))
    (core instance $i (instantiate $m))
    (func (export "bump") (result u32) (canon lift (core func $i "bump"))))
  (instance $a (instantiate $C)) (instance $b (instantiate $C))
  (export "a" (func $a "bump")) (export "b" (func $b "bump"))"""


def test_instances_share_nothing(run: Callable[..., Running]) -> None:
    running = run(COUNTER)
    assert [running("a"), running("a"), running("b"), running("a")] == [1, 2, 1, 3]
    again = Instance(running.linked.program, Grants("x"), Deadline(120), Limits(1 << 20, 10), None)  # type: ignore[arg-type]
    with again as other:
        assert running.linked.functions["", "a"](other) == 1
    assert running("a") == 4


def test_start_functions_call_what_is_there(run: Callable[..., Running]) -> None:
    """Of core modules: the host, and an instance that was made before."""
    running = run(
        LOG,
        COUNTER,
        """(core func $bump (canon lower (func $a "bump")))
          (core module $m (import "" "bump" (func $bump (result i32)))
            (import "" "log" (func $log (param i32)))
            (func $start (call $log (i32.add (call $bump) (i32.const 10)))) (start $start))
          (core instance (instantiate $m (with "" (instance (export "bump" (func $bump))
            (export "log" (func $log'))))))
          (core instance (instantiate $m (with "" (instance (export "bump" (func $bump))
            (export "log" (func $log'))))))""",
    )
    assert running.log.seen == [11, 12]
    assert running("a") == 3


def test_a_start_function_that_traps(run: Callable[..., Running]) -> None:
    with pytest.raises(Trap, match="unreachable"):
        run("(core module $m (func $s unreachable) (start $s)) (core instance (instantiate $m))")


def test_core_modules_share_what_they_export(run: Callable[..., Running]) -> None:
    """A memory, a table, a global and a tag of one module, used by another one."""
    running = run(
        """(core module $lib (memory (export "m") 1) (table (export "t") 2 funcref)
            (global (export "g") (mut i32) (i32.const 5)) (tag $e (export "e") (param i32))
            (func $six (result i32) (i32.const 6)) (elem (i32.const 1) func $six)
            (func (export "throw") (throw $e (i32.const 9))))
          (core instance $l (instantiate $lib))
          (core module $m (type $f (func (result i32)))
            (import "l" "m" (memory 1)) (import "l" "t" (table 2 funcref))
            (import "l" "g" (global $g (mut i32)))
            (import "l" "e" (tag $e (param i32))) (import "l" "throw" (func $throw))
            (data (i32.const 3) "\\04")
            (func (export "f") (result i32)
              (block $caught (result i32)
                (try_table (catch $e $caught) (call $throw))
                unreachable)
              (i32.add (call_indirect (type $f) (i32.const 1)))
              (i32.add (global.get $g)) (i32.add (i32.load8_u (i32.const 3)))
              (global.set $g (i32.const 100))))
          (core instance $i (instantiate $m (with "l" (instance $l))))
          (func (export "f") (result u32) (canon lift (core func $i "f")))"""
    )
    assert (running("f"), running("f")) == (9 + 6 + 5 + 4, 9 + 6 + 100 + 4)


def test_shims_are_passed_without_a_trace(run: Callable[..., Running]) -> None:
    """What wit-component makes of a function that needs the memory of who calls it."""
    running = run(
        """(import "test:host/log@1.0.0" (instance $host
            (export "say" (func (param "x" string) (result string)))))
          (core module $shim (table (export "$imports") 1 1 funcref) (type $f (func (param i32 i32 i32)))
            (func (export "0") (type $f)
              local.get 0 local.get 1 local.get 2 i32.const 0 call_indirect (type $f)))
          (core module $main (import "h" "say" (func $say (param i32 i32 i32)))
            (memory (export "memory") 1) (data (i32.const 0) "quiet")
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 512))
            (func (export "run") (result i32)
              (call $say (i32.const 0) (i32.const 5) (i32.const 64)) (i32.const 64)))
          (core module $fixup (import "" "0" (func $f (param i32 i32 i32)))
            (import "" "$imports" (table 1 1 funcref)) (elem (i32.const 0) func $f))
          (core instance $s (instantiate $shim))
          (core instance $m (instantiate $main (with "h" (instance (export "say" (func $s "0"))))))
          (core func $say (canon lower (func $host "say") (memory (core memory $m "memory"))
            (realloc (core func $m "realloc"))))
          (core instance (instantiate $fixup (with "" (instance (export "0" (func $say))
            (export "$imports" (table $s "$imports"))))))
          (func $run (result string) (canon lift (core func $m "run") (memory (core memory $m "memory"))))
          (instance $out (export "run" (func $run)))
          (export "test:guest/out@0.3.7" (instance $out))"""
    )
    assert len(running.linked.plan.steps) == 1
    assert running("run", interface="test:guest/out@0.3") == "QUIET"
    assert running.log.seen == ["quiet"]


def early(start: str) -> str:
    """A start function that gets at an export of its own module, through a shim that is not filled yet."""
    return f"""
      (core module $shim (table (export "t") 1 1 funcref) (type $f (func (param i32)))
        (func (export "0") (type $f) local.get 0 i32.const 0 call_indirect (type $f)))
      (core instance $s (instantiate $shim))
      (type $R (resource (rep i32) (dtor (core func $s "0"))))
      (core func $new (canon resource.new $R)) (core func $drop (canon resource.drop $R))
      (func $l (param "x" u32) (canon lift (core func $s "0"))) (core func $l' (canon lower (func $l)))
      (core module $main (import "" "new" (func $new (param i32) (result i32)))
        (import "" "drop" (func $drop (param i32))) (import "" "l" (func $l (param i32)))
        (func $s {start}) (start $s) (func (export "f") (param i32)))
      (core instance $m (instantiate $main (with "" (instance (export "new" (func $new))
        (export "drop" (func $drop)) (export "l" (func $l'))))))
      (core module $fixup (import "" "0" (func $f (param i32))) (import "" "t" (table 1 1 funcref))
        (elem (i32.const 0) func $f))
      (core instance (instantiate $fixup (with "" (instance (export "0" (func $m "f"))
        (export "t" (table $s "t"))))))"""


@pytest.mark.parametrize("start", ["(call $drop (call $new (i32.const 1)))", "(call $l (i32.const 1))"])
def test_nothing_is_called_before_it_is_there(run: Callable[..., Running], start: str) -> None:
    run(early(""))
    with pytest.raises(Trap, match="uninitialized element"):
        run(early(start))


# What is refused, and what goes wrong


AGAIN = f"""{LOG} (func $f (param "x" u32) (canon lift (core func $log')))"""


def test_a_host_function_lifted_again(run: Callable[..., Running]) -> None:
    running = run(AGAIN, '(export "f" (func $f))')
    running("f", 7)
    assert running.log.seen == [7]


def test_a_host_function_lifted_and_lowered_again(run: Callable[..., Running]) -> None:
    running = run(
        AGAIN,
        """(core func $g (canon lower (func $f)))
          (core module $m (import "" "g" (func $g (param i32))) (func (export "f") (call $g (i32.const 8))))
          (core instance $i (instantiate $m (with "" (instance (export "g" (func $g))))))
          (func (export "f") (canon lift (core func $i "f")))""",
    )
    running("f")
    running("f")
    assert running.log.seen == [8, 8]


def test_built_ins_as_functions_and_destructor(run: Callable[..., Running]) -> None:
    """Whoever is called need not be a module's: resource.new and .drop are lifted, the host destroys."""
    running = run(
        LOG,
        """(type $R' (resource (rep i32) (dtor (core func $log')))) (export $R "r" (type $R'))
          (core func $new (canon resource.new $R)) (core func $drop (canon resource.drop $R))
          (component $C (import "r" (type $R (sub resource)))
            (import "new" (func $new (param "x" u32) (result (own $R))))
            (import "drop" (func $drop (param "x" (own $R))))
            (core func $new' (canon lower (func $new))) (core func $drop' (canon lower (func $drop)))
            (core module $m (import "" "new" (func $new (param i32) (result i32)))
              (import "" "drop" (func $drop (param i32)))
              (func (export "f") (call $drop (call $new (i32.const 9)))))
            (core instance $i (instantiate $m (with "" (instance
              (export "new" (func $new')) (export "drop" (func $drop'))))))
            (func (export "f") (canon lift (core func $i "f"))))
          (func $new (param "x" u32) (result (own $R)) (canon lift (core func $new)))
          (func $drop (param "x" (own $R)) (canon lift (core func $drop)))
          (instance $c (instantiate $C
            (with "r" (type $R)) (with "new" (func $new)) (with "drop" (func $drop))))
          (alias export $c "f" (func $f)) (export "f" (func $f))""",
    )
    running("f")
    assert running.log.seen == [9]


def test_the_host_s_own_mistake_is_no_trap(run: Callable[..., Running]) -> None:
    running = run(
        LOG,
        """(core func $fail (canon lower (func $host "fail")))
          (component $C (import "fail" (func $fail)) (core func $fail' (canon lower (func $fail)))
            (core module $m (import "" "fail" (func $fail)) (func (export "f") (call $fail)))
            (core instance $i (instantiate $m (with "" (instance (export "fail" (func $fail'))))))
            (func (export "f") (canon lift (core func $i "f"))))
          (alias export $host "fail" (func $f))
          (instance $c (instantiate $C (with "fail" (func $f))))
          (core func $g (canon lower (func $c "f")))
          (core module $m (import "" "g" (func $g)) (func (export "run") (call $g)))
          (core instance $i (instantiate $m (with "" (instance (export "g" (func $g))))))
          (func (export "run") (canon lift (core func $i "run")))""",
    )
    with pytest.raises(ZeroDivisionError):
        running("run")


def test_a_trap_in_another_instance_has_a_name(run: Callable[..., Running]) -> None:
    with pytest.raises(Trap, match=r"component instance 0: .*unreachable") as caught:
        run(
            """(component $C (core module $m (func $boom (export "f") unreachable))
                (core instance $i (instantiate $m)) (func (export "f") (canon lift (core func $i "f"))))
              (instance $c (instantiate $C)) (core func $f (canon lower (func $c "f")))
              (core module $m (import "" "f" (func $f)) (func (export "run") (call $f)))
              (core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))
              (func (export "run") (canon lift (core func $i "run")))"""
        )("run")
    assert caught.value.frames


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "(core module $m (func (result i32))) (core instance (instantiate $m))",
            ComponentError,
            "type mismatch",
        ),
        (
            f"(core module $m {'(memory 1)' * 17}) (core instance (instantiate $m))",
            UnsupportedError,
            "defined memories count of 17",
        ),
        ('(import "test:host/log@2.0.0" (instance (export "log" (func))))', LinkError, "does not offer"),
    ],
)
def test_what_is_refused(
    run: Callable[..., Running], text: str, error: type[ComponentError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(text)


def test_memories_together_have_a_limit(run: Callable[..., Running]) -> None:
    for many in (
        "(core module $m (memory 1))" + "(core instance (instantiate $m))" * 17,
        "(core module $m (memory 1) (memory 1))" + "(core instance (instantiate $m))" * 9,
    ):
        with pytest.raises((LimitExceeded, Trap)):
            run(many)
    with pytest.raises(LimitExceeded):
        run("(core module $m (memory 300)) (core instance (instantiate $m))")
