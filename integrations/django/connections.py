# Database connections of guests that run outside of a request as Django sees it: in a
# thread of the gateway, or before Django is asked.
#
# Rule 1: a connection belongs to a thread. Django closes the old ones of a request's own
# thread when the request begins and when it ends; nobody else's. Here it is done
# for ours, so that CONN_MAX_AGE and CONN_HEALTH_CHECKS mean what they say.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from django.db import close_old_connections

from wasm_gateway.workers import Workers
from wasm_gateway.wsgi import WsgiGateway

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


@contextmanager
def kept_fresh() -> Iterator[None]:
    """The connections of this thread, before and after a request of ours."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


class SiteWorkers(Workers):
    """The threads of a gateway in a Django site."""

    def submit(
        self,
        function: Callable[..., object],
        *arguments: object,
        of: str = "",
        then: Callable[[], object] | None = None,
    ) -> None:
        super().submit(_run, function, *arguments, of=of, then=then)


@kept_fresh()
def _run(function: Callable[..., object], *arguments: object) -> None:
    function(*arguments)


class Door(WsgiGateway):
    """The gateway in front of Django, in the server's threads.

    The end of a request, which may be another's who still streams, is not seen here: a connection stays
    open until the thread is asked again.
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        close_old_connections()
        return super().__call__(environ, start_response)
