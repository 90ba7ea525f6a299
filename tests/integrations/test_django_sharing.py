# Routes that guests and views of a Django site share, sync and async.

from __future__ import annotations

import asyncio
import io
import math
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import django
import pytest
from django.contrib.auth.models import Group, User
from django.core.checks import run_checks
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import re_path

from wasm_gateway.integrations.django import WasmGatewayMiddleware, get_wsgi_application
from wasm_gateway.integrations.django.conf import owner
from wasm_gateway.migration import counters
from wasm_gateway.migration.counters import CANARY_NATIVE, OUTCOMES, SIDES, End, ended
from wasm_gateway.policy import COOKIE

django.setup()

SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
AUTH = "django.contrib.auth.middleware.AuthenticationMiddleware"
OURS = "wasm_gateway.integrations.django.WasmGatewayMiddleware"

NATIVE, GUEST = b"native", b"hello from wasm"


def view(request: HttpRequest) -> HttpResponse:
    if request.GET.get("token"):
        return HttpResponse(get_token(request))
    return HttpResponse(b"native" + request.body)


def form(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{request.POST['a']} {[file.read() for file in request.FILES.values()]}")


class Urls:
    urlpatterns = [re_path(".*form$", form), re_path("", view)]


@pytest.fixture(autouse=True)
def site(manifest: Path, cache_dir: Path, tmp_path: Path) -> Iterator[dict[str, Any]]:
    gateway = {"MANIFEST": manifest, "CACHE_DIR": cache_dir, "STATE_DIR": tmp_path / "state"}
    with override_settings(
        WASM_GATEWAY=gateway,
        MIDDLEWARE=[SESSIONS, AUTH, OURS],
        ROOT_URLCONF=Urls,
        ALLOWED_HOSTS=["testserver"],
    ):
        yield gateway
    owner.close()


Ruled = Callable[..., Any]


@pytest.fixture
def ruled(site: dict[str, Any]) -> Iterator[Ruled]:
    """`ruled(hello={"mode": ...})`: the site with these rules from now on."""
    overrides: list[Any] = []

    def rule(**rules: Any) -> None:
        override = override_settings(WASM_GATEWAY=site | {"RULES": rules})
        override.enable()
        overrides.append(override)

    yield rule
    for override in reversed(overrides):
        override.disable()


Ask = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    def sync(method: str, path: str, client: Any = None, **options: Any) -> Any:
        return getattr(client or Client(), method)(path, **options)

    def asynchronous(method: str, path: str, client: Any = None, **options: Any) -> Any:
        async def main() -> Any:
            other = AsyncClient()
            if client is not None:
                other.cookies = client.cookies
            return await getattr(other, method)(path, **options)

        return asyncio.run(main())

    return sync if request.param == "sync" else asynchronous


def test_a_kill_switch(ruled: Ruled, ask: Ask) -> None:
    ruled(hello={"mode": "native", "opt_in": "header:x-wasm"})
    response = ask("post", "/wasm/hello", data=b" body", content_type="text/plain", headers={"x-wasm": "1"})
    assert response.content == b"native body"
    assert COOKIE not in response.cookies
    assert not response.has_header("vary")


def test_methods_that_stay_the_views(ruled: Ruled, ask: Ask) -> None:
    ruled(hello={"methods": ["GET"]})
    assert ask("get", "/wasm/hello").content == GUEST
    assert ask("head", "/wasm/hello").headers["content-length"] == str(len(GUEST))
    response = ask("post", "/wasm/hello", data=b" body", content_type="text/plain")
    assert response.content == b"native body"


def test_testers_choose_a_side(ruled: Ruled, ask: Ask) -> None:
    ruled(hello={"mode": "canary", "percent": 0, "opt_in": ["header:x-wasm=1", "query:wasm"]})
    assert ask("get", "/wasm/hello").content == NATIVE
    assert ask("get", "/wasm/hello", headers={"x-wasm": "1"}).content == GUEST
    assert ask("get", "/wasm/hello?wasm").content == GUEST


def test_a_visitor_stays_on_his_side(ruled: Ruled, ask: Ask) -> None:
    ruled(hello={"mode": "canary", "percent": 50})
    seen = set()
    for _ in range(8):
        client = Client()
        first = ask("get", "/wasm/hello", client)
        cookie = first.cookies[COOKIE]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
        assert first["vary"] == "Cookie"
        client.cookies[COOKIE] = cookie.value
        for _ in range(2):
            again = ask("get", "/wasm/hello", client)
            assert (again.content, again["vary"]) == (first.content, "Cookie")
            assert COOKIE not in again.cookies
        seen.add(first.content)
    assert seen <= {NATIVE, GUEST}


def test_the_share_holds_and_is_sticky(ruled: Ruled) -> None:
    """10,000 visitors, some of whom come back later, when the share has grown."""
    factory = RequestFactory()

    def taken(percent: int, visitors: range) -> set[int]:
        ruled(hello={"mode": "canary", "percent": percent})
        middleware = WasmGatewayMiddleware(view)
        found = set()
        for number in visitors:
            request = factory.get("/wasm/hello", HTTP_COOKIE=f"{COOKIE}={number:016x}")
            if middleware(request).content == GUEST:  # type: ignore[union-attr]
                found.add(number)
        return found

    first = taken(20, range(10_000))
    assert abs(len(first) - 2000) < 5 * math.sqrt(10_000 * 0.2 * 0.8)
    back = range(1000)
    assert first & {*back} == taken(20, back) <= taken(30, back)


@pytest.mark.django_db(transaction=True)
def test_people_whom_the_site_knows(ruled: Ruled, ask: Ask) -> None:
    ruled(hello={"mode": "canary", "percent": 0, "staff": True, "groups": ["testers"]})
    nobody, member, tester, staff = Client(), Client(), Client(), Client()
    member.force_login(User.objects.create_user("member"))
    staff.force_login(User.objects.create_user("staff", is_staff=True))
    user = User.objects.create_user("tester")
    user.groups.add(Group.objects.create(name="testers"))
    tester.force_login(user)
    answers = [ask("get", "/wasm/hello", client).content for client in (nobody, member, tester, staff)]
    assert answers == [NATIVE, NATIVE, GUEST, GUEST]


@pytest.mark.django_db
def test_a_user_stays_on_his_side_wherever_he_is(ruled: Ruled) -> None:
    ruled(hello={"mode": "canary", "percent": 50, "sticky": "user"})
    seen = set()
    for number in range(12):
        user = User.objects.create_user(f"user{number}")
        answers = set()
        for _ in range(2):
            client = Client()
            client.force_login(user)
            response = client.get("/wasm/hello")
            assert COOKIE not in response.cookies
            answers.add(response.content)
        assert len(answers) == 1
        seen |= answers
    assert seen == {NATIVE, GUEST}
    assert COOKIE in Client().get("/wasm/hello").cookies


@pytest.mark.django_db
def test_the_user_is_looked_up_when_a_rule_asks_for_him(ruled: Ruled) -> None:
    client = Client()
    client.force_login(User.objects.create_user("user"))
    for rule, queries in (
        ({"mode": "native"}, 0),
        ({"mode": "canary", "percent": 50}, 0),
        ({"mode": "canary", "staff": True}, 2),  # session, user
        ({"mode": "canary", "groups": ["a"]}, 3),
    ):
        ruled(hello=rule)
        with CaptureQueriesContext(connection) as captured:
            client.get("/wasm/hello")
        assert len(captured) == queries, rule


# Guests that fail


def test_the_site_answers_for_a_guest_that_fails(ruled: Ruled, ask: Ask, caplog: Any) -> None:
    ruled(trap={"fallback": ["trap"], "breaker_failures": 100}, echo={"fallback": True})
    assert ask("get", "/wasm/trap").content == NATIVE
    response = ask("post", "/wasm/trap", data=b" all of it", content_type="text/plain")
    assert response.content == b"native all of it"
    assert "unreachable" in caplog.text
    ruled(trap={"fallback": ["deadline"]})
    assert (ask("get", "/wasm/trap").status_code, ask("get", "/wasm/trap").content) == (500, b"")


def test_the_view_has_its_form_and_files(manifest: Path, ruled: Ruled, ask: Ask) -> None:
    with manifest.open("a") as file:
        file.write(
            '\n[[trigger.http]]\nroute = "/wasm/form"\ncomponent = "trap"\nexecutor = { type = "wagi" }'
        )
    ruled(trap={"fallback": True})

    def upload() -> Any:
        import io

        return {"a": "b", "file": io.BytesIO(b"content")}

    assert ask("post", "/wasm/form", data=upload()).content == b"b [b'content']"


def test_a_body_too_long_to_keep(ruled: Ruled, ask: Ask) -> None:
    ruled(trap={"fallback": True, "max_kept_body": 10})
    for body, status in ((b"0123456789", 200), (b"0123456789a", 500)):
        assert ask("post", "/wasm/trap", data=body, content_type="text/plain").status_code == status
    ruled(trap={"fallback": True})
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=10):
        assert ask("post", "/wasm/trap", data=b"0123456789a", content_type="text/plain").status_code == 500


