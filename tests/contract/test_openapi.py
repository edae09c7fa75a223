"""The committed document is what the app serves, and the app keeps to it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from conftest import Running, serving
from criticrm_model.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "openapi.json"
KEY = "contract"


async def test_the_committed_document_is_the_apps(running: Running) -> None:
    served = (await running.client.get("/openapi.json")).json()
    assert json.loads(DOCUMENT.read_text(encoding="utf-8")) == served, "run: python scripts/write_openapi.py"


def test_the_script_writes_that_document() -> None:
    spec = importlib.util.spec_from_file_location("write_openapi", ROOT / "scripts" / "write_openapi.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.document() == json.loads(DOCUMENT.read_text(encoding="utf-8"))


async def test_the_documentation_page_needs_no_cdn(running: Running) -> None:
    page = await running.client.get("/docs")
    assert page.status_code == 200
    assert "cdn" not in page.text
    script = await running.client.get("/static-offline-docs/swagger-ui-bundle.js")
    assert script.status_code == 200


api = schemathesis.openapi.from_path(DOCUMENT)


@pytest.fixture(scope="module")
def live_url(opened_checkpoint: Checkpoint) -> Iterator[str]:
    with serving(opened_checkpoint, api_keys=(KEY,)) as url:
        yield url


@api.parametrize()
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_generated_request_is_a_5xx_or_leaves_the_document(case: schemathesis.Case, live_url: str) -> None:
    case.call_and_validate(
        base_url=live_url,
        headers={"Authorization": f"Bearer {KEY}"},
        # Some limits are a server's own settings, and some rules span fields: the document can't hold them.
        excluded_checks=[positive_data_acceptance],
    )
