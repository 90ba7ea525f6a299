# The example of a Django site that moves: its guests, its own tests, its migrations.

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "example_projects" / "django_site"


def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_of_the_site", SITE / "guests" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("guest", build().GUESTS)
def test_the_sources_give_the_committed_guests(guest: str) -> None:
    module = build()
    try:
        wasm = module.build(guest)
    except module.MissingTool as missing:
        pytest.skip(f"needs {missing}")
    assert wasm == (SITE / "guests" / f"{guest}.wasm").read_bytes()
    for folder in (str(ROOT), str(Path.home()), "/home/", "/tmp/", "/root/"):
        assert folder.encode() not in wasm


def test_it_passes_its_own_tests(tmp_path: Path) -> None:
    environment = {
        "DJANGO_SITE_STATE": str(tmp_path / "state"),
        "DJANGO_SETTINGS_MODULE": "bookshop.settings",
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", str(SITE / "manage.py"), *arguments],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    done = manage("test")
    assert done.returncode == 0, done.stderr
    assert re.search(r"Ran \d+ tests", done.stderr), done.stderr
    assert "ledger" not in done.stderr
    assert manage("makemigrations", "--check", "--dry-run").stdout == "No changes detected\n"
