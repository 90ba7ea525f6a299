# A Wasm route against a native view of the same site with the same answer, through
# every door, in process and without sockets; and what a native route pays for the
# gateway that is asked before it.

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from wasm_gateway import Gateway

from . import guests, measure, sites
from .report import Cell, Table

NATIVE_ASYNC = "/native-async"

ROUTE, NATIVE = "wasm route", "native view"
WITH, WITHOUT = "with the gateway", "without"

NOTES = """
In process, without a server: an environ as gunicorn makes it, a scope as uvicorn does, 10 headers of a
browser. The guest is Spin 1, a fresh instance for each request; the view runs in the site's process.

Django has the middleware of startproject, the gateway's right behind SecurityMiddleware. The doors before
Django are gateway.wsgi(application) and gateway.asgi(application): of the site's middleware, a Wasm route
passes none. Native views of async sites are async.
"""
NOTES_ON_PASSING = """
A request that no Wasm route answers, through the door to an application that does nothing, and to that
application alone: the difference is what every native route of the site pays.
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


def subjects(
    folder: Path, gateway: Gateway, loop: asyncio.AbstractEventLoop
) -> dict[str, dict[str, measure.Block]]:
    """door -> what goes through it -> block."""

    def wsgi(app: Any) -> dict[str, measure.Block]:
        return {
            what: measure.calls(wsgi_request(app, path))
            for what, path in ((ROUTE, sites.WASM), (NATIVE, sites.NATIVE))
        }

    def asgi(app: Any, native: str = NATIVE_ASYNC) -> dict[str, measure.Block]:
        return {
            what: measure.awaits(loop, asgi_request(loop, app, path))
            for what, path in ((ROUTE, sites.WASM), (NATIVE, native))
        }

    handler = sites.django_handler
    return {
        "WSGI, no framework": wsgi(gateway.wsgi(sites.native_wsgi)),
        "Flask": wsgi(sites.flask_app(folder)),
        "Django": wsgi(handler()),
        "Django, SecurityMiddleware alone": wsgi(handler(middleware=())),
        "WSGI door before Django": wsgi(gateway.wsgi(handler(gateway=False))),
        "ASGI, no framework, threads": asgi(gateway.asgi(sites.native_asgi), sites.NATIVE),
        "ASGI, no framework, inline": asgi(gateway.asgi(sites.native_asgi, inline=True), sites.NATIVE),
        "Django async": asgi(handler(asynchronous=True)),
        "Django async, SecurityMiddleware alone": asgi(handler(asynchronous=True, middleware=())),
        "ASGI door before Django async, inline": asgi(
            gateway.asgi(handler(asynchronous=True, gateway=False), inline=True)
        ),
    }


def passing(gateway: Gateway, loop: asyncio.AbstractEventLoop) -> dict[str, dict[str, measure.Block]]:
    """door -> a native request with the door and without it -> block."""
    from django.core.handlers.asgi import ASGIRequest
    from django.core.handlers.exception import convert_exception_to_response
    from django.core.handlers.wsgi import WSGIRequest

    from wasm_gateway.integrations.django import WasmGatewayMiddleware

    def nothing(*_: object) -> Any:
        return ()

    async def nothing_async(*_: object) -> Any:
        return None

    def direct(function: Callable[..., object], *arguments: object) -> measure.Block:
        return measure.many(lambda: function(*arguments))

    def awaited(function: Callable[..., Awaitable[object]], *arguments: object) -> measure.Block:
        return measure.awaits(loop, lambda: function(*arguments), size=500)

    def middleware(view: Any) -> Any:  # as Django's handlers load it
        return convert_exception_to_response(WasmGatewayMiddleware(convert_exception_to_response(view)))

    prepared, prepared_async = environ(sites.NATIVE), scope(NATIVE_ASYNC)
    request = WSGIRequest(dict(prepared))
    request_async = ASGIRequest(dict(prepared_async), io.BytesIO())
    view: Any = convert_exception_to_response(nothing)
    view_async: Any = convert_exception_to_response(nothing_async)
    return {
        "WSGI door, Flask extension": {
            WITH: direct(gateway.wsgi(nothing), prepared, nothing),
            WITHOUT: direct(nothing, prepared, nothing),
        },
        "Django middleware": {WITH: direct(middleware(nothing), request), WITHOUT: direct(view, request)},
        "ASGI door": {
            WITH: awaited(gateway.asgi(nothing_async), prepared_async, nothing, nothing),
            WITHOUT: awaited(nothing_async, prepared_async, nothing, nothing),
        },
        "Django middleware, async": {
            WITH: awaited(middleware(nothing_async), request_async),
            WITHOUT: awaited(view_async, request_async),
        },
    }


def run(quick: bool) -> list[Table]:
    effort = measure.QUICK if quick else measure.USUAL
    loop = asyncio.new_event_loop()
    rows: list[tuple[Cell, ...]] = []
    passed: list[tuple[Cell, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sites.make(folder)
        sites.set_up_django(folder)
        with sites.gateway(folder) as gateway:
            for door, blocks in subjects(folder, gateway, loop).items():
                timings = measure.interleaved(blocks, effort)
                wasm, native = timings[ROUTE], timings[NATIVE]
                spread = max(wasm.spread, native.spread)
                rows.append(
                    (
                        *(door, wasm.median, native.median, wasm.median / native.median),
                        *(wasm.cpu, native.cpu, wasm.cpu / native.cpu, spread),
                    )
                )
            for door, blocks in passing(gateway, loop).items():
                timings = measure.interleaved(blocks, effort)
                more, less = timings[WITH].median, timings[WITHOUT].median
                passed.append((door, more - less, more, less))
    loop.close()
    columns = (
        *("door", "wasm us", "native us", "wasm : native"),
        *("wasm CPU us", "native CPU us", "CPU wasm : native", "spread %"),
    )
    title, passing_columns = "What a native route pays", ("door", "pays us", f"{WITH} us", f"{WITHOUT} us")
    return [
        Table("Through each door", columns, tuple(rows), NOTES),
        Table(title, passing_columns, tuple(passed), NOTES_ON_PASSING),
    ]
