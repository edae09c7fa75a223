"""Reward functions that frameworks do not await, EasyR1's, and messages in which tools are called."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from criticrm_client import APIConnectionError, APIError, AsyncCriticRM, AuthenticationError, CriticRM, Retries
from criticrm_client.rewards import areal, core, easyr1, environment, ms_swift, slime, trl, verl
from criticrm_client.rewards.samples import Sample, item_of
from support.null_server import NullServer, score_of

ONCE = Retries(attempts=1)
ASKED = [{"role": "user", "content": "Why?"}]
SAID = [{"role": "assistant", "content": "So."}]
SCORES = [score_of("So."), score_of("No.")]
GROUP = [SimpleNamespace(prompt="Why?", response=text) for text in ("So.", "No.")]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "\u00fc"}}}
CALL_TEXT = '{"name": "add", "arguments": {"a": 1, "b": "\u00fc"}}'


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """None is set, and none that was is remembered."""
    for name in (environment.URL, environment.KEY, environment.MODEL_VERSION, environment.REWARD_OPTIONS):
        monkeypatch.delenv(name, raising=False)
    yield
    if core.sync_scorer_of_environment.cache_info().currsize:
        core.sync_scorer_of_environment().close()
    core.sync_scorer_of_environment.cache_clear()
    core.scorer_of_environment.cache_clear()
    if areal._client.cache_info().currsize:
        areal._client()[0].close()
    areal._client.cache_clear()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NullServer]:
    with NullServer() as server:
        monkeypatch.setenv(environment.URL, server.url)
        yield server


def of_verl(text: str) -> dict[str, Any]:
    return {"data_source": "d", "solution_str": text, "ground_truth": None, "extra_info": {"prompt": "Why?"}}


def of_swift(*texts: str) -> tuple[list[str], dict[str, Any]]:
    return list(texts), {"messages": [[*ASKED, {"role": "assistant", "content": text}] for text in texts]}


def call_swift(*texts: str) -> list[float]:
    completions, columns = of_swift(*texts)
    return ms_swift.SyncCriticRMORM(args=None)(completions, **columns, solution=None)


ALONE: dict[str, Callable[[], Any]] = {
    "verl": lambda: verl.compute_score_sync(**of_verl("So."))["score"],
    "swift": lambda: call_swift("So.")[0],
    "slime": lambda: slime.custom_rm_sync(SimpleNamespace(), GROUP[0]),
    "easyr1": lambda: easyr1.compute_score({"response": "So.", "ground_truth": {"prompt": "Why?"}})["overall"],
}
TWINS = [
    (trl.critic_rm, trl.critic_rm_sync),
    (verl.compute_score, verl.compute_score_sync),
    (slime.custom_rm, slime.custom_rm_sync),
    (ms_swift.CriticRMORM.__call__, ms_swift.SyncCriticRMORM.__call__),
    (areal.async_reward_fn, areal.reward_fn),
]


@pytest.mark.parametrize(("awaited", "called"), TWINS)
def test_each_function_that_is_awaited_has_a_twin_that_is_not(awaited: Any, called: Any) -> None:
    assert inspect.iscoroutinefunction(awaited)
    assert not inspect.iscoroutinefunction(called)
    assert list(inspect.signature(awaited).parameters) == list(inspect.signature(called).parameters)


def test_the_twins_of_trl_have_the_same_arguments_and_a_name() -> None:
    made, twin = inspect.signature(trl.critic_rm_reward), inspect.signature(trl.critic_rm_reward_sync)
    assert made.parameters == twin.parameters
    assert trl.critic_rm_reward_sync("http://a.test", name="judge").__name__ == "judge"


def test_they_give_what_the_awaited_ones_give(server: NullServer) -> None:
    columns = {"completion_ids": [[1]] * 2, "answer": ["x"] * 2, "trainer_state": None}
    for reward in (trl.critic_rm_sync, trl.critic_rm_reward_sync(server.url, critique=False)):
        assert reward(prompts=["Why?", ASKED], completions=["So.", "No."], **columns) == SCORES
        assert reward([], []) == []
    assert call_swift("So.", "No.") == SCORES
    assert slime.custom_rm_sync(SimpleNamespace(reward_key=None), GROUP) == SCORES
    keyed = slime.custom_rm_sync(SimpleNamespace(reward_key="score"), GROUP)
    assert [one["score"] for one in keyed] == SCORES
    assert verl.compute_score_sync(**of_verl("So.")) == asyncio.run(verl.compute_score(**of_verl("So.")))


@pytest.mark.parametrize("call", ALONE.values(), ids=ALONE)
async def test_they_work_where_an_event_loop_runs(server: NullServer, call: Callable[[], Any]) -> None:  # noqa: ARG001
    """As in a worker of Ray."""
    assert call() == SCORES[0]


@pytest.mark.parametrize("call", ALONE.values(), ids=ALONE)
def test_a_failure_is_an_exception_and_never_a_number(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> None:
    with NullServer(faults=1.0) as broken:
        monkeypatch.setenv(environment.URL, broken.url)
        monkeypatch.setattr(core, "CriticRM", partial(CriticRM, retries=ONCE))
        raised = 0
        for _ in range(10):
            try:
                assert call() == SCORES[0]
            except APIError:
                raised += 1
    assert raised


def test_trl_leaves_out_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    with NullServer(faults=1.0) as broken:
        monkeypatch.setenv(environment.URL, broken.url)
        responses = [f"Response {i}." for i in range(40)]
        found = trl.critic_rm_reward_sync(broken.url, retries=ONCE)(["Why?"] * 40, responses)
    assert None in found
    assert all(given in (None, score_of(response)) for given, response in zip(found, responses, strict=True))


def test_a_fault_of_the_job_ends_the_run() -> None:
    refusing = httpx.MockTransport(lambda _: httpx.Response(401))
    with pytest.raises(AuthenticationError):
        trl.critic_rm_reward_sync("http://a.test", key="wrong", transport=refusing)(["Why?"], ["So."])

    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    gone = trl.critic_rm_reward_sync("http://a.test", retries=ONCE, transport=httpx.MockTransport(refuse))
    with pytest.raises(APIConnectionError):
        gone(["Why?"] * 8, ["So."] * 8)


@pytest.mark.parametrize("call", [*ALONE.values(), lambda: trl.critic_rm_sync(["Why?"], ["So."])])
def test_a_variable_that_is_missing_is_named(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="CRITICRM_URL is not set"):
        call()


# EasyR1


@pytest.mark.parametrize(
    "truth",
    [
        {"prompt": "Why?", "answer": "56"},
        json.dumps({"question": "Why?"}),
        json.dumps({"prompt": ASKED}),
        {"problem": ASKED},
    ],
)
def test_easyr1_in_a_batch_and_alone(server: NullServer, truth: Any) -> None:  # noqa: ARG001
    inputs = [{"response": text, "response_length": 2, "ground_truth": truth} for text in ("So.", "No.")]
    expected = [{"overall": one, "direct_score": one, "truncated": 0.0} for one in SCORES]
    assert easyr1.compute_score(inputs) == expected
    assert easyr1.compute_score(inputs[0]) == expected[0]


@pytest.mark.parametrize("truth", ["56", "a text", None, {"answer": "56"}, '{"answer": 1}', "[1]"])
def test_easyr1_without_a_prompt(server: NullServer, truth: Any) -> None:  # noqa: ARG001
    with pytest.raises(ValueError, match=r"ground_truth has no prompt \(prompt, question, problem\)"):
        easyr1.compute_score([{"response": "So.", "ground_truth": truth}])


def test_easyr1_with_a_key_for_the_prompt(server: NullServer) -> None:  # noqa: ARG001
    inputs = [{"response": "So.", "ground_truth": {"task": "Why?"}}]
    (found,) = partial(easyr1.compute_score, prompt_key="task")(inputs)
    assert found["overall"] == SCORES[0]
    with pytest.raises(ValueError, match=r"no prompt \(other\)"):
        easyr1.compute_score(inputs, prompt_key="other")


def test_easyr1_loads_it_by_its_path() -> None:
    program = "import runpy, sys; found = runpy.run_path(sys.argv[1]); print(found['REWARD_TYPE'])"
    done = subprocess.run([sys.executable, "-c", program, easyr1.__file__], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "batch"


# Tools


def test_trl_takes_completions_in_which_tools_are_called() -> None:
    completion = [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "name": "add", "content": "2"},
        {"role": "assistant", "content": "Again.", "tool_calls": [CALL, CALL["function"]]},
        {"role": "tool", "name": "add", "content": "2"},
        {"role": "assistant", "content": "So.", "tool_calls": []},
    ]
    item = item_of(Sample(ASKED, completion, calls_as_text=True))
    assert item.prompt == [
        *ASKED,
        {"role": "assistant", "content": CALL_TEXT},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": f"Again.\n{CALL_TEXT}\n{CALL_TEXT}"},
        {"role": "tool", "content": "2"},
    ]
    assert item.responses == ["So."]
    ended = item_of(Sample(ASKED, completion[:1], calls_as_text=True))
    assert ended.responses == [CALL_TEXT]


@pytest.mark.parametrize(
    ("calls", "told"),
    [
        ("add", r"completion\[0\]\.tool_calls is no list"),
        ([{"id": "1"}], r"completion\[0\]\.tool_calls\[0\] is no call of a function"),
        ([{"function": {"name": "f"}}], r"tool_calls\[0\] is no call"),
        ([{"name": "f", "arguments": {1, 2}}], r"tool_calls\[0\]\.arguments: .* not JSON"),
    ],
)
def test_a_call_that_says_nothing_has_no_reward(calls: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        item_of(Sample(ASKED, [{**SAID[0], "tool_calls": calls}], calls_as_text=True))


def test_trl_scores_them(server: NullServer) -> None:
    completion = [{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "2"}, *SAID]
    unfinished = completion[:2]
    for reward in (trl.critic_rm_sync, trl.critic_rm_reward_sync(server.url)):
        assert reward([ASKED] * 2, [completion, unfinished]) == [SCORES[0], None]
    assert asyncio.run(trl.critic_rm([ASKED], [completion])) == SCORES[:1]


def test_swift_names_turns_of_tools_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content)["items"][0]["prompt"])
        return httpx.Response(401)

    monkeypatch.setenv(environment.URL, "http://a.test")
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(core, "CriticRM", partial(CriticRM, transport=transport))
    monkeypatch.setattr(core, "AsyncCriticRM", partial(AsyncCriticRM, transport=transport))
    turns = [*ASKED, {"role": "tool_call", "content": CALL_TEXT}, {"role": "tool_response", "content": "2"}]
    columns = {"messages": [[*turns, *SAID]]}
    with pytest.raises(AuthenticationError):
        ms_swift.SyncCriticRMORM()(["So."], **columns)
    with pytest.raises(AuthenticationError):
        asyncio.run(ms_swift.CriticRMORM()(["So."], **columns))
    expected = [*ASKED, {"role": "assistant", "content": CALL_TEXT}, {"role": "tool", "content": "2"}]
    assert sent == [expected, expected]


# AReaL


def test_a_row_may_have_columns_of_any_name(server: NullServer) -> None:  # noqa: ARG001
    row = {"prompt": "other", "completions": "other", "prompt_ids": 1, "completion_ids": 2, "messages": ASKED}
    assert areal.reward_fn("Why?", "So.", [1], [2], **row) == SCORES[0]
    assert asyncio.run(areal.async_reward_fn("Why?", "So.", [1], [2], **row)) == SCORES[0]
