# Whether a file can be trusted as it lies there.

from __future__ import annotations

import os
from pathlib import Path


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
