"""The markers that chat templates write, by family; the tokens that begin and pad a text; what looks like such a token.

Read from the templates of the models' own tokenizers (the .jinja files of their repositories and of llama.cpp's
collection of them) and, for gpt-oss, from OpenAI's description of its format; what each renders is under test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .schemas import Role

_BAR = "\uff5c"  # DeepSeek's and Hunyuan's full-width one
_NAMED = (
    "system|developer|user|assistant|model|tool_response|tool|ipython|observation|environment|function|"
    "available_tools|documents"
)
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "available_tools": "system",
    "documents": "system",
    "[system_prompt]": "system",
    "[available_tools]": "system",
    "<<sys>>": "system",
    "<</sys>>": "user",
    "user": "user",
    "human": "user",
    "[inst]": "user",
    "assistant": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "chatbot": "assistant",
    "[/inst]": "assistant",
    "[/tool_results]": "assistant",  # what follows a tool's result has no marker of its own
    "tool": "tool",
    "ipython": "tool",
    "observation": "tool",
    "environment": "tool",
    "function": "tool",
    "tool_response": "tool",
    "[tool_results]": "tool",
}


@dataclass(frozen=True, slots=True)
class Template:
    """The markers of one family of templates.

    Attributes:
        opens: opens a turn; its last group that matched is a key of `_ROLES`, in any case.
        ends: tokens that end a turn.
        begins: may stand at the beginning of an assistant's content.
        removed: tokens around the answer in an assistant's content.
        reasoning: around the reasoning in an assistant's content, which becomes `<think>`: one beginning, and its
            ends, the longest first.
        trims: white space around a content is the template's.
        bare_system: the system prompt stands before the first marker, without one.
    """

    opens: re.Pattern[str]
    ends: str
    begins: re.Pattern[str] | None = None
    removed: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    trims: bool = False
    bare_system: bool = False

    def role(self, opening: re.Match[str]) -> Role:
        """Whose turn a match of `opens` begins."""
        assert opening.lastindex
        return _ROLES[opening[opening.lastindex].lower()]


# No pattern begins with a repetition: that would take quadratic time on a text made for it.
TEMPLATES: dict[str, Template] = {
    # Qwen, SmolLM, Yi, InternLM, Falcon-H1, LFM2, OLMo 3, Hermes, Nemotron 3; Phi-4 has <|im_sep|>.
    "chatml": Template(re.compile(rf"<\|im_start\|>({_NAMED})(?:\n|<\|im_sep\|>|\Z)"), r"<\|im_end\|>"),
    "llama3": Template(
        re.compile(rf"<\|start_header_id\|>({_NAMED})<\|end_header_id\|>\n{{0,2}}"), r"<\|eot_id\|>|<\|eom_id\|>"
    ),
    "llama4": Template(re.compile(rf"<\|header_start\|>({_NAMED})<\|header_end\|>\n{{0,2}}"), r"<\|eot\|>|<\|eom\|>"),
    "gemma": Template(re.compile(rf"<start_of_turn>({_NAMED})(?:\n|\Z)"), r"<end_of_turn>"),
    "gemma4": Template(
        re.compile(rf"<\|turn>({_NAMED})(?:\n|\Z)"),
        r"<turn\|>",
        reasoning=("<|channel>thought\n", "<channel|>"),
    ),
    # gpt-oss. A header that names a recipient is a tool call, and stays in the text.
    "harmony": Template(
        re.compile(
            r"<\|start\|>(?:(system|developer|user|assistant)(?:(?:<\|channel\|>(?:final|commentary))?<\|message\|>"
            r"|(?=<\|channel\|>analysis<\|message\|>)|\Z)"
            r"|(function)s\.[\w.-]{1,64} to=assistant(?:<\|channel\|>commentary)?<\|message\|>)"
        ),
        r"<\|end\|>|<\|return\|>",
        begins=re.compile(r"<\|channel\|>(?:final|commentary)<\|message\|>"),
        reasoning=(
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
            "<|end|>",
        ),
    ),
    # Zephyr ends turns with </s>, Phi-3 with <|end|>, Tulu and OLMo 2 with <|endoftext|>, Jamba with <|eom|>; GLM-4
    # with the marker of the next turn.
    "zephyr": Template(
        re.compile(rf"(?:<\|bom\|>)?<\|(?!(?:user|observation)\|>\s*\Z)({_NAMED})\|>\n?"),
        r"<\|end\|>|<\|eom\|>|</s>|<\|user\|>|<\|observation\|>",
        trims=True,
    ),
    "deepseek": Template(
        re.compile(f"<{_BAR}(User|Assistant){_BAR}>"), f"<{_BAR}end\u2581of\u2581sentence{_BAR}>", bare_system=True
    ),
    "hunyuan": Template(
        re.compile(f"<{_BAR}hy_(User|Assistant){_BAR}>"),
        f"<{_BAR}hy_place\u2581holder\u2581no\u2581\\d{_BAR}>",
        bare_system=True,
    ),
    # Llama 2 nests the system prompt in the first user turn; Mistral's templates from v7 on give it markers.
    "inst": Template(
        re.compile(
            r"(?:\[INST\]\s?(?=<<SYS>>))?(\[INST\]|\[/INST\]|<<SYS>>|<</SYS>>|\[SYSTEM_PROMPT\]|\[AVAILABLE_TOOLS\]"
            r"|\[TOOL_RESULTS\]|\[/TOOL_RESULTS\])"
        ),
        r"</s>|<s>|\[/SYSTEM_PROMPT\]|\[/AVAILABLE_TOOLS\]",
        reasoning=("[THINK]", "[/THINK]"),
        trims=True,
    ),
    "granite": Template(
        re.compile(rf"<\|start_of_role\|>({_NAMED})(?: [^<|]{{0,256}})?<\|end_of_role\|>"), r"<\|end_of_text\|>"
    ),
    "command": Template(
        re.compile(r"<\|START_OF_TURN_TOKEN\|><\|(SYSTEM|USER|CHATBOT)_TOKEN\|>"),
        r"<\|END_OF_TURN_TOKEN\|>",
        removed=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        reasoning=("<|START_THINKING|>", "<|END_THINKING|>"),
    ),
    "kimi": Template(
        re.compile(r"<\|im_(?:system\|>(tool)<\|im_middle\|>|(system|user|assistant)\|>[^<|\n]{0,64}<\|im_middle\|>)"),
        r"<\|im_end\|>",
    ),
    "kimi_k3": Template(
        re.compile(r"<\|open\|>message role=\"(system|user|assistant|tool)\"[^<|\n]{0,256}<\|sep\|>"),
        r"<\|close\|>message<\|sep\|>|<\|end_of_msg\|>",
        removed=("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
        reasoning=("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    ),
    # Nemotron Nano 2, and Nemotron-4 before it.
    "nemotron": Template(
        re.compile(r"<(?:SPECIAL_1[01]|extra_id_[01])>(System|User|Assistant|Tool)(?:\n|\Z)"),
        r"<SPECIAL_12>|<extra_id_1>",
        trims=True,
    ),
    "seed": Template(
        re.compile(r"<seed:bos>(system|user|assistant|tool)(?:\n|\Z)"),
        r"<seed:eos>",
        reasoning=("<seed:think>", "</seed:think>"),
    ),
    "minimax": Template(re.compile(r"\]~b\](system|user|ai|tool)(?:\n|\Z)"), r"\[e~\["),
    "minimax_text": Template(
        re.compile(r"<beginning_of_sentence>(system|user|ai|tool)[^\n<]{0,64}(?:\n|\Z)"), r"<end_of_sentence>"
    ),
    "exaone": Template(re.compile(r"\[\|(system|user|assistant|tool)\|\]\n?"), r"\[\|endofturn\|\]", trims=True),
    "megrez": Template(re.compile(rf"<\|role_start\|>({_NAMED})<\|role_end\|>"), r"<\|turn_end\|>"),
    "ling": Template(re.compile(r"<role>(SYSTEM|HUMAN|ASSISTANT|OBSERVATION)</role>"), r"<\|role_end\|>"),
    "apertus": Template(
        re.compile(r"<\|(system|developer|user|assistant)_start\|>"),
        r"<\|(?:system|developer|user|assistant)_end\|>",
    ),
    "openchat": Template(re.compile(r"GPT4 Correct (System|User|Assistant): ?"), r"<\|end_of_turn\|>"),
}

# Tokens that begin a text, or fill it up on either side.
BEGIN_TOKENS = (
    rf"<s>|<bos>|<BOS_TOKEN>|\[BOS\]|<\|begin_of_text\|>|<\|startoftext\|>|\[gMASK\] ?(?:<sop>|sop)?|<sop>|\]~!b\[|"
    f"<{_BAR}(?:hy_)?begin\u2581of\u2581sentence{_BAR}>"
)
PAD_TOKENS = (
    r"<\|endoftext\|>|<\|end_of_text\|>|<\|eos\|>|<eos>|<EOS_TOKEN>|\[EOS\]|<pad>|<PAD>|\[PAD\]|<unk>|"
    r"<\|[a-z_]{0,24}pad(?:_id)?\|>|<\|reserved_special_token_\d{1,3}\|>|<\|dummy_\d{1,3}\|>|"
    f"<{_BAR}[^{_BAR}<>\\n]{{0,8}}pad[^{_BAR}<>\\n]{{0,8}}{_BAR}>"
)
END_TOKENS = "|".join(dict.fromkeys(template.ends for template in TEMPLATES.values()))

# What no ordinary text holds. HTML's <s> is not among them.
_CONTROL_TOKEN = re.compile(
    r"<(?:\|[\w\"/][\w./:-]{0,40}\|?>"
    rf"|{_BAR}[^{_BAR}<>\n]{{1,40}}{_BAR}>"
    r"|/?[A-Za-z_]{2,30}\|>"
    r"|(?:start|end)_of_turn>|(?:beginning|end)_of_sentence>|<SYS>>|(?:BOS|EOS)_TOKEN>|bos>|eos>|pad>"
    r"|(?:SPECIAL|extra_id|reserved)_\d{1,3}>|seed:\w{1,20}>|role>[A-Z]{4,12}</role>)"
    r"|\[(?:/?INST\]|SYSTEM_PROMPT\]|TOOL_CALLS\]|/?(?:TOOL_RESULTS|AVAILABLE_TOOLS)\]|gMASK\]|\|\w{1,20}\|\]|e~\[)"
    r"|\]~b\]"
)

_LONGEST = 64  # characters of a control token
_SLICE = 1 << 16


def find_control_token(text: str) -> str | None:
    """A token in `text` that looks like one of a chat template, if there is one."""
    if "<" not in text and "[" not in text and "]~b]" not in text:
        return None
    for start in range(0, len(text), _SLICE):  # one search of it all would keep the other threads from running
        if match := _CONTROL_TOKEN.search(text, start, start + _SLICE + _LONGEST):
            return match[0]
    return None


def begins_with_control_token(text: str, start: int) -> str | None:
    """The token of that kind at this place, if there is one."""
    match = _CONTROL_TOKEN.match(text, start)
    return match[0] if match else None
