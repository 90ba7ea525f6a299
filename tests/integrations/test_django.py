# A Django site with Wasm routes beside its views, sync and async.

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import django
import pytest
import redis
import wasmtime
from django.core.checks import CheckMessage, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory, override_settings
from django.urls import path as url

from tests.services import free_port
from wasm_gateway import HostInterface, messages
from wasm_gateway.integrations.django import WasmGatewayMiddleware, get_gateway, get_wsgi_application
from wasm_gateway.integrations.django.conf import owner
from wasm_gateway.integrations.django.convert import RawCookie, raw_path, to_request, to_response
from wasm_gateway.manifest import load_manifest
from wasm_gateway.router import RouteMatch
from wasm_gateway.workers import Workers

django.setup()

SECURITY = "django.middleware.security.SecurityMiddleware"
OURS = "wasm_gateway.integrations.django.WasmGatewayMiddleware"


def home(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"native {request.method}")


async def async_home(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"native async {request.method}")


def form(request: HttpRequest) -> HttpResponse:
    return HttpResponse(get_token(request))


class Urls:
    urlpatterns = [url("", home), url("async", async_home), url("form", form), url("wasm/hello", home)]


@pytest.fixture(autouse=True)
def site(manifest: Path, cache_dir: Path, tmp_path: Path, django_db_blocker: Any) -> Iterator[dict[str, Any]]:
    """The settings of a site; a test changes them with override_settings."""
    gateway: dict[str, Any] = {
        "MANIFEST": manifest,
        "CACHE_DIR": cache_dir,
        "STATE_DIR": tmp_path / "state",
    }
    values = {"WASM_GATEWAY": gateway, "MIDDLEWARE": [SECURITY, OURS], "ROOT_URLCONF": Urls}
    # the ends of requests look after connections that other tests may have left open
    with override_settings(**values), django_db_blocker.unblock():
        yield gateway
    owner.close()


def environment(body: bytes) -> tuple[dict[str, str], bytes]:
    """What the guest `echo` got: its environment, the body."""
    *variables, last, rest = body.split(b"\0", body.count(b"\0"))
    assert last == b""
    return dict(text.decode().split("=", 1) for text in variables), rest


Ask = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """`ask(method, path, **options)` of Django's test clients, in a sync and in an async site."""

    def sync(method: str, path: str, **options: Any) -> Any:
        return getattr(Client(), method)(path, **options)

    def asynchronous(method: str, path: str, **options: Any) -> Any:
        async def main() -> Any:
            return await getattr(AsyncClient(), method)(path, **options)

        return asyncio.run(main())

    return sync if request.param == "sync" else asynchronous


# Who answers


def test_wasm_routes_and_views_side_by_side(ask: Ask) -> None:
    response = ask("get", "/wasm/hello")
    assert (response.status_code, response.content) == (200, b"hello from wasm")
    assert response["content-type"] == "text/plain"
    assert response["x-content-type-options"] == "nosniff"  # SecurityMiddleware is around it
    assert ask("get", "/").content == b"native GET"
    assert ask("get", "/async").content == b"native async GET"
    assert ask("get", "/nothing").status_code == 404


def test_what_a_guest_says_goes_out(ask: Ask) -> None:
    response = ask("get", "/wasm/redirect")
    assert (response.status_code, response["location"]) == (302, "/elsewhere")
    response = ask("get", "/wasm/teapot")
    assert (response.status_code, response["x-tea"], response.content) == (
        418,
        "earl grey",
        b"short and stout",
    )
    assert "content-type" not in response.headers


def test_a_guest_that_traps_is_an_empty_500(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    response = ask("get", "/wasm/trap")
    assert (response.status_code, response.content) == (500, b"")
    assert "unreachable" in caplog.text
    assert ask("get", "/wasm/hello").status_code == 200


def test_head_has_no_body(ask: Ask) -> None:
    response = ask("head", "/wasm/hello")
    assert (response.status_code, response.content) == (200, b"")
    assert response["content-length"] == "15"


# The request


def test_what_a_guest_sees(ask: Ask) -> None:
    response = ask("post", "/wasm/echo/a%20b?q=%20", data=b"x" * 100_000, content_type="text/plain")
    variables, body = environment(response.content)
    assert body == b"x" * 100_000
    assert variables["REQUEST_METHOD"] == "POST"
    assert variables["PATH_INFO"] == "/a%20b"
    assert variables["QUERY_STRING"] == "q=%20"
    assert variables["CONTENT_TYPE"] == "text/plain"
    assert variables["SERVER_NAME"] == "testserver"
    assert variables["X_FULL_URL"] == "http://testserver/wasm/echo/a%20b?q=%20"
    assert variables["REMOTE_ADDR"] == "127.0.0.1"


def test_https_and_host_are_what_the_site_says(ask: Ask) -> None:
    with override_settings(
        SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
        USE_X_FORWARDED_HOST=True,
        ALLOWED_HOSTS=["public.example"],
    ):
        headers = {"x-forwarded-proto": "https", "x-forwarded-host": "public.example"}
        variables, _ = environment(ask("get", "/wasm/echo", headers=headers).content)
    assert variables["X_FULL_URL"] == "https://public.example/wasm/echo"
    assert variables["HTTP_HOST"] == "public.example"


def test_hosts_that_the_site_does_not_allow_never_reach_a_guest(ask: Ask) -> None:
    for path in ("/wasm/hello", "/wasm/teapot"):
        response = ask("get", path, headers={"host": "evil.example"})
        assert response.status_code == 400


def test_a_body_that_is_too_large_is_a_413(ask: Ask) -> None:
    response = ask("post", "/wasm/echo", data=bytes((1 << 20) + 1), content_type="text/plain")
    assert (response.status_code, response.content) == (413, b"")


def test_djangos_own_limit_is_for_views(ask: Ask) -> None:
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=10):
        response = ask("post", "/wasm/echo", data=b"x" * 1000, content_type="text/plain")
    assert environment(response.content)[1] == b"x" * 1000


