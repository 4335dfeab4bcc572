"""Joining, leaving, inviting, kicking, banning, knocking.

spec: client-server-api/#room-membership, v1.19. The rules themselves are in
`core/membership_auth.py`; here is what a person asks for.
"""

from homeserver.core.identifiers import RoomID, UserID, server_name_of
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.power_levels import PowerLevels
from homeserver.engine.event_author import EventAuthor
from homeserver.engine.live_rooms import MEMBER, LiveRoom, LiveRooms
from homeserver.engine.room_change import EventTemplate
from homeserver.engine.user_rooms import UserRooms
from homeserver.errors import BadRequest, Forbidden, NotFound
from homeserver.services.profiles import Profiles


class Membership:
    def __init__(
        self,
        author: EventAuthor,
        live_rooms: LiveRooms,
        user_rooms: UserRooms,
        profiles: Profiles,
    ) -> None:
        self._author = author
        self._live_rooms = live_rooms
        self._user_rooms = user_rooms
        self._profiles = profiles

    async def join(self, user_id: UserID, room_id: RoomID, *, reason: str | None = None) -> RoomID:
        """Join, by invitation, by an open door or by another room's membership.

        Raises NotFound for an unknown room, Forbidden.
        """
        room = await self._find_room(room_id)
        if room.membership_of(user_id) == "join":
            return room_id
        content = await self._content(user_id, "join", reason)
        authorizer = await self._find_authorizer(room, user_id)
        if authorizer is not None:
            content["join_authorised_via_users_server"] = authorizer
        await self._send(room_id, user_id, user_id, content)
        return room_id

    async def leave(self, user_id: UserID, room_id: RoomID, *, reason: str | None = None) -> None:
        """Leave, reject an invitation or take back a knock."""
        room = await self._find_room(room_id)
        membership = room.membership_of(user_id)
        if membership == "leave":
            return
        if membership is None:
            raise NotFound("You are not in this room")
        await self._send(room_id, user_id, user_id, _plain("leave", reason))

    async def knock(self, user_id: UserID, room_id: RoomID, *, reason: str | None = None) -> RoomID:
        await self._find_room(room_id)
        await self._send(room_id, user_id, user_id, await self._content(user_id, "knock", reason))
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
        await self._access_member(sender, room_id)
        content = await self._content(user_id, "invite", reason)
        if is_direct:
            content["is_direct"] = True
        await self._send(room_id, sender, user_id, content)

    async def kick(
        self, sender: UserID, room_id: RoomID, user_id: UserID, *, reason: str | None = None
    ) -> None:
        room = await self._access_member(sender, room_id)
        if room.membership_of(user_id) not in ("join", "invite", "knock"):
            raise Forbidden("The user is not in the room")
        await self._send(room_id, sender, user_id, _plain("leave", reason))

    async def ban(
        self, sender: UserID, room_id: RoomID, user_id: UserID, *, reason: str | None = None
    ) -> None:
        await self._access_member(sender, room_id)
        await self._send(room_id, sender, user_id, _plain("ban", reason))

    async def unban(
        self, sender: UserID, room_id: RoomID, user_id: UserID, *, reason: str | None = None
    ) -> None:
        room = await self._access_member(sender, room_id)
        if room.membership_of(user_id) != "ban":
            raise Forbidden("The user is not banned")
        await self._send(room_id, sender, user_id, _plain("leave", reason))

    async def forget(self, user_id: UserID, room_id: RoomID) -> None:
        room = await self._live_rooms.find(room_id)
        if room is None or room.membership_of(user_id) is None:
            raise NotFound("Unknown room")
        if room.membership_of(user_id) not in ("leave", "ban"):
            raise BadRequest("Leave the room before forgetting it", errcode="M_UNKNOWN")
        await self._user_rooms.forget(user_id, room_id, room.room_nid)

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

    async def _find_room(self, room_id: RoomID) -> LiveRoom:
        room = await self._live_rooms.find(room_id)
        if room is None:
            raise NotFound("This server does not know the room")
        return room

    async def _access_member(self, user_id: UserID, room_id: RoomID) -> LiveRoom:
        room = await self._live_rooms.find(room_id)
        if room is None or room.membership_of(user_id) != "join":
            raise Forbidden("You are not in this room")
        return room

    async def _content(self, user_id: UserID, membership: str, reason: str | None) -> JsonObject:
        content = _plain(membership, reason)
        content |= await self._profiles.get_member_fields(user_id)
        return content

    async def _find_authorizer(self, room: LiveRoom, user_id: UserID) -> UserID | None:
        """Return who vouches for a join by another room's membership.

        spec: rooms/v8/#authorization-rules. None when the join needs nobody, or nobody can.
        """
        rules = room.find_content("m.room.join_rules")
        is_restricted = rules.get("join_rule") in ("restricted", "knock_restricted")
        if (
            not is_restricted
            or not room.version.restricted_join
            or room.membership_of(user_id) == "invite"
        ):
            return None
        allowed = rules.get("allow")
        for entry in allowed if isinstance(allowed, list) else []:
            if not isinstance(entry, dict) or entry.get("type") != "m.room_membership":
                continue
            other_id = entry.get("room_id")
            other = (
                await self._live_rooms.find(RoomID(other_id)) if isinstance(other_id, str) else None
            )
            if other is not None and other.membership_of(user_id) == "join":
                return _strongest_inviter(room, room.power_levels, server_name_of(user_id))
        return None


def _strongest_inviter(room: LiveRoom, levels: PowerLevels, server: str | None) -> UserID | None:
    """Return a joined local user who may invite; the most powerful, so that he stays able to."""
    local = [
        member
        for member in room.joined
        if server_name_of(member) == server and levels.user_level(member) >= levels.invite
    ]
    return max(local, key=levels.user_level, default=None)


def _plain(membership: str, reason: str | None) -> JsonObject:
    content: dict[str, JsonValue] = {"membership": membership}
    if reason is not None:
        content["reason"] = reason
    return content
