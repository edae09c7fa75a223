"""The arms of docs/experiment.md, one after the other in one process, on one GPU.

    python examples/gsm8k/experiment.py --base FOLDER --data gsm8k --out runs/gsm8k

Every finished stage leaves a file in --out and is not run again. --budget-s stops before a stage that may not end in
time; the next call goes on from there. The numbers are in --out/results.json, the adapters in --out/ARM/adapter.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from criticrm_model.files import write_json
from criticrm_model.manifest import Manifest
from criticrm_training.answers import answer_text, equal, stated_answer
from criticrm_training.control import oracle_critiques, shuffled
from criticrm_training.critiques.blind import asking_to_derive, derived_answer, sample_blind
from criticrm_training.critiques.critique_task import CritiqueTask, Tasks, load_task
from criticrm_training.critiques.records import SCHEMA, SIDES, Critique, by_response, critique_tokens, read_critiques
from criticrm_training.critiques.sample import SampleSettings, sample
from criticrm_training.critiques.transformers_writer import TransformersWriter
from criticrm_training.critiques.verdict import own_answer, verdict
from criticrm_training.critiques.writers import Conversation, Sampling, Task
from criticrm_training.data.pairs import PreferencePair, in_question_order, pair_row, read_pairs
from criticrm_training.parts import write_in_parts
from criticrm_training.stats import difference, outcomes, pair_accuracy
from criticrm_training.training.config import TrainConfig
from criticrm_training.training.run import train

TASK = load_task("reasoning")
INSTRUCTION = TASK.instruction
MAX_CRITIQUE_TOKENS = 320
MAX_MODEL_LEN = 1536
# Ways of asking for a derivation; one is chosen on the validation questions.
STYLES = {
    "ordinary": 'Solve this step by step. End with a line that reads "The answer is N.", where N is the result alone.',
    "short sentences": str(TASK.derive),
    "brief": (
        'Solve this step by step, as briefly as you can. End with a line that reads "The answer is N.", '
        "where N is the result alone."
    ),
}
LONGEST_MEAN = 220  # tokens of a derivation
SHORT = 64  # tokens of a critique where there is none, or one by rule
CONTROL = 0.95


class Experiment:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.base = str(arguments.base)
        self.out: Path = arguments.out
        self.size = arguments
        self.began = time.monotonic()
        self.out.mkdir(parents=True, exist_ok=True)
        everything = in_question_order(read_pairs(arguments.data / "train.jsonl"))
        first = {pair.group: pair for pair in reversed(everything)}
        self.train = in_question_order(first.values())[: arguments.pairs]
        self.validation = in_question_order(read_pairs(arguments.data / "validation.jsonl"))[: arguments.validation]
        self.all_heldout = in_question_order(read_pairs(arguments.data / "heldout.jsonl"))
        self.heldout = self.all_heldout[: arguments.heldout]
        self.pairs_file = self.out / "train.jsonl"
        self.pairs_file.write_text("".join(json.dumps(pair_row(pair)) + "\n" for pair in self.train), encoding="utf-8")

    # -- stages ------------------------------------------------------------------------------------------------------

    def control(self) -> dict[str, Any]:
        pairs, held_out = with_answers(self.train)[: self.size.control], with_answers(self.heldout)
        found: dict[str, Any] = {}
        for name, of in (("oracle", oracle_critiques), ("shuffled", lambda pairs: shuffled(oracle_critiques(pairs)))):
            critiques = self.keep(f"control-{name}", of(pairs))
            self.fit(f"control-{name}", pairs, critiques=critiques, weight=0.5, longest=SHORT)
            scores = self.teacher_forced(f"control-{name}", held_out, of(held_out))
            found[name] = accuracy(held_out, scores)
        if found["oracle"]["value"] < CONTROL and self.size.dtype == "bfloat16":
            raise SystemExit(f"the control fails, so nothing else is run: {found}")
        return found

    def style(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, derive in STYLES.items():
            asked = [Conversation(asking_to_derive(p.prompt, task(derive)), 0) for p in self.validation]
            drafts = [d for (d,) in self.writer(self.base).answer(asked, Sampling(1, 0.0, MAX_CRITIQUE_TOKENS))]
            right = [
                equal(stated_answer(p.chosen), derived_answer(d)) for p, d in zip(self.validation, drafts, strict=True)
            ]
            tokens = sum(d.tokens for d in drafts) / len(drafts)
            found[name] = {"right": sum(right) / len(right), "tokens": tokens, "examples": [d.text for d in drafts[:3]]}
        short = [name for name in found if found[name]["tokens"] <= LONGEST_MEAN] or list(found)
        return found | {"chosen": max(short, key=lambda name: found[name]["right"])}

    def derive(self) -> dict[str, Any]:
        tasks = Tasks({"default": task(STYLES[self.size.style])})
        settings = SampleSettings(4, 0.7, MAX_CRITIQUE_TOKENS)
        sample_blind(self.train, self.writer(self.base), tasks, settings, out=self.out / "blind", run={})
        critiques = read_critiques(self.out / "blind")
        kept = right_ones(self.train, critiques, most=2)
        self.keep("blind-kept", kept)
        return {"critiques": len(critiques), "kept": len(kept), "verdicts": verdict_accuracy(self.train, critiques)}

    def round1(self) -> dict[str, Any]:
        self.fit("round1", self.train, critiques=self.out / "blind-kept", schedule="critique")
        return {"critiques": "blind-kept"}

    def sample2(self) -> dict[str, Any]:
        pairs = self.train[: self.size.round2]
        writer = self.writer(str(self.out / "round1"))
        settings = SampleSettings(4, 0.7, MAX_CRITIQUE_TOKENS, "verdict")
        sample(pairs, writer, Tasks({"default": TASK}), settings, out=self.out / "sampled2", run={})
        critiques = read_critiques(self.out / "sampled2")
        kept = right_ones(pairs, critiques, most=2)
        before = right_ones(self.train, read_critiques(self.out / "blind-kept"), most=1)
        self.keep("kept2", kept + [replace(c, sample=c.sample + 100) for c in before])
        return {"critiques": len(critiques), "kept": len(kept), "verdicts": verdict_accuracy(pairs, critiques)}

    def round2(self) -> dict[str, Any]:
        self.fit(
            "round2",
            self.train,
            critiques=self.out / "kept2",
            reward_critiques=self.out / "sampled2",
            weight=0.5,
        )
        return {"critiques": "kept2", "reward_critiques": "sampled2"}

    def critic(self) -> dict[str, Any]:
        return self.evaluate("round2", self.heldout)

    def mean_of_four(self) -> dict[str, Any]:
        writer = self.writer(str(self.out / "round2"))
        tasks = [Task(p.prompt, p.response(side), INSTRUCTION, 7) for p, side in sides_of(self.heldout)]
        several = writer.write(tasks, Sampling(4, 0.7, MAX_CRITIQUE_TOKENS, "reward"))
        write_json(self.out / "round2-sampled.json", [[d.score for d in row] for row in several])
        return accuracy(self.heldout, [sum(float(d.score or 0.0) for d in row) / len(row) for row in several])

    def scalars(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for rate in self.size.rates:
            for epochs in (1, 2):
                name = f"scalar-{rate:g}-{epochs}"
                self.fit(name, self.train, scalar=True, weight=0.0, rate=rate, epochs=epochs, longest=SHORT)
                found[name] = accuracy(self.validation, self.direct(name, self.validation))
        best = max(found, key=lambda name: found[name]["value"])
        scores = self.direct(best, self.heldout)
        write_json(self.out / "scalar-heldout.json", scores)
        return found | {"chosen": best, "heldout": accuracy(self.heldout, scores)}

    def matched(self) -> dict[str, Any]:
        self.fit("matched", self.train[: self.size.round2], scalar=True, weight=0.5, longest=SHORT)
        return accuracy(self.heldout, self.direct("matched", self.heldout))

    def claim(self) -> dict[str, Any]:
        """The two arms of the claim on all held-out pairs."""
        rest = self.all_heldout[len(self.heldout) :]
        scalar = self.direct(self.result("scalars")["chosen"], rest)
        critic = self.evaluate("round2", rest, where="rest")
        ours = json.loads((self.out / "round2-heldout.json").read_text())["greedy"] + critic.pop("scores")
        theirs = json.loads((self.out / "scalar-heldout.json").read_text()) + scalar
        groups = [pair.group for pair in self.all_heldout]
        return {
            "critic": vars_of(pair_accuracy(margins(ours), groups)),
            "scalar": vars_of(pair_accuracy(margins(theirs), groups)),
            "difference": vars_of(difference(outcomes(margins(ours)), outcomes(margins(theirs)), groups)),
            "rest": critic,
        }

    def zero_shot(self) -> dict[str, Any]:
        """The base as the judge, with the reply in sight; what it writes is also what it did before training."""
        return self.own_answers(self.base, self.heldout[: self.size.validation])

    def shuffled_critiques(self) -> dict[str, Any]:
        critiques = [
            Critique(pair.id, side, 0, row["text"], None, row["finish_reason"], 0)
            for (pair, side), row in zip(
                sides_of(self.heldout), json.loads((self.out / "round2-texts.json").read_text()), strict=True
            )
        ]
        mixed = shuffled(critiques)
        return accuracy(self.heldout, self.teacher_forced("round2", self.heldout, mixed))

    def coupled(self) -> dict[str, Any]:
        self.fit("coupled", self.train, critiques=self.out / "kept2", weight=0.5)
        return self.evaluate("coupled", self.heldout)

    def best_of_n(self) -> dict[str, Any]:
        rows = [json.loads(line) for line in (self.size.data / "bestof.jsonl").open(encoding="utf-8")]
        rows = rows[: self.size.validation]
        writer = self.writer(str(self.out / "round2"))
        tasks = [
            Task(tuple(row["prompt"]), response, INSTRUCTION, 0) for row in rows for response in row["responses"][:8]
        ]
        rewards = iter(
            [d.score or 0.0 for (d,) in writer.write(tasks, Sampling(1, 0.0, MAX_CRITIQUE_TOKENS, "reward"))]
        )
        chosen, first, oracle_, majority, longest = [], [], [], [], []
        for row in rows:
            responses, correct = row["responses"][:8], row["correct"][:8]
            scores = [next(rewards) for _ in responses]
            answers = [answer_text(a) if (a := stated_answer(r)) else r for r in responses]
            vote = max(answers, key=answers.count)
            chosen.append(correct[max(range(len(scores)), key=scores.__getitem__)])
            first.append(sum(correct) / len(correct))
            oracle_.append(any(correct))
            majority.append(correct[answers.index(vote)])
            longest.append(correct[max(range(len(responses)), key=lambda i: len(responses[i]))])
        n = len(rows)
        named = {"reward": chosen, "one": first, "oracle": oracle_, "majority": majority, "longest": longest}
        return {name: sum(map(float, values)) / n for name, values in named.items()}

    # -- what the stages are made of ---------------------------------------------------------------------------------

    def fit(
        self,
        name: str,
        pairs: Sequence[PreferencePair],
        *,
        critiques: Path | None = None,
        reward_critiques: Path | None = None,
        scalar: bool = False,
        schedule: str = "constant",
        weight: float = 0.5,
        rate: float = 2e-4,
        epochs: int = 1,
        longest: int = MAX_CRITIQUE_TOKENS,
    ) -> None:
        free()
        data = self.out / f"{name}.jsonl"
        data.write_text("".join(json.dumps(pair_row(pair)) + "\n" for pair in pairs), encoding="utf-8")
        config = TrainConfig.model_validate(
            {
                "base": self.base,
                "data": str(data),
                "critiques": critiques,
                "reward_critiques": reward_critiques,
                "validation_share": self.size.calibration,
                "instruction": INSTRUCTION,
                "max_critique_tokens": longest,
                "max_model_len": MAX_MODEL_LEN,
                "dtype": self.size.dtype,
                "calibration_pairs": 4,
                "objective": {"schedule": schedule, "direct_weight": 0.1}
                | ({} if schedule == "critique" else {"weight": weight}),
                "lora": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
                "trainer": {
                    "num_train_epochs": epochs,
                    "per_device_train_batch_size": 8 if critiques else 16,
                    "gradient_accumulation_steps": 2 if critiques else 1,
                    "learning_rate": rate,
                    "bf16": self.size.dtype == "bfloat16",
                    "eval_strategy": "no",
                    "save_strategy": "no",
                    "load_best_model_at_end": False,
                    "report_to": [],
                    "disable_tqdm": True,
                    "logging_steps": 20,
                },
            }
        )
        train(config, self.out / name, scalar)
        free()

    def writer(self, model: str) -> TransformersWriter:
        free()
        return TransformersWriter(model, max_model_len=MAX_MODEL_LEN, dtype=self.size.dtype)

    def keep(self, name: str, critiques: list[Critique]) -> Path:
        folder = self.out / name if not name.startswith("control") else self.out / f"{name}-critiques"
        write_in_parts(folder, {}, [[c.row() for c in critiques]], list, SCHEMA, name)
        return folder

    def direct(self, name: str, pairs: Sequence[PreferencePair]) -> list[float]:
        """Rewards before any critique: chosen and rejected in turn."""
        tasks = [Task(p.prompt, p.response(side), INSTRUCTION, 0) for p, side in sides_of(pairs)]
        drafts = self.writer(str(self.out / name)).write(tasks, Sampling(1, 0.0, 1, "reward"))
        return [float(d.score or 0.0) for (d,) in drafts]

    def own_answers(self, name: str, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
        """Greedy critiques with the reply in sight, read by rule."""
        folder = name if name == self.base else str(self.out / name)
        tasks = [Task(p.prompt, p.response(side), INSTRUCTION, 0) for p, side in sides_of(pairs)]
        drafts = [d for (d,) in self.writer(folder).write(tasks, Sampling(1, 0.0, MAX_CRITIQUE_TOKENS))]
        critiques = [
            Critique(p.id, side, 0, d.text, None, d.finish_reason, d.tokens, verdict(d.text, p.response(side)))
            for (p, side), d in zip(sides_of(pairs), drafts, strict=True)
        ]
        return described(pairs, critiques) | {"examples": [c.text for c in critiques[:6]]}

    def evaluate(self, name: str, pairs: Sequence[PreferencePair], where: str = "heldout") -> dict[str, Any]:
        writer = self.writer(str(self.out / name))
        tasks = [Task(p.prompt, p.response(side), INSTRUCTION, 7) for p, side in sides_of(pairs)]
        began = time.monotonic()
        drafts = [d for (d,) in writer.write(tasks, Sampling(1, 0.0, MAX_CRITIQUE_TOKENS, "reward"))]
        seconds = time.monotonic() - began
        greedy = [float(d.score or 0.0) for d in drafts]
        critiques = [
            Critique(p.id, side, 0, d.text, d.score, d.finish_reason, d.tokens, verdict(d.text, p.response(side)))
            for (p, side), d in zip(sides_of(pairs), drafts, strict=True)
        ]
        before = [float(d.score or 0.0) for (d,) in writer.write(tasks, Sampling(1, 0.0, 1, "reward"))]
        found = described(pairs, critiques) | {
            "greedy": accuracy(pairs, greedy),
            "direct": accuracy(pairs, before),
            "tokens_a_second": sum(d.tokens for d in drafts) / seconds,
        }
        write_json(self.out / f"{name}-{where}.json", {"greedy": greedy, "direct": before})
        texts = [
            {"text": c.text, "finish_reason": c.finish_reason, "score": c.score, "verdict": c.verdict}
            for c in critiques
        ]
        write_json(self.out / f"{name}-texts{'' if where == 'heldout' else '-' + where}.json", texts)
        return found | ({"scores": greedy} if where != "heldout" else {})

    @torch.inference_mode()
    def teacher_forced(self, name: str, pairs: Sequence[PreferencePair], critiques: Sequence[Critique]) -> list[float]:
        """Rewards after given critiques, one a response."""
        folder = self.out / name
        writer = self.writer(str(folder))
        model, renderer = writer._model, writer._renderer.asking(INSTRUCTION)
        token = Manifest.load(folder).reward_token_id
        groups = by_response(critiques)
        sequences = []
        for pair, side in sides_of(pairs):
            prompt = renderer.open(pair.prompt).render(
                pair.response(side), max_model_len=MAX_MODEL_LEN, max_critique_tokens=MAX_CRITIQUE_TOKENS, truncate=True
            )
            sequences.append(
                prompt.token_ids + critique_tokens(renderer, groups[pair.id, side][0], MAX_CRITIQUE_TOKENS)
            )
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
        scores = [0.0] * len(sequences)
        size = 64 if model.device.type == "cuda" else 8
        for start in range(0, len(order), size):
            places = order[start : start + size]
            width = len(sequences[places[0]])
            ids = torch.tensor([[0] * (width - len(sequences[i])) + sequences[i] for i in places], device=model.device)
            mask = torch.tensor(
                [[0] * (width - len(sequences[i])) + [1] * len(sequences[i]) for i in places], device=model.device
            )
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=2
            ).logits
            for i, score in zip(places, logits[:, 0, token].float().tolist(), strict=True):
                scores[i] = score
        return scores

    # -- the order, and what is left of the time -----------------------------------------------------------------------

    def result(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / f"stage-{name}.json").read_text())
        return found

    def run(self, stages: Sequence[tuple[str, Callable[[], dict[str, Any]], float]]) -> None:
        for name, stage, seconds in stages:
            path = self.out / f"stage-{name}.json"
            left = self.size.budget_s - (time.monotonic() - self.began)
            if not path.is_file() and left > seconds:
                began = time.monotonic()
                try:
                    write_json(path, stage() | {"seconds": round(time.monotonic() - began, 1)})
                except Exception:  # the others go on; those that need it fail as well
                    print(f"== {name} failed:\n{traceback.format_exc()}", flush=True)
                    continue
                shown = {k: v for k, v in self.result(name).items() if k != "examples"}
                print(f"== {name}: {json.dumps(shown)[:1500]}", flush=True)
            elif not path.is_file():
                print(f"== {name}: left for the next call, {left:.0f} s are left", flush=True)
        found = {name: self.result(name) for name, *_ in stages if (self.out / f"stage-{name}.json").is_file()}
        write_json(self.out / "results.json", found)


def task(derive: str) -> CritiqueTask:
    return TASK.model_copy(update={"derive": derive})


def with_answers(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Those whose reference and responses state an answer, which critiques by rule are made from."""
    return [p for p in pairs if all(map(stated_answer, (p.reference or "", p.chosen, p.rejected)))]


