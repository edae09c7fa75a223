"""The playground's first paint: milliseconds from the request to the first text, with nothing cached.

Needs Chromium and `pip install playwright`, and a server that runs (`criticrm serve TINY --engine fake` will do).

examples:
  python benchmarks/page.py --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics

from common import environment
from playwright.sync_api import sync_playwright

PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="of the service")
    parser.add_argument("--loads", type=int, default=5, metavar="N", help="each in a fresh profile (5)")
    told = parser.parse_args()
    paints = []
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses root
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        for _ in range(told.loads):
            page = browser.new_page()
            page.goto(told.url)
            page.get_by_role("tab", name="Compare").wait_for()
            paints.append(page.evaluate(PAINT))
            page.close()
        browser.close()
    print(f"first contentful paint: median {statistics.median(paints):.0f} ms of {sorted(map(round, paints))}")
    print(json.dumps({"environment": environment(), "paints_ms": paints}))


if __name__ == "__main__":
    main()
