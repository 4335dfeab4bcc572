"""Olm: our account's keys, sessions with other devices, and messages from device to device.

spec: client-server-api/#molmv1curve25519-aes-sha2, olm-megolm/olm, v1.19
Invariant: a payload is handed out only when the device that made the session says, inside the
ciphertext, the same sender and Ed25519 key as we hold it to, and addressed it to exactly us.
"""

from dataclasses import dataclass

import orjson
import vodozemac

from agent_bridge.matrix.cross_signing import put_signature, signed_bytes
from agent_bridge.matrix.device_keys import (
    MEGOLM,
    OLM,
    DeviceKeys,
    check_signature,
    parse_device_keys,
    parse_public_key,
)
from agent_bridge.matrix.errors import KeysRefused, OlmRefused
from agent_bridge.matrix.json_fields import (
    decode_untrusted_json,
    find_integer,
    find_object,
    find_text,
    object_in,
)
from agent_bridge.matrix.store import Store, text
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.signing import decode_base64, encode_base64

_SESSIONS_PER_DEVICE = 8
_PRE_KEY = 0


@dataclass(frozen=True, slots=True)
class OlmPayload:
    """What a device sent us; sender_key and ed25519 are the keys it proved to hold or claimed."""

    sender: UserID
    sender_key: str
    ed25519: str
    type: str
    content: JsonObject


@dataclass(frozen=True, slots=True)
class KeysToUpload:
    one_time_keys: JsonObject
    fallback_keys: JsonObject