def sides_of(pairs: Sequence[PreferencePair]) -> list[tuple[PreferencePair, Any]]:
    return [(pair, side) for pair in pairs for side in SIDES]


def margins(scores: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(scores[0::2], scores[1::2], strict=True)]


def vars_of(a: Any) -> dict[str, float]:
    return {"value": a.value, "low": a.low, "high": a.high, "n": a.n}


def accuracy(pairs: Sequence[PreferencePair], scores: Sequence[float]) -> dict[str, float]:
    return vars_of(pair_accuracy(margins(scores), [pair.group for pair in pairs]))


def right_ones(pairs: Sequence[PreferencePair], critiques: Sequence[Critique], most: int) -> list[Critique]:
    """Those whose own answer is the chosen response's and not the rejected one's, whose verdict says so, that ended."""
    groups = by_response(critiques)
    kept: list[Critique] = []
    for pair in pairs:
        right, wrong = stated_answer(pair.chosen), stated_answer(pair.rejected)
        for side in SIDES:
            agreeing = [
                c
                for c in groups.get((pair.id, side), [])
                if c.finish_reason == "stop"
                and c.verdict == (side == "chosen")
                and (own := own_answer(c.text))
                and equal(right, own)
                and not equal(wrong, own)
            ]
            kept += agreeing[:most]
    return kept


