"""The service on Ray Serve, a real cluster on this machine: the same answers, and nothing lost whatever Ray does."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from criticrm_client import AsyncCriticRM, Retries
from criticrm_model import CriticRMError
from support.live import Server, engine_of, wait_until

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

import ray
from ray import serve
from ray.serve.schema import ServeDeploySchema

from criticrm_server import ray_serve
from criticrm_server.ray_serve import app, deployment

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::ResourceWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]
# Of one connection, and of one run.
NOT_COMPARED = ("date", "connection", "transfer-encoding", "x-queue-time", "x-inference-time")
ITEMS = [(f"What is {i} plus {i}?", [f"It is {2 * i}."]) for i in range(80)]
KEY = "k"
ASKS = {"authorization": f"Bearer {KEY}"}
ONE = {"prompt": "Why is the sky blue?", "responses": ["Air scatters blue light.", "Because."]}


@pytest.fixture(scope="module")
def arguments(tiny_checkpoint: Path) -> dict[str, Any]:
    """A real model that starts in seconds."""
    return {
        "model": str(tiny_checkpoint),
        "engine": "transformers",
        "max_model_len": 512,
        "critique_tokens": 8,
        "api_keys": KEY,
    }


@pytest.fixture(scope="module")
def single(arguments: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The single server with the same settings, and as many threads as Ray gives an actor with one CPU."""
    model, *rest = [str(value) for value in arguments.values()]
    flags = [f"--{name.replace('_', '-')}" for name in list(arguments)[1:]]
    given = [word for pair in zip(flags, rest, strict=True) for word in pair]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # a sum over more threads differs in its last bit
        server = Server(model, *given, log=tmp_path_factory.mktemp("single") / "log")
    with server:
        yield server.url


@pytest.fixture(scope="module")
def expected(single: str) -> list[float]:
    return asyncio.run(scores_of(single))


@pytest.fixture(scope="module")
def cluster(free_port: int, single: str) -> Iterator[str]:
    assert single  # runs before and after: what is left of Ray is what was not there
    before = psutil.Process().children(recursive=True)
    # "local": never a cluster that happens to run here, or that RAY_ADDRESS names.
    # Two replicas, and those that come in their place; Ray starts a worker for each CPU at once.
    ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": free_port})
    yield f"http://127.0.0.1:{free_port}"
    family = psutil.Process().children(recursive=True)
    ray.shutdown()
    _, alive = psutil.wait_procs([process for process in family if process not in before], timeout=30)
    assert not alive


@pytest.fixture(scope="module")
def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def two(cluster: str, arguments: dict[str, Any]) -> str:
    run(arguments, num_replicas=2)
    return cluster


@pytest.fixture(scope="module")
def small(cluster: str, arguments: dict[str, Any]) -> str:
    run(arguments | {"max_sequences": 16, "max_waiting": 0}, num_replicas=1)
    return cluster


def run(arguments: dict[str, Any], **options: Any) -> None:
    serve.run(deployment(arguments).options(**options).bind(), name="critic")


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def replicas() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if " ".join(_cmdline(process)).startswith("ray::ServeReplica:critic:CriticRM")
    ]


def the_only_replica() -> tuple[psutil.Process, psutil.Process]:
    """The replica and its engine, once the replicas before it have drained and the engine has its worker."""
    wait_until(lambda: len(replicas()) == 1 and engine_of(replicas()[0]), 150, families)
    (replica,) = replicas()
    engine = engine_of(replica)
    assert engine
    return replica, engine


def families() -> str:
    """Every replica with its processes, and what Ray says of them."""
    alive = {replica.pid: [_cmdline(child) for child in replica.children(recursive=True)] for replica in replicas()}
    return f"{alive}; {serve.status().applications['critic']}"


async def scores_of(url: str, items: list[tuple[str, list[str]]] = ITEMS, attempts: int = 8) -> list[float]:
    async with AsyncCriticRM(
        url, key=KEY, retries=Retries(attempts=attempts, first_wait_s=0.1, longest_wait_s=5)
    ) as client:
        found = await client.score_many(items, concurrency=16, pack=1, progress=False)
    return [scores.rewards[0] for scores in found]


def scored_by_replica(url: str) -> dict[str, float]:
    """Requests for scores of both replicas, by the moment (in µs) of the first.

    Each answer of /metrics is that of one replica. Which one, Ray chooses by the queues that it
    remembers for seconds: one after another may all reach the same.
    """
    found: dict[str, float] = {}

    def both() -> bool:
        text = httpx.get(f"{url}/metrics").text
        began = min(re.findall(r'^criticrm_requests_created{route="/score".* (\S+)$', text, re.MULTILINE), default="")
        found[began] = metric(text, 'criticrm_requests_total{route="/score"')
        return len(found) == 2

    wait_until(both, 60, lambda: f"only {found}")
    return found


def metric(page: str, begins: str) -> float:
    """The sum over the labels that the beginning of the line leaves open."""
    return sum(map(float, re.findall(rf"^{re.escape(begins)}.* (\S+)$", page, re.MULTILINE)))


