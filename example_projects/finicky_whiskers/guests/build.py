# Builds the guests of the game from their sources, or checks that the committed ones are what the
# sources give.
#
#     pip install wasmtime ziglang==0.17.1
#     apt-get install rustc libstd-rust-dev-wasm32 lld        # Debian 12: rustc 1.63, target wasm32-wasi
#     python build.py [--check] [GUEST ...]
#
# C     freestanding core modules by the clang in ziglang. The Spin 1 guests get a custom section
#       `component-type` made from world.wat.
# Rust  a core module with std for wasm32-wasi, in the ABI of Spin's first releases (see flat.rs).
#
# The same versions of the tools give the same bytes. RUSTC and WASM_LD name other Rust tools.

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

# The linkers' own megabyte would lie between the pages that a guest touches and the start of
# its memory, which is what the engine keeps in place from one instance to the next.
STACK_BYTES = 32 << 10

ZIGLANG = "0.17.1"
RUSTC = "1.63.0"

SPIN_1 = ("tally", "score", "highscore", "reset")
WAGI = ("redirect",)
RUST = ("fileserver", "session")
GUESTS = SPIN_1 + WAGI + RUST


class MissingTool(Exception):
    """A compiler that is not here, or not in the version that gives the committed bytes."""


def build(guest: str) -> bytes:
    """The Wasm of one guest; MissingTool when its compiler is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "guest.wasm"
        if guest in RUST:
            build_rust(guest, output)
        else:
            build_c(HERE / f"{guest}.c", output)
        wasm = output.read_bytes()
    return wasm + world_section() if guest in SPIN_1 else wasm


def build_c(source: Path, output: Path) -> None:
    try:
        version = importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        raise MissingTool(f"pip install ziglang=={ZIGLANG}") from None
    if version != ZIGLANG:
        raise MissingTool(f"pip install ziglang=={ZIGLANG} (found {version})")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-freestanding", "-Os", "-nostdlib"]
    command += ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wl,--no-entry", "-s"]
    command += [f"-Wl,-z,stack-size={STACK_BYTES}"]
    subprocess.run([*command, "-o", output, source], cwd=source.parent, check=True)


def build_rust(guest: str, output: Path) -> None:
    rustc = os.environ.get("RUSTC", "/usr/bin/rustc")
    linker = os.environ.get("WASM_LD", "wasm-ld")
    if shutil.which(rustc) is None or shutil.which(linker) is None:
        raise MissingTool("apt-get install rustc libstd-rust-dev-wasm32 lld")
    version = said([rustc, "--version"]).split()[1]
    if version != RUSTC:
        raise MissingTool(f"rustc {RUSTC} (found {version})")
    if not Path(said([rustc, "--print", "sysroot"]), "lib/rustlib/wasm32-wasi").is_dir():
        raise MissingTool("apt-get install libstd-rust-dev-wasm32")
    command = [rustc, "--edition=2021", "--crate-type=cdylib", "--target=wasm32-wasi", "-Dwarnings"]
    command += ["-C", f"linker={linker}", "-C", "opt-level=s", "-C", "lto=yes", "-C", "codegen-units=1"]
    command += ["-C", f"link-arg=-zstack-size={STACK_BYTES}"]
    command += ["-C", "panic=abort", "-C", "strip=symbols", "--remap-path-prefix=/usr/src="]
    subprocess.run([*command, "-o", output, f"{guest}.rs"], cwd=HERE, check=True)


def said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def world_section(world: Path = HERE / "world.wat") -> bytes:
    """The custom section `component-type`."""
    import wasmtime

    payload = vector(b"component-type") + bytes(wasmtime.wat2wasm(world.read_text()))
    return b"\x00" + vector(payload)


def vector(data: bytes) -> bytes:
    """Length as unsigned LEB128, then the bytes."""
    size, length = len(data), bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*length, size]) + data


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds the guests from their sources.")
    parser.add_argument("guests", nargs="*", metavar="GUEST", help=f"of {', '.join(GUESTS)}; all without any")
    parser.add_argument("--check", action="store_true", help="write nothing, compare with what is there")
    options = parser.parse_args()
    if unknown := set(options.guests) - set(GUESTS):
        parser.error(f"no such guest: {', '.join(sorted(unknown))}")

    failed = False
    for guest in options.guests or GUESTS:
        target = HERE / f"{guest}.wasm"
        try:
            wasm = build(guest)
        except MissingTool as error:
            print(f"{guest}: needs {error}", file=sys.stderr)
            failed = True
            continue
        if not options.check:
            target.write_bytes(wasm)
            print(f"{guest}.wasm: {len(wasm)} bytes")
        elif target.read_bytes() != wasm:
            print(f"{guest}.wasm: differs from what its source gives", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
