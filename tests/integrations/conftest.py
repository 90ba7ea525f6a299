# A site with Wasm routes: small WAGI guests, made from text, and their spin.toml.

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import wasmtime
from django.conf import settings

from tests.services import free_port

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["testserver", "127.0.0.1"],
        SECRET_KEY="tests",
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "django.contrib.staticfiles",
            "debug_toolbar",
            "wasm_gateway.integrations.django",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
        STATIC_URL="static/",
        USE_TZ=True,
    )

WRITE = """
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (memory (export "memory") 8)
  (func $write (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
"""


def printer(text: str) -> str:
    """A guest that prints `text`."""
    data = "".join(f"\\{byte:02x}" for byte in text.encode())
    return f"""(module {WRITE}
      (data (i32.const 1024) "{data}")
      (func (export "_start") (call $write (i32.const 1024) (i32.const {len(text.encode())}))))"""


GUESTS = {
    "hello": printer("content-type: text/plain\n\nhello from wasm"),
    "cookie": printer(
        'content-type: text/plain\nset-cookie: sid="a b,c"; Path=/wasm; HttpOnly; SameSite=Lax\n'
        "connection: close\nvary: accept\n\n"
    ),
    "redirect": printer("location: /elsewhere\n\n"),
    "trap": '(module (memory (export "memory") 1) (func (export "_start") unreachable))',
    # the environment, a NUL behind each variable, one more NUL, and the body of the request
    "echo": f"""(module {WRITE}
      (data (i32.const 1024) "content-type: application/octet-stream\\n\\n")
      (func (export "_start")
        (call $write (i32.const 1024) (i32.const 40))
        (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
        (drop (call $environ_get (i32.const 2048) (i32.const 65536)))
        (call $write (i32.const 65536) (i32.load (i32.const 20)))
        (call $write (i32.const 1023) (i32.const 1))
        (loop $more
          (i32.store (i32.const 0) (i32.const 262144))
          (i32.store (i32.const 4) (i32.const 131072))
          (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
          (if (i32.load (i32.const 8)) (then
            (call $write (i32.const 262144) (i32.load (i32.const 8)))
            (br $more))))))""",
}

IDENTITY = '"wasm-gateway:site/identity@0.1.0"'

# Imports of the identity, memory that strings are lowered into, and the beginning of an answer.
ASKING = f"""
  (import {IDENTITY} "get-user" (func $get_user (param i32)))
  (import {IDENTITY} "get-locale" (func $get_locale (param i32)))
  (import {IDENTITY} "csrf-token" (func $csrf_token (param i32)))
  (import {IDENTITY} "csrf-verify" (func $csrf_verify (param i32 i32) (result i32)))
  {WRITE}
  (global $top (mut i32) (i32.const 8192))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.get $top)
    (global.set $top
      (i32.and (i32.add (i32.add (global.get $top) (local.get 3)) (i32.const 7)) (i32.const -8))))
  (data (i32.const 1024) "content-type: text/plain\\n\\n|nobody")
  (func $begin (call $write (i32.const 1024) (i32.const 26)))
  (func $bar (call $write (i32.const 1050) (i32.const 1)))
  (func $string (param $at i32) (call $write (i32.load (local.get $at)) (i32.load offset=4 (local.get $at))))
"""

# Guests that tell what they are told of who asks.
ASKERS = {
    # id|name|group,...|staff (0 or 1), or "nobody"
    "who": f"""(module {ASKING}
      (func (export "_start") (local $at i32) (local $end i32)
        (call $get_user (i32.const 64))
        (call $begin)
        (if (i32.load8_u (i32.const 64))
          (then
            (call $string (i32.const 68))
            (call $bar)
            (call $string (i32.const 76))
            (local.set $at (i32.load (i32.const 84)))
            (local.set $end (i32.add (local.get $at) (i32.mul (i32.load (i32.const 88)) (i32.const 8))))
            (loop $more
              (if (i32.lt_u (local.get $at) (local.get $end)) (then
                (call $bar)
                (call $string (local.get $at))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (br $more))))
            (call $bar)
            (i32.store8 (i32.const 128) (i32.add (i32.const 48) (i32.load8_u (i32.const 92))))
            (call $write (i32.const 128) (i32.const 1)))
          (else (call $write (i32.const 1051) (i32.const 6))))))""",
    "locale": f"""(module {ASKING}
      (func (export "_start")
        (call $get_locale (i32.const 64)) (call $begin) (call $string (i32.const 64))))""",
    "token": f"""(module {ASKING}
      (func (export "_start")
        (call $csrf_token (i32.const 64))
        (call $begin)
        (if (i32.load (i32.const 64)) (then (call $string (i32.const 68))))))""",
    # 1 where the body of the request is a token of the site's
    "verify": f"""(module {ASKING}
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const 2048))
        (i32.store (i32.const 4) (i32.const 1024))
        (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store8 (i32.const 128)
          (i32.add (i32.const 48) (call $csrf_verify (i32.const 2048) (i32.load (i32.const 8)))))
        (call $begin)
        (call $write (i32.const 128) (i32.const 1))))""",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Django closes no database in memory; from Python 3.13 on sqlite3 says so once its thread has ended."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"))


