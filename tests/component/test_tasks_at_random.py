# Guests that call the built-ins of concurrency at random, with handles and pointers at random: whatever they
# do, they end with a result or an error of a guest, and leave nothing behind.

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.tasks_wat import BUILTINS, GRANTS, HOST, Host, Part, guest
from wasm_gateway.engine import Engine
from wasm_gateway.errors import GuestError, Trap
from wasm_gateway.executors.component import Linked, link_component
from wasm_gateway.host.application import Hosts
from wasm_gateway.host.base import Deadline
from wasm_gateway.instance import Instance, Limits
from wasm_gateway.runtime_config import RuntimeConfig

WORK = {"work": ("u", "u", True), "step": ("u", "u", True), "pass": ("s", "s", True)}
# Where the programs lie, and the most operations of one. Operation: what, three arguments.
PROGRAM, LENGTH = 0x4000, 24
END = 0

CALLS: dict[str, str] = {name: core for name, (_, core) in BUILTINS.items()}
for _name, (_, _, _async) in {**HOST, **WORK}.items():
    CALLS[_name] = "(param i32) (result i32)"
    if _async:
        CALLS[f"{_name}-async"] = "(param i32 i32) (result i32)"
OPERATIONS = list(CALLS)
# What an operation makes, and of what kind the handles are that it takes: the ends of streams and futures
# that are read by the letters of tasks_wat.KINDS, those that are written in capitals; q is a waitable set,
# c a subtask, e an error context, o a resource, w whatever can be waited for, - no handle.
MAKES = {"set-new": "q", "error-new": "e", "make": "o", "source": "s", "soon": "f", "back": "s", "pass": "s"}
TAKES = {
    "join": "wq",
    "set-wait": "q",
    "set-poll": "q",
    "set-drop": "q",
    "error-drop": "e",
    "error-message": "e",
}
TAKES |= {"sub-cancel": "c", "sub-cancel-async": "c", "sub-drop": "c", "thing-drop": "o", "lend": "o"}
TAKES |= {"sink": "s", "peek": "s", "back": "s", "pass": "s", "count": "t", "value": "f"}
for _letter in "snztfg":
    MAKES[f"{_letter}.new"] = _letter + _letter.upper()
    for _verb, _kind in (("read", _letter), ("write", _letter.upper())):
        for _form in (_verb, f"{_verb}-sync", f"cancel-{_verb}", f"cancel-{_verb}-async"):
            TAKES[f"{_letter}.{_form}"] = _kind
    TAKES |= {f"{_letter}.drop-readable": _letter, f"{_letter}.drop-writable": _letter.upper()}
for _name in CALLS:
    if _name.endswith("-async") and _name.removesuffix("-async") in {**HOST, **WORK}:
        MAKES[_name] = "c"
        TAKES[_name] = TAKES.get(_name.removesuffix("-async"), "-")
WAITABLE = "snztfgSNZTFGc"
# Those that lead somewhere more often than others.
LIKELY = re.findall(
    r"\S+",
    """s.new f.new n.new z.new s.read s.write n.read n.write z.read z.write f.read f.write s.cancel-read
    s.cancel-write s.drop-readable s.drop-writable f.drop-writable set-new join set-wait set-poll work-async
    step-async pass-async gate-async sink-async value-async lend-async sub-cancel sub-cancel-async sub-drop
    source soon back open yield return make thing-drop""",
)
# What an operation leaves nothing of.
CONSUMES = re.compile(r".*drop.*|sink|peek|back|pass|count|value")


def interpreter(calls: dict[str, str]) -> str:
    """$program carries out operations from $at on; it gives what stands behind the last one."""
    cases = []
    for number, name in enumerate(OPERATIONS, 1):
        if name not in calls:
            continue
        params = len(re.findall("i32", calls[name].partition("(result")[0]))
        arguments = " ".join(f"(i32.load offset={4 * i} (global.get $at))" for i in range(1, params + 1))
        call = f"(call ${name} {arguments})"
        if "(result" in calls[name]:
            call = f"(drop {call})"
        cases.append(f"(if (i32.eq (local.get $what) (i32.const {number})) (then {call}))")
    new_line = "\n"
    return f"""(global $at (mut i32) (i32.const {PROGRAM - 16}))
  (func $program (result i32) (local $what i32)
    (loop $next
      (global.set $at (i32.add (global.get $at) (i32.const 16)))
      (local.set $what (i32.load (global.get $at)))
      {new_line.join(cases)}
      (br_if $next (local.get $what)))
    (i32.load offset=4 (global.get $at)))
  (func $go (param i32 i32 i32) (result i32) (call $program))"""


def exported(name: str, asynchronous: bool) -> str:
    back = f'(export "callback-{name}" (func $go))' if asynchronous else ""
    return f'(func (export "{name}") (param i32) (result i32) (call $program)) {back}'


