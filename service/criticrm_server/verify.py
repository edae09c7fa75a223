"""`criticrm verify`: the same tokens through vLLM and through transformers, and how far the rewards are apart."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from pydantic_settings import CliImplicitFlag, SettingsConfigDict
from tqdm import tqdm

from criticrm_model import Completion, CriticRMError

from .engines.base import Engine, Job
from .logs import configure_logging
from .serve import require_engine, start_engine
from .settings import Settings

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two runs of the same n sequences are apart, in reward units.

    Attributes:
        mean_signed_diff: vLLM minus transformers; far from 0 beside `max_abs_diff` means a drift, not noise.
        rank_agreement: share of all pairs of sequences that both put in the same order.
    """

    n: int
    max_abs_diff: float
    mean_signed_diff: float
    rank_agreement: float


class Verify(Settings):
    """Score conversations with critiques through vLLM and transformers, and print the differences.

    vLLM writes each critique; transformers scores the same tokens. Takes the options of `serve`, so that what is
    verified is what will be served.
    """

    # `json` is an alias, for it is taken by pydantic; without this its variable would be JSON, not CRITICRM_JSON.
    model_config = SettingsConfigDict(env_prefix_target="all")

    engine: Literal["vllm"] = Field("vllm", description="What is compared with transformers: vLLM alone.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Precision of both runs.")
    conversations: Path | None = Field(
        None, description="JSONL with prompt and responses (or chosen and rejected); the embedded set unless given."
    )
    limit: PositiveInt = Field(64, description="Conversations to score, the first response of each.")
    tolerance: PositiveFloat = Field(1e-4, description="In float32, a larger difference fails the command (exit 1).")
    json_line: CliImplicitFlag[bool] = Field(False, alias="json", description="Print one line of JSON last.")

    @field_validator("engine", mode="before")
    @classmethod
    def _vllm_alone(cls, engine: object) -> object:
        if engine != "vllm":
            raise ValueError(f"verify compares vLLM with transformers; with {engine} there is nothing to compare")
        return engine

    def run(self) -> int:
        from criticrm_model.checkpoint import Checkpoint
        from criticrm_model.default import resolve

        configure_logging("warning", self.log_format)
        require_engine(self.engine)
        checkpoint = Checkpoint.open(resolve(self.model), trust_remote_code=self.trust_remote_code)
        prompts, completions = asyncio.run(self._critiques(checkpoint))
        served = [(c.direct_score, c.score) for c in completions]
        reference = self._reference(checkpoint, prompts, completions)
        direct = agreement([s[0] for s in served], [r[0] for r in reference])
        after = agreement([s[1] for s in served], [r[1] for r in reference])
        ended = sum(c.finish_reason == "stop" for c in completions)
        tokens = sum(len(c.token_ids) for c in completions)
        _print(f"{len(prompts)} conversations, {tokens} critique tokens, {ended} critiques ended by themselves")
        _print(f"{self.dtype:<16}{'largest':>12}{'mean signed':>14}{'same order':>12}   vLLM against transformers")
        for name, a in (("direct_score", direct), ("score", after)):
            _print(f"{name:<16}{a.max_abs_diff:>12.2e}{a.mean_signed_diff:>14.2e}{a.rank_agreement:>12.4f}")
        worst = max(direct.max_abs_diff, after.max_abs_diff)
        failed = self.dtype == "float32" and worst > self.tolerance
        if failed:
            _print(f"FAILED: {worst:.2e} exceeds the tolerance {self.tolerance:g}")
        if self.json_line:
            line: dict[str, Any] = {  # the worse of both positions, then each
                "max_abs_diff": worst,
                "mean_signed_diff": max(direct.mean_signed_diff, after.mean_signed_diff, key=abs),
                "n": after.n,
                "dtype": self.dtype,
                "rank_agreement": min(direct.rank_agreement, after.rank_agreement),
                "direct_score": asdict(direct),
                "score": asdict(after),
                "model_version": checkpoint.manifest.version,
            }
            _print(json.dumps(line))
        return int(failed)

    async def _critiques(self, checkpoint: Checkpoint) -> tuple[list[list[int]], list[Completion]]:
        """Rendered prompts, and for each what the engine wrote and read."""
        engine, max_model_len = start_engine(checkpoint, self)
        max_tokens = min(self.critique_tokens or checkpoint.manifest.max_critique_tokens, self.max_critique_tokens)
        try:
            prompts = [
                checkpoint.renderer.open(prompt)
                .render(response, max_model_len=max_model_len, max_critique_tokens=max_tokens, truncate=True)
                .token_ids
                for prompt, response in read_conversations(self.conversations, self.limit)
            ]
            with tqdm(total=len(prompts), desc=self.engine, unit="critique") as progress:
                outputs = await asyncio.gather(*(_run(engine, ids, max_tokens, progress) for ids in prompts))
            return prompts, outputs
        finally:
            await engine.close()

    def _reference(
        self, checkpoint: Checkpoint, prompts: Sequence[list[int]], completions: Sequence[Completion]
    ) -> list[tuple[float, float]]:
        from criticrm_model.reference import ReferenceModel

        model = ReferenceModel.load(
            checkpoint.folder,
            checkpoint.manifest.reward_token_id,
            checkpoint.renderer.stop_token_ids,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
        )
        pairs = zip(prompts, completions, strict=True)
        return [
            model.score(prompt, completion.token_ids)
            for prompt, completion in tqdm(pairs, total=len(prompts), desc="transformers", unit="critique")
        ]


async def _run(engine: Engine, token_ids: list[int], max_tokens: int, progress: Any) -> Completion:
    output = await engine.run(Job(token_ids, n=1, max_tokens=max_tokens, temperature=0.0, seed=None))
    progress.update()
    return output.completions[0]


def agreement(served: Sequence[float], reference: Sequence[float]) -> Agreement:
    """Compare two lists of rewards of the same n sequences."""
    differences = [a - b for a, b in zip(served, reference, strict=True)]
    n = len(differences)
    same = total = 0
    for i in range(n):
        for j in range(i):
            if reference[i] != reference[j]:
                total += 1
                same += (served[i] > served[j]) == (reference[i] > reference[j])
    return Agreement(
        n=n,
        max_abs_diff=max(map(abs, differences)),
        mean_signed_diff=sum(differences) / n,
        rank_agreement=same / total if total else 1.0,
    )


def read_conversations(path: Path | None, limit: int) -> list[tuple[Any, str]]:
    """`(messages, response)` of the first `limit` rows, from a file or the embedded set.

    Raises:
        CriticRMError: the file holds none, or a row has no prompt or response.
    """
    source = path or files("criticrm_server") / "conversations.jsonl"
    found: list[tuple[Any, str]] = []
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CriticRMError(f"{source} can't be read: {error.strerror}") from error
    for number, line in enumerate(lines[:limit], start=1):
        try:
            row = json.loads(line)
            prompt = row["prompt"]
            response = row["responses"][0] if "responses" in row else row["chosen"]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise CriticRMError(f"{source}, row {number}: no prompt with a response ({error})") from error
        found.append(([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, response))
    if not found:
        raise CriticRMError(f"{source} holds no conversations")
    return found


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
