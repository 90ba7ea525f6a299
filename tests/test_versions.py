# Ranges of versions, as the crate semver has them (its documentation and tests).

from __future__ import annotations

import pytest

from wasm_gateway.versions import exact_version, newest, parse_version

IN_ORDER = """
0.0.1 0.1.0 1.0.0-0 1.0.0-2 1.0.0-10 1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta
1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.1 1.2.0 1.10.0 2.0.0
"""


def test_the_order() -> None:
    keys = [parse_version(text) for text in IN_ORDER.split()]
    assert None not in keys
    assert sorted(keys, key=lambda key: key or ()) == keys
    assert len(set(keys)) == len(keys)
    assert parse_version("1.0.0+build") == parse_version("1.0.0")


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "v1.2.3", "1.2.3.4", "01.2.3", "1.2.3-", "latest", "sha256-1.2.3"]
)
def test_what_is_no_version(text: str) -> None:
    assert parse_version(text) is None


@pytest.mark.parametrize(
    ("range", "within", "without"),
    [
        ("1.2.3", "1.2.3 1.2.4 1.3.0 1.2.3+b", "1.2.2 2.0.0 1.2.3-a 1.3.0-a 2.0.0-a"),
        ("^1.2", "1.2.0 1.9.9", "1.1.9 2.0.0"),
        ("^1", "1.0.0 1.9.9", "0.9.9 2.0.0"),
        ("^0.2.3", "0.2.3 0.2.9", "0.2.2 0.3.0 1.0.0"),
        ("0.2", "0.2.0 0.2.9", "0.1.9 0.3.0"),
        ("^0.0.3", "0.0.3", "0.0.2 0.0.4"),
        ("^0.0", "0.0.0 0.0.9", "0.1.0"),
        ("^0.0.0", "0.0.0", "0.0.1"),
        ("0", "0.0.0 0.9.9", "1.0.0"),
        ("~1.2.3", "1.2.3 1.2.9", "1.2.2 1.3.0"),
        ("~1.2", "1.2.0 1.2.9", "1.1.9 1.3.0"),
        ("~1", "1.0.0 1.9.9", "0.9.9 2.0.0"),
        ("=1.2.3", "1.2.3 1.2.3+b", "1.2.2 1.2.4 1.2.3-a"),
        ("=1.2", "1.2.0 1.2.9", "1.1.9 1.3.0"),
        (">1.2.3", "1.2.4 2.0.0", "1.2.3 1.2.2"),
        (">1.2", "1.3.0 2.0.0", "1.2.9"),
        (">1", "2.0.0", "1.9.9"),
        (">=1.2", "1.2.0 9.0.0", "1.1.9"),
        ("<1.2.3", "1.2.2 0.0.1", "1.2.3 1.2.3-a"),
        ("<1.2", "1.1.9", "1.2.0"),
        ("<=1.2", "1.2.9 1.1.0", "1.3.0"),
        ("<=1.2.3", "1.2.3", "1.2.4"),
        ("*", "0.0.0 9.9.9", "1.0.0-a"),
        ("1.*", "1.0.0 1.9.9", "0.9.9 2.0.0"),
        ("1.2.x", "1.2.0 1.2.9", "1.3.0 1.1.9"),
        (" >= 1.2 , < 2 ", "1.2.0 1.9.9", "1.1.9 2.0.0"),
        ("^1.2.3-beta.2", "1.2.3-beta.2 1.2.3-beta.3 1.2.3 1.9.0", "1.2.3-alpha 1.2.4-beta.2 2.0.0"),
        ("=1.2.3-rc.1", "1.2.3-rc.1", "1.2.3 1.2.3-rc.2"),
        (">1.2.3-a", "1.2.3-b 1.2.3 1.3.0", "1.2.3-a 1.3.0-b"),
    ],
)  # fmt: skip
def test_ranges(range: str, within: str, without: str) -> None:
    for version in within.split():
        assert newest(range, [version]) == version
    for version in without.split():
        assert newest(range, [version]) is None, version


def test_the_newest() -> None:
    versions = ["1.2.0", "latest", "1.10.0", "1.9.3", "2.0.0", "1.11.0-rc.1"]
    assert newest("^1", versions) == "1.10.0"
    assert newest("*", versions) == "2.0.0"
    assert newest("^3", versions) is None
    assert newest("*", []) is None


@pytest.mark.parametrize(
    ("range", "version"),
    [
        ("=1.2.3", "1.2.3"),
        (" = 1.2.3-rc.1 ", "1.2.3-rc.1"),
        ("1.2.3", None),
        ("=1.2", None),
        ("^1.2.3", None),
    ],
)
def test_exact_versions(range: str, version: str | None) -> None:
    assert exact_version(range) == version
