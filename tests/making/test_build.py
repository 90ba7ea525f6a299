# Build commands, which are shell scripts here.

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from wasm_gateway.cli import cli
from wasm_gateway.making import build as building

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")


def manifest(folder: Path, *components: str, **builds: str) -> Path:
    text = 'spin_manifest_version = 2\n[application]\nname = "x"\n'
    for name, build in builds.items():
        text += f'[[trigger.http]]\nroute = "/{name}"\ncomponent = "{name}"\n'
        text += f'[component.{name}]\nsource = "{name}.wasm"\n'
        if build:
            text += f"[component.{name}.build]\n{build}\n"
    path = folder / "spin.toml"
    path.write_text(text + "".join(components))
    return path


def command(*commands: str) -> str:
    return f"command = {json.dumps(commands)}"


def build(path: Path, *arguments: str) -> tuple[int, str]:
    """The exit code, and what was said to people (a single component writes to the real terminal itself)."""
    result = CliRunner().invoke(cli, ["build", "-f", str(path), *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_commands_run_in_order_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = manifest(tmp_path, a=command("pwd > one", "cat one > two") + '\nworkdir = "sub"')
    code, output = build(path)
    assert code == 0, output
    assert (tmp_path / "sub" / "two").read_text().strip() == str(tmp_path / "sub")
    assert output.splitlines() == [
        "Building component a with `pwd > one`",
        "Building component a with `cat one > two`",
        "Finished building all components",
    ]


def test_lines_of_several_say_whose_they_are(tmp_path: Path) -> None:
    path = manifest(tmp_path, a=command("echo out; echo err >&2"), b=command("printf 'no end'"), c="")
    code, output = build(path)
    assert code == 0, output
    assert {"a | out", "a | err", "b | no end"} < set(output.splitlines())


def test_they_run_side_by_side(tmp_path: Path) -> None:
    """Each waits for the other's file, which a build of one after the other would never see."""
    wait = "touch {0}; for i in $(seq 1200); do test -e {1} && exit 0; sleep 0.05; done; exit 9"
    path = manifest(tmp_path, a=command(wait.format("a", "b")), b=command(wait.format("b", "a")))
    code, output = build(path)
    assert code == 0, output


def test_the_exit_code_of_a_failure_is_passed_on(tmp_path: Path) -> None:
    path = manifest(tmp_path, a=command("exit 7", "touch never"))
    code, output = build(path)
    assert code == 7
    assert "Error: Build command for component a failed with status 7" in output
    assert not (tmp_path / "never").exists()
    assert "Traceback" not in output


def test_a_failure_ends_the_others(tmp_path: Path) -> None:
    waits = "touch here; sleep 300; touch never"
    fails = "for i in $(seq 1200); do test -e here && exit 3; sleep 0.05; done; exit 9"
    path = manifest(tmp_path, a=command(waits), b=command(fails))
    begun = time.monotonic()
    assert build(path)[0] == 3
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "never").exists()


def test_a_dependency_is_built_first(tmp_path: Path) -> None:
    dependency = '[component.a.dependencies]\n"local:x/y" = { path = "b.wasm" }\n'
    path = manifest(tmp_path, dependency, a=command("test -e b.wasm"), b=command("sleep 0.2; touch b.wasm"))
    code, output = build(path)
    assert code == 0, output
    assert [job.after for job in building.read_jobs(path)] == [{"b"}, set()]


def test_a_circle_is_built_all_the_same(tmp_path: Path) -> None:
    dependencies = (
        '[component.a.dependencies]\n"local:x/y" = { path = "b.wasm" }\n'
        '[component.b.dependencies]\n"local:x/z" = { path = "a.wasm" }\n'
    )
    path = manifest(tmp_path, dependencies, a=command("true"), b=command("true"))
    assert build(path)[0] == 0


def test_only_some(tmp_path: Path) -> None:
    path = manifest(tmp_path, a=command("touch a"), b=command("touch b"))
    assert build(path, "-c", "b")[0] == 0
    assert [(tmp_path / name).exists() for name in "ab"] == [False, True]
    code, output = build(path, "-c", "nobody", "-c", "b", "-c", "no-one")
    assert (code, "Unknown component(s) nobody, no-one" in output) == (1, True)


def test_nothing_to_build(tmp_path: Path) -> None:
    code, output = build(manifest(tmp_path, a=""))
    assert (code, output) == (0, "None of the components have a build command.\n")


def test_a_profile_has_a_command_of_its_own(tmp_path: Path) -> None:
    profile = '[component.a.profile.debug.build]\ncommand = "touch debug"\n'
    path = manifest(tmp_path, profile, a=command("touch a"))
    assert build(path, "--profile", "debug")[0] == 0
    assert [(tmp_path / name).exists() for name in ("a", "debug")] == [False, True]


def test_a_missing_toolchain_stops_before_anything_runs(tmp_path: Path) -> None:
    path = manifest(
        tmp_path, a=command("touch a"), b=command("no-such-compiler x"), c=command("no-such-compiler")
    )
    code, output = build(path)
    assert (code, output) == (1, "Error: to build b, c: `no-such-compiler` is not on the PATH\n")
    assert not (tmp_path / "a").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = manifest(tmp_path, a=command("true") + '\nworkdir = "none"')
    code, output = build(path)
    assert code == 1
    assert re.search("component a: there is no folder .*none", output)


def test_flags_of_up_need_up(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["build", "-f", str(manifest(tmp_path, a="")), "--listen", "x"])
    assert (result.exit_code, "need --up" in result.output) == (2, True)


def test_up_gets_the_rest_of_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(cli.commands["up"], "main", lambda arguments, **how: given.extend(arguments))
    path = manifest(tmp_path, a=command("touch a"))
    result = CliRunner().invoke(
        cli, ["build", "--up", "-f", str(path), "-c", "a", "--listen", "127.0.0.1:0", "--quiet"]
    )
    assert result.exit_code == 0, result.output
    assert given == ["--from", str(path), "-c", "a", "--listen", "127.0.0.1:0", "--quiet"]
    assert (tmp_path / "a").exists()


def test_up_builds_first_when_told(tmp_path: Path) -> None:
    path = manifest(tmp_path, a=command("exit 5"))
    result = CliRunner().invoke(cli, ["up", "--build", "-f", str(path)])
    assert result.exit_code == 5


@pytest.mark.parametrize("workdir", ["", "sub", "sub/.."])
def test_what_comes_of_a_build_is_no_source_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workdir: str
) -> None:
    """However the manifest is named: or each build would be followed by another."""
    (tmp_path / "sub").mkdir()
    folder = tmp_path / workdir
    (folder / "a.c").touch()
    (folder / "a.wasm").touch()
    path = manifest(tmp_path, a=command("true") + f'\nworkdir = "{workdir}"\nwatch = ["*"]')
    path.write_text(path.read_text().replace('"a.wasm"', f'"{workdir}/a.wasm"' if workdir else '"a.wasm"'))
    monkeypatch.chdir(tmp_path)
    for name in (path, Path("spin.toml"), Path("sub", "..", "spin.toml")):
        (job,) = building.read_jobs(name)
        names = {source.name for source in job.sources()}
        assert "a.c" in names
        assert "a.wasm" not in names


