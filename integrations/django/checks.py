# System checks: what is wrong with a site's Wasm routes, before a visitor finds out.
#
#   E001  the manifest, the runtime configuration or the settings cannot be used
#   E002  a component is missing, or cannot be loaded (loading: with --deploy)
#   E005  gevent or eventlet has patched the threads of this process
#   W001  the middleware stands before SecurityMiddleware
#   W002  faulthandler was switched after the engine was made
#   W003  with --deploy: a guest would be compiled when the server starts
#   W004  a setting that nobody knows
#   W005  the app is installed, the middleware is not
#   W006  a rule or a guest asks for the user, and the middleware stands before AuthenticationMiddleware
#   W007  the same of another middleware: what a guest is lent is not there yet
#   I004  a Wasm route answers a path that a view of the site answers too

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning
from django.core.exceptions import ImproperlyConfigured
from django.urls import Resolver404, get_resolver
from django.utils.module_loading import import_string

from wasm_gateway import engine
from wasm_gateway.errors import ComponentError, HostError, ManifestError
from wasm_gateway.gateway import Gateway
from wasm_gateway.loader import default_cache_dir
from wasm_gateway.manifest import PathSource
from wasm_gateway.policy import Mode

from .conf import KEYS, Settings, owner
from .middleware import WasmGatewayMiddleware


def check_settings(**_: Any) -> list[CheckMessage]:
    """E001, E002 (files that are not there), W004."""
    try:
        found = Settings.read()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="wasm_gateway.E001")]
    messages: list[CheckMessage] = [_unknown(key) for key in found.unknown]
    if found.manifest is None:
        hint = "Set WASM_GATEWAY = {'MANIFEST': BASE_DIR / 'spin.toml'}."
        return [*messages, Error("There is no Wasm manifest.", hint=hint, id="wasm_gateway.E001")]
    try:
        gateway = owner.gateway()
    except ImproperlyConfigured as error:
        begins = "'manage.py wasm_new TEMPLATE NAME' begins one with a component."
        first = None if found.manifest.exists() else begins
        return [*messages, Error(str(error), hint=first, id="wasm_gateway.E001")]
    for component in gateway.manifest.components.values():
        source = component.source
        if component.build is not None and gateway.workshop is not None:
            continue  # it will be built
        if isinstance(source, PathSource) and not source.path.is_file():
            text = f"The file of the Wasm component {component.id!r} is not there: {source.path}"
            build = "" if component.build is None else f" (wasm-gateway build -f {found.manifest})"
            hint = f"Build it{build}, or leave it out with WASM_GATEWAY['COMPONENTS']."
            messages.append(Error(text, hint=hint, id="wasm_gateway.E002"))
    return messages


def _unknown(key: str) -> CheckMessage:
    close = difflib.get_close_matches(key.upper(), KEYS, 1)
    hint = f"Did you mean {close[0]!r}?" if close else f"The settings are {', '.join(sorted(KEYS))}."
    return Warning(f"WASM_GATEWAY has no setting {key!r}.", hint=hint, id="wasm_gateway.W004")


def check_process(**_: Any) -> list[CheckMessage]:
    """E005, W002."""
    messages: list[CheckMessage] = []
    try:
        engine.refuse_greenlets()
    except HostError as error:
        messages.append(Error(str(error), id="wasm_gateway.E005"))
    if not engine.faulthandler_order_ok():
        text = "faulthandler was enabled or disabled after the WebAssembly engine was made."
        hint = "Enable it before (python -X faulthandler), or set WASM_GATEWAY['HARDENED'] = True."
        messages.append(Warning(text, hint=hint, id="wasm_gateway.W002"))
    return messages


def check_middleware(**_: Any) -> list[CheckMessage]:
    """W001, W005 to W007."""
    security = "django.middleware.security.SecurityMiddleware"
    names: Sequence[str] = settings.MIDDLEWARE
    ours = [index for index, name in enumerate(names) if _is_ours(name)]
    if not ours:
        text = "WasmGatewayMiddleware is not in MIDDLEWARE: no Wasm route is served."
        hint = (
            "Add 'wasm_gateway.integrations.django.WasmGatewayMiddleware' after SecurityMiddleware. Silence "
            "this where wsgi.py has wasm_gateway.integrations.django.get_wsgi_application() instead."
        )
        return [Warning(text, hint=hint, id="wasm_gateway.W005")]
    messages: list[CheckMessage] = []
    if security in names and ours[0] < names.index(security):
        text = "WasmGatewayMiddleware stands before SecurityMiddleware."
        hint = "Put it after: Wasm routes are neither redirected to HTTPS nor given its headers."
        messages.append(Warning(text, hint=hint, id="wasm_gateway.W001"))
    for id_, name, why, wrong in _needs():
        stands, before = _stands(name)
        if stands and before < ours[0]:
            continue
        if stands or name != LOCALE:  # a site may well have one language
            title = name.rpartition(".")[2]
            text = f"{title} does not stand before WasmGatewayMiddleware, but {why}."
            hint = f"Put WasmGatewayMiddleware after it; until then {wrong}."
            messages.append(Warning(text, hint=hint, id=f"wasm_gateway.{id_}"))
    return messages


AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"
LOCALE = "django.middleware.locale.LocaleMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"

# What may be lent to a guest -> the check, who has to have seen the request before, what happens else.
LENDERS = {
    "user": ("W006", AUTHENTICATION, "everybody is unknown to Wasm routes"),
    "locale": ("W007", LOCALE, "the language is that of the settings"),
    "csrf": ("W007", CSRF, "a token is worth nothing, for nobody sends its cookie"),
}


def _stands(name: str) -> tuple[bool, int]:
    """Whether the middleware `name`, or one that extends it, is there, and where."""
    wanted = import_string(name)
    for index, each in enumerate(settings.MIDDLEWARE):
        try:
            found = import_string(each)
        except ImportError:
            continue  # Django says so when it starts
        if found is wanted or (isinstance(found, type) and issubclass(found, wanted)):
            return True, index
    return False, -1


def _needs() -> list[tuple[str, str, str, str]]:
    """Each middleware that some component depends on: a check, its name, why, and what happens else."""
    gateway = _gateway()
    found: dict[str, tuple[str, str, str, str]] = {}
    for component in gateway.manifest.components.values() if gateway else ():
        assert gateway is not None
        try:
            options = gateway.options_of(component)
        except ManifestError:
            continue  # opening the gateway says so
        rules = [options.rule, *(options.rule.updated(table) for table in options.routes.values())]
        reasons = {what: f"the component {component.id!r} is lent the {what}" for what in options.lend}
        if any(rule.names_people for rule in rules):
            reasons["user"] = f"the rules of the component {component.id!r} depend on the user"
        for what, why in reasons.items():
            id_, name, wrong = LENDERS[what]
            found.setdefault(name, (id_, name, why, wrong))
    return sorted(found.values())


def _is_ours(name: str) -> bool:
    if "wasm" not in name.lower() and "gateway" not in name.lower():
        return False  # import no more than needed
    try:
        middleware = import_string(name)
    except ImportError:
        return False
    return isinstance(middleware, type) and issubclass(middleware, WasmGatewayMiddleware)


def check_routes(**_: Any) -> list[CheckMessage]:
    """I004: for the routes without parameters, and for where a wildcard begins.

    Where a view is meant to answer some requests, or all, there is nothing to say.
    """
    gateway = _gateway()
    if gateway is None or not getattr(settings, "ROOT_URLCONF", None):
        return []
    messages: list[CheckMessage] = []
    for row in gateway.describe():
        path = row["route"] or "/"
        if ":" in path:
            continue
        try:
            view = get_resolver().resolve(path)
        except (Resolver404, UnicodeError):
            continue
        pattern = f"{row['route']}/..." if row["wildcard"] else path
        if _shared(gateway, row["component"], pattern):
            continue
        text = f"The Wasm route {pattern} is answered before the site's {view.route!r}."
        messages.append(Info(text, hint=f"The view is {view._func_path}.", id="wasm_gateway.I004"))
    return messages


def _shared(gateway: Gateway, component_id: str | None, pattern: str) -> bool:
    """Whether the rule of a route lets the site answer it."""
    component = gateway.manifest.components.get(component_id or "")
    if component is None:
        return False
    try:
        options = gateway.options_of(component)
    except ManifestError:
        return False  # check_settings says why
    return options.rule.updated(options.routes.get(pattern, {})).mode is not Mode.WASM


def check_deployment(**_: Any) -> list[CheckMessage]:
    """E002 (guests that do not load), W003. Loads every guest, which compiles those that nobody has."""
    gateway = _gateway()
    if gateway is None:
        return []
    folder = Path(gateway.options.cache_dir or default_cache_dir())
    before = set(folder.rglob("*.cwasm"))
    messages: list[CheckMessage] = []
    for error in gateway.check():
        kind = "E002" if isinstance(error, ComponentError) else "E001"
        messages.append(Error(str(error), id=f"wasm_gateway.{kind}"))
    kept = set(folder.rglob("*.cwasm"))
    if gateway.options.disable_cache or not kept:
        text = "Compiled Wasm components are not kept: every process compiles them again."
        messages.append(Warning(text, hint=f"Is {folder} this user's own?", id="wasm_gateway.W003"))
    elif kept != before:
        text = f"{len(kept - before)} Wasm modules were not compiled yet, and a server would have waited."
        hint = "Run 'manage.py wasm_compile' when you deploy, as the user that serves."
        messages.append(Warning(text, hint=hint, id="wasm_gateway.W003"))
    return messages


def _gateway() -> Gateway | None:
    """The gateway, None when it cannot be made: check_settings says why."""
    try:
        return owner.gateway()
    except ImproperlyConfigured:
        return None