def test_a_guest_that_is_killed_a_thousand_times(ruled: Ruled) -> None:
    ruled(trap={"fallback": ["trap"], "breaker_failures": 2000})
    client = Client()
    for _ in range(1000):
        response = client.get("/wasm/trap")
        assert (response.status_code, response.content) == (200, NATIVE)
    pilot = owner.gateway().pilot
    assert pilot is not None
    assert pilot.counts()["trap"] == {"wasm": 1000, "fallback": 1000}


def test_a_full_pool(ruled: Ruled) -> None:
    ruled(hello={"fallback": ["saturated"]})
    owner.workers().backlog = -owner.workers().size

    async def main() -> Any:
        return await AsyncClient().get("/wasm/hello")

    assert asyncio.run(main()).content == NATIVE


# CSRF


def test_csrf_route_by_route(manifest: Path, ruled: Ruled, ask: Ask) -> None:
    with manifest.open("a") as file:
        file.write("\n[component.hello.tool.wasm-gateway]\ncsrf = true")
    owner.close()

    def post(path: str) -> int:
        client = Client(enforce_csrf_checks=True)
        token = client.get("/wasm/other?token=1").content.decode()
        client.cookies["csrftoken"] = token
        refused = client.post(path).status_code
        assert client.post(path, headers={"x-csrftoken": token}).status_code == 200
        return refused

    assert post("/wasm/hello") == 403
    assert post("/wasm/echo") == 200
    with override_settings(
        WASM_GATEWAY=owner.settings().values | {"CSRF": True, "RULES": {"echo": {"csrf": False}}}
    ):
        assert [post("/wasm/hello"), post("/wasm/echo"), post("/wasm/cookie")] == [403, 200, 403]


