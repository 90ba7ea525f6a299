# `wasm-gateway up` as a process: real sockets, real guests, real signals.

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import wasmtime

from wasm_gateway.serve import Listen, ListenError, Port, folders, parse_listen
from wasm_gateway.serve import _server as server_on

WAIT = 120.0

# A CGI program: writes `head` and the request body's length-free greeting, and a line to stderr.
WAGI = """
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "content-type: text/plain\\n\\n")
  (data (i32.const 128) "a line on stderr\\n")
  (func $send (param $fd i32) (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (call $send (i32.const 2) (i32.const 128) (i32.const 17))
    (call $send (i32.const 1) (i32.const 64) (i32.const 26))
    (loop $more
      (i32.store (i32.const 0) (i32.const 1024))
      (i32.store (i32.const 4) (i32.const 32768))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.load (i32.const 8))
        (then
          (call $send (i32.const 1) (i32.const 1024) (i32.load (i32.const 8)))
          (br $more))))))
"""
AGAIN = WAGI.replace('plain\\n\\n"', 'plain\\n\\nagain"').replace("(i32.const 26)", "(i32.const 31)")
ENDLESS = '(module (memory (export "memory") 1) (func (export "_start") (loop $again (br $again))))'
# The flat ABI of wit-bindgen 0.2: prints what it was given.
MESSAGES = """
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "Got message: ")
  (data (i32.const 96) "\\n")
  (global $free (mut i32) (i32.const 4096))
  (func (export "canonical_abi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.get $free)
    (global.set $free (i32.add (global.get $free) (local.get 3))))
  (func (export "canonical_abi_free") (param i32 i32 i32))
  (func (export "handle-redis-message") (param $at i32) (param $size i32) (result i32)
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 13))
    (i32.store (i32.const 8) (local.get $at))
    (i32.store (i32.const 12) (local.get $size))
    (i32.store (i32.const 16) (i32.const 96))
    (i32.store (i32.const 20) (i32.const 1))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 3) (i32.const 32)))
    (i32.const 256)))
"""


MANIFEST = """
spin_manifest_version = 2
[application]
name = "served"
version = "1.2.3"

[[trigger.http]]
route = "/echo/..."
component = "echo"
executor = { type = "wagi" }

[[trigger.http]]
route = "/endless"
component = "endless"
executor = { type = "wagi" }

[[trigger.http]]
route = "/static"
static_response = { status_code = 201, body = "static" }

[component.echo]
source = "echo.wasm"
description = "Says it back"

[component.endless]
source = "endless.wasm"
[component.endless.tool.wasm-gateway]
timeout = "300ms"
"""


def make_app(folder: Path) -> Path:
    """`folder` with guests and a manifest that serves `echo` (WAGI) at /echo/..., `endless` at /endless."""
    for name, text in (("echo", WAGI), ("endless", ENDLESS), ("messages", MESSAGES)):
        (folder / f"{name}.wasm").write_bytes(wasmtime.wat2wasm(text))
    (folder / "spin.toml").write_text(MANIFEST)
    return folder


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return make_app(tmp_path)


