# The command that serves an application: up.
#
# Spin: command line, 3.

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import check_triggers, engine_options, find_application, progress, run_build
from .options import (
    CACHE_DIR,
    COMPONENTS,
    DISABLE_POOLING,
    FORMAT,
    FROM,
    PROFILE,
    RUNTIME_CONFIG,
    STATE_DIR,
    VARIABLES,
    key_values,
    options,
)

if TYPE_CHECKING:
    from ..manifest import Manifest


def _parsed(parse: str) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback that reads a value as a manifest does: by component_options.parse_`parse`."""

    def callback(_: click.Context, __: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        from .. import component_options

        try:
            number = float(value)
        except ValueError:
            given: object = value
        else:
            given = int(number) if number.is_integer() else number
        try:
            return getattr(component_options, f"parse_{parse}")(given)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback


def _listen(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, int] | None:
    from ..serve import parse_listen

    if value is None:
        return None
    try:
        return parse_listen(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(context_settings={"max_content_width": 100})
@options(FROM, PROFILE, COMPONENTS)
@click.argument("unexpected", nargs=-1, metavar="")
@click.option(
    *("-e", "--env", "environment"),
    multiple=True,
    metavar="K=V",
    callback=key_values,
    help="An environment variable for every component. Repeatable.",
)
@click.option(
    "--build", is_flag=True, envvar="SPIN_ALWAYS_BUILD", show_envvar=True, help="Run build commands first."
)
@click.option("--temp", "--tmp", metavar="DIR", help="Where copies of files are made; removed at exit.")
@options(CACHE_DIR)
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
@options(RUNTIME_CONFIG, STATE_DIR)
@click.option("--disable-cache", is_flag=True, envvar="DISABLE_WASMTIME_CACHE", help="Keep no compiled code.")
@options(DISABLE_POOLING)
@click.option("--watch", is_flag=True, help="Replace components, and the manifest, when their files change.")
@click.option("--build-report", metavar="FILE", hidden=True, help="What `watch` could not build.")
@click.option(
    "--allow-transient-write", is_flag=True, help="Let components write to (copies of) their files."
)
@click.option(
    "--key-value",
    multiple=True,
    metavar="K=V",
    callback=key_values,
    help="Set a key of the default store before serving. Repeatable.",
)
@click.option(
    "--sqlite",
    multiple=True,
    metavar="STATEMENT",
    help="Run on the default database before serving: SQL, @file.sql or @file.sql:label. Repeatable.",
)
@options(VARIABLES)
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
@options(FORMAT)
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
        run_build(source, profile, components, flags["cache_dir"])

    from .. import guest_logs
    from ..report import Announcement, say_where
    from ..serve import Listen, Port, configure_logging, folders, serve, serving_metrics
    from ..variables import parse_variable_options

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
            "engine": engine_options(flags["disable_pooling"]),
            "metrics": metrics is not None,
        }
        application = find_application(source, profile, components, options)
        gateway = application.gateway()
        check_triggers(gateway.manifest)
        _check_follow(gateway.manifest, flags["follow"])
        with ExitStack() as cleanup:
            port = None
            if gateway.manifest.http_triggers:
                port = Port(Listen(*flags["listen"], **{name: flags[name] for name in _LISTEN}))
                cleanup.callback(port.close)
            if flags["truncate_logs"] and gateway.log_dir is not None:
                guest_logs.truncate(gateway.log_dir)
            say_where(gateway)
            with progress(gateway, "Loading") as report:
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
    "build_report",
    "tracing",
    "access_log",
    "server_timing",
)
_LISTEN = ("find_free_port", "tls_cert", "tls_key", "http1_max_buf_size")


def _check_follow(manifest: Manifest, follow: Sequence[str]) -> None:
    unknown = [id for id in follow if id not in manifest.components]
    if unknown:
        there = ", ".join(manifest.components) or "none"
        raise click.ClickException(f"--follow: no such component: {', '.join(unknown)} (there are: {there})")
