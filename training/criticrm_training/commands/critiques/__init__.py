"""`criticrm critiques`: sample, filter, refine."""

from __future__ import annotations

import logging

from pydantic import Field
from pydantic_settings import BaseSettings, CliSubCommand, SettingsConfigDict, get_subcommand

from .filter import Filter
from .refine import Refine
from .sample import Sample


class Critiques(BaseSettings):
    """Write, filter and refine the critiques that a Critic-RM learns from."""

    model_config = SettingsConfigDict(env_prefix="CRITICRM_CRITIQUES_", cli_kebab_case=True)

    sample: CliSubCommand[Sample] = Field(description="Write several critiques of every response.")
    filter: CliSubCommand[Filter] = Field(description="Keep the critiques that agree with the labels.")
    refine: CliSubCommand[Refine] = Field(description="Merge the critiques of a response, or keep the best.")

    def run(self) -> int:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        step = get_subcommand(self)
        assert isinstance(step, Sample | Filter | Refine)
        return step.run()
