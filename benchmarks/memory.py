# What a worker holds in memory: with its guests loaded, and after many requests.

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from . import guests, processes
from .report import Cell, Table

# Runs in a fresh interpreter: manifest, cache folder, how many requests, their paths.
WORKER = """
import sys, json, gc
from itertools import repeat
from pathlib import Path
manifest, cache, count, *paths = sys.argv[1:]
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
seen = [resident()]
import wasmtime
seen.append(resident())
from wasm_gateway import Gateway
from wasm_gateway.messages import Request
key_value = {"answer": "hello, world\\n"}
gateway = Gateway.from_manifest(manifest, cache_dir=cache, state_dir="", key_value=key_value)
gateway.open()
seen.append(resident())
requests = [Request("GET", path, authority="localhost") for path in paths]
def serve(count):
    for _ in repeat(None, count // len(requests)):
        for request in requests:
            response = gateway.handle(request)
            assert response is not None and response.status in (200, 302), (request, response)
for part in (int(count) // 10, int(count)):
    serve(part)
    gc.collect()
    seen.append(resident())
print(json.dumps(seen))
"""

REQUESTS = 10_000

NOTES = """
Resident memory of one process, pages that it shares with others (code, compiled guests) included; each
request gets a fresh instance, the guests take turns.
"""


def measured(manifest: Path, cache: Path, count: int, *paths: str) -> list[int]:
    command = [sys.executable, "-c", WORKER, str(manifest), str(cache), str(count), *paths]
    for _ in range(2):  # the first one compiles, which takes memory of its own
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(done.stderr)
    seen: list[int] = json.loads(done.stdout)
    return seen


def run(quick: bool) -> list[Table]:
    columns = (
        *("worker", "Python MiB", "and wasmtime MiB", "guests loaded MiB"),
        *(
            f"after {REQUESTS // 10:,} requests MiB",
            f"after {REQUESTS:,} more MiB",
            "growth of the last, KiB",
        ),
    )
    if reason := processes.supported():
        return [Table("Memory of a worker", columns, (), skipped=reason)]
    count = 40 if quick else REQUESTS
    rows: list[tuple[Cell, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hello = [*guests.hello_guests(), guests.key_reader()]
        small = guests.application(folder, hello)
        for what, manifest, paths in (
            ("4 small guests, all dialects", small, [guest.route for guest in hello]),
            (
                "7 guests of the example",
                guests.EXAMPLE / "spin.toml",
                ["/go", "/play/index.html", "/highscore"],
            ),
        ):
            seen = measured(manifest, folder / "cache", count, *paths)
            resident = [kib / 1024 for kib in seen]
            rows.append((what, *resident, seen[4] - seen[3]))
    return [Table("Memory of a worker", columns, tuple(rows), NOTES)]
