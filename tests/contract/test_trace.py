"""The reward's way through a critique: a value for each token, and where in the text it stands."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from conftest import Running, StartApp
from criticrm_model import RewardTokens
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.engines.base import Job
from criticrm_server.engines.readout import Steps, read_completion
from criticrm_server.engines.transformers_engine import TransformersEngine
from criticrm_server.errors import EngineFailed
from criticrm_server.settings import Settings
from support.references import load_reference

BODY: dict[str, Any] = {"prompt": "Why?", "responses": ["So.", "Thus."]}


async def critiques(running: Running, **options: object) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    answer = await running.score(BODY | {"critique": {"trace": True, "max_tokens": 12, **options}})
    assert answer.status_code == 200, answer.text
    return [(result, critique) for result in answer.json()["results"] for critique in result["critiques"]]


@pytest.mark.parametrize("options", [{}, {"n": 3, "temperature": 1.0}])
async def test_it_begins_with_the_direct_score_and_ends_with_the_score(running: Running, options: Any) -> None:
    for result, critique in await critiques(running, **options):
        scores, offsets = critique["trace"]["scores"], critique["trace"]["offsets"]
        assert len(scores) == len(offsets) == critique["tokens"]
        assert scores[0] == result["direct_score"]
        assert scores[-1] == critique["score"]


async def test_its_offsets_rebuild_the_text(running: Running) -> None:
    for _, critique in await critiques(running):
        offsets = [*critique["trace"]["offsets"], len(critique["text"])]
        assert offsets[0] == 0
        assert offsets == sorted(offsets)
        pieces = [critique["text"][a:b] for a, b in pairwise(offsets)]
        assert "".join(pieces) == critique["text"]
        assert sum(map(bool, pieces)) > 3


def test_bytes_of_one_character_begin_where_it_does(opened_checkpoint: Checkpoint) -> None:
    renderer = opened_checkpoint.renderer
    text = "a \U0001f600\u00e9 b"
    ids = renderer.tokenize_critique(text)
    assert len(ids) > len(text)
    offsets = renderer.offsets(ids)
    assert renderer.decode(ids) == text
    assert set(offsets) <= set(range(len(text) + 1))
    assert offsets.count(2) > 1  # the emoji's bytes
    assert offsets[-1] == len(text)  # the end of the turn


async def test_each_value_is_the_model_s(start_app: StartApp, opened_checkpoint: Checkpoint) -> None:
    settings = Settings(engine="transformers", dtype="float32", max_model_len=512)
    async with start_app(TransformersEngine(opened_checkpoint, settings), max_model_len=512) as app:
        found = await critiques(app)
    model, renderer = load_reference(opened_checkpoint), opened_checkpoint.renderer
    for (_, critique), response in zip(found, BODY["responses"], strict=True):
        opened = renderer.open([{"role": "user", "content": BODY["prompt"]}])
        prompt = opened.render(response, max_model_len=512, max_critique_tokens=12).token_ids
        ((written,), _) = model.critique([prompt], max_tokens=12)
        each = [model.score([*prompt, *written.token_ids[:i]], [1])[0] for i in range(len(written.token_ids))]
        assert critique["trace"]["scores"] == pytest.approx(each, abs=1e-4)


async def test_it_is_there_only_where_it_is_asked_for(running: Running) -> None:
    (result, _) = (await running.score(BODY)).json()["results"]
    assert result["critiques"][0]["trace"] is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"critique": {"trace": True, "include": False}}, "critique"),
        ({"critique": {"trace": True}, "normalize": True}, "critique.trace"),
        ({"critique": {"trace": True}, "critiques": [["a"], ["b"]]}, "critique"),
    ],
)
async def test_what_is_refused(running: Running, changes: dict[str, Any], field: str) -> None:
    answer = await running.score(BODY | changes)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["details"][0]["field"] == field


@pytest.mark.parametrize("path", ["/slime?trace=true", "/classify?trace=true"])
async def test_drop_in_routes_have_no_place_for_it(running: Running, path: str) -> None:
    answer = await running.client.post(path, json={"prompt": "Why?", "response": "So.", "input": "So."})
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["field"] == "query.trace"


def test_the_ban_is_looked_for_in_every_step() -> None:
    steps = [Steps([7, 7, 7], [0.5, -9999.5, 0.25])]
    job = Job([1], n=1, max_tokens=3, temperature=0.0, seed=None)
    assert read_completion([3, 4, 5], "length", steps, RewardTokens((7,)), job).trace == ()
    with pytest.raises(EngineFailed, match="the ban of -10000 is in it"):
        read_completion([3, 4, 5], "length", steps, RewardTokens((7,)), Job([1], 1, 3, 0.0, None, trace=True))
