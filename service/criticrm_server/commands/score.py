"""`criticrm score`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, SecretStr, model_validator
from pydantic_settings import BaseSettings, CliImplicitFlag, CliPositionalArg, CliToggleFlag, SettingsConfigDict

from criticrm_client import (
    APIError,
    AsyncCriticRM,
    Columns,
    CritiqueOptions,
    FileError,
    FileSummary,
    Options,
    Retries,
    Settled,
)
from criticrm_client.environment import DEFAULT_URL
from criticrm_model import CriticRMError
from criticrm_model.children import exit_on_sigterm

logger = logging.getLogger(__name__)

_SAMPLING = ("n", "max_tokens", "temperature", "seed")
_CLOSE = ("margin", "rank", "critique_budget")


def _flags(names: Sequence[str]) -> str:
    return ", ".join(f"{'-' if len(name) == 1 else '--'}{name.replace('_', '-')}" for name in names)


class Score(BaseSettings):
    """Score each row of a JSONL or Parquet file, and go on where a killed run stopped.

    OUT gets the rows in their order with the columns score, direct_score, score_std, status, critiques and warnings.
    Rows that can't be scored go to OUT.failed.jsonl with the reason, and the command exits with 1; run it again to try
    these again. What is done is kept in OUT.parts until all is.

    Every option is also a variable: --concurrency is CRITICRM_SCORE_CONCURRENCY.
    """

    model_config = SettingsConfigDict(
        env_prefix="CRITICRM_SCORE_", frozen=True, cli_kebab_case=True, hide_input_in_errors=True
    )

    source: CliPositionalArg[Path] = Field(description="Input file: .jsonl or .parquet.")
    out: CliPositionalArg[Path] = Field(description="Output file: .jsonl or .parquet.")
    url: list[str] | None = Field(
        None,
        description="URL of the service; several share the load. Default: CRITICRM_URL, as for the SDK, or "
        f"{DEFAULT_URL}.",
    )
    key: SecretStr | None = Field(
        None,
        description="API key of the service. Set it as CRITICRM_SCORE_KEY or CRITICRM_KEY, not on the command line.",
    )
    offline: str | None = Field(
        None,
        description="Score without a server: run this checkpoint (folder, hub name or 'default') in this process."
        " The variables of `criticrm serve` (CRITICRM_DTYPE and so on) are its options.",
    )
    prompt: str | None = Field(None, description="Column with the prompt, as text or messages. Default: 'prompt'.")
    response: str | None = Field(None, description="Column with one response. Default: 'response' or 'completion'.")
    responses: str | None = Field(
        None,
        description="Column with a list of responses. The row gets lists of scores, and `best`, the index of the "
        "highest. Default: 'responses'.",
    )
    messages: str | None = Field(
        None, description="Column with whole conversations that end with the response. Default: 'messages'."
    )
    criteria: str | None = Field(
        None, description="Column with what to judge the responses by, a text or a list of texts. Default: none."
    )
    reference: str | None = Field(None, description="Column with a correct answer. Default: none.")
    prefix: str = Field("", description="Prefix of the new columns' names.")
    no_critique: CliToggleFlag[bool] = Field(
        False, description="Return the score before any critique: faster, less accurate."
    )
    n: PositiveInt | None = Field(None, description="Critiques of each response; the score is the mean over them.")
    max_tokens: PositiveInt | None = Field(None, description="Longest critique, in tokens.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    seed: int | None = Field(None, ge=0, lt=2**32, description="Seed of the sampling.")
    when: Literal["always", "close", "auto"] = Field(
        "always",
        description="'close': critiques only for responses whose direct score is close to that of another response to "
        "the same prompt; 'auto': as the checkpoint recommends. The column `score` is then the calibrated score.",
    )
    margin: float | None = Field(
        None, gt=0, description="For 'close': how close, on the calibrated scale. Default: the checkpoint's."
    )
    rank: Literal["best", "all"] | None = Field(
        None, description="For 'close': close to the best response ('best'), or to any other ('all')."
    )
    critique_budget: PositiveInt | None = Field(
        None,
        description="For 'close': most critique tokens of one request (see --pack), each critique counted as its limit;"
        " spent on the closest responses first.",
    )
    settled: float | None = Field(
        None, ge=0, description="End a critique once its reward has varied by at most this much (reward units)."
    )
    settled_for: int | None = Field(
        None, ge=1, le=512, description="Number of tokens over which --settled is measured. Default: 8."
    )
    on_overflow: Literal["error", "truncate"] = Field(
        "error",
        description="What happens to rows that are too long: 'error' fails them; 'truncate' cuts them and sets "
        "`status` to 'truncated'.",
    )
    normalize: CliImplicitFlag[bool] = Field(False, description="Standardise scores with the checkpoint's calibration.")
    concurrency: PositiveInt = Field(32, description="Most requests in flight.")
    pack: PositiveInt = Field(8, description="Responses in one request.")
    attempts: PositiveInt = Field(
        12,
        description="Attempts of a request before its rows count as failed. The default takes some three minutes, "
        "enough for a restart of the server.",
    )
    quiet: CliImplicitFlag[bool] = Field(False, description="Show no progress bar.")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        written = [name for name in (*_SAMPLING, *_CLOSE, "settled") if getattr(self, name) is not None]
        if self.no_critique and (written or self.when != "always"):
            raise ValueError(f"{_flags(written or ['when'])}: of critiques; omit it, or omit --no-critique")
        if self.when != "close" and (close := [name for name in _CLOSE if name in written]):
            raise ValueError(f"{_flags(close)}: needs --when close")
        if self.when != "always" and self.normalize:
            raise ValueError("--normalize: with --when close or auto the column score is the calibrated score; omit it")
        if self.settled_for is not None and self.settled is None:
            raise ValueError("--settled-for: needs --settled")
        if self.when == "auto" and written:
            raise ValueError(f"{_flags(written)}: --when auto has its own; use --when close")
        return self

    def run(self) -> int:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        for chatty in ("httpx", "criticrm.access"):  # a line a request
            logging.getLogger(chatty).setLevel(logging.WARNING)
        try:
            summary = asyncio.run(self._score())
        except (APIError, FileError, ValueError) as error:
            raise CriticRMError(str(error)) from error
        logger.info("%s", format_summary(summary))
        return int(summary.failed > 0)

    async def _score(self) -> FileSummary:
        options: Options = {"on_overflow": self.on_overflow, "normalize": self.normalize}
        if (critique := self._critique_options()) is not None:  # else the model's own default
            options["critique"] = critique
        columns = Columns(**{name.name: getattr(self, name.name) for name in fields(Columns)})
        async with self._client() as client:
            return await client.score_file(
                self.source,
                self.out,
                columns=columns,
                concurrency=self.concurrency,
                pack=self.pack,
                progress=False if self.quiet else None,
                **options,
            )

    def _critique_options(self) -> bool | Literal["auto"] | CritiqueOptions | None:
        if self.no_critique:
            return False
        if self.when == "auto":
            return "auto"
        close = {"max_total_tokens": self.critique_budget, "margin": self.margin, "rank": self.rank}
        wanted = {name: getattr(self, name) for name in _SAMPLING} | (close if self.when == "close" else {})
        if self.settled is not None:
            wanted["stop"] = Settled(settled=self.settled, tokens=self.settled_for or 8)
        known = {name: value for name, value in wanted.items() if value is not None}
        return CritiqueOptions(when=self.when, **known) if known or self.when == "close" else None

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[AsyncCriticRM]:
        retries = Retries(attempts=self.attempts)
        if self.offline is None:
            key = self.key.get_secret_value() if self.key else None
            async with AsyncCriticRM(self.url, key=key, retries=retries) as client:
                yield client
            return
        from ..in_process import app_in_process

        exit_on_sigterm()
        async with app_in_process(self.offline) as client:
            yield client


def format_summary(summary: FileSummary) -> str:
    """What came of the file, for a reader."""
    rate = (summary.rows - summary.taken_over) / summary.seconds if summary.seconds else 0.0
    rows = {
        "rows": f"{summary.rows}",
        "scored": f"{summary.scored}",
        "truncated": f"{summary.truncated}",
        "from an earlier run": f"{summary.taken_over}",
        "mean score": "none" if summary.mean_score is None else f"{summary.mean_score:.4f}",
        "seconds": f"{summary.seconds:.1f} ({rate:.1f} rows/s)",
        **{f"failed: {code}": f"{count}" for code, count in summary.failures.most_common()},
        "written to": str(summary.out),
    }
    if summary.failed_rows:
        rows["failed rows"] = f"{summary.failed_rows} (run this again to try them again)"
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
