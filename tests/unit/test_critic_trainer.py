"""`CriticTrainer` as people know trainers, and what it writes and pushes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from criticrm_model.checkpoint import Checkpoint
from criticrm_training import CriticTrainer
from criticrm_training.data.pairs import read_pairs
from criticrm_training.data.sources import DataError
from criticrm_training.data.splits import in_question_order
from criticrm_training.training import hub
from criticrm_training.training.critic_trainer import SUMMARY
from criticrm_training.training.rows import read_rows
from criticrm_training.training.run import train
from criticrm_training.training.train_config import ConfigError
from support.critics import ROWS, settings
from support.runs import write_config
from support.tiny import INSTRUCTION

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "rows", [ROWS, Dataset.from_list([{**row, "chosen_reward_critiques": ["Good."]} for row in ROWS])]
)
def test_rows_in_a_checkpoint_out(base: Path, tmp_path: Path, rows: Any) -> None:
    trainer = CriticTrainer(
        str(base),
        settings(tmp_path / "run"),
        train_dataset=rows,
        eval_dataset=ROWS[:6],
        peft_config=LoraConfig(r=2, target_modules="all-linear"),
    )
    trainer.train()
    assert {"eval_accuracy", "eval_direct_accuracy"} <= trainer.evaluate().keys()
    trainer.save_model(str(tmp_path / "out"))
    opened = Checkpoint.open(tmp_path / "out")
    assert opened.manifest.critique_instruction == INSTRUCTION
    assert opened.manifest.training_data[0].pairs == len(ROWS)
    assert json.loads((tmp_path / "out" / SUMMARY).read_text())["reward_trained"]
    trainer.save_model(str(tmp_path / "copy"))
    assert Checkpoint.open(tmp_path / "copy").manifest == opened.manifest


def test_a_loaded_model_without_evaluation(base: Path, tmp_path: Path) -> None:
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    trainer = CriticTrainer(lm, settings(tmp_path / "run"), train_dataset=ROWS, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    manifest = Checkpoint.open(tmp_path / "out").manifest
    assert manifest.calibration is not None
    assert manifest.calibration.reference_set == "both responses of 4 training pairs of preference pairs"
    assert manifest.base_model == str(base)


def test_the_command_trains_by_the_same_class(base: Path, data: Path, tmp_path: Path) -> None:
    """The same pairs and critiques give the same reward."""
    once = {"num_train_epochs": 1, "eval_strategy": "no"}
    config = write_config(tmp_path / "c.yaml", base, data, trainer=once, validation_share=0)
    train(config, tmp_path / "command")
    said = {"chosen_critiques": ["The reply is good."], "rejected_critiques": ["The reply is bad."]}
    pairs = in_question_order(read_pairs(data / "pairs.jsonl"))
    rows = [{"id": p.id, "prompt": list(p.prompt), "chosen": p.chosen, "rejected": p.rejected} | said for p in pairs]
    args = settings(tmp_path / "run", max_steps=-1, critique_weight=0.3, calibration_pairs=6, **once)
    trainer = CriticTrainer(str(base), args, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "api"))
    command, api = (Checkpoint.open(tmp_path / name).manifest for name in ("command", "api"))
    assert command.reward.sha256 == api.reward.sha256


def test_columns_are_read_into_their_roles() -> None:
    data = read_rows(ROWS)
    assert data.learned is not None
    assert data.judged is not None
    assert [c.text for c in data.learned["3", "chosen"]] == ["It is good."]
    assert ("3", "rejected") not in data.learned
    assert [c.finish_reason for c in data.judged["3", "chosen"]] == ["stop", "length"]
    assert (data.pairs[3].margin, data.pairs[3].agreement) == (0.5, 0.9)
    both = read_rows([{k: v for k, v in row.items() if "reward" not in k} for row in ROWS])
    assert both.judged == both.learned


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen_critiques": [3]}, r"rows, row 1: chosen_critiques\[0\]: a critique is a text"),
        ({"chosen_critiques": "It is good."}, "rows, row 1: chosen_critiques: str is not a list of critiques"),
        ({"chosen_critiques": {"text": "Good."}}, "rows, row 1: chosen_critiques: dict is not a list of critiques"),
        ({"rejected": "half \ud83d"}, "rows, row 1: rejected: character 6 is .* half of a surrogate pair"),
        ({"chosen_critiques": [{"text": "\udc00"}]}, r"rows, row 1: chosen_critiques\[0\].text: character 1 is"),
        ({"margin": "wide"}, "rows, row 1: margin"),
        ({"chosen": None}, "rows, row 1: chosen"),
    ],
)
def test_a_wrong_row_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows([ROWS[0], ROWS[1] | change], "rows")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="rows, row 0: there is no rejected"):
        read_rows([{"prompt": "a", "chosen": "b"}], "rows")


class FakeHub:
    """Keeps what would be uploaded."""

    calls: list[tuple[str, str, list[str]]] = []  # noqa: RUF012 - of one test

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> Any:
        assert exist_ok
        self.calls.append(("create", repo_id, [str(self.token), str(private)]))
        return type("Url", (), {"repo_id": repo_id})

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        from huggingface_hub.utils import filter_repo_objects

        files = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
        kept = filter_repo_objects(files, ignore_patterns=options.get("ignore_patterns"))
        self.calls.append(("upload", repo_id, sorted(kept)))
        return f"commit of {repo_id}"


def test_the_merged_checkpoint_and_the_adapter_are_pushed(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    pushing = {"max_steps": 2, "push_to_hub": True, "hub_model_id": "me/critic", "hub_token": "k"}
    train(write_config(tmp_path / "c.yaml", base, data, lora={"r": 2}, trainer=pushing), tmp_path / "out")
    created, merged, created_adapter, adapter = FakeHub.calls
    assert created == ("create", "me/critic", ["k", "None"])
    assert created_adapter[:2] == ("create", "me/critic-adapter")
    assert merged[:2] == ("upload", "me/critic")
    assert {"critic_rm.json", "model.safetensors", "tokenizer.json", "README.md", SUMMARY} <= set(merged[2])
    assert not [name for name in merged[2] if "/" in name or name == "run.json"]
    assert adapter[:2] == ("upload", "me/critic-adapter")
    assert {"adapter_config.json", "adapter_model.safetensors", "reward.safetensors", "README.md"} <= set(adapter[2])
    described = json.loads((tmp_path / "out" / "run.json").read_text())
    assert "hub_token" not in described["trainer"]


def test_pushing_needs_a_name(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hub_model_id: push_to_hub needs the repository's name"):
        CriticTrainer(str(base), settings(tmp_path, push_to_hub=True), train_dataset=ROWS)


def test_the_model_card_says_what_it_is(base: Path, data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", base, data, lora={"r": 2}, trainer={"max_steps": 2})
    train(config, tmp_path / "out")
    for folder, library in ((tmp_path / "out", "transformers"), (tmp_path / "out" / "adapter", "peft")):
        _, head, text = (folder / "README.md").read_text().split("---\n", 2)
        about = yaml.safe_load(head)
        assert about["base_model"] == str(base)
        assert about["library_name"] == library
        assert "critic and reward model" in text
        assert "| training pairs | 31 |" in text
        assert INSTRUCTION in text
    critique_only = {"schedule": "critique"}
    config = write_config(tmp_path / "d.yaml", base, data, objective=critique_only, trainer={"max_steps": 2})
    train(config, tmp_path / "language")
    assert "**It has no reward that was trained**" in (tmp_path / "language" / "README.md").read_text()
