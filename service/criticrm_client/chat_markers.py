"""Text in a policy's chat template, back into the turns it was rendered from.

RLHF frameworks send what their tokenizer decodes, special tokens kept. The critic has a template of its own, so the
policy's must come off. No maintained library does this (transformers parses a response where its tokenizer says how;
pychatml reads ChatML only), hence a table of the markers that templates write (`chat_templates`).

Nothing is guessed: a text counts as templated only if it begins with a marker, and an unknown role, another template's
marker or an end-of-turn token inside a turn stays in the text. What is taken off is the markers, the white space that
templates put beside them, the tokens that begin, end or pad a text, and an empty block of reasoning. A marker of the
same template that a prompt's author wrote can't be told from the template's own.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import islice

from .chat_templates import (
    BEGIN_TOKENS,
    END_TOKENS,
    PAD_TOKENS,
    TEMPLATES,
    Template,
    begins_with_control_token,
    find_control_token,
)
from .schemas import Message

# A run of tokens at the beginning of a text: of the template, of padding, and the end tokens some policies pad with,
# but for those which open a turn as well.
_OPENS_TOO = r"<\|(?:user|observation)\|>|<extra_id_1>"
# In pieces: Python up to 3.11.4 gets possessive groups wrong (CPython gh-106052), and others keep each token in memory.
_BEGINNING = re.compile(rf"(?:\s*+(?!{_OPENS_TOO})(?:{BEGIN_TOKENS}|{PAD_TOKENS}|{END_TOKENS})){{1,256}}")
_PADDING = re.compile(rf"(?:\s*+(?:{PAD_TOKENS})){{1,256}}")
_SPACE = re.compile(r"\s*+")
_NO_REASONING = re.compile(r"\s*+(?:<think>\s*+)?</think>\s*+")
_LONGEST_TOKEN = 64  # characters
_HTML = ("<s>", "</s>")  # before another end token, they are those of a text that is struck through
_BRACKETS = 2  # that a token has at the most, to find where it begins
_MAX_TURNS = 4096  # markers after that many stay in the text of the last: it is no conversation, and takes its time


class UnknownTemplateError(ValueError):
    """A text rendered by an unknown chat template: its turns can't be parsed."""

    def __init__(self, token: str) -> None:
        super().__init__(
            f"holds {token!r}, a token of a chat template that is not known here; send messages, or the text without "
            "its template"
        )


def find_template(text: str) -> Template | None:
    """The template that `text` is written in, by the marker that it begins with."""
    start = _begin(text)
    return _template_at(text, _end(_SPACE, text, start))


def split_turns(text: str) -> list[Message]:
    """The turns of a whole conversation; one user turn where no known template is found.

    Raises:
        UnknownTemplateError
    """
    start = _begin(text)
    marker = _end(_SPACE, text, start)
    template = _template_at(text, marker)
    if template is None:
        if token := begins_with_control_token(text, marker):
            raise UnknownTemplateError(token)
        return [Message(role="user", content=text[start:])]
    text = text[: _stop(text, template.ends)]
    openings = _openings(template, text, start)
    ends = [*(opening.start() for opening in openings[1:]), len(text)]
    turns = [
        Message(role=(role := template.role(opening)), content=_content(template, role, text[opening.end() : end]))
        for opening, end in zip(openings, ends, strict=True)
    ]
    if bare := _content(template, "system", text[start : openings[0].start()]).strip():
        turns.insert(0, Message(role="system", content=bare))
    return _merge(template, turns)


def split_conversation(text: str) -> list[Message]:
    """As `split_turns`, for a text whose last turn is to be scored: without a known template it has no token of one.

    Raises:
        UnknownTemplateError
    """
    turns = split_turns(text)
    if find_template(text) is None:
        turns = [Message(role="user", content=strip_end(turns[0]["content"]))]
        if token := find_control_token(turns[0]["content"]):
            raise UnknownTemplateError(token)
    return turns


def split_response(prompt: str, generated: str) -> tuple[list[Message], str]:
    """What a policy was asked, and what it answered.

    Args:
        prompt: in the policy's template, up to where it began to write.
        generated: what it wrote, with its end-of-turn token. Markers in it are never read as turns: a policy that
            writes them would else choose what it is judged by.

    Returns:
        The conversation, and the response. What the template itself wrote into the open assistant's turn
        (`<think>`, say) begins the response.

    Raises:
        UnknownTemplateError: of the prompt.
    """
    template = find_template(prompt)
    generated = generated[_end_of_run(_PADDING, generated) :]
    if template is None:
        return split_turns(prompt), strip_end(generated)
    last = _openings(template, prompt, _begin(prompt))[-1]
    if template.role(last) != "assistant":
        return split_turns(prompt), _content(template, "assistant", generated)
    response = _content(template, "assistant", prompt[last.end() :] + generated)
    return split_turns(prompt[: last.start()]) if prompt[_begin(prompt) : last.start()].strip() else [], response


