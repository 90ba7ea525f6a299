# The Wasm of a component, and the files its guest sees (Spin: manifest, sections 2.5 and 7).

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.loopback import Server
from wasm_gateway import downloads
from wasm_gateway.assets import Mount, _regex, load_source, prepare_files
from wasm_gateway.errors import ManifestError
from wasm_gateway.manifest import (
    Build,
    Component,
    FileMapping,
    PathSource,
    UrlSource,
    load_manifest,
)

WASM = b"\0asm\x01\0\0\0"
DIGEST = "sha256:" + hashlib.sha256(WASM).hexdigest()

# -- sources -----------------------------------------------------------------------------------------


def test_a_path(tmp_path: Path) -> None:
    path = tmp_path / "one.wasm"
    path.write_bytes(WASM)
    assert load_source(Component("one", PathSource(path)), tmp_path / "cache") == path
    assert not (tmp_path / "cache").exists()


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    component = Component("one", PathSource(tmp_path / "one.wasm"), build=Build(("make one",)))
    with pytest.raises(ManifestError) as caught:
        load_source(component, tmp_path)
    for words in ("`one`", str(tmp_path / "one.wasm"), "does not exist", "`make one`", "-c/--component-id"):
        assert words in caught.value.message
    assert caught.value.key == "component.one.source"

    (tmp_path / "one.wasm").mkdir()
    with pytest.raises(ManifestError, match="is not a file"):
        load_source(component, tmp_path)


def test_the_line_of_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "spin.toml"
    path.write_text(
        'spin_manifest_version = 2\napplication.name = "app"\n'
        '[[trigger.http]]\nroute = "/"\ncomponent = "one"\n'
        '[component.one]\nsource = "one.wasm"\n'
    )
    component = load_manifest(path).components["one"]
    with pytest.raises(ManifestError) as caught:
        load_source(component, tmp_path, manifest_path=path)
    assert str(caught.value).startswith(f"{path}:7: component.one.source: ")


@pytest.fixture
def server(loopback: Callable[[], Server]) -> Server:
    return loopback()


def remote(url: str, digest: str = DIGEST) -> Component:
    return Component("one", UrlSource(url, digest))


def test_a_url_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    url = server.give("/a.wasm", WASM)
    path = load_source(remote(url), tmp_path / "cache")
    assert path.read_bytes() == WASM
    assert path.is_relative_to(tmp_path / "cache")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert load_source(remote(url), tmp_path / "cache") == path
    # another place for the same bytes needs no download at all
    assert load_source(remote("http://127.0.0.1:1/"), tmp_path / "cache") == path
    assert server.requests == ["/a.wasm"]
    assert os.listdir(path.parent) == [path.name]


