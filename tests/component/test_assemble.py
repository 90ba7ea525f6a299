"""Plans with fewer modules, and what the modules of a plan are called by."""

from __future__ import annotations

from typing import Any

import pytest

from wasm_gateway.component.assemble import assemble, simplify
from wasm_gateway.component.core import core_module
from wasm_gateway.component.parse import parse_component
from wasm_gateway.component.plan import CoreItem, Lowered, Plan, ResourceBuiltin
from wasm_gateway.component.resolve import resolve
from wasm_gateway.component.rewrite import rewrite
from wasm_gateway.component.types import PRIMITIVES, FuncType
from wasm_gateway.engine import wat2wasm

STRING, U32 = PRIMITIVES["string"], PRIMITIVES["u32"]
OFFER = {"log": FuncType((("text", STRING),)), "add": FuncType((("a", U32), ("b", U32)), U32)}

SHIM = """
    (table (export "$imports") 2 2 funcref)
    (type $log (func (param i32 i32))) (type $drop (func (param i32)))
    (func (export "0") (type $log)
      local.get 0 local.get 1 i32.const 0 call_indirect (type $log))
    (func (export "1") (type $drop) local.get 0 i32.const 1 call_indirect (type $drop))"""
FIXUP = """
    (import "" "0" (func $log (param i32 i32))) (import "" "1" (func $drop (param i32)))
    (import "" "$imports" (table 2 2 funcref))
    (elem (i32.const 0) func $log $drop)"""


def wit_component(shim: str = SHIM, fixup: str = FIXUP, *, extra: str = "") -> Plan:
    """A component as wit-component makes it: main imports functions that need main's own memory."""
    return plan(
        f"""
      (import "log" (func $log (param "text" string)))
      (type $r (resource (rep i32)))
      (core module $shim {shim})
      (core module $main
        (import "host" "log" (func $log (param i32 i32))) (import "host" "drop" (func $drop (param i32)))
        (memory (export "memory") 1)
        (func (export "run") (call $log (i32.const 0) (i32.const 1)) (call $drop (i32.const 1))))
      (core module $fixup {fixup})
      (core instance $s (instantiate $shim))
      (core instance $m (instantiate $main (with "host" (instance
        (export "log" (func $s "0")) (export "drop" (func $s "1"))))))
      (alias core export $m "memory" (core memory $memory))
      (core func $log' (canon lower (func $log) (memory $memory)))
      (core func $drop' (canon resource.drop $r))
      {extra}
      (core instance (instantiate $fixup (with "" (instance
        (export "0" (func $log')) (export "1" (func $drop')) (export "$imports" (table $s "$imports"))))))
      (func (export "run") (canon lift (core func $m "run")))"""
    )


def plan(*definitions: str) -> Plan:
    return resolve(parse_component(wat2wasm(f"(component {' '.join(definitions)})".encode())), OFFER.get)


def test_shim_and_fixup_disappear() -> None:
    before = wit_component()
    after = simplify(before)
    assert (len(before.steps), len(after.steps)) == (3, 1)
    [step] = after.steps
    log, drop = step.imports["host", "log"], step.imports["host", "drop"]
    assert isinstance(log, Lowered)
    assert isinstance(drop, ResourceBuiltin)
    # what named the second step names the first one now
    assert after.slots[log.options.slot].memory == CoreItem(0, "memory", "memory")
    assert after.functions["run"].core == CoreItem(0, "run", "func")
    assert [bytes(module.code) for module in after.modules] == [bytes(before.modules[1].code)]
    assert simplify(after) is after


