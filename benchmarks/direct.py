"""HTTP `/score` without critiques against vLLM's own server and its `/classify`, on the same backbone and head."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from classifier import save_classifier
from common import ENGINE, load_samples, pair_ratios, post_all, running, score_bodies, serve_command

from criticrm_model.checkpoint import Checkpoint

PORT, RIVAL_PORT = 8941, 8942
URL, RIVAL_URL = f"http://127.0.0.1:{PORT}", f"http://127.0.0.1:{RIVAL_PORT}"


def bench_direct(arguments: argparse.Namespace, checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """Both tokenise: the rival gets each prompt as text, with the template and the instruction already in it."""
    samples = load_samples(checkpoint, arguments.data, arguments.samples, 1)
    bodies = score_bodies(samples, critique=False)
    texts = [
        {"model": "rival", "input": checkpoint.tokenizer.decode(s.token_ids), "use_activation": False} for s in samples
    ]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(save_classifier(checkpoint, folder / "classifier")), "--served-model-name", "rival"),
        *("--runner", "pooling", "--host", "127.0.0.1", "--port", str(RIVAL_PORT), "--uvicorn-log-level", "error"),
        *vllm_flags(ENGINE),
    ]
    ours, rival, differences = [], [], []
    with (
        running(serve_command(arguments.model, PORT), f"{URL}/health/ready", folder / "serve-direct.log"),
        running(command, f"{RIVAL_URL}/health", folder / "rival.log"),
    ):
        for number in range(arguments.rounds + 1):
            seconds, answers = post_all(f"{URL}/score", bodies, arguments.concurrency)
            rival_seconds, labels = post_all(f"{RIVAL_URL}/classify", texts, arguments.concurrency)
            if number == 0:
                continue  # warm-up
            ours.append(len(samples) / seconds)
            rival.append(len(samples) / rival_seconds)
            pairs = zip(answers, labels, strict=True)
            differences += [abs(a["results"][0]["score"] - b["data"][0]["probs"][-1]) for a, b in pairs]
    return {
        "classify": {
            **pair_ratios(ours, rival),
            "what": "results/s, /score : vLLM's /classify",
            "target": ">= 0.95",
            "ours_per_s": ours,
            "rival_per_s": rival,
            "largest_difference": max(differences),
            "sequences": len(samples),
            "prompt_tokens": sum(len(s.token_ids) for s in samples),
            "rival_prompt_tokens": sum(b["usage"]["prompt_tokens"] for b in labels),
        }
    }


def vllm_flags(engine: dict[str, Any]) -> list[str]:
    """vLLM's arguments as flags of its server."""
    flags = []
    for name, value in engine.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags
