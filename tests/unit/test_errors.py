"""One table for all exceptions, and the shape of every error."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import criticrm_server
from conftest import Running
from criticrm_model import CriticRMError
from criticrm_server.engines.base import Job, Output
from criticrm_server.errors import TABLE, ServiceError, field_name

ABSTRACT = {CriticRMError, ServiceError}


def subclasses(kind: type[CriticRMError]) -> set[type[CriticRMError]]:
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


def test_the_table_is_total() -> None:
    for module in pkgutil.walk_packages(criticrm_server.__path__, "criticrm_server."):
        if module.name != "criticrm_server.engines.vllm_engine":  # loads vLLM, and raises only what others define
            importlib.import_module(module.name)
    ours = {k for k in subclasses(CriticRMError) if k.__module__.startswith(("criticrm_model", "criticrm_server"))}
    assert ours - ABSTRACT == set(TABLE)


def test_statuses_callers_rely_on() -> None:
    """Overload must not be a 4xx (verl gives up on those), and what can be retried says when."""
    assert {answer.status for answer in TABLE.values()} <= {401, 413, 415, 422, 500, 503, 504}
    for answer in TABLE.values():
        assert (answer.retry_after_s is not None) == (answer.status == 503)
    codes = [answer.code for answer in TABLE.values()]
    assert len(codes) == len(set(codes))


def test_field_names() -> None:
    assert field_name(("body", "<many>", "items", 3, "responses", 0)) == "items[3].responses[0]"
    assert field_name(("body", "<one>", "prompt", "<list>", 1, "role")) == "prompt[1].role"
    assert field_name(("body",)) == "body"


async def test_an_unknown_exception_is_told_in_fixed_words(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_: Job) -> Output:
        raise ZeroDivisionError("a secret in the message")

    running.service.engine.run = broken
    response = await running.score(prompt="Q", responses=["A"])
    error = response.json()["error"]
    assert response.status_code == 500
    assert error["code"] == "internal"
    assert "secret" not in response.text
    assert error["request_id"] == response.headers["x-request-id"]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.request_id == error["request_id"]
    assert record.exc_info[0] is ZeroDivisionError


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
    assert not running.service.admission.in_house
