# Guests that this machine has loaded, as their files were: for processes that start after a rollback.
#
# Rule 1: a file's name is the digest of what is in it, and what is read has that digest or is not used.
# Rule 2: what is kept is bounded; what nobody has loaded for longest goes first.
# Rule 3: whatever goes wrong here makes a rollback shorter, and no request fails.

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .errors import DecodeError
from .own_files import is_left_over, replacing

log = logging.getLogger("wasm_gateway")

# A Python guest has some 40 MB.
KEPT_BYTES = 2 << 30
KEPT_FILES = 200
# Seconds after which a file says anew that it is in use.
NOTED_SECONDS = 24 * 3600.0

SUFFIX = ".guest"


@dataclass(frozen=True)
class Binaries:
    """The Wasm of what is served: the component's, then that of its dependencies and its middleware."""

    wasm: bytes
    dependencies: Mapping[str, bytes]
    chain: Mapping[str, bytes]

    def __iter__(self) -> Iterator[bytes]:
        return iter((self.wasm, *self.dependencies.values(), *self.chain.values()))

    @cached_property
    def digest(self) -> str:
        """Tells them apart from all others."""
        digest = hashlib.sha256()
        for wasm in self:
            digest.update(hashlib.sha256(wasm).digest())
        return digest.hexdigest()

    def pack(self) -> Iterator[bytes]:
        """All of it as one file: a line of JSON that says what follows, and that."""
        names = {"dependencies": list(self.dependencies), "chain": list(self.chain)}
        yield json.dumps({**names, "sizes": [len(wasm) for wasm in self]}).encode() + b"\n"
        yield from self

    @classmethod
    def unpack(cls, data: bytes) -> Binaries:
        """What `pack` has made; DecodeError."""
        line, _, rest = data.partition(b"\n")
        try:
            head = json.loads(line)
            dependencies, chain, sizes = (head[name] for name in ("dependencies", "chain", "sizes"))
            ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
            wasm, *others = [rest[end - size : end] for end, size in zip(ends, sizes, strict=True)]
            named = list(zip([*dependencies, *chain], others, strict=True))
        except (ValueError, TypeError, KeyError) as error:
            raise DecodeError(f"no kept guest: {error}", 0) from error
        return cls(wasm, dict(named[: len(dependencies)]), dict(named[len(dependencies) :]))


class KeptGuests:
    """Guests in a folder of our own, one file each, shared by all processes of a machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, binaries: Binaries) -> None:
        """Have them for later; a failure is logged."""
        path = self.folder / f"{binaries.digest}{SUFFIX}"
        try:
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > NOTED_SECONDS:
                    os.utime(path)
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(path) as file:
                file.writelines(binaries.pack())
            self._prune()
        except OSError as error:
            log.warning("a guest is not kept for rollbacks, which end with the processes of today: %s", error)

    def find(self, digest: str) -> Binaries | None:
        """Those with that digest; None where they are not here, or are not what they were."""
        try:
            binaries = Binaries.unpack((self.folder / f"{digest}{SUFFIX}").read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, DecodeError) as error:
            log.error("a guest that was kept cannot be read: %s", error)
            return None
        if binaries.digest != digest:
            log.error("a guest that was kept in %s is not what it was", self.folder)
            return None
        return binaries

    def _prune(self) -> None:
        files: list[tuple[float, int, Path]] = []  # noted when, size
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process prunes too
                status = path.stat()
                if path.suffix == SUFFIX:
                    files.append((status.st_mtime, status.st_size, path))
                elif is_left_over(path, status):
                    path.unlink()
        size = 0
        for number, (_, length, path) in enumerate(sorted(files, reverse=True), 1):
            size += length
            if number > KEPT_FILES or size > KEPT_BYTES:
                path.unlink(missing_ok=True)
