# `wasm-gateway doctor`: what it prints, writes and returns.

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime
from click.testing import CliRunner, Result

from wasm_gateway.cli import cli

V1 = """# Greetings
spin_version = "1"
name = "greetings"
trigger = { type = "http", base = "/" }

# Says hello
[[component]]
id = "hello"
source = "hello.wasm"
allowed_http_hosts = []
allowed_outbound_hosts = []
[component.trigger]
route = "/hello"
executor = { type = "wagi" }
"""
V2 = """# Greetings
spin_manifest_version = 2

[application]
name = "greetings"

# Says hello
[[trigger.http]]
id = "trigger-hello"
component = "hello"
route = "/hello"
executor = { type = "wagi" }

[component.hello]
source = "hello.wasm"
"""
DIFF = """\
--- spin.toml
+++ spin.toml (repaired)
@@ -1,14 +1,15 @@
 # Greetings
-spin_version = "1"
+spin_manifest_version = 2
+
+[application]
 name = "greetings"
-trigger = { type = "http", base = "/" }
{}
 # Says hello
-[[component]]
-id = "hello"
-source = "hello.wasm"
-allowed_http_hosts = []
-allowed_outbound_hosts = []
-[component.trigger]
+[[trigger.http]]
+id = "trigger-hello"
+component = "hello"
 route = "/hello"
 executor = { type = "wagi" }
+
+[component.hello]
+source = "hello.wasm"
""".replace("{}", " ")


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "spin.toml").write_text(V1)
    module = '(module (memory (export "memory") 1) (func (export "_start")))'
    (tmp_path / "hello.wasm").write_bytes(wasmtime.wat2wasm(module))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["doctor", *arguments], prog_name="wasm-gateway")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_it_changes_nothing_unasked(app: Path) -> None:
    result = run()
    assert result.exit_code == 0
    assert "runs          component hello: wagi, /hello" in result.stdout
    assert "hint          spin_version: `spin_version` is the old name" in result.stdout
    assert (app / "spin.toml").read_text() == V1


def test_the_diff_is_shown_and_nobody_says_yes(app: Path) -> None:
    result = run("--fix")
    assert DIFF in result.stdout
    assert "Nothing was changed" in result.stdout
    assert (app / "spin.toml").read_text() == V1


def test_it_is_repaired(app: Path) -> None:
    (app / "spin.toml").chmod(0o640)
    result = run("--fix", "--yes")
    assert result.exit_code == 0
    assert DIFF in result.stdout
    assert result.stdout.endswith("component hello: wagi, /hello\nnothing is wrong\n")
    assert (app / "spin.toml").read_text() == V2
    assert (app / "spin.toml").stat().st_mode & 0o777 == 0o640
    assert (app / "spin.toml.v1_backup").read_text() == V1
    assert run("--fix", "--yes").exit_code == 0
    assert sorted(path.name for path in app.glob("*spin.toml*")) == ["spin.toml", "spin.toml.v1_backup"]


def test_a_backup_is_never_written_over(app: Path) -> None:
    (app / "spin.toml.v1_backup").write_text("mine")
    run("--fix", "--yes")
    assert (app / "spin.toml.v1_backup").read_text() == "mine"
    assert (app / "spin.toml.v1_backup2").read_text() == V1


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_what_a_link_leads_to_is_repaired(app: Path) -> None:
    (app / "elsewhere").mkdir()
    (app / "spin.toml").rename(app / "elsewhere" / "real.toml")
    (app / "spin.toml").symlink_to(app / "elsewhere" / "real.toml")
    assert run("--fix", "--yes").exit_code == 0
    assert (app / "spin.toml").is_symlink()
    assert (app / "elsewhere" / "real.toml").read_text() == V2
    assert (app / "elsewhere" / "real.toml.v1_backup").read_text() == V1


def test_a_byte_order_mark_is_kept(app: Path) -> None:
    (app / "spin.toml").write_bytes(b"\xef\xbb\xbf" + V1.encode())
    run("--fix", "-y")
    assert (app / "spin.toml").read_bytes() == b"\xef\xbb\xbf" + V2.encode()


def test_something_is_wrong(app: Path) -> None:
    (app / "hello.wasm").unlink()
    result = run("--fix", "--yes")
    assert result.exit_code == 1
    assert "does not run  component hello: /hello\n" in result.stdout
    assert "broken        component hello: its Wasm file hello.wasm is missing. For you: " in result.stdout
    assert (app / "spin.toml").read_text() == V2


def test_not_toml(app: Path) -> None:
    (app / "spin.toml").write_text("spin_manifest_version = \n")
    result = run("--fix", "--yes")
    assert result.exit_code == 1
    assert "broken        spin.toml:1: invalid TOML" in result.stdout
    assert (app / "spin.toml").read_text() == "spin_manifest_version = \n"


def test_for_programs(app: Path) -> None:
    found = json.loads(run("--format", "json").stdout)
    assert (found["version"], found["ok"], found["diff"]) == (1, True, DIFF)
    assert found["components"] == [{"id": "hello", "runs": True, "dialect": "wagi", "routes": ["/hello"]}]
    assert {each["level"] for each in found["findings"]} == {"hint"}
    assert all(each["repairable"] for each in found["findings"])


def test_no_manifest(app: Path) -> None:
    (app / "spin.toml").unlink()
    (app / ".git").mkdir()
    result = run()
    assert result.exit_code == 1
    assert "'spin.toml' not found" in result.stderr


def test_a_guest_is_no_manifest(app: Path) -> None:
    result = run("-f", "hello.wasm")
    assert result.exit_code == 2
    assert "wasm-gateway inspect" in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v means nothing elsewhere")
def test_limits_and_a_site_that_are_really_there(app: Path) -> None:
    """A limited address space, MIDDLEWARE in the wrong order, gevent, a late faulthandler, all at once."""
    (app / "manage.py").write_text(
        'import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "site.settings")\n'
    )
    (app / "site").mkdir()
    order = [
        "wasm_gateway.integrations.django.WasmGatewayMiddleware",
        "django.middleware.security.SecurityMiddleware",
    ]
    (app / "site" / "settings.py").write_text(f"MIDDLEWARE = {order}\n")
    (app / "gunicorn.conf.py").write_text(
        'worker_class = "gevent"\nimport faulthandler\nfaulthandler.enable()\n'
    )
    script = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))\n"
        f"sys.argv = ['wasm-gateway', 'doctor', '-f', {str(app)!r}, '--cache-dir', {str(app / 'cache')!r}]\n"
        "runpy.run_module('wasm_gateway', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    risks = [line for line in done.stdout.splitlines() if line.startswith("risk ")]
    for what in (
        "this machine: address space is limited",
        "WasmGatewayMiddleware stands before SecurityMiddleware",
        "it names gevent",
        "it enables faulthandler",
    ):
        assert sum(what in line for line in risks) == 1, done.stdout + done.stderr
    assert done.returncode == 1
