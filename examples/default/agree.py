"""Critiques without a verdict whose first sentence agrees with the label, as many of either side in each folder.

    python examples/default/agree.py general-kept problems-kept --out agreed

A rejected response's names a fault, a chosen one's names none. For the critique loss alone: under the reward loss such
critiques would give the label away.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from criticrm_training.critiques.records import SCHEMA, SIDES, Critique, read_critiques
from criticrm_training.critiques.sentences import whole_sentences
from criticrm_training.parts import write_in_parts

_FAULT = re.compile(
    r"mistake|harm|incorrect|wrong|error|fault|misleading|inaccurate|inappropriate|offensive|unclear|problem|issue"
    r"|lack|fail|(?:does|did) not|(?:does|did)n't|not (?:accurate|correct|helpful|clear|appropriate|good)",
    re.IGNORECASE,
)


def agrees(critique: Critique) -> bool:
    return bool(_FAULT.search(whole_sentences(critique.text, most=1))) == (critique.side == "rejected")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("critiques", type=Path, nargs="+", help="folders of `criticrm critiques filter`")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    kept: list[Critique] = []
    for folder in arguments.critiques:
        agreed = [c for c in read_critiques(folder) if agrees(c)]
        of_side = [[c for c in agreed if c.side == side] for side in SIDES]
        most = min(map(len, of_side))
        print(f"{folder}: {most} of either side, of {' and '.join(str(len(one)) for one in of_side)}")
        kept += [c for one in of_side for c in one[:most]]
    run = {"critiques": [str(folder) for folder in arguments.critiques]}
    write_in_parts(arguments.out, run, [[c.row() for c in kept]], list, SCHEMA, "critiques that agree")


if __name__ == "__main__":
    main()
