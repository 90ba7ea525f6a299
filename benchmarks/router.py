# Microseconds to find the route of a path among a thousand, or to find that there is none.
#
# Every native request of a site pays for a miss.

from __future__ import annotations

from collections.abc import Callable

from wasm_gateway.router import Router

from . import measure
from .report import Table

ROUTES = 1000

# what -> path
PATHS = {
    "exact": "/shop/500/items",
    "parameter": "/user/500/42/edit",
    "wildcard": "/files/500/a/b/c.txt",
    "wildcard, 20 segments": "/files/500" + "/segment" * 18,
    "miss, first segment": "/accounts/login/",
    "miss, last segment": "/shop/500/orders",
    "miss, 20 segments": "/accounts" + "/segment" * 19,
}


def routes(count: int) -> list[tuple[str, object]]:
    kinds = ("/shop/{}/items", "/user/{}/:id/edit", "/files/{}/...")
    return [(kinds[number % 3].format(number - number % 3 + 2), number) for number in range(count)]


def run(quick: bool) -> list[Table]:
    effort = measure.QUICK if quick else measure.Effort(rounds=9, calls=60, warmup=5)
    rows = []
    subjects: dict[str, measure.Block] = {}
    for what, path in PATHS.items():
        for count in (ROUTES, 10):
            router = Router(routes(count))
            asked = path if count == ROUTES else path.replace("500", "2")
            if (router.match(asked) is None) != what.startswith("miss"):
                raise RuntimeError(f"{what}: {asked} matches {router.match(asked)}")
            subjects[f"{what}/{count}"] = measure.many(_match(router, asked))
    timings = measure.interleaved(subjects, effort)
    for what in PATHS:
        many, few = timings[f"{what}/{ROUTES}"], timings[f"{what}/10"]
        rows.append((what, many.median, many.p95, few.median))
    columns = ("path", f"median us, {ROUTES:,} routes", "p95 us", "median us, 10 routes")
    return [Table("Router.match", columns, tuple(rows), "Each time is the mean of 500 calls.")]


def _match(router: Router, path: str) -> Callable[[], object]:
    return lambda: router.match(path)
