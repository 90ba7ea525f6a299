# flask wasm routes | compile | mode | report | new

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from flask import current_app
from flask.cli import ScriptInfo, with_appcontext

from ..dials import CHOICES, NoDials, listing, pilot_of, turn_to

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


@wasm.command()
@click.argument("template", required=False)
@click.argument("name", required=False)
@click.option("-v", "--value", "values", multiple=True, metavar="K=V", help="A parameter. Repeatable.")
@click.option("--template-dir", metavar="DIR", help="Take templates from here.")
@click.option("-a", "--accept-defaults", is_flag=True, help="Ask nothing that has a default.")
@click.option("--list", "listing", is_flag=True, help="List the templates.")
@click.pass_context
def new(
    context: click.Context,
    template: str | None,
    name: str | None,
    values: tuple[str, ...],
    template_dir: str | None,
    accept_defaults: bool,
    listing: bool,
) -> None:
    """Make a guest from a template, in a folder NAME beside the manifest, which is begun if need be."""
    from wasm_gateway import scaffold
    from wasm_gateway.errors import GatewayError

    try:
        templates = scaffold.find_templates(template_dir)
        if listing:
            click.echo("\n".join(f"{each.id:18} {each.description}" for each in templates.values()))
            return
        if template is None or name is None:
            raise click.UsageError("name a template and the new component (`--list` lists templates)")
        given = scaffold.pairs(values)
        manifest = _manifest(context.ensure_object(ScriptInfo))
        chosen = scaffold.choose(templates, template)
        made = scaffold.add_to_site(chosen, name, manifest, given, scaffold.asking(accept_defaults))
    except GatewayError as error:
        raise click.ClickException(str(error)) from error
    for path in made.files:
        click.echo(path)
    click.echo(f"Added to {made.manifest}")
    click.echo("Next: flask run --debug, which builds it too")
    click.echo(f"or: wasm-gateway build -f {made.manifest}")


def _manifest(info: ScriptInfo) -> Path:
    """The path of the app's manifest, also where that is still missing."""
    from wasm_gateway.errors import ManifestError

    try:
        app = info.load_app()
    except ManifestError as error:
        if error.path is None or Path(error.path).exists():
            raise
        return Path(error.path)
    return Path(app.root_path, app.config.get("WASM_GATEWAY_MANIFEST", "spin.toml"))


@wasm.command()
@click.argument("name", required=False)
@click.argument("mode", required=False, type=click.Choice(CHOICES))
@click.option("--percent", type=float, help="The share of canary and shadow.")
@with_appcontext
def mode(name: str | None, mode: str | None, percent: float | None) -> None:
    """Say who answers for a component or a route, in all processes from now on.

    NAME is the id of a component or the pattern of a route; without it, list who answers.
    """
    from wasm_gateway.errors import GatewayError
    from wasm_gateway.policy import BadValue

    gateway = _gateway()
    try:
        if name is None:
            click.echo("\n".join(listing(gateway)))
        elif mode is None:
            raise click.UsageError(f"say which mode: {', '.join(CHOICES)}")
        else:
            click.echo(turn_to(gateway, name, mode, percent, f"{getpass.getuser()} (flask wasm mode)"))
    except (NoDials, BadValue, GatewayError) as error:
        raise click.ClickException(str(error)) from error


@wasm.command()
@click.argument("components", nargs=-1)
@click.option("--limit", type=click.IntRange(0, 200), default=10, show_default=True, help="Of mismatches.")
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
@with_appcontext
def report(components: tuple[str, ...], limit: int, style: str) -> None:
    """Say who has answered, in all processes, and where guests and views differ."""
    from dataclasses import asdict

    from wasm_gateway.errors import GatewayError
    from wasm_gateway.migration import report as reports

    gateway = _gateway()
    for name in components:
        if name not in gateway.manifest.components:
            raise click.ClickException(f"there is no component {name!r}")
    try:
        ledger = pilot_of(gateway).ledger
        assert ledger is not None
        found = reports.read(ledger, components or list(gateway.manifest.components), limit=limit)
    except (NoDials, GatewayError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(asdict(found), indent=2, default=dict) if style == "json" else reports.text(found))
