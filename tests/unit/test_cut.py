"""`cut: random`: rewards are trained within critiques too."""

from __future__ import annotations

from pathlib import Path

import pytest

from criticrm_model.prompt import Renderer
from criticrm_training.critiques.records import Critique
from criticrm_training.data.overlong import render_pairs
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.training.collator import Example
from criticrm_training.training.dataset import make_examples
from criticrm_training.training.train_config import ConfigError, Cut
from support.critics import settings
from support.tiny import INSTRUCTION, make_tokenizer

TEXT = "It is right, and it says so in a few words."
PAIRS = [PreferencePair(str(k), ({"role": "user", "content": "Why?"},), "So.", "No.", "all", "q") for k in range(40)]


def examples(cut: Cut) -> list[Example]:
    renderer = Renderer(make_tokenizer(), INSTRUCTION)
    rendered = render_pairs(PAIRS, renderer, max_model_len=512, max_critique_tokens=64, overlong="error", name="pairs")
    critiques = {(pair.id, "chosen"): [Critique(pair.id, "chosen", 0, TEXT, None, "stop", 0)] for pair in PAIRS}
    return make_examples(rendered, renderer, learned=critiques, judged=critiques, max_critique_tokens=64, cut=cut)  # type: ignore[arg-type]


def test_half_of_the_judged_ones_end_at_a_random_token() -> None:
    whole = [example["chosen"]["critiques"] for example in examples("none")]
    assert all([(c["learn"], c["reward"]) for c in critiques] == [(True, True)] for critiques in whole)
    tokens = whole[0][0]["token_ids"]
    found = [example["chosen"]["critiques"] for example in examples("random")]
    assert all(critiques[0]["learn"] and critiques[0]["token_ids"] == tokens for critiques in found)
    judged = [next(c["token_ids"] for c in critiques if c["reward"]) for critiques in found]
    assert all(ids == tokens[: len(ids)] for ids in judged)
    assert 0.3 < sum(len(ids) == len(tokens) for ids in judged) / len(judged) < 0.8
    assert len({len(ids) for ids in judged}) > 8
    assert examples("random") == examples("random")


def test_another_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cut: 'Random' is none of none, random"):
        settings(tmp_path / "run", cut="Random")
