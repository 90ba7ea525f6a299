from __future__ import annotations

import os
from pathlib import Path

import pytest
import wasmtime

from wasm_gateway import capi
from wasm_gateway.compile_cache import CompileCache
from wasm_gateway.doctor import surroundings
from wasm_gateway.doctor.findings import OPERATOR, YOU, Level
from wasm_gateway.engine import Engine
from wasm_gateway.sites import Site

POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes")
UNPRIVILEGED = pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")


def test_address_space() -> None:
    assert list(surroundings.machine(True)) == []
    (finding,) = surroundings.machine(False)
    assert (finding.level, finding.who) == (Level.RISK, OPERATOR)


def test_a_cache_in_order(tmp_path: Path) -> None:
    assert list(surroundings.cache(tmp_path / "not yet there")) == []
    cache = CompileCache(tmp_path / "compiled")
    Engine.shared().compile(wasmtime.wat2wasm("(module)"), cache)
    assert list((tmp_path / "compiled").iterdir())
    assert list(surroundings.cache(tmp_path)) == []


@POSIX
def test_a_cache_that_others_may_write(tmp_path: Path) -> None:
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled").chmod(0o777)
    (finding,) = surroundings.cache(tmp_path)
    assert "others may write to it" in finding.what
    assert "chmod" in finding.advice
    (tmp_path / "compiled").chmod(0o700)
    (tmp_path / "compiled" / "a.cwasm").write_bytes(b"")
    (tmp_path / "compiled" / "a.cwasm").chmod(0o666)
    (finding,) = surroundings.cache(tmp_path)
    assert finding.what.startswith("1 compiled guests are not used: a.cwasm")


def test_a_stale_cache(tmp_path: Path) -> None:
    engine = Engine.shared()
    cache = CompileCache(tmp_path / "compiled")
    engine.compile(wasmtime.wat2wasm("(module)"), cache)
    (path,) = (tmp_path / "compiled").iterdir()
    version = capi.wasmtime_version().partition(".")[0].encode()
    data = path.read_bytes()
    old = data.replace(bytes([2, len(version)])[1:] + version, bytes([len(version)]) + b"1" * len(version))
    assert old != data
    path.write_bytes(old)
    (finding,) = surroundings.cache(tmp_path)
    assert finding.level is Level.HINT
    assert finding.what.startswith("1 of 1 compiled guests")


@UNPRIVILEGED
def test_a_state_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / ".spin").mkdir(mode=0o500)
    (finding,) = surroundings.state(tmp_path / ".spin")
    assert finding.who == OPERATOR


def test_no_state_folder(tmp_path: Path) -> None:
    assert list(surroundings.state(tmp_path / ".spin")) == []


def site(folder: Path, *middleware: str) -> Site:
    return Site("django", folder, "site.wsgi:application", folder / "settings.py", middleware or None)


def test_the_order_of_middleware(tmp_path: Path) -> None:
    ours, security = surroundings.OURS, surroundings.SECURITY
    first, *rest = surroundings.django(site(tmp_path, ours, security))
    assert (first.level, first.who) == (Level.RISK, YOU)
    assert "stands before SecurityMiddleware" in first.what
    assert len(rest) == 1
    assert [each.level for each in surroundings.django(site(tmp_path, security, ours))] == [Level.HINT]
    assert [each.level for each in surroundings.django(site(tmp_path))] == [Level.HINT]
    first, *_ = surroundings.django(site(tmp_path, security))
    assert "is not in its MIDDLEWARE" in first.what
    assert list(surroundings.django(None)) == []


def test_a_site_without_the_middleware_but_with_the_door(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    door = "from wasm_gateway.integrations.django import get_wsgi_application"
    (tmp_path / "site" / "wsgi.py").write_text(door)
    assert len(list(surroundings.django(site(tmp_path, surroundings.SECURITY)))) == 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("worker_class = 'gevent'", "gevent"),
        ("web: gunicorn -k eventlet app", "eventlet"),
        ("import faulthandler\nfaulthandler.enable()", "faulthandler"),
        ("# worker_class = 'gevent'", None),
        ("  ; gevent = 100", None),
        ("RUN true ; gunicorn -k gevent", "gevent"),
        ("worker_class = 'gthread'", None),
    ],
)
def test_servers(text: str, what: str | None) -> None:
    found = list(surroundings.servers({Path("gunicorn.conf.py"): text}))
    assert [what in each.what and each.level is Level.RISK for each in found] == [True] * (what is not None)


def test_where_faulthandler_is_enabled() -> None:
    text = "import faulthandler\nfaulthandler.enable()"
    paths = [Path("gunicorn.conf.py"), Path("manage.py")]
    found = surroundings.servers(dict.fromkeys(paths, text))
    assert [each.level for each in found] == [Level.RISK, Level.HINT]


def test_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "manage.py").write_text("os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'p.settings')")
    (tmp_path / "p").mkdir()
    names = [surroundings.OURS, surroundings.SECURITY]
    (tmp_path / "p" / "settings.py").write_text(f"MIDDLEWARE = {names}")
    (tmp_path / "p" / "wsgi.py").write_text("import gevent.monkey")
    found = surroundings.diagnose(tmp_path, {"cache_dir": tmp_path / "cache"})
    told = [each.what for each in found if each.place != "this machine"]
    assert len(told) == 3
    assert "gevent" in told[2]