def strip_begin(text: str) -> str:
    """`text` without the tokens that begin or pad it."""
    return text[_begin(text) :]


def strip_end(text: str) -> str:
    """`text` without the tokens that ended or pad it, whatever the template."""
    return text[: _stop(text, END_TOKENS)]


def _template_at(text: str, start: int) -> Template | None:
    for template in TEMPLATES.values():
        if template.opens.match(text, start) or (template.bare_system and template.opens.search(text, start)):
            return template
    return None


def _openings(template: Template, text: str, start: int) -> list[re.Match[str]]:
    return list(islice(template.opens.finditer(text, start), _MAX_TURNS))


def _begin(text: str) -> int:
    return _end_of_run(_BEGINNING, text)


def _end_of_run(pieces: re.Pattern[str], text: str) -> int:
    """Where as many pieces as there are end, one after the other from the beginning."""
    end = 0
    while piece := pieces.match(text, end):
        end = piece.end()
    return end


def _end(pattern: re.Pattern[str], text: str, start: int = 0) -> int:
    """Where a pattern that may match nothing ends."""
    match = pattern.match(text, start)
    assert match
    return match.end()


@cache
def _last_tokens(ends: str) -> re.Pattern[str]:
    return re.compile(f"(?P<end>{ends})|{PAD_TOKENS}")


def _stop(text: str, ends: str) -> int:
    """Where the run of tokens at the end of `text` begins; its length if there is none."""
    tokens, kept, stop = _last_tokens(ends), len(text), len(text)
    ended = False
    while True:
        while stop and text[stop - 1].isspace():
            last = text[max(0, stop - 1024) : stop]
            stop -= len(last) - len(last.rstrip())
        token = _token_before(tokens, text, stop)
        if token is None or (ended and token[0] in _HTML):
            return kept
        ended = ended or (token["end"] is not None and token[0] not in _HTML)
        stop = kept = token.start()


def _token_before(tokens: re.Pattern[str], text: str, stop: int) -> re.Match[str] | None:
    """The token that ends at `stop`, if there is one."""
    first = max(0, stop - _LONGEST_TOKEN)
    start = stop
    for _ in range(_BRACKETS):
        start = max(text.rfind("<", first, start), text.rfind("[", first, start))
        if start < 0:
            return None
        if token := tokens.fullmatch(text, start, stop):
            return token
    return None


def _content(template: Template, role: str, text: str) -> str:
    if role == "assistant":
        text = _with_think_tags(text, template.reasoning)
        if template.begins and (begins := template.begins.match(text)):
            text = text[begins.end() :]
        for token in template.removed:
            text = text.replace(token, "")
        if nothing := _NO_REASONING.match(text):
            text = text[nothing.end() :]
    text = text[: _stop(text, template.ends)]
    return text.strip() if template.trims else text


def _with_think_tags(text: str, reasoning: tuple[str, ...]) -> str:
    """`text` with its reasoning between `<think>` and `</think>`; empty reasoning is left out."""
    if not reasoning or reasoning[0] not in text:
        return text
    begin, *ends = reasoning
    parts: list[str] = []
    at = 0
    while (start := text.find(begin, at)) >= 0:
        parts.append(text[at:start])
        start += len(begin)
        stop = text.find(ends[-1], start)
        if stop < 0:  # cut before its end
            return "".join([*parts, "<think>\n", text[start:].lstrip("\n")])
        at = stop + next(len(end) for end in ends if text.startswith(end, stop))
        if thought := text[start:stop].strip("\n"):
            parts.append(f"<think>\n{thought}\n</think>\n\n")
    return "".join([*parts, text[at:]])


def _merge(template: Template, turns: list[Message]) -> list[Message]:
    """Drop empty system turns, and join an assistant's reasoning with its answer in one turn."""
    merged: list[Message] = []
    for turn in turns:
        if turn["role"] == "system" and not turn["content"].strip():
            continue
        if template.reasoning and merged and turn["role"] == merged[-1]["role"] == "assistant":
            turn = Message(role="assistant", content=merged.pop()["content"] + turn["content"])
        merged.append(turn)
    return merged
