"""`criticrm critiques sample` against vLLM's plain `LLM.generate`: generated tokens a second.

Both sides use one engine, the one that `critiques sample` starts, in turns. Ours is the whole command but for its
start: reading the pairs, rendering them, generating, parsing scores, Parquet parts and the table at the end. The rival
is one call of `LLM.generate` with every prompt, in token ids that were rendered beforehand, and with the same sampling
parameters, seeds included, so that it writes the same critiques; it reads no reward. What the engine keeps of prompts
(its prefix cache) is dropped before each turn.

figures, each a ratio within one run:
  written  tokens/s of critiques sample --score written : LLM.generate
  reward   tokens/s of critiques sample --score reward : LLM.generate

Prints a table, then one line of JSON with every round, the workload and the machine. A ratio is the median over
rounds of neighbouring turns; look at `load_before` on a busy machine.

examples:
  python benchmarks/sampling.py --quick
  python benchmarks/sampling.py --only written --data preferences.jsonl --pairs 256 --n 4
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import environment, pair_ratios, print_table, say, write_pairs

from criticrm_model.children import exit_on_sigterm
from criticrm_model.manifest import DEFAULT_NAME
from criticrm_training.commands.critiques.sample import Sample
from criticrm_training.critiques.records import read_critiques
from criticrm_training.critiques.vllm_writer import VLLMWriter
from criticrm_training.critiques.writers import Critic

SCORES = ("written", "reward")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAMES", default=",".join(SCORES), help="comma-separated, of the above (all)")
    parser.add_argument("--model", default=DEFAULT_NAME, help="the model that writes, a Critic-RM for reward (default)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="preference pairs, as for 'critiques sample' (made of benchmarks/conversations.jsonl)",
    )
    parser.add_argument("--pairs", type=int, default=256, metavar="N", help="preference pairs, 64 a part (256)")
    parser.add_argument("--n", type=int, default=2, metavar="N", help="critiques of each response (2)")
    parser.add_argument("--max-tokens", type=int, default=32, metavar="N", help="longest critique, in tokens (32)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="counted rounds, after one to warm up (3)")
    parser.add_argument(
        "--unseeded", action="store_true", help="sample the other side without seeds, so that its critiques differ"
    )
    parser.add_argument("--quick", action="store_true", help="8 pairs and one round, to test that it runs")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := set(arguments.only) - set(SCORES):
        parser.error(f"--only knows {', '.join(SCORES)}; not {', '.join(sorted(unknown))}")
    if arguments.quick:
        arguments.pairs, arguments.rounds = 8, 1
    return arguments


class Warm(Sample):
    """`critiques sample` with an engine that runs already."""

    engine: Any

    def critic(self) -> Critic:
        critic: Critic = self.engine
        return critic


class Recorder:
    """In the place of an engine's `enqueue`: passes on every call, and keeps its prompts and parameters."""

    def __init__(self, enqueue: Any) -> None:
        self._enqueue = enqueue
        self.prompts: list[Any] = []
        self.params: list[Any] = []

    def __call__(self, prompts: Sequence[Any], params: Sequence[Any], **options: Any) -> Any:
        self.prompts += prompts
        self.params += params
        return self._enqueue(prompts, params, **options)


def bench_sampling(arguments: argparse.Namespace, critic: VLLMWriter, score: str, folder: Path) -> dict[str, Any]:
    """One figure: as many rounds of both sides, after one of ours that shows what the engine is asked for."""
    from vllm import SamplingParams

    llm = critic._llm
    data = write_pairs(arguments.data, arguments.pairs, folder / "pairs.jsonl")

    def ours(number: int) -> tuple[float, int]:
        llm.reset_prefix_cache()
        out = folder / f"{score}-{number}"
        options = {"n": arguments.n, "max_tokens": arguments.max_tokens, "score": score}
        began = time.perf_counter()
        Warm(data=str(data), out=out, engine=critic, **options).run()
        return time.perf_counter() - began, sum(c.tokens for c in read_critiques(out))

    enqueue = llm.enqueue
    llm.enqueue = asked = Recorder(enqueue)
    say(f"{score}: warming up")
    ours(0)
    llm.enqueue = enqueue
    plain = [
        SamplingParams(
            n=p.n,
            temperature=p.temperature,
            max_tokens=p.max_tokens,
            seed=None if arguments.unseeded else p.seed,
            stop_token_ids=p.stop_token_ids,
        )
        for p in asked.params
    ]

    def rival() -> tuple[float, int]:
        llm.reset_prefix_cache()
        began = time.perf_counter()
        outputs = llm.generate(asked.prompts, plain, use_tqdm=False)
        return time.perf_counter() - began, sum(len(c.token_ids) for o in outputs for c in o.outputs)

    turns, rival_turns = [], []
    for number in range(1, arguments.rounds + 1):
        say(f"{score}: round {number} of {arguments.rounds}")
        turns.append(ours(number))
        rival_turns.append(rival())
    rates, rival_rates = ([tokens / seconds for seconds, tokens in side] for side in (turns, rival_turns))
    written, rival_written = ([tokens for _, tokens in side] for side in (turns, rival_turns))
    return {
        **pair_ratios(rates, rival_rates),
        "what": f"tokens/s, critiques sample --score {score} : LLM.generate",
        "target": ">= 0.98",
        "same_work": all(abs(a / b - 1) <= 0.01 for a, b in zip(written, rival_written, strict=True)),
        "ours_tokens_per_s": rates,
        "rival_tokens_per_s": rival_rates,
        "sequences": len(plain) * arguments.n,
        "prompt_tokens": sum(len(p["prompt_token_ids"]) for p in asked.prompts),
        "critique_tokens": written,
        "rival_critique_tokens": rival_written,
    }


def main() -> None:
    arguments = parse()
    exit_on_sigterm()  # the engine's processes go too
    described = environment()
    figures = {}
    with tempfile.TemporaryDirectory(prefix="criticrm-bench-") as scratch:
        folder = Path(scratch)
        fields = Sample.model_fields
        say("starting the engine")
        critic = VLLMWriter(
            arguments.model, max_model_len=fields["max_model_len"].default, dtype=fields["dtype"].default
        )
        for score in arguments.only:
            figures[score] = bench_sampling(arguments, critic, score, folder)
        critic.close()
    print_table(figures)
    workload = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    print(json.dumps({"environment": described, "workload": workload, "figures": figures}))


if __name__ == "__main__":
    main()
