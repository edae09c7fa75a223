"""`criticrm evaluate`: pair accuracy of a Critic-RM with critiques it writes now, beside what it must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from criticrm_model.instruction import InstructionSlots

from ..critiques.critique_task import Tasks
from ..critiques.verdict import VerdictRule
from ..data.pairs import PreferencePair
from ..data.sources import DataError
from ..parts import run_digest
from .arms import TEACHER_FORCED
from .calibrated import calibrated
from .frontier import describe_frontier, frontier, require_scales
from .items import as_item, items_sha256
from .outcomes import Preferences, pair_preferences
from .pair_texts import about_sides
from .quality import critique_statistics
from .reasoning import describe_reasoning, reasoning_report
from .results import Against, write_results
from .scoring import DIRECT, GREEDY, by_item, describe_truncation, score_items, truncation
from .serving import scoring_service
from .teacher_forced import keeps_by_label, read_by, teacher_forced_margins, written_about


def evaluate(
    model: str,
    pairs: Sequence[PreferencePair],
    out: Path,
    *,
    url: str | None,
    key: str | None,
    concurrency: int,
    samples: Sequence[int],
    against: Against,
    tasks: Tasks,
    teacher_forced: Path | None = None,
    critiques: bool = True,
    with_frontier: bool = False,
    with_calibration: bool = False,
) -> dict[str, Any]:
    """Score, report, and write `out/evaluation.json`; the scores stay in `out/scores`.

    Args:
        model: served for as long as it takes, unless `url` names a service that runs.
        samples: for each m, the mean over m sampled critiques is reported, as expected over every m of the greatest
            number.
        against: finished evaluations of the same pairs, by the name of their arm, one of each of its runs: each arm is
            compared with pair by pair.
        tasks: whose rules read the critiques of pairs with a reference; the scores do not depend on them.
        teacher_forced: finished critiques of the pairs by another model; the reward after these is reported too.
        critiques: without them the direct score alone is measured.
        with_frontier: also report what critiques only where they matter would give.
        with_calibration: also report mean, deviation and scale of both scores, and of the means over `samples`.

    Raises:
        DataError: another evaluation holds other pairs, or `teacher_forced` has critiques of none of these.
        TaskError: there is no task for a pair's category.
        EndpointError, PartsError, ServingError
    """
    if not critiques and (samples or with_frontier):
        raise DataError("--samples and --frontier are of critiques: leave out --direct-only")
    rules = tasks.rules(pair.category for pair in pairs)
    with scoring_service(model, url, key=key, concurrency=concurrency) as (service, about):
        if with_frontier and not with_calibration:
            require_scales(about["manifest"])
        slots = InstructionSlots.model_validate(about["manifest"].get("slots") or {})
        items = [as_item(pair, slots) for pair in pairs]
        run = {"model_version": about["model_version"], "items": items_sha256(items)}
        rows = score_items(
            items,
            service,
            samples=max(samples, default=0),
            critiques=critiques,
            trace=with_frontier,
            out=out / "scores",
            run=run,
            unit="pair",
        )
        forced = None
        if teacher_forced:
            forced = teacher_forced_margins(
                read_by(service), items, teacher_forced, out=out / "teacher-forced", run=run
            )

    found = pair_preferences(items, rows, samples)
    lines, more = [describe_truncation(cut := truncation(rows))], dict[str, Any](truncated=cut)
    more["model_version"] = about["model_version"]
    more["trained_on_pairs"] = sum(data["pairs"] for data in about["manifest"]["training_data"])
    if teacher_forced and forced:
        margins, cut = forced
        found[TEACHER_FORCED] = Preferences.of(margins)
        more["teacher_forced"], some = _about_teacher(teacher_forced, pairs, cut)
        lines += some
    ended = [row["ended"] for row in rows] if critiques else []
    if critiques:
        quality, described = _about_critiques(pairs, rows, rules, about["manifest"]["critique_instruction"])
        more |= quality
        lines += described
    if with_calibration:
        calibration = calibrated(about["manifest"]["calibration"], rows, samples if critiques else None)
        more["calibration"] = about["manifest"]["calibration"] = calibration.model_dump(mode="json")
    if with_frontier:
        sides, groups = by_item(items, rows), [pair.group for pair in pairs]
        more["frontier"] = points = frontier(sides, [[True, False]] * len(sides), about["manifest"], groups, samples)
        lines.append(describe_frontier(points))
    return write_results(
        out,
        str(about["model"]),
        pairs,
        found,
        critiques_ended=sum(ended) / len(ended) if ended else None,
        headline=GREEDY if critiques else DIRECT,
        against=against,
        more=more,
        lines=lines,
        written=about_sides(by_item(items, [_about(row) for row in rows])),
    )


def _about_critiques(
    pairs: Sequence[PreferencePair],
    rows: Sequence[Mapping[str, Any]],
    rules: Mapping[str, VerdictRule | None],
    instruction: str,
) -> tuple[dict[str, Any], list[str]]:
    """What the report says of the greedy critiques, and lines for the table."""
    texts, ended = ([row[name] for row in rows] for name in ("greedy_critique", "ended"))
    responses = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    statistics = critique_statistics(texts, responses, ended, instruction)
    more: dict[str, Any] = {"quality": asdict(statistics)}
    reasoning = reasoning_report(pairs, texts, rules)
    if reasoning:
        more["reasoning"] = reasoning
    return more, [str(statistics), *(describe_reasoning(reasoning) if reasoning else [])]


def _about_teacher(
    critiques: Path, pairs: Sequence[PreferencePair], cut: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """What the report says of the critiques of another model, and lines for the table."""
    kept_by_label = keeps_by_label(critiques)
    lines = [f"teacher-forced: {describe_truncation(cut)}"]
    if not written_about(critiques, pairs):
        lines.append("teacher-forced: its critiques are of other pairs than these, matched with them by id alone")
    if kept_by_label:
        lines.append("teacher-forced: its critiques were kept where they agree with the labels, and may tell them")
    return {"critiques": run_digest(critiques), "truncated": cut, "kept_by_label": kept_by_label}, lines


def _about(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader wants to see of one response."""
    return {
        "score": row["direct_score"] if row["greedy_score"] is None else row["greedy_score"],
        "direct_score": row["direct_score"],
        "critique": row["greedy_critique"],
    }
