"""What `criticrm score` asks the service for."""

from __future__ import annotations

from typing import Any

import pytest

from criticrm_client import CritiqueOptions, Settled
from criticrm_server.commands.score import Score


def options(*arguments: str) -> Any:
    return Score(_cli_parse_args=["in.jsonl", "out.jsonl", *arguments])._critique_options()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], None),
        (["--no-critique"], False),
        (["--when", "auto"], "auto"),
        (["--when", "close"], CritiqueOptions(when="close")),
        (
            ["--when", "close", "--margin", "0.5", "--rank", "all", "--critique-budget", "512", "-n", "2"],
            CritiqueOptions(when="close", margin=0.5, rank="all", max_total_tokens=512, n=2),
        ),
        (["--settled", "0.2"], CritiqueOptions(stop=Settled(settled=0.2))),
        (
            ["--max-tokens", "64", "--settled", "0", "--settled-for", "16"],
            CritiqueOptions(max_tokens=64, stop=Settled(settled=0.0, tokens=16)),
        ),
    ],
)
def test_critiques(arguments: list[str], expected: Any) -> None:
    assert options(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no-critique", "-n", "2"], "-n: of critiques"),
        (["--no-critique", "--when", "close"], "--when: of critiques"),
        (["--no-critique", "--settled", "1"], "--settled: of critiques"),
        (["--margin", "1"], "--margin: needs --when close"),
        (["--critique-budget", "9", "--when", "auto"], "--critique-budget: needs --when close"),
        (["--when", "auto", "-n", "2"], "-n: --when auto has its own"),
        (["--settled", "1", "--settled-for", "513"], "512"),
        (["--margin", "0"], "greater than 0"),
        (["--settled-for", "16"], "--settled-for: needs --settled"),
        (["--when", "close", "--normalize"], "--normalize: with --when close"),
    ],
)
def test_what_contradicts_itself_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        options(*arguments)
