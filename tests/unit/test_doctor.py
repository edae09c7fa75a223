"""`criticrm doctor`: its arithmetic, and that each thing that would stop the service is found."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from criticrm_model.checkpoint import Checkpoint
from criticrm_server import doctor
from criticrm_server.commands.doctor import Doctor
from criticrm_server.doctor import examine
from criticrm_server.findings import Finding
from criticrm_server.memory import sizes_of
from criticrm_server.settings import Settings


@pytest.fixture(autouse=True)
def _vllm_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty seconds each; the command itself is run with it in tests/docs."""
    monkeypatch.setattr(doctor, "_vllm_imports", lambda: Finding("ok", "import vllm", "not tried"))


def found(**settings: Any) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(Settings(port=0, **settings))}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sizes_are_those_of_the_loaded_model(opened_checkpoint: Checkpoint, dtype: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(opened_checkpoint.folder, dtype=dtype)
    sizes = sizes_of(opened_checkpoint, Settings(dtype=dtype))
    parameters = list(model.parameters())
    assert sizes.parameters == sum(parameter.numel() for parameter in parameters)
    assert sizes.weights == sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    cache = model(input_ids=model.dummy_inputs["input_ids"][:1], use_cache=True).past_key_values
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    tokens = tensors[0].shape[-2]
    assert sizes.kv_token == sum(tensor.numel() * tensor.element_size() for tensor in tensors) / tokens


def test_all_is_well(tiny_checkpoint: Path) -> None:
    for engine in ("transformers", "vllm"):
        report = found(model=str(tiny_checkpoint), engine=engine)
        assert {finding.level for finding in report.values()} <= {"ok", "warning"}
    assert "verified" in report["checkpoint"].text
    assert "sequences of" in report["fit"].text


def test_what_would_stop_it_is_found(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert found(model=str(broken))["checkpoint"].level == "problem"
    assert found(model=str(tmp_path / "nowhere"))["checkpoint"].level == "problem"

    large = found(model=str(tiny_checkpoint), kv_cache_gib=1e6)["memory"]
    assert (large.level, large.advice) == ("problem", "lower --kv-cache-gib, or serve it on a larger machine")
    small = found(model=str(tiny_checkpoint), kv_cache_gib=1e-6, max_model_len=512)["fit"]
    assert small.level == "problem"

    monkeypatch.setattr("criticrm_server.engines.factory.find_spec", lambda _: None)
    assert "vLLM is not installed" in found(model=str(tiny_checkpoint))["extras"].text

    (tmp_path / "file").touch()
    monkeypatch.setenv("CRITICRM_CACHE", str(tmp_path / "file" / "below"))
    assert found(model=str(tiny_checkpoint), engine="transformers")["cache"].level == "warning"
    assert found(model="default", engine="transformers")["cache"].level == "problem"


def test_a_port_in_use_is_found(tiny_checkpoint: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(model=str(tiny_checkpoint), engine="fake", port=taken.getsockname()[1])
        report = {finding.subject: finding for finding in examine(settings)}
    assert report["port"].level == "problem"
    assert "--port" in report["port"].text


def test_servers_that_are_not_there(tiny_checkpoint: Path) -> None:
    report = found(model=str(tiny_checkpoint), engine="remote", remote_urls=("http://127.0.0.1:9",))
    assert report["vLLM server"].level == "warning"
    assert report["vLLM servers"].level == "problem"
    assert "fit" not in report


def test_unguarded_is_a_warning(tiny_checkpoint: Path) -> None:
    report = found(model=str(tiny_checkpoint), engine="fake", host="0.0.0.0", allow_unauthenticated=True)
    assert report["keys"].level == "warning"


def test_lines_json_and_the_exit_code(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {"engine": "fake", "port": 0}
    assert Doctor(model=str(tiny_checkpoint), **given).run() == 0
    assert "ok       checkpoint" in capsys.readouterr().out
    assert Doctor(model=str(tmp_path), json=True, **given).run() == 1
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "problem"
    assert [f["subject"] for f in report["findings"] if f["level"] == "problem"] == ["checkpoint"]


def test_a_torchvision_that_does_not_match_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    assert doctor._vllm_imports().level == "problem"

    class Done:
        returncode = 1
        stderr = "Traceback\nRuntimeError: operator torchvision::nms does not exist\n"

    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: Done)
    finding = doctor._vllm_imports()
    assert finding.text == "RuntimeError: operator torchvision::nms does not exist"
    assert "pip uninstall torchvision" in finding.advice


@pytest.mark.parametrize(("installed", "level"), [("0.32.0", "ok"), ("0.33.1", "ok"), ("0.34.0", "warning")])
def test_a_version_of_vllm_that_was_never_checked_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, installed: str, level: str
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda _: installed)
    assert doctor._proof().level == level


def test_it_starts_the_engine_and_has_it_checked(tiny_checkpoint: Path) -> None:
    command = Doctor(model=str(tiny_checkpoint), engine="transformers", start=True, port=0, json=True)
    assert command.run() == 0
