from __future__ import annotations

from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.core.checks import register
from django.utils.autoreload import autoreload_started


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


def watch_guests(sender: Any, **_: Any) -> None:
    """Have runserver start again when the manifest or a guest of it changes."""
    from wasm_gateway.errors import ManifestError
    from wasm_gateway.manifest import PathSource, load_manifest

    from .conf import Settings

    path = Settings.read().manifest
    if path is None:
        return
    sender.extra_files.add(Path(path))
    try:
        manifest = load_manifest(path)
    except ManifestError:
        return  # the checks say so
    for component in manifest.components.values():
        if isinstance(component.source, PathSource):
            sender.extra_files.add(component.source.path)
