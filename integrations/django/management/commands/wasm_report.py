from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from wasm_gateway.errors import GatewayError

from ...conf import owner
from ...dials import NoDials, pilot_of


class Command(BaseCommand):
    help = "Shows where guests and views have answered differently, the newest first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("component", nargs="?")
        parser.add_argument("--limit", type=int, default=20, help="default: 20")
        parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            ledger = pilot_of(owner.gateway()).ledger
            assert ledger is not None
            found = ledger.mismatches(options["component"], options["limit"])
        except (NoDials, GatewayError) as error:
            raise CommandError(str(error)) from error
        if options["format"] == "json":
            self.stdout.write(json.dumps([asdict(each) for each in found], indent=2))
            return
        if not found:
            self.stdout.write("no mismatches")
        for each in found:
            when = datetime.fromtimestamp(each.at, UTC).isoformat(" ", "seconds")
            times = f"view {each.native_seconds * 1e3:.1f} ms, guest {each.guest_seconds * 1e3:.1f} ms"
            self.stdout.write(f"{when}  {each.component}  {each.method} {each.target}  ({times})")
            for line in each.differences:
                self.stdout.write(f"    {line}")
