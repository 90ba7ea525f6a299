# Building guests as their [component.x.build] says (Spin: command line, 5).
#
# Rule 1: the commands are the system shell's, in the manifest's folder or its `workdir`, one after the other.
# Rule 2: components are built side by side, but behind those that they depend on. Lines of several are
# prefixed with the component; a single one has the terminal for itself.
# Rule 3: every toolchain is looked for before anything runs. The first failure ends the others.

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from .errors import BuildError, GatewayError, ManifestError, ToolchainError
from .manifest import Component, Manifest, PathSource, parse_manifest
from .toml import Document
from .toolchain import environment, missing
from .watch import Files, prints_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """The commands of one component, the components to be built before, and the globs of its sources."""

    component: str
    commands: tuple[str, ...]
    folder: Path
    after: frozenset[str]
    watch: tuple[str, ...] = ()

    def sources(self) -> list[Path]:
        """The files that its `watch` means, in order."""
        found: set[Path] = set()
        for pattern in self.watch:
            try:
                found.update(path for path in self.folder.glob(pattern) if path.is_file())
            except (ValueError, NotImplementedError):  # absolute, or no pattern at all
                continue
        return sorted(found)


def read_jobs(path: Path, *, profile: str | None = None, components: Collection[str] = ()) -> list[Job]:
    """What a manifest says of building `components` (all, where none is named), in its order."""
    document = Document.read(path)
    manifest = parse_manifest(document.text, path, profile=profile)
    unknown = [id for id in components if id not in manifest.components]
    if unknown:
        raise ManifestError(f"Unknown component(s) {', '.join(unknown)}", path=path)
    built = {
        id: component
        for id, component in manifest.components.items()
        if component.build is not None and (not components or id in components)
    }
    after = _order(manifest, built)
    return [
        Job(
            id,
            component.build.commands,
            path.parent / (component.build.workdir or "."),
            after[id],
            component.build.watch,
        )
        for id, component in built.items()
        if component.build is not None
    ]


def _order(manifest: Manifest, built: Mapping[str, Component]) -> dict[str, frozenset[str]]:
    """Which of them have to be built before which: those whose output is a dependency."""
    outputs = {
        component.source.path: id
        for id, component in built.items()
        if isinstance(component.source, PathSource)
    }
    after = {}
    for id, component in built.items():
        needed: set[str | None] = set()
        for dependency in component.dependencies.values():
            if isinstance(dependency.source, PathSource):
                needed.add(outputs.get(dependency.source.path))
            needed.add(dependency.component)
        after[id] = frozenset(other for other in built if other in needed and other != id)
    try:
        TopologicalSorter(after).prepare()
    except CycleError:
        return dict.fromkeys(built, frozenset())
    return after


def build(jobs: list[Job], cache_dir: Path, say: Say) -> None:
    """Run the jobs; `say` takes each line for people.

    Raises ToolchainError before anything runs where a program is missing, BuildError where a command fails.
    """
    environ = environment(cache_dir)
    _check(jobs, environ)
    if len(jobs) == 1:
        _Runner(environ, say, prefix=False).run(jobs[0])
    elif jobs:
        _side_by_side(jobs, _Runner(environ, say, prefix=True))
    say("Finished building all components" if jobs else "None of the components have a build command.")


def _check(jobs: list[Job], environ: Mapping[str, str]) -> None:
    needed: dict[str, list[str]] = {}
    for job in jobs:
        if not job.folder.is_dir():
            raise BuildError(f"component {job.component}: there is no folder {job.folder}", 1)
        for text in missing(job.commands, job.folder, environ):
            needed.setdefault(text, []).append(job.component)
    if needed:
        texts = [f"to build {', '.join(dict.fromkeys(ids))}: {text}" for text, ids in needed.items()]
        raise ToolchainError("\n".join(texts))


def _side_by_side(jobs: list[Job], runner: _Runner) -> None:
    waiting = {job.component: job for job in jobs}
    done: set[str] = set()
    running: dict[Future[None], str] = {}
    with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 1), thread_name_prefix="build") as pool:
        try:
            while waiting or running:
                for job in [job for job in waiting.values() if job.after <= done]:
                    running[pool.submit(runner.run, waiting.pop(job.component))] = job.component
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done.add(running.pop(future))
                    future.result()
        except BaseException:  # a failure, or Ctrl-C
            runner.stop()
            for future in running:
                future.cancel()
            raise


class _Runner:
    """Runs commands; stop() ends all that run, from any thread."""

    def __init__(self, environ: Mapping[str, str], say: Say, *, prefix: bool) -> None:
        self.environ = environ
        self.say = say
        self.prefix = prefix
        self.lock = threading.Lock()
        self.stopped = False
        self.processes: set[subprocess.Popen[str]] = set()

    def run(self, job: Job) -> None:
        for command in job.commands:
            self.say(f"Building component {job.component} with `{command}`")
            code = self.shell(job, command)
            if code:
                text = f"Build command for component {job.component} failed with status {code}"
                raise BuildError(text, code if code > 0 else 128 - code)

    def shell(self, job: Job, command: str) -> int:
        piped = subprocess.PIPE if self.prefix else None
        with self.lock:
            if self.stopped:
                return 1
            process = subprocess.Popen(
                command,
                shell=True,
                cwd=job.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL if self.prefix else None,
                stdout=piped,
                stderr=subprocess.STDOUT if self.prefix else None,
                text=True,
                errors="replace",
                start_new_session=self.prefix,  # so that stop() reaches what the shell has started
            )
            self.processes.add(process)
        with process:
            for line in process.stdout or ():
                self.say(f"{job.component} | {line.rstrip()}")
            code = process.wait()
        with self.lock:
            self.processes.discard(process)
        return code

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            for process in self.processes:
                if os.name == "nt":
                    process.terminate()
                    continue
                try:
                    os.killpg(process.pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass


class Rebuilder:
    """Builds components again whose sources change (Spin: command line, 6), one look after the other.

    `read` gives the jobs as the manifest says them now.
    """

    def __init__(self, path: Path, read: Callable[[], list[Job]], cache_dir: Path, say: Say) -> None:
        self.path = path
        self.read = read
        self.cache_dir = cache_dir
        self.say = say
        self.jobs = read()
        self._files = Files()
        self._take()
        for job in self.jobs:
            if not job.watch:
                say(f"Component {job.component} has no `watch` in its build table: it is built only once")

    def _take(self) -> None:
        self._files.take(self.path, prints_of([self.path]))
        for job in self.jobs:
            self._files.take(job.component, prints_of(job.sources()))

    def first(self) -> bool:
        """Build all of them; whether that worked, else the error has been said."""
        return self._built(self.jobs)

    def look(self) -> bool:
        """Build what has changed and stands still; whether something was built, and it worked."""
        if self._files.changed(self.path, [self.path]):
            before = {job.component: job.commands for job in self.jobs}
            try:
                self.jobs = self.read()
            except GatewayError as error:
                self.say(f"Error: {error}")
                return False
            return self._built([job for job in self.jobs if before.get(job.component) != job.commands])
        return self._built([job for job in self.jobs if self._files.changed(job.component, job.sources())])

    def _built(self, jobs: list[Job]) -> bool:
        if not jobs:
            return False
        names = frozenset(job.component for job in jobs)
        jobs = [replace(job, after=job.after & names) for job in jobs]
        try:
            build(jobs, self.cache_dir, self.say)
        except GatewayError as error:
            self.say(f"Error: {error}")
            return False
        return True
