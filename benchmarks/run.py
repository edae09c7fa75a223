"""`make bench`: the service against what a user would pick instead, each pair alternating within one run.

  generate    HTTP /score against LLM.generate of the same prompts without the reward: what does the reward cost?
  two_copies  HTTP /score against generating with one engine and scoring with a second one
  classify    HTTP /score without critiques against vLLM's own /classify on the same backbone and head
  app         the app alone, on the fake engine and one core: results a second, and where the time goes

Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app_alone import bench_app
from common import Sample, Worker, environment, load_samples, pair_ratios, post_all, running
from two_engines import save_classifier, weight_bytes

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.default import resolve

PORT, RIVAL_PORT = 8941, 8942
# The same for every engine: only the readout differs. Without prefix caching each round does the same work.
ENGINE = {
    "dtype": "bfloat16",
    "max_model_len": 2112,
    "max_num_seqs": 64,
    "enforce_eager": True,
    "enable_prefix_caching": False,
    "enable_chunked_prefill": False,
    "max_num_batched_tokens": 4096,
    "kv_cache_memory_bytes": 2 * 2**30,
}


def serve_command(model: str, critique_tokens: int) -> list[str]:
    return [
        str(Path(sys.executable).with_name("criticrm")),
        *("serve", model, "--port", str(PORT), "--log-level", "warning"),
        *("--dtype", "bfloat16", "--max-model-len", "2112", "--max-num-seqs", "64", "--prefix-caching", "false"),
        *("--critique-tokens", str(critique_tokens)),
    ]


def bodies(samples: list[Sample], critique: bool) -> list[dict[str, Any]]:
    return [{"prompt": s.prompt, "responses": [s.response], "critique": critique} for s in samples]


def bench_critiques(arguments: argparse.Namespace, checkpoint: Checkpoint, logs: Path) -> dict[str, Any]:
    """`generate` and `two_copies`, from the same runs."""
    samples = load_samples(checkpoint, arguments.data, arguments.samples, arguments.critique_tokens)
    prompts = [s.token_ids for s in samples]
    stops = list(checkpoint.renderer.stop_token_ids)
    classifier = save_classifier(checkpoint, logs / "classifier")
    ours: list[float] = []
    generate: list[float] = []
    both: list[float] = []
    tokens: set[tuple[int, int]] = set()
    difference = 0.0
    url = f"http://127.0.0.1:{PORT}"
    with (
        running(serve_command(arguments.model, arguments.critique_tokens), url, "/health/ready", logs / "serve.log"),
        Worker("generate", checkpoint.folder, ENGINE, logs / "generate.log") as generator,
        Worker("classify", classifier, ENGINE, logs / "classify.log") as scorer,
    ):
        for number in range(arguments.rounds + 1):
            seconds, answers = asyncio.run(post_all(f"{url}/score", bodies(samples, True), arguments.concurrency))
            written = generator.run(prompts=prompts, max_tokens=arguments.critique_tokens, stop_token_ids=stops)
            # The reward is read where the last token is predicted: the second pass sees all before it.
            full = [p + c[:-1] for p, c in zip(prompts, written["completions"], strict=True)]
            scored = scorer.run(prompts=full)
            if number == 0:
                continue  # warm-up
            ours.append(seconds)
            generate.append(written["seconds"])
            both.append(written["seconds"] + scored["seconds"])
            rewards = [a["results"][0]["score"] for a in answers]
            difference = max(difference, *(abs(a - b) for a, b in zip(rewards, scored["scores"], strict=True)))
            tokens.add((sum(a["usage"]["critique_tokens"] for a in answers), sum(map(len, written["completions"]))))
    counts = sorted(tokens)[0]
    # Tokens a second, so that the few critiques that bfloat16 lets diverge do not count for or against.
    ours_rate = [counts[0] / s for s in ours]
    rival_rate = [counts[1] / s for s in generate]
    one, two = weight_bytes(checkpoint.folder), weight_bytes(checkpoint.folder) + weight_bytes(classifier)
    return {
        "generate": {
            **pair_ratios(ours_rate, rival_rate),
            "target": ">= 0.90",
            "ours_tokens_per_s": ours_rate,
            "rival_tokens_per_s": rival_rate,
            "critique_tokens": counts,
            "sequences": len(samples),
        },
        "two_copies": {
            **pair_ratios([c / counts[1] * counts[0] / o for o, c in zip(ours, both, strict=True)], [1.0] * len(ours)),
            "target": ">= 1.40",
            "ours_s": ours,
            "rival_s": both,
            "largest_difference": difference,
        },
        "weights": {"ratio": one / two, "target": "<= 0.60", "ours_bytes": one, "rival_bytes": two},
    }


def bench_classify(arguments: argparse.Namespace, checkpoint: Checkpoint, logs: Path) -> dict[str, Any]:
    samples = load_samples(checkpoint, arguments.data, arguments.samples, 1)
    decode = checkpoint.tokenizer.decode
    texts = [{"model": "rival", "input": decode(s.token_ids), "use_activation": False} for s in samples]
    classifier = save_classifier(checkpoint, logs / "classifier")
    rival_url, url = f"http://127.0.0.1:{RIVAL_PORT}", f"http://127.0.0.1:{PORT}"
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(classifier)),
        *("--served-model-name", "rival", "--runner", "pooling", "--host", "127.0.0.1", "--port", str(RIVAL_PORT)),
        *("--dtype", "bfloat16", "--max-model-len", "2112", "--max-num-seqs", "64", "--enforce-eager"),
        *("--no-enable-prefix-caching", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"),
        *("--kv-cache-memory-bytes", str(2 * 2**30), "--uvicorn-log-level", "error"),
    ]
    ours: list[float] = []
    theirs: list[float] = []
    difference = 0.0
    with (
        running(serve_command(arguments.model, 64), url, "/health/ready", logs / "serve-direct.log"),
        running(command, rival_url, "/health", logs / "rival.log"),
    ):
        for number in range(arguments.rounds + 1):
            seconds, answers = asyncio.run(post_all(f"{url}/score", bodies(samples, False), arguments.concurrency))
            rival_seconds, labels = asyncio.run(post_all(f"{rival_url}/classify", texts, arguments.concurrency))
            if number:
                ours.append(len(samples) / seconds)
                theirs.append(len(samples) / rival_seconds)
                pairs = zip(answers, labels, strict=True)
                difference = max(abs(a["results"][0]["score"] - b["data"][0]["probs"][-1]) for a, b in pairs)
    return {
        "classify": {
            **pair_ratios(ours, theirs),
            "target": ">= 0.95",
            "ours_per_s": ours,
            "rival_per_s": theirs,
            "largest_difference": difference,
        }
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default="app,generate,classify", help="comma-separated; 'generate' includes two_copies"
    )
    parser.add_argument("--model", default="default", help="checkpoint to serve")
    parser.add_argument("--data", type=Path, help="JSONL with prompt, chosen, rejected; the embedded set unless given")
    parser.add_argument("--samples", type=int, default=96, help="responses in a round")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds, after one of warm-up")
    parser.add_argument("--critique-tokens", type=int, default=48, help="longest critique")
    parser.add_argument("--concurrency", type=int, default=96, help="requests in flight")
    parser.add_argument("--quick", action="store_true", help="a smoke run: 16 responses, one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.samples, arguments.rounds = 16, 1
    checkpoint = Checkpoint.open(resolve(arguments.model))
    parts: dict[str, Callable[[argparse.Namespace, Checkpoint, Path], dict[str, Any]]] = {
        "app": bench_app,
        "generate": bench_critiques,
        "classify": bench_classify,
    }
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="criticrm-bench-") as folder:
        for name in arguments.only.split(","):
            print(f"running {name} ...", file=sys.stderr, flush=True)
            figures |= parts[name](arguments, checkpoint, Path(folder))
    print(f"{'comparison':<24}{'median':>10}{'lowest':>10}{'highest':>10}   target")
    for name, figure in figures.items():
        value = figure["ratio"]
        low, high = figure.get("lowest", value), figure.get("highest", value)
        print(f"{name:<24}{value:>10.2f}{low:>10.2f}{high:>10.2f}   {figure['target']}")
    workload = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    print(json.dumps({"environment": environment(), "workload": workload, "figures": figures}))


if __name__ == "__main__":
    main()
