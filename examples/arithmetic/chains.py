"""Preference pairs that anyone can check: chains of arithmetic, a right result, and one with a single slip in it.

    python examples/arithmetic/chains.py pairs.jsonl --pairs 300 --seed 1

Both replies are one sentence with a number of as many digits, so that neither length nor wording tells them apart.
"""

from __future__ import annotations

import argparse
import json
import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply by": operator.mul,
}
_LARGEST = 9999
_SLIPS = ("carry", "skipped step", "wrong operation")


@dataclass(frozen=True, slots=True)
class Step:
    operation: str
    number: int

    def apply(self, value: int) -> int:
        return _OPERATIONS[self.operation](value, self.number)


@dataclass(frozen=True, slots=True)
class Chain:
    start: int
    steps: tuple[Step, ...]

    @property
    def question(self) -> str:
        steps = ", ".join(f"{step.operation} {step.number}" for step in self.steps)
        return f"Start with {self.start}, {steps}. What is the result?"

    @property
    def values(self) -> list[int]:
        """After each step."""
        values, value = [], self.start
        for step in self.steps:
            value = step.apply(value)
            values.append(value)
        return values

    @property
    def result(self) -> int:
        return self.values[-1]


def make_pairs(count: int, seed: int, steps: tuple[int, int]) -> list[dict[str, str]]:
    """Rows with `id`, `category` (the kind of slip), `prompt`, `chosen`, `rejected` and `reference`; no question twice.

    Args:
        steps: the fewest and the most steps of a chain.
    """
    rng = random.Random(seed)
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        chain = _chain(rng, rng.randint(*steps))
        slip = _SLIPS[len(rows) % len(_SLIPS)]
        wrong = _with_slip(rng, chain, slip)
        if chain is None or wrong is None or chain.question in rows:
            continue
        rows[chain.question] = {
            "id": f"{seed}-{len(rows)}",
            "category": slip,
            "prompt": chain.question,
            "chosen": f"The answer is {chain.result}.",
            "rejected": f"The answer is {wrong}.",
            "reference": f"The answer is {chain.result}.",
        }
    return list(rows.values())


def _chain(rng: random.Random, length: int) -> Chain | None:
    """None where a value leaves 1 to 9999."""
    steps = []
    for _ in range(length):
        operation = rng.choice(list(_OPERATIONS))
        steps.append(Step(operation, rng.randint(2, 9) if operation == "multiply by" else rng.randint(11, 99)))
    chain = Chain(rng.randint(11, 99), tuple(steps))
    return chain if all(0 < value <= _LARGEST for value in chain.values) else None


def _with_slip(rng: random.Random, chain: Chain | None, slip: str) -> int | None:
    """The result with one slip in it; None where it can't be told from the right one, or has other digits."""
    if chain is None:
        return None
    at = rng.randrange(len(chain.steps))
    if slip == "carry":  # a step's value is off by a ten or a hundred, and goes on from there
        value = chain.values[at] + rng.choice((-10, 10, -100, 100))
        wrong = Chain(value, chain.steps[at + 1 :])
    elif slip == "skipped step":
        wrong = Chain(chain.start, chain.steps[:at] + chain.steps[at + 1 :])
    else:
        step = chain.steps[at]
        other = rng.choice([name for name in _OPERATIONS if name != step.operation])
        wrong = Chain(chain.start, (*chain.steps[:at], Step(other, step.number), *chain.steps[at + 1 :]))
    values = [wrong.start, *wrong.values]
    alike = len(str(values[-1])) == len(str(chain.result)) and values[-1] != chain.result
    return values[-1] if alike and all(0 < value <= 10 * _LARGEST for value in values) else None


def write_pairs(file: Path, rows: Sequence[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the JSON Lines file to write")
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--steps", type=int, nargs=2, default=(2, 4), metavar=("LEAST", "MOST"), help="2 4")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write_pairs(arguments.out, make_pairs(arguments.pairs, arguments.seed, tuple(arguments.steps)))


if __name__ == "__main__":
    main()
