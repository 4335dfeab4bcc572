"""Events as the client hands them out: decrypted, plaintext and undecryptable are three classes.

spec: client-server-api/#mmegolmv1aes-sha2, client-server-api/#syncing, v1.19
Invariant: no field of a DecryptedEvent that names who said what, and where, is a claim of the
homeserver alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Literal

from homeserver.core.identifiers import DeviceID, EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject


class DeviceTrust(Enum):
    """How far a device's keys are proven to be its user's, from worst to best."""

    UNKNOWN = "unknown"
    """No device with these keys was ever listed for the user."""
    REVOKED = "revoked"
    """Was listed and then removed; a device that has gone does not come back."""
    UNSIGNED = "unsigned"
    """Signed by itself only."""
    IDENTITY_CHANGED = "identity_changed"
    """The chain holds, but its master key is not the one pinned or first seen."""
    CROSS_SIGNED = "cross_signed"
    """The chain holds and its master key is the one first seen."""
    VERIFIED = "verified"
    """The chain holds and its master key is pinned, signed by us, or ours."""


class UndecryptableReason(Enum):
    MISSING_SESSION = "missing_session"
    BAD_CIPHERTEXT = "bad_ciphertext"
    REPLAYED = "replayed"
    WRONG_ROOM = "wrong_room"
    SENDER_MISMATCH = "sender_mismatch"
    UNKNOWN_ALGORITHM = "unknown_algorithm"
    BAD_PAYLOAD = "bad_payload"
    REDACTED = "redacted"


@dataclass(frozen=True, slots=True)
class SenderDevice:
    """The device that a Megolm or Olm session came from.

    master_key is the key at which the verified chain master -> self-signing -> device ends; None
    without a chain. device_list_fresh is False while the server owes us an answer about the user.
    """

    user_id: UserID
    device_id: DeviceID | None
    ed25519: str
    curve25519: str
    trust: DeviceTrust
    master_key: str | None
    device_list_fresh: bool


@dataclass(frozen=True, slots=True)
class DecryptedEvent:
    """A room event whose ciphertext we opened with a key its device sent us directly.

    type and content are only what the ciphertext held. cleartext_relation is the outer
    `m.relates_to`: the homeserver can write it, so it binds nothing. origin_server_ts likewise.
    """

    encrypted: ClassVar[Literal[True]] = True

    event_id: EventID
    room_id: RoomID
    sender: UserID
    type: str
    content: JsonObject
    origin_server_ts: int
    cleartext_relation: JsonObject | None
    device: SenderDevice
    session_id: str
    message_index: int
    raw: JsonObject


@dataclass(frozen=True, slots=True)
class PlaintextEvent:
    """A room event nobody encrypted: every field is a claim of the homeserver."""

    encrypted: ClassVar[Literal[False]] = False

    event_id: EventID
    room_id: RoomID
    sender: UserID
    type: str
    content: JsonObject
    state_key: str | None
    origin_server_ts: int
    raw: JsonObject


@dataclass(frozen=True, slots=True)
class UndecryptableEvent:
    encrypted: ClassVar[Literal[True]] = True

    event_id: EventID
    room_id: RoomID
    sender: UserID
    reason: UndecryptableReason
    detail: str
    origin_server_ts: int
    raw: JsonObject


TimelineEvent = DecryptedEvent | PlaintextEvent | UndecryptableEvent


@dataclass(frozen=True, slots=True)
class ToDeviceEvent:
    """A to-device event that came by Olm and passed its sender and recipient checks."""

    device: SenderDevice
    type: str
    content: JsonObject


@dataclass(frozen=True, slots=True)
class CryptoProblem:
    """Something refused on the way in: kind is one of a small closed set, detail is for people."""

    kind: Literal["to_device_refused", "keys_refused", "device_changed", "device_revoked"]
    user_id: UserID
    detail: str


@dataclass(frozen=True, slots=True)
class RoomUpdate:
    """What happened in one joined room; events are oldest first, state is what precedes them.

    gap_unfilled says that the server did not give us everything since the last batch.
    """

    room_id: RoomID
    state: tuple[PlaintextEvent, ...]
    events: tuple[TimelineEvent, ...]
    gap_unfilled: bool


@dataclass(frozen=True, slots=True)
class SyncBatch:
    """One answer of /sync, decrypted; delivered again until it is acknowledged.

    identity_changes names, in every batch, the users whose master key is not the one pinned or
    first seen, until the new one is pinned.
    """

    since: str | None
    next_batch: str
    rooms: Mapping[RoomID, RoomUpdate]
    invites: Mapping[RoomID, tuple[JsonObject, ...]]
    left: tuple[RoomID, ...]
    late: tuple[DecryptedEvent, ...]
    to_device: tuple[ToDeviceEvent, ...]
    problems: tuple[CryptoProblem, ...]
    identity_changes: tuple[UserID, ...]


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of /messages, newest first; end is None at the beginning of what we may see."""

    events: tuple[TimelineEvent, ...]
    end: str | None
