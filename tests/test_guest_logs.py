# The output of guests: whole lines, bounded cost, Spin's files.

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wasm_gateway import guest_logs
from wasm_gateway.guest_logs import GuestLogs, LogFile, file_name, printable, truncate


class Echo:
    """Stands for stderr: what was copied there."""

    def __init__(self) -> None:
        self.data = b""

    def __call__(self, data: bytes) -> None:
        self.data += data


@pytest.fixture
def guest_records(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "wasm_gateway.guest")
    return caplog


def test_both_streams_go_raw_to_spins_files(tmp_path: Path) -> None:
    logs = GuestLogs(tmp_path / "logs")
    instance = logs.open("hello")
    instance.write("stdout", b"one\ntwo\xff\x00\x1b[31m\n")
    instance.write("stderr", b"bad\n")
    instance.close()

    assert (tmp_path / "logs/hello_stdout.txt").read_bytes() == b"one\ntwo\xff\x00\x1b[31m\n"
    assert (tmp_path / "logs/hello_stderr.txt").read_bytes() == b"bad\n"


def test_a_file_that_exists_is_appended_to(tmp_path: Path) -> None:
    (tmp_path / "hello_stdout.txt").write_bytes(b"before\n")

    GuestLogs(tmp_path).write("hello", "stdout", b"after\n")

    assert (tmp_path / "hello_stdout.txt").read_bytes() == b"before\nafter\n"


def test_without_a_folder_no_file_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for log_dir in (None, ""):
        GuestLogs(log_dir, echo=Echo()).write("hello", "stdout", b"line\n")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("hello-world", "hello-world_stdout.txt"),
        ("../../etc/passwd", "_.._etc_passwd_stdout.txt"),
        ("a\x00b", "a_b_stdout.txt"),
        ("..", "__stdout.txt"),
        ("x" * 500, "x" * 200 + "_stdout.txt"),
    ],
)
def test_file_names_are_safe(component: str, name: str) -> None:
    assert file_name(component, "stdout") == name


def test_truncate_empties_log_files_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a_stdout.txt", "a_stderr.txt", "stdout.txt", "notes.txt", "a_stdout.txt.1"):
        (tmp_path / name).write_bytes(b"text")

    truncate(tmp_path)

    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {
        "a_stdout.txt": 0,
        "a_stderr.txt": 0,
        "stdout.txt": 0,
        "notes.txt": 4,
        "a_stdout.txt.1": 4,
    }


