from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from ...conf import owner


class Command(BaseCommand):
    help = "Lists the routes that Wasm components answer, in the order of the manifest."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")

    def handle(self, *args: Any, **options: Any) -> None:
        rows = owner.gateway().describe()
        if options["format"] == "json":
            self.stdout.write(json.dumps(rows, indent=2))
            return
        cells = [
            (
                row["route"] + ("/..." if row["wildcard"] else "") or "/",
                row["component"] or "-",
                row["executor"],
            )
            for row in rows
        ]
        widths = [max((len(line[column]) for line in cells), default=0) for column in range(3)]
        for line in cells:
            route, component, executor = (text.ljust(width) for text, width in zip(line, widths, strict=True))
            self.stdout.write(f"{self.style.SUCCESS(route)}  {component}  {executor}".rstrip())
