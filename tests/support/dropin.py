"""What the tests of the drop-in routes share."""

from __future__ import annotations

import json
from typing import Any

from conftest import Running

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
PROMPT = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"  # of ASKED
)


async def result(running: Running, asked: Any, response: str, **options: object) -> dict[str, Any]:
    """What `/score` says of it. The fake engine's rewards follow from the token ids: equal scores, equal prompts."""
    answer = await running.score(prompt=asked, responses=[response], **options)
    (found,) = answer.json()["results"]
    return dict(found)


async def score(running: Running, asked: Any, response: str, **options: object) -> float:
    return float((await result(running, asked, response, **options))["score"])


def bodies(response: str = "So.") -> dict[str, Any]:
    """A request for each route that scores `response` to ASKED."""
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": response}]}
    return {
        "/get_reward": {"query": [PROMPT + response], "prompts": [PROMPT], "labels": [None]},
        "/slime": {"prompt": PROMPT, "response": response, "label": None},
        "/v1/score/evaluation": {"model": "model", "messages": [PROMPT + response]},
        "/classify": {"model": "model", "input": PROMPT + response, "use_activation": False},
        "/pooling": {"input": [PROMPT + response]},
        "/lmdeploy/pooling": {"input": [PROMPT + response]},
        "/v1/embeddings": {"model": "model", "input": PROMPT + response},
        "/v1/chat/completions": {"model": "judge", "messages": [*ASKED, {"role": "assistant", "content": response}]},
        "/verify": {"responses_create_params": {"input": ASKED}, "response": {"output": [said]}},
        "/v1/responses": {"input": ASKED, "metadata": {"response_1": response, "response_2": "No."}},
        "/xtuner": {"response": response, "label": None, "extra_info": {"prompt": PROMPT}},
        "/compare": {"conversation_history": ASKED, "response_objs": [{"output": [said]}]},
    }


def reward(path: str, body: dict[str, Any]) -> float:
    """Where each framework looks for it."""
    match path:
        case "/get_reward" | "/compare":
            return float(body["rewards"][0])
        case "/slime" | "/xtuner":
            return float(body["score"])
        case "/v1/score/evaluation":
            return float(body["scores"][0])
        case "/classify":
            return float(body["data"][-1]["probs"][-1])
        case "/pooling":
            return float(body["data"][-1]["data"][-1][0])
        case "/lmdeploy/pooling":
            return float(body["data"][-1]["data"])
        case "/v1/embeddings":
            return float(body["data"][-1]["embedding"][-1])
        case "/v1/chat/completions":
            content = body["choices"][0]["message"]["content"]
            return float(content.removeprefix("<score>").removesuffix("</score>"))
        case "/v1/responses":
            return float(json.loads(body["output"][0]["content"][0]["text"])["score_1"])
        case _:
            return float(body["reward"])
