from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from wasm_gateway.host.identity import Identity

from ...conf import owner
from ...identity import DjangoSite


class Command(BaseCommand):
    help = (
        "Prints the key with which the identity header of a component is signed, derived from SECRET_KEY: "
        "for whoever is to check the signature."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("component")

    def handle(self, *args: Any, **options: Any) -> None:
        component = options["component"]
        if component not in owner.gateway().manifest.components:
            raise CommandError(f"there is no component {component!r}")
        self.stdout.write(Identity(DjangoSite(), lambda: settings.SECRET_KEY).key(component))
