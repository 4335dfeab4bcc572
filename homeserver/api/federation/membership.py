"""Memberships of other servers' users here, and invitations of ours.

spec: server-server-api/#joining-rooms, #knocking-upon-a-room, #inviting-to-a-room,
#leaving-rooms-rejecting-invites, v1.19.
"""

from dataclasses import dataclass, field

import orjson

from homeserver.core.identifiers import EventID, RoomID, ServerName, UserID
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.errors import InvalidParam
from homeserver.services.federation.answered_joins import AnsweredJoins
from homeserver.services.federation.resident_membership import ResidentMembership
from homeserver.transport.endpoint import EMPTY, Auth, RawJSON, endpoint

_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"


@dataclass(frozen=True)
class Invite:
    room_version: str
    event: JsonObject
    invite_room_state: list[JsonObject] = field(default_factory=list)


class FederationMembershipAPI:
    def __init__(self, membership: ResidentMembership, joins: AnsweredJoins) -> None:
        self._membership = membership
        self._joins = joins

    @endpoint("makeJoin", "GET", f"{_V1}/make_join/{{roomId}}/{{userId}}", auth=Auth.FEDERATION)
    async def make_join(
        self, origin: ServerName, room_id: RoomID, user_id: UserID, *, ver: list[str] | None = None
    ) -> JsonObject:
        return await self._membership.make_join(origin, room_id, user_id, ver or ())

    @endpoint("sendJoinV2", "PUT", f"{_V2}/send_join/{{roomId}}/{{eventId}}", auth=Auth.FEDERATION)
    async def send_join(
        self,
        origin: ServerName,
        room_id: RoomID,
        event_id: EventID,
        body: JsonObject,
        *,
        omit_members: bool = False,
    ) -> RawJSON:
        answer = await self._joins.send_join(
            origin, room_id, event_id, body, omit_members=omit_members
        )
        return RawJSON(answer)

    @endpoint("makeKnock", "GET", f"{_V1}/make_knock/{{roomId}}/{{userId}}", auth=Auth.FEDERATION)
    async def make_knock(
        self, origin: ServerName, room_id: RoomID, user_id: UserID, *, ver: list[str]
    ) -> JsonObject:
        return await self._membership.make_knock(origin, room_id, user_id, ver)

    @endpoint("sendKnock", "PUT", f"{_V1}/send_knock/{{roomId}}/{{eventId}}", auth=Auth.FEDERATION)
    async def send_knock(
        self, origin: ServerName, room_id: RoomID, event_id: EventID, body: JsonObject
    ) -> JsonObject:
        shown = await self._membership.send_knock(origin, room_id, event_id, body)
        return {"knock_room_state": shown}

    @endpoint("makeLeave", "GET", f"{_V1}/make_leave/{{roomId}}/{{userId}}", auth=Auth.FEDERATION)
    async def make_leave(self, origin: ServerName, room_id: RoomID, user_id: UserID) -> JsonObject:
        return await self._membership.make_leave(origin, room_id, user_id)

    @endpoint(
        "sendLeaveV2", "PUT", f"{_V2}/send_leave/{{roomId}}/{{eventId}}", auth=Auth.FEDERATION
    )
    async def send_leave(
        self, origin: ServerName, room_id: RoomID, event_id: EventID, body: JsonObject
    ) -> JsonObject:
        await self._membership.send_leave(origin, room_id, event_id, body)
        return EMPTY

    @endpoint("sendInviteV2", "PUT", f"{_V2}/invite/{{roomId}}/{{eventId}}", auth=Auth.FEDERATION)
    async def send_invite_v2(
        self, origin: ServerName, room_id: RoomID, event_id: EventID, body: Invite
    ) -> JsonObject:
        signed = await self._membership.receive_invite(
            origin, room_id, event_id, body.room_version, body.event, body.invite_room_state
        )
        return {"event": signed}

    @endpoint("sendInviteV1", "PUT", f"{_V1}/invite/{{roomId}}/{{eventId}}", auth=Auth.FEDERATION)
    async def send_invite_v1(
        self, origin: ServerName, room_id: RoomID, event_id: EventID, body: JsonObject
    ) -> RawJSON:
        """Rooms of versions 1 and 2 alone, whose events look the same, are invited to so."""
        unsigned = body.get("unsigned")
        state = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
        event: JsonObject = {key: body[key] for key in body if key != "unsigned"}
        signed = await self._membership.receive_invite(
            origin, room_id, event_id, "1", event, _objects(state)
        )
        return RawJSON(orjson.dumps([200, {"event": signed}]))


def _objects(value: JsonValue) -> list[JsonObject]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InvalidParam("invite_room_state is a list of events")
    return [entry for entry in value if isinstance(entry, dict)]
