"""Who answers: modes, switches of testers, people, and shares that hold and stick."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest

from wasm_gateway.policy import (
    NOBODY,
    BadValue,
    Choice,
    Failure,
    Mode,
    Rule,
    Switch,
    Visitor,
    choose,
    share,
)


class Asked:
    """Facts of a request that a test makes up."""

    def __init__(
        self,
        visitor: Visitor = NOBODY,
        cookie: str | None = None,
        query: Any = None,
        method: str = "GET",
        **headers: str,
    ) -> None:
        self.method = method
        self._visitor = visitor
        self._cookie = cookie
        self._query = query or {}
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def header(self, name: str) -> str | None:
        return self._headers.get(name)

    def query(self, name: str) -> str | None:
        value: str | None = self._query.get(name)
        return value

    def cookie(self, name: str) -> str | None:
        assert name == "wasm_gateway"
        return self._cookie

    def visitor(self) -> Visitor:
        return self._visitor


def rule(**values: object) -> Rule:
    return Rule().updated(values)


def ask(r: Rule, facts: Asked | None = None, name: str = "tally") -> Choice:
    return choose(r, name, facts or Asked())


TESTER = Asked(x_wasm="1", query={"wasm": ""})
STAFF = Asked(Visitor("7", frozenset({"editors"}), staff=True))


@pytest.mark.parametrize(
    ("values", "facts", "guest", "reason"),
    [
        ({}, Asked(), True, "wasm"),
        ({"mode": "native"}, Asked(), False, "native"),
        ({"mode": "native", "opt_in": "header:x-wasm", "staff": True}, TESTER, False, "native"),
        ({"methods": "get"}, Asked(), True, "wasm"),
        ({"methods": ["GET"]}, Asked(method="HEAD"), True, "wasm"),
        ({"methods": ["GET", "PUT"]}, Asked(method="PUT"), True, "wasm"),
        ({"methods": ["GET", "PUT"]}, Asked(method="POST"), False, "method"),
        ({"methods": ["POST"], "mode": "canary", "opt_in": "header:x-wasm"}, TESTER, False, "method"),
        ({"methods": ["POST"], "mode": "canary", "staff": True}, STAFF, False, "method"),
        ({"methods": ["POST"], "mode": "shadow"}, Asked(), False, "method"),
        ({"methods": ["POST"], "mode": "native"}, Asked(), False, "native"),
        ({"methods": []}, Asked(method="POST"), True, "wasm"),
        ({"opt_out": "header:x-wasm"}, TESTER, False, "opt-out"),
        ({"opt_out": "header:x-wasm=2"}, TESTER, True, "wasm"),
        ({"opt_out": ["header:x-no", "query:wasm"]}, TESTER, False, "opt-out"),
        ({"mode": "canary", "percent": 0, "opt_in": "query:wasm"}, TESTER, True, "opt-in"),
        ({"mode": "canary", "percent": 0, "opt_in": "header:X-Wasm=1"}, TESTER, True, "opt-in"),
        ({"mode": "canary", "opt_in": "query:wasm", "opt_out": "query:wasm"}, TESTER, False, "opt-out"),
        ({"mode": "shadow", "opt_in": "query:wasm"}, TESTER, True, "opt-in"),
        ({"mode": "canary", "percent": 0, "staff": True}, STAFF, True, "visitor"),
        ({"mode": "canary", "percent": 0, "groups": ["editors", "x"]}, STAFF, True, "visitor"),
        ({"mode": "canary", "percent": 0, "groups": ["x"]}, STAFF, False, "canary"),
        ({"mode": "canary", "percent": 0, "staff": True}, Asked(), False, "canary"),
        ({"mode": "canary", "percent": 100}, Asked(), True, "canary"),
        ({"mode": "canary", "percent": 100, "sticky": "header:x-id"}, Asked(), False, "no header"),
        ({"mode": "canary", "percent": 100, "sticky": "header:x-id"}, Asked(x_id="a"), True, "canary"),
    ],
)  # fmt: skip
def test_choices(values: dict[str, object], facts: Asked, guest: bool, reason: str) -> None:
    choice = ask(rule(**values), facts)
    assert (choice.guest, choice.reason, choice.shadow) == (guest, reason, False)


def test_a_shadow_answers_beside_the_site() -> None:
    assert ask(rule(mode="shadow")) == Choice(False, "shadow", shadow=True)
    assert ask(rule(mode="shadow", percent=0)) == Choice(False, "shadow", shadow=False)
    taken = sum(ask(rule(mode="shadow", percent=20)).shadow for _ in range(5000))
    assert abs(taken - 1000) < 6 * math.sqrt(5000 * 0.2 * 0.8)


def test_a_visitor_stays_where_he_is() -> None:
    canary = rule(mode="canary", percent=30)
    for _ in range(50):
        first = ask(canary)
        assert first.cookie is not None
        for _ in range(3):
            again = ask(canary, Asked(cookie=first.cookie))
            assert (again.guest, again.cookie) == (first.guest, None)


def test_nobody_is_marked_where_all_or_none_are_taken() -> None:
    for percent, guest in ((0, False), (100, True)):
        for sticky in ("cookie", "user", "none"):
            choice = ask(rule(mode="canary", percent=percent, sticky=sticky))
            assert (choice.guest, choice.cookie) == (guest, None)


@pytest.mark.parametrize("cookie", ["", "x", "0" * 15, "0" * 17, "G" * 16, "0" * 16 + "\n"])
def test_a_cookie_that_is_not_ours_is_replaced(cookie: str) -> None:
    assert ask(rule(mode="canary", percent=30), Asked(cookie=cookie)).cookie not in (None, cookie)


@pytest.mark.parametrize("sticky", ["cookie", "none", "user", "header:x-id"])
def test_the_share_holds(sticky: str) -> None:
    canary = rule(mode="canary", percent=10, sticky=sticky)
    asked = (Asked(Visitor(str(i)), x_id=str(i)) for i in range(10_000))
    taken = sum(ask(canary, facts).guest for facts in asked)
    assert abs(taken - 1000) < 6 * math.sqrt(10_000 * 0.1 * 0.9)


def test_a_share_that_grows_keeps_those_it_had() -> None:
    visitors = [Asked(Visitor(str(i))) for i in range(1000)]
    before: set[int] = set()
    for percent in (0, 1, 10, 50, 99, 100):
        canary = rule(mode="canary", percent=percent, sticky="user")
        taken = {i for i, facts in enumerate(visitors) if ask(canary, facts).guest}
        assert before <= taken
        before = taken
    assert len(before) == 1000


def test_a_user_is_known_by_his_id_and_others_by_cookie() -> None:
    canary = rule(mode="canary", percent=50, sticky="user")
    assert ask(canary, Asked(Visitor("7"))).cookie is None
    assert ask(canary, Asked()).cookie is not None


def test_components_take_different_visitors() -> None:
    keys = [str(i) for i in range(2000)]
    both = sum(share("a", key) < 0.5 and share("b", key) < 0.5 for key in keys)
    assert abs(both - 500) < 6 * math.sqrt(2000 * 0.25 * 0.75)


def test_every_process_chooses_alike() -> None:
    code = "from wasm_gateway.policy import share; print(repr(share('a', 'user 7')))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert float(shown) == share("a", "user 7")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"mode": "sometimes"}, "'sometimes' is no mode"),
        ({"methods": "GET POST"}, "'GET POST' is not a method"),
        ({"methods": [1]}, "1 is not a method"),
        ({"percent": 101}, "from 0 to 100"),
        ({"percent": True}, "from 0 to 100"),
        ({"percent": "5"}, "from 0 to 100"),
        ({"percent": math.nan}, "from 0 to 100"),
        ({"sticky": "ip"}, "none of cookie"),
        ({"sticky": "header:"}, "none of cookie"),
        ({"opt_in": "x-wasm"}, "neither header:NAME"),
        ({"opt_in": {"header": "x"}}, "is not a list"),
        ({"opt_out": ["header:a b"]}, "neither header:NAME"),
        ({"staff": "yes"}, "not a boolean"),
        ({"groups": [""]}, "name of a group"),
        ({"fallback": ["crash"]}, "'crash' is no failure"),
        ({"colour": "red"}, "unknown field `colour`"),
    ],
)
def test_values_that_cannot_be(values: dict[str, object], text: str) -> None:
    with pytest.raises(BadValue, match=text) as caught:
        Rule().updated(values)
    assert caught.value.key == next(iter(values))


def test_fields_as_they_stand_in_a_manifest() -> None:
    got = rule(
        mode="canary", percent=5, groups="testers", opt_in=["query:w=1"], fallback=["trap", "deadline"]
    )
    assert got == Rule(
        Mode.CANARY,
        5.0,
        groups=frozenset({"testers"}),
        opt_in=(Switch("query", "w", "1"),),
        fallback=frozenset({Failure.TRAP, Failure.DEADLINE}),
    )
    assert rule(fallback=True).fallback == frozenset(Failure)
    assert rule().plain
    assert not rule(fallback=True).plain
    assert not rule(methods="GET").plain
