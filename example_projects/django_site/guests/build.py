# Builds the guests from their sources and world.wat, or checks that the committed ones are what they give.
#
#     pip install wasmtime ziglang==0.17.1
#     python build.py [--check]
#
# Flags, tool and header are those of the game's C guests.

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
GAME = HERE.parents[1] / "finicky_whiskers" / "guests" / "build.py"

spec = importlib.util.spec_from_file_location("build_of_the_game", GAME)
assert spec is not None
assert spec.loader is not None
game = importlib.util.module_from_spec(spec)
spec.loader.exec_module(game)

MissingTool = game.MissingTool


GUESTS = ("books", "me", "isbn")


def build(guest: str) -> bytes:
    """The Wasm of a guest; MissingTool when its compiler is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "guest.wasm"
        game.build_c(HERE / f"{guest}.c", output)
        return output.read_bytes() + game.world_section(HERE / "world.wat")


def main() -> int:
    failed = False
    for guest in GUESTS:
        target = HERE / f"{guest}.wasm"
        try:
            wasm = build(guest)
        except MissingTool as error:
            print(f"{guest}: needs {error}", file=sys.stderr)
            return 1
        if "--check" not in sys.argv[1:]:
            target.write_bytes(wasm)
            print(f"{guest}.wasm: {len(wasm)} bytes")
        elif target.read_bytes() != wasm:
            print(f"{guest}.wasm: differs from what its source gives", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
