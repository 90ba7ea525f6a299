# The example projects, as their users meet them: the guests through a gateway, the
# Django site and the bare command through real servers, the Flask app by its client.

from __future__ import annotations

import http.client
import importlib.util
import itertools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import pytest

from wasm_gateway import Gateway
from wasm_gateway.messages import Headers, Request

ROOT = Path(__file__).resolve().parent.parent
GAME = ROOT / "example_projects" / "finicky_whiskers"
FLASK_APP = ROOT / "example_projects" / "flask_app"
SCORES = ROOT / "example_projects" / "django_scores"
GUESTS = GAME / "guests"

TREATS = {"fish", "shrimp", "milk", "cheese", "egg", "chicken"}
SOME_ID = "0123456789abcdef" * 2
OVER_ID = "f" * 32

Answer = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Answer]


def asker(address: str) -> Ask:
    """ask(method, target, body=None, headers={}) -> status, headers, body; the target goes out as it is."""
    host, _, port = address.removeprefix("http://").partition(":")

    def ask(
        method: str, target: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    return ask


@contextmanager
def running(command: list[str], folder: Path, **environment: str) -> Iterator[str]:
    """A server in a process of its own; gives the base URL that it prints."""
    with open(folder / "stderr", "w+b") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")} | environment,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.search(r"http://[\d.]+:\d+", line):
                    break
            else:
                pytest.fail(f"{command} ended: {(folder / 'stderr').read_text()}")
            yield found[0]
        finally:
            process.terminate()
            process.stdout.close()
            try:
                process.wait(60)
            finally:
                process.kill()
                process.wait()


def wait_until_answering(ask: Ask, target: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            ask("GET", target)
            return
        except OSError:
            assert time.monotonic() < end, f"{target} is not answered"
            time.sleep(0.02)


def wrong_treat(right: str) -> str:
    return min(TREATS - {right})


# The guests, without a server


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def gateway(state: Path) -> Iterator[Gateway]:
    over = f"1 1000 3 2 1 15 {'012345' * 5}"
    with Gateway.from_manifest(
        GAME / "spin.toml",
        state_dir=state,
        cache_dir=state / "cache",
        key_value={f"round:{OVER_ID}": over, f"round:{SOME_ID}": "1 mangled"},
    ) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def ask(gateway: Gateway) -> Ask:
    return through(gateway)


def through(gateway: Gateway) -> Ask:
    def ask(method: str, target: str, body: str = "", headers: dict[str, str] | None = None) -> Answer:
        path, _, query = target.partition("?")
        request = Request(
            method, path, query or None, Headers((headers or {}).items()), (body.encode(),), authority="t"
        )
        response = gateway.handle(request)
        assert response is not None, f"no route for {target}"
        try:
            return response.status, dict(response.headers), b"".join(response.body)
        finally:
            response.close()

    return ask


def test_session_gives_a_menu(ask: Ask) -> None:
    status, headers, body = ask("POST", "/session")
    round_ = json.loads(body)

    assert (status, headers["content-type"], headers["cache-control"]) == (
        200,
        "application/json",
        "no-store",
    )
    assert re.fullmatch("[0-9a-f]{32}", round_["id"])
    assert round_["seconds"] == 20
    menu = round_["menu"]
    assert len(menu) == 30
    assert set(menu) <= TREATS
    assert all(one != next_ for one, next_ in itertools.pairwise(menu))
    assert json.loads(ask("POST", "/session")[2])["id"] != round_["id"]


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "error"),
    [
        ("POST", "/session?seconds=0", "", 400, "seconds"),
        ("POST", "/session?seconds=61", "", 400, "seconds"),
        ("POST", "/session?seconds=+9", "", 400, "seconds"),
        ("POST", "/session?seconds=9&seconds=9", "", 400, "seconds"),
        ("POST", "/tally", "", 400, "n:"),
        ("POST", "/tally?n=-1", "", 400, "n:"),
        ("POST", "/tally?n=10000", "", 400, "n:"),
        ("POST", "/tally?n=18446744073709551616", "", 400, "n:"),
        ("POST", "/tally?n=0&n=0", "", 400, "n:"),
        ("POST", "/tally?n=0", "", 400, "treat"),
        ("POST", "/tally?n=0&treat=dog", "", 400, "treat"),
        ("POST", "/tally?n=0&treat=egg%0", "", 400, "treat"),
        ("POST", "/tally?n=0&treat=egg%zz", "", 400, "treat"),
        ("POST", "/tally?n=0&treat=egg&treat=egg", "", 400, "treat"),
        ("POST", "/tally?n=0&treat=egg", "", 400, "id"),
        ("POST", f"/tally?n=0&treat=egg&id={SOME_ID[:-1]}", "", 400, "id"),
        ("POST", f"/tally?n=0&treat=egg&id={SOME_ID.upper()}", "", 400, "id"),
        ("POST", f"/tally?n=0&treat=egg&id=%00{SOME_ID[1:]}", "", 400, "id"),
        ("POST", f"/tally?n=0&treat=egg&id={'0' * 32}", "", 404, "no such round"),
        ("POST", f"/tally?n=0&treat=egg&id={OVER_ID}", "", 410, "over"),
        ("POST", f"/tally?n=0&treat=egg&id={SOME_ID}", "", 500, "the store failed"),
        ("GET", "/score", "", 400, "id"),
        ("GET", f"/score?id={'0' * 32}", "", 404, "no such round"),
        ("GET", f"/score?id={SOME_ID}", "", 500, "the store failed"),
        ("POST", "/highscore", "", 400, "name"),
        ("POST", "/highscore", "name=", 400, "name"),
        ("POST", "/highscore", "name=+++", 400, "name"),
        ("POST", "/highscore", f"name={'x' * 17}", 400, "name"),
        ("POST", "/highscore", "name=a%00b", 400, "name"),
        ("POST", "/highscore", "name=%FF", 400, "name"),
        ("POST", "/highscore", "name=%C0%80", 400, "name"),
        ("POST", "/highscore", "name=%ED%A0%80", 400, "name"),
        ("POST", "/highscore", "name=%F4%90%80%80", 400, "name"),
        ("POST", "/highscore", "name=%E2%82", 400, "name"),
        ("POST", "/highscore", "name=%E2%80%AEx", 400, "name"),
        ("POST", "/highscore", "name=a&name=b", 400, "name"),
        ("POST", "/highscore", "name=Miez", 400, "id"),
        ("POST", "/highscore", f"name=Miez&id={'0' * 32}", 404, "no such round"),
        ("POST", "/highscore", "name=" + "x" * 2000, 413, "too long"),
    ],
)
def test_bad_input_is_refused(ask: Ask, method: str, target: str, body: str, status: int, error: str) -> None:
    answer = ask(method, target, body)

    assert answer[0] == status
    assert error in json.loads(answer[2])["error"]


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("/session", "POST"),
        ("/tally", "POST"),
        ("/score", "GET, HEAD"),
        ("/highscore", "GET, HEAD, POST"),
        ("/reset", "POST"),
        ("/play/", "GET, HEAD"),
    ],
)
def test_other_methods(ask: Ask, target: str, allowed: str) -> None:
    status, headers, _ = ask("DELETE", target)

    assert (status, headers["allow"]) == (405, allowed)


