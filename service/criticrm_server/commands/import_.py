"""`criticrm import`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from pydantic import Field, NonNegativeInt
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict


class Import(BaseSettings):
    """Make a checkpoint of a public scalar reward model, with exactly its rewards (docs/import.md).

    Its linear head becomes the reward token's row. The rewards of a few conversations are compared with the original
    class's before the command ends. What can't be exact is refused with the reason. The checkpoint writes no critiques
    until `criticrm train` has started from it.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_IMPORT_", frozen=True, cli_kebab_case=True)

    source: CliPositionalArg[str] = Field(description="Folder or hub name (owner/name) of the reward model.")
    out: Path = Field(description="Folder for the checkpoint.")
    revision: str | None = Field(None, description="On the hub: a branch, a tag or a commit.")
    tokenizer: str | None = Field(
        None, description="Folder or hub name of its tokenizer, where it has none or one that needs code of its own."
    )
    chat_template: Path | None = Field(
        None, description="File with its chat template (Jinja), where its tokenizer has none."
    )
    lm_head: str | None = Field(
        None,
        description="Folder or hub name of the language model that it was trained from: its LM head is taken where the "
        "reward model has none. Only `criticrm train` needs it.",
    )
    reward_token_id: NonNegativeInt | None = Field(
        None,
        description="Token whose logit is the reward, for such causal LMs (0 for Llama-3.1-Nemotron-70B-Reward-HF).",
    )

    weights: dict[str, float] | None = Field(
        None,
        description="Weight of each objective in the score, for models with several linear ones (ArmoRM), in the "
        "order of their rows: --weights helpfulness=0.7 --weights correctness=0.3. 0: the objective is only reported.",
    )

    def run(self) -> int:
        from transformers.utils.logging import set_verbosity_error

        from criticrm_model.importing.importer import Source, import_model

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        set_verbosity_error()  # a table of the weights that a classifier has and a causal LM has not
        source = Source(
            self.source,
            self.revision,
            self.tokenizer,
            self.chat_template,
            self.lm_head,
            self.reward_token_id,
            self.weights,
        )
        imported = import_model(source, self.out)
        manifest = imported.manifest
        sys.stdout.write(
            f"wrote {self.out}, version {manifest.version}: its rewards differ from those of {self.source} by "
            f"{imported.largest:.1e} at the most\n"
        )
        if not manifest.lm_head:
            sys.stdout.write(
                "it has no LM head, so no critic can be trained from it; for that, import it with --lm-head and the "
                "language model that it was trained from\n"
            )
        return 0
