# A page of docs/ -> what its reader does: files to write, commands to type, Python to run.
#
# Rule 1: Sybil cuts the page; what a block means is in the page itself. A caption is the path of a file:
#   `mysite/urls.py` is written, `mysite/settings.py, at its end` grows, `spin.toml, below [component.votes]`
#   gets lines there. Without a caption, `console` is a terminal, `python` a program, `toml` a part of a
#   spin.toml, and whatever else is there to be read.
# Rule 2: remarks, which readers do not see, stand in front of the block that they are about: `% not-run:
#   REASON` (it is only checked), `% exit: 1` (its commands fail); or by themselves: `% needs: nginx` (without
#   it the page is skipped), `% setup: COMMAND` (typed here), `% stop: 8000` (the server at that port), `%
#   include: PAGE FILE` (the block of another page).
# Rule 3: no fence is overlooked: each is a block, or a directive of the page's own.

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sybil import Document, Region
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer
from sybil.parsers.myst.lexers import DirectiveLexer
from sybil.typing import Lexer, Parser

DOCS = Path(__file__).parents[2] / "docs"

REMARKS = ("not-run", "exit", "needs", "setup", "stop", "include")
PROSE = frozenset(
    {"note", "tip", "warning", "important", "seealso", "toctree", "image", "figure", "generated"}
)

_CODE = DirectiveLexer("code-block")
_OTHER = DirectiveLexer("(?!code-block)[a-z-]+")
_PLAIN = RawFencedCodeBlockLexer(re.compile(r"(?P<arguments>[a-z+-]*)$\n", re.MULTILINE))
_REMARK = re.compile(rf"^% (?P<directive>{'|'.join(REMARKS)}): (?P<arguments>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Remark:
    line: int
    name: str
    text: str


@dataclass(frozen=True)
class Block:
    """A code block; `place` is "", "end" or the line below which it goes into the file `path`."""

    line: int
    language: str
    text: str
    path: str = ""
    place: str = ""
    not_run: str = ""
    exit: int = 0

    def commands(self) -> Iterator[tuple[str, str]]:
        """Commands of a `console`, and what is printed below each."""
        for chunk in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            head = re.match(r"(?:.*\\\n)*.*\n?", chunk)
            assert head is not None
            yield head[0].strip(), chunk[head.end() :]


@dataclass
class Page:
    path: Path
    steps: list[Block | Remark] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.relative_to(DOCS).with_suffix("").as_posix()

    def needs(self) -> list[str]:
        return [
            word
            for step in self.steps
            if isinstance(step, Remark) and step.name == "needs"
            for word in step.text.split()
        ]

    def before(self, heading: str) -> Page:
        """The page up to that heading."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        end = lines.index(heading) + 1
        return Page(self.path, [step for step in self.steps if step.line < end])

    def file(self, path: str) -> Block:
        """The first block that is the file `path`."""
        return next(step for step in self.steps if isinstance(step, Block) and step.path == path)


def _cut(lexer: Lexer) -> Parser:
    def parse(document: Document) -> Iterator[Region]:
        for region in lexer(document):
            region.parsed = dict(region.lexemes)
            region.evaluator = print  # Sybil wants one; the typist does it
            yield region

    return parse


def _remarks(document: Document) -> Iterator[Region]:
    """One a line, while Sybil has lines of comments together."""
    for match in _REMARK.finditer(document.text):
        yield Region(match.start(), match.end(), match.groupdict(), print)


def read(path: Path) -> Page:
    """The page's steps, in order; AssertionError where a block is not as it should be."""
    page = Page(path)
    document = Document.parse(str(path), *map(_cut, (_CODE, _OTHER, _PLAIN)), _remarks)
    waiting: dict[str, str] = {}
    fences = 0
    for example in document.examples():
        got, line = example.parsed, example.line
        where = f"{path}:{line}"
        name = got.get("directive")
        if name in REMARKS:
            if name in ("not-run", "exit"):
                waiting[name] = got["arguments"].strip()
            else:
                page.steps.append(Remark(line, name, got["arguments"].strip()))
            continue
        fences += 1
        if name not in (None, "code-block"):
            assert name in PROSE, f"{where}: a directive {name}"
            continue
        caption = (got.get("options") or {}).get("caption", "")
        file, _, place = caption.replace("`", "").partition(", ")
        assert re.fullmatch(r"(at its end|below .+)?", place), f"{where}: {place!r}"
        page.steps.append(
            Block(
                line,
                got["arguments"],
                str(got["source"]).lstrip("\n"),
                file,
                "end" if place == "at its end" else place.removeprefix("below "),
                waiting.pop("not-run", ""),
                int(waiting.pop("exit", "0")),
            )
        )
    assert not waiting, f"{path}: a remark without a block: {waiting}"
    lines = re.findall(r"^ *```", document.text, re.MULTILINE)
    assert len(lines) == 2 * fences, f"{path}: {len(lines)} fences, {fences} blocks"
    return page


def pages() -> list[Path]:
    return sorted([*DOCS.glob("tutorials/*.md"), *DOCS.glob("how-to/**/*.md")])
