"""Guests beside a site in real server processes: it answers, and all processes count together."""

from __future__ import annotations

import http.client
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway.migration.counters import OUTCOMES
from wasm_gateway.migration.ledger import SqliteLedger

SITE = """
from wasm_gateway import Gateway

gateway = Gateway.from_manifest(
    {manifest!r}, cache_dir={cache!r}, state_dir="", ledger={ledger!r},
    rules={{name: {{"mode": "shadow"}} for name in ("hello", "trap")}},
)
if {opened}:
    gateway.open()
"""
WSGI = (
    SITE
    + """
def native(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "15")])
    return [b"hello from wasm"]

app = gateway.wsgi(native)
"""
)
ASGI = (
    SITE
    + """
async def native(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"15")]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": b"hello from wasm"}})

app = gateway.asgi(native)
"""
)
GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "2", "--workers", "2")
SERVERS = {
    "gunicorn-sync": (WSGI, False, (*GUNICORN, "site_app:app")),
    "gunicorn-preload": (WSGI, True, (*GUNICORN, "--threads", "4", "--preload", "site_app:app")),
    "uvicorn": (ASGI, False, ("uvicorn", "--port", "{port}", "site_app:app")),
}
REQUESTS = 40


@pytest.mark.parametrize("name", SERVERS)
def test_a_site(start: Any, manifest: Path, cache_dir: Path, tmp_path: Path, name: str) -> None:
    source, opened, command = SERVERS[name]
    path = tmp_path / "ledger.db"
    text = source.format(manifest=str(manifest), cache=str(cache_dir), ledger=str(path), opened=opened)
    (tmp_path / "site_app.py").write_text(text)
    with start(*command) as address, closing(SqliteLedger(path)) as ledger:
        for number in range(REQUESTS):
            with closing(http.client.HTTPConnection(*address, timeout=60)) as connection:
                connection.request("GET", "/wasm/hello" if number % 2 else "/wasm/trap")
                response = connection.getresponse()
                assert (response.status, response.read()) == (200, b"hello from wasm")
                assert response.headers["content-type"] == "text/plain"
        end = time.monotonic() + 60
        counts: dict[str, dict[str, int]] = {}
        while sum(counts.get(c, {}).get(n, 0) for c in ("hello", "trap") for n in OUTCOMES) < REQUESTS:
            assert time.monotonic() < end, counts
            time.sleep(0.1)
            counts = ledger.counters()
        assert counts["hello"]["shadow"] == counts["trap"]["shadow"] == REQUESTS // 2
        assert not counts["hello"].keys() & {"shadow different", "shadow failed"}
        assert not counts["trap"].keys() & {"shadow equal", "shadow different"}
        assert counts["hello"]["shadow equal"] >= 1
        while not (found := ledger.mismatches()):  # they are counted first
            assert time.monotonic() < end
            time.sleep(0.1)
        assert {each.differences for each in found} == {("guest failed: Trap",)}
