"""The public Finicky Whiskers, from its own unchanged spin.toml, alone and in a Django and a Flask site.

Nothing of it is kept here. A checkout of fermyon/finicky-whiskers is named by the environment variable
FINICKY_WHISKERS; its component `session` is left out, since its binary is too large to be had everywhere.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = os.environ.get("FINICKY_WHISKERS")
pytestmark = pytest.mark.skipif(
    not CHECKOUT, reason="FINICKY_WHISKERS names no checkout of fermyon/finicky-whiskers"
)

COMPONENTS = ["fileserver", "redirect-to-index", "tally", "scoreboard", "highscore", "reset"]
ULID = "01FY3HP0P5YPKXXP30J6R1YK5A"

CARD = {"ulid": ULID, "beef": 1, "fish": 2, "chicken": 0, "veg": 0, "total": 3}

Fetch = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert CHECKOUT is not None
    target = tmp_path_factory.mktemp("finicky") / "app"
    shutil.copytree(CHECKOUT, target, ignore=shutil.ignore_patterns(".git", ".spin"))
    dist = target / "site" / "dist"  # what its own build makes of site/
    if not dist.is_dir():
        dist.mkdir()
        for name in ("index.html", "assets"):
            source = target / "site" / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, dist / name)
    return target


@pytest.fixture
def options(folder: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "components": COMPONENTS,
        "state_dir": tmp_path / "state",
        "sqlite": [f"@{folder / 'highscore' / 'migration.sql'}"],
        "key_value": {f"fw-{ULID}": json.dumps(CARD)},
    }


@pytest.fixture
def alone(folder: Path, options: dict[str, Any]) -> Iterator[Fetch]:
    command = [sys.executable, "-m", "wasm_gateway", "up", "-f", str(folder / "spin.toml")]
    command += ["--listen", "127.0.0.1:0", "--state-dir", str(options["state_dir"])]
    for component in COMPONENTS:
        command += ["-c", component]
    command += ["--sqlite", options["sqlite"][0]]
    command += [f"--key-value={key}={value}" for key, value in options["key_value"].items()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            line = next(line for line in server.stdout if line.startswith("Serving "))
            yield over_http(line.split("//")[1].strip())
        finally:
            server.send_signal(signal.SIGTERM)
            server.stdout.read()


def over_http(authority: str) -> Fetch:
    def fetch(method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(authority, timeout=60)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    return fetch


@pytest.fixture
def in_flask(folder: Path, options: dict[str, Any]) -> Iterator[Fetch]:
    from flask import Flask

    from wasm_gateway import Gateway

    app = Flask(__name__, static_folder=None)

    @app.get("/native")
    def native() -> str:
        return "native"

    gateway = Gateway.from_manifest(folder / "spin.toml", **options)
    app.wsgi_app = gateway.wsgi(app.wsgi_app)  # type: ignore[method-assign]
    client = app.test_client()

    def fetch(method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        response = client.open(path, method=method, data=body)
        return response.status_code, {k.lower(): v for k, v in response.headers}, response.data

    with gateway:
        yield fetch


def play(fetch: Fetch) -> None:
    status, headers, _ = fetch("GET", "/")  # WAGI, TinyGo
    assert (status, headers["location"]) == (302, "/index.html")
    status, headers, body = fetch("GET", "/index.html")  # the flat ABI, files mounted
    assert (status, headers["content-type"]) == (200, "text/html")
    assert b"Finicky Whiskers" in body
    assert fetch("GET", "/no/such/file")[0] == 404

    status, _, body = fetch("GET", f"/score?ulid={ULID}")  # Spin 1.4, the key-value store
    assert (status, json.loads(body)) == (200, CARD)
    # A click is only counted in a session, which the component that is left out would have begun.
    status, _, body = fetch("GET", f"/tally?ulid={ULID}&food=fish&correct=true")
    assert status in (200, 500)
    if status == 500:
        assert body == b"Session is expired"

    assert fetch("GET", "/highscore")[2] == b"[]"  # Spin 1.4, SQLite
    entry = {"score": 5, "username": "me!", "ulid": ULID}
    status, _, body = fetch("POST", "/highscore", json.dumps(entry).encode())
    assert status == 200
    assert json.loads(body)["rank"] == 1
    assert json.loads(fetch("GET", "/highscore")[2]) == [entry]
    assert fetch("GET", "/reset")[0] == 200  # both
    assert fetch("GET", "/highscore")[2] == b"[]"
    assert json.loads(fetch("GET", f"/score?ulid={ULID}")[2])["total"] == 0


def test_it_plays_alone(alone: Fetch) -> None:
    play(alone)


def test_it_plays_in_a_flask_app(in_flask: Fetch) -> None:
    play(in_flask)


DJANGO = """
import json, sys
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="x",
    INSTALLED_APPS=["wasm_gateway.integrations.django"],
    MIDDLEWARE=["wasm_gateway.integrations.django.WasmGatewayMiddleware"],
    WASM_GATEWAY=json.loads(sys.argv[1]),
)
urlpatterns = [path("native", lambda request: HttpResponse("native"))]
import django
django.setup()
from django.test import Client
client = Client()
for line in sys.stdin:
    method, target, body = json.loads(line)
    answer = client.generic(method, target, body or "")
    content = b"".join(answer.streaming_content) if answer.streaming else answer.content
    print(json.dumps([answer.status_code, dict(answer.items()), content.decode("latin-1")]), flush=True)
"""


def test_it_plays_in_a_django_site(folder: Path, options: dict[str, Any], tmp_path: Path) -> None:
    from wasm_gateway import Gateway

    # The site's settings hold what lasts; tables and presets are made once, before.
    Gateway.from_manifest(folder / "spin.toml", **options).open().close()
    configuration = {
        "MANIFEST": str(folder / "spin.toml"),
        "COMPONENTS": COMPONENTS,
        "STATE_DIR": str(options["state_dir"]),
    }
    script = tmp_path / "site.py"
    script.write_text(DJANGO)
    command = [sys.executable, str(script), json.dumps(configuration)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as site:
        stdin, stdout = site.stdin, site.stdout
        assert stdin is not None
        assert stdout is not None

        def fetch(method: str, target: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
            stdin.write(json.dumps([method, target, (body or b"").decode()]) + "\n")
            stdin.flush()
            status, headers, content = json.loads(stdout.readline())
            return status, {k.lower(): v for k, v in headers.items()}, content.encode("latin-1")

        play(fetch)
        stdin.close()


def test_a_component_whose_binary_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    from wasm_gateway import Gateway
    from wasm_gateway.errors import ManifestError

    binary = folder / "components" / "sessionv2.wasm"
    binary.unlink(missing_ok=True)
    gateway = Gateway.from_manifest(folder / "spin.toml", state_dir=tmp_path)
    with pytest.raises(ManifestError, match=r"session.*sessionv2\.wasm, does not exist.*--component-id"):
        gateway.open()
