"""The built-ins of concurrency that test_concurrency.py and test_streams.py do not have: error contexts,
what each may be called from, and what a task is told apart by."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.tasks_wat import BUILTINS, GRANTS, KINDS, MEMORY, Host, Part, running, said
from wasm_gateway.component.builtins import MAX_MESSAGE
from wasm_gateway.component.handles import HandleTable
from wasm_gateway.engine import Engine, wat2wasm
from wasm_gateway.errors import Trap, UnsupportedError
from wasm_gateway.executors.component import Linked, link_component
from wasm_gateway.host.application import Hosts
from wasm_gateway.host.base import Deadline
from wasm_gateway.instance import Instance, Limits
from wasm_gateway.runtime_config import RuntimeConfig

U = ("u", "u", True)
DATA = """(data (i32.const 256) "it broke") (data (i32.const 300) "\\ff")
  (func $none (result i32) (call $error-new (i32.const 0) (i32.const 0)))"""


def run(code: str, more: str = "") -> Part:
    return Part(f'{more} (func (export "run") (param $x i32) (result i32) (local $i i32) {code})')


# Error contexts.


def test_an_error_context_keeps_its_message() -> None:
    code = """(local.set $i (call $error-new (i32.const 256) (i32.const 8)))
      (call $error-message (local.get $i) (i32.const 512))
      (call $say (i32.load (i32.const 516)))
      (call $say (i32.load8_u (i32.load (i32.const 512))))
      (call $error-drop (local.get $i)) (i32.const 0)"""
    assert said(run(code, DATA)) == [8, ord("i"), 0]


def test_a_message_is_cut_to_what_the_host_keeps() -> None:
    """Otherwise a guest could let the host hold its whole memory 65,536 times."""
    code = """(local.set $i (call $error-new (i32.const 0) (i32.const 0x10000)))
      (call $error-message (local.get $i) (i32.const 512)) (i32.load (i32.const 516))"""
    with running(run(code)) as guest:
        assert guest.run() == MAX_MESSAGE
        [context] = [h for h in guest.instance.handles.array if h is not None]
        assert len(context.message) == MAX_MESSAGE


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("(drop (call $error-new (i32.const 0x1FFFF) (i32.const 2)))", "out of bounds"),
        ("(drop (call $error-new (i32.const 0) (i32.const -1)))", "too long"),
        ("(drop (call $error-new (i32.const 0) (i32.const 0x7FFFFFFF)))", "too long"),
        ("(call $error-message (i32.const 7) (i32.const 512))", "unknown handle index 7"),
        ("(call $error-message (call $set-new) (i32.const 512))", "is not a ErrorContext"),
        (
            "(call $error-message (call $none) (i32.const 514))",
            "not aligned",
        ),
        (
            "(call $error-message (call $none) (i32.const 0x20000))",
            "out of bounds",
        ),
        ("(call $error-drop (call $set-new))", "is not a ErrorContext"),
        ("(call $error-drop (i32.const 0))", "unknown handle index 0"),
        (
            "(local.set $i (call $none)) (call $error-drop (local.get $i)) (call $error-drop (local.get $i))",
            "unknown handle index 1",
        ),
        (
            "(drop (call $error-new (i32.const 300) (i32.const 1)))",
            "not utf8",
        ),
    ],
)
def test_what_is_no_error_context(code: str, message: str) -> None:
    with pytest.raises(Trap, match=message):
        said(run(f"{code} (i32.const 0)", DATA))


# Handles.


@pytest.mark.parametrize(
    "make",
    [
        "(drop (call $set-new))",
        "(drop (call $s.new))",
        "(drop (call $f.new))",
        "(drop (call $error-new (i32.const 0) (i32.const 0)))",
        "(drop (call $gate-async (i32.const 1) (i32.const 32)))",
        "(drop (call $source (i32.const 1)))",
        "(drop (call $soon (i32.const 1)))",
        "(drop (call $make (i32.const 1)))",
    ],
)
def test_whatever_a_guest_makes_is_in_its_table(make: str) -> None:
    """And so is bounded."""
    host = Host()
    with running(run(f"(loop $on {make} (br $on)) unreachable"), host=host) as guest:
        guest.instance.handles.limit = 30
        with pytest.raises(Trap, match="more than 30 handles"):
            guest.run()
    assert {source.closed for source in host.sources} <= {1}
    assert len(host.ended) in (0, 30, 31)
    assert HandleTable.MAX_LENGTH == 1 << 16


# Where a component instance may not be left.

# By the specification these may be called from anywhere.
ANYWHERE = {"get", "set", "inc", "dec"}


def inside(realloc: str = "", post: str = "", options: str = "", body: str = "(i32.const 8)") -> bytes:
    """A guest whose run, which takes a text and gives one, has such an allocator and such a post-return."""
    new_line = "\n"
    lowered, given, imported = [], [], []
    for name, (canon, core) in BUILTINS.items():
        lowered.append(f"(core func ${name} (canon {canon}))")
        given.append(f'(export "{name}" (func ${name}))')
        imported.append(f'(import "h" "{name}" (func ${name} {core}))')
    types = " ".join(f"(type ${letter} {KINDS[letter]})" for letter in "snztfg")
    asynchronous = 'async (callback (core func $core "callback"))' in options
    post_return = "" if asynchronous else '(post-return (core func $core "post"))'
    return wat2wasm(
        f"""(component
  (import "test:tasks/host@1.0.0" (instance $host (export "thing" (type (sub resource)))))
  (alias export $host "thing" (type $thing))
  {types} {MEMORY}
  (core module $other (memory (export "memory") 1)) (core instance $other (instantiate $other))
  (alias core export $other "memory" (core memory $other))
  {new_line.join(lowered)}
  (core func $texts (canon task.return (result string) (memory $memory)))
  (core func $utf16 (canon task.return (result string) string-encoding=utf16 (memory $memory)))
  (core func $elsewhere (canon task.return (result string) (memory $other)))
  (core module $main (import "h" "memory" (memory 1))
    (import "h" "texts" (func $texts (param i32 i32))) (import "h" "utf16" (func $utf16 (param i32 i32)))
    (import "h" "elsewhere" (func $elsewhere (param i32 i32)))
    {new_line.join(imported)}
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) {realloc} (i32.const 1024))
    (func (export "run") (param i32 i32) (result i32) {body})
    (func (export "callback") (param i32 i32 i32) (result i32) unreachable)
    (func (export "post") (param i32) {post}))
  (core instance $core (instantiate $main (with "h" (instance
    (export "memory" (memory $memory)) (export "texts" (func $texts)) (export "utf16" (func $utf16))
    (export "elsewhere" (func $elsewhere)) {" ".join(given)}))))
  (func (export "run") async (param "x" string) (result string)
    (canon lift (core func $core "run") (memory $memory) (realloc (core func $core "realloc"))
      {post_return} {options})))""".encode()
    )


def linked(wasm: bytes) -> Linked:
    hosts = Hosts(RuntimeConfig(), interfaces=[Host()])
    return link_component(wasm, Engine.shared(), None, hosts, GRANTS)


def answer(guest: Linked, choice: int = 0) -> Any:
    """What such a guest gives for a text; `choice` lies at 0 in its memory."""
    services: Any = None
    with Instance(guest.program, GRANTS, Deadline(120), Limits(64 << 20, 100_000), services) as instance:
        instance.memories[0].store_u32(0, choice)
        return guest.functions["", "run"](instance, "text")


def call_of(name: str) -> str:
    params, _, result = BUILTINS[name][1].partition("(result")
    call = f"(call ${name} {' '.join('(i32.const 0)' for _ in re.findall('i32', params))})"
    return f"(drop {call})" if result else call


@pytest.fixture(scope="module")
def leaving() -> dict[str, Linked]:
    """Guests that call the built-in of a choice, from 1 on, from their allocator or their post-return."""
    any_of_them = " ".join(
        f"(if (i32.eq (i32.load (i32.const 0)) (i32.const {i})) (then {call_of(name)}))"
        for i, name in enumerate(BUILTINS, 1)
    )
    return {where: linked(inside(**{where: any_of_them})) for where in ("realloc", "post")}


@pytest.mark.parametrize("where", ["realloc", "post"])
@pytest.mark.parametrize(("choice", "name"), list(enumerate(BUILTINS, 1)))
def test_an_instance_cannot_be_left_from_its_allocator_or_post_return(
    leaving: dict[str, Linked], choice: int, name: str, where: str
) -> None:
    assert answer(leaving[where]) == ""
    if name in ANYWHERE - {"dec"}:
        assert answer(leaving[where], choice) == ""
        return
    with pytest.raises(Trap, match="underflow" if name == "dec" else "cannot be left now|cannot leave"):
        answer(leaving[where], choice)


CALLBACK = 'async (callback (core func $core "callback"))'


@pytest.mark.parametrize(
    ("options", "body"),
    [("", "(i32.const 8)"), (CALLBACK, "(call $texts (i32.const 64) (i32.const 0)) (i32.const 0)")],
    ids=["synchronous", "asynchronous"],
)
def test_an_allocator_has_a_storage_of_its_own(options: str, body: str) -> None:
    """It finds 0 and leaves nothing, whoever's task goes on around it."""
    realloc = """(if (call $get) (then unreachable)) (call $set (i32.const 9))
      (if (i32.ne (call $get) (i32.const 9)) (then unreachable))"""
    guest = linked(inside(realloc, options=options, body=f"(if (call $get) (then unreachable)) {body}"))
    assert answer(guest) == ""


