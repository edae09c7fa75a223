"""`criticrm verify`: how agreement is counted, what it reads, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from criticrm_model import CriticRMError
from criticrm_server import verify
from criticrm_server.verify import Verify, agreement, read_conversations

ROW: dict[str, Any] = {"prompt": "Q?", "responses": ["first", "second"]}


def test_agreement_by_hand() -> None:
    # Of the three pairs, (1, 2) and (1, 4) keep their order; (2, 4) changes it.
    found = agreement([1.0, 4.5, 4.0], [1.0, 2.0, 4.0])
    assert (found.n, found.max_abs_diff) == (3, 2.5)
    assert found.mean_signed_diff == pytest.approx(2.5 / 3)
    assert found.rank_agreement == pytest.approx(2 / 3)


def test_a_drift_shows_in_its_sign() -> None:
    assert agreement([0.9, 1.9], [1.0, 2.0]).mean_signed_diff == pytest.approx(-0.1)
    assert agreement([1.1, 1.9], [1.0, 2.0]).mean_signed_diff == pytest.approx(0.0)


def test_equal_rewards_have_no_order_to_agree_on() -> None:
    assert agreement([1.0, 2.0], [3.0, 3.0]).rank_agreement == 1.0


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


@pytest.mark.parametrize(("off_by", "code"), [(0.0, 0), (1e-3, 1)])
def test_a_difference_fails_the_command(
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    off_by: float,
    code: int,
) -> None:
    """The engine `transformers` stands in for vLLM: against itself it agrees."""
    monkeypatch.setattr(verify, "configure_logging", lambda *_: None)
    reference = Verify._reference
    monkeypatch.setattr(
        Verify,
        "_reference",
        lambda *args: [(direct + off_by, score + off_by) for direct, score in reference(*args)],
    )
    settings = Verify(
        model=str(tiny_checkpoint), engine="transformers", limit=4, critique_tokens=4, max_model_len=256, json=True
    )
    assert settings.run() == code
    printed = capsys.readouterr().out
    last = json.loads(printed.splitlines()[-1])
    assert (last["n"], last["dtype"]) == (4, "float32")
    assert last["max_abs_diff"] == pytest.approx(off_by, abs=1e-5)
    assert last["mean_signed_diff"] == pytest.approx(-off_by, abs=1e-5)
    assert ("FAILED: " in printed) == bool(code)