def test_two_pairs_disappear() -> None:
    """As a component that wit-component made of two, one inside the other."""
    inner = f"""
      (component $c
        (import "log" (func $log (param "text" string)))
        (core module $shim {SHIM}) (core module $fixup {FIXUP})
        (core module $main (import "h" "0" (func (param i32 i32))) (memory (export "memory") 1))
        (type $r (resource (rep i32)))
        (core instance $s (instantiate $shim))
        (core instance $m (instantiate $main (with "h" (instance $s))))
        (core func $log' (canon lower (func $log) (memory (core memory $m "memory"))))
        (core func $drop (canon resource.drop $r))
        (core instance (instantiate $fixup (with "" (instance (export "0" (func $log'))
          (export "1" (func $drop)) (export "$imports" (table $s "$imports")))))))
      (import "log" (func $log (param "text" string)))
      (instance (instantiate $c (with "log" (func $log))))
      (instance (instantiate $c (with "log" (func $log))))"""
    after = simplify(plan(inner))
    assert [step.part for step in after.steps] == [0, 1]
    assert len(after.modules) == 1
    slots = [step.imports["h", "0"].options.slot for step in after.steps]  # type: ignore[union-attr]
    assert [after.slots[slot].memory for slot in slots] == [CoreItem(i, "memory", "memory") for i in (0, 1)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # the shim does more than pass on
        ("local.get 0 i32.const 1", "nop local.get 0 i32.const 1"),
        ("local.get 0 local.get 1 i32.const 0", "local.get 1 local.get 0 i32.const 0"),
        ('(func (export "1") (type $drop) local.get 0', '(func (export "1") (type $drop) i32.const 5'),
        ('(func (export "1") (type $drop)', '(func (export "1") (type $drop) (local i32)'),
        ("call_indirect (type $drop)", "call_indirect (type $drop) nop"),
        # it is or has something else besides
        ("2 2 funcref)", '2 2 funcref) (memory (export "m") 1)'),
        ("2 2 funcref)", "2 2 funcref) (func $s) (start $s)"),
        ("2 2 funcref)", "2 2 funcref) (global (mut i32) (i32.const 1))"),
        ("2 2 funcref)", "2 2 funcref) (table 1 funcref)"),
        ("2 2 funcref)", "2 2 funcref) (func $f) (elem (i32.const 0) func $f)"),
        # its types do not agree with those of what is called
        ("call_indirect (type $drop)", "call_indirect (type $other)"),
        ("i32.const 1 call_indirect (type $drop)", "i32.const 7 call_indirect (type $drop)"),
    ],
)
def test_a_shim_that_may_be_something_else_stays(old: str, new: str) -> None:
    assert old in SHIM
    shim = SHIM.replace(old, new)
    if "$other" in shim:
        shim = "(type $other (func (param i32)))" + shim + "(type $second (sub (func (param i32))))"
        shim = shim.replace("call_indirect (type $other)", "call_indirect (type $second)")
    kept = wit_component(shim)
    assert simplify(kept) is kept


@pytest.mark.parametrize(("at", "new"), [(0, b""), (3, b"\x7f")])
def test_a_shim_whose_code_is_malformed_stays(at: int, new: bytes) -> None:
    """The engine finds the words for it."""
    core = "local.get 0 i32.const 0 call_indirect (type $f)"
    wasm = wat2wasm(
        f"""(component (core module (type $f (func (param i32))) (table (export "t") 1 1 funcref)
          (func (export "0") (type $f) {core})) (core instance (instantiate 0)))""".encode()
    )
    code = wasm.index(b"\x0a\x0b\x01\x09\x00")  # the section of one body of 9 bytes
    if at == 0:  # no section at all
        wasm = wasm[:code] + b"\x00\x0b\x00" + wasm[code + 3 :]
    else:
        wasm = wasm[: code + at] + new + wasm[code + at + 1 :]
    kept = resolve(parse_component(wasm), lambda name: None)
    assert simplify(kept) is kept


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("func $log $drop)", "func $drop $log)"),  # calls of another type: they trap
        ("func $log $drop)", "func $log)"),  # a place that stays empty: calls trap
        ("(i32.const 0) func", "(i32.const 1) func"),
        ("(elem (i32.const 0) func $log $drop)", "(elem func $log $drop)"),
        (
            "(elem (i32.const 0) func $log $drop)",
            "(elem (i32.const 0) funcref (ref.func $log) (ref.func $drop))",
        ),
        ("(elem", '(func (export "also")) (elem'),
        ("(elem", "(func $start) (start $start) (elem"),
        ("(elem", "(memory 1) (elem"),
        ("(elem", "(func $own (param i32)) (elem (i32.const 1) func $own) (elem"),
    ],
)
def test_a_fixup_that_may_be_something_else_stays(old: str, new: str) -> None:
    assert old in FIXUP
    kept = wit_component(SHIM, FIXUP.replace(old, new))
    assert simplify(kept) is kept


