# Spin 1 guests: core modules that export fermyon:spin/inbound-http (Spin: http, 8.1).
#
# The module carries its world in a custom section component-type*, so its imports
# and exports are called with the canonical ABI that the section describes.

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ..component.canon import lift_export
from ..component.layout import flatten_functype
from ..component.rewrite import ALLOCATORS
from ..component.types import FuncType
from ..component.values import Err
from ..component.wit import parse_interface
from ..errors import GuestError, LinkError
from ..instance import Instance
from ..messages import Request, Response
from ..router import RouteMatch
from .guest import Guest, checked_headers, complete, decoded, whole_body

HTTP_EXPORT = "fermyon:spin/inbound-http#handle-request"
REDIS_EXPORT = "fermyon:spin/inbound-redis#handle-message"

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

# The enum `method` of fermyon:spin/http-types has no other.
METHODS = {name: name.lower() for name in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")}


@lru_cache
def declared(interface: str, function: str) -> FuncType:
    """The type of a function that guests export, as this host calls it."""
    return parse_interface(interface, WIT).funcs[function]


# Made once for all guests that export the same function.
_lift = lru_cache(lift_export)


class _Handler:
    """A handler that a guest exports; `function` is its type. LinkError when the export is another one.

    A reactor's `_initialize` is called before it, as it is for any component made of such a module.
    """

    def __init__(self, guest: Guest, function: FuncType, export: str) -> None:
        self.guest = guest
        self.export = export
        self.post_return = f"cabi_post_{export}"
        self.lifted = _lift(export, function, 0, guest.encoding)
        program, flat = guest.program, flatten_functype(function, "lift")
        if not program.exports(export, *flat):
            raise LinkError(f"exports no function {export}", export)
        self.frees = program.exports(self.post_return, flat.results, "")
        self.initializes = program.exports("_initialize", "", "")
        allocators = [name for name in ALLOCATORS if program.exports(name, "iiii", "i")]
        if not allocators:
            raise LinkError(f"exports no allocator ({' or '.join(ALLOCATORS)}), which {export} needs", export)

    def call(self, instance: Instance, argument: object) -> Any:
        """The lifted result of the handler, called with its one argument."""
        if self.initializes:
            self._function(instance, "_initialize")()
        post_return = self._function(instance, self.post_return) if self.frees else None
        return self.lifted(instance, self._function(instance, self.export), post_return, argument)

    @staticmethod
    def _function(instance: Instance, name: str) -> Callable[..., Any]:
        function = instance.function(name)
        assert function is not None
        return function


class SpinExecutor(_Handler):
    """Calls `export`, a function of type `handle-request: func(req: request) -> response`."""

    dialect = "spin"
    injects_headers = True

    def __init__(self, guest: Guest, function: FuncType, export: str = HTTP_EXPORT) -> None:
        super().__init__(guest, function, export)

    def execute(self, request: Request, match: RouteMatch) -> Response:
        guest = self.guest
        limits = guest.options
        method = METHODS.get(request.method)
        if method is None:
            return Response(405)
        headers = decoded(request.headers)
        body = whole_body(request, limits.max_request_body)
        with guest.instantiate() as instance:
            status, pairs, answer = self.call(instance, (method, request.target, headers, [], body))
        if not 100 <= status <= 600:
            raise GuestError(f"guest answered with status {status}")
        return complete(status, checked_headers(pairs or ()), answer, limits.max_response_body)


class SpinRedisExecutor(_Handler):
    """Calls `export`, a function of type `handle-message: func(message: payload) -> result<_, error>`."""

    dialect = "spin-redis"

    def __init__(self, guest: Guest, function: FuncType, export: str = REDIS_EXPORT) -> None:
        super().__init__(guest, function, export)

    def deliver(self, payload: bytes) -> None:
        """Hand one message to a fresh instance; GuestError when the guest answers with an error."""
        with self.guest.instantiate() as instance:
            result = self.call(instance, payload)
        if isinstance(result, Err):
            raise GuestError(f"guest refused the message: {result.value!r}")
