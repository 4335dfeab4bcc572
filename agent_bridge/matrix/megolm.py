"""Megolm: room keys, what is encrypted with them, and proof of who said what in which room.

spec: client-server-api/#mmegolmv1aes-sha2, olm-megolm/megolm, v1.19
Invariant: a room key is known to be of the device whose Olm message brought it, and a message index
opens for one event id only, for ever.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson
import vodozemac

from agent_bridge.matrix.device_keys import MEGOLM, DeviceKeys
from agent_bridge.matrix.errors import MegolmRefused, OlmRefused
from agent_bridge.matrix.events import UndecryptableReason as Reason
from agent_bridge.matrix.json_fields import decode_untrusted_json, find_object, find_text
from agent_bridge.matrix.olm import OlmPayload
from agent_bridge.matrix.store import Store, integer, text
from homeserver.core.identifiers import DeviceID, EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject

NowMs = Callable[[], int]

DEFAULT_ROTATION_MESSAGES = 100
DEFAULT_ROTATION_MS = 7 * 24 * 3600 * 1000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class RotationLimits:
    """How long one room key may be in use, whichever limit comes first."""

    messages: int = DEFAULT_ROTATION_MESSAGES
    milliseconds: int = DEFAULT_ROTATION_MS


@dataclass(frozen=True, slots=True)
class MegolmPayload:
    """An opened message, with the keys of the device whose session it was."""

    type: str
    content: JsonObject
    sender_key: str
    ed25519: str
    session_id: str
    message_index: int


@dataclass(frozen=True, slots=True)
class _InboundRow:
    sender_key: str
    user_id: UserID
    ed25519: str
    pickle: str


class InboundSessions:
    """The tables inbound_sessions and replays."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def receive(self, payload: OlmPayload) -> str:
        """Take an m.room_key that came by Olm and return its session id. Raises OlmRefused."""
        content = payload.content
        room_id = find_text(content, "room_id")
        session_id = find_text(content, "session_id")
        session_key = find_text(content, "session_key")
        if find_text(content, "algorithm") != MEGOLM:
            raise OlmRefused("a room key for an unknown algorithm")
        if room_id is None or session_id is None or session_key is None:
            raise OlmRefused("a room key lacks a field")
        self._put(RoomID(room_id), session_id, session_key, payload)
        return session_id

    def add_own(self, room_id: RoomID, outbound: "vodozemac.GroupSession", own: OlmPayload) -> None:
        """Keep our own outbound session readable for ourselves."""
        self._put(room_id, outbound.session_id, outbound.session_key.to_base64(), own)

    def _put(self, room_id: RoomID, session_id: str, session_key: str, owner: OlmPayload) -> None:
        """Store a session, unless the one we have already reads at least as far back."""
        try:
            session = vodozemac.InboundGroupSession(vodozemac.SessionKey(session_key))
        except ValueError as error:
            raise OlmRefused(f"a room key cannot be read: {error}") from error
        if session.session_id != session_id:
            raise OlmRefused("a room key is for another session than it says")
        for row in self._candidates(room_id, session_id):
            if row.sender_key == owner.sender_key:
                known = self._load(row)
                if known.first_known_index <= session.first_known_index:
                    return
        self._store.execute(
            "INSERT OR REPLACE INTO inbound_sessions"
            " (room_id, session_id, sender_key, user_id, ed25519, pickle)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            room_id,
            session_id,
            owner.sender_key,
            owner.sender,
            owner.ed25519,
            session.pickle(self._store.pickle_key),
        )

    def decrypt(
        self, room_id: RoomID, sender: UserID, event_id: EventID, content: JsonObject
    ) -> MegolmPayload:
        """Open a room event. Raises MegolmRefused.

        1. We know the algorithm.  2. We have the session, for this room, of a device of the sender.
        3. It opens.  4. Its index was never seen under another event id.
        5. The payload names this room.  6. The index is recorded.
        The cleartext sender_key and device_id play no part.
        """
        if not content:
            raise MegolmRefused(Reason.REDACTED, "nothing is left to decrypt")
        if find_text(content, "algorithm") != MEGOLM:  # 1
            raise MegolmRefused(Reason.UNKNOWN_ALGORITHM, "not Megolm")
        session_id = find_text(content, "session_id") or ""
        ciphertext = find_text(content, "ciphertext") or ""
        row = self._find_session(room_id, session_id, sender)  # 2
        plaintext, index = self._open(row, ciphertext)  # 3
        self._check_replay(session_id, index, event_id)  # 4
        payload = _parse_payload(plaintext, room_id)  # 5
        self._store.execute(  # 6
            "INSERT INTO replays (session_id, message_index, event_id) VALUES (?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            session_id,
            index,
            event_id,
        )
        event_type, inner = payload
        return MegolmPayload(event_type, inner, row.sender_key, row.ed25519, session_id, index)

    def _find_session(self, room_id: RoomID, session_id: str, sender: UserID) -> _InboundRow:
        candidates = self._candidates(room_id, session_id)
        for row in candidates:
            if row.user_id == sender:
                return row
        if candidates:
            raise MegolmRefused(
                Reason.SENDER_MISMATCH, f"the session belongs to {candidates[0].user_id}"
            )
        elsewhere = self._store.find_row(
            "SELECT room_id FROM inbound_sessions WHERE session_id = ?", session_id
        )
        if elsewhere is not None:
            raise MegolmRefused(Reason.WRONG_ROOM, f"the session is for room {text(elsewhere[0])}")
        raise MegolmRefused(Reason.MISSING_SESSION, "its room key has not come")

    def _open(self, row: _InboundRow, ciphertext: str) -> tuple[bytes, int]:
        session = self._load(row)
        try:
            message = vodozemac.MegolmMessage.from_base64(ciphertext)
            if message.message_index() < session.first_known_index:
                raise MegolmRefused(
                    Reason.MISSING_SESSION, "our room key starts after this message"
                )
            opened = session.decrypt(message)
        except ValueError as error:
            raise MegolmRefused(Reason.BAD_CIPHERTEXT, str(error)) from error
        return bytes(opened.plaintext), int(opened.message_index)

    def _check_replay(self, session_id: str, index: int, event_id: EventID) -> None:
        row = self._store.find_row(
            "SELECT event_id FROM replays WHERE session_id = ? AND message_index = ?",
            session_id,
            index,
        )
        if row is not None and row[0] != event_id:
            raise MegolmRefused(Reason.REPLAYED, f"the same message was event {text(row[0])}")

    def _candidates(self, room_id: RoomID, session_id: str) -> list[_InboundRow]:
        rows = self._store.rows(
            "SELECT sender_key, user_id, ed25519, pickle FROM inbound_sessions"
            " WHERE room_id = ? AND session_id = ?",
            room_id,
            session_id,
        )
        return [
            _InboundRow(text(key), UserID(text(user)), text(ed25519), text(pickle))
            for key, user, ed25519, pickle in rows
        ]

    def _load(self, row: _InboundRow) -> "vodozemac.InboundGroupSession":
        return vodozemac.InboundGroupSession.from_pickle(row.pickle, self._store.pickle_key)


