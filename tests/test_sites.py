from __future__ import annotations

from pathlib import Path

import pytest

from wasm_gateway.sites import find_site

ROOT = Path(__file__).parent.parent
MANAGE = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'mysite.settings')\n"


def plant(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_examples() -> None:
    game = find_site(ROOT / "example_projects" / "finicky_whiskers")
    assert game is not None
    assert (game.framework, game.application) == ("django", "finicky_whiskers.wsgi:application")
    assert game.middleware is not None
    assert game.middleware[1] == "wasm_gateway.integrations.django.WasmGatewayMiddleware"
    flask = find_site(ROOT / "example_projects" / "flask_app")
    assert flask is not None
    assert (flask.framework, flask.application) == ("flask", "app:app")


def test_settings_that_are_not_plain(tmp_path: Path) -> None:
    plant(
        tmp_path,
        manage=MANAGE,
        mysite__settings="MIDDLEWARE = ['a']\nMIDDLEWARE += ['b']\nSTATIC_ROOT: str = 'x'\n",
    )
    site = find_site(tmp_path)
    assert site is not None
    assert (site.application, site.middleware, site.has_static_root) == (
        "mysite.wsgi:application",
        None,
        True,
    )
    plant(tmp_path, mysite__settings="MIDDLEWARE = [*common(), 'b']\nWSGI_APPLICATION = 'other.app'")
    site = find_site(tmp_path)
    assert site is not None
    assert (site.application, site.middleware) == ("other:app", None)
    plant(tmp_path, mysite__settings="no Python {")
    site = find_site(tmp_path)
    assert site is not None
    assert site.middleware is None


def test_it_is_found_above_but_not_beyond_the_repository(tmp_path: Path) -> None:
    plant(tmp_path, manage=MANAGE)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    site = find_site(inner)
    assert site is not None
    assert site.folder == tmp_path
    (inner / ".git").mkdir()
    assert find_site(inner) is None


@pytest.mark.parametrize(
    ("file", "text", "application"),
    [
        ("app", "from flask import Flask\nsite = Flask(__name__)", "app:site"),
        ("wsgi", "import flask\napplication = flask.Flask('x')", "wsgi:application"),
        ("main", "from flask import Flask\ndef create_app():\n    return Flask('x')", "main:create_app()"),
        ("wsgi", "from mine import create_app  # flask\napp = create_app()", "wsgi:app"),
        ("app", "print('no site')", None),
        ("app", "from flask import request", None),
    ],
)
def test_flask(tmp_path: Path, file: str, text: str, application: str | None) -> None:
    site = find_site(plant(tmp_path, **{file: text}))
    assert (None if site is None else site.application) == application


def test_nothing_of_it_is_run(tmp_path: Path) -> None:
    plant(tmp_path, manage=MANAGE, mysite__settings="raise SystemExit", app="raise SystemExit")
    assert find_site(tmp_path) is not None
