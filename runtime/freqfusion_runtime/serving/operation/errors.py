# SPDX-License-Identifier: Apache-2.0
"""What a server answers instead of a result: a status for HTTP and for gRPC, and a cause for the metrics."""

from __future__ import annotations

from typing import ClassVar

from freqfusion_runtime.errors import FreqFusionError


class ServingError(FreqFusionError):
    """Root of the errors that clients see; ``str()`` of it is the ``error`` field of the answer."""

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    cause: ClassVar[str] = "internal"


class BadRequestError(ServingError):
    """The request contradicts itself, the protocol or the model's inputs."""

    http_status, grpc_status, cause = 400, "INVALID_ARGUMENT", "bad_request"


class BadPictureError(BadRequestError):
    """What was sent as a picture cannot be decoded as one."""

    cause = "bad_picture"


class UnauthorizedError(ServingError):
    """The API key is missing or wrong."""

    http_status, grpc_status, cause = 401, "UNAUTHENTICATED", "unauthorized"

    def __init__(self) -> None:
        super().__init__(
            "this server needs an API key. Send it as the header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
        )


class NotAllowedError(ServingError):
    """Something clients may not do here, whoever they are."""

    http_status, grpc_status, cause = 403, "PERMISSION_DENIED", "not_allowed"


class WrongHostError(ServingError):
    """The request is for a server of another name: a page may have made its own name resolve to this machine."""

    http_status, grpc_status, cause = 421, "PERMISSION_DENIED", "wrong_host"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"this server is not called {name[:80]!r}. Ask it by the address it listens on, or start it with "
            "--allowed-host NAME."
        )


class CrossSiteError(ServingError):
    """A page of another site has made a browser send this."""

    http_status, grpc_status, cause = 403, "PERMISSION_DENIED", "cross_site"

    def __init__(self, origin: str) -> None:
        super().__init__(
            f"the request comes from a page of another site ({origin[:80]!r}). Use this server's own page, or start "
            "the server with --allowed-host and the name of that site if it is yours."
        )


class UnknownModelError(ServingError):
    """No model has this name, or none this version."""

    http_status, grpc_status, cause = 404, "NOT_FOUND", "unknown_model"


class NotAcceptableError(ServingError):
    """The client accepts none of the formats there are."""

    http_status, grpc_status, cause = 406, "INVALID_ARGUMENT", "not_acceptable"


class SlowClientError(ServingError):
    """The body did not arrive in time."""

    http_status, grpc_status, cause = 408, "DEADLINE_EXCEEDED", "slow_client"


class TooLargeError(ServingError):
    """A body, a picture or a tensor is beyond a limit."""

    http_status, grpc_status, cause = 413, "INVALID_ARGUMENT", "too_large"


class UnsupportedMediaError(ServingError):
    """The body has a type or an encoding that is not understood here."""

    http_status, grpc_status, cause = 415, "INVALID_ARGUMENT", "unsupported_media"


class ModelFailedError(ServingError):
    """The model could not compute an answer."""

    cause = "model_failed"


class NotSupportedError(ServingError):
    """A part of the protocol that this server leaves out."""

    http_status, grpc_status, cause = 400, "UNIMPLEMENTED", "not_supported"


class LeftOutError(NotSupportedError):
    """A route of the protocol that this server leaves out."""

    http_status: ClassVar[int] = 404


class OverloadedError(ServingError):
    """There is no room for the request now; ``retry_after_s`` says when there may be."""

    http_status, grpc_status, cause = 503, "UNAVAILABLE", "overloaded"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReadyError(OverloadedError):
    """The server or the model is being loaded, or the server is stopping."""

    cause = "not_ready"


class DeadlineError(ServingError):
    """The request was not done within its time."""

    http_status, grpc_status, cause = 504, "DEADLINE_EXCEEDED", "deadline"