def test_what_is_in_the_cache_is_not_trusted(server: Server, tmp_path: Path) -> None:
    url = server.give("/a.wasm", WASM)
    path = load_source(remote(url), tmp_path)
    path.write_bytes(b"changed")
    assert load_source(remote(url), tmp_path).read_bytes() == WASM
    assert len(server.requests) == 2


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    server.give("/end", WASM)
    url = server.give("/start", b"", 302, Location="/end")
    assert load_source(remote(url), tmp_path).read_bytes() == WASM


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"body": b"other"}, f"its digest is sha256:{hashlib.sha256(b'other').hexdigest()}, not {DIGEST}"),
        ({"body": WASM, "status": 404}, "the server answers 404"),
        ({"body": WASM, "status": 206}, "the server answers 206"),
        ({"body": WASM, "status": 503, "Retry_After": "3600"}, "the server answers 503"),
        ({"body": WASM, "length": "100"}, "8 bytes read, 92 more expected"),
        ({"body": b"", "status": 302, "Location": "/a"}, "too many redirects"),
        ({"body": b"", "status": 302, "Location": "file:///etc/passwd"}, "only http and https"),
        ({"body": bytes(1001)}, "it is longer than 1000 bytes"),
    ],
)
def test_downloads_that_fail(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(downloads, "MAX_DOWNLOAD", 1000)
    url = server.give("/a", **answer)
    with pytest.raises(ManifestError) as caught:
        load_source(remote(url), tmp_path)
    assert f"the source of component `one` cannot be had from {url}: " in caught.value.message
    assert message in caught.value.message
    assert list((tmp_path / "wasm").iterdir()) == []


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be had from http://127"):
        load_source(remote("http://127.0.0.1:1/a.wasm"), tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a", "a.wasm", ""])
def test_only_http(tmp_path: Path, url: str) -> None:
    with pytest.raises(ManifestError, match="only http and https are supported"):
        load_source(remote(url), tmp_path)


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ManifestError, match="cannot be written"):
        load_source(remote(server.give("/a", WASM)), tmp_path / "file")


def test_a_proxy_of_the_environment_is_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.give("http://example.invalid/a.wasm", WASM)
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    assert load_source(remote("http://example.invalid/a.wasm"), tmp_path).read_bytes() == WASM


def test_a_proxy_that_is_not_for_this_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert load_source(remote(server.give("/a.wasm", WASM)), tmp_path).read_bytes() == WASM


def test_processes_that_download_at_once(server: Server, tmp_path: Path) -> None:
    url = server.give("/a.wasm", WASM * 100_000)
    digest = "sha256:" + hashlib.sha256(WASM * 100_000).hexdigest()
    results: list[bytes] = []

    def load() -> None:
        results.append(load_source(remote(url, digest), tmp_path).read_bytes())

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [WASM * 100_000] * 4


# -- files -------------------------------------------------------------------------------------------


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


TREE = (
    "index.html",
    "about.html",
    "[id].html",
    "static/a.txt",
    "static/.hidden",
    "static/deep/b.txt",
    "static/deep/er/c.txt",
    ".dotted/d.txt",
)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    make(folder, *TREE)
    make(tmp_path, "secret.txt", "outside/x.txt")
    (folder / "empty").mkdir()
    return folder


def seen(
    app: Path, *files: str | FileMapping, exclude: tuple[str, ...] = (), **options: bool
) -> dict[str, str]:
    """What the guest sees: guest paths, and which file of TREE each of them is."""
    component = Component("one", PathSource(app / "one.wasm"), files=files, exclude_files=exclude)
    mounts = prepare_files(component, app, work_dir=app.parent / "work", **options)
    (mount,) = mounts
    assert mount.guest_path == "/"
    return {
        "/" + path.relative_to(mount.host_path).as_posix(): path.read_text()
        for path in sorted(mount.host_path.rglob("*"))
        if path.is_file()
    }


def test_without_files_there_is_nothing(app: Path) -> None:
    component = Component("one", PathSource(app / "one.wasm"))
    assert prepare_files(component, app, work_dir=app.parent / "work") == ()
    assert prepare_files(component, app, work_dir=app.parent / "work", direct_mounts=True) == ()
    assert not (app.parent / "work").exists()


@pytest.mark.parametrize("writable", [False, True])
def test_copies_are_mounted_at_the_root(app: Path, writable: bool) -> None:
    component = Component("one", PathSource(app / "one.wasm"), files=("index.html",))
    work_dir = app.parent / "work"
    mounts = prepare_files(component, app, work_dir=work_dir, writable=writable)
    assert mounts == (Mount("/", work_dir / "assets" / "one", writable),)
    (app / "index.html").write_text("changed")
    assert (work_dir / "assets/one/index.html").read_text() == "index.html"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("index.html", {"index.html"}),
        ("./index.html", {"index.html"}),
        ("static/../index.html", {"index.html"}),
        ("*.html", {"index.html", "about.html", "[id].html"}),
        ("[id].html", {"[id].html"}),  # there is such a file
        ("[a-c]*.html", {"about.html"}),
        ("[!a]*.html", {"index.html", "[id].html"}),
        ("[[]id].html", {"[id].html"}),
        ("?ndex.html", {"index.html"}),
        ("*", {"index.html", "about.html", "[id].html"}),
        ("*/*", {"static/a.txt", "static/.hidden", ".dotted/d.txt"}),
        ("static/*", {"static/a.txt", "static/.hidden"}),
        ("*/a.txt", {"static/a.txt"}),
        ("static/*/*.txt", {"static/deep/b.txt"}),
        ("static/**/*", {"static/a.txt", "static/.hidden", "static/deep/b.txt", "static/deep/er/c.txt"}),
        ("**/*.txt", {"static/a.txt", "static/deep/b.txt", "static/deep/er/c.txt", ".dotted/d.txt"}),
        ("**/deep/**/c.txt", {"static/deep/er/c.txt"}),
        ("**/**/c.txt", {"static/deep/er/c.txt"}),
        ("**/er/*", {"static/deep/er/c.txt"}),
        ("**/*", set(TREE)),
        ("./**/*", set(TREE)),
        # at the end of a pattern "**" is folders only, and folders are not taken
        ("static/**", set()),
        ("static/*/", set()),
        ("nothing/*", set()),
        ("*.nothing", set()),
        ("*.HTML", set()),
        # a folder by its name: with all that is in it, at its own place (Spin: /static/static)
        ("static", {"static/a.txt", "static/.hidden", "static/deep/b.txt", "static/deep/er/c.txt"}),
        ("static/", {"static/a.txt", "static/.hidden", "static/deep/b.txt", "static/deep/er/c.txt"}),
        ("static/deep", {"static/deep/b.txt", "static/deep/er/c.txt"}),
        ("empty", set()),
    ],
)
def test_patterns(app: Path, pattern: str, expected: set[str]) -> None:
    assert seen(app, pattern) == {f"/{name}": name for name in expected}


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        ("static/deep", "/", {"/b.txt": "static/deep/b.txt", "/er/c.txt": "static/deep/er/c.txt"}),
        ("static/deep", "", {"/b.txt": "static/deep/b.txt", "/er/c.txt": "static/deep/er/c.txt"}),
        ("static/deep/", "/x", {"/x/b.txt": "static/deep/b.txt", "/x/er/c.txt": "static/deep/er/c.txt"}),
        (
            "./static/deep",
            "x/y/",
            {"/x/y/b.txt": "static/deep/b.txt", "/x/y/er/c.txt": "static/deep/er/c.txt"},
        ),
        ("index.html", "/x/y.html", {"/x/y.html": "index.html"}),
        ("index.html", "y.html", {"/y.html": "index.html"}),
        ("[id].html", "/id.html", {"/id.html": "[id].html"}),
        ("empty", "/", {}),
    ],
)
def test_mappings(app: Path, source: str, destination: str, expected: dict[str, str]) -> None:
    assert seen(app, FileMapping(source, destination)) == expected


