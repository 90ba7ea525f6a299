"""The preview 1 modules of WebAssembly/wasi-testsuite, run by this host (README.md)."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway.component.canon import raw_import
from wasm_gateway.engine import Engine, HostFunction, Program, current
from wasm_gateway.errors import GuestExit
from wasm_gateway.host.base import Deadline, Grants
from wasm_gateway.host.wasi.preview1 import FUNCTIONS, MODULE, Preview1, WasiTemplate
from wasm_gateway.instance import Instance, Limits

HERE = Path(__file__).parent
SUITE = os.environ.get("WASI_TESTSUITE")
FAMILY = Preview1().functions()


@dataclass
class Mount:
    guest_path: str
    host_path: Path
    writable: bool = True


@dataclass
class Case:
    """One module of the suite and what its JSON file wants of it (doc/specification.md of the suite)."""

    wasm: Path
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    root: Path | None = None
    exit_code: int = 0
    output: dict[str, str] = field(default_factory=dict)
    # what this host is to say of errors: as a Unix does, or anything that the test allows
    strict: bool = False

    @property
    def name(self) -> str:
        language = self.wasm.parent.parent.parent.name
        return f"{language}/{self.wasm.stem}{' (unix)' * self.strict}"


def read_case(wasm: Path) -> Case:
    case = Case(wasm)
    specification = wasm.with_suffix(".json")
    wanted = json.loads(specification.read_text()) if specification.exists() else {}
    for operation in wanted.get("operations") or [wanted]:
        case.arguments = operation.get("args", case.arguments)
        case.environment = operation.get("env", case.environment)
        case.exit_code = operation.get("exit_code", case.exit_code)
        if operation.get("root"):
            case.root = wasm.parent / operation["root"]
        if "payload" in operation:
            case.output[operation.get("id", "stdout")] = operation["payload"]
        case.output.update({name: operation[name] for name in ("stdout", "stderr") if name in operation})
    return case


# How names of preview 1 begin.
LANGUAGES = ("assemblyscript/", "c/", "rust/")


def not_yet(prefix: str | tuple[str, ...] = LANGUAGES) -> dict[str, str]:
    """The expected failures whose names begin so: name -> reason."""
    lines = (HERE / "nyi.txt").read_text().splitlines()
    pairs = (line.partition(":") for line in lines if line and not line.startswith("#"))
    return {name.strip(): reason.strip() for name, _, reason in pairs if name.startswith(prefix)}


def collect() -> list[Case]:
    """Every module, and those in Rust once more with the errors of a Unix asked for."""
    if SUITE is None:
        return []
    cases = []
    for wasm in sorted(Path(SUITE).glob("tests/*/testsuite/wasm32-wasip1/*.wasm")):
        cases.append(read_case(wasm))
        if wasm.parts[-4] == "rust":
            strict = read_case(wasm)
            strict.strict = True
            strict.environment = {**strict.environment, "ERRNO_MODE_UNIX": "1"}
            cases.append(strict)
    return cases


CASES = collect()
NYI = not_yet()


def load(wasm: bytes) -> Program:
    engine = Engine.shared()
    module = engine.compile(wasm)
    # A module may import the same function twice; those of AssemblyScript do.
    functions = {
        item.name: HostFunction(
            *(MODULE, item.name, *FUNCTIONS[item.name]),
            raw_import(item.name, *FUNCTIONS[item.name], FAMILY[item.name], current),
        )
        for item in module.imports
    }
    return Program(engine, module, functions.values())


def run(case: Case, scratch: Path) -> tuple[int, dict[str, bytes]]:
    """Exit code and output of the module, its root being a copy in `scratch`."""
    mounts = []
    if case.root is not None:
        shutil.copytree(case.root, scratch / "root", symlinks=True)
        mounts.append(Mount("/", scratch / "root"))
    template = WasiTemplate(case.environment, mounts, [case.wasm.name, *case.arguments])
    out: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    state = template.state(stdout=out["stdout"].append, stderr=out["stderr"].append)
    program = load(case.wasm.read_bytes())
    services: Any = None  # nothing of an application is needed
    limits = Limits(256 << 20, 100_000)
    with Instance(program, Grants("guest"), Deadline(120), limits, services, state) as guest:
        start = guest.function("_start")
        assert start is not None
        code = 0
        try:
            start()
        except GuestExit as exit_:
            code = exit_.code
    return code, {name: b"".join(pieces) for name, pieces in out.items()}


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[dict[str, tuple[str, str]]]:
    """Case -> (outcome, why); printed when all have run."""
    rows: dict[str, tuple[str, str]] = {}
    yield rows
    counts = Counter(outcome for outcome, _ in rows.values())
    lines = [f"{outcome:8} {name}{': ' * bool(why)}{why}" for name, (outcome, why) in rows.items()]
    lines.append("wasi-testsuite, preview 1: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *lines, sep="\n")


@pytest.mark.skipif(SUITE is None, reason="WASI_TESTSUITE does not name a copy of the suite (see README.md)")
def test_the_suite_is_there() -> None:
    assert len(CASES) >= 72, f"no prebuilt modules in {SUITE}: is it the branch prod/testsuite-base?"
    assert NYI.keys() <= {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_module(case: Case, tmp_path: Path, table: dict[str, tuple[str, str]]) -> None:
    reason = NYI.get(case.name)
    try:
        code, output = run(case, tmp_path)
        assert code == case.exit_code, output["stderr"].decode(errors="replace")
        for stream, text in case.output.items():
            assert output[stream] == text.encode()
    except Exception as error:
        table[case.name] = ("expected" if reason else "failed", reason or str(error).splitlines()[0])
        if reason is None:
            raise
        pytest.xfail(reason)
    table[case.name] = ("passed", "")
    assert reason is None, "it passes: take it out of nyi.txt"
