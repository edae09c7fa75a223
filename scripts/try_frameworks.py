"""The frameworks' own client code against a live Critic-RM service, their rewards beside those of `/score`.

Installs each framework into a folder without its dependencies (gigabytes that its client part does not import) but
for the few small ones named here, and runs each in a process of its own. `try_trl.py` does the same with a training.

examples:
  criticrm serve default --dtype float32      # in bfloat16, one conversation's reward varies with what runs beside it
  python scripts/try_frameworks.py --url http://127.0.0.1:8000
  CRITICRM_KEY=KEY python scripts/try_frameworks.py --url http://127.0.0.1:8000 --packages folder openrlhf verl
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from criticrm_client import CriticRM
from criticrm_client.rewards import environment

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.tiny import make_tokenizer

PROMPT = "Why is the sky blue?"
RESPONSES = ["Air scatters blue light more than red light.", "It reflects the sea."]
MESSAGES = [{"role": "user", "content": PROMPT}]
CRITIQUE = {"max_tokens": 32}
TOLERANCE = 1e-3


def openrlhf(url: str, _: str) -> list[float]:
    """`SingleTurnAgentExecutor` asks `/get_reward` of what its engine, here a script, has written."""
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    tokenizer = make_tokenizer()
    prompt = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)

    class Written:
        def __init__(self, text: str) -> None:
            self.text = text + "<|im_end|>"

        async def generate(self, *_: Any, **__: Any) -> Any:
            token_ids = tokenizer(self.text, add_special_tokens=False)["input_ids"]
            output = types.SimpleNamespace(token_ids=token_ids, text=self.text, finish_reason="stop", logprobs=None)
            return types.SimpleNamespace(outputs=[output])

    async def run() -> list[float]:
        executor = SingleTurnAgentExecutor([f"{with_key(url)}/get_reward?max_tokens={CRITIQUE['max_tokens']}"])
        params = types.SimpleNamespace(max_tokens=64, logprobs=None)
        found = [await executor.execute(prompt, "", params, 512, tokenizer, Written(text)) for text in RESPONSES]
        assert all(sample["extra_logs"]["critique_tokens"] for sample in found), found
        return [sample["reward"][0] for sample in found]

    return asyncio.run(run())


def verl(url: str, how: str) -> list[float]:
    """`RewardLoopWorker` of verl's own configuration, with `compute_score`, or by `/classify`."""
    import numpy
    import torch
    from hydra import compose, initialize_config_module
    from tensordict import TensorDict
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
    from verl.protocol import DataProto

    tokenizer = make_tokenizer()
    with tempfile.TemporaryDirectory() as folder, initialize_config_module("verl.trainer.config", version_base=None):
        tokenizer.save_pretrained(folder)
        overrides = [f"actor_rollout_ref.model.path={folder}", "actor_rollout_ref.rollout.name=vllm"]
        if how == "compute_score":
            path = "pkg://criticrm_client.rewards.verl"
            overrides += [f"reward.custom_reward_function.{k}={v}" for k, v in (("path", path), ("name", how))]
        else:
            overrides += ["reward.reward_model.enable=True", f"reward.reward_model.model_path={folder}"]
            overrides += ["reward.reward_model.rollout.name=vllm"]
        config = compose("ppo_trainer", overrides=overrides)

        async def run() -> list[float]:
            worker = RewardLoopWorker(config, with_key(url).removeprefix("http://"))
            if how == "classify":  # verl has no setting for the route's options
                post = worker._post_request
                query = f"?max_tokens={CRITIQUE['max_tokens']}"
                worker._post_request = lambda payload, endpoint: post(payload, endpoint + query)
            return [(await worker.compute_score(sample(text)))["reward_score"] for text in RESPONSES]

        def sample(text: str) -> DataProto:
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
            columns = {
                "raw_prompt": MESSAGES,
                "data_source": "made up",
                "reward_model": {"ground_truth": ""},
                "extra_info": {"prompt": MESSAGES},
            }
            arrays = {name: numpy.empty(1, dtype=object) for name in columns}
            for name, value in columns.items():
                arrays[name][0] = value
            batch = TensorDict({"responses": ids, "attention_mask": torch.ones_like(ids)}, batch_size=1)
            return DataProto(batch=batch, non_tensor_batch=arrays)

        return asyncio.run(run())


def ms_swift(_url: str, _: str) -> list[float]:
    """`compute_rewards_per_func` with the plugin that docs/frameworks/ms-swift.md shows."""
    import torch
    from swift.rewards import orms
    from swift.rl_core.data import GRPOSample
    from swift.rl_core.grpo_algorithm import compute_rewards_per_func

    from criticrm_client.rewards.ms_swift import CriticRMORM

    orms["critic_rm"] = CriticRMORM
    rows = [
        {"messages": [*MESSAGES, {"role": "assistant", "content": text}], "prompt_id": "p", "request_id": text}
        for text in RESPONSES
    ]
    samples = [GRPOSample.from_row(row) for row in rows]
    rewards = compute_rewards_per_func(samples, [orms["critic_rm"](args=None)], [None], torch.device("cpu"))
    return [float(reward) for reward in rewards[:, 0]]


