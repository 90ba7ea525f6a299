from __future__ import annotations

from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.core.checks import register
from django.core.exceptions import ImproperlyConfigured
from django.utils.autoreload import autoreload_started, file_changed

from wasm_gateway.errors import GatewayError


class WasmGatewayConfig(AppConfig):
    name = "wasm_gateway.integrations.django"
    label = "wasm_gateway"
    verbose_name = "Wasm gateway"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks

        register(checks.check_settings, "wasm_gateway")
        register(checks.check_process, "wasm_gateway")
        register(checks.check_middleware, "wasm_gateway")
        register(checks.check_routes, "wasm_gateway")
        register(checks.check_deployment, "wasm_gateway", deploy=True)
        autoreload_started.connect(watch_guests, dispatch_uid="wasm_gateway.watch_guests")
        file_changed.connect(swap_guest, dispatch_uid="wasm_gateway.swap_guest")


def watch_guests(sender: Any, **_: Any) -> None:
    """Have runserver start again when manifest or guests change, where the gateway does not swap them."""
    from .conf import Settings, owner

    path = Settings.read().manifest
    if path is None:
        return
    sender.extra_files.add(path)
    try:
        sender.extra_files |= owner.gateway().watched_files()
    except (ImproperlyConfigured, GatewayError):
        pass  # the checks say so


def swap_guest(sender: Any, file_path: Path, **_: Any) -> bool:
    """Whether the gateway sees to a changed file itself, so that runserver need not start again."""
    from .conf import owner

    try:
        gateway = owner.gateway()
        return gateway.watching and file_path.absolute() in gateway.watched_files()
    except (ImproperlyConfigured, GatewayError):
        return False
