# Commands that look at an application, or try it, and serve nothing: routes, check, compile,
# inspect, doctor, export, bench, schema, report.

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import GatewayError
from ..report import as_json, who_acts
from .common import (
    check_triggers,
    engine_options,
    find_application,
    opened_ledger,
    print_json,
    print_text,
    progress,
)
from .options import (
    CACHE_DIR,
    COMPONENTS,
    DISABLE_POOLING,
    FORMAT,
    FROM,
    LEDGER,
    PROFILE,
    RUNTIME_CONFIG,
    STATE_DIR,
    VARIABLES,
    complete_guest,
    options,
)

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ..serve import Application


# routes


@click.command()
@options(FROM, PROFILE, COMPONENTS, FORMAT)
def routes(source: str | None, profile: str | None, components: tuple[str, ...], output: str) -> None:
    """List what the application answers to, in the order of the manifest."""
    from ..manifest import HttpTrigger, RedisTrigger

    manifest = _manifest(source, profile, components)
    rows: list[dict[str, Any]] = []
    for trigger in manifest.triggers:
        row: dict[str, Any] = {"trigger": "http", "id": trigger.id}
        if isinstance(trigger, HttpTrigger):
            kind = "static" if trigger.static_response else trigger.executor.type
            row |= {"route": trigger.route, "component": trigger.component, "executor": kind}
        elif isinstance(trigger, RedisTrigger):
            row |= {"trigger": "redis", "address": trigger.address, "channel": trigger.channel}
            row |= {"component": trigger.component}
        else:
            row |= {"trigger": trigger.type}
        component = manifest.components.get(row.get("component") or "")
        row["description"] = component.description if component else ""
        rows.append(row)
    if output == "json":
        print_json(rows)
        return
    lines = []
    for row in rows:
        if row["trigger"] == "http":
            lines.append(f"  {row['component'] or row['id']}: {_route_text(row['route'])}")
        elif row["trigger"] == "redis":
            lines.append(f"  {row['component']}: Redis channel {row['channel']} on {row['address']}")
        else:
            lines.append(f"  {row['id']}: {row['trigger']} (not served here)")
        if row["description"]:
            lines.append(f"    {row['description']}")
    print_text("\n".join(["Available Routes:", *lines]))


def _route_text(route: str | None) -> str:
    if route is None:
        return "(private)"
    path = f"/{route.lstrip('/')}"
    return f"{path.removesuffix('/...') or '/'} (wildcard)" if path.endswith("/...") else path


def _manifest(source: str | None, profile: str | None, components: Sequence[str]) -> Manifest:
    from ..manifest import find_manifest, load_manifest

    return load_manifest(find_manifest(source), profile=profile, component_ids=tuple(components) or None)


# check and compile


@click.command()
@options(FROM, PROFILE, COMPONENTS, RUNTIME_CONFIG, STATE_DIR, CACHE_DIR, VARIABLES, FORMAT)
def check(
    source: str | None,
    profile: str | None,
    components: tuple[str, ...],
    runtime_config_file: str | None,
    state_dir: str | None,
    cache_dir: str | None,
    variables: tuple[str, ...],
    output: str,
) -> None:
    """Load and link every component, and report every problem with who has to act."""
    problems: list[GatewayError] = []
    count = 0
    try:
        application = _gateway_application(
            source, profile, components, runtime_config_file, state_dir, cache_dir, variables
        )
        gateway = application.gateway()
        count = len(gateway.manifest.components)
        check_triggers(gateway.manifest)
        problems += gateway.check()
    except GatewayError as error:
        problems.append(error)
    if output == "json":
        print_json([as_json(problem) for problem in problems])
    elif problems:
        for problem in problems:
            print_text(f"{problem}\n  to be mended by: {who_acts(problem)}")
    else:
        print_text(f"{count} component{'' if count == 1 else 's'}: no problems")
    sys.exit(1 if problems else 0)


