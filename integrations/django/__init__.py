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
    from wasm_gateway.wsgi import WsgiGateway

__all__ = ["WasmGatewayMiddleware", "get_gateway", "get_wsgi_application"]


def get_gateway() -> Gateway:
    """The Gateway of this process, as the settings describe it; raises ImproperlyConfigured."""
    from .conf import owner

    return owner.gateway()


def get_wsgi_application() -> WsgiGateway:
    """Django's WSGI application with the Wasm routes in front of it, for wsgi.py.

    The quickest way to a guest: ALLOWED_HOSTS applies to it, and no middleware of the site does. Leave
    WasmGatewayMiddleware out of MIDDLEWARE then.
    """
    from django.core.wsgi import get_wsgi_application

    application = get_wsgi_application()
    from .connections import Door
    from .convert import trusted_host

    return Door(get_gateway().open(), application, host=trusted_host)
