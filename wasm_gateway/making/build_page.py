# What a developer sees in the browser instead of a guest that could not be built.
#
# Who visits a page would take its old content for the new one: they see what the compiler said. Whatever else
# asks (scripts of a page, images, forms, curl) gets the answer of the last good guest, marked with a header,
# so that nothing breaks around the one who mends it. Where no guest was ever good, all see the reason.
#
# Rule 1: for development only: what stands here are paths, and lines of a compiler.
# Rule 2: every text is foreign: escaped, and without the codes of terminals.

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import escape

from ..messages import Begin, Headers, Request, Response
from .build_report import BuildFailure

# The header of answers of a guest that is not the newest.
MARK = ("x-wasm-gateway-build", "failed")

_CODES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])|[\x00-\x08\x0b-\x1f\x7f]"
)

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
{again}<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: #1c1c1c; background: #fff }}
h1 {{ font-size: 1.4rem; border-left: .4rem solid {color}; padding-left: .8rem }}
pre {{ background: #f4f4f4; padding: 1rem; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere }}
p {{ color: #555 }}
@media (prefers-color-scheme: dark) {{ body {{ color: #eee; background: #1c1c1c }}
  pre {{ background: #2a2a2a }} p {{ color: #aaa }} }}
</style>
<h1>{title}</h1>
<pre>{text}</pre>
<p>{footer}</p>
"""

_RELOAD = '<script>addEventListener("focus", () => location.reload())</script>\n'
_SOON = '<meta http-equiv="refresh" content="1">\n'

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def is_visit(request: Request) -> bool:
    """Whether somebody goes to this page with a browser, rather than a script, a form or a tool."""
    if request.method not in ("GET", "HEAD"):
        return False
    mode = request.headers.get("sec-fetch-mode")  # not sent over HTTP, but to the own machine
    return mode == "navigate" if mode is not None else wants_html(request)


def wants_html(request: Request) -> bool:
    return any("text/html" in value.lower() for value in request.headers.get_all("accept"))


def failed(failure: BuildFailure, request: Request, *, good: bool) -> Response:
    """That a component could not be built, and why; `good` says whether an earlier guest still serves."""
    footer = (
        "Requests of scripts and forms, and of tools like curl, are still answered by the last good guest."
        if good
        else "There is no earlier guest that could answer."
    )
    what = "cannot be loaded as it is now" if failure.built else "could not be built"
    title = f"Component {failure.component} {what}"
    text = "\n".join(part for part in (failure.what, failure.output) if part)
    return _response(500, title, text, footer, request, again=_RELOAD, color="#c62828")


def pending(component: str, reason: str, request: Request) -> Response:
    """That the first guest of a component is not there yet."""
    title = f"Component {component} is not built yet"
    footer = "This page asks again until it is."
    return _response(503, title, reason, footer, request, again=_SOON, color="#f9a825")


def _response(
    status: int, title: str, text: str, footer: str, request: Request, *, again: str, color: str
) -> Response:
    text = _CODES.sub("", text).strip("\n")
    if wants_html(request):
        kind = "text/html"
        body = _PAGE.format(
            title=escape(title), text=escape(text), footer=escape(footer), again=again, color=color
        )
    else:
        kind, body = "text/plain", f"{title}\n\n{text}\n"
    headers = [
        ("content-type", f"{kind}; charset=utf-8"),
        ("cache-control", "no-store"),
        ("content-security-policy", _POLICY),
        *([("retry-after", "1")] if status == 503 else []),
        *([MARK] if status == 500 else []),
    ]
    return Response(status, Headers(headers), (body.encode(errors="replace"),))


def marked(response: Response) -> Response:
    """The answer of a guest that is not the newest."""
    return replace(response, headers=Headers.trusted((*response.headers.pairs, MARK)))


def marking(begin: Begin | None) -> Begin | None:
    """The same for a response that goes out before it is whole."""
    if begin is None:
        return None

    def begin_marked(head: Response) -> Callable[[bytes | None], object]:
        return begin(marked(head))

    return begin_marked
