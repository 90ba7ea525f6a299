# A route is measured: what comes out adds up and is the route's. No time is compared with any.

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from wasm_gateway.bench import BINS, histogram
from wasm_gateway.bench import Result as Measured
from wasm_gateway.cli import cli
from wasm_gateway.engine import wat2wasm
from wasm_gateway.stopwatch import PHASES

# Answers with what it was asked: the method, and the body as it came.
ECHO = b"""(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "content-type: text/plain\\n\\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 26))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
    (i32.store (i32.const 0) (i32.const 256)) (i32.store (i32.const 4) (i32.const 256))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
    (i32.store (i32.const 4) (i32.load (i32.const 16)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"""
MANIFEST = """
spin_manifest_version = 2
[application]
name = "x"
[[trigger.http]]
route = "/echo/..."
component = "echo"
executor = { type = "wagi" }
[[trigger.http]]
route = "/fixed"
static_response = { body = "fixed" }
[component.echo]
source = "echo.wasm"
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "echo.wasm").write_bytes(wat2wasm(ECHO))
    (tmp_path / "spin.toml").write_text(MANIFEST)
    return tmp_path


def bench(app: Path, *arguments: str) -> Result:
    options = ["-f", str(app), "--cache-dir", str(app / "cache")]
    result = CliRunner().invoke(cli, ["bench", *arguments, *options], prog_name="wasm-gateway")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_for_programs(app: Path) -> None:
    found = json.loads(bench(app, "/echo/x?y=z", "-n", "30", "--body", "hello", "--format", "json").stdout)
    assert (found["route"], found["component"], found["requests"]) == ("/echo/...", "echo", 30)
    assert (found["statuses"], found["body_bytes"]) == ({"200": 30}, len("hello"))
    assert found["host_calls"] == 3
    assert list(found["phases_us"]) == list(PHASES)
    assert all(found["phases_us"][phase] > 0 for phase in ("store", "guest", "host"))
    us = found["us"]
    assert 0 < us["min"] <= us["p50"] <= us["p95"] <= us["p99"] <= us["max"]
    assert sum(each["count"] for each in found["histogram"]) == 30
    assert not (app / ".spin").exists()


def test_for_people(app: Path) -> None:
    result = bench(app, "/echo/x", "-n", "20", "--method", "put", "--header", "X-A: b")
    first, answers, latency, *rest = result.stdout.splitlines()
    assert first == "/echo/...: component echo, 20 requests one after the other"
    assert answers == "  answers   20 x 200; 0 bytes of body"
    assert "p50" in latency
    assert "p99" in latency
    assert any(line.startswith("  host calls (3) ") for line in rest)


def test_a_static_response(app: Path) -> None:
    result = bench(app, "/fixed", "-n", "3")
    assert result.stdout.startswith("/fixed: static response, 3 requests")
    assert "5 bytes" in result.stdout


def test_a_body_from_a_file(app: Path) -> None:
    (app / "body").write_bytes(b"four")
    result = bench(app, "/echo", "-n", "2", "--body", f"@{app / 'body'}", "--format", "json")
    assert json.loads(result.stdout)["body_bytes"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["/nothing"], 1, "no route answers /nothing"),
        (["echo"], 2, "begins with /"),
        (["/echo", "--header", "x"], 2, "name: value"),
        (["/echo", "-n", "0"], 2, "-n"),
    ],
)
def test_wrong_usage(app: Path, arguments: list[str], code: int, text: str) -> None:
    result = bench(app, *arguments)
    assert (result.exit_code, text in result.stderr) == (code, True)


@given(st.lists(st.floats(min_value=0.5, max_value=1e7), min_size=1, max_size=300))
def test_every_sample_is_in_the_histogram(times: list[float]) -> None:
    times.sort()
    bins = histogram(times)
    assert sum(each.count for each in bins) == len(times)
    assert len(bins) <= BINS + 1
    assert bins[0].low == times[0]
    assert all(each.low <= each.high for each in bins)


def test_a_few_slow_ones_do_not_hide_the_others() -> None:
    most = [80 + n / 10 for n in range(950)]
    bins = histogram([*most, *(5000.0 + n for n in range(50))])
    assert sum(each.count > 0 for each in bins) > 2
    assert bins[0].count < len(most)
    widths = [each.high / each.low for each in bins[:BINS]]
    assert max(widths) - min(widths) < 1e-9


@pytest.mark.parametrize(("percent", "expected"), [(50, 5.0), (95, 10.0), (10, 1.0), (11, 2.0), (100, 10.0)])
def test_percentiles(percent: float, expected: float) -> None:
    samples = tuple(float(n) for n in range(1, 11))
    assert Measured("/", None, {}, 0, 0.0, samples, {}, 0).percentile(percent) == expected
