"""Routes in the shapes that RLHF frameworks already speak, so that their own clients need only our URL (ADR 8)."""

from __future__ import annotations

from fastapi import APIRouter

from . import llama_factory, nemo_gym, openrlhf, slime, vllm

router = APIRouter()
for module in (openrlhf, slime, llama_factory, vllm, nemo_gym):
    router.include_router(module.router)