@pytest.fixture(scope="module")
def linked() -> Linked:
    inner = {name: core for name, core in CALLS.items() if name.removesuffix("-async") not in WORK}
    work = exported("work", True) + exported("step", False) + exported("pass", True)
    outer = exported("run", False) + exported("other", True)
    wasm = guest(
        Part(interpreter(inner) + work, WORK),
        Part(interpreter(CALLS) + outer, {"run": ("u", "u", True), "other": ("u", "u", True)}, WORK),
    )
    return link_component(wasm, Engine.shared(), None, Hosts(RuntimeConfig(), interfaces=[HOSTS]), GRANTS)


class AllHosts(Host):
    """What runs now has a log of its own."""

    def fresh(self) -> None:
        Host.__init__(self, (b"hello", b"", b"world"))
        self.begun = self.done = 0

    async def gate(self, guest: Any, n: int) -> int:
        self.begun += 1
        result = await super().gate(guest, n)
        self.done += 1
        return result

    async def sleep(self, guest: Any, ms: int) -> int:
        return ms


HOSTS = AllHosts()


class Programmer:
    """Writes a program: some operations, an end with a callback code, and so on; handles are guesses."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.kinds = [""]  # of the handles, by index; "" where there is none
        self.free: list[int] = []

    def write(self) -> Iterator[tuple[int, int, int, int]]:
        for _ in range(self.rng.randrange(4, LENGTH)):
            name = self.operation()
            wanted = f"{TAKES.get(name, '')}---"
            arguments = [self.argument(wanted[i], i) for i in range(3)]
            yield OPERATIONS.index(name) + 1, arguments[0], arguments[1], arguments[2]
            if wanted[0] != "-" and CONSUMES.fullmatch(name.removesuffix("-async")):
                self.forget(arguments[0])
            for kind in MAKES.get(name, ""):
                self.add(kind)
            if not self.rng.randrange(6):
                yield END, self.code(), 0, 0
        for code in (1, 0, 0, 0):
            yield END, code, 0, 0

    def operation(self) -> str:
        """Most often one for which there are handles."""
        while True:
            name = self.rng.choice(LIKELY) if self.rng.randrange(8) else self.rng.choice(OPERATIONS)
            kind = TAKES.get(name, "-")[0]
            if kind == "-" or self.of(kind) or not self.rng.randrange(40):
                return name

    def of(self, kind: str) -> list[int]:
        kinds = WAITABLE if kind == "w" else kind
        return [i for i, found in enumerate(self.kinds) if found and found in kinds]

    def add(self, kind: str) -> None:
        if self.free:
            self.kinds[self.free.pop()] = kind
        else:
            self.kinds.append(kind)

    def forget(self, i: int) -> None:
        if 0 < i < len(self.kinds) and self.kinds[i]:
            self.kinds[i] = ""
            self.free.append(i)

    def argument(self, kind: str, i: int) -> int:
        rng = self.rng
        if kind != "-" and rng.randrange(40):
            found = self.of(kind)
            return rng.choice(found) if found else 0
        if i == 0:
            return rng.choice((1, 2, 3, 4, 5, rng.randrange(20)))
        if i == 1:
            return rng.choice((0x100, 0x200, 0x300, 0x1FFFC if rng.randrange(4) else 3))
        return rng.choice((0, 1, 1, 2, 5, 5, 100, 0xFFFFFFF if rng.randrange(4) else 0xFFFFFFFF))

    def code(self) -> int:
        """Of a callback: nearly always one that there is."""
        rng = self.rng
        return rng.choice(
            (0, 1, 1, 2 | self.argument("q", 0) << 4, rng.randrange(3 if rng.randrange(9) else 20))
        )


def run(linked: Linked, rng: random.Random) -> str:
    """How a guest with such programs ended; AssertionError where it left something behind."""
    HOSTS.fresh()
    services: Any = None
    with Instance(linked.program, GRANTS, Deadline(120), Limits(16 << 20, 10_000), services) as instance:
        for memory in {id(memory): memory for memory in instance.memories}.values():
            data = b"".join(n.to_bytes(4, "little") for op in Programmer(rng).write() for n in op)
            memory.write(PROGRAM, data)
        try:
            if rng.randrange(2):
                linked.functions["", "other"].begin(instance, (0,), lambda result: None)
            linked.functions["", "run"](instance, 0)
            outcome = "returned"
        except Trap as error:
            outcome = str(error).rpartition(": ")[2]
        except GuestError as error:
            outcome = type(error).__name__
    assert {given.closed for given in (*HOSTS.sources, *HOSTS.things)} <= {1}
    assert HOSTS.begun == HOSTS.done + len(HOSTS.ended)
    return re.sub(r"0x[0-9a-f]+|\d+", "N", outcome)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_guest_does(linked: Linked, seed: int) -> None:
    rng = random.Random(seed)
    outcomes = Counter(run(linked, rng) for _ in range(300))
    assert outcomes["returned"] > 40
    assert len(outcomes) > 20, outcomes
