"""What the client raises.

APIError                        no reward; `request_id` finds the request in the server's log; `status_code` and
│                               `headers` are the answer's, where one came
├── APIConnectionError          no server could be reached, or the connection broke
│   └── APITimeoutError         an attempt, or the whole call, took too long
├── APIResponseError            the answer is not what /score answers: another server, or results missing
├── CheckpointChangedError      the answer is of another checkpoint than those before it
├── ClientClosedError           the client was closed, before the call or during it
├── ResultError                 the request worked, this response's reward did not
└── APIStatusError              `status_code`, `code` and `details` as the server gave them
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

from .addresses import masked
from .error_body import ErrorBody, ErrorInfo


class APIError(Exception):
    """No reward.

    Attributes:
        request_id: of the last attempt, also where no answer came.
        status_code: of the answer; None where none came.
        headers: of the answer; empty where none came.
    """

    def __init__(self, message: str, request_id: str | None = None, answer: httpx.Response | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        self.status_code = None if answer is None else answer.status_code
        self.headers = httpx.Headers() if answer is None else answer.headers

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
    """The service has another checkpoint than the client used first, or than `model_version` names.

    `status_code` is 409 where the service refused the request for it, before any work.
    """


class ClientClosedError(APIError, RuntimeError):
    """`close()` was called, before this call or while it waited."""

    def __init__(self) -> None:
        super().__init__("the client is closed")


class ResultError(APIError):
    """One response could not be scored; `code` and `details` say why."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(f"{error.code}: {error.message}", error.request_id)
        self.code = error.code
        self.details = error.details


class APIStatusError(APIError):
    """The server answered with an error.

    Attributes:
        status_code: of HTTP.
        code: the service's word for it; "http_STATUS" where something else answered, a proxy say.
        details: one mapping a fault, with `field`, `limit` and `actual` where they apply.
    """

    status_code: int

    def __init__(
        self,
        status_code: int,
        code: str,
        message: str,
        details: list[dict[str, Any]],
        request_id: str | None,
        answer: httpx.Response | None = None,
    ) -> None:
        super().__init__(f"{status_code} {code}: {message}", request_id, answer)
        self.status_code = status_code
        self.code = code
        self.details = details

    @property
    def status(self) -> int:
        """The same as `status_code`."""
        return self.status_code


class AuthenticationError(APIStatusError):
    """401: no key, or a wrong one."""


class PermissionDeniedError(APIStatusError):
    """403, of a proxy: the service has no such answer."""


class NotFoundError(APIStatusError):
    """404: no such path, the URL is not a Critic-RM service's; or no such model."""


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
# Of the moment: the same request may be answered later.
RETRIED = (408, 409, 429)
# Of what a request holds: of several items in it, some may pass alone.
REFUSED = (400, 413, 422)


def ends_job(error: APIError) -> bool:
    """Whether all other requests of a job would fail as this one did: a wrong key, a redirect, another checkpoint."""
    if isinstance(error, APIStatusError):
        return error.status_code < 500 and error.status_code not in (*RETRIED, *REFUSED)
    return isinstance(error, CheckpointChangedError | ClientClosedError)


def checkpoint_changed(served: str, expected: str, request_id: str, answer: httpx.Response) -> CheckpointChangedError:
    return CheckpointChangedError(
        f"the service answers with checkpoint {served}, and this client's is {expected}; their rewards can't be "
        "compared. To go on with the new one, begin anew with another client",
        request_id,
        answer,
    )


def status_error(answer: httpx.Response, request_id: str) -> APIStatusError:
    """The exception for an answer that is no 200."""
    status = answer.status_code
    kind = STATUS_ERRORS.get(status, APIStatusError)
    try:
        told = ErrorBody.model_validate_json(answer.content).error
    except ValidationError:  # a proxy's page
        said = answer.content[:800].decode("utf-8", "replace")[:200].strip() or answer.reason_phrase
        if 300 <= status < 400:
            said = f"it redirects to {masked(answer.headers.get('location', 'nowhere'))!r:.200}; give the URL itself"
        return kind(status, f"http_{status}", said, [], request_id, answer)
    return kind(status, told.code, told.message, told.details, told.request_id or request_id, answer)
