"""End-to-end encryption for one device: what to upload, ask, decrypt, share and encrypt, and when.

spec: client-server-api/#end-to-end-encryption, v1.19
Invariant: the homeserver can withhold what it should deliver; it cannot make us attribute a message
to another device or room, or give a room key to a device the share policy does not allow.
"""

import asyncio
import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping

import orjson

from agent_bridge.matrix.api import MatrixAPI, make_txn_id
from agent_bridge.matrix.cross_signing import OwnCrossSigning, put_signature, signed_bytes
from agent_bridge.matrix.device_keys import (
    MEGOLM,
    DeviceKeys,
    Identity,
    parse_cross_signing_key,
    parse_subordinate_key,
)
from agent_bridge.matrix.device_lists import DeviceLists
from agent_bridge.matrix.errors import (
    CrossSigningMissing,
    KeysRefused,
    NoRecipients,
    OlmRefused,
)
from agent_bridge.matrix.events import CryptoProblem, SenderDevice, ToDeviceEvent
from agent_bridge.matrix.json_fields import find_object, find_text, object_in
from agent_bridge.matrix.megolm import (
    InboundSessions,
    MegolmPayload,
    NowMs,
    OutboundSessions,
    RotationLimits,
)
from agent_bridge.matrix.olm import OlmDevice, OlmPayload
from agent_bridge.matrix.share_policy import (
    AllDevices,
    Recipients,
    SharePolicy,
    ShareReport,
    choose_recipients,
    users_of,
)
from agent_bridge.matrix.store import Store, blob
from homeserver.core.identifiers import DeviceID, EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject

logger = logging.getLogger(__name__)

_QUERY_USERS = 100
_QUERY_PAUSE_MS = 60 * 1000
_SHARE_DEVICES = 50
_HEAL_PAUSE_MS = 3600 * 1000
_SHARE_ATTEMPTS = 5
_ROOM_KEYS = ("m.room_key", "m.forwarded_room_key")


