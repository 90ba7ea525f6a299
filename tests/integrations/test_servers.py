# Real guests behind real servers: gunicorn for WSGI, uvicorn for ASGI, each with the
# bare door, in front of a native app, on the same site.

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, StreamEnded, StreamReset, TrailersReceived

WSGI = """
from wasm_gateway import Gateway

def native(environ, start_response):
    body = b"native " + environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

app = Gateway.from_manifest({manifest!r}, cache_dir={cache!r}, state_dir="").open().wsgi(native)
"""

ASGI = """
from wasm_gateway import Gateway

async def native(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    body = b"native "
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})

gateway = Gateway.from_manifest({manifest!r}, cache_dir={cache!r}, state_dir="")
app = gateway.asgi(native, inline={inline})
"""

DJANGO = """
import os
from pathlib import Path
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    SECRET_KEY="tests",
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["wasm_gateway.integrations.django"],
    MIDDLEWARE=["wasm_gateway.integrations.django.WasmGatewayMiddleware"],
    WASM_GATEWAY={{"MANIFEST": {manifest!r}, "CACHE_DIR": {cache!r}, "STATE_DIR": ""}},
)

def native(request):
    return HttpResponse(b"native " + request.body)

urlpatterns = [path("native", native)]

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

wsgi, asgi = get_wsgi_application(), get_asgi_application()
"""

GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "2", "--workers", "1")
UVICORN = ("uvicorn", "--port", "{port}", "--timeout-graceful-shutdown", "2")
GRANIAN = ("granian", "--port", "{port}", "--workers-kill-timeout", "2")

SERVERS = {
    "gunicorn-sync": (WSGI, {}, (*GUNICORN, "site_app:app")),
    "gunicorn-gthread": (WSGI, {}, (*GUNICORN, "--threads", "4", "site_app:app")),
    "gunicorn-preload": (WSGI, {}, (*GUNICORN, "--preload", "site_app:app")),
    "uvicorn": (ASGI, {"inline": False}, (*UVICORN, "site_app:app")),
    "uvicorn-inline": (ASGI, {"inline": True}, (*UVICORN, "site_app:app")),
    "granian-wsgi": (WSGI, {}, (*GRANIAN, "--interface", "wsgi", "site_app:app")),
    "granian-asgi": (ASGI, {"inline": False}, (*GRANIAN, "--interface", "asgi", "site_app:app")),
    "django-gunicorn": (DJANGO, {}, (*GUNICORN, "--threads", "2", "--preload", "site_app:wsgi")),
    "django-uvicorn": (DJANGO, {}, (*UVICORN, "--lifespan", "off", "site_app:asgi")),
}


@pytest.fixture(params=SERVERS)
def server(
    request: pytest.FixtureRequest,
    start: Any,
    manifest: Path,
    components: Any,
    cache_dir: Path,
    tmp_path: Path,
) -> Iterator[tuple[str, int]]:
    source, options, command = SERVERS[request.param]
    for name, wasm in (("stream", components.echo()), ("wait", components.waiting(b"early", 60))):
        (tmp_path / f"{name}.wasm").write_bytes(wasm)
        with manifest.open("a") as file:
            file.write(f'\n[[trigger.http]]\nroute = "/wasm/{name}"\ncomponent = "{name}"')
            file.write(f'\n[component.{name}]\nsource = "{name}.wasm"')
    (tmp_path / "site_app.py").write_text(
        source.format(manifest=str(manifest), cache=str(cache_dir), **options)
    )
    with start(*command) as address:
        yield address


def environment(body: bytes) -> tuple[dict[str, str], bytes]:
    variables, _, rest = body.partition(b"\0\0")
    return dict(text.decode().split("=", 1) for text in variables.split(b"\0")), rest


def exchange(address: tuple[str, int], data: bytes, size: int = 1 << 20) -> bytes:
    """All that the server answers to raw `data`, up to the end of the connection."""
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(data)
        answer = b""
        while len(answer) < size:
            chunk = connection.recv(65536)
            if not chunk:
                break
            answer += chunk
        return answer