@pytest.fixture(autouse=True)
def _no_flask_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flask's command says in the environment that it runs, and leaves that in a process that tries it."""
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "false")
    monkeypatch.delenv("FLASK_RUN_FROM_CLI")


@pytest.fixture
def asking(manifest: Path) -> Path:
    """The same manifest with ASKERS, each at /wasm/NAME and lent what it asks for."""
    lends = {"who": "user", "locale": "locale", "token": "csrf", "verify": "csrf"}
    with manifest.open("a") as file:
        for name, text in ASKERS.items():
            (manifest.parent / f"{name}.wasm").write_bytes(wasmtime.wat2wasm(text))
            file.write(f'\n[[trigger.http]]\nroute = "/wasm/{name}"\ncomponent = "{name}"')
            file.write(f'\nexecutor = {{ type = "wagi" }}\n[component.{name}]\nsource = "{name}.wasm"')
            file.write(f'\n[component.{name}.tool.wasm-gateway]\nlend = ["{lends[name]}"]')
    return manifest


@pytest.fixture(autouse=True)
def no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `flask` command leaves this in its process, where apps load no guests from then on."""
    monkeypatch.delenv("FLASK_RUN_FROM_CLI", raising=False)


ROUTES = {
    "/wasm/hello": "hello",
    "/wasm/cookie": "cookie",
    "/wasm/redirect": "redirect",
    "/wasm/trap": "trap",
    "/wasm/echo/...": "echo",
}


@pytest.fixture(scope="session")
def binaries() -> dict[str, bytes]:
    return {name: wasmtime.wat2wasm(text) for name, text in GUESTS.items()}


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all sites of a test run keep their compiled guests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def manifest(tmp_path: Path, binaries: dict[str, bytes]) -> Path:
    """The spin.toml of the site in `tmp_path`."""
    lines = ["spin_manifest_version = 2", '[application]\nname = "site"']
    for route, name in ROUTES.items():
        lines.append(
            f'[[trigger.http]]\nroute = "{route}"\ncomponent = "{name}"\nexecutor = {{ type = "wagi" }}'
        )
    lines.append(
        '[[trigger.http]]\nid = "teapot"\nroute = "/wasm/teapot"\n'
        'static_response = { status_code = 418, headers = { x-tea = "earl grey" }, body = "short and stout" }'
    )
    for name, binary in binaries.items():
        (tmp_path / f"{name}.wasm").write_bytes(binary)
        lines.append(f'[component.{name}]\nsource = "{name}.wasm"')
        if name == "echo":
            lines.append('[component.echo.tool.wasm-gateway]\nmax_request_body = "1MiB"')
    path = tmp_path / "spin.toml"
    path.write_text("\n".join(lines))
    return path


Start = Callable[..., AbstractContextManager[tuple[str, int]]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """`with start("gunicorn", "--bind", "127.0.0.1:{port}", "site:app") as (host, port)`: a server
    that runs in `tmp_path` and accepts connections."""

    @contextmanager
    def run(module: str, *arguments: str) -> Iterator[tuple[str, int]]:
        port = free_port()
        log = tmp_path / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *(text.format(port=port) for text in arguments)],
                cwd=tmp_path,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            end = time.monotonic() + 120
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < end, log.read_text()
                    time.sleep(0.02)
            yield "127.0.0.1", port
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    return run
