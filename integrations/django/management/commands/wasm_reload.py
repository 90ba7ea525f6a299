from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from wasm_gateway.errors import GatewayError
from wasm_gateway.migration.ledger import operator
from wasm_gateway.migration.orders import Act
from wasm_gateway.policy import BadValue

from ....dials import NoDials, order
from ...conf import owner


class Command(BaseCommand):
    help = (
        "Has all processes load the guest of a component again from its file, without a restart; the old one "
        "answers until the new one can."
    )
    act = Act.RELOAD

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("component", nargs="?", help="all guests, and the manifest, when none is named")

    def handle(self, *args: Any, **options: Any) -> None:
        by = operator(f"wasm_{self.act}")
        try:
            done = order(owner.gateway(), self.act, options["component"], by)
        except (NoDials, BadValue, GatewayError) as error:
            raise CommandError(str(error)) from error
        if options["verbosity"] > 0:
            self.stdout.write(done)
