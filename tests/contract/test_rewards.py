"""The frameworks' reward functions, called as the frameworks call them, against a server that may fail."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from criticrm_client import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    AsyncCriticRM,
    AuthenticationError,
    CheckpointChangedError,
    CriticRM,
    CritiqueOptions,
    InvalidRequestError,
    Retries,
)
from criticrm_client.rewards import areal, core, environment, ms_swift, slime, trl, verl
from criticrm_client.rewards.samples import item_of
from support.null_server import VERSION, NullServer, score_of

ONCE = Retries(attempts=1)
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
PROMPTS: list[Any] = ["Why?", "Why not?", ASKED, ASKED]
COMPLETIONS: list[Any] = ["So.", "No.", [{"role": "assistant", "content": "Because."}], "It is."]
SCORES = [score_of(response) for response in ("So.", "No.", "Because.", "It is.")]
KEYS = {"score", "direct_score", "truncated", "critique"}


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """None is set, and none that was is remembered."""
    for name in (environment.URL, environment.KEY, environment.MODEL_VERSION, environment.REWARD_OPTIONS):
        monkeypatch.delenv(name, raising=False)
    yield
    forget()


def forget() -> None:
    core.scorer_of_environment.cache_clear()
    if areal._client.cache_info().currsize:
        areal._client()[0].close()
    areal._client.cache_clear()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NullServer]:
    with NullServer() as server:
        monkeypatch.setenv(environment.URL, f"{server.url}, {server.url}/")
        yield server


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[NullServer]:
    """Something happens to every request, and each is sent once."""
    with NullServer(faults=1.0) as server:
        monkeypatch.setenv(environment.URL, server.url)
        monkeypatch.setattr(core, "AsyncCriticRM", partial(AsyncCriticRM, retries=ONCE))
        yield server


def answering(critique: str = "", status: int = 200, field: str = "prompt") -> httpx.MockTransport:
    """Scores are the responses' lengths; those that say "fail" fail with `status` and a fault of `field`."""

    def answer(request: httpx.Request) -> httpx.Response:
        (item,) = json.loads(request.content)["items"]
        (response,) = item["responses"]
        if "fail" in response:
            error = {"code": "no", "message": "not this", "request_id": "r", "details": [{"field": field}]}
            return httpx.Response(status, json={"error": error})
        critiques = [{"text": critique, "score": 1.0, "finish_reason": "stop", "tokens": 2}] * 2 if critique else []
        results = [result_of(len(response)) | {"critiques": critiques}]
        body = {"id": "a", "model": "m", "model_version": "v", "usage": {}, "results": results}
        return httpx.Response(200, json=body)

    return httpx.MockTransport(answer)


def result_of(score: float, index: int = 0) -> dict[str, Any]:
    return {
        "id": None, "index": index, "status": "ok", "score": score, "direct_score": 0.5, "score_std": None,
        "critiques": [], "warnings": [], "error": None, "usage": {},
    }  # fmt: skip


def failed_result(index: int) -> dict[str, Any]:
    error = {"code": "too_long", "message": "it is too long", "request_id": "r", "details": []}
    return result_of(0, index) | {"status": "error", "score": None, "direct_score": None, "error": error}


def of_data(**told: Any) -> dict[str, Any]:
    """verl's four arguments."""
    return {"data_source": "made up", "ground_truth": None, "solution_str": "So.", "extra_info": told}


# TRL


