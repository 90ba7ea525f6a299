# Diagnoses of the guests: is the Wasm there, what is it, does it load, what will it be denied.
#
# Rule 1: whether a component runs is decided by loading it as a server would
# (loader.check), not by a second opinion about its bytes.
# Rule 2: nothing is served, and nothing is written but into the cache.

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..assets import load_source
from ..component.names import canonical_name
from ..engine import wat2wasm
from ..errors import (
    ComponentError,
    DecodeError,
    GatewayError,
    HostError,
    LinkError,
    ManifestError,
    UnsupportedError,
)
from ..gateway import Gateway, GatewayOptions
from ..inspection import Inspection, inspect_guest
from ..loader import Loader, Served, default_cache_dir, served
from ..making.toolchain import environment, missing
from ..manifest import (
    Component,
    HttpTrigger,
    Manifest,
    OtherTrigger,
    PathSource,
    RedisTrigger,
    RegistrySource,
)
from ..sites import find_site
from ..versions import exact_version
from .findings import AUTHOR, OPERATOR, YOU, Finding, Level

# Beginning of an interface's name -> the module that speaks to the service, and the extra that brings it.
EXTRAS = (
    ("fermyon:spin/postgres", "psycopg", "postgres"),
    ("spin:postgres/", "psycopg", "postgres"),
    ("fermyon:spin/mysql", "pymysql", "mysql"),
    ("spin:mysql/", "pymysql", "mysql"),
    ("fermyon:spin/redis", "redis", "redis"),
    ("spin:redis/redis", "redis", "redis"),
    ("fermyon:spin/mqtt", "paho", "mqtt"),
    ("spin:mqtt/", "paho", "mqtt"),
)
# Keys whose absence is told, but not of guests that need WHOLE_WORLD keys: those of languages with a runtime
# import all there is.
TOLD = ("key_value_stores", "sqlite_databases")
WHOLE_WORLD = 5
UNREACHED = "see whether it is named rightly, and whether this machine reaches it"
# What is said of a trigger that only a plugin of Spin serves.
ELSEWHERE = " (not served here)"


@dataclass(frozen=True, slots=True)
class Row:
    """A component: what it is, what leads to it, whether it runs here."""

    id: str
    runs: bool
    dialect: str | None
    routes: tuple[str, ...]


def diagnose(manifest: Manifest, options: Mapping[str, Any]) -> tuple[list[Row], list[Finding]]:
    """A row for each component of `manifest`, and what is wrong; `options` are fields of GatewayOptions."""
    findings: list[Finding] = []
    guests: dict[str, Inspection] = {}
    broken: set[str] = set()
    routes = _routes(manifest)
    for component in manifest.components.values():
        gone = list(_missing(component, manifest, options))
        broken |= {component.id for finding in gone if finding.level is Level.BROKEN}
        findings += gone
        if not gone:
            wasm = _wasm(component, options, findings)
            if wasm is None:
                broken.add(component.id)
                continue
            try:
                guests[component.id] = inspect_guest(wasm, component)
            except (ComponentError, RecursionError):
                pass  # the loader says so, better
        if not routes.get(component.id) and not _is_dependency(component, manifest):
            what, advice = "no trigger leads to it", "add a trigger, or leave the component away"
            findings.append(Finding(Level.HINT, what, YOU, advice, component.id))
    whole, found = _load(manifest, options, broken, guests)
    findings += found
    broken |= {finding.component for finding in found if finding.component}
    for id, guest in guests.items():
        if id not in broken:
            findings += _warnings(manifest.components[id], guest)
            findings += _tables(manifest.components[id], manifest)
            findings += _ranges(manifest.components[id])
    elsewhere = {id for id, of in routes.items() if all(route.endswith(ELSEWHERE) for route in of)}
    rows = [
        Row(id, whole and id not in broken | elsewhere, _dialect(guests.get(id)), tuple(routes.get(id, ())))
        for id in manifest.components
    ]
    return rows, findings


def _routes(manifest: Manifest) -> dict[str, list[str]]:
    routes: dict[str, list[str]] = {}
    for trigger in manifest.triggers:
        match trigger:
            case HttpTrigger(component=str(id)):
                routes.setdefault(id, []).append("(private)" if trigger.route is None else trigger.route)
            case RedisTrigger(component=id):
                routes.setdefault(id, []).append(f"Redis channel {trigger.channel}")
            case OtherTrigger():
                called = trigger.table.get("component")
                if isinstance(called, str):
                    routes.setdefault(called, []).append(f"{trigger.type}{ELSEWHERE}")
    return routes


