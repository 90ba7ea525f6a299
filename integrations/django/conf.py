# settings.WASM_GATEWAY -> the one Gateway of a Django process.
#
# Rule 1: the settings are a dict whose keys are those of options.py and a few of
# Django's own. Unknown keys are a check's matter, so that a newer settings file
# still starts an older gateway.
# Rule 2: `owner` has the Gateway and the threads of this process. Middleware,
# commands and checks ask it each time; it notices changed settings (in tests).

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV
from django.utils.connection import ConnectionProxy

from wasm_gateway.asgi import THREADS
from wasm_gateway.errors import GatewayError, ManifestError
from wasm_gateway.gateway import Gateway
from wasm_gateway.host.identity import Identity
from wasm_gateway.host.key_value import CacheStore
from wasm_gateway.migration.ledger import open_ledger
from wasm_gateway.workers import Workers

from .. import options
from ..telling import FailureTeller, TellingLedger, load_teller
from .connections import SiteWorkers, kept_fresh
from .identity import DjangoSite
from .signals import guest_failed, tell

# Django's own settings, and what each means.
OWN_KEYS: Mapping[str, str] = {
    "CSRF": "Check CSRF before a guest is asked, as Django does before a view; the option `csrf` of a "
    "component or route wins.",
    "THREADS": "Guests that run at once in async mode.",
}

KEYS = frozenset((*options.KEYS, *OWN_KEYS))  # of them, MANIFEST is BASE_DIR / "spin.toml" when absent

# The LEDGER that is in the site's own database.
DATABASE = "django"


@dataclass(frozen=True, slots=True)
class Settings:
    """What settings.WASM_GATEWAY says; `manifest` is None when nothing does."""

    manifest: Path | None = None
    unknown: tuple[str, ...] = ()
    csrf: bool = False
    threads: int = THREADS
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls) -> Settings:
        """The settings as they are now; ImproperlyConfigured when they are no dict."""
        values = getattr(settings, "WASM_GATEWAY", None) or {}
        if not isinstance(values, Mapping):
            raise ImproperlyConfigured("WASM_GATEWAY is a dict, as in {'MANIFEST': BASE_DIR / 'spin.toml'}")
        manifest = values.get("MANIFEST")
        base_dir = getattr(settings, "BASE_DIR", None)
        if manifest is None and base_dir is not None:
            manifest = Path(base_dir, "spin.toml")
        return cls(
            manifest=None if manifest is None else Path(manifest),
            unknown=tuple(str(key) for key in values if key not in KEYS),
            csrf=bool(values.get("CSRF", False)),
            threads=values.get("THREADS", THREADS),
            values=values,
        )

    def gateway(self) -> Gateway:
        """A new gateway with these settings; raises ManifestError."""
        if self.manifest is None:
            raise ManifestError("WASM_GATEWAY['MANIFEST'] must be the path of a spin.toml")
        developing = settings.DEBUG and under_autoreload()
        values = {
            "WATCH": developing,
            **self.values,
            # its pages show what is nobody's business
            "BUILD": settings.DEBUG and self.values.get("BUILD", developing),
            "LEDGER": ledger(self.values.get("LEDGER")),
        }
        if guest_failed.has_listeners():
            values["OBSERVERS"] = [*(values.get("OBSERVERS") or ()), FailureTeller(tell)]
        identity = Identity(DjangoSite(), lambda: settings.SECRET_KEY)
        return options.make_gateway(
            self.manifest,
            values,
            cache_store=cache_store,
            identity=identity,
            around=kept_fresh,
            loaded=load_teller(tell),
        )


def ledger(value: Any) -> Any:
    """The ledger that the setting means, which tells who asks for the signals; ManifestError."""
    if value is None:
        return None
    if not apps.is_installed("wasm_gateway.integrations.django"):
        if value == DATABASE:
            raise ManifestError(f"{DATABASE!r} needs the app in INSTALLED_APPS", key="LEDGER")
        return value
    from .ledger import DjangoLedger

    if value == DATABASE:
        value = DjangoLedger()
    elif isinstance(value, str | Path):
        value = open_ledger(value)
    return TellingLedger(value, tell)


def under_autoreload() -> bool:
    """Whether this is the process of `runserver` that serves, and is restarted when code changes."""
    return os.environ.get(DJANGO_AUTORELOAD_ENV) == "true"


def cache_store(label: str, alias: str) -> CacheStore:
    """The cache `alias` of the site as the key-value store `label`; ManifestError when there is none."""
    if alias not in settings.CACHES:
        raise ManifestError(f"CACHES has no {alias!r}", key=f"KEY_VALUE_STORES.{label}")
    # caches[alias] belongs to a thread; the proxy asks for it at each call
    return CacheStore(ConnectionProxy(caches, alias), label)


class Owner:
    """Has the gateway of this process, made when it is first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the making
        self._gateway: Gateway | None = None
        self._workers: Workers | None = None
        self._settings: Settings | None = None

    def gateway(self) -> Gateway:
        """The gateway, perhaps not opened yet; raises ImproperlyConfigured."""
        gateway = self._gateway
        if gateway is None:
            with self._lock:
                gateway = self._gateway
                if gateway is None:
                    try:
                        gateway = self.settings().gateway()
                    except GatewayError as error:
                        raise ImproperlyConfigured(f"WASM_GATEWAY: {error}") from error
                    self._gateway = gateway
        return gateway

    def settings(self) -> Settings:
        """The settings, read when they are first asked for."""
        if self._settings is None:
            self._settings = Settings.read()
        return self._settings

    def workers(self) -> Workers:
        """The threads in which guests run in async mode."""
        if self._workers is None:
            with self._lock:
                if self._workers is None:
                    self._workers = SiteWorkers(self.settings().threads)
        return self._workers

    def close(self) -> None:
        """Give the gateway back; the next one to ask gets a new one, from the settings of then."""
        with self._lock:
            gateway, self._gateway = self._gateway, None
            self._workers = self._settings = None
        if gateway is not None:
            gateway.close()


owner = Owner()
atexit.register(owner.close)


def _settings_changed(*, setting: str, **_: Any) -> None:
    if setting in ("WASM_GATEWAY", "BASE_DIR", "CACHES"):
        owner.close()


setting_changed.connect(_settings_changed, dispatch_uid="wasm_gateway.settings_changed")
