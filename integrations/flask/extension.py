# The Flask extension: WSGI doors in front of app.wsgi_app.

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask

from wasm_gateway import Gateway
from wasm_gateway.errors import ManifestError
from wasm_gateway.host.identity import Identity
from wasm_gateway.migration.ledger import open_ledger

from ..options import KEYS, make_gateway
from ..telling import FailureTeller, Tell, TellingLedger, load_teller
from .convert import trusted_host
from .identity import Door, FlaskSite, function_of
from .signals import guest_failed, teller

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask.blueprints import BlueprintSetupState

PREFIX = "WASM_GATEWAY_"
# Settings besides those of options.py, and what each means.
OWN_KEYS: Mapping[str, str] = {
    "VISITOR": "A function that says who asks: a `Visitor`, or None for somebody unknown. It is called in a "
    "request context, when a rule or a guest asks.",
    "LOCALE": "A function that says in which language: a BCP 47 tag.",
}
# What an app says of its own manifest, and not of those of blueprints.
OF_APP = ("MANIFEST", "COMPONENTS")


class WasmGateway:
    """Serves the routes of a spin.toml in front of a Flask app's own: `WasmGateway(app)`, or `init_app`.

    Configuration: WASM_GATEWAY_MANIFEST, a path below `app.root_path` ("spin.toml" when absent), and
    WASM_GATEWAY_ with the names of options.py: RUNTIME_CONFIG, COMPONENTS, VARIABLES, STATE_DIR, LOG_DIR,
    CACHE_DIR ... TRUSTED_HOSTS applies to Wasm routes too. What an app does around its views, such as
    `before_request` and sessions, does not: the guest is asked before the app is. In debug mode guests are
    swapped when their files change (WATCH), and under the reloader built when their sources do (BUILD, which
    means nothing without debug mode).

    `WasmGateway(blueprint)` has the routes of a spin.toml that lies beside the blueprint below its URL
    prefix, in every app that registers it, where the blueprint's views answer what guests do not; so does
    `WasmGateway(app, url_prefix="/shop")` without a blueprint. Guests do not see the prefix. The app's
    configuration counts there too, but for MANIFEST and COMPONENTS. Keywords say otherwise, for this one
    manifest: `WasmGateway(blueprint, manifest="guests/spin.toml", ledger="shop.db")`.

    WASM_GATEWAY_VISITOR is a function that says who asks (a Visitor, or None), for rules that depend on it
    and for guests to whom the user is lent; WASM_GATEWAY_LOCALE one that says in which language. Either is
    called in a request context, when somebody asks.

    One object serves any number of apps, each with a Gateway of its own in
    `app.extensions["wasm_gateway"]`; `app.extensions["wasm_gateways"]` has all of an app, by URL prefix.
    Guests are loaded when `init_app` is called or the blueprint is registered, so that a server with a
    guest that cannot be loaded does not start; under the `flask` command at the first request, but where
    they are built.
    """

    def __init__(
        self, app: Flask | Blueprint | None = None, *, url_prefix: str = "", **settings: Any
    ) -> None:
        if app is not None:
            self.init_app(app, url_prefix=url_prefix, **settings)
        elif url_prefix or settings:
            raise TypeError("settings belong to an app or a blueprint: give them to init_app")

    def init_app(self, app: Flask | Blueprint, *, url_prefix: str = "", **settings: Any) -> None:
        """Put a gateway in front of `app`, or below a blueprint of apps that are to register it.

        `settings` are those of the configuration, in lower case and without its prefix. Raises
        ManifestError, ComponentError, HostError; for a blueprint where that is registered.
        """
        given = {name.upper(): value for name, value in settings.items()}
        for key, name in zip(given, settings, strict=True):
            if key not in (*KEYS, *OWN_KEYS):
                raise TypeError(f"there is no setting {name!r}")
        if isinstance(app, Flask):
            config = _settings(app)
            config.setdefault("MANIFEST", app.config.setdefault(f"{PREFIX}MANIFEST", "spin.toml"))
            _mount(app, url_prefix, app.root_path, config | given)
            return
        if url_prefix:
            raise TypeError("the URL prefix of a blueprint is its own")
        root = app.root_path

        def register(state: BlueprintSetupState) -> None:
            if state.subdomain:
                raise ManifestError("guests of a blueprint answer for all hosts, and not for a subdomain")
            app = state.app
            assert isinstance(app, Flask)
            config = {key: value for key, value in _settings(app).items() if key not in OF_APP}
            _mount(app, state.url_prefix or "", root, {"MANIFEST": "spin.toml"} | config | given)

        app.record(register)


