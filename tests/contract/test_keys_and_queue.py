"""Keys over the real interface: a file of them that changes under load, and two of which one floods."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from criticrm_server.api_keys import ApiKeys
from criticrm_server.settings import Settings
from support.dropin import bodies
from support.live import Server, wait_until


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_key_file_that_changes_under_load(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("kept\n\nold\n")
    with Server(str(tiny_checkpoint), "--engine", "fake", "--api-keys-file", str(file), log=tmp_path / "log") as server:
        stop, statuses = asyncio.Event(), []

        async def load(client: httpx.AsyncClient, number: int) -> None:
            while not stop.is_set():
                body = {"prompt": f"{number} {len(statuses)}", "responses": ["a", "b"]}
                statuses.append((await client.post("/score", json=body, headers=bearer("kept"))).status_code)

        async def status(key: str) -> int:
            return (await client.get("/v1/model", headers=bearer(key))).status_code

        async def reread(expected: str) -> None:
            before = server.screen().count(expected)
            server.signal(signal.SIGHUP)
            while server.screen().count(expected) == before:
                await asyncio.sleep(0.01)

        async with server.client() as client, asyncio.timeout(60):
            callers = [asyncio.create_task(load(client, number)) for number in range(8)]
            assert [await status(key) for key in ("kept", "old", "new")] == [200, 200, 401]
            for _ in range(5):
                file.write_text("new\nkept\n")
                await reread("1 added, 1 removed")
                assert [await status(key) for key in ("kept", "old", "new")] == [200, 401, 200]
                file.write_text("\n")
                await reread("the API keys stay as they were")
                file.unlink()
                await reread("the API keys stay as they were")
                file.write_text("kept\nbro\x00ken\n")
                await reread("the API keys stay as they were")
                assert [await status(key) for key in ("kept", "old", "new")] == [200, 401, 200]
                file.write_text("kept\nold\n")
                await reread("1 added, 1 removed")
            stop.set()
            await asyncio.gather(*callers)
        assert len(statuses) > 50
        assert set(statuses) == {200}
        assert "bro" not in server.screen()


@pytest.mark.parametrize(
    ("text", "named"),
    [(None, "No such file"), ("", "holds no key"), (" \n", "holds no key"), ("a\nb\x07\n", "line 2: .*control")],
)
def test_a_key_file_without_keys_is_refused(tmp_path: Path, text: str | None, named: str) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValidationError, match=named):
        Settings(api_keys_file=file)


def test_keys_of_both_kinds(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"two \r\nthree\n")
    settings = Settings(host="0.0.0.0", api_keys="one", api_keys_file=file)
    current = ApiKeys(settings.api_keys, settings.api_keys_file).current
    assert [key.get_secret_value() for key in current] == ["one", "two", "three"]


async def test_a_key_that_floods_does_not_keep_another_waiting(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one engine thread, two places, and a queue that requests of one key fill."""
    monkeypatch.setenv("CRITICRM_API_KEYS", "flood,small")
    limits = ["--max-sequences", "2", "--max-critiques", "2", "--max-waiting", "40", "--greedy-results-mib", "0"]
    options = ["--engine", "transformers", "--dtype", "float32", *limits]
    with Server(str(tiny_checkpoint), *options, log=tmp_path / "log") as server:
        finished: list[tuple[str, int]] = []

        async def one(client: httpx.AsyncClient, key: str, number: int) -> httpx.Response:
            body = {"prompt": f"{key} {number}", "responses": ["a"], "critique": {"max_tokens": 24}}
            answer = await client.post("/score", json=body, headers=bearer(key))
            finished.append((key, answer.status_code))
            return answer

        async with server.client() as client, server.client() as other, asyncio.timeout(120):
            await other.get("/health/live")  # connects before it is measured
            flood = [asyncio.create_task(one(client, "flood", number)) for number in range(80)]
            # In a thread: answers that came during a call would count as overtaken.
            while await asyncio.to_thread(server.metric, "criticrm_waiting_requests") < 30:
                await asyncio.sleep(0.01)
            overtaken = []
            for number in range(5):
                before = len(finished)
                answer = await one(other, "small", number)
                assert answer.status_code == 200
                overtaken.append(sum(key == "flood" and status == 200 for key, status in finished[before:]))
            # Two in work and one that has begun; not the forty before it in the queue.
            assert max(overtaken) <= 4, overtaken
            assert not all(task.done() for task in flood)  # or nobody had to wait
            assert float(answer.headers["x-queue-time"]) > 0
            assert float(answer.headers["x-inference-time"]) > 0
            answers = await asyncio.gather(*flood)
        refused = [answer for answer in answers if answer.status_code == 503]
        assert {answer.status_code for answer in answers} == {200, 503}
        assert sum(answer.status_code == 200 for answer in answers) >= 35
        assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in refused)


def test_times_are_on_every_scoring_response(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with Server(str(tiny_checkpoint), "--engine", "fake", log=tmp_path / "log") as server:
        body = {"prompt": "Why?", "responses": ["a", "b"]}
        stream = {"Accept": "application/x-ndjson"}
        answers = {
            "whole": httpx.post(f"{server.url}/score", json=body),
            "stream": httpx.post(f"{server.url}/score", json=body, headers=stream),
            "drop-in": httpx.post(f"{server.url}/get_reward", json=bodies()["/get_reward"]),
            "other": httpx.get(f"{server.url}/v1/model"),
        }
        for name, answer in answers.items():
            assert answer.status_code == 200, (name, answer.text)
            assert ("x-queue-time" in answer.headers) == (name != "other"), name
            assert ("x-inference-time" in answer.headers) == (name in ("whole", "drop-in")), name
        wait_until(lambda: server.metric("criticrm_sequences") == 0, 5)
