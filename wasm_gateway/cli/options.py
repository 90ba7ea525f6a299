# The options that several commands have, and how their values are read and completed.

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..errors import GatewayError

F = TypeVar("F", bound=Callable[..., Any])

FROM = click.option(
    *("-f", "--from", "source"),
    metavar="PATH",
    help="A spin.toml, a folder with one, or a .wasm or .wat file. "
    "Default: ./spin.toml, or that of a folder above.",
)
PROFILE = click.option("--profile", metavar="NAME", help="The build profile to use.")


def _complete_component(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Ids of the manifest's components, for the completion of a shell; none where it cannot be read."""
    from ..manifest import find_manifest, load_manifest

    try:
        ids = load_manifest(find_manifest(ctx.params.get("source"))).components
    except (GatewayError, OSError):
        return []
    return [id for id in ids if id.startswith(incomplete)]


def complete_guest(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of components, and files."""
    ids = map(CompletionItem, _complete_component(ctx, param, incomplete))
    return [*ids, CompletionItem(incomplete, type="file")]


COMPONENTS = click.option(
    *("-c", "--component-id", "components"),
    multiple=True,
    metavar="ID",
    shell_complete=_complete_component,
    help="Only this component and its triggers. Repeatable.",
)
FORMAT = click.option(
    *("--format", "output"),
    type=click.Choice(["plain", "json"]),
    default="plain",
    show_default=True,
    help="For people, or for programs.",
)
RUNTIME_CONFIG = click.option(
    "--runtime-config-file",
    metavar="FILE",
    envvar="RUNTIME_CONFIG_FILE",
    show_envvar=True,
    help="A runtime-config.toml: stores, databases, variables providers.",
)
STATE_DIR = click.option(
    "--state-dir",
    metavar="DIR",
    help="Where stores and logs are kept. Default: .spin beside the manifest; '' keeps nothing.",
)
CACHE_DIR = click.option(
    "--cache-dir", metavar="DIR", help="Downloaded and compiled guests. Default: the user's cache."
)
DISABLE_POOLING = click.option(
    "--disable-pooling", is_flag=True, help="Allocate instances on demand, not in a pool."
)
LEDGER = click.option(
    "--ledger",
    metavar="FILE|URL",
    required=True,
    envvar="WASM_GATEWAY_LEDGER",
    show_envvar=True,
    help="What the site has as LEDGER: a SQLite file, or redis://...",
)
VARIABLES = click.option(
    *("--variable", "variables"),
    multiple=True,
    metavar="K=V",
    help="Set a variable: k=v, k=@file, @file.json or @file.toml. Repeatable, the last one wins.",
)


def options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def key_values(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """`K=V` texts as a dict; the last one wins."""
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} must be of the form `key=value`")
        pairs[name] = text
    return pairs
