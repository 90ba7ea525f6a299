"""What the pages of the reference and the explanations show is so. (test_code_blocks.py types the others.)"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report
from wasm_gateway.manifest import parse_manifest
from wasm_gateway.runtime_config import parse_runtime_config

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("reference/*.md")), *sorted(DOCS.glob("explanation/*.md")), DOCS / "security.md"]


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_are_what_they_say(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
    for block in blocks(page, "toml"):
        if page.stem == "runtime-config":
            parse_runtime_config(block, ROOT / "runtime-config.toml")
        else:
            whole = "spin_manifest_version = 2\napplication.name = 'x'\n[trigger]\n" + block
            parse_manifest(
                whole.replace(
                    "[component.tally.tool", "[component.tally]\nsource = 'a'\n[component.tally.tool"
                ),
                ROOT,
            )


def test_what_inspect_prints() -> None:
    [block] = blocks(DOCS / "explanation" / "isolation.md", "console")
    command, _, printed = block.removeprefix("$ wasm-gateway ").partition("\n")
    run = subprocess.run(
        [sys.executable, "-m", "wasm_gateway", *command.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert run.stdout == printed


def test_figures_in_words_are_those_that_were_measured() -> None:
    """Ratios in the text of the page about performance."""
    text = " ".join((DOCS / "explanation" / "performance.md").read_text(encoding="utf-8").split())
    table = report.table_of(json.loads(report.LAST.read_text())["components"]["tables"][1])
    ratios = {row[0]: row[table.columns.index("up : wasmtime")] for row in table.rows}
    uwsgi = {row[0]: row[table.columns.index("uWSGI : wasmtime")] for row in table.rows}
    assert None not in uwsgi.values(), "measured where uWSGI is not installed"
    scripts = {name for name in ratios if "qjs" in name}
    fresh = [ratio for name, ratio in ratios.items() if "reused" not in name and name not in scripts]
    reused = [ratio for name, ratio in ratios.items() if "reused" in name]
    [script] = [ratios[name] for name in scripts if "reused" not in name]
    fresh_there = [ratio for name, ratio in uwsgi.items() if "reused" not in name]
    reused_there = [ratio for name, ratio in uwsgi.items() if "reused" in name]
    assert f"{min(fresh):.1f} to {max(fresh):.1f} times the CPU" in text
    assert f"{script:.1f} times for one in JavaScript" in text
    assert f"it is {min(reused):.1f} to {max(reused):.1f} times" in text
    there = f"{min(fresh_there):.1f} to {max(fresh_there):.1f} times, and "
    assert f"it is {there}{min(reused_there):.1f} to {max(reused_there):.1f} times" in text
