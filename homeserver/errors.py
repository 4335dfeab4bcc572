"""What a client or a server is told when something fails.

spec: client-server-api/#standard-error-response, v1.19

    MatrixError(status, errcode, message, extra)     what a client or server is told
    ├─ BadRequest: NotJSON · BadJSON · MissingParam · InvalidParam · TooLarge
    ├─ Unauthorized: MissingToken · UnknownToken(soft_logout)
    ├─ Forbidden: PolicyRefused                  ├─ Conflict: UserInUse · RoomInUse
    ├─ LimitExceeded(retry_after_ms)             ├─ NotFound: Unrecognized
    ├─ InteractiveAuthRequired(body)             ├─ ServiceUnavailable(retry_after_ms)
    └─ ServersFailed
    storage: DatabaseUnavailable · ConstraintViolated(name)

The errors of the pure core are in `core/errors.py`; services translate them. One place turns
exceptions into responses: `transport/pipeline.py`.
"""

from homeserver.core.json_types import JsonObject, JsonValue


class MatrixError(Exception):
    """An error with a Matrix body. `extra` is merged into the JSON body."""

    status = 500
    errcode = "M_UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        errcode: str | None = None,
        status: int | None = None,
        extra: dict[str, JsonValue] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status or self.status
        self.errcode = errcode or self.errcode
        self.extra = extra or {}

    def body(self) -> JsonObject:
        return {"errcode": self.errcode, "error": self.message, **self.extra}


class BadRequest(MatrixError):
    status = 400
    errcode = "M_BAD_JSON"


class NotJSON(BadRequest):
    errcode = "M_NOT_JSON"


class BadJSON(BadRequest):
    errcode = "M_BAD_JSON"


class MissingParam(BadRequest):
    errcode = "M_MISSING_PARAM"


class InvalidParam(BadRequest):
    errcode = "M_INVALID_PARAM"


class TooLarge(BadRequest):
    status = 413
    errcode = "M_TOO_LARGE"


class Unauthorized(MatrixError):
    status = 401
    errcode = "M_UNAUTHORIZED"


class MissingToken(Unauthorized):
    errcode = "M_MISSING_TOKEN"


class UnknownToken(Unauthorized):
    errcode = "M_UNKNOWN_TOKEN"

    def __init__(self, message: str, *, soft_logout: bool = False) -> None:
        super().__init__(message, extra={"soft_logout": soft_logout})


class InteractiveAuthRequired(Unauthorized):
    """401 whose body is the user-interactive authentication state, not a standard error."""

    def __init__(self, body: JsonObject) -> None:
        super().__init__("User-interactive authentication required")
        self._body = body

    def body(self) -> JsonObject:
        return self._body


class Forbidden(MatrixError):
    status = 403
    errcode = "M_FORBIDDEN"


class PolicyRefused(Forbidden):
    """A room's policy server has answered, and not signed an event; with its own words."""


class NotFound(MatrixError):
    status = 404
    errcode = "M_NOT_FOUND"


class Unrecognized(NotFound):
    errcode = "M_UNRECOGNIZED"


class Conflict(MatrixError):
    status = 409
    errcode = "M_CONFLICT"


class UserInUse(Conflict):
    status = 400
    errcode = "M_USER_IN_USE"


class RoomInUse(Conflict):
    status = 400
    errcode = "M_ROOM_IN_USE"


class LimitExceeded(MatrixError):
    status = 429
    errcode = "M_LIMIT_EXCEEDED"

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message, extra={"retry_after_ms": retry_after_ms})
        self.retry_after_ms = retry_after_ms


class ServiceUnavailable(MatrixError):
    status = 503
    errcode = "M_UNKNOWN"

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class ServersFailed(MatrixError):
    """No other server that could help has done so."""

    status = 502
    errcode = "M_UNKNOWN"


class DatabaseUnavailable(Exception):
    """PostgreSQL cannot do it now: it is away, cut the connection, has no disk space or too much
    to do. Nothing was committed, unless it was COMMIT itself that was cut: then nobody knows, and
    the caller must look. `told` is for clients, the message for the log.
    """

    def __init__(self, message: str, *, told: str | None = None) -> None:
        super().__init__(message)
        self.told = told or "The database does not answer; try again soon"


class ConstraintViolated(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
