"""The self-check: an engine that reads right passes, and each that reads wrongly is refused for what is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.manifest import Manifest
from criticrm_model.references import CONVERSATIONS, fixed_prompts, template_sha256
from criticrm_server.checks import SelfCheckFailed, table
from criticrm_server.engines.base import Facts, Job, Output
from criticrm_server.engines.transformers_engine import TransformersEngine
from criticrm_server.self_check import self_check
from criticrm_server.settings import Settings
from support.sabotage import SABOTAGES
from support.tiny import make_checkpoint

LONGEST = 2048


@pytest.fixture
async def engine(opened_checkpoint: Checkpoint) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(opened_checkpoint, Settings(engine="transformers", dtype="float32"))
    await engine.start()
    yield engine
    await engine.close()


async def test_a_healthy_engine_passes_every_check(engine: TransformersEngine, opened_checkpoint: Checkpoint) -> None:
    facts = replace(engine.facts, step_tokens=512)
    checks = await self_check(engine.run, facts, opened_checkpoint, LONGEST)
    names = ["template", "references", "together", "cached", "decode", "samples", "ban", "chunked"]
    assert [check.name for check in checks] == names
    assert all(check.passed and check.limit in (0, 1e-3) for check in checks)
    assert checks[1].n == len(CONVERSATIONS) + 4
    assert checks[6].n == 3  # the first step of one greedy and two sampled critiques
    assert len(table(checks)) == 1 + len(checks)


@pytest.mark.parametrize("name", list(SABOTAGES))
async def test_a_wrong_readout_is_refused_by_name(
    name: str, engine: TransformersEngine, opened_checkpoint: Checkpoint
) -> None:
    sabotage, check = SABOTAGES[name]
    with pytest.raises(SelfCheckFailed) as failed:
        await self_check(sabotage(engine.run), engine.facts, opened_checkpoint, LONGEST)
    assert check in [check.name for check in failed.value.checks if not check.passed]
    assert any(fault.startswith(f"{check}: ") for fault in failed.value.faults)


@pytest.mark.parametrize("name", [n for n in SABOTAGES if n != "processed"])
async def test_without_references_and_in_bfloat16_it_is_refused_as_well(
    name: str, engine: TransformersEngine, opened_checkpoint: Checkpoint
) -> None:
    """As a checkpoint of an earlier version is."""
    manifest = opened_checkpoint.manifest.model_copy(update={"references": None})
    checkpoint = replace(opened_checkpoint, manifest=manifest)
    sabotage, check = SABOTAGES[name]
    assert await self_check(engine.run, Facts(), checkpoint, LONGEST)
    with pytest.raises(SelfCheckFailed) as failed:
        await self_check(sabotage(engine.run), Facts(), checkpoint, LONGEST)
    # The tiny model's greedy critiques repeat one token, so two steps' rewards are alike; sampled ones tell.
    assert {fault.partition(":")[0] for fault in failed.value.faults} & {check, "samples"}


async def test_another_template_is_refused_by_name(engine: TransformersEngine, opened_checkpoint: Checkpoint) -> None:
    checkpoint = Checkpoint.open(opened_checkpoint.folder)
    checkpoint.tokenizer.chat_template = "You judge.\n" + str(checkpoint.tokenizer.chat_template)
    with pytest.raises(SelfCheckFailed, match="template: the chat template or the tokenizer"):
        await self_check(engine.run, engine.facts, checkpoint, LONGEST)


async def test_a_healthy_start_computes_few_tokens(engine: TransformersEngine, opened_checkpoint: Checkpoint) -> None:
    """On two cores each costs milliseconds; 32 tokens of a block are what a CPU has."""
    jobs: list[Job] = []

    async def noted(job: Job) -> Output:
        jobs.append(job)
        return await engine.run(job)

    await self_check(noted, replace(engine.facts, step_tokens=4096, cache_block=32), opened_checkpoint, LONGEST)
    once = sum(map(len, fixed_prompts(opened_checkpoint.renderer)))
    assert sum(len(job.token_ids) for job in jobs) < 3 * once


async def test_a_chunk_that_is_lost_is_refused_by_name(
    engine: TransformersEngine, opened_checkpoint: Checkpoint
) -> None:
    async def last_chunk_alone(job: Job) -> Output:
        return await engine.run(replace(job, token_ids=job.token_ids[-700:]) if job.max_tokens > 1 else job)

    with pytest.raises(SelfCheckFailed, match="chunked: a prompt that is prefilled in chunks"):
        await self_check(last_chunk_alone, replace(engine.facts, step_tokens=1000), opened_checkpoint, LONGEST)


async def test_a_head_in_bfloat16_is_refused_where_float32_was_asked_for(
    engine: TransformersEngine, opened_checkpoint: Checkpoint
) -> None:
    import torch

    async def rounded(job: Job) -> Output:
        output = await engine.run(job)
        c = output.completions[0]
        values = torch.tensor([c.direct_score, c.score]).bfloat16().tolist()
        return replace(output, completions=[replace(c, direct_score=values[0], score=values[1])])

    async def one(job: Job) -> Output:
        return await (rounded(job) if job.n == 1 else engine.run(job))

    with pytest.raises(SelfCheckFailed) as failed:
        await self_check(one, Facts(float32_head=True), opened_checkpoint, LONGEST)
    assert [fault.partition(":")[0] for fault in failed.value.faults] == ["head"]


async def test_a_checkpoint_carries_its_references(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path))
    references = checkpoint.manifest.references
    assert references is not None
    assert references.dtype == "float32"
    prompts = fixed_prompts(checkpoint.renderer)
    assert references.template_sha256 == template_sha256(checkpoint.renderer)
    assert len(references.direct_scores) == len(prompts) == len(set(references.direct_scores))
    assert Manifest.load(tmp_path) == checkpoint.manifest