def test_a_table_with_another_user_stays() -> None:
    user = """(core module $user (import "" "t" (table 0 funcref)))
      (core instance (instantiate $user (with "" (instance (export "t" (table $s "$imports"))))))"""
    kept = wit_component(extra=user)
    assert simplify(kept) is kept


def test_functions_that_come_later_are_not_called_earlier() -> None:
    """A shim that stands for an export of a module which is instantiated after its user."""
    kept = wit_component(
        fixup=FIXUP,
        extra="""(core module $late (func (export "log") (param i32 i32)))
          (core instance $late (instantiate $late)) (alias core export $late "log" (core func $log''))""",
    )
    assert len(simplify(kept).steps) == 2, "the module that nobody uses stays, what it does cannot be known"
    swapped = plan(
        """
      (core module $shim (table (export "$imports") 1 1 funcref) (type $f (func (param i32 i32)))
        (func (export "0") (type $f) local.get 0 local.get 1 i32.const 0 call_indirect (type $f)))
      (core module $main (import "h" "0" (func (param i32 i32))))
      (core module $late (func (export "log") (param i32 i32)))
      (core module $fixup (import "" "0" (func $f (param i32 i32))) (import "" "t" (table 1 1 funcref))
        (elem (i32.const 0) func $f))
      (core instance $s (instantiate $shim))
      (core instance (instantiate $main (with "h" (instance $s))))
      (core instance $l (instantiate $late))
      (core instance (instantiate $fixup (with "" (instance (export "0" (func $l "log"))
        (export "t" (table $s "$imports"))))))"""
    )
    assert simplify(swapped) is swapped


# The shim's function is put to other uses than being imported; {there} is what the fixup puts in its place.
OTHER_USES = """
  (import "log" (func $log (param "text" string)))
  (core module $shim (table (export "$imports") 1 1 funcref) (type $f (func (param i32)))
    (func (export "0") (type $f) local.get 0 i32.const 0 call_indirect (type $f)))
  (core instance $s (instantiate $shim)) (alias core export $s "0" (core func $0))
  {before}
  (core module $main (func (export "g") (param i32)) (func (export "f") (result i32) i32.const 0))
  (core instance $m (instantiate $main)) (alias core export $m "g" (core func $g))
  (type $r (resource (rep i32))) (core func $drop (canon resource.drop $r))
  (core module $fixup (import "" "0" (func $f (param i32))) (import "" "t" (table 1 1 funcref))
    (elem (i32.const 0) func $f))
  (core instance (instantiate $fixup (with "" (instance (export "0" (func {there}))
    (export "t" (table $s "$imports"))))))
  {after}"""
LIFTED = '(func (export "f") (param "x" u32) (canon lift (core func $0)))'
POST = '(func (export "f") (result u32) (canon lift (core func $m "f") (post-return (core func $0))))'
DTOR = "(type (resource (rep i32) (dtor (core func $0))))"


@pytest.mark.parametrize(("before", "after"), [("", LIFTED), ("", POST), (DTOR, "")])
def test_other_uses_of_a_shim_lead_to_the_module_behind_it(before: str, after: str) -> None:
    short = simplify(plan(OTHER_USES.format(there="$g", before=before, after=after)))
    [_main] = short.steps
    assert CoreItem(0, "g", "func") in (
        *(lifted.core for lifted in short.functions.values()),
        *(lifted.options.post_return for lifted in short.functions.values()),
        *(resource.dtor for resource in short.resources),
    )


@pytest.mark.parametrize("there", ["$drop", "$0"])
@pytest.mark.parametrize(("before", "after"), [("", LIFTED), ("", POST), (DTOR, "")])
def test_there_has_to_be_a_module_behind_it(before: str, after: str, there: str) -> None:
    """A function of the host cannot be lifted, and one that calls itself never ends."""
    kept = plan(OTHER_USES.format(there=there, before=before, after=after))
    assert simplify(kept) is kept


# Names


def imports_of(assembly: Any, step: int) -> list[tuple[str, str, str]]:
    """What the module of a step imports once it is rewritten."""
    image = assembly.images[step]
    module = assembly.plan.modules[image.module]
    rewritten = core_module(rewrite(module.code, module.module, image.names))
    return [(item.module, item.name, item.kind) for item in rewritten.imports]


