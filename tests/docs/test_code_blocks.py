# Every code block of the tutorials and how-to pages is typed, as its reader would, into an empty folder.
#
# No network: what a page installs has to be here already, in the environment of the tests. componentize-py
# alone is installed, into the user's cache, where it is missing; where that fails, pages that need it are
# skipped. A Python guest that was built once is kept with pytest's cache, for it takes ten seconds.

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import pytest

if os.name == "nt":
    pytest.skip("the pages are for a POSIX shell", allow_module_level=True)

from tests.docs.pages import DOCS, pages, read
from tests.docs.typist import WAIT, Failed, Place, Typist, bare, compare, whole_manifest
from wasm_gateway.errors import ToolchainError
from wasm_gateway.loader import default_cache_dir
from wasm_gateway.making.toolchain import TOOLCHAINS, environment, install

# Commands that are played: the environment is there, and componentize-py too (see `environ`).
PLAYED = r"python3 -m venv \S+|\. \S+/bin/activate|wasm-gateway toolchain install componentize-py"


def play(command: str) -> bool:
    """Whether a command of a page need not be run; what it would install has to be here."""
    if match := re.fullmatch(r"pip install (.+)", command):
        for requirement in match[1].replace("'", "").split():
            installed(requirement)
    return match is not None or re.fullmatch(PLAYED, command) is not None


def installed(requirement: str) -> None:
    """Failed where the extra of a requirement is none, PackageNotFoundError where it is not here."""
    match = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?(==[\w.]+)?", requirement)
    assert match is not None, requirement
    provided = metadata.metadata(match[1]).get_all("Provides-Extra") or []
    for extra in (match[2] or "").split(","):
        if extra and extra not in provided:
            raise Failed(f"{match[1]} has no extra {extra}")


COMPONENTIZE = """#!/bin/sh
# componentize-py, whose output is kept by what goes in
key=$( { echo "$@"; cat *.py; cat {lock}; } | sha256sum | cut -c1-64 )
kept={kept}/$key.wasm
for out; do :; done
if [ -f "$kept" ]; then cp "$kept" "$out"; echo "Component built successfully"; exit; fi
PATH={path} componentize-py "$@" || exit
cp "$out" "$kept.$$" && mv "$kept.$$" "$kept"
"""


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, str]:
    """What a reader's shell has, with the programs of this environment first."""
    folder = tmp_path_factory.mktemp("reader")
    environ = bare(folder)
    python = Path(sys.executable).parent
    environ["PATH"] = f"{python}:{environ['PATH']}"
    toolchain = TOOLCHAINS["componentize-py"]
    if not here(toolchain.name, environ):
        try:
            install(toolchain, default_cache_dir(), quietly)
        except (ToolchainError, subprocess.TimeoutExpired):
            return environ
    real = environment(default_cache_dir(), environ)
    if virtual := real.get("VIRTUAL_ENV"):
        environ["VIRTUAL_ENV"] = virtual  # where componentize-py finds spin-sdk
    assert request.config.cache is not None
    shim = folder / toolchain.name
    shim.write_text(
        COMPONENTIZE.replace("{lock}", str(toolchain.lock))
        .replace("{kept}", str(request.config.cache.mkdir("guests")))
        .replace("{path}", real["PATH"])
    )
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    environ["PATH"] = f"{folder}:{environ['PATH']}"
    return environ


def here(program: str, environ: Mapping[str, str]) -> bool:
    return shutil.which(program, path=environment(default_cache_dir(), environ)["PATH"]) is not None


def quietly(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run([*command, "--retries", "0"], cwd=folder, capture_output=True, timeout=WAIT)
    if done.returncode:
        raise ToolchainError(done.stderr.decode(errors="replace"))


@pytest.fixture(scope="session")
def canteen(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Path:
    """The site of both tutorials, with its first guest; how-to pages begin with a copy of it."""
    folder = tmp_path_factory.mktemp("canteen")
    begun = ("django-admin", "python manage.py wasm_new", "python manage.py migrate")
    with Typist(Place(folder, environ, lambda command: not command.startswith(begun), True)) as typist:
        typist.type(read(DOCS / "tutorials" / "django.md").before("## 3. A guest of your own, with state"))
        typist.step(read(DOCS / "tutorials" / "flask.md").file("app.py"))
    return folder


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(DOCS).with_suffix("").as_posix())
def test_what_a_page_says(
    path: Path, tmp_path: Path, environ: dict[str, str], request: pytest.FixtureRequest
) -> None:
    page = read(path)
    for program in page.needs():
        if not here(program, environ):
            pytest.skip(f"{program} is not installed")
    folder = tmp_path / "page"
    folder.mkdir()
    if "$CANTEEN" in path.read_text(encoding="utf-8"):
        environ = environ | {"CANTEEN": str(request.getfixturevalue("canteen"))}
    with Typist(Place(folder, environ, play, own_ports=True)) as typist:
        typist.type(page)


# The reader itself can fail.


def page_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "page.md"
    path.write_text(text)
    return path


def typed(tmp_path: Path, environ: dict[str, str], text: str) -> Path:
    folder = tmp_path / "page"
    folder.mkdir()
    with Typist(Place(folder, environ, play, own_ports=True)) as typist:
        typist.type(read(page_of(tmp_path, text)))
    return folder


def test_files_are_written_and_grow(tmp_path: Path, environ: dict[str, str]) -> None:
    text = """
```{code-block} python
:caption: a/b.py

x = 1
```

```{code-block} python
:caption: a/b.py, at its end

y = 2
```

```{code-block} python
:caption: a/b.py, below `x = 1`

z = 3
```

```{code-block} console
$ cd a && export NAME=b
$ cat $NAME.py
x = 1
z = 3
…
y = …
```
"""
    folder = typed(tmp_path, environ, text)
    assert (folder / "a" / "b.py").read_text() == "x = 1\nz = 3\n\ny = 2\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```console\n$ echo a\nb\n```\n", "and not"),
        ("```console\n$ false\n```\n", "ended with 1"),
        ("```python\nraise SystemExit(3)\n```\n", "ended with 3"),
        ("% not-run: no reason\n```sh\nif\n```\n", "syntax error"),
        ("```toml\n[component.a.tool.wasm-gateway]\ntimeout = 'long'\n```\n", "timeout"),
        ("```console\n$ pip install 'wasm-gateway[none]'\n```\n", "no extra none"),
        ("```console\n$ wasm-gateway up -f nothing\n```\n", "did not listen"),
    ],
)
def test_a_page_that_is_wrong(tmp_path: Path, environ: dict[str, str], text: str, fault: str) -> None:
    with pytest.raises(Failed, match=fault):
        typed(tmp_path, environ, text)


def test_a_fence_that_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="fences"):
        read(page_of(tmp_path, "```python extra words\nx\n```\n"))


def test_parts_of_a_manifest() -> None:
    assert whole_manifest('[component.a.tool.wasm-gateway]\ntimeout = "1s"\n').count("[component.a]") == 1


def test_any_number_of_lines(tmp_path: Path) -> None:
    compare("x", "a\nb\nc\n", "a\n…\nc\n")
    compare("x", "a\nc\n", "a\n…\nc\n")
    with pytest.raises(Failed):
        compare("x", "a\nb\n", "a\n…\nc\n")
