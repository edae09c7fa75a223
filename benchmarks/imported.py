"""`/classify` on an imported checkpoint against vLLM's own `/classify` on the original reward model, in one run.

Both servers have the same weights in the same precision and get the same conversations as messages; each renders and
tokenises them. They are up together and take turns, so that a machine whose speed drifts does no harm.

figure, a ratio within one run:
  imported  results/s of criticrm serve (imported) : vLLM's server (original)

Prints a table, then one line of JSON with every round, the workload and the machine. Without --model, the original is
the embedded default's direct score, exported as a sequence classifier.

examples:
  python benchmarks/imported.py --pairs 8
  python benchmarks/imported.py --model path/to/reward-model --pairs 128 --rounds 7
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ENGINE, HERE, environment, pair_ratios, post_all, print_table, running, say, serve_command
from direct import vllm_flags

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.default import resolve
from criticrm_model.importing.exporter import export_classifier
from criticrm_model.importing.importer import Source, import_model

PORT, RIVAL_PORT = 8943, 8944
URL, RIVAL_URL = f"http://127.0.0.1:{PORT}", f"http://127.0.0.1:{RIVAL_PORT}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="NAME", help="folder or hub name of a scalar reward model")
    parser.add_argument("--pairs", type=int, default=48, metavar="N", help="pairs of responses in a round (48)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="counted rounds, after one to warm up (5)")
    parser.add_argument("--concurrency", type=int, default=96, metavar="N", help="requests in flight (96)")
    return parser.parse_args()


def conversations(count: int) -> list[dict[str, Any]]:
    """Bodies of `/classify`, for both: `count` pairs of responses to real prompts, then with others' answers."""
    lines = (HERE / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    talks = [json.loads(line) for line in lines]
    bodies = []
    for i in range(count):
        talk, other = talks[i % len(talks)], talks[(i + i // len(talks)) % len(talks)]
        prompt = talk["prompt"]
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        bodies += [
            {
                "model": "rival",
                "messages": [*turns, {"role": "assistant", "content": response}],
                "use_activation": False,
            }
            for response in other["responses"][:2]
        ]
    return bodies


def bench(arguments: argparse.Namespace, original: Path, imported: Path, folder: Path) -> dict[str, Any]:
    bodies = conversations(arguments.pairs)
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(original), "--served-model-name", "rival", "--runner", "pooling"),
        *("--host", "127.0.0.1", "--port", str(RIVAL_PORT), "--uvicorn-log-level", "error"),
        *vllm_flags(ENGINE),
    ]
    ours, rival, differences = [], [], []
    with (
        running(serve_command(str(imported), PORT), f"{URL}/health/ready", folder / "serve.log"),
        running(command, f"{RIVAL_URL}/health", folder / "rival.log"),
    ):
        for number in range(arguments.rounds + 1):
            seconds, answers = post_all(f"{URL}/classify", bodies, arguments.concurrency)
            rival_seconds, labels = post_all(f"{RIVAL_URL}/classify", bodies, arguments.concurrency)
            if number == 0:
                continue  # warm-up
            ours.append(len(bodies) / seconds)
            rival.append(len(bodies) / rival_seconds)
            pairs = zip(answers, labels, strict=True)
            differences += [abs(a["data"][0]["probs"][-1] - b["data"][0]["probs"][-1]) for a, b in pairs]
    tokens, rival_tokens = (sum(a["usage"]["prompt_tokens"] for a in side) for side in (answers, labels))
    return {
        "imported": {
            **pair_ratios(ours, rival),
            "what": "results/s, /classify : vLLM's /classify",
            "target": ">= 1.0",
            "same_work": abs(tokens / rival_tokens - 1) <= 0.01,
            "ours_per_s": ours,
            "rival_per_s": rival,
            "largest_difference": max(differences),
            "sequences": len(bodies),
            "prompt_tokens": tokens,
            "rival_prompt_tokens": rival_tokens,
        }
    }


def main() -> None:
    arguments = parse()
    described = environment()
    with tempfile.TemporaryDirectory(prefix="criticrm-bench-") as scratch:
        folder = Path(scratch)
        if arguments.model:
            original = resolve(arguments.model)
        else:
            original = folder / "original"
            export_classifier(Checkpoint.open(resolve("default")), original)
        say("importing the reward model")
        import_model(Source(str(original)), folder / "imported")
        say("starting the two servers")
        figures = bench(arguments, original, folder / "imported", folder)
    print_table(figures)
    print(json.dumps({"environment": described, "workload": vars(arguments), "figures": figures}))


if __name__ == "__main__":
    main()
