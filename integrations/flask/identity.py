# Who asks, of a Flask app: the app says so by a function of its own.
#
# Rule 1: the function is called inside a request context, so that `session`, `request` and
# flask_login's `current_user` are there. It is called when a rule or a guest asks, and not before.
# Rule 2: it has to leave the body alone, which is the guest's or the view's.

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, copy_context
from importlib import import_module
from typing import TYPE_CHECKING, Any

from wasm_gateway.errors import ManifestError
from wasm_gateway.policy import NOBODY, Visitor
from wasm_gateway.wsgi import WsgiGateway

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Flask

    from wasm_gateway.migration.pilot import Turn
    from wasm_gateway.router import RouteMatch

# The environ of the request that a guest answers in this context.
current: ContextVar[WSGIEnvironment | None] = ContextVar("wasm_gateway.environ", default=None)


class Door(WsgiGateway):
    """The gateway in front of a Flask app, which guests may ask who asks."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        token = current.set(environ)
        try:
            return super().__call__(environ, start_response)
        finally:
            current.reset(token)

    def _shared(
        self,
        app: WSGIApplication,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        path: str,
        match: RouteMatch,
        turn: Turn,
    ) -> Iterable[bytes]:
        if turn.answer is not None:
            # the guest beside the view asks later, and in another thread
            run, answer = copy_context().run, turn.answer
            run(current.set, environ.copy())
            turn.answer = lambda request: run(answer, request)
        return super()._shared(app, environ, start_response, path, match, turn)


class FlaskSite:
    """host.identity.Site by two functions of an app, which it holds weakly, for the app holds it."""

    def __init__(
        self,
        app: Callable[[], Flask | None],
        visitor: Callable[[], Visitor | None] | None,
        locale: Callable[[], str] | None,
    ) -> None:
        self._app = app
        self._visitor = visitor
        self._locale = locale

    def _ask(self, function: Callable[[], Any] | None, environ: WSGIEnvironment | None) -> Any:
        app = self._app()
        if function is None or environ is None or app is None:
            return None
        with app.request_context(environ):
            return function()

    def visitor(self, environ: WSGIEnvironment) -> Visitor:
        """Who asks, for rules."""
        return self._ask(self._visitor, environ) or NOBODY

    def user(self) -> Visitor:
        return self._ask(self._visitor, current.get()) or NOBODY

    def locale(self) -> str:
        return self._ask(self._locale, current.get()) or ""

    def csrf_token(self) -> str | None:
        return None  # Flask itself has none

    def csrf_verify(self, token: str) -> bool:
        return False


def function_of(config: Mapping[str, Any], key: str) -> Callable[[], Any] | None:
    """The function that a setting is, or names by a dotted name; ManifestError."""
    value = config.get(key)
    if isinstance(value, str):
        module, _, name = value.rpartition(".")
        try:
            value = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ManifestError(f"{value!r} cannot be imported: {error}", key=key) from error
    if value is not None and not callable(value):
        raise ManifestError(f"{value!r} is no function", key=key)
    found: Callable[[], Any] | None = value
    return found