def test_a_click_counts_once(ask: Ask) -> None:
    round_ = json.loads(ask("POST", "/session?seconds=60")[2])

    def click(number: int, treat: str) -> tuple[int, dict[str, Any]]:
        status, _, body = ask("POST", f"/tally?id={round_['id']}&n={number}&treat={treat}")
        return status, json.loads(body)

    menu = round_["menu"]
    one_right = {"taken": 1, "right": 1, "wrong": 0, "points": 10}
    assert click(0, menu[0]) == (200, {"correct": True, **one_right})
    assert click(0, menu[0]) == (409, {"error": "out of step", **one_right})
    assert click(2, menu[2]) == (409, {"error": "out of step", **one_right})
    assert click(1, wrong_treat(menu[1]))[1]["points"] == 5
    assert click(2, wrong_treat(menu[2]))[1]["points"] == 0
    assert click(3, wrong_treat(menu[3]))[1] == {
        "correct": False, "taken": 4, "right": 1, "wrong": 3, "points": 0
    }  # fmt: skip
    for number in range(4, 30):
        assert click(number, menu[number])[0] == 200
    assert click(30, menu[0])[1]["correct"]  # the menu begins again


def test_a_round_that_is_over(ask: Ask) -> None:
    status, _, body = ask("GET", f"/score?id={OVER_ID}")

    assert status == 200
    assert json.loads(body) == {"taken": 3, "right": 2, "wrong": 1, "points": 15, "over": True}


