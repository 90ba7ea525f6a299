"""What a user can set, run or import is in the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import wasm_gateway
from wasm_gateway.cli import cli
from wasm_gateway.integrations import options
from wasm_gateway.integrations.django import conf
from wasm_gateway.integrations.flask import extension
from wasm_gateway.manifest import OPTIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUOTED = set(re.findall(r"`([^`\n]+)`", README))


@pytest.mark.parametrize("key", sorted(options.KEYS | conf.KEYS | {*extension.OWN_KEYS}))
def test_every_setting_is_in_the_readme(key: str) -> None:
    assert key in QUOTED


@pytest.mark.parametrize("option", OPTIONS)
def test_every_limit_is_in_the_readme(option: str) -> None:
    assert option in QUOTED


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_is_in_the_readme_and_explains_itself(name: str) -> None:
    assert f"wasm-gateway {name}" in README
    assert cli.commands[name].help


def test_every_public_name_is_there() -> None:
    for name in wasm_gateway.__all__:
        assert getattr(wasm_gateway, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = wasm_gateway.no_such_name


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE)) <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    "path",
    [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("*/README.md")), *sorted(ROOT.glob("*/*/README.md"))],
    ids=str,
)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
