"""The playground's first tab in a real browser: live critiques, the trace, ranking, probes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from conftest import serving
from criticrm_model.checkpoint import Checkpoint
from support.browser import PHONE, Visit, visiting
from support.writing import HOSTILE, RIGHT, WritingEngine

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

PROMPT = "Start with 17, add 25, multiply by 3, subtract 48. What is the result?"
GOOD, BAD = "The answer is 78.", "The answer is 68."


@pytest.fixture(scope="module")
def server(writing_checkpoint: Checkpoint) -> Iterator[str]:
    with serving(writing_checkpoint, WritingEngine(writing_checkpoint)) as url:
        yield url


@pytest.fixture(scope="module")
def slow_server(writing_checkpoint: Checkpoint) -> Iterator[str]:
    with serving(writing_checkpoint, WritingEngine(writing_checkpoint, token_s=0.03)) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, server: str) -> AsyncIterator[Visit]:
    async with visiting(browser, server) as one:
        yield one


async def requests_of(visit: Visit, path: str) -> list[dict[str, Any]]:
    """Bodies that the page posts to a path from now on."""
    bodies: list[dict[str, Any]] = []
    visit.page.on("request", lambda one: bodies.append(one.post_data_json) if one.url.endswith(path) else None)
    return bodies


async def test_it_is_empty_at_first_and_says_what_is_missing(visit: Visit) -> None:
    assert "No scores yet" in await visit.page.locator(".empty").first.inner_text()
    await visit.button("Score").press("Enter")  # it can be reached while it is disabled, and does nothing
    assert "Write a prompt first." in await visit.page.locator(".compare .actions").inner_text()
    await visit.page.get_by_label("Turn 1", exact=True).fill("Why?")
    assert "Write at least one response." in await visit.page.locator(".compare .actions").inner_text()
    assert await visit.serious_findings() == []


async def test_critiques_are_written_before_the_eyes_and_the_curve_moves(browser: Browser, slow_server: str) -> None:
    async with visiting(browser, slow_server) as visit:
        await visit.write(PROMPT, GOOD, BAD)
        await visit.button("Score").click()
        critique = visit.response_card("A").get_by_role("listbox")
        curve = visit.page.get_by_role("img", name="Reward by token of the critique")
        await critique.wait_for()
        texts, curves = [], []
        for _ in range(4):
            texts.append(await critique.inner_text())
            curves.append(await curve.get_attribute("aria-label"))
            await asyncio.sleep(0.2)
        assert len(set(texts)) > 2
        assert all(RIGHT.startswith(text.rstrip()) for text in texts)
        assert len(set(curves)) > 2
        assert await critique.get_attribute("aria-busy") == "true"
        assert await visit.serious_findings() == []
        await visit.button("Score").wait_for()
        assert await critique.get_attribute("aria-busy") == "false"
        assert (await critique.inner_text()).strip() == RIGHT
        assert (await visit.verdict()).startswith("A wins with ")


async def test_numbers_are_those_of_the_answer(visit: Visit) -> None:
    bodies = await requests_of(visit, "/score")
    await visit.write(PROMPT, GOOD, BAD)
    await visit.score()
    assert bodies == [{"prompt": PROMPT, "responses": [GOOD, BAD], "critique": {"trace": True}}]
    answer = await visit.page.request.post(f"{visit.url}/score", data=bodies[0])
    for letter, result in zip("AB", (await answer.json())["results"], strict=True):
        shown = f"{result['score']:.2f}".replace("-", "\N{MINUS SIGN}")
        assert await visit.page.get_by_test_id(f"score-{letter}").inner_text() == shown
    bars = visit.page.locator(".bars .track")
    assert await bars.locator(".bar.direct").count() == await bars.locator(".bar.after").count() == 2


async def test_the_trace_is_read_by_keyboard(visit: Visit) -> None:
    await visit.write(PROMPT, GOOD, BAD)
    await visit.score()
    critique = visit.response_card("A").get_by_role("listbox")
    readout = visit.response_card("A").locator(".readout")
    assert "arrow keys" in await readout.inner_text()
    await critique.focus()
    assert (await readout.inner_text()).startswith("“17” reward ")
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "End"):
        await visit.page.keyboard.press(key)
        seen.append((await readout.inner_text()).split(" reward ")[0])
    assert seen == ["“+”", "“25”", "“3”", "“right.”"]
    active = await critique.get_attribute("aria-activedescendant")
    word = visit.page.locator(f"[id='{active}']")
    assert await word.get_attribute("aria-selected") == "true"
    label = await word.get_attribute("aria-label") or ""
    assert label.startswith("right., reward ")
    assert "change +" in label
    assert await word.evaluate("(word) => word.style.getPropertyValue('--share')") == "100%"
    await visit.page.keyboard.press("ArrowUp")
    await critique.get_by_role("option", name="126,").first.hover()
    assert (await readout.inner_text()).startswith("“126” reward ")


async def test_samples_are_a_strip_and_differences_within_their_error_are_ties(visit: Visit) -> None:
    await visit.write(PROMPT, GOOD, BAD, f"{GOOD} ")
    await visit.page.get_by_label("Samples", exact=True).first.fill("4")
    verdict = await visit.score()
    assert verdict.startswith("No clear winner: A has the highest score")
    assert "tied with C" in verdict
    assert "two standard errors" in await visit.page.locator(".verdict + .hint").inner_text()
    card = visit.response_card("A")
    assert await card.locator(".strip .dot").count() == 4
    assert "4 critiques: mean" in await card.locator(".strip").inner_text()
    assert await visit.response_card("C").locator(".badge").inner_text() == "Tied for first"
    await visit.button("3", card).click()
    assert await visit.button("3", card).get_attribute("aria-pressed") == "true"
    assert await visit.serious_findings() == []


async def test_probes_show_what_the_reward_did(visit: Visit) -> None:
    await visit.write(PROMPT, GOOD, BAD)
    await visit.score()
    bodies = await requests_of(visit, "/score")
    card = visit.response_card("A")
    await visit.button("Empty", card).click()
    row = card.get_by_role("row", name="Empty")
    await row.wait_for()
    assert "\N{MINUS SIGN}6." in await row.inner_text()
    await visit.button("All", card).click()
    await card.get_by_role("row", name="“Solution” first").wait_for()
    assert await card.locator(".probe-results tbody tr").count() == 5
    assert bodies[0]["responses"] == [""]
    assert [text[:12] for text in bodies[1]["responses"]] == ["", GOOD[:12], GOOD[:12], "Thought proc", "Solution\nThe"]
    assert bodies[1]["responses"][1] == f"{GOOD}\n\n{GOOD}"
    assert await visit.serious_findings() == []


async def test_texts_of_users_and_models_run_nothing(visit: Visit) -> None:
    await visit.write("<b>bold</b>", HOSTILE, "</textarea><script>window.hacked = 1</script>")
    await visit.score()
    assert HOSTILE in await visit.response_card("A").get_by_role("listbox").inner_text()
    assert await visit.page.evaluate("window.hacked") is None
    assert await visit.page.locator("main img, main script, main b").count() == 0


async def test_optional_fields_are_sent_where_they_are_filled_in(visit: Visit) -> None:
    bodies = await requests_of(visit, "/score")
    page = visit.page
    await visit.write("Name a prime.", "7", "9")
    await page.get_by_label("System prompt").fill("Be brief.")
    await page.locator("summary", has_text="Criteria and reference").click()
    await page.get_by_label("Criteria", exact=True).fill("Correct.")
    await page.get_by_label("Reference answer").fill("7")
    await visit.button("Add a turn").click()
    assert await page.get_by_label("Role of turn 2").input_value() == "assistant"
    await visit.button("Remove turn 2").click()
    await visit.score()
    (body,) = bodies
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a prime."}]
    assert body["prompt"] == messages
    assert (body["criteria"], body["reference"]) == ("Correct.", "7")
    text = await visit.response_card("A").inner_text()
    assert "was not trained with criteria" in text
    assert "was not trained with reference answers" in text


async def test_two_to_eight_responses(visit: Visit) -> None:
    await visit.write(PROMPT, *[GOOD] * 8)
    assert await visit.button("Add a response").is_disabled()
    await visit.page.get_by_label("Samples", exact=True).first.fill("16")
    verdict = await visit.score()
    assert "No clear winner" in verdict
    assert await visit.page.get_by_role("article").count() == 8
    await visit.button("Remove response H").click()
    assert await visit.page.get_by_role("textbox", name="Response H").count() == 0


async def test_without_critiques_the_score_is_the_direct_score(visit: Visit) -> None:
    await visit.write(PROMPT, GOOD, BAD)
    await visit.page.get_by_label("Write critiques").first.uncheck()
    await visit.score()
    assert "No critique was requested" in await visit.response_card("A").inner_text()
    assert await visit.page.get_by_role("listbox").count() == 0


async def test_a_run_is_cancelled(browser: Browser, slow_server: str) -> None:
    async with visiting(browser, slow_server) as visit:
        await visit.write(PROMPT, GOOD, BAD)
        await visit.button("Score").click()
        await visit.response_card("A").get_by_role("listbox").wait_for()
        await visit.button("Cancel").click()
        await visit.button("Score").wait_for()
        assert (await visit.verdict()).startswith("Cancelled after 0 of 2 responses")


async def test_an_engine_that_dies_is_reported_in_words(browser: Browser, writing_checkpoint: Checkpoint) -> None:
    engine = WritingEngine(writing_checkpoint, token_s=0.05)
    with serving(writing_checkpoint, engine) as url:
        async with visiting(browser, url) as visit:
            await visit.write(PROMPT, GOOD, BAD)
            await visit.button("Score").click()
            await visit.response_card("A").get_by_role("listbox").wait_for()
            engine.die()
            failure = visit.page.get_by_role("alert")
            await failure.wait_for()
            text = await failure.inner_text()
            assert "The engine stopped" in text
            assert "Request id" in text
            assert await visit.serious_findings() == []


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (429, {"error": {"code": "overloaded", "message": "try later", "request_id": "r1"}}, "The server is busy"),
        (503, "<html>", "A proxy or another server answered with status 503."),
        (
            200,
            'event: token\ndata: {"index":0,"critique":0,"text":"So","score":1}\n\nevent: to',
            "ended before the last",
        ),
        (None, "", "The server can't be reached."),
    ],
)
async def test_other_answers_are_reported_in_words(
    visit: Visit, status: int | None, body: str | dict[str, Any], message: str
) -> None:
    async def answer(route: Any) -> None:
        if status is None:
            await route.abort()
        else:
            await route.fulfill(status=status, body=body if isinstance(body, str) else json.dumps(body))

    visit.allowed = ["Failed to load resource"]
    await visit.page.route("**/score", answer)
    await visit.write(PROMPT, GOOD)
    assert await visit.score() == "Nothing was scored."
    assert message in await visit.page.get_by_role("alert").inner_text()
    assert await visit.serious_findings() == []


async def test_long_and_foreign_texts_do_not_widen_the_page(visit: Visit) -> None:
    await visit.write("م\u202e \U0001f469\u200d\U0001f467", "x" * 100_000, f"{GOOD} \U0001f389")
    await visit.score()
    assert "too long for the model" in await visit.response_card("A").inner_text()
    assert await visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("typed", "kept"), [("0", "1"), ("999", "16"), ("2.7", "3"), ("", "1")])
async def test_samples_are_within_the_limits(visit: Visit, typed: str, kept: str) -> None:
    field = visit.page.get_by_label("Samples", exact=True).first
    await field.fill(typed)
    await field.blur()
    assert await field.input_value() == kept


@pytest.mark.parametrize("options", [{"viewport": PHONE}, {"color_scheme": "dark"}], ids=["phone", "dark"])
async def test_other_screens(browser: Browser, server: str, options: dict[str, Any]) -> None:
    async with visiting(browser, server, **options) as visit:
        assert await visit.serious_findings() == []
        await visit.button("Explanation").click()
        await visit.score()
        assert await visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert await visit.serious_findings() == []
        shown = await visit.page.evaluate("document.documentElement.dataset.theme")
        assert shown == options.get("color_scheme", "light")
        await visit.button("Light" if shown == "dark" else "Dark").click()
        assert await visit.page.evaluate("document.documentElement.dataset.theme") != shown
        assert await visit.serious_findings() == []
        await visit.open_batch()
        assert await visit.serious_findings() == []


async def test_under_a_prefix(browser: Browser, writing_checkpoint: Checkpoint) -> None:
    with serving(writing_checkpoint, WritingEngine(writing_checkpoint), root_path="/critic") as url:
        async with visiting(browser, url, "/critic/") as visit:
            await visit.write(PROMPT, GOOD, BAD)
            assert (await visit.score()).startswith("A wins")


async def test_a_model_with_calibration_shows_standardised_scores(visit: Visit) -> None:
    async def calibrated(route: Any) -> None:
        model = await (await route.fetch()).json()
        moments = {"mean": 1.0, "std": 2.0}
        model["manifest"]["calibration"] = {"reference_set": "a", "n": 9, "score": moments, "direct_score": moments}
        await route.fulfill(body=json.dumps(model), content_type="application/json")

    await visit.page.route("**/v1/model", calibrated)
    await visit.page.reload()
    await visit.write(PROMPT, GOOD)
    await visit.score()
    score = float(await visit.page.get_by_test_id("score-A").inner_text())
    cells = await visit.page.locator(".bars tbody tr").first.locator("td").all_inner_texts()
    assert float(cells[3]) == pytest.approx((score - 1) / 2, abs=0.01)
