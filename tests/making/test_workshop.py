"""Guests that are built while they are served, by commands that are shell scripts here."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import pytest

from tests.integrations.conftest import printer
from wasm_gateway import Gateway, watch
from wasm_gateway.errors import ManifestError
from wasm_gateway.making import workshop
from wasm_gateway.making.build_report import BuildFailure, BuildReport
from wasm_gateway.messages import Headers, Request, Response

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")

PATIENCE = 120.0

MANIFEST = """
spin_manifest_version = 2
[application]
name = "x"
[[trigger.http]]
route = "/hello/..."
component = "hello"
executor = { type = "wagi" }
[component.hello]
source = "hello.wat"
[component.hello.build]
command = "sh build.sh"
watch = ["*.src"]
[[trigger.http]]
route = "/other"
component = "other"
executor = { type = "wagi" }
[component.other]
source = "other.wat"
"""

# A compiler: a source with the word BROKEN in it is wrong, and each build leaves a line in `builds`.
BUILD = """
echo built >> builds
if grep -n BROKEN hello.src; then echo "hello.src: \033[31merror\033[0m: <BROKEN>"; exit 3; fi
cp hello.src hello.part && mv hello.part hello.wat
"""

WAITS = "while ! test -e go; do sleep 0.02; done\n"

VISIT = (("accept", "text/html,*/*;q=0.8"), ("sec-fetch-mode", "navigate"))
FETCH = (("accept", "text/html,*/*"), ("sec-fetch-mode", "cors"))


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def text(word: str) -> str:
    return printer(f"content-type: text/plain\n\n{word}")


def put(path: Path, data: str) -> None:
    part = path.with_name(".part")
    part.write_text(data)
    os.replace(part, path)


class Site:
    """A folder with a component that is built, and a gateway for it as a development server has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "spin.toml"
        self.manifest.write_text(MANIFEST)
        self.source = folder / "hello.src"
        self.source.write_text(text("first"))
        (folder / "build.sh").write_text(BUILD)
        (folder / "other.wat").write_text(text("other"))
        self.opened: list[Gateway] = []

    def open(self, **options: object) -> Gateway:
        options = {"build": True, "cache_dir": self.folder / "cache", "state_dir": ""} | options
        gateway = Gateway.from_manifest(self.manifest, **options)
        self.opened.append(gateway)
        return gateway.open()

    @property
    def builds(self) -> int:
        path = self.folder / "builds"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(watch, "FIRST_LOOK_SECONDS", PATIENCE)
    monkeypatch.setattr(workshop, "LONG_BUILD", 10 * PATIENCE)
    site = Site(tmp_path)
    yield site
    for gateway in site.opened:
        gateway.close()


def ask(gateway: Gateway, path: str = "/hello/x", *headers: tuple[str, str], method: str = "GET") -> Response:
    response = gateway.handle(Request(method, path, headers=Headers(headers)))
    assert response is not None
    return response


def body(gateway: Gateway, path: str = "/hello/x", *headers: tuple[str, str]) -> str:
    return b"".join(ask(gateway, path, *headers).body).decode()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# What is built when


