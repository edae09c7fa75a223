"""Tasks and conversations as token ids; what can't be rendered is an error that says whose it is, and which field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from criticrm_model.errors import ConversationError, PromptTooLong
from criticrm_model.prompt import Message, Renderer

from .writers import Conversation, WriterError, WritingTask


class RenderedTask(NamedTuple):
    """What a writer goes on from.

    Attributes:
        prompt_ids: token ids, `[prompt_len]`.
        prefix_ids: of the text that every draft begins with, `[prefix_len]`.
        truncated: tokens of the conversation or of the response were dropped to fit; None for what is never cut.
    """

    prompt_ids: list[int]
    prefix_ids: list[int]
    truncated: bool | None


def render_task(renderer: Renderer, task: WritingTask, *, max_model_len: int, max_tokens: int) -> RenderedTask:
    """The prompt that asks for a critique, and the prefix of that.

    Args:
        max_model_len: of prompt, prefix and critique, in tokens; a longer conversation or response is cut.
        max_tokens: of what is written after the prefix.

    Raises:
        WriterError: a text is none, the chat template refuses the roles, or the template alone does not fit.
    """
    require_text(task)
    with _naming(task):
        prefix = renderer.tokenize_critique(task.prefix)[:-1] if task.prefix else []
        opened = renderer.with_instruction(task.instruction).open(task.prompt)
        prompt = opened.render(
            task.response, max_model_len=max_model_len, max_critique_tokens=len(prefix) + max_tokens, truncate=True
        )
    return RenderedTask(prompt.token_ids, prefix, prompt.truncated)


def render_conversation(
    renderer: Renderer, conversation: Conversation, *, max_model_len: int, max_tokens: int
) -> list[int]:
    """Token ids, `[prompt_len]`, of a conversation that is to be answered in `max_tokens`.

    Raises:
        WriterError: a text is none, the chat template refuses the roles, or it does not fit.
    """
    require_text(conversation)
    with _naming(conversation):
        ids = renderer.render_conversation(conversation.messages)
    if len(ids) + max_tokens > max_model_len:
        raise WriterError(
            f"{prefixed(conversation)}a conversation of {len(ids)} tokens and an answer of up to {max_tokens} "
            f"do not fit in max_model_len {max_model_len}"
        )
    return ids


def prefixed(asked: WritingTask | Conversation) -> str:
    """What an error begins with: whose it is."""
    return f"{asked.label}: " if asked.label else ""


def require_text(asked: WritingTask | Conversation) -> None:
    """Raises WriterError: a field holds a lone surrogate, half of a character, which no tokenizer takes."""
    for field, text in _texts(asked):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise WriterError(
                f"{prefixed(asked)}{field}: a lone surrogate (U+{ord(text[error.start]):04X}) at character "
                f"{error.start}, which is no text: remove it"
            ) from error


def _texts(asked: WritingTask | Conversation) -> Iterator[tuple[str, str]]:
    if isinstance(asked, Conversation):
        yield from _contents("messages", asked.messages)
        return
    yield from _contents("prompt", asked.prompt)
    yield from (("response", asked.response), ("instruction", asked.instruction), ("prefix", asked.prefix))


def _contents(field: str, messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    for i, message in enumerate(messages):
        yield f"{field}[{i}].content", message["content"]


@contextmanager
def _naming(asked: WritingTask | Conversation) -> Iterator[None]:
    try:
        yield
    except (ConversationError, PromptTooLong) as error:
        raise WriterError(f"{prefixed(asked)}{error}") from error
