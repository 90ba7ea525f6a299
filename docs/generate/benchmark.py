# What `python -m benchmarks --save` has kept: its tables, and bars drawn from them.
#
# A picture is an SVG within the page, whose text has the colour of the page's.

from __future__ import annotations

import html
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402

WIDTH, LABEL, VALUE, ROW, BAR = 860, 390, 50, 26, 16
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#9d755d", "#b279a2")
PHASES = ("store us", "guest us", "abi us", "host us", "drop us", "rest us")


def _measured(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report.LAST.read_text(encoding="utf-8"))[name]
    return found


def _table(name: str, index: str) -> report.Table:
    return report.table_of(_measured(name)["tables"][int(index)])


def machine(name: str) -> str:
    return report.measured(_measured(name))


def table(name: str, index: str = "0") -> str:
    return _table(name, index).text().partition("\n\n")[2] + "\n"


def phases(name: str, index: str = "0") -> str:
    """A bar for each guest, in which each phase of a request has its part."""
    found = _table(name, index)
    columns = [found.columns.index(phase) for phase in PHASES]
    # of several rows of a guest the last, with the headers of a browser
    bars = {str(row[0]): [float(row[column]) for column in columns] for row in found.rows}
    return _svg(found.title, [*bars.items()], [phase.removesuffix(" us") for phase in PHASES], stacked=True)


def pairs(name: str, index: str, *columns: str) -> str:
    """Bars of several columns for each row; in `columns` an underscore is a space."""
    found = _table(name, index)
    names = [column.replace("_", " ") for column in columns]
    places = [found.columns.index(each) for each in names]
    rows = [(str(row[0]), [float(row[place]) for place in places]) for row in found.rows]
    return _svg(found.title, rows, names, stacked=False)


def _svg(title: str, rows: list[tuple[str, list[float]]], legend: list[str], *, stacked: bool) -> str:
    size = max(sum(values) if stacked else max(values) for _, values in rows)
    scale = (WIDTH - LABEL - VALUE) / size
    height = ROW if stacked else BAR * len(legend) + 10
    parts = []
    for number, (label, values) in enumerate(rows):
        top, left = 34 + number * height, float(LABEL)
        middle = top + (BAR if stacked else BAR * len(values)) / 2 + 4
        parts.append(_text(LABEL - 8, middle, label, "end"))
        for index, value in enumerate(values):
            wide, colour = value * scale, COLOURS[index % len(COLOURS)]
            place = f'x="{left:.1f}" y="{top}" width="{wide:.1f}" height="{BAR - 2}"'
            tip = f"{label}, {legend[index]}: {report.cell_text(value)} us"
            parts.append(f'<rect {place} fill="{colour}"><title>{html.escape(tip)}</title></rect>')
            if stacked:
                left += wide
            else:
                parts.append(_text(left + wide + 5, top + BAR - 5, report.cell_text(value), "start"))
                top += BAR
        if stacked:
            parts.append(_text(left + 5, middle, report.cell_text(sum(values)), "start"))
    left = float(LABEL)
    for index, name in enumerate(legend):
        parts.append(
            f'<rect x="{left}" y="8" width="12" height="12" fill="{COLOURS[index % len(COLOURS)]}"/>'
        )
        parts.append(_text(left + 17, 18, name, "start"))
        left += 34 + 7 * len(name)
    box = f"0 0 {WIDTH} {34 + len(rows) * height}"
    style = "width:100%;height:auto;font-size:12px;font-family:inherit"
    head = f'<svg viewBox="{box}" role="img" aria-label="{html.escape(title)}" style="{style}">'
    return "\n".join(["```{raw} html", head, *parts, "</svg>", "```", ""])


def _text(x: float, y: float, text: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="currentColor">{html.escape(text)}</text>'
