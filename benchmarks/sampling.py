"""`criticrm critiques sample` against plain `LLM.generate`: tokens a second, on one and the same engine.

The plain side is given token ids that were rendered beforehand, in one call, and throws its text away. Ours renders,
samples in parts, reads scores and writes Parquet. Same prompts, sampling and seeds; prefix caching off, so that a round
does all the work of the round before; the sides alternate.

examples:
  python benchmarks/sampling.py --quick
  python benchmarks/sampling.py --data preferences.jsonl --model path/to/instruct-model --pairs 256
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import HERE, MAX_MODEL_LEN, environment, pair_ratios
from vllm import SamplingParams, TokensPrompt

from criticrm_model.manifest import DEFAULT_CRITIQUE_INSTRUCTION
from criticrm_training.critiques.critics import Sampling, VLLMCritic
from criticrm_training.critiques.records import SIDES, score_request
from criticrm_training.critiques.sample import sample, task_seed
from criticrm_training.data import PreferencePair, as_messages, read_pairs
from criticrm_training.parts import read_parts


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default", help="the critic: 'default', a folder or a hub name (default)")
    parser.add_argument("--data", metavar="FILE", help="preference pairs (two responses of each conversation here)")
    parser.add_argument("--pairs", type=int, default=96, metavar="N", help="pairs a round (96)")
    parser.add_argument("-n", type=int, default=4, metavar="N", help="critiques a response (4)")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N", help="of a critique (64)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="counted rounds, after one to warm up (3)")
    parser.add_argument("--quick", action="store_true", help="eight pairs and one round: does it run, not how fast")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.pairs, arguments.rounds = 8, 1
    return arguments


def main() -> None:
    arguments = parse()
    described = environment()
    pairs = load_pairs(arguments)
    critic = VLLMCritic(arguments.model, max_model_len=MAX_MODEL_LEN, enable_prefix_caching=False)
    sampling = Sampling(arguments.n, 0.8, arguments.max_tokens)
    prompts, params = rendered(critic, pairs, sampling)

    def plain() -> float:
        outputs = critic._llm.generate(prompts, params, use_tqdm=False)
        return sum(len(c.token_ids) for output in outputs for c in output.outputs)

    def ours() -> float:
        with tempfile.TemporaryDirectory(prefix="criticrm-bench-") as out:
            sample(pairs, critic, sampling, instruction=DEFAULT_CRITIQUE_INSTRUCTION, out=Path(out), run={})
            return sum(row["tokens"] for row in read_parts(Path(out)))

    sides = {"plain": plain, "ours": ours}
    speed: dict[str, list[float]] = {name: [] for name in sides}
    tokens: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(arguments.rounds + 1):
        for name in sides if number % 2 == 0 else reversed(sides):
            began = time.perf_counter()
            written = sides[name]()
            took = time.perf_counter() - began
            print(f"round {number}: {name}, {written / took:.0f} tokens a second", file=sys.stderr, flush=True)
            if number:
                speed[name].append(written / took)
                tokens[name].append(written)
    critic.close()
    figure = {"what": "critiques sample's tokens a second, of plain LLM.generate's", "target": ">= 0.9"}
    figure |= pair_ratios(speed["ours"], speed["plain"])
    print(
        f"{figure['value']:.2f} [{figure['lowest']:.2f}, {figure['highest']:.2f}]  {figure['target']}  {figure['what']}"
    )
    print(json.dumps({"environment": described, "workload": vars(arguments), "figure": figure, "tokens": tokens}))


def load_pairs(arguments: argparse.Namespace) -> list[PreferencePair]:
    if arguments.data:
        return read_pairs(arguments.data)[: arguments.pairs]
    rows = [json.loads(line) for line in (HERE / "conversations.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [rows[i % len(rows)] for i in range(arguments.pairs)]
    return [
        PreferencePair(
            str(i), as_messages(row["prompt"], "prompt"), row["responses"][0], row["responses"][-1], "made", str(i)
        )
        for i, row in enumerate(rows)
    ]


def rendered(critic: VLLMCritic, pairs: list[PreferencePair], sampling: Sampling) -> tuple[list[Any], list[Any]]:
    renderer = critic._renderer.asking(DEFAULT_CRITIQUE_INSTRUCTION + score_request(sampling.score_by))
    prompts, params = [], []
    for pair in pairs:
        opened = renderer.open(pair.prompt)
        for side in SIDES:
            ids = opened.render(
                getattr(pair, side), max_model_len=MAX_MODEL_LEN, max_critique_tokens=sampling.max_tokens, truncate=True
            ).token_ids
            prompts.append(TokensPrompt(prompt_token_ids=ids))
            params.append(
                SamplingParams(
                    n=sampling.n,
                    temperature=sampling.temperature,
                    max_tokens=sampling.max_tokens,
                    seed=task_seed(0, pair.id, side),
                    stop_token_ids=list(renderer.stop_token_ids),
                    detokenize=False,
                )
            )
    return prompts, params


if __name__ == "__main__":
    main()
