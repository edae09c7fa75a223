"""`criticrm verify`: how agreement is counted, what it reads, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from criticrm_model import CriticRMError
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel
from criticrm_server import verify
from criticrm_server.agreement import Rewards, agreement
from criticrm_server.commands import verify as verify_command
from criticrm_server.commands.verify import Verify
from criticrm_server.conversations import read_conversations
from criticrm_server.engines.base import Facts, Job, Output
from support.references import load_reference

ROW: dict[str, Any] = {"prompt": "Q?", "responses": ["first", "second"]}


def test_agreement_by_hand() -> None:
    # Of the three pairs, (1, 2) and (1, 4) keep their order; (2, 4) changes it.
    found = agreement(Rewards([1.0, 4.5, 4.0], [1.0, 2.0, 4.0]))
    assert (found.n, found.max_abs_diff) == (3, 2.5)
    assert found.mean_signed_diff == pytest.approx(2.5 / 3)
    assert found.rank_agreement == pytest.approx(2 / 3)


def test_a_drift_shows_in_its_sign() -> None:
    assert agreement(Rewards([0.9, 1.9], [1.0, 2.0])).mean_signed_diff == pytest.approx(-0.1)
    assert agreement(Rewards([1.1, 1.9], [1.0, 2.0])).mean_signed_diff == pytest.approx(0.0)


def test_equal_rewards_have_no_order_to_agree_on() -> None:
    assert agreement(Rewards([1.0, 2.0], [3.0, 3.0])).rank_agreement == 1.0


def test_the_embedded_conversations_are_enough_for_the_bar() -> None:
    found = read_conversations(None, 1000)
    assert len(found) >= 64
    assert all(response.strip() and prompt[-1]["role"] == "user" for prompt, response in found)


def test_both_kinds_of_row(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Q?"}]
    path = tmp_path / "rows.jsonl"
    rows = [ROW, {"prompt": turns, "chosen": "good", "rejected": "bad"}, ROW]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_conversations(path, 2) == [(turns, "first"), (turns, "good")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no conversations"),
        (json.dumps(ROW) + "\n{", "row 2: no prompt with a response"),
        ('{"prompt": "Q"}', r"row 1: .*chosen"),
        ('{"prompt": "Q", "responses": []}', "row 1: no prompt with a response"),
        ("[]", "row 1: no prompt with a response"),
    ],
)
def test_a_bad_file_is_named_by_its_row(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(CriticRMError, match=words):
        read_conversations(path, 64)
    with pytest.raises(CriticRMError, match="can't be read"):
        read_conversations(tmp_path / "none.jsonl", 64)


class Served:
    """In vLLM's place: writes what transformers would, but its rewards are off by so much."""

    def __init__(self, checkpoint: Checkpoint, off_by: tuple[float, float]) -> None:
        self.reference = load_reference(checkpoint)
        self.off_by = off_by
        self.facts = Facts(exact=True, described={"runner": "V0"})
        self.max_model_len = 256
        self.jobs: list[Job] = []

    async def start(self) -> None: ...

    async def run(self, job: Job) -> Output:
        self.jobs.append(job)
        written, _ = self.reference.critique([job.token_ids] * job.n, max_tokens=job.max_tokens)
        direct, score = self.off_by
        return Output([replace(c, direct_score=c.direct_score + direct, score=c.score + score) for c in written])

    async def check_health(self) -> None: ...

    async def close(self) -> None: ...


@pytest.fixture
def serve_off_by(opened_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Served]:
    def serve(direct: float, score: float) -> Served:
        engine = Served(opened_checkpoint, (direct, score))
        monkeypatch.setattr(verify_command, "configure_logging", lambda *_: None)
        monkeypatch.setattr(verify_command, "require_engine", lambda _: None)
        monkeypatch.setattr(verify, "create_engine", lambda *_: engine)
        return engine

    return serve