def _gateway_application(
    source: str | None,
    profile: str | None,
    components: Sequence[str],
    runtime_config_file: str | None,
    state_dir: str | None,
    cache_dir: str | None,
    variables: Sequence[str],
    **options: Any,
) -> Application:
    from ..variables import parse_variable_options

    options |= {
        "runtime_config": runtime_config_file,
        "state_dir": state_dir,
        "cache_dir": cache_dir,
        "variables": parse_variable_options(variables),
        "log_dir": "",
    }
    return find_application(source, profile, components, options)


@click.command("compile")
@options(FROM, PROFILE, COMPONENTS, RUNTIME_CONFIG, CACHE_DIR, DISABLE_POOLING, VARIABLES, FORMAT)
def compile_(
    source: str | None,
    profile: str | None,
    components: tuple[str, ...],
    runtime_config_file: str | None,
    cache_dir: str | None,
    disable_pooling: bool,
    variables: tuple[str, ...],
    output: str,
) -> None:
    """Compile every component into the cache, so that a server starts at once."""
    engine = engine_options(disable_pooling)
    with tempfile.TemporaryDirectory(prefix="wasm-gateway-") as state_dir:  # nothing is served from it
        application = _gateway_application(
            *(source, profile, components, runtime_config_file, state_dir, cache_dir, variables),
            engine=engine,
        )
        gateway = application.gateway()
        done: list[str] = []
        with progress(gateway, "Compiling", None if output == "json" else print_text) as report:

            def each(component: str, number: int, total: int) -> None:
                done.append(component)
                report(component, number, total)

            with gateway.open(each):
                pass
    if output == "json":
        print_json({"compiled": done})


# inspect


@click.command()
@click.argument("guest", metavar="FILE|COMPONENT", shell_complete=complete_guest)
@options(FROM, PROFILE, CACHE_DIR)
@click.option("--types", is_flag=True, help="Show the signatures of interfaces.")
@options(FORMAT)
def inspect(
    guest: str, source: str | None, profile: str | None, cache_dir: str | None, types: bool, output: str
) -> None:
    """Say what a guest is, what it imports, and what the manifest would deny it."""
    from dataclasses import asdict

    from ..inspection import inspect_guest

    wasm, component = _guest(guest, source, profile, cache_dir)
    inspection = inspect_guest(wasm, component)
    if output == "json":
        grants = [asdict(grant) | {"denied": grant.denied} for grant in inspection.grants]
        print_json(asdict(inspection) | {"grants": grants})
    else:
        print_text("\n".join([guest, *inspection.lines(types)]))


def _guest(guest: str, source: str | None, profile: str | None, cache_dir: str | None) -> tuple[bytes, Any]:
    """The binary of a file, or of a component with what the manifest says of it."""
    path = Path(guest)
    if path.is_file():
        return _binary(path), None
    manifest = _manifest(source, profile, ())
    component = manifest.components.get(guest)
    if component is None:
        there = ", ".join(manifest.components) or "none"
        raise click.ClickException(f"{guest!r} is neither a file nor a component (there are: {there})")
    from ..assets import load_source
    from ..loader import default_cache_dir

    folder = Path(cache_dir) if cache_dir else default_cache_dir()
    return _binary(load_source(component, folder, manifest_path=manifest.path)), component


def _binary(path: Path) -> bytes:
    if path.suffix != ".wat":
        return path.read_bytes()
    from ..engine import wat2wasm

    return wat2wasm(path.read_bytes(), str(path))


# doctor


