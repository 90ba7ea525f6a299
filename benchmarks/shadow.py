# What visitors feel of a guest that answers beside the view (mode `shadow`): latency of the view with it,
# and with a guest that is never asked (mode `native`).
#
# The same site twice, asked in turns. What the guests cost is there to be seen in the CPU time.

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from wasm_gateway.migration.counters import DIFFERENT, EQUAL
from wasm_gateway.migration.ledger import SqliteLedger

from . import processes, sites
from .report import Cell, Table
from .servers import compare, gunicorn, uvicorn

SITES = {
    "WSGI door, gunicorn gthread": gunicorn("moving_wsgi", "gthread"),
    "Django, gunicorn gthread": gunicorn("moving_django", "gthread"),
    "ASGI door, uvicorn": uvicorn("moving_asgi"),
}
MODES = ("native", "shadow")

NOTES = """
The view of a Wasm route, asked over one connection, one request at a time, as fast as it answers, 10 headers
of a browser; one worker; the ledger is a SQLite file. In shadow the guest (Spin 1, fresh instances) gets what
there is room for. compared: of 100 requests, those that it has answered too; the others were dropped and
counted.
"""


def run(quick: bool) -> list[Table]:
    columns = (
        *("site, server", "native us", "p95 us", "shadow us", "p95 us", "shadow : native"),
        *("native CPU us", "shadow CPU us", "compared %"),
    )
    title = "A guest in shadow"
    if reason := processes.supported():
        return [Table(title, columns, (), skipped=reason)]
    rounds, count = (1, 3) if quick else (15, 300)
    rows: list[tuple[Cell, ...]] = []
    with tempfile.TemporaryDirectory() as name, processes.client() as client:
        folder = Path(name)
        sites.make(folder)
        for site, command in SITES.items():
            for mode in MODES:
                (folder / f"{mode}.db").unlink(missing_ok=True)
            targets = {}
            with ExitStack() as servers:
                for mode in MODES:
                    port = processes.free_port()
                    parts = [sys.executable, "-m", *[part.replace("{port}", str(port)) for part in command]]
                    environment = {sites.SITE: name, sites.MODE: mode}
                    pid = servers.enter_context(processes.running(parts, port, environment))
                    targets[mode] = pid, port, sites.WASM
                costs = compare(client, targets, rounds=rounds, count=count)
            native, shadow = costs["native"].row(), costs["shadow"].row()
            rows.append(
                (site, *native[1:], *shadow[1:], shadow[1] / native[1], native[0], shadow[0], _share(folder))
            )
    return [Table(title, columns, tuple(rows), NOTES)]


def _share(folder: Path) -> float:
    """Of 100 requests that the ledger knows of, those whose answers were compared."""
    ledger = SqliteLedger(folder / "shadow.db")
    try:
        [counts] = ledger.counters().values() or [{}]
    finally:
        ledger.close()
    return 100 * (counts.get(EQUAL, 0) + counts.get(DIFFERENT, 0)) / counts.get("shadow", 1)
