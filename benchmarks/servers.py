# CPU per request of a whole server, and latency: a Wasm route and a native view of one
# site, asked in turns over one connection.
#
# The CPU time is that of all processes and threads of the server; the client is a
# process of its own and does not count.

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from . import doors, guests, processes, sites
from .report import Cell, Table

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Server:
    """A site in a server; `{port}` in the command is where it listens."""

    what: str
    package: str
    command: tuple[str, ...]
    native: str = sites.NATIVE


def gunicorn(app: str, worker: str) -> tuple[str, ...]:
    options = ("--bind=127.0.0.1:{port}", "--workers=1", f"--worker-class={worker}", "--log-level=warning")
    threads = ("--threads=4", "--keep-alive=30") if worker == "gthread" else ()
    return ("gunicorn", *options, *threads, f"benchmarks.sites:{app}()")


def granian(app: str) -> tuple[str, ...]:
    return (
        *("granian", "--interface=wsgi", "--host=127.0.0.1", "--port={port}", "--workers=1"),
        *("--log-level=warning", "--factory", f"benchmarks.sites:{app}"),
    )


def uvicorn(app: str) -> tuple[str, ...]:
    return (
        *("uvicorn", "--host=127.0.0.1", "--port={port}", "--log-level=warning", "--no-access-log"),
        *("--timeout-keep-alive=30", "--factory", f"benchmarks.sites:{app}"),
    )


ASYNC = doors.NATIVE_ASYNC

SERVERS = (
    Server("Django, gunicorn sync", "gunicorn", gunicorn("django_wsgi", "sync")),
    Server("Django, gunicorn gthread", "gunicorn", gunicorn("django_wsgi", "gthread")),
    Server(
        "WSGI door before Django, gunicorn gthread", "gunicorn", gunicorn("django_behind_the_door", "gthread")
    ),
    Server("Django, granian WSGI", "granian", granian("django_wsgi")),
    Server("Flask, gunicorn gthread", "gunicorn", gunicorn("flask_wsgi", "gthread")),
    Server("Django async, uvicorn", "uvicorn", uvicorn("django_asgi"), ASYNC),
    Server(
        "ASGI door before Django, threads, uvicorn", "uvicorn", uvicorn("django_asgi_behind_the_door"), ASYNC
    ),
    Server(
        "ASGI door before Django, inline, uvicorn",
        "uvicorn",
        uvicorn("django_asgi_behind_the_inline_door"),
        ASYNC,
    ),
    Server("ASGI door, no framework, inline, uvicorn", "uvicorn", uvicorn("bare_asgi_inline")),
)

NOTES = """
Loopback, one connection, one request at a time, 10 headers of a browser; one worker; Django with the
middleware of startproject. The guest is Spin 1, a fresh instance for each request.

CPU is user and system time of all processes of the server. gunicorn's sync worker keeps no connection:
connecting is in its latencies.
"""


@dataclass(slots=True)
class Cost:
    """Of one path of one server: CPU microseconds of a request by round, latencies."""

    cpu: list[float]
    times: list[float]

    def row(self) -> tuple[float, float, float]:
        ordered = sorted(self.times)
        return statistics.median(self.cpu), statistics.median(ordered), ordered[len(ordered) * 95 // 100]


def compare(
    client: processes.Client,
    targets: Mapping[Key, tuple[int, int, str]],
    *,
    rounds: int,
    count: int,
    body: bytes = guests.ANSWER,
) -> dict[Key, Cost]:
    """What a request costs each target (process id, port, path), asked in turns; `body` is every answer."""
    costs = {name: Cost([], []) for name in targets}
    for _, port, path in targets.values():
        client.ask(port, path, max(count // 5, 1), body)
    for turn in range(rounds):
        order = list(targets.items())
        for name, (pid, port, path) in reversed(order) if turn % 2 else order:
            before = processes.cpu_us(pid)
            costs[name].times += client.ask(port, path, count, body)
            costs[name].cpu.append((processes.cpu_us(pid) - before) / count)
    return costs


def run(quick: bool) -> list[Table]:
    columns = (
        *("site, server", "wasm CPU us", "native CPU us", "CPU wasm : native"),
        *("wasm latency us", "p95 us", "native latency us", "p95 us"),
    )
    title = "Behind real servers, per request"
    if reason := processes.supported():
        return [Table(title, columns, (), skipped=reason)]
    rounds, count = (1, 3) if quick else (7, 250)
    rows: list[tuple[Cell, ...]] = []
    notes = NOTES
    with tempfile.TemporaryDirectory() as name, processes.client() as client:
        folder = Path(name)
        sites.make(folder)
        for server in SERVERS:
            if find_spec(server.package) is None:
                notes += f"\n\n{server.what}: skipped, {server.package} is not installed."
                continue
            port = processes.free_port()
            command = [sys.executable, "-m", *[part.replace("{port}", str(port)) for part in server.command]]
            with processes.running(command, port, {sites.SITE: name}) as pid:
                targets = {"wasm": (pid, port, sites.WASM), "native": (pid, port, server.native)}
                costs = compare(client, targets, rounds=rounds, count=count)
            wasm, native = costs["wasm"].row(), costs["native"].row()
            rows.append((server.what, wasm[0], native[0], wasm[0] / native[0], *wasm[1:], *native[1:]))
    return [Table(title, columns, tuple(rows), notes)]
