"""What a stock vLLM server is asked before it is given work: whether it can carry the readout, and of which checkpoint.

vLLM tells nothing of the weights it serves, so a server is known by a name that it was given with them, and by the
rewards it gives to a few fixed prompts (docs/adr/0009).
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from pydantic_core import from_json, to_json

from ..checks import SelfCheckFailed
from ..logs import printable
from ..self_check import Run, fits_bfloat16, self_check
from .backends import Backend
from .base import Facts, Job
from .readout import CPU_ENGINE_ARGUMENTS, ENGINE_ARGUMENTS, Steps, sampling_parameters

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

_FLOAT32_HEAD = {"hf_overrides": json.dumps({"head_dtype": "float32"})}
GENERATE = "/inference/v1/generate"
_MISSING = -1
_VLLM_MAX_LOGPROBS = 20  # a step, where a server has no other setting
_BAN = -1000.0
_APART = 0.15  # standard deviations of the direct score; float32 and bfloat16 are 0.07 apart (docs/adr/0009)
_TIMEOUT = aiohttp.ClientTimeout(total=10)
_SELF_CHECK_S = 120.0
_FIRST_STEP_TIMEOUT = aiohttp.ClientTimeout(total=120)  # a server under load answers in its turn


class Unreachable(Exception):
    """The server does not answer, or says itself that it is not well: it may come back as it is."""


class Unfit(Exception):
    """The server answers, but must be started in another way. Its arguments are the faults, a sentence each."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a server that passed says of itself.

    Attributes:
        max_model_len: its longest sequence, in tokens.
        rewards: `[prompts]`, direct scores of the fixed prompts.
    """

    max_model_len: int
    rewards: list[float]


def served_name(checkpoint: Checkpoint) -> str:
    """The name by which a server says that it serves this checkpoint, started as `server_command` says."""
    return f"critic-rm-{checkpoint.manifest.version}"


def server_command(checkpoint: Checkpoint) -> str:
    """How to start a server for this checkpoint; the same for every server, but for host and port."""
    arguments = {
        "model": str(checkpoint.folder),
        "served_model_name": served_name(checkpoint),
        "enable_scale_out": True,
        "enable_prompt_tokens_details": True,
        **(
            {"max_logprobs": logprobs}
            if (logprobs := len(checkpoint.manifest.rewards) + 1) > _VLLM_MAX_LOGPROBS
            else {}
        ),
        **ENGINE_ARGUMENTS,
    }
    on_cpu = " ".join(vllm_flags(CPU_ENGINE_ARGUMENTS))
    on_gpu = " ".join(vllm_flags(_FLOAT32_HEAD))
    command = " ".join(["python -m vllm.entrypoints.openai.api_server", *vllm_flags(arguments)])
    return f"{command}\nadding on a GPU: {on_gpu}\nadding on a CPU: {on_cpu}"


def vllm_flags(arguments: dict[str, Any]) -> list[str]:
    """Engine arguments as vLLM's server takes them, quoted for a shell."""
    flags = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags.append(f"--{flag} {shlex.quote(str(value))}")
    return flags


def request_body(token_ids: list[int], parameters: dict[str, Any]) -> bytes:
    """The body of `POST /inference/v1/generate`.

    Without `logprobs` no logit is sent back, and of a step's entries as many as it says, the written token's first:
    one more than there are rewards. vLLM wants as many ids as that, so the first is named twice.
    """
    ids = parameters["logprob_token_ids"]
    ids = [*ids, ids[0]]
    return to_json(
        {"token_ids": token_ids, "sampling_params": {**parameters, "logprob_token_ids": ids, "logprobs": len(ids)}}
    )


def read_logits(choice: dict[str, Any], ids: Sequence[int]) -> list[Steps]:
    """`[rewards]`, of each step. NaN is sent as -9999.

    By id, for a step has an entry a token: a reward's token that was written itself stands first among them.
    """
    content = choice["logprobs"]["content"]
    steps = [{entry["token_id"]: entry["logprob"] for entry in step["top_logprobs"]} for step in content]
    return [
        Steps(
            [token_id if token_id in step else _MISSING for step in steps],
            [math.nan if (logit := step.get(token_id, math.nan)) <= -9999 else logit for step in steps],
        )
        for token_id in ids
    ]