# Cost


def test_what_a_native_route_costs(ruled: Ruled, site: dict[str, Any], record_property: Any) -> None:
    """The middleware on a route in mode native, above one on a path that is none of ours."""
    ruled(hello={"mode": "native"})
    response = HttpResponse()
    middleware = WasmGatewayMiddleware(lambda request: response)

    def seconds(path: str) -> float:
        request = RequestFactory().get(path)
        rounds = []
        for _ in range(20):
            start = time.thread_time()
            for _ in range(100):
                middleware(request)
            rounds.append((time.thread_time() - start) / 100)
        return min(rounds)

    cost = seconds("/wasm/hello")
    print(f"native route: {cost * 1e6:.1f} us, other path: {seconds('/other') * 1e6:.1f} us")
    assert cost < 1e-3  # 20 us where nothing else runs


# The door in front of Django


@pytest.mark.django_db  # it closes connections
def test_the_door_knows_no_users(ruled: Ruled) -> None:
    ruled(
        hello={"mode": "canary", "percent": 1e-9, "staff": True, "opt_in": "header:x-wasm"},
        trap={"fallback": True},
    )
    with override_settings(MIDDLEWARE=[]):
        application = get_wsgi_application()

        def ask(path: str, **environ: str) -> tuple[list[str], bytes]:
            heads: list[Any] = []
            request = RequestFactory().post(path, b" body", content_type="text/plain", **environ).environ
            body = application(request, lambda *head: heads.append(head) or (lambda data: None))
            content = b"".join(body)
            getattr(body, "close", lambda: None)()
            return [name for name, _ in heads[0][1]], content

        names, content = ask("/wasm/hello")
        assert content == b"native body"
        assert "Set-Cookie" in names
        assert ask("/wasm/hello", HTTP_X_WASM="1")[1] == GUEST
        assert ask("/wasm/trap")[1] == b"native body"


