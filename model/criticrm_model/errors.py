"""What can go wrong with a Critic-RM, whoever runs it. Nothing here knows HTTP.

CriticRMError
├── CheckpointError            the checkpoint is missing, incomplete or altered
│   └── UnsupportedModel       its architecture or tokenizer can't carry the readout
├── ConversationError          the chat template refuses this conversation
├── PromptTooLong              the rendered tokens do not fit the model
└── NonFiniteReward            the model returned NaN or infinity
"""

from __future__ import annotations


class CriticRMError(Exception):
    """Root of this project's exceptions."""

    @property
    def details(self) -> list[dict[str, object]]:
        """What a program can act on: one mapping a fault, with `field`, `limit` and `actual` where they apply."""
        return []


class CheckpointError(CriticRMError):
    """A checkpoint is missing, incomplete, or not what its manifest says."""


class UnsupportedModel(CheckpointError):
    """The architecture or the tokenizer can't carry the readout; the message gives the reason."""


class ConversationError(CriticRMError):
    """The chat template of the model refuses this sequence of roles."""

    @property
    def details(self) -> list[dict[str, object]]:
        return [{"field": "prompt", "message": str(self)}]


class PromptTooLong(CriticRMError):
    """The rendered prompt and the room kept for a critique exceed the model's length. All counts in tokens."""

    def __init__(self, prompt_tokens: int, limit: int, max_critique_tokens: int) -> None:
        super().__init__(
            f"the prompt with its response is {prompt_tokens} tokens; {limit} fit beside a critique of up to "
            f"{max_critique_tokens}. Shorten it, ask for a shorter critique, or send on_overflow=truncate."
        )
        self.prompt_tokens = prompt_tokens
        self.limit = limit
        self.max_critique_tokens = max_critique_tokens

    @property
    def details(self) -> list[dict[str, object]]:
        return [
            {
                "field": "responses",
                "message": "prompt and response are too long together",
                "prompt_tokens": self.prompt_tokens,
                "max_critique_tokens": self.max_critique_tokens,
                "limit": self.limit,
            }
        ]


class NonFiniteReward(CriticRMError):
    """The reward logit is NaN or infinite: the checkpoint or its precision is at fault, never the caller."""
