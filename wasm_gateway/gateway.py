# The Gateway: route -> executor -> Response, and the owner of all that serves it.
#
# Rule 1: it decides nothing about HTTP that router.py, executors/ or a door decides;
# it wires them, bounds them, counts them, and turns an error into a status.
# Rule 2: everything shared has this owner: engine, compiled guests, stores, files.
# `open` makes it all before the first request, `close` gives it all back.
# Rule 3: a client learns a status and nothing else; the reason goes to the log.

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import forks, observe
from .component_options import ComponentOptions
from .engine import EngineOptions
from .errors import (
    BodyTooLarge,
    GatewayError,
    HostError,
    LinkError,
    ManifestError,
    NotBuilt,
    Trap,
)
from .executors import Executor
from .executors.guest import checked_headers
from .guest_logs import GuestLogs, InstanceLog, printable
from .host import identity
from .host.application import Hosts
from .host.base import HostContext
from .host.site import HostInterface
from .loader import Entry, Loaded, Loader, Statistics, default_cache_dir, entry_ids, remove_folder, served
from .making.build_report import BuildFailure, BuildReport
from .manifest import (
    Component,
    HttpTrigger,
    Manifest,
    StaticResponse,
    load_manifest,
)
from .messages import STREAMED, Begin, Headers, Request, Response, refusal
from .migration.orders import Act
from .router import RouteMatch, Router, spin_headers
from .runtime_config import RuntimeConfig, load_runtime_config
from .swap import GUESTS, Swaps

if TYPE_CHECKING:
    from .making.workshop import Workshop
    from .migration.ledger import Ledger
    from .migration.pilot import Pilot, Turn
    from .policy import Facts, Rule

log = logging.getLogger("wasm_gateway")

WELL_KNOWN = "/.well-known/spin/"

DEFAULT_ENGINE = EngineOptions()


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """What an application is run with, besides its manifest; names and meanings are those of `spin up`'s
    flags where it has them (Spin: command line, 3).
    """

    #: A `runtime-config.toml`: its path, or what `load_runtime_config` has read.
    runtime_config: RuntimeConfig | str | Path | None = None
    #: Where stores are kept; None for the default, `.spin` beside the manifest, "" for nowhere.
    state_dir: str | Path | None = None
    #: Where output of guests is kept; None for the default, `logs` in the state folder, "" for nowhere.
    log_dir: str | Path | None = None
    #: Where compiled and downloaded guests are kept; None for the user's cache.
    cache_dir: str | Path | None = None
    #: Values of the manifest's variables.
    variables: Mapping[str, str] = field(default_factory=dict)
    #: Environment of every component, besides its own.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Keys and values that are put into the store `default` when the gateway opens.
    key_value: Mapping[str, str] = field(default_factory=dict)
    #: Statements that are run when the gateway opens: SQL, `@file.sql` or `@file.sql:label`.
    sqlite: Sequence[str] = ()
    #: Key-value stores that the site has made itself, by label.
    stores: Mapping[str, Any] = field(default_factory=dict)
    #: What the site lends to components that name it in `host_interfaces`: each a HostInterface.
    interfaces: Sequence[HostInterface] = ()
    #: Options of every component: keys of the `tool.wasm-gateway` tables, which these replace.
    limits: Mapping[str, Any] = field(default_factory=dict)
    #: Options of one component, by its id, or who answers a route, by its pattern; they win over all others.
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Where all processes share what is turned while they run, and what they count: the path of a SQLite
    #: file, the URL of a Redis, or a Ledger.
    ledger: Ledger | str | Path | None = None
    #: Functions that compare the answers of guest and site, or their dotted names, by the id of a component
    #: or the pattern of a route.
    compare: Mapping[str, Any] = field(default_factory=dict)
    #: Told of each guest that answers from now on, in this process. It must not reload any.
    loaded: Callable[[Loaded], object] | None = None
    #: Entered around each guest that runs in a thread of the gateway's own.
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    #: Guests may change mounted files: copies of them, which are removed when the gateway closes; with
    #: `direct_mounts` the files themselves.
    allow_transient_write: bool = False
    #: Folders of the manifest are mounted themselves, and not a copy of their files.
    direct_mounts: bool = False
    #: Compile each time, and keep nothing.
    disable_cache: bool = False
    #: Guests and manifest are replaced when their files change.
    watch: bool = False
    #: For development only: guests are built too when their sources change, and what could not be built is
    #: shown.
    build: bool = False
    #: The file that says what could not be built, where another process builds the guests.
    build_report: str | Path | None = None
    #: Count requests with prometheus-client, in its default registry; needs the extra `metrics`.
    metrics: bool = False
    #: Make spans with opentelemetry-api, by the SDK that the process has set up; needs the extra `otel`.
    tracing: bool = False
    #: A line for each request of a guest, to the logger `wasm_gateway.access`.
    access_log: bool = False
    #: A `Server-Timing` header with each response of a guest.
    server_timing: bool = False
    #: Observers of the site's own (observe.Observer).
    observers: Sequence[observe.Observer] = ()
    #: Ids of the components whose output also goes to stderr; None for all.
    follow: Collection[str] | None = ()
    #: What runs guests.
    engine: EngineOptions = DEFAULT_ENGINE