# Checks


@pytest.mark.parametrize(
    ("rule", "middleware", "expected"),
    [
        ({"mode": "canary", "staff": True}, [SESSIONS, AUTH, OURS], []),
        ({"mode": "canary", "staff": True}, [SESSIONS, OURS, AUTH], ["W006"]),
        ({"mode": "canary", "groups": ["a"]}, [OURS], ["W006"]),
        ({"mode": "canary", "sticky": "user"}, [OURS, SESSIONS, AUTH], ["W006"]),
        ({"mode": "canary"}, [OURS, SESSIONS, AUTH], []),
        ({"mode": "native", "staff": True}, [OURS, SESSIONS, AUTH], ["W006"]),  # a dial may turn it
    ],
)
def test_where_the_middleware_stands(
    ruled: Ruled, rule: Any, middleware: list[str], expected: list[str]
) -> None:
    ruled(hello=rule)
    with override_settings(MIDDLEWARE=middleware):
        found = [str(message.id).partition(".")[2] for message in run_checks(tags=["wasm_gateway"])]
    assert [each for each in found if each.startswith("W")] == expected


# Beside the view


def test_the_guest_answers_beside_the_view(ruled: Ruled, ask: Ask) -> None:
    ruled(hello={"mode": "shadow"}, echo={"mode": "shadow", "max_kept_body": 10}, trap={"mode": "shadow"})
    pilot = owner.gateway().open().pilot
    assert pilot is not None
    response = ask("post", "/wasm/hello", data=b" body", content_type="text/plain")
    assert (response.content, COOKIE in response.cookies) == (b"native body", False)
    assert ask("get", "/wasm/trap").content == NATIVE
    assert ask("post", "/wasm/echo", data=b"0123456789a", content_type="text/plain").status_code == 200
    outcomes: Any = {}
    end = time.monotonic() + 60
    while len(outcomes) < 3 and time.monotonic() < end:
        counts = pilot.counts()
        outcomes = {k: word for k, v in counts.items() for word in v if word.startswith("shadow ")}
        time.sleep(0.01)
    assert outcomes == {"hello": "shadow different", "trap": "shadow failed", "echo": "shadow uncompared"}


# The two sides of a canary


def answering(request: HttpRequest) -> HttpResponse:
    if "raises" in request.GET:
        raise ZeroDivisionError
    time.sleep(0.02)
    return HttpResponse(status=int(request.GET["status"]))


class AnsweringUrls:
    urlpatterns = [re_path("", answering)]


def sides() -> Any:
    """How requests have ended, by side; and the number of times that were taken."""
    pilot = owner.gateway().pilot
    assert pilot is not None
    counts = pilot._counters.all()["hello"]
    found = {side: {end: counts.get(ended(side, end), 0) for end in End} for side in SIDES}
    return (
        found,
        [counters.number(counts, side) for side in SIDES],
        counters.quantile(counts, CANARY_NATIVE, 0.5),
    )


@pytest.mark.django_db  # a request's end closes old connections
def test_both_sides_are_counted(ruled: Ruled, ask: Ask) -> None:
    none = dict.fromkeys(End, 0)
    ruled(hello={"mode": "canary", "percent": 0})
    owner.gateway().open()
    with override_settings(ROOT_URLCONF=AnsweringUrls):
        for status in (200, 302, 404, 404):
            assert ask("get", f"/wasm/hello?status={status}").status_code == status
        client = Client(raise_request_exception=False)
        assert client.get("/wasm/hello?raises").status_code == 500
    found, times, median = sides()
    native = none | {End.OK: 1, End.REDIRECTED: 1, End.REFUSED: 2, End.ERROR: 1}
    assert (found, times) == ({"canary native": native, "canary guest": none}, [5, 0])
    assert median > 0.014
    ruled(hello={"mode": "canary"})
    assert ask("get", "/wasm/hello").content == GUEST
    assert sides()[:2] == ({"canary native": none, "canary guest": none | {End.OK: 1}}, [0, 1])


