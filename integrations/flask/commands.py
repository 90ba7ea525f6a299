# flask wasm routes | compile

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from flask import current_app
from flask.cli import with_appcontext

if TYPE_CHECKING:
    from wasm_gateway import Gateway


@click.group()
def wasm() -> None:
    """Wasm components of this app."""


def _gateway() -> Gateway:
    gateway: Gateway | None = current_app.extensions.get("wasm_gateway")
    if gateway is None:
        raise click.ClickException("this app has no WasmGateway")
    return gateway


@wasm.command()
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
@with_appcontext
def routes(style: str) -> None:
    """List the routes that Wasm components answer, in the order of the manifest."""
    rows = _gateway().describe()
    if style == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    cells = [
        (row["route"] + ("/..." if row["wildcard"] else "") or "/", row["component"] or "-", row["executor"])
        for row in rows
    ]
    widths = [max((len(line[column]) for line in cells), default=0) for column in range(3)]
    for line in cells:
        click.echo("  ".join(map(str.ljust, line, widths)).rstrip())


@wasm.command()
@with_appcontext
def compile() -> None:
    """Compile the Wasm components into the cache, so that a server starts at once."""
    from wasm_gateway.errors import GatewayError

    def progress(component: str, done: int, total: int) -> None:
        click.echo(f"[{done}/{total}] {component}")

    try:
        _gateway().open(progress)
    except GatewayError as error:
        raise click.ClickException(str(error)) from error
