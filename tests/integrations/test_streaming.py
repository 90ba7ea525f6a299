"""Bodies of wasi:http 0.3 through real servers: bit by bit, in bounded memory, until either side ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.host.wasi_p3.test_client import SEND, USES, asking
from tests.services import free_port
from tests.wasi_p3_wat import CLOCK, P3Toolkit

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")

SECONDS = 60.0
MEBIBYTE = 1 << 20

ECHO = """
  (call $consume (local.get $request))
  (call $return (call $new))
  (call $echo)
  (call $finish)
  (i32.const 0)"""
FLOOD = """
  (call $drop.request (local.get $request))
  (call $return (call $new))
  (loop $more
    (call $write (i32.const 8192) (i32.const 32768))
    (br $more))
  (i32.const 0)"""
TICKS = FLOOD.replace("(br $more)", "(call $wait-for (i64.const 10000000)) (br $more)").replace("32768", "1")
IDLE = """
  (call $drop.request (local.get $request))
  (call $return (call $new))
  (call $write (i32.const 8192) (i32.const 1))
  (call $wait-for (i64.const 3600000000000))
  (i32.const 0)"""
# An event, then a request that is answered when the client has seen it; three times.
EVENTS = """
  (local $n i32)
  (call $drop.request (local.get $request))
  (call $return (call $new))
  (loop $more
    (i32.store8 (i32.const 8192) (i32.add (i32.const 0x61) (local.get $n)))
    (call $write (i32.const 8192) (i32.const 1))
    (call $send (call $ask (i32.const 700) (i32.const 5) (i32.const 0) (i32.const 0) (call $no-trailers))
      (i32.const 200))
    (if (i32.load8_u (i32.const 200)) (then unreachable))
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $n) (i32.const 3))))
  (call $finish)
  (i32.const 0)"""
ALONE = "max_concurrency = 1\n"
GUESTS = {"echo": (ECHO, ""), "flood": (FLOOD, ALONE), "ticks": (TICKS, ALONE), "idle": (IDLE, ALONE)}

SITE = """
from wasm_gateway import Gateway
gateway = Gateway.from_manifest("spin.toml", cache_dir="cache", state_dir="")
wsgi, asgi = gateway.wsgi(), gateway.asgi()
"""
SERVERS = {
    "up": ("wasm_gateway", "up", "--listen", "127.0.0.1:{port}", "--state-dir", "", "--log-dir", ""),
    "gunicorn": ("gunicorn", "--bind", "127.0.0.1:{port}", "--threads", "8", "site_app:wsgi"),
    "uvicorn": ("uvicorn", "--port", "{port}", "site_app:asgi"),
}


class Gate(ThreadingHTTPServer):
    """Answers as many requests as `opened` says."""

    daemon_threads = True

    def __init__(self) -> None:
        self.opened = threading.Semaphore(0)
        super().__init__(("127.0.0.1", 0), GateHandler)


class GateHandler(BaseHTTPRequestHandler):
    server: Gate

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.send_response(204 if self.server.opened.acquire(timeout=SECONDS) else 500)
        self.end_headers()


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


class Server:
    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def ask(self, request: str) -> socket.socket:
        """A connection over which this was sent: `GET /path`, and more lines."""
        found = socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)
        head = request.replace("\n", " HTTP/1.1\r\n", 1) if "\n" in request else f"{request} HTTP/1.1"
        found.sendall(f"{head}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return found

    def processes(self) -> list[int]:
        found = [self.process.pid]
        for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent in found:
                found.append(int(folder.name))
        return found

    def memory(self) -> int:
        """The most that its processes ever had resident, in bytes."""
        peaks = 0
        for pid in self.processes():
            try:
                peak = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2]
            except OSError:
                continue  # it has just ended
            peaks += int(peak.split()[0]) if peak else 0
        return peaks << 10


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path, gate: Gate) -> Iterator[Server]:
    toolkit = P3Toolkit()
    authority = f"127.0.0.1:{gate.server_address[1]}"
    lines = ["spin_manifest_version = 2", '[application]\nname = "streams"\nversion = "1.0.0"']
    made = {name: toolkit.handler(code, {CLOCK: ("wait-for",)}) for name, (code, _) in GUESTS.items()}
    made["events"] = toolkit.handler(EVENTS, USES | SEND, **asking(authority))
    for name, wasm in made.items():
        (tmp_path / f"{name}.wasm").write_bytes(wasm)
        lines += [f'[[trigger.http]]\nroute = "/{name}"\ncomponent = "{name}"']
        lines += [f'[component.{name}]\nsource = "{name}.wasm"']
        lines += [f'allowed_outbound_hosts = ["http://{authority}"]'] if name == "events" else []
        lines += [f"[component.{name}.tool.wasm-gateway]\n{GUESTS.get(name, ('', ''))[1]}"]
        lines += ['max_request_body = "1GiB"\nmax_response_body = "1000GiB"\ntimeout = "300s"']
    (tmp_path / "spin.toml").write_text("\n".join(lines))
    (tmp_path / "site_app.py").write_text(SITE)
    port = free_port()
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *(text.format(port=port) for text in SERVERS[request.param])],
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        )
    try:
        end = time.monotonic() + 2 * SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.02)
        yield Server(process, port)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_streams(server: Server, gate: Gate) -> None:
    """One start, all that matters: starting a server is what costs here."""
    check_events(server, gate)
    check_long_bodies(server)
    check_a_slow_reader(server)
    for path in ("/ticks", "/flood", "/idle"):
        check_a_client_that_leaves(server, path)


def check_events(server: Server, gate: Gate) -> None:
    """Each is there before the guest goes on."""
    with server.ask("GET /events") as connection:
        answer = b""
        for event in (b"a", b"b", b"c"):
            while event not in answer.partition(b"\r\n\r\n")[2]:
                piece = connection.recv(65536)
                assert piece, answer
                answer += piece
            gate.opened.release()
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 ")


def check_long_bodies(server: Server, size: int = 96 * MEBIBYTE) -> None:
    """What comes in goes out at once; nothing of it is kept."""
    with server.ask("POST /echo\nContent-Length: 1") as warm:
        warm.sendall(b"x")
        while warm.recv(65536):
            pass
    before = server.memory()
    with server.ask(f"POST /echo\nContent-Length: {size}") as connection:

        def send() -> None:
            for _ in range(size // MEBIBYTE):
                connection.sendall(bytes(MEBIBYTE))

        sender = threading.Thread(target=send)
        sender.start()
        got = 0
        while piece := connection.recv(MEBIBYTE):
            got += len(piece)
        sender.join()
    assert got > size
    assert server.memory() - before < size // 2


def check_a_slow_reader(server: Server) -> None:
    """The guest writes no more than fits in between."""
    before = server.memory()
    with server.ask("GET /flood") as connection:
        assert connection.recv(1)
        time.sleep(0.5)  # it would write some hundreds of megabytes
        assert server.memory() - before < 64 * MEBIBYTE
        assert _status(server, "/flood") == 503  # it is still there


def check_a_client_that_leaves(server: Server, path: str) -> None:
    """Its guest ends: another one has its place."""
    end = time.monotonic() + SECONDS
    for _ in range(2):
        while (status := _status(server, path)) != 200:
            assert status == 503
            assert time.monotonic() < end
            time.sleep(0.01)


def _status(server: Server, path: str) -> int:
    with closing(server.ask(f"GET {path}")) as connection:
        return int(connection.recv(65536).split()[1])