def test_a_body_that_earlier_middleware_read_is_still_there(ask: Ask) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.ReadsBody", OURS]):
        response = ask("post", "/wasm/echo", data=b"hello", content_type="text/plain")
    assert environment(response.content)[1] == b"hello"


def test_a_body_that_earlier_middleware_used_up_is_a_500(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.ReadsForm", OURS]):
        response = ask("post", "/wasm/echo", data={"file": io.BytesIO(b"hello")})
    assert (response.status_code, response.content) == (500, b"")
    assert "was read before" in caplog.text


class ReadsBody:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def look(self, request: HttpRequest) -> None:
        assert request.body

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        self.look(request)
        return self.get_response(request)


class ReadsForm(ReadsBody):
    def look(self, request: HttpRequest) -> None:
        assert request.FILES


def test_a_chunked_body_streams_in_where_the_server_ends_it() -> None:
    request = RequestFactory().post("/", content_type="text/plain")
    source = io.BytesIO(b"hello")
    request.environ |= {"CONTENT_LENGTH": "", "wsgi.input": source, "wsgi.input_terminated": True}
    assert b"".join(to_request(request, "/").body) == b"hello"


@pytest.mark.parametrize("length", ["five", "-5"])
def test_a_content_length_that_is_no_number_is_a_400(length: str) -> None:
    assert Client().generic("POST", "/wasm/echo", CONTENT_LENGTH=length).status_code == 400


def test_a_body_that_ends_early_is_a_400() -> None:
    assert Client().generic("POST", "/wasm/echo", b"hel", CONTENT_LENGTH="5").status_code == 400


# The path


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PATH_INFO": "/caf\xc3\xa9"}, "/caf%C3%A9"),
        ({"PATH_INFO": "/caf\xc3\xa9", "RAW_URI": "/caf%c3%a9?x"}, "/caf%c3%a9"),
        ({"PATH_INFO": "/\xff", "RAW_URI": "/%ff"}, "/%ff"),
        ({"PATH_INFO": "/a/b", "REQUEST_URI": "/a%2Fb"}, "/a%2Fb"),
        ({"PATH_INFO": "/a/b", "SCRIPT_NAME": "/app", "REQUEST_URI": "/app/a%2Fb"}, "/a%2Fb"),
        ({"PATH_INFO": "", "SCRIPT_NAME": "/app", "REQUEST_URI": "/app"}, "/"),
        ({"PATH_INFO": "/new", "REQUEST_URI": "/old"}, "/new"),
    ],
)
def test_raw_path_under_wsgi(variables: dict[str, str], expected: str) -> None:
    request = RequestFactory().get("/", **variables)  # type: ignore[arg-type]
    request.environ.pop("RAW_URI", None) if "RAW_URI" not in variables else None
    assert raw_path(request) == expected


@pytest.mark.parametrize(
    ("path", "raw", "root", "expected"),
    [
        ("/caf\xe9", b"/caf%c3%a9", "", "/caf%c3%a9"),
        ("/app/a/b", b"/app/a%2Fb", "/app", "/a%2Fb"),
        ("/a b", None, "", "/a%20b"),
    ],
)
def test_raw_path_under_asgi(path: str, raw: bytes | None, root: str, expected: str) -> None:
    request = AsyncRequestFactory().get("/")
    scope = request.scope | {"path": path, "root_path": root, "raw_path": raw}
    assert raw_path(type(request)(scope, io.BytesIO())) == expected


def test_a_request_made_by_hand_is_the_views() -> None:
    assert raw_path(HttpRequest()) is None


def test_the_site_may_lie_below_a_prefix() -> None:
    client = Client(SCRIPT_NAME="/app")
    assert client.get("/wasm/hello").content == b"hello from wasm"
    with override_settings(FORCE_SCRIPT_NAME="/app"):
        assert Client().get("/wasm/hello").content == b"hello from wasm"


# The response


def test_a_cookie_goes_out_as_the_guest_wrote_it(ask: Ask) -> None:
    response = ask("get", "/wasm/cookie")
    assert [cookie.output(header="").strip() for cookie in response.cookies.values()] == [
        'sid="a b,c"; Path=/wasm; HttpOnly; SameSite=Lax'
    ]
    assert (response.cookies["sid"].key, response.cookies["sid"].value) == ("sid", '"a b,c"')
    assert "connection" not in response.headers
    assert response["vary"] == "accept"


