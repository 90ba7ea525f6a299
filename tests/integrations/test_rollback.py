# A rollback lasts: a worker that comes for one that has died serves the guest before, by each kind of ledger.

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import wasmtime

from wasm_gateway.migration.ledger import open_ledger

from .conftest import printer
from .test_swap import getter, put, until

OLD, NEW = b"hello from wasm", b"new"

PID = """
import os

def app(environ, start_response):
    def start(status, headers, *more):
        return start_response(status, [*headers, ("x-pid", str(os.getpid()))], *more)
    return site(environ, start)
"""

BARE = """
from wasm_gateway import Gateway
site = Gateway.from_manifest({manifest!r}, cache_dir={cache!r}, state_dir="", ledger={ledger!r}).open().wsgi()
"""

FLASK = """
from flask import Flask
from wasm_gateway.integrations.flask import WasmGateway

site = Flask(__name__)
site.config.update(WASM_GATEWAY_MANIFEST={manifest!r}, WASM_GATEWAY_CACHE_DIR={cache!r})
site.config.update(WASM_GATEWAY_STATE_DIR="", WASM_GATEWAY_LEDGER={ledger!r})
WasmGateway(site)
"""

DJANGO = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings"
from django.core.wsgi import get_wsgi_application
site = get_wsgi_application()
"""

SETTINGS = """
ALLOWED_HOSTS = ["127.0.0.1"]
SECRET_KEY = "tests"
USE_TZ = True
ROOT_URLCONF = __name__
INSTALLED_APPS = ["wasm_gateway.integrations.django"]
MIDDLEWARE = ["wasm_gateway.integrations.django.WasmGatewayMiddleware"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {ledger!r}}}}}
WASM_GATEWAY = {{"MANIFEST": {manifest!r}, "CACHE_DIR": {cache!r}, "STATE_DIR": "", "LEDGER": "django"}}
urlpatterns = []
"""

BARE_COMMAND = ("wasm_gateway", "{act}", "hello", "-f", "{manifest}", "--ledger", "{ledger}")
FLASK_COMMAND = ("flask", "--app", "site_app:site", "wasm", "{act}", "hello")
DJANGO_COMMAND = ("django", "wasm_{act}", "hello", "--settings", "site_settings", "--pythonpath", ".")

GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "2", "--workers", "2")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn forks")
@pytest.mark.parametrize(
    ("site", "command", "options"),
    [
        pytest.param(BARE, BARE_COMMAND, (), id="sqlite"),
        pytest.param(BARE, BARE_COMMAND, ("--preload", "--threads", "2"), id="sqlite-preload"),
        pytest.param(FLASK, FLASK_COMMAND, ("--threads", "2"), id="redis", marks=pytest.mark.services),
        pytest.param(DJANGO, DJANGO_COMMAND, (), id="django"),
    ],
)
def test_a_worker_that_comes_later(
    site: str,
    command: tuple[str, ...],
    options: tuple[str, ...],
    start: Callable[..., Any],
    manifest: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    ledger = str(tmp_path / "ledger.db")
    if site is FLASK:
        ledger = f"{request.getfixturevalue('redis_server')}/3?prefix={uuid4()}"
    places = {"manifest": str(manifest), "cache": str(tmp_path / "cache"), "ledger": ledger}
    (tmp_path / "site_app.py").write_text(site.format(**places) + PID)
    (tmp_path / "site_settings.py").write_text(SETTINGS.format(**places))

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def order(act: str) -> None:
        run(*(word.format(act=act, **places) for word in command))

    if site is DJANGO:
        run("django", "migrate", "--settings", "site_settings", "--pythonpath", ".")
    else:
        with closing(open_ledger(ledger)) as opened:
            opened.stamp()

    with start(*GUNICORN, *options, "site_app:app") as address:
        get = getter(address)
        pids: set[str] = set()

        def both(expected: bytes) -> bool:
            """Whether two processes have answered so, some times in a row."""
            pids.clear()
            end = time.monotonic() + 20
            while time.monotonic() < end:
                status, body, pid = get("/wasm/hello")
                assert (status, body in (OLD, NEW)) == (200, True)
                if body != expected:
                    return False
                pids.add(str(pid))
                if len(pids) == 2:
                    return True
            return False

        def replaced(expected: bytes) -> None:
            """Kill both workers; those that come for them answer so, each from its first answer on."""
            old = set(pids)
            for pid in old:
                os.kill(int(pid), signal.SIGKILL)
            come: set[str] = set()
            end = time.monotonic() + 120
            while len(come) < 2:
                assert time.monotonic() < end
                _, body, pid = get("/wasm/hello")
                if pid not in old:
                    assert body == expected
                    come.add(str(pid))
            pids.clear()
            pids.update(come)

        until(lambda: both(OLD))
        put(tmp_path / "hello.wasm", wasmtime.wat2wasm(printer("content-type: text/plain\n\nnew")))
        order("reload")
        until(lambda: both(NEW))
        replaced(NEW)  # and have no earlier guest in memory
        order("rollback")
        until(lambda: both(OLD))
        replaced(OLD)
        order("reload")
        until(lambda: both(NEW))
