"""Wasm routes in a Django site.

INSTALLED_APPS += ["wasm_gateway.integrations.django"]
MIDDLEWARE += ["wasm_gateway.integrations.django.WasmGatewayMiddleware"]
WASM_GATEWAY = {"MANIFEST": BASE_DIR / "spin.toml"}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .middleware import WasmGatewayMiddleware

if TYPE_CHECKING:
    from wasm_gateway.gateway import Gateway

__all__ = ["WasmGatewayMiddleware", "get_gateway"]


def get_gateway() -> Gateway:
    """The Gateway of this process, as the settings describe it; raises ImproperlyConfigured."""
    from .conf import owner

    return owner.gateway()
