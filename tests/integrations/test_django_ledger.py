# The ledger in a site's database, and sites of several processes that share it.

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django
import pytest
import wasmtime
from django.core.management import call_command

from tests.integrations.conftest import printer
from tests.test_swap import put
from wasm_gateway.policy import COOKIE, share

django.setup()


@pytest.mark.django_db
def test_the_migrations_make_the_models() -> None:
    call_command("makemigrations", "wasm_gateway", check=True, dry_run=True, verbosity=0)


# What a ledger promises, in each kind of database; the file is Django's own, since the tests' is in memory.
PROMISES = """
import json, sys, threading, time
database = json.loads(sys.argv[1])
if database["ENGINE"].endswith("mysql"):
    import pymysql
    pymysql.version_info = (2, 2, 7, "final", 0)  # Django asks for mysqlclient
    pymysql.install_as_MySQLdb()

import django
from django.conf import settings
import wasmtime
from django.core.management import call_command

settings.configure(
    INSTALLED_APPS=["wasm_gateway.integrations.django"], DATABASES={"default": database}, USE_TZ=True
)
django.setup()
call_command("migrate", verbosity=0)

from django.db import connections
from wasm_gateway.integrations.django import ledger as module
from wasm_gateway.migration.ledger import Change, Mismatch

module.MAX_CHANGES, module.MAX_MISMATCHES = 40, 5
ledger = module.DjangoLedger()
assert (ledger.dials(), ledger.changes(), ledger.mismatches()) == ({}, [], [])
first = ledger.stamp()

# dials, and who turned them
ledger.turn(Change("a", {"mode": "canary", "percent": 5.0}, "me", 1.5))
ledger.turn(Change("/b/:c/...", {"mode": "native"}, "you"))
assert ledger.stamp() != first
assert ledger.dials() == {"a": {"mode": "canary", "percent": 5.0}, "/b/:c/...": {"mode": "native"}}
ledger.turn(Change("a", {"mode": "wasm"}, "me"))
ledger.turn(Change("/b/:c/...", None, "me"))
assert ledger.dials() == {"a": {"mode": "wasm"}}
assert [(c.name, c.values, c.by) for c in ledger.changes(3)] == [
    ("/b/:c/...", None, "me"), ("a", {"mode": "wasm"}, "me"), ("/b/:c/...", {"mode": "native"}, "you")
]
assert ledger.changes()[-1] == Change("a", {"mode": "canary", "percent": 5.0}, "me", 1.5)

# what nobody has turned
before = ledger.stamp(), ledger.changes()
for values in ({"digest": "x"}, {"digest": "y", "before": None}):
    ledger.note("served:a", values)
    assert ledger.dials() == {"a": {"mode": "wasm"}, "served:a": values}
assert (ledger.stamp(), ledger.changes()) == before
ledger.turn(Change("served:a", None, "me"))

# many at once: each has a stamp of its own, none is lost, and the oldest changes go
failures = []
def turn(number):
    try:
        for each in range(10):
            ledger.turn(Change(f"{number}", {"percent": float(each)}, "a thread"))
    except Exception as error:
        failures.append(error)

before = ledger.stamp()
threads = [threading.Thread(target=turn, args=(number,), name=f"wasm-{number}") for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failures, failures
assert ledger.stamp() == before + 40
assert ledger.dials() == {"a": {"mode": "wasm"}, **{f"{n}": {"percent": 9.0} for n in range(4)}}
assert len(ledger.changes(100)) == 40

# mismatches
def mismatch(component, target):
    answers = {"status": 200}, {"status": 500}
    return Mismatch(component, "/r", "GET", target, ("a", "b"), *answers, 0.1, 0.2, 3.0)

for number in range(8):
    ledger.record(mismatch("a", f"/{number}"))
ledger.record(mismatch("b", "/"))
assert [each.target for each in ledger.mismatches("a")] == ["/7", "/6", "/5", "/4", "/3"]
assert ledger.mismatches("a", 1) == [mismatch("a", "/7")]
assert [each.component for each in ledger.mismatches(limit=2)] == ["b", "a"]

# counters, from many threads too
failures.clear()
def count(number):
    try:
        for each in range(5):
            ledger.add({"a": {"wasm": 1, "native": number}, "b": {"wasm": 2}})
    except Exception as error:
        failures.append(error)

threads = [threading.Thread(target=count, args=(number,), name=f"wasm-{number}") for number in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
counters = ledger.counters()
if not failures:  # a database may give up on one of two that wait for each other; the pilot tries again
    since = counters["a"].pop("since")
    assert abs(since - time.time()) < 600
    assert counters["a"] == {"wasm": 15, "native": 15}, counters
    assert counters["b"]["wasm"] == 30
ledger.forget("a")
assert (set(ledger.counters()), ledger.mismatches("a")) == ({"b"}, [])
ledger.forget()
assert (ledger.counters(), ledger.mismatches()) == ({}, [])

# a thread of the gateway's keeps no connection, one of the site's does
def look():
    ledger.stamp()
    open_.append(connections["default"].connection is not None)

open_ = []
for name in ("wasm-dials", "site"):
    thread = threading.Thread(target=look, name=name)
    thread.start()
    thread.join()
assert open_ == [False, True], open_
connections.close_all()
print("kept")
"""


