"""`criticrm fit-head`: a Critic-RM from any causal LM and any preference file, without training the body.

The model's own greedy critique is written for each response; a reward vector is fitted with Bradley-Terry on
the frozen hidden states before and after it.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, PositiveInt
from pydantic_settings import BaseSettings, CliImplicitFlag, CliPositionalArg, SettingsConfigDict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from criticrm_model import Calibration, Manifest, Moments, TrainingData
from criticrm_model.checkpoint import assemble, check_head
from criticrm_model.default import BASE_NAME, HEAD_FILE, load_default_base
from criticrm_model.manifest import DEFAULT_CRITIQUE_INSTRUCTION, DEFAULT_NAME
from criticrm_model.prompt import Renderer
from criticrm_model.reference import ReferenceModel

from .accuracy import pair_accuracy
from .data import PreferencePair, file_sha256, read_pairs, split_by_prompt
from .features import PairFeatures, extract
from .head import FittedHead, fit_head

logger = logging.getLogger(__name__)


class FitHead(BaseSettings):
    """Fit a reward row on frozen hidden states and write a Critic-RM checkpoint.

    Takes minutes to hours on a CPU; a second run with the same inputs resumes.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_FIT_", frozen=True)

    data: CliPositionalArg[Path] = Field(description="Preference pairs, .jsonl or .parquet: prompt, chosen, rejected.")
    out: Path = Field(description="Folder for the checkpoint (or for the row alone, with --head-only).")
    base: str = Field(
        DEFAULT_NAME,
        description="Folder or hub name of an instruction-tuned causal LM; 'default' is SmolLM2-135M-Instruct.",
    )
    heldout: Path | None = Field(None, description="Pairs for reporting only; never fitted on.")
    instruction: str = Field(DEFAULT_CRITIQUE_INSTRUCTION, description="What asks the model for a critique.")
    max_critique_tokens: PositiveInt = Field(
        64, description="Longest critique, in tokens; the service's default for this checkpoint."
    )
    critique_pairs: int = Field(
        0, ge=0, description="Write critiques for only so many pairs (0: all). The rest train the direct score."
    )
    validation_share: float = Field(
        0.1, gt=0, lt=1, description="Share of the questions kept for early stopping and calibration."
    )
    batch_size: PositiveInt = Field(32, description="Responses in one batch.")
    max_model_len: PositiveInt = Field(2048, description="Longer prompts are truncated, in tokens.")
    dtype: str = Field("bfloat16", pattern="^(float32|bfloat16|float16)$", description="Precision of the frozen body.")
    work_dir: Path | None = Field(
        None, description="Where finished batches are kept for a resume; OUT/features unless given."
    )
    head_only: CliImplicitFlag[bool] = Field(
        False, description="Write reward.safetensors and critic_rm.json, not the model."
    )

    def run(self) -> int:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        pairs = read_pairs(self.data)
        training, validation = split_by_prompt(pairs, self.validation_share)
        heldout = read_pairs(self.heldout) if self.heldout else []
        logger.info("%d training, %d validation, %d held-out pairs", len(training), len(validation), len(heldout))

        model, tokenizer, base_name = self._load_base(getattr(torch, self.dtype))
        check_head(model)
        renderer = Renderer(tokenizer, self.instruction)
        # No reward token yet: any id reads a finite logit, and only hidden states are used.
        reference = ReferenceModel(model, renderer.stop_token_ids[0], renderer.stop_token_ids)

        def features(some: list[PreferencePair], label: str, critiques: bool) -> PairFeatures:
            return extract(
                some,
                reference,
                renderer,
                max_critique_tokens=self.max_critique_tokens,
                max_model_len=self.max_model_len,
                batch_size=self.batch_size,
                work_dir=self.work_dir or self.out / "features",
                label=label,
                critiques=critiques,
            )

        # Fixed by the questions' hash, so a resumed run critiques the same pairs.
        with_critiques = len(training) if not self.critique_pairs else min(self.critique_pairs, len(training))
        ordered = sorted(training, key=lambda p: (hash_order(p.group), p.id))
        critiqued = features(ordered[:with_critiques], "training, with critiques", critiques=True)
        direct = critiqued.direct
        if rest := ordered[with_critiques:]:
            direct = torch.cat([direct, features(rest, "training, direct", critiques=False).direct])
        valid = features(validation, "validation", critiques=True)
        assert critiqued.critiqued is not None
        assert valid.critiqued is not None

        head = fit_head([direct, critiqued.critiqued], [valid.direct, valid.critiqued])
        for step in head.path:
            logger.info(
                "penalty %8.4f  training loss %.4f  validation loss %.4f",
                step.penalty,
                step.training_loss,
                step.validation_loss,
            )
        logger.info("kept penalty %.4f", head.penalty)

        report: dict[str, Any] = {"validation": _report(validation, valid, head)}
        if heldout:
            scalar = fit_head([direct], [valid.direct])
            report["heldout"] = _report(heldout, features(heldout, "held-out", critiques=True), head, scalar)
        self._write(base_name, head, valid, len(pairs), report)
        return 0

    def _load_base(self, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
        if self.base == DEFAULT_NAME:
            return *load_default_base(dtype), BASE_NAME
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=dtype, device_map=device)
        return model, AutoTokenizer.from_pretrained(self.base), self.base

    def _write(
        self,
        base_name: str,
        head: FittedHead,
        valid: PairFeatures,
        pairs: int,
        report: dict[str, Any],
    ) -> None:
        assert valid.critiqued is not None
        self.out.mkdir(parents=True, exist_ok=True)
        fields: dict[str, Any] = {
            "critique_instruction": self.instruction,
            "max_critique_tokens": self.max_critique_tokens,
            "base_model": base_name,
            "training_data": (TrainingData(name=self.data.name, pairs=pairs, sha256=file_sha256(self.data)),),
            "calibration": Calibration(
                reference_set=f"both responses of the validation split of {self.data.name}",
                n=2 * len(valid.direct),
                direct_score=_moments(valid.direct @ head.reward),
                score=_moments(valid.critiqued @ head.reward),
            ),
        }
        if self.head_only:
            save_file({"reward": head.reward.contiguous()}, self.out / HEAD_FILE)
            # Token id and row hash are the assembled checkpoint's; assembling writes them anew.
            Manifest(reward_token_id=0, reward_row_sha256="0" * 64, **fields).save(self.out)
        else:
            # Rows are folded in float32: the body's precision while fitting is no part of the checkpoint.
            model, tokenizer, _ = self._load_base(torch.float32)
            assemble(model, tokenizer, head.reward, self.out, **fields)
        (self.out / "fit_report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        logger.info("%s", _table(report))
        logger.info("wrote %s; serve it with: criticrm serve %s", self.out, self.out)


def hash_order(text: str) -> str:
    """A fixed pseudo-random order."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def _moments(scores: torch.Tensor) -> Moments:
    return Moments(mean=scores.mean().item(), std=scores.std().item())


def _report(
    pairs: list[PreferencePair], features: PairFeatures, head: FittedHead, scalar: FittedHead | None = None
) -> dict[str, Any]:
    """Accuracies by category, and what the critiques look like."""
    assert features.critiqued is not None
    length = [float(len(p.chosen) - len(p.rejected)) for p in pairs]
    columns = {"longer wins": torch.tensor(length)}
    if scalar is not None:
        direct = features.direct @ scalar.reward
        columns["scalar head"] = direct[:, 0] - direct[:, 1]
    for name, states in (("direct_score", features.direct), ("score", features.critiqued)):
        rewards = states @ head.reward  # [pairs, 2]
        columns[name] = rewards[:, 0] - rewards[:, 1]
    rows: dict[str, Any] = {}
    for category in ["overall", *sorted({p.category for p in pairs})]:
        chosen = [i for i, p in enumerate(pairs) if category in ("overall", p.category)]
        groups = [pairs[i].group for i in chosen]
        rows[category] = {
            name: vars_of(pair_accuracy(margin[chosen].double().numpy(), groups)) for name, margin in columns.items()
        }
    return {"accuracy": rows, "critiques_ended": features.ended}


def vars_of(accuracy: Any) -> dict[str, float]:
    from dataclasses import asdict

    return asdict(accuracy)


def _table(report: dict[str, Any]) -> str:
    lines = []
    for name, part in report.items():
        columns = list(next(iter(part["accuracy"].values())))
        lines += ["", f"{name}: pair accuracy [95 % interval, bootstrap over questions]"]
        lines.append(f"{'category':<24}{'pairs':>6}  " + "".join(f"{c:<24}" for c in columns))
        for category, row in part["accuracy"].items():
            cells = "".join(f"{a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}]    " for a in row.values())
            lines.append(f"{category:<24}{row[columns[0]]['n']:>6}  {cells}")
        lines.append(f"critiques that end by themselves: {part['critiques_ended']:.2f}")
    return "\n".join(lines)
