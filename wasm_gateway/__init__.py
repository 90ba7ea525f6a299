"""Serve routes of a Django or Flask site with WebAssembly guests, from a spin.toml.

>>> from wasm_gateway import Gateway
>>> application = Gateway.from_manifest("spin.toml").wsgi(app)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import GatewayError
from .messages import Headers, Request, Response
from .policy import Visitor

if TYPE_CHECKING:
    from .component.values import Err, Ok, Some
    from .engine import EngineOptions
    from .gateway import Gateway, GatewayOptions
    from .host.site import HostInterface
    from .loader import Statistics

__version__ = "0.1.0"

__all__ = [
    "EngineOptions",
    "Err",
    "Gateway",
    "GatewayError",
    "GatewayOptions",
    "Headers",
    "HostInterface",
    "Ok",
    "Request",
    "Response",
    "Some",
    "Statistics",
    "Visitor",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # wasmtime takes 60 ms to import, which `wasm-gateway --help` need not wait for.
    if name == "EngineOptions":
        from .engine import EngineOptions

        return EngineOptions
    if name in ("Gateway", "GatewayOptions"):
        from . import gateway

        return getattr(gateway, name)
    if name == "HostInterface":
        from .host.site import HostInterface

        return HostInterface
    if name in ("Err", "Ok", "Some"):
        from .component import values

        return getattr(values, name)
    if name == "Statistics":
        from .loader import Statistics

        return Statistics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