def verdict_accuracy(pairs: Sequence[PreferencePair], critiques: Sequence[Critique]) -> dict[str, float]:
    """Of a verdict (right 1, wrong 0, unreadable 1/2) a response: a tie counts half."""
    groups = by_response(critiques)
    known = [pair for pair in pairs if all((pair.id, side) in groups for side in SIDES)]
    scores = [
        sum({True: 1.0, False: 0.0, None: 0.5}[c.verdict] for c in groups[pair.id, side]) / len(groups[pair.id, side])
        for pair, side in sides_of(known)
    ]
    return accuracy(known, scores)


def described(pairs: Sequence[PreferencePair], critiques: Sequence[Critique]) -> dict[str, Any]:
    groups = by_response(critiques)
    own: dict[str, list[bool]] = {side: [] for side in SIDES}
    copied = []
    for pair, side in sides_of(pairs):
        answer = own_answer(groups[pair.id, side][0].text)
        own[side].append(bool(answer) and equal(stated_answer(pair.chosen), answer))
        if side == "rejected":
            copied.append(bool(answer) and equal(stated_answer(pair.rejected), answer))
    n = len(pairs)
    return {
        "verdicts": verdict_accuracy(pairs, critiques),
        "own answer right beside a right reply": sum(own["chosen"]) / n,
        "own answer right beside a wrong reply": sum(own["rejected"]) / n,
        "copied the wrong reply": sum(copied) / n,
        "verdict unreadable": sum(c.verdict is None for c in critiques) / len(critiques),
        "ended": sum(c.finish_reason == "stop" for c in critiques) / len(critiques),
        "tokens": sum(c.tokens for c in critiques) / len(critiques),
    }


