"""Rendering: what is cut when it is too long, what ends a critique, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from criticrm_model import ConversationError, PromptTooLong, UnsupportedModel
from criticrm_model.contents import ContentTokenizer
from criticrm_model.prompt import Message, Rendered, Renderer, Role
from support.tiny import CHATML, INSTRUCTION, STYLES, add_plain_token, make_tokenizer

LONG: list[Message] = [
    {"role": "user", "content": "first " * 20},
    {"role": "assistant", "content": "second " * 20},
    {"role": "user", "content": "third " * 20},
]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(make_tokenizer(), INSTRUCTION)


def test_the_response_is_the_assistants_turn_and_the_instruction_follows(renderer: Renderer) -> None:
    rendered = renderer.open([{"role": "user", "content": "Q"}]).render("A", max_model_len=512, max_critique_tokens=8)
    assert renderer.tokenizer.decode(rendered.token_ids) == (
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        f"<|im_start|>user\n{INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not rendered.truncated


def test_another_instruction_of_the_same_renderer(renderer: Renderer) -> None:
    def rendered(by: Renderer) -> list[int]:
        return by.open(LONG).render("A", max_model_len=512, max_critique_tokens=8).token_ids

    before = rendered(renderer)
    assert rendered(renderer.with_instruction("Name a fault.")) == rendered(
        Renderer(renderer.tokenizer, "Name a fault.")
    )
    assert rendered(renderer) == before != rendered(renderer.with_instruction("Name a fault."))


def test_too_long_says_how_long(renderer: Renderer) -> None:
    opened = renderer.open(LONG)
    full = len(opened.render("answer", max_model_len=4096, max_critique_tokens=8).token_ids)
    with pytest.raises(PromptTooLong) as caught:
        opened.render("answer", max_model_len=full + 7, max_critique_tokens=8)
    assert (caught.value.prompt_tokens, caught.value.limit, caught.value.max_critique_tokens) == (full, full - 1, 8)
    assert len(opened.render("answer", max_model_len=full + 8, max_critique_tokens=8).token_ids) == full


def test_truncation_drops_the_oldest_of_the_conversation_first(renderer: Renderer) -> None:
    opened = renderer.open(LONG)
    full = opened.render("answer", max_model_len=4096, max_critique_tokens=8).token_ids
    cut = opened.render("answer", max_model_len=len(full) + 8 - 10, max_critique_tokens=8, truncate=True)
    text = renderer.tokenizer.decode(cut.token_ids)
    assert cut.truncated
    assert len(cut.token_ids) == len(full) - 10
    assert text.count("first") < 20
    assert text.count("second") == 20
    assert text.count("third") == 20
    assert "answer" in text


def test_then_the_middle_of_the_last_user_turn(renderer: Renderer) -> None:
    """Whether the question comes before its long text or after it, it stays."""
    asked: list[Message] = [
        {"role": "system", "content": "system"},
        {"role": "user", "content": "old " * 20},
        {"role": "user", "content": "Why blue?" + " passage" * 60 + " Why not red?"},
        {"role": "tool", "content": "found " * 20},
    ]
    opened = renderer.open(asked)
    full = opened.render("answer", max_model_len=4096, max_critique_tokens=8).token_ids
    for fewer in (1, 90, 150, 200):
        cut = opened.render("answer", max_model_len=len(full) + 8 - fewer, max_critique_tokens=8, truncate=True)
        text = renderer.tokenizer.decode(cut.token_ids)
        assert len(cut.token_ids) == len(full) - fewer
        assert "Why blue? pass" in text
        assert "Why not red?<|im_end|>" in text
        assert "answer<|im_end|>" in text
    assert "old" not in text
    assert "found" not in text
    assert 0 < text.count("passage") < 60


def test_a_conversation_without_a_user_is_cut_too(renderer: Renderer) -> None:
    opened = renderer.open([{"role": "system", "content": "Begin." + " middle" * 40 + " End."}])
    full = opened.render("answer", max_model_len=4096, max_critique_tokens=8).token_ids
    cut = opened.render("answer", max_model_len=len(full) + 8 - 30, max_critique_tokens=8, truncate=True)
    assert len(cut.token_ids) == len(full) - 30
    text = renderer.tokenizer.decode(cut.token_ids)
    assert "Begin." in text
    assert "End.<|im_end|>" in text


def test_then_the_end_of_the_response(renderer: Renderer) -> None:
    opened = renderer.open([{"role": "user", "content": "question"}])
    response = "begin " + "middle " * 60 + "end"
    cut = opened.render(response, max_model_len=110, max_critique_tokens=8, truncate=True)
    text = renderer.tokenizer.decode(cut.token_ids)
    assert len(cut.token_ids) == 102
    assert "question" not in text
    assert "begin" in text
    assert "end<|im_end|>" not in text
    assert text.count("<|im_start|>") == 4
    assert INSTRUCTION in text


def test_a_template_that_does_not_fit_by_itself_is_too_long(renderer: Renderer) -> None:
    with pytest.raises(PromptTooLong):
        renderer.open(LONG).render("answer", max_model_len=20, max_critique_tokens=8, truncate=True)


@pytest.mark.parametrize(
    ("style", "stops"),
    [
        ("chatml", {"<|im_end|>"}),
        ("llama3", {"<|eot_id|>"}),
        ("gemma", {"<eos>", "<end_of_turn>"}),
        ("mistral", {"</s>"}),
    ],
)
def test_a_critique_ends_at_eos_or_at_the_end_of_a_turn(style: str, stops: set[str]) -> None:
    styled = Renderer(make_tokenizer(style), INSTRUCTION)
    assert set(styled.tokenizer.convert_ids_to_tokens(list(styled.stop_token_ids))) == stops


def test_roles_the_template_refuses_are_named() -> None:
    styled = Renderer(make_tokenizer("gemma"), INSTRUCTION)
    with pytest.raises(ConversationError, match=r"\[system, user\].*System role not supported"):
        styled.open([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}])


def test_a_template_that_leaves_a_message_out_is_refused() -> None:
    template = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    with pytest.raises(ConversationError, match=r"leaves out message 0 \(role 'system'\)"):
        Renderer(make_tokenizer(template=template), INSTRUCTION).open(
            [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
        )


def test_contents_are_trimmed_where_the_template_trims() -> None:
    conversation: list[Message] = [{"role": "user", "content": "  q  "}]
    trims = Renderer(make_tokenizer("llama3"), INSTRUCTION).open(conversation)
    keeps = Renderer(make_tokenizer("chatml"), INSTRUCTION).open(conversation)
    limits = {"max_model_len": 512, "max_critique_tokens": 1}
    assert "\n\nq<|eot_id|>" in make_tokenizer("llama3").decode(trims.render(" r ", **limits).token_ids)
    assert "user\n  q  <|im_end|>" in make_tokenizer("chatml").decode(keeps.render(" r ", **limits).token_ids)


LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("style", "template"), [*((style, None) for style in STYLES), ("mistral", LLAMA2)], ids=[*STYLES, "llama2"]
)
def test_contents_without_edges_render_as_the_template_says(style: str, template: str | None) -> None:
    """Also where the template trims contents and writes spaces of its own beside them."""
    tokenizer = make_tokenizer(style, template)
    turns: list[Message] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "why?"},
    ]
    rendered = Renderer(tokenizer, INSTRUCTION).open(turns).render("r", max_model_len=512, max_critique_tokens=1)
    whole = [*turns, {"role": "assistant", "content": "r"}, {"role": "user", "content": INSTRUCTION}]
    expected = tokenizer.apply_chat_template(whole, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(rendered.token_ids) == expected


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("count", [1, 3])
def test_a_conversation_to_be_answered_is_asked_nothing_else(style: str, count: int) -> None:
    tokenizer = make_tokenizer(style)
    turns: list[Message] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "why?"},
    ]
    expected = tokenizer.apply_chat_template(turns[:count], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(Renderer(tokenizer, INSTRUCTION).render_conversation(turns[:count])) == expected


def test_a_conversation_to_be_answered_holds_no_control_tokens_of_its_contents(renderer: Renderer) -> None:
    found = renderer.render_conversation([{"role": "user", "content": "<|im_end|>"}])
    assert sum(token in renderer.control_ids for token in found) == 3  # the template's own
    with pytest.raises(ConversationError, match=r"roles \[system\]: System role not supported"):
        Renderer(make_tokenizer("gemma"), INSTRUCTION).render_conversation([{"role": "system", "content": "s"}])


def test_a_template_that_prints_the_date_gets_a_fixed_one() -> None:
    tokenizer = make_tokenizer(template="{{ strftime_now('%Y-%m-%d') }} " + CHATML)
    rendered = Renderer(tokenizer, INSTRUCTION).open([{"role": "user", "content": "q"}])
    token_ids = rendered.render("r", max_model_len=512, max_critique_tokens=1).token_ids
    assert tokenizer.decode(token_ids).startswith("2024-07-26 ")


def test_responses_to_one_prompt_share_their_prefix(renderer: Renderer) -> None:
    opened = renderer.open(LONG)
    one, other = (
        opened.render(response, max_model_len=4096, max_critique_tokens=8).token_ids for response in ("one", "other")
    )
    shared = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert "third" in renderer.tokenizer.decode(one[:shared])


def test_a_tokenizer_without_a_template_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UnsupportedModel, match="no chat template"):
        Renderer(tokenizer, INSTRUCTION)


def test_decoding_leaves_the_end_of_turn_out(renderer: Renderer) -> None:
    token_ids = renderer.tokenizer("It is good.", add_special_tokens=False).input_ids
    assert renderer.decode([*token_ids, *renderer.stop_token_ids]) == "It is good."


def test_a_tokenizer_in_which_nothing_ends_is_refused() -> None:
    """Neither EOS nor an end-of-turn token: every critique would run to its limit."""
    tokenizer = make_tokenizer(template=CHATML.replace("<|im_end|>", "\n--\n"))
    tokenizer.eos_token = None
    with pytest.raises(UnsupportedModel, match="a critique can't end"):
        Renderer(tokenizer, INSTRUCTION)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        chat_template = CHATML
        is_fast = False

    with pytest.raises(UnsupportedModel, match="fast tokenizer"):
        Renderer(Slow(), INSTRUCTION)  # type: ignore[arg-type]


def test_a_long_conversation_renders_like_a_short_one(renderer: Renderer) -> None:
    """Beyond what is worth caching, too."""
    turns: list[Message] = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(1201)]
    text = renderer.tokenizer.decode(
        renderer.open(turns).render("end", max_model_len=10**5, max_critique_tokens=1).token_ids
    )
    assert text.startswith("<|im_start|>user\nturn 0<|im_end|>\n<|im_start|>assistant\nturn 1<|im_end|>\n")
    assert "turn 1200<|im_end|>\n<|im_start|>assistant\nend<|im_end|>" in text
    assert text.count("<|im_end|>") == 1203


def test_a_conversation_can_be_rendered_again_after_a_truncation(renderer: Renderer) -> None:
    opened = renderer.open(LONG)
    before = opened.render("answer", max_model_len=4096, max_critique_tokens=8)
    opened.render("answer", max_model_len=120, max_critique_tokens=8, truncate=True)
    assert opened.render("answer", max_model_len=4096, max_critique_tokens=8) == before


@pytest.mark.parametrize("name", ["tool_calls", "function_call"])
def test_calls_of_tools_are_refused_by_name(renderer: Renderer, name: str) -> None:
    """Read by their content alone, they would be empty turns."""
    call: Any = {"role": "assistant", "content": "", name: [{"name": "f", "arguments": "{}"}]}
    conversation: list[Message] = [{"role": "user", "content": "Q"}, call]
    for render in (renderer.open, renderer.render_conversation):
        with pytest.raises(ConversationError, match=f"message 1: {name} would be lost"):
            render(conversation)
    call[name] = None
    renderer.open(conversation)


def test_a_long_list_of_roles_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The template's pieces are tokenised once, and a sequence of roles goes through the template once."""
    renderer = Renderer(make_tokenizer(), INSTRUCTION)
    tokenized = templated = 0
    tokenizer = renderer.tokenizer
    tokenize, template = type(tokenizer).__call__, type(tokenizer).apply_chat_template

    def count_tokenized(*arguments: Any, **options: Any) -> Any:
        nonlocal tokenized
        tokenized += 1
        return tokenize(*arguments, **options)

    def count_templated(*arguments: Any, **options: Any) -> Any:
        nonlocal templated
        templated += 1
        return template(*arguments, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", count_tokenized)
    monkeypatch.setattr(type(tokenizer), "apply_chat_template", count_templated)
    roles: list[Role] = ["user", "assistant", "user", "tool", "assistant", "system"]
    for shift in range(3):
        turns: list[Message] = [{"role": roles[(i + i // 7 * shift) % 6], "content": ""} for i in range(900)]
        for _ in range(5):
            renderer.open(turns, most_tokens=512)
    assert tokenized < 60
    assert templated == 3


def test_of_many_roles_that_are_refused_the_first_are_named() -> None:
    styled = Renderer(make_tokenizer("gemma"), INSTRUCTION)
    with pytest.raises(ConversationError, match=r"user, and 893 more\]") as caught:
        styled.open([{"role": "system", "content": "s"}, *[{"role": "user", "content": "q"}] * 900])
    assert len(str(caught.value)) < 500


class Counting:
    """A renderer whose tokenised characters are counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.characters = 0
        tokenize = ContentTokenizer.tokenize_all

        def counted(tokenizer: ContentTokenizer, texts: list[str]) -> list[list[int]]:
            self.characters += sum(map(len, texts))
            return tokenize(tokenizer, texts)

        monkeypatch.setattr(ContentTokenizer, "tokenize_all", counted)


WORDS = "".join(f"word {i} " for i in range(100_000))  # over a million characters
MOST = 512
HUGE: dict[str, tuple[list[Message], str]] = {
    "question": ([{"role": "user", "content": WORDS}], "answer"),
    "response": ([{"role": "user", "content": "question"}], WORDS),
    "older turn": ([{"role": "system", "content": WORDS}, {"role": "user", "content": "question"}], "answer"),
    "many turns": (
        [{"role": "user", "content": WORDS[i * 50_000 : (i + 1) * 50_000]} for i in range(20)],
        "answer",
    ),
    "all": ([{"role": "system", "content": WORDS}, {"role": "user", "content": WORDS}], WORDS),
    "no user": ([{"role": "system", "content": WORDS}], "answer"),
}


@pytest.mark.parametrize("kind", HUGE)
@pytest.mark.slow
def test_what_can_not_fit_is_tokenised_in_part_only(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    conversation, response = HUGE[kind]
    exact = renderer.open(conversation).render(response, max_model_len=MOST, max_critique_tokens=8, truncate=True)
    counting = Counting(monkeypatch)
    opened = renderer.open(conversation, most_tokens=MOST)
    assert opened.render(response, max_model_len=MOST, max_critique_tokens=8, truncate=True) == exact
    assert len(exact.token_ids) == MOST - 8
    assert counting.characters < 100_000


@pytest.mark.parametrize("kind", HUGE)
def test_it_is_refused_with_what_was_counted(renderer: Renderer, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    conversation, response = HUGE[kind]
    counting = Counting(monkeypatch)
    with pytest.raises(PromptTooLong, match="at least") as caught:
        renderer.open(conversation, most_tokens=MOST).render(response, max_model_len=MOST, max_critique_tokens=8)
    assert counting.characters < 100_000
    assert caught.value.prompt_tokens > caught.value.limit == MOST - 8
    assert "lower bound" in str(caught.value.details[0]["message"])


@pytest.mark.parametrize(
    "text", [" " * 40_000, "a" * 40_000, "\u65e5" * 40_000, "\U0001f600" * 40_000, "e\u0301" * 20_000]
)
def test_the_same_is_cut_whatever_it_is_made_of(renderer: Renderer, text: str) -> None:
    def rendered(most_tokens: int | None) -> Rendered:
        opened = renderer.open([{"role": "user", "content": text}], most_tokens=most_tokens)
        return opened.render("answer", max_model_len=MOST, max_critique_tokens=8, truncate=True)

    assert rendered(MOST) == rendered(None)


def test_few_tokens_of_many_characters_fit() -> None:
    tokenizer = make_tokenizer()
    add_plain_token(tokenizer, "x" * 1000)
    renderer = Renderer(tokenizer, INSTRUCTION)
    opened = renderer.open([{"role": "user", "content": "x" * 200_000}], most_tokens=MOST)
    assert not opened.render("answer", max_model_len=MOST, max_critique_tokens=8).truncated
