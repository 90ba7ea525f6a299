# flask wasm routes | compile | mode | reload | rollback | report | identity-key | new

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from flask import current_app
from flask.cli import ScriptInfo, with_appcontext

from wasm_gateway.migration.ledger import operator
from wasm_gateway.migration.orders import Act

from ..dials import CHOICES, NoDials, listing, order, pilot_of, turn_to
from ..making import said

if TYPE_CHECKING:
    from wasm_gateway import Gateway


# The key of `--at` in what a context and those below it share.
AT = "wasm_gateway.at"


@click.group()
@click.option("--at", metavar="PREFIX", help="Those below this URL prefix, where there are several.")
@click.pass_context
def wasm(context: click.Context, at: str | None) -> None:
    """Wasm components of this app."""
    context.meta[AT] = at


def _gateways() -> dict[str, Gateway]:
    """The gateways of the app that are asked for, by URL prefix; one at least."""
    gateways: dict[str, Gateway] = current_app.extensions.get("wasm_gateways", {})
    at: str | None = click.get_current_context().meta[AT]
    if not gateways:
        raise click.ClickException("this app has no WasmGateway")
    if at is None:
        return dict(sorted(gateways.items()))
    prefix = at.rstrip("/")
    if prefix not in gateways:
        there = ", ".join(each or "/" for each in sorted(gateways))
        raise click.ClickException(f"this app has no WasmGateway below {at!r} (there are: {there})")
    return {prefix: gateways[prefix]}


def _gateway() -> Gateway:
    """The one gateway that is asked for: without `--at` the app's own, if it has one."""
    gateways = _gateways()
    if "" not in gateways and len(gateways) > 1:
        raise click.UsageError(f"say which: --at {' or '.join(gateways)}")
    return gateways.get("") or next(iter(gateways.values()))


@wasm.command()
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
@with_appcontext
def routes(style: str) -> None:
    """List the routes that Wasm components answer, in the order of the manifest."""
    rows = [
        {**row, "route": prefix if prefix and row["route"] == "/" else prefix + row["route"]}
        for prefix, gateway in _gateways().items()
        for row in gateway.describe()
    ]
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
        for gateway in _gateways().values():
            gateway.open(progress)
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
    from wasm_gateway.errors import GatewayError
    from wasm_gateway.making import scaffold

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
    click.echo("\n".join(said(made, name)))


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
            click.echo(turn_to(gateway, name, mode, percent, operator("flask wasm mode")))
    except (NoDials, BadValue, GatewayError) as error:
        raise click.ClickException(str(error)) from error


@wasm.command()
@click.argument("component", required=False)
@with_appcontext
def reload(component: str | None) -> None:
    """Have all processes load the guest of a component again from its file, without a restart.

    Without COMPONENT: all guests, and the manifest. The old ones answer until the new ones can.
    """
    _order(Act.RELOAD, component)


@wasm.command()
@click.argument("component")
@with_appcontext
def rollback(component: str) -> None:
    """Have the guest before the last one answer again, in all processes, those that start later too.

    Until a file comes that is another one still, or a reload is ordered.
    """
    _order(Act.ROLLBACK, component)


def _order(act: Act, component: str | None) -> None:
    from wasm_gateway.errors import GatewayError
    from wasm_gateway.policy import BadValue

    try:
        click.echo(order(_gateway(), act, component, operator(f"flask wasm {act}")))
    except (NoDials, BadValue, GatewayError) as error:
        raise click.ClickException(str(error)) from error


@wasm.command()
@click.argument("components", nargs=-1)
@click.option("--limit", type=click.IntRange(0, 200), default=10, show_default=True, help="Of mismatches.")
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--forget", is_flag=True, help="Afterwards begin to count anew, and forget the mismatches.")
@with_appcontext
def report(components: tuple[str, ...], limit: int, style: str, forget: bool) -> None:
    """Say who has answered, in all processes, and where guests and views differ."""
    from dataclasses import asdict

    from wasm_gateway.errors import GatewayError
    from wasm_gateway.migration import report as reports

    gateway = _gateway()
    for name in components:
        _check_component(gateway, name)
    try:
        ledger = pilot_of(gateway).ledger
        assert ledger is not None
        names = components or tuple(gateway.manifest.components)
        found = reports.read(ledger, names, limit=limit)
        as_json = style == "json"
        click.echo(json.dumps(asdict(found), indent=2, default=dict) if as_json else reports.text(found))
        if forget:
            reports.forget(ledger, names)
    except (NoDials, GatewayError) as error:
        raise click.ClickException(str(error)) from error


@wasm.command()
@click.argument("component")
@with_appcontext
def identity_key(component: str) -> None:
    """Print the key with which the identity header of a component is signed, derived from SECRET_KEY.

    It is for whoever is to check the signature.
    """
    from wasm_gateway.errors import GatewayError
    from wasm_gateway.host.identity import Identity

    gateway = _gateway()
    _check_component(gateway, component)
    try:
        [identity] = [each for each in gateway.options.interfaces if isinstance(each, Identity)]
        click.echo(identity.key(component))
    except GatewayError as error:
        raise click.ClickException(str(error)) from error


def _check_component(gateway: Gateway, name: str) -> None:
    if name not in gateway.manifest.components:
        raise click.ClickException(f"there is no component {name!r}")
