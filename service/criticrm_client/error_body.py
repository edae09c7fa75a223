"""The body of every answer that is no 200, and what the shapes of answers have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Received(BaseModel):
    """Frozen and strict: `"1"` and `true` are no numbers. Fields that a newer server adds are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=(), defer_build=True)


class ErrorInfo(Received):
    """Why a reward is missing. `details`: one mapping a fault, with `field`, `limit` and `actual` where they apply."""

    code: str
    message: str
    request_id: str
    details: list[dict[str, Any]]


class ErrorBody(Received):
    """The body of every response whose status is not 200."""

    error: ErrorInfo
