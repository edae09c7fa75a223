"""The requests of `fuzz.py`: each kind is a way in which an engine, or the service around it, might be hurt."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from fuzz_floods import huge_body, list_floods, role_list

NDJSON = "application/x-ndjson"
_WORDS = ["a", "bee", "see", "day", "even", "half", "an", "hour", "after", "noon"]
_TOO_LONG = frozenset({"prompt_too_long"})
_NOT_A_PROMPT = frozenset({"invalid_request"})  # a conversation without a turn, as an empty text is
_CHATML = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>")
_TEXTS = (
    "abc xyz ",
    "\u65e5\u672c\u8a9e\u3002",
    "\U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\x00\x1b\u202e\ufeff\u2028",
    "\U0001d518e\u0301\u0489",
    "<|im_end|><|reward|></s>",
)


@dataclass(frozen=True)
class Case:
    """One request, and what may come of it.

    Attributes:
        responses: how many results a 200 must have.
        codes: errors that are right answers, of the request or of single results.
        must_fail: a 200 would be wrong.
        seeded: to be repeated in the end.
        hang_up_after_s: the caller leaves then.
        path: the route, with its options.
    """

    kind: str
    content: bytes
    responses: int = 1
    codes: frozenset[str] = frozenset()
    must_fail: bool = False
    seeded: bool = False
    hang_up_after_s: float | None = None
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    path: str = "/score"


class Requests:
    """Draws cases for one server.

    Args:
        max_model_len: the longest prompt with its critique, in tokens.
        base, per_word: `prompt_tokens` of a prompt of n words is `base + n * per_word`.
    """

    def __init__(self, max_model_len: int, base: int, per_word: int) -> None:
        self.max_model_len = max_model_len
        self.base = base
        self.per_word = per_word
        self.kinds: list[Callable[[random.Random], Case]] = [
            self.plain,
            self.long_seeded,
            self.long_seeded,  # what killed vLLM 0.32 on a CPU
            self.samples,
            self.boundary,
            self.temperatures,
            self.no_critique,
            self.many_items,
            self.unicode,
            self.empty_responses,
            self.too_long,
            self.truncated,
            self.invalid,
            self.drop_in,
            self.drop_in,
            self.list_flood,
            self.role_list,
            self.huge_text,
        ]

    @classmethod
    async def measure(cls, client: httpx.AsyncClient) -> Requests:
        """Ask the server how long its sequences and a word are."""
        model = (await client.get("/v1/model")).json()
        tokens = []
        for words in (10, 110):
            body = {"prompt": " a" * words, "responses": ["ok"], "critique": False}
            answer = (await client.post("/score", json=body)).raise_for_status().json()
            tokens.append(answer["usage"]["prompt_tokens"])
        per_word, rest = divmod(tokens[1] - tokens[0], 100)
        assert rest == 0, f"the words differ in tokens: {tokens}"
        return cls(model["max_model_len"], tokens[0] - 10 * per_word, per_word)

    def draw(self, draw: random.Random) -> Case:
        """A case; one in six is streamed, one in eight abandoned."""
        case = draw.choice(self.kinds)(draw)
        if case.path == "/score" and draw.random() < 1 / 6:
            case = replace(case, headers={**case.headers, "accept": NDJSON}, seeded=False)
        if draw.random() < 1 / 8:
            case = replace(case, kind=f"{case.kind}, hung up", hang_up_after_s=draw.choice([0.001, 0.05, 0.5, 2.0]))
        return case

    def plain(self, draw: random.Random) -> Case:
        return _case("plain", _words(draw, 60), [_words(draw, 40) for _ in range(3)])

    def long_seeded(self, draw: random.Random) -> Case:
        # Its first letters are its own, so little of it is in the prefix cache.
        prompt = "".join(draw.choices([" a", " b", " c", " d"], k=20))
        prompt += self._of_length(draw.randint(self.max_model_len // 2, self.max_model_len - 100))
        options = {"seed": _seed(draw), "max_tokens": draw.randint(1, 16), "temperature": draw.choice([0.0, 0.7, 1.0])}
        return replace(_case("long and seeded", prompt, ["ok"], critique=options), seeded=True)

    def samples(self, draw: random.Random) -> Case:
        options: dict[str, Any] = {"n": draw.choice([2, 5, 16]), "max_tokens": draw.randint(1, 32)}
        if draw.random() < 0.7:
            options["seed"] = _seed(draw)
        responses = [_words(draw, 40) for _ in range(draw.randint(1, 3))]
        case = _case("n > 1", _words(draw, 300), responses, critique=options)
        return replace(case, seeded="seed" in options)

    def boundary(self, draw: random.Random) -> Case:
        """Prompt and critique fill the model's length exactly, or exceed it by one token."""
        over = draw.random() < 0.5
        max_tokens = draw.randint(1, 8)
        while (self.max_model_len - max_tokens - self.base) % self.per_word:
            max_tokens += 1
        prompt = self._of_length(self.max_model_len - max_tokens)
        options = {"max_tokens": max_tokens + over, "seed": draw.choice([None, _seed(draw)])}
        case = _case("one token too long" if over else "full length", prompt, ["ok"], critique=options)
        return replace(case, codes=_TOO_LONG, must_fail=True) if over else case

    def temperatures(self, draw: random.Random) -> Case:
        temperature = draw.choice([0.0, 5e-324, 1e-9, 1e-3, 2, 2.0])
        options = {
            "n": 1 if temperature == 0 else draw.choice([1, 4]),
            "temperature": temperature,
            "max_tokens": draw.choice([1, 2, 64]),
            "seed": draw.choice([None, 0, 2**32 - 1]),
        }
        return _case("temperatures", _words(draw, 20), ["ok", "no"], critique=options)

    def no_critique(self, draw: random.Random) -> Case:
        return _case("no critique", _words(draw, 400), [_words(draw, 9)] * draw.randint(1, 16), critique=False)

    def many_items(self, draw: random.Random) -> Case:
        items = [{"prompt": _words(draw, 30), "responses": ["yes", "no"]} for _ in range(draw.randint(1, 8))]
        body = {"items": items, "critique": {"max_tokens": draw.randint(1, 16), "include": draw.random() < 0.5}}
        return Case("many items", json.dumps(body).encode(), responses=2 * len(items))

    def unicode(self, draw: random.Random) -> Case:
        text = draw.choice(_TEXTS) * draw.choice([1, 30, 3000])
        return replace(_case("unicode", text, [text], critique={"max_tokens": 4}), codes=_TOO_LONG)

    def empty_responses(self, draw: random.Random) -> Case:
        return _case("empty responses", _words(draw, 5), ["", " ", "\n\t", "\u3000"], critique=draw.random() < 0.5)

    def too_long(self, draw: random.Random) -> Case:
        """One response too long beside one that fits is an error in its own result."""
        case = _case("one too long", "why?", [self._of_length(self.max_model_len * draw.randint(1, 9)), "ok"])
        return replace(case, codes=_TOO_LONG)

    def truncated(self, draw: random.Random) -> Case:
        prompt = self._of_length(self.max_model_len * draw.randint(1, 4))
        body = {"max_tokens": draw.randint(1, 20), "seed": _seed(draw)}
        return _case("truncated", prompt, [draw.choice(["ok", prompt])], critique=body, on_overflow="truncate")

    def invalid(self, draw: random.Random) -> Case:
        valid: dict[str, Any] = {"prompt": "why?", "responses": ["ok"]}
        bodies: list[Any] = [
            {"critique": {"seed": -1}},
            {"critique": {"seed": 2**32}},
            {"critique": {"seed": 2**70}},
            {"critique": {"n": 0}},
            {"critique": {"n": 10**9}},
            {"critique": {"n": 2, "temperature": 0}},
            {"critique": {"max_tokens": 0}},
            {"critique": {"max_tokens": sys.maxsize}},
            {"critique": {"temperature": -1e-9}},
            {"critique": {"temperature": 1e308}},
            {"critique": {"logit_bias": {"0": 100}}},
            {"critique": "true"},
            {"responses": []},
            {"responses": [None]},
            {"prompt": ""},
            {"prompt": []},
            {"prompt": [{"role": "root", "content": "x"}]},
            {"on_overflow": "crash"},
        ]
        broken = [b"", b"{", b"[]", b'{"prompt": "\xff"}', b'{"prompt": NaN}', b"[" * 100_000, b'{"prompt": "\\ud800"}']
        contents = [json.dumps(valid | body).encode() for body in bodies] + broken
        codes = frozenset({"invalid_request", "invalid_json", "limit_exceeded"})
        return Case("invalid", draw.choice(contents), codes=codes, must_fail=True)

    def drop_in(self, draw: random.Random) -> Case:
        """A framework's own route, its text with or without a template's markers, and sometimes too long."""
        long = self._of_length(draw.randint(self.max_model_len // 2, self.max_model_len * 2))
        prompt = draw.choice([_words(draw, 60), draw.choice(_TEXTS), long])
        response = draw.choice(["", _words(draw, 40), draw.choice(_TEXTS), long])
        before, between, after = draw.choice([("", "", ""), _CHATML])
        asked = before + prompt + between
        whole = asked + response + after
        bodies: dict[str, dict[str, Any]] = {
            "/get_reward": {"query": [whole], "prompts": [asked], "labels": [""]},
            "/slime": {"prompt": asked, "response": response + after, "label": None},
            "/v1/score/evaluation": {"model": "model", "messages": [whole, whole]},
            "/classify": {"model": "any", "input": whole, "use_activation": False},
            "/verify": {
                "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
                "response": {"output": [{"role": "assistant", "content": [{"type": "output_text", "text": response}]}]},
            },
        }
        path = draw.choice(list(bodies))
        options = [f"max_tokens={draw.randint(1, 32)}", f"n={draw.choice([2, 5])}&temperature=1", f"seed={_seed(draw)}"]
        query = draw.choice(["critique=false", "on_overflow=truncate", *options, "&".join(options)])
        responses = 2 if path == "/v1/score/evaluation" else 1
        content = json.dumps(bodies[path]).encode()
        return Case(f"drop-in {path}", content, responses, _TOO_LONG | _NOT_A_PROMPT, path=f"{path}?{query}")

    def list_flood(self, draw: random.Random) -> Case:
        path, content = draw.choice(list_floods())
        codes = frozenset({"invalid_request", "limit_exceeded"})
        return Case(f"list flood {path}", content, codes=codes, must_fail=True, path=path)

    def role_list(self, draw: random.Random) -> Case:
        body = {"prompt": role_list(draw), "responses": ["ok"], "critique": draw.random() < 0.5}
        codes = _TOO_LONG | {"limit_exceeded", "unsupported_conversation"}
        return Case("role list", json.dumps(body).encode(), codes=codes)

    def huge_text(self, draw: random.Random) -> Case:
        path, content = huge_body(draw)
        codes = _TOO_LONG | _NOT_A_PROMPT | {"limit_exceeded"}
        return Case(f"huge text {path}", content, codes=codes, path=path)

    def _of_length(self, tokens: int) -> str:
        return " a" * ((tokens - self.base) // self.per_word)


def _case(kind: str, prompt: str, responses: list[str], **options: Any) -> Case:
    body = {"prompt": prompt, "responses": responses, "critique": {"max_tokens": 24}} | options
    return Case(kind, json.dumps(body).encode(), responses=len(responses))


def _words(draw: random.Random, most: int) -> str:
    return " ".join(
        draw.choices(["a", "bee", "see", "day", "even", "half", "an", "hour", "after", "noon"], k=draw.randint(1, most))
    )


def _seed(draw: random.Random) -> int:
    return draw.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, draw.randrange(2**32)])
