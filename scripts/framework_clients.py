"""The frameworks' own client code, each asking a service for the rewards of the same two responses.

Run by `try_frameworks.py`, each in a process of its own with its framework on the import path.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from criticrm_client.rewards import environment

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.tiny import make_tokenizer

PROMPT = "Why is the sky blue?"
RESPONSES = ["Air scatters blue light more than red light.", "It reflects the sea."]
MESSAGES = [{"role": "user", "content": PROMPT}]
CRITIQUE = {"max_tokens": 32}


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
    """`RewardLoopWorker` of verl's own configuration, with `compute_score`, or by `/classify` or `/v1/embeddings`."""
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
            engine = {"classify": "vllm", "embeddings": "sglang"}[how]
            overrides += [f"reward.reward_model.rollout.name={engine}"]
        config = compose("ppo_trainer", overrides=overrides)

        async def run() -> list[float]:
            worker = RewardLoopWorker(config, with_key(url).removeprefix("http://"))
            if how != "compute_score":  # verl has no setting for the route's options
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


def verl_of_2025(_url: str, _: str) -> list[float]:
    """`NaiveRewardManager` of a version that awaits no reward function."""
    import numpy
    import torch
    from verl import DataProto
    from verl.workers.reward_manager.naive import NaiveRewardManager

    from criticrm_client.rewards.verl import compute_score_sync

    tokenizer = make_tokenizer()
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in RESPONSES]
    padded = [row + [0] * (max(map(len, rows)) - len(row)) for row in rows]
    mask = [[1] * (1 + len(row)) + [0] * (len(padded[0]) - len(row)) for row in rows]
    prompts = torch.ones(len(rows), 1, dtype=torch.long)
    columns = {"data_source": "made up", "reward_model": {"ground_truth": ""}, "extra_info": {"prompt": MESSAGES}}
    data = DataProto.from_dict(
        {"prompts": prompts, "responses": torch.tensor(padded), "attention_mask": torch.tensor(mask)},
        non_tensors={name: numpy.array([value] * len(rows), dtype=object) for name, value in columns.items()},
    )
    return [float(one) for one in NaiveRewardManager(tokenizer, 0, compute_score_sync)(data).sum(-1)]


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


def trl(_url: str, _: str) -> list[float]:
    """`GRPOTrainer._calculate_rewards` of a version that awaits no reward function. The newest: `try_trl.py`."""
    from trl import import_utils

    for name in dir(import_utils):  # it takes packages for installed that newer transformers report otherwise
        if name.startswith("is_") and name.endswith("_available"):
            setattr(import_utils, name, lambda *_: False)
    from accelerate import Accelerator
    from trl.trainer.grpo_trainer import GRPOTrainer

    from criticrm_client.rewards.trl import critic_rm_sync

    trainer = types.SimpleNamespace(
        accelerator=Accelerator(cpu=True),
        args=types.SimpleNamespace(report_to=[]),
        reward_func_names=["critic_rm"],
        reward_funcs=[critic_rm_sync],
        reward_processing_classes=[None],
        state=None,
    )
    completions = [[{"role": "assistant", "content": text}] for text in RESPONSES]
    prompts = [MESSAGES] * len(RESPONSES)
    rows = [{"prompt": MESSAGES}] * len(RESPONSES)
    rewards = GRPOTrainer._calculate_rewards(trainer, rows, prompts, completions, [[1]] * len(RESPONSES))
    return [float(reward) for reward in rewards[:, 0]]


def xtuner(url: str, server_type: str) -> list[float]:
    """`RewardModelClient`, which POLAR's README shows, with conversations in a chat template."""
    bare("xtuner", "xtuner.utils")
    from xtuner.utils import rm_utils

    tokenizer = make_tokenizer()
    texts = [
        tokenizer.apply_chat_template([*MESSAGES, {"role": "assistant", "content": text}], tokenize=False)
        for text in RESPONSES
    ]
    post = rm_utils.requests.post  # its URLs take no options
    rm_utils.requests.post = lambda url, **arguments: post(url, params=CRITIQUE, **arguments)
    address = with_key(url).removeprefix("http://") + ("/lmdeploy" if server_type == "lmdeploy" else "")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        client = rm_utils.RewardModelClient(folder, server_type=server_type, server_address=address)
        return list(client(texts))


