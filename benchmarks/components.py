# Components of wasi:http 0.2 and 0.3: microseconds of one `gateway.handle` and where they go,
# and CPU per request beside `wasmtime serve` with the same file.
#
# Two guests are made from text; more come from a folder, each with an answer of its own to
# GET /hello (the protocol of tests/conformance/test_wasmtime_serve.py), those of 0.3 from
# its folder p3. Each of 0.3 is measured twice: with fresh instances, and with such as answer
# many requests, as wasmtime's do.

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from wasm_gateway import Gateway
from wasm_gateway.stopwatch import PHASES, Stopwatch

from . import guests, measure, processes, sites, wasi_http, wasi_http_p3
from .report import Cell, Table
from .servers import compare
from .wasmtime_serve import NO_PROGRAM, ours, program, theirs

# The variable that names a folder with guests of any language; they are measured too when it is set.
FOLDER = "GUESTS"

TARGET = "/hello"
# What both compile, when nothing is in their caches: 37 MB of Python, for one.
COMPILE_SECONDS = 600.0

NOTES = f"""
GET {TARGET} with 3 headers; a fresh instance (all of the component's modules, memories, handles) for each
request, compiled before. The first guest is made from text. host calls: functions of the host that the guest
calls in one request, handles dropped included.

store: store, limits, instances, their start functions. guest: guest code, entering it, its allocators. abi:
entering the exported function. host: host functions, with their arguments and results. drop: the end of the
store, and of what the guest had not dropped. rest: routing, headers, checks, counters. Measured in runs of
their own, where the stopwatch slows everything a little, so they come to somewhat more than the median.
"""
SERVE_NOTES = """
The same component behind `wasm-gateway up`, behind uWSGI (`gateway.wsgi()`, in the thread that takes the
request) and behind `wasmtime serve -W timeout=30s`, asked in turns: one connection, one request at a time, 10
headers of a browser. CPU is user and system time of all processes of the server. All make a fresh instance
for each request but where it says that they are reused, and set a deadline.
"""
ORDER = ("up", "uWSGI", "wasmtime")
NO_UWSGI = "\nuWSGI is measured too where it is installed (pip install uwsgi).\n"
MORE = f"""
More guests are measured when {FOLDER} names a folder with .wasm files of the three-request protocol
(tests/conformance/README.md).
"""


# What `wasmtime serve` calls 0.3, and how often it reuses an instance unless told otherwise.
P3 = ("-S", "p3", "-W", "component-model-async=y", "-W", "component-model-more-async-builtins=y")
REUSE_COUNT = 128


@dataclass(frozen=True, slots=True)
class Subject:
    """A component, and the spin.toml of an application that has nothing else; `flags` are for wasmtime."""

    what: str
    wasm: Path
    manifest: Path
    cache: Path
    flags: tuple[str, ...] = ()

    def gateway(self) -> Gateway:
        return Gateway.from_manifest(self.manifest, cache_dir=self.cache, state_dir="").open()


def subjects(folder: Path) -> list[Subject]:
    own, own_p3 = folder / "wasi-http.wasm", folder / "wasi-http-p3.wasm"
    own.write_bytes(wasi_http.component().wasm)
    own_p3.write_bytes(wasi_http_p3.component().wasm)
    files, files_p3 = {"by hand (text)": own}, {"by hand (text)": own_p3}
    more = os.environ.get(FOLDER)
    if more:
        found = sorted(Path(more).resolve().glob("*.wasm"))
        if not found:
            raise RuntimeError(f"{FOLDER}: no .wasm file in {more}")
        files |= {path.stem: path for path in found}
        files_p3 |= {path.stem: path for path in sorted(Path(more).resolve().glob("p3/*.wasm"))}
    made = [_subject(folder, f"{i}", what, wasm) for i, (what, wasm) in enumerate(files.items())]
    for i, (what, wasm) in enumerate(files_p3.items()):
        fresh = (*P3, "--max-instance-reuse-count", "1")
        made.append(_subject(folder, f"p3-{i}", f"{what}, 0.3", wasm, fresh))
        reused = f"{what}, 0.3, instances reused"
        option = f"tool.wasm-gateway.max_instance_reuse_count = {REUSE_COUNT}\n"
        made.append(_subject(folder, f"p3-{i}-reused", reused, wasm, P3, option))
    return made


def _subject(
    folder: Path, name: str, what: str, wasm: Path, flags: tuple[str, ...] = (), options: str = ""
) -> Subject:
    manifest = folder / f"{name}.toml"
    manifest.write_text(
        'spin_manifest_version = 2\n[application]\nname = "benchmarks"\nversion = "1.0.0"\n'
        '[[trigger.http]]\nroute = "/..."\ncomponent = "guest"\n'
        f'[component.guest]\nsource = "{wasm}"\n{options}'
    )
    return Subject(what, wasm, manifest, folder / "cache", flags)


