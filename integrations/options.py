# A site's settings -> a Gateway; what Django and Flask have in common.
#
# Rule 1: a setting has the name of the field of GatewayOptions that it sets, in upper
# case; OWN_KEYS has the few others, and KEYS is all there is.
# Rule 2: no framework here. A setting that cannot be used is a ManifestError whose
# key is the setting's name.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from wasm_gateway.engine import EngineOptions
from wasm_gateway.errors import ManifestError
from wasm_gateway.gateway import Gateway, GatewayOptions
from wasm_gateway.host.site import HostInterface
from wasm_gateway.runtime_config import RuntimeConfig, StoreConfig, load_runtime_config

# Fields of GatewayOptions that are set otherwise.
_NO_SETTING = {"around", "build_report", "engine", "loaded", "stores"}

_FIELDS = {f.name.upper(): f.name for f in fields(GatewayOptions) if f.name not in _NO_SETTING}

# Settings that are no field of it, and what each means.
OWN_KEYS: Mapping[str, str] = {
    "MANIFEST": "Path of the `spin.toml`.",
    "COMPONENTS": "Ids of the components to serve, with their triggers; all when absent.",
    "PROFILE": "Build profile of the manifest.",
    "KEY_VALUE_STORES": "Key-value stores by label: a table as in `runtime-config.toml`, such as "
    '`{"type": "redis", "url": ...}` or `{"type": "django_cache", "alias": ...}`, or a store that the site '
    "has made itself.",
    "HARDENED": "Check bounds instead of relying on signals: for processes whose signal handlers others "
    "install. Guests are slower.",
    "POOLING": "Keep slots for instances ready; false: make each on demand.",
}

KEYS = frozenset((*OWN_KEYS, *_FIELDS))

# Types of key-value stores, and what their tables may hold (Spin: host interfaces, 4.3).
STORE_TYPES: Mapping[str, tuple[str, ...]] = {
    "django_cache": ("alias",),
    "spin": ("path",),
    "redis": ("url",),
}


CacheStore = Callable[[str, str], Any]


def make_gateway(
    manifest: Path,
    values: Mapping[str, Any],
    *,
    cache_store: CacheStore | None = None,
    identity: HostInterface | None = None,
    **more: Any,
) -> Gateway:
    """A gateway for `manifest` with the settings `values`, whose keys are of KEYS; ManifestError.

    `cache_store(label, alias)` makes the stores of type django_cache; `identity` is lent besides INTERFACES;
    `more` are fields of GatewayOptions.
    """
    options = {field: values[key] for key, field in _FIELDS.items() if values.get(key) is not None}
    if "interfaces" in options:
        options["interfaces"] = [_interface(value) for value in options["interfaces"]]
    if identity is not None:
        options["interfaces"] = [*options.get("interfaces", ()), identity]
    if "observers" in options:
        options["observers"] = [_made(value, "OBSERVERS") for value in options["observers"]]
    options["engine"] = EngineOptions(
        pooling=values.get("POOLING", True), hardened=values.get("HARDENED", False)
    )
    config = options.get("runtime_config")
    if not isinstance(config, RuntimeConfig):
        config = RuntimeConfig() if config is None else load_runtime_config(config)
    configured, made = stores(values.get("KEY_VALUE_STORES") or {})
    configured = {**config.key_value_stores, **configured}
    for label, store in configured.items():
        if store.type == "django_cache" and label not in made:
            if cache_store is None:
                raise ManifestError(
                    "a django_cache store needs a Django site", key=f"key_value_store.{label}"
                )
            made[label] = cache_store(label, store.options["alias"])
    options["runtime_config"] = replace(config, key_value_stores=configured)
    return Gateway.from_manifest(
        manifest,
        components=values.get("COMPONENTS"),
        profile=values.get("PROFILE"),
        stores=made,
        **more,
        **options,
    )


def _interface(value: Any) -> HostInterface:
    """A HostInterface from one, from its class, or from the dotted name of its class."""
    value = _made(value, "INTERFACES")
    if not isinstance(value, HostInterface):
        raise ManifestError(f"{value!r} is no HostInterface", key="INTERFACES")
    return value


def _made(value: Any, key: str) -> Any:
    """An object of the setting `key` from itself, from its class, or from the dotted name of either."""
    if isinstance(value, str):
        module, _, name = value.rpartition(".")
        try:
            value = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ManifestError(f"{value!r} cannot be imported: {error}", key=key) from error
    return value() if isinstance(value, type) else value


def stores(tables: Mapping[str, Any]) -> tuple[dict[str, StoreConfig], dict[str, Any]]:
    """The stores that `tables` describes, and those that the site has made itself; by label."""
    configured: dict[str, StoreConfig] = {}
    made: dict[str, Any] = {}
    for label, table in tables.items():
        if not isinstance(table, Mapping):
            made[label] = table
            continue
        key = f"KEY_VALUE_STORES.{label}"
        options = dict(table)
        kind = options.pop("type", None)
        if kind not in STORE_TYPES:
            known = ", ".join(repr(name) for name in STORE_TYPES)
            raise ManifestError(f"the type {kind!r} is none of {known}", key=key)
        for name in options:
            if name not in STORE_TYPES[kind]:
                raise ManifestError(f"a {kind} store has no {name!r}", key=key)
        if kind == "spin" and options.get("path") is not None:
            options["path"] = Path(options["path"]).absolute()
        elif kind == "redis" and "url" not in options:
            raise ManifestError("a redis store needs a 'url'", key=key)
        elif kind == "django_cache":
            options.setdefault("alias", "default")
        configured[label] = StoreConfig(kind, options)
    return configured, made
