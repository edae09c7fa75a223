"""A walk through the playground on the embedded default model, in a real browser.

`SCREENSHOTS=docs/images` keeps the pictures of docs/playground.md.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support.browser import PHONE, Visit, visiting

if TYPE_CHECKING:
    from playwright.async_api import Browser

HOSTILE = "<script>window.hacked = 1</script>"
ROWS = 200


async def walk(browser: Browser, url: str) -> None:
    """Args: url: of a service with the default model."""
    async with visiting(browser, url) as visit:
        await visit.screenshot("empty")
        await score_live(visit)
        await read_trace(visit)
        await run_probe(visit)
        await score_hostile(visit)
        await score_samples(visit)
        await score_file(visit)
        link = await share(visit)
    await open_link(browser, url, link)


async def score_live(visit: Visit) -> None:
    await visit.button("Arithmetic").click()
    await visit.button("Score").click()
    critique = visit.response_card("A").get_by_role("listbox")
    curve = visit.page.get_by_role("img", name="Reward by token of the critique")
    await critique.wait_for()
    first = await curve.get_attribute("aria-label")
    await critique.filter(has_text="126").wait_for(timeout=60_000)
    assert await critique.get_attribute("aria-busy") == "true"
    assert await curve.get_attribute("aria-label") != first
    await visit.response_card("B").get_by_role("listbox").filter(has_text="Different").wait_for(timeout=60_000)
    await visit.screenshot("live")
    await visit.button("Score").wait_for(timeout=60_000)
    assert (await visit.verdict()).startswith("A wins with ")


async def show_scores(visit: Visit) -> None:
    await visit.page.get_by_role("heading", name="Scores", exact=True).evaluate("(heading) => heading.scrollIntoView()")


async def read_trace(visit: Visit) -> None:
    await visit.response_card("B").get_by_role("listbox").focus()
    await visit.page.keyboard.press("End")
    readout = await visit.response_card("B").locator(".readout").inner_text()
    assert readout.startswith("“wrong.” reward \N{MINUS SIGN}")
    await visit.screenshot("trace")
    assert await visit.serious_findings() == []


async def run_probe(visit: Visit) -> None:
    card = visit.response_card("A")
    await visit.button("All", card).click()
    await card.get_by_role("row", name="Empty").wait_for(timeout=120_000)
    await show_scores(visit)
    await visit.screenshot("probes")


async def score_hostile(visit: Visit) -> None:
    await visit.page.get_by_role("textbox", name="Response B").fill(HOSTILE)
    await visit.page.get_by_label("Tokens", exact=True).first.fill("8")
    await visit.score(timeout_s=60)
    assert await visit.page.evaluate("window.hacked") is None


async def score_samples(visit: Visit) -> None:
    await visit.button("Four samples").click()
    await visit.page.get_by_label("Seed").first.fill("1")
    await visit.score(timeout_s=120)
    assert await visit.response_card("C").locator(".strip .dot").count() == 4
    await show_scores(visit)
    await visit.screenshot("samples")


async def score_file(visit: Visit) -> None:
    rows = [
        {"prompt": f"{i} + 25?", "response": "Well, " * (i % 7) + f"it is {i + 25}."}  # short: a CPU reads them all
        for i in range(ROWS)
    ]
    await visit.open_batch()
    await visit.drop_file("sums.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    await visit.page.get_by_label("Write critiques").last.uncheck()
    await visit.button("Score the file").click()
    await visit.page.locator(".progress [role=status]", has_text="Finished.").wait_for(timeout=180_000)
    await visit.button("Score").click()
    cells = await visit.page.locator(".rows tbody tr td:nth-child(2)").all_inner_texts()
    scores = [float(cell.replace("\N{MINUS SIGN}", "-")) for cell in cells]
    assert scores == sorted(scores)
    await visit.screenshot("batch")
    assert await visit.serious_findings() == []
    async with visit.page.expect_download() as event:
        await visit.button("CSV").click()
    assert (await event.value).suggested_filename == "sums-scores.csv"


async def share(visit: Visit) -> str:
    await visit.page.get_by_role("tab", name="Compare").click()
    await visit.button("Arithmetic").click()
    await visit.page.get_by_label("Tokens", exact=True).first.fill("12")
    await visit.button("Share link").click()
    return visit.page.url


async def open_link(browser: Browser, url: str, link: str) -> None:
    async with visiting(browser, url, link.removeprefix(url), viewport=PHONE, color_scheme="dark") as visit:
        await visit.holds("Response A", "The answer is 78.")
        await visit.score(timeout_s=60)
        assert "Cut at the token limit." in await visit.response_card("A").inner_text()
        await show_scores(visit)
        await visit.screenshot("phone")
        assert await visit.serious_findings() == []
