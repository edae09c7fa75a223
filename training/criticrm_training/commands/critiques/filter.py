"""`criticrm critiques filter`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt
from pydantic_settings import CliImplicitFlag, CliPositionalArg


class Filter(BaseModel):
    """Keep the pairs and the critiques that agree with the labels, and are fit to learn from."""

    critiques: CliPositionalArg[list[Path]] = Field(description="Folders of finished `critiques sample` runs.")
    out: Path = Field(description="Folder for the critiques that are kept.")
    by: Literal["score", "verdict"] = Field(
        "score",
        description="What must agree with the labels. score: the mean scores of a pair's responses, then each score "
        "with the other response's mean, as in the paper. verdict: each critique by itself, 'right' of a chosen and "
        "'wrong' of a rejected response.",
    )
    per_side: CliImplicitFlag[bool] = Field(
        False,
        description="Keep a pair's critiques of one response where none of the other is kept: the critique loss needs "
        "no pairs.",
    )
    least_words: NonNegativeInt = Field(4, description="Drop critiques with fewer words.")
    most_repeats: float = Field(
        0.2, ge=0, le=1, description="Drop critiques in which a greater share of the four-word sequences are repeats."
    )
    most_sentences: PositiveInt | None = Field(
        None,
        description="Cut longer critiques after this many sentences: small models repeat themselves after one or two.",
    )
    most_alike: PositiveInt | None = Field(
        None,
        description="Of critiques that begin with the same six words, keep only this many: a frequent opening in the "
        "training data becomes the only one of a greedy model.",
    )
    ignore_labels: CliImplicitFlag[bool] = Field(
        False,
        description="Filter by quality alone. For critics that agree with the labels only by chance: critiques kept "
        "for their agreement would then leak the labels to the reward that is trained on them.",
    )
    solved: str | None = Field(
        None,
        description="The preference pairs that were critiqued; with --by verdict, keep a critique only if its own "
        "answer is the chosen response's as well, where that states one: a wrong solution calls a wrong response wrong "
        "by luck.",
    )
    about: str | None = Field(
        None,
        description="The preference pairs that were critiqued: also drop critiques that repeat no long word or number "
        "of their response.",
    )

    def run(self) -> int:
        from ...critiques.filter import FilterError, QualityBounds, check_solved, filter_critiques, summary
        from ...critiques.records import SCHEMA, SIDES, read_critiques
        from ...critiques.sampled_runs import instructions, verdict_rules, warn_of_trained_pairs
        from ...data.pairs import pairs_sha256, read_pairs
        from ...parts import run_digest, write_in_parts
        from ...tables import as_rows

        quality = QualityBounds(self.least_words, self.most_repeats, self.most_sentences, self.most_alike)
        pairs = read_pairs(self.about) if self.about else []
        if self.solved and (self.by != "verdict" or self.ignore_labels):
            raise FilterError("--solved goes with --by verdict, and not with --ignore-labels")
        solvable = read_pairs(self.solved) if self.solved else []
        if not self.ignore_labels:
            warn_of_trained_pairs(self.critiques)
        found = filter_critiques(
            [critique for folder in self.critiques for critique in read_critiques(folder)],
            quality,
            by=self.by,
            per_side=self.per_side,
            ignore_labels=self.ignore_labels,
            solved=check_solved(solvable, verdict_rules(self.critiques, solvable)) if self.solved else None,
            responses={(pair.id, side): getattr(pair, side) for pair in pairs for side in SIDES} or None,
            instruction=" ".join(instructions(self.critiques)),
        )
        rows = [critique.row() for critique in found.kept]
        run = {
            "critiques": [run_digest(folder) for folder in self.critiques],
            **asdict(quality),
            "by": self.by,
            "per_side": self.per_side,
            "ignore_labels": self.ignore_labels,
            "solved": pairs_sha256(solvable) if self.solved else None,
            "about": pairs_sha256(pairs) if self.about else None,
        }
        write_in_parts(self.out, run, [rows], list, SCHEMA, "filter")
        logging.getLogger(__name__).info("%s", as_rows(summary(found)))
        return 0
