"""The checks of an engine's readout: what each compares, how it came out, and the failure of some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .errors import EngineFailed

CheckName = Literal[
    "template", "references", "rewards", "together", "cached", "decode", "samples", "chunked", "ban", "head"
]

# What each check compares, and what is wrong where it fails.
COMPARED: dict[CheckName, tuple[str, str]] = {
    "template": (
        "token ids of the fixed conversations, with those at the export",
        "the chat template or the tokenizer gives other token ids than when the checkpoint was made",
    ),
    "references": (
        "rewards of fixed prompts and fixed critiques, with those of transformers at the export",
        "these are not the rewards of this checkpoint: other weights, or no raw logits",
    ),
    "rewards": (
        "each of several rewards, in its deviations, with those of transformers at the export",
        "the rewards that make the score are not those of this checkpoint",
    ),
    "together": ("the prompts at once, with one at a time", "requests in one batch change each other's rewards"),
    "cached": ("the prompts again, with before", "a prompt that is read from the prefix cache gets another reward"),
    "decode": (
        "rewards after greedy critiques, with a prefill of the same tokens",
        "the reward after a critique is not that of its last position",
    ),
    "samples": (
        "rewards after sampled critiques, with a prefill of the same tokens",
        "the rewards of several critiques of one request are mixed up, or not raw logits",
    ),
    "chunked": (
        "rewards of a prompt longer than a step, with a prefill of its end alone",
        "a prompt that is prefilled in chunks gets another reward",
    ),
    "ban": ("rewards under two bans of its token, with none", "the ban of the reward token changes the reward"),
    "head": (
        "whether rewards have float32's precision",
        "the LM head computes in bfloat16, but the settings require float32",
    ),
}


class Check(BaseModel):
    """One check: n rewards compared."""

    model_config = ConfigDict(frozen=True)

    name: CheckName
    compares: str
    n: int
    rms: float = Field(description="Root mean square of the differences, in reward units.")
    largest: float = Field(description="Largest difference, in reward units.")
    limit: float = Field(description="Largest root mean square with which the check passes.")
    passed: bool

    @property
    def fault(self) -> str:
        """Why the server can't be used, if it failed."""
        if self.passed:
            return ""
        how_far = f" (rms {self.rms:.3g}, limit {self.limit:.3g}, n {self.n})" if self.n else ""
        return f"{self.name}: {COMPARED[self.name][1]}{how_far}"


class SelfCheckFailed(EngineFailed):
    """The engine reads rewards wrongly.

    Attributes:
        checks: all that was checked.
        faults: a sentence for each check that failed.
    """

    def __init__(self, checks: Sequence[Check], faults: Sequence[str]) -> None:
        self.checks, self.faults = list(checks), list(faults)
        advice = "rewards would be wrong, so this server does not start; --skip-self-check starts it nevertheless"
        super().__init__("\n  ".join(["the self-check failed:", *faults, *table(checks), advice]))


def table(checks: Sequence[Check]) -> list[str]:
    """As lines: a header, then a line a check."""
    rows = [
        f"{f.name:<12}{f.n:>4}{f.rms:>10.2g}{f.largest:>10.2g}{f.limit:>10.2g}  {'ok' if f.passed else 'FAILED':<6}  "
        f"{f.compares}"
        for f in checks
    ]
    return [f"{'check':<12}{'n':>4}{'rms':>10}{'largest':>10}{'limit':>10}", *rows]
