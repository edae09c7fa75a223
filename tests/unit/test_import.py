"""Public scalar reward models as checkpoints: their rewards are the original class's, and what can't be is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from criticrm_model import CheckpointError, CriticRMError, Manifest, UnsupportedModel
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.importing.importer import Imported, Source, import_model
from criticrm_model.importing.original import Original
from criticrm_server import verify
from criticrm_server.commands import verify as verify_command
from criticrm_server.commands.import_ import Import
from criticrm_server.commands.verify import Verify
from criticrm_server.engines.transformers_engine import TransformersEngine
from criticrm_server.self_check import self_check
from criticrm_server.settings import Settings
from support.references import load_reference
from support.scalars import (
    CLASSES,
    conversations,
    edit_config,
    edit_weights,
    make_classifier,
    make_internlm2,
    make_with_head,
    save,
    sizes,
)
from support.tiny import fill, make_tokenizer

pytestmark = pytest.mark.slow

EXACT = 1e-4


def differences(checkpoint: Checkpoint, source: Path, reward_token_id: int | None = None) -> list[float]:
    """Of each conversation's reward: the reading of the checkpoint less that of the original."""
    original = Original(source, checkpoint.tokenizer, reward_token_id=reward_token_id)
    model, offset = load_reference(checkpoint), checkpoint.manifest.offset
    found = []
    for messages, response in conversations():
        rendered = checkpoint.renderer.open(messages).render(response, max_model_len=10_000, max_critique_tokens=1)
        score = model.score(rendered.token_ids, rendered.token_ids[:1])[0] + offset
        found.append(score - original.reward(messages, response))
    return found


def assert_exact(folder: Path, source: Path, reward_token_id: int | None = None) -> Checkpoint:
    checkpoint = Checkpoint.open(folder)
    found = differences(checkpoint, source, reward_token_id)
    assert len(found) == 64
    assert max(map(abs, found)) <= EXACT
    return checkpoint


