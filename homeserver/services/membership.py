"""Joining, leaving, inviting, kicking, banning, knocking.

spec: client-server-api/#room-membership, v1.19. The rules themselves are in
`core/membership_auth.py`; here is what a person asks for.
"""

from collections.abc import Sequence

from homeserver.core.identifiers import RoomID, UserID, server_name_of
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.engine.event_author import EventAuthor
from homeserver.engine.live_rooms import MEMBER, LiveRoom, LiveRooms
from homeserver.engine.room_change import EventTemplate
from homeserver.engine.user_rooms import UserRooms
from homeserver.errors import BadRequest, Forbidden, NotFound
from homeserver.services.federation.remote_membership import RemoteMembership
from homeserver.services.profiles import Profiles
from homeserver.services.restricted_joins import JoinCheck, RestrictedJoins


class Membership:
    def __init__(
        self,
        author: EventAuthor,
        live_rooms: LiveRooms,
        user_rooms: UserRooms,
        profiles: Profiles,
        restricted: RestrictedJoins,
        remote: RemoteMembership,
    ) -> None:
        self._author = author
        self._live_rooms = live_rooms
        self._user_rooms = user_rooms
        self._profiles = profiles
        self._restricted = restricted
        self._remote = remote

    async def join(
        self,
        user_id: UserID,
        room_id: RoomID,
        *,
        reason: str | None = None,
        via: Sequence[str] = (),
    ) -> RoomID:
        """Join, by invitation, by an open door or by another room's membership.

        via  servers that are in the room, should this one not be
        Raises NotFound for an unknown room, Forbidden, ServersFailed.
        """
        room = await self._find_resident(user_id, room_id)
        content = await self._content(user_id, "join", reason)
        if room is None:
            candidates = await self._remote.list_candidates(user_id, room_id, via)
            await self._remote.join(user_id, room_id, candidates, content)
            return room_id
        if room.membership_of(user_id) == "join":
            return room_id
        if room.is_partial:  # a server that knows the user's membership must agree
            others = await self._remote.list_candidates(user_id, room_id, via)
            await self._remote.join(user_id, room_id, others, content)
            return room_id
        vouched = await self._restricted.check(room, user_id)
        if vouched.authorizer is not None:
            content["join_authorised_via_users_server"] = vouched.authorizer
        elif vouched.outcome in (JoinCheck.ALLOWED, JoinCheck.UNKNOWN) and len(room.servers) > 1:
            others = await self._remote.list_candidates(user_id, room_id, [*via, *room.servers])
            await self._remote.join(user_id, room_id, others, content)
            return room_id
        await self._send(room_id, user_id, user_id, content)
        return room_id

    async def leave(self, user_id: UserID, room_id: RoomID, *, reason: str | None = None) -> None:
        """Leave, reject an invitation or take back a knock."""
        await self._remote.wait_for_member(room_id, user_id)
        room = await self._find_resident(user_id, room_id)
        if room is None:
            await self._leave_outside(user_id, room_id, reason)
            return
        membership = room.membership_of(user_id)
        if membership == "leave":
            return
        if membership is None:
            raise NotFound("You are not in this room")
        await self._send(room_id, user_id, user_id, _plain("leave", reason))

    async def _leave_outside(self, user_id: UserID, room_id: RoomID, reason: str | None) -> None:
        """End an invitation to a room that this server is not in, or a knock on it."""
        room = await self._live_rooms.find(room_id)
        if room is not None and room.membership_of(user_id) == "leave":
            return
        candidates = await self._remote.list_candidates(user_id, room_id, [])
        await self._remote.leave(user_id, room_id, candidates, _plain("leave", reason))

    async def knock(
        self,
        user_id: UserID,
        room_id: RoomID,
        *,
        reason: str | None = None,
        via: Sequence[str] = (),
    ) -> RoomID:
        """Raises as `join`, and ServiceUnavailable."""
        await self._remote.wait_for_member(room_id, user_id)
        room = await self._find_resident(user_id, room_id)
        content = await self._content(user_id, "knock", reason)
        if room is None:
            candidates = await self._remote.list_candidates(user_id, room_id, via)
            await self._remote.knock(user_id, room_id, candidates, content)
        else:
            await self._send(room_id, user_id, user_id, content)
        return room_id

    async def invite(
        self,
        sender: UserID,
        room_id: RoomID,
        user_id: UserID,
        *,
        reason: str | None = None,
        is_direct: bool = False,
    ) -> None:
        room = await self._access_member(sender, room_id, user_id)
        content = await self._content(user_id, "invite", reason)
        if is_direct:
            content["is_direct"] = True
        if self._remote.is_remote(user_id):
            await self._remote.invite(room, sender, user_id, content)
        else:
            await self._send(room_id, sender, user_id, content)

    async def kick(
        self, sender: UserID, room_id: RoomID, user_id: UserID, *, reason: str | None = None
    ) -> None:
        room = await self._access_member(sender, room_id, user_id)
        if room.membership_of(user_id) not in ("join", "invite", "knock"):
            raise Forbidden("The user is not in the room")
        await self._send(room_id, sender, user_id, _plain("leave", reason))

    async def ban(
        self, sender: UserID, room_id: RoomID, user_id: UserID, *, reason: str | None = None
    ) -> None:
        await self._access_member(sender, room_id, user_id)
        await self._send(room_id, sender, user_id, _plain("ban", reason))

    async def unban(
        self, sender: UserID, room_id: RoomID, user_id: UserID, *, reason: str | None = None
    ) -> None:
        room = await self._access_member(sender, room_id, user_id)
        if room.membership_of(user_id) != "ban":
            raise Forbidden("The user is not banned", errcode="M_BAD_STATE")
        await self._send(room_id, sender, user_id, _plain("leave", reason))

    async def forget(self, user_id: UserID, room_id: RoomID) -> None:
        room = await self._live_rooms.find(room_id)
        if room is None or room.membership_of(user_id) is None:
            raise NotFound("Unknown room")
        if room.membership_of(user_id) not in ("leave", "ban"):
            raise BadRequest("Leave the room before forgetting it", errcode="M_UNKNOWN")
        await self._user_rooms.forget(user_id, room)

    async def _send(
        self, room_id: RoomID, sender: UserID, user_id: UserID, content: JsonObject
    ) -> None:
        await self._author.send_all(
            room_id,
            [
                EventTemplate(
                    type=MEMBER,
                    sender=sender,
                    state_key=user_id,
                    content=content,
                    skip_if_unchanged=True,
                )
            ],
        )

    async def _find_resident(self, user_id: UserID, room_id: RoomID) -> LiveRoom | None:
        """Return the room if this server is in it, so that its state here is the present one."""
        room = await self._live_rooms.find(room_id)
        own = server_name_of(user_id)
        return room if room is not None and own in room.servers else None

    async def _access_member(self, user_id: UserID, room_id: RoomID, about: UserID) -> LiveRoom:
        """Return the room when it is known what `about` is in it. Raises ServiceUnavailable."""
        await self._check_joined(user_id, room_id)
        await self._remote.wait_for_member(room_id, about)
        return await self._check_joined(user_id, room_id)

    async def _check_joined(self, user_id: UserID, room_id: RoomID) -> LiveRoom:
        room = await self._live_rooms.find(room_id)
        if room is None or room.membership_of(user_id) != "join":
            raise Forbidden("You are not in this room")
        return room

    async def _content(self, user_id: UserID, membership: str, reason: str | None) -> JsonObject:
        content = _plain(membership, reason)
        if not self._remote.is_remote(user_id):
            content |= await self._profiles.get_member_fields(user_id)
        return content


def _plain(membership: str, reason: str | None) -> JsonObject:
    content: dict[str, JsonValue] = {"membership": membership}
    if reason is not None:
        content["reason"] = reason
    return content
