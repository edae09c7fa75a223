"""What FastAPI does not write into the OpenAPI document: short operation ids, response headers, a stream's parts."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from criticrm_client.schemas import Result, TokenEvent

from .schemas import StreamEnd

_NDJSON = "application/x-ndjson"
_EVENTS = "text/event-stream"
_REF = "#/components/{}/{}"
_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "The request's own X-Request-ID if it had one of 1 to 128 visible ASCII characters, else a new "
        "one. The server's log has it.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the request is sent again.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "How to send an API key (RFC 9110).",
        "schema": {"type": "string"},
    },
    "X-Queue-Time": {
        "description": "How long the request waited to be admitted, in milliseconds.",
        "schema": {"type": "number", "minimum": 0},
    },
    "X-Inference-Time": {
        "description": "From the admission to the last result, in milliseconds. A stream's headers are sent before.",
        "schema": {"type": "number", "minimum": 0},
    },
    "X-Accel-Buffering": {
        "description": "'no' for a stream of lines, so that a proxy sends each line on at once.",
        "schema": {"type": "string", "enum": ["no"]},
    },
}
_OF_STATUS = {"401": "WWW-Authenticate", "503": "Retry-After"}
_OF_ADMITTED = ["X-Queue-Time", "X-Inference-Time"]


def operation_id(route: APIRoute) -> str:
    """The name of the route's function, unless the route has a name of its own: unique, by a test."""
    return route.name


def complete_document(app: FastAPI) -> None:
    """Make `app.openapi` add the headers of every response and the parts of a stream."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _add_headers(document)
            _add_streams(document)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # how FastAPI's documentation extends it


def _add_headers(document: dict[str, Any]) -> None:
    document["components"]["headers"] = _HEADERS
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                names = ["X-Request-ID"]
                if status in _OF_STATUS:
                    names.append(_OF_STATUS[status])
                if _NDJSON in response.get("content", {}):
                    names.append("X-Accel-Buffering")
                if "requestBody" in operation and "administration" not in operation["tags"]:
                    names += _OF_ADMITTED
                response["headers"] = {name: {"$ref": _REF.format("headers", name)} for name in names}


def _add_streams(document: dict[str, Any]) -> None:
    """The schema of one part of each kind of stream; OpenAPI 3.1 has none for a sequence of them."""
    line = "One line of a stream: a result for each response as it finishes, then one StreamEnd."
    event = (
        "The data of one event of a stream: `token` for each token of a critique, `result` for each response as it "
        "finishes, then one `end`."
    )
    _add_parts(document, _NDJSON, "StreamLine", Result | StreamEnd, line)
    _add_parts(document, _EVENTS, "StreamEvent", TokenEvent | Result | StreamEnd, event)


def _add_parts(document: dict[str, Any], media_type: str, name: str, shapes: Any, description: str) -> None:
    ref = _REF.format("schemas", "{model}")
    schema = TypeAdapter(shapes).json_schema(mode="serialization", ref_template=ref)
    schemas = document["components"]["schemas"]
    for one, shape in schema.pop("$defs").items():
        schemas.setdefault(one, shape)
    schemas[name] = {"title": name, "description": description, **schema}
    for path in document["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                if media_type in response.get("content", {}):
                    response["content"][media_type] = {"schema": {"$ref": _REF.format("schemas", name)}}
