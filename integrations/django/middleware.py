# The middleware: the gateway's routes first, the site's views for all others.

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponseBase

from wasm_gateway.errors import GatewayError, RequestError, Saturated
from wasm_gateway.exchange import Exchange
from wasm_gateway.messages import Request, Response, refusal
from wasm_gateway.policy import NOBODY
from wasm_gateway.workers import relay
from wasm_gateway.wsgi import OutputBody, outgoing

from .convert import raw_path, to_request, to_response
from .identity import current
from .sharing import Passage, SiteFacts, finish, keep_body, keep_for_shadow, shadow, timed, visitor_of

if TYPE_CHECKING:
    from wasm_gateway.migration.pilot import Turn
    from wasm_gateway.policy import Rule
    from wasm_gateway.router import RouteMatch

log = logging.getLogger("wasm_gateway")

SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")  # as CsrfViewMiddleware has them


class WasmGatewayMiddleware:
    """Answers the routes of settings.WASM_GATEWAY["MANIFEST"]; all other requests go on to the site.

    It stands after SecurityMiddleware, so that Wasm routes are redirected to HTTPS and get its headers too,
    and before whatever they do without. What comes after it never sees a Wasm route, views least of all:
    CSRF is not checked for them (Django does that right before a view) unless WASM_GATEWAY["CSRF"] or the
    route's rule (`csrf`) says so, and neither ATOMIC_REQUESTS nor login_required apply.

    A route that is shared (`mode`, `percent` ...) is the site's own as ever where the guest is not chosen,
    or has failed and may (`fallback`). A rule that depends on the user needs AuthenticationMiddleware
    before this one.

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
        gateway = self.owner.gateway()
        match = None if path is None else gateway.match(path)
        if match is None:
            response: HttpResponseBase | Awaitable[HttpResponseBase] = self.get_response(request)
            return response
        assert path is not None
        passage = request.wasm = Passage(match)  # type: ignore[attr-defined]
        rule = gateway.rule(match)
        if self.is_async:
            return self.serve_async(request, path, match, rule)
        turn = passage.turn = None if rule is None else gateway.choose(match, SiteFacts(request, rule))
        if turn is None:
            return self.serve(request, path, match)
        return self.share(request, path, match, turn)

    def share(self, request: HttpRequest, path: str, match: RouteMatch, turn: Turn) -> HttpResponseBase:
        """The answer of the guest, or of the site, or first of the one and then of the other."""
        response: HttpResponseBase
        if turn.choice.guest:
            response = self.serve(request, path, match, turn)
        else:
            kept = turn.choice.shadow and keep_for_shadow(turn, request)
            begin = time.perf_counter()
            response = self.get_response(request)
            if kept:
                shadow(turn, request, path, response, time.perf_counter() - begin)
            elif turn.times_native:
                timed(turn, request, response, time.perf_counter() - begin)
        finish(turn, request, response)
        return response

    def serve(
        self, request: HttpRequest, path: str, match: RouteMatch, turn: Turn | None = None
    ) -> HttpResponseBase:
        """The answer of the guest that `match` leads to; of the site where the guest has none."""
        refused = self.check_csrf(request, turn)
        if refused is not None:
            return refused
        message = self.to_message(request, path, turn)
        if isinstance(message, Request):
            token = current.set(request)
            try:
                response = self.answer(request, message, match, turn)
            finally:
                current.reset(token)
        else:
            response = message
        if response is None:
            native: HttpResponseBase = self.get_response(request)
            return native
        request.wasm.by_guest = True  # type: ignore[attr-defined]
        status, fields, body = outgoing(response, request.method or "GET")
        if isinstance(body, OutputBody) and not hasattr(request, "environ"):
            # Under ASGI something made this middleware synchronous: Django would read the iterator
            # to its end anyway, and in another thread.
            try:
                body = (b"".join(body),)
            finally:
                response.close()
        return to_response((status, fields, body))

    def answer(
        self, request: HttpRequest, message: Request, match: RouteMatch, turn: Turn | None = None
    ) -> Response | None:
        gateway = self.owner.gateway()
        if hasattr(request, "environ") and gateway.streams(match):
            try:
                return relay(self.owner.workers(), lambda begin: gateway.handle(message, match, begin, turn))
            except Saturated as error:
                return self.saturated(request, message.path, error, turn)
        return gateway.handle(message, match, None, turn)

    async def serve_async(
        self, request: HttpRequest, path: str, match: RouteMatch, rule: Rule | None
    ) -> HttpResponseBase:
        """The same, with the guest in a thread of ours."""
        turn = None if rule is None else await self.choose_async(request, match, rule)
        request.wasm.turn = turn  # type: ignore[attr-defined]
        response: HttpResponseBase | None = None
        if turn is None or turn.choice.guest:
            response = await self.ask_async(request, path, match, turn)
        if response is None:
            kept = turn is not None and turn.choice.shadow and keep_for_shadow(turn, request)
            begin = time.perf_counter()
            response = await self.get_response(request)
            if kept:
                assert turn is not None
                shadow(turn, request, path, response, time.perf_counter() - begin)
            elif turn is not None and turn.times_native:
                timed(turn, request, response, time.perf_counter() - begin)
        if turn is not None:
            finish(turn, request, response)
        return response

    async def choose_async(self, request: HttpRequest, match: RouteMatch, rule: Rule) -> Turn | None:
        gateway = self.owner.gateway()
        pilot = gateway.pilot
        if pilot is not None and not pilot.watches:
            await sync_to_async(pilot.watch, thread_sensitive=True)()  # it may ask the site's database
            rule = gateway.rule(match) or rule
        visitor = None
        if rule.wants_visitor:
            visitor = await sync_to_async(visitor_of, thread_sensitive=True)(request, rule)
        return gateway.choose(match, SiteFacts(request, rule, visitor or NOBODY))

    async def ask_async(
        self, request: HttpRequest, path: str, match: RouteMatch, turn: Turn | None
    ) -> HttpResponseBase | None:
        """What the guest answers; None where the site is to."""
        if self.checks_csrf(turn):
            refused = await sync_to_async(self.check_csrf, thread_sensitive=True)(request, turn)
            if refused is not None:
                return refused
        message = self.to_message(request, path, turn)
        method = request.method or "GET"
        if message is None:
            return None
        if isinstance(message, Response):
            return to_response(outgoing(message, method))
        exchange = Exchange(self.owner.gateway(), message, match, turn=turn)
        token = current.set(request)
        try:
            answer = await exchange.run(self.owner.workers())
        except Saturated as error:
            response = self.saturated(request, path, error, turn)
            return None if response is None else to_response(outgoing(response, method))
        finally:
            current.reset(token)
        if answer is None:
            return None
        request.wasm.by_guest = True  # type: ignore[attr-defined]
        return to_response(answer)

    def saturated(
        self, request: HttpRequest, path: str, error: Saturated, turn: Turn | None
    ) -> Response | None:
        """The refusal of a request that got no thread; None where the site answers instead."""
        log.warning("%s %r: %s", request.method, path, error)
        return None if turn is not None and turn.failed(error) else refusal(error)

    def to_message(self, request: HttpRequest, path: str, turn: Turn | None) -> Request | Response | None:
        """The request for the gateway, or the answer to one that cannot be served; None for the site's."""
        try:
            if turn is not None and turn.keeps_body:
                turn.kept = keep_body(request, turn.limit)
            return to_request(request, path)
        except RequestError as error:
            log.info("%s %r: %s", request.method, path, error)
            return refusal(error)
        except GatewayError as error:
            log.error("%s %r: %s", request.method, path, error)
            return None if turn is not None and turn.failed(error) else Response(error.status)

    def checks_csrf(self, turn: Turn | None) -> bool:
        """Whether CSRF is checked for the guest: as the rule of the route says, or the site's settings."""
        if turn is not None and turn.rule.csrf is not None:
            return turn.rule.csrf
        return self.owner.settings().csrf

    def check_csrf(self, request: HttpRequest, turn: Turn | None = None) -> HttpResponseBase | None:
        """Django's refusal, None when the request may pass."""
        if request.method in SAFE_METHODS or not self.checks_csrf(turn):
            return None
        from django.middleware.csrf import CsrfViewMiddleware

        # The token may be a form field: keep the body, within DATA_UPLOAD_MAX_MEMORY_SIZE, for the guest.
        if request.method == "POST" and request.content_type == "multipart/form-data":
            _ = request.body
        return CsrfViewMiddleware(self.get_response).process_view(request, guest_view, (), {})


def guest_view(request: HttpRequest) -> HttpResponseBase:
    """What CsrfViewMiddleware is told that it protects; never called, and not exempt."""
    raise NotImplementedError
