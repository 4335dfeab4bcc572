"""What the bot and the gate say to each other in the requests room.

Invariant: a `Status` that exists obeys every bound of the contract. It informs people and proves
nothing: proofs are the gate's receipts.
"""

import re
from dataclasses import dataclass
from enum import IntEnum

from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject, JsonValue

REQUEST = "org.countersign.request"
CANCEL = "org.countersign.request.cancel"
STATUS = "org.countersign.request.status"

MAX_COMMAND_BYTES = 8 * 1024
MAX_ARGUMENTS = 256
MAX_REASON_CHARS = 500
MAX_SUMMARY_CHARS = 1000
MAX_OUTPUT_BYTES = 16 * 1024
MIN_TTL_MS = 10_000
MAX_TTL_MS = 86_400_000
MAX_COSIGNATURES = 16
MAX_TIME_MS = 253_402_300_799_999  # the end of the year 9999
MAX_INTEGER = 2**53 - 1

_DRAFT_ID = re.compile(r"d1:[A-Za-z2-7]{8,104}")
_REASON_CODE = re.compile(r"[a-z0-9_]{1,64}")
_RECEIPT = re.compile(r"[A-Za-z0-9:+/=_-]{1,128}")
_TIERS = frozenset({"T0", "T1", "T2", "T3", "DENY"})


class Rank(IntEnum):
    """How far a request is; it never goes back, and nothing follows CLOSED."""

    SENT = 0
    PENDING = 1
    APPROVED = 2
    RUNNING = 3
    CLOSED = 4


RANKS = {
    "pending": Rank.PENDING,
    "approved": Rank.APPROVED,
    "running": Rank.RUNNING,
} | dict.fromkeys(
    (
        "done",
        "failed",
        "denied",
        "expired",
        "revoked",
        "superseded",
        "drift",
        "ambiguous",
        "refused",
    ),
    Rank.CLOSED,
)


class StatusInvalid(ValueError):
    pass


@dataclass(frozen=True)
class Exec:
    """A program with its arguments, as typed: no shell ever reads them."""

    argv: tuple[str, ...]

    def to_json(self) -> JsonObject:
        return {"kind": "exec", "argv": list[JsonValue](self.argv)}


@dataclass(frozen=True)
class Script:
    interpreter: str
    args: tuple[str, ...]
    script: str

    def to_json(self) -> JsonObject:
        return {
            "kind": "script",
            "interpreter": self.interpreter,
            "args": list[JsonValue](self.args),
            "script": self.script,
        }


@dataclass(frozen=True)
class Wish:
    """What was asked for. `cwd`, `reason` and `ttl_ms` None leave the choice to the gate."""

    action: Exec | Script
    cwd: str | None = None
    reason: str | None = None
    ttl_ms: int | None = None


def make_request(
    request_id: str,
    wish: Wish,
    *,
    requester: UserID,
    chat_room: RoomID,
    chat_event: EventID,
    issued_ms: int,
) -> JsonObject:
    optional: JsonObject = {"cwd": wish.cwd, "reason": wish.reason, "ttl_ms": wish.ttl_ms}
    return {
        "request_id": request_id,
        "requester": requester,
        "chat_room": chat_room,
        "chat_event": chat_event,
        "issued_ms": issued_ms,
        **wish.action.to_json(),
        **{key: value for key, value in optional.items() if value is not None},
    }


def make_cancel(request_id: str, requester: UserID) -> JsonObject:
    return {"request_id": request_id, "requester": requester}


@dataclass(frozen=True)
class Status:
    """None means the gate did not say."""

    request_id: str
    state: str
    draft_id: str | None = None
    tier: str | None = None
    summary: str | None = None
    needed: int | None = None
    have: int | None = None
    expires_ms: int | None = None
    exit_code: int | None = None
    output_tail: str | None = None
    output_truncated: bool | None = None
    receipt_digest: str | None = None
    reason_code: str | None = None

    @property
    def rank(self) -> Rank:
        return RANKS[self.state]


def parse_status(content: JsonObject) -> Status:
    """Read the content of a status event; raise StatusInvalid on the first thing wrong."""
    request_id, state = _find_text(content, "request_id"), _find_text(content, "state")
    if request_id is None or state not in RANKS:
        raise StatusInvalid("request_id and a known state are needed")
    return Status(
        request_id=request_id,
        state=state,
        draft_id=_find_match(content, "draft_id", _DRAFT_ID),
        tier=_find_tier(content),
        summary=_find_text(content, "summary", max_chars=MAX_SUMMARY_CHARS),
        needed=_find_integer(content, "needed", 0, MAX_COSIGNATURES),
        have=_find_integer(content, "have", 0, MAX_COSIGNATURES),
        expires_ms=_find_integer(content, "expires_ms", 0, MAX_TIME_MS),
        exit_code=_find_integer(content, "exit_code", -MAX_INTEGER, MAX_INTEGER),
        output_tail=_find_output(content),
        output_truncated=_find_flag(content, "output_truncated"),
        receipt_digest=_find_match(content, "receipt_digest", _RECEIPT),
        reason_code=_find_match(content, "reason_code", _REASON_CODE),
    )


def _find_text(content: JsonObject, key: str, *, max_chars: int | None = None) -> str | None:
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise StatusInvalid(f"{key} must be a string")
    if value is not None and max_chars is not None and len(value) > max_chars:
        raise StatusInvalid(f"{key} is too long")
    return value


def _find_match(content: JsonObject, key: str, pattern: re.Pattern[str]) -> str | None:
    value = _find_text(content, key)
    if value is not None and not pattern.fullmatch(value):
        raise StatusInvalid(f"{key} is malformed")
    return value


def _find_tier(content: JsonObject) -> str | None:
    value = _find_text(content, "tier")
    if value is not None and value not in _TIERS:
        raise StatusInvalid("unknown tier")
    return value


def _find_output(content: JsonObject) -> str | None:
    value = _find_text(content, "output_tail")
    if value is not None and len(value.encode("utf-8", "surrogatepass")) > MAX_OUTPUT_BYTES:
        raise StatusInvalid("output_tail is too long")
    return value


def _find_integer(content: JsonObject, key: str, lowest: int, highest: int) -> int | None:
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise StatusInvalid(f"{key} must be an integer from {lowest} to {highest}")
    return value


def _find_flag(content: JsonObject, key: str) -> bool | None:
    value = content.get(key)
    if value is not None and not isinstance(value, bool):
        raise StatusInvalid(f"{key} must be true or false")
    return value
