"""The gateway before fakes of stock vLLM servers: what it refuses, and that no job is lost while one server is up."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from conftest import Running, StartApp
from criticrm_model import CriticRMError
from criticrm_model.checkpoint import Checkpoint
from criticrm_server import tracing
from criticrm_server.commands.serve import Serve
from criticrm_server.engines import remote
from criticrm_server.engines.remote import RemoteEngine
from criticrm_server.engines.remote_checks import server_command
from criticrm_server.settings import Settings
from support.fake_vllm import FakeVLLM, with_made_up_references

PAGE = Path(__file__).parents[2] / "docs" / "gateway.md"
Gateway = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def opened_checkpoint(opened_checkpoint: Checkpoint) -> Checkpoint:
    return with_made_up_references(opened_checkpoint)


@pytest.fixture
def fakes(opened_checkpoint: Checkpoint) -> Iterator[list[FakeVLLM]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FakeVLLM(opened_checkpoint)) for _ in range(2)]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_EVERY_S", 0.05)
    monkeypatch.setattr(remote, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(remote, "_LONGEST_PAUSE_S", 0.1)


def engine_for(checkpoint: Checkpoint, fakes: list[FakeVLLM], **settings: Any) -> RemoteEngine:
    urls = [fake.url for fake in fakes]
    return RemoteEngine(
        checkpoint, Settings(**{"engine": "remote", "remote_urls": urls, "remote_wait_s": 0, **settings})
    )


def start(checkpoint: Checkpoint, fakes: list[FakeVLLM], **settings: Any) -> RemoteEngine:
    """As it was after its start, in an event loop that has ended."""
    engine = engine_for(checkpoint, fakes, **settings)

    async def start_and_close() -> None:
        try:
            await engine.start()
        finally:
            await engine.close()

    asyncio.run(start_and_close())
    return engine


@pytest.fixture
def gateway(start_app: StartApp, opened_checkpoint: Checkpoint) -> Gateway:
    """`async with gateway(fakes) as running`: the app before these servers."""

    @asynccontextmanager
    async def open_gateway(fakes: list[FakeVLLM], deadline_s: float = 60, **settings: Any) -> AsyncIterator[Running]:
        engine = engine_for(opened_checkpoint, fakes, **settings)
        async with start_app(engine=engine, deadline_s=deadline_s) as running:
            yield running

    return open_gateway


def body(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {"prompt": f"Question {number}", "responses": ["A", "B"], "critique": {"max_tokens": 8}, **fields}


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):  # a busy machine
        while not condition():
            await asyncio.sleep(0.01)


def states(running: Running) -> list[bool]:
    engine = running.service.engine
    assert isinstance(engine, RemoteEngine)
    return [server.up for server in engine.backends.all]


def without_id(answer: Any) -> list[Any]:
    return [{**result, "usage": None} for result in answer.json()["results"]]


async def test_answers_are_those_of_the_servers(
    gateway: Gateway, fakes: list[FakeVLLM], running: Running, opened_checkpoint: Checkpoint
) -> None:
    """The fakes make up what the fake engine does."""
    sampled = body(critique={"n": 3, "max_tokens": 8, "seed": 5})
    async with gateway(fakes) as app:
        for request in (body(), sampled, body(critique=False)):
            answer = await app.score(request)
            assert answer.status_code == 200
            assert without_id(answer) == without_id(await running.score(request))
            assert answer.json()["usage"]["cached_tokens"] == 14
    prompt = opened_checkpoint.renderer.open([{"role": "user", "content": "Question 0"}])
    rendered = prompt.render("A", max_model_len=512, max_critique_tokens=8).token_ids
    assert rendered in fakes[0].asked + fakes[1].asked


async def test_the_responses_to_a_prompt_go_to_one_server(gateway: Gateway, fakes: list[FakeVLLM]) -> None:
    async with gateway(fakes) as app:
        await app.score(body(responses=[f"Answer {number}" for number in range(12)]))
        assert sorted(len(fake.asked) for fake in fakes) == [0, 12]
        for number in range(40):
            await app.score(body(number))
        assert min(len(fake.asked) for fake in fakes) > 12


async def test_a_server_that_dies_under_load_loses_nothing_and_is_taken_back(
    gateway: Gateway, fakes: list[FakeVLLM]
) -> None:
    for fake in fakes:
        fake.delay_s = 0.2
    async with gateway(fakes) as app:
        waiting = [asyncio.create_task(app.score(body(number))) for number in range(50)]
        await until(lambda: min(fake.running for fake in fakes) > 10)
        await asyncio.to_thread(fakes[0].die)
        answers = await asyncio.gather(*waiting)
        assert {answer.status_code for answer in answers} == {200}
        assert {result["status"] for answer in answers for result in answer.json()["results"]} == {"ok"}
        assert (await app.client.get("/health/ready")).status_code == 200
        metrics = (await app.client.get("/metrics")).text
        name = fakes[0].url.removeprefix("http://")
        assert f'criticrm_server_up{{server="{name}"}} 0.0' in metrics
        assert f'criticrm_server_failures_total{{server="{name}"}}' in metrics
        assert f'criticrm_server_sequences{{server="{name}"}} 0.0' in metrics
        await asyncio.to_thread(fakes[0].live)
        await until(lambda: states(app) == [True, True])
        before = len(fakes[0].asked)
        await asyncio.gather(*(app.score(body(number)) for number in range(20)))
        assert len(fakes[0].asked) > before


@pytest.mark.parametrize("fault", ["500", "cut", "abort"])
async def test_what_one_server_fails_at_another_does(gateway: Gateway, fakes: list[FakeVLLM], fault: str) -> None:
    fakes[0].fault = fault
    async with gateway(fakes) as app:
        answers = [await app.score(body(number)) for number in range(10)]
        assert {answer.status_code for answer in answers} == {200}
        assert fakes[0].asked


async def test_a_job_is_tried_once_on_each_server_then_fails_with_their_words(
    gateway: Gateway, fakes: list[FakeVLLM]
) -> None:
    for fake in fakes:
        fake.fault = "500"
    async with gateway(fakes) as app:
        answer = await app.score(body(responses=["A"]))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "engine_failed")
    assert "retry-after" in answer.headers
    for fake in fakes:
        assert len(fake.asked) == 1
        assert fake.url.removeprefix("http://") in error["message"]
    assert "a 500" in error["message"]


async def test_a_job_that_takes_servers_down_does_not_get_to_all_of_them(
    gateway: Gateway, fakes: list[FakeVLLM], opened_checkpoint: Checkpoint
) -> None:
    with ExitStack() as stack:
        fakes += [stack.enter_context(FakeVLLM(opened_checkpoint)) for _ in range(2)]
        for fake in fakes:
            fake.fault = "cut"
        async with gateway(fakes) as app:
            assert (await app.score(body(responses=["A"]))).status_code == 503
        assert sorted(len(fake.asked) for fake in fakes) == [0, 1, 1, 1]


async def test_a_refused_request_is_an_error_and_not_sent_elsewhere(
    gateway: Gateway, fakes: list[FakeVLLM], caplog: pytest.LogCaptureFixture
) -> None:
    for fake in fakes:
        fake.fault = "400"
    async with gateway(fakes) as app:
        answer = await app.score(body(responses=["A"]))
    assert answer.json()["error"]["code"] == "engine_failed"
    assert sum(len(fake.asked) for fake in fakes) == 1
    assert "a 400" in caplog.text


@pytest.mark.parametrize(("fault", "code"), [("short", "engine_failed"), ("nan", "non_finite_reward")])
async def test_an_answer_without_its_rewards_is_an_error(
    gateway: Gateway, fakes: list[FakeVLLM], fault: str, code: str
) -> None:
    async with gateway(fakes) as app:
        for fake in fakes:
            fake.fault = fault
        answer = await app.score(body(responses=["A"]))
    assert answer.json()["error"]["code"] == code


async def test_what_hangs_at_a_server_that_fell_ill_is_done_elsewhere(gateway: Gateway, fakes: list[FakeVLLM]) -> None:
    fakes[0].fault = "hang"
    async with gateway(fakes) as app:
        waiting = [asyncio.create_task(app.score(body(number))) for number in range(20)]
        await until(lambda: fakes[0].asked)
        fakes[0].healthy = False
        answers = await asyncio.gather(*waiting)
    assert {answer.status_code for answer in answers} == {200}


async def test_without_any_server_it_says_so_and_goes_on_when_one_is_back(
    gateway: Gateway, fakes: list[FakeVLLM]
) -> None:
    async with gateway(fakes) as app:
        for fake in fakes:
            await asyncio.to_thread(fake.die)
        await until(lambda: states(app) == [False, False])
        ready, answer = await app.client.get("/health/ready"), await app.score(body())
        for refused in (ready, answer):
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "no_engine_server"
            assert int(refused.headers["retry-after"]) >= 1
            assert all(fake.url in refused.json()["error"]["message"] for fake in fakes)
        await asyncio.sleep(0.6)  # the engine's watch has looked
        assert not app.service.engine_died.is_set()
        await asyncio.to_thread(fakes[1].live)
        await until(lambda: any(states(app)))
        assert (await app.client.get("/health/ready")).status_code == 200
        assert (await app.score(body())).status_code == 200


async def test_at_the_deadline_the_servers_are_told(gateway: Gateway, fakes: list[FakeVLLM]) -> None:
    async with gateway(fakes, deadline_s=0.2) as app:
        for fake in fakes:
            fake.delay_s = 60
        assert (await app.score(body())).status_code == 504
        await until(lambda: sum(fake.cancelled for fake in fakes) == 2)
        await until(lambda: all(fake.running == 0 for fake in fakes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": ["tiny"]}, "it serves 'tiny' and not 'critic-rm-"),
        ({"scale_out": False}, "start it with --enable-scale-out"),
        ({"mode": "raw_logprobs"}, "start it with --logprobs-mode raw_logits"),
        ({"mode": "raw_logprobs", "shift": 30.0}, "start it with --logprobs-mode raw_logits"),
        ({"mode": "processed_logits"}, "start it with --logprobs-mode raw_logits"),
        ({"mode": "processed_logprobs"}, "start it with --logprobs-mode raw_logits"),
        ({"max_model_len": 128}, "its max_model_len 128 is less than the gateway's, 256"),
        ({"key": "secret"}, "set CRITICRM_REMOTE_API_KEY"),
        ({"_vocab_size": 100}, "it refuses to give the reward token's logit"),
        ({"fault": "nan"}, "its rewards are not finite"),
        ({"shift": 5.0}, "references: these are not the rewards of this checkpoint"),
    ],
)
def test_what_can_not_work_is_refused_at_the_start_with_the_command_that_does(
    opened_checkpoint: Checkpoint, fakes: list[FakeVLLM], changes: dict[str, Any], words: str
) -> None:
    for name, value in changes.items():
        setattr(fakes[1], name, value)
    with pytest.raises(CriticRMError) as caught:
        start(opened_checkpoint, fakes, max_model_len=256)
    message = str(caught.value)
    assert f"{fakes[1].url}: {words}" in message or (f"{fakes[1].url}: " in message and words in message)
    assert f"{fakes[0].url}:" not in message
    assert server_command(opened_checkpoint).splitlines()[0] in message


@pytest.mark.parametrize("asked", [True, None, False])
def test_a_head_in_bfloat16_is_refused_or_told_or_taken_as_is_asked(
    opened_checkpoint: Checkpoint, fakes: list[FakeVLLM], caplog: pytest.LogCaptureFixture, asked: bool | None
) -> None:
    fakes[1].rounded = True
    if asked:
        with pytest.raises(CriticRMError, match="its rewards are rounded to bfloat16: start it with --hf-overrides"):
            start(opened_checkpoint, fakes, head_float32=True)
        return
    start(opened_checkpoint, fakes, head_float32=asked)
    assert ("rounded to bfloat16" in caplog.text) == (asked is None)


def test_all_faults_are_named_at_once(opened_checkpoint: Checkpoint, fakes: list[FakeVLLM]) -> None:
    fakes[0].names, fakes[0].mode = ["other"], "raw_logprobs"
    fakes[1].scale_out = False
    with pytest.raises(CriticRMError) as caught:
        start(opened_checkpoint, fakes)
    for word in ("'other'", "--logprobs-mode", "--enable-scale-out"):
        assert word in str(caught.value)


def test_none_that_answers_is_waited_for(opened_checkpoint: Checkpoint, fakes: list[FakeVLLM]) -> None:
    for fake in fakes:
        fake.die()
    with pytest.raises(CriticRMError, match=r"(?s)no server answered within 0 s.*--enable-scale-out"):
        start(opened_checkpoint, fakes)
    fakes[0]._loop.call_soon_threadsafe(lambda: fakes[0]._loop.create_task(_later(fakes[0])))
    engine = start(opened_checkpoint, fakes, remote_wait_s=30)
    assert [server.up for server in engine.backends.all] == [True, False]


async def _later(fake: FakeVLLM) -> None:
    await asyncio.sleep(0.5)
    await fake._live()


def test_the_shortest_server_gives_the_longest_sequence(opened_checkpoint: Checkpoint, fakes: list[FakeVLLM]) -> None:
    fakes[1].max_model_len = 300
    assert start(opened_checkpoint, fakes).max_model_len == 300
    assert start(opened_checkpoint, fakes, max_model_len=200).max_model_len == 200


async def test_a_server_that_is_late_is_taken_when_it_comes(gateway: Gateway, fakes: list[FakeVLLM]) -> None:
    await asyncio.to_thread(fakes[1].die)
    async with gateway(fakes) as app:
        assert states(app) == [True, False]
        await asyncio.to_thread(fakes[1].live)
        await until(lambda: all(states(app)))


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("names", ["critic-rm-0123456789ab"], "it serves 'critic-rm-0123456789ab'"),
        ("shift", 3.0, "references: these are not the rewards of this checkpoint"),
        ("max_model_len", 200, "its max_model_len 200 is less than the gateway's, 512"),
    ],
)
async def test_a_server_that_comes_back_with_another_checkpoint_is_not_taken(
    gateway: Gateway, fakes: list[FakeVLLM], caplog: pytest.LogCaptureFixture, attribute: str, value: Any, words: str
) -> None:
    caplog.set_level(logging.INFO)
    async with gateway(fakes) as app:
        await asyncio.to_thread(fakes[0].die)
        await until(lambda: not states(app)[0])
        before = getattr(fakes[0], attribute)
        setattr(fakes[0], attribute, value)
        await asyncio.to_thread(fakes[0].live)
        await until(lambda: words in caplog.text)
        answers = await asyncio.gather(*(app.score(body(number)) for number in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert fakes[0].asked == []
        assert caplog.text.count(words) == 1  # not at every look
        setattr(fakes[0], attribute, before)
        await until(lambda: all(states(app)))


async def test_a_server_that_is_renamed_while_it_is_up_is_unhealthy(gateway: Gateway, fakes: list[FakeVLLM]) -> None:
    async with gateway(fakes) as app:
        fakes[0].names = ["another"]
        await until(lambda: states(app) == [False, True])


async def test_a_busy_server_keeps_its_place(gateway: Gateway, fakes: list[FakeVLLM]) -> None:
    """A job that fails with a 500 tells nothing of the others' work there."""
    async with gateway(fakes[:1]) as app:
        fakes[0].delay_s = 0.3
        good = asyncio.create_task(app.score(body(1)))
        await until(lambda: fakes[0].running)
        fakes[0].fault = "500"
        assert (await app.score(body(2))).status_code == 503
        assert states(app) == [True]
        fakes[0].fault = ""
        assert (await good).status_code == 200


