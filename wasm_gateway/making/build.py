# Building guests as their [component.x.build] says (Spin: command line, 5).
#
# Rule 1: the commands are the system shell's, in the manifest's folder or its `workdir`, one after the other.
# Rule 2: components are built side by side, but behind those that they depend on. Lines of several are
# prefixed with the component; a single one has the terminal for itself.
# Rule 3: every toolchain is looked for before anything runs. The first failure ends the others, but not where
# components are built again while they are served: there each has its own outcome.

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from ..errors import BuildError, GatewayError, ManifestError, ToolchainError
from ..manifest import Component, Manifest, PathSource, parse_manifest
from ..toml import Document
from ..watch import Files, prints_of
from .build_report import BuildFailure
from .toolchain import environment, missing

Say = Callable[[str], None]

# Lines of a failed command that are kept: the first ones, which say most.
MAX_LINES = 1000


@dataclass(frozen=True)
class Job:
    """The commands of one component, the components to be built before, and the globs of its sources.

    `output` is the file that comes of it, None where that is no file of ours.
    """

    component: str
    commands: tuple[str, ...]
    folder: Path
    after: frozenset[str]
    watch: tuple[str, ...] = ()
    output: Path | None = None

    def sources(self) -> list[Path]:
        """The files that its `watch` means, in order; what comes of them is none."""
        found: set[Path] = set()
        for pattern in self.watch:
            try:
                found.update(path for path in self.folder.glob(pattern) if path.is_file())
            except (ValueError, NotImplementedError):  # absolute, or no pattern at all
                continue
        if self.output is not None:
            found.discard(Path(os.path.abspath(self.output)))
        return sorted(found)

    def outdated(self) -> bool:
        """Whether what comes of it is not there, or older than a source."""
        if self.output is None:
            return False
        try:
            made = self.output.stat().st_mtime_ns
            return any(path.stat().st_mtime_ns > made for path in self.sources())
        except OSError:
            return True


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
            Path(os.path.abspath(path.parent / (component.build.workdir or "."))),
            after[id],
            component.build.watch,
            component.source.path if isinstance(component.source, PathSource) else None,
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a build; `failure` is None for a good one."""

    job: Job
    seconds: float
    failure: BuildFailure | None = None


def build(jobs: list[Job], cache_dir: Path, say: Say) -> None:
    """Run the jobs; `say` takes each line for people.

    Raises ToolchainError before anything runs where a program is missing, BuildError where a command fails.
    """
    environ = environment(cache_dir)
    _check(jobs, environ)
    if len(jobs) == 1:
        _Runner(environ, say, piped=False).run(jobs[0])
    elif jobs:
        runner = _Runner(environ, say, prefix=True)
        _side_by_side(jobs, runner.run, runner.stop)
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


def _side_by_side(jobs: list[Job], run: Callable[[Job], object], stop: Callable[[], None]) -> None:
    waiting = {job.component: job for job in jobs}
    done: set[str] = set()
    running: dict[Future[object], str] = {}
    with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 1), thread_name_prefix="build") as pool:
        try:
            while waiting or running:
                for job in [job for job in waiting.values() if job.after <= done]:
                    running[pool.submit(run, waiting.pop(job.component))] = job.component
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done.add(running.pop(future))
                    future.result()
        except BaseException:  # a failure, or Ctrl-C
            stop()
            for future in running:
                future.cancel()
            raise


class _Runner:
    """Runs commands; stop() ends all that run, from any thread.

    Their output is ours where it is `piped`, and each line of it has the component's name as a `prefix`.
    """

    def __init__(
        self, environ: Mapping[str, str], say: Say, *, piped: bool = True, prefix: bool = False
    ) -> None:
        self.environ = environ
        self.say = say
        self.piped = piped
        self.prefix = prefix
        self.lock = threading.Lock()
        self.stopped = False
        self.processes: set[subprocess.Popen[str]] = set()

    def run(self, job: Job, kept: list[str] | None = None) -> None:
        """Run the commands of a job, of whose lines some are `kept`; BuildError where one fails."""
        for command in job.commands:
            self.say(f"Building component {job.component} with `{command}`")
            code = self.shell(job, command, kept)
            if code:
                text = f"Build command for component {job.component} failed with status {code}"
                raise BuildError(text, code if code > 0 else 128 - code)

    def shell(self, job: Job, command: str, kept: list[str] | None) -> int:
        piped = subprocess.PIPE if self.piped else None
        with self.lock:
            if self.stopped:
                return 1
            process = subprocess.Popen(
                command,
                shell=True,
                cwd=job.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL if self.piped else None,
                stdout=piped,
                stderr=subprocess.STDOUT if self.piped else None,
                text=True,
                errors="replace",
                start_new_session=self.piped,  # so that stop() reaches what the shell has started
            )
            self.processes.add(process)
        with process:
            for line in process.stdout or ():
                self.say(f"{job.component} | {line.rstrip()}" if self.prefix else line.rstrip())
                if kept is not None and len(kept) < MAX_LINES:
                    kept.append(line.rstrip())
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

    `read` gives the jobs as the manifest says them now; `say` takes each line for people, and `problem` those
    about the manifest, which are not said without it. `failures` are those of the last builds.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[], list[Job]],
        cache_dir: Path,
        say: Say,
        problem: Say | None = None,
    ) -> None:
        self.path = path
        self.read = read
        self.cache_dir = cache_dir
        self.say = say
        self.problem = problem
        self.failures: dict[str, BuildFailure] = {}
        self._files = Files()
        self._written: dict[str, dict[Path, bytes]] = {}  # among the sources, by the last build
        self._runner: _Runner | None = None
        self._stopped = threading.Event()
        self.jobs: list[Job] = []
        self._files.take(path, prints_of([path]))
        self._take(read(), {})
        for job in self.jobs:
            if problem is not None and not job.watch:
                problem(f"Component {job.component} has no `watch` in its build table: it is built only once")

    def _take(self, jobs: list[Job], before: Mapping[str, tuple[str, ...]]) -> list[Job]:
        """Go on with `jobs`; those whose commands are not what they were `before`."""
        self.jobs = jobs
        changed = [job for job in jobs if before.get(job.component) != job.commands]
        for job in changed:
            self._files.take(job.component, prints_of(job.sources()))
        known = {job.component for job in jobs}
        self.failures = {id: failure for id, failure in self.failures.items() if id in known}
        return changed

    def first(self) -> list[Outcome]:
        """Build all of them."""
        return self._build(self.jobs)

    def outdated(self) -> list[Outcome]:
        """Build those that are not there, or older than their sources."""
        return self._build([job for job in self.jobs if job.outdated()])

    def look(self) -> list[Outcome]:
        """Build what has changed and stands still."""
        if not self._files.changed(self.path, [self.path]):
            return self._build(
                [job for job in self.jobs if self._files.changed(job.component, job.sources())]
            )
        before = {job.component: job.commands for job in self.jobs}
        try:
            jobs = self.read()
        except GatewayError as error:
            if self.problem is not None:
                self.problem(f"Error: {error}")
            return []
        return self._build(self._take(jobs, before))

    def _forgive(self, job: Job) -> None:
        """Take it for no change where a build has written among its sources what the one before wrote too.

        Or globs that are too wide would have it built for ever. What somebody saves meanwhile is other text.
        """
        after = prints_of(job.sources())
        changed = {each[0] for each in set(after) ^ set(self._files.taken(job.component))}
        written = {path: _digest(path) for path in changed}
        if written and written == self._written.get(job.component):
            self._files.take(job.component, after)
        self._written[job.component] = written

    def stop(self) -> None:
        """End what is being built, and build nothing more; from any thread."""
        self._stopped.set()
        runner = self._runner
        if runner is not None:
            runner.stop()

    def _build(self, jobs: list[Job]) -> list[Outcome]:
        """The outcome of each, in the order in which they ended."""
        if not jobs or self._stopped.is_set():
            return []
        names = frozenset(job.component for job in jobs)
        environ = environment(self.cache_dir)
        runner = self._runner = _Runner(environ, self.say, prefix=len(jobs) > 1)
        outcomes: list[Outcome] = []

        def run(job: Job) -> None:
            begun = time.monotonic()
            failure = _attempt(job, environ, runner)
            outcomes.append(Outcome(job, time.monotonic() - begun, failure))

        _side_by_side([replace(job, after=job.after & names) for job in jobs], run, runner.stop)
        if self._stopped.is_set():
            return []
        for outcome in outcomes:
            self._forgive(outcome.job)
            self.failures.pop(outcome.job.component, None)
            if outcome.failure is not None:
                self.failures[outcome.job.component] = outcome.failure
        return outcomes


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""


def _attempt(job: Job, environ: Mapping[str, str], runner: _Runner) -> BuildFailure | None:
    lines: list[str] = []
    try:
        _check([job], environ)
        runner.run(job, lines)
    except GatewayError as error:
        return BuildFailure(job.component, str(error), "\n".join(lines))
    return None
