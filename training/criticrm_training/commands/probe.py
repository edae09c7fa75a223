"""`criticrm probe`."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt
from pydantic_settings import SettingsConfigDict

from .options import SAMPLES_ONE, PairOptions


class Probe(PairOptions):
    """Probe a Critic-RM for bias: length, responses without content, padding.

    Each pair takes 17 critiques, and 17 for each of --samples.

    --model is served for the time of the run; --url uses a service that runs already. A second run with the same
    inputs continues where the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_PROBE_", frozen=True, cli_kebab_case=True)

    samples: NonNegativeInt = Field(0, description=SAMPLES_ONE)

    def run(self) -> int:
        from ..evaluation.probes import probe

        probe(self.pairs(), self.out, samples=self.samples, **self.service())
        return 0
