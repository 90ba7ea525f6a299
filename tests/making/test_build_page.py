"""What a developer sees instead of a guest that could not be built."""

from __future__ import annotations

import pytest

from wasm_gateway.making import build_page
from wasm_gateway.making.build_report import BuildFailure
from wasm_gateway.messages import Headers, Request

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def request(method: str = "GET", **headers: str) -> Request:
    fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Request(method, "/", headers=Headers(fields))


@pytest.mark.parametrize(
    ("asked", "visit"),
    [
        (request(accept=BROWSER, sec_fetch_mode="navigate"), True),
        (request(accept=BROWSER), True),  # over HTTP from another machine
        (request("HEAD", accept="TEXT/HTML"), True),
        (request("POST", accept=BROWSER, sec_fetch_mode="navigate"), False),
        (request(accept=BROWSER, sec_fetch_mode="cors"), False),
        (request(accept=BROWSER, sec_fetch_mode="no-cors"), False),
        (request(accept="*/*"), False),  # curl
        (request(), False),
    ],
    ids=str,
)
def test_who_visits(asked: Request, visit: bool) -> None:
    assert build_page.is_visit(asked) is visit


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ("\x1b[1m\x1b[31merror[E1]\x1b[0m: x", "error[E1]: x"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "link"),
        ("a\tb\r\nc", "a\tb\nc"),
        ("</pre><script>alert(1)</script>", "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("{0} {title}", "{0} {title}"),
        ("\udcff", "?"),
    ],
)
def test_words_of_a_compiler(output: str, shown: str) -> None:
    failure = BuildFailure("a", "it failed", output)
    page = build_page.failed(failure, request(accept=BROWSER), good=True)
    assert f"it failed\n{shown}</pre>" in b"".join(page.body).decode()


def test_what_is_not_kept() -> None:
    for page in (
        build_page.failed(BuildFailure("a", "b"), request(), good=False),
        build_page.pending("a", "b", request()),
    ):
        assert page.headers.get("cache-control") == "no-store"
        assert b"".join(page.body).startswith(b"Component a ")
