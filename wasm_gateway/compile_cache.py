# Compiled guests on disk: one file each, in a folder of ours, shared by all processes of a user.
#
# Rule 1: a file's name is the hash of the module, of wasmtime's version and of the engine's settings.
# Rule 2: it is native code, so it is loaded only from a folder that nobody else may write to.
# Rule 3: whatever goes wrong here costs a compilation, and never a request.

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import wasmtime

from .own_files import foreign, is_left_over, replacing

log = logging.getLogger("wasm_gateway.engine")

# Seconds that one process waits for another that compiles, 37 for a Python guest when the machine is busy;
# and how often it looks.
MAX_TURN_SECONDS = 120.0
TURN_CHECK_SECONDS = 0.02

# What is kept of compiled code that processes have not loaded for a while: of the last month, so much and so
# many files of it. A Python guest has 14 files and some 100 MiB. What was loaded within a day is kept in any
# case: other processes may be about to load it.
KEPT_SECONDS = 30 * 24 * 3600.0
KEPT_BYTES = 2 << 30
KEPT_FILES = 2000
YOUNG_SECONDS = 24 * 3600.0


class Compiler(Protocol):
    """An engine: what compiled code is for. `fingerprint` is what it depends on besides the module."""

    wasmtime_engine: wasmtime.Engine
    fingerprint: str


class CompileCache:
    """Compiled modules in a folder of our own, one file each.

    Written beside and renamed, so a reader sees a whole file or none. A folder or file that belongs to
    somebody else, or that others may write to, is never read: compiled code is trusted as it is. When
    something is added, what nobody has loaded for long is removed; who has it mapped goes on with it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._usable: bool | None = None

    def usable(self) -> bool:
        """Whether the folder is there (it is made) and is ours alone; says why not in the log, once."""
        if self._usable is None:
            self._usable = self._check()
        return self._usable

    def _check(self) -> bool:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            reason = foreign(self.folder)
        except OSError as error:
            reason = str(error)
        if reason:
            log.warning("compiled guests are not cached in %s: %s", self.folder, reason)
        return not reason

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Meanwhile no other process is in here: of several that want the same code one compiles it.

        Somebody who stays in here for too long is not waited for.
        """
        file = self._turn() if sys.platform != "win32" and self.usable() else None
        try:
            yield
        finally:
            if file is not None:
                import fcntl

                # closing alone does not, where a forked child has it too
                fcntl.flock(file, fcntl.LOCK_UN)
                os.close(file)

    def _turn(self) -> int | None:
        """A file that is locked; None where it is somebody else's for too long, or no lock is to be had."""
        import fcntl

        try:
            file = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        end = time.monotonic() + MAX_TURN_SECONDS
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                time.sleep(TURN_CHECK_SECONDS)
            except OSError:
                break  # a file system without locks
        os.close(file)
        return None

    def path(self, engine: Compiler, wasm: bytes | memoryview, variant: str = "") -> Path:
        """Where the compiled code of `wasm` is kept, for this engine's settings."""
        digest = hashlib.sha256(wasm)
        digest.update(f"{engine.fingerprint}{variant}".encode())
        return self.folder / f"{digest.hexdigest()}.cwasm"

    def load(self, engine: Compiler, wasm: bytes | memoryview, variant: str = "") -> wasmtime.Module | None:
        """The module, memory-mapped; None when it is not there or cannot be used."""
        if not self.usable():
            return None
        path = self.path(engine, wasm, variant)
        try:
            reason = foreign(path)
        except FileNotFoundError:
            return None
        if reason:
            log.warning("compiled code %s is not used: %s", path, reason)
            return None
        try:
            module = wasmtime.Module.deserialize_file(engine.wasmtime_engine, str(path))
        except wasmtime.WasmtimeError as error:
            log.warning("compiled code %s is not used and is made again: %s", path, error)
            return None
        with suppress(OSError):  # a cache that is read-only is not pruned either
            _note_use(path)
        return module

    def store(
        self, engine: Compiler, wasm: bytes | memoryview, module: wasmtime.Module, variant: str = ""
    ) -> None:
        """Keep what was compiled; a failure is logged, since the module itself is good."""
        if not self.usable():
            return
        path = self.path(engine, wasm, variant)
        try:
            with replacing(path) as file:
                file.write(module.serialize())
        except OSError as error:
            log.warning("compiled code could not be kept in %s: %s", path, error)
            return
        with suppress(OSError):
            self.prune()

    def prune(self) -> list[Path]:
        """Remove what nobody has loaded for long, and what is too much; the files that are gone. OSError."""
        now = time.time()
        files: list[tuple[float, int, Path]] = []  # loaded when, size
        removed = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process prunes too
                status = path.lstat()
                if path.suffix == ".cwasm":
                    files.append((max(status.st_mtime, _used(path)), status.st_size, path))
                elif is_left_over(path, status):
                    removed.append(path)
        size = 0
        for number, (loaded, length, path) in enumerate(sorted(files, reverse=True), 1):
            age, size = now - loaded, size + length
            too_much = size > KEPT_BYTES or number > KEPT_FILES
            if age > KEPT_SECONDS or (too_much and age > YOUNG_SECONDS):
                removed.append(path)
        for path in removed:
            _removed(path.with_suffix(USED))
        return [path for path in removed if _removed(path)]

    def stale(self, engine: Compiler, paths: Iterable[Path]) -> list[Path]:
        """Those of `paths`, files of this cache, that another version of wasmtime has compiled."""
        found = []
        for path in paths:
            try:
                wasmtime.Module.deserialize_file(engine.wasmtime_engine, str(path))
            except wasmtime.WasmtimeError as error:
                if "incompatible version" in str(error):
                    found.append(path)
        return found


# Beside compiled code that is older than a day: a file that says when it was loaded last, about. To touch the
# code itself would copy all of it, where it lies in a lower layer of a container's file system.
USED = ".used"


def _note_use(path: Path) -> None:
    """Compiled code has been loaded from `path`; OSError."""
    if time.time() - max(path.stat().st_mtime, _used(path)) > YOUNG_SECONDS:
        path.with_suffix(USED).touch(0o600)


def _used(path: Path) -> float:
    try:
        return path.with_suffix(USED).stat().st_mtime
    except OSError:
        return 0.0


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False  # it is gone, or somebody else's, or in use (Windows)
    return True
