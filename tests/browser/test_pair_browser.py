"""The report's pairs in a browser: from a number to its pairs, filters, and two models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from criticrm_training.commands.report import Report
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.evaluation.outcomes import Preferences
from criticrm_training.evaluation.pair_texts import about_sides
from criticrm_training.evaluation.results import write_results

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

ATTACK = "<script>window.attacked = true</script></script><img src=x onerror='window.attacked = true'>"
PAIRS = [
    PreferencePair(
        str(i),
        ({"role": "user", "content": f"Question {i} {ATTACK}"},),
        "good " * (i % 3 + 1),
        "bad " * 2,
        "odd" if i % 2 else "even",
        f"q{i}",
    )
    for i in range(12)
]


def evaluation(folder: Path, margins: list[float], critique: str) -> Path:
    sides = [
        [
            {"score": m, "direct_score": m / 2, "critique": critique},
            {"score": 0.0, "direct_score": 0.0, "critique": ATTACK},
        ]
        for m in margins
    ]
    found = {"greedy critique": Preferences.of(margins), "direct_score": Preferences.of([m / 2 for m in margins])}
    write_results(
        folder,
        "made",
        PAIRS,
        found,
        critiques_ended=1.0,
        headline="greedy critique",
        against={},
        written=about_sides(sides),
    )
    return folder


async def test_from_a_number_to_its_pairs(browser: Any, tmp_path: Path) -> None:
    first = evaluation(tmp_path / "one", [1.0] * 9 + [-1.0, -2.0, 0.0], "By the first model.")
    second = evaluation(tmp_path / "two", [1.0] * 6 + [-0.5] * 6, "By the second model.")
    out = tmp_path / "page.html"
    assert Report(_cli_parse_args=[str(out), f"--evaluations=a={first}", f"--evaluations=b={second}"]).run() == 0

    page = await browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    await page.goto(out.as_uri())
    assert await page.locator("#pair-count").inner_text() == "12 of 12 pairs"

    await page.locator(".bars a", has_text="b: greedy critique").click()
    assert "method=1" in page.url
    await page.select_option("[name=outcome]", "wrong")
    assert await page.locator("#pair-count").inner_text() == "6 of 12 pairs"
    await page.select_option("[name=category]", "odd")
    assert await page.locator("#pair-count").inner_text() == "3 of 12 pairs"
    await page.locator("#pair-list button").first.click()
    detail = await page.locator("#pair-detail").inner_text()
    assert "By the first model." in detail
    assert "By the second model." in detail
    assert ATTACK in detail  # as text

    await page.select_option("[name=category]", "")
    await page.select_option("[name=other]", "0:greedy critique")
    await page.select_option("[name=outcome]", "differ")
    assert await page.locator("#pair-count").inner_text() == "4 of 12 pairs"  # three right and wrong, one tie and wrong
    await page.select_option("[name=outcome]", "")
    await page.fill("[name=from]", "0.9")
    assert await page.locator("#pair-count").inner_text() == "6 of 12 pairs"
    await page.fill("[name=from]", "")
    await page.fill("[name=words]", "question 11")
    assert await page.locator("#pair-count").inner_text() == "1 of 12 pairs"
    await page.fill("[name=words]", "")
    await page.select_option("[name=longer]", "rejected")
    assert await page.locator("#pair-count").inner_text() == "4 of 12 pairs"

    await page.locator("table a").first.click()  # a number of the table by category
    assert "pairs?method=0" in page.url
    assert await page.evaluate("window.attacked") is None
    assert faults == []
    assert requests == [out.as_uri()]
    await page.close()
