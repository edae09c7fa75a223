"""`criticrm control`: does this training put into the reward what the critiques say, and nothing else?

A positive and a negative control with critiques made by rule, whose worth is known beforehand. An experiment whose
controls fail measures its own faults.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from criticrm_model.files import write_json

from .answers import answer_text, equal, stated_answer
from .critiques.records import SCHEMA, SIDES, Critique, SideName
from .critiques.verdict import DEFAULT_RULE, VerdictRule
from .data.pairs import PreferencePair, content_sha256, in_question_order, read_pairs
from .data.sources import DataError
from .data.splits import split_by_prompt
from .evaluation.teacher_forced import teacher_forced_margins
from .parts import write_in_parts
from .stats import Estimate, difference, outcomes, pair_accuracy
from .training.config import TrainConfig
from .training.run import train

logger = logging.getLogger(__name__)

RESULTS = "control.json"
ENOUGH = 0.95  # accuracy after critiques that tell the truth
_COINS = 4  # critiques a response of the critic that knows nothing


@dataclass(frozen=True, slots=True)
class Arm:
    """One training run, and the critiques that its reward is measured after.

    Attributes:
        learned, judged: for the critique loss and the reward loss; none for the scalar.
        seen, unseen: of training and of held-out pairs, one reading a critique.
    """

    learned: Sequence[Critique]
    judged: Sequence[Critique]
    seen: Sequence[Critique]
    unseen: Sequence[Critique]


def control(config: TrainConfig, out: Path, rule: VerdictRule = DEFAULT_RULE) -> dict[str, Any]:
    """Train five small models, measure their rewards teacher-forced on unseen pairs, and write `out/control.json`.

    - `scalar`: no critiques.
    - `oracle`: critiques that tell by rule, from the pair's `reference`, whether the reply is right. Must reach 0.95.
    - `shuffled`: the same critiques, each at another response. Must be no better than the scalar.
    - `coupled`: critiques of a critic that tosses a coin, kept where they agree with the label, under both losses. The
      reward reads the label off the filter: right on the training pairs, no better than chance on others.
    - `decoupled`: the same kept critiques under the critique loss, all of them under the reward loss. No such leak.

    Args:
        config: its base, data and training; its critiques are not used. The pairs need a `reference`.

    Raises:
        DataError: pairs have no reference, or one that states no answer.
    """
    training, held_out = split_by_prompt(in_question_order(read_pairs(config.data)), config.validation_share)
    arms = _arms(training, held_out, rule)
    logger.info("controls on %d training and %d held-out pairs", len(training), len(held_out))
    seen: dict[str, Estimate] = {}
    unseen: dict[str, Estimate] = {}
    margins: dict[str, list[float]] = {}
    groups = [pair.group for pair in held_out]
    for name, arm in arms.items():
        folder = out / name
        _fit(config, folder, arm)
        run = {"pairs": content_sha256([*training, *held_out])}
        for pairs, critiques, where in ((training, arm.seen, "seen"), (held_out, arm.unseen, "unseen")):
            measured = _keep(folder / f"{where}-critiques", critiques)
            found = teacher_forced_margins(folder, pairs, measured, out=folder / where, run=run)[0].tolist()
            accuracy = pair_accuracy(found, [pair.group for pair in pairs])
            (seen if where == "seen" else unseen)[name] = accuracy
            if where == "unseen":
                margins[name] = found
    checks = _checks(seen, unseen, margins, groups)
    report = {
        "pairs": {"training": len(training), "held-out": len(held_out)},
        "seen": {name: asdict(a) for name, a in seen.items()},
        "unseen": {name: asdict(a) for name, a in unseen.items()},
        "checks": checks,
    }
    write_json(out / RESULTS, report)
    for name in arms:
        a, b = seen[name], unseen[name]
        logger.info(
            "%-10s seen %.3f [%.3f, %.3f]   unseen %.3f [%.3f, %.3f]",
            name, a.value, a.low, a.high, b.value, b.low, b.high,
        )  # fmt: skip
    for check, held in checks.items():
        logger.info("%s: %s", "holds" if held else "FAILS", check)
    return report


def oracle_critiques(pairs: Sequence[PreferencePair], rule: VerdictRule = DEFAULT_RULE) -> list[Critique]:
    """What a critic that knows the reference would write; of both responses.

    Raises:
        DataError: a pair has no reference, or an answer can't be read.
    """
    found = []
    for pair in pairs:
        right = stated_answer(pair.reference or "")
        if not right:
            raise DataError(f"pair {pair.id}: `reference` states no answer, which the controls are made from")
        for side in SIDES:
            reply = stated_answer(pair.response(side))
            if not reply:
                raise DataError(f"pair {pair.id}: the {side} response states no answer; leave the pair out")
            text = f"The answer is {answer_text(right)}.\n{rule.line(right, reply)}"
            found.append(_critique(pair.id, side, 0, text, verdict=equal(right, reply)))
    return found


def shuffled(critiques: Sequence[Critique], seed: int = 0) -> list[Critique]:
    """The same texts, each at another response."""
    texts = [(c.text, c.finish_reason) for c in critiques]
    random.Random(seed).shuffle(texts)
    return [replace(c, text=text, finish_reason=end) for c, (text, end) in zip(critiques, texts, strict=True)]


def coin_critiques(pairs: Sequence[PreferencePair], n: int, rule: VerdictRule = DEFAULT_RULE) -> list[Critique]:
    """`n` critiques a response of a critic that knows nothing: right or wrong by a coin of the pair's own."""
    found = []
    for pair in pairs:
        for side in SIDES:
            for i in range(n):
                digest = hashlib.sha256(f"{pair.id}\0{side}\0{i}".encode()).digest()
                said = bool(digest[0] & 1)
                found.append(_critique(pair.id, side, i, rule.right if said else rule.wrong, verdict=said))
    return found


