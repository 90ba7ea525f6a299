# A newcomer's first hour, by hand: python -m tests.docs.newcomer [PAGE ...]
#
# Builds the wheel, and types tutorials exactly as they are printed into an empty folder, with a virtual
# environment and caches that hold nothing: pip and `wasm-gateway toolchain install` download what they need.
# Prints the time to the first answer of a guest and to the end of the page, and the number of lines typed.

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.docs.pages import DOCS, Page, read
from tests.docs.typist import Place, Typist, bare

ROOT = DOCS.parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.docs.newcomer")
    parser.add_argument("pages", nargs="*", metavar="PAGE", default=["tutorials/django"])
    parser.add_argument("--python", default=sys.executable, help="what `python3` is; default: this one")
    parser.add_argument("--free-ports", action="store_true", help="where those of the page are in use")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="newcomer-") as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        for number, page in enumerate(arguments.pages):
            place = prepare(folder / f"reader-{number}", wheel, arguments.python, arguments.free_ports)
            tell(follow(read(DOCS / f"{page}.md"), place))


def build_wheel(folder: Path) -> Path:
    """The wheel, built from a copy, for building leaves its traces in the source."""
    source = folder / "source"
    source.mkdir()
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, source)
    for name in ["wasm_gateway", "integrations"]:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder / "wheel"), str(source)], check=True)
    (built,) = (folder / "wheel").glob("*.whl")
    return built


def prepare(folder: Path, wheel: Path, python: str, free_ports: bool) -> Place:
    """An empty folder, empty caches, a `python3`, and a pip that finds the wheel."""
    programs, page = folder / "bin", folder / "page"
    for each in (programs, page):
        each.mkdir(parents=True)
    (programs / "python3").symlink_to(Path(python).resolve())
    environ = bare(folder)
    old = [path for path in environ["PATH"].split(":") if not (Path(path) / "wasm-gateway").exists()]
    environ |= {
        "PATH": ":".join([str(programs), *old]),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PIP_FIND_LINKS": str(wheel.parent),
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_QUIET": "1",
    }
    return Place(page, environ, own_ports=free_ports)


class Timed(Typist):
    """Says what is typed, and when a guest has answered first."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.begin = time.monotonic()
        self.first: tuple[float, int] | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    def command(self, command: str, output: str, code: int) -> None:
        begun = self.seconds
        super().command(command, output, code)
        print(f"{begun:7.1f} s  {self.seconds - begun:6.1f} s  $ {command}", flush=True)
        if self.first is None and command.startswith("curl "):
            self.first = self.seconds, self.lines


def follow(page: Page, place: Place) -> tuple[Page, Timed]:
    with Timed(place) as typist:
        typist.type(page)
        return page, typist


def tell(followed: tuple[Page, Timed]) -> None:
    page, typist = followed
    assert typist.first is not None
    seconds, lines = typist.first
    minutes = len(re.findall(r"\w+", page.path.read_text("utf-8"))) / 200
    print(f"{page.name}: first answer of a guest after {seconds:.0f} s and {lines} lines typed,")
    print(f"  its end after {typist.seconds:.0f} s and {typist.lines} lines (to read it: {minutes:.0f} min)")


if __name__ == "__main__":
    main()
