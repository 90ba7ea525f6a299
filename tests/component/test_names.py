from __future__ import annotations

import pytest

from wasm_gateway.component.names import (
    annotated,
    canonical_name,
    is_label,
    takes_suffix,
    unique_key,
)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("wasi:io/streams@0.2.6", "wasi:io/streams@0.2"),
        ("a:b/c@1.2.3", "a:b/c@1"),
        ("a:b/c@0.0.3", "a:b/c@0.0.3"),
        ("a:b/c@1.2.3+build", "a:b/c@1"),
        ("a:b/c@1.2.3-rc.1+build", "a:b/c@1.2.3-rc.1"),
        ("a:b/c", "a:b/c"),
        ("plain", "plain"),
        # no number that anybody could mean, and one that Python would not read
        (f"a:b/c@1.{'9' * 5000}.0", f"a:b/c@1.{'9' * 5000}.0"),
        ("a:b/c@1.٣.0", "a:b/c@1.٣.0"),
    ],
)
def test_canonical_name(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical


@pytest.mark.parametrize("name", ["a", "a-b", "ABC-def", "a1-2-3x-4Y", "a-1"])
def test_labels(name: str) -> None:
    assert is_label(name)


@pytest.mark.parametrize("name", ["", "-", "1a", "a-", "a--b", "aB", "a_b", "a.b", "a\n", "é", "a-1aB"])
def test_what_is_no_label(name: str) -> None:
    assert not is_label(name)


@pytest.mark.parametrize(
    "name",
    [
        "a:b",
        "a:b/",
        "a:b/c@",
        "a:b:c",
        "a:b:c/d",
        "a:b/c/d",
        "unlocked-dep=<a:b>",
        "url=<a>",
        "integrity=<sha256-a>",
    ],
)
def test_what_is_no_name(name: str) -> None:
    """Names of dependencies, URLs and hashes were some until 2026; nested ones may become some."""
    assert unique_key(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "a" + "-1" * 40_000 + "!",
        "[method]a" + "-1" * 20_000 + ".b" + "-1" * 20_000 + "!",
        "a:b/c@1.0.0-" + "1" * 40_000 + "!",
        "a:b/c@1.0.0-" + "a.1-" * 10_000 + "!",
        "a" + "-1" * 20_000 + ":b/c!",
        "a:" * 50_000 + "b",
        "a:b" + "/c" * 50_000 + "!",
    ],
)
def test_names_that_are_none_are_told_at_once(name: str) -> None:
    """As hostile as names are: a pattern that tries every way to read them would take longer than the sun."""
    assert unique_key(name) is None
    assert annotated(name) is None
    assert not is_label(name)
    assert not takes_suffix("a:b/c@1", name)
    assert canonical_name(name) == name
