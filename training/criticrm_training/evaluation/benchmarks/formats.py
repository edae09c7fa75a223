"""Published benchmarks as items: each row one prompt, its correct responses first."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.conversations import as_question
from ...data.sources import DataError, as_object, parsed
from ...data.splits import question_group
from ..items import EvaluationItem

# RewardBench's subsets by section, with the weights of its code (rewardbench/constants.py): the subsets' sizes, but
# math-prm (447 prompts) counts as much as the six code subsets together.
REWARDBENCH = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
RM_BENCH_DOMAINS = ("chat", "math", "code", "safety")
RM_BENCH_STYLES = ("concise", "detailed", "detailed with markdown")
JUDGEBENCH = {
    "mmlu-pro": "Knowledge",
    "livebench-reasoning": "Reasoning",
    "livebench-math": "Math",
    "livecodebench": "Coding",
}
TIES = "Ties"
_TIES_ID = re.compile(r"(ref|tied):\d+")


@dataclass(frozen=True, slots=True)
class Format:
    """How rows become items, and where the published ones are."""

    item: Callable[[int, dict[str, Any]], EvaluationItem]
    published: str


def read_items(name: str, source: Path | str) -> list[EvaluationItem]:
    """The items of a file or a dataset (`sources.rows`) in one of `FORMATS`.

    Raises:
        DataError: the source is missing, empty or broken, or a row is malformed; the message names row and field.
    """
    items = [item for _, item in parsed(source, lambda number, row: FORMATS[name].item(number, as_object(row)))]
    if not items:
        raise DataError(f"{source} holds no rows")
    return items


def _rewardbench(number: int, row: dict[str, Any]) -> EvaluationItem:
    """RewardBench (Lambert et al., arXiv 2403.13787; dataset card allenai/reward-bench, split `filtered`).

    prompt, chosen, rejected: text; subset: one of 23; id.
    """
    subset = _text(row, "subset")
    known = [name for section in REWARDBENCH.values() for name in section]
    if subset not in known:
        raise ValueError(f"subset: {subset!r} is none of {', '.join(known)}")
    return _item(number, row, "prompt", (_text(row, "chosen"), _text(row, "rejected")), 1, subset)


def _rewardbench2(number: int, row: dict[str, Any]) -> EvaluationItem:
    """RewardBench 2 (Malik et al., arXiv 2506.01937; dataset card allenai/reward-bench-2, split `test`).

    prompt: text; chosen, rejected: lists of text; subset; num_correct: how many are chosen; id, which in the subset
    Ties reads `ref:7` (a question with one answer) or `tied:7` (its fellow with several).
    """
    chosen, rejected = _texts(row, "chosen"), _texts(row, "rejected")
    subset = _text(row, "subset")
    if row.get("num_correct", len(chosen)) != len(chosen):
        raise ValueError(f"num_correct: {row['num_correct']}, but chosen holds {len(chosen)}")
    if subset.lower() != TIES.lower():
        return _item(number, row, "prompt", chosen + rejected, len(chosen), subset)
    kind, _, question = str(row["id"]).partition(":")
    if not _TIES_ID.fullmatch(str(row["id"])):
        raise ValueError(f"id: {row['id']!r} is neither 'ref:' nor 'tied:' and a number, as the subset Ties has it")
    if kind == "tied" and len(chosen) < 2:
        raise ValueError(f"chosen: a tied question has several correct responses, not {len(chosen)}")
    return _item(number, row, "prompt", chosen + rejected, len(chosen), TIES, group=f"ties {question}")


def _rm_bench(number: int, row: dict[str, Any]) -> EvaluationItem:
    """RM-Bench (Liu et al., arXiv 2410.16184; dataset card THU-KEG/RM-Bench, split `train`).

    prompt: text; chosen, rejected: three texts each, concise, detailed, detailed with markdown; domain: chat, code,
    math, safety-refuse, safety-response; id.
    """
    domain = _text(row, "domain")
    subset = next((name for name in RM_BENCH_DOMAINS if domain.startswith(name)), None)
    if subset is None:
        raise ValueError(f"domain: {domain!r} begins with none of {', '.join(RM_BENCH_DOMAINS)}")
    sides = [_texts(row, field) for field in ("chosen", "rejected")]
    for field, side in zip(("chosen", "rejected"), sides, strict=True):
        if len(side) != len(RM_BENCH_STYLES):
            raise ValueError(f"{field}: {len(side)} responses, not one in each of the 3 styles")
    return _item(number, row, "prompt", sides[0] + sides[1], len(RM_BENCH_STYLES), subset)


def _judgebench(number: int, row: dict[str, Any]) -> EvaluationItem:
    """JudgeBench (Tan et al., arXiv 2410.12784; dataset card ScalerLab/JudgeBench, splits `gpt` and `claude`).

    question, response_A, response_B: text; label: `A>B` or `B>A`; source: a data set, whose beginning tells the
    category; pair_id.
    """
    source, label = _text(row, "source"), row["label"]
    subset = next((category for prefix, category in JUDGEBENCH.items() if source.startswith(prefix)), None)
    if subset is None:
        raise ValueError(f"source: {source!r} begins with none of {', '.join(JUDGEBENCH)}")
    a, b = _text(row, "response_A"), _text(row, "response_B")
    if label not in ("A>B", "B>A"):
        raise ValueError(f"label: {label!r} is neither 'A>B' nor 'B>A'")
    return _item(number, row, "question", (a, b) if label == "A>B" else (b, a), 1, subset, id_field="pair_id")


FORMATS = {
    "rewardbench": Format(_rewardbench, "allenai/reward-bench@filtered"),
    "rewardbench2": Format(_rewardbench2, "allenai/reward-bench-2@test"),
    "rm-bench": Format(_rm_bench, "THU-KEG/RM-Bench"),
    "judgebench": Format(_judgebench, "ScalerLab/JudgeBench@gpt"),
}


def _item(
    number: int,
    row: dict[str, Any],
    prompt_field: str,
    responses: tuple[str, ...],
    correct: int,
    subset: str,
    *,
    id_field: str = "id",
    group: str | None = None,
) -> EvaluationItem:
    prompt = as_question(row[prompt_field], prompt_field)
    row_id = row.get(id_field)
    return EvaluationItem(
        str(number if row_id is None else row_id), prompt, responses, correct, subset, group or question_group(prompt)
    )


def _text(row: dict[str, Any], field: str) -> str:
    value = row[field]
    if not isinstance(value, str):
        raise ValueError(f"{field}: {type(value).__name__}, not text")
    return value


def _texts(row: dict[str, Any], field: str) -> tuple[str, ...]:
    values = row[field]
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{field}: not a list of texts")
    return tuple(values)
