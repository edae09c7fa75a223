"""The document holds what a generated client needs: short names, every header, a stream's lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from conftest import Running, StartApp
from support.dropin import bodies

DOCUMENT = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text("utf-8"))
TEXT = {"prompt": "Why?", "responses": ["So.", "Because."]}
KEY = {"Authorization": "Bearer one"}
# Of HTTP itself; the others are ours, and documented.
OF_HTTP = {"content-length", "content-type", "date", "server", "transfer-encoding", "connection"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def resolved(reference: dict[str, Any]) -> Any:
    found: Any = DOCUMENT
    for name in reference["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]})


def test_operation_ids_are_short_and_unique() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{2,19}", one) for one in ids)
    assert {"score", "score_v1", "render", "list_models"} <= set(ids)


def test_every_response_documents_its_headers() -> None:
    for method, path, operation in operations():
        for status, response in operation["responses"].items():
            names = set(response["headers"])
            assert "X-Request-ID" in names, (method, path, status)
            assert ("Retry-After" in names) == (status == "503"), (method, path, status)
            assert ("WWW-Authenticate" in names) == (status == "401"), (method, path, status)
            for header in response["headers"].values():
                assert resolved(header)["description"]


def assert_documented(answer: httpx.Response, path: str) -> None:
    operation = DOCUMENT["paths"][path][answer.request.method.lower()]
    documented = operation["responses"][str(answer.status_code)]["headers"]
    sent = set(answer.headers) - OF_HTTP
    assert sent <= {name.lower() for name in documented}, path
    for name, header in documented.items():
        definition = resolved(header)
        if name.lower() in sent:
            value: Any = answer.headers[name]
            value = {"integer": int, "number": float}.get(definition["schema"]["type"], str)(value)
            Draft202012Validator(definition["schema"]).validate(value)
        else:
            assert not definition.get("required"), (path, name)


async def test_what_is_sent_is_documented(start_app: StartApp) -> None:
    async with start_app(api_keys="one", admin_key="two") as running:
        posts = {**bodies(), "/score": TEXT, "/v1/score": TEXT, "/v1/render": TEXT}
        for method, path, _ in operations():
            body = posts.get(path, {"checkpoint": "none"} if path == "/admin/reload" else None)
            for headers in ({}, KEY, KEY | {"Accept": "application/x-ndjson"}):
                answer = await running.client.request(method, path, json=body, headers=headers)
                assert_documented(answer, path)
        running.service.admission.drain()
        for path in posts:
            answer = await running.client.post(path, json=posts[path], headers=KEY)
            assert answer.status_code == 503
            assert_documented(answer, path)


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
async def test_each_line_of_a_stream_is_as_documented(running: Running, path: str) -> None:
    content = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["application/x-ndjson"]
    assert content == {"schema": {"$ref": "#/components/schemas/StreamLine"}}
    answer = await running.client.post(path, json=TEXT, headers={"accept": "application/x-ndjson"})
    *results, end = map(json.loads, answer.text.splitlines())
    assert len(results) == end["count"] == 2
    for line in (*results, end):
        validator("StreamLine").validate(line)
    for result in results:
        validator("Result").validate(result)
        assert not validator("StreamEnd").is_valid(result)
    validator("StreamEnd").validate(end)


async def test_renderings_and_the_list_of_models_are_as_documented(running: Running) -> None:
    validator("RenderResponse").validate((await running.client.post("/v1/render", json=TEXT)).json())
    validator("ModelList").validate((await running.client.get("/v1/models")).json())
