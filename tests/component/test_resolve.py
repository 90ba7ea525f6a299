"""What indices lead to: validation, imports met by the host, plans, and compositions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from wasm_gateway.component import syntax as s
from wasm_gateway.component.names import canonical_name
from wasm_gateway.component.parse import parse_component
from wasm_gateway.component.plan import CoreItem, HostFunction, Lifted, Lowered, Plan, ResourceBuiltin
from wasm_gateway.component.resolve import MAX_PARTS, MAX_STEPS, Resolver, compose, resolve, validate
from wasm_gateway.component.types import (
    PRIMITIVES,
    BorrowType,
    FuncType,
    InterfaceType,
    ListType,
    OwnType,
    RecordType,
    ResourceType,
    ResultType,
)
from wasm_gateway.engine import wat2wasm
from wasm_gateway.errors import DecodeError, LinkError, UnsupportedError

U32, STRING = PRIMITIVES["u32"], PRIMITIVES["string"]


def component(*definitions: str) -> s.ComponentDef:
    return parse_component(wat2wasm(f"(component {' '.join(definitions)})".encode()))


Offer = Mapping[str, InterfaceType | FuncType]


def resolved(*definitions: str, offer: Offer | None = None) -> Plan:
    return resolve(component(*definitions), (offer or {}).get)


# Something to lift, lower and instantiate.
CORE = """
  (core module $m
    (func (export "f")) (func (export "g") (param i32) (result i32) local.get 0)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable) (memory (export "mem") 1))
  (core instance $i (instantiate $m))"""

# A function to lift with a callback, and how.
ASYNC = """
  (core module $m
    (func (export "f") (result i32) unreachable)
    (func (export "cb") (param i32 i32 i32) (result i32) unreachable))
  (core instance $i (instantiate $m))"""
WITH_CALLBACK = '(canon lift (core func $i "f") async (callback (core func $i "cb")))'


# Validation

VALID = {
    "empty": "",
    "a type of an outer component": "(type $t u8) (component (alias outer 1 $t (type)))",
    "an outer type, two levels out": "(type $t u8) (component (component (alias outer 2 $t (type))))",
    "an outer module": "(core module $m) (component (alias outer 1 $m (core module $n)) "
    "(core instance (instantiate $n)))",
    "an outer component": "(component $c) (component (alias outer 1 $c (component $d)) "
    "(instance (instantiate $d)))",
    "an alias of what is here": "(type $t u8) (alias outer 0 $t (type))",
    "a resource type inside a type": "(type $r (resource (rep i32))) "
    '(type (instance (alias outer 1 $r (type $q)) (export "f" (func (param "x" (own $q))))))',
    "more exports than asked for": '(component $c (import "i" (instance (export "f" (func))))) '
    '(import "j" (instance $j (export "f" (func)) (export "g" (func)))) '
    '(instance (instantiate $c (with "i" (instance $j))))',
    "a component that imports less": '(component $c (import "d" (component (import "f" (func))))) '
    '(component $d) (instance (instantiate $c (with "d" (component $d))))',
    "a module that exports more": '(component $c (import "m" (core module (export "f" (func))))) '
    '(core module $m (func (export "f")) (func (export "g"))) '
    '(instance (instantiate $c (with "m" (core module $m))))',
    "each type of a group": (
        '(core rec (type (func)) (type (func))) (core type $m (module)) (import "m" (core module (type $m)))'
    ),
    "a result of 16 flat values, once it is there": (
        f"{ASYNC} (func async (result (tuple {'u8 ' * 16})) {WITH_CALLBACK})"
    ),
    "both names of a resource": '(type $a (resource (rep i32))) (export $b "b" (type $a)) '
    '(export "c" (type $b) (type (eq $b)))',
    "async functions": '(import "f" (func async (result (stream u8))))',
    "a type of an argument, under another name": """
      (component $one (type $x' (resource (rep i32))) (export $x "x" (type $x'))
        (type $foo (record (field "x" (own $x)))) (export "foo" (type $foo)))
      (instance $one (instantiate $one)) (export $shown "a:b/one" (instance $one))
      (alias export $shown "x" (type $x)) (alias export $shown "foo" (type $foo))
      (component $two (import "x" (type $x (sub resource)))
        (type $r (record (field "x" (own $x)))) (import "foo" (type $foo (eq $r)))
        (export "bar" (type $foo)))
      (instance $two (instantiate $two (with "x" (type $x)) (with "foo" (type $foo))))
      (export "a:b/two" (instance $two))""",
    "a handle under two names, of which one can be seen": f"""
      {CORE} (type $x' (resource (rep i32))) (type $own (own $x'))
      (func $f (param "a" u32) (result $own) (canon lift (core func $i "g")))
      (component $one (import "x" (type $x (sub resource))) (export $y "x" (type $x))
        (type $h (own $y)) (export "h" (type $h)))
      (instance $one (instantiate $one (with "x" (type $x')))) (export $shown "a:b/one" (instance $one))
      (alias export $shown "x" (type $x)) (alias export $shown "h" (type $h))
      (component $two (import "x" (type $x (sub resource))) (type $own (own $x))
        (import "h" (type $h (eq $own))) (import "h2" (type $h2 (eq $h)))
        (import "f" (func $f (param "a" u32) (result $h2)))
        (export $e "h" (type $h)) (export "f" (func $f) (func (param "a" u32) (result $e))))
      (instance $two (instantiate $two (with "x" (type $x)) (with "h" (type $h)) (with "h2" (type $own))
        (with "f" (func $f))))
      (export "a:b/two" (instance $two))""",
}


@pytest.mark.parametrize("text", VALID.values(), ids=VALID)
def test_valid(text: str) -> None:
    validate(component(text))


INVALID = {
    # index spaces
    "type 0": ('(import "f" (func (type 0)))', "there is no type 0"),
    "itself": ("(type (list 0))", "there is no type 0"),
    "func 0": ('(export "f" (func 0))', "there is no func 0"),
    "instance 0": ('(alias export 0 "f" (func))', "there is no instance 0"),
    "component 0": ("(instance (instantiate 0))", "there is no component 0"),
    "core module 0": ("(core instance (instantiate 0))", "there is no core module 0"),
    "core instance 0": ('(alias core export 0 "f" (core func))', "there is no core instance 0"),
    "core func 0": ("(func (type 0) (canon lift (core func 0)))", "there is no core func 0"),
    "core memory 0": (
        '(import "f" (func)) (core func (canon lower (func 0) (memory 0)))',
        "no core memory 0",
    ),
    "core type 0": ('(import "m" (core module (type 0)))', "there is no core type 0"),
    "later": ('(export "f" (func 0)) (import "g" (func))', "there is no func 0"),
    "no value type": ("(type (func)) (type (list 0))", "type 0 is a function type, not a value type"),
    "no function type": ('(type u8) (import "f" (func (type 0)))', "type 0 is a value type, not a function"),
    "no resource": ("(type u8) (type (own 0))", "type 0 is a value type, not a resource type"),
    # nesting
    "too far out": ("(component (alias outer 3 0 (type)))", "there are no 3 scopes around this one"),
    "a resource from outside": (
        "(type $r (resource (rep i32))) (component (alias outer 1 $r (type)))",
        "refers to resources, and cannot be aliased from inside",
    ),
    "a function with a resource from outside": (
        (
            '(import "r" (type $r (sub resource))) (type $f (func (param "x" (own $r)))) '
            "(component (alias outer 1 $f (type)))"
        ),
        "refers to resources",
    ),
    # arguments
    "no argument": (
        '(component $c (import "f" (func))) (instance (instantiate $c))',
        "no argument is given for the import 'f'",
    ),
    "twice": (
        (
            '(component $c) (import "f" (func $f)) '
            '(instance (instantiate $c (with "a" (func $f)) (with "a" (func $f))))'
        ),
        "'a' is given twice",
    ),
    "another sort": (
        '(component $c (import "f" (func))) (instance (instantiate $c (with "f" (component $c))))',
        "the argument 'f': a component found, a func expected",
    ),
    "another type": (
        (
            '(component $c (import "f" (func (param "a" u8)))) (import "g" (func $g (param "a" u16))) '
            '(instance (instantiate $c (with "f" (func $g))))'
        ),
        r"the argument 'f': func\(a: u16\) found, func\(a: u8\) expected",
    ),
    "an export is missing": (
        (
            '(component $c (import "i" (instance (export "x" (instance (export "f" (func))))))) '
            '(instance $e) (instance $x (export "x" (instance $e))) '
            '(instance (instantiate $c (with "i" (instance $x))))'
        ),
        "the argument 'i': export 'x': the export 'f' is missing",
    ),
    "a component that imports more": (
        (
            '(component $c (import "d" (component))) (component $d (import "f" (func))) '
            '(instance (instantiate $c (with "d" (component $d))))'
        ),
        "nothing is said of its import 'f'",
    ),
    "a module that imports more": (
        (
            '(component $c (import "m" (core module))) (core module $m (import "a" "b" (func))) '
            '(instance (instantiate $c (with "m" (core module $m))))'
        ),
        "nothing is said of the core import 'a::b'",
    ),
    "a module that exports less": (
        (
            '(component $c (import "m" (core module (export "f" (func))))) (core module $m) '
            '(instance (instantiate $c (with "m" (core module $m))))'
        ),
        "the core export 'f' is missing",
    ),
    "another resource": (
        (
            '(component $c (import "r" (type $r (sub resource))) (import "f" (func (param "x" (own $r))))) '
            "(type $a (resource (rep i32))) (type $b (resource (rep i32))) "
            '(import "s" (type $s (sub resource))) (import "f" (func $f (param "x" (own $s)))) '
            '(instance (instantiate $c (with "r" (type $a)) (with "f" (func $f))))'
        ),
        "the argument 'f'",
    ),
    "two instances have two resources": (
        (
            '(component $c (type $t (resource (rep i32))) (export "r" (type $t))) '
            "(instance $a (instantiate $c)) (instance $b (instantiate $c)) "
            '(alias export $a "r" (type $ra)) (alias export $b "r" (type $rb)) '
            '(component $d (import "r" (type $r (sub resource))) (import "s" (type (eq $r)))) '
            '(instance (instantiate $d (with "r" (type $ra)) (with "s" (type $rb))))'
        ),
        "the argument 's'",
    ),
    # core
    "a core import": (
        '(core module $m (import "a" "b" (func))) (core instance (instantiate $m))',
        "no argument is given for the core import 'a'",
    ),
    "a core export": (
        (
            '(core module $m (import "a" "b" (func))) (core instance $e) '
            '(core instance (instantiate $m (with "a" (instance $e))))'
        ),
        "the core instance given as 'a' exports no 'b'",
    ),
    "a core type": (
        (
            f'{CORE} (core module $n (import "a" "f" (func (param i64)))) '
            '(core instance (instantiate $n (with "a" (instance $i))))'
        ),
        "the core import a::f is given a func of another type",
    ),
    "a core sort": (
        f'{CORE} (alias core export $i "f" (core memory))',
        "exports no core memory 'f'",
    ),
    "a larger memory": (
        (
            f'{CORE} (core module $n (import "a" "mem" (memory 2))) '
            '(core instance (instantiate $n (with "a" (instance $i))))'
        ),
        "the core import a::mem is given a memory of another type",
    ),
    # canonical definitions
    "lifted from another type": (
        f'{CORE} (func (param "a" u64) (canon lift (core func $i "f")))',
        r"lifted from a core function of type \(\) -> \(\), and not \(i64\) -> \(\)",
    ),
    "no memory": (
        '(import "f" (func $f (param "a" string))) (core func (canon lower (func $f)))',
        "the canonical option memory is required",
    ),
    "no realloc": (
        (
            f'{CORE} (import "f" (func $f (result string))) '
            '(core func (canon lower (func $f) (memory (core memory $i "mem"))))'
        ),
        "the canonical option realloc is required",
    ),
    "a string in memory, once it is there": (
        f"{ASYNC} (func async (result string) {WITH_CALLBACK})",
        "the canonical option memory is required",
    ),
    "a result in memory, once it is there": (
        f"{ASYNC} (func async (result (tuple {'u8 ' * 17})) {WITH_CALLBACK})",
        "the canonical option memory is required",
    ),
    "realloc of another type": (
        (
            f'{CORE} (import "f" (func $f (result string))) (core func (canon lower (func $f) '
            '(memory (core memory $i "mem")) (realloc (core func $i "f"))))'
        ),
        "realloc is a core function of another type",
    ),
    "a shared memory": (
        (
            '(core module $m (memory (export "m") 1 2 shared)) (core instance $i (instantiate $m)) '
            '(import "f" (func $f)) (core func (canon lower (func $f) (memory (core memory $i "m"))))'
        ),
        "the canonical option memory is one of another type",
    ),
    "post-return of an import": (
        f'{CORE} (import "f" (func $f)) (core func (canon lower (func $f) (post-return (core func $i "f"))))',
        "post-return is only for synchronous lifts",
    ),
    "async of a function that is not": (
        '(import "f" (func $f)) (core func (canon lower (func $f) async))',
        "async requires an async function type",
    ),
    "context of two types": (
        "(canon context.get i64 0 (core func)) (canon context.set i32 1 (core func))",
        "context.set of another type than before",
    ),
    "resource.new of an import": (
        '(import "r" (type $r (sub resource))) (core func (canon resource.new $r))',
        "resource.new of a resource that is not defined here",
    ),
    "a destructor of another type": (
        f'{CORE} (type (resource (rep i32) (dtor (core func $i "f"))))',
        r"the core type of a destructor is \(i32\) -> \(\)",
    ),
    # types
    "a resource in a type": (
        "(type (component (type (resource (rep i32)))))",
        "only be defined in a component",
    ),
    "a borrow that is returned": (
        '(import "r" (type $r (sub resource))) (type (func (result (borrow $r))))',
        "the result of a function cannot contain a borrow",
    ),
    "too large": ("(type (list u64 100000000))", "exceed the maximum byte size"),
    "33 flags": (
        "(type (flags " + " ".join(f'"f{i}"' for i in range(33)) + "))",
        "more than 32 flags",
    ),
    "a float as a key": ("(type (map f32 u8))", "f32 cannot be the key of a map"),
    # names
    "snake case": ('(import "a_b" (func))', "'a_b' is no name of an import or export"),
    "twice, in other case": ('(import "a-b" (func)) (import "A-B" (func))', "'A-B' conflicts with 'a-b'"),
    "a method of nobody": (
        '(import "r" (type $r (sub resource))) (import "[method]q.f" (func (param "self" (borrow $r))))',
        "belongs to a resource 'q' that has no such name here",
    ),
    "a type without a name": (
        '(type $r (record (field "a" u8))) (import "f" (func (param "x" $r)))',
        "refers to a type that has no name outside",
    ),
}


@pytest.mark.parametrize(("text", "message"), INVALID.values(), ids=INVALID)
def test_invalid(text: str, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        validate(component(text))


def test_an_error_says_where() -> None:
    wasm = wat2wasm(b'(component (component (type u8) (import "f" (func (type 0)))))')
    with pytest.raises(DecodeError) as caught:
        validate(parse_component(wasm))
    assert wasm[caught.value.offset :] == b"\0\1f\1\0"


# Foreign definitions that take no time: many instances, types or names out of few bytes.


def chain(length: int, leaf: str, each: str = "") -> str:
    """Component i instantiates component i - 1 twice."""
    parts = [leaf]
    for i in range(1, length):
        parts.append(
            f"(component $c{i} (alias outer 1 {i - 1} (component $p)) {each}"
            "(instance $a (instantiate $p)) (instance $b (instantiate $p)) "
            '(export "a" (instance $a)) (export "b" (instance $b)))'
        )
    return f"{' '.join(parts)} (instance (instantiate $c{length - 1}))"


def types(count: int, first: str, step: Callable[[int], str]) -> str:
    return f"(type {first}) " + " ".join(f"(type {step(i)})" for i in range(count))


HOSTILE = {
    "a tree of instances": chain(40, "(component $c0)"),
    "a tree of resources": chain(40, '(component $c0 (type $r (resource (rep i32))) (export "r" (type $r)))'),
    "a tree of modules": chain(40, "(component $c0 (core module $m) (core instance (instantiate $m)))"),
    "a tree of tuples": types(60, "u32", lambda i: f"(tuple {i} {i})"),
    "deep options": types(3000, "u32", lambda i: f"(option {i})"),
    "a tree of instance types": types(
        40,
        '(instance (export "r" (type (sub resource))))',
        lambda i: (
            f"(instance (alias outer 1 {i} (type $t))"
            ' (export "a" (instance (type $t))) (export "b" (instance (type $t))))'
        ),
    )
    + '(component (alias outer 1 40 (type $t)) (import "x" (instance (type $t))))',
    "a line of instances": "(instance $i0) "
    + " ".join(f'(instance $i{i} (export "a" (instance $i{i - 1})))' for i in range(1, 1000)),
    "large parameters, many times": types(
        3, "(tuple u32 u32 u32)", lambda i: f"(tuple {' '.join([str(i)] * 12)})"
    )
    + '(type (func (param "a" 3)))' * 3000,
    "large types compared": "(type $r (record "
    + " ".join(f'(field "f{i}" u32)' for i in range(3000))
    + ')) (component $c (alias outer 1 0 (type $z)) (import "x" (type (eq $z))))'
    + "(type (record "
    + " ".join(f'(field "f{i}" u32)' for i in range(3000))
    + "))"
    + '(instance (instantiate $c (with "x" (type 1))))' * 2000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_few_bytes_cannot_keep_us_busy(text: str) -> None:
    """Each would take ages if it were walked as a tree: steps are counted."""
    with pytest.raises(UnsupportedError):
        validate(component(text))


MANY = 3000
FEW_DEFINITIONS = {
    "labels of an enum": "(type (enum " + " ".join(f'"a{i}"' for i in range(MANY)) + "))",
    "fields of a record": "(type (record " + " ".join(f'(field "a{i}" u8)' for i in range(MANY)) + "))",
    "a tuple": f"(type (tuple {'u8 ' * MANY}))",
    "parameters": "(type (func " + " ".join(f'(param "a{i}" u8)' for i in range(MANY)) + "))",
    "exports of an instance": "(type $t u8) (instance "
    + " ".join(f'(export "a{i}" (type $t))' for i in range(MANY))
    + ")",
    "arguments of an instance": "(type $t u8) (component $d) (instance (instantiate $d "
    + " ".join(f'(with "a{i}" (type $t))' for i in range(MANY))
    + "))",
    "exports of a module": "(core module " + " ".join(f'(func (export "a{i}"))' for i in range(MANY)) + ")",
    "imports of a module": '(core module $n (func (export "f"))) (core instance $n (instantiate $n)) '
    "(core module $m "
    + '(import "" "f" (func)) ' * MANY
    + ') (core instance (instantiate $m (with "" (instance $n))))',
    "exports of a core instance": '(core module $m (func (export "f"))) (core instance $m (instantiate $m)) '
    '(alias core export $m "f" (core func $f)) (core instance '
    + " ".join(f'(export "a{i}" (func $f))' for i in range(MANY))
    + ")",
    "declarations of a module type": "(core type (module "
    + " ".join(f'(import "" "a{i}" (func))' for i in range(MANY))
    + "))",
}


@pytest.mark.parametrize("text", FEW_DEFINITIONS.values(), ids=FEW_DEFINITIONS)
def test_instantiating_costs_what_a_component_holds(text: str) -> None:
    """However few its definitions are: 10,000 instances of it would take a minute."""
    resolver = Resolver(lambda name: None)
    resolver.plan(component(f"(component $c {text})", "(instance (instantiate $c))" * 10), {})
    spent = resolver.budget.limit - resolver.budget.left
    assert spent > 10 * MANY


def test_exporting_costs_what_is_exported() -> None:
    """Code may be generated for each function, under each name."""

    def spent(exports: int) -> int:
        resolver = Resolver(lambda name: None)
        lifts = "(instance $x " + " ".join(f'(export "f{i}" (func $f))' for i in range(100)) + ")"
        text = " ".join(f'(export "a:b/c{i}" (instance $x))' for i in range(exports))
        resolver.plan(component(CORE, '(func $f (canon lift (core func $i "f")))', lifts, text), {})
        return resolver.budget.limit - resolver.budget.left

    assert spent(11) - spent(1) > 10 * 100 * 10


def test_what_the_host_is_asked_for_costs_as_much() -> None:
    resolver = Resolver(lambda name: None)
    types = "(type $u u8) (type $i (instance (alias outer 1 $u (type $u)) " + " ".join(
        f'(export "a{i}" (type (eq $u)))' for i in range(100)
    )
    imports = " ".join(f'(import "a:b/c{i}" (instance (type $i)))' for i in range(100))
    resolver.plan(component(f"{types}))", imports), {})
    assert resolver.budget.limit - resolver.budget.left > 100 * 100


def test_scopes_that_are_not_there_are_not_looked_for() -> None:
    """An alias of 2**32 - 1 scopes out, in a module type."""
    wasm = b"\0asm\x0d\0\1\0\x03\x0c\x01\x50\x01\x02\x10\x01\xff\xff\xff\xff\x0f\x00"
    with pytest.raises(DecodeError, match="there are no 4294967295 scopes"):
        validate(parse_component(wasm))


def test_a_function_is_not_lifted_again_and_again() -> None:
    canons = " ".join(
        f"(func $f{i} (canon lift (core func $c{i}))) (core func $c{i + 1} (canon lower (func $f{i})))"
        for i in range(2000)
    )
    with pytest.raises(UnsupportedError, match=f"more than {MAX_STEPS} core instances"):
        resolve(component(CORE, '(alias core export $i "f" (core func $c0))', canons), lambda name: None)


def test_a_message_about_huge_types_is_short() -> None:
    record = f'(type $r (record (field "{"a" * 50_000}" u8)))'
    large = component(
        record,
        f"(type $t (tuple {'$r ' * 4000}))",
        CORE,
        '(func (param "a" $t) (canon lift (core func $i "f") (memory (core memory $i "mem")) '
        '(realloc (core func $i "realloc"))))',
    )
    with pytest.raises(DecodeError, match="is lifted from") as caught:
        resolve(large, lambda name: None)
    assert len(str(caught.value)) < 10_000


def in_frames(count: int, call: Callable[[], Any]) -> Any:
    return call() if count == 0 else in_frames(count - 1, call)


def test_nesting_near_the_end_of_pythons_stack() -> None:
    nested = component(f"{'(component ' * 60}{')' * 60}")
    with pytest.raises(UnsupportedError, match="deeply"):
        in_frames(sys.getrecursionlimit() - 150, lambda: validate(nested))


def test_a_line_of_components_is_no_line_of_calls() -> None:
    """Each instantiates the one before: valid, but too deep to be instantiated."""
    line = [
        f"(component $c{i} (alias outer 1 {i - 1} (component $p)) (instance (instantiate $p)))"
        for i in range(300)
    ]
    line[0] = "(component $c0)"
    long = component(*line, "(instance (instantiate $c299))")
    validate(long)
    with pytest.raises(UnsupportedError, match="nested more than"):
        resolve(long, lambda name: None)
    with pytest.raises(UnsupportedError, match="steps to resolve it"):
        resolve(component(chain(40, "(component $c0)")), lambda name: None)


# Imports met by the host

FIELDS = ResourceType("fields", "wasi:http/types@0.2.0")
STATE = ResourceType("state", "test:a/other@1.0.0")


@pytest.mark.parametrize(
    "t", ['(record (field "a.b" u8))', '(variant (case ""))', '(enum "1")', '(flags "a{}")', '(enum "a\\0a")']
)
def test_labels_are_checked_whoever_runs_it(t: str) -> None:
    """They become names in Python."""
    with pytest.raises(DecodeError, match="is not in kebab case"):
        resolve(component(f"(type {t})"), lambda name: None)


HEADERS = InterfaceType(
    "wasi:http/types@0.2",
    {"fields": FIELDS, "names": ListType(STRING), "error": RecordType((), "error")},
    {
        "[constructor]fields": FuncType((), OwnType(FIELDS)),
        "[method]fields.get": FuncType(
            (("self", BorrowType(FIELDS)), ("name", STRING)), ResultType(STRING, U32)
        ),
        "plain": FuncType((("a", U32),), U32),
    },
)


def offering(**interfaces: InterfaceType | FuncType) -> Callable[[str], Any]:
    """A host that has these for each compatible version."""
    offers = {"wasi:http/types@0.2": HEADERS, **interfaces}
    return lambda name: offers.get(canonical_name(name))


INTERFACE = """(import "wasi:http/types@{version}" (instance $types
  (export "fields" (type $fields (sub resource)))
  (export "[constructor]fields" (func (result (own $fields))))
  (export "[method]fields.get" (func (param "self" (borrow $fields)) (param "name" string)
    (result (result string (error u32)))))))"""


@pytest.mark.parametrize("version", ["0.2.0", "0.2.1", "0.2.999", "0.2.3+build"])
def test_a_compatible_version_is_met(version: str) -> None:
    plan = resolve(component(INTERFACE.format(version=version)), offering())
    assert plan.imports == {f"wasi:http/types@{version}": HEADERS}


@pytest.mark.parametrize("version", ["0.3.0", "0.1.0", "1.2.0", "0.2.0-rc-1"])
def test_another_version_is_not(version: str) -> None:
    with pytest.raises(LinkError, match="which this gateway does not offer") as caught:
        resolve(component(INTERFACE.format(version=version)), offering())
    assert caught.value.interface == f"wasi:http/types@{version}"


def test_resources_of_the_host_become_its_own() -> None:
    plan = resolve(
        component(
            INTERFACE.format(version="0.2.6"),
            '(alias export $types "fields" (type $fields))',
            "(core func $drop (canon resource.drop $fields))",
            '(core func $new (canon lower (func $types "[constructor]fields")))',
            '(core module $m (import "h" "drop" (func (param i32))) (import "h" "new" (func (result i32))))',
            '(core instance (instantiate $m (with "h" (instance (export "drop" (func $drop))'
            ' (export "new" (func $new))))))',
        ),
        offering(),
    )
    [step] = plan.steps
    drop, new = step.imports["h", "drop"], step.imports["h", "new"]
    assert isinstance(drop, ResourceBuiltin)
    assert (drop.kind, drop.part) == ("drop", 0)
    assert drop.rt is FIELDS
    assert isinstance(new, Lowered)
    assert new.callee == HostFunction(
        "wasi:http/types@0.2.6", "[constructor]fields", FuncType((), OwnType(FIELDS))
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '(export "warp" (func))',
            r"imports warp of wasi:http/types@0\.2\.0 \(func\(\)\), which the host does not",
        ),
        (
            '(export "plain" (func (param "a" u64) (result u32)))',
            r"plain: the guest declares func\(a: u64\) -> u32, the host offers func\(a: u32\) -> u32",
        ),
        (
            '(export "plain" (func (param "a" u32)))',
            r"the guest declares func\(a: u32\), the host offers func\(a: u32\) -> u32",
        ),
        (
            '(export "other" (type (sub resource)))',
            "imports the resource other of .*, which the host does not have",
        ),
        ('(export "names" (type (sub resource)))', "the resource names"),
        (
            '(type $t (list u8)) (export "names" (type (eq $t)))',
            "names: the guest declares list<u8>, the host offers list<string>",
        ),
        ('(export "m" (core module))', "imports the core module m of"),
        ('(export "i" (instance))', "imports the instance i of"),
        (
            '(export "fields" (type $f (sub resource))) (export "f2" (type $g (sub resource)))',
            "imports the resource f2",
        ),
        (
            '(type $t u8) (export "fields" (type (eq $t)))',
            "fields: the guest declares u8, the host offers fields",
        ),
    ],
)
def test_a_mismatch_names_both_sides(text: str, message: str) -> None:
    with pytest.raises(LinkError, match=message) as caught:
        resolve(component(f'(import "wasi:http/types@0.2.0" (instance {text}))'), offering())
    assert caught.value.interface == "wasi:http/types@0.2.0"


def test_a_resource_under_a_name_that_the_host_does_not_know() -> None:
    """As of value types, the host need not know every name of what it has."""
    text = """
      (import "wasi:http/types@0.2.0" (instance $types
        (export "fields" (type $f (sub resource))) (export "headers" (type (eq $f)))))
      (alias export $types "headers" (type $headers)) (core func $drop (canon resource.drop $headers))
      (core module $m (import "h" "drop" (func (param i32))))
      (core instance (instantiate $m (with "h" (instance (export "drop" (func $drop))))))"""
    [step] = resolve(component(text), offering()).steps
    assert step.imports == {("h", "drop"): ResourceBuiltin("drop", FIELDS, 0)}


def test_names_of_parameters_do_not_matter_to_the_host() -> None:
    text = '(import "wasi:http/types@0.2.0" (instance (export "plain" (func (param "b" u32) (result u32)))))'
    assert resolve(component(text), offering()).imports


def test_a_resource_of_another_interface() -> None:
    """What one interface calls by the resource of another one has to be that one."""
    text = """
      (import "test:a/other@1.0.0" (instance $other (export "state" (type (sub resource)))))
      (alias export $other "state" (type $state))
      (import "wasi:http/types@0.2.0" (instance
        (alias outer 1 $state (type $s)) (export "fields" (type (eq $s)))))"""
    others = {"test:a/other@1": InterfaceType("test:a/other@1", {"state": STATE})}
    with pytest.raises(LinkError, match="the guest declares the resource state of test:a/other@1"):
        resolve(component(text), offering(**others))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('(import "f" (func))', "imports a function f, which this gateway does not offer"),
        ('(import "c" (component))', "imports the component c, which no host can offer"),
        ('(import "m" (core module))', "imports the core module m, which no host can offer"),
        ('(import "r" (type (sub resource)))', "imports the type r, which no host can offer"),
        ('(import "i" (instance (export "f" (func))))', "imports i, which this gateway does not offer"),
    ],
)
def test_what_no_host_has(text: str, message: str) -> None:
    with pytest.raises(LinkError, match=message):
        resolved(text)


def test_a_function_by_itself() -> None:
    type_ = FuncType((("a", U32),))
    plan = resolved('(import "f" (func $f (param "a" u32))) (export "g" (func $f))', offer={"f": type_})
    assert plan.imports == {"f": type_}
    with pytest.raises(LinkError, match=r"f: the guest declares func\(\), the host offers func\(a: u32\)"):
        resolved('(import "f" (func))', offer={"f": type_})


def test_types_alone_need_no_host() -> None:
    """An interface of nothing but value types, as wit-component leaves them in."""
    assert resolved('(import "a:b/types" (instance (type $t u8) (export "t" (type (eq $t)))))').steps == ()


# Plans


def test_a_plan_says_what_meets_each_import() -> None:
    plan = resolved(
        """
      (component $c
        (import "f" (func $f (param "a" u32)))
        (core func $f' (canon lower (func $f)))
        (core module $m (import "x" "f" (func (param i32))) (func (export "g") (param i32)))
        (core instance $i (instantiate $m (with "x" (instance (export "f" (func $f'))))))
        (func (export "g") (param "a" u32) (canon lift (core func $i "g"))))
      (import "f" (func $f (param "a" u32)))
      (instance $one (instantiate $c (with "f" (func $f))))
      (instance $two (instantiate $c (with "f" (func $one "g"))))
      (export "g" (func $two "g")) (export "test:a/b" (instance $one))""",
        offer={"f": FuncType((("a", U32),))},
    )
    assert len(plan.modules) == 1, "a module that is instantiated twice is compiled once"
    first, second = plan.steps
    assert (first.module, first.part, second.module, second.part) == (0, 0, 0, 1)
    lowered = first.imports["x", "f"]
    assert isinstance(lowered, Lowered)
    assert isinstance(lowered.callee, HostFunction)
    lowered = second.imports["x", "f"]
    assert isinstance(lowered, Lowered)
    assert isinstance(lowered.callee, Lifted)
    assert (lowered.callee.core, lowered.callee.part, lowered.part) == (CoreItem(0, "g", "func"), 0, 1)
    exported = plan.functions["g"]
    assert (exported.core, exported.part) == (CoreItem(1, "g", "func"), 1)
    [interface] = plan.exports.values()
    assert isinstance(interface["g"], Lifted)
    assert plan.interfaces["test:a/b"].funcs == {"g": FuncType((("a", U32),))}
    assert (plan.parts, plan.owners) == (2, (0, 0))


def test_who_needs_no_allocator_shares_the_memory_of_who_does() -> None:
    lower = '(core func (canon lower (func $f) (memory (core memory {} "mem")) {}))'
    realloc = '(realloc (core func {} "realloc"))'
    plan = resolved(
        CORE,
        "(core instance $j (instantiate $m))",
        '(import "f" (func $f (param "a" string)))',
        lower.format("$i", ""),
        lower.format("$i", realloc.format("$i")),
        lower.format("$j", realloc.format("$j")),
        lower.format("$j", ""),
        lower.format("$j", realloc.format("$i")),
        offer={"f": FuncType((("a", STRING),))},
    )
    steps = [
        (slot.memory.step, slot.realloc.step)
        for slot in plan.slots
        if isinstance(slot.memory, CoreItem) and isinstance(slot.realloc, CoreItem)
    ]
    assert steps == [(0, 0), (1, 1), (1, 0)]


def test_resources_belong_to_the_instance_that_defines_them() -> None:
    plan = resolved(
        '(core module $d (func (export "dtor") (param i32)))',
        "(component $c (alias outer 1 $d (core module $d)) (core instance $i (instantiate $d)) "
        '(type $r (resource (rep i32) (dtor (core func $i "dtor")))) (export "r" (type $r)))',
        "(instance $a (instantiate $c)) (instance $b (instantiate $c))",
    )
    a, b = plan.resources
    assert (a.part, b.part) == (a.rt.part, b.rt.part) == (0, 1)
    assert (a.dtor, b.dtor) == (CoreItem(0, "dtor", "func"), CoreItem(1, "dtor", "func"))
    assert a.rt != b.rt


# A component that runs something, and one that has it as a child, and so on.
RUNS = "(core module $m) (core instance (instantiate $m))"


@pytest.mark.parametrize(
    ("text", "parents"),
    [
        ("", (None,)),
        (RUNS, (None,)),
        (f"{RUNS} (component $c {RUNS}) (instance (instantiate $c))", (None, 0)),
        # who is around and runs nothing does not matter when it is the outermost
        (f"(component $c {RUNS}) (instance (instantiate $c)) (instance (instantiate $c))", (None, None)),
        (
            (
                f"(component $c (component $d {RUNS}) (instance (instantiate $d)) "
                "(instance (instantiate $d))) "
                "(instance (instantiate $c)) (instance (instantiate $c))"
            ),
            (1, None, 1, 4, None, 4),
        ),
        # the parent is who instantiates it, not who defines it
        (
            (
                f"{RUNS} (component $d {RUNS}) (component $c (alias outer 1 $d (component $e)) {RUNS} "
                "(instance (instantiate $e))) (instance (instantiate $c))"
            ),
            (None, 0, 1),
        ),
    ],
)
def test_who_is_around_whom(text: str, parents: tuple[int | None, ...]) -> None:
    plan = resolved(text)
    assert plan.parents == parents
    assert plan.parts == len(plan.owners) == len(parents)


def test_what_a_call_enters() -> None:
    """CanonicalABI.md, entering_set: 0 has the children 1 and 2, and 2 has 3."""
    plan = Plan(parts=5, owners=(0,) * 5, parents=(None, 0, 0, 2, None))
    assert plan.entering(3, None) == (3, 2, 0)
    assert plan.entering(3, 1) == (3, 2)
    assert plan.entering(1, 3) == (1,)
    assert plan.entering(3, 0) == (3, 2)
    assert plan.entering(0, 3) == ()
    assert plan.entering(2, 2) == ()
    assert plan.entering(4, 3) == (4,)
    assert plan.entering(3, 4) == (3, 2, 0)


def test_limits_of_a_plan() -> None:
    with pytest.raises(UnsupportedError, match=f"more than {MAX_STEPS} core instances"):
        resolved("(core module $m)", "(core instance (instantiate $m))" * (MAX_STEPS + 1))
    resource = "(component $c (type (resource (rep i32))))"
    with pytest.raises(UnsupportedError, match=f"more than {MAX_PARTS} component instances"):
        resolved(resource, "(instance (instantiate $c))" * (MAX_PARTS + 1))


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        (f'{CORE} (func async (canon lift (core func $i "f") async))', "stackful async lift"),
        ("(canon thread.index (core func))", "thread.index"),
        (
            (
                '(core module $m (memory (export "m") i64 1)) (core instance $i (instantiate $m))'
                '(import "f" (func $f async))'
                '(core func (canon lower (func $f) (memory (core memory $i "m"))))'
            ),
            "memory64",
        ),
        (
            (
                '(core module $m (memory (export "m") i64 1) (func (export "f") (result i64) unreachable)) '
                "(core instance $i (instantiate $m)) (func (result string) "
                '(canon lift (core func $i "f") (memory (core memory $i "m"))))'
            ),
            "memory64",
        ),
        ("(type (resource (rep i64)))", "memory64"),
    ],
)
def test_what_is_not_there_yet(text: str, feature: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        resolved(text, offer={"f": FuncType((), None, True)})
    assert caught.value.feature == feature


def test_start_functions_are_not_supported() -> None:
    data = b"\0asm\x0d\0\1\0" + b"\x07\x05\x01\x40\x00\x01\x00"
    start = data + b"\x0a\x06\x01\x00\x01f\x01\x00" + b"\x09\x03\x00\x00\x00"
    with pytest.raises(UnsupportedError, match="start functions"):
        resolve(parse_component(start), {"f": FuncType()}.get)


# Compositions

ADDER = """
  (core module $m (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))
  (core instance $i (instantiate $m))
  (func $add (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
  (instance $ops (export "add" (func $add)))
  (export "{export}" (instance $ops))"""
USER = """
  (import "{name}" (instance $ops (export "add" (func (param "a" u32) (param "b" u32) (result u32)))))
  (core func $add (canon lower (func $ops "add")))
  (core module $m (import "x" "add" (func (param i32 i32) (result i32))))
  (core instance (instantiate $m (with "x" (instance (export "add" (func $add))))))"""
NAME = "test:math/ops@1.2.0"


def composed(key: str, export: str | None = None, *, user: str = USER, exports: str = NAME) -> Plan:
    main = component(user.format(name=NAME))
    return compose(main, {key: (component(ADDER.format(export=exports)), export)}, lambda name: None)


@pytest.mark.parametrize(
    ("key", "export", "exports"),
    [
        (NAME, None, NAME),
        ("test:math/ops", None, NAME),
        ("test:math/ops@1.9.9", None, NAME),
        ("test:math", None, NAME),
        ("test:math@1.2.0", None, NAME),
        (NAME, None, "test:math/ops@1.3.0"),
        (NAME, "other:name/thing", "other:name/thing"),
        (NAME, "other:name/thing", "other:name/thing@2.0.0"),
        (NAME, "plain", "plain"),
    ],
)
def test_a_composition(key: str, export: str | None, exports: str) -> None:
    plan = composed(key, export, exports=exports)
    # the dependency comes first
    assert [step.part for step in plan.steps] == [0, 1]
    assert (plan.owners, plan.parents) == ((1, 0), (None, None))
    lowered = plan.steps[1].imports["x", "add"]
    assert isinstance(lowered, Lowered)
    assert isinstance(lowered.callee, Lifted)
    assert lowered.callee.part == 0
    assert plan.imports == {}


@pytest.mark.parametrize(
    ("key", "export", "exports", "message"),
    [
        ("test:other/ops", None, NAME, "does not import test:other/ops"),
        ("test:math/ops@2.0.0", None, NAME, "does not import test:math/ops@2.0.0"),
        (
            NAME,
            None,
            "test:math/ops@2.0.0",
            "exports no test:math/ops@1.2.0 .*; it exports test:math/ops@2.0.0",
        ),
        (NAME, "missing", NAME, "exports no missing to provide the import"),
    ],
)
def test_a_dependency_that_does_not_fit(key: str, export: str | None, exports: str, message: str) -> None:
    with pytest.raises(LinkError, match=message):
        composed(key, export, exports=exports)


def test_a_dependency_of_another_type() -> None:
    with pytest.raises(
        LinkError, match=r"exports with another type: export 'add': func\(a: u32, b: u32\) -> u32 found"
    ):
        composed(NAME, user=USER.replace('"b" u32', '"c" u32'))


def test_two_dependencies_for_one_import() -> None:
    main, add = component(USER.format(name=NAME)), component(ADDER.format(export=NAME))
    with pytest.raises(LinkError, match="two dependencies are to provide test:math/ops"):
        compose(main, {NAME: (add, None), "test:math": (add, None)}, lambda name: None)


def test_a_component_that_provides_twice_is_instantiated_once() -> None:
    main = component(
        USER.format(name=NAME), USER.format(name="test:math/more@1.0.0").replace("$", "$second-")
    )
    both = component(ADDER.format(export=NAME), '(export "test:math/more@1.0.0" (instance $ops))')
    plan = compose(main, {"test:math": (both, None)}, lambda name: None)
    assert [step.part for step in plan.steps] == [0, 1, 1]
    assert plan.owners == (1, 0)


def test_what_a_dependency_imports_is_met_by_the_host() -> None:
    needs = component('(import "f" (func))', ADDER.format(export=NAME))
    main = component(USER.format(name=NAME))
    assert compose(main, {NAME: (needs, None)}, {"f": FuncType()}.get).imports == {"f": FuncType()}
    with pytest.raises(LinkError, match="imports a function f"):
        compose(main, {NAME: (needs, None)}, lambda name: None)


def test_resources_across_a_composition() -> None:
    """The resource type that a dependency defines is the one that main imports."""
    maker = component(
        "(type $t (resource (rep i32))) (core func $new (canon resource.new $t))",
        '(core module $m (import "x" "new" (func $n (param i32) (result i32)))',
        '(func (export "make") (result i32) (call $n (i32.const 7))))',
        '(core instance $i (instantiate $m (with "x" (instance (export "new" (func $new))))))',
        '(func $make (result (own $t)) (canon lift (core func $i "make")))',
        '(component $shim (import "t" (type $t (sub resource))) (import "f" (func $f (result (own $t))))',
        '(export $u "thing" (type $t)) (export "make" (func $f) (func (result (own $u)))))',
        '(instance $s (instantiate $shim (with "t" (type $t)) (with "f" (func $make))))',
        '(export "test:a/things" (instance $s))',
    )
    main = component(
        '(import "test:a/things" (instance $t (export "thing" (type $thing (sub resource)))',
        '(export "make" (func (result (own $thing))))))',
        '(alias export $t "thing" (type $r)) (core func $drop (canon resource.drop $r))',
        '(core module $m (import "x" "drop" (func (param i32))))',
        '(core instance (instantiate $m (with "x" (instance (export "drop" (func $drop))))))',
    )
    plan = compose(main, {"test:a/things": (maker, None)}, lambda name: None)
    drop = plan.steps[1].imports["x", "drop"]
    assert isinstance(drop, ResourceBuiltin)
    [resource] = plan.resources
    assert drop.rt is resource.rt
    assert (drop.part, resource.part) == (1, 0)


@pytest.mark.parametrize(
    ("name", "attributes", "message"),
    [
        ("a:b/c@1", {1: ".2.3"}, None),
        ("a:b/c@0.2", {1: ".6-rc.1+build.7"}, None),
        ("a:b/c@0.0.1", {1: "-alpha"}, None),
        ("a:b/c@0.0.1", {1: ""}, None),
        ("a:b/c@1.2.3", {1: ".4"}, "'.4' is no rest of the version in 'a:b/c@1.2.3'"),
        ("a:b/c@1", {1: ".2"}, "'.2' is no rest"),
        ("a:b/c@1", {1: ".2.03"}, "'.2.03' is no rest"),
        ("a:b/c@1", {1: ".2.3-01"}, "'.2.3-01' is no rest"),
        ("a:b/c", {1: ".2.3"}, "'.2.3' is no rest"),
        ("plain", {1: ".2.3"}, "'.2.3' is no rest"),
        ("plain", {0: "a:b/c"}, None),
        ("plain", {0: "a:b/c@1", 1: ".2.3"}, None),
        ("plain", {0: "a:b/c", 1: ".2.3"}, "'.2.3' is no rest"),
        ("plain", {0: "what"}, "'plain' implements 'what', which is no interface"),
        ("a:b/c", {0: "a:b/c"}, "'a:b/c' is no plain name"),
        ("plain", {2: "anything at all"}, None),
    ],
)
def test_attributes_of_names(name: str, attributes: dict[int, str], message: str | None) -> None:
    def vector(text: str) -> bytes:
        return bytes([len(text)]) + text.encode()

    given = b"".join(bytes([code]) + vector(value) for code, value in attributes.items())
    content = b"\x01\x02" + vector(name) + bytes([len(attributes)]) + given + b"\x05\x00"
    wasm = b"\0asm\x0d\0\1\0\x07\x03\x01\x42\x00\x0a" + bytes([len(content)]) + content
    if message is None:
        validate(parse_component(wasm))
        return
    with pytest.raises(DecodeError, match=message):
        validate(parse_component(wasm))
