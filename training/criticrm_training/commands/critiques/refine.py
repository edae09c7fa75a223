"""`criticrm critiques refine`."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt
from pydantic_settings import CliPositionalArg

from ..options import WriterOptions


class Refine(WriterOptions):
    """Merge the critiques of each response into one (summ), or keep the best of them (rank).

    A merged critique must pass the quality bounds of the filter, or its response has no critique.
    """

    critiques: CliPositionalArg[Path] = Field(description="A finished `critiques filter`.")
    data: str = Field(description="The preference pairs that were critiqued.")
    method: Literal["summ", "rank"] = Field(description="summ merges critiques, rank keeps the best.")
    top_k: PositiveInt = Field(2, description="Critiques of a response that rank keeps.")
    max_tokens: PositiveInt = Field(96, description="Longest merged critique, in tokens.")
    rate: Literal["written", "expected"] = Field(
        "written",
        description="How rank parses a rating: written is the number in the text, expected the mean of the number "
        "that the model would write.",
    )

    def run(self) -> int:
        from ...critiques.filter import QualityBounds
        from ...critiques.records import read_critiques
        from ...critiques.refine import refine, summary
        from ...data.overlong import log_truncated
        from ...parts import read_run, run_digest
        from ...tables import as_rows

        before, pairs = read_critiques(self.critiques), self.pairs(self.data)
        filtered = read_run(self.critiques)
        prompts = refine(
            pairs,
            before,
            self.critic(),
            method=self.method,
            top_k=self.top_k,
            max_tokens=self.max_tokens,
            rate_by=self.rate,
            quality=QualityBounds(**{f.name: filtered[f.name] for f in fields(QualityBounds) if f.name in filtered}),
            out=self.out,
            run={"critiques": run_digest(self.critiques)} | self.run_on(pairs),
        )
        log_truncated(prompts[True], prompts.total(), max_model_len=self.max_model_len)
        logging.getLogger(__name__).info("%s", as_rows(summary(before, read_critiques(self.out))))
        return 0