def keeps_its_promises(database: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROMISES, json.dumps(database)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "kept\n", done.stderr


def test_in_sqlite(tmp_path: Path) -> None:
    keeps_its_promises({"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")})


def server(kind: str, url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "ENGINE": f"django.db.backends.{kind}",
        "NAME": parts.path.strip("/"),
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname,
        "PORT": parts.port,
    }


@pytest.mark.services
def test_in_postgresql(postgres_server: str) -> None:
    keeps_its_promises(server("postgresql", postgres_server))


@pytest.mark.services
def test_in_mysql(mariadb_server: str) -> None:
    keeps_its_promises(server("mysql", mariadb_server))


# Sites of several processes

SITE = """
import os
from pathlib import Path
from django.conf import settings
from django.http import HttpResponse
from django.urls import path, re_path

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    SECRET_KEY="tests",
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["wasm_gateway.integrations.django"],
    MIDDLEWARE=[f"{{__name__}}.{kind}", "wasm_gateway.integrations.django.WasmGatewayMiddleware"],
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {database!r}}}}},
    WASM_GATEWAY={{
        "MANIFEST": {manifest!r}, "CACHE_DIR": {cache!r}, "STATE_DIR": "", "LEDGER": "django",
        "RULES": {{"trap": {{"fallback": ["trap"], "breaker_failures": 1000}}}},
    }},
)

class Sync:
    async_capable = False
    def __init__(self, get_response):
        self.get_response = get_response
    def __call__(self, request):
        response = self.get_response(request)
        response["x-pid"] = os.getpid()
        return response

class Async:
    sync_capable = False
    async_capable = True
    def __init__(self, get_response):
        from asgiref.sync import markcoroutinefunction
        self.get_response = get_response
        markcoroutinefunction(self)
    async def __call__(self, request):
        response = await self.get_response(request)
        response["x-pid"] = os.getpid()
        return response

def native(request):
    return HttpResponse(b"native " + request.body)

def mode(request, name, mode):
    from django.core.management import call_command
    call_command("wasm_mode", name, mode, percent=50 if mode == "canary" else None, verbosity=0)
    return HttpResponse()

def order(request, act, name):
    from django.core.management import call_command
    call_command(f"wasm_{{act}}", name, verbosity=0)
    return HttpResponse()

urlpatterns = [path("mode/<name>/<mode>", mode), path("order/<act>/<name>", order), re_path("", native)]

def start(kind):
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    return get_wsgi_application() if kind == "Sync" else get_asgi_application()

app = start({kind!r})
"""

GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "2", "--workers", "2")
APP = "site_app:app"
SERVERS = {
    "prefork": ("Sync", (*GUNICORN, APP)),
    "gthread-preload": ("Sync", (*GUNICORN, "--threads", "4", "--preload", APP)),
    "uvicorn": ("Async", ("uvicorn", "--port", "{port}", "--workers", "2", "--lifespan", "off", APP)),
}


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that has the tables."""
    path = tmp_path_factory.mktemp("database") / "db.sqlite3"
    subprocess.run([sys.executable, "-c", MIGRATE, str(path)], check=True, capture_output=True, timeout=60)
    return path


MIGRATE = """
import sys
import django
from django.conf import settings
import wasmtime
from django.core.management import call_command

database = {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}
settings.configure(INSTALLED_APPS=["wasm_gateway.integrations.django"], DATABASES={"default": database})
django.setup()
call_command("migrate", verbosity=0)
"""


@pytest.mark.parametrize("name", SERVERS)
def test_all_processes_of_a_site(
    name: str, start: Callable[..., Any], manifest: Path, cache_dir: Path, tmp_path: Path, migrated: Path
) -> None:
    kind, command = SERVERS[name]
    database = str(tmp_path / "db.sqlite3")
    text = SITE.format(kind=kind, manifest=str(manifest), cache=str(cache_dir), database=database)
    (tmp_path / "site_app.py").write_text(text)
    shutil.copy(migrated, database)
    with start(*command) as address:

        def ask(path: str, body: bytes | None = None, **headers: str) -> tuple[str, bytes]:
            with closing(http.client.HTTPConnection(*address, timeout=60)) as connection:
                connection.request("POST" if body else "GET", path, body, headers)
                response = connection.getresponse()
                assert response.status == 200
                return response.headers["x-pid"], response.read()

        def until(expected: bytes, **headers: str) -> float:
            """The seconds until both processes have answered /wasm/hello so, several times in a row."""
            begin = last = time.monotonic()
            seen: dict[str, int] = {}
            while min(seen.get(pid, 0) for pid in pids) < 5:
                pid, answer = ask("/wasm/hello", **headers)
                assert answer in (b"hello from wasm", b"native ", b"newer")
                if answer != expected:
                    last, seen = time.monotonic(), {}
                else:
                    seen[pid] = seen.get(pid, 0) + 1
                assert time.monotonic() - begin < 120
            return last - begin

        pids: set[str] = set()
        end = time.monotonic() + 120
        while len(pids) < 2:
            pids.add(ask("/wasm/hello")[0])
            assert time.monotonic() < end
        seconds = []
        for mode, expected in (("native", b"native "), ("wasm", b"hello from wasm")):
            ask(f"/mode/hello/{mode}")
            seconds.append(until(expected))
        # and a guest is replaced in all of them, and back
        put(tmp_path / "hello.wasm", wasmtime.wat2wasm(printer("content-type: text/plain\n\nnewer")))
        for act, expected in (("reload", b"newer"), ("rollback", b"hello from wasm")):
            ask(f"/order/{act}/hello")
            seconds.append(until(expected))
        print(f"{name}: {max(seconds):.2f} s until all processes have heard of it")

        # a visitor is on one side in whatever process he lands
        ask("/mode/hello/canary")
        visitors = {f"{number:016x}": share("hello", f"{number:016x}") < 0.5 for number in range(40)}
        assert len(set(visitors.values())) == 2
        until(b"native ", cookie=f"{COOKIE}={next(key for key, taken in visitors.items() if not taken)}")
        for _ in range(3):
            for key, taken in visitors.items():
                answer = ask("/wasm/hello", cookie=f"{COOKIE}={key}")[1]
                assert answer == (b"hello from wasm" if taken else b"native ")

        for number in range(30):
            assert ask("/wasm/trap", b"%d" % number)[1] == b"native %d" % number
