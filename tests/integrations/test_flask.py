# A Flask app with Wasm routes beside its views.

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask import Flask, request
from flask.cli import FlaskGroup, ScriptInfo
from werkzeug.middleware.proxy_fix import ProxyFix

from wasm_gateway import Gateway
from wasm_gateway.errors import ComponentError, ManifestError
from wasm_gateway.integrations.flask import WasmGateway
from wasm_gateway.integrations.flask.commands import wasm
from wasm_gateway.manifest import load_manifest

Make = Callable[..., Flask]


@pytest.fixture
def make(manifest: Path, cache_dir: Path, tmp_path: Path) -> Make:
    """`make(MANIFEST=..., ...)`: an app with these settings."""

    def make(**settings: Any) -> Flask:
        app = Flask(__name__, root_path=str(tmp_path))
        app.config.update(WASM_GATEWAY_CACHE_DIR=cache_dir, WASM_GATEWAY_STATE_DIR=tmp_path / "state")
        app.config.update({f"WASM_GATEWAY_{name}": value for name, value in settings.items()})

        @app.route("/", methods=["GET", "POST"])
        def home() -> str:
            return f"native {request.method}"

        WasmGateway(app)
        return app

    return make


def environment(body: bytes) -> dict[str, str]:
    return dict(text.decode().split("=", 1) for text in body.partition(b"\0\0")[0].split(b"\0"))


def test_wasm_routes_and_views_side_by_side(make: Make) -> None:
    client = make().test_client()
    response = client.get("/wasm/hello")
    assert (response.status_code, response.data) == (200, b"hello from wasm")
    assert response.headers["content-type"] == "text/plain"
    assert client.get("/").data == b"native GET"
    assert client.get("/wasm/none").status_code == 404


def test_what_a_guest_says_goes_out(make: Make) -> None:
    client = make().test_client()
    assert client.get("/wasm/teapot").status_code == 418
    assert client.get("/wasm/redirect").headers["location"] == "/elsewhere"
    assert client.get("/wasm/cookie").headers["set-cookie"].startswith('sid="a b,c"; Path=/wasm')
    assert (client.get("/wasm/trap").status_code, client.get("/wasm/trap").data) == (500, b"")


def test_what_a_guest_sees(make: Make) -> None:
    response = make().test_client().post("/wasm/echo/a%2Fb?q=%20", data=b"hello", content_type="text/plain")
    variables = environment(response.data)
    assert response.data.endswith(b"\0\0hello")
    assert (variables["PATH_INFO"], variables["QUERY_STRING"]) == ("/a%2Fb", "q=%20")
    assert variables["X_FULL_URL"] == "http://localhost/wasm/echo/a%2Fb?q=%20"


def test_a_body_that_is_too_large_is_a_413(make: Make) -> None:
    response = make().test_client().post("/wasm/echo", data=bytes((1 << 20) + 1))
    assert (response.status_code, response.data) == (413, b"")


def test_a_large_body_of_a_view_is_none_of_our_business(make: Make) -> None:
    assert make().test_client().post("/", data=bytes((1 << 20) + 1)).data == b"native POST"


