"""`criticrm quickstart`."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import webbrowser
from typing import Any, Self

import httpx
from pydantic import Field, model_validator
from pydantic_settings import CliToggleFlag

from ..doctor import examine
from ..serve import serve
from ..settings import Settings
from .doctor import show

logger = logging.getLogger(__name__)

_REQUEST: dict[str, Any] = {
    "prompt": "Start with 17, add 25, multiply by 3, subtract 48. What is the result?",
    "responses": ["The answer is 78.", "The answer is 68."],
}
_READY_S = 1800.0  # a first start downloads the model


class Quickstart(Settings):
    """Check this machine, start the service, send it a first request, and open its page in a browser.

    Takes the options and variables of `serve`. The service stays until Ctrl-C.
    """

    no_browser: CliToggleFlag[bool] = Field(False, description="Do not open the page.")

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        if self.uds or self.ssl_certfile or not self.port:
            raise ValueError("quickstart needs a port, without TLS, such as --port 8000; serve takes the rest")
        return self

    def run(self) -> int:
        findings = list(examine(self))
        show(findings)
        if any(finding.level == "problem" for finding in findings):
            return 1
        threading.Thread(target=self._first_request, daemon=True, name="first-request").start()
        return serve(self)

    def _first_request(self) -> None:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - not bound here
        url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        headers = {"Authorization": f"Bearer {self.api_keys[0].get_secret_value()}"} if self.api_keys else {}
        with httpx.Client(base_url=url, headers=headers, timeout=self.deadline_s, trust_env=False) as client:
            if not _is_ready(client):
                return
            began = time.monotonic()
            answer = client.post("/score", json=_REQUEST)
        seconds = time.monotonic() - began
        if answer.status_code != 200:
            logger.error("the first request failed with %d: %s", answer.status_code, answer.text[:500])
            return
        sys.stdout.write(_described(answer.json(), seconds, f"{url}/score"))
        if self.playground:
            opened = not self.no_browser and webbrowser.open(f"{url}/")
            sys.stdout.write(f"\n{'opened' if opened else 'to look at'}: {url}/\n")
        sys.stdout.write("Ctrl-C stops the service.\n")
        sys.stdout.flush()


def _is_ready(client: httpx.Client) -> bool:
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        try:
            if client.get("/health/ready", timeout=5).status_code == 200:
                return True
        except httpx.HTTPError:  # not listening yet
            pass
        time.sleep(0.2)
    return False


def _described(answer: dict[str, Any], seconds: float, url: str) -> str:
    body = json.dumps(_REQUEST, indent=2)
    lines = ["", f"curl {url} -H 'Content-Type: application/json' -d '{body}'", "", f"answered in {seconds:.1f} s:"]
    for response, result in zip(_REQUEST["responses"], answer["results"], strict=True):
        lines += ["", f"  {response}   score {result['score']:+.3f}, before a critique {result['direct_score']:+.3f}"]
        lines += [f"    {line}" for critique in result["critiques"] for line in critique["text"].splitlines()]
    return "\n".join(lines) + "\n"
