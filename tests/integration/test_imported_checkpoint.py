"""Imported reward models on real vLLM, against the original class in transformers, as `criticrm verify` does it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from criticrm_model.importing.importer import Source, import_model
from support.live import CRITICRM, IN_ONE_PROCESS
from support.scalars import conversations, make_classifier

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("kind", "several"), [("qwen3", None), ("gemma3", {"a": 0.5, "b": -0.25, "c": 0.0})])
def test_vllm_gives_the_rewards_of_the_original_class(
    kind: str, several: dict[str, float] | None, tmp_path: Path
) -> None:
    source = make_classifier(tmp_path / "source", kind, labels=len(several or "1"))
    import_model(Source(str(source), objectives=several), tmp_path / "imported")
    rows = [{"prompt": messages, "responses": [response]} for messages, response in conversations()]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--conversations", tmp_path / "rows.jsonl", "--kv-cache-gib", "1", "--json"]
    options += ["--vllm-args", json.dumps(IN_ONE_PROCESS)]
    done = subprocess.run(
        [CRITICRM, "verify", tmp_path / "imported", *options], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["original"]["n"], last["dtype"]) == (64 * len(several or "1"), "float32")
    assert all(last[name]["max_abs_diff"] <= 1e-4 for name in several or ())
    assert 0 < last["original"]["max_abs_diff"] <= 1e-4
    assert abs(last["original"]["mean_signed_diff"]) <= 1e-5
