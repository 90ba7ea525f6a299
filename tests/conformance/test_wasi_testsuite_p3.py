"""The commands of WASI 0.3 in WebAssembly/wasi-testsuite, run by this host (README.md)."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.test_wasi_testsuite import SUITE, Mount, not_yet
from wasm_gateway.component.values import Err
from wasm_gateway.engine import Engine
from wasm_gateway.errors import GuestExit
from wasm_gateway.executors.component import link_component
from wasm_gateway.host.application import Hosts
from wasm_gateway.host.base import Deadline, Grants
from wasm_gateway.host.outbound import AllowedHosts
from wasm_gateway.host.wasi.state import WasiTemplate
from wasm_gateway.instance import Instance, Limits
from wasm_gateway.runtime_config import RuntimeConfig

RUN = "wasi:cli/run@0.3"


class Case:
    """One component and what its JSON file wants of it (doc/specification.md of the suite)."""

    def __init__(self, wasm: Path) -> None:
        self.wasm = wasm
        self.name = f"wasip3/{wasm.stem}"
        specification = wasm.with_suffix(".json")
        wanted = json.loads(specification.read_text()) if specification.exists() else {}
        self.world = wanted.get("world", "wasi:cli/command")
        self.root = wanted.get("root")
        self.arguments: list[str] = []
        self.environment: dict[str, str] = {}
        self.exit_code = 0
        self.input = b""
        self.output: dict[str, bytes] = {}
        for operation in wanted.get("operations", ()):
            self.arguments = operation.get("args", self.arguments)
            self.environment = operation.get("env", self.environment)
            self.exit_code = operation.get("exit_code", self.exit_code)
            payload = operation.get("payload", "").encode()
            if operation["type"] == "write":
                self.input += payload
            elif operation["type"] == "read":
                self.output[operation["id"]] = self.output.get(operation["id"], b"") + payload


CASES = (
    []
    if SUITE is None
    else [Case(wasm) for wasm in sorted(Path(SUITE).glob("tests/rust/testsuite/wasm32-wasip3/*.wasm"))]
)
COMMANDS = [case for case in CASES if case.world == "wasi:cli/command"]
NYI = not_yet("wasip3/")


def run(case: Case, scratch: Path) -> tuple[int, dict[str, bytes]]:
    """Exit code and output of the command, its root being a copy in `scratch`; it may go anywhere."""
    mounts = []
    if case.root is not None:
        shutil.copytree(case.wasm.parent / case.root, scratch / "root", symlinks=True)
        mounts.append(Mount("/", scratch / "root"))
    out: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    template = WasiTemplate(case.environment, mounts, [case.wasm.name, *case.arguments])
    state = template.state(stdin=case.input, stdout=out["stdout"].append, stderr=out["stderr"].append)
    linked = link_component(case.wasm.read_bytes(), Engine.shared(), None, Hosts(RuntimeConfig()))
    services: Any = None  # nothing of an application is needed
    grants = Grants("guest", outbound=AllowedHosts(["tcp://*:*", "udp://*:*"]))
    limits = Limits(256 << 20, 100_000)
    with Instance(linked.program, grants, Deadline(120), limits, services, state) as guest:
        try:
            code = int(isinstance(linked.functions[RUN, "run"](guest), Err))
        except GuestExit as exit_:
            code = exit_.code
        except Exception as error:
            error.add_note(b"".join(out["stderr"]).decode(errors="replace"))
            raise
    return code, {name: b"".join(pieces) for name, pieces in out.items()}


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Case -> outcome; printed when all have run."""
    rows: dict[str, str] = {}
    yield rows
    counts = Counter(outcome.partition(":")[0] for outcome in rows.values())
    lines = [f"{name}: {outcome}" for name, outcome in rows.items()]
    lines.append("wasi-testsuite, WASI 0.3: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *lines, sep="\n")


@pytest.mark.skipif(SUITE is None, reason="WASI_TESTSUITE does not name a copy of the suite (see README.md)")
def test_the_suite_is_there() -> None:
    assert len(COMMANDS) >= 40, f"no prebuilt components in {SUITE}: is it the branch prod/testsuite-base?"
    assert NYI.keys() <= {case.name for case in COMMANDS}


@pytest.mark.parametrize("case", COMMANDS, ids=lambda case: case.name)
def test_command(case: Case, tmp_path: Path, table: dict[str, str]) -> None:
    reason = NYI.get(case.name)
    try:
        code, output = run(case, tmp_path)
        assert code == case.exit_code, output["stderr"].decode(errors="replace")
        assert {name: output[name] for name in case.output} == case.output
    except Exception as error:
        table[case.name] = f"expected: {reason}" if reason else f"failed: {str(error).splitlines()[0]}"
        if reason is None:
            raise
        pytest.xfail(reason)
    table[case.name] = "passed"
    assert reason is None, "it passes: take it out of nyi.txt"
