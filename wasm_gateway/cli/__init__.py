# The command `wasm-gateway`.
#
# Rule 1: flags, environment variables and texts are Spin's where Spin has them (Spin:
# command line, 2 and 3); what it has not is described in its help.
# Rule 2: it decides nothing: it parses, calls, and prints. Results go to stdout, the
# rest to stderr; exit 0, 1 for an error, 2 for wrong usage.
# Rule 3: heavy imports stand inside the commands, so that --help and completion are quick.

from __future__ import annotations

from typing import Any

import click

from ..errors import GatewayError
from .looking import bench, check, compile_, doctor, export, inspect, report, routes, schema
from .making import add, build_, new, toolchain, watch
from .ordering import reload, rollback
from .serving import up

__all__ = ["cli", "main", "up"]


class Commands(click.Group):
    """Every GatewayError of a command is `Error: ...` on stderr and exit 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GatewayError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wasm-gateway")
def cli() -> None:
    """Serve WebAssembly guests as their spin.toml says."""


def main() -> None:
    """The entry point of `wasm-gateway` and `python -m wasm_gateway`."""
    cli(prog_name="wasm-gateway")


LOOKING = (routes, check, compile_, inspect, doctor, export, bench, schema, report)
MAKING = (new, add, build_, watch, toolchain)
ORDERING = (reload, rollback)
for command in (up, *LOOKING, *MAKING, *ORDERING):
    cli.add_command(command)
