"""Two responses to one conversation, in the roles that generative reward models of NVIDIA's take, and the verdict.

Gym's `genrm_compare` reads `{"score_1", "score_2", "ranking"}` as JSON (resources_servers/genrm_compare/utils.py,
`parse_genrm_output`), averages each response's scores over its comparisons, and breaks ties of scores by the ranking.
The scores here are rewards, unbounded; so what it averages is the response's own reward.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Discriminator, Tag

from criticrm_client.probability import sigmoid
from criticrm_client.schemas import Message, Result

from ...errors import InvalidField
from .common import Content, Foreign, ForeignMessage, PromptResponse, join_parts, score_of

RESPONSES = ("response_1", "response_2")
_PRINCIPLE = "principle"
_BEST, _RANKS = 1, 5  # a ranking of 1 is for the first response, 6 for the second


class ComparedMessage(Foreign):
    """One of the two responses, or the principle to compare them by."""

    role: Literal["response_1", "response_2", "principle"]
    content: Content


def _role_kind(value: Any) -> str:
    role = value.get("role") if isinstance(value, dict) else None
    return "<compared>" if role in (*RESPONSES, _PRINCIPLE) else "<message>"


MessageOrCompared = Annotated[
    Annotated[ForeignMessage, Tag("<message>")] | Annotated[ComparedMessage, Tag("<compared>")],
    Discriminator(_role_kind),
]


class Comparison(NamedTuple):
    """A conversation with two responses."""

    conversation: list[Message]
    first: str
    second: str
    principle: str | None = None

    def pairs(self) -> list[PromptResponse]:
        return [
            PromptResponse(self.conversation, response, criteria=self.principle or None)
            for response in (self.first, self.second)
        ]


def comparison_of(messages: Sequence[ForeignMessage | ComparedMessage], field: str) -> Comparison | None:
    """The comparison in messages of which two have the roles `response_1` and `response_2`; None where none has.

    Raises:
        InvalidField: one of the two is missing or occurs twice.
    """
    compared = [message for message in messages if isinstance(message, ComparedMessage)]
    if not compared:
        return None
    texts: dict[str, str] = {}
    for message in compared:
        if message.role in texts:
            raise InvalidField(field, f"has the role {message.role} more than once")
        texts[message.role] = join_parts(message.content)
    for role in RESPONSES:
        if role not in texts:
            raise InvalidField(field, f"has no message with the role {role}, the other response to compare")
    conversation = [message.message() for message in messages if isinstance(message, ForeignMessage)]
    return Comparison(conversation, texts["response_1"], texts["response_2"], texts.get(_PRINCIPLE))


def verdict_of_pair(first: Result, second: Result) -> str:
    """The rewards of both, and a ranking from 1 (the first is better) to 6, as JSON.

    The ranking is 1 + 5 p, where p is the probability that the second is better (Bradley-Terry): 3.5 for a tie.
    """
    rewards = score_of(first), score_of(second)
    ranking = _BEST + _RANKS * sigmoid(rewards[1] - rewards[0])
    return json.dumps({"score_1": rewards[0], "score_2": rewards[1], "ranking": ranking})
