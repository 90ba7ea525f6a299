from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from wasm_gateway.errors import GatewayError
from wasm_gateway.making import scaffold

from ....making import said
from ...conf import Settings


class Command(BaseCommand):
    help = "Makes a guest from a template, in a folder beside the manifest, which is begun if need be."
    requires_system_checks: tuple[str, ...] = ()  # they would miss the manifest

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("template", nargs="?")
        parser.add_argument("name", nargs="?")
        parser.add_argument("--value", action="append", default=[], metavar="K=V", help="a parameter")
        parser.add_argument("--template-dir", metavar="DIR", help="take templates from here")
        parser.add_argument(
            "-a", "--accept-defaults", action="store_true", help="ask nothing that has a default"
        )
        parser.add_argument("--list", action="store_true", help="list the templates")

    def handle(self, *args: Any, **options: Any) -> None:
        manifest = Settings.read().manifest
        try:
            templates = scaffold.find_templates(options["template_dir"])
            if options["list"]:
                for each in templates.values():
                    self.stdout.write(f"{each.id:18} {each.description}")
                return
            if options["name"] is None:
                raise CommandError("name a template and the new component (--list lists templates)")
            if manifest is None:
                raise CommandError("WASM_GATEWAY['MANIFEST'] must be the path of a spin.toml")
            given = scaffold.pairs(options["value"])
            chosen = scaffold.choose(templates, options["template"])
            ask = scaffold.asking(options["accept_defaults"])
            made = scaffold.add_to_site(chosen, options["name"], manifest, given, ask)
        except GatewayError as error:
            raise CommandError(str(error)) from error
        for line in said(made, options["name"]):
            self.stdout.write(line)
