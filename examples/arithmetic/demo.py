"""A Critic-RM against a scalar reward model, from nothing, on two cores: `make demo`.

A small model is asked to check chains of arithmetic. It can work most of them out, but not with a reply in sight: it
copies the reply. The demo samples derivations without the reply, keeps those that agree with the label, trains a critic
that derives the result beside any reply and a reward that is read after its critique, tunes a scalar reward model on
the same pairs, serves both with vLLM, and compares them on pairs that neither has seen.

    python examples/arithmetic/demo.py --out demo                 # small: half an hour
    python examples/arithmetic/demo.py --out full --setting full  # three seeds, two rounds, shares of the data: hours

Every step is a `criticrm` command, which is printed before it runs. Called again it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from chains import make_pairs, write_pairs

HERE = Path(__file__).parent
TASK = HERE / "check-by-solving.yaml"
RATES = (2e-4, 1e-3)  # of the scalar: what validation pairs prefer is the baseline
_TEST_SEED = 1_000_003


@dataclass(frozen=True, slots=True)
class Setting:
    """Sizes of the experiment.

    Attributes:
        training, validation, test: pairs.
        steps: the fewest and the most of a chain.
        samples: critiques a response in each round.
        scalar_epochs: of the scalar, which keeps its best epoch; the critic has one.
        shares: of the training pairs, each with a critic and a scalar of its own.
        mean_of: critiques a response in the test; 1 is the greedy one alone.
    """

    training: int
    validation: int
    test: int
    steps: tuple[int, int]
    rounds: int
    samples: int
    scalar_epochs: int
    seeds: tuple[int, ...]
    shares: tuple[float, ...]
    mean_of: int


SETTINGS = {
    "small": Setting(160, 60, 120, (2, 3), 1, 2, 1, (1,), (1.0,), 1),
    "full": Setting(1500, 300, 2000, (2, 4), 2, 4, 2, (1, 2, 3), (0.1, 0.25, 0.5, 1.0), 8),
}


@dataclass(frozen=True, slots=True)
class Arm:
    """A critic and a scalar, trained on the same share of the pairs with the same seed, in a folder of their own."""

    setting: Setting
    folder: Path
    seed: int
    share: float

    def run(self) -> None:
        self._write_pairs()
        self._train_critic()
        scalar = self._tune_scalar()
        self._evaluate(scalar, "scalar-test", "--direct-only")
        samples = [f"--samples={self.setting.mean_of}"] if self.setting.mean_of > 1 else []
        self._evaluate(self.critic, "critic-test", f"--against=scalar={self.folder / 'scalar-test'}", *samples)

    @property
    def test(self) -> Path:
        return self.folder / "test.jsonl"

    @property
    def _last_round(self) -> Path:
        return self.folder / "rounds" / f"round-{self.setting.rounds}"

    @property
    def critic(self) -> Path:
        return self._last_round / "critic"

    def _write_pairs(self) -> None:
        s = self.setting
        self.folder.mkdir(parents=True, exist_ok=True)
        test = make_pairs(s.test, _TEST_SEED, s.steps)  # the same for all seeds
        write_pairs(self.test, test)
        asked = {row["prompt"] for row in test}
        rows = make_pairs(s.training + s.validation, self.seed, s.steps)
        write_pairs(self.folder / "pairs.jsonl", [row for row in rows if row["prompt"] not in asked])

    def _train_critic(self) -> None:
        s = self.setting
        config = _read(HERE / "rounds.yaml")
        config |= {
            "data": str(self.folder / "pairs.jsonl"),
            "tasks": {"default": str(TASK)},
            "rounds": s.rounds,
            "limit": round(self.share * s.training),
            "validation_pairs": s.validation,
        }
        config["sample"]["n"] = s.samples
        config["train"]["validation_share"] = s.validation / (s.training + s.validation)
        config["train"]["trainer"]["seed"] = self.seed
        criticrm("rounds", str(_write(self.folder / "rounds.yaml", config)), f"--out={self.folder / 'rounds'}")

    def _tune_scalar(self) -> Path:
        """On the critic's training pairs: the rate, and of each rate the epoch, that does best on validation pairs."""
        matched = _read(self._last_round / "critic.yaml")
        accuracies: dict[Path, float] = {}
        for rate in RATES:
            out = self.folder / f"scalar-{rate:g}"
            changed = {
                "num_train_epochs": self.setting.scalar_epochs,
                "learning_rate": rate,
                "eval_strategy": "epoch",
                "save_strategy": "epoch",
                "load_best_model_at_end": True,
            }
            config = matched | {"trainer": matched["trainer"] | changed}
            file = _write(out.with_name(f"{out.name}.yaml"), config)
            criticrm("train", str(file), f"--out={out}", "--scalar")
            accuracies[out] = float(json.loads((out / "summary.json").read_text(encoding="utf-8"))["best"])
        best = max(accuracies, key=lambda out: accuracies[out])
        found = ", ".join(f"{out.name} {accuracy:.3f}" for out, accuracy in accuracies.items())
        say(f"{best.name} is the baseline; accuracies on validation pairs: {found}")
        return best

    def _evaluate(self, model: Path, name: str, *options: str) -> None:
        criticrm("evaluate", str(self.test), f"--model={model}", f"--out={self.folder / name}", *options)


def criticrm(*arguments: str) -> None:
    say(f"$ criticrm {' '.join(arguments)}")
    began = time.monotonic()
    if subprocess.run([sys.executable, "-m", "criticrm_server", *arguments], check=False).returncode:
        raise SystemExit(
            "this command failed, for the reason above; the same call goes on from here, and another --out starts anew"
        )
    say(f"  {(time.monotonic() - began) / 60:.1f} minutes")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


def _write(file: Path, config: dict[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all that is made (demo)")
    parser.add_argument("--setting", choices=list(SETTINGS), default="small")
    arguments = parser.parse_args()
    setting = SETTINGS[arguments.setting]
    began = time.monotonic()
    arms = [
        Arm(setting, arguments.out / f"seed-{seed}" / f"{share:.0%}", seed, share)
        for share in setting.shares
        for seed in setting.seeds
    ]
    for arm in arms:
        arm.run()
    page = arguments.out / "page.html"
    named = [
        f"--{option}={kind}{'' if len(setting.shares) == 1 else f'@{arm.share:.0%}'}={folder}"
        for arm in arms
        for kind in ("scalar", "critic")
        for option, folder in (("evaluations", arm.folder / f"{kind}-test"),)
    ]
    criticrm("report", str(page), *named)
    say(f"{(time.monotonic() - began) / 60:.0f} minutes; the plots are in {page}")


if __name__ == "__main__":
    main()