@contextmanager
def opened(found: list[Subject]) -> Iterator[dict[str, Gateway]]:
    with ExitStack() as stack:
        yield {subject.what: stack.enter_context(subject.gateway()) for subject in found}


def functions(made: dict[str, Gateway]) -> dict[str, Callable[[], object]]:
    return {what: guests.caller(gateway, guests.request(TARGET)) for what, gateway in made.items()}


def run(quick: bool) -> list[Table]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = subjects(folder)
        notes = "" if os.environ.get(FOLDER) else MORE
        return [in_process(found, quick, notes), beside(found, folder, quick, notes)]


def in_process(found: list[Subject], quick: bool, notes: str) -> Table:
    effort = measure.QUICK if quick else measure.USUAL
    with opened(found) as made:
        blocks = {what: measure.calls(function) for what, function in functions(made).items()}
        totals = measure.interleaved(blocks, effort)
    stopwatch = Stopwatch()
    with stopwatch.watching(), opened(found) as made:
        for gateway in made.values():
            stopwatch.watch(gateway)
        splits = stopwatch.split(functions(made), effort.rounds, effort.calls, effort.warmup)
        entered = {what: stopwatch.entries("host", function) for what, function in functions(made).items()}
    columns = (
        *("guest", "KiB", "host calls", "median us", "p95 us", "CPU us", "spread %"),
        *[f"{phase} us" for phase in PHASES],
    )
    rows: list[tuple[Cell, ...]] = []
    for subject in found:
        what, total = subject.what, totals[subject.what]
        rows.append(
            (
                *(what, subject.wasm.stat().st_size >> 10, entered[what]),
                *(total.median, total.p95, total.cpu, total.spread),
                *[splits[what][phase] for phase in PHASES],
            )
        )
    return Table("Components, gateway.handle", columns, tuple(rows), NOTES + notes)


def uwsgi() -> str | None:
    """The program of this environment or the PATH, None when there is none."""
    return shutil.which("uwsgi", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))


def behind_uwsgi(command: str) -> tuple[str, ...]:
    """The command that serves what sites.application_wsgi makes at {port}."""
    return (
        *(command, "--http11-socket=127.0.0.1:{port}", "--so-keepalive", "--enable-threads", "--need-app"),
        *(
            "--disable-logging",
            "--die-on-term",
            f"--virtualenv={sys.prefix}",
            f"--pythonpath={processes.ROOT}",
        ),
        "--module=benchmarks.sites:application_wsgi()",
    )


def beside(found: list[Subject], folder: Path, quick: bool, notes: str) -> Table:
    columns = (
        *("guest", "up CPU us", "uWSGI CPU us", "wasmtime CPU us", "up : wasmtime", "uWSGI : wasmtime"),
        *("up latency us", "p95 us", "uWSGI latency us", "p95 us", "wasmtime latency us", "p95 us"),
    )
    title = "Components beside wasmtime serve, per request"
    command = program()
    if reason := processes.supported() or ("" if command else NO_PROGRAM):
        return Table(title, columns, (), skipped=reason)
    assert command is not None
    server = uwsgi()
    if server is None:
        notes += NO_UWSGI
    rounds, count = (1, 3) if quick else (7, 200)
    rows: list[tuple[Cell, ...]] = []
    with processes.client() as client:
        for subject in found:
            with subject.gateway() as gateway:
                response = gateway.handle(guests.request(TARGET, guests.MANY))
                assert response is not None
                body = b"".join(response.body)
            commands = {
                "up": ours(subject.manifest, subject.cache),
                "wasmtime": theirs(command, subject.wasm, "-W", "timeout=30s", *subject.flags),
            }
            if server is not None:
                commands["uWSGI"] = behind_uwsgi(server)
            environment = {sites.MANIFEST: str(subject.manifest), sites.CACHE: str(subject.cache)}
            targets = {}
            with ExitStack() as servers:
                for what, parts in commands.items():
                    port = processes.free_port()
                    listening = [part.replace("{port}", str(port)) for part in parts]
                    running = processes.running(listening, port, environment, COMPILE_SECONDS)
                    targets[what] = (servers.enter_context(running), port, TARGET)
                costs = compare(client, targets, rounds=rounds, count=count, body=body)
            nothing = None, None, None
            up, wsgi, theirs_ = [costs[what].row() if what in costs else nothing for what in ORDER]
            ratios = [row[0] and row[0] / costs["wasmtime"].row()[0] for row in (up, wsgi)]
            rows.append((subject.what, up[0], wsgi[0], theirs_[0], *ratios, *up[1:], *wsgi[1:], *theirs_[1:]))
    return Table(title, columns, tuple(rows), SERVE_NOTES + notes)
