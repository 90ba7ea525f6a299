# A component of a manifest -> an entry that answers requests: bytes, grants, limits,
# files, and the executors that its triggers want.
#
# Rule 1: everything that can be known before the first request is checked here, and
# an error names the component.
# Rule 2: what components share (engine, cache, stores, variables) is made once, by
# the Loader; what it makes belongs to the Gateway.

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .assets import load_source, prepare_files
from .compile_cache import CompileCache
from .component.core import preamble
from .component.names import canonical_name
from .component_options import ComponentOptions
from .engine import Engine, wat2wasm
from .errors import ComponentError, LinkError, ManifestError, NotBuilt, Saturated, UnsupportedError
from .executors import Executor, MessageExecutor, Provider, load_guest
from .host import identity
from .host.application import Hosts
from .host.base import Grants
from .host.outbound import AllowedHosts, Both, SafeHosts, validate
from .kept import Binaries, KeptGuests
from .manifest import (
    INHERITABLE,
    Component,
    Dependency,
    HttpTrigger,
    Manifest,
    PathSource,
    RegistrySource,
    Source,
    UrlSource,
    error_in,
)
from .policy import Failure
from .variables import Variables

log = logging.getLogger("wasm_gateway")

if TYPE_CHECKING:
    from .gateway import Gateway

# Keys of a manifest that a dependency may inherit -> fields of Grants; files are no grant.
INHERITED = {
    "ai_models": "ai_models",
    "allowed_outbound_hosts": "outbound",
    "environment": "environment",
    "key_value_stores": "key_value_stores",
    "sqlite_databases": "sqlite_databases",
    "variables": "variables",
}

# How many of the last durations a component's statistics keep.
KEPT_DURATIONS = 50


@dataclass(slots=True)
class Statistics:
    """What a component did in this process; durations in microseconds, oldest first."""

    component: str
    dialect: str
    started: int = 0
    failed: int = 0
    last_us: list[float] = field(default_factory=list)
    swaps: int = 0  # guests that came after the first one
    refused: str | None = None  # why the guest that lies there now is not taken


@dataclass(frozen=True, slots=True)
class Loaded:
    """A guest that answers from now on, in this process.

    `act` is how it came: "open" with the gateway, "swap" in the place of another one, "rollback" again.
    """

    component: str
    dialect: str
    act: str


@dataclass(frozen=True, slots=True)
class Served:
    """A component as some of its triggers have it: `http` is the last of those, None for none.

    `id` is the component's, or one of its own (Spin: manifest, 2.3).
    """

    id: str
    component: Component
    http: HttpTrigger | None = None
    messages: bool = False


def entry_ids(manifest: Manifest) -> dict[str, str]:
    """The id of what serves each HTTP trigger, by its own.

    Of a component it is the component's, but for triggers that have other middleware than another one of it.
    """
    kinds: dict[str | None, set[tuple[Dependency, ...]]] = {}
    for http in manifest.http_triggers:
        kinds.setdefault(http.component, set()).add(http.middleware)
    for redis in manifest.redis_triggers:
        kinds.setdefault(redis.component, set()).add(())
    apart: dict[tuple[str, tuple[Dependency, ...]], str] = {}
    ids: dict[str, str] = {}
    for http in manifest.http_triggers:
        if http.component is None:
            continue
        ids[http.id] = http.component
        if http.middleware and len(kinds[http.component]) > 1:
            key = http.component, http.middleware
            ids[http.id] = apart.setdefault(key, f"{http.component}-for-{http.id}")
    return ids


def served(manifest: Manifest) -> list[Served]:
    """What there is to be served, in the order of triggers; ManifestError for no component."""
    found: dict[str, Served] = {}

    def of(id: str, component_id: str) -> Served:
        component = manifest.components.get(component_id)
        if component is None:
            raise ManifestError(
                f"missing component {component_id!r} configured for a trigger", path=manifest.path
            )
        return found.get(id) or Served(id, component)

    ids = entry_ids(manifest)
    for http in manifest.http_triggers:
        if http.component is not None:
            found[ids[http.id]] = replace(of(ids[http.id], http.component), http=http)
    for redis in manifest.redis_triggers:
        found[redis.component] = replace(of(redis.component, redis.component), messages=True)
    return list(found.values())


