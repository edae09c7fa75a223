"""The client's types are the ones of the committed OpenAPI document, field by field."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from criticrm_client import (
    Critique,
    CritiqueOptions,
    ErrorInfo,
    Item,
    Message,
    ModelInfo,
    Options,
    Result,
    ScoreResponse,
    Usage,
)

SCHEMAS = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text("utf-8"))["components"]["schemas"]
# The client doesn't know the manifest's fields: it is installed without the model's package.
OPAQUE = {"Manifest"}
PROSE = ("title", "description", "default", "examples", "oneOf", "discriminator", "additionalProperties", "$defs")


def resolved(schema: Any, definitions: dict[str, Any]) -> Any:
    """What a schema demands: references followed, prose and names of types left out, order of no account."""
    if isinstance(schema, list):
        return sorted((resolved(entry, definitions) for entry in schema), key=partial(json.dumps, sort_keys=True))
    if not isinstance(schema, dict):
        return float(schema) if isinstance(schema, int) else schema  # 1 and 1.0
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return {"type": "object"} if name in OPAQUE else resolved(definitions[name], definitions)
    if "oneOf" in schema:  # by a discriminator, which is not JSON Schema's
        schema = {**schema, "anyOf": schema["oneOf"]}
    kept = {
        key: resolved(value, definitions)
        for key, value in schema.items()
        if key
        not in (
            "title",
            "description",
            "default",
            "examples",
            "oneOf",
            "discriminator",
            "additionalProperties",
            "$defs",
        )
    }
    if "properties" in kept:  # by their names, not as words of JSON Schema
        kept["properties"] = {name: resolved(field, definitions) for name, field in schema["properties"].items()}
    return kept


def ours(kind: Any, mode: str) -> Any:
    schema = TypeAdapter(kind).json_schema(mode=mode)
    return resolved(schema, schema.get("$defs", {}))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Critique, "CritiqueResult"),
        (Usage, "Usage"),
        (ErrorInfo, "ErrorInfo"),
        (Result, "Result"),
        (ScoreResponse, "ScoreResponse"),
        (ModelInfo, "ModelInfo"),
    ],
)
def test_what_comes_back(kind: type[BaseModel], name: str) -> None:
    assert ours(kind, "validation") == resolved(SCHEMAS[name], SCHEMAS)


@pytest.mark.parametrize(
    ("kind", "name"), [(CritiqueOptions, "CritiqueOptions"), (Item, "Item"), (Message, "ChatMessage")]
)
def test_what_is_sent(kind: Any, name: str) -> None:
    assert ours(kind, "validation") == resolved(SCHEMAS[name], SCHEMAS)


def test_the_options_of_a_request() -> None:
    request = SCHEMAS["ScoreMany"]["properties"]
    assert set(Options.__annotations__) == set(request) - {"items"}
