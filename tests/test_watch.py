"""Files that change, and the thread that looks at them."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from wasm_gateway import watch
from wasm_gateway.watch import Files, Watcher, prints_of

PATIENCE = 60.0


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def age(path: Path, seconds: float) -> None:
    """Have `path` written some time ago."""
    status = path.stat()
    os.utime(path, (status.st_atime, status.st_mtime - seconds))


# Files


@pytest.fixture
def files(tmp_path: Path) -> tuple[Files, Path, Path]:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("a")
    files = Files()
    files.take("key", prints_of([one, two]))
    return files, one, two


Taken = tuple[Files, Path, Path]


def test_what_was_taken_has_not_changed(files: Taken) -> None:
    seen, *paths = files
    assert [seen.changed("key", paths, at_once=each) for each in (False, True, False)] == [False] * 3


def test_what_has_changed_is_taken_once_it_stands_still(files: Taken) -> None:
    seen, *paths = files
    paths[1].write_text("longer")
    assert [seen.changed("key", paths) for _ in range(4)] == [False, True, False, False]


def test_what_is_still_being_written_is_waited_for(files: Taken) -> None:
    seen, *paths = files
    for size in range(2, 6):
        paths[0].write_text("x" * size)
        assert not seen.changed("key", paths)
    assert seen.changed("key", paths)


def test_what_changes_back_has_not_changed(files: Taken) -> None:
    seen, *paths = files
    status = paths[0].stat()
    paths[0].write_text("b")
    os.utime(paths[0], ns=(0, 0))
    assert not seen.changed("key", paths)
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [seen.changed("key", paths) for _ in range(3)] == [False] * 3


@pytest.mark.parametrize("how", ["time", "size", "inode", "gone"])
def test_how_a_change_is_seen(files: Taken, tmp_path: Path, how: str) -> None:
    seen, *paths = files
    path, status = paths[0], paths[0].stat()
    if how == "inode":
        path.rename(tmp_path / "kept")  # or the next file may have its inode
        path.write_text("b")
    elif how == "size":
        path.write_text("longer")
    elif how == "gone":
        path.unlink()
    if how in ("inode", "size"):
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif how == "time":
        age(path, -1)
    assert [seen.changed("key", paths) for _ in range(3)] == [False, True, False]


def test_a_file_that_comes_back_is_a_change_too(files: Taken) -> None:
    seen, *paths = files
    paths[0].unlink()
    assert [seen.changed("key", paths) for _ in range(2)] == [False, True]
    paths[0].write_text("a")
    assert [seen.changed("key", paths) for _ in range(3)] == [False, True, False]


def test_other_files_of_a_key_are_a_change(files: Taken) -> None:
    seen, *paths = files
    assert [seen.changed("key", paths[:1]) for _ in range(3)] == [False, True, False]
    assert [seen.changed("other", paths[:1]) for _ in range(3)] == [False, True, False]


def test_the_clock_is_believed_at_the_first_look(files: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, *paths = files
    paths[0].write_text("longer")
    now = paths[0].stat().st_ctime
    monkeypatch.setattr(time, "time", lambda: now + watch.LOOK_SECONDS / 2)
    age(paths[0], 1000)  # as a copy that is under way may say; when it was said cannot be set
    assert not seen.changed("key", paths, at_once=True)
    paths[0].write_text("longest")
    monkeypatch.setattr(time, "time", lambda: now + 10 * PATIENCE)
    assert seen.changed("key", paths, at_once=True)
    assert not seen.changed("key", paths, at_once=True)


def test_more_files_of_a_key(files: Taken) -> None:
    seen, one, two = files
    seen.take("key", prints_of([one]))
    one.write_text("longer")
    seen.take_too("key", one, [two])
    assert [seen.changed("key", [one, two]) for _ in range(3)] == [False, True, False]
    seen.take_too("key", one, [])
    assert not seen.changed("key", [one])


# The watcher


class Looker:
    def __init__(self) -> None:
        self.looks: list[bool] = []
        self.threads: set[threading.Thread] = set()
        self.fails = False
        self.busy = threading.Event()
        self.busy.set()
        self.watcher = Watcher(self.look)

    def look(self, at_once: bool) -> None:
        self.looks.append(at_once)
        self.threads.add(threading.current_thread())
        self.busy.wait(PATIENCE)
        if self.fails:
            raise ValueError("a bug")


@pytest.fixture
def looker(monkeypatch: pytest.MonkeyPatch) -> Looker:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watch, "FIRST_LOOK_SECONDS", PATIENCE)
    return Looker()


@pytest.fixture
def watching() -> Callable[[], set[threading.Thread]]:
    """The threads that look, but those that were there before the test."""
    others = {*threading.enumerate()}
    return lambda: {each for each in threading.enumerate() if each.name == "wasm-watch"} - others


Watching = Callable[[], set[threading.Thread]]


def test_it_looks_at_once_and_goes_on_in_one_thread(looker: Looker, watching: Watching) -> None:
    assert looker.looks == []
    assert watching() == set()
    looker.watcher.start()
    assert looker.looks[0]
    until(lambda: len(looker.looks) > 3)
    looker.watcher.start()
    assert len(watching()) == 1
    assert looker.threads == watching()
    looker.watcher.stop()
    until(lambda: not watching())
    assert not any(looker.looks[1:])
    looks = len(looker.looks)
    time.sleep(0.05)
    assert len(looker.looks) == looks


def test_the_first_look_is_waited_for_but_not_for_ever(
    looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "FIRST_LOOK_SECONDS", 0.05)
    looker.busy.clear()
    looker.watcher.start()
    assert looker.watcher.running
    until(lambda: looker.looks == [True])
    looker.busy.set()
    looker.watcher.stop()


def test_it_can_start_again(looker: Looker, watching: Watching) -> None:
    looker.watcher.start()
    looker.watcher.stop()
    looker.watcher.stop()
    looker.watcher.start()
    until(lambda: len(looker.looks) > 3)
    until(lambda: len(watching()) == 1)
    looker.watcher.stop()


def test_it_ends_with_what_it_looks_for(monkeypatch: pytest.MonkeyPatch, watching: Watching) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.01)
    looker = Looker()
    looker.watcher.start()
    gone = weakref.ref(looker.watcher)
    del looker
    gc.collect()
    until(lambda: gone() is None and not watching())


def test_a_bug_does_not_end_it(looker: Looker, caplog: pytest.LogCaptureFixture) -> None:
    looker.fails = True
    looker.watcher.start()
    until(lambda: len(looker.looks) > 3)
    looker.watcher.stop()
    assert "a bug" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_has_a_thread_of_its_own(looker: Looker) -> None:
    looker.watcher.start()
    until(lambda: len(looker.looks) > 1)
    pid = os.fork()
    if not pid:
        try:
            assert not looker.watcher.running
            looker.looks, looker.busy = [], threading.Event()
            looker.busy.set()  # the lock of the other one may be held for ever here
            looker.watcher.start()
            until(lambda: len(looker.looks) > 3)
            looker.watcher.stop()
            assert looker.looks[:2] == [True, False]
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert looker.watcher.running
    looker.watcher.stop()
