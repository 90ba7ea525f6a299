"""What people read: counts of all processes, times side by side, mismatches as diffs."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from wasm_gateway.cli import cli
from wasm_gateway.migration.counters import (
    BOUNDS,
    CANARY_NATIVE,
    DIFFERENT,
    EQUAL,
    GUEST,
    NATIVE,
    UNCOMPARED,
    Counters,
    End,
    Unseen,
    end_of,
    ended,
    number,
    quantile,
    uncompared,
)
from wasm_gateway.migration.ledger import Change, Mismatch, SqliteLedger
from wasm_gateway.migration.report import duration, mismatch_lines, printable, read, text

# Counters


def test_what_is_taken_is_taken_once() -> None:
    counters = Counters()
    assert counters.take() == {}
    counters.add("a", "x")
    counters.add("a", "x", 2)
    counters.add("b", "y")
    assert counters.take() == {"a": {"x": 3}, "b": {"y": 1}}
    assert counters.take() == {}
    counters.add("a", "x")
    counters.give_back({"a": {"x": 3}, "b": {"y": 1}})
    assert counters.take() == {"a": {"x": 4}, "b": {"y": 1}}
    assert counters.all() == {"a": {"x": 4}, "b": {"y": 1}}


def test_quantiles() -> None:
    """Within one class of times of what sorting gives."""
    chance = random.Random(5)
    times = [chance.lognormvariate(-6, 1) for _ in range(5000)]
    counters = Counters()
    for seconds in times:
        counters.took("a", NATIVE, seconds)
    counts = counters.take()["a"]
    assert number(counts, NATIVE) == 5000
    times.sort()
    for share in (0.05, 0.5, 0.95):
        found = quantile(counts, NATIVE, share)
        assert found is not None
        assert 2**-0.5 < found / times[int(share * 5000)] < 2**0.5
    assert number(counts, GUEST) == 0
    assert quantile(counts, GUEST, 0.5) is None


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-4, 1e-3, 70.0, 1e6])
def test_any_time_has_a_class(seconds: float) -> None:
    counters = Counters()
    counters.took("a", GUEST, seconds)
    found = quantile(counters.take()["a"], GUEST, 0.5)
    assert found is not None
    assert 0 < found <= BOUNDS[-1]


@pytest.mark.parametrize(
    ("status", "end"),
    [(200, "2xx"), (299, "2xx"), (304, "3xx"), (404, "4xx"), (504, "5xx"), (0, "failed"), (20, "failed")],
)
def test_ends(status: int, end: str) -> None:
    assert end_of(status) == end


# Reports


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(tmp_path / "ledger.db")
    counters = Counters()
    unseen = [(UNCOMPARED, 2), (uncompared(Unseen.LONG), 1), (uncompared(Unseen.FILE), 1)]
    for name, times in (("shadow", 7), (EQUAL, 4), (DIFFERENT, 2), ("wasm", 1), ("fallback", 1), *unseen):
        counters.add("tally", name, times)
    for _ in range(6):
        counters.took("tally", NATIVE, 0.010)
        counters.took("tally", GUEST, 0.001)
    for end, times in ((End.OK, 195), (End.ERROR, 4), (End.FAILED, 1)):
        counters.add("tally", ended(CANARY_NATIVE, end), times)
    counters.took("tally", CANARY_NATIVE, 0.5)
    counters.add("tally", "canary", 200)
    ledger.add(counters.take())
    ledger.turn(Change("tally", {"mode": "shadow"}, "me"))
    ledger.turn(Change("/tally/new", {"mode": "wasm"}, "me"))
    ledger.turn(Change("gone", {"mode": "wasm"}, "me"))
    for at in (1.0, 2.0):
        ledger.record(
            Mismatch(
                "tally",
                "/tally/...",
                "GET",
                "/tally/1",
                ('/name: "Ada", guest "Bob"',),
                {"status": 200, "body": '{\n "id": 1,\n "name": "Ada"\n}'},
                {"status": 200, "body": '{\n "id": 1,\n "name": "Bob\x1b[31m"\n}'},
                0.0101,
                0.0012,
                at,
            )
        )
    yield ledger
    ledger.close()


def test_what_is_read(ledger: SqliteLedger) -> None:
    report = read(ledger, ["other", "tally"], limit=1)
    other, tally = report.components
    assert (other.component, other.since, other.requests, other.native.p50) == ("other", None, 0, None)
    assert tally.reasons == {"canary": 200, "shadow": 7, "wasm": 1}
    assert (tally.requests, tally.fallbacks) == (208, 1)
    native, guest = tally.canary["native"], tally.canary["guest"]
    assert native.ends == {"2xx": 195, "3xx": 0, "4xx": 0, "5xx": 4, "failed": 1}
    assert (native.answers, native.errors, native.latency.number) == (200, 0.025, 1)
    assert (guest.answers, guest.errors, guest.latency.p50) == (0, None, None)
    assert other.canary == {}
    assert tally.shadow == {"equal": 4, "different": 2, "failed": 0, "dropped": 0, "uncompared": 2}
    assert tally.uncompared == {"answer too long": 1, "file": 1}
    assert tally.native.number == tally.guest.number == 6
    assert tally.native.p50 is not None
    assert tally.guest.p95 is not None
    assert tally.native.p50 > 3 * tally.guest.p95
    assert tally.since is not None
    assert tally.dial == {"mode": "shadow"}
    assert report.routes == {"/tally/new": {"mode": "wasm"}}
    assert [mismatch.at for mismatch in report.mismatches] == [2.0]


def test_as_text(ledger: SqliteLedger) -> None:
    lines = text(read(ledger, ["tally"])).splitlines()
    head, row = lines[0].split(), lines[1].split()
    assert head[:3] == ["component", "requests", "fallbacks"]
    assert head[3:8] == ["equal", "different", "failed", "dropped", "uncompared"]
    assert row[:8] == ["tally", "208", "1", "4", "2", "0", "0", "2"]
    head, *rows = (line.split() for line in lines[3:6])
    assert head == ["canary", "side", "answers", "errors", "2xx", "3xx", "4xx", "5xx", "failed", "p50", "p95"]
    assert rows[0][:9] == ["tally", "native", "200", "2.50%", "195", "0", "0", "4", "1"]
    assert rows[1] == ["tally", "guest", "0", "-", *"00000", "-", "-"]
    assert "tally uncompared: answer too long 1, file 1" in lines
    assert "tally is turned to mode = shadow" in lines
    assert "/tally/new is turned to mode = wasm" in lines
    assert any(line.endswith("GET /tally/1: native 10.1 ms, guest 1.2 ms") for line in lines)
    assert '  - "name": "Ada"' in lines
    assert '  + "name": "Bob\\x1b[31m"' in lines
    assert not any(c for c in "".join(lines) if not c.isprintable())


def test_nothing_to_tell(ledger: SqliteLedger) -> None:
    assert text(read(ledger, ["other"])).splitlines()[-1] == "No mismatches."


def test_bodies_that_are_missing() -> None:
    mismatch = Mismatch("a", "/a", "GET", "/a", ("guest failed: Trap",), {"body": "x"}, {}, 1.0, 0.0)
    assert [line.strip() for line in mismatch_lines(mismatch)][1:] == ["guest failed: Trap"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "-"), (0.00012, "0.12 ms"), (0.5, "500 ms"), (2.345, "2.35 s"), (0.0, "0 ms")],
)
def test_durations(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_lines_are_printable() -> None:
    assert printable("a\tb\r\x1b[2J\u202e\x85é") == "a  b\\r\\x1b[2J\\u202e\\x85é"
    assert len(printable("x" * 10_000)) < 400


# The command

MANIFEST = """spin_manifest_version = 2
[application]
name = "x"
[[trigger.http]]
route = "/tally/..."
component = "tally"
[component.tally]
source = "tally.wasm"
"""


def test_the_command(ledger: SqliteLedger, tmp_path: Path) -> None:
    (tmp_path / "spin.toml").write_text(MANIFEST)
    options = ["report", "-f", str(tmp_path), "--ledger", str(tmp_path / "ledger.db")]
    done = CliRunner().invoke(cli, options)
    assert done.exit_code == 0, done.output
    assert "GET /tally/1" in done.output
    done = CliRunner().invoke(cli, [*options, "--format", "json", "--limit", "1", "--forget"])
    found = json.loads(done.output)
    assert found["components"][0]["shadow"]["equal"] == 4
    assert found["components"][0]["canary"]["native"]["ends"]["2xx"] == 195
    assert [mismatch["target"] for mismatch in found["mismatches"]] == ["/tally/1"]
    assert ledger.counters() == {}
    assert ledger.mismatches() == []


def test_a_ledger_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "spin.toml").write_text(MANIFEST)
    done = CliRunner().invoke(cli, ["report", "-f", str(tmp_path), "--ledger", str(tmp_path / "no.db")])
    assert done.exit_code == 1
    assert "there is no ledger" in done.output
    assert not (tmp_path / "no.db").exists()