class Server:
    """`python -m wasm_gateway up` in a folder, on any free port."""

    def __init__(self, folder: Path, *arguments: str, listen: str = "127.0.0.1:0") -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SPIN_", "WEB_CONC"))}
        environment["XDG_CACHE_HOME"] = str(folder / "cache")
        self._stderr = folder / f"stderr-{len(list(folder.glob('stderr-*')))}.txt"
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wasm_gateway", "up", "--listen", listen, *arguments],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.lines: list[str] = []
        self.url = ""

    def stderr(self) -> str:
        return self._stderr.read_text()

    def wait_for(self, beginning: str) -> str:
        """The next line of stdout that begins so; what is printed on the way is kept in `lines`."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(WAIT, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                self.lines.append(line.rstrip("\n"))
                if line.startswith(beginning):
                    return self.lines[-1]
        finally:
            watchdog.cancel()
        pytest.fail(f"no line {beginning!r}; stdout: {self.lines}; stderr: {self.stderr()}")

    def ready(self) -> Server:
        self.url = self.wait_for("Serving ").removeprefix("Serving ")
        return self

    def connect(self) -> http.client.HTTPConnection:
        host = urlsplit(self.url)
        assert host.hostname is not None
        return http.client.HTTPConnection(host.hostname, host.port, timeout=WAIT)

    def get(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = self.connect()
        try:
            connection.request("GET" if body is None else "POST", path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def children(self) -> list[int]:
        """Pids of the processes of workers; one may end while it is looked at."""
        parent, found = self.process.pid, []
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            try:
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
            except (FileNotFoundError, ProcessLookupError):
                pass
        return found

    def workers(self, number: int = 1) -> list[int]:
        """Their pids once there are so many and all listen, each with a socket of its own."""
        port = f":{urlsplit(self.url).port:04X}"

        def listen() -> int:
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
            return sum(row[1].endswith(port) and row[3] == "0A" for row in rows)

        wait_until(lambda: listen() == len(self.children()) == number)
        return self.children()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """The exit code, once the process has ended by itself."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(WAIT, self.process.kill)
        watchdog.start()
        self.lines += self.process.stdout.read().splitlines()
        code = self.process.wait()
        watchdog.cancel()
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(WAIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def serve(app: Path) -> Iterator[type[Server]]:
    servers: list[Server] = []

    def start(*arguments: str, **options: str) -> Server:
        server = Server(app, *arguments, **options)
        servers.append(server)
        return server

    yield start  # type: ignore[misc]
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the tests that leave it as it was."""
    server = Server(make_app(tmp_path_factory.mktemp("shared")))
    try:
        yield server.ready()
        assert server.stop() == 0
    finally:
        server.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_end(pids: list[int]) -> None:
    """Wait until none of the processes runs any more."""
    wait_until(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # before it is opened, or after
        return False


# What it prints


def test_it_announces_itself_once_it_answers(serve, app: Path) -> None:
    server = serve().ready()
    assert server.get("/static") == (201, b"static")
    assert server.stop() == 0

    assert server.lines == [
        "",
        f"Serving {server.url}",
        "Available Routes:",
        f"  echo: {server.url}/echo (wildcard)",
        "    Says it back",
        f"  endless: {server.url}/endless",
        f"  {server.lines[6].split(':')[0].strip()}: {server.url}/static",
    ]
    assert f'Logging component stdio to "{app}/.spin/logs/"' in server.stderr()


def test_for_programs(serve) -> None:
    server = serve("--format", "json")
    announced = json.loads(server.wait_for("{"))
    assert server.stop() == 0

    assert len(server.lines) == 1
    assert announced["base_url"].startswith("http://127.0.0.1:")
    assert announced["routes"][:2] == [
        {"id": "echo", "route": "/echo", "wildcard": True, "description": "Says it back"},
        {"id": "endless", "route": "/endless", "wildcard": False},
    ]


# HTTP


def test_requests_reach_the_guest(shared: Server) -> None:

    assert shared.get("/echo") == (200, b"")
    assert shared.get("/echo/x", b"hello") == (200, b"hello")
    assert shared.get("/nowhere") == (404, b"")
    assert shared.get("/.well-known/spin/health") == (200, b"OK")
    assert json.loads(shared.get("/.well-known/spin/info")[1]) == {"name": "served", "version": "1.2.3"}


def test_a_guest_is_ended_at_its_deadline(shared: Server) -> None:
    begin = time.monotonic()
    assert shared.get("/endless") == (504, b"")
    assert 0.3 <= time.monotonic() - begin < WAIT / 2
    assert shared.get("/echo", b"still here") == (200, b"still here")


def test_uploads_of_every_framing(shared: Server) -> None:
    connection = shared.connect()
    big = os.urandom(1 << 20) * 3

    connection.request("POST", "/echo", big)
    assert connection.getresponse().read() == big

    connection.request("POST", "/echo", iter([b"one ", b"two ", b"three"]), encode_chunked=True)
    assert connection.getresponse().read() == b"one two three"

    connection.request("HEAD", "/echo")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    connection.close()


def test_expect_100_continue(shared: Server) -> None:
    host = urlsplit(shared.url)
    with socket.create_connection((host.hostname, host.port), timeout=WAIT) as connection:
        connection.sendall(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n")
        connection.sendall(b"hello")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"hello")


@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
def test_a_cut_off_upload_is_no_request(serve, app: Path, framing: bytes) -> None:
    server = serve().ready()
    host = urlsplit(server.url)
    with socket.create_connection((host.hostname, host.port), timeout=WAIT) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n5\r\nhell" % framing)
    assert server.get("/echo", b"next") == (200, b"next")
    assert server.stop() == 0

    # The guest writes a line when it starts: one for the whole request, at most one for the other.
    log = app / ".spin/logs/echo_stderr.txt"
    assert log.read_text().count("a line on stderr") <= 2


def test_the_raw_path_and_the_peer_reach_the_guest(serve, app: Path) -> None:
    (app / "environment.wasm").write_bytes(wasmtime.wat2wasm(ENVIRONMENT))
    (app / "spin.toml").write_text(
        """
spin_manifest_version = 2
[application]
name = "served"
[[trigger.http]]
route = "/raw/..."
component = "environment"
executor = { type = "wagi" }
[component.environment]
source = "environment.wasm"
"""
    )
    server = serve().ready()
    host = urlsplit(server.url)
    with socket.create_connection((host.hostname, host.port), timeout=WAIT) as connection:
        port = connection.getsockname()[1]
        connection.sendall(
            b"GET /raw/caf%C3%A9%2F/x?a=%20 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"X-Latin: caf\xc3\xa9\r\n\r\n"
        )
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    variables = set(answer.partition(b"\r\n\r\n")[2].split(b"\0"))

    assert b"X_RAW_PATH_INFO=/caf%C3%A9%2F/x" in variables
    assert b"QUERY_STRING=a=%20" in variables
    assert b"X_CLIENT_ADDR=127.0.0.1:%d" % port in variables


ENVIRONMENT = """
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "content-type: text/plain\\n\\n")
  (func (export "_start")
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    (drop (call $environ (i32.const 1024) (i32.const 4096)))
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 26))
    (i32.store (i32.const 8) (i32.const 4096))
    (i32.store (i32.const 12) (i32.load (i32.const 20)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 24)))))