@click.command()
@options(FROM, RUNTIME_CONFIG, STATE_DIR, CACHE_DIR, VARIABLES)
@click.option("--fix", is_flag=True, help="Repair the manifest, after showing what changes.")
@click.option("-y", "--yes", is_flag=True, help="With --fix: do not ask.")
@options(FORMAT)
def doctor(
    source: str | None,
    runtime_config_file: str | None,
    state_dir: str | None,
    cache_dir: str | None,
    variables: tuple[str, ...],
    fix: bool,
    yes: bool,
    output: str,
) -> None:
    """Say what of a Spin application runs here, what does not and why, and repair its manifest.

    Exit code: 0 when nothing is wrong (hints are not), 1 otherwise.
    """
    from .. import doctor as room
    from ..manifest import find_manifest
    from ..variables import parse_variable_options

    options: dict[str, Any] = {"variables": parse_variable_options(variables)}
    options |= {"runtime_config": runtime_config_file} if runtime_config_file else {}
    options |= {"state_dir": state_dir} if state_dir else {}
    options |= {"cache_dir": cache_dir} if cache_dir else {}
    path = find_manifest(source)
    if path.suffix in (".wasm", ".wat"):
        raise click.UsageError(
            "it is a manifest that is examined; for a guest there is `wasm-gateway inspect`"
        )
    with _quiet():
        report = room.examine(path, options)
    if output == "plain":
        print_text("\n".join(report.lines()))
    diff = report.diff()
    if diff and fix and output == "plain":
        print_text(f"\n{diff}")
    if diff and fix and (yes or _agrees(f"Write this to {path}?")):
        try:
            kept = room.repair(report)
        except OSError as error:
            raise click.ClickException(f"nothing was repaired: {error}") from error
        with _quiet():
            report = room.examine(path, options)
        if output == "plain":
            print_text(f"{path} is repaired" + (f"; the old one is {kept}" if kept else ""))
            print_text("\n".join(["Afterwards:", *report.lines()]))
    elif diff and output == "plain":
        print_text(
            "\nNothing was changed" if fix else "\n`wasm-gateway doctor --fix` shows and makes the repairs"
        )
    if output == "json":
        print_json(report.as_json())
    sys.exit(0 if report.ok else 1)


