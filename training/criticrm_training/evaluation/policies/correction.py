"""`criticrm correct`: does a policy that reads the critique of its answer correct more than one that just tries again?

arXiv 2411.16646 reports what its critiques add to the accuracy of corrected reasoning; the control here, the same
request to revise without a critique, keeps the gain of a second try out of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from criticrm_model.files import write_json
from criticrm_model.prompt import Message

from ...answers import equal, final_answer
from ...critiques.sample import task_seed
from ...critiques.writers import Conversation, Sampling
from ...stats import pair_accuracy, paired_difference
from ..serving import scoring_service
from .answer_scores import score_answers
from .policy import PolicySettings, answer, rows_sha256
from .questions import Question, questions_sha256

logger = logging.getLogger(__name__)

RESULTS = "correction.json"
# The control is the same request, less the critique.
REQUEST = (
    "Check your answer and revise it where it is wrong. Write the whole solution again, with the final answer last."
)
CRITIQUE = "A reviewer says of your answer:\n\n"
BEFORE, CRITIQUED, CONTROL = "before", "after critique", "after control"

Right = dict[str, list[bool]]  # by stage, [questions]


def correct(
    questions: Sequence[Question],
    out: Path,
    *,
    policy: PolicySettings,
    max_tokens: int,
    model: str,
    url: str | None,
    key: str | None,
    concurrency: int,
) -> dict[str, Any]:
    """Answer, critique, revise, grade, report, and write `out/correction.json`; each stage stays beside it.

    Args:
        policy: answers and revises, greedily, in up to `max_tokens` tokens.
        model: the Critic-RM, served for as long as it takes, unless `url` names a service that runs.

    Raises:
        WriterError, EndpointError, PartsError, ServingError
    """
    greedy = Sampling(n=1, temperature=0.0, max_tokens=max_tokens)
    asked = [(q.id, Conversation(q.prompt, task_seed("answer", q.id))) for q in questions]
    run: dict[str, Any] = {"questions": questions_sha256(questions)}
    answers = answer(policy, asked, greedy, out=out / "answers", run=run, label="answers")

    with scoring_service(model, url, key=key, concurrency=concurrency) as (service, about):
        run = {"model_version": about["model_version"], "answers": rows_sha256(answers)}
        critiques = score_answers(questions, answers, service, out=out / "critiques", run=run)

    asked = [
        (q.id, Conversation(conversation, task_seed("revise", q.id)))
        for q, a, c in zip(questions, answers, critiques, strict=True)
        for conversation in revising(q, a["responses"][0], c["critiques"][0])
    ]
    run = {"critiques": rows_sha256(critiques), "answers": rows_sha256(answers), "request": [CRITIQUE, REQUEST]}
    revisions = answer(policy, asked, greedy, out=out / "revisions", run=run, label="revisions")

    stages = {BEFORE: answers, CRITIQUED: revisions[0::2], CONTROL: revisions[1::2]}
    right = {
        stage: [equal(q.answer, final_answer(row["responses"][0])) for q, row in zip(questions, rows, strict=True)]
        for stage, rows in stages.items()
    }
    report = {
        "model": str(about["model"]),
        "model_version": about["model_version"],
        "policy": policy.model,
        "questions": len(questions),
        **summary(right, [q.group for q in questions]),
        "ended": {stage: sum(row["ended"][0] for row in rows) / len(rows) for stage, rows in stages.items()},
        "critiques_ended": sum(row["ended"][0] for row in critiques) / len(critiques),
        "request": [CRITIQUE, REQUEST],
    }
    write_json(out / RESULTS, report)
    logger.info("%s\nwrote %s", as_table(report), out / RESULTS)
    return report


def revising(question: Question, response: str, critique: str) -> list[tuple[Message, ...]]:
    """What the policy is asked after its response: with the critique, and without it."""
    said = (*question.prompt, Message(role="assistant", content=response))
    requests = (f"{CRITIQUE}{critique}\n\n{REQUEST}", REQUEST)
    return [(*said, Message(role="user", content=request)) for request in requests]


def summary(right: Right, groups: Sequence[str]) -> dict[str, Any]:
    """Accuracy at each stage, what a stage gains on another, and how many answers it changed which way."""
    margins = {stage: [1.0 if r else -1.0 for r in flags] for stage, flags in right.items()}
    return {
        "accuracy": {stage: asdict(pair_accuracy(margin, groups)) for stage, margin in margins.items()},
        "differences": {
            f"{ours} - {theirs}": asdict(paired_difference(margins[ours], margins[theirs], groups))
            for ours, theirs in ((CRITIQUED, BEFORE), (CONTROL, BEFORE), (CRITIQUED, CONTROL))
        },
        "changes": {
            stage: {
                "wrong to right": sum(b > a for a, b in zip(right[BEFORE], right[stage], strict=True)),
                "right to wrong": sum(b < a for a, b in zip(right[BEFORE], right[stage], strict=True)),
            }
            for stage in (CRITIQUED, CONTROL)
        },
    }


def as_table(report: Mapping[str, Any]) -> str:
    """The report as text."""
    lines = [
        f"{report['model']}: accuracy of {report['policy']} on {report['questions']} questions "
        "[95 % interval, bootstrap over questions]",
        f"{'stage':<20}{'accuracy':<24}{'wrong to right':<18}right to wrong",
    ]
    for stage, a in report["accuracy"].items():
        changed = report["changes"].get(stage, {})
        cells = f"{a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}]"
        counts = f"{changed['wrong to right']:<18}{changed['right to wrong']}" if changed else ""
        lines.append(f"{stage:<20}{cells:<24}{counts}".rstrip())
    for name, gain in report["differences"].items():
        lines.append(f"{name}: {gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]")
    lines += [f"answers {stage} that end by themselves: {share:.1%}" for stage, share in report["ended"].items()]
    lines.append(f"critiques that end by themselves: {report['critiques_ended']:.1%}")
    return "\n".join(lines)
