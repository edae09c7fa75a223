"""Options that several commands share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, CliPositionalArg

from criticrm_model.manifest import DEFAULT_NAME

if TYPE_CHECKING:
    from ..critiques.writers import Writer
    from ..data.pairs import PreferencePair
    from ..evaluation.policies.policy import PolicySettings


PAIRS = (
    "Preference pairs: a .jsonl or .parquet file, a folder, or a Hugging Face dataset owner/name[:subset][@split], "
    "with prompt, chosen and rejected; optional id and category."
)
QUESTIONS = (
    "Questions: a .jsonl or .parquet file, a folder, or a Hugging Face dataset owner/name[:subset][@split]; rows with "
    "prompt and reference, a solution that ends in its answer; optional id. Others are left out."
)
SAMPLES = (
    "Also report the accuracy of the mean reward over m sampled critiques of a response, for each m of the list: "
    "--samples 1,4,8 samples 8 critiques and reports the expected accuracy of a mean over 1, 4 and 8 of them."
)
SAMPLES_ONE = "Also use the mean reward over this many sampled critiques of a response, besides the greedy one (0: no)."
FRONTIER = (
    'Also report accuracy against tokens where only close responses get a critique (`critique: {"when": "close"}`): '
    "over margins, ends of critiques (`critique.stop`), and means over --samples."
)
RULE = (
    "The critique task, whose rule parses answers and verdicts from critiques: 'reasoning', 'general' (without a rule) "
    "or the path of your own .yaml file. CATEGORY=TASK sets it for the pairs of one category, 'default' for all "
    "others; repeat the option for several."
)
AGAINST = (
    "Another finished `evaluate` or `judge` of the same pairs, with a name, for a comparison pair by pair: "
    "--against scalar=FOLDER. Repeatable. Folders with one name are training runs of one arm: the interval then covers "
    "runs as well as questions. Each method is compared with the same method of the other, and so are the headline "
    "numbers (a critic's greedy critique, a scalar's direct score, a judge's mean)."
)


def _check_named(folders: tuple[str, ...]) -> tuple[str, ...]:
    for folder in folders:
        name, separator, path = folder.partition("=")
        if not (name and separator and path):
            raise ValueError(f"{folder!r} is not NAME=FOLDER")
    if twice := {folder for folder in folders if folders.count(folder) > 1}:
        raise ValueError(f"duplicate folders: {', '.join(sorted(twice))}; one run would count as two")
    return folders


# NAME=FOLDER, several times; a mapping would keep the last folder of a name, and silently drop the others.
NamedFolders = Annotated[tuple[str, ...], AfterValidator(_check_named)]


def by_name(folders: tuple[str, ...]) -> dict[str, list[Path]]:
    """The folders of each name, in their order.

    >>> by_name(("a=one", "b=two", "a=three"))["a"] == [Path("one"), Path("three")]
    True
    """
    found: dict[str, list[Path]] = {}
    for folder in folders:
        name, _, path = folder.partition("=")
        found.setdefault(name, []).append(Path(path))
    return found


class ServiceOptions(BaseSettings):
    """Which service scores: one that runs, or one started for the run."""

    model: str = Field(DEFAULT_NAME, description="The Critic-RM: 'default', a checkpoint folder or a hub name.")
    url: str | None = Field(None, description="Address of a `criticrm serve` that runs already, instead of --model.")
    key: SecretStr | None = Field(None, description="API key for the service at --url.")
    concurrency: PositiveInt = Field(32, description="Most requests in flight to the service.")

    def service(self) -> dict[str, Any]:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        key = self.key.get_secret_value() if self.key else None
        return {"model": self.model, "url": self.url, "key": key, "concurrency": self.concurrency}


class PairOptions(ServiceOptions):
    """On preference pairs."""

    data: CliPositionalArg[str] = Field(description=PAIRS)
    out: Path = Field(description="Folder for the scores and the report.")
    limit: NonNegativeInt = Field(
        0, description="Use only this many pairs, chosen by the hash of their question (0: all)."
    )

    def pairs(self) -> list[PreferencePair]:
        from ..data.pairs import read_pairs
        from ..data.splits import in_question_order

        logging.basicConfig(level=logging.INFO, format="%(message)s")  # reading counts what it drops
        pairs = in_question_order(read_pairs(self.data))
        return pairs[: self.limit] if self.limit else pairs


class PolicyOptions(ServiceOptions):
    """Who answers, and who judges."""

    data: CliPositionalArg[str] = Field(description=QUESTIONS)
    out: Path = Field(
        description="Folder for every stage and the report; a second run continues where the first stopped."
    )
    policy_endpoint: str | None = Field(
        None,
        description="URL, up to /v1, of an OpenAI-compatible server of the policy, instead of vLLM on this machine.",
    )
    policy_key: SecretStr | None = Field(None, description="API key for --policy-endpoint.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Precision of the policy.")
    max_model_len: PositiveInt = Field(4096, description="Longest conversation of the policy, in tokens.")
    max_tokens: PositiveInt = Field(512, description="Longest answer of the policy, in tokens.")
    limit: NonNegativeInt = Field(0, description="Use only this many questions, chosen by hash (0: all).")

    def settings_of(self, policy: str) -> PolicySettings:
        from ..evaluation.policies.policy import PolicySettings

        return PolicySettings(
            policy,
            endpoint=self.policy_endpoint,
            key=self.policy_key.get_secret_value() if self.policy_key else None,
            concurrency=self.concurrency,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
        )


class WriterOptions(BaseModel):
    """Who writes."""

    model: str = Field(
        DEFAULT_NAME,
        description="The model that writes: 'default', 'default-base' (what that was trained from), a folder or a hub "
        "name; with --endpoint, its name.",
    )
    endpoint: str | None = Field(
        None, description="URL, up to /v1, of an OpenAI-compatible server that writes, instead of vLLM in this process."
    )
    key: SecretStr | None = Field(None, description="API key for --endpoint.")
    writer: Literal["vllm", "transformers"] | None = Field(
        None,
        description="Library that runs the model in this process; transformers is slower. Default: vllm "
        "where it is installed, else transformers.",
    )
    concurrency: PositiveInt = Field(32, description="Most requests in flight to the endpoint.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Precision of the model.")
    max_model_len: PositiveInt = Field(
        4096,
        description="Longest prompt plus critique, in tokens. Longer prompts are cut as in the service, counted and "
        "reported. A model with a shorter limit needs a smaller number.",
    )
    out: Path = Field(description="Folder for the Parquet parts; a second run continues where the first stopped.")
    limit: NonNegativeInt = Field(
        0, description="Use only this many pairs, chosen by the hash of their question (0: all)."
    )

    def critic(self) -> Writer:
        from ..critiques.open_writer import open_writer

        return open_writer(
            self.model,
            endpoint=self.endpoint,
            key=self.key.get_secret_value() if self.key else None,
            concurrency=self.concurrency,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
            writer=self.writer,
        )

    def run_on(self, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
        """What the run depends on, of these settings; an endpoint has its own precision and length."""
        from ..data.pairs import pairs_sha256

        here = {} if self.endpoint else {"dtype": self.dtype, "max_model_len": self.max_model_len}
        return here | {"pairs": pairs_sha256(pairs)}

    def pairs(self, data: str) -> list[PreferencePair]:
        from ..data.pairs import read_pairs
        from ..data.splits import in_question_order

        pairs = in_question_order(read_pairs(data))
        return pairs[: self.limit] if self.limit else pairs