def during(url: str, act: Callable[[], Any], attempts: int) -> list[float]:
    """Scores that were had, round after round, while `act` ran and for a round after it."""
    over = threading.Event()
    found: list[float] = []

    async def load() -> None:
        while not over.is_set():
            found.extend(await scores_of(url, attempts=attempts))
            await asyncio.sleep(0.5)  # what `act` starts needs the processor too
        found.extend(await scores_of(url, attempts=attempts))

    thread = threading.Thread(target=act_and_tell, args=(act, over))
    thread.start()
    asyncio.run(load())
    thread.join()
    return found


def act_and_tell(act: Callable[[], Any], over: threading.Event) -> None:
    try:
        act()
    finally:
        over.set()


def test_the_same_answers_as_the_single_server(single: str, two: str) -> None:
    without_key = {"authorization": ""}
    requests: list[tuple[str, str, Any, dict[str, str]]] = [
        ("POST", "/score", ONE, {}),
        ("POST", "/score", ONE | {"critique": {"n": 2, "seed": 1, "temperature": 1.0}}, {}),
        ("POST", "/score", ONE | {"critique": False}, {"accept": "application/x-ndjson"}),
        ("POST", "/score", ONE | {"responses": []}, {}),
        ("POST", "/score", ONE | {"prompt": "why " * 1000}, {}),
        ("POST", "/get_reward", {"query": ["Why?So."], "prompts": ["Why?"], "labels": [""]}, {}),
        ("POST", "/slime", {"prompt": "Why?", "response": "So."}, {}),
        ("POST", "/score", ONE, without_key),
        ("POST", "/score", ONE, {"content-type": "text/plain"}),
        ("GET", "/v1/model", None, {}),
        ("GET", "/health/live", None, {}),
        ("GET", "/health/ready", None, {}),
        ("GET", "/docs", None, {}),
        ("GET", "/openapi.json", None, {}),
        ("GET", "/nowhere", None, {}),
    ]
    for number, (method, path, body, headers) in enumerate(requests):
        told = ASKS | headers | {"x-request-id": f"golden-{number}"}
        one, other = (httpx.request(method, url + path, json=body, headers=told, timeout=60) for url in (single, two))
        assert (other.status_code, other.content) == (one.status_code, one.content), path
        assert headers_of(other) == headers_of(one), path
        assert ("x-request-id", f"golden-{number}") in headers_of(one)


def headers_of(answer: httpx.Response) -> list[tuple[str, str]]:
    return sorted((name, value) for name, value in answer.headers.multi_items() if name not in NOT_COMPARED)


def test_an_id_that_the_caller_did_not_send_is_one(two: str) -> None:
    answer = httpx.post(f"{two}/score", json=ONE, headers=ASKS)
    assert answer.headers.get_list("x-request-id") == [answer.json()["id"]]


def test_a_node_shows_the_metrics_of_all_its_replicas(two: str) -> None:
    asyncio.run(scores_of(two))
    by_replica = sorted(scored_by_replica(two).values())
    assert len(by_replica) == 2

    def shown() -> dict[str, str]:
        series = r'^ray_criticrm_requests_total{.*application="critic".*replica="(\w+)".*route="/score".*} (\S+)$'
        found: dict[str, float] = defaultdict(float)
        for replica, value in re.findall(series, node_page(), re.MULTILINE):
            found[replica] += float(value)
        return found

    wait_until(lambda: sorted(shown().values()) == by_replica, 60, lambda: f"{shown()}, not {by_replica}")
    assert re.search(r'^ray_criticrm_score_bucket{.*le="\+Inf"', node_page(), re.MULTILINE)