def test_a_site(server: tuple[str, int], request: pytest.FixtureRequest) -> None:
    """One start, all that matters: starting a server is what costs here."""
    with closing(http.client.HTTPConnection(*server, timeout=60)) as connection:
        check_answers(connection, request.node.name)
    check_connections(server, request.node.name)
    check_echo(server, request.node.name)
    check_streams(server, request.node.name)


def check_answers(connection: http.client.HTTPConnection, name: str) -> None:
    def ask(method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        nonlocal last
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        chunked = fields.get("transfer-encoding") == "chunked"
        connection.request(method, path, body, fields, encode_chunked=chunked)
        last = connection.getresponse()
        return last.status, last.read()

    last: http.client.HTTPResponse

    # native and Wasm, on one connection
    assert ask("GET", "/wasm/hello") == (200, b"hello from wasm")
    assert ask("POST", "/native", b"body") == (200, b"native body")
    assert ask("GET", "/wasm/teapot") == (418, b"short and stout")
    assert ask("GET", "/wasm/trap") == (500, b"")
    assert ask("GET", "/wasm/hello") == (200, b"hello from wasm")

    # HEAD
    assert ask("HEAD", "/wasm/hello") == (200, b"")
    assert last.headers["content-length"] == "15"

    # the raw path, and what the client may not say
    status, data = ask("GET", "/wasm/echo/a%2Fb%20?x=%20", spin_full_url="http://evil/", x_a="1")
    variables, _ = environment(data)
    raw = "/a/b%20" if "granian-wsgi" in name else "/a%2Fb%20"  # it tells the decoded path only
    assert (status, variables["PATH_INFO"], variables["QUERY_STRING"]) == (200, raw, "x=%20")
    assert variables["REMOTE_ADDR"] == "127.0.0.1"
    assert variables["X_CLIENT_ADDR"].startswith("127.0.0.1:")
    assert variables["HTTP_X_A"] == "1"
    assert not any(name.startswith("HTTP_SPIN") for name in variables)

    # bodies: with a length, chunked, too large
    data = json.dumps(list(range(50_000))).encode()
    assert environment(ask("POST", "/wasm/echo", data)[1])[1] == data
    pieces = iter([data[:1000], data[1000:]])
    assert environment(ask("POST", "/wasm/echo", pieces, transfer_encoding="chunked")[1])[1] == data


def check_connections(server: tuple[str, int], name: str) -> None:
    post = b"POST /wasm/echo HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n"

    # a body that is too large is refused before it has come, except that Django waits for it under ASGI
    size, body = (2 << 20, bytes(2 << 20)) if "django-uvicorn" in name else (10 << 30, b"")
    answer = exchange(server, post % size + b"\r\n" + body)
    assert b" 413 " in answer.partition(b"\r\n")[0]
    assert answer.endswith(b"\r\n\r\n")

    # Expect: 100-continue
    with socket.create_connection(server, timeout=60) as raw:
        raw.sendall(post % 5 + b"Expect: 100-continue\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 100 ")
        raw.sendall(b"hello")
        answer = b""
        while piece := raw.recv(65536):
            answer += piece
        assert b" 200 OK\r\n" in answer
        assert answer.endswith(b"hello")

    # a client that leaves while it sends, and one that leaves while it waits
    for rest in (b"hel", b"hello"):
        with socket.create_connection(server, timeout=60) as raw:
            raw.sendall(post % 5 + b"\r\n" + rest)
    get = b"GET /wasm/hello HTTP/1.1\r\nConnection: close\r\n"
    assert exchange(server, get + b"Host: 127.0.0.1\r\n\r\n").endswith(b"hello from wasm")

    # a header that is not UTF-8
    answer = exchange(server, get + b"Host: 127.0.0.1\r\nX-A: caf\xe9\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")

    # no Host, and a bad one; a site of Django's decides itself what HTTP/1.0 means
    if "django" not in name:
        answer = exchange(server, b"GET /wasm/hello HTTP/1.0\r\n\r\n")
        assert b" 400 Bad Request\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")
    answer = exchange(server, get + b"Host: a b\r\n\r\n")
    assert b" 400 Bad Request\r\n" in answer
    assert b"wasm" not in answer