def test_names_are_text_and_no_more(ask: Ask, state: Path) -> None:
    name = "'); DROP \"x\\é🐱"
    round_ = json.loads(ask("POST", "/session")[2])

    status, _, body = ask("POST", "/highscore", urlencode({"id": round_["id"], "name": f"  {name} "}))

    assert status == 201
    assert {"name": name, "points": 0, "mine": True} in [
        {key: row[key] for key in ("name", "points", "mine")} for row in json.loads(body)["scores"]
    ]


def test_reset_needs_its_token_and_our_own_page(state: Path, tmp_path: Path) -> None:
    with Gateway.from_manifest(
        GAME / "spin.toml",
        components=["session", "reset"],
        state_dir=tmp_path,
        cache_dir=state / "cache",
        variables={"reset_token": "s3cret"},
        key_value={"other": "kept"},
    ) as gateway:
        ask = through(gateway)
        ask("POST", "/session")
        ask("POST", "/session")

        assert ask("POST", "/reset")[0] == 403
        assert ask("POST", "/reset", headers={"x-reset-token": "s3cre"})[0] == 403
        assert ask("POST", "/reset", headers={"x-reset-token": "s3crex"})[0] == 403
        from_afar = {"x-reset-token": "s3cret", "sec-fetch-site": "cross-site"}
        assert ask("POST", "/reset", headers=from_afar)[0] == 403

        status, _, body = ask("POST", "/reset", headers={"X-Reset-Token": "s3cret"})
        assert (status, json.loads(body)) == (200, {"rounds": 2})

    with sqlite3.connect(tmp_path / "sqlite_key_value.db") as database:
        assert [key for (key,) in database.execute("SELECT key FROM spin_key_value")] == ["other"]
    database.close()


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("", "text/html; charset=utf-8"),
        ("index.html", "text/html; charset=utf-8"),
        ("inde%78.html", "text/html; charset=utf-8"),
        ("game.js", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("cat.svg", "image/svg+xml"),
    ],
)
def test_files(ask: Ask, name: str, media_type: str) -> None:
    content = (GAME / "play" / (name.replace("%78", "x") or "index.html")).read_bytes()

    status, headers, body = ask("GET", f"/play/{name}")
    assert (status, headers["content-type"], body) == (200, media_type, content)
    assert headers["x-content-type-options"] == "nosniff"
    assert ("content-security-policy" in headers) == (media_type.startswith("text/html"))

    assert ask("GET", f"/play/{name}", headers={"if-none-match": headers["etag"]})[0::2] == (304, b"")
    among = f'"other", W/{headers["etag"]}'
    assert ask("GET", f"/play/{name}", headers={"if-none-match": among})[0] == 304
    assert ask("GET", f"/play/{name}", headers={"if-none-match": '"other"'})[0] == 200

    status, only_headers, body = ask("HEAD", f"/play/{name}")
    assert (status, body, only_headers["content-length"]) == (200, b"", str(len(content)))


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "index.html/",
        "index.html/x",
        "../spin.toml",
        "%2e%2e/spin.toml",
        "..%2fspin.toml",
        "..%5cspin.toml",
        "./index.html",
        "/index.html",
        "%2findex.html",
        "index.html%00",
        "index.html%",
        "index.html%2",
        "%ff",
        ".hidden",
    ],
)
def test_paths_that_name_no_file(ask: Ask, path: str) -> None:
    assert ask("GET", f"/play/{path}")[0] == 404