def _parse_payload(plaintext: bytes, room_id: RoomID) -> tuple[str, JsonObject]:
    try:
        payload = decode_untrusted_json(plaintext)
    except ValueError as error:
        raise MegolmRefused(Reason.BAD_PAYLOAD, "not JSON") from error
    if find_text(payload, "room_id") != room_id:
        raise MegolmRefused(Reason.WRONG_ROOM, "the payload names another room")
    event_type = find_text(payload, "type")
    content = find_object(payload, "content")
    if event_type is None or content is None:
        raise MegolmRefused(Reason.BAD_PAYLOAD, "type or content is missing")
    return event_type, content


class OutboundSessions:
    """The tables outbound_sessions and outbound_shares: at most one current session a room."""

    def __init__(self, store: Store, inbound: InboundSessions, now: NowMs) -> None:
        self._store = store
        self._inbound = inbound
        self._now = now

    def prepare(
        self,
        room_id: RoomID,
        recipients: Iterable[DeviceKeys],
        limits: RotationLimits,
        own: OlmPayload,
    ) -> list[DeviceKeys]:
        """Make sure of a session that only recipients can read; return who still needs its key.

        A session is replaced when it is too old, used too often, or known to a device that is not
        among the recipients any more.
        """
        wanted = {(d.user_id, d.device_id, d.curve25519): d for d in recipients}
        with self._store.transaction():
            shares = self.list_shares(room_id)
            if self._is_spent(room_id, limits) or not shares.keys() <= wanted.keys():
                self._replace(room_id, own)
                shares = {}
        return [device for key, device in wanted.items() if not shares.get(key)]

    def _is_spent(self, room_id: RoomID, limits: RotationLimits) -> bool:
        row = self._store.find_row(
            "SELECT created_ms, messages FROM outbound_sessions WHERE room_id = ?", room_id
        )
        if row is None:
            return True
        age = self._now() - integer(row[0])
        return not 0 <= age < limits.milliseconds or integer(row[1]) >= limits.messages

    def _replace(self, room_id: RoomID, own: OlmPayload) -> None:
        session = vodozemac.GroupSession()
        self.discard(room_id)
        self._store.execute(
            "INSERT INTO outbound_sessions (room_id, session_id, pickle, created_ms, messages)"
            " VALUES (?, ?, ?, ?, 0)",
            room_id,
            session.session_id,
            session.pickle(self._store.pickle_key),
            self._now(),
        )
        self._inbound.add_own(room_id, session, own)

    def discard(self, room_id: RoomID) -> None:
        """Drop the current session, so that the next message starts a new one."""
        with self._store.transaction():
            self._store.execute("DELETE FROM outbound_sessions WHERE room_id = ?", room_id)
            self._store.execute("DELETE FROM outbound_shares WHERE room_id = ?", room_id)

    def find_session_id(self, room_id: RoomID) -> str | None:
        row = self._store.find_row(
            "SELECT session_id FROM outbound_sessions WHERE room_id = ?", room_id
        )
        return None if row is None else text(row[0])

    def room_key(self, room_id: RoomID) -> tuple[str, JsonObject]:
        """Return the session id and the m.room_key content that lets a device read from now on."""
        session = self._get(room_id)
        return str(session.session_id), {
            "algorithm": MEGOLM,
            "room_id": room_id,
            "session_id": session.session_id,
            "session_key": session.session_key.to_base64(),
        }

    def record_shares(
        self, room_id: RoomID, session_id: str, devices: list[DeviceKeys], *, sent: bool
    ) -> bool:
        """Note who gets or got the key; False when the session was replaced in the meantime.

        Noted before it is sent, so that no crash can make us forget who may read.
        """
        with self._store.transaction():
            if self.find_session_id(room_id) != session_id:
                return False
            self._store.execute_many(
                "INSERT OR REPLACE INTO outbound_shares"
                " (room_id, user_id, device_id, curve25519, sent) VALUES (?, ?, ?, ?, ?)",
                [(room_id, d.user_id, d.device_id, d.curve25519, int(sent)) for d in devices],
            )
        return True

    def list_shares(self, room_id: RoomID) -> dict[tuple[UserID, DeviceID, str], bool]:
        """Return the devices that may have the current key, and whether it was surely sent."""
        rows = self._store.rows(
            "SELECT user_id, device_id, curve25519, sent FROM outbound_shares WHERE room_id = ?",
            room_id,
        )
        return {
            (UserID(text(user_id)), DeviceID(text(device_id)), text(key)): sent == 1
            for user_id, device_id, key, sent in rows
        }

    def encrypt(self, room_id: RoomID, event_type: str, content: JsonObject) -> tuple[str, str]:
        """Encrypt with the current session; return its id and the ciphertext."""
        payload: JsonObject = {"type": event_type, "content": content, "room_id": room_id}
        with self._store.transaction():
            session = self._get(room_id)
            ciphertext = str(session.encrypt(orjson.dumps(payload)).to_base64())
            self._store.execute(
                "UPDATE outbound_sessions SET pickle = ?, messages = messages + 1"
                " WHERE room_id = ?",
                session.pickle(self._store.pickle_key),
                room_id,
            )
        return str(session.session_id), ciphertext

    def _get(self, room_id: RoomID) -> "vodozemac.GroupSession":
        row = self._store.find_row(
            "SELECT pickle FROM outbound_sessions WHERE room_id = ?", room_id
        )
        assert row is not None  # prepare() made one in this step
        return vodozemac.GroupSession.from_pickle(text(row[0]), self._store.pickle_key)
