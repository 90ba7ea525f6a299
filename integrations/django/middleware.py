# The middleware: the gateway's routes first, the site's views for all others.

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponseBase

from wasm_gateway.asgi import Exchange, refusal
from wasm_gateway.errors import GatewayError, RequestError, Saturated
from wasm_gateway.messages import Request, Response
from wasm_gateway.workers import relay
from wasm_gateway.wsgi import OutputBody, outgoing

from .convert import raw_path, to_request, to_response

if TYPE_CHECKING:
    from wasm_gateway.router import RouteMatch

log = logging.getLogger("wasm_gateway")

SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")  # as CsrfViewMiddleware has them


class WasmGatewayMiddleware:
    """Answers the routes of settings.WASM_GATEWAY["MANIFEST"]; all other requests go on to the site.

    It stands after SecurityMiddleware, so that Wasm routes are redirected to HTTPS and get its headers too,
    and before whatever they do without. What comes after it never sees a Wasm route, views least of all:
    CSRF is not checked for them (Django does that right before a view) unless WASM_GATEWAY["CSRF"] is
    true, and neither ATOMIC_REQUESTS nor login_required apply.

    ALLOWED_HOSTS applies. DATA_UPLOAD_MAX_MEMORY_SIZE does not: a component has `max_request_body`.
    In an async site guests run in WASM_GATEWAY["THREADS"] threads of the gateway's own. In a synchronous
    one a guest that may stream does, since Django takes a response as an iterator only (`stream = false`
    in the manifest keeps it in the server's thread).
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        from .conf import owner

        self.get_response = get_response
        self.owner = owner
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)
        try:
            owner.gateway().open()  # a guest that cannot be loaded is known now and not to a visitor
        except GatewayError as error:
            from django.core.exceptions import ImproperlyConfigured

            raise ImproperlyConfigured(f"WASM_GATEWAY: {error}") from error

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        path = raw_path(request)
        match = None if path is None else self.owner.gateway().match(path)
        if match is None:
            response: HttpResponseBase | Awaitable[HttpResponseBase] = self.get_response(request)
            return response
        assert path is not None
        if self.is_async:
            return self.serve_async(request, path, match)
        return self.serve(request, path, match)

    def serve(self, request: HttpRequest, path: str, match: RouteMatch) -> HttpResponseBase:
        """The answer of the guest that `match` leads to."""
        refused = self.check_csrf(request)
        if refused is not None:
            return refused
        message = self.to_message(request, path)
        if isinstance(message, Response):
            response: Response | None = message
        else:
            response = self.answer(request, message, match)
        if response is None:
            native: HttpResponseBase = self.get_response(request)
            return native
        status, fields, body = outgoing(response, request.method or "GET")
        if isinstance(body, OutputBody) and not hasattr(request, "environ"):
            # Under ASGI something made this middleware synchronous: Django would read the iterator
            # to its end anyway, and in another thread.
            try:
                body = (b"".join(body),)
            finally:
                response.close()
        return to_response((status, fields, body))

    def answer(self, request: HttpRequest, message: Request, match: RouteMatch) -> Response | None:
        gateway = self.owner.gateway()
        if hasattr(request, "environ") and gateway.streams(match):
            try:
                return relay(self.owner.workers(), partial(gateway.handle, message, match))
            except Saturated as error:
                log.warning("%s %r: %s", request.method, message.path, error)
                return refusal(error)
        return gateway.handle(message, match)

    async def serve_async(self, request: HttpRequest, path: str, match: RouteMatch) -> HttpResponseBase:
        """The same, with the guest in a thread of ours."""
        if self.owner.settings().csrf:
            refused = await sync_to_async(self.check_csrf, thread_sensitive=True)(request)
            if refused is not None:
                return refused
        message = self.to_message(request, path)
        method = request.method or "GET"
        if isinstance(message, Response):
            return to_response(outgoing(message, method))
        try:
            answer = await Exchange(self.owner.gateway(), message, match).run(self.owner.workers())
        except Saturated as error:
            log.warning("%s %r: %s", method, path, error)
            return to_response(outgoing(refusal(error), method))
        if answer is None:
            native: HttpResponseBase = await self.get_response(request)
            return native
        return to_response(answer)

    def to_message(self, request: HttpRequest, path: str) -> Request | Response:
        """The request for the gateway, or the answer to one that cannot be served."""
        try:
            return to_request(request, path)
        except RequestError as error:
            log.info("%s %r: %s", request.method, path, error)
            return refusal(error)
        except GatewayError as error:
            log.error("%s %r: %s", request.method, path, error)
            return Response(error.status)

    def check_csrf(self, request: HttpRequest) -> HttpResponseBase | None:
        """Django's refusal, None when the request may pass."""
        if request.method in SAFE_METHODS or not self.owner.settings().csrf:
            return None
        from django.middleware.csrf import CsrfViewMiddleware

        # The token may be a form field: keep the body, within DATA_UPLOAD_MAX_MEMORY_SIZE, for the guest.
        if request.method == "POST" and request.content_type == "multipart/form-data":
            _ = request.body
        return CsrfViewMiddleware(self.get_response).process_view(request, guest_view, (), {})


def guest_view(request: HttpRequest) -> HttpResponseBase:
    """What CsrfViewMiddleware is told that it protects; never called, and not exempt."""
    raise NotImplementedError
