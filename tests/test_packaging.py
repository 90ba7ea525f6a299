from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomli

import wasm_gateway

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))


# where the source of a package lies, and where it is installed
FOLDERS = [("wasm_gateway", "wasm_gateway"), ("integrations", "wasm_gateway/integrations")]


def installed(root: Path) -> set[str]:
    """Where each file of the packages is installed."""
    return {
        f"{place}/{path.relative_to(root / folder).as_posix()}"
        for folder, place in FOLDERS
        for path in (root / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_package_is_listed() -> None:
    listed = [package.replace(".", "/") for package in PROJECT["tool"]["setuptools"]["packages"]]
    on_disk = {file.removesuffix("/__init__.py") for file in installed(ROOT) if file.endswith("/__init__.py")}
    assert sorted(listed) == sorted(on_disk)


def test_every_folder_with_modules_is_a_package() -> None:
    files = installed(ROOT)
    folders = {file.rpartition("/")[0] for file in files if file.endswith(".py")}
    assert {f"{folder}/__init__.py" for folder in folders} <= files


def test_version() -> None:
    assert wasm_gateway.__version__ == PROJECT["project"]["version"]


def test_the_changelog_begins_with_this_version() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text("utf-8").splitlines()
    headings = [line for line in lines if line.startswith("## ")]
    assert wasm_gateway.__version__ in headings[0].split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, for building leaves its traces in the source."""
    setuptools = pytest.importorskip("setuptools", minversion="77", reason="what [build-system] requires")
    assert setuptools
    source = tmp_path_factory.mktemp("source")
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, source)
    for name in ["wasm_gateway", "integrations"]:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build, str(source / "dist")],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == installed(wheel.parent.parent)


def test_the_wheel_installs_the_commands(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        entry_points = archive.read(name).decode()
    assert "wasm-gateway = wasm_gateway.cli:main" in entry_points
    assert "[flask.commands]" in entry_points
