# Names of imports and exports (Explainer.md, Import and Export Names).

from __future__ import annotations

import re

_VERSIONED = re.compile(r"(?P<name>[^@]+)@(?P<major>\d+)\.(?P<minor>\d+)\.(?P<patch>\d+)(?P<rest>[-+].*)?")


def canonical_name(name: str) -> str:
    """`name` with its version cut to what semver-compatible versions share.

    "wasi:io/streams@0.2.6" -> "wasi:io/streams@0.2", "a:b/c@1.2.3" -> "a:b/c@1", "a:b/c@0.0.3" stays; so
    does a pre-release, which is compatible with itself alone. Build metadata is dropped (Explainer.md,
    canonversion).
    """
    match = _VERSIONED.fullmatch(name)
    if match is None:
        return name
    rest = match["rest"] or ""
    if rest.startswith("-"):
        return name.partition("+")[0]
    major, minor, patch = (int(match[part]) for part in ("major", "minor", "patch"))
    if major:
        version = f"{major}"
    elif minor:
        version = f"0.{minor}"
    else:
        version = f"0.0.{patch}"
    return f"{match['name']}@{version}"
