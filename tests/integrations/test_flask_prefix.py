"""A manifest below the URL prefix of a blueprint, or of an app: guests first, then the views there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from flask import Blueprint, Flask, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from tests.integrations.conftest import GUESTS, printer
from wasm_gateway.errors import ManifestError
from wasm_gateway.integrations.flask import WasmGateway
from wasm_gateway.integrations.flask.commands import wasm
from wasm_gateway.migration.ledger import SqliteLedger

MANIFEST = """
spin_manifest_version = 2
[application]
name = "{name}"
[[trigger.http]]
route = "/{name}"
component = "{name}"
executor = {{ type = "wagi" }}
[component.{name}]
source = "{name}.wasm"
[[trigger.http]]
route = "/echo/..."
component = "{name}-echo"
executor = {{ type = "wagi" }}
[component.{name}-echo]
source = "echo.wasm"
[[trigger.http]]
route = "/trap"
component = "{name}-trap"
executor = {{ type = "wagi" }}
[component.{name}-trap]
source = "trap.wasm"
[component.{name}-trap.tool.wasm-gateway]
fallback = ["trap"]
"""

Made = Callable[..., Path]


@pytest.fixture
def guests(tmp_path: Path) -> Made:
    """`guests(NAME)`: a folder with a manifest, one of whose guests says its name."""

    def make(name: str, manifest: str = MANIFEST) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "spin.toml").write_text(manifest.format(name=name))
        (folder / f"{name}.wasm").write_bytes(
            wasmtime.wat2wasm(printer(f"content-type: text/plain\n\nguest {name}"))
        )
        for guest in ("echo", "trap"):
            (folder / f"{guest}.wasm").write_bytes(wasmtime.wat2wasm(GUESTS[guest]))
        return folder

    return make


@pytest.fixture
def app(tmp_path: Path, cache_dir: Path) -> Flask:
    app = Flask("site", root_path=str(tmp_path))
    app.config.update(WASM_GATEWAY_CACHE_DIR=cache_dir, WASM_GATEWAY_STATE_DIR="")

    @app.route("/", defaults={"rest": ""})
    @app.route("/<path:rest>", methods=["GET", "POST"])
    def any_path(rest: str) -> bytes:
        return b"app /" + rest.encode()

    return app


def blueprint(name: str, folder: Path, **options: Any) -> Blueprint:
    """One whose views say where they are, and with what body."""
    made = Blueprint(name, name, root_path=str(folder), **options)

    @made.route("/<path:rest>", methods=["GET", "POST"])
    def any_path(rest: str) -> bytes:
        return f"{name} {request.script_root}{request.path} ".encode() + request.get_data()

    return made


def test_below_the_prefix_of_a_blueprint(app: Flask, guests: Made) -> None:
    shop = blueprint("shop", guests("shop"), url_prefix="/shop")
    WasmGateway(shop)
    app.register_blueprint(shop)
    client = app.test_client()
    assert client.get("/shop/shop").data == b"guest shop"
    # the views of the blueprint: where no route is, and where the guest has failed
    assert client.get("/shop/other").data == b"shop /shop/other "
    assert client.post("/shop/trap", data=b"body").data == b"shop /shop/trap body"
    # outside
    for path in ("/shop", "/trap", "/shopping/shop", "/"):
        assert client.get(path, follow_redirects=True).data == b"app " + path.encode()
    # what the guest sees
    answer = client.get("/shop/echo/a%20b?x=1").data
    assert b"PATH_INFO=/a%20b\0" in answer
    assert b"X_FULL_URL=http://localhost/echo/a%20b?x=1\0" in answer


def test_the_prefix_is_the_one_of_the_registration(app: Flask, guests: Made) -> None:
    folder = guests("shop")
    shop, outer = blueprint("shop", folder, url_prefix="/own"), Blueprint("outer", "outer")
    WasmGateway(shop)
    outer.register_blueprint(shop, url_prefix="/inner")
    app.register_blueprint(outer, url_prefix="/outer")
    app.register_blueprint(shop, url_prefix="/other", name="again")
    client = app.test_client()
    for prefix in ("/outer/inner", "/other"):
        assert client.get(f"{prefix}/shop").data == b"guest shop"
        assert client.get(f"{prefix}/x").data == f"shop {prefix}/x ".encode()
    assert client.get("/own/shop").data == b"app /own/shop"
    assert sorted(app.extensions["wasm_gateways"]) == ["/other", "/outer/inner"]


def test_below_a_script_name_and_behind_a_proxy(app: Flask, guests: Made) -> None:
    shop = blueprint("shop", guests("shop"), url_prefix="/shop")
    WasmGateway(shop)
    app.wsgi_app = ProxyFix(app.wsgi_app, x_prefix=1)  # type: ignore[method-assign]
    app.register_blueprint(shop)
    client = Client(DispatcherMiddleware(Flask("root"), {"/below": app}))
    assert client.get("/below/shop/shop").data == b"guest shop"
    assert client.post("/below/shop/trap", data=b"x").data == b"shop /below/shop/trap x"
    assert client.get("/shop/shop").status_code == 404


@pytest.mark.parametrize("last", ["app", "shop"])
def test_an_app_and_its_blueprints(app: Flask, guests: Made, last: str) -> None:
    """Whatever the order, the longest prefix is asked first."""
    everything = MANIFEST.replace('"/{name}"', '"/..."')
    shop, inner = blueprint("shop", guests("shop", everything), url_prefix="/shop"), guests("inner")
    steps: dict[str, Callable[[], object]] = {
        "shop": lambda: (WasmGateway(shop), app.register_blueprint(shop)),
        "inner": lambda: WasmGateway(app, url_prefix="/shop/inner/", manifest=inner / "spin.toml"),
        "app": lambda: WasmGateway(app, manifest=guests("site") / "spin.toml"),
    }
    for step in sorted(steps, key=lambda step: step == last):
        steps[step]()
    client = app.test_client()
    assert client.get("/site").data == b"guest site"
    assert client.get("/shop/whatever").data == b"guest shop"
    assert client.get("/shop/inner/inner").data == b"guest inner"
    assert client.get("/shop/inner/other").data == b"guest shop"
    assert client.get("/elsewhere").data == b"app /elsewhere"
    assert app.extensions["wasm_gateway"].manifest.name == "site"


def test_several_apps_have_a_blueprint_each_for_itself(guests: Made, cache_dir: Path) -> None:
    folder = guests("shop")
    shop = blueprint("shop", folder, url_prefix="/shop")
    WasmGateway(shop)
    apps = [Flask(name, root_path=str(folder)) for name in ("one", "two")]
    for app, mode in zip(apps, ("wasm", "native"), strict=True):
        app.config.update(WASM_GATEWAY_CACHE_DIR=cache_dir, WASM_GATEWAY_STATE_DIR="")
        app.config["WASM_GATEWAY_RULES"] = {"shop": {"mode": mode}}
        app.register_blueprint(shop)
    one, two = (app.test_client().get("/shop/shop").data for app in apps)
    assert (one, two) == (b"guest shop", b"shop /shop/shop ")
    gateways = [app.extensions["wasm_gateway"] for app in apps]
    assert gateways[0] is not gateways[1]
    gateways[0].close()
    assert apps[1].test_client().get("/shop/echo/x").status_code == 200


def test_settings_of_one_manifest(app: Flask, guests: Made, tmp_path: Path) -> None:
    app.config["WASM_GATEWAY_COMPONENTS"] = ["site"]  # of the app's own manifest alone
    app.config["WASM_GATEWAY_LEDGER"] = tmp_path / "ledger.db"
    app.config["WASM_GATEWAY_MANIFEST"] = guests("site") / "spin.toml"
    folder = guests("shop")
    (folder / "spin.toml").rename(folder / "other.toml")
    shop = blueprint("shop", folder, url_prefix="/shop")
    WasmGateway(shop, manifest="other.toml", rules={"shop": {"mode": "native"}}, ledger=tmp_path / "own.db")
    WasmGateway(app)
    app.register_blueprint(shop)
    client = app.test_client()
    assert (client.get("/site").data, client.get("/shop/shop").data) == (b"guest site", b"shop /shop/shop ")
    assert client.get("/echo/x").data == b"app /echo/x"
    assert client.get("/shop/echo/x").status_code == 200


def test_a_guest_beside_the_view_of_a_blueprint(app: Flask, guests: Made, tmp_path: Path) -> None:
    shop = blueprint("shop", guests("shop"), url_prefix="/shop")
    WasmGateway(shop, rules={"shop": {"mode": "shadow"}}, ledger=tmp_path / "ledger.db")
    app.register_blueprint(shop)
    with app.test_client().get("/shop/shop") as response:
        assert response.data == b"shop /shop/shop "
    pilot = app.extensions["wasm_gateway"].pilot
    end = time.monotonic() + 60
    while not pilot.ledger.mismatches():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert pilot.ledger.mismatches()[0].target == "/shop"


# Mistakes


def test_dials_of_one_name_in_one_ledger(app: Flask, guests: Made, tmp_path: Path) -> None:
    app.config["WASM_GATEWAY_LEDGER"] = tmp_path / "ledger.db"
    WasmGateway(app, url_prefix="/one", manifest=guests("one") / "spin.toml")
    two = guests("two") / "spin.toml"
    with pytest.raises(
        ManifestError, match=r"/echo/\.\.\., /trap is served below another URL prefix"
    ) as info:
        WasmGateway(app, url_prefix="/two", manifest=two)
    assert info.value.key == "LEDGER"
    WasmGateway(app, url_prefix="/two", manifest=two, ledger=tmp_path / "other.db")
    assert app.test_client().get("/two/two").data == b"guest two"


def test_what_cannot_be(app: Flask, guests: Made) -> None:
    manifest = guests("shop") / "spin.toml"
    WasmGateway(app, url_prefix="/shop", manifest=manifest)
    with pytest.raises(RuntimeError, match="below /shop already"):
        WasmGateway(app, url_prefix="/shop/", manifest=manifest)
    with pytest.raises(TypeError, match="no setting 'manifes'"):
        WasmGateway(app, manifes=manifest)
    with pytest.raises(TypeError, match="init_app"):
        WasmGateway(manifest=manifest)
    with pytest.raises(TypeError, match="is its own"):
        WasmGateway(Blueprint("a", "a"), url_prefix="/a")
    for prefix in ("shop", "/<lang>"):
        with pytest.raises(ManifestError, match="no fixed path"):
            WasmGateway(app, url_prefix=prefix, manifest=manifest)
    hosted = blueprint("hosted", manifest.parent, url_prefix="/hosted", subdomain="api")
    WasmGateway(hosted)
    with pytest.raises(ManifestError, match="subdomain"):
        app.register_blueprint(hosted)
    missing = blueprint("missing", manifest.parent / "nowhere", url_prefix="/missing")
    WasmGateway(missing)
    with pytest.raises(ManifestError, match=r"spin\.toml"):
        app.register_blueprint(missing)


# Commands


def test_commands_of_several(app: Flask, guests: Made, tmp_path: Path) -> None:
    runner = app.test_cli_runner()
    for name in ("one", "two"):
        WasmGateway(
            app, url_prefix=f"/{name}", manifest=guests(name) / "spin.toml", ledger=tmp_path / f"{name}.db"
        )
    lines = runner.invoke(wasm, ["routes"]).output.splitlines()
    assert [line.split()[:2] for line in lines[::3]] == [["/one/one", "one"], ["/two/two", "two"]]
    rows = json.loads(runner.invoke(wasm, ["--at", "/two/", "routes", "--format", "json"]).output)
    assert [row["route"] for row in rows] == ["/two/two", "/two/echo", "/two/trap"]
    refused = runner.invoke(wasm, ["mode", "two", "native"])
    assert (refused.exit_code, "--at /one or /two" in refused.output) == (2, True)
    assert runner.invoke(wasm, ["--at", "/two", "mode", "two", "native"]).exit_code == 0
    assert app.test_client().get("/two/two").data == b"app /two/two"
    with closing(SqliteLedger(tmp_path / "two.db")) as ledger:
        assert ledger.dials() == {"two": {"mode": "native"}}
    unknown = runner.invoke(wasm, ["--at", "/three", "mode"])
    assert (unknown.exit_code, "there are: /one, /two" in unknown.output) == (1, True)