@pytest.mark.parametrize(
    ("direct", "score", "code"), [(0.0, 0.0, 0), (1e-3, 5e-4, 1), (-1e-3, 5e-4, 1), (5e-4, -1e-3, 1)]
)
def test_the_larger_difference_of_both_positions_counts(
    tiny_checkpoint: Path,
    serve_off_by: Callable[..., Served],
    capsys: pytest.CaptureFixture[str],
    direct: float,
    score: float,
    code: int,
) -> None:
    serve_off_by(direct, score)
    assert Verify(model=str(tiny_checkpoint), limit=4, critique_tokens=4, json=True).run() == code
    printed = capsys.readouterr().out
    last = json.loads(printed.splitlines()[-1])
    assert (last["n"], last["dtype"]) == (4, "float32")
    larger = max(direct, score, key=abs)
    assert last["max_abs_diff"] == pytest.approx(abs(larger), abs=1e-5)
    assert last["mean_signed_diff"] == pytest.approx(larger, abs=1e-5)
    assert last["direct_score"]["mean_signed_diff"] == pytest.approx(direct, abs=1e-5)
    assert last["score"]["mean_signed_diff"] == pytest.approx(score, abs=1e-5)
    assert ("FAILED: " in printed) == bool(code)


def test_critiques_are_as_long_as_the_service_writes_them(
    tiny_checkpoint: Path, serve_off_by: Callable[..., Served]
) -> None:
    engine = serve_off_by(0.0, 0.0)
    Verify(model=str(tiny_checkpoint), limit=2, max_critique_tokens=3).run()  # the checkpoint's own limit is 24
    assert [(job.n, job.max_tokens) for job in engine.jobs] == [(1, 3), (1, 3), (1, 1), (1, 1), (2, 3)]


@pytest.mark.parametrize(("share", "code"), [(0.1, 0), (0.2, 1)])
def test_in_bfloat16_what_rounding_does_not_explain_fails(
    tiny_checkpoint: Path,
    serve_off_by: Callable[..., Served],
    capsys: pytest.CaptureFixture[str],
    share: float,
    code: int,
) -> None:
    engine = serve_off_by(0.0, share * 4.0)  # the deviation of its score
    engine.facts = Facts(described={"dtype": "bfloat16"})
    assert Verify(model=str(tiny_checkpoint), limit=2, critique_tokens=4, dtype="bfloat16").run() == code
    assert ("FAILED: score: root mean square" in capsys.readouterr().out) == bool(code)


def test_the_page_holds_the_table_and_the_pictures(
    tiny_checkpoint: Path, serve_off_by: Callable[..., Served], tmp_path: Path
) -> None:
    serve_off_by(0.0, 0.0)
    page = tmp_path / "deep" / "page.html"
    assert Verify(model=str(tiny_checkpoint), limit=2, critique_tokens=4, report=page).run() == 0
    written = page.read_text()
    assert written.count("data:image/svg+xml") == 2
    assert "runner V0" in written
    assert "score, sampled" in written


@pytest.mark.parametrize("trusted", [True, False])
def test_code_that_comes_with_the_checkpoint_is_trusted_as_when_serving(
    tiny_checkpoint: Path, serve_off_by: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    serve_off_by(0.0, 0.0)
    asked: list[bool] = []
    opened, load = Checkpoint.open, ReferenceModel.load

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, trust_remote_code: bool = False, **kwargs: Any) -> Any:
            asked.append(trust_remote_code)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(Checkpoint, "open", noted(opened))
    monkeypatch.setattr(ReferenceModel, "load", noted(load))
    Verify(model=str(tiny_checkpoint), limit=1, critique_tokens=2, trust_remote_code=trusted).run()
    assert asked == [trusted, trusted]


@pytest.mark.parametrize("engine", ["transformers", "fake", "none"])
def test_transformers_is_not_compared_with_itself(engine: str) -> None:
    with pytest.raises(ValidationError, match=f"compares vLLM with transformers; with {engine} there is nothing"):
        Verify(engine=engine)


def test_its_variable_has_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSON", "maybe")  # somebody else's
    assert not Verify().json_line
    monkeypatch.setenv("CRITICRM_JSON", "true")
    assert Verify().json_line
    assert Verify(_cli_parse_args=["--json"]).json_line
    assert not Verify(_cli_parse_args=["--no-json"]).json_line