# Building again


class Looks:
    """A Rebuilder whose looks are made here, and what it said."""

    def __init__(self, path: Path) -> None:
        self.said: list[str] = []
        self.rebuilder = building.Rebuilder(
            path, lambda: building.read_jobs(path), path.parent / "cache", *[self.said.append] * 2
        )

    def changes(self) -> list[str]:
        """Which components were built by two looks, the second of which sees files that stand still."""
        self.said.clear()
        for _ in range(2):
            self.rebuilder.look()
        return [line.split()[2] for line in self.said if line.startswith("Building component")]


def test_what_is_saved_is_built_again(tmp_path: Path) -> None:
    (tmp_path / "src" / "deep").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "src" / name).touch()
    watched = command("touch built") + '\nworkdir = "src"\nwatch = ["a", "deep/**/*.c", "/etc/*"]'
    looks = Looks(manifest(tmp_path, one=watched, two=command("true") + '\nwatch = ["src/b"]'))
    assert all(outcome.failure is None for outcome in looks.rebuilder.first())
    assert looks.changes() == []
    (tmp_path / "src" / "a").write_text("changed")
    assert looks.changes() == ["one"]
    (tmp_path / "src" / "deep" / "new.c").touch()
    assert looks.changes() == ["one"]
    (tmp_path / "src" / "deep" / "new.c").unlink()
    (tmp_path / "src" / "b").unlink()
    assert sorted(looks.changes()) == ["one", "two"]
    assert looks.changes() == []


def test_a_build_that_fails_is_said_and_tried_again_after_a_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("exit 3")
    looks = Looks(manifest(tmp_path, one=command("sh ./a") + '\nwatch = ["a"]'))
    (outcome,) = looks.rebuilder.first()
    assert outcome.failure is not None
    assert outcome.failure.what == "Build command for component one failed with status 3"
    (tmp_path / "a").write_text("exit 0 # now")
    assert looks.changes() == ["one"]
    assert looks.rebuilder.failures == {}


def test_what_a_build_writes_among_its_sources_is_built_once_more_and_not_for_ever(tmp_path: Path) -> None:
    script = "cat a.src > made.src; cat a.src > $(cat a.src).new.src; echo >> builds"
    (tmp_path / "a.src").write_text("one")
    looks = Looks(manifest(tmp_path, one=command(script) + '\nwatch = ["*.src"]'))
    looks.rebuilder.first()
    for text in ("two", "three"):
        (tmp_path / "a.src").write_text(text)
        built = [looks.changes() for _ in range(6)]
        assert built[0] == ["one"]
        assert built[-4:] == [[]] * 4
    # what is saved while it is built is something else
    save = "; grep -q four a.src && printf five > a.src"
    looks = Looks(manifest(tmp_path, one=command(script + save) + '\nwatch = ["*.src"]'))
    (tmp_path / "a.src").write_text("four")
    for _ in range(6):
        looks.changes()
    assert (tmp_path / "made.src").read_text() == "five"


def test_a_changed_command_is_run(tmp_path: Path) -> None:
    path = manifest(tmp_path, one=command("true"), two=command("true"))
    looks = Looks(path)
    assert looks.said == [
        "Component one has no `watch` in its build table: it is built only once",
        "Component two has no `watch` in its build table: it is built only once",
    ]
    manifest(tmp_path, one=command("true"), two=command("touch now"))
    assert looks.changes() == ["two"]
    assert (tmp_path / "now").exists()
    path.write_text("broken =")
    assert looks.changes() == []
    assert "invalid TOML" in looks.said[0]