def _settings(app: Flask) -> dict[str, Any]:
    """What the configuration of an app says, by the names of options.py."""
    config = app.config
    return {"WATCH": _debugs(app), "BUILD": _reloaded()} | {
        key: config[PREFIX + key] for key in (*KEYS, *OWN_KEYS) if PREFIX + key in config
    }


def _reloaded() -> bool:
    """Whether this is the process that a reloader starts again and again."""
    return os.environ.get("WERKZEUG_RUN_MAIN") == "true"


def _by_command() -> bool:
    return os.environ.get("FLASK_RUN_FROM_CLI") == "true"


def _debugs(app: Flask) -> bool:
    """Whether `app` is in debug mode: `app.run(debug=True)` says so only later, but its reloader starts
    the script again."""
    return app.debug or (_reloaded() and not _by_command())


def _mount(app: Flask, url_prefix: str, root: str, settings: Mapping[str, Any]) -> None:
    """Put a gateway with these settings in front of `app`, below `url_prefix`; `root` has its manifest."""
    prefix = url_prefix.rstrip("/")
    if prefix and (not prefix.startswith("/") or "<" in prefix):
        raise ManifestError(f"guests cannot lie below the URL prefix {url_prefix!r}: it is no fixed path")
    gateways: dict[str, Gateway] = app.extensions.setdefault("wasm_gateways", {})
    if prefix in gateways:
        where = f" below {prefix}" if prefix else ""
        raise RuntimeError(f"{app!r} has a WasmGateway{where} already")
    functions = [function_of(settings, key) for key in OWN_KEYS]
    path = Path(root, settings["MANIFEST"])
    if not path.exists():
        raise ManifestError("there is no such file: `flask wasm new TEMPLATE NAME` begins one", path=path)
    itself = weakref.ref(app)
    site = FlaskSite(itself, *functions)
    config = app.config
    tell = teller(itself)
    gateway = make_gateway(
        path,
        {**_heard(settings, tell), "BUILD": settings["BUILD"] and _debugs(app)},
        identity=Identity(site, lambda: str(config.get("SECRET_KEY") or "")),
        loaded=load_teller(tell),
    )
    front = app.extensions.get("wasm_front") or Front(app.wsgi_app)
    front.check_apart(gateway, settings.get("LEDGER"))
    weakref.finalize(app, gateway.close)
    if not _by_command() or (_reloaded() and gateway.workshop is not None):
        gateway.open()
    gateways[prefix] = gateway
    app.extensions["wasm_gateway"] = gateways.get("") or next(iter(gateways.values()))
    visitor = site.visitor if functions[0] else None
    host = partial(trusted_host, config)
    front.add(Door(gateway, prefix=prefix, host=host, visitor=visitor), settings.get("LEDGER"))
    if "wasm_front" not in app.extensions:
        app.extensions["wasm_front"] = front
        app.wsgi_app = front  # type: ignore[method-assign]


def _heard(settings: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """The settings with what sends the app's signals; ManifestError."""
    heard = dict(settings)
    ledger = settings.get("LEDGER")
    if ledger is not None:
        heard["LEDGER"] = TellingLedger(
            open_ledger(ledger) if isinstance(ledger, str | Path) else ledger, tell
        )
    if guest_failed.receivers:
        heard["OBSERVERS"] = [*(settings.get("OBSERVERS") or ()), FailureTeller(tell)]
    return heard


class Front:
    """The doors of an app, one behind the other: the one with the longest prefix first, the app last."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app
        self._doors: list[Door] = []
        self._ledgers: list[tuple[object, Gateway]] = []  # the settings
        self._first: WSGIApplication = app

    def check_apart(self, gateway: Gateway, ledger: object) -> None:
        """Raise ManifestError where another gateway would take the dials of this one for its own."""
        for place, other in self._ledgers:
            common = _names(gateway) & _names(other)
            if ledger is not None and str(ledger) == str(place) and common:
                raise ManifestError(
                    f"{', '.join(sorted(common))} is served below another URL prefix too, and its dial is in "
                    "the same ledger: give one of the two a ledger of its own, WasmGateway(..., ledger=...)",
                    path=gateway.manifest.path,
                    key="LEDGER",
                )

    def add(self, door: Door, ledger: object) -> None:
        self._ledgers.append((ledger, door.gateway))
        self._doors = sorted([*self._doors, door], key=lambda each: len(each.prefix))
        self._first = self._app
        for each in self._doors:
            each.app, self._first = self._first, each

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._first(environ, start_response)


def _names(gateway: Gateway) -> set[str]:
    """What dials of a gateway are called: its components, and the patterns of routes."""
    triggers = [each for each in gateway.manifest.http_triggers if each.component is not None]
    return {str(each.component) for each in triggers} | {str(each.route) for each in triggers}