def exports_of(assembly: Any, step: int) -> dict[str, str]:
    image = assembly.images[step]
    module = assembly.plan.modules[image.module]
    return {e.name: e.kind for e in core_module(rewrite(module.code, module.module, image.names)).exports}


TWO = """
  (import "log" (func $log (param "text" string)))
  (import "add" (func $add (param "a" u32) (param "b" u32) (result u32)))
  (core module $lib
    (memory (export "memory") 1) (func (export "unused")) (func (export "f") (result i64) i64.const 1)
    (global (export "g") (mut i32) (i32.const 0)) (table (export "t") 1 funcref) (tag (export "e")))
  (core instance $l (instantiate $lib))
  (core func $log' (canon lower (func $log) (memory (core memory $l "memory"))))
  (core func $add' (canon lower (func $add)))
  (core module $main (import "a" "add" (func (param i32 i32) (result i32)))
    (import "a" "log" (func (param i32 i32))) (import "b" "add again" (func (param i32 i32) (result i32)))
    (import "l" "f" (func (result i64))) (import "l" "memory" (memory 1)) (import "l" "g" (global (mut i32)))
    (import "l" "t" (table 1 funcref)) (import "l" "e" (tag))
    (func (export "run")) (func (export "not used")))
  (core instance $m (instantiate $main (with "l" (instance $l))
    (with "a" (instance (export "add" (func $add')) (export "log" (func $log'))))
    (with "b" (instance (export "add again" (func $add'))))))
  (func (export "run") (canon lift (core func $m "run")))"""


def test_everything_is_named_after_what_meets_it() -> None:
    assembly = assemble(plan(TWO))
    assert [(params, results) for _, params, results in assembly.hosts] == [("ii", "i"), ("ii", "")]
    names = assembly.exports[0]
    assert imports_of(assembly, 1) == [
        ("h", "0", "func"),
        ("h", "1", "func"),
        ("h", "0", "func"),
        ("0", names["f"], "func"),
        ("0", names["memory"], "memory"),
        ("0", names["g"], "global"),
        ("0", names["t"], "table"),
        ("0", names["e"], "tag"),
    ]
    kinds = {"f": "func", "memory": "memory", "g": "global", "t": "table", "e": "tag"}
    assert exports_of(assembly, 0) == {names[name]: kind for name, kind in kinds.items()}
    assert exports_of(assembly, 1) == {"0": "func"}
    assert assembly.name(CoreItem(0, "memory", "memory")) == names["memory"]
    assert assembly.name(assembly.plan.functions["run"].core) == "0"  # type: ignore[arg-type]


def test_one_module_in_two_roles_has_two_images() -> None:
    assembly = assemble(
        plan(
            """(core module $m (import "a" "f" (func)) (func (export "f")))
            (core module $first (func (export "f")))
            (core instance $0 (instantiate $first))
            (core instance $1 (instantiate $m (with "a" (instance $0))))
            (core instance $2 (instantiate $m (with "a" (instance $1))))
            (func (export "f") (canon lift (core func $2 "f")))"""
        )
    )
    assert [image.module for image in assembly.images] == [0, 1, 1]
    assert assembly.images[1].names != assembly.images[2].names
    assert [imports_of(assembly, step) for step in (1, 2)] == [[("0", "0", "func")], [("1", "0", "func")]]
    assert [exports_of(assembly, step) for step in (1, 2)] == [{"0": "func"}] * 2


def test_what_a_plan_says_is_what_is_named() -> None:
    """Allocators, post-return functions and destructors are exports that are used."""
    text = """
      (core module $m (memory (export "memory") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "post") (param i32)) (func (export "dtor") (param i32))
        (func (export "run") (param i32 i32) (result i32) unreachable) (func (export "other")))
      (core instance $m (instantiate $m))
      (type (resource (rep i32) (dtor (core func $m "dtor"))))
      (func (export "run") (param "a" string) (result string) (canon lift (core func $m "run")
        (memory (core memory $m "memory")) (realloc (core func $m "realloc"))
        (post-return (core func $m "post"))))"""
    assembly = assemble(simplify(plan(text)))
    assert set(assembly.exports[0]) == {"memory", "realloc", "post", "dtor", "run"}
