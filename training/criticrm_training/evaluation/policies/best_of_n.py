"""`criticrm best-of-n`: is the answer that the reward picks among k more often right than one at random?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from criticrm_model.files import write_json

from ...answers import equal, final_answer, votes
from ...critiques.sample import task_seed
from ...critiques.writers import Conversation, Sampling
from ...stats import difference, mean
from ..frontier import describe_frontier, frontier, require_scales
from ..items import items_sha256
from ..outcomes import mean_of
from ..scoring import (
    DIRECT,
    by_item,
    describe_truncation,
    method_scores,
    sampled_scores,
    score_items,
    truncation,
)
from ..serving import scoring_service
from .choosing import any_of_k, best_of_k, majority_of_k, powers
from .policy import PolicySettings, answer
from .questions import Question, answered, questions_sha256

logger = logging.getLogger(__name__)

RESULTS = "best_of_n.json"
RANDOM, MAJORITY, ORACLE = "random", "majority vote", "oracle"

Shares = dict[str, npt.NDArray[np.float64]]  # by method, [questions]


def best_of_n(
    questions: Sequence[Question],
    out: Path,
    *,
    policy: PolicySettings | None,
    sampling: Sampling,
    seed: int,
    model: str,
    url: str | None,
    key: str | None,
    concurrency: int,
    samples: int = 0,
    with_frontier: bool = False,
) -> dict[str, Any]:
    """Sample, score, grade, report, and write `out/best_of_n.json`; answers and scores stay beside it.

    Args:
        policy: answers each question `sampling.n` times; without one, the questions' own responses are taken.
        model: the Critic-RM, served for as long as it takes, unless `url` names a service that runs.
        samples: the mean reward over so many sampled critiques chooses too; 0 leaves it out.
        with_frontier: also report what critiques only where they matter would give.

    Raises:
        DataError: the checkpoint has no scale for a frontier.
        WriterError, EndpointError, PartsError, ServingError
    """
    if policy:
        asked = [(q.id, Conversation(q.prompt, task_seed("best-of-n", seed, q.id))) for q in questions]
        run = {"questions": questions_sha256(questions), "seed": seed}
        answers = answer(policy, asked, sampling, out=out / "answers", run=run, label="answers")
    else:
        answers = [{"id": q.id, "responses": list(q.responses), "ended": []} for q in questions]

    items = [answered(q, row["responses"]) for q, row in zip(questions, answers, strict=True)]
    with scoring_service(model, url, key=key, concurrency=concurrency) as (service, about):
        if with_frontier:
            require_scales(about["manifest"])
        run = {"model_version": about["model_version"], "items": items_sha256(items)}
        rows = score_items(
            items, service, samples=samples, trace=with_frontier, out=out / "scores", run=run, unit="question"
        )
    rewards = method_scores(rows) | ({mean_of(samples): sampled_scores(rows).mean(axis=1)} if samples else {})
    scores = {method: by_item(items, found.tolist()) for method, found in rewards.items()}

    parsed = [[final_answer(text) for text in row["responses"]] for row in answers]
    right = [[equal(q.answer, found) for found in row] for q, row in zip(questions, parsed, strict=True)]
    voted = [votes(row) for row in parsed]
    groups = [q.group for q in questions]
    by_k = {k: accuracies(k, scores, right, voted) for k in powers(len(right[0]))}
    last = by_k[len(right[0])]
    report = {
        "model": str(about["model"]),
        "model_version": about["model_version"],
        "policy": policy.model if policy else None,
        "questions": len(questions),
        "n": len(right[0]),
        "temperature": sampling.temperature if policy else None,
        "accuracy": {
            method: {str(k): asdict(mean(shares[method], groups)) for k, shares in by_k.items()} for method in last
        },
        "differences": {
            f"{ours} - {theirs}": asdict(difference(last[ours], last[theirs], groups))
            for ours, theirs in _compared(list(scores))
        },
        "shares": {
            "answers without a number": _share([not found for row in parsed for found in row]),
            "answers that end by themselves": _share([e for row in answers for e in row["ended"]]),
            "critiques that end by themselves": _share([row["ended"] for row in rows]),
        },
        "truncated": truncation(rows),
    }
    lines = [as_table(report)]
    if with_frontier:
        report["frontier"] = points = frontier(by_item(items, rows), right, about["manifest"], groups, [samples])
        lines.append(describe_frontier(points))
    write_json(out / RESULTS, report)
    logger.info("%s\nwrote %s", "\n".join(lines), out / RESULTS)
    return report


def accuracies(
    k: int,
    scores: Mapping[str, Sequence[Sequence[float]]],
    right: Sequence[Sequence[bool]],
    voted: Sequence[Sequence[int]],
) -> Shares:
    """How often each method's choice among k is right, for each question.

    The methods: one answer at random, each reward, the majority, and one who knows.

    Args:
        scores: of the answers by reward, `[questions, n]` each.
        right, voted: of the answers, `[questions, n]`; of `equal` and `votes`.
    """
    chosen = {
        method: np.array([best_of_k(s, r, k) for s, r in zip(rewards, right, strict=True)])
        for method, rewards in scores.items()
    }
    return {
        RANDOM: np.array([sum(r) / len(r) for r in right]),
        **chosen,
        MAJORITY: np.array([majority_of_k(v, r, k) for v, r in zip(voted, right, strict=True)]),
        ORACLE: np.array([any_of_k(r, k) for r in right]),
    }


def _compared(rewards: Sequence[str]) -> list[tuple[str, str]]:
    """Each reward with a choice at random and with the majority; those after critiques with the one before."""
    pairs = [(reward, other) for reward in rewards for other in (RANDOM, MAJORITY)]
    return pairs + [(reward, DIRECT) for reward in rewards if reward != DIRECT]


def as_table(report: Mapping[str, Any]) -> str:
    """The report as text: a row a method, a column a k."""
    ks = list(report["accuracy"][RANDOM])
    lines = [
        f"{report['model']}: accuracy of one answer of k [95 % interval, bootstrap over questions], "
        f"{report['questions']} questions, n = {report['n']}, policy {report['policy'] or '(provided answers)'}",
        f"{'k':<18}" + "".join(f"{k:<24}" for k in ks).rstrip(),
    ]
    for method, row in report["accuracy"].items():
        cells = (f"{a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}]" for a in row.values())
        lines.append(f"{method:<18}" + "".join(f"{cell:<24}" for cell in cells).rstrip())
    for name, gain in report["differences"].items():
        lines.append(f"{name} at {report['n']}: {gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]")
    lines += [f"{name}: {share:.1%}" for name, share in report["shares"].items() if share is not None]
    lines.append(describe_truncation(report["truncated"]))
    return "\n".join(lines)


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