def _arms(
    training: Sequence[PreferencePair], held_out: Sequence[PreferencePair], rule: VerdictRule
) -> Mapping[str, Arm]:
    oracle, unseen_oracle = oracle_critiques(training, rule), oracle_critiques(held_out, rule)
    mixed, unseen_mixed = shuffled(oracle), shuffled(unseen_oracle)
    coins, unseen_coins = coin_critiques(training, _COINS, rule), coin_critiques(held_out, 1, rule)
    kept = [c for c in coins if c.verdict == (c.side == "chosen")]
    return {
        "scalar": Arm([], [], _empty(training), _empty(held_out)),
        "oracle": Arm(oracle, oracle, oracle, unseen_oracle),
        "shuffled": Arm(mixed, mixed, mixed, unseen_mixed),
        "coupled": Arm(kept, kept, kept, unseen_coins),
        "decoupled": Arm(kept, coins, kept, unseen_coins),
    }


def _fit(config: TrainConfig, folder: Path, arm: Arm) -> None:
    changes: dict[str, Any] = {"validation_critiques": None, "critiques": (), "reward_critiques": ()}
    if arm.learned:
        changes["critiques"] = (_keep(folder.with_name(f"{folder.name}-learned"), arm.learned),)
    if arm.judged is not arm.learned:
        changes["reward_critiques"] = (_keep(folder.with_name(f"{folder.name}-judged"), arm.judged),)
    train(config.model_copy(update=changes), folder, scalar=not arm.learned)


def _checks(
    seen: Mapping[str, Estimate],
    unseen: Mapping[str, Estimate],
    margins: Mapping[str, Sequence[float]],
    groups: Sequence[str],
) -> dict[str, bool]:
    def better(ours: str, theirs: str) -> bool:
        return difference(outcomes(margins[ours]), outcomes(margins[theirs]), groups).low > 0

    return {
        f"oracle critiques are read on unseen pairs (at least {ENOUGH})": unseen["oracle"].value >= ENOUGH,
        "shuffled critiques are no better than the scalar": not better("shuffled", "scalar"),
        "coupled losses leak the label (seen above unseen)": seen["coupled"].low > unseen["coupled"].high,
        "the leak is worth nothing on unseen pairs": not better("coupled", "scalar"),
        "decoupled losses do not leak": seen["decoupled"].high < seen["coupled"].low,
    }


def _keep(folder: Path, critiques: Sequence[Critique]) -> Path:
    write_in_parts(folder, {}, [[c.row() for c in critiques]], list, SCHEMA, folder.name)
    return folder


def _critique(pair_id: str, side: SideName, sample: int, text: str, verdict: bool | None) -> Critique:
    return Critique(pair_id, side, sample, text, None, "stop", 0, verdict)


def _empty(pairs: Sequence[PreferencePair]) -> list[Critique]:
    """After an empty critique the reward is the one before any."""
    return [_critique(pair.id, side, 0, "", None) for pair in pairs for side in SIDES]
