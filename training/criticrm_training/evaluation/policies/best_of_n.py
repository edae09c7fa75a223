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
from ...stats import mean_accuracy
from ..serving import scoring_service
from .answer_scores import score_answers
from .choosing import any_of_k, best_of_k, majority_of_k, powers
from .policy import PolicySettings, answer, rows_sha256
from .questions import Question, questions_sha256

logger = logging.getLogger(__name__)

RESULTS = "best_of_n.json"
RANDOM, DIRECT, CRITIQUED, MAJORITY, ORACLE = METHODS = (
    "random",
    "direct score",
    "after critique",
    "majority vote",
    "oracle",
)

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
) -> dict[str, Any]:
    """Sample, score, grade, report, and write `out/best_of_n.json`; answers and scores stay beside it.

    Args:
        policy: answers each question `sampling.n` times; without one, the questions' own responses are taken.
        model: the Critic-RM, served for as long as it takes, unless `url` names a service that runs.

    Raises:
        WriterError, EndpointError, PartsError, ServingError
    """
    if policy:
        asked = [(q.id, Conversation(q.prompt, task_seed("best-of-n", seed, q.id))) for q in questions]
        run = {"questions": questions_sha256(questions), "seed": seed}
        answers = answer(policy, asked, sampling, out=out / "answers", run=run, label="answers")
    else:
        answers = [{"id": q.id, "responses": list(q.responses), "ended": []} for q in questions]

    with scoring_service(model, url, key=key, concurrency=concurrency) as (service, about):
        run = {"model_version": about["model_version"], "answers": rows_sha256(answers)}
        scores = score_answers(questions, answers, service, out=out / "scores", run=run)

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
            method: {str(k): asdict(mean_accuracy(shares[method], groups)) for k, shares in by_k.items()}
            for method in METHODS
        },
        "differences": {
            f"{ours} - {theirs}": asdict(mean_accuracy(last[ours] - last[theirs], groups))
            for ours, theirs in ((CRITIQUED, RANDOM), (CRITIQUED, DIRECT), (CRITIQUED, MAJORITY), (DIRECT, RANDOM))
        },
        "shares": {
            "answers without a number": _share([not found for row in parsed for found in row]),
            "answers that end by themselves": _share([e for row in answers for e in row["ended"]]),
            "answers cut to be scored": _share([t for row in scores for t in row["truncated"]]),
            "critiques that end by themselves": _share([e for row in scores for e in row["ended"]]),
        },
    }
    write_json(out / RESULTS, report)
    logger.info("%s\nwrote %s", as_table(report), out / RESULTS)
    return report


def accuracies(
    k: int, scores: Sequence[Mapping[str, Any]], right: Sequence[Sequence[bool]], voted: Sequence[Sequence[int]]
) -> Shares:
    """How often each method's choice among k is right, for each question.

    Args:
        scores: of `score_answers`.
        right, voted: of the answers, `[questions, n]`; of `equal` and `votes`.
    """
    return {
        RANDOM: np.array([sum(r) / len(r) for r in right]),
        DIRECT: np.array([best_of_k(s["direct_scores"], r, k) for s, r in zip(scores, right, strict=True)]),
        CRITIQUED: np.array([best_of_k(s["scores"], r, k) for s, r in zip(scores, right, strict=True)]),
        MAJORITY: np.array([majority_of_k(v, r, k) for v, r in zip(voted, right, strict=True)]),
        ORACLE: np.array([any_of_k(r, k) for r in right]),
    }


def as_table(report: Mapping[str, Any]) -> str:
    """The report as text: a row a method, a column a k."""
    ks = list(report["accuracy"][RANDOM])
    lines = [
        f"{report['model']}: accuracy of one answer of k [95 % interval, bootstrap over questions], "
        f"{report['questions']} questions, n = {report['n']}, policy {report['policy'] or '(given answers)'}",
        f"{'k':<18}" + "".join(f"{k:<24}" for k in ks).rstrip(),
    ]
    for method, row in report["accuracy"].items():
        cells = (f"{a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}]" for a in row.values())
        lines.append(f"{method:<18}" + "".join(f"{cell:<24}" for cell in cells).rstrip())
    for name, gain in report["differences"].items():
        lines.append(f"{name} at {report['n']}: {gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]")
    lines += [f"{name}: {share:.1%}" for name, share in report["shares"].items() if share is not None]
    return "\n".join(lines)


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
