# What site lies in a folder, as far as its text says.
#
# Rule 1: nothing of it is imported or run: the folder may be a stranger's.
# Rule 2: what is not written plainly (a list that is put together, a factory behind a
# plugin) is not known, and said to be so.

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# How far above the manifest a site is looked for, and files larger than that are nobody's settings.
MAX_PARENTS = 3
MAX_BYTES = 1 << 20

FLASK_FILES = ("wsgi.py", "app.py", "main.py", "application.py")
_SETTINGS = re.compile(r"""DJANGO_SETTINGS_MODULE["']\s*,\s*["']([\w.]+)["']""")


@dataclass(frozen=True, slots=True)
class Site:
    """A Django or Flask site. `application` is what a WSGI server is given: `module:name`.

    `settings` is the file of Django's settings, `middleware` its MIDDLEWARE; each None where it is not plain.
    """

    framework: Literal["django", "flask"]
    folder: Path
    application: str
    settings: Path | None = None
    middleware: tuple[str, ...] | None = None
    has_static_root: bool = False


def find_site(folder: Path) -> Site | None:
    """The site in `folder` or in one of those around it, as far as the first with a `.git`."""
    folder = folder.absolute()
    for candidate in (folder, *folder.parents[:MAX_PARENTS]):
        site = _django(candidate) or _flask(candidate)
        if site is not None:
            return site
        if (candidate / ".git").exists():
            break
    return None


def source_of(path: Path) -> str:
    """The text of a small file; empty where there is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _django(folder: Path) -> Site | None:
    match = _SETTINGS.search(source_of(folder / "manage.py"))
    if match is None:
        return None
    base = folder.joinpath(*match[1].split("."))
    settings = next(
        (path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None
    )
    values = dict(_assignments(source_of(settings))) if settings else {}
    application = _literal(values.get("WSGI_APPLICATION"))
    if isinstance(application, str) and "." in application:
        module, _, name = application.rpartition(".")
    else:
        module, name = f"{match[1].partition('.')[0]}.wsgi", "application"
    listed = _literal(values.get("MIDDLEWARE"))
    middleware = None
    if isinstance(listed, list | tuple) and all(isinstance(each, str) for each in listed):
        middleware = tuple(map(str, listed))
    return Site("django", folder, f"{module}:{name}", settings, middleware, "STATIC_ROOT" in values)


def _flask(folder: Path) -> Site | None:
    for file in FLASK_FILES:
        text = source_of(folder / file)
        if "flask" not in text.lower():
            continue
        module = file.removesuffix(".py")
        for name, value in _assignments(text):
            called = value.func if isinstance(value, ast.Call) else None
            if getattr(called, "id", getattr(called, "attr", "")) in ("Flask", "create_app", "make_app"):
                return Site("flask", folder, f"{module}:{name}")
        for factory in ("create_app", "make_app"):
            if re.search(rf"^def {factory}\(", text, re.MULTILINE):
                return Site("flask", folder, f"{module}:{factory}()")
    return None


def _assignments(text: str) -> Iterator[tuple[str, ast.expr]]:
    """The names of a module and what they are given, but for what is changed afterwards."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return
    changed = {
        node.target.id
        for node in body
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
    }
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and target.id not in changed:
                value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
                if value is not None:
                    yield target.id, value


def _literal(value: ast.expr | None) -> object:
    if value is None:
        return None
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, RecursionError):
        return None