def sources(one: Served) -> list[Path]:
    """The files that are loaded for it; what is fetched is not looked after."""
    others = (*one.component.dependencies.values(), *(one.http.middleware if one.http else ()))
    found = (one.component.source, *(other.source for other in others))
    return [source.path for source in found if isinstance(source, PathSource)]


class Places:
    """The places and counters of a component; guests that follow one another in it share them."""

    def __init__(self, limit: int) -> None:
        self.lock = threading.Lock()  # guards what follows
        self.limit = limit
        self.free = limit
        self.started = self.failed = 0
        self.durations: deque[float] = deque(maxlen=KEPT_DURATIONS)

    def resize(self, limit: int) -> None:
        """Have `limit` places from now on; where more are taken, none is free until enough came back."""
        with self.lock:
            self.free += limit - self.limit
            self.limit = limit


class Entry:
    """A component that is being served: its executors, its places, its counters."""

    def __init__(self, id: str, component: Component, options: ComponentOptions) -> None:
        self.id = id
        self.component = component
        self.options = options
        self.http: Executor | None = None
        self.messages: MessageExecutor | None = None
        self.inline = options.inline  # until it turns out not to be quick
        self.problem: ComponentError | None = None  # why it has neither, and is served all the same
        # What swap.py knows of it.
        self.digest: str | None = None  # of its binaries, where somebody compares
        self.rejected: str | None = None  # of those that were rolled back, and are not to come again
        self.refused: str | None = None  # why others, that lie there now, are not taken
        self.before: Entry | None = None  # the last good one
        self.swaps = 0
        self.outside: Both | None = None  # where `http` may go beside the site
        self._beside: Executor | None = None
        self.identity: Callable[[], str] | None = None  # the header that says who asks, where it wants one
        self.start_over()

    def start_over(self) -> None:
        """Counters and lock as new, as a forked child must have them."""
        self._places = Places(self.options.max_concurrency)

    def succeed(self, other: Entry) -> None:
        """Take the place of `other`, with what is counted and taken there."""
        self._places = other._places
        self._places.resize(self.options.max_concurrency)
        self.swaps = other.swaps + 1

    def close(self) -> None:
        """Give up what is kept between requests; those under way go on."""
        for executor in (self.http, self._beside):
            if executor is not None:
                executor.close()

    @property
    def beside(self) -> Executor:
        """`http` for requests that the site answers; LinkError where it has none."""
        if self.http is None or self.outside is None:
            raise self.problem or LinkError("exports no HTTP handler")
        if self._beside is None:
            self._beside = self.http.beside(self.outside)
        return self._beside

    def reopen(self) -> None:
        """Serve again after `close`."""
        for executor in (self.http, self._beside):
            if executor is not None:
                executor.reopen()

    def run(self, execute: Callable[..., Any], *arguments: Any) -> Any:
        """`execute(*arguments)` in one of the places, counted and timed; Saturated when none is free."""
        places = self._places
        with places.lock:
            if places.free < 1:
                raise Saturated(f"all {self.options.max_concurrency} instances are busy")
            places.free -= 1
            places.started += 1
        failed = 1
        begin = time.perf_counter()
        try:
            result = execute(*arguments)
            failed = 0
            return result
        finally:
            duration = (time.perf_counter() - begin) * 1e6
            with places.lock:
                places.free += 1
                places.failed += failed
                places.durations.append(duration)

    def statistics(self) -> Statistics:
        executor, places = self.http or self.messages, self._places
        dialect = "none" if executor is None else executor.dialect
        with places.lock:
            counted = places.started, places.failed, list(places.durations)
        return Statistics(self.id, dialect, *counted, self.swaps, self.refused)


