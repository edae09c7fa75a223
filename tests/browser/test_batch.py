"""The playground's second tab in a real browser: files of prompts and responses."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import random
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from conftest import serving
from criticrm_model.checkpoint import Checkpoint
from support.browser import PHONE, Visit, visiting
from support.writing import WritingEngine

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


def made_up_rows(count: int) -> list[dict[str, Any]]:
    draw = random.Random(0)
    return [
        {"prompt": f"Question {i}", "response": f"The answer is {draw.choice((68, 78))}." + " So." * draw.randrange(9)}
        for i in range(1, count + 1)
    ]


def as_jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def server(writing_checkpoint: Checkpoint) -> Iterator[str]:
    with serving(writing_checkpoint, WritingEngine(writing_checkpoint)) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, server: str) -> AsyncIterator[Visit]:
    async with visiting(browser, server) as one:
        await one.open_batch()
        yield one


async def score_file(visit: Visit) -> None:
    await visit.button("Score the file").click()
    await visit.page.locator(".progress [role=status]", has_text="Finished.").wait_for()


async def column(visit: Visit, number: int) -> list[str]:
    cells = visit.page.locator(f".rows tbody tr td:nth-child({number})")
    return [text.replace("\N{MINUS SIGN}", "-") for text in await cells.all_inner_texts()]


async def downloaded(visit: Visit, button: str) -> tuple[str, str]:
    async with visit.page.expect_download() as event:
        await visit.button(button).click()
    download = await event.value
    content = await asyncio.to_thread(Path(await download.path()).read_bytes)
    return download.suggested_filename, content.decode()


async def test_two_hundred_rows(visit: Visit) -> None:
    assert "No file scored yet" in await visit.page.locator(".batch .empty").inner_text()
    assert await visit.serious_findings() == []
    rows = made_up_rows(200)
    requests: list[dict[str, Any]] = []
    visit.page.on("request", lambda one: requests.append(one.post_data_json) if one.url.endswith("/score") else None)
    await visit.drop_file("rows.jsonl", as_jsonl(rows))
    assert "200 rows, 200 responses" in await visit.page.locator(".batch [role=status]").first.inner_text()
    await score_file(visit)
    assert max(len(body["items"]) for body in requests) <= 32
    assert sum(len(body["items"]) for body in requests) == 200
    assert await visit.page.get_by_role("img", name="Histogram of 200 scores").is_visible()
    assert await visit.page.get_by_role("img", name="Score against length").is_visible()
    assert await visit.serious_findings() == []

    assert await column(visit, 1) == [str(i) for i in range(1, 26)]
    await visit.button("Score").click()
    ascending = [float(text) for text in await column(visit, 2)]
    assert ascending == sorted(ascending)
    await visit.page.locator(".rows .sort", has_text="Score").click()
    descending = [float(text) for text in await column(visit, 2)]
    assert descending == sorted(descending, reverse=True)
    assert descending[0] > 2.5
    sorted_header = visit.page.locator(".rows th[aria-sort=descending]")
    assert "Score" in await sorted_header.inner_text()
    await visit.button("Next").click()
    assert "Page 2 of 8" in await visit.page.locator(".pages").inner_text()

    name, text = await downloaded(visit, "CSV")
    assert name == "rows-scores.csv"
    read = list(csv.DictReader(io.StringIO(text)))
    assert [row["response"] for row in read] == [row["response"] for row in rows]
    name, text = await downloaded(visit, "JSONL")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["score"] for line in lines] == [float(row["score"]) for row in read]
    assert all(line["error"] is None and line["critique"] for line in lines)

    await visit.page.get_by_role("button", name="Open row").first.click()
    await visit.holds("Turn 1", re.compile("Question"))


async def test_a_table_with_quotes_and_line_breaks_and_several_responses(visit: Visit) -> None:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["Prompt", "responses", "criteria"])
    writer.writerow(['say "a, b"\nand c', json.dumps(["The answer is 78.", "b"]), ""])
    writer.writerow(["second", json.dumps(["c"]), ""])
    await visit.drop_file("rows.csv", "\ufeff" + out.getvalue())
    await score_file(visit)
    assert await column(visit, 1) == ["1 A", "1 B", "2 A"]
    _, text = await downloaded(visit, "JSONL")
    assert json.loads(text.splitlines()[0])["prompt"] == 'say "a, b"\nand c'


async def test_rows_that_can_not_be_read_are_named_and_left_out(visit: Visit) -> None:
    lines = ['{"prompt": "a", "response": "b"}', "{", '{"prompt": "a"}', '{"prompt": "a", "response": 3}', "[]"]
    await visit.drop_file("rows.jsonl", "\n".join(lines))
    text = await visit.page.locator(".batch .failure").inner_text()
    assert "4 rows can't be read" in text
    for fault in ("Row 2: not valid JSON", "Row 3: no response", "Row 4: response is not text", "Row 5: not an object"):
        assert fault in text
    await score_file(visit)
    assert await column(visit, 1) == ["1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "question,answer\na,b\n", "must name the columns prompt and response"),
        ("rows.csv", 'prompt,response\n"a,b\n', "a quote is not closed"),
        ("rows.jsonl", "\n", "no rows"),
    ],
)
async def test_a_file_that_can_not_be_read(visit: Visit, name: str, content: str, message: str) -> None:
    await visit.drop_file(name, content)
    assert message in await visit.page.locator(".batch .failure").inner_text()


async def test_rows_that_the_service_refuses_are_named_and_the_others_scored(visit: Visit) -> None:
    visit.allowed = ["422"]
    rows = [*made_up_rows(3), {"prompt": [{"role": "nobody", "content": "x"}], "response": "y"}, *made_up_rows(2)]
    await visit.drop_file("rows.jsonl", as_jsonl(rows))
    await score_file(visit)
    assert "1 response failed. Row 4: prompt" in await visit.page.locator(".progress .failure").inner_text()
    scores = await column(visit, 2)
    assert [score == "\N{EN DASH}" for score in scores] == [False, False, False, True, False, False]


async def test_a_row_that_is_too_long_alone_has_no_score(visit: Visit) -> None:
    rows = [*made_up_rows(1), {"prompt": "long " * 20_000, "response": "y"}]
    await visit.drop_file("rows.jsonl", as_jsonl(rows))
    await score_file(visit)
    assert "Row 2: " in await visit.page.locator(".progress .failure").inner_text()


async def test_it_is_cancelled(browser: Browser, writing_checkpoint: Checkpoint) -> None:
    with serving(writing_checkpoint, WritingEngine(writing_checkpoint, token_s=0.01)) as url:
        async with visiting(browser, url) as visit:
            await visit.open_batch()
            await visit.drop_file("rows.jsonl", as_jsonl(made_up_rows(400)))
            await visit.button("Score the file").click()
            await visit.page.locator(".progress", has_text="per second").wait_for()
            await visit.button("Cancel").click()
            await visit.page.locator(".progress [role=status]", has_text="Cancelled").wait_for()
            await visit.button("Score the file").wait_for()


async def test_a_busy_server_is_waited_for(browser: Browser, writing_checkpoint: Checkpoint) -> None:
    engine = WritingEngine(writing_checkpoint, token_s=0.005)
    limits: dict[str, Any] = {"max_sequences": 32, "max_critiques": 4, "max_waiting": 0}
    with serving(writing_checkpoint, engine, **limits) as url:
        async with visiting(browser, url) as visit:
            visit.allowed = ["503"]
            await visit.open_batch()
            await visit.drop_file("rows.jsonl", as_jsonl(made_up_rows(100)))
            await score_file(visit)
            assert await visit.page.locator(".progress .failure").count() == 0
            assert any("503" in text for text in visit.complaints)


async def test_on_a_phone(browser: Browser, server: str) -> None:
    async with visiting(browser, server, viewport=PHONE) as visit:
        await visit.open_batch()
        await visit.drop_file("rows.jsonl", as_jsonl(made_up_rows(40)))
        await score_file(visit)
        assert await visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert await visit.serious_findings() == []
