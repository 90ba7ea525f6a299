"""The HTTP services of WASI 0.3 in WebAssembly/wasi-testsuite, behind this gateway (README.md)."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.test_wasi_testsuite_p3 import CASES
from wasm_gateway import Gateway
from wasm_gateway.messages import Headers, Request

WORLD = "wasi:http/service"
SERVICES = [case for case in CASES if case.world == WORLD]


class Endpoints(ThreadingHTTPServer):
    """A server that a guest asks: (method, path) -> what the JSON file says of it."""

    daemon_threads = True

    def __init__(self, endpoints: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Endpoint)
        self.endpoints = {(each["method"], each["path"]): each for each in endpoints}


class Endpoint(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoints

    def log_message(self, *_: Any) -> None:
        pass

    def body(self) -> tuple[bytes, list[tuple[str, str]]]:
        """The body of the request, and its trailers."""
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0))), []
        pieces, trailers = [], []
        while size := int(self.rfile.readline() or b"0", 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while line := self.rfile.readline().strip():
            name, _, value = line.decode().partition(":")
            trailers.append((name.lower(), value.strip()))
        return b"".join(pieces), trailers

    def answer(self) -> None:
        endpoint = self.server.endpoints.get((self.command, self.path), {"response": {"status": 404}})
        body, trailers = self.body()
        status, fields, chunks, after = 200, [], None, {}
        if endpoint.get("mode") == "echo-headers":
            fields = [("x-request-method", self.command), ("x-request-path", self.path)]
            fields += [(f"x-echo-{name.lower()}", value) for name, value in self.headers.items()]
            fields += [(f"x-trailer-{name}", value) for name, value in trailers]
            body = b""
        elif endpoint.get("mode") != "echo-body":
            response = endpoint["response"]
            status, body = response["status"], response.get("body", "").encode()
            fields = list(response.get("headers", {}).items())
            chunks, after = response.get("chunks"), response.get("trailers", {})
        self.close_connection = True
        self.send_response(status)
        for name, value in (*fields, ("connection", "close")):
            self.send_header(name, value)
        if chunks is None:
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            return
        self.send_header("transfer-encoding", "chunked")
        self.send_header("trailer", ", ".join(after))
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk.encode()))
        self.wfile.write(b"0\r\n")
        self.wfile.write("".join(f"{name}: {value}\r\n" for name, value in after.items()).encode())
        self.wfile.write(b"\r\n")

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = answer


@contextmanager
def asked(wanted: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The servers that a guest asks: variable of its environment -> authority."""
    found = {}
    with ExitStack() as stack:
        for each in wanted.get("servers", ()):
            name = f"HTTP_SERVER_{each['name'].upper()}"
            if each.get("kind") == "closed":
                nobody = stack.enter_context(socket.socket())
                nobody.bind(("127.0.0.1", 0))  # not listened at
                found[name] = f"127.0.0.1:{nobody.getsockname()[1]}"
                continue
            server = stack.enter_context(Endpoints(each["endpoints"]))
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            found[name] = f"127.0.0.1:{server.server_address[1]}"
        yield found


@contextmanager
def gateway(wasm: Path, environment: dict[str, str], folder: Path) -> Iterator[Gateway]:
    variables = ", ".join(f"{name} = {json.dumps(value)}" for name, value in environment.items())
    (folder / "spin.toml").write_text(
        'spin_manifest_version = 2\n[application]\nname = "suite"\nversion = "1.0.0"\n'
        '[[trigger.http]]\nroute = "/..."\ncomponent = "guest"\n'
        f"[component.guest]\nsource = {json.dumps(str(wasm.resolve()))}\n"
        f'environment = {{ {variables} }}\nallowed_outbound_hosts = ["http://*:*"]\n'
    )
    with Gateway.from_manifest(
        folder / "spin.toml", cache_dir=folder / "cache", state_dir=""
    ).open() as opened:
        yield opened


@pytest.mark.skipif(not CASES, reason="WASI_TESTSUITE does not name a copy of the suite (see README.md)")
def test_the_suite_is_there() -> None:
    assert len(SERVICES) >= 14


@pytest.mark.parametrize("case", SERVICES, ids=lambda case: case.name)
def test_service(case: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = json.loads(case.wasm.with_suffix(".json").read_text())
    with asked(wanted) as environment, gateway(case.wasm, environment, tmp_path) as opened:
        for operation in wanted["operations"]:
            if operation["type"] != "request":
                continue
            path, _, query = operation["path"].partition("?")
            body = operation.get("body", "").encode()
            fields = [("host", "localhost"), *operation.get("headers", {}).items()]
            request = Request(
                operation["method"], path, query or None, Headers(fields), (body,), authority="localhost"
            )
            response = opened.handle(request)
            assert response is not None
            found = b"".join(response.body)
            said = operation["response"]
            assert response.status == said["status"], caplog.text
            for name, value in said.get("headers", {}).items():
                assert response.headers.get(name) == value
            assert found == said.get("body", "").encode()