def test_a_folder_is_named_with_a_slash(ask: Ask) -> None:
    status, headers, _ = ask("GET", "/play", headers={"spin-path-info": "//elsewhere.test"})

    assert (status, headers["location"]) == (308, "/play/")


def test_redirect(ask: Ask) -> None:
    status, headers, _ = ask("GET", "/go?ignored")

    assert (status, headers["location"]) == (302, "/play/index.html")


def test_statistics_know_every_guest(gateway: Gateway, ask: Ask) -> None:
    def started() -> dict[str, int]:
        return {row.component: row.started for row in gateway.stats()}

    before = started()
    ask("GET", "/highscore")

    assert before.keys() == {"fileserver", "redirect", "session", "tally", "score", "highscore", "reset"}
    assert started() == before | {"highscore": before["highscore"] + 1}


# The Django site, on the server of `manage.py demo`


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(GAME / "manage.py"), "demo", "--listen", "127.0.0.1:0"]
    with running(command, folder, FINICKY_WHISKERS_STATE=str(folder / "state")) as url:
        ask = asker(url)
        wait_until_answering(ask, "/about")
        yield ask


def test_site_plays_a_round(site: Ask) -> None:
    site("POST", "/reset")  # what other tests have begun
    status, _, body = site("POST", "/session?seconds=60")
    assert status == 200
    round_ = json.loads(body)
    id = round_["id"]

    for number, treat in enumerate(round_["menu"][:4]):
        assert site("POST", f"/tally?id={id}&n={number}&treat={treat}")[0] == 200
    wrong = wrong_treat(round_["menu"][4])
    assert site("POST", f"/tally?id={id}&n=4&treat={wrong}")[0] == 200

    score = json.loads(site("GET", f"/score?id={id}")[2])
    assert score == {"taken": 5, "right": 4, "wrong": 1, "points": 35, "over": False}

    form = urlencode({"id": id, "name": "Miez"})
    headers = {"content-type": "application/x-www-form-urlencoded"}
    status, _, body = site("POST", "/highscore", form, headers)
    assert (status, json.loads(body)["place"]) == (201, 1)
    assert site("POST", "/highscore", form, headers)[0] == 409
    board = json.loads(site("GET", "/highscore")[2])
    assert board == {
        "scores": [{"place": 1, "name": "Miez", "points": 35, "mine": False}],
        "place": None,
    }

    assert json.loads(site("POST", "/reset")[2]) == {"rounds": 1}
    assert site("GET", f"/score?id={id}")[0] == 404
    assert json.loads(site("GET", "/highscore")[2])["scores"] == []


def test_site_serves_the_page(site: Ask) -> None:
    status, headers, _ = site("GET", "/go")
    assert (status, headers["location"]) == (302, "/play/index.html")

    status, headers, body = site("GET", "/play/index.html")
    assert (status, body) == (200, (GAME / "play" / "index.html").read_bytes())
    assert site("GET", "/play/", headers={"If-None-Match": headers["etag"]})[0] == 304
    status, only_headers, nothing = site("HEAD", "/play/")
    assert (status, int(only_headers["content-length"]), nothing) == (200, len(body), b"")
    assert site("GET", "/play/%2e%2e/spin.toml")[0] == 404


@pytest.mark.parametrize(
    ("path", "text"),
    [("/", b"The rules"), ("/about", b"<td>fileserver</td>"), ("/live", b"live.js"), ("/login", b"Password")],
)
def test_site_has_native_pages(site: Ask, path: str, text: bytes) -> None:
    status, headers, body = site("GET", path)

    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert text in body