class Crypto:
    """The encryption state of our device over its store."""

    def __init__(self, store: Store, api: MatrixAPI, now: NowMs) -> None:
        credentials = store.get_credentials()
        self._store = store
        self._api = api
        self._now = now
        self.user_id = credentials.user_id
        self.device_id = credentials.device_id
        self.device = OlmDevice(store, self.user_id, self.device_id)
        self.lists = DeviceLists(store, self.user_id, self.device_id)
        self.inbound = InboundSessions(store)
        self.outbound = OutboundSessions(store, self.inbound, now)
        self.cross_signing = OwnCrossSigning(store, self.user_id)
        self.left_out: dict[RoomID, Mapping[tuple[UserID, DeviceID], str]] = {}
        self._asked_in_vain: dict[tuple[UserID, int], int] = {}
        self._querying = asyncio.Lock()
        self._sending = asyncio.Lock()

    # Our keys on the server

    async def upload_keys(self, counts: JsonObject, unused_fallback: Collection[str]) -> None:
        """Upload whatever the server lacks of our device, one-time and fallback keys."""
        row = self._store.find_row("SELECT keys_uploaded FROM account")
        device_is_up = row is not None and row[0] == 1
        count = counts.get("signed_curve25519")
        keys = self.device.make_keys(
            count if isinstance(count, int) else 0,
            fallback_key_used="signed_curve25519" not in unused_fallback,
        )
        if device_is_up and not keys.one_time_keys and not keys.fallback_keys:
            return
        if not device_is_up:
            self.lists.track([self.user_id])
            self.lists.put_own_device(self.device.device_keys)
        await self._api.upload_keys(
            None if device_is_up else self.device.device_keys,
            keys.one_time_keys,
            keys.fallback_keys,
        )
        with self._store.transaction():
            self.device.mark_keys_uploaded()
            self._store.execute("UPDATE account SET keys_uploaded = 1")

    async def bootstrap_cross_signing(self, password: str, *, replace: bool) -> None:
        """Make, upload and use our cross-signing keys; each step may be repeated.

        1. Make the keys once and keep them; an identity made on another device is only replaced
        on demand.  2. Upload the public halves.  3. Believe in them.
        4. Sign this device with the self-signing key, and the master key with this device.
        """
        await self.refresh([self.user_id])  # 1
        exists = self.cross_signing.exists()
        ours = self.cross_signing.get("master").public_key if exists else None
        known = self.lists.find_identity(self.user_id)
        if known is not None and known.master.public_key != ours and not replace:
            raise KeysRefused(f"{self.user_id} already has cross-signing keys elsewhere")
        if not exists:
            self.cross_signing.create()
        objects = self.cross_signing.public_objects()
        upload: JsonObject = {f"{usage}_key": raw for usage, raw in objects.items()}
        await self._api.upload_cross_signing_keys(upload, self.user_id, password)  # 2
        master = parse_cross_signing_key(objects["master"], self.user_id, "master")
        with self._store.transaction():  # 3
            self.lists.put_identity(
                Identity(
                    master,
                    parse_subordinate_key(objects["self_signing"], "self_signing", master),
                    parse_subordinate_key(objects["user_signing"], "user_signing", master),
                )
            )
            self.lists.pin(self.user_id, master.public_key)
        signed_device = self.cross_signing.sign("self_signing", self.device.device_keys)  # 4
        signature = self.device.sign(signed_bytes(master.raw))
        signed_master = put_signature(master.raw, self.user_id, self.device_id, signature)
        await self._api.upload_signatures(
            {self.user_id: {self.device_id: signed_device, master.public_key: signed_master}}
        )
        await self.refresh([self.user_id])

    async def sign_user(self, user_id: UserID, master_key: str) -> None:
        identity = self.lists.find_identity(user_id)
        if identity is None or identity.master.public_key != master_key:
            raise KeysRefused(f"the master key of {user_id} is not the one to sign")
        signed = self.cross_signing.sign("user_signing", identity.master.raw)
        await self._api.upload_signatures({user_id: {master_key: signed}})
        await self.refresh([user_id])

    async def sign_own_device(self, device_id: DeviceID, ed25519: str) -> None:
        if not self.cross_signing.exists():
            raise CrossSigningMissing("this device has no cross-signing keys of its own")
        device = self.lists.find_device(self.user_id, device_id)
        if device is None or device.revoked or device.keys.ed25519 != ed25519:
            raise KeysRefused(f"the key of {device_id} is not the one to sign")
        signed = self.cross_signing.sign("self_signing", device.keys.raw)
        await self._api.upload_signatures({self.user_id: {device_id: signed}})
        await self.refresh([self.user_id])

    # Other users' devices

    async def refresh(self, users: Iterable[UserID]) -> list[CryptoProblem]:
        """Ask about these users now, whether or not we think we know."""
        users = list(users)
        self.lists.track(users)
        self.lists.mark_outdated(users)
        return await self.query_outdated()

    async def query_outdated(self, only: Collection[UserID] | None = None) -> list[CryptoProblem]:
        """Ask about outdated users, one request at a time so that no old answer overtakes a new.

        A user whose server did not answer is left in peace for a minute, unless there is news.
        """
        problems: list[CryptoProblem] = []
        async with self._querying:
            outdated = self.lists.list_outdated()
            users = [
                user
                for user, generation in outdated.items()
                if (only is None or user in only) and not self._is_in_vain(user, generation)
            ]
            for start in range(0, len(users), _QUERY_USERS):
                asked = {user: outdated[user] for user in users[start : start + _QUERY_USERS]}
                answer = await self._api.query_keys(list(asked))
                problems += self.lists.apply_answer(answer, asked)
                unanswered = asked.items() & self.lists.list_outdated().items()
                self._asked_in_vain |= {key: self._now() for key in unanswered}
        return problems

    def _is_in_vain(self, user_id: UserID, generation: int) -> bool:
        asked_at = self._asked_in_vain.get((user_id, generation))
        return asked_at is not None and 0 <= self._now() - asked_at < _QUERY_PAUSE_MS

    # What comes in

    def receive_to_device(
        self, events: Iterable[JsonObject], problems: list[CryptoProblem]
    ) -> tuple[list[OlmPayload], set[str]]:
        """Decrypt to-device events; return the payloads for others and the sessions of new keys.

        A message opens once only, so what came out is kept until the batch is acknowledged.
        Room keys that somebody else passes on are refused, encrypted or not.
        """
        payloads: list[OlmPayload] = []
        new_sessions: set[str] = set()
        for event in events:
            sender = UserID(find_text(event, "sender") or "")
            event_type = find_text(event, "type")
            if event_type in _ROOM_KEYS:
                problems.append(CryptoProblem("to_device_refused", sender, "a plaintext room key"))
            if event_type != "m.room.encrypted":
                continue  # requests and withheld notices, which anybody can forge
            content = object_in(event, "content")
            digest = hashlib.sha256(orjson.dumps(event, option=orjson.OPT_SORT_KEYS)).digest()
            try:
                payload = self._receive_once(digest, sender, content)
            except OlmRefused as error:
                problems.append(CryptoProblem("to_device_refused", sender, str(error)))
                if error.session_broken:
                    self._note_broken(sender, find_text(content, "sender_key") or "")
                continue
            if payload.type == "m.room_key":
                new_sessions.add(find_text(payload.content, "session_id") or "")
            elif payload.type in _ROOM_KEYS:
                problems.append(CryptoProblem("to_device_refused", sender, "a forwarded room key"))
            elif payload.type != "m.dummy":
                payloads.append(payload)
        return payloads, new_sessions

    def _receive_once(self, digest: bytes, sender: UserID, content: JsonObject) -> OlmPayload:
        row = self._store.find_row("SELECT event FROM to_device_done WHERE digest = ?", digest)
        if row is not None:
            return OlmPayload(**orjson.loads(self._store.unseal(blob(row[0]))))
        with self._store.transaction():
            payload = self.device.decrypt(sender, content)
            self.lists.track([sender])
            if payload.type == "m.room_key":
                self.inbound.receive(payload)
            self._store.execute(
                "INSERT OR REPLACE INTO to_device_done (digest, event) VALUES (?, ?)",
                digest,
                self._store.seal(orjson.dumps(payload)),
            )
        return payload

    def describe(self, payload: OlmPayload) -> ToDeviceEvent:
        """Say what is known of the sender; call it when the device lists are up to date."""
        device = self.lists.describe_sender(payload.sender, payload.sender_key, payload.ed25519)
        return ToDeviceEvent(device, payload.type, payload.content)

    def decrypt_room_event(
        self, room_id: RoomID, sender: UserID, event_id: EventID, content: JsonObject
    ) -> tuple[MegolmPayload, SenderDevice]:
        """Open a room event and say whose it is. Raises MegolmRefused."""
        with self._store.transaction():
            payload = self.inbound.decrypt(room_id, sender, event_id, content)
        return payload, self.lists.describe_sender(sender, payload.sender_key, payload.ed25519)

    # What goes out

    async def encrypt_room_event(
        self,
        room_id: RoomID,
        event_type: str,
        content: JsonObject,
        *,
        members: Collection[UserID],
        policy: SharePolicy,
        limits: RotationLimits,
    ) -> JsonObject:
        """Share the room key where the policy wants it and return the encrypted content.

        Raises NoRecipients, MatrixFailure.
        """
        async with self._sending:
            for _ in range(_SHARE_ATTEMPTS):
                if await self._share(room_id, members, policy, limits):
                    break
            else:
                raise NoRecipients(f"the room key of {room_id} is replaced faster than shared")
            session_id, ciphertext = self.outbound.encrypt(room_id, event_type, content)
        encrypted: JsonObject = {
            "algorithm": MEGOLM,
            "sender_key": self.device.curve25519_key,
            "device_id": self.device_id,
            "session_id": session_id,
            "ciphertext": ciphertext,
        }
        relation = find_object(content, "m.relates_to")
        return encrypted if relation is None else {**encrypted, "m.relates_to": relation}

    async def _share(
        self,
        room_id: RoomID,
        members: Collection[UserID],
        policy: SharePolicy,
        limits: RotationLimits,
    ) -> bool:
        """Give the current room key to who lacks it; False when it was replaced meanwhile.

        1. Ask about users whose devices we do not know.  2. Let the policy choose.  3. Keep or
        replace the session.  4. Start Olm sessions.  5. Record who gets it.  6. Send the key.
        """
        users = users_of(policy, members)
        self.lists.track(users)
        await self.query_outdated(users)  # 1
        chosen = choose_recipients(policy, users, self.lists, (self.user_id, self.device_id))  # 2
        if not chosen.devices and not isinstance(policy, AllDevices):
            raise NoRecipients(f"no device in {room_id} is allowed to read: {chosen.left_out}")
        own = OlmPayload(
            self.user_id, self.device.curve25519_key, self.device.ed25519_key, "m.room_key", {}
        )
        missing = self.outbound.prepare(room_id, chosen.devices, limits, own)  # 3
        session_id, room_key = self.outbound.room_key(room_id)
        reachable = await self._ensure_sessions(missing, chosen)  # 4
        for start in range(0, len(reachable), _SHARE_DEVICES):
            part = reachable[start : start + _SHARE_DEVICES]
            if not self.outbound.record_shares(room_id, session_id, part, sent=False):  # 5
                return False
            await self._send_encrypted(part, "m.room_key", room_key)  # 6
            self.outbound.record_shares(room_id, session_id, part, sent=True)
        self.left_out[room_id] = chosen.left_out
        return self.outbound.find_session_id(room_id) == session_id

    async def _ensure_sessions(
        self, devices: list[DeviceKeys], chosen: Recipients
    ) -> list[DeviceKeys]:
        """Start the Olm sessions that are missing; return the devices that have one now."""
        lacking = [device for device in devices if not self.device.has_session(device.curve25519)]
        failures = await self._start_sessions(lacking)
        for device, reason in failures:
            chosen.left_out[device.user_id, device.device_id] = reason
        return [device for device in devices if self.device.has_session(device.curve25519)]

    async def _start_sessions(self, devices: list[DeviceKeys]) -> list[tuple[DeviceKeys, str]]:
        """Claim a key of each device and start a session; return those where it failed."""
        if not devices:
            return []
        wanted: dict[UserID, list[DeviceID]] = {}
        for device in devices:
            wanted.setdefault(device.user_id, []).append(device.device_id)
        claimed = await self._api.claim_keys(wanted)
        failures = []
        for device in devices:
            keys = object_in(object_in(claimed, device.user_id), device.device_id)
            try:
                self.device.start_session(device, keys)
            except KeysRefused as error:
                failures.append((device, str(error)))
        return failures

    async def _send_encrypted(
        self, devices: list[DeviceKeys], event_type: str, content: JsonObject
    ) -> None:
        messages: dict[UserID, dict[str, JsonObject]] = {}
        for device in devices:
            encrypted = self.device.encrypt(device, event_type, content)
            messages.setdefault(device.user_id, {})[device.device_id] = encrypted
        await self._api.send_to_device("m.room.encrypted", messages, make_txn_id())

    def share_report(self, room_id: RoomID) -> ShareReport | None:
        session_id = self.outbound.find_session_id(room_id)
        if session_id is None:
            return None
        shares = self.outbound.list_shares(room_id)
        return ShareReport(
            session_id,
            tuple((user_id, device_id) for (user_id, device_id, _), sent in shares.items() if sent),
            self.left_out.get(room_id, {}),
        )

    # Broken Olm sessions

    def _note_broken(self, sender: UserID, sender_key: str) -> None:
        """Remember to replace a session, at most one an hour for each device."""
        for device in self.lists.list_devices(sender):
            if device.keys.curve25519 == sender_key and not device.revoked:
                self._store.execute(
                    "INSERT INTO healed_sessions (sender_key, at_ms) VALUES (?, 0)"
                    " ON CONFLICT (sender_key) DO UPDATE SET at_ms = 0 WHERE at_ms < ?",
                    sender_key,
                    self._now() - _HEAL_PAUSE_MS,
                )

    async def heal_sessions(self) -> None:
        """Replace the sessions found broken and tell the other side by an m.dummy."""
        rows = self._store.rows(
            "SELECT d.user_id, d.device_id FROM healed_sessions h"
            " JOIN devices d ON d.curve25519 = h.sender_key WHERE h.at_ms = 0"
        )
        devices = []
        for user_id, device_id in rows:
            known = self.lists.find_device(UserID(str(user_id)), DeviceID(str(device_id)))
            if known is not None:
                devices.append(known.keys)
        if not devices:
            return
        failed = {device.device_id for device, _ in await self._start_sessions(devices)}
        started = [device for device in devices if device.device_id not in failed]
        logger.info("Replaced broken Olm sessions count=%d", len(started))
        if started:
            await self._send_encrypted(started, "m.dummy", {})
        self._store.execute("UPDATE healed_sessions SET at_ms = ? WHERE at_ms = 0", self._now())