def check_streams(server: tuple[str, int], name: str) -> None:
    """The beginning of a response is there before its end has been made.

    But not under a server that hands out no `write`, nor on the event loop itself.
    """
    if "granian-wsgi" in name or "inline" in name:
        return
    # The guest waits much longer than this client, and has written before.
    with socket.create_connection(server, timeout=60) as raw:
        raw.sendall(b"GET /wasm/wait HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = b""
        while b"early" not in answer:
            piece = raw.recv(65536)
            assert piece, answer
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


def check_echo(server: tuple[str, int], name: str) -> None:
    """A chunk comes back before the next one is sent, but where server or framework wait for the whole."""
    whole = "django" in name or not name.startswith("test_a_site[uvicorn")
    with socket.create_connection(server, timeout=60) as raw:
        raw.sendall(
            b"POST /wasm/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        answer = b""
        for chunk in (b"first", b"second"):
            raw.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            while not whole and chunk not in answer:
                piece = raw.recv(65536)
                assert piece, answer
                answer += piece
        raw.sendall(b"0\r\n\r\n")
        while piece := raw.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 OK" in head
    assert body.index(b"first") < body.index(b"second")


TRAILING = """
from wasm_gateway import Gateway

gateway = Gateway.from_manifest({manifest!r}, cache_dir={cache!r}, state_dir="")
handle = gateway.handle

def with_trailers(request, *arguments):
    # no server hands over those of a request
    request.trailers = lambda: request.headers.without("host")
    return handle(request, *arguments)

gateway.handle = with_trailers
app = gateway.asgi()
"""


def test_trailers_over_http_2(
    start: Any, manifest: Path, components: Any, cache_dir: Path, tmp_path: Path
) -> None:
    """The guest gives back what it is sent: a body and trailers."""
    (tmp_path / "pass.wasm").write_bytes(components.passing_on())
    with manifest.open("a") as file:
        file.write('\n[[trigger.http]]\nroute = "/wasm/pass"\ncomponent = "pass"')
        file.write('\n[component.pass]\nsource = "pass.wasm"')
    (tmp_path / "site_app.py").write_text(TRAILING.format(manifest=str(manifest), cache=str(cache_dir)))
    command = ("hypercorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "1", "site_app:app")
    with start(*command) as address:
        # all at once, and in pieces
        for pieces in ([b"hello"], [b"first", b"second"]):
            body, trailers = http_2(address, "/wasm/pass", pieces)
            assert body == b"".join(pieces)
            assert (b"x-sum", b"5") in trailers


def http_2(
    address: tuple[str, int], path: str, pieces: list[bytes]
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Body and trailers of a response; each piece is sent once all before it has come back."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    fields = {":method": "POST", ":scheme": "http", ":authority": "127.0.0.1", ":path": path}
    client.send_headers(1, [*fields.items(), ("te", "trailers"), ("x-sum", "5")])
    body, sent, trailers, pieces = b"", b"", [], [*pieces]
    with socket.create_connection(address, timeout=60) as connection:
        while True:
            if pieces and body == sent:
                sent += pieces[0]
                client.send_data(1, pieces.pop(0), end_stream=not pieces)
            connection.sendall(client.data_to_send())
            for event in client.receive_data(connection.recv(65536)):
                if isinstance(event, DataReceived):
                    body += event.data
                elif isinstance(event, TrailersReceived):
                    trailers = event.headers
                elif isinstance(event, StreamEnded):
                    return body, trailers
                else:
                    assert not isinstance(event, StreamReset | ConnectionTerminated)
