# Names of imports and exports (Explainer.md, Import and Export Names).

from __future__ import annotations

import re

# Numbers of a version fit in 64 bits; whatever has longer ones is compatible with itself alone.
_VERSIONED = re.compile(
    r"(?P<name>[^@]+)@(?P<major>[0-9]{1,20})\.(?P<minor>[0-9]{1,20})\.(?P<patch>[0-9]{1,20})(?P<rest>[-+].*)?"
)


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


_WORD = r"(?:[a-z][a-z0-9]*|[A-Z][A-Z0-9]*)"
# Alternatives begin differently, so that matching never goes back: names are a guest's.
_LATER = r"(?:-(?:[0-9]+(?:[a-z][a-z0-9]*|[A-Z][A-Z0-9]*)?|[a-z][a-z0-9]*|[A-Z][A-Z0-9]*))*"
_LABEL = _WORD + _LATER
_PACKAGE = r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*"
_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_NUMBER = r"(?:0|[1-9][0-9]*)"
_VERSION = (
    rf"(?:{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_IDENTIFIERS})?(?:\+{_IDENTIFIERS})?"
    rf"|0\.0\.{_NUMBER}|0\.{_NUMBER}|[1-9][0-9]*)"
)
_LABEL_PATTERN = re.compile(_LABEL)
_PLAIN = re.compile(
    rf"(?:\[constructor\](?P<constructed>{_LABEL})"
    rf"|\[(?P<kind>method|static)\](?P<resource>{_LABEL})\.(?P<function>{_LABEL})"
    rf"|(?P<label>{_LABEL}))"
)
_INTERFACE = re.compile(rf"{_PACKAGE}:{_PACKAGE}/{_LABEL}(?:@{_VERSION})?")
_CANONICAL = re.compile(
    rf"{_PACKAGE}:{_PACKAGE}/{_LABEL}@(?P<version>0\.0\.{_NUMBER}|0\.{_NUMBER}|[1-9][0-9]*)"
)
_SEMVER = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"
    rf"(?:-(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*)?"
    rf"(?:\+{_IDENTIFIERS})?"
)


def is_label(name: str) -> bool:
    """Whether `name` is in kebab case: words all lower or all upper case, beginning with a letter."""
    return _LABEL_PATTERN.fullmatch(name) is not None


def is_interface_name(name: str) -> bool:
    return _INTERFACE.fullmatch(name) is not None


def takes_suffix(name: str, suffix: str) -> bool:
    """Whether `suffix` is the rest of the version in `name` (Explainer.md, canonical interface name)."""
    match = _CANONICAL.fullmatch(name)
    return match is not None and _SEMVER.fullmatch(match["version"] + suffix) is not None


def annotated(name: str) -> tuple[str, str, str] | None:
    """(kind, resource, function) of "[method]r.f", "[static]r.f" and "[constructor]r" (function "")."""
    match = _PLAIN.fullmatch(name)
    if match is None or match["label"] is not None:
        return None
    if match["constructed"] is not None:
        return "constructor", match["constructed"], ""
    return match["kind"], match["resource"], match["function"]


def unique_key(name: str) -> str | None:
    """What has to be unique among the names of a side ("strongly-unique"); None where `name` is no name."""
    match = _PLAIN.fullmatch(name)
    if match is None:
        return name.lower() if is_interface_name(name) else None
    if match["label"] is not None:
        return name.lower()
    if match["constructed"] is not None:
        return name.lower()
    resource, function = match["resource"].lower(), match["function"].lower()
    return resource if resource == function else f"{resource}.{function}"