def test_the_whole_folder_can_be_mapped(app: Path) -> None:
    assert seen(app, FileMapping(".", "/all")) == {f"/all/{name}": name for name in TREE}


def test_absolute_paths_within_the_folder(app: Path) -> None:
    assert seen(app, f"{app}/*.html").keys() == {"/index.html", "/about.html", "/[id].html"}
    assert seen(app, FileMapping(f"{app}/static/deep/er", "/")) == {"/c.txt": "static/deep/er/c.txt"}


def test_the_last_of_several_entries_wins(app: Path) -> None:
    assert seen(app, "index.html", FileMapping("about.html", "/index.html"))["/index.html"] == "about.html"
    assert seen(app, FileMapping("about.html", "/index.html"), "*.html")["/index.html"] == "index.html"


@pytest.mark.parametrize(
    ("exclude", "left_out"),
    [
        ("index.html", {"index.html"}),
        # "*" matches "/" and leading dots here
        ("*.txt", {name for name in TREE if name.endswith(".txt")}),
        ("static/*", {name for name in TREE if name.startswith("static/")}),
        ("**/b.txt", {"static/deep/b.txt"}),
        ("**/index.html", {"index.html"}),
        ("static/**/c.txt", {"static/deep/er/c.txt"}),
        ("static/**", {name for name in TREE if name.startswith("static/")}),
        ("static/deep", set()),
        ("STATIC/*", set()),
        ("?????????????????", {"static/deep/b.txt"}),
        ("**", set(TREE)),
    ],
)
def test_exclusions(app: Path, exclude: str, left_out: set[str]) -> None:
    expected = {f"/{name}": name for name in TREE if name not in left_out}
    assert seen(app, "**/*", exclude=(exclude,)) == expected
    # for a mapping, too, it is the path in the application's folder that counts
    mapped = {f"/m/{name}": name for name in TREE if name not in left_out}
    assert seen(app, FileMapping(".", "m"), exclude=("no", exclude)) == mapped