def test_several_values_of_a_name() -> None:
    fields = [("set-cookie", "a=1; Path=/"), ("set-cookie", "a=2; Path=/b"), ("x", "1"), ("x", "2")]
    response = to_response((200, fields, (b"a", b"b")))
    assert [cookie.OutputString() for cookie in response.cookies.values()] == ["a=1; Path=/", "a=2; Path=/b"]
    assert response.headers["x"] == "1, 2"
    assert isinstance(response, HttpResponse)
    assert response.content == b"ab"


@pytest.mark.parametrize(
    ("text", "sent"),
    [("caf\xe9=\xe9; Path=/", "caf%E9=%E9; Path=/"), ("no cookie at all", "no cookie at all"), ("=", "=")],
)
def test_strange_cookies(text: str, sent: str) -> None:
    response = to_response((200, [("set-cookie", text)], ()))
    (cookie,) = response.cookies.values()
    assert cookie.OutputString() == sent


def test_a_cookie_survives_the_cache_middlewares_pickle() -> None:
    cookie = pickle.loads(pickle.dumps(RawCookie("a=1; Path=/")))
    assert (cookie.OutputString(), cookie.key) == ("a=1; Path=/", "a")


class Streams:
    """The gateway of the site, whose guests make endless streams."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def match(self, path: str) -> RouteMatch | None:
        return RouteMatch.chained(path) if path.startswith("/stream") else None

    def streams(self, match: object) -> bool:
        return False

    def handle(
        self, request: messages.Request, match: object, begin: object = None, turn: object = None
    ) -> messages.Response:
        return messages.Response(200, messages.Headers([("x", "y")]), self)

    def __iter__(self) -> Iterator[bytes]:
        count = 0
        while not self.closed.is_set():
            yield b"%d " % count
            count += 1

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    owner.gateway().open()
    gateway = Streams()
    monkeypatch.setattr(owner.gateway(), "match", gateway.match)
    monkeypatch.setattr(owner.gateway(), "handle", gateway.handle)
    monkeypatch.setattr(owner.gateway(), "streams", gateway.streams)
    return gateway


def test_a_stream_streams_under_wsgi(streams: Streams) -> None:
    response = Client().get("/stream")
    assert isinstance(response, StreamingHttpResponse)
    chunks = iter(response)
    assert [next(chunks) for _ in range(3)] == [b"0 ", b"1 ", b"2 "]
    assert not streams.closed.is_set()
    response.close()
    assert streams.closed.is_set()


def test_a_stream_streams_under_asgi(streams: Streams) -> None:
    async def main() -> None:
        response = await AsyncClient().get("/stream")
        assert isinstance(response, StreamingHttpResponse)
        assert response.is_async
        parts: AsyncIterator[bytes] = aiter(response)
        assert [await anext(parts) for _ in range(3)] == [b"0 ", b"1 ", b"2 "]
        response.close()

    asyncio.run(main())
    assert streams.closed.wait(60)


def test_a_client_that_leaves_ends_the_stream(streams: Streams) -> None:
    async def main() -> None:
        left = asyncio.Event()
        sent: list[Any] = []
        messages = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) == 20:
                left.set()
            await asyncio.sleep(0)

        scope = AsyncRequestFactory().get("/stream").scope | {"raw_path": b"/stream"}
        async with asyncio.timeout(60):
            await ASGIHandler()(scope, receive, send)
        assert len(sent) >= 20

    asyncio.run(main())
    assert streams.closed.wait(60)


def test_a_stream_that_a_sync_only_middleware_hides_from_asgi() -> None:
    # then Django would read the iterator in another thread, and warn
    made: list[int] = []

    class Body:
        closed = False

        def __iter__(self) -> Iterator[bytes]:
            for count in range(3):
                made.append(threading.get_ident())
                yield b"%d" % count

        def close(self) -> None:
            self.closed = True

    body = Body()
    owner.gateway().open()
    gateway = owner.gateway()
    middleware = WasmGatewayMiddleware(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway, "handle", lambda *_: messages.Response(200, messages.Headers(), body))
        response = middleware(AsyncRequestFactory().get("/wasm/hello"))
    assert isinstance(response, HttpResponse)
    assert (response.content, body.closed, made) == (b"012", True, [threading.get_ident()] * 3)


# Async


def test_async_guests_run_in_threads_of_ours(ask: Ask, request: pytest.FixtureRequest) -> None:
    names: set[str] = set()
    gateway = owner.gateway().open()
    handle = gateway.handle

    def watched(*arguments: Any) -> Any:
        names.add(threading.current_thread().name.split("-")[0])
        return handle(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway, "handle", watched)
        assert ask("get", "/wasm/hello").content == b"hello from wasm"
    is_async = request.node.callspec.params["ask"] == "async"
    assert names == ({"wasm"} if is_async else {"MainThread"})


def test_async_a_full_pool_is_a_503(site: dict[str, Any]) -> None:
    owner.workers().backlog = -owner.workers().size

    async def main() -> Any:
        return await AsyncClient().get("/wasm/hello")

    response = asyncio.run(main())
    assert (response.status_code, response["retry-after"]) == (503, "1")


def test_what_the_gateway_declines_is_the_views(ask: Ask) -> None:
    gateway = owner.gateway().open()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway, "handle", lambda *_: None)
        assert ask("post", "/wasm/hello", data=b"x", content_type="text/plain").content == b"native POST"


# CSRF


def test_csrf_is_not_checked_by_default() -> None:
    assert Client(enforce_csrf_checks=True).post("/wasm/echo").status_code == 200


def test_csrf_as_for_a_view(site: dict[str, Any]) -> None:
    with override_settings(WASM_GATEWAY=site | {"CSRF": True}):
        client = Client(enforce_csrf_checks=True)
        token = client.get("/form").content.decode()
        assert client.get("/wasm/echo").status_code == 200
        assert client.post("/wasm/echo", headers={"x-csrftoken": token}).status_code == 403
        client.cookies["csrftoken"] = token
        assert client.post("/wasm/echo").status_code == 403
        assert client.post("/wasm/echo", headers={"x-csrftoken": token}).status_code == 200
        for extra in ({}, {"file": io.BytesIO(b"hello")}):
            form = {"csrfmiddlewaretoken": token, **extra}
            response = client.post("/wasm/echo", form)
            assert token.encode() in environment(response.content)[1]  # the guest has the form too


def test_csrf_async(site: dict[str, Any]) -> None:
    async def main() -> list[int]:
        client = AsyncClient(enforce_csrf_checks=True)
        token = (await client.get("/form")).content.decode()
        refused = await client.post("/wasm/echo")
        client.cookies["csrftoken"] = token
        passed = await client.post("/wasm/echo", headers={"x-csrftoken": token})
        return [refused.status_code, passed.status_code]

    with override_settings(WASM_GATEWAY=site | {"CSRF": True}):
        assert asyncio.run(main()) == [403, 200]


# Settings


def test_one_gateway_until_the_settings_change(site: dict[str, Any]) -> None:
    first = owner.gateway()
    Client().get("/wasm/hello")
    AsyncClient()
    assert owner.gateway() is first
    with override_settings(WASM_GATEWAY=site | {"COMPONENTS": ["hello"]}):
        assert owner.gateway() is not first
        client = Client()
        assert client.get("/wasm/hello").status_code == 200
        assert client.get("/wasm/echo").status_code == 404
    assert Client().get("/wasm/echo").status_code == 200


def test_the_manifest_lies_in_base_dir_by_default(site: dict[str, Any], tmp_path: Path) -> None:
    with override_settings(WASM_GATEWAY={"CACHE_DIR": site["CACHE_DIR"]}, BASE_DIR=tmp_path):
        assert Client().get("/wasm/hello").status_code == 200


def test_settings_reach_the_gateway(site: dict[str, Any]) -> None:
    with override_settings(
        WASM_GATEWAY=site
        | {
            "VARIABLES": {"a": "b"},
            "HARDENED": True,
            "LIMITS": {"max_concurrency": 3},
            "KEY_VALUE_STORES": {
                "default": {"type": "django_cache"},
                "other": {"type": "spin", "path": "other.db"},
                "third": {"type": "redis", "url": "redis://127.0.0.1:1"},
            },
        }
    ):
        gateway = owner.gateway()
    assert gateway.options.variables == {"a": "b"}
    assert gateway.options.engine.hardened
    assert gateway.options.limits == {"max_concurrency": 3}
    stores = gateway.runtime_config.key_value_stores
    assert (stores["default"].type, stores["default"].options) == ("django_cache", {"alias": "default"})
    assert stores["other"].options == {"path": Path("other.db").absolute()}
    assert stores["third"].options == {"url": "redis://127.0.0.1:1"}


def test_a_runtime_config_is_kept_beside_the_stores(site: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "runtime-config.toml"
    config.write_text('max_instance_memory = 65536\n[key_value_store.a]\ntype = "spin"\n')
    stores = {"b": {"type": "django_cache", "alias": "default"}}
    with override_settings(WASM_GATEWAY=site | {"RUNTIME_CONFIG": config, "KEY_VALUE_STORES": stores}):
        config_in_use = owner.gateway().runtime_config
    assert config_in_use.max_instance_memory == 65536
    assert set(config_in_use.key_value_stores) == {"a", "b"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MANIFEST": "/nowhere/spin.toml"}, "/nowhere/spin.toml"),
        ({"KEY_VALUE_STORES": {"x": {"type": "memcached"}}}, "KEY_VALUE_STORES.x.*memcached"),
        ({"KEY_VALUE_STORES": {"x": {"type": "django_cache", "aliass": "a"}}}, "aliass"),
        ({"KEY_VALUE_STORES": {"x": {"type": "redis"}}}, "url"),
    ],
)
def test_settings_that_cannot_be_used(site: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with (
        override_settings(WASM_GATEWAY=site | settings),
        pytest.raises(ImproperlyConfigured, match=message),
    ):
        WasmGatewayMiddleware(home)


@pytest.mark.parametrize("value", [None, {}, {"CACHE_DIR": "/tmp"}])
def test_no_manifest_at_all(value: Any) -> None:
    with (
        override_settings(WASM_GATEWAY=value),
        pytest.raises(ImproperlyConfigured, match="MANIFEST"),
    ):
        WasmGatewayMiddleware(home)


def test_settings_of_the_wrong_kind() -> None:
    with override_settings(WASM_GATEWAY=["spin.toml"]), pytest.raises(ImproperlyConfigured, match="dict"):
        owner.gateway()


def test_a_component_that_is_missing_keeps_the_site_from_starting(tmp_path: Path) -> None:
    (tmp_path / "hello.wasm").unlink()
    with pytest.raises(ImproperlyConfigured, match="hello"):
        WasmGatewayMiddleware(home)


def test_the_middleware_needs_neither_settings_nor_models_to_be_imported() -> None:
    code = (
        "from wasm_gateway.integrations.django import WasmGatewayMiddleware;"
        "from django.apps import apps; assert not apps.apps_ready;"
        "from django.conf import settings; assert not settings.configured"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "DJANGO_SETTINGS_MODULE": ""})


# Checks


def checks(**options: Any) -> list[CheckMessage]:
    return run_checks(tags=["wasm_gateway"], **options)


def ids(messages: list[CheckMessage]) -> list[str]:
    return [str(message.id).partition(".")[2] for message in messages]


def test_a_site_that_is_well() -> None:
    # but that the view of wasm/hello is never called
    (message,) = checks()
    assert message.id == "wasm_gateway.I004"
    assert "/wasm/hello" in message.msg
    assert "home" in str(message.hint)


@pytest.mark.parametrize("key", ["hello", "/wasm/hello"])
@pytest.mark.parametrize("mode", ["native", "canary", "shadow"])
def test_a_view_that_is_meant_to_answer_is_not_reported(settings: Any, key: str, mode: str) -> None:
    settings.WASM_GATEWAY = {**settings.WASM_GATEWAY, "RULES": {key: {"mode": mode}}}
    assert checks() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [("spin_manifest_version = 3", "spin_manifest_version"), ("not toml", "spin.toml"), (None, "spin.toml")],
)
def test_a_manifest_that_cannot_be_read(manifest: Path, text: str | None, message: str) -> None:
    if text is None:
        manifest.unlink()
    else:
        manifest.write_text(text)
    (found,) = checks()
    assert (found.id, message in found.msg) == ("wasm_gateway.E001", True)


def test_settings_that_are_no_dict() -> None:
    with override_settings(WASM_GATEWAY="spin.toml"):
        assert ids(checks()) == ["E001"]


def test_no_manifest() -> None:
    with override_settings(WASM_GATEWAY={}):
        assert ids(checks()) == ["E001"]


def test_a_component_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "echo.wasm").unlink()
    (found,) = (message for message in checks() if message.id == "wasm_gateway.E002")
    assert "'echo'" in found.msg
    assert "COMPONENTS" in str(found.hint)


def test_a_component_that_cannot_be_loaded_is_found_before_deployment(tmp_path: Path) -> None:
    (tmp_path / "echo.wasm").write_bytes(b"\0asm\1\0\0\0 and so on")
    assert "E002" not in ids(checks())
    (found,) = (m for m in checks(include_deployment_checks=True) if m.id == "wasm_gateway.E002")
    assert "'echo'" in found.msg


def test_guests_that_a_server_would_have_to_compile(site: dict[str, Any], tmp_path: Path) -> None:
    with override_settings(WASM_GATEWAY=site | {"CACHE_DIR": tmp_path / "empty"}):
        (found,) = (m for m in checks(include_deployment_checks=True) if m.id == "wasm_gateway.W003")
        assert "wasm_compile" in str(found.hint)
        call_command("wasm_compile", verbosity=0)
        owner.close()
        assert "W003" not in ids(checks(include_deployment_checks=True))


@pytest.mark.parametrize(
    ("key", "hint"), [("MANIFESTO", "'MANIFEST'"), ("manifest", "'MANIFEST'"), ("XYZZY", "CACHE_DIR")]
)
def test_a_setting_that_nobody_knows(site: dict[str, Any], key: str, hint: str) -> None:
    with override_settings(WASM_GATEWAY=site | {key: 1}):
        (found,) = (message for message in checks() if message.id == "wasm_gateway.W004")
    assert repr(key) in found.msg
    assert hint in str(found.hint)


@pytest.mark.parametrize(
    ("middleware", "expected"),
    [
        ([SECURITY, OURS], []),
        ([OURS], []),
        ([SECURITY, f"{__name__}.OwnGatewayMiddleware"], []),
        ([OURS, SECURITY], ["W001"]),
        ([SECURITY], ["W005"]),
        ([SECURITY, "no.such.GatewayMiddleware", "wasm_gateway.errors.GatewayError"], ["W005"]),
    ],
)
def test_where_the_middleware_stands(middleware: list[str], expected: list[str]) -> None:
    with override_settings(MIDDLEWARE=middleware):
        assert [found for found in ids(checks()) if found != "I004"] == expected


class OwnGatewayMiddleware(WasmGatewayMiddleware):
    pass


def test_gevent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Monkey:
        @staticmethod
        def is_module_patched(name: str) -> bool:
            return name == "threading"

    monkeypatch.setitem(sys.modules, "gevent.monkey", Monkey)  # type: ignore[misc]
    assert "E005" in ids(checks())


def test_faulthandler_after_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    from wasm_gateway.engine import Engine

    owner.gateway().open()
    monkeypatch.setattr(Engine, "made_under_faulthandler", not Engine.made_under_faulthandler)
    assert "W002" in ids(checks())


def test_without_a_urlconf_nothing_is_compared() -> None:
    with override_settings(ROOT_URLCONF=""):
        assert ids(checks()) == []


# Commands


def test_wasm_routes() -> None:
    output = io.StringIO()
    call_command("wasm_routes", stdout=output, no_color=True)
    assert output.getvalue().splitlines() == [
        "/wasm/hello     hello     wagi",
        "/wasm/cookie    cookie    wagi",
        "/wasm/redirect  redirect  wagi",
        "/wasm/trap      trap      wagi",
        "/wasm/echo/...  echo      wagi",
        "/wasm/teapot    -         static",
    ]


def test_wasm_routes_for_programs() -> None:
    output = io.StringIO()
    call_command("wasm_routes", format="json", stdout=output)
    rows = json.loads(output.getvalue())
    assert [(row["route"], row["wildcard"], row["component"]) for row in rows][4:] == [
        ("/wasm/echo", True, "echo"),
        ("/wasm/teapot", False, None),
    ]


def test_wasm_new_begins_a_manifest_and_adds_to_it(site: dict[str, Any], tmp_path: Path) -> None:
    manifest = tmp_path / "new" / "spin.toml"
    manifest.parent.mkdir()
    with override_settings(WASM_GATEWAY=site | {"MANIFEST": manifest}):
        for name, path in (("Fast One", None), ("other", "/o")):
            values = [] if path is None else [f"http-path={path}"]
            call_command("wasm_new", "http-wat", name, value=values, stdout=io.StringIO())
        with pytest.raises(CommandError, match="there is a component of that name"):
            call_command("wasm_new", "http-wat", "other")
        with pytest.raises(CommandError, match="name a template"):
            call_command("wasm_new")
        output = io.StringIO()
        call_command("wasm_new", list=True, stdout=output)
    assert "http-py" in output.getvalue()
    loaded = load_manifest(manifest)
    # a site has pages of its own, so not everything is the guest's
    assert [trigger.route for trigger in loaded.http_triggers] == ["/fast-one/...", "/o"]
    assert (manifest.parent / "fast-one" / "main.wat").is_file()


def test_wasm_new_says_what_comes_next(
    site: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def made(template: str) -> list[str]:
        output = io.StringIO()
        with override_settings(WASM_GATEWAY=site | {"MANIFEST": tmp_path / "spin.toml"}):
            call_command("wasm_new", template, template, accept_defaults=True, stdout=output)
        return output.getvalue().splitlines()

    assert made("http-wat")[1:] == ["http-wat/main.wat", "Added to spin.toml"]  # needs no compiler
    monkeypatch.chdir(tmp_path / "http-wat")
    manifest = tmp_path / "spin.toml"
    added, then = made("http-c")[-2:]
    assert added == f"Added to {manifest}"
    assert then.startswith(f"Next: wasm-gateway build -f {manifest} -c http-c (")
    monkeypatch.chdir(tmp_path)
    assert made("http-zig")[-1].startswith("Next: wasm-gateway build -c http-zig (")


def test_wasm_new_that_fails_begins_nothing(site: dict[str, Any], tmp_path: Path) -> None:
    with (
        override_settings(WASM_GATEWAY=site | {"MANIFEST": tmp_path / "none.toml"}),
        pytest.raises(CommandError, match="needs 'redirect-from'"),
    ):
        call_command("wasm_new", "redirect", "go")
    with (
        override_settings(WASM_GATEWAY=site | {"MANIFEST": tmp_path / "none.toml"}),
        pytest.raises(CommandError, match="'redirect-to' must be of the form"),
    ):
        call_command("wasm_new", "redirect", "go", value=["redirect-to"])
    assert not (tmp_path / "none.toml").exists()


def test_the_checks_say_what_begins_a_manifest(site: dict[str, Any], tmp_path: Path) -> None:
    with override_settings(WASM_GATEWAY=site | {"MANIFEST": tmp_path / "none.toml"}):
        (error,) = checks()
    assert error.hint == "'manage.py wasm_new TEMPLATE NAME' begins one with a component."


def test_wasm_compile(site: dict[str, Any], tmp_path: Path) -> None:
    cache = tmp_path / "own-cache"
    with override_settings(WASM_GATEWAY=site | {"CACHE_DIR": cache}):
        output = io.StringIO()
        call_command("wasm_compile", stdout=output)
        assert len(output.getvalue().splitlines()) == 5
        assert output.getvalue().startswith("[1/5]")
        assert len(list(cache.rglob("*.cwasm"))) == 5


def test_wasm_compile_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "echo.wasm").write_bytes(b"nothing")
    with pytest.raises(CommandError, match="echo"):
        call_command("wasm_compile", stdout=io.StringIO())


def test_wasm_redis_without_a_trigger() -> None:
    with pytest.raises(CommandError, match="no Redis trigger"):
        call_command("wasm_redis")


REDIS_GUEST = """(module
  (import "test:site/rows@1.0.0" "touch" (func $touch))
  (memory (export "memory") 1)
  (func (export "canonical_abi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
  (func (export "handle-redis-message") (param $at i32) (param $size i32) (result i32)
    (call $touch)
    (i32.store8 (i32.const 0) (i32.const 1)) ;; an error, which shows in the log
    (i32.const 0)))"""

REDIS_SITE = """
import sys
import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from wasm_gateway import HostInterface

class Rows(HostInterface):
    wit = "package test:site@1.0.0; interface rows { touch: func(); }"

    def touch(self, guest):
        used.append(connections["default"])
        connections["default"].cursor().execute("SELECT 1")

used = []
manifest, cache, database = sys.argv[1:]
settings.configure(
    INSTALLED_APPS=["wasm_gateway.integrations.django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database}},
    WASM_GATEWAY={"MANIFEST": manifest, "CACHE_DIR": cache, "STATE_DIR": "", "INTERFACES": [Rows]},
)
django.setup()
call_command("wasm_redis")
print("ended, left open:", {each.connection for each in used})
"""


@pytest.mark.services
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_wasm_redis(tmp_path: Path, cache_dir: Path) -> None:
    port = free_port()
    (tmp_path / "guest.wasm").write_bytes(wasmtime.wat2wasm(REDIS_GUEST))
    manifest = tmp_path / "redis.toml"
    manifest.write_text(
        'spin_manifest_version = 2\n[application]\nname = "redis"\n'
        f'[application.trigger.redis]\naddress = "redis://127.0.0.1:{port}"\n'
        '[[trigger.redis]]\nchannel = "news"\ncomponent = "guest"\n'
        '[component.guest]\nsource = "guest.wasm"\n'
        '[component.guest.tool.wasm-gateway]\nhost_interfaces = ["test:site/rows@1.0.0"]'
    )
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    command = subprocess.Popen(
        [sys.executable, "-c", REDIS_SITE, str(manifest), str(cache_dir), str(tmp_path / "db")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert command.stdout is not None
        assert command.stdout.readline() == f"redis://127.0.0.1:{port}: news\n"
        with redis.Redis(port=port) as client:
            end = time.monotonic() + 60
            while not _published(client):
                assert time.monotonic() < end
                time.sleep(0.02)
        said = "component guest: message on channel b'news': GuestError"
        assert any(said in line for line in command.stdout)
        command.send_signal(signal.SIGTERM)
        output, _ = command.communicate(timeout=60)
        assert output.splitlines()[-1] == "ended, left open: {None}"
    finally:
        for process in (command, server):
            process.kill()
            process.wait()


def _published(client: redis.Redis) -> bool:
    """Whether somebody has received a message."""
    try:
        return bool(client.publish("news", b"hello"))
    except redis.ConnectionError:
        return False  # the server is still starting


# Autoreload


def test_runserver_watches_manifest_and_guests(manifest: Path, tmp_path: Path) -> None:
    from wasm_gateway.integrations.django.apps import watch_guests

    class Sender:
        extra_files: set[Path] = set()

    watch_guests(Sender)
    assert {manifest, tmp_path / "hello.wasm", tmp_path / "echo.wasm"} <= Sender.extra_files

    manifest.write_text("not toml")
    owner.close()
    Sender.extra_files.clear()
    watch_guests(Sender)
    assert Sender.extra_files == {manifest}


# The door in front of Django


@pytest.fixture
def door() -> Callable[..., tuple[str, dict[str, str], bytes]]:
    with override_settings(MIDDLEWARE=[SECURITY]):
        application = get_wsgi_application()

    def ask(path: str, **environ: str) -> tuple[str, dict[str, str], bytes]:
        started: list[Any] = []
        request = RequestFactory().get(path, **environ).environ
        with override_settings(MIDDLEWARE=[SECURITY]):
            body = application(request, lambda *head: started.append(head) or (lambda data: None))
            content = b"".join(body)
            getattr(body, "close", lambda: None)()
        return started[0][0], {name.lower(): value for name, value in started[0][1]}, content

    return ask


def test_the_door_answers_wasm_routes_before_django_does(door: Callable[..., Any]) -> None:
    status, headers, body = door("/wasm/hello")
    assert (status, body) == ("200 OK", b"hello from wasm")
    assert "x-content-type-options" not in headers  # no middleware of the site
    status, headers, body = door("/")
    assert (status, body) == ("200 OK", b"native GET")
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("settings", [{}, {"USE_X_FORWARDED_HOST": True}])
def test_the_door_lets_no_host_in_that_django_would_not(
    door: Callable[..., Any], settings: dict[str, Any]
) -> None:
    with override_settings(ALLOWED_HOSTS=["good.example"], **settings):
        assert door("/wasm/hello", HTTP_HOST="good.example:8000")[0] == "200 OK"
        for host in ("evil.example", "good.example.evil", "good.example:x", ""):
            assert door("/wasm/hello", HTTP_HOST=host)[0] == "400 Bad Request"
    with override_settings(ALLOWED_HOSTS=["other.example"]):  # what was accepted is not for ever
        assert door("/wasm/hello", HTTP_HOST="good.example:8000")[0] == "400 Bad Request"
    with override_settings(ALLOWED_HOSTS=[], DEBUG=True):  # Django's own exception
        assert door("/wasm/hello", HTTP_HOST="localhost:8000")[0] == "200 OK"
        assert door("/wasm/hello", HTTP_HOST="good.example")[0] == "400 Bad Request"


# Database connections


class Rows(HostInterface):
    """Asks a database in the guest's thread."""

    wit = "package test:site@1.0.0; interface rows { count: func() -> u32; }"

    def __init__(self) -> None:
        self.used: list[tuple[str, BaseDatabaseWrapper]] = []

    def count(self, guest: Any) -> int:
        self.used.append((threading.current_thread().name, connections["scratch"]))
        with connections["scratch"].cursor() as cursor:
            return int(cursor.execute("SELECT 7").fetchone()[0])


@pytest.fixture
def rows(
    site: dict[str, Any],
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    django_db_blocker: Any,
) -> Iterator[Rows]:
    """What a guest at /wasm/rows asks."""
    rows = Rows()
    site["INTERFACES"] = [rows]
    (tmp_path / "rows.wasm").write_bytes(wasmtime.wat2wasm(ROWS))
    with manifest.open("a") as file:
        file.write(
            '\n[[trigger.http]]\nroute = "/wasm/rows"\ncomponent = "rows"\nexecutor = { type = "wagi" }'
            '\n[component.rows]\nsource = "rows.wasm"'
            '\n[component.rows.tool.wasm-gateway]\nhost_interfaces = ["test:site/rows@1.0.0"]'
        )
    # a file: Django never closes a database in memory
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "scratch.sqlite3")}
    settings = connections.configure_settings({"default": {}, "scratch": database})
    monkeypatch.setitem(connections.settings, "scratch", settings["scratch"])
    owner.close()
    with django_db_blocker.unblock():
        yield rows
    for _, used in rows.used:
        used.inc_thread_sharing()
        used.close()
    if hasattr(connections._connections, "scratch"):
        del connections["scratch"]


ROWS = """(module
  (import "test:site/rows@1.0.0" "count" (func $count (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\\10\\00\\00\\00\\1b\\00\\00\\00content-type: text/plain\\n\\n0")
  (func (export "_start")
    (i32.store8 (i32.const 42) (i32.add (i32.const 48) (call $count)))
    (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 4)))))"""


def until_idle(workers: Workers) -> None:
    while workers._busy:
        time.sleep(0.001)


def test_async_the_connections_of_our_threads_are_closed(rows: Rows) -> None:
    async def main() -> list[bytes]:
        return [(await AsyncClient().get("/wasm/rows")).content for _ in range(3)]

    assert asyncio.run(main()) == [b"7"] * 3
    until_idle(owner.workers())
    assert [(thread, used.connection) for thread, used in rows.used] == [("wasm-guest", None)] * 3


def test_async_persistent_connections_last(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["scratch"], "CONN_MAX_AGE", None)

    async def main() -> bytes:
        return (await AsyncClient().get("/wasm/rows")).content

    assert asyncio.run(main()) == b"7"
    until_idle(owner.workers())
    [(_, used)] = rows.used
    assert used.connection is not None


def test_sync_a_guest_has_the_connection_of_its_request(rows: Rows) -> None:
    before = connections["scratch"]
    with transaction.atomic(using="scratch"):
        assert Client().get("/wasm/rows").content == b"7"
        assert before.in_atomic_block
        assert before.connection is not None
    assert rows.used == [("MainThread", before)]


def test_the_door_closes_what_is_too_old(rows: Rows, door: Callable[..., Any]) -> None:
    assert door("/wasm/rows")[2] == b"7"
    [(_, used)] = rows.used
    first = used.connection
    assert first is not None
    assert door("/wasm/rows")[2] == b"7"
    assert used.connection is not first
    door("/")
    assert used.connection is None


def test_sites_can_ask_their_gateway() -> None:
    assert get_gateway() is owner.gateway()


# Watching


def test_a_site_that_is_watched(site: dict[str, Any], ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """Each setting; the guest's threads are below the site's own span."""
    from opentelemetry.sdk.trace import TracerProvider

    site |= {"METRICS": True, "TRACING": True, "ACCESS_LOG": True, "SERVER_TIMING": True}
    site["OBSERVERS"] = ["tests.observe.test_observe.Recorder"]
    owner.close()
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("site")
    with caplog.at_level("INFO", "wasm_gateway.access"), tracer.start_as_current_span("site") as span:
        response = ask("get", "/wasm/echo/a", headers={"traceparent": "made up"})
    assert response["server-timing"].startswith("wasm;dur=")
    trace = f"00-{span.get_span_context().trace_id:032x}-"
    assert environment(response.content)[0]["HTTP_TRACEPARENT"].startswith(trace)
    [record] = caplog.records
    assert record.getMessage().startswith('echo "GET /wasm/echo/a" 200 ok ')
    watch = owner.gateway().watch
    assert watch is not None
    names = [type(observer).__name__ for observer in watch.observers]
    assert names == ["Tracing", "Metrics", "Recorder", "AccessLog"]
