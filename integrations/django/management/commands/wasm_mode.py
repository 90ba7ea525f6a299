from __future__ import annotations

import getpass
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from wasm_gateway.errors import GatewayError
from wasm_gateway.policy import BadValue, Mode

from ...conf import owner
from ...dials import NoDials, rows, turn

RESET = "manifest"


class Command(BaseCommand):
    help = (
        "Says who answers for a component or a route, by its id or pattern, in all processes from now on; "
        "without arguments lists who does."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", nargs="?", metavar="COMPONENT", help="or the pattern of a route")
        parser.add_argument(
            "mode", nargs="?", choices=[*Mode, RESET], help=f"{RESET}: as the manifest and the settings say"
        )
        parser.add_argument("--percent", type=float, help="the share of canary and shadow")

    def handle(self, *args: Any, **options: Any) -> None:
        gateway = owner.gateway()
        name, mode, percent = options["name"], options["mode"], options["percent"]
        try:
            known = rows(gateway)
            if name is None:
                for each in known:
                    indent = "  " if each.route else ""
                    turned = " (turned)" if each.dial else ""
                    self.stdout.write(
                        f"{indent}{each.title}  {each.rule.mode} {each.rule.percent:g}%{turned}"
                    )
                return
            row = {each.name: each for each in known}.get(name)
            if row is None:
                names = ", ".join(each.name for each in known)
                raise CommandError(f"{name!r} is neither a component nor a route; there are {names}")
            if mode is None:
                raise CommandError(f"say which mode: {', '.join([*Mode, RESET])}")
            values: dict[str, object] | None = None
            if mode != RESET:
                values = {**(row.dial or {}), "mode": mode}
                if percent is not None:
                    values["percent"] = percent
            elif percent is not None:
                raise CommandError(f"{RESET} takes no --percent")
            turn(gateway, name, values, f"{getpass.getuser()} (wasm_mode)")
        except (NoDials, BadValue, GatewayError) as error:
            raise CommandError(str(error)) from error
        if options["verbosity"] > 0:
            share = "" if percent is None else f" {percent:g}%"
            self.stdout.write(f"{name}: {mode}{share}")
