"""Routes in the shapes that RLHF frameworks already speak, so that their own clients need only our URL (ADR 8)."""

from __future__ import annotations

from fastapi import APIRouter

from . import (
    chat_completions,
    embeddings,
    genrm_compare,
    llama_factory,
    lmdeploy,
    nemo_gym,
    pooling,
    sessions,
    shared_urls,
    slime,
    xtuner,
)

router = APIRouter()
for module in (
    shared_urls,
    slime,
    llama_factory,
    pooling,
    lmdeploy,
    embeddings,
    chat_completions,
    nemo_gym,
    sessions,
    genrm_compare,
    xtuner,
):
    router.include_router(module.router)
