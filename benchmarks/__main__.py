# python -m benchmarks [names] [--quick] [--json FILE] [--save [--note TEXT]]
#
# Each benchmark runs in a fresh interpreter of its own: what one of them imports,
# loads or patches is no part of another one's numbers.

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from . import report

# name -> module with `run(quick: bool) -> list[Table]`
BENCHMARKS = {
    "handle": "handle",
    "components": "components",
    "router": "router",
    "doors": "doors",
    "servers": "servers",
    "shadow": "shadow",
    "start": "start",
    "wasmtime-serve": "wasmtime_serve",
    "memory": "memory",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures the gateway.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all without any"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny counts: shows that it runs, measures nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables there as well")
    parser.add_argument(
        "--save", action="store_true", help="keep the tables as those measured last (last.json, LAST.md)"
    )
    parser.add_argument("--note", default="", help="what is to be known of the machine in that hour")
    options = parser.parse_args()
    if options.save and options.quick:
        parser.error("--quick measures nothing that could be saved")
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")

    print(
        f"{report.machine()}; " + ", ".join(f"{name} {v}" for name, v in report.versions().items()),
        flush=True,
    )
    found: dict[str, list[report.Table]] = {}
    failed = False
    for name in options.names or BENCHMARKS:
        print(f"\n## {name}\n", flush=True)
        begin = time.monotonic()
        try:
            module = importlib.import_module(f"benchmarks.{BENCHMARKS[name]}")
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                found[name] = process.submit(module.run, options.quick).result()
        except Exception as error:
            failed = True
            print(f"{name}: {error!r}\n{error.__cause__ or ''}", file=sys.stderr)
            continue
        print("\n\n".join(table.text() for table in found[name]))
        print(f"({time.monotonic() - begin:.0f} s)", file=sys.stderr)
    if options.json is not None:
        options.json.write_text(json.dumps(report.document(found, quick=options.quick), indent=2) + "\n")
    if options.save:
        report.save(found, options.note)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
