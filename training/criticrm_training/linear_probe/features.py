"""Frozen hidden states at the two reward positions, for both responses of each pair; resumes after a crash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from criticrm_model.files import whole
from criticrm_model.prompt import Renderer
from criticrm_model.reference import ReferenceModel

from ..data.overlong import RenderedPairs

# Padded prompt tokens in one forward pass: bounds memory whatever the lengths.
_TOKENS_PER_BATCH = 16_384


@dataclass(frozen=True, slots=True)
class PairFeatures:
    """Hidden states of n pairs, and of the first m of them also after the model's own greedy critique.

    Attributes:
        direct: `[n, 2, d_model]` float32, before any critique; chosen first.
        critiqued: `[m, 2, d_model]` float32, after the critique.
        critiques: `[m][2]` texts.
        ended: share of critiques that ended by themselves.
    """

    direct: torch.Tensor
    critiqued: torch.Tensor
    critiques: list[list[str]]
    ended: float


@dataclass(frozen=True, slots=True)
class _Sequence:
    pair: int
    side: int
    token_ids: list[int]


def extract(
    rendered: RenderedPairs,
    reference: ReferenceModel,
    renderer: Renderer,
    *,
    critique_pairs: int,
    max_critique_tokens: int,
    batch_size: int,
    work_dir: Path,
    label: str,
) -> PairFeatures:
    """Run the frozen model over each response of each pair.

    Every batch is written to `work_dir` as it ends, under a name that hashes its inputs, so a second run with
    the same inputs goes on where the first stopped.

    Args:
        rendered: with room for the critiques.
        critique_pairs: how many pairs, from the first, get critiques; the others only their `direct` state.
        max_critique_tokens: of each critique.
        batch_size: sequences a batch at the most.
        label: of the progress bar.
    """
    pairs = rendered.pairs
    critique_pairs = min(critique_pairs, len(pairs))
    sequences = [
        _Sequence(i, side, token_ids) for i, both in enumerate(rendered.prompts) for side, token_ids in enumerate(both)
    ]
    # Similar lengths together: padding costs as much as tokens. Longest first: memory trouble shows at once.
    sequences.sort(key=lambda s: len(s.token_ids), reverse=True)
    with_critiques = _batches([s for s in sequences if s.pair < critique_pairs], batch_size)
    without = _batches([s for s in sequences if s.pair >= critique_pairs], batch_size)

    work_dir.mkdir(parents=True, exist_ok=True)
    d_model = reference.model.get_output_embeddings().weight.shape[1]
    direct = torch.zeros(len(pairs), 2, d_model)
    critiqued = torch.zeros(critique_pairs, 2, d_model)
    texts = [["", ""] for _ in range(critique_pairs)]
    ended = 0
    with tqdm(total=len(sequences), desc=label, unit="response", smoothing=0.05) as progress:
        for batch in with_critiques:
            states = _cached_batch(batch, reference, max_critique_tokens, work_dir)
            _copy_states(direct, batch, states["direct"])
            _copy_states(critiqued, batch, states["critiqued"])
            for s, tokens, length in zip(batch, states["tokens"].tolist(), states["lengths"].tolist(), strict=True):
                texts[s.pair][s.side] = renderer.decode(tokens[:length])
                ended += tokens[length - 1] in renderer.stop_token_ids
            progress.update(len(batch))
        for batch in without:
            _copy_states(direct, batch, _cached_batch(batch, reference, 1, work_dir)["direct"])
            progress.update(len(batch))
    return PairFeatures(direct, critiqued, texts, ended / max(1, 2 * critique_pairs))


def _copy_states(into: torch.Tensor, batch: Sequence[_Sequence], states: torch.Tensor) -> None:
    into[[s.pair for s in batch], [s.side for s in batch]] = states


def _batches(sequences: list[_Sequence], batch_size: int) -> list[list[_Sequence]]:
    batches: list[list[_Sequence]] = []
    for sequence in sequences:
        width = len(batches[-1][0].token_ids) if batches else 0
        if batches and len(batches[-1]) < batch_size and width * (len(batches[-1]) + 1) <= _TOKENS_PER_BATCH:
            batches[-1].append(sequence)
        else:
            batches.append([sequence])
    return batches


def _cached_batch(
    batch: Sequence[_Sequence], reference: ReferenceModel, steps: int, work_dir: Path
) -> dict[str, torch.Tensor]:
    model = reference.model
    prompts = [s.token_ids for s in batch]
    inputs = [prompts, steps, list(reference.reward_tokens.ids), reference.stop_token_ids, model.config.to_diff_dict()]
    key = hashlib.sha256(json.dumps(inputs, default=str).encode()).hexdigest()
    path = work_dir / f"{key[:24]}.safetensors"
    if path.is_file():
        return load_file(path)
    completions, hidden = reference.critique(prompts, max_tokens=steps)
    tokens = torch.zeros(len(prompts), steps, dtype=torch.int32)
    for row, completion in enumerate(completions):
        tokens[row, : len(completion.token_ids)] = torch.tensor(completion.token_ids)
    states = {
        "direct": hidden.direct.contiguous(),
        "critiqued": hidden.critiqued.contiguous(),
        "tokens": tokens,
        "lengths": torch.tensor([len(c.token_ids) for c in completions]),
    }
    with whole(path) as unfinished:
        save_file(states, unfinished)
    return states