def verifiers(url: str, _: str) -> list[float]:
    """`JudgeRubric` with the prompt of docs/frameworks/judges.md; its own prompt gets a yes or a no."""
    from openai import AsyncOpenAI
    from verifiers.parsers.parser import Parser
    from verifiers.rubrics.judge_rubric import JudgeRubric

    prompt = "<prompt>{question}</prompt>\n<response>{response}</response>"

    def client(**options: Any) -> AsyncOpenAI:
        query = {**CRITIQUE, **options}
        return AsyncOpenAI(base_url=f"{url}/v1", api_key=environment.key() or "none", default_query=query)

    async def run() -> list[float]:
        completions = [[{"role": "assistant", "content": text}] for text in RESPONSES]
        for threshold, verdict in ((-1e9, "yes"), (1e9, "no")):
            rubric = JudgeRubric(parser=Parser(), judge_client=client(threshold=threshold), judge_model="critic")
            assert await rubric.judge(MESSAGES, completions[0], "It scatters.") == verdict
        rubric = JudgeRubric(parser=Parser(), judge_client=client(), judge_model="critic", judge_prompt=prompt)
        verdicts = [await rubric.judge(MESSAGES, completion, "") for completion in completions]
        return [float(verdict.removeprefix("<score>").removesuffix("</score>")) for verdict in verdicts]

    return asyncio.run(run())


def openai(url: str, how: str) -> list[float]:
    """OpenAI's SDK, as SkyRL's and rllm's judges use it, and for embeddings."""
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key=environment.key() or "none", default_query=CRITIQUE)
    conversations: list[Any] = [[*MESSAGES, {"role": "assistant", "content": text}] for text in RESPONSES]
    if how == "embeddings":
        texts = [make_tokenizer().apply_chat_template(messages, tokenize=False) for messages in conversations]
        return [one.embedding[0] for one in client.embeddings.create(model="critic", input=texts).data]
    answers = [client.chat.completions.create(model="critic", messages=messages) for messages in conversations]
    contents = [answer.choices[0].message.content or "" for answer in answers]
    return [float(content.removeprefix("<score>").removesuffix("</score>")) for content in contents]


@dataclass(frozen=True)
class Framework:
    """What is installed, without dependencies, and the ways to ask; `ways` are handed to `ask`."""

    ask: Callable[[str, str], list[float]]
    packages: str
    ways: tuple[str, ...]


VERL_NEEDS = "ray tensordict pyvers hydra-core omegaconf==2.3.0 antlr4-python3-runtime==4.9.3 codetiming"
FRAMEWORKS = {
    "openrlhf": Framework(openrlhf, "openrlhf==0.11.2 pylatexenc", ("get_reward",)),
    "verl": Framework(verl, f"verl==0.9.1 orjson msgpack {VERL_NEEDS}", ("compute_score", "classify", "embeddings")),
    "verl-0.6": Framework(verl_of_2025, f"verl==0.6.1 {VERL_NEEDS}", ("compute_score_sync",)),
    "ms-swift": Framework(
        ms_swift, "ms-swift==4.6.0 dacite json_repair modelscope modelscope-hub", ("compute_rewards_per_func",)
    ),
    "llamafactory": Framework(llama_factory, "llamafactory==0.9.5", ("v1/score/evaluation",)),
    "areal": Framework(areal, "areal==1.0.4 colorlog", ("reward_fn",)),
    "trl": Framework(trl, "trl==0.24.0", ("critic_rm_sync",)),
    "xtuner": Framework(xtuner, "xtuner==0.2.0", ("sglang", "vllm", "lmdeploy")),
    "verifiers": Framework(verifiers, "verifiers==0.1.14 openai==3.57.0 jiter distro tenacity", ("JudgeRubric",)),
    "openai": Framework(openai, "openai==3.57.0 jiter distro", ("chat/completions", "embeddings")),
}


def bare(*names: str) -> None:
    """Packages without their `__init__`, which would import the trainers too."""
    for name in names:
        package = types.ModuleType(name)
        package.__path__ = [str(Path(os.environ["FRAMEWORK_PACKAGES"], *name.split(".")))]
        sys.modules[name] = package


def with_key(url: str) -> str:
    """With the key as the password, for clients that set no header."""
    key = environment.key()
    scheme, _, rest = url.partition("://")
    return f"{scheme}://key:{quote(key, safe='')}@{rest}" if key else url