"""


def test_http_2_without_tls(shared: Server) -> None:
    try:
        result = subprocess.run(
            [
                "curl",
                "-sS",
                "--http2-prior-knowledge",
                "-d",
                "hello",
                "-w",
                " %{http_version}",
                f"{shared.url}/echo",
            ],
            capture_output=True,
            check=True,
            timeout=WAIT,
        )
    except FileNotFoundError:
        pytest.skip("no curl")
    assert result.stdout == b"hello 2"


def test_tls(serve, app: Path) -> None:
    key, certificate = app / "key.pem", app / "cert.pem"
    try:
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                ),
                *("-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=localhost"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
            ],
            check=True,
            capture_output=True,
            timeout=WAIT,
        )
    except FileNotFoundError:
        pytest.skip("no openssl")
    import ssl

    server = serve("--tls-cert", str(certificate), "--tls-key", str(key)).ready()
    assert server.url.startswith("https://127.0.0.1:")
    host = urlsplit(server.url)
    context = ssl.create_default_context(cafile=str(certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", host.port, context=context, timeout=WAIT)
    connection.request("GET", "/static")
    response = connection.getresponse()
    assert (response.status, response.read()) == (201, b"static")
    connection.close()


def test_a_key_that_is_none(serve, app: Path) -> None:
    server = serve("--tls-cert", "spin.toml", "--tls-key", "spin.toml")
    assert server.ended() == 1
    assert "Error: TLS certificate spin.toml and key spin.toml" in server.stderr()


# Processes


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")
def test_sighup_loads_everything_again(serve, app: Path) -> None:
    """In the same workers; what cannot be loaded changes nothing."""
    server = serve("--workers", "2").ready()
    workers = server.workers(2)

    def all_answer(path: str, expected: tuple[int, bytes]) -> bool:
        return all(server.get(path) == expected for _ in range(20))

    assert all_answer("/echo", (200, b""))
    (app / "echo.wasm").write_bytes(wasmtime.wat2wasm(AGAIN))
    (app / "spin.toml").write_text(MANIFEST.replace("/static", "/moved"))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: all_answer("/moved", (201, b"static")))
    assert all_answer("/echo", (200, b"again"))
    assert server.get("/static")[0] == 404

    (app / "echo.wasm").write_bytes(b"garbage")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "nothing is reloaded, what was there goes on: component 'echo'" in server.stderr())
    assert all_answer("/echo", (200, b"again"))
    assert server.children() == workers
    assert server.stop() == 0


def test_several_workers_share_the_port(serve, app: Path) -> None:
    server = serve("--workers", "2").ready()
    workers = server.workers(2)
    results = [server.get("/echo", b"x") for _ in range(20)]

    assert results == [(200, b"x")] * 20
    assert server.stop(signal.SIGINT) == 0
    wait_for_end(workers)
    assert [line for line in server.lines if line.startswith("Serving")] == [f"Serving {server.url}"]


def test_a_request_under_way_is_finished(serve, app: Path) -> None:
    says = WAGI.partition("(loop")[0] + "(loop $again (br $again))))"
    (app / "endless.wasm").write_bytes(wasmtime.wat2wasm(says))
    server = serve("--request-timeout", "1s").ready()
    answers: list[tuple[int, bytes]] = []
    client = threading.Thread(target=lambda: answers.append(server.get("/endless")))
    client.start()
    wait_until((app / ".spin/logs/endless_stderr.txt").exists)
    assert server.stop() == 0
    client.join(WAIT)

    assert answers == [(504, b"")]


def test_signals_do_not_wait_for_what_they_interrupt() -> None:
    """The thread that a signal interrupts may hold the lock of what the handler sets, after another one."""
    port = Port(Listen(port=0))
    try:
        server = server_on(port, 1)
        with server.main_loop_interrupt._cond:
            for _ in range(2):
                server.signal_handler_interrupt(signal.SIGTERM, None)
        assert server.main_loop_interrupt.wait(WAIT)
        assert server.interrupt_signal
    finally:
        port.close()


def test_changed_guests_are_replaced_where_it_is_asked_for(serve, app: Path) -> None:
    server = serve("--watch").ready()
    workers = server.workers()
    assert server.get("/echo", b"x") == (200, b"x")
    trap = '(module (memory (export "memory") 1) (func (export "_start") unreachable))'
    (app / "echo.wasm").write_bytes(wasmtime.wat2wasm(trap))
    wait_until(lambda: "echo: its changed guest answers from now on" in server.stderr())
    (app / "echo.wasm").write_bytes(b"garbage")
    wait_until(lambda: "echo: its changed guest is not taken" in server.stderr())
    (app / "spin.toml").write_text(MANIFEST.replace('"/echo/..."', '"/moved"').replace("300ms", "200ms"))
    wait_until(lambda: server.get("/moved")[0] == 500)
    assert server.get("/endless") == (504, b"")
    assert server.children() == workers
    assert server.stop() == 0


def test_a_worker_that_dies_is_replaced(serve) -> None:
    server = serve().ready()
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    wait_for_end([worker])
    deadline = time.monotonic() + WAIT
    while True:
        try:
            assert server.get("/echo", b"x") == (200, b"x")
            break
        except ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    assert worker not in server.children()


def test_a_worker_that_cannot_start_ends_the_server(serve, app: Path) -> None:
    server = serve("--workers", "2").ready()
    worker, _ = server.workers(2)
    for guest in app.glob("*.wasm"):
        guest.unlink()
    os.kill(worker, signal.SIGKILL)

    assert server.ended() == 1
    assert "a worker cannot start. Terminating." in server.stderr()


def test_nothing_outlives_the_parent(serve) -> None:
    server = serve("--workers", "2").ready()
    workers = server.workers(2)
    server.stop(signal.SIGKILL)

    wait_for_end(workers)


def test_a_guest_that_cannot_be_loaded_is_an_error_before_anything_is_served(serve, app: Path) -> None:
    (app / "echo.wasm").write_bytes(b"\0asm\x01\0\0\0broken")
    server = serve()

    assert server.ended() == 1
    assert server.lines == []
    assert server.stderr().splitlines()[-1].startswith("Error: component 'echo': ")


# What is done once, and where output goes


def test_presets_and_statements_are_applied_once(serve, app: Path) -> None:
    statements = ["create table if not exists runs (n integer)", "insert into runs values (1)"]
    arguments = [argument for statement in statements for argument in ("--sqlite", statement)]
    server = serve("--workers", "2", "--key-value", "greeting=hello=you", *arguments).ready()
    server.workers(2)
    assert server.get("/echo", b"x") == (200, b"x")
    assert server.stop() == 0

    with closing(sqlite3.connect(app / ".spin/sqlite_db.db")) as database:
        assert database.execute("select count(*) from runs").fetchall() == [(1,)]
    with closing(sqlite3.connect(app / ".spin/sqlite_key_value.db")) as database:
        rows = database.execute("select store, key, value from spin_key_value").fetchall()
    assert rows == [("default", "greeting", b"hello=you")]


def test_a_statement_that_fails_stops_the_start(serve) -> None:
    server = serve("--sqlite", "insert into nowhere values (1)")
    assert server.ended() == 1
    assert "nowhere" in server.stderr().splitlines()[-1]


def test_no_state_is_left(serve, app: Path) -> None:
    server = serve("--state-dir", "", "--key-value", "a=b").ready()
    assert server.get("/echo", b"x") == (200, b"x")
    assert server.stop() == 0
    assert not (app / ".spin").exists()


@pytest.mark.parametrize(
    ("arguments", "copied"),
    [((), True), (("--quiet",), False), (("--follow", "endless"), False), (("--follow", "echo"), True)],
    ids=["default", "quiet", "follow another", "follow it"],
)
def test_output_of_guests_is_logged_and_copied(
    serve, app: Path, arguments: tuple[str, ...], copied: bool
) -> None:
    logs = app / ".spin/logs"
    logs.mkdir(parents=True)
    (logs / "echo_stderr.txt").write_text("old\n")
    server = serve(*arguments).ready()
    server.get("/echo")
    assert server.stop() == 0

    assert (logs / "echo_stderr.txt").read_text() == "old\na line on stderr\n"
    assert not (logs / "echo_stdout.txt").exists()  # the response is no log
    assert ("a line on stderr\n" in server.stderr()) is copied


def test_logs_can_be_emptied_and_moved(serve, app: Path) -> None:
    (app / "here").mkdir()
    (app / "here/echo_stderr.txt").write_text("old\n")
    server = serve("--truncate-logs", "--log-dir", "here").ready()
    server.get("/echo")
    assert server.stop() == 0

    assert (app / "here/echo_stderr.txt").read_text() == "a line on stderr\n"
    assert not (app / ".spin/logs").exists()


def test_environment_and_components_of_the_command_line(serve, app: Path) -> None:
    (app / "echo.wasm").write_bytes(wasmtime.wat2wasm(ENVIRONMENT))
    server = serve("-c", "echo", "--env", "COLOUR=blue=green").ready()

    assert b"\0COLOUR=blue=green\0" in b"\0" + server.get("/echo")[1]
    assert server.get("/endless") == (404, b"")


# Redis


REDIS_TRIGGERS = """
[[trigger.redis]]
channel = "my-channel"
address = "{{ address }}"
component = "messages"

