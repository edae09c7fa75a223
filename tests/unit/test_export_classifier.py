"""The way back: a checkpoint's direct score as a sequence classifier, with the same tokens and the same rewards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from criticrm_model import Manifest, UnsupportedModel
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.importing.exporter import export_classifier
from criticrm_model.importing.importer import Source, import_model
from criticrm_server.commands.export import Export
from support.references import load_reference
from support.scalars import CLASSES, conversations, make_classifier, make_internlm2, make_with_head
from support.tiny import make_checkpoint

pytestmark = pytest.mark.slow

SAME = 1e-5


def assert_same_rewards(checkpoint: Checkpoint, exported: Path, count: int = 64) -> None:
    """As TRL and `rewardbench` call it: the tokenizer's own chat template, then the classifier."""
    model = AutoModelForSequenceClassification.from_pretrained(exported, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(exported)
    reference = load_reference(checkpoint)
    assert (model.config.num_labels, type(model).__name__[-len("ForSequenceClassification") :]) == (
        1,
        "ForSequenceClassification",
    )
    for messages, response in conversations(count):
        rendered = checkpoint.renderer.open(messages).render(response, max_model_len=10_000, max_critique_tokens=1)
        conversation = [*messages, {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert ids[: len(rendered.token_ids)] == rendered.token_ids
        with torch.inference_mode():
            reward = model(torch.tensor([ids])).logits[0, 0].item()
        expected, _ = reference.score(rendered.token_ids, rendered.token_ids[:1])
        assert reward == pytest.approx(expected, abs=SAME)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", CLASSES)
def test_there_and_back(kind: str, tied: bool, tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source", kind, tied=tied)
    import_model(Source(str(source)), tmp_path / "first")
    assert export_classifier(Checkpoint.open(tmp_path / "first"), tmp_path / "classifier") <= SAME
    assert_same_rewards(Checkpoint.open(tmp_path / "first"), tmp_path / "classifier")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "classifier")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(source).chat_template


@pytest.mark.parametrize("made", ["imported", "a critic"])
def test_imported_again_it_has_the_same_row(made: str, tmp_path: Path) -> None:
    if made == "imported":
        source = make_classifier(tmp_path / "source", dtype=torch.bfloat16)
        import_model(Source(str(source)), tmp_path / "first")
    else:
        make_checkpoint(tmp_path / "first")
    first = Checkpoint.open(tmp_path / "first")
    export_classifier(first, tmp_path / "classifier")
    again = import_model(Source(str(tmp_path / "classifier")), tmp_path / "again").manifest
    assert again.reward.sha256 == first.manifest.reward.sha256
    opened = Checkpoint.open(tmp_path / "again").renderer.open([{"role": "user", "content": "Why?"}])
    prompt = opened.render("So.", max_model_len=1000, max_critique_tokens=1).token_ids
    before = first.renderer.open([{"role": "user", "content": "Why?"}])
    assert prompt == before.render("So.", max_model_len=1000, max_critique_tokens=1).token_ids
    models = [load_reference(Checkpoint.open(tmp_path / name)) for name in ("first", "again")]
    scores = [model.score(prompt, prompt[:1])[0] for model in models]
    assert scores[1] == pytest.approx(scores[0], abs=SAME)


@pytest.mark.parametrize("style", ["chatml", "llama3", "gemma"])
def test_a_critic_with_its_request_for_a_critique(style: str, tmp_path: Path) -> None:
    instruction = 'Is the last reply\n"good"? Don\'t say \\why.'
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "critic", style, critique_instruction=instruction))
    assert export_classifier(checkpoint, tmp_path / "classifier") <= SAME
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "classifier")
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    text = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "Air."}], tokenize=False)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    rendered = checkpoint.renderer.open(messages).render("Air.", max_model_len=1000, max_critique_tokens=1)  # type: ignore[arg-type]
    assert ids == rendered.token_ids
    expected, _ = load_reference(checkpoint).score(ids, ids[:1])
    assert model(torch.tensor([ids])).logits[0, 0].item() == pytest.approx(expected, abs=SAME)
    # In a batch with a longer one: padding is no token that a prompt ends with.
    padded = torch.tensor([[*ids, *[model.config.pad_token_id] * 5], [*ids[:5], *ids]])
    assert model(padded).logits[0, 0].item() == pytest.approx(expected, abs=SAME)


def test_the_day_of_a_template_that_prints_it_stays(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "critic")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') + '\n' }}" + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    export_classifier(Checkpoint.open(folder), tmp_path / "classifier")
    exported = AutoTokenizer.from_pretrained(tmp_path / "classifier")
    assert exported.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False).startswith("26 Jul 2024\n")


def test_a_template_that_joins_contents_with_its_own_text_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "critic", "mistral"))
    with pytest.raises(UnsupportedModel, match="no chat template gives the tokens"):
        export_classifier(checkpoint, tmp_path / "classifier")


def test_an_appended_token_is_in_the_template(tmp_path: Path) -> None:
    import_model(Source(str(make_internlm2(tmp_path / "source"))), tmp_path / "imported")
    export_classifier(Checkpoint.open(tmp_path / "imported"), tmp_path / "classifier")
    assert_same_rewards(Checkpoint.open(tmp_path / "imported"), tmp_path / "classifier", 8)


def test_an_offset_is_left_out_only_when_told(tmp_path: Path) -> None:
    import_model(Source(str(make_with_head(tmp_path / "source", "v_head", bias=2.5))), tmp_path / "imported")
    checkpoint = Checkpoint.open(tmp_path / "imported")
    with pytest.raises(UnsupportedModel, match=r"offset of 2\.5"):
        export_classifier(checkpoint, tmp_path / "classifier")
    export_classifier(checkpoint, tmp_path / "classifier", drop_offset=True)
    assert_same_rewards(checkpoint, tmp_path / "classifier", 8)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_checkpoint(tmp_path / "critic")
    with pytest.raises(ValidationError, match="--sequence-classification"):
        Export(_cli_parse_args=[str(folder), "--out", str(tmp_path / "out")])
    arguments = ["--sequence-classification", str(folder), "--out", str(tmp_path / "out")]
    assert Export(_cli_parse_args=arguments).run() == 0
    assert "differ from the checkpoint's by" in capsys.readouterr().out
    assert not (tmp_path / "out" / "critic_rm.json").exists()
    assert Manifest.load(folder).writes_critiques