def free() -> None:
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--round2", type=int, default=1200)
    parser.add_argument("--control", type=int, default=1000)
    parser.add_argument("--validation", type=int, default=300)
    parser.add_argument("--heldout", type=int, default=600)
    parser.add_argument("--calibration", type=float, default=0.004)
    parser.add_argument("--style", choices=list(STYLES), default="short sentences", help="way of asking")
    parser.add_argument(
        "--rates", type=float, nargs="*", default=[2e-4, 1e-4, 5e-5], help="learning rates of the scalar"
    )
    parser.add_argument("--stages", nargs="*", help="only these, in this order (all)")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--budget-s", type=float, default=1e9)
    arguments = parser.parse_args()
    e = Experiment(arguments)
    # name, stage, seconds that it may take
    stages: dict[str, tuple[Callable[[], dict[str, Any]], float]] = {  # seconds that each takes on one H200
        "style": (e.style, 40),
        "control": (e.control, 35),
        "scalars": (e.scalars, 45),
        "derive": (e.derive, 45),
        "round1": (e.round1, 30),
        "sample2": (e.sample2, 45),
        "round2": (e.round2, 60),
        "critic": (e.critic, 25),
        "mean4": (e.mean_of_four, 35),
        "zero-shot": (e.zero_shot, 20),
        "matched": (e.matched, 25),
        "claim": (e.claim, 40),
        "shuffled": (e.shuffled_critiques, 20),
        "best-of-n": (e.best_of_n, 40),
        "coupled": (e.coupled, 80),
    }
    e.run([(name, *stages[name]) for name in arguments.stages or stages])


if __name__ == "__main__":
    main()