def llama_factory(url: str, _: str) -> list[float]:
    """`get_rewards_from_server`, a batch of decoded texts."""
    bare("llamafactory", "llamafactory.train", "llamafactory.train.ppo")
    from llamafactory.train.ppo.ppo_utils import get_rewards_from_server

    tokenizer = make_tokenizer()
    texts = [
        tokenizer.apply_chat_template([*MESSAGES, {"role": "assistant", "content": text}], tokenize=False)
        for text in RESPONSES
    ]
    route = f"{with_key(url)}/v1/score/evaluation?max_tokens={CRITIQUE['max_tokens']}"
    return get_rewards_from_server(route, texts).tolist()


def areal(_url: str, _: str) -> list[float]:
    """`AsyncRewardWrapper`, which runs `reward_fn` in processes of its own."""
    bare("areal", "areal.api", "areal.utils")
    from areal.api.reward_api import AsyncRewardWrapper

    from criticrm_client.rewards.areal import reward_fn

    async def run() -> list[float]:
        ask = AsyncRewardWrapper(reward_fn, max_workers=2)
        return list(await asyncio.gather(*(ask("", text, [1], [2], messages=MESSAGES) for text in RESPONSES)))

    return asyncio.run(run())


@dataclass(frozen=True)
class Framework:
    """What is installed, without dependencies, and the ways to ask; `ways` are handed to `ask`."""

    ask: Callable[[str, str], list[float]]
    packages: str
    ways: tuple[str, ...]


FRAMEWORKS = {
    "openrlhf": Framework(openrlhf, "openrlhf==0.11.2 pylatexenc", ("get_reward",)),
    "verl": Framework(
        verl,
        "verl==0.9.1 ray tensordict pyvers hydra-core omegaconf==2.3.0 antlr4-python3-runtime==4.9.3 codetiming orjson "
        "msgpack",
        ("compute_score", "classify"),
    ),
    "ms-swift": Framework(
        ms_swift, "ms-swift==4.6.0 dacite json_repair modelscope modelscope-hub", ("compute_rewards_per_func",)
    ),
    "llamafactory": Framework(llama_factory, "llamafactory==0.9.5", ("v1/score/evaluation",)),
    "areal": Framework(areal, "areal==1.0.4 colorlog", ("reward_fn",)),
}


def bare(*names: str) -> None:
    """Packages without their `__init__`, which would import the trainers too."""
    for name in names:
        package = types.ModuleType(name)
        package.__path__ = [str(Path(os.environ["PYTHONPATH"], *name.split(".")))]
        sys.modules[name] = package


def with_key(url: str) -> str:
    """With the key as the password, for clients that set no header."""
    key = environment.key()
    scheme, _, rest = url.partition("://")
    return f"{scheme}://key:{quote(key, safe='')}@{rest}" if key else url


def expected(url: str) -> list[float]:
    with CriticRM(url, key=environment.key()) as client:
        return list(client.score(MESSAGES, RESPONSES, critique=CRITIQUE).rewards)


def main() -> None:
    name, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=name, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True, help="URL of the service; the API key is read from CRITICRM_KEY")
    parser.add_argument(
        "--packages", type=Path, help="folder to install into, which is kept (default: a temporary one)"
    )
    parser.add_argument("--way", help=argparse.SUPPRESS)  # of a child: print the rewards of this way
    parser.add_argument("frameworks", nargs="*", help=f"some of {', '.join(FRAMEWORKS)}. Default: all.")
    told = parser.parse_args()
    if told.way:
        (framework,) = told.frameworks
        print(json.dumps([FRAMEWORKS[framework].ask(told.url, told.way), version(framework)]))
        return
    wrong = set(told.frameworks) - set(FRAMEWORKS)
    if wrong:
        parser.error(f"unknown: {', '.join(sorted(wrong))}; there are {', '.join(FRAMEWORKS)}")
    with tempfile.TemporaryDirectory() as folder:
        failed = try_all(told.url, told.packages or Path(folder), told.frameworks or list(FRAMEWORKS))
    sys.exit(failed)


def try_all(url: str, folder: Path, names: list[str]) -> bool:
    """Whether a framework got anything but the rewards of `/score`."""
    wanted = expected(url)
    print(f"{'/score':<42}{'':<12}{_shown(wanted)}", flush=True)
    failed = False
    for name in names:
        framework, packages = FRAMEWORKS[name], folder / name
        if not packages.exists():
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages)]
            subprocess.run([*install, *framework.packages.split()], check=True)
        variables = {
            "PYTHONPATH": str(packages),
            "CRITICRM_URL": url,
            "CRITICRM_REWARD_OPTIONS": json.dumps({"critique": CRITIQUE}),
        }
        for way in framework.ways:
            command = [sys.executable, "-W", "ignore", __file__, "--url", url, "--way", way, name]
            done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
            if done.returncode:
                failed = True
                print(f"{name} {way}: failed\n{done.stderr[-2000:]}")
                continue
            rewards, installed = json.loads(done.stdout.splitlines()[-1])
            same = all(math.isclose(a, b, abs_tol=TOLERANCE) for a, b in zip(rewards, wanted, strict=True))
            failed |= not same
            verdict = "same" if same else "OTHER"
            print(f"{name + ' ' + installed + ' ' + way:<42}{verdict:<12}{_shown(rewards)}", flush=True)
    return failed


def _shown(rewards: list[float]) -> str:
    return "  ".join(f"{reward:+.4f}" for reward in rewards)


if __name__ == "__main__":
    main()
