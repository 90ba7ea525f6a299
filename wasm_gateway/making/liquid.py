# Liquid, as far as templates of Spin use it (Spin: command line, 8).
#
# Rule 1: output `{{ name | filter: argument }}`, the tags if/elsif/else/endif, unless, case/when, comment
# and raw, and `-` beside a brace, which takes blanks away. Anything else is a TemplateError that names it:
# what is not understood is never copied into somebody's program.
# Rule 2: every name is looked up in the values given, and has to be there.

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from ..errors import TemplateError

Values = Mapping[str, str]

_TOKEN = re.compile(r"\{\{-?(?P<output>.*?)-?\}\}|\{%-?(?P<tag>.*?)-?%\}", re.DOTALL)
_ATOM = re.compile(r"""\s*("[^"]*"|'[^']*'|==|!=|[|:,]|-?\d+(?:\.\d+)?(?![\w-])|[A-Za-z_][\w-]*)""")


def words(text: str) -> list[str]:
    """The words of a name in any case: "my-HTTPServer" has "my", "HTTP" and "Server"."""
    parts = []
    for run in re.split(r"[\W_]+", text):
        # a capital begins a word behind a small letter, or as the last of several before a small one
        parts += re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", run).split()
    return parts


def kebab_case(text: str) -> str:
    return "-".join(word.lower() for word in words(text))


def snake_case(text: str) -> str:
    return "_".join(word.lower() for word in words(text))


def pascal_case(text: str) -> str:
    return "".join(word.capitalize() for word in words(text))


def dotted_pascal_case(text: str) -> str:
    return ".".join(pascal_case(part) for part in text.split("."))


def http_wildcard(text: str) -> str:
    """The route that also matches everything below `text`."""
    return text if text.endswith("/...") else text.rstrip("/") + "/..."


FILTERS: dict[str, Callable[..., str]] = {
    "kebab_case": kebab_case,
    "snake_case": snake_case,
    "pascal_case": pascal_case,
    "dotted_pascal_case": dotted_pascal_case,
    "http_wildcard": http_wildcard,
    "upcase": str.upper,
    "downcase": str.lower,
    "capitalize": lambda text: text[:1].upper() + text[1:],
    "strip": str.strip,
    "append": lambda text, more: text + more,
    "prepend": lambda text, more: more + text,
    "replace": lambda text, old, new: text.replace(old, new),
    "remove": lambda text, old: text.replace(old, ""),
    "default": lambda text, other: text or other,
}


def render(text: str, values: Values) -> str:
    """`text` with its outputs and tags carried out; TemplateError says in which line one is wrong."""
    return _Renderer(text, values).run()


@dataclass
class _Block:
    """An open if, unless or case: whether its present branch is written, and whether one was."""

    tag: str
    writes: bool
    taken: bool
    outer: bool  # whether what stands around it is written
    subject: str = ""  # of a case


