from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from wasm_gateway.errors import GatewayError
from wasm_gateway.migration import report
from wasm_gateway.migration.ledger import MAX_MISMATCHES

from ....dials import NoDials, pilot_of
from ...conf import owner


def _limit(text: str) -> int:
    limit = int(text)
    if not 0 <= limit <= MAX_MISMATCHES:
        raise ArgumentTypeError(f"{text} is not from 0 to {MAX_MISMATCHES}")
    return limit


class Command(BaseCommand):
    requires_system_checks = ()  # it is wanted most when something is wrong
    help = "Says who has answered, in all processes, and where guests and views differ, the newest first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("component", nargs="*", help="all when none is named")
        parser.add_argument(
            "--limit",
            type=_limit,
            default=10,
            help=f"how many of the last mismatches, {MAX_MISMATCHES} at most; default: 10",
        )
        parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
        parser.add_argument(
            "--forget", action="store_true", help="afterwards begin to count anew, and forget the mismatches"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        gateway = owner.gateway()
        components = options["component"] or list(gateway.manifest.components)
        for name in components:
            if name not in gateway.manifest.components:
                raise CommandError(f"there is no component {name!r}")
        try:
            ledger = pilot_of(gateway).ledger
            assert ledger is not None
            found = report.read(ledger, components, limit=options["limit"])
            if options["format"] == "json":
                self.stdout.write(json.dumps(asdict(found), indent=2, default=dict))
            else:
                self.stdout.write(report.text(found))
            if options["forget"]:
                report.forget(ledger, components)
        except (NoDials, GatewayError) as error:
            raise CommandError(str(error)) from error
