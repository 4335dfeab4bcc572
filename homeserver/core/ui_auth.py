"""User-interactive authentication as values: which stages prove that a request may go on.

spec: client-server-api/#user-interactive-authentication-api, v1.19
Invariant: what was proved for one operation counts for no other: a session is bound to the
operation, its target, the requester and the body, and lets one request through, once.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from json import dumps

from homeserver.core.errors import CoreError
from homeserver.core.json_types import JsonObject, JsonValue

Flow = tuple[str, ...]
"""Stages in the order in which they must be completed."""


class StageRefused(CoreError):
    """The stage is of another request or out of order, or the session is not ready to be used."""


class SessionProblem(Enum):
    EXPIRED = "the authentication session has expired"
    USED = "the authentication session has already been used"
    OPERATION_CHANGED = "the authentication session belongs to another request"


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    """The operationId."""
    target: str
    """What the path names, e.g. a device id; empty if nothing."""
    requester: str | None
    """The user whose access token came with the request."""
    body_digest: bytes | None
    """None, only in a session: bound to no body yet."""

    def with_any_body(self) -> "Operation":
        """Leave the body open until a stage is completed with it.

        For registration: clients ask for its flows before they know what to register.
        """
        return replace(self, body_digest=None)

    def covers(self, request: "Operation") -> bool:
        if self.body_digest is None:
            return self == request.with_any_body()
        return self == request


@dataclass(frozen=True, slots=True)
class StageResult:
    stage: str
    proved: JsonValue = None
    """What the stage proved, e.g. the e-mail address; for the service that goes on."""


@dataclass(frozen=True, slots=True)
class UIAuthSession:
    session_id: str
    operation: Operation
    flows: tuple[Flow, ...]
    params: Mapping[str, JsonObject]
    """What clients must know for a stage, by stage."""
    expires_at: float
    """By a clock that never goes back."""
    results: tuple[StageResult, ...] = ()
    is_used: bool = False

    @property
    def completed(self) -> Flow:
        return tuple(result.stage for result in self.results)

    @property
    def is_complete(self) -> bool:
        return self.completed in self.flows

    def find_result(self, stage: str) -> StageResult | None:
        return next((result for result in self.results if result.stage == stage), None)


def make_operation(name: str, target: str, requester: str | None, body: JsonObject) -> Operation:
    """Describe a request; the `auth` of the body is not part of what is authenticated."""
    bound = {key: value for key, value in body.items() if key != "auth"}
    digest = hashlib.sha256(dumps(bound, sort_keys=True).encode()).digest()
    return Operation(name, target, requester, digest)


def find_problem(session: UIAuthSession, operation: Operation, now: float) -> SessionProblem | None:
    """Return why the session may not be used for this request, if so.

    Look before every stage and before the operation goes on.
    """
    if now >= session.expires_at:
        return SessionProblem.EXPIRED
    if session.is_used:
        return SessionProblem.USED
    return None if session.operation.covers(operation) else SessionProblem.OPERATION_CHANGED


def list_next_stages(session: UIAuthSession) -> list[str]:
    """Return the stages a client may attempt now, without duplicates, in the order of the flows."""
    done = session.completed
    following = (flow[len(done)] for flow in session.flows if _continues(flow, done))
    return list(dict.fromkeys(following))


def complete_stage(
    session: UIAuthSession, result: StageResult, operation: Operation | None
) -> UIAuthSession:
    """Record a stage the service has verified, and bind the session to the request's body.

    operation   None for a stage completed outside of a request, say by a link in an e-mail
    A completed stage is never repeated: the session stays as it is. Raises StageRefused.
    """
    if operation is not None and not session.operation.covers(operation):
        raise StageRefused(SessionProblem.OPERATION_CHANGED.value)
    if result.stage in session.completed:
        return session
    if result.stage not in list_next_stages(session):
        raise StageRefused(f"{result.stage} is not the next stage of any flow")
    return replace(
        session,
        operation=operation or session.operation,
        results=(*session.results, result),
    )


def use_session(session: UIAuthSession) -> UIAuthSession:
    """Spend a complete session. Raises StageRefused if it is not complete or already spent."""
    if session.is_used or not session.is_complete:
        raise StageRefused("the session does not authenticate a request")
    return replace(session, is_used=True)


def make_challenge(
    session: UIAuthSession, errcode: str | None = None, error: str | None = None
) -> JsonObject:
    """Return the body of the 401 response; with `errcode` and `error` after a failed attempt."""
    offered = {stage for flow in session.flows for stage in flow}
    challenge: JsonObject = {
        "flows": [{"stages": list(flow)} for flow in session.flows],
        "params": {stage: known for stage, known in session.params.items() if stage in offered},
        "session": session.session_id,
    }
    if session.results:
        challenge["completed"] = list(session.completed)
    if errcode is not None:
        challenge["errcode"] = errcode
        challenge["error"] = error or ""
    return challenge


def _continues(flow: Flow, done: Flow) -> bool:
    return len(flow) > len(done) and flow[: len(done)] == done