def test_truncate_of_a_folder_that_is_not_there_is_nothing(tmp_path: Path) -> None:
    truncate(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


# Whom we follow


@pytest.mark.parametrize(
    ("follow", "copied"),
    [(None, b"a\nb\n"), ((), b""), (("b",), b"b\n")],
    ids=["everybody", "nobody", "one"],
)
def test_followed_components_are_copied_raw(follow: tuple[str, ...] | None, copied: bytes) -> None:
    echo = Echo()
    logs = GuestLogs(follow=follow, echo=echo)
    logs.open("a").write("stdout", b"a\n")
    logs.open("b").write("stderr", b"b\n")

    assert echo.data == copied


def test_the_copy_goes_to_the_stderr_of_the_process() -> None:
    code = (
        "from wasm_gateway.guest_logs import GuestLogs\n"
        "GuestLogs(follow=None).write('a', 'stdout', b'caf\\xc3\\xa9 \\xff\\n')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)

    assert (result.stdout, result.stderr) == (b"", b"caf\xc3\xa9 \xff\n")


def test_a_closed_stderr_is_no_error() -> None:
    code = (
        "import os; os.close(2)\n"
        "from wasm_gateway.guest_logs import GuestLogs\n"
        "GuestLogs(follow=None).write('a', 'stdout', b'x\\n')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


# Lines


def test_a_line_is_passed_on_when_it_is_complete() -> None:
    echo = Echo()
    instance = GuestLogs(follow=None, echo=echo).open("a")
    for byte in b"one\ntw":
        instance.write("stdout", bytes([byte]))
    assert echo.data == b"one\n"

    instance.write("stderr", b"other\n")  # streams have a buffer each
    assert echo.data == b"one\nother\n"

    instance.write("stdout", b"o\nthree\nrest")
    assert echo.data == b"one\nother\ntwo\nthree\n"

    instance.close()
    instance.close()
    assert echo.data == b"one\nother\ntwo\nthree\nrest"


def test_lines_of_two_instances_do_not_mix() -> None:
    echo = Echo()
    logs = GuestLogs(follow=None, echo=echo)
    first, second = logs.open("a"), logs.open("a")
    first.write("stdout", b"fir")
    second.write("stdout", b"sec")
    first.write("stdout", b"st\n")
    second.write("stdout", b"ond\n")

    assert echo.data == b"first\nsecond\n"


def test_a_line_without_end_is_passed_on_in_pieces() -> None:
    echo = Echo()
    instance = GuestLogs(follow=None, echo=echo).open("a")
    for _ in range(100):
        instance.write("stdout", b"x" * 1000)
        assert sum(map(len, instance._partial.values())) <= guest_logs.MAX_PARTIAL
    instance.close()

    assert echo.data == b"x" * 100_000


def test_lines_of_many_threads_and_processes_stay_whole(tmp_path: Path) -> None:
    code = (
        "import sys, threading\n"
        "from wasm_gateway.guest_logs import GuestLogs\n"
        "logs = GuestLogs(sys.argv[1], max_file=20_000)\n"
        "def run(letter):\n"
        "    for i in range(50):\n"
        "        instance = logs.open('a'); instance.write('stdout', letter * 50)\n"
        "        instance.write('stdout', letter * 49 + b'\\n'); instance.close()\n"
        "threads = [threading.Thread(target=run, args=(l.encode(),)) for l in sys.argv[2]]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), letters]) for letters in ("ab", "cd")
    ]
    assert [child.wait(120) for child in children] == [0, 0]

    lines = b"".join(path.read_bytes() for path in tmp_path.iterdir()).splitlines()
    # 200 lines of 100 bytes fill a file of 20,000 once: nothing is lost, every line is of one letter.
    assert len(lines) == 200
    assert {(len(line), len(set(line))) for line in lines} == {(99, 1)}
    assert {line[:1] for line in lines} == {b"a", b"b", b"c", b"d"}


# logging


def test_a_record_per_line(guest_records: pytest.LogCaptureFixture) -> None:
    instance = GuestLogs().open("my-guest")
    instance.write("stdout", b"one\r\ntwo\n")
    instance.write("stderr", b"panicked\n")

    assert guest_records.record_tuples == [
        ("wasm_gateway.guest.my-guest", logging.INFO, "one"),
        ("wasm_gateway.guest.my-guest", logging.INFO, "two"),
        ("wasm_gateway.guest.my-guest", logging.WARNING, "panicked"),
    ]
    assert (guest_records.records[2].component, guest_records.records[2].stream) == ("my-guest", "stderr")


def test_percent_signs_are_text(guest_records: pytest.LogCaptureFixture) -> None:
    GuestLogs().write("a", "stdout", b"100%s %(x)s %\n")
    assert guest_records.messages == ["100%s %(x)s %"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"tab\tstays", "tab\tstays"),
        (b"\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\u2028caf\u00e9".encode(), "\\u2028caf\u00e9"),
        ("\u009b1m".encode(), "\\x9b1m"),
    ],
)
def test_what_cannot_be_shown_is_escaped(line: bytes, text: str) -> None:
    assert printable(line) == text


def test_a_record_is_bounded() -> None:
    text = printable(b"x" * 1_000_000)
    assert len(text) < guest_logs.MAX_RECORD + 40
    assert text.endswith("x ... (1000000 bytes)")


# Bounds


def test_a_chatty_component_is_cut_off_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    echo = Echo()
    logs = GuestLogs(follow=None, echo=echo, rate=1, burst=1000)
    line = b"x" * 99 + b"\n"
    for _ in range(50):
        logs.write("loud", "stdout", line)
    logs.write("quiet", "stdout", b"still here\n")

    cost = len(line) + guest_logs.LINE_COST
    assert echo.data == line * (1000 // cost) + b"still here\n"
    warnings = [record.message for record in caplog.records if record.name == "wasm_gateway"]
    assert warnings == ["output of component 'loud' is over 1 bytes/s: dropping it"]

    component = logs.component("loud")
    component._budget._left = 1000.0  # time passes
    logs.write("loud", "stdout", b"back\n")
    dropped = (50 - 1000 // cost) * len(line)
    assert echo.data.endswith(b"[wasm-gateway] %d bytes dropped\nback\n" % dropped)


def test_the_budget_fills_up_again() -> None:
    budget = guest_logs.Budget(rate=1_000_000, burst=10)
    assert budget.take(10)
    assert not budget.take(11)  # more than a burst is never had
    time.sleep(0.001)
    assert budget.take(10)


def test_a_full_file_is_set_aside(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "a.txt", max_size=10)
    for letter in b"abcd":
        file.append(bytes([letter]) * 10)
    file.close()

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a.txt": b"d" * 10,
        "a.txt.1": b"c" * 10,
    }


def test_another_process_that_set_the_file_aside_is_noticed(tmp_path: Path) -> None:
    ours, theirs = LogFile(tmp_path / "a.txt", 10), LogFile(tmp_path / "a.txt", 10)
    ours.append(b"1" * 10)
    theirs.append(b"2" * 10)  # sets it aside
    ours.append(b"3")  # must not set aside what they have begun

    assert (tmp_path / "a.txt.1").read_bytes() == b"1" * 10
    assert (tmp_path / "a.txt").read_bytes() == b"2" * 10 + b"3"
    ours.close()
    theirs.close()


def test_a_file_moved_by_somebody_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_logs, "CHECK_EVERY", 0.0)
    file = LogFile(tmp_path / "a.txt", 1000)
    file.append(b"1")
    (tmp_path / "a.txt").rename(tmp_path / "a.old")
    time.sleep(0.001)
    file.append(b"2")
    file.close()

    assert (tmp_path / "a.old").read_bytes() == b"1"
    assert (tmp_path / "a.txt").read_bytes() == b"2"


def test_a_pipe_is_never_set_aside(tmp_path: Path) -> None:
    os.symlink("/dev/null", tmp_path / "a.txt")
    file = LogFile(tmp_path / "a.txt", 0)
    file.append(b"x")
    file.close()

    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_log_that_cannot_be_written_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "hello_stdout.txt").mkdir()
    echo = Echo()
    logs = GuestLogs(tmp_path, follow=None, echo=echo)
    for _ in range(3):
        logs.write("hello", "stdout", b"line\n")

    assert echo.data == b"line\n" * 3
    assert [r.levelname for r in caplog.records if r.name == "wasm_gateway"] == ["ERROR"]

    (tmp_path / "hello_stdout.txt").rmdir()
    logs.write("hello", "stdout", b"works\n")
    logs.close()
    assert (tmp_path / "hello_stdout.txt").read_bytes() == b"works\n"


# Processes


def test_a_forked_child_can_write_although_a_lock_was_held(tmp_path: Path) -> None:
    logs = GuestLogs(tmp_path)
    logs.write("a", "stdout", b"parent\n")
    with logs.component("a").lock, logs._lock:
        pid = os.fork()
        if pid == 0:
            try:
                logs.write("a", "stdout", b"child\n")
                logs.write("b", "stdout", b"child\n")
            finally:
                os._exit(0)
    deadline = time.monotonic() + 60
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)

    assert (tmp_path / "a_stdout.txt").read_bytes() == b"parent\nchild\n"
    assert (tmp_path / "b_stdout.txt").read_bytes() == b"child\n"


def test_closed_logs_open_again(tmp_path: Path) -> None:
    logs = GuestLogs(tmp_path)
    logs.write("a", "stdout", b"1")
    logs.close()
    logs.close()
    logs.write("a", "stdout", b"2")
    logs.close()

    assert (tmp_path / "a_stdout.txt").read_bytes() == b"12"


def test_one_log_per_component_whoever_asks() -> None:
    logs = GuestLogs()
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(logs.component("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(map(id, found))) == 1
