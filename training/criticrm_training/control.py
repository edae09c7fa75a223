"""`criticrm control`: does this training put into the reward what the critiques say, and nothing else?

A positive and a negative control with critiques made by rule, whose worth is known beforehand. An experiment whose
controls fail measures its own faults.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.files import write_json, write_text

from .answers import answer_text, equal, final_answer, stated_answer
from .critiques.records import SCHEMA, SIDES, Critique, SideName
from .critiques.verdict import DEFAULT_RULE, VerdictRule
from .data.pairs import PreferencePair, content_sha256, in_question_order, pair_row, read_pairs
from .data.sources import DataError
from .data.splits import split_by_prompt
from .evaluation.teacher_forced import teacher_forced_margins
from .parts import same_run, write_in_parts
from .stats import Estimate, difference, outcomes, pair_accuracy
from .training.config import ConfigError, TrainConfig
from .training.critic_trainer import SUMMARY
from .training.run import train

logger = logging.getLogger(__name__)

RESULTS = "control.json"
_PAIRS = "pairs.jsonl"  # those that are used
ENOUGH = 0.95  # accuracy after critiques that tell the truth
# Where accuracies are measured: on training pairs, on held-out pairs, and on these after critiques kept by label.
SEEN, UNSEEN, KEPT = "seen", "unseen", "unseen-kept"
_NOT_USED = ("critiques_per_response", "reward_critiques_per_response", "validation_critiques", "folds")

Accuracies = Mapping[str, Mapping[str, Estimate]]  # by arm, and by where they are measured


@dataclass(frozen=True, slots=True)
class Arm:
    """One training run, and the critiques that its reward is measured after.

    Attributes:
        learned, judged: of training pairs, for the critique loss and the reward loss; none for the scalar.
        seen: of training pairs.
        unseen, kept: of held-out pairs; `kept` are critiques that say nothing but the label, if any.
    """

    learned: Sequence[Critique]
    judged: Sequence[Critique]
    seen: Sequence[Critique]
    unseen: Sequence[Critique]
    kept: Sequence[Critique] = field(default=())

    @property
    def measured(self) -> dict[str, Sequence[Critique]]:
        """The critiques of each place where there are any."""
        places = {SEEN: self.seen, UNSEEN: self.unseen, KEPT: self.kept}
        return {place: critiques for place, critiques in places.items() if critiques}


def control(config: TrainConfig, out: Path, rule: VerdictRule = DEFAULT_RULE) -> dict[str, Any]:
    """Train five small models, measure their rewards teacher-forced, and write `out/control.json`.

    - `scalar`: no critiques.
    - `oracle`: critiques that tell by rule, from the pair's `reference`, whether the reply is right. Must reach 0.95 on
      held-out pairs.
    - `shuffled`: the same critiques, handed out to responses at random. Must be no better than the scalar.
    - `coupled`: critiques of a critic that knows nothing, kept where they agree with the label, under both losses. The
      reward reads the label off the filter: right on the training pairs and after any critiques that were kept by
      label, no better than the scalar on held-out pairs whose critiques nobody filtered.
    - `decoupled`: the same kept critiques under the critique loss, all of them under the reward loss. No such leak:
      critiques that were kept by label tell its reward less.

    Each is trained to its end, without choosing a checkpoint.

    Args:
        config: its base, data and training; its critiques, shares and folds are not used. The pairs need a `reference`;
            those whose answers can't be read, or whose label it contradicts, are left out and counted.

    Raises:
        ConfigError: no pairs are held out, or critiques of the rule are longer than `max_critique_tokens`.
        DataError: a pair has no reference, or none can be used.
        PartsError: `out` holds another run.
    """
    if not config.validation_share:
        raise ConfigError("validation_share: the controls are measured on held-out pairs; give it a share above 0")
    usable = _usable(read_pairs(config.data))
    unused = {"data", "critiques", "reward_critiques", "training_share", *_NOT_USED}
    settings = config.model_dump(mode="json", exclude=unused)
    same_run(out, {"config": settings, "pairs": content_sha256(usable), "rule": rule.model_dump()})
    write_text(out / _PAIRS, "".join(json.dumps(pair_row(pair)) + "\n" for pair in usable))
    config = config.model_copy(update={"data": str(out / _PAIRS)})
    training, held_out = split_by_prompt(in_question_order(read_pairs(config.data)), config.validation_share)
    arms = _arms(training, held_out, rule)
    logger.info("controls on %d training and %d held-out pairs", len(training), len(held_out))
    margins: dict[str, dict[str, list[float]]] = {}
    for name, arm in arms.items():
        _fit(config, out / name, arm)
        if name == "scalar":  # the first checkpoint, whose tokenizer says how long critiques are
            _require_room(out / name, (c for other in arms.values() for c in (*other.learned, *other.judged)))
        margins[name] = {
            place: _margins(out / name, place, training if place == SEEN else held_out, critiques)
            for place, critiques in arm.measured.items()
        }
    groups = {place: [p.group for p in (training if place == SEEN else held_out)] for place in (SEEN, UNSEEN, KEPT)}
    accuracies = {
        name: {place: pair_accuracy(found, groups[place]) for place, found in places.items()}
        for name, places in margins.items()
    }
    checks = _checks(accuracies, {name: places[UNSEEN] for name, places in margins.items()}, groups[UNSEEN])
    report = {
        "pairs": {"training": len(training), "held-out": len(held_out)},
        "accuracy": {name: {place: asdict(a) for place, a in places.items()} for name, places in accuracies.items()},
        "checks": checks,
    }
    write_json(out / RESULTS, report)
    for name, places in accuracies.items():
        found = "   ".join(f"{place} {a.value:.3f} [{a.low:.3f}, {a.high:.3f}]" for place, a in places.items())
        logger.info("%-10s %s", name, found)
    for check, held in checks.items():
        logger.info("%s: %s", "holds" if held else "FAILS", check)
    return report


def oracle_critiques(pairs: Sequence[PreferencePair], rule: VerdictRule = DEFAULT_RULE) -> list[Critique]:
    """What a critic that knows the reference would write; of both responses.

    Raises:
        DataError: a pair has no reference, an answer can't be read, or the reference contradicts the label.
    """
    found = []
    for pair in pairs:
        if fault := _fault(pair):
            raise DataError(f"pair {pair.id!r}: {fault}")
        right = final_answer(pair.reference or "")
        for side in SIDES:
            reply = stated_answer(pair.response(side))
            text = f"The answer is {answer_text(right)}.\n{rule.line(right, reply)}"
            found.append(_critique(pair.id, side, 0, text, equal(right, reply)))
    return found


def _fault(pair: PreferencePair) -> str:
    """Why no controls can be made from the pair; empty if they can."""
    if pair.reference is None:
        return "no `reference`, which the controls are made from"
    right = final_answer(pair.reference)
    if not right:
        return "`reference` holds no answer that can be read"
    for side in SIDES:
        reply = stated_answer(pair.response(side))
        if not reply:
            return f"the {side} response states no answer"
        if equal(right, reply) != (side == "chosen"):
            return f"by its reference the {side} response is {'wrong' if side == 'chosen' else 'right'}"
    return ""


def _usable(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Those that controls can be made from; the others are counted in the log.

    Raises:
        DataError: a pair has no reference, or none is left.
    """
    faults = {pair.id: fault for pair in pairs if (fault := _fault(pair))}
    without = next((pair for pair in pairs if pair.reference is None), None)
    if without is not None or len(faults) == len(pairs):
        first = pairs[0] if without is None else without
        raise DataError(f"pair {first.id!r}: {faults[first.id]}")
    for fault, n in Counter(faults.values()).items():
        logger.warning("%d of %d pairs are left out: %s", n, len(pairs), fault)
    return [pair for pair in pairs if pair.id not in faults]