def _is_dependency(component: Component, manifest: Manifest) -> bool:
    of_components = [d for each in manifest.components.values() for d in each.dependencies.values()]
    of_triggers = [d for trigger in manifest.http_triggers for d in trigger.middleware]
    return any(each.component == component.id for each in (*of_components, *of_triggers))


def _dialect(guest: Inspection | None) -> str | None:
    return guest.dialects[0] if guest and guest.dialects else None


# Sources


def _missing(component: Component, manifest: Manifest, options: Mapping[str, Any]) -> Iterator[Finding]:
    """What of the component's Wasm is not there."""
    match component.source:
        case PathSource(path) if not path.is_file():
            shown = path.relative_to(manifest.folder) if path.is_relative_to(manifest.folder) else path
            what = f"its Wasm file {shown} is missing"
            yield Finding(
                Level.BROKEN, what, YOU, _how_to_build(component, manifest.folder, options), component.id
            )
    for name, dependency in component.dependencies.items():
        if isinstance(dependency.source, PathSource) and not dependency.source.path.is_file():
            what = f"the file of its dependency {name}, {dependency.source.path}, is missing"
            yield Finding(Level.BROKEN, what, YOU, "build it, or copy it there", component.id)


def _how_to_build(component: Component, folder: Path, options: Mapping[str, Any]) -> str:
    build = component.build
    if build is None:
        return "build it, or copy it there; a `build` table would say how"
    commands = " && ".join(build.commands)
    where = f" in {build.workdir}/" if build.workdir else ""
    environ = environment(_cache_dir(options))
    lacking = missing(build.commands, folder / (build.workdir or "."), environ)
    advice = f"build it with `wasm-gateway build -c {component.id}` (`{commands}`{where})"
    return "; ".join([advice, *(" ".join(text.split()) for text in lacking)])


def _cache_dir(options: Mapping[str, Any]) -> Path:
    return Path(options.get("cache_dir") or default_cache_dir())


def _wasm(component: Component, options: Mapping[str, Any], findings: list[Finding]) -> bytes | None:
    try:
        path = load_source(component, _cache_dir(options))
        data = path.read_bytes()
    except ManifestError as error:
        findings.append(Finding(Level.BROKEN, error.message, YOU, UNREACHED, component.id))
        return None
    except OSError as error:
        findings.append(
            Finding(
                Level.BROKEN, f"its Wasm cannot be read: {error}", OPERATOR, "let it be read", component.id
            )
        )
        return None
    if path.suffix == ".wat":
        try:
            return wat2wasm(data)
        except ComponentError:
            return b""  # the loader says so, better
    return data


# Loading


def _load(
    manifest: Manifest, options: Mapping[str, Any], broken: Iterable[str], guests: Mapping[str, Inspection]
) -> tuple[bool, list[Finding]]:
    """Whether the application as a whole is in order, and what keeps components from being loaded."""
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="wasm-gateway-") as folder:  # nothing is kept of it
        try:
            gateway = Gateway(manifest, GatewayOptions(**{"state_dir": folder, "log_dir": "", **options}))
        except GatewayError as error:
            return False, [_of_application(error)]
        try:
            loader = Loader(gateway)
            for one in served(manifest):
                if one.component.id in broken:
                    continue
                try:
                    loader.check(one)
                except GatewayError as error:
                    findings.append(
                        _of_component(error, one, guests.get(one.component.id), manifest.folder, options)
                    )
        except GatewayError as error:
            return False, [*findings, _of_application(error)]
        finally:
            gateway.close()
    return True, findings


def _of_application(error: GatewayError) -> Finding:
    if isinstance(error, ManifestError):
        advice = "mend it, or give what is missing (--variable, --runtime-config-file)"
        place = error.key or (str(error.path) if error.path else None)
        return Finding(Level.BROKEN, error.message, YOU, advice, place=place)
    return Finding(Level.BROKEN, str(error), OPERATOR, "mend the installation")