def node_page() -> str:
    """What Prometheus scrapes of a node."""
    return httpx.get(f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics").text


def test_a_replica_is_killed_under_load(two: str, expected: list[float]) -> None:
    assert asyncio.run(scores_of(two)) == expected
    by_replica = scored_by_replica(two)
    assert len(by_replica) == 2
    assert min(by_replica.values()) > 10
    before = replicas()
    assert len(before) == 2

    def kill() -> None:
        time.sleep(0.5)
        os.kill(before[0].pid, signal.SIGKILL)
        wait_until(lambda: len(replicas()) == 2 and before[0] not in replicas(), 60)

    found = during(two, kill, attempts=8)
    assert found == expected * (len(found) // len(ITEMS))


def test_a_rolling_update_under_load_fails_no_request(
    two: str, arguments: dict[str, Any], expected: list[float]
) -> None:
    before = {process.pid for process in replicas()}
    found = during(two, lambda: run(arguments | {"max_waiting": 1000}, num_replicas=2), attempts=1)
    after = {process.pid for process in replicas()}
    assert len(after) == 2
    assert not before & after
    assert found == expected * (len(found) // len(ITEMS))


def test_to_zero_and_back(cluster: str, arguments: dict[str, Any], expected: list[float]) -> None:
    automatic = {
        "min_replicas": 0,
        "max_replicas": 2,
        "target_ongoing_requests": 4,
        "metrics_interval_s": 0.5,
        "look_back_period_s": 1,
        "upscale_delay_s": 0.5,
        "downscale_delay_s": 2,
        "downscale_to_zero_delay_s": 2,
    }
    run(arguments, autoscaling_config=automatic)
    wait_until(lambda: not replicas(), 60)
    assert asyncio.run(scores_of(cluster)) == expected


@pytest.mark.parametrize("responses", [1, 16])
def test_a_full_replica_says_so_as_the_single_server_does(small: str, responses: int) -> None:
    body = ONE | {"responses": ["So."] * responses, "critique": {"max_tokens": 64}}

    async def many() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60, headers=ASKS) as client:
            return list(await asyncio.gather(*(client.post(f"{small}/score", json=body) for _ in range(40))))

    answers = asyncio.run(many())
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in refused:
        assert answer.json()["error"]["code"] == "overloaded"
        assert int(answer.headers["retry-after"]) >= 1  # by the rate at which sequences finish


SLOW = {
    "responses": ["So."] * 16,
    "critique": {"max_tokens": 300, "temperature": 1, "seed": 0},
}  # greedy ones share a run


def test_a_stream_comes_as_it_is_made_and_ends_with_its_caller(small: str) -> None:
    slow = ONE | SLOW

    def shown(series: str) -> float:
        return metric(httpx.get(f"{small}/metrics").text, series)

    before = shown("criticrm_critiques_total")
    headers = ASKS | {"accept": "application/x-ndjson"}
    with httpx.stream("POST", f"{small}/score", json=slow, headers=headers, timeout=60) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines))["status"] == "ok"
        assert 1 <= shown("criticrm_sequences") <= 15  # each gives its place back
    wait_until(lambda: shown("criticrm_sequences") == 0, 10)
    assert shown("criticrm_critiques_total") - before < 16


def test_a_caller_that_hangs_up_is_cancelled_in_the_replica(small: str) -> None:
    slow = ONE | SLOW
    with httpx.Client(timeout=httpx.Timeout(60, read=0.3), headers=ASKS) as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{small}/score", json=slow)
    hung_up = 'criticrm_requests_total{route="/score",status="499"}'
    wait_until(lambda: metric(httpx.get(f"{small}/metrics").text, hung_up) == 1, 10)


def test_vllm_in_a_replica_whose_engine_dies(cluster: str, arguments: dict[str, Any], expected: list[float]) -> None:
    """In float32, greedy: the rewards of the single server, which transformers computed."""
    # A kept result would not show that the engine is dead.
    vllm = {"engine": "vllm", "dtype": "float32", "kv_cache_gib": 0.5, "greedy_results_mib": 0}
    run(arguments | vllm, num_replicas=1)
    assert asyncio.run(scores_of(cluster)) == pytest.approx(expected, abs=1e-4)
    wait_until(lambda: "\nray_vllm_generation_tokens_total{" in node_page(), 60)
    before, engine = the_only_replica()
    family = [before, *before.children(recursive=True)]
    engine.kill()
    assert asyncio.run(scores_of(cluster)) == pytest.approx(expected, abs=1e-4)
    after, _ = the_only_replica()
    assert after != before
    assert psutil.wait_procs(family, timeout=10)[1] == []
    # The other way round: an engine that outlived its replica would keep the GPU from the next one.
    family = [after, *after.children(recursive=True)]
    after.kill()
    assert psutil.wait_procs(family, timeout=30)[1] == []


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"api_keys": ""}, "there are no API keys"),
        ({"port": 1}, "port: where Ray listens"),
        ({"max_items": 0}, "max_items: Input should be greater than 0"),
        ({"max_item": 1}, "max_item: Extra inputs are not permitted"),
        ({"engine": "remote", "remote_urls": "http://a:1"}, "engine remote holds no model"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], given: dict[str, Any], fault: str) -> None:
    with pytest.raises(CriticRMError, match=fault):
        deployment(arguments | given)


@pytest.mark.usefixtures("logging_as_before")
def test_a_replica_without_the_gpus_it_needs_is_refused(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_serve, "_gpus", lambda settings: 2 * settings.max_waiting)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [0])
    with pytest.raises(CriticRMError, match=r"a replica needs 2 GPUs and has 1: .*say num_gpus: 2 there"):
        ray_serve._build(arguments | {"max_waiting": 1})


def test_the_configuration_in_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "ray.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(http_options.*?)```", text, re.DOTALL)
    config = ServeDeploySchema.model_validate(yaml.safe_load(block))
    (application,) = config.applications
    assert application.import_path == f"{app.__module__}:{app.__name__}"
    for name, value in application.runtime_env["env_vars"].items():
        monkeypatch.setenv(name, value)
    made = deployment(application.args)
    (options,) = [given.model_dump(exclude_unset=True) for given in application.deployments]
    assert options.pop("name") == made.name
    made.options(**options)
