# Flask's rules about requests, for those that never reach the app.

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import SecurityError
from werkzeug.wsgi import get_host

from wasm_gateway.errors import RequestError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def trusted_host(config: Mapping[str, Any], environ: WSGIEnvironment) -> None:
    """Raise RequestError for a host that TRUSTED_HOSTS does not name; without it any host will do."""
    trusted = config.get("TRUSTED_HOSTS")
    if trusted is not None:
        try:
            get_host(environ, trusted)
        except SecurityError as error:
            raise RequestError(f"host {environ.get('HTTP_HOST')!r} is not in TRUSTED_HOSTS") from error
