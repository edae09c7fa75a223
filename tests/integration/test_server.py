"""One live server on real vLLM, from its first line on the screen to its drain. The tests run in this order."""

from __future__ import annotations

import asyncio
import json
import math
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fuzz import Fuzz

from support.live import Server, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("as_users_start_it")]

MAX_SEQUENCES = 64


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The KV cache holds a few full sequences only, so that vLLM preempts under load."""
    log = tmp_path_factory.mktemp("server") / "screen.log"
    limits = ["--max-sequences", str(MAX_SEQUENCES), "--max-waiting", "128", "--queue-timeout-s", "10"]
    memory = ["--dtype", "float32", "--kv-cache-gib", "0.004"]
    with Server(str(tiny_checkpoint), *limits, *memory, log=log) as server:
        yield server


def test_a_line_for_each_stage(server: Server) -> None:
    stages = re.findall(r"(\d)/4 ", server.screen())
    assert stages == ["1", "2", "3", "4"]
    assert "engine up in" in server.screen()


def test_ready(server: Server) -> None:
    assert server.get("/health/live").json() == {"status": "ok"}
    assert server.get("/health/ready").json() == {"status": "ok"}


def test_score_gives_critiques_and_finite_scores(server: Server) -> None:
    answer = server.score(prompt="Why is the sky blue?", responses=["Scattering.", "The sea."], critique={"n": 2})
    results = answer.json()["results"]
    assert [(result["index"], result["status"]) for result in results] == [(0, "ok"), (1, "ok")]
    for result in results:
        assert all(math.isfinite(critique["score"]) for critique in result["critiques"])
        assert len(result["critiques"]) == 2
        assert any(critique["text"] for critique in result["critiques"])
        assert math.isfinite(result["score"])
        assert math.isfinite(result["direct_score"])


async def test_events_come_token_by_token_and_a_caller_that_leaves_frees_the_engine(server: Server) -> None:
    body = {"prompt": "Why?", "responses": ["So."], "critique": {"n": 2, "max_tokens": 40, "temperature": 1}}
    names: list[str] = []
    tokens: dict[int, list[dict[str, Any]]] = {0: [], 1: []}
    async with (
        server.client() as client,
        client.stream("POST", "/score", json=body, headers={"accept": "text/event-stream"}) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            elif line.startswith("data: ") and names[-1] == "token":
                token = json.loads(line.removeprefix("data: "))
                tokens[token["critique"]].append(token)
            elif line.startswith("data: ") and names[-1] == "result":
                result = json.loads(line.removeprefix("data: "))
    assert names[-2:] == ["result", "end"]
    for written, critique in zip(tokens.values(), result["critiques"], strict=True):
        rest = critique["text"].removeprefix("".join(token["text"] for token in written).strip())
        assert set(rest) <= {"\ufffd"}  # a cut may leave bytes of a character, which no event shows
        assert len(written) == critique["tokens"]
        assert (written[0]["score"], written[-1]["score"]) == (result["direct_score"], critique["score"])
    long = body | {"critique": {"n": 2, "max_tokens": 400, "temperature": 1}}
    async with (
        server.client() as client,
        client.stream("POST", "/score", json=long, headers={"accept": "text/event-stream"}) as answer,
    ):
        assert await anext(answer.aiter_lines()) == "event: token"
        assert server.metric("criticrm_sequences") == 2
    wait_until(lambda: server.metric("vllm:num_requests_running") == server.metric("criticrm_sequences") == 0, 30)


def test_without_a_critique_the_score_is_the_direct_score(server: Server) -> None:
    body = {"prompt": "Why is the sky blue?", "responses": ["Scattering."]}
    critiqued = server.score(**body).json()["results"][0]
    plain = server.score(**body, critique=False).json()["results"][0]
    assert plain["critiques"] == []
    assert plain["score"] == plain["direct_score"]
    assert plain["direct_score"] == pytest.approx(critiqued["direct_score"], abs=1e-4)


def test_close_critiques_are_those_of_a_full_request(server: Server) -> None:
    """The second pass reads its prompt from the cache, and neither pass moves a reward."""
    body = {"prompt": "Why is the sky blue? " * 40, "responses": ["So.", "It is.", "Light scatters.", "No."]}
    options = {"max_tokens": 8}
    full = httpx.post(f"{server.url}/score", json=body | {"critique": options}, timeout=120).json()["results"]
    direct = sorted(one["direct_score"] for one in full)
    close = options | {"when": "close", "rank": "best", "margin": (direct[-1] - direct[-2]) / 2 + 1e-6}
    found = httpx.post(f"{server.url}/score", json=body | {"critique": close}, timeout=120).json()["results"]
    best = sorted(range(4), key=lambda k: full[k]["direct_score"])[-2:]
    assert {k for k, one in enumerate(found) if one["critiqued"]} == set(best)
    for k, one in enumerate(found):
        expected = full[k]["score"] if one["critiqued"] else full[k]["direct_score"]
        assert one["score"] == pytest.approx(expected, abs=1e-3)
        if one["critiqued"]:
            assert one["usage"]["cached_tokens"] > 0


def test_a_critique_ends_once_its_reward_has_settled(server: Server) -> None:
    """At the position, with the reward, that the whole one has there; and the engine stops writing it."""
    body = {"prompt": "Why is the sky blue?", "responses": ["Scattering."]}
    whole = server.score(**body, critique={"max_tokens": 48, "trace": True}).json()["results"][0]["critiques"][0]
    scores = whole["trace"]["scores"]
    ranges = {k: max(scores[k - 3 : k + 1]) - min(scores[k - 3 : k + 1]) for k in range(3, len(scores) - 8)}
    last = min(ranges, key=lambda k: ranges[k])
    within = (ranges[last] + min([r for k, r in ranges.items() if k < last], default=2 * ranges[last])) / 2
    written = server.metric("vllm:generation_tokens_total")
    stop = {"settled": within, "for": 3}
    answer = server.score(**body, critique={"max_tokens": 48, "trace": True, "stop": stop}).json()["results"][0]
    (short,) = answer["critiques"]
    assert short["finish_reason"] == "settled"
    assert short["tokens"] == answer["usage"]["critique_tokens"] == last + 1
    assert short["score"] == short["trace"]["scores"][-1]
    assert short["trace"]["scores"] == pytest.approx(scores[: last + 1], abs=1e-3)
    wait_until(lambda: server.metric("vllm:num_requests_running") == 0, 30)
    assert server.metric("vllm:generation_tokens_total") - written < whole["tokens"]
    many = {"max_tokens": 48, "n": 3, "temperature": 1.0, "seed": 3}
    full = server.score(**body, critique=many | {"trace": True}).json()["results"][0]["critiques"]
    ended = server.score(**body, critique=many | {"stop": stop}).json()["results"][0]["critiques"]
    for one, cut in zip(full, ended, strict=True):  # the same draws
        assert one["text"].startswith(cut["text"].rstrip("\ufffd"))
        assert cut["score"] == pytest.approx(one["trace"]["scores"][cut["tokens"] - 1], abs=1e-3)


def test_a_long_shared_prompt_is_found_in_the_cache(server: Server) -> None:
    body = {"prompt": "a long story " * 60, "responses": ["I see."], "critique": False}
    first, second = (server.score(**body).json() for _ in range(2))
    assert second["usage"]["cached_tokens"] > first["usage"]["cached_tokens"]
    assert second["results"][0]["score"] == pytest.approx(first["results"][0]["score"], abs=1e-4)


def test_metrics_are_ours_and_those_of_vllm(server: Server) -> None:
    assert server.metric("criticrm_requests_total") > 0
    assert server.metric("criticrm_prefill_seconds_count") > 0
    assert server.metric("vllm:prompt_tokens_total") > 0
    assert server.metric("criticrm_tokens_total") > 0


def test_model(server: Server, tiny_checkpoint: Path) -> None:
    model = server.get("/v1/model").json()
    assert model["model"] == str(tiny_checkpoint)
    assert model["manifest"]["rewards"][0]["token"] == "<|reward|>"
    assert model["limits"]["max_sequences"] == MAX_SEQUENCES


async def test_long_seeded_prompts_at_once_are_survived(server: Server) -> None:
    """A seed and a prompt prefilled in chunks kill vLLM 0.32 on a CPU; here prompts are not chunked there."""
    length = server.get("/v1/model").json()["max_model_len"]
    async with server.client() as client:
        probe = {"responses": ["ok"], "critique": False}
        short, long = [
            (await client.post("/score", json={"prompt": " a" * words, **probe})).json()["usage"]["prompt_tokens"]
            for words in (50, 100)
        ]
        words = 100 + (length - 16 - long) * 50 // (long - short)
        bodies = [
            {
                "prompt": f"{number} " + " a" * (words - 10),
                "responses": ["ok"],
                "critique": {"seed": 2**32 - 1, "n": 2, "max_tokens": 8},
            }
            for number in range(16)
        ]
        answers = await asyncio.gather(*(client.post("/score", json=body) for body in bodies))
    assert [answer.status_code for answer in answers] == [200] * 16
    assert server.get("/health/ready").status_code == 200


async def test_500_at_once_end_in_200_or_503(server: Server) -> None:
    resident = []
    for round_ in range(3):
        async with server.client() as client:
            # Other questions each time: kept results would be answered at once.
            answers = await asyncio.gather(*(_one_of_500(client, 500 * round_ + number) for number in range(500)))
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert answer.json()["error"]["code"] == "overloaded"
                assert int(answer.headers["retry-after"]) >= 1
            else:
                assert math.isfinite(answer.json()["results"][0]["score"])
        assert server.metric("criticrm_sequences") == 0
        resident.append(server.resident_mib())
    # The first round fills pools and caches; a leak would grow with each.
    assert resident[2] - resident[0] < 32


async def _one_of_500(client: httpx.AsyncClient, number: int) -> httpx.Response:
    body = {"prompt": f"Question {number}?", "responses": ["An answer."], "critique": {"max_tokens": 32}}
    return await client.post("/score", json=body)


async def test_nothing_a_caller_sends_kills_the_engine(server: Server) -> None:
    async with server.client(timeout_s=330) as client:
        summary = await Fuzz(client, seed=0, seconds=20).run()
    assert summary["faults"] == []
    assert summary["requests"] > 100
    assert summary["same_alone"] == summary["seeded"] > 0
    assert server.process.poll() is None


async def test_sigterm_finishes_what_was_accepted_and_refuses_the_rest(server: Server) -> None:
    """Ends the server: the last test of this file."""
    async with server.client() as client, server.client() as late:
        slow = {"prompt": "Why?", "responses": ["So."], "critique": {"n": 2, "max_tokens": 200, "temperature": 1}}
        assert (await late.get("/health/ready")).status_code == 200
        accepted = [asyncio.create_task(client.post("/score", json=slow)) for _ in range(MAX_SEQUENCES // 2)]
        while server.metric("criticrm_sequences") < MAX_SEQUENCES:
            await asyncio.sleep(0.05)
        server.signal(signal.SIGTERM)
        await asyncio.to_thread(wait_until, lambda: "draining" in server.screen(), 10)
        refused = await late.post("/score", json=slow)  # on a connection that was open before
        unready = await late.get("/health/ready")
        answers = await asyncio.gather(*accepted)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert refused.headers["retry-after"]
    assert unready.status_code == 503
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert server.exit_code(timeout_s=60) == 0
    assert server.left_behind() == []
