"""The service's exceptions, each with the code and the HTTP status of a response that reports it.

Nothing here imports HTTP: `error_handlers` makes the responses. Overload is 503, never 429: verl's client gives up on
any 4xx, and so would lose the reward (docs/adr/0003).
"""

from __future__ import annotations

from criticrm_client.error_body import ErrorInfo
from criticrm_model import CriticRMError


class ServiceError(CriticRMError):
    """Root of what the service itself raises."""


class Overloaded(ServiceError):
    """All places and the queue are full, or a request waited too long in the queue.

    Args:
        retry_after_s: when there may be room, in seconds.
    """

    code = "overloaded"
    status = 503
    retry_after_s = 1

    def __init__(self, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class Draining(ServiceError):
    """The server is shutting down and takes no new work."""

    code = "draining"
    status = 503
    retry_after_s = 2


class Sleeping(ServiceError):
    """The engine was put to sleep, for something else to use its memory."""

    code = "sleeping"
    status = 503
    retry_after_s = 5


class Busy(ServiceError):
    """The server can't be changed now."""

    code = "busy"
    status = 503
    retry_after_s = 5


class NotSupported(ServiceError):
    """The engine or the platform does not support this operation."""

    code = "not_supported"
    status = 501


class WeightsRefused(ServiceError):
    """These weights can't be taken in place, or fail the self-check; the ones before are served on."""

    code = "weights_refused"
    status = 409


class EngineDead(ServiceError):
    """The engine died; the process will exit so that a supervisor starts another."""

    code = "engine_dead"
    status = 503
    retry_after_s = 30


class NoServer(ServiceError):
    """None of a gateway's vLLM servers is healthy; it uses each again once it is."""

    code = "no_engine_server"
    status = 503
    retry_after_s = 2


class EngineFailed(ServiceError):
    """The engine answered, but not with a finished critique and its rewards."""

    code = "engine_failed"
    status = 503
    retry_after_s = 1


class DeadlineExceeded(ServiceError):
    """The request took longer than the server allows."""

    code = "deadline_exceeded"
    status = 504


class Unauthorized(ServiceError):
    """The API key is missing or not accepted."""

    code = "unauthorized"
    status = 401


class UnsupportedMediaType(ServiceError):
    """The body is not declared as JSON. Browsers send undeclared bodies across sites without asking."""

    code = "unsupported_media_type"
    status = 415


class BodyTooLarge(ServiceError):
    """The request body exceeds the limit, in bytes."""

    code = "body_too_large"
    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request body is larger than {limit} bytes; send fewer items a request")
        self.limit = limit

    @property
    def details(self) -> list[dict[str, object]]:
        return [{"field": "body", "message": "too large", "limit": self.limit}]


class InvalidField(ServiceError):
    """A field of a request has the right type, but an invalid value."""

    code = "invalid_request"
    status = 422

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message

    @property
    def details(self) -> list[dict[str, object]]:
        return [{"field": self.field, "message": self.message}]


class LimitExceeded(ServiceError):
    """A field of a well-formed request exceeds a limit of the server."""

    code = "limit_exceeded"
    status = 422

    def __init__(self, field: str, actual: int, limit: int, what: str) -> None:
        super().__init__(f"{field}: {actual} {what}, the limit is {limit}")
        self.field, self.actual, self.limit = field, actual, limit

    @property
    def details(self) -> list[dict[str, object]]:
        return [{"field": self.field, "message": str(self), "limit": self.limit, "actual": self.actual}]


class ModelNotFound(ServiceError):
    """A request names another model than the one that is served."""

    code = "model_not_found"
    status = 404

    def __init__(self, model: str, served: str) -> None:
        super().__init__(f"the model {model!r} is not served here; this server serves {served!r}")
        self.model, self.served = model, served

    @property
    def details(self) -> list[dict[str, object]]:
        return [{"field": "model", "message": str(self), "expected": self.served, "actual": self.model}]


class ModelVersionMismatch(ServiceError):
    """A request's `model_version` is not that of the checkpoint which is served."""

    code = "model_version_mismatch"
    status = 409

    def __init__(self, model_version: str, served: str) -> None:
        super().__init__(f"this server serves checkpoint {served}, and the request is for {model_version}")
        self.model_version, self.served = model_version, served

    @property
    def details(self) -> list[dict[str, object]]:
        message = str(self)
        return [{"field": "model_version", "message": message, "expected": self.served, "actual": self.model_version}]


class NotCalibrated(ServiceError):
    """`normalize` was requested, but the checkpoint's manifest has no calibration."""

    code = "not_calibrated"
    status = 422

    @property
    def details(self) -> list[dict[str, object]]:
        return [{"field": "normalize", "message": str(self)}]


def error_info(error: CriticRMError, request_id: str) -> ErrorInfo:
    """The error as a result, or the end of a stream, reports it."""
    return ErrorInfo(code=error.code, message=str(error), request_id=request_id, details=error.details)
