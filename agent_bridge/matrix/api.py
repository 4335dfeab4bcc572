"""The client-server calls this client makes, one method an operation.

spec: client-server-api, v1.19
Invariant: what is returned is the server's word and nothing more; only its shape was checked.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from agent_bridge.matrix.errors import RequestRefused, ResponseMalformed
from agent_bridge.matrix.json_fields import find_text, object_in, objects_in, texts_in
from agent_bridge.matrix.transport import Request, Transport
from homeserver.core.identifiers import DeviceID, EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject, JsonValue

_CLIENT = ("_matrix", "client", "v3")
_NOT_FOUND = 404
_UNAUTHORIZED = 401
_SYNC_MARGIN_SECONDS = 30.0
_KEYS_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class Session:
    user_id: UserID
    device_id: DeviceID
    access_token: str


def make_txn_id() -> str:
    return secrets.token_urlsafe(18)


class MatrixAPI:
    """Typed thin calls over one transport."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    # Accounts

    async def versions(self) -> list[str]:
        answer = await self.transport.send(
            Request("GET", ("_matrix", "client", "versions"), {}, authenticated=False)
        )
        return texts_in(answer, "versions")

    async def register(self, username: str, password: str, device_name: str) -> Session:
        """Register by the m.login.dummy stage, or without a stage where the server asks none."""
        body: JsonObject = {
            "username": username,
            "password": password,
            "initial_device_display_name": device_name,
        }
        try:
            answer = await self._post_once(("register",), body)
        except RequestRefused as refusal:
            session = find_text(refusal.body, "session")
            if refusal.status != _UNAUTHORIZED or session is None:
                raise
            auth: JsonObject = {"type": "m.login.dummy", "session": session}
            answer = await self._post_once(("register",), {**body, "auth": auth})
        return self._take_session(answer)

    async def login(self, user: str, password: str, device_name: str) -> Session:
        body: JsonObject = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
            "initial_device_display_name": device_name,
        }
        return self._take_session(await self._post_once(("login",), body))

    async def logout(self) -> None:
        await self._post(("logout",), {})

    async def whoami(self) -> JsonObject:
        return await self._get(("account", "whoami"))

    async def get_profile(self, user_id: UserID) -> JsonObject:
        return await self._get(("profile", user_id))

    async def set_display_name(self, user_id: UserID, name: str) -> None:
        await self._put(("profile", user_id, "displayname"), {"displayname": name})

    # Sync and history

    async def sync(self, since: str | None, timeout_seconds: float) -> JsonObject:
        query = {"timeout": str(round(timeout_seconds * 1000))}
        if since is not None:
            query["since"] = since
        return await self.transport.send(
            Request(
                "GET",
                (*_CLIENT, "sync"),
                query,
                timeout_seconds=timeout_seconds + _SYNC_MARGIN_SECONDS,
            )
        )

    async def messages(
        self, room_id: RoomID, *, from_token: str | None, to_token: str | None, limit: int
    ) -> JsonObject:
        """Fetch a page backwards from from_token, or from now."""
        query = {"dir": "b", "limit": str(limit)}
        if from_token is not None:
            query["from"] = from_token
        if to_token is not None:
            query["to"] = to_token
        return await self._get(("rooms", room_id, "messages"), query)

    async def get_event(self, room_id: RoomID, event_id: EventID) -> JsonObject:
        return await self._get(("rooms", room_id, "event", event_id))

    # Rooms

    async def create_room(self, body: JsonObject) -> RoomID:
        answer = await self._post_once(("createRoom",), body)
        return RoomID(_required(answer, "room_id"))

    async def invite(self, room_id: RoomID, user_id: UserID) -> None:
        await self._post(("rooms", room_id, "invite"), {"user_id": user_id})

    async def join(self, room: str, via: Sequence[str]) -> RoomID:
        servers = [(name, server) for server in via for name in ("via", "server_name")]
        answer = await self.transport.send(Request("POST", (*_CLIENT, "join", room), servers, {}))
        return RoomID(_required(answer, "room_id"))

    async def leave(self, room_id: RoomID) -> None:
        await self._post(("rooms", room_id, "leave"), {})

    async def list_members(self, room_id: RoomID) -> list[JsonObject]:
        """Return the room's m.room.member events."""
        return objects_in(await self._get(("rooms", room_id, "members")), "chunk")

    async def send_event(
        self, room_id: RoomID, event_type: str, content: JsonObject, txn_id: str
    ) -> EventID:
        answer = await self._put(("rooms", room_id, "send", event_type, txn_id), content)
        return EventID(_required(answer, "event_id"))

    async def redact(
        self, room_id: RoomID, event_id: EventID, reason: str | None, txn_id: str
    ) -> EventID:
        body: JsonObject = {} if reason is None else {"reason": reason}
        answer = await self._put(("rooms", room_id, "redact", event_id, txn_id), body)
        return EventID(_required(answer, "event_id"))

    async def send_state(
        self, room_id: RoomID, event_type: str, state_key: str, content: JsonObject
    ) -> EventID:
        answer = await self._put(("rooms", room_id, "state", event_type, state_key), content)
        return EventID(_required(answer, "event_id"))

    async def find_state(
        self, room_id: RoomID, event_type: str, state_key: str
    ) -> JsonObject | None:
        try:
            return await self._get(("rooms", room_id, "state", event_type, state_key))
        except RequestRefused as refusal:
            if refusal.status == _NOT_FOUND:
                return None
            raise

    # Keys

    async def upload_keys(
        self,
        device_keys: JsonObject | None,
        one_time_keys: JsonObject,
        fallback_keys: JsonObject,
    ) -> JsonObject:
        """Upload what is given and return the server's one_time_key_counts."""
        body: JsonObject = {}
        if device_keys is not None:
            body["device_keys"] = device_keys
        if one_time_keys:
            body["one_time_keys"] = one_time_keys
        if fallback_keys:
            body["fallback_keys"] = fallback_keys
        return object_in(await self._post(("keys", "upload"), body), "one_time_key_counts")

    async def query_keys(self, user_ids: Sequence[UserID]) -> JsonObject:
        asked: JsonObject = {user_id: [] for user_id in user_ids}
        return await self._post(
            ("keys", "query"), {"device_keys": asked, "timeout": _KEYS_TIMEOUT_MS}
        )

    async def claim_keys(self, devices: Mapping[UserID, Sequence[DeviceID]]) -> JsonObject:
        """Claim one signed key for each device; return the answer's one_time_keys."""
        asked: JsonObject = {
            user_id: dict.fromkeys(device_ids, cast("JsonValue", "signed_curve25519"))
            for user_id, device_ids in devices.items()
        }
        body: JsonObject = {"one_time_keys": asked, "timeout": _KEYS_TIMEOUT_MS}
        return object_in(await self._post(("keys", "claim"), body), "one_time_keys")

    async def upload_cross_signing_keys(
        self, keys: JsonObject, user_id: UserID, password: str
    ) -> None:
        """Upload our three public keys, with the password when the server asks for it."""
        path = ("keys", "device_signing", "upload")
        try:
            await self._post(path, keys)
        except RequestRefused as refusal:
            session = find_text(refusal.body, "session")
            if refusal.status != _UNAUTHORIZED or session is None:
                raise
            auth: JsonObject = {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": user_id},
                "password": password,
                "session": session,
            }
            await self._post(path, {**keys, "auth": auth})

    async def upload_signatures(self, signed: JsonObject) -> None:
        """Upload signed objects {user id: {key id: object}}. Raises when one was not taken."""
        failures = object_in(await self._post(("keys", "signatures", "upload"), signed), "failures")
        if failures:
            raise RequestRefused(200, "M_UNKNOWN", "signatures were not taken", failures)

    async def send_to_device(
        self, event_type: str, messages: Mapping[UserID, Mapping[str, JsonObject]], txn_id: str
    ) -> None:
        body: JsonObject = {
            "messages": {user_id: dict(devices) for user_id, devices in messages.items()}
        }
        await self._put(("sendToDevice", event_type, txn_id), body)

    # How calls are made

    async def _get(
        self, path: tuple[str, ...], query: Mapping[str, str] | None = None
    ) -> JsonObject:
        return await self.transport.send(Request("GET", (*_CLIENT, *path), query or {}))

    async def _put(self, path: tuple[str, ...], body: JsonObject) -> JsonObject:
        return await self.transport.send(Request("PUT", (*_CLIENT, *path), {}, body))

    async def _post(self, path: tuple[str, ...], body: JsonObject) -> JsonObject:
        return await self.transport.send(Request("POST", (*_CLIENT, *path), {}, body))

    async def _post_once(self, path: tuple[str, ...], body: JsonObject) -> JsonObject:
        """Post what makes a new thing each time, so that only a refusal to act is repeated."""
        return await self.transport.send(
            Request("POST", (*_CLIENT, *path), {}, body, repeatable=False)
        )

    def _take_session(self, answer: JsonObject) -> Session:
        session = Session(
            UserID(_required(answer, "user_id")),
            DeviceID(_required(answer, "device_id")),
            _required(answer, "access_token"),
        )
        self.transport.access_token = session.access_token
        return session


def _required(answer: JsonObject, key: str) -> str:
    found = find_text(answer, key)
    if found is None:
        raise ResponseMalformed(f"an answer lacks {key}")
    return found