def shuffled(pairs: Sequence[PreferencePair], critiques: Sequence[Critique], seed: int = 0) -> list[Critique]:
    """The same texts handed out anew, one a response of the pairs, so that a verdict tells nothing of its response."""
    draw = random.Random(seed)
    texts = {}
    for verdict in (True, False):
        those = [c.text for c in critiques if c.verdict == verdict]
        texts[verdict] = cycle(draw.sample(those, len(those)))
    return [
        _critique(pair_id, side, 0, next(texts[verdict]), verdict)
        for (pair_id, side), verdict in _uninformed_verdicts(pairs).items()
    ]


def blind_critiques(pairs: Sequence[PreferencePair], rule: VerdictRule = DEFAULT_RULE) -> list[Critique]:
    """Two critiques of each response by a critic that knows nothing: as often right as wrong."""
    return [
        _critique(pair.id, side, i, rule.right if verdict else rule.wrong, verdict)
        for pair in pairs
        for side in SIDES
        for i, verdict in enumerate((True, False))
    ]


def _arms(
    training: Sequence[PreferencePair], held_out: Sequence[PreferencePair], rule: VerdictRule
) -> Mapping[str, Arm]:
    oracle, unseen_oracle = oracle_critiques(training, rule), oracle_critiques(held_out, rule)
    mixed, unseen_mixed = shuffled(training, oracle), shuffled(held_out, unseen_oracle)
    everything, unseen_all = blind_critiques(training, rule), blind_critiques(held_out, rule)
    kept, unseen_kept = _kept_by_label(everything), _kept_by_label(unseen_all)
    drawn_verdicts = _uninformed_verdicts(held_out)
    drawn = [c for c in unseen_all if c.verdict == drawn_verdicts[c.pair_id, c.side]]
    return {
        "scalar": Arm([], [], _empty(training), _empty(held_out)),
        "oracle": Arm(oracle, oracle, oracle, unseen_oracle),
        "shuffled": Arm(mixed, mixed, mixed, unseen_mixed),
        "coupled": Arm(kept, kept, kept, drawn, unseen_kept),
        "decoupled": Arm(kept, everything, kept, drawn, unseen_kept),
    }


