# Diagnoses of what is around the application: the machine, the caches, the site.
#
# Rule 1: files of the site are read, never run: `manage.py check` is for its owner to run.
# Rule 2: facts of the machine are measured here and judged in functions that are pure.

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..compile_cache import CompileCache
from ..engine import Engine, has_address_space
from ..errors import GatewayError
from ..loader import default_cache_dir
from ..own_files import foreign
from ..sites import Site, find_site, source_of
from .findings import OPERATOR, YOU, Finding, Level

# Files that say how a site is served, beside its manifest or its manage.py.
SERVERS = (
    "gunicorn.conf.py",
    "gunicorn_config.py",
    "Procfile",
    "Dockerfile",
    "Containerfile",
    "docker-compose.yml",
    "compose.yaml",
    "uwsgi.ini",
    "wsgi.py",
    "asgi.py",
    "manage.py",
)
SECURITY = "django.middleware.security.SecurityMiddleware"
OURS = "wasm_gateway.integrations.django.WasmGatewayMiddleware"
OURS_MODULE = "wasm_gateway.integrations.django"

_GREENLETS = re.compile(r"\b(gevent|eventlet)\b")
_COMMENT = re.compile(r"^\s*[#;].*$|\s#.*$", re.MULTILINE)
_FAULTHANDLER = re.compile(r"\bfaulthandler\.enable\(")


def diagnose(folder: Path, options: Mapping[str, Any]) -> list[Finding]:
    """What is wrong around an application in `folder`."""
    site = find_site(folder)
    folders = {folder, site.folder} if site else {folder}
    texts = {
        path: source_of(path)
        for each in sorted(folders)
        for name in SERVERS
        if (path := each / name).is_file()
    }
    if site and site.settings:
        texts[site.settings] = source_of(site.settings)
        for name in ("wsgi.py", "asgi.py"):
            texts[site.settings.parent / name] = source_of(site.settings.parent / name)
    cache_dir = Path(options.get("cache_dir") or default_cache_dir())
    return [
        *machine(has_address_space()),
        *cache(cache_dir),
        *state(Path(options.get("state_dir") or folder / ".spin")),
        *django(site),
        *servers(texts),
    ]


def machine(address_space: bool) -> Iterator[Finding]:
    """Limits of this machine."""
    if not address_space:
        what = (
            "address space is limited (ulimit -v): there is no pool of instances, and each is made on demand"
        )
        advice = (
            "lift the limit (`ulimit -v unlimited`), for faster instances and for guests with much memory"
        )
        yield Finding(Level.RISK, what, OPERATOR, advice, place="this machine")


def cache(folder: Path) -> Iterator[Finding]:
    """Folders of compiled and downloaded guests that are not used, or hold what nobody reads any more."""
    compiled = folder / "compiled"
    if not compiled.exists():
        parent = next((each for each in (folder, *folder.parents) if each.exists()), folder)
        if not os.access(parent, os.W_OK):
            advice = "name another folder (--cache-dir, CACHE_DIR), or every process compiles every guest"
            yield Finding(Level.RISK, "the cache cannot be made", OPERATOR, advice, place=str(folder))
        return
    reason = foreign(compiled)
    if reason:
        advice = (
            "make it this user's own (`chown`, `chmod go-w`); until then every process compiles every guest"
        )
        yield Finding(Level.RISK, f"the cache is not used: {reason}", OPERATOR, advice, place=str(compiled))
        return
    files = sorted(compiled.glob("*.cwasm"))
    others = [(path, why) for path in files if (why := _foreign(path))]
    if others:
        what = f"{len(others)} compiled guests are not used: {others[0][0].name}: {others[0][1]}"
        advice = "remove them; compiled by this user they are used"
        yield Finding(Level.RISK, what, OPERATOR, advice, place=str(compiled))
    ours = [path for path in files if path not in {each for each, _ in others}]
    try:
        stale = CompileCache(compiled).stale(Engine.shared(), ours)
    except GatewayError:
        return  # told where guests are loaded
    if stale:
        size = sum(path.stat().st_size for path in stale)
        what = f"{len(stale)} of {len(files)} compiled guests ({size / 1e6:.0f} MB) are another wasmtime's"
        advice = f"remove the folder ({compiled}); what is needed is compiled again"
        yield Finding(Level.HINT, what, OPERATOR, advice, place=str(compiled))


def _foreign(path: Path) -> str | None:
    try:
        return foreign(path)
    except OSError as error:
        return str(error)


def state(folder: Path) -> Iterator[Finding]:
    """Stores and logs that cannot be written."""
    if not folder.exists():
        return
    for path in (folder, *sorted(folder.glob("*.db"))):
        if not os.access(path, os.W_OK):
            advice = "let the user who serves write there, or name another place (--state-dir, STATE_DIR)"
            yield Finding(Level.RISK, "stores and logs cannot be written", OPERATOR, advice, place=str(path))


def django(site: Site | None) -> Iterator[Finding]:
    """What the settings of a Django site plainly say."""
    if site is None or site.framework != "django":
        return
    settings = site.settings
    names = site.middleware or ()
    ours = next(
        (n for n, name in enumerate(names) if name == OURS or name.startswith(f"{OURS_MODULE}.")), None
    )
    if ours is not None and SECURITY in names and ours < names.index(SECURITY):
        what = "WasmGatewayMiddleware stands before SecurityMiddleware"
        advice = "put it after: Wasm routes are neither redirected to HTTPS nor given its headers"
        yield Finding(Level.RISK, what, YOU, advice, place=str(settings))
    if ours is None and names and OURS_MODULE not in source_of(site.folder / _file(site.application)):
        what = "there is a Django site, and WasmGatewayMiddleware is not in its MIDDLEWARE"
        advice = f"add '{OURS}' after SecurityMiddleware, if the site is to serve these routes"
        yield Finding(Level.HINT, what, YOU, advice, place=str(settings))
    yield Finding(
        *(Level.HINT, "there is a Django site, which has checks of its own", YOU),
        f"run `python manage.py check --deploy` in {site.folder}",
        place="manage.py",
    )


def _file(application: str) -> str:
    return application.partition(":")[0].replace(".", "/") + ".py"


def servers(texts: Mapping[Path, str]) -> Iterator[Finding]:
    """What the files of a site say about the servers that it runs behind."""
    for path, text in texts.items():
        plain = _COMMENT.sub("", text)
        greenlets = _GREENLETS.search(plain)
        if greenlets:
            what = f"it names {greenlets[1]}, whose greenlets crash guests: the gateway refuses to open there"
            advice = "use workers with real threads (gunicorn --worker-class gthread, granian)"
            yield Finding(Level.RISK, what, YOU, advice, place=str(path))
        if _FAULTHANDLER.search(plain):
            # A hook of gunicorn runs after what is preloaded; elsewhere the order is not plain to see.
            level = Level.RISK if path.name.startswith("gunicorn") else Level.HINT
            what = "it enables faulthandler, which has to be done before the first guest is loaded"
            advice = "use `python -X faulthandler` (PYTHONFAULTHANDLER=1), or set HARDENED"
            yield Finding(level, what, YOU, advice, place=str(path))
