# What a diagnosis gives.

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is, the worst first."""

    BROKEN = "broken"  # it does not run
    RISK = "risk"  # it runs, and will not do what somebody expects
    HINT = "hint"  # it runs; this could be better


# Who has to act.
YOU = "you"
AUTHOR = "the component's author"
OPERATOR = "the machine's operator"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing: `what` is the matter, `who` has to act, and what to do (`advice`).

    `component` is its id where one is concerned; `place` a dotted key of the manifest, or a file;
    `repairable` says that the repaired manifest has it no more.
    """

    level: Level
    what: str
    who: str
    advice: str
    component: str | None = None
    place: str | None = None
    repairable: bool = False

    def line(self) -> str:
        """The finding for people."""
        where = f"component {self.component}: " if self.component else f"{self.place}: " if self.place else ""
        mend = " (--fix does)" if self.repairable else ""
        return f"{where}{self.what}. For {self.who}: {self.advice}{mend}"