def test_site_tells_what_its_guests_do(site: Ask) -> None:
    def rows() -> tuple[int, dict[str, dict[str, Any]]]:
        status, headers, body = site("GET", "/live/data")
        assert (status, "no-store" in headers["cache-control"]) == (200, True)
        data = json.loads(body)
        return data["total"], {row["component"]: row for row in data["components"]}

    total, before = rows()
    for _ in range(3):
        site("POST", "/tally")
    new_total, after = rows()

    assert new_total == total + 3
    assert after["tally"]["started"] == before["tally"]["started"] + 3
    assert after["tally"]["failed"] == 0
    assert len(after["tally"]["last_us"]) >= 3
    assert min(after["tally"]["last_us"]) <= after["tally"]["median_us"] <= max(after["tally"]["last_us"])
    assert {row["dialect"] for row in after.values()} == {row["dialect"] for row in before.values()}


class Visitor:
    """Keeps cookies and fills in the CSRF token of the forms it posts."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.cookies: SimpleCookie = SimpleCookie()

    def get(self, path: str, method: str = "GET", body: str | None = None) -> Answer:
        headers = {"cookie": "; ".join(f"{key}={value.value}" for key, value in self.cookies.items())}
        if body is not None:
            headers["content-type"] = "application/x-www-form-urlencoded"
        answer = self.ask(method, path, body, headers)
        if "set-cookie" in answer[1]:
            self.cookies.load(answer[1]["set-cookie"])
        return answer

    def post(self, page: str, path: str, **fields: str) -> Answer:
        found = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', self.get(page)[2])
        assert found is not None, f"no form in {page}"
        return self.get(path, "POST", urlencode(fields | {"csrfmiddlewaretoken": found[1].decode()}))


def test_site_lets_only_its_users_clear_the_board(site: Ask) -> None:
    visitor = Visitor(site)
    round_ = json.loads(site("POST", "/session")[2])

    assert visitor.get("/clear", "POST", "")[0] == 403  # no CSRF token
    status, headers, _ = visitor.post("/login", "/clear")
    assert (status, headers["location"]) == (302, "/login?next=/clear")

    status, _, body = visitor.post("/login", "/login", username="player", password="wrong")
    assert (status, b"do not match" in body) == (200, True)
    status, headers, _ = visitor.post("/login", "/login", username="player", password="whiskers")
    assert (status, headers["location"]) == (302, "/")
    assert b"Hello, player" in visitor.get("/")[2]

    status, headers, _ = visitor.post("/", "/clear")
    assert (status, headers["location"]) == (302, "/")
    assert site("GET", f"/score?id={round_['id']}")[0] == 404

    status, headers, _ = visitor.post("/", "/logout")
    assert (status, headers["location"]) == (302, "/")
    assert b"Hello, player" not in visitor.get("/")[2]


# The same folder without a site


def test_the_game_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wasm_gateway", "up", "-f", str(GAME / "spin.toml")]
    command += ["--listen", "127.0.0.1:0", "--state-dir", str(tmp_path / "state")]
    with running(command, tmp_path) as url:
        ask = asker(url)

        assert ask("GET", "/play/")[0] == 200
        assert ask("GET", "/")[0] == 404
        id = json.loads(ask("POST", "/session")[2])["id"]
        assert json.loads(ask("GET", f"/score?id={id}")[2])["taken"] == 0


# The Flask app


def test_flask_app(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_WASM_GATEWAY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("FLASK_WASM_GATEWAY_CACHE_DIR", str(state / "cache"))
    app = module(FLASK_APP / "app.py").app
    client = app.test_client()

    assert b"Ask the guests" in client.get("/").data
    round_ = client.post("/session").get_json()
    assert set(round_["menu"]) <= TREATS
    score = client.get(f"/score?id={round_['id']}").get_json()
    assert score == {"taken": 0, "right": 0, "wrong": 0, "points": 0, "over": False}
    assert client.get("/tally").status_code == 404
    app.extensions["wasm_gateway"].close()


# The Django site that lends its ORM


class ScoresSite:
    """The site with a state of its own, in processes."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.environment = {
            "DJANGO_SCORES_STATE": str(folder / "state"),
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(SCORES),
            "XDG_CACHE_HOME": str(cache),
        }

    def manage(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", str(SCORES / "manage.py"), *arguments],
            env=os.environ | self.environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    @contextmanager
    def served(self, *command: str) -> Iterator[Ask]:
        """The site on a server, whose log says where it listens."""
        with_log = ["sh", "-c", 'exec "$@" 2>&1', "sh", sys.executable, "-m", *command]
        with running(with_log, self.folder, **self.environment) as url:
            ask = asker(url)
            wait_until_answering(ask, "/")
            yield ask


@pytest.fixture
def scores(tmp_path: Path, state: Path) -> ScoresSite:
    site = ScoresSite(tmp_path, state / "xdg")
    migrated = site.manage("migrate", "--verbosity=0")
    assert migrated.returncode == 0, migrated.stderr
    return site


GUNICORN = ("gunicorn", "--bind", "127.0.0.1:0", "--threads", "2", "project.wsgi")
UVICORN = ("uvicorn", "--port", "0", "--lifespan", "off", "project.asgi:application")


def test_scores_passes_its_own_tests(scores: ScoresSite) -> None:
    done = scores.manage("test")

    assert done.returncode == 0, done.stderr
    assert re.search(r"Ran \d+ tests", done.stderr), done.stderr


def test_scores_has_all_its_migrations(scores: ScoresSite) -> None:
    assert scores.manage("makemigrations", "--check", "--dry-run").stdout == "No changes detected\n"


@pytest.mark.parametrize("command", [GUNICORN, UVICORN], ids=lambda command: command[0])
def test_scores_on_a_server(scores: ScoresSite, command: tuple[str, ...]) -> None:
    with scores.served(*command) as ask:
        assert (ask("GET", "/board")[0], ask("GET", "/board")[2]) == (200, b'{"scores":[]}')
        for name, points, place in [("Ada", 12, 1), ("Bob", 7, 2), ("%F0%9F%90%B1%22%5C%3Cb%3E", 30, 1)]:
            status, _, body = ask("POST", f"/board?name={name}&points={points}")
            assert (status, json.loads(body)) == (201, {"place": place})

        status, headers, body = ask("GET", "/board")
        assert (status, headers["content-type"]) == (200, "application/json")
        best = json.loads(body)["scores"]
        assert [(score["name"], score["points"]) for score in best] == [
            ('🐱"\\<b>', 30), ("Ada", 12), ("Bob", 7)
        ]  # fmt: skip
        assert all(abs(score["when"] - time.time()) < 3600 for score in best)

        page = ask("GET", "/")[2].decode()
        assert re.findall(r"<li>(.*?): (\d+)", page) == [
            ("🐱&quot;\\&lt;b&gt;", "30"), ("Ada", "12"), ("Bob", "7")
        ]  # fmt: skip

        status, headers, _ = ask("DELETE", "/board")
        assert (status, headers["allow"]) == (405, "GET, HEAD, POST")
        assert ask("HEAD", "/board")[::2] == (200, b"")


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("", "name: text expected"),
        ("name=&points=1", "name: text expected"),
        ("name=%FF&points=1", "name: text expected"),
        ("name=a%00b&points=1", "name: text expected"),
        ("name=a&name=b&points=1", "name: text expected"),
        ("name=a", "points: a number expected"),
        ("name=a&points=-1", "points: a number expected"),
        ("name=a&points=4294967296", "points: a number expected"),
        ("name=a&points=4294967295", "points: Ensure this value is less than or equal to 1000000."),
        (f"name={'x' * 41}&points=1", "name: Ensure this value has at most 40 characters (it has 41)."),
    ],
)
def test_scores_that_are_refused(scores_gateway: Ask, query: str, error: str) -> None:
    status, _, body = scores_gateway("POST", f"/board?{query}")

    assert (status, json.loads(body)) == (400, {"error": error})


