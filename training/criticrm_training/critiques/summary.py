"""What was sampled, in a table: how much can be read, and how often it is right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..answers import equal, final_answer, stated_answer
from ..data.pairs import PreferencePair
from .blind import derived_answer, prompt_sha256
from .critique_task import Tasks
from .records import SIDES, Critique
from .verdict import own_answer
from .writers import Draft

Rows = list[tuple[str, str]]


def truncated_responses(critiques: Iterable[Critique]) -> int:
    """How many responses the writer saw cut, or with their conversation cut."""
    return len({(c.pair_id, c.side) for c in critiques if c.truncated})


def sample_summary(critiques: Sequence[Critique], pairs: Sequence[PreferencePair], tasks: Tasks) -> Rows:
    """Rows of a table; those on verdicts and answers only where a task has a rule for them."""
    n = len(critiques)
    rows = [
        ("responses", f"{len({(c.pair_id, c.side) for c in critiques})} of {2 * len(pairs)}"),
        ("critiques", f"{n}"),
        ("with a score that can be read", _share(sum(c.score is not None for c in critiques), n)),
        ("ended by themselves", _share(sum(c.finish_reason == "stop" for c in critiques), n)),
        ("responses truncated for the writer", _truncated(critiques)),
        ("tokens a critique", _mean([c.tokens for c in critiques])),
    ]
    by_id = {pair.id: pair for pair in pairs}
    ruled = [(c, by_id[c.pair_id]) for c in critiques if tasks.of(by_id[c.pair_id].category).verdict]
    return rows + _verdict_rows(ruled) + _answer_rows(ruled, tasks)


def _verdict_rows(ruled: Sequence[tuple[Critique, PreferencePair]]) -> Rows:
    if not ruled:
        return []
    readable = [c for c, _ in ruled if c.verdict is not None]
    rows = [("verdicts that can be read", _share(len(readable), len(ruled)))]
    for side in SIDES:
        verdicts = [c.verdict for c in readable if c.side == side]
        rows.append(
            (f"verdicts on {side} responses that agree", _share(verdicts.count(side == "chosen"), len(verdicts)))
        )
    return rows


def _answer_rows(ruled: Sequence[tuple[Critique, PreferencePair]], tasks: Tasks) -> Rows:
    """Own answers against the reference, apart for responses whose answer is right and those whose answer is wrong."""
    counts = {"right": [0, 0, 0], "wrong": [0, 0, 0]}  # of responses: critiques, own answers right, copied
    for critique, pair in ruled:
        reference, reply = final_answer(pair.reference or ""), stated_answer(pair.response(critique.side))
        rule = tasks.of(pair.category).verdict
        if not reference or not reply or not rule:
            continue
        own = own_answer(critique.text, rule)
        count = counts["right" if equal(reference, reply) else "wrong"]
        count[0] += 1
        count[1] += bool(own) and equal(reference, own)
        count[2] += bool(own) and equal(reply, own)
    rows = [
        (f"own answer right beside a {kind} reply", _share(right, n)) for kind, (n, right, _) in counts.items() if n
    ]
    n, _, copied = counts["wrong"]
    return [*rows, ("own answer that of a wrong reply", _share(copied, n))] if n else rows


def blind_summary(derivations: Mapping[str, Sequence[Draft]], pairs: Sequence[PreferencePair]) -> Rows:
    """Rows of a table: what was derived, what could not be used, and how often it is right."""
    drafts = [draft for group in derivations.values() for draft in group]
    n, cut = len(drafts), sum(draft.finish_reason != "stop" for draft in drafts)
    answers = {digest: [derived_answer(draft) for draft in group] for digest, group in derivations.items()}
    stated = sum(bool(answer) for group in answers.values() for answer in group)
    replies = [pair.response(side) for pair in pairs for side in SIDES]
    silent = sum(not stated_answer(reply) for reply in replies)
    rows = [
        ("derivations", f"{n} of {len(derivations)} prompts"),
        ("derivations cut at the limit: not used", _share(cut, n)),
        ("derivations without an answer: not used", _share(n - cut - stated, n)),
        ("tokens a derivation", _mean([draft.tokens for draft in drafts])),
        ("responses without an answer: no critiques", _share(silent, len(replies))),
    ]
    references = {prompt_sha256(pair.prompt): final_answer(pair.reference) for pair in pairs if pair.reference}
    graded = [equal(ref, own) for digest, ref in references.items() if ref for own in answers[digest]]
    return [*rows, ("derivations whose answer is right", _share(sum(graded), len(graded)))] if graded else rows


def _share(part: int, of: int) -> str:
    return f"{part} of {of} ({part / of:.1%})" if of else "none"


def _truncated(critiques: Sequence[Critique]) -> str:
    known = {(c.pair_id, c.side) for c in critiques if c.truncated is not None}
    return _share(truncated_responses(critiques), len(known)) if known else "unknown"


def _mean(tokens: Sequence[int | None]) -> str:
    known = [count for count in tokens if count is not None]
    return f"{sum(known) / len(known):.1f}" if known else "unknown"