def _agrees(question: str) -> bool:
    """Whether somebody at a terminal says yes; where nobody is, no."""
    return sys.stdin.isatty() and click.confirm(question, err=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without log lines about what the report says itself."""
    import logging

    log = logging.getLogger("wasm_gateway")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


# export


@click.command()
@click.argument("what", type=click.Choice(["spinapp", "spin", "container"]))
@options(FROM, PROFILE, COMPONENTS)
@click.option(
    *("-o", "--output", "folder"),
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write files there, instead of to stdout.",
)
@click.option("--force", is_flag=True, help="Write over files that are there.")
@click.option("--image", metavar="REF", help="Where the application is pushed to, as ghcr.io/me/app:1.0.")
@click.option(
    "--replicas", type=click.IntRange(0, 10_000), default=2, show_default=True, help="spinapp: pods to run."
)
@click.option("--executor", metavar="NAME", help="spinapp: what runs it.  [default: containerd-shim-spin]")
@options(RUNTIME_CONFIG)
def export(
    what: str,
    source: str | None,
    profile: str | None,
    components: tuple[str, ...],
    folder: Path | None,
    force: bool,
    image: str | None,
    replicas: int,
    executor: str | None,
    runtime_config_file: str | None,
) -> None:
    """Go past one machine: to SpinKube (spinapp), to Spin (spin), or into a container (container).

    spinapp is a SpinApp resource, spin a script that pushes the same folder with Spin, container a
    Containerfile for the Django or Flask site around the manifest.
    """
    from .. import export as room
    from ..sites import find_site

    manifest = _manifest(source, profile, components)
    reference = image or room.default_image(manifest)
    files: dict[str, str] = {}
    match what:
        case "spinapp":
            files["spinapp.yaml"] = room.spinapp(
                manifest,
                reference,
                replicas=replicas,
                executor=executor or room.EXECUTOR,
                components=components,
                runtime_config=runtime_config_file,
            )
        case "spin":
            files["push.sh"] = room.spin_commands(manifest, reference)
        case _:
            files["Containerfile"] = room.containerfile(manifest, find_site(manifest.folder))
            files[".containerignore"] = room.containerignore(manifest)
    if what != "container" and image is None:
        click.echo(f"Note: --image REF is not given: {reference} is yours to replace", err=True)
    if folder is None:
        print_text(next(iter(files.values())).removesuffix("\n"))
        return
    for name in files:
        if (folder / name).exists() and not force:
            raise click.ClickException(f"{folder / name} is there already; --force writes over it")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        if name.endswith(".sh"):
            (folder / name).chmod(0o755)
        print_text(str(folder / name))


# bench


def _headers(_: click.Context, __: click.Parameter, values: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for value in values:
        name, colon, text = value.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter(f"{value!r} must be of the form `name: value`")
        pairs.append((name.strip().lower(), text.strip()))
    return pairs


@click.command()
@click.argument("route", metavar="ROUTE")
@options(FROM, PROFILE)
@click.option(
    *("-n", "--requests", "count"), type=click.IntRange(1, 10_000_000), default=1000, show_default=True
)
@click.option("--method", metavar="NAME", help="The method.  [default: GET, or POST with --body]")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    callback=_headers,
    help="A header. Repeatable.",
)
@click.option("--body", metavar="TEXT", help="The body, or @file.")
@options(RUNTIME_CONFIG, STATE_DIR, CACHE_DIR, DISABLE_POOLING, VARIABLES, FORMAT)
def bench(
    route: str,
    source: str | None,
    profile: str | None,
    count: int,
    method: str | None,
    headers: list[tuple[str, str]],
    body: str | None,
    runtime_config_file: str | None,
    state_dir: str | None,
    cache_dir: str | None,
    disable_pooling: bool,
    variables: tuple[str, ...],
    output: str,
) -> None:
    """Measure the requests of a route (a path, as /hello?name=x): how long, and where the time goes.

    They go one after the other, without a server in between. Stores are fresh and forgotten afterwards,
    but for those of a --state-dir.
    """
    from .. import bench as room
    from ..messages import Headers, Request

    if not route.startswith("/"):
        raise click.BadParameter("a path begins with /", param_hint="ROUTE")
    data = b""
    if body is not None:
        data = Path(body[1:]).read_bytes() if body.startswith("@") else body.encode()
        headers = [*headers, ("content-length", str(len(data)))]
    path, mark, query = route.partition("?")
    authority = dict(headers).get("host", "localhost")
    request = Request(
        method=(method or ("GET" if body is None else "POST")).upper(),
        path=path,
        query=query if mark else None,
        headers=Headers([("host", authority), *(pair for pair in headers if pair[0] != "host")]),
        body=(data,) if data else (),
        authority=authority,
        client=("127.0.0.1", 50_000),
    )
    with tempfile.TemporaryDirectory(prefix="wasm-gateway-") as fresh:
        kept = fresh if state_dir is None else state_dir
        application = _gateway_application(
            *(source, profile, (), runtime_config_file, kept, cache_dir, variables),
            engine=engine_options(disable_pooling),
        )
        result = room.run(application.gateway, request, count)
    if output == "json":
        print_json(result.as_json())
    else:
        print_text("\n".join(result.lines()))


# schema


@click.command()
@click.option("--with-spin", is_flag=True, help="Refer to Spin's own schema for the rest of the manifest.")
def schema(with_spin: bool) -> None:
    """Print the JSON schema of the tool.wasm-gateway tables, for editors (taplo, VS Code)."""
    from ..schema import schema as made

    print_text(json.dumps(made(with_spin=with_spin), indent=2))


# report


@click.command()
@options(FROM, PROFILE, COMPONENTS, FORMAT)
@options(LEDGER)
@click.option(
    "--limit",
    type=click.IntRange(0, 200),
    default=10,
    show_default=True,
    metavar="N",
    help="How many of the last mismatches.",
)
@click.option("--forget", is_flag=True, help="Afterwards begin to count anew, and forget the mismatches.")
def report(
    source: str | None,
    profile: str | None,
    components: tuple[str, ...],
    output: str,
    ledger: str,
    limit: int,
    forget: bool,
) -> None:
    """Say who answered, and where guests and the site differ, by what a site's processes have recorded."""
    from dataclasses import asdict

    from ..migration.report import forget as forget_all
    from ..migration.report import read, text

    manifest = _manifest(source, profile, components)
    with closing(opened_ledger(ledger)) as opened:
        found = read(opened, list(manifest.components), limit=limit)
        if output == "json":
            print_json(asdict(found))
        else:
            print_text(text(found))
        if forget:
            forget_all(opened, manifest.components)
