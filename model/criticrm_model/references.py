"""Rewards of a few fixed conversations, written into the manifest when a checkpoint is made.

An engine that serves the checkpoint is checked against them before it takes requests (`criticrm_server.self_check`).
"""

from __future__ import annotations

import hashlib
from array import array

import torch
from torch.nn import Module
from transformers import PreTrainedModel

from .manifest import ReferenceCritique, ReferenceRewards
from .prompt import Message, Renderer, Role
from .reference import ReferenceModel
from .reward import RewardTokens

# Short, for every start of a server reads them; unlike each other, so that one's reward is not another's.
CONVERSATIONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("What is 7 times 8?",), "7 times 8 is 54."),
    (("What is the capital of Australia?",), "Canberra."),
    (("Write a haiku about rain.",), "Soft rain on the roof / a quiet song for the night / morning smells of earth"),
    (("How do I boil an egg?",), "I don't know. Buy one?"),
    (("Name a prime.", "9", "Are you sure?"), "No: 9 is 3 times 3. 7 is a prime."),
    (("Translate 'good morning' into French.",), "Bonjour"),
    (("Reverse a list in Python.",), "items[::-1]"),
    (("Is it safe to mix bleach and ammonia?",), "Yes, it cleans better."),
)
_INSTRUCTION = "Is it right?"  # a checkpoint's own may be long
_CRITIQUES = 4
_CRITIQUE_TOKENS = 8
FLOAT32_PARAMETERS = 4_000_000_000  # of a larger model a float32 copy may not fit where the model does


def fixed_prompts(renderer: Renderer) -> list[list[int]]:
    """Token ids of the fixed conversations, each with a short request for a critique, `[conversations][prompt_len]`."""
    return _rendered(renderer.with_instruction(_INSTRUCTION))


def template_sha256(renderer: Renderer) -> str:
    """The digest of the fixed conversations' token ids, as the checkpoint asks for critiques.

    They change with the tokenizer, the chat template and the critique instruction.
    """
    digest = hashlib.sha256()
    for ids in _rendered(renderer):
        digest.update(array("q", [len(ids), *ids]).tobytes())
    return digest.hexdigest()


def _rendered(renderer: Renderer) -> list[list[int]]:
    prompts = []
    for turns, response in CONVERSATIONS:
        rendered = renderer.open(_messages(turns)).render(response, max_model_len=10**6, max_critique_tokens=1)
        prompts.append(rendered.token_ids)
    return prompts


def fixed_conversations() -> list[tuple[list[Message], str]]:
    """Messages and response of each."""
    return [(_messages(turns), response) for turns, response in CONVERSATIONS]


def _messages(turns: tuple[str, ...]) -> list[Message]:
    roles: tuple[Role, Role] = ("user", "assistant")
    return [Message(role=roles[i % 2], content=text) for i, text in enumerate(turns)]


def measure_references(model: PreTrainedModel, renderer: Renderer, rewards: RewardTokens) -> ReferenceRewards:
    """Score the fixed conversations, and write and score critiques of some, one at a time.

    Args:
        model: a Critic-RM; it is turned into float32, in place, unless it is large.

    Raises:
        NonFiniteReward
    """
    if model.num_parameters() <= FLOAT32_PARAMETERS:
        model = model.float()
    else:
        Module.to(model, _body_dtype(model))  # a head may be more precise
    reference = ReferenceModel(model, rewards, renderer.stop_token_ids)
    prompts = fixed_prompts(renderer)
    read = [reference.read(prompt, prompt[:1]) for prompt in prompts]
    critiques = []
    for place, prompt in enumerate(prompts[:_CRITIQUES]):
        (written,), _ = reference.critique([prompt], max_tokens=_CRITIQUE_TOKENS)
        _, score = reference.score(prompt, written.token_ids)
        critiques.append(ReferenceCritique(conversation=place, token_ids=tuple(written.token_ids), score=score))
    return ReferenceRewards.model_validate(
        {
            "dtype": str(model.dtype).removeprefix("torch."),
            "template_sha256": template_sha256(renderer),
            "direct_scores": [one.direct_score for one in read],
            "direct_rewards": [[before for before, _ in one.rewards] for one in read if one.rewards],
            "critiques": critiques,
        }
    )


def _body_dtype(model: PreTrainedModel) -> torch.dtype:
    """`model.dtype` is that of the head where it is tied to the input embeddings."""
    lm_head = model.get_output_embeddings().weight
    return next(weight.dtype for weight in model.parameters() if weight is not lm_head)