async def test_the_key_is_sent_and_not_shown(
    gateway: Gateway, fakes: list[FakeVLLM], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for fake in fakes:
        fake.key = "topsecret"
    async with gateway(fakes, remote_api_key="topsecret") as app:
        assert (await app.score(body())).status_code == 200
    assert "topsecret" not in caplog.text


@pytest.mark.usefixtures("logging_as_before")
def test_the_command_says_what_is_wrong_without_a_traceback(
    opened_checkpoint: Checkpoint, fakes: list[FakeVLLM]
) -> None:
    fakes[0].scale_out = False
    arguments = [str(opened_checkpoint.folder), "--engine", "remote", "--remote-urls", fakes[0].url, "--port", "0"]
    with pytest.raises(CriticRMError, match="start it with --enable-scale-out"):
        Serve(_cli_parse_args=arguments).run()


def test_a_gateway_that_waits_for_servers_ends_with_the_signal(opened_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "critic.sock"
    urls = ["--remote-urls", "http://127.0.0.1:9", "--remote-wait-s", "300"]
    command = [sys.executable, "-m", "criticrm_server", "serve", str(opened_checkpoint.folder), "--engine", "remote"]
    with subprocess.Popen([*command, *urls, "--uds", str(path)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        logged = ""
        while "no server answers yet" not in logged and (line := process.stderr.readline()):
            logged += line
        assert path.is_socket()
        process.terminate()
        logged += process.stderr.read()
        assert process.wait(60) == -signal.SIGTERM, logged
    assert "Traceback" not in logged
    assert not path.exists()


def test_the_page_has_the_command_that_the_gateway_prints(opened_checkpoint: Checkpoint) -> None:
    (written,) = re.findall(r"```bash\n(python -m vllm.*?)```", PAGE.read_text(), re.DOTALL)
    command, on_gpu, on_cpu = server_command(opened_checkpoint).splitlines()
    shown = shlex.split(written.replace("\\\n", " ").replace("my-critic-rm", str(opened_checkpoint.folder)))
    shown[shown.index("critic-rm-0123456789ab")] = f"critic-rm-{opened_checkpoint.manifest.version}"
    port = shown.index("--port")
    del shown[port : port + 2]
    assert sorted(shown) == sorted(shlex.split(f"{command} {on_gpu.partition(': ')[2]}"))
    assert f"add `{on_cpu.partition(': ')[2]}`" in PAGE.read_text()


def test_the_gateway_needs_no_vllm() -> None:
    code = "import sys; sys.modules['vllm'] = None; import criticrm_server.engines.remote, criticrm_server.serve"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_job_carries_the_requests_id_and_its_trace(gateway: Gateway, fakes: list[FakeVLLM]) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    with tracing.exporting(SimpleSpanProcessor(InMemorySpanExporter())):
        async with gateway(fakes) as app:
            headers = {"x-request-id": "mine", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
            await app.client.post("/score", json=body(), headers=headers)
            await app.score(body(1))
    sent = fakes[0].headers + fakes[1].headers
    mine = [one for one in sent if one["x-request-id"] == "mine"]
    assert len(mine) == 2
    assert all(one["traceparent"].split("-")[1] == trace for one in mine)
    assert len({one["x-request-id"] for one in sent}) == 2


async def test_a_bug_in_the_watch_does_not_end_it(
    gateway: Gateway, fakes: list[FakeVLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a server would be lost, or its death never be seen."""
    async with gateway(fakes) as app:
        engine = app.service.engine
        assert isinstance(engine, RemoteEngine)
        await app.score(body())

        async def bug(*_: object) -> int:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(engine.checks, "alive", bug)
            await until(lambda: not any(states(app)))
        await until(lambda: all(states(app)))
        assert (await app.score(body(2))).status_code == 200
