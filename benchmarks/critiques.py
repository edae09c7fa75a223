"""HTTP `/score` against plain generation, and against generation plus scoring with a second copy of the weights."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from classifier import save_classifier, stored_weights
from common import ENGINE, load_samples, memory_bytes, pair_ratios, post_all, running, score_bodies, serve_command
from worker import Worker

from criticrm_model.checkpoint import Checkpoint

PORT = 8941
URL = f"http://127.0.0.1:{PORT}"


def bench_critiques(
    arguments: argparse.Namespace, checkpoint: Checkpoint, folder: Path, two_copies: bool
) -> dict[str, Any]:
    """Both comparisons from the same rounds; without `two_copies` the second engine is not started.

    The rivals are driven offline, in token ids, all prompts at once: they pay for no HTTP and no tokeniser.
    """
    length = arguments.critique_tokens
    samples = load_samples(checkpoint, arguments.data, arguments.samples, length)
    bodies = score_bodies(samples, critique=True)
    prompts = [s.token_ids for s in samples]
    stops = list(checkpoint.renderer.stop_token_ids)
    ours, generate, score = [], [], []
    tokens, rival_tokens = [], []
    differences = []
    with ExitStack() as stack:
        command = serve_command(arguments.model, PORT, "--critique-tokens", str(length))
        server_pid = stack.enter_context(running(command, f"{URL}/health/ready", folder / "serve.log"))
        generator = stack.enter_context(Worker("generate", checkpoint.folder, ENGINE, folder / "generate.log"))
        scorer = None
        if two_copies:
            classifier = save_classifier(checkpoint, folder / "classifier")
            scorer = stack.enter_context(Worker("classify", classifier, ENGINE, folder / "classify.log"))
        for number in range(arguments.rounds + 1):
            seconds, answers = post_all(f"{URL}/score", bodies, arguments.concurrency)
            written = generator.run(prompts=prompts, max_tokens=length, stop_token_ids=stops)
            # The reward is read where the last token is predicted: the second engine gets all tokens before it.
            read = [p + c[:-1] for p, c in zip(prompts, written["completions"], strict=True)]
            scored = scorer.run(prompts=read) if scorer else None
            if number == 0:
                continue  # warm-up
            ours.append(seconds)
            tokens.append(sum(a["usage"]["critique_tokens"] for a in answers))
            generate.append(written["seconds"])
            rival_tokens.append(sum(map(len, written["completions"])))
            if scored:
                score.append(scored["seconds"])
                rewards = [a["results"][0]["score"] for a in answers]
                differences += [abs(a - b) for a, b in zip(rewards, scored["scores"], strict=True)]
        one_engine, two_engines = memory_bytes(server_pid), sum(memory_bytes(w.pid) for w in (generator, scorer) if w)
    common = {
        "sequences": len(samples),
        "prompt_tokens": sum(map(len, prompts)),
        "critique_tokens": tokens,
        "rival_critique_tokens": rival_tokens,
        "same_work": all(abs(a / b - 1) <= 0.01 for a, b in zip(tokens, rival_tokens, strict=True)),
    }
    rates = [n / s for n, s in zip(tokens, ours, strict=True)]
    rival_rates = [n / s for n, s in zip(rival_tokens, generate, strict=True)]
    figures: dict[str, Any] = {
        "generate": {
            **pair_ratios(rates, rival_rates),
            "what": "tokens/s, /score : LLM.generate",
            "target": ">= 0.90",
            "ours_tokens_per_s": rates,
            "rival_tokens_per_s": rival_rates,
            **common,
        }
    }
    if scorer:
        rival = [a + b for a, b in zip(generate, score, strict=True)]
        one = stored_weights(checkpoint.folder)
        two = one + stored_weights(classifier)
        figures["two_copies"] = {
            **pair_ratios(rival, ours),
            "what": "times as fast as two engines",
            "target": ">= 1.40",
            "ours_s": ours,
            "rival_s": rival,
            "rival_scoring_s": score,
            "largest_difference": max(differences),
            "median_difference": sorted(differences)[len(differences) // 2],
            **common,
        }
        figures["weights"] = {
            "value": one / two,
            "what": "memory for weights, one copy : two",
            "target": "<= 0.60",
            "ours": one,
            "rival": two,
        }
        figures["memory"] = {
            "value": one_engine / two_engines,
            "what": "memory of all processes (PSS), one engine : two",
            "target": "-",
            "ours_bytes": one_engine,
            "rival_bytes": two_engines,
        }
    return figures
