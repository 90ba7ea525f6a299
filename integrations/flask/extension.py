# The Flask extension: the WSGI door around app.wsgi_app.

from __future__ import annotations

import os
import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasm_gateway.errors import ManifestError
from wasm_gateway.host.identity import Identity

from ..options import KEYS, make_gateway
from .convert import trusted_host
from .identity import Door, FlaskSite, function_of

if TYPE_CHECKING:
    from flask import Flask

PREFIX = "WASM_GATEWAY_"
# Settings besides those of options.py: functions that say who asks, and in which language.
OWN_KEYS = ("VISITOR", "LOCALE")


class WasmGateway:
    """Serves the routes of a spin.toml in front of a Flask app's own: `WasmGateway(app)`, or `init_app`.

    Configuration: WASM_GATEWAY_MANIFEST, a path below `app.root_path` ("spin.toml" when absent), and
    WASM_GATEWAY_ with the names of options.py: RUNTIME_CONFIG, COMPONENTS, VARIABLES, STATE_DIR, LOG_DIR,
    CACHE_DIR ... TRUSTED_HOSTS applies to Wasm routes too. What an app does around its views, such as
    `before_request` and sessions, does not: the guest is asked before the app is. In debug mode guests are
    swapped when their files change (WATCH), and under the reloader built when their sources do (BUILD, which
    means nothing without debug mode).

    WASM_GATEWAY_VISITOR is a function that says who asks (a Visitor, or None), for rules that depend on it
    and for guests to whom the user is lent; WASM_GATEWAY_LOCALE one that says in which language. Either is
    called in a request context, when somebody asks.

    One object serves any number of apps, each with a Gateway of its own in
    `app.extensions["wasm_gateway"]`. Guests are loaded when `init_app` is called, so that a server with a
    guest that cannot be loaded does not start; under the `flask` command at the first request, but where
    they are built.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Put the gateway in front of `app`. Raises ManifestError, ComponentError, HostError."""
        if "wasm_gateway" in app.extensions:
            raise RuntimeError(f"{app!r} has a WasmGateway already")
        config = app.config
        config.setdefault(f"{PREFIX}MANIFEST", "spin.toml")
        # `app.run(debug=True)` says so only later, but its reloader starts the script again
        by_command = os.environ.get("FLASK_RUN_FROM_CLI") == "true"
        reloaded = os.environ.get("WERKZEUG_RUN_MAIN") == "true"
        debug = app.debug or (reloaded and not by_command)
        values: dict[str, Any] = {"WATCH": debug, "BUILD": reloaded}
        values |= {key: config[PREFIX + key] for key in KEYS if PREFIX + key in config}
        values["BUILD"] = debug and values["BUILD"]
        functions = [function_of(config, PREFIX + key) for key in OWN_KEYS]
        site = FlaskSite(weakref.ref(app), *functions)
        identity = Identity(site, lambda: str(config.get("SECRET_KEY") or ""))
        path = Path(app.root_path, values["MANIFEST"])
        if not path.exists():
            raise ManifestError("there is no such file: `flask wasm new TEMPLATE NAME` begins one", path=path)
        gateway = make_gateway(path, values, identity=identity)
        weakref.finalize(app, gateway.close)
        if not by_command or (reloaded and gateway.workshop is not None):
            gateway.open()
        app.extensions["wasm_gateway"] = gateway
        visitor = site.visitor if functions[0] else None
        door = Door(gateway, app.wsgi_app, host=partial(trusted_host, config), visitor=visitor)
        app.wsgi_app = door  # type: ignore[method-assign]
