# Markdown out of values, and words for names.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sphinx.pycode import ModuleAnalyzer


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown, in which a bar needs no escape."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def code(text: object) -> str:
    return f"`{text}`" if text != "" else ""


def words(names: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    """`known`, the words for each name; ValueError when either has what the other has not."""
    names = set(names)
    if missing := names - known.keys():
        raise ValueError(f"no words for {', '.join(sorted(missing))}")
    if stale := known.keys() - names:
        raise ValueError(f"words for what the code does not have: {', '.join(sorted(stale))}")
    return dict(known)


def comments(module: str, owner: str) -> dict[str, str]:
    """The `#:` comments of the attributes of a class, by their names."""
    found = ModuleAnalyzer.for_module(module).find_attr_docs()
    return {name: " ".join(lines).strip() for (place, name), lines in found.items() if place == owner}


def size(number: int) -> str:
    """Bytes as a manifest would have them."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number and number % (1 << shift) == 0:
            return f"{number >> shift} {unit}"
    return str(number)