def _of_component(
    error: GatewayError, one: Served, guest: Inspection | None, folder: Path, options: Mapping[str, Any]
) -> Finding:
    component, id = one.component, one.component.id
    by_wagi = one.http is not None and one.http.executor.type == "wagi"
    what = Exception.__str__(error)  # without the component, with which the line begins
    if isinstance(error, ManifestError):
        advice = "mend the manifest"
        if component.build is not None and "does not exist" in error.message:
            advice = f"{_how_to_build(component, folder, options)}, or mend the manifest"
        elif "cannot be had" in error.message:
            advice = UNREACHED
        return Finding(Level.BROKEN, error.message, YOU, advice, id, error.key)
    if isinstance(error, HostError):
        return Finding(Level.BROKEN, what, OPERATOR, "see to what stands behind it", id)
    lent = set(map(canonical_name, component.options.host_interfaces))
    if isinstance(error, LinkError) and error.interface and canonical_name(error.interface) in lent:
        what = f"it imports what a site lends ({error.interface}), and runs only in that site"
        site = find_site(folder)
        advice = "look at it there (`manage.py check --deploy`, `flask wasm compile`)"
        return Finding(Level.RISK if site is None else Level.HINT, what, YOU, advice, id)
    if guest is not None and guest.dialects == ("wagi",) and not by_wagi:
        advice = 'give its trigger `executor = { type = "wagi" }`, if it is a CGI program'
        return Finding(Level.BROKEN, what, YOU, advice, id)
    if isinstance(error, DecodeError):
        return Finding(Level.BROKEN, what, AUTHOR, "build it again", id)
    if isinstance(error, UnsupportedError):
        advice = f"do without it ({error.feature}), or run this component with Spin"
        return Finding(Level.BROKEN, what, AUTHOR, advice, id)
    return Finding(
        Level.BROKEN,
        what,
        AUTHOR,
        "build it for an interface that is served here (documentation: Host interfaces)",
        id,
    )


def _warnings(component: Component, guest: Inspection) -> Iterator[Finding]:
    """What will fail when it is called."""
    grants = [grant for grant in guest.grants if grant.denied]
    if len(guest.grants) < WHOLE_WORLD:
        for grant in grants:
            if grant.key in TOLD:
                what = f"it imports {', '.join(grant.needed_by)}, and has no {grant.key}: calls are denied"
                advice = f'grant it (`{grant.key} = ["default"]`), if it calls them'
                yield Finding(Level.HINT, what, YOU, advice, component.id)
    if component.ai_models:
        what = "it may use AI models, and there is none here: inferencing answers with an error"
        yield Finding(Level.RISK, what, YOU, "call a model by HTTP, or run it with Spin", component.id)
    lacking = {
        (module, extra)
        for grant in guest.grants
        for name in grant.needed_by
        for beginning, module, extra in EXTRAS
        if name.startswith(beginning) and importlib.util.find_spec(module) is None
    }
    if component.allowed_outbound_hosts:
        for module, extra in sorted(lacking):
            what = f"it imports what needs the Python package {module}, which is not installed"
            advice = f"pip install 'wasm-gateway[{extra}]', if it calls it"
            yield Finding(Level.RISK, what, OPERATOR, advice, component.id)


def _tables(component: Component, manifest: Manifest) -> Iterator[Finding]:
    """SQL beside a component that has the default database, which begins empty."""
    if "default" not in component.sqlite_databases:
        return
    folder = manifest.folder
    workdir = component.build.workdir if component.build and component.build.workdir else ""
    files = sorted(
        {*folder.glob("*.sql"), *(folder / workdir).glob("*.sql"), *folder.glob("migrations/*.sql")}
    )
    if files:
        shown = [path.relative_to(folder) if path.is_relative_to(folder) else path for path in files]
        what = f"its database begins empty, and there is SQL ({', '.join(map(str, shown[:3]))})"
        flags = " ".join(f"--sqlite @{path}" for path in shown[:3])
        advice = f"make the tables first, if these do (`wasm-gateway up {flags}`; setting SQLITE)"
        yield Finding(Level.HINT, what, YOU, advice, component.id)


def _ranges(component: Component) -> Iterator[Finding]:
    """Dependencies that may be another one at the next start."""
    for name, dependency in component.dependencies.items():
        source = dependency.source
        if isinstance(source, RegistrySource) and exact_version(source.version) is None:
            what = f"its dependency {name} is looked up at each start ({source.package}@{source.version})"
            advice = 'name one version (`version = "=1.2.3"`), so that all processes have the same'
            yield Finding(
                Level.HINT, what, YOU, advice, component.id, f"component.{component.id}.dependencies"
            )
