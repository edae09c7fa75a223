"""What the client raises.

APIError                        no reward; `request_id` finds the request in the server's log
├── APIConnectionError          no server could be reached, or the connection broke
│   └── APITimeoutError         an attempt, or the whole call, took too long
├── APIResponseError            the answer is not what /score answers: another server, or results missing
├── CheckpointChangedError      the answer is of another checkpoint than those before it
├── ResultError                 the request worked, this response's reward did not
└── APIStatusError              `status`, `code` and `details` as the server gave them
    ├── AuthenticationError     401
    ├── PermissionDeniedError   403
    ├── NotFoundError           404
    ├── PayloadTooLargeError    413
    ├── UnsupportedMediaTypeError  415
    ├── InvalidRequestError     422
    ├── InternalServerError     500
    ├── ServiceUnavailableError 503
    └── GatewayTimeoutError     504

FileError                       a file can't be read, written or gone on with
"""

from __future__ import annotations

from typing import Any

import httpx
from pydantic import ValidationError

from .types import ErrorBody, ErrorInfo


class APIError(Exception):
    """No reward. `request_id` is that of the last attempt, also where no answer came."""

    def __init__(self, message: str, request_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id

    def __reduce__(self) -> tuple[Any, ...]:
        """Between processes, as frameworks' pools and Ray send exceptions: without calling the constructor again."""
        return _remade, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        return f"{self.message} [request {self.request_id}]" if self.request_id else self.message


def _remade(kind: type[APIError], args: tuple[Any, ...], state: dict[str, Any]) -> APIError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class APIConnectionError(APIError):
    """No server could be reached, or the connection broke before the answer was whole."""


class APITimeoutError(APIConnectionError):
    """An attempt took longer than `timeout_s`, or the call longer than `deadline_s`."""


class APIResponseError(APIError):
    """An answer with status 200 that is not /score's, or not to this request."""


class CheckpointChangedError(APIError):
    """The service answers with another checkpoint than the client began with, or was told to expect."""


class ResultError(APIError):
    """One response could not be scored; `code` and `details` say why."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(f"{error.code}: {error.message}", error.request_id)
        self.code = error.code
        self.details = error.details


class APIStatusError(APIError):
    """The server answered with an error.

    Attributes:
        status: of HTTP.
        code: the service's word for it; "http_STATUS" where something else answered, a proxy say.
        details: one mapping a fault, with `field`, `limit` and `actual` where they apply.
    """

    def __init__(
        self, status: int, code: str, message: str, details: list[dict[str, Any]], request_id: str | None
    ) -> None:
        super().__init__(f"{status} {code}: {message}", request_id)
        self.status = status
        self.code = code
        self.details = details


class AuthenticationError(APIStatusError):
    """401: no key, or a wrong one."""


class PermissionDeniedError(APIStatusError):
    """403, of a proxy: the service has no such answer."""


class NotFoundError(APIStatusError):
    """404: no such path; the URL is not a Critic-RM service's."""


class PayloadTooLargeError(APIStatusError):
    """413: the body is larger than the server takes."""


class UnsupportedMediaTypeError(APIStatusError):
    """415: something on the way changed the Content-Type."""


class InvalidRequestError(APIStatusError):
    """422: invalid, too long, or over a limit; `details` names each field."""


class InternalServerError(APIStatusError):
    """500: the model gave no finite reward, or something unexpected."""


class ServiceUnavailableError(APIStatusError):
    """503: overloaded, draining, or the engine died, in every attempt."""


class GatewayTimeoutError(APIStatusError):
    """504: not done within the server's deadline."""


class FileError(Exception):
    """A file can't be read, written or gone on with; the message says what to do."""


STATUS_ERRORS: dict[int, type[APIStatusError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    413: PayloadTooLargeError,
    415: UnsupportedMediaTypeError,
    422: InvalidRequestError,
    500: InternalServerError,
    503: ServiceUnavailableError,
    504: GatewayTimeoutError,
}
# Of the whole job and not of its items: whoever sends many requests stops at the first.
FATAL = (
    AuthenticationError,
    CheckpointChangedError,
    NotFoundError,
    PermissionDeniedError,
    UnsupportedMediaTypeError,
)


def status_error(answer: httpx.Response, request_id: str) -> APIStatusError:
    """The exception for an answer that is no 200."""
    kind = STATUS_ERRORS.get(answer.status_code, APIStatusError)
    try:
        told = ErrorBody.model_validate_json(answer.content).error
    except ValidationError:  # a proxy's page
        said = answer.text[:200].strip() or answer.reason_phrase
        return kind(answer.status_code, f"http_{answer.status_code}", said, [], request_id)
    return kind(answer.status_code, told.code, told.message, told.details, told.request_id)
