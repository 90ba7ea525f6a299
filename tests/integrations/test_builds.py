# Guests that are built under the development servers of the frameworks, and nowhere else.

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.making.test_workshop import BUILD, MANIFEST, put, text, until

from .conftest import Start
from .test_swap import FLASK, MANAGE, SETTINGS, getter

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")

VISIT = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate"}


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """The folder of a component that is not built yet, inside of a site's."""
    folder = tmp_path / "guest"
    folder.mkdir()
    (folder / "spin.toml").write_text(MANIFEST.replace("sh build.sh", "exec sh build.sh"))
    (folder / "build.sh").write_text(BUILD.replace("echo built", "echo $PPID"))
    (folder / "hello.src").write_text(text("first"))
    (folder / "other.wat").write_text(text("other"))
    return folder


def visit(address: tuple[str, int], path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection(*address, timeout=30)) as connection:
        connection.request("GET", path, headers=VISIT)
        response = connection.getresponse()
        return response.status, response.read().decode()


def start_django(folder: Path, guest: Path, cache: Path, **settings: str) -> tuple[str, ...]:
    (folder / "manage.py").write_text(MANAGE)
    source = SETTINGS.format(manifest=str(guest / "spin.toml"), cache=str(cache))
    for name, value in settings.items():
        source = re.sub(rf"^{name} = .*", f"{name} = {value}", source, flags=re.MULTILINE)
    (folder / "site_settings.py").write_text(source)
    return "manage", "runserver", "127.0.0.1:{port}"


def start_flask(folder: Path, guest: Path, cache: Path) -> tuple[str, ...]:
    (folder / "site_app.py").write_text(FLASK.format(manifest=str(guest / "spin.toml"), cache=str(cache)))
    return "flask", "--app", "site_app", "--debug", "run", "--port", "{port}"