class Loader:
    """Makes entries out of components; what they share (engine, cache, hosts, variables) is made once."""

    def __init__(self, gateway: Gateway, manifest: Manifest | None = None, *, apart: bool = False) -> None:
        """For the gateway's manifest, or one that shall become it.

        `apart`: files are copied into folders of their own, since others are in use.
        """
        options = gateway.options
        self.manifest = manifest = manifest or gateway.manifest
        self.apart = apart
        self.gateway = gateway
        self.asking = threading.Lock()  # guards the next, also while a registry is asked
        self.packages: dict[Source, Path] = {}  # a range is one version for all
        self.engine = Engine.shared(options.engine)
        cache_dir = Path(options.cache_dir) if options.cache_dir else default_cache_dir()
        self.cache = None if options.disable_cache else CompileCache(cache_dir / "compiled")
        # where all processes may be told to go back
        self.kept = None if self.cache is None or options.ledger is None else KeptGuests(cache_dir / "guests")
        self.cache_dir = cache_dir
        self.engine.test()
        self.variables = Variables.from_manifest(manifest, gateway.runtime_config, options.variables)
        gateway.runtime_config.check(manifest, key_value_stores=options.stores)
        if gateway.hosts is None:
            gateway.hosts = Hosts(
                gateway.runtime_config,
                state_dir=gateway.state_dir,
                key_value=options.key_value,
                sqlite=options.sqlite,
                stores=options.stores,
                interfaces=options.interfaces,
            )
        self.hosts = gateway.hosts

    def load(self, served: Served) -> Entry:
        """The entry of `served`; with a `problem` where the site answers instead, or it is still built."""
        limits = self.gateway.options_of(served.component, self.manifest)
        waits = self.gateway.build_report is not None and _is_made(served.component)
        problem: ComponentError
        try:
            return self.load_guest(served, limits=limits)
        except ComponentError as error:
            if Failure.LINK in limits.rule.fallback:
                log.error("%s; the site answers instead", error)
            elif waits:
                log.error("%s", error)
            else:
                raise
            problem = error
        except ManifestError:
            missing = next((path for path in sources(served) if not path.exists()), None)
            if missing is None or not waits or served.component.build is None:
                raise
            problem = NotBuilt(f"{missing} is not there yet")
            problem.component = served.component.id
        entry = Entry(served.id, served.component, limits)
        entry.problem = problem
        return entry

    def load_guest(
        self, served: Served, binaries: Binaries | None = None, limits: ComponentOptions | None = None
    ) -> Entry:
        """The same, but what is wrong is raised in any case."""
        try:
            limits = limits or self.gateway.options_of(served.component, self.manifest)
            return self._load(served, limits, binaries)
        except ComponentError as error:
            error.component = served.component.id
            raise

    def check(self, served: Served) -> None:
        """Load it; DecodeError also for a component that runs here, but is not valid by itself.

        What a component imports twice is the same here, whatever it says: other engines refuse that.
        """
        # imported where it is needed: a worker checks nothing, and starts faster
        from .component.parse import parse_component
        from .component.resolve import validate as validate_component

        entry = self.load(served)
        if entry.problem is not None:
            raise entry.problem
        try:
            for wasm in self.read(served):
                if preamble(wasm) == "component":
                    validate_component(parse_component(wasm))
        except ComponentError as error:
            error.component = served.component.id
            raise

    def read(self, served: Served) -> Binaries:
        """What lies there now. Raises ManifestError for what does not, ComponentError for bad text."""
        component = served.component

        def others(dependencies: Iterable[tuple[str, Dependency]]) -> dict[str, bytes]:
            return {name: self._dependency(component, name, each) for name, each in dependencies}

        try:
            wasm = self._wasm(component, "source")
            return Binaries(wasm, others(component.dependencies.items()), others(_named(served.http)))
        except ComponentError as error:
            error.component = component.id
            raise

    def find(self, served: Served, digest: str) -> Binaries:
        """What has that digest, as this machine has loaded it before; LinkError where it has not."""
        found = None if self.kept is None else self.kept.find(digest)
        others = list(served.component.dependencies), [name for name, _ in _named(served.http)]
        if found is None or (list(found.dependencies), list(found.chain)) != others:
            raise LinkError(f"{digest[:12]} is not in the cache of this machine, or not any more")
        return found

    def _load(self, served: Served, limits: ComponentOptions, binaries: Binaries | None) -> Entry:
        gateway, options = self.gateway, self.gateway.options
        component, trigger = served.component, served.http
        outbound = AllowedHosts.for_component(
            component.allowed_outbound_hosts,
            resolve=self.variables.resolve_template,
            components=tuple(self.manifest.components),
            component=component.id,
        )
        grants = Grants(
            id=component.id,
            key_value_stores=frozenset(component.key_value_stores),
            sqlite_databases=frozenset(component.sqlite_databases),
            ai_models=frozenset(component.ai_models),
            host_interfaces=frozenset(map(canonical_name, _lent(limits))),
            lend=frozenset(limits.lend),
            environment={**component.environment, **options.environment},
            variables=self.variables.of(component),
            outbound=outbound,
        )
        self._check_templated_hosts(component)
        if binaries is None:
            binaries = self.read(served)
        entry = Entry(served.id, component, limits)
        entry.http, entry.messages = load_guest(
            binaries.wasm,
            engine=self.engine,
            cache=self.cache,
            hosts=self.hosts,
            grants=grants,
            options=limits,
            mounts=self._mounts(component, entry),
            services=gateway,
            wagi_argv=trigger.executor.argv if trigger and trigger.executor.type == "wagi" else None,
            wants_http=trigger is not None,
            wants_messages=served.messages,
            providers=_providers(component.dependencies.items(), binaries.dependencies, grants),
            chain=self._chain(trigger, binaries.chain, grants),
        )
        if limits.identity_headers:
            entry.identity = self._identity(component, limits)
        entry.outside = Both(outbound, self._safe_hosts(component, limits))
        if options.watch or options.ledger is not None:
            entry.digest = binaries.digest
        if self.kept is not None:
            self.kept.keep(binaries)
        return entry

    def _identity(self, component: Component, limits: ComponentOptions) -> Callable[[], str] | None:
        """What makes the header that says who asks; None where nobody can tell."""
        for each in self.gateway.options.interfaces:
            if isinstance(each, identity.Identity):
                return partial(each.header, component.id, limits.lend)
        return None

    def _safe_hosts(self, component: Component, limits: ComponentOptions) -> SafeHosts:
        try:
            return SafeHosts(
                limits.shadow_allowed_hosts,
                resolve=self.variables.resolve_template,
                components=tuple(self.manifest.components),
                component=component.id,
            )
        except ManifestError as error:
            key = f"component.{component.id}.shadow_allowed_hosts"
            raise ManifestError(error.message, path=self.manifest.path, key=key) from error

    def _check_templated_hosts(self, component: Component) -> None:
        """Entries whose variables all have defaults have to be right with them (Spin: manifest, 8)."""
        manifest = self.manifest

        def with_defaults(text: str) -> str | None:
            template = self.variables.template(text)
            values = {name: manifest.variables[name].default for name in template.names}
            return None if None in values.values() else template.resolve(lambda name: values[name] or "")

        try:
            validate(component.allowed_outbound_hosts, with_defaults)
        except ManifestError as error:
            place = ("component", component.id, "allowed_outbound_hosts")
            raise error_in(manifest.path, error.message, *place) from error

    def _wasm(self, component: Component, *place: str) -> bytes:
        """The bytes of a component, or of one that stands for a dependency at `place`."""
        path = self.manifest.path
        with self.asking if isinstance(component.source, RegistrySource) else nullcontext():
            source = self.packages.get(component.source)
            if source is None:
                source = load_source(component, self.cache_dir, manifest_path=path, place=place)
                if isinstance(component.source, RegistrySource):
                    self.packages[component.source] = source
        try:
            wasm = source.read_bytes()
            return wat2wasm(wasm, str(source)) if source.suffix == ".wat" else wasm
        except OSError as error:
            raise error_in(path, f"cannot be read: {error}", "component", component.id, *place) from error

    def _chain(
        self, trigger: HttpTrigger | None, binaries: Mapping[str, bytes], grants: Grants
    ) -> list[Provider]:
        """The middleware of a trigger, with what it inherits of the component (Spin: manifest, 2.3)."""
        if trigger is None or not trigger.middleware:
            return []
        if trigger.executor.type == "wagi":
            raise UnsupportedError(
                "its trigger has `middleware`, which stands before handlers of wasi:http, and the executor "
                "wagi calls none",
                "middleware of wagi",
            )
        return _providers(_named(trigger), binaries, grants)

    def _dependency(self, component: Component, name: str, dependency: Dependency) -> bytes:
        return self._wasm(replace(component, source=dependency.source, build=None), "dependencies", name)

    def _mounts(self, component: Component, entry: Entry) -> Any:
        """What the guest sees of the folder; copies that are apart go with `entry`."""
        if not component.files:
            return ()
        gateway, options = self.gateway, self.gateway.options
        work_dir = gateway.work_dir
        if self.apart:
            work_dir = Path(tempfile.mkdtemp(dir=work_dir))
            weakref.finalize(entry, remove_folder, work_dir, os.getpid())
        return prepare_files(
            component,
            self.manifest.folder,
            work_dir=work_dir,
            direct_mounts=options.direct_mounts,
            writable=options.allow_transient_write,
            in_place=True,
            manifest_path=self.manifest.path,
        )


