"""A client in several event loops, threads and processes; closed, dropped, pickled."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import httpx
import pytest

from criticrm_client import (
    APIError,
    AsyncCriticRM,
    CheckpointChangedError,
    ClientClosedError,
    CriticRM,
    Retries,
)
from criticrm_client.rewards.trl import critic_rm_reward
from support.null_server import VERSION, NullServer, score_of


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with NullServer() as server:
        yield server.url


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "criticrm-client"]


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("not in 10 s")


def stalling(began: threading.Event) -> httpx.MockTransport:
    async def stall(_: httpx.Request) -> httpx.Response:
        began.set()
        await asyncio.sleep(60)
        return httpx.Response(200)

    return httpx.MockTransport(stall)


def test_one_asynchronous_client_in_several_loops(url: str) -> None:
    client = AsyncCriticRM(url)

    async def ask() -> float:
        return (await client.score("Why?", ["So."])).rewards[0]

    for _ in range(3):
        assert asyncio.run(ask()) == score_of("So.")
    found: list[float] = []
    several = [threading.Thread(target=lambda: found.append(asyncio.run(ask()))) for _ in range(8)]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    assert found == [score_of("So.")] * 8
    assert client._sessions._of == {}  # each loop closed its connections


def test_a_checkpoint_is_remembered_over_loops() -> None:
    versions = iter(["v", "other"])

    def answer(_: httpx.Request) -> httpx.Response:
        info = {"model": "m", "model_version": next(versions), "manifest": {}, "max_model_len": 1, "limits": {}}
        return httpx.Response(200, json=info)

    client = AsyncCriticRM(transport=httpx.MockTransport(answer))
    asyncio.run(client.model_info())
    with pytest.raises(CheckpointChangedError):
        asyncio.run(client.model_info())


@pytest.mark.parametrize("kind", [CriticRM, AsyncCriticRM])
@pytest.mark.parametrize(
    "back",
    [
        lambda client: pickle.loads(pickle.dumps(client)),
        lambda client: cloudpickle.loads(cloudpickle.dumps(client)),
        copy.copy,
        copy.deepcopy,
    ],
)
def test_a_client_can_be_pickled(url: str, kind: Callable[..., Any], back: Callable[[Any], Any]) -> None:
    client = kind(url, key="k", retries=Retries(attempts=2), timeout_s=5, deadline_s=9)
    for used in (False, True):
        other = back(client)
        if isinstance(other, CriticRM):
            assert other.score("Why?", ["So."]).rewards == [score_of("So.")]
            assert client.score("Why?", ["So."]).rewards == [score_of("So.")]
            inner: AsyncCriticRM = other._client
            other.close()
        else:
            assert asyncio.run(other.score("Why?", ["So."])).rewards == [score_of("So.")]
            asyncio.run(client.score("Why?", ["So."]))
            inner = other
        if used:  # the checkpoint goes along
            assert back(client).__reduce__()[0].keywords["model_version"] == VERSION
        assert (inner._timeout_s, inner._deadline_s, inner._retries.attempts) == (5, 9, 2)
    if kind is CriticRM:
        client.close()


def test_a_reward_function_goes_to_other_processes(url: str) -> None:
    reward = critic_rm_reward(url, critique=False)
    assert asyncio.run(reward(["Why?"], ["So."])) == [score_of("So.")]  # type: ignore[arg-type]
    program = (
        "import asyncio, cloudpickle, sys\n"
        "reward = cloudpickle.loads(sys.stdin.buffer.read())\n"
        "print(*asyncio.run(reward(['Why?'], ['So.'])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=cloudpickle.dumps(reward), capture_output=True, timeout=60, check=True
    )
    assert float(done.stdout) == score_of("So.")


def test_items_may_come_from_the_client_itself(url: str) -> None:
    with CriticRM(url) as client:

        def items() -> Iterator[tuple[str, list[str]]]:
            for i in range(20):
                best = client.best_of("Why?", [f"{i}", f"{i}?"])
                yield "Why?", [best.response]

        expected = [max(score_of(f"{i}"), score_of(f"{i}?")) for i in range(20)]
        assert [scores.rewards[0] for scores in client.score_many(items())] == expected
        assert [scores.rewards[0] for scores in client.score_stream(items(), pack=2)] == expected


def test_items_that_raise_end_the_stream(url: str) -> None:
    def items() -> Iterator[tuple[str, list[str]]]:
        yield "Why?", ["So."]
        raise ZeroDivisionError

    with CriticRM(url) as client:
        with pytest.raises(ZeroDivisionError):
            client.score_many(items())
        with pytest.raises(ZeroDivisionError):
            list(client.score_stream(items()))
        assert client.health()


def test_items_are_read_in_the_callers_thread(url: str) -> None:
    readers: set[threading.Thread] = set()

    def items() -> Iterator[tuple[str, list[str]]]:
        for i in range(5):
            readers.add(threading.current_thread())
            yield "Why?", [f"{i}"]

    with CriticRM(url) as client:
        list(client.score_stream(items()))
    assert readers == {threading.current_thread()}


def test_a_client_that_is_dropped_ends_its_thread(url: str) -> None:
    before = len(threads())
    client = CriticRM(url)
    assert len(threads()) == before  # the first call starts it
    client.health()
    assert len(threads()) == before + 1
    del client
    wait_until(lambda: len(threads()) == before)
    for _ in range(20):
        CriticRM(url).health()
    gc.collect()
    wait_until(lambda: len(threads()) == before)


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.score("Why?", ["So."]),
        lambda client: client.score_many([("Why?", ["So."])] * 100),
        lambda client: list(client.score_stream([("Why?", ["So."])] * 100)),
    ],
)
def test_closing_in_another_thread_is_an_api_error(ask: Callable[[CriticRM], object]) -> None:
    began = threading.Event()
    ended: list[BaseException] = []
    client = CriticRM(transport=stalling(began))

    def wait() -> None:
        try:
            ask(client)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert began.wait(10)
    client.close()
    thread.join(10)
    assert [type(error) for error in ended] == [ClientClosedError]
    assert isinstance(ended[0], APIError)


def test_closing_while_many_threads_call(url: str) -> None:
    """Each call ends, with an answer or with ClientClosedError."""
    for _ in range(20):
        client = CriticRM(url)
        ended: list[object] = []

        def call(client: CriticRM = client, ended: list[object] = ended) -> None:
            try:
                while True:
                    client.score("Why?", ["So."])
            except BaseException as error:
                ended.append(type(error))

        several = [threading.Thread(target=call) for _ in range(4)]
        for thread in several:
            thread.start()
        time.sleep(0.01)
        client.close()
        for thread in several:
            thread.join(10)
        assert ended == [ClientClosedError] * 4


async def test_closing_an_asynchronous_client(url: str) -> None:
    client = AsyncCriticRM(url)
    await client.health()
    await client.close()
    await client.close()
    with pytest.raises(ClientClosedError, match="closed"):
        await client.score("Why?", ["So."])
    with pytest.raises(ClientClosedError):
        await client.score_many([("Why?", ["So."])])


async def test_closing_an_asynchronous_client_while_it_waits() -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        began.set()
        await reader.read()
        writer.close()

    began = asyncio.Event()
    async with await asyncio.start_server(stall, "127.0.0.1", 0) as server:
        client = AsyncCriticRM(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        waiting = asyncio.create_task(client.score("Why?", ["So."]))
        await began.wait()
        await client.close()
        with pytest.raises(ClientClosedError):
            await asyncio.wait_for(waiting, 10)


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments], capture_output=True, text=True, timeout=60
    )


def test_forks_with_busy_threads(url: str) -> None:
    program = (
        "import os, sys, threading; from criticrm_client import CriticRM\n"
        "client = CriticRM(sys.argv[1]); client.health()\n"
        "def call():\n"
        "    for i in range(200): client.score('Why?', [str(i)])\n"
        "threads = [threading.Thread(target=call) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "for _ in range(5):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        client.score('Why?', ['So.']); client.close(); os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "for thread in threads: thread.join()\n"
        "print(client.health())"
    )
    done = run(program, url)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_a_dropped_client_in_a_fork_leaves_the_parents_alone(url: str) -> None:
    program = (
        "import gc, os, sys; from criticrm_client import CriticRM\n"
        "client = CriticRM(sys.argv[1]); client.health()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    del client; gc.collect(); os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(client.health()); client.close()"
    )
    done = run(program, url)
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)