[variables]
address = { required = true }

[component.messages]
source = "messages.wasm"
"""


@pytest.mark.services
def test_http_and_redis_together(serve, app: Path, redis_server: str) -> None:
    (app / "spin.toml").write_text(MANIFEST + REDIS_TRIGGERS)
    server = serve("--workers", "2", "--variable", f"address={redis_server}").ready()
    server.wait_for(f"Active Channels on {redis_server}:")
    server.wait_for("  my-channel: messages")
    log = app / ".spin/logs/messages_stdout.txt"
    with redis.Redis.from_url(redis_server) as client:
        for text in ("msg-from-test", "caf\u00e9"):
            assert client.publish("my-channel", text) == 1  # one process subscribes, not every worker
    wait_until(lambda: log.exists() and log.read_text().count("\n") == 2)

    assert sorted(log.read_text().splitlines()) == ["Got message: caf\u00e9", "Got message: msg-from-test"]
    wait_until(lambda: "Got message: msg-from-test\n" in server.stderr())
    assert server.get("/echo", b"x") == (200, b"x")
    assert server.stop() == 0


@pytest.mark.services
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_redis_alone(serve, app: Path, redis_server: str, number: int) -> None:
    head = MANIFEST[: MANIFEST.index("[[trigger.http]]")]
    (app / "spin.toml").write_text(head + REDIS_TRIGGERS)
    server = serve("--format", "json", "--variable", f"address={redis_server}")
    announced = json.loads(server.wait_for("{"))
    assert announced == {
        "channels": [{"address": redis_server, "channel": "my-channel", "components": ["messages"]}]
    }
    log = app / ".spin/logs/messages_stdout.txt"
    with redis.Redis.from_url(redis_server) as client:
        client.publish("my-channel", "alone")
    wait_until(log.exists)

    assert server.stop(number) == 0
    assert log.read_text() == "Got message: alone\n"


def test_a_redis_address_that_cannot_be(serve, app: Path) -> None:
    (app / "spin.toml").write_text(MANIFEST + REDIS_TRIGGERS)
    server = serve("--variable", "address=localhost")

    assert server.ended() == 1
    assert server.lines == []
    assert "Error: " in server.stderr().splitlines()[-1]


# Ports


def test_a_port_in_use(serve) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        server = serve(listen=address)

        assert server.ended() == 1
    assert server.stderr().splitlines()[-1] == (
        f"Error: {address} is already in use. "
        "To have Spin search for a free port, use the --find-free-port option."
    )


def test_the_port_of_another_server_of_ours_is_in_use(serve) -> None:
    first = serve().ready()
    second = serve(listen=first.url.removeprefix("http://"))

    assert second.ended() == 1
    assert "is already in use" in second.stderr()
    assert first.get("/static")[0] == 201


def test_the_next_free_port() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        port = Port(Listen("127.0.0.1", taken, find_free_port=True))
        try:
            assert taken < port.port <= taken + 10
        finally:
            port.close()


def test_a_port_that_is_ours_stays_ours() -> None:
    port = Port(Listen("127.0.0.1", 0))
    try:
        with pytest.raises(ListenError, match="in use"):
            Port(Listen("127.0.0.1", port.port))
        assert not port.answers()
    finally:
        port.close()


def test_any_address_is_asked_on_loopback() -> None:
    with closing(Port(Listen("0.0.0.0", 0))) as port, socket.socket() as listener:
        if sys.platform == "linux":  # as a worker shares it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("0.0.0.0", port.port))
        listener.listen()
        assert port.answers()
        assert port.base_url == f"http://0.0.0.0:{port.port}"


def test_an_address_of_another_machine() -> None:
    with pytest.raises(ListenError, match=r"192\.0\.2\.1:80"):
        Port(Listen("192.0.2.1", 80))


def test_a_name_is_resolved() -> None:
    port = Port(Listen("localhost", 0))
    port.close()
    assert port.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:3000", ("127.0.0.1", 3000)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:80", ("::1", 80)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_listen_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize(
    "text", ["", "3000", ":3000", "host", "host:", "host:x", "host:65536", "::1:80", "h:-1"]
)
def test_what_is_no_listen_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|brackets"):
        parse_listen(text)


# Folders


def test_no_state_is_a_folder_of_this_run() -> None:
    with folders("", None, None) as options:
        state = options["state_dir"]
        assert state.is_dir()
        assert options["log_dir"] == ""
    assert not state.exists()


def test_folders_are_passed_on() -> None:
    with folders("state", "logs", None) as options:
        assert options == {"state_dir": "state", "log_dir": "logs"}


def test_copies_of_files_are_made_where_asked(serve, app: Path) -> None:
    manifest = MANIFEST.replace('source = "echo.wasm"', 'source = "echo.wasm"\nfiles = ["spin.toml"]')
    (app / "spin.toml").write_text(manifest)
    server = serve("--temp", "work").ready()
    assert len(list((app / "work").rglob("spin.toml"))) >= 1
    assert server.stop() == 0
    assert list((app / "work").iterdir()) == []


def test_metrics_of_all_workers(serve: Callable[..., Server]) -> None:
    """And an access log, and a Server-Timing."""
    server = serve("--metrics", "127.0.0.1:0", "--workers", "2", "--access-log", "--server-timing").ready()
    url = next(line for line in server.stderr().splitlines() if line.startswith("Serving metrics at "))
    metrics = urlsplit(url.removeprefix("Serving metrics at "))

    def scrape() -> dict[str, float]:
        with closing(http.client.HTTPConnection(metrics.hostname or "", metrics.port, timeout=WAIT)) as other:
            other.request("GET", metrics.path)
            lines = other.getresponse().read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    for number in range(20):
        assert server.get(f"/echo/{number}", b"hi")[0] == 200
    assert server.get("/endless")[0] == 504
    counted = scrape()
    labels = 'code="2xx",component="echo",outcome="ok",role="answer",route="/echo/..."'
    assert counted["wasm_gateway_requests_total{" + labels + "}"] == 20
    labels = 'code="5xx",component="endless",outcome="deadline",role="answer",route="/endless"'
    assert counted["wasm_gateway_requests_total{" + labels + "}"] == 1

    lines = [line for line in server.stderr().splitlines() if "wasm_gateway.access" in line]
    assert len(lines) == 21
    assert lines[0].startswith('INFO wasm_gateway.access: echo "POST /echo/0" 200 ok 2 bytes ')
    with closing(server.connect()) as connection:
        connection.request("GET", "/echo/timed")
        assert connection.getresponse().headers["server-timing"].startswith("wasm;dur=")
    assert server.stop() == 0


def test_an_address_for_metrics_that_is_taken(serve: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = serve("--metrics", f"127.0.0.1:{taken.getsockname()[1]}")
        assert server.ended() == 1
    assert "Error: --metrics 127.0.0.1:" in server.stderr()
