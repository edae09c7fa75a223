"""An HTTP server with /score's answers and no model, on a thread of its own: as fast as can be, or faulty at random."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import zlib
from collections import Counter
from types import TracebackType
from typing import Any

VERSION = "0123456789ab"
_USAGE = {"prompt_tokens": 1, "cached_tokens": 0, "critique_tokens": 0}
FAULTS = ("refuse", "delay", "cut", "500")


def score_of(response: str) -> float:
    """What this server gives."""
    return zlib.crc32(response.encode()) / 2**32


class NullServer:
    """`with NullServer() as server`: at `server.url` until the context is left.

    Args:
        faults: share of the requests to which something happens; a delayed one is then answered.

    Attributes:
        asked: by request id, how many times it came.
        rows: by response, how many times it was answered with a score.
    """

    def __init__(self, faults: float = 0.0, seed: int = 0) -> None:
        self.asked: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self._faults = faults
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> NullServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False where the connection is done for."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        path = head.split(" ", 2)[1]
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.asked[headers["x-request-id"]] += 1
        fault = self._random.choice(FAULTS) if path == "/score" and self._random.random() < self._faults else None
        if fault:
            self.happened[fault] += 1
        if fault == "refuse":
            return False
        if fault == "delay":
            await asyncio.sleep(0.02)
        if fault == "500":
            writer.write(_http(500, b"broken"))
            return True
        answer = _http(200, self._answer(path, body))
        if fault == "cut":
            writer.write(answer[: len(answer) // 2])
            await writer.drain()
            return False
        writer.write(answer)
        return True

    def _answer(self, path: str, body: bytes) -> bytes:
        if path != "/score":
            limits: dict[str, int] = {}
            found: dict[str, Any] = {"model": "null", "model_version": VERSION, "manifest": {}, "max_model_len": 512}
            return json.dumps({**found, "limits": limits}).encode()
        request = json.loads(body)
        results = []
        for item in request.get("items", [request]):
            for index, response in enumerate(item["responses"]):
                self.rows[response] += 1
                results.append(_result(item.get("id"), index, score_of(response)))
        envelope = {"id": "a", "model": "null", "model_version": VERSION, "usage": _USAGE}
        return json.dumps({**envelope, "results": results}).encode()


def _result(item_id: str | None, index: int, score: float) -> dict[str, Any]:
    return {
        "id": item_id,
        "index": index,
        "status": "ok",
        "score": score,
        "direct_score": score,
        "score_std": None,
        "critiques": [],
        "warnings": [],
        "error": None,
        "usage": _USAGE,
    }


def _http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        status,
        len(body),
        body,
    )
