# The properties of mutations.py, guided by coverage. Not part of the suite; by hand:
#
#     pip install atheris
#     python -m tests.component.fuzz component FOLDER -max_total_time=900
#
# or `module`, or `wit`. FOLDER keeps what has led to something new; the rest are options of libFuzzer.
# An exception that is not ours fails, and so does what takes longer than 10 seconds or more than 1 GiB; it is
# left behind as a file crash-*, timeout-* or oom-*, and is run again by naming it in place of FOLDER.

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["wasm_gateway.component"]):
    from tests.component.mutations import TARGETS, modules, mutated, seeds
    from tests.component.seeds import HOST, WIT

MAX_SIZE = 8192


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.component.fuzz {'|'.join(TARGETS)} FOLDER [option of libFuzzer]...")
    name, where, *options = sys.argv[1:]
    check = TARGETS[name]
    whole = {
        "component": list(seeds().values()),
        "module": [code for wasm in seeds().values() for code in modules(wasm)],
        "wit": [HOST.encode(), WIT.encode()],
    }[name]

    def one(data: bytes) -> None:
        check(data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if name == "wit" or rng.randrange(2):
            return bytes(atheris.Mutate(data, max_size))
        return (data[:8] + mutated(rng, data, rng.choice(whole))[8:])[:max_size]

    folder = Path(where)
    if not folder.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for i, seed in enumerate(whole):
            (folder / f"seed-{i}").write_bytes(seed)
    limits = [f"-max_len={MAX_SIZE}", "-timeout=10", "-rss_limit_mb=1024"]
    atheris.Setup([sys.argv[0], where, *limits, *options], one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
