# What keeps a folder that comes from Spin from running here, who has to act, and how.
#
# Rule 1: a diagnosis is a function that gives findings; the tables in manifests.py,
# guests.py and surroundings.py are all there is. None of them changes anything.
# Rule 2: a repair is a change of the manifest's text, made in memory. Whoever asks for the
# report sees it as a diff and writes it, or does not.
# Rule 3: diagnoses of guests look at the repaired text, so that one mistake does not hide
# the others.
#
# Spin: command line, 9 (whose repairs are all here; that of a Wasm file is advice).

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..own_files import replacing
from ..toml import Document
from . import guests, manifests, surroundings
from .drafts import Draft
from .findings import Finding, Level

__all__ = ["Finding", "Level", "Report", "examine", "repair"]

# Spin's own name for what its doctor leaves behind.
BACKUP = ".v1_backup"


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `text` is the manifest as it is, `repaired` as it could be (the same: no repair)."""

    path: Path
    version: int | None
    components: tuple[guests.Row, ...]
    findings: tuple[Finding, ...]
    text: str
    repaired: str

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; hints are not."""
        return all(finding.level is Level.HINT for finding in self.findings)

    def diff(self) -> str:
        """What a repair changes, in the unified format; empty for nothing."""
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in difflib.unified_diff(
                self.text.splitlines(keepends=True),
                self.repaired.splitlines(keepends=True),
                f"{self.path.name}",
                f"{self.path.name} (repaired)",
            )
        )

    def lines(self) -> Iterable[str]:
        """The report for people: a line for each component, and for each finding."""
        version = "" if self.version is None else f", manifest version {self.version}"
        yield f"{self.path}{version}"
        if any(finding.level is Level.BROKEN and finding.repairable for finding in self.findings):
            yield "What is said of components is true of the repaired manifest."
        for row in self.components:
            what = ", ".join(filter(None, [row.dialect, *row.routes]))
            yield f"{'runs' if row.runs else 'does not run':12}  component {row.id}: {what}".rstrip(": ")
        for finding in self.findings:
            yield f"{finding.level:12}  {finding.line()}"
        if not self.findings:
            yield "nothing is wrong"

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "path": str(self.path),
            "version": self.version,
            "ok": self.ok,
            "components": [asdict(row) for row in self.components],
            "findings": [asdict(finding) for finding in self.findings],
            "diff": self.diff(),
        }


def examine(path: Path, options: Mapping[str, Any] | None = None) -> Report:
    """Look at the manifest `path`, its guests, its site and this machine.

    `options` are fields of GatewayOptions, with which the guests are loaded (and compiled, once). Raises
    ManifestError only where the file cannot be read at all.
    """
    text, findings, draft = manifests.read(path)
    version = None if draft is None else draft.version
    repaired = text
    rows: list[guests.Row] = []
    if draft is not None:
        found, repaired, manifest = manifests.diagnose(draft, path)
        findings += found
        if manifest is not None:
            rows, found = guests.diagnose(manifest, options or {})
            findings += found
    findings += surroundings.diagnose(path.parent, options or {})
    order = list(Level)
    findings.sort(key=lambda finding: order.index(finding.level))
    return Report(path, version, tuple(rows), tuple(findings), text, repaired)


def repair(report: Report) -> Path | None:
    """Write the repaired manifest in place of the old one; keep one of version 1, and say where.

    Raises OSError; then the file is as it was. Nothing is written over a file that has changed since.
    """
    path = report.path.resolve()  # what a link leads to
    data = path.read_bytes()
    mark = b"\xef\xbb\xbf" if data.startswith(b"\xef\xbb\xbf") else b""
    if Document.read(path).text != report.text:
        raise OSError(f"{path} has been changed meanwhile")
    kept = None
    if report.version == 1 and Draft(report.repaired).version == 2:
        kept = path.with_name(path.name + BACKUP)
        number = 1
        while kept.exists():
            number += 1
            kept = path.with_name(f"{path.name}{BACKUP}{number}")
        kept.write_bytes(data)
    with replacing(path, path.stat().st_mode & 0o7777) as file:
        file.write(mark + report.repaired.encode())
    return kept
