"""SGLang's `/classify`, `/pooling` of vLLM and lmdeploy, and `/v1/embeddings`, called as their clients call them."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import httpx
import pytest

from conftest import Running
from support.dropin import ASKED, PROMPT, bodies, result, score

TEXTS = [PROMPT + "So.<|im_end|>\n", PROMPT + "No."]
POLAR = "Why?\nBecause.<|reward|>Why?\nSo.[UNUSED_TOKEN_130]"


async def ask(running: Running, path: str, **body: Any) -> httpx.Response:
    return await running.client.post(path, json=body)


async def scores(running: Running) -> list[float]:
    return [await score(running, ASKED, text) for text in ("So.", "No.")]


async def test_sglang_answers_several_texts_by_a_bare_list(running: Running) -> None:
    answer = await ask(running, "/classify", model="Skywork/Skywork-Reward-V2-Qwen3-8B", text=TEXTS)
    assert answer.status_code == 200
    assert [one["embedding"][0] for one in answer.json()] == await scores(running)
    expected = await result(running, ASKED, "So.")
    assert answer.json()[0] == {
        "embedding": [expected["score"]],
        "meta_info": {
            "id": answer.headers["x-request-id"],
            "prompt_tokens": expected["usage"]["prompt_tokens"],
            "completion_tokens": 24,
        },
        "warnings": [],
    }


async def test_sglang_answers_one_text_by_an_object(running: Running) -> None:
    answer = await ask(running, "/classify", text=TEXTS[0])
    assert answer.json()["embedding"] == (await scores(running))[:1]


async def test_pooling_as_vllm_and_as_lmdeploy(running: Running) -> None:
    vllm = await ask(running, "/pooling", input=TEXTS)
    lmdeploy = await ask(running, "/lmdeploy/pooling", input=TEXTS)
    expected = await scores(running)
    assert [one["data"][-1][0] for one in vllm.json()["data"]] == expected
    assert [one["data"] for one in lmdeploy.json()["data"]] == expected
    for answer in (vllm, lmdeploy):
        assert [one["index"] for one in answer.json()["data"]] == [0, 1]
        assert answer.json()["usage"]["completion_tokens"] == 48


@pytest.mark.parametrize("name", ["use_activation", "activation"])
async def test_pooling_has_a_sigmoid_if_it_is_asked_for(running: Running, name: str) -> None:
    answer = await ask(running, "/pooling", input=TEXTS[0], **{name: True})
    reward = (await scores(running))[0]
    assert answer.json()["data"][0]["data"] == [[pytest.approx(1 / (1 + math.exp(-reward)))]]


async def test_embeddings_as_verl_sends_them(running: Running) -> None:
    answer = await ask(running, "/v1/embeddings", model="rm/path", input=TEXTS[0])
    body = answer.json()
    reward = (await scores(running))[0]
    assert body.pop("usage")["completion_tokens"] == 24
    embedding = {"index": 0, "object": "embedding", "embedding": [reward], "warnings": []}
    assert body == {"object": "list", "model": "default", "data": [embedding]}


async def test_embeddings_in_base64(running: Running) -> None:
    answer = await ask(running, "/v1/embeddings", input=TEXTS, encoding_format="base64")
    found = [struct.unpack("<f", base64.b64decode(one["embedding"]))[0] for one in answer.json()["data"]]
    assert found == pytest.approx(await scores(running))


@pytest.mark.parametrize("path", ["/pooling", "/lmdeploy/pooling", "/v1/embeddings"])
async def test_token_ids(running: Running, path: str) -> None:
    tokenizer = running.service.checkpoint.tokenizer
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    by_ids, by_text = await ask(running, path, input=ids), await ask(running, path, input=TEXTS)
    assert by_ids.status_code == 200
    assert by_ids.json()["data"] == by_text.json()["data"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/classify", {"text": None}, "text"),
        ("/classify", {"text": []}, "text"),
        ("/classify", {"text": [1]}, "text[0]"),
        ("/classify", {"text": [""] * 300}, "text"),
        ("/classify", {"text": ["<|im_start|>user\nWhy?<|im_end|>\n"]}, "text[0]"),
        ("/classify", {"text": [POLAR]}, "text[0]"),
        ("/classify", {"text": "a", "messages": []}, "body"),
        ("/pooling", {}, "input"),
        ("/pooling", {"input": [""] * 300}, "input"),
        ("/pooling", {"input": "a", "encoding_format": "base64"}, "encoding_format"),
        ("/lmdeploy/pooling", {"input": [{}]}, "input[0]"),
        ("/v1/embeddings", {"input": "a", "dimensions": 2}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ("/v1/embeddings", {"input": [10**9]}, "input[0]"),
    ],
)
async def test_wrong_input_names_its_field(running: Running, path: str, body: dict[str, Any], field: str) -> None:
    answer = await ask(running, path, **body)
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["field"] == field


@pytest.mark.parametrize("path", ["/pooling", "/lmdeploy/pooling", "/v1/embeddings", "/classify"])
async def test_one_failure_fails_the_batch(running: Running, path: str) -> None:
    texts = [PROMPT + "So.", PROMPT + "word " * 2000]
    for body in ({"input": texts}, {"text": texts})[: 2 if path == "/classify" else 1]:
        answer = await ask(running, path, **body)
        assert answer.status_code == 422
        assert set(answer.json()) == {"error"}


def test_every_route_is_among_the_shared_tests() -> None:
    assert {"/pooling", "/lmdeploy/pooling", "/v1/embeddings"} <= set(bodies())
