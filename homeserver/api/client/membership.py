"""Joining, leaving, inviting, kicking, banning, knocking.

spec: client-server-api/#room-membership, v1.19.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.requester import Requester
from homeserver.services.directory import Directory
from homeserver.services.forgotten_rooms import ForgottenRooms
from homeserver.services.membership import Membership
from homeserver.transport.endpoint import EMPTY, Auth, endpoint


@dataclass(frozen=True)
class Reason:
    reason: str | None = None


@dataclass(frozen=True)
class Target:
    user_id: UserID
    reason: str | None = None


class MembershipAPI:
    """Who is in a room."""

    def __init__(
        self, membership: Membership, directory: Directory, forgotten_rooms: ForgottenRooms
    ) -> None:
        self._membership = membership
        self._directory = directory
        self._forgotten_rooms = forgotten_rooms

    @endpoint(
        "joinRoom", "POST", "/_matrix/client/v3/join/{roomIdOrAlias}",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def join_room(
        self,
        requester: Requester,
        room_id_or_alias: str,
        body: Reason,
        *,
        via: list[str] | None = None,
        server_name: list[str] | None = None,
    ) -> JsonObject:
        """`server_name` is what older clients call `via`."""
        room_id, servers = await self._directory.resolve(room_id_or_alias)
        named = [*(via or server_name or ()), *servers]
        await self._membership.join(requester.user_id, room_id, reason=body.reason, via=named)
        return {"room_id": room_id}

    @endpoint(
        "joinRoomById", "POST", "/_matrix/client/v3/rooms/{roomId}/join",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def join_room_by_id(
        self, requester: Requester, room_id: RoomID, body: Reason
    ) -> JsonObject:
        await self._membership.join(requester.user_id, room_id, reason=body.reason)
        return {"room_id": room_id}

    @endpoint(
        "knockRoom", "POST", "/_matrix/client/v3/knock/{roomIdOrAlias}",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def knock_room(
        self,
        requester: Requester,
        room_id_or_alias: str,
        body: Reason,
        *,
        via: list[str] | None = None,
        server_name: list[str] | None = None,
    ) -> JsonObject:
        """`server_name` is what older clients call `via`."""
        room_id, servers = await self._directory.resolve(room_id_or_alias)
        named = [*(via or server_name or ()), *servers]
        await self._membership.knock(requester.user_id, room_id, reason=body.reason, via=named)
        return {"room_id": room_id}

    @endpoint(
        "leaveRoom", "POST", "/_matrix/client/v3/rooms/{roomId}/leave",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def leave_room(self, requester: Requester, room_id: RoomID, body: Reason) -> JsonObject:
        await self._membership.leave(requester.user_id, room_id, reason=body.reason)
        return EMPTY

    @endpoint(
        "forgetRoom", "POST", "/_matrix/client/v3/rooms/{roomId}/forget",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def forget_room(self, requester: Requester, room_id: RoomID) -> JsonObject:
        await self._forgotten_rooms.forget(requester.user_id, room_id)
        return EMPTY

    @endpoint(
        "inviteUser", "POST", "/_matrix/client/v3/rooms/{roomId}/invite",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def invite_user(self, requester: Requester, room_id: RoomID, body: Target) -> JsonObject:
        await self._act(self._membership.invite, requester, room_id, body)
        return EMPTY

    @endpoint("kick", "POST", "/_matrix/client/v3/rooms/{roomId}/kick", auth=Auth.CLIENT)
    async def kick(self, requester: Requester, room_id: RoomID, body: Target) -> JsonObject:
        await self._act(self._membership.kick, requester, room_id, body)
        return EMPTY

    @endpoint("ban", "POST", "/_matrix/client/v3/rooms/{roomId}/ban", auth=Auth.CLIENT)
    async def ban(self, requester: Requester, room_id: RoomID, body: Target) -> JsonObject:
        await self._act(self._membership.ban, requester, room_id, body)
        return EMPTY

    @endpoint("unban", "POST", "/_matrix/client/v3/rooms/{roomId}/unban", auth=Auth.CLIENT)
    async def unban(self, requester: Requester, room_id: RoomID, body: Target) -> JsonObject:
        await self._act(self._membership.unban, requester, room_id, body)
        return EMPTY

    async def _act(
        self,
        action: Callable[..., Awaitable[None]],
        requester: Requester,
        room_id: RoomID,
        body: Target,
    ) -> None:
        await action(requester.user_id, room_id, body.user_id, reason=body.reason)