def imported(source: Path, out: Path, **options: object) -> Imported:
    return import_model(Source(str(source), **options), out)  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_classifier_of_transformers(kind: str, tied: bool, tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source", kind, tied=tied)
    done = imported(source, tmp_path / "out")
    assert done.largest <= EXACT
    checkpoint = assert_exact(tmp_path / "out", source)
    assert checkpoint.manifest == done.manifest
    assert checkpoint.manifest.lm_head == tied
    assert not checkpoint.manifest.writes_critiques
    assert checkpoint.manifest.origin is not None
    assert checkpoint.manifest.origin.name == str(source)


def test_bfloat16_weights_stay_as_they_are(tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source", dtype=torch.bfloat16)
    imported(source, tmp_path / "out")
    assert_exact(tmp_path / "out", source)
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_more_precise_than_its_body(tied: bool, tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source", dtype=torch.bfloat16, tied=tied)
    edit_weights(source, score__weight=torch.cos(torch.arange(64) * 0.7)[None])
    imported(source, tmp_path / "out")
    assert_exact(tmp_path / "out", source)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("tied", [True, False])
def test_a_large_model_is_referred_to_in_the_precision_of_its_body(
    tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("references", "importing.importer"):
        monkeypatch.setattr(f"criticrm_model.{module}.FLOAT32_PARAMETERS", 0)
    source = make_classifier(tmp_path / "source", dtype=torch.bfloat16, tied=tied)
    edit_weights(source, score__weight=torch.cos(torch.arange(64) * 0.7)[None])
    references = imported(source, tmp_path / "out").manifest.references
    assert references is not None
    assert references.dtype == "bfloat16"


def test_weights_in_shards(tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source", shard="100KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    imported(source, tmp_path / "out")
    assert_exact(tmp_path / "out", source)


def test_weights_in_torch_s_own_files(tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source")
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    imported(source, tmp_path / "out")
    assert_exact(tmp_path / "out", source)


@pytest.mark.parametrize("pad", ["<|eot_id|>", None])
def test_a_padding_token_that_ends_the_template(pad: str | None, tmp_path: Path) -> None:
    """transformers reads before it."""
    pad_token_id = None if pad is None else make_tokenizer("llama3").convert_tokens_to_ids(pad)
    source = make_classifier(tmp_path / "source", pad_token_id=pad_token_id)  # type: ignore[arg-type]
    imported(source, tmp_path / "out")
    checkpoint = assert_exact(tmp_path / "out", source)
    rendered = checkpoint.renderer.open([{"role": "user", "content": "Why?"}])
    last = rendered.render("So.", max_model_len=100, max_critique_tokens=1).token_ids[-1]
    assert (checkpoint.tokenizer.convert_ids_to_tokens(last) == "<|eot_id|>") == (pad is None)


@pytest.mark.parametrize(
    "head", ["v_head", "v_head.summary", "regression_head", "value_head", "pretrained_model.score"]
)
def test_other_linear_heads_with_a_bias(head: str, tmp_path: Path) -> None:
    source = make_with_head(tmp_path / "source", head, bias=-3.25)
    imported(source, tmp_path / "out")
    checkpoint = assert_exact(tmp_path / "out", source)
    assert checkpoint.manifest.offset == -3.25
    assert checkpoint.manifest.lm_head


def test_a_value_head_in_a_file_of_its_own(tmp_path: Path) -> None:
    """LLaMA-Factory's."""
    source = make_with_head(tmp_path / "source", "v_head.summary", bias=0.5)
    weights = load_file(source / "model.safetensors")
    head = {name: weights.pop(name) for name in list(weights) if name.startswith("v_head")}
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    save_file(head, source / "value_head.safetensors", metadata={"format": "pt"})
    imported(source, tmp_path / "out")
    assert assert_exact(tmp_path / "out", source).manifest.offset == 0.5


def test_a_body_under_another_name(tmp_path: Path) -> None:
    """Starling's."""
    source = make_with_head(tmp_path / "source", "v_head", kept_lm_head=False)
    weights = load_file(source / "model.safetensors")
    renamed = {name.replace("model.", "transformer.", 1): tensor for name, tensor in weights.items()}
    save_file(renamed, source / "model.safetensors", metadata={"format": "pt"})
    imported(source, tmp_path / "out")
    assert not assert_exact(tmp_path / "out", source).manifest.lm_head


def test_a_reward_at_the_cls_token(tmp_path: Path) -> None:
    """Athene's, whose pipeline writes BOS twice."""
    source = make_with_head(tmp_path / "source", "v_head", kept_lm_head=False)
    tokenizer = make_tokenizer("llama3")
    tokenizer.cls_token = "<|end_of_text|>"
    tokenizer.save_pretrained(source)
    imported(source, tmp_path / "out")
    checkpoint = assert_exact(tmp_path / "out", source)
    rendered = checkpoint.renderer.open([{"role": "user", "content": "Why?"}])
    ids = rendered.render("So.", max_model_len=100, max_critique_tokens=1).token_ids
    assert ids[-1] == tokenizer.cls_token_id
    assert ids[:2] == [tokenizer.bos_token_id] * 2


@pytest.mark.parametrize("bias", [False, True])
def test_internlm2(bias: bool, tmp_path: Path) -> None:
    source = make_internlm2(tmp_path / "source", bias=bias)
    imported(source, tmp_path / "out")
    checkpoint = assert_exact(tmp_path / "out", source)
    rendered = checkpoint.renderer.open([{"role": "user", "content": "Why?"}])
    assert rendered.render("So.", max_model_len=100, max_critique_tokens=1).token_ids[-1] == 7
    assert checkpoint.config.model_type == "llama"


def test_the_logit_of_a_token(tmp_path: Path) -> None:
    """Nemotron's: no row is added."""
    tokenizer = make_tokenizer("llama3")
    model = LlamaForCausalLM(LlamaConfig(**sizes(len(tokenizer), tied=False)))
    fill(model)
    source = save(model, tokenizer, tmp_path / "source")
    imported(source, tmp_path / "out", reward_token_id=3)
    checkpoint = assert_exact(tmp_path / "out", source, reward_token_id=3)
    assert len(checkpoint.tokenizer) == len(tokenizer)
    assert checkpoint.manifest.reward_token_id == 3
    with pytest.raises(UnsupportedModel, match="--reward-token-id"):
        imported(source, tmp_path / "other")


FIVE = {"helpfulness": 0.5, "correctness": 0.25, "coherence": 0.25, "complexity": 0.0, "verbosity": -0.1}


def assert_each_is_exact(folder: Path, source: Path, weights: dict[str, float]) -> Checkpoint:
    checkpoint = Checkpoint.open(folder)
    manifest = checkpoint.manifest
    assert {reward.name: reward.weight for reward in manifest.rewards} == weights
    original = Original(source, checkpoint.tokenizer, objectives=weights)
    model = load_reference(checkpoint)
    for messages, response in conversations(16):
        rendered = checkpoint.renderer.open(messages).render(response, max_model_len=10_000, max_critique_tokens=1)
        read = model.read(rendered.token_ids, rendered.token_ids[:1])
        expected = original.rewards(messages, response)
        found = [before + r.offset for (before, _), r in zip(read.rewards, manifest.rewards, strict=True)]
        assert found == pytest.approx(expected, abs=EXACT)
        score = sum(weight * reward for weight, reward in zip(weights.values(), expected, strict=True))
        assert read.direct_score + manifest.offset == pytest.approx(score, abs=EXACT)
    return checkpoint


@pytest.mark.parametrize("named", [True, False])
def test_several_objectives_of_a_classifier(named: bool, tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source", labels=5)
    weights = FIVE
    if named:  # in another order than the rows'
        edit_config(source, id2label=dict(enumerate(FIVE)))
        weights = dict(reversed(FIVE.items()))
    assert imported(source, tmp_path / "out", objectives=weights).largest <= EXACT
    assert_each_is_exact(tmp_path / "out", source, FIVE)


def test_several_objectives_with_a_bias_each(tmp_path: Path) -> None:
    source = make_with_head(tmp_path / "source", "rm_head")
    rows = torch.cos(torch.arange(3 * 64) * 0.7).reshape(3, 64)
    edit_weights(source, rm_head__weight=rows, rm_head__bias=torch.tensor([1.0, -2.0, 0.5]))
    weights = {"a": 1.0, "b": 0.5, "c": -1.0}
    imported(source, tmp_path / "out", objectives=weights)
    checkpoint = assert_each_is_exact(tmp_path / "out", source, weights)
    assert checkpoint.manifest.offset == pytest.approx(1.0 - 1.0 - 0.5)


def test_the_objectives_of_armorm_without_its_gate(tmp_path: Path) -> None:
    source = make_with_head(tmp_path / "source", "regression_layer")
    rows = torch.cos(torch.arange(19 * 64) * 0.7).reshape(19, 64)
    gate = {"gating__layers__0__weight": torch.ones(8, 64), "reward_transform_matrix": torch.ones(19, 19)}
    edit_weights(source, regression_layer__weight=rows, **gate)
    weights = {f"objective-{row}": float(row == 9) for row in range(19)}
    imported(source, tmp_path / "out", objectives=weights)
    assert_each_is_exact(tmp_path / "out", source, weights)


@pytest.mark.parametrize(
    ("labels", "weights", "words"),
    [
        (5, {"helpfulness": 1.0}, "say what each weighs in the score \\(helpfulness, correctness, coherence"),
        (5, dict.fromkeys("abcde", 1.0), "say what each weighs in the score \\(helpfulness, correctness, coherence"),
        (1, {"helpfulness": 1.0}, "it has one reward: leave out --weights"),
        (2, {"a": 1.0, "b": -1.0}, "num_labels is 2"),
    ],
)
def test_weights_that_fit_no_rows(labels: int, weights: dict[str, float], words: str, tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source", labels=labels)
    if labels == 5:
        edit_config(source, id2label=dict(enumerate(FIVE)))
    with pytest.raises(UnsupportedModel, match=words):
        imported(source, tmp_path / "out", objectives=weights)


def test_the_lm_head_of_the_model_that_it_was_trained_from(tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source", "qwen2")
    tokenizer = make_tokenizer("chatml")
    model = LlamaForCausalLM(LlamaConfig(**sizes(len(tokenizer), tied=False)))
    fill(model)
    base = save(model, tokenizer, tmp_path / "base")
    imported(source, tmp_path / "out", lm_head=str(base))
    checkpoint = assert_exact(tmp_path / "out", source)
    assert checkpoint.manifest.lm_head
    head = load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"]
    assert torch.equal(head[: len(tokenizer)], load_file(base / "model.safetensors")["lm_head.weight"])


def test_a_chat_template_and_a_tokenizer_from_elsewhere(tmp_path: Path) -> None:
    """UltraRM has no chat template; its text joins words with the template's, which is tokenised as a whole."""
    source = make_with_head(tmp_path / "source", "regression_head", kept_lm_head=False)
    for file in source.glob("tokenizer*"):
        file.unlink()
    tokenizer = make_tokenizer("llama3")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(CheckpointError, match="--tokenizer"):
        imported(source, tmp_path / "out")
    with pytest.raises(UnsupportedModel, match="chat template"):
        imported(source, tmp_path / "out", tokenizer=str(tmp_path / "tokenizer"))
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% for m in messages %}{{ ('Human: ' if m.role == 'user' else 'Assistant: ') + m.content + '\n' }}{% endfor %}"
    )
    imported(source, tmp_path / "out", tokenizer=str(tmp_path / "tokenizer"), chat_template=template)
    assert_exact(tmp_path / "out", source)


def mlp(folder: Path) -> Path:
    source = make_classifier(folder)
    edit_weights(source, ("score",), score__0__weight=torch.ones(8, 64), score__2__weight=torch.ones(1, 8))
    return source


def cloud(folder: Path) -> Path:
    source = make_classifier(folder)
    head = {"reward_head__dense__weight": torch.ones(64, 64), "reward_head__out_proj__weight": torch.ones(1, 64)}
    edit_weights(source, ("score",), **head)
    return source


def grm(folder: Path) -> Path:
    source = make_classifier(folder)
    edit_weights(
        source, ("score",), v_head__summary__0__weight=torch.ones(8, 64), v_head__summary__2__weight=torch.ones(1, 8)
    )
    return source


def armo(folder: Path) -> Path:
    source = make_classifier(folder)
    layers = {"regression_layer__weight": torch.ones(19, 64), "gating__layers__0__weight": torch.ones(8, 64)}
    edit_weights(source, ("score",), **layers)
    return source


def several(folder: Path) -> Path:
    return make_classifier(folder, labels=5)


def two_labels(folder: Path) -> Path:
    return make_classifier(folder, labels=2)


def encoder(folder: Path) -> Path:
    tokenizer = make_tokenizer("chatml")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=1, num_attention_heads=2, num_labels=1
    )
    return save(BertForSequenceClassification(config), tokenizer, folder)


def gemma2(folder: Path) -> Path:
    tokenizer = make_tokenizer("gemma")
    config = Gemma2Config(**sizes(len(tokenizer), tied=True), num_labels=1)
    return save(Gemma2ForSequenceClassification(config), tokenizer, folder)


def pooled(folder: Path) -> Path:
    source = make_classifier(folder)
    edit_config(source, pooling="mean")
    return source


def quantised(folder: Path) -> Path:
    source = make_classifier(folder)
    edit_config(source, quantization_config={"quant_method": "gptq", "bits": 4})
    return source


def more_weights(folder: Path) -> Path:
    source = make_classifier(folder)
    edit_weights(source, model__extra__weight=torch.ones(3))
    return source


def scaled_internlm2(folder: Path) -> Path:
    source = make_internlm2(folder)
    edit_config(source, rope_scaling={"type": "dynamic", "factor": 2.0})
    return source


def adapter(folder: Path) -> Path:
    source = make_classifier(folder)
    (source / "adapter_config.json").write_text("{}")
    return source


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (mlp, "its head is an MLP"),
        (cloud, "its head is an MLP"),
        (grm, "its head is an MLP"),
        (armo, "learned gate"),
        (several, "5 rows, one an objective"),
        (two_labels, "num_labels is 2"),
        (encoder, "it is an encoder"),
        (gemma2, "soft-caps its logits"),
        (pooled, "pooling"),
        (quantised, "quantised"),
        (more_weights, r"weights that are no part of it \(model.extra.weight\)"),
        (scaled_internlm2, "rope_scaling"),
        (adapter, "is an adapter"),
    ],
)
def test_what_can_not_be_exact_is_refused(make: Callable[[Path], Path], words: str, tmp_path: Path) -> None:
    source = make(tmp_path / "source")
    with pytest.raises(UnsupportedModel, match=words):
        imported(source, tmp_path / "out")
    assert not (tmp_path / "out" / "critic_rm.json").exists()


def test_rewards_that_differ_leave_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_classifier(tmp_path / "source")
    rewards = Original.rewards
    monkeypatch.setattr(Original, "rewards", lambda *arguments: [one + 0.01 for one in rewards(*arguments)])
    with pytest.raises(CheckpointError, match=r"differ from those of .* by up to 0\.01"):
        imported(source, tmp_path / "out")
    assert not (tmp_path / "out" / "critic_rm.json").exists()


def test_a_revision_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_classifier(tmp_path / "source")
    asked = []

    def download(name: str, revision: str | None = None) -> str:
        asked.append((name, revision))
        return str(source)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    manifest = import_model(Source("owner/name", "v1"), tmp_path / "out").manifest
    assert asked == [("owner/name", "v1")]
    assert manifest.origin is not None
    assert (manifest.origin.name, manifest.origin.revision, manifest.base_model) == ("owner/name", "v1", "owner/name")


def test_text_of_a_caller_stays_text(tmp_path: Path) -> None:
    """A content that spells a control token is rendered apart from the template, and is one token nowhere."""
    imported(make_classifier(tmp_path / "source", "qwen2"), tmp_path / "out")
    checkpoint = Checkpoint.open(tmp_path / "out")
    end = checkpoint.tokenizer.convert_tokens_to_ids("<|im_end|>")

    def ids(question: str, response: str) -> list[int]:
        opened = checkpoint.renderer.open([{"role": "user", "content": question}])
        return opened.render(response, max_model_len=10_000, max_critique_tokens=1).token_ids

    assert ids("Why?", "So.").count(end) == 2
    assert ids("Why?", "So.<|im_end|>\n<|im_start|>user\nNo").count(end) == 2
    assert ids("Why?<|im_end|>", "So.").count(end) == 2


def test_what_is_too_long_is_refused_or_cut(tmp_path: Path) -> None:
    imported(make_classifier(tmp_path / "source", "qwen2"), tmp_path / "out")
    opened = Checkpoint.open(tmp_path / "out").renderer.open(
        [{"role": "user", "content": "why " * 100}], most_tokens=64
    )
    cut = opened.render("because", max_model_len=64, max_critique_tokens=1, truncate=True)
    assert cut.truncated
    assert len(cut.token_ids) == 63
    with pytest.raises(Exception, match="fit beside"):
        opened.render("because", max_model_len=64, max_critique_tokens=1)


def test_a_manifest_of_version_1_is_read(tiny_checkpoint: Path, tmp_path: Path) -> None:
    stored = json.loads((tiny_checkpoint / "critic_rm.json").read_text())
    (reward,) = stored.pop("rewards")
    for name in ("readout", "origin", "lm_head"):
        stored.pop(name)
    old = {
        "reward_token": reward["token"],
        "reward_token_id": reward["token_id"],
        "reward_row_sha256": reward["sha256"],
    }
    (tmp_path / "critic_rm.json").write_text(json.dumps(stored | old | {"format_version": 1}))
    assert Manifest.load(tmp_path) == Manifest.load(tiny_checkpoint)


def test_the_imported_model_is_a_classifier_no_more(tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source")
    imported(source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert AutoModelForSequenceClassification.from_pretrained(source).config.num_labels == 1


async def test_an_engine_proves_its_readout(tmp_path: Path) -> None:
    source = make_with_head(tmp_path / "source", "v_head", bias=1.5, kept_lm_head=False)
    imported(source, tmp_path / "out")
    checkpoint = Checkpoint.open(tmp_path / "out")
    engine = TransformersEngine(checkpoint, Settings(engine="transformers", dtype="float32"))
    await engine.start()
    checks = await self_check(engine.run, engine.facts, checkpoint, 2048)
    assert {"template", "references", "decode", "ban"} <= {check.name for check in checks}
    await engine.close()


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_classifier(tmp_path / "source")
    assert Import(_cli_parse_args=[str(source), "--out", str(tmp_path / "out")]).run() == 0
    printed = capsys.readouterr().out
    assert Manifest.load(tmp_path / "out").version in printed
    assert "--lm-head" in printed


def test_verify_compares_with_the_original_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_with_head(tmp_path / "source", "v_head", bias=1.5)
    imported(source, tmp_path / "out")
    monkeypatch.setattr(verify_command, "configure_logging", lambda *_: None)
    monkeypatch.setattr(verify_command, "require_engine", lambda _: None)
    monkeypatch.setattr(verify, "create_engine", TransformersEngine)

    def run(**options: Any) -> tuple[int, dict[str, Any]]:
        code = Verify(model=str(tmp_path / "out"), limit=4, json=True, **options).run()
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    code, last = run()
    assert code == 0
    assert (last["original"]["n"], last["original"]["max_abs_diff"] <= EXACT) == (4, True)
    assert "original" not in run(original="none")[1]
    with pytest.raises(CriticRMError, match="longer than the engine takes"):
        run(max_model_len=64)
    edit_weights(source, v_head__bias=torch.tensor([1.6]))
    code, last = run()
    assert code == 1
    assert last["original"]["mean_signed_diff"] == pytest.approx(-0.1, abs=EXACT)
    source.rename(tmp_path / "moved")
    with pytest.raises(CriticRMError, match="--original"):
        run()
    assert run(original=str(tmp_path / "moved"))[0] == 1
