"""Metrics of several processes: each writes to a shared folder, and a site's own view adds them up."""

from __future__ import annotations

import http.client
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

# What the README shows.
SITE = """
import os
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector
from wasm_gateway import Gateway

registry = CollectorRegistry()
MultiProcessCollector(registry)
metrics = make_wsgi_app(registry)

def native(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        return metrics(environ, start_response)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

app = Gateway.from_manifest({manifest!r}, cache_dir={cache!r}, state_dir="", metrics=True).open().wsgi(native)
"""

REQUESTS = 50
SERVERS = {
    "prefork": ("--workers", "2"),
    "preload": ("--workers", "2", "--preload"),
    "gthread": ("--workers", "2", "--threads", "4"),
}


@pytest.mark.parametrize("server", SERVERS)
def test_all_processes_of_gunicorn(
    server: str,
    start: Any,
    manifest: Path,
    cache_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "site_app.py").write_text(SITE.format(manifest=str(manifest), cache=str(cache_dir)))
    folder = tmp_path / "metrics"
    folder.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    listen = ("--bind", "127.0.0.1:{port}", "--graceful-timeout", "2")
    with start("gunicorn", *listen, *SERVERS[server], "site_app:app") as address:

        def get(path: str) -> bytes:
            with closing(http.client.HTTPConnection(*address, timeout=60)) as connection:
                connection.request("GET", path)
                return connection.getresponse().read()

        with ThreadPoolExecutor(8) as pool:
            # until both of them have answered something
            seen: set[bytes] = set()
            asked = 0
            while len(seen) < 2 or not asked:
                asked += 1
                seen |= set(pool.map(get, ["/pid"] * 16))
                assert set(pool.map(get, ["/wasm/hello"] * REQUESTS)) == {b"hello from wasm"}
            assert get("/wasm/trap") == b""
        families = {
            family.name: family for family in text_string_to_metric_families(get("/metrics").decode())
        }
    requests = {
        (sample.labels["component"], sample.labels["outcome"]): sample.value
        for sample in families["wasm_gateway_requests"].samples
    }
    assert requests == {("hello", "ok"): asked * REQUESTS, ("trap", "trap"): 1}
    assert {sample.value for sample in families["wasm_gateway_requests_in_progress"].samples} == {0}
    counts = {path.name for path in folder.glob("counter_*.db")}
    assert len(counts & {f"counter_{pid.decode()}.db" for pid in seen}) == 2