def test_what_is_not_there_is_built_at_the_start(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    gateway = site.open()
    until(lambda: body(gateway) == "first" and lines(caplog))
    (line,) = lines(caplog)
    assert line.startswith("component hello: built in ")
    assert line.endswith(" s, and answers from now on")


def test_what_is_saved_is_built_and_one_line_says_so(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    gateway = site.open()
    until(lambda: body(gateway) == "first" and lines(caplog))
    caplog.clear()
    put(site.source, text("second"))
    until(lambda: body(gateway) == "second" and lines(caplog))
    assert [line.endswith(" s, and answers from now on") for line in lines(caplog)] == [True]
    assert site.builds == 2
    caplog.clear()
    os.utime(site.source)
    until(lambda: lines(caplog))
    assert lines(caplog)[0].endswith(" s, and is what it was")


def test_a_build_that_takes_its_time_is_said(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workshop, "LONG_BUILD", 0.01)
    monkeypatch.setattr(watch, "FIRST_LOOK_SECONDS", 0.01)
    (site.folder / "build.sh").write_text(WAITS + BUILD)
    gateway = site.open()
    until(lambda: lines(caplog))
    assert lines(caplog) == ["Building component hello with `sh build.sh`"]
    (site.folder / "go").touch()
    until(lambda: body(gateway) == "first" and len(lines(caplog)) > 1)
    assert len(lines(caplog)) == 2


def test_what_is_older_than_its_source_is_built_at_the_start(site: Site) -> None:
    site.open().close()
    assert site.builds == 1
    site.open().close()
    assert site.builds == 1  # nothing has changed
    put(site.source, text("meanwhile"))
    gateway = site.open()
    until(lambda: body(gateway) == "meanwhile")
    assert site.builds == 2


def test_a_guest_among_its_own_sources_is_no_change(site: Site) -> None:
    put(site.manifest, MANIFEST.replace('"*.src"', '"*.src", "*.wat"'))
    gateway = site.open()
    until(lambda: body(gateway) == "first")
    put(site.source, text("second"))
    until(lambda: body(gateway) == "second")
    time.sleep(0.2)  # ten looks
    assert site.builds == 2


def test_a_component_that_is_added_is_built(site: Site) -> None:
    gateway = site.open()
    (site.folder / "new.src").write_text(text("new"))
    more = (
        MANIFEST.replace("hello", "new").replace('"sh build.sh"', '"cp new.src new.wat"').partition("[[")[2]
    )
    put(site.manifest, MANIFEST + "[[" + more.rpartition("[[")[0])
    until(lambda: gateway.match("/new/x") is not None and body(gateway, "/new/x") == "new")


def test_a_broken_manifest_changes_nothing(site: Site) -> None:
    gateway = site.open()
    until(lambda: body(gateway) == "first")
    put(site.manifest, "broken =")
    until(lambda: gateway.swaps.refused)
    put(site.source, text("second"))
    until(lambda: body(gateway) == "second")


def test_only_what_is_served_is_built(site: Site) -> None:
    gateway = site.open(components=["other"])
    assert body(gateway, "/other") == "other"
    assert site.builds == 0


def test_nothing_is_built_where_nobody_asks_for_it(site: Site) -> None:
    with pytest.raises(ManifestError, match=r"hello\.wat"):
        site.open(build=False, watch=True)
    assert site.builds == 0
    assert not (site.folder / "cache" / "builds").exists()


def test_what_is_not_built_has_to_be_there(site: Site) -> None:
    (site.folder / "other.wat").unlink()
    with pytest.raises(ManifestError, match=r"other\.wat"):
        site.open()


# What cannot be built


def test_what_is_shown_of_a_failure(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    gateway = site.open()
    until(lambda: body(gateway) == "first" and lines(caplog))
    caplog.clear()
    put(site.source, "BROKEN")
    until(lambda: ask(gateway, "/hello/x", *VISIT).status == 500)

    page = ask(gateway, "/hello/x", *VISIT)
    assert page.headers.get("content-type") == "text/html; charset=utf-8"
    html = b"".join(page.body).decode()
    assert "Component hello could not be built" in html
    assert "hello.src: error: &lt;BROKEN&gt;" in html  # escaped, and without the colour
    assert "failed with status 3" in html
    assert "last good guest" in html

    for request in (lambda: ask(gateway), lambda: ask(gateway, "/hello/x", *FETCH)):
        answer = request()
        assert (answer.status, b"".join(answer.body)) == (200, b"first")
        assert answer.headers.get("x-wasm-gateway-build") == "failed"
    assert ask(gateway, "/hello/x", *VISIT, method="POST").status == 200

    other = ask(gateway, "/other", *VISIT)
    assert (other.status, other.headers.get("x-wasm-gateway-build")) == (200, None)

    def errors() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]

    until(errors)  # those who serve may know before it is said
    (error,) = errors()
    assert "component hello could not be built, and the last good guest goes on" in error
    assert "hello.src: \\x1b[31merror\\x1b[0m: <BROKEN>" in error

    put(site.source, text("mended"))
    until(lambda: body(gateway) == "mended")
    until(lambda: body(gateway, "/hello/x", *VISIT) == "mended")  # who watches files may have been first
    mended = ask(gateway, "/hello/x", *VISIT)
    assert (mended.status, mended.headers.get("x-wasm-gateway-build")) == (200, None)


def test_where_there_is_no_earlier_guest_all_see_the_reason(site: Site) -> None:
    site.source.write_text("BROKEN")
    gateway = site.open()
    until(lambda: "could not be built" in body(gateway))
    answer = ask(gateway)
    assert (answer.status, answer.headers.get("content-type")) == (500, "text/plain; charset=utf-8")
    assert b"hello.src: error: <BROKEN>" in b"".join(answer.body)
    assert "There is no earlier guest" in body(gateway, "/hello/x", *VISIT)
    assert body(gateway, "/other") == "other"
    put(site.source, text("mended"))
    until(lambda: body(gateway) == "mended")


def test_a_guest_that_is_still_being_built(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FIRST_LOOK_SECONDS", 0.01)
    (site.folder / "build.sh").write_text(WAITS + BUILD)
    gateway = site.open()
    answer = ask(gateway, "/hello/x", *VISIT)
    assert (answer.status, answer.headers.get("retry-after")) == (503, "1")
    assert b'http-equiv="refresh"' in b"".join(answer.body)
    (site.folder / "go").touch()
    until(lambda: body(gateway) == "first")


def test_a_guest_that_is_built_but_cannot_be_loaded(site: Site) -> None:
    gateway = site.open()
    until(lambda: body(gateway) == "first")
    put(site.source, '(module (import "nobody" "nothing" (func)) (func (export "_start")))')
    until(lambda: ask(gateway, "/hello/x", *VISIT).status == 500)
    page = body(gateway, "/hello/x", *VISIT)
    assert "Component hello cannot be loaded as it is now" in page
    assert "nobody" in page
    assert body(gateway) == "first"
    put(site.source, text("mended"))
    until(lambda: body(gateway, "/hello/x", *VISIT) == "mended")


def test_a_text_that_is_its_own_source(site: Site) -> None:
    """Nobody builds it, but who mends it is the same."""
    put(site.folder / "other.wat", "(module (oops))")
    gateway = site.open()
    assert f"{site.folder}/other.wat:1:10" in body(gateway, "/other")
    put(site.folder / "other.wat", text("mended"))
    until(lambda: body(gateway, "/other") == "mended")
    put(site.folder / "other.wat", "(module (oops))")
    until(lambda: ask(gateway, "/other", *VISIT).status == 500)
    assert body(gateway, "/other") == "mended"


def test_a_missing_compiler_is_said_with_what_installs_it(site: Site) -> None:
    put(site.manifest, MANIFEST.replace("sh build.sh", "no-such-compiler"))
    gateway = site.open()
    until(lambda: "`no-such-compiler` is not on the PATH" in body(gateway))


def test_one_that_fails_does_not_keep_another_from_being_built(site: Site) -> None:
    more = '\n[component.other.build]\ncommand = "cp other.src other.wat"\nwatch = ["other.src"]\n'
    put(site.manifest, MANIFEST.replace('"*.src"', '"hello.src"') + more)
    (site.folder / "other.src").write_text(text("other"))
    gateway = site.open()
    until(lambda: body(gateway) == "first")
    put(site.source, "BROKEN")
    put(site.folder / "other.src", text("another"))
    until(lambda: body(gateway, "/other") == "another")
    until(lambda: ask(gateway, "/hello/x", *VISIT).status == 500)
    assert ask(gateway, "/other", *VISIT).status == 200


def test_a_site_answers_for_a_guest_that_is_not_built(site: Site) -> None:
    more = '\n[component.hello.tool.wasm-gateway]\nmode = "wasm"\nfallback = ["link"]\n'
    put(site.manifest, MANIFEST + more)
    site.source.write_text("BROKEN")
    gateway = site.open()

    def native(environ: dict[str, object], start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [])
        return [b"the site's"]

    environ: dict[str, object] = {"PATH_INFO": "/hello/x"}
    setup_testing_defaults(environ)
    assert b"".join(gateway.wsgi(native)(environ, lambda *head: None)) == b"the site's"


# Who builds


def test_one_of_two_processes_builds_and_both_show_what_failed(site: Site) -> None:
    """The other is told through the file, swaps by itself, and takes over when the first has ended."""
    first = site.open()
    script = f"""
import sys, time
from wasm_gateway import Gateway
from wasm_gateway.messages import Request
gateway = Gateway.from_manifest({str(site.manifest)!r}, build=True, state_dir="",
    cache_dir={str(site.folder / "cache")!r}).open()
for line in sys.stdin:
    response = gateway.handle(Request("GET", "/hello/x"))
    print(response.headers.get("x-wasm-gateway-build"), b"".join(response.body).decode(), flush=True)
gateway.close()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def asked() -> str:
            print(file=process.stdin, flush=True)
            return process.stdout.readline().strip()

        try:
            until(lambda: asked() == "None first")
            put(site.source, "BROKEN")
            until(lambda: asked() == "failed first")
            assert site.builds == 2
            assert not BuildReport.of(site.manifest, site.folder / "cache").claim()
            first.close()
            assert asked() in ("None first", "failed first")  # it may have built it already
            put(site.source, text("by the other"))
            until(lambda: asked() == "None by the other")
        finally:
            process.stdin.close()


def test_closing_ends_what_is_being_built(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FIRST_LOOK_SECONDS", 0.01)
    (site.folder / "build.sh").write_text("touch here; sleep 300; touch never\n")
    gateway = site.open()
    until(lambda: (site.folder / "here").exists())
    begun = time.monotonic()
    gateway.close()
    assert time.monotonic() - begun < 60
    assert gateway.build_report is not None
    assert gateway.build_report.failures() == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_build_and_gives_no_lock_back(site: Site) -> None:
    gateway = site.open()
    assert gateway.workshop is not None
    pid = os.fork()
    if not pid:
        try:
            gateway.workshop.look(False)
            os._exit(0 if gateway.workshop._rebuilder is None else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert not BuildReport.of(site.manifest, site.folder / "cache").claim()


# The report


def test_a_report_says_what_was_written_and_nothing_of_what_is_not_one(tmp_path: Path) -> None:
    writer, reader = BuildReport(tmp_path / "a" / "r.json"), BuildReport(tmp_path / "a" / "r.json")
    assert reader.failures() == {}
    assert writer.claim()
    failure = BuildFailure("a", "what", "output\n\udcff")
    writer.write({"a": failure, "b": BuildFailure("b", "why")})
    assert reader.failures()["a"] == failure
    assert list(reader.failures()) == ["a", "b"]
    for broken in ("", "{", '{"a": 1}', "[1]", '[{"component": "a"}]'):
        writer.file.write_text(broken)
        assert reader.failures() == {}
    writer.release()
    assert reader.failures() == {}
    assert reader.claim()
    reader.release()


def test_a_report_that_cannot_be_written_is_known_to_its_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    report = BuildReport(tmp_path / "file" / "r.json")
    assert report.claim()
    report.write({"a": BuildFailure("a", "what")})
    assert list(report.failures()) == ["a"]
    assert "nobody else is told" in caplog.text
