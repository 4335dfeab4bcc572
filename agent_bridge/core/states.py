"""The life of a draft as one transition table.

protocol: docs/cosign-protocol.md, section 10. Invariant: what is not in the table does not happen,
and nothing leaves a terminal state. `consumed` is the only way to run, and it is taken once.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from agent_bridge.core.refusals import Reason, Refused


class State(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DENIED = "denied"
    EXPIRED = "expired"
    REVOKED = "revoked"
    SUPERSEDED = "superseded"
    DRIFT = "drift"
    AMBIGUOUS = "ambiguous"


class Event(StrEnum):
    """What happens to a draft."""

    QUORUM_MET = "quorum_met"
    DENIAL = "denial"
    """A denial, a later edit of an approval, or a revocation that breaks the quorum."""
    EXPIRY = "expiry"
    SUPERSESSION = "supersession"
    WITHDRAWAL = "withdrawal"
    """The requester takes the request back before it runs."""
    DRIFT_FOUND = "drift_found"
    """Policy, approvers, or a file is no longer what was approved."""
    CONSUMED = "consumed"
    """The one use is recorded durably; the launch follows."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    """The gate cannot say what became of the process."""
    RESTART = "restart"


TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.PENDING, Event.QUORUM_MET): State.APPROVED,
        (State.PENDING, Event.DENIAL): State.DENIED,
        (State.PENDING, Event.EXPIRY): State.EXPIRED,
        (State.PENDING, Event.SUPERSESSION): State.SUPERSEDED,
        (State.PENDING, Event.WITHDRAWAL): State.REVOKED,
        (State.PENDING, Event.DRIFT_FOUND): State.DRIFT,
        (State.PENDING, Event.RESTART): State.EXPIRED,
        (State.APPROVED, Event.CONSUMED): State.RUNNING,
        (State.APPROVED, Event.DENIAL): State.REVOKED,
        (State.APPROVED, Event.EXPIRY): State.EXPIRED,
        (State.APPROVED, Event.SUPERSESSION): State.SUPERSEDED,
        (State.APPROVED, Event.WITHDRAWAL): State.REVOKED,
        (State.APPROVED, Event.DRIFT_FOUND): State.DRIFT,
        (State.APPROVED, Event.RESTART): State.EXPIRED,
        (State.RUNNING, Event.SUCCEEDED): State.DONE,
        (State.RUNNING, Event.FAILED): State.FAILED,
        (State.RUNNING, Event.DENIAL): State.REVOKED,
        (State.RUNNING, Event.LOST): State.AMBIGUOUS,
        (State.RUNNING, Event.RESTART): State.AMBIGUOUS,
    }
)

TERMINAL: frozenset[State] = frozenset(State) - {source for source, _ in TRANSITIONS}


def next_state(state: State, event: Event) -> State:
    try:
        return TRANSITIONS[state, event]
    except KeyError as error:
        raise Refused(Reason.TRANSITION_NOT_ALLOWED, f"{event} while {state}") from error