def _uninformed_verdicts(pairs: Sequence[PreferencePair]) -> dict[tuple[str, SideName], bool]:
    """One a response: of each four pairs they call both responses right, both wrong, the chosen one alone right, and
    the rejected one alone. A coin would, on average.
    """
    return {(pair.id, side): bool(i >> j & 1) for i, pair in enumerate(pairs) for j, side in enumerate(SIDES)}


def _kept_by_label(critiques: Sequence[Critique]) -> list[Critique]:
    return [c for c in critiques if c.verdict == (c.side == "chosen")]


def _fit(config: TrainConfig, folder: Path, arm: Arm) -> None:
    if (folder / SUMMARY).is_file():
        return
    changes: dict[str, Any] = dict.fromkeys(_NOT_USED) | {
        "critiques": (),
        "reward_critiques": (),
        "training_share": 1.0,
    }
    # The last step is measured: a best one would be chosen after critiques that a hardly trained model writes.
    changes["trainer"] = config.trainer | {"eval_strategy": "no", "push_to_hub": False}
    if arm.learned:
        changes["critiques"] = (_keep(folder.with_name(f"{folder.name}-learned"), arm.learned),)
    if arm.judged != arm.learned:
        changes["reward_critiques"] = (_keep(folder.with_name(f"{folder.name}-judged"), arm.judged),)
    train(config.model_copy(update=changes), folder, scalar=not arm.learned)


def _require_room(folder: Path, critiques: Iterable[Critique]) -> None:
    """Raises ConfigError: a critique would lose its end, where the verdict is."""
    checkpoint = Checkpoint.open(folder)
    longest = max(len(checkpoint.renderer.tokenize_critique(text)) for text in {c.text for c in critiques})
    if longest > (limit := checkpoint.manifest.max_critique_tokens):
        raise ConfigError(
            f"max_critique_tokens: {limit} would cut the controls' critiques, of which the longest has {longest} "
            "tokens; raise it, and choose another --out"
        )


def _margins(folder: Path, place: str, pairs: Sequence[PreferencePair], critiques: Sequence[Critique]) -> list[float]:
    written = _keep(folder / f"{place}-critiques", critiques)
    run = {"pairs": content_sha256(pairs)}
    margins: list[float] = teacher_forced_margins(folder, pairs, written, out=folder / place, run=run)[0].tolist()
    return margins


def _checks(accuracies: Accuracies, margins: Mapping[str, Sequence[float]], groups: Sequence[str]) -> dict[str, bool]:
    """`margins` and their `groups` on held-out pairs."""

    def better_than_scalar(arm: str) -> bool:
        return difference(outcomes(margins[arm]), outcomes(margins["scalar"]), groups).low > 0

    coupled, decoupled = accuracies["coupled"], accuracies["decoupled"]
    return {
        f"oracle critiques are read on unseen pairs (at least {ENOUGH})": accuracies["oracle"][UNSEEN].value >= ENOUGH,
        "shuffled critiques are no better than the scalar": not better_than_scalar("shuffled"),
        "coupled losses leak the label (training pairs above unseen ones)": coupled[SEEN].low > coupled[UNSEEN].high,
        "coupled losses leak the label (kept critiques above all of them)": coupled[KEPT].low > coupled[UNSEEN].high,
        "the leak is worth nothing on unseen pairs": not better_than_scalar("coupled"),
        "decoupled losses do not leak": decoupled[KEPT].high < coupled[KEPT].low,
    }


def _keep(folder: Path, critiques: Sequence[Critique]) -> Path:
    write_in_parts(folder, {}, [[c.row() for c in critiques]], list, SCHEMA, folder.name)
    return folder


def _critique(pair_id: str, side: SideName, sample: int, text: str, verdict: bool | None) -> Critique:
    return Critique(pair_id, side, sample, text, None, "stop", 0, verdict)


def _empty(pairs: Sequence[PreferencePair]) -> list[Critique]:
    """After an empty critique the reward is the one before any."""
    return [_critique(pair.id, side, 0, "", None) for pair in pairs for side in SIDES]