def test_a_start_function_has_a_storage() -> None:
    code = """(start $init) (func $init
      (call $set (i32.const 5)) (if (i32.ne (call $get) (i32.const 5)) (then unreachable)))"""
    assert said(run("(call $get)", code)) == [0]


def test_task_return_has_the_options_of_its_lift() -> None:
    body = "(call ${} (i32.const 64) (i32.const 0)) (i32.const 0)"
    assert answer(linked(inside(options=CALLBACK, body=body.format("texts")))) == ""
    for name in ("utf16", "elsewhere"):
        with pytest.raises(Trap, match="with another string encoding or memory"):
            answer(linked(inside(options=CALLBACK, body=body.format(name))))


@pytest.mark.parametrize("word", ["stream", "future"])
def test_an_element_costs_the_host_no_more_than_the_arguments_of_a_call(word: str) -> None:
    """Between two parts of a guest it is a list of so many Python objects."""
    params = "i32" * (word == "stream")
    wasm = wat2wasm(
        f"""(component (type $t ({word} (list (tuple u8) 20_000_000))) {MEMORY}
      (core func $write (canon {word}.write $t async (memory $memory)))
      (core module $m (import "h" "write" (func (param i32 i32 {params}) (result i32))))
      (core instance (instantiate $m (with "h" (instance (export "write" (func $write)))))))""".encode()
    )
    with pytest.raises(UnsupportedError, match=f"{word}.write: its values are too large"):
        linked(wasm)
