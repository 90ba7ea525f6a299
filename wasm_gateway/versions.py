# Semantic versions and ranges of them, as Cargo and Spin read those ("1.2" is "^1.2").
#
# A version is a key that compares (semver.org, 11; build metadata does not count), a
# comparator of a range the half-open interval between two keys.

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

Key = tuple[Any, ...]

_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_LABELS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_LABELS}))?(?:\+{_LABELS})?")
_COMPARATOR = re.compile(
    r"\s*(?P<op>=|\^|~|[<>]=?|)\s*(?P<numbers>[0-9*xX]+(?:\.[0-9*xX]+){0,2})"
    rf"(?:-(?P<pre>{_LABELS}))?(?:\+{_LABELS})?\s*"
)
_END: Key = (float("inf"),)


def parse_version(text: str) -> Key | None:
    """The key of a version; None where `text` is none."""
    match = _VERSION.fullmatch(text)
    return match and _key(tuple(map(int, match.group(1, 2, 3))), match[4])


def exact_version(range: str) -> str | None:
    """The only version that is in the range ("=1.2.3"), None where there may be more."""
    text = range.strip()
    version = text[1:].strip()
    return version if text.startswith("=") and _VERSION.fullmatch(version) else None


def newest(range: str, versions: Iterable[str]) -> str | None:
    """The newest of the versions that is in `range`; what is no version is passed over."""
    found = [(key, text) for text in versions if (key := parse_version(text)) and _within(range, key)]
    return max(found)[1] if found else None


def _within(range: str, key: Key) -> bool:
    asked = list(filter(None, map(_COMPARATOR.fullmatch, range.split(","))))
    # a pre-release is meant only where the range names one of the very same version
    named = [_numbers(match) for match in asked if match["pre"]]
    if key[3] == 0 and key[:3] not in named:
        return False
    return all(begin <= key < end for begin, end in map(_interval, asked))


def _interval(match: re.Match[str]) -> tuple[Key, Key]:
    op, numbers = match["op"], _numbers(match)
    if len(numbers) == 3:
        begin = _key(numbers, match["pre"])
        end: Key = (*begin, 0)
    else:
        begin, end = numbers, _next(numbers)
    wildcard = op == "" and len(numbers) <= match["numbers"].count(".")
    match "=" if wildcard or not numbers else op:
        case "=":
            return begin, end
        case ">":
            return end, _END
        case ">=":
            return begin, _END
        case "<":
            return (), begin
        case "<=":
            return (), end
        case "~":
            return begin, _next(numbers[:2])
    leading = next((size for size, number in enumerate(numbers, 1) if number), len(numbers))
    return begin, _next(numbers[:leading])


def _numbers(match: re.Match[str]) -> tuple[int, ...]:
    """What is before the first wildcard."""
    known = re.split(r"\.?[*xX]", match["numbers"])[0]
    return tuple(map(int, known.split("."))) if known else ()


def _next(numbers: tuple[int, ...]) -> Key:
    return (*numbers[:-1], numbers[-1] + 1) if numbers else _END


def _key(numbers: tuple[int, ...], pre: str | None) -> Key:
    """What compares as versions do; (1, 2) is before (1, 2, 0, ...)."""
    if pre is None:
        return (*numbers, 1, ())
    labels = [(0, int(each), "") if each.isdecimal() else (1, 0, each) for each in pre.split(".")]
    return (*numbers, 0, tuple(labels))