def test_trusted_hosts_apply(make: Make) -> None:
    app = make()
    client = app.test_client()
    assert client.get("/wasm/hello", headers={"host": "any.example"}).status_code == 200
    app.config["TRUSTED_HOSTS"] = ["good.example"]
    assert client.get("/wasm/hello", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/wasm/hello", headers={"host": "good.example"}).status_code == 200


def test_behind_a_proxy(make: Make) -> None:
    app = make()
    app.wsgi_app = ProxyFix(app.wsgi_app, x_proto=1, x_host=1, x_for=1)  # type: ignore[method-assign]
    headers = {
        "x-forwarded-proto": "https",
        "x-forwarded-host": "public.example",
        "x-forwarded-for": "10.1.2.3",
    }
    variables = environment(app.test_client().get("/wasm/echo", headers=headers).data)
    assert variables["X_FULL_URL"] == "https://public.example/wasm/echo"
    assert variables["REMOTE_ADDR"] == "10.1.2.3"


# Wiring


def test_the_manifest_lies_beside_the_app_by_default(make: Make, manifest: Path) -> None:
    gateway = make().extensions["wasm_gateway"]
    assert isinstance(gateway, Gateway)
    assert gateway.manifest.path == manifest


def test_a_relative_manifest_lies_below_the_app(make: Make, manifest: Path) -> None:
    manifest.rename(manifest.parent / "other.toml")
    assert make(MANIFEST="other.toml").test_client().get("/wasm/hello").status_code == 200


def test_settings_reach_the_gateway(make: Make) -> None:
    app = make(
        COMPONENTS=["hello"],
        VARIABLES={"a": "b"},
        LIMITS={"max_concurrency": 3},
        KEY_VALUE_STORES={"other": {"type": "spin", "path": "other.db"}},
    )
    gateway = app.extensions["wasm_gateway"]
    assert (gateway.options.variables, gateway.options.limits) == ({"a": "b"}, {"max_concurrency": 3})
    assert set(gateway.runtime_config.key_value_stores) == {"other"}
    assert app.test_client().get("/wasm/echo").status_code == 404


def test_several_apps_of_one_extension(make: Make, manifest: Path, cache_dir: Path, tmp_path: Path) -> None:
    extension = WasmGateway()
    apps = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        text = manifest.read_text().replace("/wasm/", f"/{name}/").replace('"hello.wasm"', '"../hello.wasm"')
        (tmp_path / name / "spin.toml").write_text(text)
        app = Flask(name, root_path=str(tmp_path / name))
        app.config.update(WASM_GATEWAY_CACHE_DIR=cache_dir, WASM_GATEWAY_COMPONENTS=["hello"])
        extension.init_app(app)
        apps.append(app)
    for app, found, lacking in ((apps[0], "one", "two"), (apps[1], "two", "one")):
        assert app.test_client().get(f"/{found}/hello").status_code == 200
        assert app.test_client().get(f"/{lacking}/hello").status_code == 404


def test_twice_is_a_mistake(make: Make) -> None:
    with pytest.raises(RuntimeError, match="already"):
        WasmGateway(make())


def test_without_a_manifest_the_app_does_not_start(make: Make) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.toml"):
        make(MANIFEST="nowhere.toml")


def test_a_component_that_is_missing_keeps_the_app_from_starting(
    make: Make, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (manifest.parent / "hello.wasm").unlink()
    with pytest.raises((ManifestError, ComponentError), match="hello"):
        make()
    # but not a command like `flask db upgrade`
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    assert make().test_client().get("/").data == b"native GET"


def test_the_gateway_is_closed_with_its_app(make: Make) -> None:
    app = make()
    gateway = app.extensions["wasm_gateway"]
    closed: list[bool] = []
    original = gateway.hosts.close
    gateway.hosts.close = lambda: (closed.append(True), original())
    del app
    gc.collect()
    assert closed == [True]


# Commands


def test_flask_wasm_routes(make: Make) -> None:
    result = make().test_cli_runner().invoke(wasm, ["routes"])
    assert result.output.splitlines() == [
        "/wasm/hello     hello     wagi",
        "/wasm/cookie    cookie    wagi",
        "/wasm/redirect  redirect  wagi",
        "/wasm/trap      trap      wagi",
        "/wasm/echo/...  echo      wagi",
        "/wasm/teapot    -         static",
    ]


def test_flask_wasm_routes_for_programs(make: Make) -> None:
    result = make().test_cli_runner().invoke(wasm, ["routes", "--format", "json"])
    assert [row["id"] for row in json.loads(result.output)][:2] == ["hello", "cookie"]


def test_flask_wasm_compile(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    cache = tmp_path / "own-cache"
    runner = make(CACHE_DIR=cache).test_cli_runner()
    assert not list(cache.rglob("*.cwasm"))
    result = runner.invoke(wasm, ["compile"])
    assert (result.exit_code, len(result.output.splitlines())) == (0, 5)
    assert len(list(cache.rglob("*.cwasm"))) == 5


def test_flask_wasm_compile_says_what_is_wrong(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    (tmp_path / "echo.wasm").write_bytes(b"nothing")
    result = make().test_cli_runner().invoke(wasm, ["compile"])
    assert result.exit_code == 1
    assert "echo" in result.output


def test_flask_wasm_new_where_the_app_has_no_manifest_yet(tmp_path: Path) -> None:
    def create_app() -> Flask:
        app = Flask("new", root_path=str(tmp_path))
        app.config["WASM_GATEWAY_MANIFEST"] = "guests.toml"
        WasmGateway(app)
        return app

    with pytest.raises(ManifestError, match="`flask wasm new TEMPLATE NAME` begins one"):
        create_app()
    runner = CliRunner()
    info = ScriptInfo(create_app=create_app)
    for name in ("first", "second"):
        result = runner.invoke(wasm, ["new", "http-wat", name, "-v", f"http-path=/{name}"], obj=info)
        assert result.exit_code == 0, result.output
        assert result.output.endswith(f"Added to {tmp_path / 'guests.toml'}\n")
    manifest = load_manifest(tmp_path / "guests.toml")
    assert [trigger.route for trigger in manifest.http_triggers] == ["/first", "/second"]
    result = runner.invoke(wasm, ["new", "http-wat", "first"], obj=info)
    assert (result.exit_code, "of that name already" in result.output) == (1, True)
    assert "http-py" in runner.invoke(wasm, ["new", "--list"]).output


def test_the_commands_need_an_extension(tmp_path: Path) -> None:
    result = Flask("bare", root_path=str(tmp_path)).test_cli_runner().invoke(wasm, ["routes"])
    assert (result.exit_code, "no WasmGateway" in result.output) == (1, True)


def test_the_commands_are_found_by_flask(make: Make) -> None:
    runner = make().test_cli_runner()
    result = runner.invoke(FlaskGroup(create_app=lambda: make()), ["wasm", "--help"])
    assert "routes" in result.output
    assert "compile" in result.output


def test_an_app_that_is_watched(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    client = make(ACCESS_LOG=True, SERVER_TIMING=True).test_client()
    with caplog.at_level("INFO", "wasm_gateway.access"):
        response = client.get("/wasm/hello")
    assert response.headers["server-timing"].startswith("wasm;dur=")
    [record] = caplog.records
    assert vars(record)["route"] == "/wasm/hello"
