# What several commands do alike: find the application, build it, show progress, print.
#
# Rule: results go to stdout (print_text, print_json), the rest to stderr (tell).

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ManifestError

if TYPE_CHECKING:
    from ..gateway import Gateway
    from ..manifest import Manifest
    from ..migration.ledger import Ledger
    from ..serve import Application


def find_application(
    source: str | None, profile: str | None, components: Sequence[str], options: Mapping[str, Any]
) -> Application:
    from ..manifest import find_manifest
    from ..serve import Application

    manifest = find_manifest(source)
    if source is None and manifest.parent != Path.cwd():
        click.echo(f"Using {str(manifest)!r}", err=True)
    return Application(manifest, tuple(components) or None, profile, options)


def opened_ledger(place: str) -> Ledger:
    """The ledger of a site, which is not made here; ClickException where there is none."""
    from ..migration.ledger import open_ledger

    if "://" not in place and not Path(place).exists():
        raise click.ClickException(f"there is no ledger {place}")
    return open_ledger(place)


def engine_options(disable_pooling: bool) -> Any:
    from ..engine import EngineOptions

    return EngineOptions(pooling=not disable_pooling)


def run_build(
    source: str | None, profile: str | None, components: Sequence[str], cache_dir: str | None
) -> Path:
    """Build, and leave with the exit code of a command that fails; returns the manifest's path."""
    from ..errors import BuildError
    from ..loader import default_cache_dir
    from ..making.build import build, read_jobs
    from ..manifest import find_manifest

    path = find_manifest(source)
    if path.suffix in (".wasm", ".wat"):
        return path
    jobs = read_jobs(path, profile=profile, components=components)
    try:
        build(jobs, Path(cache_dir) if cache_dir else default_cache_dir(), tell)
    except BuildError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.code)
    return path


def check_triggers(manifest: Manifest) -> None:
    from ..manifest import OtherTrigger

    for trigger in manifest.triggers:
        if isinstance(trigger, OtherTrigger):
            raise ManifestError(
                f"No built-in trigger named '{trigger.type}'",
                path=manifest.path,
                key=f"trigger.{trigger.type}",
            )


@contextmanager
def progress(
    gateway: Gateway, verb: str, plain: Callable[[str], None] | None = None
) -> Iterator[Callable[[str, int, int], None]]:
    """A callback for Gateway.open: a bar on a terminal, else a line each through `plain`."""
    if not sys.stderr.isatty():

        def line(component: str, number: int, total: int) -> None:
            if plain is not None:
                plain(f"{verb} {component} ({number}/{total}): done")

        yield line
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(verb, total=len(gateway.manifest.components))

        def advance(component: str, number: int, total: int) -> None:
            bar.update(task, completed=number, total=total, description=f"{verb} {component}")

        yield advance


def tell(text: str) -> None:
    click.echo(text, err=True)


def print_text(text: str) -> None:
    click.echo(text)
    sys.stdout.flush()  # who reads the pipe waits for it


def print_json(value: object) -> None:
    print_text(json.dumps(value))
