"""What can go wrong with a Critic-RM, whoever runs it.

Each class carries the code and the HTTP status of a response that reports it; nothing here imports HTTP.

CriticRMError
├── CheckpointError            the checkpoint is missing, incomplete or altered
│   └── UnsupportedModel       its architecture or tokenizer can't carry the readout
├── ConversationError          the chat template refuses this conversation
├── PromptTooLong              the rendered tokens do not fit the model
└── NonFiniteReward            the model returned NaN or infinity
"""

from __future__ import annotations

from typing import ClassVar


class CriticRMError(Exception):
    """Root of this project's exceptions.

    Attributes:
        code: names the kind of error to a program; each class that callers can receive has its own.
        status: of an HTTP response that reports it.
        retry_after_s: after which a request is worth sending again, in seconds; None where that does not help.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retry_after_s: int | None = None

    @property
    def details(self) -> list[dict[str, object]]:
        """What a program can act on: one mapping a fault, with `field`, `limit` and `actual` where they apply."""
        return []


class CheckpointError(CriticRMError):
    """A checkpoint is missing, incomplete, or not what its manifest says."""

    code = "bad_checkpoint"
    status = 500


class UnsupportedModel(CheckpointError):
    """The architecture or the tokenizer can't carry the readout; the message gives the reason."""

    code = "unsupported_model"
    status = 500


class ConversationError(CriticRMError):
    """The chat template of the model refuses this sequence of roles."""

    code = "unsupported_conversation"
    status = 422

    @property
    def details(self) -> list[dict[str, object]]:
        return [{"field": "prompt", "message": str(self)}]


class PromptTooLong(CriticRMError):
    """The rendered prompt and the room kept for a critique exceed the model's length. All counts in tokens.

    Args:
        at_least: not all of it was counted.
    """

    code = "prompt_too_long"
    status = 422

    def __init__(self, prompt_tokens: int, limit: int, max_critique_tokens: int, *, at_least: bool = False) -> None:
        counted = f"at least {prompt_tokens}" if at_least else f"{prompt_tokens}"
        super().__init__(
            f"the prompt with its response is {counted} tokens; {limit} fit beside a critique of up to "
            f"{max_critique_tokens}. Shorten it, ask for a shorter critique, or send on_overflow=truncate."
        )
        self.prompt_tokens = prompt_tokens
        self.limit = limit
        self.max_critique_tokens = max_critique_tokens
        self.at_least = at_least

    @property
    def details(self) -> list[dict[str, object]]:
        counted = "; prompt_tokens is a lower bound" if self.at_least else ""
        return [
            {
                "field": "responses",
                "message": f"prompt and response are too long together{counted}",
                "prompt_tokens": self.prompt_tokens,
                "max_critique_tokens": self.max_critique_tokens,
                "limit": self.limit,
            }
        ]


class NonFiniteReward(CriticRMError):
    """The reward logit is NaN or infinite: the checkpoint or its precision is at fault, never the caller."""

    code = "non_finite_reward"
    status = 500
