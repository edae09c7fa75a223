"""A stock vLLM server's HTTP API without a model, on a thread of its own: made-up logits, and every way to fail."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from aiohttp import web

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.manifest import ReferenceRewards
from criticrm_model.references import fixed_prompts, template_sha256
from criticrm_server.engines.fake import made_up_critique, made_up_reward
from criticrm_server.engines.remote_checks import served_name


def with_made_up_references(checkpoint: Checkpoint) -> Checkpoint:
    """As if its rewards were those that this server makes up."""
    tokens = checkpoint.manifest.reward_tokens
    made_up = [made_up_reward(prompt) for prompt in fixed_prompts(checkpoint.renderer)]
    each = [tuple(reward + k for k in range(len(tokens.ids))) for reward in made_up]
    references = ReferenceRewards(
        dtype="float32",
        template_sha256=template_sha256(checkpoint.renderer),
        direct_scores=tuple(map(tokens.score, each)),
        direct_rewards=tuple(each) if len(tokens.ids) > 1 else (),
    )
    return replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"references": references}))


WRITTEN = 4.0  # the raw logit of every token that is written


class FakeVLLM:
    """`with FakeVLLM(checkpoint) as server`: at `server.url` until the context is left; `die` and `live` in between.

    Attributes:
        names, max_model_len, key, scale_out, mode: how it was started (`mode` is --logprobs-mode).
        shift: of its rewards; other weights give other ones.
        rounded: whether its head computes in bfloat16.
        fault: what happens to a request: "500", "400", "cut", "hang", "abort", "short", "nan".
        delay_s: how long it takes.
        asked: token ids of each request, and `headers` theirs; those of its checks are counted in `probed`, and no
            fault but "nan" happens to them.
        running, cancelled: requests in work, and those whose callers hung up.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.names = [checkpoint.folder.name, served_name(checkpoint)]
        self.max_model_len = 512
        self.key: str | None = None
        self.scale_out = True
        self.mode = "raw_logits"
        self.shift = 0.0
        self.rounded = False
        self.fault = ""
        self.delay_s = 0.0
        self.healthy = True
        self.asked: list[list[int]] = []
        self.headers: list[dict[str, str]] = []
        self.probed = 0
        self._fixed = fixed_prompts(checkpoint.renderer)
        self.running = 0
        self.cancelled = 0
        self._stop_token_id = checkpoint.renderer.stop_token_ids[0]
        self._vocab_size = checkpoint.config.vocab_size
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> FakeVLLM:
        self._thread.start()
        self.live()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def live(self) -> None:
        asyncio.run_coroutine_threadsafe(self._live(), self._loop).result(10)

    def die(self) -> None:
        """As if killed: connections break, new ones are refused."""
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._die(), self._loop).result(10)

    async def _live(self) -> None:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/inference/v1/generate", self._generate)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()

    async def _die(self) -> None:
        runner, self._runner = self._runner, None
        assert runner is not None
        assert runner.server is not None
        for _ in range(2):  # again for those that were just being accepted
            for connection in runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            await asyncio.sleep(0.01)
        await runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _models(self, request: web.Request) -> web.Response:
        if not self._knows(request):
            return web.json_response({"error": "Unauthorized"}, status=401)
        return web.json_response(
            {"object": "list", "data": [{"id": name, "max_model_len": self.max_model_len} for name in self.names]}
        )

    def _knows(self, request: web.Request) -> bool:
        return self.key is None or request.headers.get("Authorization") == f"Bearer {self.key}"

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        params = body["sampling_params"]
        if not self._knows(request):
            return web.json_response({"error": "Unauthorized"}, status=401)
        if not self.scale_out:
            return web.json_response({"error": {"message": "Scale-out endpoints are disabled."}}, status=403)
        if params["logprobs"] != len(params["logprob_token_ids"]):
            return web.json_response({"error": {"message": "logprobs must equal len(logprob_token_ids)"}}, status=400)
        if max(params["logprob_token_ids"]) >= self._vocab_size:
            return web.json_response({"error": {"message": "out-of-vocab token ids"}}, status=400)
        fault = self.fault
        if any(body["token_ids"][: len(ids)] == ids for ids in self._fixed):
            self.probed += 1
            fault = fault if fault == "nan" else ""
        else:
            self.asked.append(body["token_ids"])
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
            if fault in ("400", "500"):
                return web.json_response({"error": {"message": f"a {fault}"}}, status=int(fault))
            if fault == "hang":
                await asyncio.Event().wait()
        self.running += 1
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        answer = web.json_response(self._answer(body["token_ids"], params, fault))
        if fault == "cut":
            await answer.prepare(request)
            assert request.transport is not None
            request.transport.abort()
        return answer

    def _answer(self, token_ids: list[int], params: dict[str, Any], fault: str) -> dict[str, Any]:
        choices = []
        for k in range(params["n"]):
            text = made_up_critique(token_ids, params["max_tokens"], k)
            written = [*text, self._stop_token_id]
            rewards = [self._reward([*token_ids, *text[:i]]) for i in range(len(written))]
            choice = {
                "index": k,
                "finish_reason": "abort" if fault == "abort" else "stop",
                "token_ids": written,
                "logprobs": {
                    "content": [self._step(*step, params) for step in zip(written, rewards, strict=True)][
                        : -1 if fault == "short" else None
                    ]
                },
            }
            choices.append(choice)
        usage = {"prompt_tokens": len(token_ids), "prompt_tokens_details": {"cached_tokens": 7}}
        return {"choices": choices[::-1], "usage": usage}

    def _reward(self, token_ids: list[int]) -> float:
        reward = made_up_reward(token_ids) + self.shift
        return torch.tensor(reward).bfloat16().item() if self.rounded else reward

    def _step(self, token_id: int, reward: float, params: dict[str, Any]) -> dict[str, Any]:
        ids = list(dict.fromkeys(params["logprob_token_ids"]))
        logits = {token_id: WRITTEN, **{i: reward + k for k, i in enumerate(ids)}}
        if self.fault == "nan":
            logits[ids[-1]] = math.nan
        if self.mode.startswith("processed"):
            for i in ids:
                logits[i] += params.get("logit_bias", {}).get(str(i), 0.0)
        if self.mode.endswith("logprobs"):
            norm = max(logits.values()) + 0.7
            logits = {i: logit - norm for i, logit in logits.items()}
        entries = [
            {"token_id": i, "logprob": -9999.0 if math.isnan(logit) else max(logit, -9999.0), "rank": 1}
            for i, logit in logits.items()
        ]
        return {**entries[0], "top_logprobs": entries[: max(params["logprobs"], 1)]}