class Gateway:
    """Serves the routes of a manifest; make it with `Gateway.from_manifest`.

    It opens itself at the first request; `open` does so earlier, and tells what it compiles. Use it from
    any number of threads, and in forked children.
    """

    def __init__(self, manifest: Manifest, options: GatewayOptions | None = None) -> None:
        options = options or GatewayOptions()
        if options.build:
            options = replace(options, watch=True)
        self.options = options
        self.runtime_config = _runtime_config(options.runtime_config)
        config = self.runtime_config
        beside = manifest.folder / ".spin" if manifest.path is not None else None
        self.state_dir = _directory(options.state_dir, config.state_dir, beside)
        self.log_dir = _directory(options.log_dir, config.log_dir, self.state_dir and self.state_dir / "logs")
        self._take(manifest)
        self._lock = threading.Lock()  # guards opening and closing
        self._entries: dict[str, Entry] | None = None
        self.pilot: Pilot | None = None  # where anybody but the guests may answer
        self._work_lock = threading.Lock()  # guards the making of the next
        self._work_dir: tuple[Path, Callable[[], object]] | None = None
        self.hosts: Hosts | None = None
        self.watch = observe.watch(
            options.observers,
            metrics=options.metrics,
            tracing=options.tracing,
            access_log=options.access_log,
            server_timing=options.server_timing,
        )
        self.logs = GuestLogs(self.log_dir, follow=options.follow)
        self.build_report = None if options.build_report is None else BuildReport(Path(options.build_report))
        self.workshop: Workshop | None = None
        self.swaps = Swaps(self, watch=options.watch)
        self._watcher = self.swaps.watcher
        forks.watch(self)

    def _take(self, manifest: Manifest) -> None:
        """Serve the routes of `manifest`, of whose guests there are entries, if it is open.

        The last step is what requests see of it.
        """
        ids = entry_ids(manifest)  # by those of triggers
        router = Router(
            (trigger.route, Target.of(trigger, ids))
            for trigger in manifest.http_triggers
            if trigger.route is not None
        )
        for duplicate in router.duplicates:  # Spin: http, 2.4
            targets: list[Any] = [duplicate.replaced, duplicate.effective]
            one, other = (target.trigger.id for target in targets)
            log.error("route %s: trigger %r is replaced by trigger %r", duplicate.raw, one, other)
        for route in router.reserved:
            log.error("route %s gets no request: the gateway itself answers below %s", route.raw, WELL_KNOWN)
        # Whom a request inside the application reaches. The executor's settings belong to the component: the
        # last trigger's win (Spin: http, 2.5).
        self._chained = {t.component: ids[t.id] for t in manifest.http_triggers if t.component is not None}
        self.manifest = manifest
        self.router = router

    def after_fork(self) -> None:
        """A forked child has its own places and locks."""
        self._lock = threading.Lock()
        self._work_lock = threading.Lock()
        for entry in (self._entries or {}).values():
            entry.start_over()

    @classmethod
    def from_manifest(
        cls,
        path: str | Path,
        *,
        components: Collection[str] | None = None,
        profile: str | None = None,
        **options: Any,
    ) -> Gateway:
        """A gateway for the manifest at `path` (a spin.toml, or a bare .wasm or .wat file).

        `components` keeps these components and their triggers only; `options` are the fields of
        GatewayOptions. Raises ManifestError.
        """
        read = partial(load_manifest, path, profile=profile, component_ids=components)
        gateway = cls(read(), GatewayOptions(**options))
        gateway.swaps.read = read
        if gateway.options.build and gateway.manifest.path is not None:
            gateway._build(gateway.manifest.path, profile=profile, components=components or ())
        return gateway

    def _build(self, path: Path, **which: Any) -> None:
        """Have the guests of the manifest at `path` built as long as this is open."""
        if path.suffix in GUESTS:
            return
        # imported where it is needed: sites in production build nothing
        from .making.build import read_jobs
        from .making.workshop import Workshop

        cache_dir = Path(self.options.cache_dir) if self.options.cache_dir else default_cache_dir()
        self.build_report = BuildReport.of(path, cache_dir)
        read = partial(read_jobs, path, **which)
        self.workshop = Workshop(
            *(path, read, self.build_report, cache_dir), serves=self.serves, built=self.swaps.built
        )

    # Life

    def open(self, progress: Callable[[str, int, int], object] | None = None) -> Gateway:
        """Load, compile and link every component that a trigger needs; nothing the second time.

        `progress(component id, done, total)` is called after each. Raises ManifestError, ComponentError,
        HostError; then nothing stays open.
        """
        if self._entries is None:
            self.swaps.begin()
            opened: Collection[Entry] = ()
            with self._lock:
                if self._entries is None:
                    try:
                        self._entries = self._load(progress)
                    except BaseException:
                        self._release()
                        raise
                    opened = self._entries.values()
            self._tell(opened, "open")
            if self.workshop is not None:
                self.workshop.start()
        return self

    def _tell(self, entries: Iterable[Entry], act: str) -> None:
        """Tell the site of guests that answer from now on."""
        loaded = self.options.loaded
        if loaded is None:
            return
        for entry in entries:
            executor = entry.http or entry.messages
            if executor is not None:
                try:
                    loaded(Loaded(entry.component.id, executor.dialect, act))
                except Exception:
                    log.exception("the site could not be told of component %s", entry.component.id)

    def close(self) -> None:
        """Give back stores, connections, files and compiled guests. Requests must have ended."""
        if self.workshop is not None:
            self.workshop.stop()
        if self.pilot is not None:
            self.pilot.stop()
        self.swaps.close()
        if self.pilot is not None:
            self.pilot.shadows.close()
        with self.swaps.lock, self._lock:
            entries, self._entries = self._entries, None
            for entry in (entries or {}).values():
                entry.close()
            pilot, self.pilot = self.pilot, None
            if pilot is not None:
                pilot.close()
            self._release()
        if self.watch is not None:
            self.watch.close()

    def __enter__(self) -> Gateway:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _release(self) -> None:
        hosts, self.hosts = self.hosts, None
        try:
            if hosts is not None:
                hosts.close()
        finally:
            self.logs.close()
            if self._work_dir is not None:
                self._work_dir[1]()
                self._work_dir = None

    def reload(self, component_id: str | None = None, *, by: str | None = None) -> None:
        """Load the guest of a component again from its file; for None the manifest, and all guests.

        The old ones answer until the new ones can, and go on when these cannot be loaded. Raises
        ManifestError, ComponentError, HostError. It is for this process only, unless `by` says whose order it
        is to all that share the ledger: they obey within a second, one with a guest that compiles later, and
        log what they cannot do.
        """
        if by is None:
            self.swaps.reload(component_id)
        else:
            self._order(Act.RELOAD, component_id, by)

    def rollback(self, component_id: str, *, by: str | None = None) -> None:
        """Have the guest answer again that was replaced last, until a file comes that is another one still.

        HostError for none: one is kept, and none across a changed manifest. `by` is as for `reload`;
        then it holds for processes that start later too, as long as the machine's cache has that guest.
        """
        if by is None:
            self.swaps.rollback(component_id)
        else:
            self._order(Act.ROLLBACK, component_id, by)

    def _order(self, act: Act, component_id: str | None, by: str) -> None:
        pilot = self.steer()
        if pilot is None or pilot.ledger is None:
            raise HostError("orders to all processes are given in a ledger, and there is none")
        if component_id is not None and component_id not in self.manifest.components:
            raise ManifestError(f"no such component: `{component_id}`", path=self.manifest.path)
        if act is Act.RELOAD and self._entries is None:
            self._try(component_id)
        pilot.order(act, component_id, by)

    def _try(self, component_id: str | None) -> None:
        """Load the guest of a component, of each for None, and let it go again; what `open` raises."""
        with self._lock:
            loader = Loader(self)
            try:
                for one in served(self.manifest):
                    if component_id in (None, one.component.id):
                        loader.load(one).close()
            finally:
                if self._entries is None:
                    self._release()

    def steer(self) -> Pilot | None:
        """Who has the rules and the ledger, None where the guests answer everything; loads no guest.

        A route can be turned to the site's own also when a guest lies there that cannot be loaded.
        """
        with self._lock:
            if self.pilot is None:
                components = (one.component for one in served(self.manifest))
                options = {each.id: self.options_of(each) for each in components}
                self.pilot = self._pilot(options)
            return self.pilot

    def serves(self, component_id: str) -> bool:
        """Whether the component has a guest that can be asked."""
        entries = (self._entries or {}).values()
        return any(entry.component.id == component_id and entry.problem is None for entry in entries)

    @property
    def watching(self) -> bool:
        """Whether guests are swapped when their files change: it is asked for, and they could be loaded."""
        return self.options.watch and self._entries is not None

    def watched_files(self) -> set[Path]:
        """The manifest, and the files of all guests that it serves. Raises ManifestError."""
        return self.swaps.files()

    def check(self) -> list[GatewayError]:
        """Everything that would keep `open` from working, component by component; empty when all is well."""
        problems: list[GatewayError] = []
        with self._lock:
            try:
                loader = Loader(self)
                components = served(self.manifest)
            except GatewayError as error:
                return [error]
            for one in components:
                try:
                    loader.check(one)
                except GatewayError as error:
                    problems.append(error)
            if self._entries is None:
                self._release()
        return problems

    def _load(self, progress: Callable[[str, int, int], object] | None) -> dict[str, Entry]:
        since = time.time_ns()
        components = served(self.manifest)
        loader = Loader(self)
        loader.hosts.start()
        # Compilation releases the GIL, so it runs side by side.
        entries: dict[str, Entry] = {}
        with ThreadPoolExecutor(min(len(components) or 1, os.cpu_count() or 1), "wasm-load") as pool:
            for done, entry in enumerate(pool.map(loader.load, components), 1):
                entries[entry.id] = entry
                if progress is not None:
                    progress(entry.id, done, len(components))
        steered, self.pilot = self.pilot, self._pilot(_options(entries), since)
        if steered is not None:
            steered.close()
        return entries

    def _govern(self, changed: Iterable[str]) -> None:
        """The components in `changed` have other guests, or other options."""
        entries = self._entries or {}
        if self.pilot is None:
            self.pilot = self._pilot(_options(entries), time.time_ns())
        else:
            self.pilot.govern(_options(entries), changed)

    def options_of(self, component: Component, manifest: Manifest | None = None) -> ComponentOptions:
        """The options of a component: its own, and what the site says; raises ManifestError.

        What is nearer to the command wins: manifest, runtime configuration, options. `manifest` is the one
        that the component is in, where that is to become this gateway's.
        """
        options = component.options
        if self.runtime_config.max_instance_memory is not None:
            options = replace(options, max_memory=self.runtime_config.max_instance_memory)
        if self.options.limits:
            options = options.updated(self.options.limits)
        rules = self.options.rules
        try:
            if component.id in rules:
                options = options.updated(rules[component.id])
            routes = [
                t.route for t in (manifest or self.manifest).http_triggers if t.component == component.id
            ]
            tables = {route: rules[route] for route in routes if route is not None and route in rules}
            return options.updated({"routes": {**options.routes, **tables}}) if tables else options
        except ManifestError as error:
            raise ManifestError(error.message, key=f"RULES.{component.id}.{error.key}") from None

    def _pilot(self, governed: Mapping[str, ComponentOptions], since: int | None = None) -> Pilot | None:
        """Who has the rules; with guests that obey orders where they were loaded, at `since`."""
        ledger = self.options.ledger
        if ledger is None and not any(options.governed for options in governed.values()):
            return None
        # imported where it is needed: most applications have guests that answer everything
        from .migration.ledger import open_ledger
        from .migration.pilot import Pilot
        from .migration.shadow import Shadows

        if isinstance(ledger, str | Path):
            ledger = open_ledger(ledger)
        functions = {
            name: _imported(value, f"COMPARE.{name}") for name, value in self.options.compare.items()
        }
        shadows = Shadows(self.options.around)
        if since is None:
            return Pilot(governed, ledger, shadows, functions)
        return Pilot(governed, ledger, shadows, functions, self.swaps, since)

    @property
    def work_dir(self) -> Path:
        """A folder of this gateway's own, for copies of files; removed by close(), or with the process."""
        with self._work_lock:
            if self._work_dir is None:
                path = Path(tempfile.mkdtemp(prefix="wasm-gateway-"))
                self._work_dir = path, weakref.finalize(self, remove_folder, path, os.getpid())
            return self._work_dir[0]

    # Requests

    def _look_out(self) -> None:
        """Begin to look for changed files in this process, where it is to and does not yet."""
        watcher = self._watcher
        if watcher is not None and not watcher.running:
            watcher.start()

    def follow(self) -> None:
        """Begin to follow the ledger in this process, for a door that never asks `choose`."""
        pilot = self.pilot
        if pilot is not None and not pilot.watches:
            pilot.watch()

    def match(self, path: str) -> RouteMatch | None:
        """Which route answers the raw `path`, None for none; cheap, for a door that has a native answer."""
        self._look_out()
        if path.startswith(WELL_KNOWN):
            return _WELL_KNOWN_MATCH
        return self.router.match(path)

    def handle(
        self,
        request: Request,
        match: RouteMatch | None = None,
        begin: Begin | None = None,
        turn: Turn | None = None,
    ) -> Response | None:
        """The response to `request`, None when no route matches. A guest's failure is a response too.

        `match` is what `match(request.path)` said, when the caller has asked already. With `begin` the
        response may go out before it is whole: then the result is messages.STREAMED, or the failure that
        kept the rest of it from being made. With `turn`, which `choose` gave, it is None also where the
        guest failed and the site is to answer instead; nothing has gone out then.
        """
        if match is None:
            match = self.match(request.path)
            if match is None:
                return None
        if match is _WELL_KNOWN_MATCH:
            return self._well_known(request.path)
        target = match.route.target
        assert isinstance(target, Target)
        if target.entry_id is None:
            return target.static
        if self.build_report is not None:
            return self._answer_or_show(target.entry_id, request, match, begin, turn)
        return self._answer(target.entry_id, request, match, begin, turn)

    def _answer_or_show(
        self, entry_id: str, request: Request, match: RouteMatch, begin: Begin | None, turn: Turn | None
    ) -> Response | None:
        """In development: the answer, or what could not be built (build_page.py)."""
        from .making import build_page

        assert self.build_report is not None
        entry = self._entry(entry_id)
        id, problem = entry.component.id, entry.problem
        failure = self.build_report.failures().get(id)
        if failure is None and entry.refused is not None:
            failure = BuildFailure(id, entry.refused, built=True)
        if problem is not None:
            if turn is not None and turn.failed(problem):
                return None
            if failure is None and isinstance(problem, NotBuilt):
                return build_page.pending(id, str(problem), request)
            return build_page.failed(
                failure or BuildFailure(id, str(problem), built=True), request, good=False
            )
        if failure is None:
            return self._answer(entry_id, request, match, begin, turn)
        if build_page.is_visit(request):
            return build_page.failed(failure, request, good=True)
        response = self._answer(entry_id, request, match, build_page.marking(begin), turn)
        return response if response is None or response is STREAMED else build_page.marked(response)

    def choose(self, match: RouteMatch, facts: Facts) -> Turn | None:
        """Who answers a request that `match` leads to; None where only the guest may.

        For a door that has a native answer; the turn is then given to `handle`, if the guest is to answer.
        """
        target = self._governed(match)
        if target is None:
            return None
        component, pilot = target.trigger.component, self.pilot
        assert component is not None
        assert pilot is not None
        turn = pilot.choose(component, match.route.raw, facts)
        if turn.choice.shadow:
            assert target.entry_id is not None
            turn.answer = partial(self._beside, target.entry_id, match)
        if self.watch is not None and not turn.choice.guest:
            self.watch.passed(component, match.route.raw, turn.choice.reason)
        return turn

    def rule(self, match: RouteMatch) -> Rule | None:
        """The rule by which `choose` chooses now; None where only the guest may answer."""
        target = self._governed(match)
        if target is None:
            return None
        assert target.trigger.component is not None
        assert self.pilot is not None
        return self.pilot.rule(target.trigger.component, match.route.raw)

    def _governed(self, match: RouteMatch) -> Target | None:
        """Where `match` leads to, if that is a component and there are rules at all."""
        if self._entries is None:
            self.open()
        target = match.route.target
        if self.pilot is None or not isinstance(target, Target) or target.trigger.component is None:
            return None
        return target

    def streams(self, match: RouteMatch) -> bool:
        """Whether a response of this route may go out before it is whole, from whatever thread."""
        target = match.route.target
        if not isinstance(target, Target) or target.entry_id is None:
            return False
        entry = self._entry(target.entry_id)
        # what the site lends may belong to the request's own thread, as Django's connections do
        return entry.http is not None and entry.http.streams and not entry.options.calls_site

    def runs_inline(self, match: RouteMatch) -> bool:
        """Whether the component of this route is said to answer quickly enough for an event loop."""
        entry = (self._entries or {}).get(getattr(match.route.target, "entry_id", None) or "")
        # what the site lends may refuse to run on a loop, as Django's models do
        return entry is not None and entry.inline and not entry.options.calls_site

    def leave_loop(self, match: RouteMatch) -> None:
        """The component of this route has held an event loop for too long: it is no longer `inline`."""
        entry = self._entry(getattr(match.route.target, "entry_id", ""))
        if entry.inline:
            entry.inline = False
            log.warning(
                "component %s is `inline` and has held the event loop: it runs in threads from now on",
                entry.id,
            )

    def _answer(
        self,
        entry_id: str,
        request: Request,
        match: RouteMatch,
        begin: Begin | None = None,
        turn: Turn | None = None,
    ) -> Response | None:
        if self.watch is None:
            return self._execute(entry_id, match, turn, None, request, begin)
        call = observe.Call(entry_id, match.label, request)
        return self.watch.answer(call, begin, partial(self._execute, entry_id, match, turn, call))

    def _execute(
        self,
        entry_id: str,
        match: RouteMatch,
        turn: Turn | None,
        call: observe.Call | None,
        request: Request,
        begin: Begin | None,
    ) -> Response | None:
        noted = begin if begin is None or turn is None else _Noted(begin)
        try:
            entry = self._entry(entry_id)
            executor = entry.http
            if executor is None:
                raise entry.problem or LinkError("exports no HTTP handler")
            if call is not None:
                call.dialect = executor.dialect
            length = request.headers.get("content-length")
            if length is not None and _number(length) > entry.options.max_request_body:
                raise BodyTooLarge(entry.options.max_request_body)
            request_ = _for_guest(request, match, executor, entry)
            door = noted if entry.options.cookies or noted is None else _without_cookies(noted)
            response: Response = entry.run(executor.execute, request_, match, door)
            if not entry.options.cookies and "set-cookie" in response.headers:
                response = replace(response, headers=response.headers.without("set-cookie"))
            if turn is not None:
                gone_out = noted if isinstance(noted, _Noted) and response is STREAMED else response
                turn.succeeded(gone_out.status)
            return response
        except GatewayError as error:
            instead = turn is not None and turn.failed(error)
            extra = observe.failure(call, entry_id, match.label, error)
            response = _failure(error, entry_id, f"{request.method} {request.path!r}", extra)
        except Exception as error:
            what = f"{request.method!r} {request.path!r}"
            extra = observe.failure(call, entry_id, match.label, error)
            log.exception("component %s: %s: error of the gateway", entry_id, what, extra=extra)
            instead = turn is not None and turn.failed(HostError(str(error)))
            response = Response(500)
        return None if instead and not getattr(noted, "begun", False) else response

    def _beside(self, entry_id: str, match: RouteMatch, request: Request) -> Response:
        """What the guest answers while the site does: whole, and nothing is seen of it; GatewayError."""
        if self.watch is None:
            return self._execute_beside(entry_id, match, None, request)
        call = observe.Call(entry_id, match.label, request)
        call.role = observe.Role.SHADOW
        response = self.watch.answer(
            call, None, lambda request, begin: self._execute_beside(entry_id, match, call, request)
        )
        assert response is not None
        return response

    def _execute_beside(
        self, entry_id: str, match: RouteMatch, call: observe.Call | None, request: Request
    ) -> Response:
        # never opened here: who closes the gateway waits for this
        entry = (self._entries or {}).get(entry_id)
        if entry is None:
            raise HostError("the gateway is closed")
        executor = entry.beside
        if call is not None:
            call.dialect = executor.dialect
        try:
            return executor.execute(_for_guest(request, match, executor, entry), match)
        except GatewayError:
            raise
        except Exception as error:
            extra = observe.failure(call, entry_id, match.label, error)
            log.exception("component %s, beside the site: error of the gateway", entry_id, extra=extra)
            raise HostError(str(error)) from error

    def _inside(self, caller: HostContext, entry_id: str, match: RouteMatch, request: Request) -> Response:
        """The answer to a request of a guest to its own application."""
        if not caller.component.scratch:
            response = self._answer(entry_id, request, match)
            assert response is not None
            return response
        try:
            return self._beside(entry_id, match, request)
        except GatewayError as error:
            extra = observe.failure(None, entry_id, match.label, error)
            return _failure(error, entry_id, f"beside the site: {request.method} {request.path!r}", extra)

    def handle_redis(self, component_id: str, payload: bytes) -> None:
        """Hand one message of a Redis channel to a fresh instance; raises GatewayError when it fails."""
        self._look_out()
        self.follow()
        if self.watch is None:
            self._deliver(component_id, None, payload)
        else:
            call = observe.Call(component_id, observe.REDIS)
            self.watch.deliver(call, partial(self._deliver, component_id, call, payload))

    def _deliver(self, component_id: str, call: observe.Call | None, payload: bytes) -> None:
        entry = self._entry(component_id)
        if entry.messages is None:
            raise LinkError("exports no Redis message handler", "fermyon:spin/inbound-redis")
        if call is not None:
            call.dialect = entry.messages.dialect
        entry.run(entry.messages.deliver, payload)

    def _entry(self, entry_id: str) -> Entry:
        entries = self._entries
        if entries is None:
            self.open()
            entries = self._entries
            assert entries is not None
        return entries[entry_id]

    def _well_known(self, path: str) -> Response:
        name = path.removeprefix(WELL_KNOWN)
        if name == "health":
            return Response(200, Headers(), (b"OK",))
        if name == "info":
            info = {"name": self.manifest.name}
            if self.manifest.version:
                info["version"] = self.manifest.version
            headers = Headers([("content-type", "application/json")])
            return Response(200, headers, (json.dumps(info, indent=2).encode(),))
        return Response(404)

    # What the application does for its instances (instance.Services)

    def chain(self, caller: HostContext, component_id: str, request: Request) -> Response:
        entry_id = self._chained.get(component_id)
        if entry_id is None:
            raise Trap(f"no HTTP trigger belongs to component {component_id!r}, which the guest called")
        request = replace(request, client=("0.0.0.0", 0), scheme="http", gone=caller.deadline.gone)
        return self._inside(caller, entry_id, RouteMatch.chained(request.path), request)

    def self_request(self, caller: HostContext, request: Request) -> Response:
        request = replace(request, gone=caller.deadline.gone)
        match = self.match(request.path)
        target = None if match is None else match.route.target
        if match is None or not isinstance(target, Target) or target.entry_id is None:
            return self.handle(request, match) or Response(404)
        return self._inside(caller, target.entry_id, match, request)

    def open_log(self, component_id: str) -> InstanceLog:
        return self.logs.open(component_id)

    # What it says about itself

    def describe(self) -> list[dict[str, Any]]:
        """A row for each route, in order: id, route, wildcard, component, dialect, description, refused.

        `refused` says why a changed manifest or guest is not taken, None where there is none.
        """
        rows, ids = [], entry_ids(self.manifest)
        for trigger in self.manifest.http_triggers:
            if trigger.route is None:
                continue
            component = self.manifest.components.get(trigger.component or "")
            route = "/" + trigger.route.lstrip("/")
            entry = (self._entries or {}).get(ids[trigger.id]) if trigger.component else None
            rows.append(
                {
                    "id": trigger.component or trigger.id,
                    "route": route.removesuffix("/..."),
                    "wildcard": route.endswith("/..."),
                    "component": trigger.component,
                    "executor": "static" if trigger.static_response else trigger.executor.type,
                    "dialect": entry.http.dialect if entry and entry.http else None,
                    "description": component.description if component else "",
                    "refused": self.swaps.refused or (entry.refused if entry else None),
                }
            )
        return rows

    def stats(self) -> list[Statistics]:
        """What each open component did in this process since it was opened."""
        entries = self._entries
        if entries is None:
            return []
        return [entries[one.id].statistics() for one in served(self.manifest) if one.id in entries]

    def wsgi(self, app: Any = None, **options: Any) -> Any:
        """This gateway as a WSGI application, or as middleware around `app`."""
        from .wsgi import WsgiGateway

        return WsgiGateway(self, app, **options)

    def asgi(self, app: Any = None, **options: Any) -> Any:
        """This gateway as an ASGI application, or as middleware around `app`."""
        from .asgi import AsgiGateway

        return AsgiGateway(self, app, **options)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a route leads: to the entry of a component, or to a response that is always the same."""

    trigger: HttpTrigger
    entry_id: str | None
    static: Response | None

    @classmethod
    def of(cls, trigger: HttpTrigger, entry_ids: Mapping[str, str]) -> Target:
        static = trigger.static_response
        return cls(trigger, entry_ids.get(trigger.id), None if static is None else _static_response(static))


def _options(entries: Mapping[str, Entry]) -> dict[str, ComponentOptions]:
    """Those of each component."""
    return {entry.component.id: entry.options for entry in entries.values()}


_WELL_KNOWN_MATCH = RouteMatch.chained(WELL_KNOWN)


def _for_guest(request: Request, match: RouteMatch, executor: Executor, entry: Entry) -> Request:
    """`request` as a guest may see it: no `spin-*` header but ours, no Connection (Spin: http, 1 and 6).

    Spin leaves a client's own spin-* headers in front of the injected ones, where they are believed.
    """
    hidden = _HIDDEN if entry.options.cookies else _HIDDEN_TOO
    headers = [pair for pair in request.headers.pairs if pair[0][:5] != "spin-" and pair[0] not in hidden]
    authority = request.authority
    if authority is not None and ".spin.internal" in authority and _is_chained_host(authority):
        headers = [pair for pair in headers if pair[0] != "host"]
    if entry.identity is not None:
        headers.append((identity.HEADER, entry.identity()))
    if executor.injects_headers:
        headers += spin_headers(match, request)
    return Request(
        *(request.method, request.path, request.query, Headers.trusted(tuple(headers)), request.body),
        *(request.scheme, authority, request.client, request.protocol, request.trailers),
        request.gone,
    )


# Headers of a client that no guest sees, and those that one without `cookies` does not.
_HIDDEN = frozenset(("connection", identity.HEADER))
_HIDDEN_TOO = _HIDDEN | {"cookie"}


def _is_chained_host(authority: str) -> bool:
    host = authority.partition(":")[0]
    label, _, rest = host.partition(".")
    return bool(label) and rest == "spin.internal"


def _number(text: str) -> int:
    """The value of a Content-Length, 0 for what is none: how long a body is in fact is counted anyway."""
    if not (text.isascii() and text.isdecimal()):
        return 0
    return int(text) if len(text) < 20 else sys.maxsize


def _without_cookies(begin: Begin) -> Begin:
    """For a guest that is not to see the client's cookies, and so not to say what they are."""
    return lambda head: begin(replace(head, headers=head.headers.without("set-cookie")))