@pytest.mark.django_db  # a request's end closes old connections
def test_views_that_stream_are_counted_at_their_end(ruled: Ruled) -> None:
    ruled(hello={"mode": "canary", "percent": 0})
    owner.gateway().open()
    with override_settings(ROOT_URLCONF=StreamingUrls):
        response: Any = Client().get("/wasm/hello")
        assert sides()[1] == [0, 0]
        assert b"".join(response.streaming_content) == GUEST
        response.close()
        assert sides()[1] == [1, 0]
        assert asgi_exchange("async") == STREAM
        assert sides()[1] == [2, 0]


# Views that stream, beside which a guest answers

STREAM = [b"hello ", b"from ", b"wasm"]


def streaming(request: HttpRequest) -> HttpResponseBase:
    """As STREAM; `async`, a `file`, `more` of it, or one that `fails` half way."""
    kinds = request.GET

    def chunks() -> Iterator[bytes]:
        yield from STREAM * int(kinds.get("more", 1))
        if "fails" in kinds:
            raise RuntimeError("half way")

    async def async_chunks() -> AsyncIterator[bytes]:
        for chunk in chunks():
            yield chunk

    if "file" in kinds:
        return FileResponse(io.BytesIO(b"".join(STREAM)), content_type="text/plain")
    content: Any = async_chunks() if "async" in kinds else chunks()
    return StreamingHttpResponse(content, content_type="text/plain", headers={"x-own": "1"})


class StreamingUrls:
    urlpatterns = [re_path("", streaming)]


def settled(pilot: Any, number: int) -> dict[str, int]:
    """What became of `number` guests beside the view."""
    end = time.monotonic() + 60
    while True:
        counts = pilot.counts().get("hello", {})
        if sum(counts.get(name, 0) for name in OUTCOMES) >= number:
            return {name: counts[name] for name in counts if name.startswith("shadow ")}
        assert time.monotonic() < end, counts
        time.sleep(0.005)


@pytest.fixture
def beside(ruled: Ruled) -> Iterator[Any]:
    """Who counts, of a site whose views stream."""
    ruled(hello={"mode": "shadow", "max_kept_body": 100})
    with override_settings(ROOT_URLCONF=StreamingUrls):
        yield owner.gateway().open().pilot


def asgi_exchange(query: str, leaves: bool = False) -> list[bytes]:
    """The messages of a body, from Django's own handler; `leaves` is after the first one."""
    sent: list[bytes] = []

    async def main() -> None:
        gone = asyncio.Event()

        async def receive() -> Any:
            if not gone.is_set() and not sent:
                given = {"type": "http.request", "body": b"", "more_body": False}
                if not asked:
                    asked.append(True)
                    return given
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body" and message.get("body"):
                sent.append(message["body"])
                if leaves:
                    gone.set()
                    await asyncio.sleep(30)  # the handler gives up

        asked: list[bool] = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "path": "/wasm/hello",
            "raw_path": b"/wasm/hello",
            "query_string": query.encode(),
            "scheme": "http",
            "headers": [(b"host", b"testserver")],
            "client": ("127.0.0.1", 1),
            "server": ("testserver", 80),
        }
        await ASGIHandler()(scope, receive, send)

    asyncio.run(main())
    return sent


@pytest.mark.django_db  # a request's end closes old connections
@pytest.mark.parametrize("file", ["", "file"])
def test_a_view_that_streams_is_compared(beside: Any, ask: Ask, file: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Warning)  # Django's, about synchronous views under ASGI
        response = ask("get", f"/wasm/hello?{file}")
        assert b"".join(iterated(response)) == GUEST
    response.close()
    assert settled(beside, 1) == {"shadow equal": 1}
    assert beside.counts()["hello"] == {"shadow": 1, "shadow equal": 1}


