# Tables, and the words for the machine that they were measured on.
#
# Rule 1: a number is never shown without its unit, which stands in the column's name.
# Rule 2: nothing here says where or by whom it was measured: no path, no host name.

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

Cell = str | float | int | None

# What was measured last, by name of the benchmark: for programs, which draw it, and for people.
LAST = Path(__file__).with_name("last.json")
LAST_TEXT = Path(__file__).with_name("LAST.md")

# Whose versions matter for the numbers.
PACKAGES = ("wasmtime", "django", "flask", "gunicorn", "granian", "uvicorn", "asgiref")


@dataclass(frozen=True, slots=True)
class Table:
    """What one benchmark found; `notes` are paragraphs, `skipped` says why there are no rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: str = ""
    skipped: str = ""

    def text(self) -> str:
        """As Markdown, with columns that line up without a renderer too."""
        lines = [f"### {self.title}", ""]
        if self.skipped:
            return "\n".join([*lines, f"Skipped: {self.skipped}."])
        cells = [self.columns, *[tuple(map(cell_text, row)) for row in self.rows]]
        widths = [max(len(line[index]) for line in cells) for index in range(len(self.columns))]
        left = [isinstance(cell, str) for cell in self.rows[0]] if self.rows else [True] * len(widths)
        rule = tuple(
            "-" * width if is_left else "-" * (width - 1) + ":"
            for width, is_left in zip(widths, left, strict=True)
        )
        for line in [cells[0], rule, *cells[1:]]:
            padded = (
                c.ljust(w) if is_left else c.rjust(w)
                for c, w, is_left in zip(line, widths, left, strict=True)
            )
            lines.append(f"| {' | '.join(padded)} |")
        lines.append("")
        lines += [f"- {' '.join(note.split())}" for note in self.notes.split("\n\n") if note.strip()]
        return "\n".join(lines).rstrip()


def cell_text(value: Cell) -> str:
    """Three digits or so; the spread of these numbers is larger."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def machine() -> str:
    """The kind of machine, in words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    architecture = platform.machine().replace("x86_64", "x86-64").replace("AMD64", "x86-64")
    python = f"{platform.python_implementation()} {platform.python_version()}".replace("CPython", "Python")
    return f"{cores} cores, {architecture}, {platform.system()}, {python}"


def versions() -> dict[str, str]:
    """The versions of PACKAGES that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def document(tables: dict[str, list[Table]], *, quick: bool) -> dict[str, Any]:
    """All of it, for `--json`; `tables` by name of the benchmark."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "quick": quick,
        "benchmarks": {name: [asdict(table) for table in found] for name, found in tables.items()},
    }


def save(tables: Mapping[str, list[Table]], note: str = "", path: Path = LAST) -> None:
    """Put `tables` among what was measured last, and write the text anew; the other benchmarks stay."""
    last = json.loads(path.read_text()) if path.exists() else {}
    for name, found in tables.items():
        last[name] = {
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "note": note,
            "versions": versions(),
            "tables": [asdict(table) for table in found],
        }
    path.write_text(json.dumps(last, indent=1) + "\n")
    path.with_name(LAST_TEXT.name).write_text(last_text(last))


def last_text(last: Mapping[str, Any]) -> str:
    """What `save` has kept, as Markdown."""
    parts = ["# Last measured\n\n`python -m benchmarks --save` writes this page and `last.json`.\n"]
    for name, found in last.items():
        parts += [f"## {name}\n", measured(found) + "\n"]
        parts += [table_of(each).text() + "\n" for each in found["tables"]]
    return "\n".join(parts)


def measured(found: Mapping[str, Any]) -> str:
    """When and on what a benchmark was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{found['date']}. {found['machine']}; {versions}. {found['note']}".rstrip()


def table_of(found: Mapping[str, Any]) -> Table:
    """A table from what `save` has kept of it."""
    return Table(
        found["title"],
        tuple(found["columns"]),
        tuple(map(tuple, found["rows"])),
        found["notes"],
        found["skipped"],
    )