class _Noted:
    """A Begin that knows whether it has been called."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self.begun = False
        self.status = 200

    def __call__(self, head: Response) -> Callable[[bytes | None], object]:
        self.begun, self.status = True, head.status
        return self._begin(head)


def _failure(error: GatewayError, component_id: str, what: str, extra: Mapping[str, Any]) -> Response:
    lines = [f"{what}: {type(error).__name__}: {error}", *getattr(error, "frames", ())[:20]]
    # Client and guest have their words in it: no line of theirs may look like another record.
    text = "\n    ".join(printable(line.encode(errors="backslashreplace")) for line in lines)
    level = logging.INFO if error.status < 500 else logging.ERROR
    log.log(level, "component %s: %s", component_id, text, extra=extra)
    return refusal(error)


def _static_response(static: StaticResponse) -> Response:
    body = (static.body.encode(),) if static.body else ()
    return Response(static.status_code, checked_headers(static.headers.items()), body)


def _runtime_config(value: RuntimeConfig | str | Path | None) -> RuntimeConfig:
    if value is None:
        return RuntimeConfig()
    return value if isinstance(value, RuntimeConfig) else load_runtime_config(value)


def _imported(value: Any, key: str) -> Any:
    """A function, or the one that a dotted name stands for; ManifestError."""
    if isinstance(value, str):
        module, _, name = value.rpartition(".")
        try:
            value = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ManifestError(f"{value!r} cannot be imported: {error}", key=key) from error
    if not callable(value):
        raise ManifestError(f"{value!r} is no function", key=key)
    return value


def _directory(flag: str | Path | None, configured: str | Path | None, default: Path | None) -> Path | None:
    """A folder as flag, configuration and default say, in this order; "" means none."""
    for value in (flag, configured):
        if value is not None:
            return Path(value) if str(value) else None
    return default
