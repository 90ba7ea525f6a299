# Spin 1 guests: core modules and components that export fermyon:spin/inbound-http or
# inbound-redis (Spin: http, 8.1); and the handlers of Redis messages of Spin 4.

from __future__ import annotations

from functools import lru_cache

from ..component.types import FuncType
from ..component.values import Err
from ..component.wit import parse_interface
from ..errors import GuestError
from ..host.base import OutboundRules
from ..messages import Begin, Request, Response
from ..router import RouteMatch
from .guest import Guest, KeepsNothing, LiftedFunction, checked_headers, complete, decoded, whole_body

HTTP = ("fermyon:spin/inbound-http", "handle-request")
REDIS = ("fermyon:spin/inbound-redis", "handle-message")
REDIS_3 = ("spin:redis/inbound-redis@3", "handle-message")

# What guests export (Spin: host interfaces, 7.1 and 7.2).
WIT = """
package fermyon:spin;
interface inbound-http {
  enum method { get, post, put, delete, patch, head, options }
  record request {
    method: method,
    uri: string,
    headers: list<tuple<string, string>>,
    params: list<tuple<string, string>>,
    body: option<list<u8>>,
  }
  record response {
    status: u16,
    headers: option<list<tuple<string, string>>>,
    body: option<list<u8>>,
  }
  handle-request: func(req: request) -> response;
}
interface inbound-redis {
  enum error { success, error }
  handle-message: func(message: list<u8>) -> result<_, error>;
}
"""

WIT_3 = """
package spin:redis@3.0.0;
interface inbound-redis {
  variant error { invalid-address, too-many-connections, type-error, other(string) }
  handle-message: async func(message: list<u8>) -> result<_, error>;
}
"""

# The enum `method` of fermyon:spin/http-types has no other.
METHODS = {name: name.lower() for name in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")}


@lru_cache
def declared(interface: str, function: str) -> FuncType:
    """The type of a function that guests export, as this host calls it."""
    if interface == REDIS_3[0]:
        return parse_interface(f"{interface}.0.0", WIT_3).funcs[function]
    return parse_interface(interface, WIT).funcs[function]


class SpinExecutor(KeepsNothing):
    """Calls `handler`, a function of type `handle-request: func(req: request) -> response`."""

    injects_headers = True
    streams = False

    def __init__(self, guest: Guest, handler: LiftedFunction, dialect: str = "spin") -> None:
        self.guest = guest
        self.handler = handler
        self.dialect = dialect

    def beside(self, outbound: OutboundRules) -> SpinExecutor:
        return SpinExecutor(self.guest.beside(outbound), self.handler, self.dialect)

    def execute(self, request: Request, match: RouteMatch, begin: Begin | None = None) -> Response:
        guest = self.guest
        limits = guest.options
        method = METHODS.get(request.method)
        if method is None:
            return Response(405)
        headers = decoded(request.headers)
        body = whole_body(request, limits.max_request_body, limits.timeout)
        with guest.instantiate() as instance:
            instance.request = request
            status, pairs, answer = self.handler(instance, (method, request.target, headers, [], body))
        if not 100 <= status <= 600:
            raise GuestError(f"guest answered with status {status}")
        return complete(status, checked_headers(pairs or ()), answer, limits.max_response_body)


class SpinRedisExecutor:
    """Calls `handler`, a function of type `handle-message: func(message: payload) -> result<_, error>`."""

    def __init__(self, guest: Guest, handler: LiftedFunction, dialect: str = "spin-redis") -> None:
        self.guest = guest
        self.handler = handler
        self.dialect = dialect

    def deliver(self, payload: bytes) -> None:
        """Hand one message to a fresh instance; GuestError when the guest answers with an error."""
        with self.guest.instantiate() as instance:
            result = self.handler(instance, payload)
        if isinstance(result, Err):
            raise GuestError(f"guest refused the message: {result.value!r}")
