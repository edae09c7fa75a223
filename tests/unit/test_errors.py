"""Every exception has a code and a status, and every error the same shape."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import criticrm_server
from conftest import Running
from criticrm_client.fields import field_name
from criticrm_model import CriticRMError
from criticrm_server.checks import SelfCheckFailed
from criticrm_server.engines.base import Job, Output
from criticrm_server.errors import ServiceError

ABSTRACT = {CriticRMError, ServiceError}


def subclasses(kind: type[CriticRMError]) -> set[type[CriticRMError]]:
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


def ours() -> set[type[CriticRMError]]:
    """What a caller can receive."""
    for module in pkgutil.walk_packages(criticrm_server.__path__, "criticrm_server."):
        if not module.name.startswith("criticrm_server.engines.vllm_"):  # load vLLM, raise only what others define
            importlib.import_module(module.name)
    kinds = {k for k in subclasses(CriticRMError) if k.__module__.startswith(("criticrm_model", "criticrm_server"))}
    # A failed self-check keeps a server from starting, or is the reason of a WeightsRefused: no caller gets it.
    return kinds - ABSTRACT - {SelfCheckFailed}


def test_every_exception_has_a_code_and_a_status_of_its_own() -> None:
    assert len(ours()) > 20
    for kind in ours():
        assert {"code", "status"} <= vars(kind).keys(), kind
        assert "retry_after_s" in vars(kind) or kind.retry_after_s is None, kind


def test_statuses_callers_rely_on() -> None:
    """Overload must not be a 4xx (verl gives up on those), and what can be retried says when."""
    of_administration = {409, 501}
    of_another_model = {404, 409}
    known = {401, 413, 415, 422, 500, 503, 504, *of_administration, *of_another_model}
    assert {kind.status for kind in ours()} <= known
    for kind in ours():
        assert (kind.retry_after_s is not None) == (kind.status == 503)
    codes = [kind.code for kind in ours()]
    assert len(codes) == len(set(codes))


def test_field_names() -> None:
    assert field_name(("body", "<many>", "items", 3, "responses", 0)) == "items[3].responses[0]"
    assert field_name(("body", "<one>", "prompt", "<list>", 1, "role")) == "prompt[1].role"
    assert field_name(("body",)) == "body"


@pytest.mark.parametrize("kind", [ZeroDivisionError, CriticRMError])
async def test_an_unknown_exception_is_told_in_fixed_words(
    running: Running, caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    async def broken(_: Job) -> Output:
        raise kind("a secret in the message")

    running.service.engine.run = broken
    response = await running.score(prompt="Q", responses=["A"])
    error = response.json()["error"]
    assert response.status_code == 500
    assert error["code"] == "internal"
    assert "secret" not in response.text
    assert error["request_id"] == response.headers["x-request-id"]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.request_id == error["request_id"]
    assert record.exc_info[0] is kind


async def test_half_an_answer_is_cut_off_not_patched_up(running: Running) -> None:
    """The status line is out: an error's body after it would be read as a result."""

    async def broken(_: Job) -> Output:
        raise ZeroDivisionError

    running.service.engine.run = broken
    response = await running.client.post(
        "/score", json={"prompt": "Q", "responses": ["A"]}, headers={"accept": "application/x-ndjson"}
    )
    assert response.status_code == 200
    assert response.text == ""  # and so without the line that ends a stream
    assert not running.service.admission.admitted