def _is_made(component: Component) -> bool:
    """Whether somebody who mends a source mends the guest."""
    source = component.source
    return component.build is not None or (isinstance(source, PathSource) and source.path.suffix == ".wat")


def remove_folder(folder: Path, owner: int) -> None:
    """Remove a folder that has been made in process `owner`; nothing in its forked children."""
    if owner == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)


def _providers(
    dependencies: Iterable[tuple[str, Dependency]], binaries: Mapping[str, bytes], grants: Grants
) -> list[Provider]:
    """What meets imports of a component with `grants`, with what it inherits (Spin: manifest, 9)."""
    narrowed: dict[tuple[str, ...], Grants] = {}
    providers = []
    for name, dependency in dependencies:
        inherit = dependency.inherit
        if inherit not in narrowed:
            narrowed[inherit] = inherited(grants, inherit)
        wasm, files = binaries[name], "files" in inherit
        providers.append(Provider(name, wasm, dependency.export, narrowed[inherit], files))
    return providers


def _lent(options: ComponentOptions) -> tuple[str, ...]:
    return (*options.host_interfaces, identity.INTERFACE) if options.lend else options.host_interfaces


def _named(trigger: HttpTrigger | None) -> list[tuple[str, Dependency]]:
    """The middleware of a trigger, with names for people."""
    named = []
    for number, each in enumerate(() if trigger is None else trigger.middleware, 1):
        match each.source:
            case PathSource(path):
                place = str(path)
            case UrlSource(url):
                place = url
            case RegistrySource(package):
                place = package
        named.append((f"middleware {number} ({each.component or place})", each))
    return named


def inherited(grants: Grants, keys: Collection[str]) -> Grants:
    """What is left of `grants` for a dependency that inherits `keys` of the configuration."""
    whole = {key: getattr(grants, INHERITED[key]) for key in keys if key in INHERITED}
    if set(keys) >= set(INHERITABLE):
        whole |= {"host_interfaces": grants.host_interfaces, "lend": grants.lend}
    return Grants(grants.id, **{INHERITED.get(key, key): value for key, value in whole.items()})


def default_cache_dir() -> Path:
    """The user's own cache folder for this package."""
    from platformdirs import user_cache_path

    return user_cache_path("wasm-gateway")
