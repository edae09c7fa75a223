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

from measures import accuracy, margins, right_ones, sides_of, vars_of, verdict_accuracy, with_answers
from workbench import INSTRUCTION, SHORT, TASK, Workbench

from criticrm_model.files import write_json
from criticrm_training.answers import answer_text, equal, stated_answer
from criticrm_training.control_critiques import oracle_critiques, shuffled
from criticrm_training.critiques.blind import asking_to_derive, derived_answer, sample_blind
from criticrm_training.critiques.critique_task import CritiqueTask, Tasks
from criticrm_training.critiques.records import Critique, read_critiques
from criticrm_training.critiques.sample import SampleSettings, sample
from criticrm_training.critiques.verdict import DEFAULT_RULE
from criticrm_training.critiques.writers import Conversation, Sampling, WritingTask
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.stats import difference, outcomes, pair_accuracy

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
CONTROL = 0.95


def oracle(pairs: Sequence[PreferencePair]) -> list[Critique]:
    return oracle_critiques(pairs, {pair.category: TASK.verdict or DEFAULT_RULE for pair in pairs})


class Experiment(Workbench):
    def control(self) -> dict[str, Any]:
        pairs, held_out = with_answers(self.train)[: self.size.control], with_answers(self.heldout)
        found: dict[str, Any] = {}
        for name, of in (
            ("oracle", oracle),
            ("shuffled", lambda pairs: shuffled(pairs, oracle(pairs))),
        ):
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
            drafts = [d for (d,) in self.writer(self.base).answer(asked, Sampling(1, 0.0, self.size.critique_tokens))]
            right = [
                equal(stated_answer(p.chosen), derived_answer(d)) for p, d in zip(self.validation, drafts, strict=True)
            ]
            tokens = sum(d.tokens for d in drafts) / len(drafts)
            found[name] = {"right": sum(right) / len(right), "tokens": tokens, "examples": [d.text for d in drafts[:3]]}
        short = [name for name in found if found[name]["tokens"] <= LONGEST_MEAN] or list(found)
        return found | {"chosen": max(short, key=lambda name: found[name]["right"])}

    def derive(self) -> dict[str, Any]:
        tasks = Tasks({"default": task(STYLES[self.size.style])})
        settings = SampleSettings(4, 0.7, self.size.critique_tokens)
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
        settings = SampleSettings(4, 0.7, self.size.critique_tokens, "verdict")
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
        tasks = [WritingTask(p.prompt, p.response(side), INSTRUCTION, 7) for p, side in sides_of(self.heldout)]
        several = writer.write(tasks, Sampling(4, 0.7, self.size.critique_tokens, "reward"))
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
            Critique(pair.id, side, 0, row["text"], None, row["finish_reason"], 0, row["verdict"])
            for (pair, side), row in zip(
                sides_of(self.heldout), json.loads((self.out / "round2-texts.json").read_text()), strict=True
            )
        ]
        mixed = shuffled(self.heldout, critiques)
        return accuracy(self.heldout, self.teacher_forced("round2", self.heldout, mixed))

    def coupled(self) -> dict[str, Any]:
        self.fit("coupled", self.train, critiques=self.out / "kept2", weight=0.5)
        return self.evaluate("coupled", self.heldout)

    def best_of_n(self) -> dict[str, Any]:
        rows = [json.loads(line) for line in (self.size.data / "bestof.jsonl").read_text("utf-8").splitlines()]
        rows = rows[: self.size.validation]
        writer = self.writer(str(self.out / "round2"))
        tasks = [
            WritingTask(tuple(row["prompt"]), response, INSTRUCTION, 0)
            for row in rows
            for response in row["responses"][:8]
        ]
        rewards = iter(
            [d.score or 0.0 for (d,) in writer.write(tasks, Sampling(1, 0.0, self.size.critique_tokens, "reward"))]
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
    parser.add_argument("--critique-tokens", type=int, default=320, help="longest critique, in tokens (320)")
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
