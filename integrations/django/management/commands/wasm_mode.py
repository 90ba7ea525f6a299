from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from wasm_gateway.errors import GatewayError
from wasm_gateway.migration.ledger import operator
from wasm_gateway.policy import BadValue

from ....dials import CHOICES, RESET, NoDials, listing, turn_to
from ...conf import owner


class Command(BaseCommand):
    requires_system_checks = ()  # it is wanted most when something is wrong
    help = (
        "Says who answers for a component or a route, by its id or pattern, in all processes from now on; "
        "without arguments lists who does."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", nargs="?", metavar="COMPONENT", help="or the pattern of a route")
        parser.add_argument(
            "mode", nargs="?", choices=CHOICES, help=f"{RESET}: as the manifest and the settings say"
        )
        parser.add_argument("--percent", type=float, help="the share of canary and shadow")

    def handle(self, *args: Any, **options: Any) -> None:
        gateway = owner.gateway()
        name, mode = options["name"], options["mode"]
        try:
            if name is None:
                self.stdout.write("\n".join(listing(gateway)))
                return
            if mode is None:
                raise CommandError(f"say which mode: {', '.join(CHOICES)}")
            done = turn_to(gateway, name, mode, options["percent"], operator("wasm_mode"))
        except (NoDials, BadValue, GatewayError) as error:
            raise CommandError(str(error)) from error
        if options["verbosity"] > 0:
            self.stdout.write(done)
