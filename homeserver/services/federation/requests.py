"""What this server asks of others: one method an operation, named as in the specification.

Answers are JSON objects as they came: whoever asked checks what is in them. Every method raises
RequestFailed; ErrorAnswer is one, when the other server did answer.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from homeserver.core.identifiers import (
    EventID,
    IdentifierInvalid,
    RoomAlias,
    RoomID,
    ServerName,
    UserID,
    parse_event_id,
)
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.transport.federation_client import (
    ErrorAnswer,
    FederationClient,
    parse_json,
    request_json,
)
from homeserver.transport.outbound import Answer, RequestFailed

_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"
_MAX_ROOM_BYTES = 256 * 1_048_576
"""The whole state of the largest rooms."""
_ROOM_SECONDS = 300.0
_MAX_EVENT_BYTES = 1_048_576
_MEDIA_SECONDS = 120.0
_MULTIPART_BYTES = 64 * 1024
"""What stands around the content."""
_MAX_PAGE_BYTES = 32 * 1_048_576
_MAX_LIST_BYTES = 2 * 1_048_576
"""Rooms of a directory or a space."""
_MAX_PROFILE_BYTES = 262_144
_SIGN_SECONDS = 10.0
"""A client waits as long for its event to be sent."""
_MAX_SIGNATURE_BYTES = 65_536


class FederationRequests:
    def __init__(self, client: FederationClient) -> None:
        self._client = client

    # Joining, knocking, inviting, leaving.

    async def make_join(
        self, server: ServerName, room_id: RoomID, user_id: UserID, versions: Sequence[str]
    ) -> JsonObject:
        path = f"{_V1}/make_join/{_quote(room_id)}/{_quote(user_id)}"
        return await self._get(server, path, {"ver": list(versions)})

    async def send_join(
        self,
        server: ServerName,
        room_id: RoomID,
        event_id: EventID,
        pdu: bytes,
        *,
        omit_members: bool,
    ) -> JsonObject:
        """`pdu` is canonical JSON."""
        return await request_json(
            self._client,
            "PUT",
            server,
            f"{_V2}/send_join/{_quote(room_id)}/{_quote(event_id)}",
            query={"omit_members": "true" if omit_members else "false"},
            content=pdu,
            timeout_seconds=_ROOM_SECONDS,
            max_bytes=_MAX_ROOM_BYTES,
        )

    async def make_leave(self, server: ServerName, room_id: RoomID, user_id: UserID) -> JsonObject:
        return await self._get(server, f"{_V1}/make_leave/{_quote(room_id)}/{_quote(user_id)}")

    async def send_leave(
        self, server: ServerName, room_id: RoomID, event_id: EventID, pdu: bytes
    ) -> None:
        path = f"{_V2}/send_leave/{_quote(room_id)}/{_quote(event_id)}"
        await self._client.request("PUT", server, path, content=pdu)

    async def make_knock(
        self, server: ServerName, room_id: RoomID, user_id: UserID, versions: Sequence[str]
    ) -> JsonObject:
        path = f"{_V1}/make_knock/{_quote(room_id)}/{_quote(user_id)}"
        return await self._get(server, path, {"ver": list(versions)})

    async def send_knock(
        self, server: ServerName, room_id: RoomID, event_id: EventID, pdu: bytes
    ) -> JsonObject:
        path = f"{_V1}/send_knock/{_quote(room_id)}/{_quote(event_id)}"
        return await self._put(server, path, pdu)

    async def send_invite(
        self,
        server: ServerName,
        room_id: RoomID,
        event_id: EventID,
        event: JsonObject,
        room_version: str,
        state: list[JsonValue],
        *,
        may_be_v1: bool,
    ) -> JsonObject:
        """Return an object with the signed `event`.

        state      PDUs that tell the invited user what the room is
        may_be_v1  the room version is one that servers with the old operation know
        """
        path = f"invite/{_quote(room_id)}/{_quote(event_id)}"
        body: JsonObject = {
            "event": event,
            "room_version": room_version,
            "invite_room_state": state,
        }
        try:
            return await self._put(server, f"{_V2}/{path}", body)
        except ErrorAnswer as error:
            if not may_be_v1 or error.errcode != "M_UNRECOGNIZED":
                raise
        answer = await self._client.request(
            "PUT",
            server,
            f"{_V1}/{path}",
            content={**event, "unsigned": {"invite_room_state": state}},
        )
        return parse_v1_answer(answer)

    async def exchange_third_party_invite(
        self, server: ServerName, room_id: RoomID, event: JsonObject
    ) -> None:
        path = f"{_V1}/exchange_third_party_invite/{_quote(room_id)}"
        await self._client.request("PUT", server, path, content=event)

    async def ask_policy_server_to_sign(self, server: ServerName, pdu: bytes) -> JsonObject:
        """`pdu` is canonical JSON."""
        return await request_json(
            self._client,
            "POST",
            server,
            "/_matrix/policy/v1/sign",
            content=pdu,
            timeout_seconds=_SIGN_SECONDS,
            max_bytes=_MAX_SIGNATURE_BYTES,
        )

    # Events.

    async def get_event(self, server: ServerName, event_id: EventID) -> JsonObject:
        return await self._get(
            server, f"{_V1}/event/{_quote(event_id)}", max_bytes=_MAX_EVENT_BYTES
        )

    async def get_event_auth(
        self, server: ServerName, room_id: RoomID, event_id: EventID
    ) -> JsonObject:
        path = f"{_V1}/event_auth/{_quote(room_id)}/{_quote(event_id)}"
        return await self._get(server, path, is_whole_room=True)

    async def get_state(self, server: ServerName, room_id: RoomID, event_id: EventID) -> JsonObject:
        return await self._get(
            server, f"{_V1}/state/{_quote(room_id)}", {"event_id": event_id}, is_whole_room=True
        )

    async def get_state_ids(
        self, server: ServerName, room_id: RoomID, event_id: EventID
    ) -> JsonObject:
        path = f"{_V1}/state_ids/{_quote(room_id)}"
        return await self._get(server, path, {"event_id": event_id}, is_whole_room=True)

    async def get_missing_events(
        self,
        server: ServerName,
        room_id: RoomID,
        *,
        earliest: Sequence[EventID],
        latest: Sequence[EventID],
        limit: int,
        min_depth: int = 0,
    ) -> JsonObject:
        return await request_json(
            self._client,
            "POST",
            server,
            f"{_V1}/get_missing_events/{_quote(room_id)}",
            content={
                "earliest_events": list(earliest),
                "latest_events": list(latest),
                "limit": limit,
                "min_depth": min_depth,
            },
        )

    async def backfill(
        self, server: ServerName, room_id: RoomID, before: Sequence[EventID], limit: int
    ) -> JsonObject:
        return await self._get(
            server,
            f"{_V1}/backfill/{_quote(room_id)}",
            {"v": list(before), "limit": str(limit)},
            max_bytes=_MAX_PAGE_BYTES,
        )

    async def timestamp_to_event(
        self, server: ServerName, room_id: RoomID, ts: int, direction: str
    ) -> JsonObject:
        path = f"{_V1}/timestamp_to_event/{_quote(room_id)}"
        return await self._get(server, path, {"ts": str(ts), "dir": direction})

    async def send_transaction(
        self, server: ServerName, txn_id: str, transaction: bytes, timeout_seconds: float
    ) -> JsonObject:
        """`transaction` is canonical JSON."""
        return await request_json(
            self._client,
            "PUT",
            server,
            f"{_V1}/send/{_quote(txn_id)}",
            content=transaction,
            timeout_seconds=timeout_seconds,
        )

    # Directory, profiles, spaces.

    async def query_directory(self, server: ServerName, alias: RoomAlias) -> JsonObject:
        return await self._get(server, f"{_V1}/query/directory", {"room_alias": alias})

    async def query_profile(
        self, server: ServerName, user_id: UserID, field: str | None = None
    ) -> JsonObject:
        query = {"user_id": user_id} | ({} if field is None else {"field": field})
        return await self._get(
            server, f"{_V1}/query/profile", query, max_bytes=_MAX_PROFILE_BYTES, seconds=20.0
        )

    async def get_public_rooms(self, server: ServerName, body: JsonObject) -> JsonObject:
        return await request_json(
            self._client,
            "POST",
            server,
            f"{_V1}/publicRooms",
            content=body,
            timeout_seconds=20.0,
            max_bytes=_MAX_LIST_BYTES,
        )

    async def get_hierarchy(
        self, server: ServerName, room_id: RoomID, *, suggested_only: bool
    ) -> JsonObject:
        return await self._get(
            server,
            f"{_V1}/hierarchy/{_quote(room_id)}",
            {"suggested_only": "true" if suggested_only else "false"},
            max_bytes=_MAX_LIST_BYTES,
            seconds=10.0,
        )

    # Devices and keys.

    async def get_user_devices(self, server: ServerName, user_id: UserID) -> JsonObject:
        return await self._get(server, f"{_V1}/user/devices/{_quote(user_id)}")

    async def query_user_keys(
        self, server: ServerName, device_keys: JsonObject, timeout_seconds: float
    ) -> JsonObject:
        return await request_json(
            self._client,
            "POST",
            server,
            f"{_V1}/user/keys/query",
            content={"device_keys": device_keys},
            timeout_seconds=timeout_seconds,
        )

    async def claim_user_keys(
        self, server: ServerName, one_time_keys: JsonObject, timeout_seconds: float
    ) -> JsonObject:
        return await request_json(
            self._client,
            "POST",
            server,
            f"{_V1}/user/keys/claim",
            content={"one_time_keys": one_time_keys},
            timeout_seconds=timeout_seconds,
        )

    # Media: answers as they came, with their headers.

    async def get_content(
        self, server: ServerName, media_id: str, *, timeout_ms: int, max_bytes: int
    ) -> Answer:
        """Return multipart/mixed."""
        return await self._client.fetch(
            server,
            f"{_V1}/media/download/{_quote(media_id)}",
            query={"timeout_ms": str(timeout_ms)},
            timeout_seconds=_MEDIA_SECONDS,
            max_bytes=max_bytes + _MULTIPART_BYTES,
        )

    async def get_content_of_old_server(
        self, server: ServerName, media_id: str, *, timeout_ms: int, max_bytes: int
    ) -> Answer:
        """Return the content, from a server that does not know `get_content`."""
        return await self._client.fetch(
            server,
            f"/_matrix/media/v3/download/{_quote(server)}/{_quote(media_id)}",
            query={"allow_remote": "false", "timeout_ms": str(timeout_ms)},
            timeout_seconds=_MEDIA_SECONDS,
            max_bytes=max_bytes,
            signed=False,
        )

    async def get_content_elsewhere(self, url: str, *, max_bytes: int) -> Answer:
        """Return the content from where a server says it is."""
        return await self._client.fetch_url(
            url, timeout_seconds=_MEDIA_SECONDS, max_bytes=max_bytes
        )

    async def _get(
        self,
        server: ServerName,
        path: str,
        query: Mapping[str, str | list[str]] | None = None,
        *,
        is_whole_room: bool = False,
        max_bytes: int = _MAX_PAGE_BYTES,
        seconds: float | None = None,
    ) -> JsonObject:
        return await request_json(
            self._client,
            "GET",
            server,
            path,
            query=query,
            max_bytes=_MAX_ROOM_BYTES if is_whole_room else max_bytes,
            timeout_seconds=_ROOM_SECONDS if is_whole_room else seconds,
        )

    async def _put(self, server: ServerName, path: str, content: JsonObject | bytes) -> JsonObject:
        return await request_json(self._client, "PUT", server, path, content=content)


def parse_v1_answer(body: bytes) -> JsonObject:
    """Return the object of an answer of the form [200, {…}]. Raises RequestFailed."""
    value = parse_json(body)
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], dict):  # noqa: PLR2004 - status, body
        raise RequestFailed("the answer is not a status and an object")
    return value[1]


def list_objects(value: JsonValue) -> list[JsonObject]:
    """Return the JSON objects of a list in an answer; anything else is left out."""
    if not isinstance(value, list):
        return []
    return [entry for entry in value if isinstance(entry, dict)]


def list_event_ids(value: JsonValue) -> list[EventID]:
    """Return the event ids of a list in an answer; anything else is left out."""
    if not isinstance(value, list):
        return []
    found = []
    for entry in value:
        try:
            found.append(parse_event_id(entry if isinstance(entry, str) else ""))
        except IdentifierInvalid:
            continue
    return found


def _quote(text: str) -> str:
    return quote(text, safe="")
