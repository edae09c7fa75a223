"""`criticrm control`: does this training put into the reward what the critiques say, and nothing else?

A positive and a negative control with critiques made by rule, whose worth is known beforehand. If a control
fails, the data or the training is at fault, and no other result of the experiment can be trusted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from criticrm_model import Manifest
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.files import write_json, write_text

from .control_critiques import (
    Rules,
    blind_critiques,
    empty_critiques,
    kept_by_label,
    oracle_critiques,
    shuffled,
    uninformed_verdicts,
    usable_pairs,
)
from .critiques.critique_task import TaskError, Tasks
from .critiques.records import SCHEMA, Critique
from .data.overlong import render_pairs
from .data.pairs import PreferencePair, content_sha256, pair_row, read_pairs
from .data.splits import in_question_order, split_by_prompt
from .evaluation.items import as_item
from .evaluation.teacher_forced import read_by_transformers, teacher_forced_margins
from .parts import same_run, write_in_parts
from .stats import Estimate, difference, outcomes, pair_accuracy
from .training.critic_trainer import SUMMARY
from .training.run import train
from .training.train_config import ConfigError, TrainConfig

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


def control(config: TrainConfig, out: Path, tasks: Tasks) -> dict[str, Any]:
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
            those whose answers can't be read, or whose label it contradicts, are left out and counted, and so are those
            that are too long where `overlong` is "drop".
        tasks: by whose rules the critiques are written.

    Raises:
        ConfigError: no pairs are held out, or critiques of the rules are longer than `max_critique_tokens`.
        DataError: a pair has no reference, or none can be used.
        PartsError: `out` holds another run.
        TaskError: there is no task for a pair's category, or it has no rule.
    """
    if not config.validation_share:
        raise ConfigError("validation_share: the controls are measured on held-out pairs; give it a share above 0")
    usable = usable_pairs(read_pairs(config.data, config.objective.rewards))
    rules = _rules(usable, tasks)
    unused = {"data", "critiques", "reward_critiques", "training_share", *_NOT_USED}
    settings = config.model_dump(mode="json", exclude=unused)
    described = {category: rule.model_dump() for category, rule in sorted(rules.items())}
    same_run(out, {"config": settings, "pairs": content_sha256(usable), "rules": described})
    write_text(out / _PAIRS, "".join(json.dumps(pair_row(pair)) + "\n" for pair in usable))
    config = config.model_copy(update={"data": str(out / _PAIRS)})
    pairs = in_question_order(read_pairs(config.data, config.objective.rewards))
    training, held_out = split_by_prompt(pairs, config.validation_share)
    arms = _arms(training, held_out, rules)
    logger.info("controls on %d training and %d held-out pairs", len(training), len(held_out))
    margins: dict[str, dict[str, list[float]]] = {}
    for name, arm in arms.items():
        _fit(config, out / name, arm)
        if name == "scalar":  # the first checkpoint, whose tokenizer says how long critiques and prompts are
            _require_room(out / name, (c for other in arms.values() for c in (*other.learned, *other.judged)))
            training, held_out = (_fitting(pairs, out / name, config) for pairs in (training, held_out))
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


def _rules(pairs: Sequence[PreferencePair], tasks: Tasks) -> Rules:
    """Raises TaskError: there is no task for a pair's category, or it has no rule."""
    rules = tasks.rules(pair.category for pair in pairs)
    if without := [repr(category) for category, rule in rules.items() if rule is None]:
        raise TaskError(
            f"the task of the category {', '.join(without)} has no verdict, by whose rule the controls are written; "
            "choose another --task for it, such as reasoning"
        )
    return {category: rule for category, rule in rules.items() if rule is not None}


def _arms(training: Sequence[PreferencePair], held_out: Sequence[PreferencePair], rules: Rules) -> Mapping[str, Arm]:
    oracle, unseen_oracle = oracle_critiques(training, rules), oracle_critiques(held_out, rules)
    mixed, unseen_mixed = shuffled(training, oracle), shuffled(held_out, unseen_oracle)
    everything, unseen_all = blind_critiques(training, rules), blind_critiques(held_out, rules)
    kept, unseen_kept = kept_by_label(everything), kept_by_label(unseen_all)
    drawn_verdicts = uninformed_verdicts(held_out)
    drawn = [c for c in unseen_all if c.verdict == drawn_verdicts[c.pair_id, c.side]]
    return {
        "scalar": Arm([], [], empty_critiques(training), empty_critiques(held_out)),
        "oracle": Arm(oracle, oracle, oracle, unseen_oracle),
        "shuffled": Arm(mixed, mixed, mixed, unseen_mixed),
        "coupled": Arm(kept, kept, kept, drawn, unseen_kept),
        "decoupled": Arm(kept, everything, kept, drawn, unseen_kept),
    }


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


def _fitting(pairs: Sequence[PreferencePair], folder: Path, config: TrainConfig) -> list[PreferencePair]:
    """The pairs that a training keeps; it logs how many it drops, and those are not measured either."""
    return render_pairs(
        pairs,
        Checkpoint.open(folder).renderer,
        max_model_len=config.max_model_len,
        max_critique_tokens=config.max_critique_tokens,
        overlong=config.overlong,
        name="measured pairs",
    ).pairs


def _margins(folder: Path, place: str, pairs: Sequence[PreferencePair], critiques: Sequence[Critique]) -> list[float]:
    written = _keep(folder / f"{place}-critiques", critiques)
    run = {"pairs": content_sha256(pairs)}
    items = [as_item(pair, Manifest.load(folder).slots) for pair in pairs]
    reader = read_by_transformers(folder)
    margins: list[float] = teacher_forced_margins(reader, items, written, out=folder / place, run=run)[0].tolist()
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
