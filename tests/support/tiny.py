"""Small tokenizers and models made in-process: nothing is downloaded, and every weight follows from a formula."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from criticrm_model import Calibration, Moments, RewardCard, Scale
from criticrm_model.checkpoint import WeightedReward, assemble

INSTRUCTION = "In one sentence, is the last reply good?"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
    "+ m['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)

# Each style: its template, its special tokens (BOS or None first, EOS second), and what the tokenizer prepends.
STYLES: dict[str, tuple[str, list[str], bool]] = {
    "chatml": (CHATML, ["<|endoftext|>", "<|im_end|>", "<|im_start|>"], False),
    "llama3": (
        LLAMA3,
        ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"],
        True,
    ),
    "gemma": (GEMMA, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], True),
    "mistral": (MISTRAL, ["<s>", "</s>", "[INST]", "[/INST]"], True),
}

_TEXT = [
    "Why is the sky blue? Air scatters blue light more than red light.",
    "The reply is correct and helpful, but it names no source.",
    "user assistant system model content question answer wrong right good bad",
    "What remains of the day is the light, and the water reflects it.",
]


def make_tokenizer(style: str = "chatml", template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of some 400 tokens in one of the `STYLES`."""
    default_template, special, adds_bos = STYLES[style]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    if adds_bos:
        bos = (special[0], tokenizer.token_to_id(special[0]))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        eos_token=special[1],
        pad_token=special[1],
        additional_special_tokens=special[2:],
    )
    fast.chat_template = default_template if template is None else template
    return fast


def add_plain_token(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    """Add a token that is not marked special, and return its id."""
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False)])
    token_id = tokenizer.convert_tokens_to_ids(text)
    assert isinstance(token_id, int)
    return token_id


def make_model(vocab_size: int, *, tied: bool = True, layers: int = 2) -> LlamaForCausalLM:
    """A Llama of 64 dimensions that real vLLM runs on a CPU (head size 32), float32."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    fill(model)
    return model


def fill(model: PreTrainedModel) -> None:
    """Fixed-formula weights: no seed, no generator, so golden values hold on every machine."""
    with torch.no_grad():
        for k, (name, parameter) in enumerate(sorted(model.named_parameters())):
            if "norm" in name:
                parameter.fill_(1.0)
                continue
            i = torch.arange(parameter.numel(), dtype=torch.float64)
            # sin of a multiple of an irrational number: spread evenly, and uncorrelated from row to row
            values = torch.sin((i + 1) * 12.9898 + (k + 1) * 78.233) * 43758.5453
            values = (values - values.floor()) * 2 - 1
            scale = 0.5 if "embed" in name or "lm_head" in name else 0.2
            parameter.copy_((values * scale).reshape(parameter.shape))


def reward_vector(d_model: int = 64) -> torch.Tensor:
    return torch.cos(torch.arange(d_model) * 0.7).float()


def card(**changes: object) -> RewardCard:
    fields: dict[str, object] = {
        "critique_instruction": INSTRUCTION,
        "max_critique_tokens": 24,
        "base_model": "tiny-llama",
        "calibration": Calibration(
            reference_set="made up",
            n=8,
            direct_score=Moments(mean=0.5, std=2.0),
            score=Moments(mean=-1.0, std=4.0),
            scales={0: Scale(slope=0.25, offset=-0.5), 1: Scale(slope=0.5, offset=1.0)},  # not the moments
        ),
    }
    return RewardCard.model_validate(fields | changes)


def make_checkpoint(folder: Path, style: str = "chatml", *, tied: bool = True, **changes: object) -> Path:
    """A Critic-RM checkpoint that vLLM and transformers load."""
    tokenizer = make_tokenizer(style)
    assemble(make_model(len(tokenizer), tied=tied), tokenizer, reward_vector(), card(**changes), folder)
    return folder


SEVERAL = (WeightedReward("helpfulness", 0.5), WeightedReward("correctness", 0.75), WeightedReward("verbosity", -0.25))


def several_rewards(d_model: int = 64) -> torch.Tensor:
    """Of `SEVERAL`, `[several, d_model]`."""
    return torch.stack([torch.cos(torch.arange(d_model) * 0.7 + k).float() for k in range(len(SEVERAL))])


def make_several(folder: Path, several: Sequence[WeightedReward] = SEVERAL, **changes: object) -> Path:
    """As `make_checkpoint`, with several rewards."""
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    assemble(model, tokenizer, several_rewards(), card(calibration=None, **changes), folder, several)
    return folder