class OlmDevice:
    """Our own device: the Olm account and its sessions, stored after each step."""

    def __init__(self, store: Store, user_id: UserID, device_id: DeviceID) -> None:
        self._store = store
        self.user_id = user_id
        self.device_id = device_id
        account = self._account()
        self.ed25519_key = str(account.ed25519_key.to_base64())
        self.curve25519_key = str(account.curve25519_key.to_base64())
        self.device_keys = self._make_device_keys()

    def sign(self, message: bytes) -> str:
        return str(self._account().sign(message).to_base64())

    # Keys for others to start sessions with

    def make_keys(self, one_time_keys_on_server: int, *, fallback_key_used: bool) -> KeysToUpload:
        """Top up one-time keys to half of what the account can hold, and replace a used fallback.

        Keys made but never confirmed as uploaded are part of the next answer again.
        """
        with self._store.transaction():
            account = self._account()
            wanted = account.max_number_of_one_time_keys // 2
            missing = wanted - one_time_keys_on_server - len(account.one_time_keys)
            if missing > 0:
                account.generate_one_time_keys(missing)
            if fallback_key_used and not account.fallback_key:  # type: ignore[attr-defined]  # the stubs lack it
                account.generate_fallback_key()  # type: ignore[attr-defined]  # as above
            self._put_account(account)
        return KeysToUpload(
            self._sign_keys(account.one_time_keys, fallback=False),
            self._sign_keys(
                account.fallback_key,  # type: ignore[attr-defined]  # as above
                fallback=True,
            ),
        )

    def mark_keys_uploaded(self) -> None:
        with self._store.transaction():
            account = self._account()
            account.mark_keys_as_published()
            self._put_account(account)

    # Sessions

    def has_session(self, curve25519: str) -> bool:
        return (
            self._store.find_row("SELECT 1 FROM olm_sessions WHERE sender_key = ?", curve25519)
            is not None
        )

    def start_session(self, device: DeviceKeys, claimed: JsonObject) -> None:
        """Start a session from a claimed one-time key {key id: object}. Raises KeysRefused."""
        for key_id, raw in claimed.items():
            if key_id.startswith("signed_curve25519:") and isinstance(raw, dict):
                break
        else:
            raise KeysRefused(f"no one-time key for {device.user_id} {device.device_id}")
        check_signature(raw, device.user_id, device.device_id, device.ed25519)
        one_time_key = parse_public_key(raw.get("key"))
        try:
            session = self._account().create_outbound_session(
                vodozemac.Curve25519PublicKey.from_base64(device.curve25519),
                vodozemac.Curve25519PublicKey.from_base64(one_time_key),
            )
        except ValueError as error:
            raise KeysRefused(f"a one-time key cannot be used: {error}") from error
        self._put_session(device.curve25519, session)

    def encrypt(self, device: DeviceKeys, event_type: str, content: JsonObject) -> JsonObject:
        """Return the content of an m.room.encrypted to-device event; needs a session."""
        payload: JsonObject = {
            "type": event_type,
            "content": content,
            "sender": self.user_id,
            "recipient": device.user_id,
            "recipient_keys": {"ed25519": device.ed25519},
            "keys": {"ed25519": self.ed25519_key},
            "sender_device_keys": self.device_keys,
        }
        with self._store.transaction():
            _, session = self._sessions(device.curve25519)[0]
            message_type, ciphertext = session.encrypt(orjson.dumps(payload)).to_parts()
            self._save_session(session)
        message: JsonObject = {"type": message_type, "body": encode_base64(ciphertext)}
        return {
            "algorithm": OLM,
            "sender_key": self.curve25519_key,
            "ciphertext": {device.curve25519: message},
        }

    def decrypt(self, sender: UserID, content: JsonObject) -> OlmPayload:
        """Decrypt and check a to-device message said to be of sender. Raises OlmRefused.

        1. It is Olm and for our Curve25519 key.  2. It opens.  3. The payload names the same
        sender, us, and our Ed25519 key.  4. Device keys sent along are that device's own.
        """
        if find_text(content, "algorithm") != OLM:  # 1
            raise OlmRefused("not an Olm message")
        message = find_object(object_in(content, "ciphertext"), self.curve25519_key)
        if message is None:
            raise OlmRefused("not for this device")
        try:
            sender_key = parse_public_key(content.get("sender_key"))
            body = decode_base64(find_text(message, "body") or "")
            parsed = vodozemac.AnyOlmMessage.from_parts(_message_type(message), body)
        except (KeysRefused, ValueError) as error:
            raise OlmRefused("not a well-formed Olm message") from error
        payload = _decode_payload(self._open(sender_key, parsed))  # 2
        ed25519 = self._check_payload(payload, sender)  # 3
        _check_sender_device_keys(payload, sender, sender_key, ed25519)  # 4
        event_type = find_text(payload, "type")
        inner = find_object(payload, "content")
        if event_type is None or inner is None:
            raise OlmRefused("the payload lacks type or content")
        return OlmPayload(sender, sender_key, ed25519, event_type, inner)

    def _open(self, sender_key: str, message: "vodozemac.AnyOlmMessage") -> bytes:
        """Decrypt with a session we have or, for a pre-key message, with a new one."""
        pre_key = message.to_pre_key()
        with self._store.transaction():
            for session_id, session in self._sessions(sender_key):
                if pre_key is not None and not session.session_matches(pre_key):
                    continue
                try:
                    plaintext = bytes(session.decrypt(message))
                except ValueError as error:
                    if pre_key is not None:
                        raise OlmRefused(f"session {session_id}: {error}") from error
                    continue
                self._save_session(session)
                return plaintext
            if pre_key is None:
                raise OlmRefused("no session opens this message", session_broken=True)
            account = self._account()
            try:
                session, plaintext = account.create_inbound_session(
                    vodozemac.Curve25519PublicKey.from_base64(sender_key), pre_key
                )
            except ValueError as error:
                raise OlmRefused(f"no new session: {error}", session_broken=True) from error
            self._put_account(account)
            self._put_session(sender_key, session)
            return bytes(plaintext)

    def _check_payload(self, payload: JsonObject, sender: UserID) -> str:
        """Return the Ed25519 key that the sending device says it has."""
        if find_text(payload, "sender") != sender:
            raise OlmRefused("the payload names another sender")
        if find_text(payload, "recipient") != self.user_id:
            raise OlmRefused("the payload names another recipient")
        if find_text(object_in(payload, "recipient_keys"), "ed25519") != self.ed25519_key:
            raise OlmRefused("the payload is for another key")
        try:
            return parse_public_key(object_in(payload, "keys").get("ed25519"))
        except KeysRefused as error:
            raise OlmRefused("the payload names no sending key") from error

    # Rows

    def _account(self) -> "vodozemac.Account":
        row = self._store.find_row("SELECT olm_account FROM account")
        assert row is not None  # a Store is opened with an account
        return vodozemac.Account.from_pickle(text(row[0]), self._store.pickle_key)

    def _put_account(self, account: "vodozemac.Account") -> None:
        self._store.execute(
            "UPDATE account SET olm_account = ?", account.pickle(self._store.pickle_key)
        )

    def _sessions(self, sender_key: str) -> list[tuple[str, "vodozemac.Session"]]:
        """Return the sessions with a device, the one to encrypt with first."""
        rows = self._store.rows(
            "SELECT session_id, pickle FROM olm_sessions WHERE sender_key = ? ORDER BY used DESC",
            sender_key,
        )
        return [
            (
                text(session_id),
                vodozemac.Session.from_pickle(text(pickle), self._store.pickle_key),
            )
            for session_id, pickle in rows
        ]

    def _save_session(self, session: "vodozemac.Session") -> None:
        self._store.execute(
            "UPDATE olm_sessions SET pickle = ?, used = (SELECT max(used) + 1 FROM olm_sessions)"
            " WHERE session_id = ?",
            session.pickle(self._store.pickle_key),
            session.session_id,
        )

    def _put_session(self, sender_key: str, session: "vodozemac.Session") -> None:
        """Store a new session as the one to use, and let the longest unused ones go."""
        with self._store.transaction():
            self._store.execute(
                "INSERT OR REPLACE INTO olm_sessions (session_id, sender_key, pickle, used)"
                " VALUES (?, ?, ?, (SELECT coalesce(max(used), 0) + 1 FROM olm_sessions))",
                session.session_id,
                sender_key,
                session.pickle(self._store.pickle_key),
            )
            self._store.execute(
                "DELETE FROM olm_sessions WHERE sender_key = ?1 AND session_id NOT IN"
                " (SELECT session_id FROM olm_sessions WHERE sender_key = ?1"
                " ORDER BY used DESC LIMIT ?2)",
                sender_key,
                _SESSIONS_PER_DEVICE,
            )

    def _make_device_keys(self) -> JsonObject:
        keys: JsonObject = {
            f"curve25519:{self.device_id}": self.curve25519_key,
            f"ed25519:{self.device_id}": self.ed25519_key,
        }
        return self._signed(
            {
                "user_id": self.user_id,
                "device_id": self.device_id,
                "algorithms": [OLM, MEGOLM],
                "keys": keys,
            }
        )

    def _sign_keys(
        self, keys: dict[str, "vodozemac.Curve25519PublicKey"], *, fallback: bool
    ) -> JsonObject:
        mark: JsonObject = {"fallback": True} if fallback else {}
        return {
            f"signed_curve25519:{key_id}": self._signed({"key": key.to_base64(), **mark})
            for key_id, key in keys.items()
        }

    def _signed(self, raw: JsonObject) -> JsonObject:
        return put_signature(raw, self.user_id, self.device_id, self.sign(signed_bytes(raw)))


def make_account_pickle(pickle_key: bytes) -> str:
    return str(vodozemac.Account().pickle(pickle_key))


def _message_type(message: JsonObject) -> int:
    found = find_integer(message, "type")
    if found is None:
        raise ValueError("an Olm message lacks its type")
    return found


def _decode_payload(plaintext: bytes) -> JsonObject:
    try:
        payload: JsonValue = decode_untrusted_json(plaintext)
    except ValueError as error:
        raise OlmRefused("the payload is not JSON") from error
    if not isinstance(payload, dict):
        raise OlmRefused("the payload is not an object")
    return payload


def _check_sender_device_keys(
    payload: JsonObject, sender: UserID, sender_key: str, ed25519: str
) -> None:
    if "sender_device_keys" not in payload:
        return
    raw = object_in(payload, "sender_device_keys")
    try:
        device = parse_device_keys(raw, sender, DeviceID(find_text(raw, "device_id") or ""))
    except KeysRefused as error:
        raise OlmRefused(f"sender_device_keys are refused: {error}") from error
    if device.curve25519 != sender_key or device.ed25519 != ed25519:
        raise OlmRefused("sender_device_keys are of another device than the message")
