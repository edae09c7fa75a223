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
from ...stats import difference, mean
from ..items import items_sha256
from ..scoring import describe_truncation, score_items, truncation
from ..serving import scoring_service
from .policy import PolicySettings, answer, rows_sha256
from .questions import Question, answered, questions_sha256

logger = logging.getLogger(__name__)

RESULTS = "correction.json"
# The control is the same request, less the critique.
REQUEST = (
    "Check your answer and revise it where it is wrong. Write the whole solution again, with the final answer last."
)
CRITIQUE = "A reviewer says of your answer:\n\n"
BEFORE, CRITIQUED, SAMPLED, CONTROL = "before", "after critique", "after a sampled critique", "after control"

Shares = Mapping[str, Sequence[float]]  # by stage, how much of each question is right: of several answers their mean


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
    samples: int = 0,
) -> dict[str, Any]:
    """Answer, critique, revise, grade, report, and write `out/correction.json`; each stage stays beside it.

    Args:
        policy: answers and revises, greedily, in up to `max_tokens` tokens.
        model: the Critic-RM, served for as long as it takes, unless `url` names a service that runs.
        samples: so many sampled critiques of each answer are handed back as well, one at a time: what a critique is
            worth without the luck of one draw. 0 leaves them out.

    Raises:
        WriterError, EndpointError, PartsError, ServingError
    """
    greedy = Sampling(n=1, temperature=0.0, max_tokens=max_tokens)
    asked = [(q.id, Conversation(q.prompt, task_seed("answer", q.id))) for q in questions]
    run: dict[str, Any] = {"questions": questions_sha256(questions)}
    answers = answer(policy, asked, greedy, out=out / "answers", run=run, label="answers")

    items = [answered(q, a["responses"]) for q, a in zip(questions, answers, strict=True)]
    with scoring_service(model, url, key=key, concurrency=concurrency) as (service, about):
        run = {"model_version": about["model_version"], "items": items_sha256(items)}
        critiques = score_items(items, service, samples=samples, out=out / "critiques", run=run, unit="question")

    asked = [
        (q.id, Conversation(conversation, task_seed("revise", q.id)))
        for q, a, c in zip(questions, answers, critiques, strict=True)
        for conversation in revising(q, a["responses"][0], [c["greedy_critique"], *c["sampled_critiques"]])
    ]
    run = {"critiques": rows_sha256(critiques), "answers": rows_sha256(answers), "request": [CRITIQUE, REQUEST]}
    revisions = answer(policy, asked, greedy, out=out / "revisions", run=run, label="revisions")

    k = 2 + samples  # revisions of a question: after the greedy critique, after each sampled one, after none
    stages: dict[str, list[list[dict[str, Any]]]] = {  # by question, its answers
        BEFORE: [[row] for row in answers],
        CRITIQUED: [[row] for row in revisions[0::k]],
        **({SAMPLED: [revisions[i + 1 : i + 1 + samples] for i in range(0, len(revisions), k)]} if samples else {}),
        CONTROL: [[row] for row in revisions[k - 1 :: k]],
    }
    right = {stage: [_share_right(*of) for of in zip(questions, rows, strict=True)] for stage, rows in stages.items()}
    report = {
        "model": str(about["model"]),
        "model_version": about["model_version"],
        "policy": policy.model,
        "questions": len(questions),
        "samples": samples,
        **summary(right, [q.group for q in questions]),
        "ended": {stage: _share_ended([row for of in rows for row in of]) for stage, rows in stages.items()},
        "critiques_ended": sum(row["ended"] for row in critiques) / len(critiques),
        "truncated": truncation(critiques),
        "request": [CRITIQUE, REQUEST],
    }
    write_json(out / RESULTS, report)
    logger.info("%s\nwrote %s", as_table(report), out / RESULTS)
    return report


def revising(question: Question, response: str, critiques: Sequence[str]) -> list[tuple[Message, ...]]:
    """What the policy is asked after its response: with each of the critiques, and last without one."""
    said = (*question.prompt, Message(role="assistant", content=response))
    requests = [*(f"{CRITIQUE}{critique}\n\n{REQUEST}" for critique in critiques), REQUEST]
    return [(*said, Message(role="user", content=request)) for request in requests]


def summary(right: Shares, groups: Sequence[str]) -> dict[str, Any]:
    """Accuracy at each stage, what a stage gains on another, and how many answers it changed which way.

    Of several sampled critiques the changes are means over these.
    """
    before, *after = right
    pairs = [(stage, before) for stage in after] + [(stage, CONTROL) for stage in after if stage != CONTROL]
    return {
        "accuracy": {stage: asdict(mean(shares, groups)) for stage, shares in right.items()},
        "differences": {
            f"{ours} - {theirs}": asdict(difference(right[ours], right[theirs], groups)) for ours, theirs in pairs
        },
        "changes": {
            stage: {
                "wrong to right": sum(max(b - a, 0) for a, b in zip(right[before], right[stage], strict=True)),
                "right to wrong": sum(max(a - b, 0) for a, b in zip(right[before], right[stage], strict=True)),
            }
            for stage in after
        },
    }


def as_table(report: Mapping[str, Any]) -> str:
    """The report as text."""
    lines = [
        f"{report['model']}: accuracy of {report['policy']} on {report['questions']} questions "
        "[95 % interval, bootstrap over questions]",
        f"{'stage':<26}{'accuracy':<24}{'wrong to right':<18}right to wrong",
    ]
    for stage, a in report["accuracy"].items():
        changed = report["changes"].get(stage, {})
        cells = f"{a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}]"
        counts = f"{changed['wrong to right']:<18g}{changed['right to wrong']:g}" if changed else ""
        lines.append(f"{stage:<26}{cells:<24}{counts}".rstrip())
    for name, gain in report["differences"].items():
        lines.append(f"{name}: {gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]")
    lines += [f"answers {stage} that end by themselves: {share:.1%}" for stage, share in report["ended"].items()]
    lines.append(f"critiques that end by themselves: {report['critiques_ended']:.1%}")
    lines.append(describe_truncation(report["truncated"]))
    return "\n".join(lines)


def _share_right(question: Question, answers: Sequence[Mapping[str, Any]]) -> float:
    return sum(equal(question.answer, final_answer(row["responses"][0])) for row in answers) / len(answers)


def _share_ended(answers: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(row["ended"][0] for row in answers)) / len(answers)
