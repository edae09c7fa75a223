"""Keys, links and copied commands of the playground: what they hold, and what they must not."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from conftest import serving
from criticrm_model.checkpoint import Checkpoint
from support.browser import Visit, visiting
from support.writing import WritingEngine

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

KEY = "a-secret-key"
PROMPT = "It's \"17 + 25\", \\n is no line break,\nthis is: who's right? 数"
RESPONSES = ["The answer is 78.", "It isn't 'x'; $(rm) `ls` \\"]


@pytest.fixture(scope="module")
def server(writing_checkpoint: Checkpoint) -> Iterator[str]:
    with serving(writing_checkpoint, WritingEngine(writing_checkpoint), api_keys=(KEY,)) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, server: str) -> AsyncIterator[Visit]:
    async with visiting(browser, server, permissions=["clipboard-read", "clipboard-write"]) as one:
        one.allowed = ["401"]  # the browser reports the first call, which has no key
        yield one


async def type_key(visit: Visit, key: str = KEY) -> None:
    await visit.page.get_by_label("API key").fill(key)
    await visit.page.keyboard.press("Enter")


async def copied(visit: Visit, button: str) -> str:
    await visit.button(button).click()
    await visit.page.locator(".note", has_text="copied").wait_for()
    text: str = await visit.page.evaluate("navigator.clipboard.readText()")
    return text


async def test_a_missing_or_wrong_key_is_an_error_in_words(visit: Visit) -> None:
    alert = visit.page.locator("main > [role=alert]")
    await alert.wait_for()
    assert "needs an API key" in await alert.inner_text()
    await visit.write(PROMPT, *RESPONSES)
    await type_key(visit, "wrong")
    await visit.button("Score").click()
    failure = visit.page.locator("section .failure")
    await failure.wait_for()
    text = await failure.inner_text()
    assert "unauthorized" in text
    assert "Request id" in text
    assert await visit.serious_findings() == []
    await type_key(visit)
    await alert.wait_for(state="hidden")
    assert "A wins" in await visit.score()


async def test_the_key_stays_in_memory(visit: Visit) -> None:
    await type_key(visit)
    await visit.write(PROMPT, *RESPONSES)
    await visit.score()
    texts = [await copied(visit, button) for button in ("curl", "Python", "JSON", "Share link")]
    assert not any(KEY in text for text in texts)
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    assert KEY not in await visit.page.evaluate(kept)
    assert await visit.page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    await visit.page.reload()
    await visit.holds("API key", "")


async def test_copied_commands_run(visit: Visit, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITICRM_KEY", KEY)
    await type_key(visit)
    await visit.write(PROMPT, *RESPONSES)
    await visit.page.get_by_label("Tokens", exact=True).first.fill("40")
    body = json.loads(await copied(visit, "JSON"))
    assert body == {"prompt": PROMPT, "responses": RESPONSES, "critique": {"max_tokens": 40}}
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}) as client:
        answer = (await client.post(f"{server}/score", json=body)).json()
    scores = [result["score"] for result in answer["results"]]

    out = io.StringIO()
    with redirect_stdout(out):
        exec(await copied(visit, "Python"), {})  # it is the page's own code, with the texts above
    assert [float(line.split()[0]) for line in out.getvalue().splitlines()] == scores

    if shutil.which("curl") is None:
        return
    command = ["bash", "-c", await copied(visit, "curl")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, text=True)
    printed = done.stdout
    assert [result["score"] for result in json.loads(printed)["results"]] == scores


async def test_a_link_holds_the_draft_in_its_fragment(browser: Browser, visit: Visit, server: str) -> None:
    urls: list[str] = []
    await visit.write(PROMPT, *RESPONSES)
    await visit.page.get_by_label("System prompt").fill("Be brief.")
    await visit.page.get_by_label("Seed").first.fill("7")
    link = await copied(visit, "Share link")
    assert link == visit.page.url
    assert link.startswith(f"{server}/#draft=")
    async with visiting(browser, server, link.removeprefix(server)) as other:
        other.allowed = ["401"]
        other.page.on("request", lambda request: urls.append(request.url))
        await other.holds("Turn 1", PROMPT)
        await other.holds("Response B", RESPONSES[1])
        await other.holds("System prompt", "Be brief.")
        await other.holds("Seed", "7")
        await other.page.reload()
        await other.holds("Response A", RESPONSES[0])


def fragment(draft: Any) -> str:
    return "/#draft=" + base64.urlsafe_b64encode(json.dumps(draft).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "path",
    [
        "/#draft=%%%",
        "/#draft=AAAA",
        "/#other",
        fragment([]),
        fragment({"turns": [None, {"role": "x"}], "responses": [1], "samples": "many"}),
        fragment({"turns": 5, "responses": {"length": 9}, "samples": 1e9, "system": {}}),
    ],
)
async def test_a_broken_link_opens_an_empty_page(browser: Browser, server: str, path: str) -> None:
    async with visiting(browser, server, path) as visit:
        visit.allowed = ["401"]
        await visit.holds("Response A", "")
        assert await visit.button("Score").is_visible()


async def test_without_a_clipboard_the_text_is_shown(browser: Browser, server: str) -> None:
    async with visiting(browser, server) as visit:
        visit.allowed = ["401"]
        await visit.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        await visit.write("Why?", "So.")
        await visit.button("curl").click()
        assert "/score' -H 'Content-Type" in await visit.page.get_by_label("Text to copy").input_value()
