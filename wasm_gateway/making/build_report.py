# What could not be built, in a file: one process builds the guests of a manifest, any number serve them.
#
# Rule 1: for development only. The file lies in the user's own cache folder; nobody reads it who was not told
# to.
# Rule 2: who writes it holds a lock beside it, so that one process builds, whichever servers run.

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

log = logging.getLogger("wasm_gateway")


@dataclass(frozen=True, slots=True)
class BuildFailure:
    """Why a component could not be built: `what` happened, and what the command said.

    `built`: it could, or need not be, but what there is cannot be loaded.
    """

    component: str
    what: str
    output: str = ""
    built: bool = False


class BuildReport:
    """The failures of the last builds of the components of the manifest at `path`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock: IO[bytes] | None = None
        self._read: tuple[tuple[int, int, int] | None, dict[str, BuildFailure]] = (None, {})

    @classmethod
    def of(cls, manifest: Path, cache_dir: Path) -> BuildReport:
        digest = hashlib.sha256(os.fsencode(manifest.resolve())).hexdigest()
        return cls(cache_dir / "builds" / f"{digest[:16]}.json")

    # Who builds

    def claim(self) -> bool:
        """Whether this process is the one that builds; it is until release(). Without locks everybody is."""
        if self._lock is not None:
            return True
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            lock = self.file.with_suffix(".lock").open("wb")
        except OSError as error:
            log.warning("nobody else is told what could not be built: %s: %s", self.file, error.strerror)
            return True
        if os.name != "nt":
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
            except OSError:
                pass  # a file system that knows no locks
        self._lock = lock
        self.write({})
        return True

    def release(self) -> None:
        """Forget what has failed, and let another process build."""
        if self._lock is not None:
            self.write({})
            self._lock.close()
            self._lock = None

    def abandon(self) -> None:
        """In a forked child: it is the parent that builds, and goes on holding the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write(self, failures: Mapping[str, BuildFailure]) -> None:
        """Say what has failed, to this process in any case."""
        part = self.file.with_suffix(".part")
        try:
            part.write_text(json.dumps([asdict(each) for each in failures.values()]), "utf-8")
            os.replace(part, self.file)
        except OSError:
            pass  # claim() has said so
        self._read = self._print(), dict(failures)

    # Who serves

    def failures(self) -> Mapping[str, BuildFailure]:
        """What has failed, by component."""
        now = self._print()
        if now != self._read[0]:
            self._read = now, self._load()
        return self._read[1]

    def _print(self) -> tuple[int, int, int] | None:
        try:
            status = self.file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _load(self) -> dict[str, BuildFailure]:
        try:
            found = [BuildFailure(**each) for each in json.loads(self.file.read_text("utf-8"))]
        except (OSError, ValueError, TypeError):
            return {}
        return {each.component: each for each in found}
