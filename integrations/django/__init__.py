"""Wasm routes in a Django site.

INSTALLED_APPS += ["wasm_gateway.integrations.django"]
MIDDLEWARE += ["wasm_gateway.integrations.django.WasmGatewayMiddleware"]
WASM_GATEWAY = {"MANIFEST": BASE_DIR / "spin.toml"}
"""

from .middleware import WasmGatewayMiddleware

__all__ = ["WasmGatewayMiddleware"]