def test_trl_is_told_a_coroutine_function_with_a_name() -> None:
    made = trl.critic_rm_reward("http://a.test", name="judge")
    assert inspect.iscoroutinefunction(made)
    assert inspect.iscoroutinefunction(trl.critic_rm)
    assert (made.__name__, trl.critic_rm.__name__) == ("judge", "critic_rm")


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize(
    ("critique", "groups"),
    [
        ("auto", [["1", "22", "4444"], ["333"]]),
        ({"when": "close", "margin": 0.5, "rank": "all"}, [["1", "22", "4444"], ["333"]]),
        (CritiqueOptions(when="close"), [["1", "22", "4444"], ["333"]]),
        ({"n": 2}, [["1"], ["22"], ["333"], ["4444"]]),
        (True, [["1"], ["22"], ["333"], ["4444"]]),
    ],
)
def test_responses_that_are_compared_are_sent_together(sync: bool, critique: Any, groups: list[list[str]]) -> None:
    """A response alone would be compared with 0. Each reward is that of its own sample, and None where it has none."""
    sent: list[list[str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        (item,) = json.loads(request.content)["items"]
        sent.append(item["responses"])
        results = [
            result_of(len(response), index) if response != "22" else failed_result(index)
            for index, response in enumerate(item["responses"])
        ]
        body = {"id": "a", "model": "m", "model_version": "v", "usage": {}, "results": results}
        return httpx.Response(200, json=body)

    make: Any = trl.critic_rm_reward_sync if sync else trl.critic_rm_reward
    reward = make("http://critic", transport=httpx.MockTransport(answer), critique=critique)
    found = reward([ASKED, ASKED, "Why?", ASKED, ["no message"]], ["1", "22", "333", "4444", "5"])
    assert (found if sync else asyncio.run(found)) == [1.0, None, 3.0, 4.0, None]
    assert sorted(sent) == sorted(groups)


def test_no_more_are_sent_together_than_a_service_takes() -> None:
    """And none is left alone."""
    samples = [core.Sample("Why?", str(number)) for number in range(2 * core.MOST_TOGETHER + 1)]
    batch = core._Batch(samples, {"critique": "auto"})
    assert [len(item.responses) for item in batch.items] == [43, 43, 43]
    assert [response for item in batch.items for response in item.responses] == [one.completion for one in samples]


@pytest.mark.parametrize("sync", [False, True])
def test_what_is_too_much_together_is_sent_in_halves(sync: bool) -> None:
    sent: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        (item,) = json.loads(request.content)["items"]
        sent.append(len(item["responses"]))
        if len(item["responses"]) > 3 or "77777" in item["responses"]:
            details = [{"field": "body", "limit": 3}]
            error = {"code": "limit_exceeded", "message": "4 sequences", "request_id": "r", "details": details}
            return httpx.Response(422, json={"error": error})
        results = [result_of(len(response), index) for index, response in enumerate(item["responses"])]
        body = {"id": "a", "model": "m", "model_version": "v", "usage": {}, "results": results}
        return httpx.Response(200, json=body)

    make: Any = trl.critic_rm_reward_sync if sync else trl.critic_rm_reward
    reward = make("http://critic", transport=httpx.MockTransport(answer), critique="auto", retries=ONCE)
    found = reward(["Why?"] * 10, ["7" * (1 + k) for k in range(10)])
    assert (found if sync else asyncio.run(found)) == [None if k == 5 else float(k) for k in range(1, 11)]
    assert sorted(sent) == [1, 1, 1, 2, 2, 2, 3, 3, 5, 5, 10]


@pytest.mark.parametrize("make", [trl.critic_rm_reward, trl.critic_rm_reward_sync])
def test_options_that_are_not_given_are_the_variables(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        body = {"id": "a", "model": "m", "model_version": "v", "usage": {}, "results": [result_of(1)]}
        return httpx.Response(200, json=body)

    monkeypatch.setenv(environment.REWARD_OPTIONS, '{"critique": false, "normalize": true}')
    found = make("http://critic", transport=httpx.MockTransport(answer), normalize=False)(["Why?"], ["So."])
    assert (found if isinstance(found, list) else asyncio.run(found)) == [1.0]
    assert (bodies[0]["critique"], bodies[0]["normalize"]) == (False, False)


def test_trl_in_its_own_event_loop_thread_and_in_another(server: NullServer) -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    columns = {"completion_ids": [[1]] * 4, "answer": ["x"] * 4, "trainer_state": None}
    for reward in (trl.critic_rm, trl.critic_rm_reward(server.url, critique=False)):
        for _ in range(2):
            asked = reward(prompts=PROMPTS, completions=COMPLETIONS, **columns)
            assert asyncio.run_coroutine_threadsafe(asked, loop).result(30) == SCORES
        assert asyncio.run(reward(PROMPTS, COMPLETIONS)) == SCORES
        assert asyncio.run(reward([], [])) == []
    asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def test_a_loop_that_ends_takes_its_client_along(server: NullServer) -> None:  # noqa: ARG001
    scorer = core.scorer_of_environment()
    for _ in range(3):
        assert asyncio.run(trl.critic_rm(PROMPTS, COMPLETIONS)) == SCORES
        assert scorer._client._sessions._of == {}


def test_trl_logs_critiques_and_what_failed(caplog: pytest.LogCaptureFixture) -> None:
    extra: dict[str, list[Any]] = {}
    metrics: dict[str, float] = {}
    log = {"log_extra": extra.__setitem__, "log_metric": metrics.__setitem__}
    reward = trl.critic_rm_reward("http://a.test", name="judge", transport=answering("Good.", 422))
    with caplog.at_level(logging.WARNING, trl.__name__):
        found = asyncio.run(reward(["Why?"] * 3 + [["no message"]], ["So.", "fail", "So so.", "So."], **log))
    assert found == [3.0, None, 6.0, None]
    assert extra == {"judge/critique": ["Good.\n\nGood.", None, "Good.\n\nGood.", None]}
    assert metrics == {"judge/failed": 0.5}
    (record,) = caplog.records
    assert record.getMessage() == "judge: 2 of 4 samples have no reward: 422 no: not this [request r]"


def test_trl_without_critiques_logs_none() -> None:
    extra: dict[str, list[Any]] = {}
    reward = trl.critic_rm_reward("http://a.test", transport=answering(), critique=False)
    assert asyncio.run(reward(["Why?"], ["So."], log_extra=extra.__setitem__)) == [3.0]
    assert extra == {}


def test_trl_gets_none_for_what_failed_and_never_another_number(broken: NullServer) -> None:
    reward = trl.critic_rm_reward(broken.url, retries=ONCE)
    responses = [f"Response {i}." for i in range(40)]
    found = asyncio.run(reward(["Why?"] * 40, responses))
    assert None in found
    assert all(given in (None, score_of(response)) for given, response in zip(found, responses, strict=True))


def test_an_option_that_is_refused_ends_the_run() -> None:
    reward = trl.critic_rm_reward("http://a.test", transport=answering(status=422, field="critique.n"))
    with pytest.raises(InvalidRequestError, match="not this"):
        asyncio.run(reward(["Why?"] * 2, ["So.", "fail"]))


def test_a_wrong_key_ends_the_run() -> None:
    reward = trl.critic_rm_reward("http://a.test", key="wrong", transport=answering(status=401))
    with pytest.raises(AuthenticationError):
        asyncio.run(reward(["Why?"] * 2, ["So.", "fail"]))


def test_another_checkpoint_ends_the_run(server: NullServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a run begin at different times: each is told which checkpoint's rewards the run trains on."""
    rewards = [
        lambda: trl.critic_rm(PROMPTS, COMPLETIONS),
        lambda: trl.critic_rm_reward(server.url)(PROMPTS, COMPLETIONS),
        lambda: verl.compute_score("d", "So.", None, {"prompt": "Why?"}),
        lambda: asyncio.to_thread(areal.reward_fn, "Why?", "So.", [1], [2]),
    ]
    for version in (VERSION, "the-old-one"):
        monkeypatch.setenv(environment.MODEL_VERSION, version)
        forget()
        for reward in rewards:
            if version == VERSION:
                assert asyncio.run(reward())
            else:
                with pytest.raises(CheckpointChangedError):
                    asyncio.run(reward())


@pytest.mark.parametrize("samples", [1, 8, 200])
def test_a_service_that_has_gone_ends_the_run(samples: int) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    reward = trl.critic_rm_reward("http://a.test", retries=ONCE, transport=httpx.MockTransport(refuse))
    with pytest.raises(APIConnectionError):
        asyncio.run(reward(["Why?"] * samples, ["So."] * samples))


# verl


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", verl.PROMPT_KEYS)
async def test_verl_always_gets_the_same_keys(server: NullServer, prompt: Any, name: str) -> None:  # noqa: ARG001
    found = await verl.compute_score(**of_data(**{name: prompt}, num_turns=2), reward_router_address="a:1")
    assert found == {
        "score": score_of("So."),
        "direct_score": score_of("So."),
        "truncated": False,
        "critique": "",
    }
    assert set(found) == KEYS


async def test_verl_with_a_key_for_the_prompt(server: NullServer) -> None:  # noqa: ARG001
    found = await verl.compute_score(**of_data(task="Why?"), prompt_key="task")
    assert found["score"] == score_of("So.")
    with pytest.raises(ValueError, match=r"extra_info has no prompt \(task\)"):
        await verl.compute_score(**of_data(prompt="Why?"), prompt_key="task")
    with pytest.raises(ValueError, match=r"extra_info has no prompt \(prompt, raw_prompt, question\)"):
        await verl.compute_score("made up", "So.", "", None)


async def test_verl_is_told_a_coroutine_function_also_as_verl_wraps_it() -> None:
    assert inspect.iscoroutinefunction(partial(verl.compute_score, prompt_key="task"))


# ms-swift


def swift(completions: list[str], messages: Any) -> list[float]:
    """As swift calls it: by position, with columns, in a new event loop."""
    orm = ms_swift.CriticRMORM(args=None)
    assert inspect.iscoroutinefunction(orm.__call__)
    return asyncio.run(orm(completions, messages=messages, solution=None, trainer_state=None))


def test_swift(server: NullServer) -> None:  # noqa: ARG001
    conversations = [[*ASKED, {"role": "assistant", "content": text}] for text in ("So.", "No.")]
    for _ in range(2):
        assert swift(["So.", "No."], conversations) == SCORES[:2]
    with pytest.raises(ValueError, match="no messages"):
        swift(["So."], None)
    with pytest.raises(ValueError, match="messages end with a turn of the user, not with the completion"):
        swift(["So."], [ASKED])


# slime


def sample(prompt: Any, response: str) -> SimpleNamespace:
    return SimpleNamespace(prompt=prompt, response=response, label=None, metadata={})


async def test_slime_gives_a_number_or_what_the_reward_key_is_taken_from(server: NullServer) -> None:  # noqa: ARG001
    plain, keyed = SimpleNamespace(reward_key=None), SimpleNamespace(reward_key="score")
    group = [sample("Why?", "So.<|im_end|>"), sample(ASKED, "No.")]
    assert await slime.custom_rm(plain, group[0]) == SCORES[0]
    assert await slime.custom_rm(plain, group) == SCORES[:2]
    found = await slime.custom_rm(keyed, group, evaluation=False)
    assert [one[keyed.reward_key] for one in found] == SCORES[:2]
    assert all(set(one) == KEYS for one in found)


def test_slimes_label_may_be_in_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITICRM_REFERENCE_COLUMN", "label")
    of_metadata, both, neither = (sample("Why?", "So.") for _ in range(3))
    of_metadata.metadata = {"label": "56"}
    both.metadata, both.label = {"label": "56"}, "57"
    items = [item_of(one) for one in slime._pairs([of_metadata, both, neither])]
    assert [item.reference for item in items] == ["56", "57", None]


# AReaL


def test_areal_in_a_process_of_its_own_and_here(server: NullServer) -> None:  # noqa: ARG001
    call = partial(areal.reward_fn, "Why?", "So.<|im_end|>", [1], [2])
    assert call() == SCORES[0]
    assert call(messages=ASKED, answer="x") == SCORES[0]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert [pool.submit(call, messages=ASKED).result(60) for _ in range(2)] == SCORES[:1] * 2
    assert asyncio.run(areal.async_reward_fn("Why?", "So.<|im_end|>", [1], [2], answer="x")) == SCORES[0]


def test_areal_gives_up_before_areal_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert areal.DEADLINE_S < 15
    monkeypatch.setattr(areal, "DEADLINE_S", 0.05)
    monkeypatch.setenv(environment.URL, "http://127.0.0.1:9")
    with pytest.raises(APITimeoutError, match=r"deadline_s=0\.05"):
        areal.reward_fn("Why?", "So.", [1], [2])


def test_a_failure_crosses_to_areals_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.URL, "http://a.test")
    monkeypatch.setattr(areal, "CriticRM", partial(CriticRM, transport=answering(status=401)))
    with pytest.raises(AuthenticationError) as failed:
        areal.reward_fn("Why?", "fail", [1], [2])
    assert str(pickle.loads(pickle.dumps(failed.value))) == "401 no: not this [request r]"


# All of them

ALONE: dict[str, Callable[[], Any]] = {
    "verl": lambda: asyncio.run(verl.compute_score(**of_data(prompt="Why?"))),
    "swift": lambda: swift(["So."] * 2, [[*ASKED, {"role": "assistant", "content": "So."}]] * 2),
    "slime": lambda: asyncio.run(slime.custom_rm(SimpleNamespace(), sample("Why?", "So."))),
    "slime's group": lambda: asyncio.run(slime.custom_rm(SimpleNamespace(), [sample("Why?", "So.")] * 2)),
    "areal, awaited": lambda: asyncio.run(areal.async_reward_fn("Why?", "So.", [1], [2])),
}


@pytest.mark.parametrize("call", ALONE.values(), ids=ALONE)
def test_where_no_sample_can_be_left_out_a_failure_is_an_exception(broken: NullServer, call: Callable[[], Any]) -> None:
    given: list[Any] = []
    raised = 0
    for _ in range(10):
        try:
            given.append(call())
        except APIError:
            raised += 1
    assert raised
    assert broken.happened["refuse"]
    for found in given:
        for one in found if isinstance(found, list) else [found]:
            assert (one["score"] if isinstance(one, dict) else one) == score_of("So.")


@pytest.mark.parametrize("call", [*ALONE.values(), lambda: asyncio.run(trl.critic_rm(["Why?"], ["So."]))])
def test_variables_that_are_missing_or_wrong_are_named(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]
) -> None:
    for url, options, told in [
        ("", "", "CRITICRM_URL is not set"),
        ("critic-host:8000", "", "CRITICRM_URL: 'critic-host:8000' is no server's address; one looks like http"),
        ("http://a.test", "{", "CRITICRM_REWARD_OPTIONS: Invalid JSON"),
        ("http://a.test", '{"critque": false}', r"CRITICRM_REWARD_OPTIONS\.critque: Extra inputs"),
        ("http://a.test", '{"critique": {"n": 0}}', r"CRITICRM_REWARD_OPTIONS\.critique\.n: .* greater than"),
        ("http://a.test", '{"normalize": "yes"}', r"CRITICRM_REWARD_OPTIONS\.normalize: .* boolean"),
    ]:
        monkeypatch.setenv(environment.URL, url)
        monkeypatch.setenv(environment.REWARD_OPTIONS, options)
        with pytest.raises(ValueError, match=told):
            call()


def test_options_are_sent_as_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"critique": {"n": 4, "seed": 1}, "on_overflow": "truncate", "normalize": True}
    monkeypatch.setenv(environment.REWARD_OPTIONS, json.dumps(told))
    assert environment.options() == told
    monkeypatch.setenv(environment.REWARD_OPTIONS, '{"critique": false}')
    assert environment.options() == {"critique": False}


def test_a_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["authorization"])
        return httpx.Response(401)

    monkeypatch.setenv(environment.URL, "http://a.test")
    monkeypatch.setenv(environment.KEY, "a-key")
    monkeypatch.setattr(core, "AsyncCriticRM", partial(AsyncCriticRM, transport=httpx.MockTransport(answer)))
    with pytest.raises(AuthenticationError):
        asyncio.run(trl.critic_rm(["Why?"], ["So."]))
    assert keys == ["Bearer a-key"]


def test_they_import_what_the_client_does() -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'numpy', 'swift'], None)); "
        "from criticrm_client.rewards import areal, ms_swift, slime, trl, verl"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@pytest.mark.parametrize("module", [areal, ms_swift, slime, verl])
def test_they_load_by_their_path(module: Any) -> None:
    program = "import runpy, sys; runpy.run_path(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, module.__file__], check=True)