@pytest.fixture(scope="module")
def scores_gateway(tmp_path_factory: pytest.TempPathFactory, state: Path) -> Iterator[Ask]:
    site = ScoresSite(tmp_path_factory.mktemp("scores"), state / "xdg")
    assert site.manage("migrate", "--verbosity=0").returncode == 0
    with site.served(*GUNICORN) as ask:
        yield ask


def test_scores_needs_its_line_in_the_manifest(scores: ScoresSite, tmp_path: Path) -> None:
    manifest = (SCORES / "spin.toml").read_text()
    line = 'host_interfaces = ["scores:site/board@1.0.0"]\n'
    assert line in manifest
    for folder in ("project", "scores", "guests"):
        (tmp_path / folder).symlink_to(SCORES / folder)
    (tmp_path / "spin.toml").write_text(manifest.replace(line, ""))
    (tmp_path / "unlent.py").write_text(
        "from pathlib import Path\nfrom project.settings import *\n"
        f"WASM_GATEWAY = WASM_GATEWAY | {{'MANIFEST': Path({str(tmp_path / 'spin.toml')!r})}}\n"
    )

    done = scores.manage(
        "check",
        "--deploy",
        DJANGO_SETTINGS_MODULE="unlent",
        PYTHONPATH=os.pathsep.join((str(tmp_path), str(SCORES))),
    )

    assert done.returncode == 1
    assert "wasm_gateway.E002" in done.stderr
    assert (
        "imports scores:site/board@1.0.0, which the site lends to components that name it: add it to "
        "`host_interfaces` in [component.board.tool.wasm-gateway]"
    ) in done.stderr


