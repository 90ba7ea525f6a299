# Files of ours: whether one can be trusted as it lies there, and how one comes to be, whole or not at all.

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

# How files end that are not whole yet, and seconds after which nobody writes one any more.
PART: Final = ".part"
PART_SECONDS: Final = 3600.0


@contextmanager
def replacing(target: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file that takes the place of `target` at the end of the block, if that ends well; OSError."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=PART)
    try:
        with open(handle, "wb") as file:
            yield file
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def is_left_over(path: Path, status: os.stat_result) -> bool:
    """Whether `path` is what somebody who ended meanwhile was writing with `replacing`."""
    return path.suffix == PART and time.time() - status.st_mtime > PART_SECONDS


def foreign(path: Path) -> str | None:
    """Why `path` is not ours alone, None when it is."""
    if not hasattr(os, "geteuid"):
        return None  # Windows: the user's own cache folder is protected by its access list
    status = path.lstat()
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & 0o022:
        return f"others may write to it (mode {status.st_mode & 0o777:o})"
    return None