def test_exclusions_do_not_apply_to_single_files(app: Path) -> None:
    files = ("index.html", FileMapping("about.html", "/x.html"))
    assert seen(app, *files, exclude=("*",)) == {"/index.html": "index.html", "/x.html": "about.html"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("..", "A file pattern can't end in a parent directory path (..)"),
        ("static/..", "A file pattern can't end in a parent directory path (..)"),
        (".", "A file pattern can't end in a current directory path (.)"),
        ("static/.", "A file pattern can't end in a current directory path (.)"),
        ("missing.txt", '"missing.txt" does not exist and doesn\'t appear to be a glob pattern'),
        ("../secret.txt", "../secret.txt cannot be mapped because it is outside the application directory"),
        ("../*.txt", "../*.txt cannot be mapped because it is outside the application directory"),
        ("static/../../secret.txt", "cannot be mapped because it is outside the application directory"),
        ("*/../../*", "cannot be mapped because it is outside the application directory"),
        ("/etc/passwd", "/etc/passwd cannot be mapped because it is outside the application directory"),
        ("../outside", "../outside cannot be mapped because it is outside the application directory"),
        ("a**/x", 'invalid pattern "a**/x": `**` must stand between slashes'),
        ("***", "wildcards are either `*` or `**`"),
        ("[a", "`[` without `]`"),
        (FileMapping("missing", "/"), 'File or directory "missing" does not exist'),
        (FileMapping("*.html", "/"), 'File or directory "*.html" does not exist'),
        (FileMapping("../outside", "/"), "../outside cannot be mapped because it is outside"),
        (FileMapping("/etc", "/"), "/etc cannot be mapped because it is outside"),
        (FileMapping("index.html", "/"), '"/" is not a valid destination file name'),
        (FileMapping("index.html", ""), '"" is not a valid destination file name'),
        (FileMapping("index.html", "/x/"), '"/x/" is not a valid destination file name'),
        (FileMapping("index.html", "/x/."), '"/x/." is not a valid destination file name'),
        (FileMapping("index.html", "/.."), '"/.." is not a valid destination'),
        (FileMapping("index.html", "/../../x"), '"/../../x" is not a valid destination'),
        (FileMapping("static", "../x"), '"../x" is not a valid destination'),
    ],
)
def test_mistakes_in_files(app: Path, entry: str | FileMapping, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        seen(app, "index.html", entry)
    assert message in caught.value.message
    assert caught.value.key == "component.one.files[1]"
    assert not (app.parent / "work").exists()


@pytest.mark.parametrize("pattern", ["[a", "***", "a**"])
def test_mistakes_in_exclusions(app: Path, pattern: str) -> None:
    with pytest.raises(ManifestError, match="invalid exclude_files pattern") as caught:
        seen(app, "index.html", exclude=("ok", pattern))
    assert caught.value.key == "component.one.exclude_files[1]"


@pytest.mark.parametrize(
    "files",
    [
        (FileMapping("static", "/x"), FileMapping("index.html", "/x")),
        (FileMapping("index.html", "/x"), FileMapping("static", "/x")),
    ],
)
def test_a_file_and_a_folder_in_one_place(app: Path, files: tuple[FileMapping, ...]) -> None:
    with pytest.raises(ManifestError, match="is not a valid destination file name"):
        seen(app, *files)
    # nothing half-made is left
    assert list((app.parent / "work" / "assets").iterdir()) == []


# -- links and odd files -----------------------------------------------------------------------------


def test_links_within_the_folder_are_followed(app: Path) -> None:
    (app / "empty" / "file.txt").symlink_to(app / "index.html")
    (app / "empty" / "folder").symlink_to("../static/deep")
    expected = {
        "/empty/file.txt": "index.html",
        "/empty/folder/b.txt": "static/deep/b.txt",
        "/empty/folder/er/c.txt": "static/deep/er/c.txt",
    }
    assert seen(app, "empty") == seen(app, "empty/**/*") == expected
    assert seen(app, "empty/folder/*.txt") == {"/empty/folder/b.txt": "static/deep/b.txt"}
    (mount,) = prepare_files(
        Component("one", PathSource(app), files=("empty",)), app, work_dir=app.parent / "work"
    )
    assert not [path for path in mount.host_path.rglob("*") if path.is_symlink()]


def test_the_folder_itself_may_be_a_link(app: Path) -> None:
    link = app.parent / "link"
    link.symlink_to(app)
    assert seen(link, "static/deep/er") == {"/static/deep/er/c.txt": "static/deep/er/c.txt"}


@pytest.mark.parametrize(
    "entry",
    [
        "**/*",
        "leak/*",
        "leak/**/*",
        "leak/secret.txt",
        "leak/folder/x.txt",
        "leak/folder",
        "leak/folder/*",
        "leak",
        FileMapping("leak", "/"),
        FileMapping("leak/secret.txt", "/s.txt"),
        FileMapping("leak/folder", "/"),
    ],
)
def test_links_out_of_the_folder_are_refused(app: Path, entry: str | FileMapping) -> None:
    (app / "leak").mkdir()
    (app / "leak" / "secret.txt").symlink_to("../../secret.txt")
    (app / "leak" / "folder").symlink_to(app.parent / "outside")
    with pytest.raises(
        ManifestError, match=r"is outside the application directory: .* is a symbolic link to"
    ):
        seen(app, entry)


def test_a_folder_whose_name_begins_alike_is_outside(app: Path) -> None:
    make(app.parent, "app-secrets/x.txt")
    (app / "leak").symlink_to("../app-secrets")
    with pytest.raises(ManifestError, match="is outside the application directory"):
        seen(app, "leak/*")
    with pytest.raises(ManifestError, match="is outside the application directory"):
        seen(app, f"{app}-secrets/x.txt")


def test_links_out_of_the_folder_can_be_excluded(app: Path) -> None:
    (app / "empty" / "secret.txt").symlink_to("../../secret.txt")
    (app / "empty" / "folder").symlink_to(app.parent / "outside")
    assert seen(app, "**/*", exclude=("empty/*",)) == {f"/{name}": name for name in TREE}


def test_links_that_lead_nowhere_or_in_circles(app: Path) -> None:
    (app / "empty" / "nowhere").symlink_to("missing")
    (app / "empty" / "self").symlink_to("self")
    (app / "empty" / "up").symlink_to("..")
    assert seen(app, "empty") == {
        f"/empty/up/{name}": name for name in TREE
    }  # "up" leads once to the folder, whose "empty" has been seen


def test_only_regular_files_are_taken(app: Path) -> None:
    os.mkfifo(app / "empty" / "pipe")
    make(app, "empty/x.txt")
    assert seen(app, "empty/**/*") == {"/empty/x.txt": "empty/x.txt"}


def test_copies_keep_the_time_and_can_be_written(app: Path) -> None:
    source = app / "index.html"
    os.utime(source, ns=(1_000_000_000, 1_234_567_891_000_000_000))
    source.chmod(0o400)
    component = Component("one", PathSource(app), files=("index.html",))
    (mount,) = prepare_files(component, app, work_dir=app.parent / "work", writable=True)
    status = (mount.host_path / "index.html").stat()
    assert status.st_mtime_ns == 1_234_567_891_000_000_000
    assert status.st_mode & stat.S_IWUSR


def test_names_that_are_not_utf8(app: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("the file system refuses such names")
    with open(os.fsencode(app / "empty") + b"/\xff", "w") as file:
        file.write("x")
    assert seen(app, "empty/*") == {"/empty/\udcff": "x"}


def test_a_folder_that_cannot_be_read(app: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every folder")
    (app / "empty").chmod(0)
    with pytest.raises(ManifestError, match="empty cannot be read"):
        seen(app, "**/*")


# -- preparing again, and at once --------------------------------------------------------------------


def test_preparing_again_replaces_what_was_there(app: Path) -> None:
    assert "/index.html" in seen(app, "*.html")
    assert seen(app, "static/a.txt") == {"/static/a.txt": "static/a.txt"}
    assert os.listdir(app.parent / "work" / "assets") == ["one"]


def test_many_prepare_the_same_at_once(app: Path) -> None:
    results: list[object] = []

    def prepare() -> None:
        component = Component("one", PathSource(app), files=("**/*",))
        try:
            (mount,) = prepare_files(component, app, work_dir=app.parent / "work")
            results.append(mount.host_path)
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    target = app.parent / "work" / "assets" / "one"
    assert results == [target] * 4
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert sum(1 for path in target.rglob("*") if path.is_file()) == len(TREE)
    assert os.listdir(target.parent) == ["one"]


def test_a_work_folder_that_cannot_be_written(app: Path) -> None:
    component = Component("one", PathSource(app), files=("index.html",))
    with pytest.raises(ManifestError, match="the files of component `one` cannot be copied"):
        prepare_files(component, app, work_dir=app / "index.html")


# -- without copies ----------------------------------------------------------------------------------


def direct(app: Path, *files: str | FileMapping, **options: Any) -> tuple[Mount, ...]:
    component = Component("one", PathSource(app), files=files, **options)
    return prepare_files(component, app, work_dir=app.parent / "work", direct_mounts=True)


def test_direct_mounts(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(app.parent)  # Spin looks for them in the working directory
    assert direct(
        app, "static", "static/deep/", FileMapping("empty", "/"), FileMapping("./empty", "x/y/")
    ) == (
        Mount("/static", app / "static"),
        Mount("/static/deep", app / "static/deep"),
        Mount("/", app / "empty"),
        Mount("/x/y", app / "empty"),
    )
    assert not (app.parent / "work").exists()
    component = Component("one", PathSource(app), files=("static",))
    mounts = prepare_files(component, app, work_dir=app, direct_mounts=True, writable=True)
    assert mounts == (Mount("/static", app / "static", True),)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "index.html",
            'Only directory mounts are supported with --direct-mounts; "index.html" is not a directory.',
        ),
        ("static/*", '"static/*" is not a directory.'),
        (FileMapping("missing", "/"), '"missing" is not a directory.'),
        ("../outside", "is outside the application directory"),
        (FileMapping("../outside", "/"), "is outside the application directory"),
        ("leak", "is outside the application directory"),
        (FileMapping("static", "/../x"), '"/../x" is not a valid destination'),
    ],
)
def test_mistakes_in_direct_mounts(app: Path, entry: str | FileMapping, message: str) -> None:
    (app / "leak").symlink_to("../outside")
    with pytest.raises(ManifestError) as caught:
        direct(app, entry)
    assert message in caught.value.message


def test_direct_mounts_cannot_exclude(app: Path) -> None:
    message = "Cannot load a component with `exclude_files` using --direct-mounts"
    with pytest.raises(ManifestError, match=message):
        direct(app, "static", exclude_files=("*.txt",))


def in_place(
    app: Path, *files: str | FileMapping, writable: bool = False, **options: Any
) -> tuple[Mount, ...]:
    component = Component("one", PathSource(app), files=files, **options)
    return prepare_files(component, app, work_dir=app.parent / "work", in_place=True, writable=writable)


@pytest.mark.parametrize("destination", ["/", "", "."])
def test_a_folder_mapped_to_the_root_can_be_used_in_place(app: Path, destination: str) -> None:
    assert in_place(app, FileMapping("static", destination)) == (Mount("/", app / "static"),)
    assert not (app.parent / "work").exists()


@pytest.mark.parametrize(
    ("files", "options"),
    [
        ((FileMapping("static", "/x"),), {}),
        ((FileMapping("static", "/"), "index.html"), {}),
        (("static",), {}),
        ((FileMapping("static", "/"),), {"exclude_files": ("*.txt",)}),
        ((FileMapping("static", "/"),), {"writable": True}),
    ],
)
def test_where_a_guest_would_see_the_difference_it_is_copied(
    app: Path, files: tuple[str | FileMapping, ...], options: dict[str, Any]
) -> None:
    mounts = in_place(app, *files, **options)
    assert mounts == (Mount("/", app.parent / "work/assets/one", options.get("writable", False)),)


def test_in_place_does_not_lead_out_of_the_folder(app: Path) -> None:
    (app / "leak").symlink_to("../outside")
    with pytest.raises(ManifestError, match="is outside the application directory"):
        in_place(app, FileMapping("leak", "/"))


# -- patterns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("", [""], ["a"]),
        ("a", ["a"], ["A", "ab", "ba", ""]),
        ("a.b", ["a.b"], ["axb"]),
        ("*", ["", "a", ".a", "a/b", "a\nb"], []),
        ("?", ["a", "/", "\n"], ["", "ab"]),
        ("a*c", ["ac", "abc", "a/b/c"], ["ab"]),
        ("[abc]", ["a", "c"], ["d", "", "ab"]),
        ("[!abc]", ["d", "!"], ["a", ""]),
        ("[a-c]", ["b"], ["d", "-"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[-a]", ["a", "-"], ["b"]),
        ("[]]", ["]"], ["["]),
        ("[!]]", ["["], ["]"]),
        ("[^a]", ["^", "a"], ["b"]),
        ("[c-a]", [], ["a", "b", "c"]),
        ("[!c-a]", ["a", "b"], []),
        ("[\\d]", ["\\", "d"], ["1"]),
        ("a]", ["a]"], ["a"]),
        ("**", ["", "a", "a/b"], []),
        ("**/a", ["a", "b/a", "b/c/a"], ["ba", "a/b"]),
        ("a/**", ["a/", "a/b", "a/b/c"], ["a", "ab"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("**/**/a", ["a", "b/a"], ["ba"]),
    ],
)
def test_the_glob_language(pattern: str, matches: list[str], others: list[str]) -> None:
    regex = _regex(pattern)
    assert [text for text in matches + others if regex.fullmatch(text)] == matches


@pytest.mark.parametrize("pattern", ["***", "a/***/b", "**a", "a**", "a**/b", "[", "[]", "[!]", "[a", "a[!"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match="`"):
        _regex(pattern)


def test_a_pattern_with_many_wildcards_is_not_slow(app: Path) -> None:
    code = """
import sys, pathlib
from wasm_gateway.assets import prepare_files
from wasm_gateway.manifest import Component, PathSource
app = pathlib.Path(sys.argv[1])
component = Component("one", PathSource(app), files=("**/" * 20 + "*/**/" * 10 + "x",))
prepare_files(component, app, work_dir=app.parent / "work")
"""
    make(app, "/".join("abcdefghijklmnop") + "/x")
    subprocess.run([sys.executable, "-c", code, str(app)], check=True, timeout=60)
