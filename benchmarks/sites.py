# The sites that the gateway is compared in: each has a native view and a Wasm route
# with the same answer. Servers load them as factories, from the folder in SITE.
#
# Rule 1: the native view is the best the framework has: no template, no database, and
# async where the site is.
# Rule 2: a Wasm route's guest is Spin 1, with a fresh instance for each request.

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wasm_gateway import Gateway

from . import guests

NATIVE = "/native"
WASM = "/wasm/spin"

# The variable with the folder that `make` has filled.
SITE = "BENCHMARK_SITE"
# The variable with the mode of the Wasm route, where a site has a native view at the same address.
MODE = "BENCHMARK_MODE"
# Those with the manifest of an application that is served alone, and with its cache.
MANIFEST, CACHE = "BENCHMARK_MANIFEST", "BENCHMARK_CACHE"

SECURITY = "django.middleware.security.SecurityMiddleware"
GATEWAY = "wasm_gateway.integrations.django.WasmGatewayMiddleware"
# What `django-admin startproject` puts behind SecurityMiddleware.
STARTPROJECT = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
)

HEADERS = [("content-type", guests.CONTENT_TYPE), ("content-length", str(len(guests.ANSWER)))]


def make(folder: Path) -> None:
    """The manifest and the guests, compiled, so that no server compiles anything."""
    guests.application(folder, guests.hello_guests())
    with gateway(folder):
        pass


def gateway(folder: Path, **options: Any) -> Gateway:
    return Gateway.from_manifest(folder / "spin.toml", cache_dir=folder / "cache", state_dir="", **options)


def served() -> Path:
    return Path(os.environ[SITE])


# No framework


def native_wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", list(HEADERS))
    return [guests.ANSWER]


async def native_asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    headers = [(name.encode(), value.encode()) for name, value in HEADERS]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": guests.ANSWER})


def bare_asgi(*, inline: bool = False) -> Any:
    return gateway(served()).asgi(native_asgi, inline=inline)


bare_asgi_inline = partial(bare_asgi, inline=True)


def application_wsgi() -> Any:
    return Gateway.from_manifest(os.environ[MANIFEST], cache_dir=os.environ[CACHE], state_dir="").wsgi()


# A route that is about to move


def moving() -> dict[str, Any]:
    """Options of a gateway whose Wasm route has the mode that MODE says."""
    return {
        "rules": {WASM: {"mode": os.environ[MODE]}},
        "ledger": served() / f"{os.environ[MODE]}.db",
    }


def moving_wsgi() -> Any:
    return gateway(served(), **moving()).wsgi(native_wsgi)


def moving_asgi() -> Any:
    return gateway(served(), **moving()).asgi(native_asgi)


def moving_django() -> Any:
    set_up_django(served(), moving())
    return django_handler()


# Django


def set_up_django(folder: Path, options: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Once in a process; handlers are made after that."""
    import django
    from django.conf import settings
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def native(request: HttpRequest) -> HttpResponse:
        return HttpResponse(guests.ANSWER, content_type=guests.CONTENT_TYPE)

    async def native_async(request: HttpRequest) -> HttpResponse:
        return HttpResponse(guests.ANSWER, content_type=guests.CONTENT_TYPE)

    class Urls:
        urlpatterns = [path("native", native), path("native-async", native_async), path(WASM[1:], native)]

    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"],
        SECRET_KEY="benchmarks",
        ROOT_URLCONF=Urls,
        USE_TZ=True,
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "wasm_gateway.integrations.django",
        ],
        WASM_GATEWAY={
            "MANIFEST": folder / "spin.toml",
            "CACHE_DIR": folder / "cache",
            "STATE_DIR": "",
            **{name.upper(): value for name, value in options.items()},
        },
    )
    django.setup()


def django_handler(
    *, asynchronous: bool = False, gateway: bool = True, middleware: Iterable[str] = STARTPROJECT
) -> Any:
    """The handler object of a site with this middleware behind SecurityMiddleware."""
    from django.conf import settings
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler

    settings.MIDDLEWARE = [SECURITY, *([GATEWAY] if gateway else []), *middleware]
    return ASGIHandler() if asynchronous else WSGIHandler()


def django_wsgi() -> Any:
    set_up_django(served())
    return django_handler()


def django_behind_the_door() -> Any:
    """The WSGI door in front of the site, instead of the middleware in it."""
    set_up_django(served())
    return gateway(served()).wsgi(django_handler(gateway=False))


def django_asgi() -> Any:
    set_up_django(served())
    return django_handler(asynchronous=True)


def django_asgi_behind_the_door(*, inline: bool = False) -> Any:
    """The ASGI door in front of the site, instead of the middleware in it."""
    set_up_django(served())
    return gateway(served()).asgi(
        _without_lifespan(django_handler(asynchronous=True, gateway=False)), inline=inline
    )


django_asgi_behind_the_inline_door = partial(django_asgi_behind_the_door, inline=True)


def _without_lifespan(app: Callable[[Any, Any, Any], Awaitable[None]]) -> Any:
    async def http_only(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)

    return http_only


# Flask


def flask_app(folder: Path, *, gateway: bool = True) -> Any:
    from flask import Flask, Response

    from wasm_gateway.integrations.flask import WasmGateway

    app = Flask("benchmarks", root_path=str(folder))

    @app.get(NATIVE)
    def native() -> Response:
        return Response(guests.ANSWER, content_type=guests.CONTENT_TYPE)

    if gateway:
        app.config["WASM_GATEWAY_CACHE_DIR"] = folder / "cache"
        app.config["WASM_GATEWAY_STATE_DIR"] = ""
        WasmGateway(app)
    return app


def flask_wsgi() -> Any:
    return flask_app(served())
