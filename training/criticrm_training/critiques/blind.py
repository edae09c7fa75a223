"""`criticrm critiques sample --blind`: the derivation from the prompt alone, then the comparison with the reply.

A small critic that sees the reply copies it. So its own answer is derived without one, once for all responses of a
prompt; a critique is a derivation and the line that compares its answer with the reply's. The answers are read by
`answers.stated_answer`; a derivation or a reply that states none gives no critique.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import tee
from pathlib import Path
from typing import Any

import pyarrow as pa

from criticrm_model.prompt import Message

from ..answers import stated_answer
from ..data.pairs import PreferencePair
from ..parts import in_chunks, read_parts, stream_in_parts
from .critique_task import CritiqueTask, TaskError, Tasks
from .records import SCHEMA, SIDES, Critique
from .sample import SampleSettings, asked, described, task_seed
from .sentences import whole_sentences
from .verdict import closing_verdict
from .verdict import verdict as read_verdict
from .writers import Conversation, Draft, Request, Sampling, Writer, WritingTask, drafts_in_order

# As many sequences as in a part of ordinary critiques.
_PAIRS_PER_PART, _PROMPTS_PER_PART = 64, 128

DERIVATIONS = "derivations"  # folder, in that of the critiques
DERIVATION_SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),  # prompt_sha256
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("tokens", pa.int32()),
    ]
)
Compared = Sequence[tuple[PreferencePair, CritiqueTask, Critique]]


def sample_blind(
    pairs: Sequence[PreferencePair],
    writer: Writer,
    tasks: Tasks,
    settings: SampleSettings,
    *,
    explain_tokens: int = 0,
    out: Path,
    run: dict[str, Any],
) -> None:
    """Write the derivations of each prompt to `out/derivations`, and the critiques that they make to `out`.

    Args:
        settings: `n` derivations a prompt, each with a seed of the prompt's; every critique is scored by its verdict.
        explain_tokens: where the answers differ, the writer goes on in sight of the reply for so many tokens, after
            the task's `explain`; only whole sentences are kept.

    Raises:
        TaskError: there is no task for a pair's category, or it can't be written blind.
    """
    if settings.score_by not in (None, "verdict"):
        raise TaskError(f"blind critiques are scored by their verdict, not {settings.score_by}")
    by_category = {pair.category: blind_task(tasks, pair.category, explain_tokens) for pair in pairs}
    run = described(run, writer, tasks, settings) | {"blind": True}
    prompts: dict[str, PreferencePair] = {}  # of each prompt the first pair
    for pair in pairs:
        prompts.setdefault(prompt_sha256(pair.prompt), pair)

    def requests(chunk: Sequence[str]) -> list[Request]:
        tasks_of = [by_category[prompts[digest].category] for digest in chunk]
        return [
            Request(
                Conversation(
                    asking_to_derive(prompts[digest].prompt, task),
                    task_seed(settings.seed, "derive", digest),
                    label=f"the prompt of pair {prompts[digest].id!r}",
                ),
                settings.sampling(task),
            )
            for digest, task in zip(chunk, tasks_of, strict=True)
        ]

    def rows(chunk: Sequence[str], drafts: Sequence[Sequence[Draft]]) -> list[dict[str, Any]]:
        return [
            _row(digest, i, draft)
            for digest, several in zip(chunk, drafts, strict=True)
            for i, draft in enumerate(several)
        ]

    def derive(chunks: Sequence[Sequence[str]]) -> Iterator[list[dict[str, Any]]]:
        return map(rows, chunks, drafts_in_order(writer, map(requests, chunks)))

    chunks = in_chunks(list(prompts), _PROMPTS_PER_PART)
    stream_in_parts(out / DERIVATIONS, run, chunks, derive, DERIVATION_SCHEMA, "derivations", "prompt")
    derivations = read_derivations(out)

    def compared(chunk: Sequence[PreferencePair]) -> Compared:
        return [
            (pair, by_category[pair.category], critique)
            for pair in chunk
            for critique in critiques_of(pair, derivations[prompt_sha256(pair.prompt)], by_category[pair.category])
        ]

    def compare(chunks: Sequence[Sequence[PreferencePair]]) -> Iterator[list[dict[str, Any]]]:
        if not explain_tokens:
            return ([c.row() for _, _, c in compared(chunk)] for chunk in chunks)
        ahead, behind = tee(map(compared, chunks))
        requests = (_explanations(found, settings, explain_tokens) for found in ahead)
        return map(_explained, behind, drafts_in_order(writer, requests))

    run |= {"explain_tokens": explain_tokens}
    stream_in_parts(out, run, in_chunks(pairs, _PAIRS_PER_PART), compare, SCHEMA, "critiques")


def blind_task(tasks: Tasks, category: str, explain_tokens: int = 0) -> CritiqueTask:
    """Raises TaskError: there is none for this category, or it lacks what a blind critique is made of."""
    task = tasks.of(category)
    needed = ("derive", "verdict", "explain") if explain_tokens else ("derive", "verdict")
    if missing := [name for name in needed if getattr(task, name) is None]:
        raise TaskError(
            f"the task of the category {category!r} has no {' and no '.join(missing)}, which --blind needs; "
            "choose another --task for it, or sample that category without --blind"
        )
    return task


def prompt_sha256(prompt: Sequence[Message]) -> str:
    """Equal for prompts that are the same to the letter."""
    return hashlib.sha256(json.dumps([[m["role"], m["content"]] for m in prompt]).encode()).hexdigest()


def asking_to_derive(prompt: Sequence[Message], task: CritiqueTask) -> tuple[Message, ...]:
    """The prompt with the request for a derivation at the end of its last user turn, or as one.

    Before it, after a system message, come the task's examples as turns.
    """
    begins = 1 if prompt[0]["role"] == "system" else 0
    shown = [
        message
        for example in task.examples
        for message in (
            Message(role="user", content=f"{example.prompt}\n\n{task.derive}"),
            Message(role="assistant", content=example.derivation),
        )
    ]
    last = prompt[-1]
    if last["role"] == "user":
        asked = (*prompt[begins:-1], Message(role="user", content=f"{last['content']}\n\n{task.derive}"))
    else:
        asked = (*prompt[begins:], Message(role="user", content=str(task.derive)))
    return (*prompt[:begins], *shown, *asked)


def read_derivations(out: Path) -> dict[str, list[Draft]]:
    """The derivations of a finished blind sampling in `out`, by `prompt_sha256`. Raises PartsError."""
    found: dict[str, list[Draft]] = {}
    for row in read_parts(out / DERIVATIONS):
        found.setdefault(row["prompt"], []).append(Draft(row["text"], row["finish_reason"], row["tokens"]))
    return found


def critiques_of(pair: PreferencePair, derivations: Sequence[Draft], task: CritiqueTask) -> list[Critique]:
    """What each derivation makes of each response; nothing where an answer is not stated, or its way was cut off."""
    found = []
    for side in SIDES:
        reply = stated_answer(pair.response(side))
        for i, draft in enumerate(derivations):
            own = derived_answer(draft)
            if own and reply and task.verdict:
                text = f"{draft.text}\n{task.verdict.line(own, reply)}"
                said = read_verdict(text, pair.response(side), task.verdict)
                if said is not None:  # else an answer that does not read as it was written
                    found.append(Critique(pair.id, side, i, text, float(said), "stop", draft.tokens, said))
    return found


def derived_answer(draft: Draft) -> list[Any]:
    """What a derivation that came to its end states as its answer."""
    return stated_answer(draft.text) if draft.finish_reason == "stop" else []


def _explanations(found: Compared, settings: SampleSettings, explain_tokens: int) -> list[Request]:
    """To name the first wrong step, of each critique that calls its response wrong."""
    sampling = Sampling(1, settings.temperature, explain_tokens, "verdict")
    return [
        Request(
            WritingTask(
                pair.prompt,
                pair.response(c.side),
                asked(pair, task.instruction, settings),
                task_seed(settings.seed, "explain", pair.id, c.side, c.sample),
                prefix=_before_explanation(task, c),
                label=f"pair {pair.id!r}, {c.side}, critique {c.sample}",
            ),
            sampling,
        )
        for pair, task, c in found
        if not c.verdict
    ]


def _before_explanation(task: CritiqueTask, critique: Critique) -> str:
    return f"{critique.text} {task.explain}"


def _explained(found: Compared, drafts: Sequence[Sequence[Draft]]) -> list[dict[str, Any]]:
    """Rows of the same critiques, those that call their response wrong with the first wrong step.

    Args:
        drafts: of `_explanations`, in order.
    """
    rows, written = [], iter(drafts)
    for pair, task, c in found:
        if c.verdict:
            rows.append(c.row())
            continue
        (draft,) = next(written)
        prefix = _before_explanation(task, c)
        said = draft.text.removeprefix(prefix)
        kept = said.rstrip() if draft.finish_reason == "stop" else whole_sentences(said)
        text = f"{prefix}{kept}"
        ended = draft.finish_reason == "stop" or kept != said
        assert task.verdict is not None  # or there were no critiques
        # It must not take its verdict back.
        still = closing_verdict(text, task.verdict), read_verdict(text, pair.response(c.side), task.verdict)
        if kept.strip() and ended and still == (False, False):
            tokens = None if c.tokens is None or draft.tokens is None else c.tokens + draft.tokens
            c = replace(c, text=text, tokens=tokens, truncated=draft.truncated)
        rows.append(c.row())
    return rows


def _row(digest: str, sample: int, draft: Draft) -> dict[str, Any]:
    return {
        "prompt": digest,
        "sample": sample,
        "text": draft.text,
        "finish_reason": draft.finish_reason,
        "tokens": draft.tokens,
    }
