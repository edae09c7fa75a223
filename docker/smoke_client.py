"""What smoke.sh asks of the server. Nothing but the standard library: it runs with any Python 3 of the host.

smoke_client.py ready URL | score URL KEY | drain URL KEY STOP-COMMAND...
"""

from __future__ import annotations

import http.client
import json
import math
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

ITEM = {
    "prompt": "Why is the sky blue?",
    "responses": ["Air scatters blue light more strongly than red light.", "Because it reflects the sea."],
}


def call(url: str, path: str, key: str | None = None, body: object = None) -> tuple[int, Any]:
    """Status and body, JSON or text. Raises OSError if nobody answers."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=300)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    return response.status, json.loads(text) if "json" in response.headers.get("content-type", "") else text


def ready(url: str) -> None:
    try:
        status, _ = call(url, "/health/ready")
    except OSError:
        sys.exit(1)
    sys.exit(status != 200)


def score(url: str, key: str) -> None:
    status, answer = call(url, "/score", body=ITEM)
    assert status == 401, f"a caller without a key got {status}: {answer}"
    status, answer = call(url, "/score", key, ITEM)
    assert status == 200, answer
    assert answer["model_version"], answer
    assert len(answer["results"]) == len(ITEM["responses"]), answer
    for result in answer["results"]:
        check(result)
        assert result["critiques"][0]["text"].strip(), result
        print(f"score {result['score']:+.3f}  direct {result['direct_score']:+.3f}  {result['critiques'][0]['text']!r}")
    print(f"model {answer['model']}, version {answer['model_version']}")


def check(result: dict[str, Any]) -> None:
    assert result["status"] == "ok", result
    assert math.isfinite(result["score"]), result
    assert math.isfinite(result["direct_score"]), result


def drain(url: str, key: str, *stop: str) -> None:
    """A request that is in work when the server is told to stop is answered; the next one is refused."""
    long = ITEM | {"critique": {"n": 16, "max_tokens": 256, "temperature": 1.5, "seed": 1}}
    with ThreadPoolExecutor() as threads:
        accepted = threads.submit(call, url, "/score", key, long)
        while "criticrm_sequences 32.0" not in call(url, "/metrics")[1]:
            assert not accepted.done(), accepted.result()
            time.sleep(0.05)
        subprocess.run(stop, check=True, stdout=subprocess.DEVNULL)
        time.sleep(0.5)
        assert not accepted.done(), "the request was too short to be in work still"
        status, answer = call(url, "/score", key, ITEM)
        assert status == 503, answer
        assert answer["error"]["code"] == "draining", answer
        print("a new request: 503 draining")
        status, answer = accepted.result()
    assert status == 200, answer
    for result in answer["results"]:
        assert len(result["critiques"]) == 16, result
        check(result)
    print(f"the request in work: 200, {answer['usage']['critique_tokens']} critique tokens")


if __name__ == "__main__":
    {"ready": ready, "score": score, "drain": drain}[sys.argv[1]](*sys.argv[2:])