def test_scores_runs_nowhere_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wasm_gateway", "check", "-f", str(SCORES / "spin.toml")],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode != 0
    assert "scores:site/board@1.0.0" in done.stdout + done.stderr


# How the guests are built


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    made = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    "guest", ["tally", "score", "highscore", "reset", "redirect", "fileserver", "session"]
)
def test_the_sources_give_the_committed_guest(guest: str) -> None:
    build = module(GUESTS / "build.py")
    try:
        wasm = build.build(guest)
    except build.MissingTool as missing:
        pytest.skip(f"needs {missing}")

    assert wasm == (GUESTS / f"{guest}.wasm").read_bytes()


def test_the_source_gives_the_committed_guest_of_scores() -> None:
    build = module(SCORES / "guests" / "build.py")
    try:
        wasm = build.build()
    except build.MissingTool as missing:
        pytest.skip(f"needs {missing}")

    assert wasm == (SCORES / "guests" / "board.wasm").read_bytes()


@pytest.mark.parametrize("appended", [b"", b"x"])
def test_build_of_scores_checks(appended: bytes, tmp_path: Path) -> None:
    build = module(SCORES / "guests" / "build.py")
    try:
        build.build()
    except build.MissingTool as missing:
        pytest.skip(f"needs {missing}")
    for name in ("finicky_whiskers", "django_scores"):
        shutil.copytree(SCORES.parent / name / "guests", tmp_path / name / "guests")
    guests = tmp_path / "django_scores" / "guests"
    with (guests / "board.wasm").open("ab") as file:
        file.write(appended)

    done = subprocess.run([sys.executable, str(guests / "build.py"), "--check"], capture_output=True)

    assert done.returncode == bool(appended)


def test_no_guest_knows_where_it_was_built() -> None:
    guests = sorted(GUESTS.glob("*.wasm"))

    assert [guest.stem for guest in guests] == sorted(module(GUESTS / "build.py").GUESTS)
    for guest in [*guests, SCORES / "guests" / "board.wasm"]:
        wasm = guest.read_bytes()
        for folder in (str(ROOT), str(Path.home()), "/home/", "/tmp/", "/root/"):
            assert folder.encode() not in wasm
