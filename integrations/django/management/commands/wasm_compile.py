from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from wasm_gateway.errors import GatewayError

from ...conf import owner


class Command(BaseCommand):
    help = "Compiles the Wasm components into the cache, so that a server starts at once."

    def handle(self, *args: Any, **options: Any) -> None:
        def progress(component: str, done: int, total: int) -> None:
            if options["verbosity"] > 0:
                self.stdout.write(f"[{done}/{total}] {component}")

        try:
            owner.gateway().open(progress)
        except GatewayError as error:
            raise CommandError(str(error)) from error
