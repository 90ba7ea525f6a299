"""Guests that die in every way, a thousand times, in real server processes: clients see correct answers."""

from __future__ import annotations

import http.client
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from tests.integrations.conftest import WRITE
from wasm_gateway.migration.ledger import SqliteLedger

TIMES, CLIENTS = 1000, 4

HALF = f"""(module {WRITE}
  (data (i32.const 1024) "content-type: text/plain\\n\\nhalf of it")
  (func (export "_start") (call $write (i32.const 1024) (i32.const 36)) {{}}))"""

TABLE = """(memory (export "memory") 1) (table 1 funcref) (type $t (func))
  (func (export "_start") (call_indirect (type $t) (i32.const 0)))"""

# How they die, and how often of twenty times.
DEATHS = {
    "unreachable": (HALF.format("unreachable"), 5),
    "bounds": (HALF.format("(drop (i32.load (i32.const -1)))"), 5),
    "stack": ('(module (memory (export "memory") 1) (func $f (export "_start") (call $f)))', 3),
    "table": (f"(module {TABLE})", 3),
    "division": (HALF.format("(drop (i32.div_u (i32.const 1) (i32.const 0)))"), 3),
    "endless": ('(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))', 1),
}

SITE = """
import os
from wasm_gateway import Gateway

def native(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    with open({asked!r}, "ab", buffering=0) as file:
        file.write(body + b"\\n")
    body = environ["PATH_INFO"].encode() + b" " + body
    head = [("content-type", "text/x-site"), ("content-length", str(len(body))), ("x-pid", str(os.getpid()))]
    start_response("200 OK", head)
    return [body]

app = Gateway.from_manifest(
    {manifest!r}, cache_dir={cache!r}, state_dir="", ledger={ledger!r}, limits={{"timeout": "10ms"}},
    rules={{name: {{"fallback": True, "breaker_failures": 1_000_000}} for name in {names!r}}},
).open().wsgi(native)
"""
GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "2", "--workers", "2")


@pytest.mark.parametrize("options", [("--threads", "4", "--preload"), ()], ids=["gthread-preload", "sync"])
def test_guests_that_are_killed_a_thousand_times(
    start: Any, cache_dir: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    lines = ["spin_manifest_version = 2", '[application]\nname = "site"']
    for name, (text, _) in DEATHS.items():
        (tmp_path / f"{name}.wasm").write_bytes(wasmtime.wat2wasm(text))
        lines.append(f'[[trigger.http]]\nroute = "/{name}"\ncomponent = "{name}"')
        lines.append(f'executor = {{ type = "wagi" }}\n[component.{name}]\nsource = "{name}.wasm"')
    manifest, ledger, asked = tmp_path / "spin.toml", tmp_path / "ledger.db", tmp_path / "asked"
    manifest.write_text("\n".join(lines))
    settings = {"manifest": manifest, "cache": cache_dir, "ledger": ledger, "asked": asked}
    site = SITE.format(names=list(DEATHS), **{name: str(path) for name, path in settings.items()})
    (tmp_path / "site_app.py").write_text(site)
    round_ = [name for name, (_, times) in DEATHS.items() for _ in range(times)]
    paths = (round_ * (TIMES // len(round_)))[:TIMES]
    assert len(paths) == TIMES

    def client(number: int) -> Counter[str]:
        """Every CLIENTS-th request, and what is wrong with the answers; by pid."""
        pids: Counter[str] = Counter()
        with closing(http.client.HTTPConnection(*address, timeout=60)) as connection:
            for each in range(number, TIMES, CLIENTS):
                connection.request("POST", f"/{paths[each]}", b"%d" % each)
                response = connection.getresponse()
                expected = f"/{paths[each]} {each}".encode()
                assert (response.status, response.read()) == (200, expected)
                assert response.headers["content-type"] == "text/x-site"
                pids[response.headers["x-pid"]] += 1
        return pids

    with (
        start(*GUNICORN, *options, "site_app:app") as address,
        ThreadPoolExecutor(CLIENTS) as pool,
        closing(SqliteLedger(ledger)) as opened,
    ):
        begin = time.monotonic()
        pids = sum(pool.map(client, range(CLIENTS)), Counter[str]())
        print(f"{TIMES} times in {time.monotonic() - begin:.1f} s, by {dict(pids)}")
        assert len(pids) <= 2  # no worker has died, or another one would have come
        end = time.monotonic() + 60
        fallbacks: dict[str, int] = {}
        while sum(fallbacks.values()) < TIMES:
            assert time.monotonic() < end, fallbacks
            time.sleep(0.05)
            fallbacks = {name: counts.get("fallback", 0) for name, counts in opened.counters().items()}
    # each request has reached its guest, and then the site, once
    assert fallbacks == Counter(paths)
    assert sorted(map(int, asked.read_text().split())) == list(range(TIMES))
