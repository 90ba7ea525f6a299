# How long a worker takes until it can answer, in milliseconds: fresh interpreters, one
# after the other, with what was compiled in the cache, and with an empty cache.

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import guests
from .report import Cell, Table

# Runs in the fresh interpreter: manifest, cache folder, path of a request.
WORKER = """
import sys, time
from pathlib import Path
manifest, cache, path = sys.argv[1:]
t = [time.perf_counter()]
def lap(): t.append(time.perf_counter())
import wasmtime; lap()
import wasm_gateway.gateway; lap()
gateway = wasm_gateway.gateway.Gateway.from_manifest(manifest, cache_dir=cache, state_dir=""); lap()
gateway.open(); lap()
response = gateway.handle(wasm_gateway.gateway.Request("GET", path, authority="localhost")); lap()
assert response is not None and response.status == 200, response
import json
print(json.dumps([(b - a) * 1e3 for a, b in zip(t, t[1:])]))
"""
STEPS = ("import wasmtime", "import wasm_gateway.gateway", "from_manifest", "open", "first request")

NOTES = """
Fresh interpreters, their bytecode cached. Ready: the manifest is read and every guest is loaded and linked.
"""


@dataclass(frozen=True, slots=True)
class Case:
    what: str
    manifest: Path
    cache: str  # name of a folder
    cold: bool = False
    path: str = "/wasm/spin0"


def cases(folder: Path) -> tuple[Case, ...]:
    """`small`: hello, differing in their answers; `game`: the example's, with C and Rust inside."""
    made = {}
    for count in (1, 10):
        place = folder / str(count)
        place.mkdir()
        small = [guests.Guest(f"spin{n}", guests.spin_1(f"{n}".encode())) for n in range(count)]
        made[count] = guests.application(place, small)
    game = guests.EXAMPLE / "spin.toml"
    return (
        Case("1 small guest", made[1], "1"),
        Case("10 small guests", made[10], "10"),
        Case("7 guests of the example", game, "game", path="/play/index.html"),
        Case("10 small guests, compiled first", made[10], "", cold=True),
        Case("7 guests of the example, compiled first", game, "", cold=True, path="/play/index.html"),
    )


def once(case: Case, folder: Path) -> list[float]:
    """Milliseconds of each step in a fresh interpreter."""
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        cache = empty if case.cold else str(folder / f"cache-{case.cache}")
        done = subprocess.run(
            [sys.executable, "-c", WORKER, str(case.manifest), cache, case.path],
            capture_output=True,
            text=True,
            timeout=120,
            env={
                **os.environ,
                "PYTHONDONTWRITEBYTECODE": "",
                "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
            },
        )
    if done.returncode:
        raise RuntimeError(f"{case.what}: {done.stderr}")
    steps: list[float] = json.loads(done.stdout)
    return steps


def run(quick: bool) -> list[Table]:
    rounds = 1 if quick else 9
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = cases(folder)
        measured: dict[str, list[list[float]]] = {case.what: [] for case in found}
        for case in found:
            once(case, folder)  # fills the cache, and that of the interpreter
        for turn in range(rounds):
            for case in reversed(found) if turn % 2 else found:
                measured[case.what].append(once(case, folder))
    rows: list[tuple[Cell, ...]] = []
    for what, laps in measured.items():
        ready = [sum(lap[2:4]) for lap in laps]
        without_wasmtime = [sum(lap[1:4]) for lap in laps]
        everything = [sum(lap[:4]) for lap in laps]
        medians = [statistics.median(lap[step] for lap in laps) for step in range(len(STEPS))]
        totals = [statistics.median(values) for values in (ready, without_wasmtime, everything)]
        rows.append((what, *medians[:4], *totals, medians[4]))
    columns = (
        *("worker", *[f"{step} ms" for step in STEPS[:4]]),
        *("ready after the import ms", "with the import ms", "and wasmtime's ms", "first request ms"),
    )
    return [Table("Start of a worker", columns, tuple(rows), NOTES)]