@pytest.mark.parametrize("framework", ["django", "flask", "flask script"])
def test_a_development_server_builds(
    start: Start,
    guest: Path,
    tmp_path: Path,
    framework: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = (start_django if framework == "django" else start_flask)(tmp_path, guest, tmp_path / "cache")
    if framework == "flask script":
        command = "site_app", "{port}"
        source = tmp_path / "site_app.py"
        source.write_text(source.read_text().replace('os.environ["PORT"]', "__import__('sys').argv[1]"))
        # the process that starts the reloader cannot know that there will be one: it needs a guest
        put(guest / "hello.wat", text("old"))
        os.utime(guest / "hello.wat", (0, 0))
    log = tmp_path / "server.log"
    with start(*command) as address:
        get = getter(address)
        pid = get("/pid")[1]
        until(lambda: get("/hello/x")[1] == b"first")  # it was not there, or old

        put(guest / "hello.src", text("second"))
        until(lambda: get("/hello/x")[1] == b"second")
        assert visit(address, "/hello/x") == (200, "second")
        built = re.compile(r"component hello: built in \S+ s, and answers from now on")
        until(lambda: len(built.findall(log.read_text())) == 2)

        put(guest / "hello.src", "BROKEN")
        until(lambda: visit(address, "/hello/x")[0] == 500)
        page = visit(address, "/hello/x")[1]
        assert "Component hello could not be built" in page
        assert "hello.src: error: &lt;BROKEN&gt;" in page
        assert get("/hello/x")[1] == b"second"
        assert "component hello could not be built, and the last good guest goes on" in log.read_text()
        assert "<BROKEN>" in log.read_text()

        put(guest / "hello.src", text("third"))
        until(lambda: visit(address, "/hello/x") == (200, "third"))
        assert get("/pid")[1] == pid
        # one process of the reloader has run them all, the one that answers
        assert set((guest / "builds").read_text().split()) == {pid.decode()}


def test_a_build_goes_on_after_the_server_has_started_again(
    start: Start, guest: Path, tmp_path: Path
) -> None:
    """A saved module of the site restarts the server in the midst of a build, and later with an error."""
    command = start_django(tmp_path, guest, tmp_path / "cache")
    slow = "if grep -q slow hello.src; then touch begun; sleep 2; fi\n"
    (guest / "build.sh").write_text(slow + BUILD)
    settings = tmp_path / "site_settings.py"
    with start(*command) as address:
        get = getter(address)
        until(lambda: get("/hello/x")[1] == b"first")
        pid = get("/pid")[1]
        put(guest / "hello.src", text("slow") + ";; slow")
        until(lambda: (guest / "begun").exists())
        os.utime(settings)
        until(lambda: get("/pid")[1] != pid)
        until(lambda: get("/hello/x")[1] == b"slow")

        put(guest / "hello.src", "BROKEN")
        until(lambda: visit(address, "/hello/x")[0] == 500)
        pid = get("/pid")[1]
        os.utime(settings)
        until(lambda: get("/pid")[1] != pid)
        until(lambda: visit(address, "/hello/x")[0] == 500)
        assert get("/hello/x")[1] == b"slow"


@pytest.mark.parametrize("how", ["no debug", "switched off", "no reloader"])
def test_django_builds_nothing_otherwise(start: Start, guest: Path, tmp_path: Path, how: str) -> None:
    command = start_django(tmp_path, guest, tmp_path / "cache")
    settings = tmp_path / "site_settings.py"
    source = settings.read_text()
    if how == "no debug":  # not even when told to
        source = source.replace("DEBUG = True", "DEBUG = False").replace(
            '"STATE_DIR"', '"BUILD": True, "STATE_DIR"'
        )
    elif how == "switched off":
        source = source.replace('"STATE_DIR"', '"BUILD": False, "STATE_DIR"')
    else:
        command += ("--noreload",)
    settings.write_text(source)
    put(guest / "hello.wat", text("old"))
    os.utime(guest / "hello.wat", (0, 0))
    with start(*command) as address:
        assert getter(address)("/hello/x")[1] == b"old"
        put(guest / "hello.src", "BROKEN")
        # what the watcher notices comes after what a build would have changed
        put(guest / "other.wat", text("changed"))
        if how == "switched off":
            until(lambda: getter(address)("/other")[1] == b"changed")
        assert visit(address, "/hello/x") == (200, "old")
    assert not (guest / "builds").exists()


def test_flask_builds_nothing_otherwise(guest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flask import Flask

    from wasm_gateway.integrations.flask import WasmGateway

    put(guest / "hello.wat", text("old"))
    for debug, reloaded, by_command, wanted, builds in [
        (False, False, False, None, False),
        (False, False, False, True, False),  # not without debug mode
        (True, False, False, None, False),  # the parent of a reloader, or a command
        (True, False, True, None, False),
        (True, False, False, True, True),
        (True, True, True, None, True),
        (True, True, True, False, False),
        (False, True, True, None, False),  # flask run --reload
        (False, True, False, None, True),  # app.run(debug=True), which says so later
    ]:
        for name, value in (("WERKZEUG_RUN_MAIN", reloaded), ("FLASK_RUN_FROM_CLI", by_command)):
            monkeypatch.setenv(name, "true" if value else "")
        app = Flask(__name__, root_path=str(guest))
        app.debug = debug
        app.config["WASM_GATEWAY_CACHE_DIR"] = str(tmp_path / "cache")
        app.config["WASM_GATEWAY_STATE_DIR"] = ""
        if wanted is not None:
            app.config["WASM_GATEWAY_BUILD"] = wanted
        WasmGateway(app)
        gateway: Any = app.extensions["wasm_gateway"]
        try:
            assert (gateway.workshop is not None) is builds
        finally:
            gateway.close()


def test_the_checks_of_django_wait_for_what_is_built(start: Start, guest: Path, tmp_path: Path) -> None:
    start_django(tmp_path, guest, tmp_path / "cache")
    command = [sys.executable, "manage.py", "check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "wasm_gateway.E002" in done.stderr
    assert f"wasm-gateway build -f {guest / 'spin.toml'}" in done.stderr
