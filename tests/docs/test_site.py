"""The documentation site builds without a warning, and its reference has everything that there is."""

from __future__ import annotations

import html
import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
import pytest
from prometheus_client import CollectorRegistry

import wasm_gateway
from wasm_gateway import errors, schema
from wasm_gateway.cli import cli
from wasm_gateway.component_options import OPTIONS
from wasm_gateway.executors import guest
from wasm_gateway.host.application import FAMILIES
from wasm_gateway.host.wasi import preview1 as wasi_preview1
from wasm_gateway.integrations import django, options
from wasm_gateway.integrations.django import conf
from wasm_gateway.integrations.flask import extension
from wasm_gateway.integrations.flask.commands import wasm
from wasm_gateway.making.scaffold import find_templates
from wasm_gateway.manifest import INHERITABLE
from wasm_gateway.observe import Outcome, Role
from wasm_gateway.observe.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
OPTIONS_OF_SPHINX = ["-E", "-W", "-n", "-q", "--keep-going"]  # those of `make docs`


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages; a warning is an error, and so is a reference to nothing."""
    out = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", *OPTIONS_OF_SPHINX, f"-d{out / 'doctrees'}", DOCS, out / "html"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return out / "html"


def test_every_page_is_built(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS)).with_suffix(".html").exists()


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def test_sphinx_is_run_as_by_make() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [command] = re.findall(r"sphinx -M html docs build/docs (.*) \$\(ARGS\)", makefile)
    assert {*command.split()} == {*OPTIONS_OF_SPHINX} - {"-q"}


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    for key, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {key}")
        else:
            yield f"{name} {key}", command


def flags() -> Iterator[str]:
    for name, command in [*commands(cli, "wasm-gateway"), *commands(wasm, "flask wasm")]:
        yield name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                yield from (*parameter.opts, *parameter.secondary_opts)


def django_commands() -> Iterator[str]:
    folder = Path(django.__file__).parent / "management" / "commands"
    for path in folder.glob("wasm_*.py"):
        yield f"manage.py {path.stem}"
        yield from re.findall(r'"(--[a-z-]+)"', path.read_text(encoding="utf-8"))


def metrics() -> Iterator[str]:
    for metric in vars(Metrics(CollectorRegistry())._families).values():
        [family] = metric.describe()
        yield f"{family.name}_total" if family.type == "counter" else family.name
        yield from metric._labelnames


# page -> what has to be on it
REFERENCE: dict[str, Callable[[], Iterable[str]]] = {
    "settings": lambda: options.KEYS | conf.KEYS | {*extension.OWN_KEYS},
    "manifest": lambda: {*OPTIONS, *INHERITABLE, *(str(key) for key in schema.DESCRIPTIONS)},
    "commands": lambda: {*flags(), *django_commands()},
    "guests": lambda: {*find_templates(None), *guest.HTTP_HANDLERS},
    "interfaces": lambda: {*FAMILIES, *wasi_preview1.FUNCTIONS},
    "errors": lambda: {error.__name__ for error in vars(errors).values() if _is_error(error)},
    "observing": lambda: {*Outcome, *Role, *metrics()},
    "api": lambda: {*wasm_gateway.__all__, *django.__all__} - {"__version__", "GatewayError"},
}


@pytest.mark.parametrize("page", REFERENCE)
def test_the_reference_has_all(site: Path, page: str) -> None:
    source = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", "", source))
    names = set(REFERENCE[page]())
    assert names
    missing = {name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)}
    assert missing == set()


def test_words_for_what_is_not_there_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    words = importlib.import_module("generate.text").words
    assert words(["a"], {"a": "A."}) == {"a": "A."}
    with pytest.raises(ValueError, match="no words for b"):
        words(["a", "b"], {"a": "A."})
    with pytest.raises(ValueError, match="does not have: c"):
        words(["a"], {"a": "A.", "c": "C."})
