# Thousands of hostile components, each from a seed: fuzz.py goes on from here, guided by coverage.

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.component.mutations import component, joined, module, modules, mutated, seeds, split

SEEDS = seeds()


@pytest.mark.parametrize("name", SEEDS)
def test_sections_are_taken_apart_and_put_together(name: str) -> None:
    sections = split(SEEDS[name])
    assert sections is not None
    assert joined(sections) == SEEDS[name]


def test_seeds_reach_the_end() -> None:
    assert {name: component(wasm) for name, wasm in SEEDS.items()} == {
        "everything": "valid",  # it imports what nobody offers
        "async": "valid, assembled",
        "shimmed": "valid, assembled",
    }


@pytest.mark.parametrize("name", SEEDS)
def test_components(name: str) -> None:
    rng = random.Random(name)
    others = list(SEEDS.values())
    outcomes: Counter[str] = Counter()
    for _ in range(500):
        wasm = mutated(rng, SEEDS[name], rng.choice(others))
        if not rng.randrange(3):
            wasm = mutated(rng, wasm, rng.choice(others))
        outcomes[component(wasm)] += 1
    assert (
        min(outcomes["malformed"], outcomes["invalid"], outcomes["valid"] + outcomes["valid, assembled"]) > 10
    )


def test_modules() -> None:
    rng = random.Random(1)
    whole = [code for wasm in SEEDS.values() for code in modules(wasm)]
    outcomes: Counter[str] = Counter()
    for _ in range(1000):
        code = rng.choice(whole)
        outcomes[module(code[:8] + mutated(rng, code, code)[8:])] += 1
    assert min(outcomes["malformed"], outcomes["valid"]) > 10