class _Renderer:
    def __init__(self, text: str, values: Values) -> None:
        self.text = text
        self.values = values
        self.out: list[str] = []
        self.blocks: list[_Block] = []
        self.line = 1

    def error(self, message: str) -> TemplateError:
        return TemplateError(f"line {self.line}: {message}")

    @property
    def writes(self) -> bool:
        return not self.blocks or self.blocks[-1].writes

    def run(self) -> str:
        pos, trim, until = 0, False, ""
        for token in self.tokens():
            before = self.text[pos : token.start()]
            self.line = self.text.count("\n", 0, token.start()) + 1
            tag = (token["tag"] or "").strip()
            if until:  # within raw or comment, where only its end counts
                if tag != until:
                    continue
                if until == "endraw" and self.writes:
                    self.out.append(before)
                until = ""
            else:
                before = before.lstrip() if trim else before
                before = before.rstrip() if token[0][2] == "-" else before
                if self.writes:
                    self.out.append(before)
                if tag in ("raw", "comment"):
                    until = f"end{tag}"
                elif token["tag"] is not None:
                    self.tag(tag)
                elif self.writes:
                    self.out.append(self.output(token["output"]))
            pos, trim = token.end(), token[0][-3] == "-"
        if until or self.blocks:
            raise self.error(f"`{until or 'end' + self.blocks[-1].tag}` is missing")
        rest = self.text[pos:]
        return "".join([*self.out, rest.lstrip() if trim else rest])

    def tokens(self) -> Iterator[re.Match[str]]:
        return _TOKEN.finditer(self.text)

    def tag(self, tag: str) -> None:
        name, _, rest = tag.partition(" ")
        block = self.blocks[-1] if self.blocks else None
        match name:
            case "if" | "unless":
                holds = self.writes and self.condition(rest) == (name == "if")
                self.blocks.append(_Block(name, holds, holds, self.writes))
            case "case":
                subject = self.output(rest) if self.writes else ""
                self.blocks.append(_Block("case", False, False, self.writes, subject))
            case "elsif" if block and block.tag == "if":
                self.branch(block, lambda: self.condition(rest))
            case "when" if block and block.tag == "case":
                choices = re.split(r"\s*,\s*|\s+or\s+", rest.strip())
                self.branch(block, lambda: block.subject in [self.output(choice) for choice in choices])
            case "else" if block:
                self.branch(block, lambda: True)
            case "endif" | "endunless" | "endcase" if block and name == f"end{block.tag}":
                self.blocks.pop()
            case _:
                raise self.error(f"the tag `{tag}` is not understood here")

    def branch(self, block: _Block, holds: Callable[[], bool]) -> None:
        block.writes = block.outer and not block.taken and holds()
        block.taken |= block.writes

    def condition(self, text: str) -> bool:
        """`a`, `a == b`, `a != b`, `a contains b`, joined by `and` and `or` from the right."""
        atoms = self.atoms(text)
        for at, atom in enumerate(atoms):
            if atom in ("and", "or"):
                left, right = self.compare(atoms[:at]), self.condition(" ".join(atoms[at + 1 :]))
                return (left and right) if atom == "and" else (left or right)
        return self.compare(atoms)

    def compare(self, atoms: list[str]) -> bool:
        match atoms:
            case [name]:
                return self.value(name) not in ("", "false")
            case [left, "==", right]:
                return self.value(left) == self.value(right)
            case [left, "!=", right]:
                return self.value(left) != self.value(right)
            case [left, "contains", right]:
                return self.value(right) in self.value(left)
        raise self.error(f"the condition `{' '.join(atoms)}` is not understood here")

    def output(self, text: str) -> str:
        atoms = self.atoms(text)
        pipes = [at for at, atom in enumerate(atoms) if atom == "|"] + [len(atoms)]
        if pipes[0] != 1:
            raise self.error(f"`{text.strip()}` is not understood here")
        value = self.value(atoms[0])
        for at, end in pairwise(pipes):
            name, *arguments = atoms[at + 1 : end] or [""]
            given = [self.value(argument) for argument in arguments if argument not in (":", ",")]
            if name not in FILTERS:
                raise self.error(f"there is no filter `{name}`")
            try:
                value = FILTERS[name](value, *given)
            except TypeError:
                raise self.error(f"`{name}` does not take {len(given)} arguments") from None
        return value

    def atoms(self, text: str) -> list[str]:
        atoms, pos = [], 0
        while text[pos:].strip():
            match = _ATOM.match(text, pos)
            if match is None:
                raise self.error(f"`{text.strip()}` is not understood here")
            atoms.append(match[1])
            pos = match.end()
        return atoms

    def value(self, atom: str) -> str:
        if atom[0] in "\"'":
            return atom[1:-1]
        if atom[0].isdigit() or atom[0] == "-":
            return atom
        if atom in self.values:
            return self.values[atom]
        raise self.error(f"there is no value `{atom}`")