class Checks:
    """The checks for one checkpoint.

    Args:
        max_model_len: the longest sequence that every server must take, in tokens.
        head_float32: whether a server whose LM head computes in bfloat16 is refused; None: only logged.
    """

    def __init__(self, checkpoint: Checkpoint, max_model_len: int | None, head_float32: bool | None = None) -> None:
        self.max_model_len = max_model_len
        self.expected: list[float] | None = None
        self._head_float32 = head_float32
        from criticrm_model.references import fixed_prompts

        self._checkpoint = checkpoint
        self._name = served_name(checkpoint)
        self._tokens = checkpoint.manifest.reward_tokens
        self._stop_token_ids = checkpoint.renderer.stop_token_ids
        self._least_log_probability = -math.log(checkpoint.config.vocab_size)
        self._tolerance = _APART * checkpoint.manifest.direct_std
        self._prompts = fixed_prompts(checkpoint.renderer)

    async def alive(self, session: aiohttp.ClientSession, server: Backend) -> int:
        """Whether it still is well and still has the checkpoint's name; its longest sequence, in tokens.

        Raises:
            Unreachable, Unfit
        """
        try:
            async with session.get(f"{server.url}/health", timeout=_TIMEOUT) as health:
                if health.status >= 500:
                    raise Unreachable(f"/health returns {health.status}")
            async with session.get(f"{server.url}/v1/models", timeout=_TIMEOUT) as models:
                if models.status == 401:
                    raise Unfit("it refuses the gateway's key: set CRITICRM_REMOTE_API_KEY to its --api-key")
                if models.status != 200:
                    raise Unfit(f"/v1/models returns {models.status}: this is no vLLM server")
                served = {model["id"]: model["max_model_len"] for model in from_json(await models.read())["data"]}
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(describe_error(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Unfit("/v1/models does not return what vLLM returns") from error
        if self._name not in served:
            raise Unfit(
                f"it serves {', '.join(map(repr, served))} and not {self._name!r}: it has another checkpoint, or was "
                "started without --served-model-name"
            )
        length = int(served[self._name])
        if self.max_model_len and length < self.max_model_len:
            raise Unfit(
                f"its max_model_len {length} is less than the gateway's, {self.max_model_len}: raise --max-model-len"
            )
        return length

    async def probe(self, session: aiohttp.ClientSession, server: Backend, run: Run) -> Probe:
        """All that can be checked of one server.

        Args:
            run: has it do a job.

        Raises:
            Unreachable
            Unfit: all that is wrong.
        """
        faults: list[str] = []
        length = 0
        try:
            length = await self.alive(session, server)
        except Unfit as unfit:
            faults += unfit.args
        try:
            steps = await asyncio.gather(*(self._first_step(session, server, ids) for ids in self._prompts))
        except Unfit as unfit:
            raise Unfit(*dict.fromkeys([*faults, *unfit.args])) from unfit
        scores = [self._tokens.score(logits) for _, logits in steps]
        rewards = [logit for _, logits in steps for logit in logits]
        # The likeliest token's, were it not for the ban. GPT-2's logits are all far below, other models' above.
        log_probabilities = all(self._least_log_probability <= max(written, *logits) <= 0 for written, logits in steps)
        if log_probabilities or any(reward < _BAN / 2 for reward in rewards):
            faults.append("its log-probabilities are not raw logits: start it with --logprobs-mode raw_logits")
        elif not all(map(math.isfinite, rewards)):
            faults.append(f"its rewards are not finite: {rewards}")
        elif apart := self.apart(scores):
            faults.append(apart)
        if all(map(fits_bfloat16, rewards)) and self._head_float32 is not False:
            rounded = f"its rewards are rounded to bfloat16: start it with {' '.join(vllm_flags(_FLOAT32_HEAD))}"
            if self._head_float32:
                faults.append(rounded)
            else:
                logger.warning("%s: %s, or start this gateway with --head-float32 false", server.url, rounded)
        if faults:
            raise Unfit(*faults)
        try:
            async with asyncio.timeout(_SELF_CHECK_S):
                await self_check(run, Facts(), self._checkpoint, length)
        except SelfCheckFailed as error:
            raise Unfit(*error.faults) from error
        except TimeoutError as error:
            raise Unreachable(f"its self-check took more than {_SELF_CHECK_S:g} s") from error
        return Probe(length, scores)

    def apart(self, rewards: Sequence[float]) -> str:
        """How these differ from the expected rewards, if they do by more than precision explains."""
        if self.expected is None or self._checkpoint.manifest.references is not None:  # those say it better
            return ""
        distance = math.dist(rewards, self.expected) / math.sqrt(len(rewards))
        if distance <= self._tolerance:
            return ""
        return (
            f"its rewards are {distance:.3g} from those of the servers before it (root mean square over "
            f"{len(rewards)} fixed prompts; {self._tolerance:.3g} is the limit): it serves other weights"
        )

    async def _first_step(
        self, session: aiohttp.ClientSession, server: Backend, token_ids: list[int]
    ) -> tuple[float, list[float]]:
        """The logits of the token that is written after a prompt, and of the rewards, `[rewards]`."""
        job = Job(token_ids, n=1, max_tokens=1, temperature=0.0, seed=None)
        parameters = sampling_parameters(job, self._tokens, self._stop_token_ids)
        # A smaller ban, since below -9999 nothing is told apart: where it is seen, the readout is not the raw logit.
        parameters["logit_bias"] = dict.fromkeys(self._tokens.ids, _BAN)
        body = request_body(token_ids, parameters)
        headers = {"Content-Type": "application/json"}
        try:
            async with session.post(
                server.url + GENERATE, data=body, headers=headers, timeout=_FIRST_STEP_TIMEOUT
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(describe_error(error)) from error
        if answer.status in (403, 404):
            raise Unfit(f"{GENERATE} answers {answer.status}: start it with --enable-scale-out")
        if answer.status == 401:
            raise Unfit("it refuses the gateway's key: set CRITICRM_REMOTE_API_KEY to its --api-key")
        if answer.status >= 500:
            raise Unreachable(f"{GENERATE} answers {answer.status}: {excerpt(content)}")
        if answer.status != 200:
            raise Unfit(f"it refuses to give the reward token's logit: {excerpt(content)}")
        try:
            choice = from_json(content)["choices"][0]
            entries = read_logits(choice, self._tokens.ids)
            found = [
                (token_id, logit) for one in entries for token_id, logit in zip(one.token_ids, one.logits, strict=True)
            ]
            written = float(choice["logprobs"]["content"][0]["logprob"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise Unfit(f"{GENERATE} does not answer as vLLM does: {excerpt(content)}") from error
        if [token_id for token_id, _ in found] != list(self._tokens.ids):
            raise Unfit("it does not give the reward token's logit")
        return written, [logit for _, logit in found]


def excerpt(content: bytes) -> str:
    return printable(content[:300].decode(errors="replace"))


def describe_error(error: Exception) -> str:
    """What went wrong with a connection; aiohttp's message begins with how it was to be made."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error.os_error.strerror or error.os_error)
    return str(error) or type(error).__name__
