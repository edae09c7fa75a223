"""Write docs/openapi.json from the app, to be committed with every change of the API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from criticrm_server.app import create_app
from criticrm_server.settings import Settings

PATH = Path(__file__).parents[1] / "docs" / "openapi.json"


def document() -> dict[str, Any]:
    """What the app serves at /openapi.json; no checkpoint and no engine are needed for it."""
    return create_app(Settings.model_construct(max_sequences=1, api_keys=()), None, None).openapi()  # type: ignore[arg-type]


if __name__ == "__main__":
    PATH.write_text(json.dumps(document(), indent=2) + "\n", encoding="utf-8")
    print(f"wrote {PATH.relative_to(Path.cwd())}")
