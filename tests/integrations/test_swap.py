# Guests that change under the servers of the frameworks, and under several processes.

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from .conftest import printer

PATIENCE = 120.0

NEW = "content-type: text/plain\n\nnew"
NEWER = "content-type: text/plain\n\nnewer"

MANAGE = """
import os, sys
from django.core.management import execute_from_command_line

os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings"
if __name__ == "__main__":
    execute_from_command_line(sys.argv)
"""

SETTINGS = """
import os
from django.http import HttpResponse
from django.urls import path
from django.utils.autoreload import file_changed

DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
SECRET_KEY = "tests"
USE_TZ = True
ROOT_URLCONF = __name__
INSTALLED_APPS = ["wasm_gateway.integrations.django"]
MIDDLEWARE = ["wasm_gateway.integrations.django.WasmGatewayMiddleware"]
WASM_GATEWAY = {{"MANIFEST": {manifest!r}, "CACHE_DIR": {cache!r}, "STATE_DIR": ""}}

def noticed(file_path, **_):
    print("noticed", file_path.name, flush=True)

file_changed.connect(noticed)
urlpatterns = [path("pid", lambda request: HttpResponse(str(os.getpid())))]
"""

FLASK = """
import os
from flask import Flask
from wasm_gateway.integrations.flask import WasmGateway

app = Flask(__name__)
app.config.update(WASM_GATEWAY_MANIFEST={manifest!r}, WASM_GATEWAY_CACHE_DIR={cache!r})
app.config.update(WASM_GATEWAY_STATE_DIR="")
WasmGateway(app)
app.get("/pid")(lambda: str(os.getpid()))
if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), debug=True)
"""

WSGI = """
import os
from wasm_gateway import Gateway

gateway = Gateway.from_manifest({manifest!r}, cache_dir={cache!r}, state_dir="", watch=True).open()
answers = gateway.wsgi()

def app(environ, start_response):
    def start(status, headers, *more):
        return start_response(status, [*headers, ("x-pid", str(os.getpid()))], *more)
    return answers(environ, start)
"""


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def put(path: Path, data: bytes) -> None:
    part = path.with_name(".part")
    part.write_bytes(data)
    os.replace(part, path)


Get = Callable[[str], tuple[int, bytes, str | None]]


def getter(address: tuple[str, int]) -> Get:
    """`get(path)`: status, body, x-pid; a server that is being started again is waited for."""

    def get(path: str) -> tuple[int, bytes, str | None]:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with closing(http.client.HTTPConnection(*address, timeout=PATIENCE)) as connection:
                    connection.request("GET", path)
                    response = connection.getresponse()
                    return response.status, response.read(), response.headers["x-pid"]
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)

    return get


def check_swaps(get: Get, folder: Path, manifest: Path) -> bytes:
    """Guest and manifest change; the process stays, which is the last thing returned."""
    _, pid, _ = get("/pid")
    assert get("/wasm/hello")[1] == b"hello from wasm"
    put(folder / "hello.wasm", wasmtime.wat2wasm(printer(NEW)))
    until(lambda: get("/wasm/hello")[1] == b"new")

    put(folder / "hello.wasm", b"garbage")
    text = manifest.read_text()
    put(manifest, text.replace('"/wasm/hello"', '"/wasm/moved"').encode())
    until(lambda: get("/wasm/moved")[0] == 200)
    assert get("/wasm/moved")[1] == b"new"
    assert get("/wasm/hello")[0] == 404
    assert get("/pid")[1] == pid
    return pid


def test_runserver_swaps_and_does_not_start_again(
    start: Any, manifest: Path, cache_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "manage.py").write_text(MANAGE)
    settings = tmp_path / "site_settings.py"
    settings.write_text(SETTINGS.format(manifest=str(manifest), cache=str(cache_dir)))
    log = tmp_path / "server.log"
    with start("manage", "runserver", "127.0.0.1:{port}") as address:
        get = getter(address)
        pid = check_swaps(get, tmp_path, manifest)
        until(lambda: "noticed hello.wasm" in log.read_text() and "noticed spin.toml" in log.read_text())
        put(tmp_path / "hello.wasm", wasmtime.wat2wasm(printer(NEWER)))
        until(lambda: get("/wasm/moved")[1] == b"newer")
        assert get("/pid")[1] == pid
        assert "its changed guest answers from now on" in log.read_text()
        os.utime(settings)  # what is Python's is Django's
        until(lambda: get("/pid")[1] != pid)


def test_runserver_starts_again_where_guests_could_not_be_loaded(
    start: Any, manifest: Path, cache_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "manage.py").write_text(MANAGE)
    settings = SETTINGS.format(manifest=str(manifest), cache=str(cache_dir))
    (tmp_path / "site_settings.py").write_text(settings)
    good = (tmp_path / "hello.wasm").read_bytes()
    put(tmp_path / "hello.wasm", b"garbage")
    log = tmp_path / "server.log"

    answers = threading.Event()

    def mend() -> None:
        until(lambda: log.exists() and "ImproperlyConfigured" in log.read_text())
        while not answers.wait(0.5):  # again and again: the reloader may not know yet what was there
            put(tmp_path / "hello.wasm", good)

    thread = threading.Thread(target=mend)
    thread.start()
    try:
        with start("manage", "runserver", "127.0.0.1:{port}") as address:
            answers.set()
            assert getter(address)("/wasm/hello")[1] == b"hello from wasm"
    finally:
        answers.set()
        thread.join()


@pytest.mark.parametrize("how", ["flask", "script"])
def test_flask_in_debug_mode_swaps_and_does_not_start_again(
    start: Any, manifest: Path, cache_dir: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "site_app.py"
    source.write_text(FLASK.format(manifest=str(manifest), cache=str(cache_dir)))
    if how == "flask":
        command = ("flask", "--app", "site_app", "--debug", "run", "--port", "{port}")
    else:
        command = ("site_app", "{port}")
        source.write_text(source.read_text().replace('os.environ["PORT"]', "__import__('sys').argv[1]"))
    with start(*command) as address:
        get = getter(address)
        pid = check_swaps(get, tmp_path, manifest)
        put(tmp_path / "hello.wasm", wasmtime.wat2wasm(printer(NEW)))  # or it could not start again
        os.utime(source)
        until(lambda: get("/pid")[1] != pid)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn forks")
@pytest.mark.parametrize("options", [(), ("--preload",), ("--preload", "--threads", "2")], ids=str)
def test_every_process_swaps_by_itself(
    start: Any, manifest: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Also one whose parent has compiled the guest before."""
    (tmp_path / "site_app.py").write_text(WSGI.format(manifest=str(manifest), cache=str(tmp_path / "cache")))
    gunicorn = ("gunicorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "2", "--workers", "2")
    with start(*gunicorn, *options, "site_app:app") as address:
        get = getter(address)
        found: dict[str | None, bytes] = {}

        def all_answer(*bodies: bytes) -> bool:
            """Whether both have answered with the last of `bodies`, and with no other one since."""
            status, body, pid = get("/wasm/hello")
            assert status == 200
            assert bodies.index(body) >= bodies.index(found.get(pid, bodies[0]))
            found[pid] = body
            return list(found.values()) == [bodies[-1]] * 2

        until(lambda: all_answer(b"hello from wasm"))
        put(tmp_path / "hello.wasm", wasmtime.wat2wasm(printer(NEW)))
        until(lambda: all_answer(b"hello from wasm", b"new"))
        assert len(found) == 2
