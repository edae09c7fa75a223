"""`criticrm probe`."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from .options import PairOptions


class Probe(PairOptions):
    """Probe a Critic-RM for bias: length, responses without content, padding. Each pair takes 17 critiques.

    The model is served for as long as it takes, or a service that runs is asked (--url). A second run with the same
    inputs goes on where the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_PROBE_", frozen=True, cli_kebab_case=True)

    def run(self) -> int:
        from ..evaluation.probes import probe

        probe(self.pairs(), self.out, **self.service())
        return 0
