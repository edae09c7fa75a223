"""Text in a policy's chat template, back into the turns it was rendered from.

RLHF frameworks send what their tokenizer decodes, special tokens kept. The critic has a template of its own, so the
policy's must come off. No maintained library does this (transformers parses a response where its tokenizer says how;
pychatml reads ChatML only), hence a table of the markers that templates write.

Nothing is guessed: a text counts as templated only if it begins with a marker, and an unknown role, another template's
marker or an end-of-turn token inside a turn stays in the text. What is taken off is the markers, the white space that
templates put beside them, and the token that ends a turn. A marker of the same template that a prompt's author wrote
can't be told from the template's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice

from .types import Message, Role

_NAMED = "system|developer|user|assistant|model|tool|ipython|observation"
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "ipython": "tool",
    "observation": "tool",
    "User": "user",
    "Assistant": "assistant",
    "[INST]": "user",
    "[/INST]": "assistant",
    "<<SYS>>": "system",
    "<</SYS>>": "user",
    "[SYSTEM_PROMPT]": "system",
}


@dataclass(frozen=True, slots=True)
class Template:
    """The markers of one family of templates.

    Attributes:
        opens: opens a turn; its group is a key of `_ROLES`.
        ends: ends a turn, at the end of its content.
        trims: white space around a content is the template's.
        bare_system: the system prompt stands before the first marker, without one.
    """

    opens: re.Pattern[str]
    ends: re.Pattern[str]
    trims: bool = False
    bare_system: bool = False


def _template(opens: str, ends: str, *, trims: bool = False, bare_system: bool = False) -> Template:
    return Template(re.compile(opens), re.compile(rf"(?:{ends})\Z"), trims, bare_system)


# No pattern begins with a repetition: that would take quadratic time on a text made for it.
TEMPLATES: dict[str, Template] = {
    # Qwen, SmolLM, Yi, InternLM; Phi-4 has <|im_sep|>.
    "chatml": _template(
        rf"<\|im_start\|>({_NAMED})(?:\n|<\|im_sep\|>|\Z)", r"<\|im_end\|>(?:\s*<\|endoftext\|>)?|<\|endoftext\|>"
    ),
    "llama3": _template(
        rf"<\|start_header_id\|>({_NAMED})<\|end_header_id\|>\n{{0,2}}", r"<\|eot_id\|>|<\|eom_id\|>|<\|end_of_text\|>"
    ),
    "llama4": _template(
        rf"<\|header_start\|>({_NAMED})<\|header_end\|>\n{{0,2}}", r"<\|eot\|>|<\|eom\|>|<\|end_of_text\|>"
    ),
    "gemma": _template(rf"<start_of_turn>({_NAMED})(?:\n|\Z)", r"<end_of_turn>(?:\s*<eos>)?|<eos>"),
    # Zephyr ends turns with </s>, Phi-3 with <|end|>, Tulu with <|endoftext|>; GLM-4 with the marker of the next turn.
    "zephyr": _template(
        rf"<\|(?!(?:user|observation)\|>\s*\Z)({_NAMED})\|>\n?",
        r"<\|end\|>(?:\s*<\|endoftext\|>)?|<\|endoftext\|>|</s>|<\|user\|>|<\|observation\|>",
        trims=True,
    ),
    "deepseek": _template(
        "<\uff5c(User|Assistant)\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", bare_system=True
    ),
    # Llama 2 nests the system prompt in the first user turn; Mistral's later templates give it markers.
    "inst": _template(
        r"(?:\[INST\]\s?(?=<<SYS>>))?(\[INST\]|\[/INST\]|<<SYS>>|<</SYS>>|\[SYSTEM_PROMPT\])",
        r"</s>(?:\s?<s>)?|\[/SYSTEM_PROMPT\]",
        trims=True,
    ),
}
# Where the template is unknown, any of their ends is one.
_ANY_END = re.compile("|".join(template.ends.pattern for template in TEMPLATES.values()))
_BEGIN = re.compile(
    r"(?:<s>|<bos>|<\|begin_of_text\|>|<\|startoftext\|>|<\|endoftext\|>|\[gMASK\] ?<sop>"
    "|<\uff5cbegin\u2581of\u2581sentence\uff5c>){0,2}"
)
_SPACE = re.compile(r"\s*")
_LONGEST_END = 64  # characters, with the white space inside
_MAX_TURNS = 4096  # markers after that many stay in the text of the last: it is no conversation, and takes its time


def find_template(text: str) -> Template | None:
    """The template that `text` is written in, by the marker that it begins with."""
    start = _end(_SPACE, text, _end(_BEGIN, text))
    for template in TEMPLATES.values():
        if template.opens.match(text, start) or (template.bare_system and template.opens.search(text, start)):
            return template
    return None


def split_turns(text: str) -> list[Message]:
    """The turns of a whole conversation; one user turn where no known template is found."""
    template = find_template(text)
    start = _end(_BEGIN, text)
    if template is None:
        return [Message(role="user", content=text[start:])]
    openings = _openings(template, text)
    ends = [*(opening.start() for opening in openings[1:]), len(text)]
    turns = [
        Message(role=_ROLES[opening[1]], content=_content(template, text[opening.end() : end]))
        for opening, end in zip(openings, ends, strict=True)
    ]
    if bare := text[start : openings[0].start()].strip():
        turns.insert(0, Message(role="system", content=bare))
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
    """
    template = find_template(prompt)
    if template is None:
        return split_turns(prompt), strip_end(generated)
    last = _openings(template, prompt)[-1]
    if _ROLES[last[1]] != "assistant":
        return split_turns(prompt), _content(template, generated)
    return split_turns(prompt)[:-1], _content(template, prompt[last.end() :] + generated)


def strip_end(text: str) -> str:
    """`text` without the token that ended it, whatever the template."""
    return _without_end(text, _ANY_END)


def _openings(template: Template, text: str) -> list[re.Match[str]]:
    return list(islice(template.opens.finditer(text, _end(_BEGIN, text)), _MAX_TURNS))


def _end(pattern: re.Pattern[str], text: str, start: int = 0) -> int:
    """Where a pattern that may match nothing ends."""
    match = pattern.match(text, start)
    assert match
    return match.end()


def _content(template: Template, text: str) -> str:
    text = _without_end(text, template.ends)
    return text.strip() if template.trims else text


def _without_end(text: str, ends: re.Pattern[str]) -> str:
    stop = len(text.rstrip())
    end = ends.search(text, max(0, stop - _LONGEST_END), stop)
    return text[: end.start()] if end else text
