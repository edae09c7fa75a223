"""A headless Chromium that walks the playground, and what must hold on every visit."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NO_CHROMIUM = "no Chromium: install one (Debian's package chromium) to walk the playground"
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


@asynccontextmanager
async def start_browser() -> AsyncIterator[Browser]:
    """Skips the test where there is no browser."""
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    playwright = pytest.importorskip("playwright.async_api")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses root
    async with playwright.async_playwright() as started:
        browser = await started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


class Visit:
    """A page of the playground, and everything that it complains about or requests.

    Attributes:
        complaints: console errors and warnings, exceptions, and requests to other hosts.
        allowed: part of a complaint that the test provokes.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.allowed: list[str] = []
        host = urlsplit(url).netloc
        page.on("console", lambda line: self._note(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on("request", lambda request: self._check_host(request.url, host))

    def _note(self, text: str) -> None:
        self.complaints.append(text)

    def _check_host(self, url: str, host: str) -> None:
        if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != host:
            self.complaints.append(f"request to another host: {url}")

    def check(self) -> None:
        unexpected = [text for text in self.complaints if not any(allowed in text for allowed in self.allowed)]
        assert unexpected == []

    def button(self, name: str, within: Locator | None = None) -> Locator:
        return (within or self.page).get_by_role("button", name=name, exact=True)

    def response_card(self, letter: str) -> Locator:
        return self.page.get_by_role("article", name=f"Response {letter}")

    async def holds(self, label: str, value: str | re.Pattern[str]) -> None:
        """Wait until the field has this value: the page fills it in after it has painted."""
        expect = pytest.importorskip("playwright.async_api").expect
        await expect(self.page.get_by_label(label, exact=True).first).to_have_value(value)

    async def write(self, prompt: str, *responses: str) -> None:
        """Fill in one turn and the first responses."""
        await self.page.get_by_label("Turn 1", exact=True).fill(prompt)
        for letter, response in zip("ABCDEFGH", responses, strict=False):
            field = self.page.get_by_role("textbox", name=f"Response {letter}", exact=True)
            if await field.count() == 0:
                await self.button("Add a response").click()
            await field.fill(response)

    async def score(self, timeout_s: float = 20) -> str:
        """Press Score and wait for the end: what the page says of the ranking."""
        await self.button("Score").click()
        await self.button("Score").wait_for(timeout=timeout_s * 1000)
        return await self.verdict()

    async def verdict(self) -> str:
        return await self.page.locator(".verdict").inner_text()

    async def open_batch(self) -> None:
        await self.page.get_by_role("tab", name="Batch").click()

    async def drop_file(self, name: str, content: str) -> None:
        """Drop a file as a user does: the page gets the events, not the input."""
        transfer = await self.page.evaluate_handle(
            "([name, content]) => { const t = new DataTransfer(); t.items.add(new File([content], name)); return t; }",
            [name, content],
        )
        await self.page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})

    async def screenshot(self, name: str) -> None:
        """Kept where SCREENSHOTS names a folder, as docs/images."""
        folder = os.environ.get("SCREENSHOTS")
        if not folder:
            return
        image = pytest.importorskip("PIL.Image").open(io.BytesIO(await self.page.screenshot(animations="disabled")))
        image.convert("RGB").quantize(256).save(Path(folder) / f"playground-{name}.png", optimize=True)

    async def serious_findings(self) -> list[dict[str, Any]]:
        """What axe reports as serious or critical."""
        axe = pytest.importorskip("axe_playwright_python.async_playwright").Axe()
        found = (await axe.run(self.page)).response["violations"]
        return [
            {"rule": one["id"], "help": one["help"], "nodes": [node["html"][:300] for node in one["nodes"][:3]]}
            for one in found
            if one["impact"] in ("serious", "critical")
        ]


@asynccontextmanager
async def visiting(browser: Browser, url: str, path: str = "/", **options: Any) -> AsyncIterator[Visit]:
    """A fresh profile on the page; leaving it checks that nothing was complained about.

    Args:
        options: of the browser's context; by default a desktop in light colours.
    """
    context = await browser.new_context(**{"viewport": DESKTOP, "color_scheme": "light", **options})
    try:
        page = await context.new_page()
        page.set_default_timeout(20_000)
        visit = Visit(page, url)
        await page.goto(url + path)
        await page.get_by_role("tab", name="Compare").wait_for()
        yield visit
        visit.check()
    finally:
        await context.close()
