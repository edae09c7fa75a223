"""What vLLM's critiques and rewards are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel


def load_reference(checkpoint: Checkpoint) -> ReferenceModel:
    """The same checkpoint in transformers, in float32."""
    return ReferenceModel.load(
        checkpoint.folder, checkpoint.manifest.reward_tokens, checkpoint.renderer.stop_token_ids, dtype="float32"
    )


def assert_results_of_transformers(
    results: Sequence[dict[str, Any]], checkpoint: Checkpoint, prompt: str, responses: Sequence[str], max_tokens: int
) -> None:
    """The results of `/score` have transformers' greedy critiques to the letter, and its rewards within 1e-4."""
    conversation = checkpoint.renderer.open([{"role": "user", "content": prompt}])
    rendered = [conversation.render(r, max_model_len=100_000, max_critique_tokens=max_tokens) for r in responses]
    expected, _ = load_reference(checkpoint).critique([one.token_ids for one in rendered], max_tokens=max_tokens)
    for result, completion in zip(results, expected, strict=True):
        assert result["critiques"][0]["text"] == checkpoint.renderer.decode(completion.token_ids)
        assert result["critiques"][0]["tokens"] == len(completion.token_ids)
        assert result["score"] == pytest.approx(completion.score, abs=1e-4)
        assert result["direct_score"] == pytest.approx(completion.direct_score, abs=1e-4)
