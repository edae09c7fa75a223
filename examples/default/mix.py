"""The pairs of the embedded default: preference pairs of a file, word problems of another, chains of arithmetic.

    python examples/default/mix.py train.jsonl --problems gsm8k/train.jsonl --out mix

Writes mix/general.jsonl, mix/problems.jsonl, mix/arithmetic.jsonl and mix/pairs.jsonl, which holds them all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "arithmetic"))

from chains import make_pairs, write_pairs

from criticrm_training.data.pairs import PreferencePair, pair_row, read_pairs
from criticrm_training.data.splits import in_question_order


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="preference pairs with a column `category`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--without",
        nargs="*",
        default=["reasoning"],
        help="categories: here the problems and the chains stand for reasoning (reasoning)",
    )
    parser.add_argument("--problems", type=Path, help="pairs of right and wrong solutions, such as gsm8k/train.jsonl")
    parser.add_argument("--most", type=int, default=40, help="pairs of a category (40)")
    parser.add_argument("--most-problems", type=int, default=160, help="pairs of --problems, one a question (160)")
    parser.add_argument("--characters", type=int, default=1000, help="of the longest prompt with its response (1000)")
    parser.add_argument("--arithmetic", type=int, default=120, help="chains of arithmetic (120)")
    arguments = parser.parse_args()
    taken: Counter[str] = Counter()
    general = []
    for pair in in_question_order(read_pairs(str(arguments.data))):
        if pair.category in arguments.without or characters(pair) > arguments.characters:
            continue
        if taken[pair.category] < arguments.most:
            taken[pair.category] += 1
            general.append(pair_row(pair))
    problems: dict[str, dict[str, Any]] = {}  # by question
    for pair in in_question_order(read_pairs(str(arguments.problems))) if arguments.problems else ():
        if characters(pair) <= arguments.characters and len(problems) < arguments.most_problems:
            problems.setdefault(pair.prompt[0]["content"], pair_row(pair))
    arithmetic = [row | {"category": "arithmetic"} for row in make_pairs(arguments.arithmetic, seed=1, steps=(2, 3))]
    parts = {"general": general, "problems": list(problems.values()), "arithmetic": arithmetic}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in {**parts, "pairs": [row for part in parts.values() for row in part]}.items():
        write_pairs(arguments.out / f"{name}.jsonl", rows)
    print(json.dumps(taken | Counter(problems=len(problems), arithmetic=len(arithmetic))))


def characters(pair: PreferencePair) -> int:
    """Of the prompt and the longer response."""
    return sum(len(m["content"]) for m in pair.prompt) + max(len(pair.chosen), len(pair.rejected))


if __name__ == "__main__":
    main()
