# Guests, and a manifest, that are replaced while they are served.
#
# Rule 1: a guest is loaded whole, beside the old one, before any request sees it; then the
# dict of entries is replaced, never changed. What is under way ends where it began.
# Rule 2: what cannot be loaded changes nothing: the log says so once for each change, and
# `refused` as long as it lies there.
# Rule 3: the last good guest is kept for a rollback, and none before it; with a ledger as bytes too
# (kept.py), for processes that start later. What was rolled back does not come by itself again.
# Rule 4: what is ordered of all processes (migration/orders.py) each does in a thread, one after the other:
# who asks the ledger has other things to do than to compile.

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from . import forks
from .errors import GatewayError, HostError, LinkError, ManifestError, Saturated
from .guest_logs import printable
from .loader import Entry, Loader, Served, served, sources
from .manifest import Manifest
from .migration.counters import FAILED_ORDER, OBEYED
from .migration.orders import Act, Back, Order
from .policy import Failure
from .watch import Files, Watcher, prints_of
from .workers import Workers

if TYPE_CHECKING:
    from .gateway import Gateway

log = logging.getLogger("wasm_gateway")

MANIFEST = "the manifest"  # no id of a component

# A bare guest is its own manifest for ever.
GUESTS = (".wasm", ".wat")


class Swaps:
    """The replacing of a gateway's guests.

    `read` gives the manifest as it lies there; None for one that is no file.
    """

    def __init__(self, gateway: Gateway, *, watch: bool) -> None:
        self._gateway = gateway
        self.read: Callable[[], Manifest] | None = None
        self._files = Files()
        self._wanted: list[Path] = []  # guests of the manifest that was read last
        self.refused: str | None = None  # why the manifest that lies there now is not taken
        self.watcher = Watcher(self.look) if watch else None
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self.lock = threading.Lock()  # one at a time
        self._orders: Workers | None = None

    def close(self) -> None:
        """Look no more, and obey no more; what is under way is waited for."""
        if self.watcher is not None:
            self.watcher.stop()
        workers, self._orders = self._orders, None
        if workers is not None:
            workers.close()

    # Files

    def begin(self) -> None:
        """The files are about to be loaded for the first time."""
        if self.watcher is not None:
            with self.lock:
                for one in served(self._gateway.manifest):
                    self._files.take(one.id, prints_of(sources(one)))

    def files(self) -> set[Path]:
        """The manifest, and the files of all guests that are served."""
        manifest = self._gateway.manifest
        found = {path for one in served(manifest) for path in sources(one)}
        return found if manifest.path is None else found | {manifest.path}

    def look(self, at_once: bool = False) -> None:
        """Take what has changed and stands still (watch.Files)."""
        gateway, files = self._gateway, self._files
        with self.lock:
            path, read = gateway.manifest.path, self.read
            if path is None or read is None or path.suffix in GUESTS:
                pass  # no manifest that could change
            elif files.changed(MANIFEST, [path, *self._wanted], at_once=at_once):
                self._manifest_changed(path, read)
            if gateway._entries is not None:
                for one in served(gateway.manifest):
                    if files.changed(one.id, sources(one), at_once=at_once):
                        self._guest_changed(one, gateway._entries[one.id])

    def _manifest_changed(self, path: Path, read: Callable[[], Manifest]) -> None:
        try:
            manifest = read()
            if manifest != self._gateway.manifest:
                # Where one of these cannot be loaded, the manifest is tried again when that has changed.
                self._wanted = [source for one in served(manifest) for source in sources(one)]
                self._files.take_too(MANIFEST, path, self._wanted)
                self._take(manifest)
                log.warning("%s has changed, and is in force", path)
            self.refused = None
        except Exception as error:
            self.refused = str(error)
            _say(error, "the changed manifest is not taken, the one before goes on")

    def built(self, component_id: str, output: Path | None, how: str) -> None:
        """The guest of a component has been built into the file `output`: whoever is made of it is replaced.

        A line says so, in which `how` it was built. `_look` would find it too, after a while.
        """
        entries, replaced = self._gateway._entries, False
        with self.lock:
            for one in served(self._gateway.manifest):
                if output in sources(one) and entries is not None and one.id in entries:
                    self._files.take(one.id, prints_of(sources(one)))
                    self._guest_changed(one, entries[one.id], how)
                    replaced = True
        if not replaced:
            log.warning("component %s: %s", component_id, how)

    def _guest_changed(self, one: Served, entry: Entry, how: str | None = None) -> None:
        try:
            loader = Loader(self._gateway, apart=True)
            binaries = loader.read(one)
            if binaries.digest in (entry.digest, entry.rejected):
                entry.refused = None
                if how is not None:
                    log.warning("component %s: %s, and is what it was", one.id, how)
                return
            with _compiling(loader):
                loaded = loader.load_guest(one, binaries)
            loaded.rejected = entry.rejected
            self._install(self._gateway.manifest, {one.id: loaded})
        except Exception as error:
            entry.refused = str(error)
            what = "its changed guest" if how is None else f"{how}, but"
            then = "the one before goes on" if entry.problem is None else "there is none before it"
            _say(error, f"component {one.id}: {what} is not taken, {then}")
        else:
            what = "its changed guest" if how is None else f"{how}, and"
            log.warning("component %s: %s answers from now on", one.id, what)

    # By hand

    def reload(self, component_id: str | None) -> None:
        """Gateway.reload."""
        gateway = self._gateway
        if gateway._entries is None:
            gateway.open()
            return
        with self.lock:
            manifest = gateway.manifest
            if component_id is None and self.read is not None:
                manifest = self.read()
                self.refused = None
            ids = {one.id for one in served(manifest) if component_id in (None, one.component.id)}
            if not ids:
                raise ManifestError(f"no such component: `{component_id}`", path=manifest.path)
            self._take(manifest, ids)

    def rollback(self, component_id: str) -> None:
        """Gateway.rollback."""
        with self.lock:
            entries = (self._gateway._entries or {}).values()
            of_it = [entry for entry in entries if entry.component.id == component_id]
            back = {entry.id: entry.before for entry in of_it if entry.before is not None}
            if not back:
                raise HostError(f"component {component_id!r} has no earlier guest in this process")
            self._bring_back(component_id, back)

    def _bring_back(self, component_id: str, back: Mapping[str, Entry]) -> None:
        gateway = self._gateway
        with forks.postponed(), gateway._lock:
            entries = gateway._entries
            assert entries is not None
            for id, before in back.items():
                entry = entries[id]
                entry.before = None
                before.succeed(entry)
                before.rejected, before.refused = entry.digest, None
                before.reopen()
            gateway._entries = {**entries, **back}
            gateway._govern([component_id])
        for id in back:
            entries[id].close()
        gateway._tell(back.values(), "rollback")
        log.warning("component %s: the guest before the last one answers again", component_id)

    # By order

    def obey(self, order: Order) -> threading.Event:
        """Do what is ordered of all processes, in a thread; the event is set when that is done."""
        done = threading.Event()
        if self._orders is None:
            self._orders = Workers(1)
        try:
            self._orders.submit(self._obey, order, done)
        except Saturated as error:
            log.error("%s is not obeyed: %s", _named(order), error)
            done.set()
        return done

    def _obey(self, order: Order, done: threading.Event) -> None:
        if self._gateway._entries is None:
            done.set()  # it has been closed meanwhile
            return
        outcome = FAILED_ORDER
        try:
            if order.act is Act.RELOAD:
                self.reload(order.component)
                log.warning("%s: loaded again", _named(order))
            else:
                assert order.component is not None
                if order.back:
                    self._go_back(order.component, order.back)
                else:  # as an earlier version of this code has ordered it
                    self.rollback(order.component)
            outcome = OBEYED
        except Exception as error:
            _say(error, f"{_named(order)} failed" + ", the guest before goes on" * (order.act is Act.RELOAD))
        finally:
            done.set()
        pilot = self._gateway.pilot
        if pilot is not None:
            manifest = self._gateway.manifest
            for component in {one.component.id for one in served(manifest)}:
                if order.component in (None, component):
                    pilot.count(component, outcome)

    def missed(self, order: Order) -> threading.Event | None:
        """Obey a rollback all the same where a guest lies there that it is about."""
        entries = (self._gateway._entries or {}).values()
        if any(entry.id in order.back and entry.digest == order.back[entry.id].rejected for entry in entries):
            return self.obey(order)
        return None

    def _go_back(self, component_id: str, back: Mapping[str, Back]) -> None:
        """Have no rejected guest answer; HostError for one that is neither that nor the good one."""
        gateway = self._gateway
        with self.lock:
            brought: dict[str, Entry] = {}
            problems: list[str] = []
            for one in served(gateway.manifest):
                entry, wanted = (gateway._entries or {}).get(one.id), back.get(one.id)
                if entry is None or wanted is None or entry.problem is not None:
                    continue
                entry.rejected = wanted.rejected
                if entry.digest == wanted.rejected:
                    try:
                        brought[one.id] = self._before(one, entry, wanted.good)
                    except GatewayError as error:
                        problems.append(self._do_without(one, entry, str(error.args[0])))
                elif entry.digest != wanted.good:
                    problems.append(f"{one.id} has another guest than the one that was rolled back")
            if brought:
                self._bring_back(component_id, brought)
        if problems:
            raise HostError("; ".join(problems))

    def _before(self, one: Served, entry: Entry, digest: str) -> Entry:
        """The guest `digest`: the one before that of `entry`, or as it is kept; GatewayError."""
        if entry.before is not None and entry.before.digest == digest:
            return entry.before
        loader = Loader(self._gateway, apart=True)
        binaries = loader.find(one, digest)
        with _compiling(loader):
            return loader.load_guest(one, binaries)

    def _do_without(self, one: Served, entry: Entry, why: str) -> str:
        """There is none to go back to: the site answers if it may, else the guest that was rejected."""
        gateway = self._gateway
        why = f"the guest of {one.id} was rolled back, and the one before it cannot be had: {why}"
        if Failure.LINK not in entry.options.rule.fallback:
            entry.refused = why
            return f"{why}; THE ONE THAT WAS ROLLED BACK ANSWERS: put the old file back, or turn it to native"
        instead = Entry(one.id, one.component, entry.options)
        instead.problem = LinkError(why)
        instead.problem.component = one.component.id
        instead.succeed(entry)
        instead.rejected = entry.digest
        with gateway._lock:
            gateway._entries = {**(gateway._entries or {}), one.id: instead}
        entry.close()
        return f"{why}; the site answers instead"

    # The swap

    def _take(self, manifest: Manifest, ids: Collection[str] = ()) -> None:
        """Have `manifest` in force: what it changes is loaded, and `ids` in any case."""
        gateway = self._gateway
        with gateway._lock:
            if gateway._entries is None:
                gateway._take(manifest)
                return
        rules = gateway.options.rules
        known = {one.id: _inside(one, gateway.manifest, rules) for one in served(gateway.manifest)}
        loader = Loader(gateway, manifest, apart=True)
        loaded, prints = {}, {}
        with _compiling(loader):
            for one in served(manifest):
                if one.id in ids or known.get(one.id) != _inside(one, manifest, rules):
                    prints[one.id] = prints_of(sources(one))
                    if one.id in known and one.id not in ids:
                        loaded[one.id] = self._load_again(loader, one)
                    else:
                        # what nobody serves yet has no last good guest to keep
                        load = loader.load_guest if one.id in known else loader.load
                        loaded[one.id] = load(one)
        self._install(manifest, loaded)
        for id in loaded:
            self._files.take(id, prints[id])

    def _load_again(self, loader: Loader, one: Served) -> Entry:
        """As another manifest has it; with the guest of now where the one that lies there is rejected."""
        entry = (self._gateway._entries or {})[one.id]
        binaries = loader.read(one)
        if binaries.digest == entry.rejected and loader.kept is not None and entry.digest is not None:
            binaries = loader.find(one, entry.digest)
        loaded = loader.load_guest(one, binaries)
        loaded.rejected = None if loaded.digest == entry.rejected else entry.rejected
        return loaded

    def _install(self, manifest: Manifest, loaded: Mapping[str, Entry]) -> None:
        gateway = self._gateway
        self._note(loaded, way_back=manifest == gateway.manifest)
        with forks.postponed(), gateway._lock:
            entries, other = gateway._entries, manifest != gateway.manifest
            assert entries is not None  # close() waits for the lock of swaps
            replaced = [entries[id] for id in loaded if id in entries]
            for before in replaced:
                entry = loaded[before.id]
                entry.succeed(before)
                before.before = None
                # what another manifest allowed does not come back with its guest
                entry.before = None if other or before.problem is not None else before
            if other:
                # A request may have been matched already to what this manifest does not name any more.
                known = {one.id for each in (gateway.manifest, manifest) for one in served(each)}
                entries = {id: entry for id, entry in entries.items() if id in known}
            gateway._entries = {**entries, **loaded}
            if other:
                gateway._take(manifest)
            gateway._govern([entry.component.id for entry in loaded.values()])
        for entry in replaced:
            entry.close()
        gateway._tell(loaded.values(), "swap")

    def _note(self, loaded: Mapping[str, Entry], *, way_back: bool) -> None:
        """Tell the ledger which guests are about to take the place of which."""
        pilot = self._gateway.pilot
        for entry in loaded.values():
            before = (self._gateway._entries or {}).get(entry.id)
            if pilot is not None and entry.digest is not None and before is not None:
                digest = before.digest if way_back else None
                pilot.note(entry.component.id, entry.id, entry.digest, digest)


@contextmanager
def _compiling(loader: Loader) -> Iterator[None]:
    """In turn with other processes, and not while this one is forked."""
    with nullcontext() if loader.cache is None else loader.cache.exclusively(), forks.postponed():
        yield


def _inside(one: Served, manifest: Manifest, rules: Collection[str]) -> object:
    """What of a manifest there is in an entry; the site has `rules` for some components and routes."""
    component, http = one.component, one.http
    callable_ = list(manifest.components) if component.allowed_outbound_hosts else []
    routes = [each.route for each in manifest.http_triggers if each.component == component.id]
    ruled = [route for route in routes if route in rules]
    called = http and (http.executor, http.middleware)
    return component, called, one.messages, manifest.variables, callable_, ruled


def _named(order: Order) -> str:
    return f"order to {order.act} {'all guests' if order.component is None else order.component}"


def _say(error: Exception, what: str) -> None:
    # Names of the guest's are in it: no line of theirs may look like another record.
    text = "\n    ".join(
        printable(line.encode(errors="backslashreplace")) for line in str(error).splitlines()
    )
    # a bug of ours has a trace; a guest that does not load needs none
    log.error("%s: %s", what, text, exc_info=None if isinstance(error, GatewayError) else error)
