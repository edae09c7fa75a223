"""`criticrm score`: a file of responses in, the same file with rewards out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, SecretStr, model_validator
from pydantic_settings import BaseSettings, CliImplicitFlag, CliPositionalArg, SettingsConfigDict

from criticrm_client import APIError, AsyncCriticRM, Columns, CritiqueOptions, FileError, FileSummary, Options, Retries
from criticrm_model import CriticRMError

logger = logging.getLogger(__name__)

_SAMPLING = ("n", "max_tokens", "temperature", "seed")


class Score(BaseSettings):
    """Score each row of a JSONL or Parquet file, and go on where a killed run stopped.

    OUT gets the rows in their order with the columns score, direct_score, score_std, status, critiques and warnings.
    Rows that can't be scored go to OUT.failed.jsonl with the reason, and the command exits with 1; run it again to try
    these again. What is done is kept in OUT.parts until all is.

    Every option is also a variable: --concurrency is CRITICRM_SCORE_CONCURRENCY.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_SCORE_", frozen=True, cli_kebab_case=True)

    source: CliPositionalArg[Path] = Field(description="The rows: .jsonl or .parquet.")
    out: CliPositionalArg[Path] = Field(description="Where to: .jsonl or .parquet.")
    url: list[str] = Field(["http://127.0.0.1:8000"], description="The service; several share the load.")
    key: SecretStr | None = Field(None, description="Of the service; better as CRITICRM_SCORE_KEY than on the screen.")
    offline: str | None = Field(
        None,
        description="No server: run the engine in this process, on this checkpoint (folder, hub name or 'default')."
        " The variables of `criticrm serve` (CRITICRM_DTYPE and so on) are its options.",
    )
    prompt: str | None = Field(None, description="Column with the prompt, text or messages ('prompt').")
    response: str | None = Field(None, description="Column with one response ('response' or 'completion').")
    responses: str | None = Field(
        None, description="Or with a list of them ('responses'): the row gets lists, and `best`, the highest's index."
    )
    messages: str | None = Field(None, description="Or with whole conversations that end with it ('messages').")
    prefix: str = Field("", description="Of the names of the new columns.")
    no_critique: CliImplicitFlag[bool] = Field(False, description="Score before any critique: faster, less informed.")
    n: PositiveInt | None = Field(None, description="Critiques a response; the score is their mean.")
    max_tokens: PositiveInt | None = Field(None, description="Longest critique.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    seed: int | None = Field(None, ge=0, lt=2**32, description="Of the sampling.")
    on_overflow: Literal["error", "truncate"] = Field(
        "error", description="What to do with rows that are too long: fail them, or cut them and say so in `status`."
    )
    normalize: CliImplicitFlag[bool] = Field(False, description="Standardise scores with the checkpoint's calibration.")
    concurrency: PositiveInt = Field(32, description="Requests in flight.")
    pack: PositiveInt = Field(8, description="Responses that share a request.")
    attempts: PositiveInt = Field(
        12, description="Of a request before its rows count as failed: some three minutes, a restart of the server."
    )
    quiet: CliImplicitFlag[bool] = Field(False, description="No progress bar.")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.no_critique and any(getattr(self, name) is not None for name in _SAMPLING):
            raise ValueError("n, max_tokens, temperature and seed are of critiques: leave them out, or no-critique")
        return self

    def run(self) -> int:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        for chatty in ("httpx", "criticrm.access"):  # a line a request
            logging.getLogger(chatty).setLevel(logging.WARNING)
        try:
            summary = asyncio.run(self._score())
        except (APIError, FileError, ValueError) as error:
            raise CriticRMError(str(error)) from error
        logger.info("%s", as_table(summary))
        return int(summary.failed > 0)

    async def _score(self) -> FileSummary:
        options: Options = {
            "critique": self._critique_options(),
            "on_overflow": self.on_overflow,
            "normalize": self.normalize,
        }
        columns = Columns(self.prompt, self.response, self.responses, self.messages, self.prefix)
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

    def _critique_options(self) -> bool | CritiqueOptions:
        given = {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}
        return CritiqueOptions(**given) if given else not self.no_critique

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[AsyncCriticRM]:
        retries = Retries(attempts=self.attempts)
        if self.offline is None:
            key = self.key.get_secret_value() if self.key else None
            async with AsyncCriticRM(self.url, key=key, retries=retries) as client:
                yield client
            return
        async with _app_in_process(self.offline) as client:
            yield client


@asynccontextmanager
async def _app_in_process(model: str) -> AsyncIterator[AsyncCriticRM]:
    """The service without a server: the same app, and so the same scores and errors, called in memory."""
    import httpx

    from criticrm_model.checkpoint import Checkpoint
    from criticrm_model.default import resolve

    from .app import create_app
    from .serve import require_engine, start_engine
    from .settings import Settings

    settings = Settings(model=model, host="127.0.0.1", api_keys=[])
    require_engine(settings.engine)
    checkpoint = Checkpoint.open(resolve(settings.model), trust_remote_code=settings.trust_remote_code)
    app = create_app(settings, checkpoint, start_engine)
    async with (
        app.router.lifespan_context(app),
        AsyncCriticRM("http://in-process", transport=httpx.ASGITransport(app, raise_app_exceptions=False)) as client,
    ):
        yield client


def as_table(summary: FileSummary) -> str:
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