def iterated(response: Any) -> list[bytes]:
    if not response.is_async:
        return list(response.streaming_content)

    async def main() -> list[bytes]:
        return [chunk async for chunk in response.streaming_content]

    return asyncio.run(main())


def test_an_async_view_that_streams_is_compared(beside: Any) -> None:
    assert asgi_exchange("async") == STREAM  # chunk by chunk, as the view gave them
    assert settled(beside, 1) == {"shadow equal": 1}


@pytest.mark.django_db  # a request's end closes old connections
def test_a_chunk_goes_out_before_the_next_one_is_made(beside: Any) -> None:
    response: Any = Client().get("/wasm/hello?fails")
    assert response["x-own"] == "1"
    content = iter(response.streaming_content)
    assert [next(content), next(content), next(content)] == STREAM
    assert "shadow equal" not in beside.counts()["hello"]
    with pytest.raises(RuntimeError, match="half way"):
        next(content)
    response.close()
    assert settled(beside, 1) == {"shadow uncompared": 1, "shadow uncompared, answer cut off": 1}


@pytest.mark.django_db  # a request's end closes old connections
@pytest.mark.parametrize("kind", ["", "async"])
def test_a_stream_that_is_too_long(beside: Any, kind: str) -> None:
    if kind:
        assert asgi_exchange("async&more=1000") == STREAM * 1000
    else:
        response: Any = Client().get("/wasm/hello?more=1000")
        assert list(response.streaming_content) == STREAM * 1000
        response.close()
    assert settled(beside, 1) == {"shadow uncompared": 1, "shadow uncompared, answer too long": 1}


@pytest.mark.django_db  # a request's end closes old connections
def test_a_client_that_leaves_a_stream(beside: Any) -> None:
    response: Any = Client().get("/wasm/hello")
    next(iter(response.streaming_content))
    response.close()
    assert settled(beside, 1) == {"shadow uncompared": 1, "shadow uncompared, answer cut off": 1}
    assert asgi_exchange("async&more=1000", leaves=True) == STREAM[:1]
    assert settled(beside, 2) == {"shadow uncompared": 2, "shadow uncompared, answer cut off": 2}


@pytest.mark.django_db  # a request's end closes old connections
def test_a_file_that_the_server_sends_itself(beside: Any) -> None:
    """It is given to `wsgi.file_wrapper` as without us."""
    environ = RequestFactory().get("/wasm/hello?file").environ
    sent = WSGIHandler()(environ | {"wsgi.file_wrapper": FileWrapper}, lambda status, headers: None)
    assert isinstance(sent, FileWrapper)
    assert b"".join(sent) == GUEST
    sent.close()
    assert settled(beside, 1) == {"shadow uncompared": 1, "shadow uncompared, file": 1}


class Tagged:
    urlpatterns = [re_path("", lambda request: HttpResponse(GUEST, "text/plain", headers={"etag": '"1"'}))]


def test_an_answer_that_other_middleware_replaces_is_compared(beside: Any, ask: Ask) -> None:
    """The client has it already, and gets a 304: Django never closes what the view has answered."""
    conditional = "django.middleware.http.ConditionalGetMiddleware"
    with override_settings(ROOT_URLCONF=Tagged, MIDDLEWARE=[conditional, SESSIONS, AUTH, OURS]):
        response = ask("get", "/wasm/hello", headers={"if-none-match": '"1"'})
    assert response.status_code == 304
    assert settled(beside, 1) == {"shadow equal": 1}


def test_uploads_are_closed_after_the_view(ruled: Ruled, ask: Ask) -> None:
    ruled(hello={"mode": "shadow"})
    pilot = owner.gateway().open().pilot
    files = []

    def upload(request: HttpRequest) -> HttpResponse:
        files.append(request.FILES["file"])
        return HttpResponse()

    class Uploads:
        urlpatterns = [re_path("", upload)]

    with override_settings(ROOT_URLCONF=Uploads):
        ask("post", "/wasm/hello", data={"file": io.BytesIO(b"content")})
    assert [file.closed for file in files] == [True]
    assert settled(pilot, 1) == {"shadow different": 1}
