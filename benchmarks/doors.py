# A Wasm route against a native view of the same site with the same answer, through
# every door, in process and without sockets; and what a native route pays for the
# gateway before it.

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from . import guests, measure, sites
from .report import Table

NATIVE_ASYNC = "/native-async"

ROUTE, BEFORE, WITHOUT = "wasm route", "native route, gateway before it", "native route, no gateway"

NOTES = """
In process, without a server: an environ as gunicorn makes it, a scope as uvicorn does, 10 headers of a
browser. The guest is Spin 1, a fresh instance for each request; the view runs in the site's process.

Django has the middleware of startproject, the gateway's right behind SecurityMiddleware. The doors before
Django are gateway.wsgi(application) and gateway.asgi(application): of the site's middleware, a Wasm route
passes none. Native views of async sites are async.

What native pays: a native route of the same site with and without the gateway, A B A B.
"""


def environ(path: str) -> dict[str, Any]:
    """What gunicorn makes of a browser's request."""
    return {
        "wsgi.errors": io.StringIO(),
        "wsgi.version": (1, 0),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.input": io.BytesIO(),
        "wsgi.url_scheme": "http",
        "SERVER_SOFTWARE": "gunicorn",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": "",
        "RAW_URI": path,
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "50000",
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in guests.MANY},
    }


def scope(path: str) -> dict[str, Any]:
    """What uvicorn makes of it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in guests.MANY],
        "state": {},
    }


def wsgi_request(app: Any, path: str) -> Callable[[], object]:
    prepared = environ(path)
    answered: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        answered[:] = [status]

    def request() -> bytes:
        body = app(dict(prepared), start_response)
        try:
            return b"".join(body)
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    _check(path, request(), answered[0])
    return request


def asgi_request(loop: asyncio.AbstractEventLoop, app: Any, path: str) -> Callable[[], Awaitable[object]]:
    prepared = scope(path)

    async def request() -> tuple[bytes, int]:
        received = False
        status, chunks = 0, []

        async def receive() -> dict[str, Any]:
            nonlocal received
            if received:  # the client stays, as long as it is asked
                await asyncio.get_running_loop().create_future()
            received = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                chunks.append(message.get("body", b""))

        await app(dict(prepared), receive, send)
        return b"".join(chunks), status

    body, status = loop.run_until_complete(request())
    _check(path, body, str(status))
    return request


def _check(path: str, body: bytes, status: str) -> None:
    if body != guests.ANSWER or not status.startswith("200"):
        raise RuntimeError(f"{path} answers {status} {body!r}")


def subjects(folder: Path, loop: asyncio.AbstractEventLoop) -> dict[str, dict[str, measure.Block]]:
    """door -> what goes through it -> block."""

    def wsgi(app: Any, path: str) -> measure.Block:
        return measure.calls(wsgi_request(app, path))

    def asgi(app: Any, path: str) -> measure.Block:
        return measure.awaits(loop, asgi_request(loop, app, path))

    def pair(
        door: Callable[[Any, str], measure.Block], app: Any, plain: Any, native: str = sites.NATIVE
    ) -> dict[str, measure.Block]:
        return {ROUTE: door(app, sites.WASM), BEFORE: door(app, native), WITHOUT: door(plain, native)}

    sites.make(folder)
    sites.set_up_django(folder)
    gateway = sites.gateway(folder).open()
    handler = sites.django_handler
    flask = sites.flask_app
    return {
        "WSGI, no framework": pair(wsgi, gateway.wsgi(sites.native_wsgi), sites.native_wsgi),
        "WSGI door before Django": pair(wsgi, gateway.wsgi(handler(gateway=False)), handler(gateway=False)),
        "Flask": pair(wsgi, flask(folder), flask(folder, gateway=False)),
        "Django": pair(wsgi, handler(), handler(gateway=False)),
        "Django, SecurityMiddleware alone": pair(
            wsgi, handler(middleware=()), handler(gateway=False, middleware=())
        ),
        "ASGI, no framework, threads": pair(asgi, gateway.asgi(sites.native_asgi), sites.native_asgi),
        "ASGI, no framework, inline": pair(
            asgi, gateway.asgi(sites.native_asgi, inline=True), sites.native_asgi
        ),
        "ASGI door before Django async, inline": pair(
            asgi,
            gateway.asgi(handler(asynchronous=True, gateway=False), inline=True),
            handler(asynchronous=True, gateway=False),
            NATIVE_ASYNC,
        ),
        "Django async": pair(
            asgi, handler(asynchronous=True), handler(asynchronous=True, gateway=False), NATIVE_ASYNC
        ),
        "Django async, SecurityMiddleware alone": pair(
            asgi,
            handler(asynchronous=True, middleware=()),
            handler(asynchronous=True, gateway=False, middleware=()),
            NATIVE_ASYNC,
        ),
    }


def run(quick: bool) -> list[Table]:
    effort = measure.QUICK if quick else measure.USUAL
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory() as name:
        doors = subjects(Path(name), loop)
        rows = []
        for door, blocks in doors.items():
            timings = measure.interleaved(blocks, effort)
            wasm, before, without = (timings[what] for what in (ROUTE, BEFORE, WITHOUT))
            rows.append(
                (
                    *(door, wasm.median, before.median, wasm.median / before.median),
                    *(wasm.cpu, before.cpu, wasm.cpu / before.cpu, before.cpu - without.cpu),
                    max(timing.spread for timing in timings.values()),
                )
            )
        loop.close()
    columns = (
        *(
            "door",
            "wasm us",
            "native us",
            "wasm : native",
            "wasm CPU us",
            "native CPU us",
            "CPU wasm : native",
        ),
        *("native pays for the gateway, CPU us", "spread %"),
    )
    return [Table("Through each door", columns, tuple(rows), NOTES)]
