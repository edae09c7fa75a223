"""The route class of everything that needs a key: checks and reads a request before its handler is called."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, get_type_hints

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from starlette.responses import Response

from ..api_keys import ApiKeys
from ..auth import check_administration_key, check_key
from ..body import HeldBytes, check_media_type, read_json, validate
from ..deadlines import Deadlines
from ..errors import InvalidField
from ..settings import Settings


class GuardedRoute(APIRoute):
    """Checks the key before the body is read, its size and the deadline while it is read, and takes strict JSON only.

    A handler takes `request` and, where they are in its signature, `body` and `options` (of the query). FastAPI
    documents them; it would read the body before any dependency runs, turn what goes wrong there into a bare 400,
    and collect every fault of a body, so they are read and validated here.

    Attributes:
        basic_auth: a key may also come as the password of HTTP Basic.
        administration: the key is the administration's, not one of the callers'.
        query_options: whether the route takes options in its URL, whose names its own model checks.
        error_fields: what the body of every error has besides `error`.
    """

    basic_auth: ClassVar[bool] = False
    query_options: ClassVar[bool] = False
    administration: ClassVar[bool] = False
    error_fields: ClassVar[Mapping[str, str]] = {}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        hints = get_type_hints(self.endpoint, include_extras=True)
        body_type = TypeAdapter(hints["body"]) if "body" in hints else None
        options_type = TypeAdapter(hints["options"]) if "options" in hints else None

        async def guarded(request: Request) -> Response:
            settings: Settings = request.app.state.settings
            deadlines: Deadlines = request.app.state.deadlines
            held_bytes: HeldBytes = request.app.state.held_bytes
            request.scope["deadline"] = deadline = deadlines.start()
            request.scope["error_fields"] = self.error_fields
            authorization = request.headers.get("authorization", "")
            if self.administration:
                check_administration_key(authorization, settings.admin_key)
            else:
                api_keys: ApiKeys = request.app.state.api_keys
                request.scope["api_key"] = check_key(authorization, api_keys.current, basic=self.basic_auth)
            _check_query(request, self.query_options)
            inputs: dict[str, Any] = {}
            if options_type is not None:
                inputs["options"] = validate(options_type, dict(request.query_params), "query")
            with held_bytes.holding() as hold:
                if body_type is not None:
                    check_media_type(request)
                    async with deadlines.until(deadline):
                        json = await read_json(request, settings.max_body_bytes, hold)
                    inputs["body"] = validate(body_type, json, "body")
                    del json
                answer = await self.endpoint(request, **inputs)
            if isinstance(answer, BaseModel):
                return Response(answer.model_dump_json(by_alias=True), media_type="application/json")
            assert isinstance(answer, Response)
            return answer

        return guarded


def _check_query(request: Request, takes_options: bool) -> None:
    """Raises InvalidField for an option that would be ignored: any where none is taken, one of two of a name."""
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if not takes_options:
            raise InvalidField(f"query.{name[:64]}", "this route takes no options in its URL, only in its body")
        if name in seen:
            raise InvalidField(f"query.{name[:64]}", "occurs more than once")
        seen.add(name)
