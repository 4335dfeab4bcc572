"""Joining, leaving, inviting, kicking, banning, knocking.

spec: client-server-api/#room-membership, v1.19. The rules themselves are in
`core/membership_auth.py`; here is what a person asks for, by an operation of that name or by the
state event. Invariant: both ways do the same.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from homeserver.core.identifiers import (
    EventID,
    IdentifierInvalid,
    RoomID,
    UserID,
    parse_user_id,
    server_name_of,
)
from homeserver.core.json_types import JsonObject
from homeserver.engine.event_author import EventAuthor
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.room_change import EventTemplate
from homeserver.errors import Forbidden, NotFound
from homeserver.services.federation.remote_membership import RemoteMembership
from homeserver.services.invitees import Invitees
from homeserver.services.profiles import Profiles
from homeserver.services.restricted_joins import JoinCheck, RestrictedJoins

_AUTHORIZER = "join_authorised_via_users_server"
_WAITING = ("invite", "knock")
_REMOVABLE = ("join", *_WAITING)
_KNOCKABLE = ("knock", "knock_restricted")
_OTHERS_MAY_HELP = (JoinCheck.ALLOWED, JoinCheck.UNKNOWN)


class Membership:
    def __init__(
        self,
        author: EventAuthor,
        live_rooms: LiveRooms,
        profiles: Profiles,
        restricted: RestrictedJoins,
        remote: RemoteMembership,
        invitees: Invitees,
    ) -> None:
        self._author = author
        self._live_rooms = live_rooms
        self._profiles = profiles
        self._restricted = restricted
        self._remote = remote
        self._invitees = invitees

    async def set_state(self, room_id: RoomID, template: EventTemplate) -> EventID:
        """Do what a member event says, as the operation of its name does; return its id.

        Raises NotFound, Forbidden, BadJSON, ServersFailed, ServiceUnavailable.
        """
        sender, user_id = template.sender, UserID(template.state_key or "")
        # The room believes this server's signature that it has looked whether he may join.
        content = {key: value for key, value in template.content.items() if key != _AUTHORIZER}
        template = replace(template, content=content)
        membership = content.get("membership")
        if sender == user_id and membership in ("join", "knock", "leave"):
            sent = await self._set_own(room_id, template, str(membership))
            return sent or await self._find_event_id(room_id, user_id)
        if membership == "invite" and _is_user(user_id):
            return await self._invite(room_id, template)
        room = await self._access_member(sender, room_id, user_id)
        guard = _check_removable(room, user_id) if membership == "leave" else None
        return await self._author.send(room_id, template, guard)

    async def _set_own(
        self, room_id: RoomID, template: EventTemplate, membership: str
    ) -> EventID | None:
        if membership == "knock":
            return await self._knock(room_id, template)
        if membership == "leave":
            return await self._leave(room_id, template)
        room = await self._find_resident(template.sender, room_id)
        if room is not None and room.membership_of(template.sender) == "join":
            return await self._send(room_id, template)  # what he is called in the room, say
        return await self._join(room_id, template)

    async def join(
        self,
        user_id: UserID,
        room_id: RoomID,
        *,
        reason: str | None = None,
        via: Sequence[str] = (),
    ) -> None:
        """Join, by invitation, by an open door or by another room's membership.

        via  servers that are in the room, should this one not be
        Raises NotFound for an unknown room, Forbidden, ServersFailed.
        """
        room = await self._find_resident(user_id, room_id)
        if room is None or room.membership_of(user_id) != "join":
            await self._join(room_id, _template(user_id, user_id, "join", reason), via)

    async def _join(
        self, room_id: RoomID, template: EventTemplate, via: Sequence[str] = ()
    ) -> EventID | None:
        """Return the event's id; None: it is another server that has let the user in.

        One must where it alone knows how he stands to the room, or may vouch for him.
        """
        user_id = template.sender
        room = await self._find_resident(user_id, room_id)
        content = await self._with_profile(user_id, template.content)
        if room is not None and not room.is_partial:
            vouched = await self._restricted.check(room, user_id)
            if vouched.authorizer is not None:
                content[_AUTHORIZER] = vouched.authorizer
            needs_other = vouched.authorizer is None and vouched.outcome in _OTHERS_MAY_HELP
            if not needs_other or len(room.servers) == 1:
                return await self._send(room_id, replace(template, content=content))
            via = [*via, *room.servers]
        candidates = await self._remote.list_candidates(user_id, room_id, via)
        await self._remote.join(user_id, room_id, candidates, content)
        return None

    async def leave(self, user_id: UserID, room_id: RoomID, *, reason: str | None = None) -> None:
        """Leave, reject an invitation or take back a knock. Raises NotFound."""
        await self._leave(room_id, _template(user_id, user_id, "leave", reason))

    async def _leave(self, room_id: RoomID, template: EventTemplate) -> EventID | None:
        """Return the event's id; None: it is of before, or another server has taken it in."""
        user_id = template.sender
        room = await self._find_resident(user_id, room_id)
        if room is not None and room.membership_of(user_id) in _WAITING:
            await self._remote.wait_for_member(room_id, user_id)
            room = await self._find_resident(user_id, room_id)
        if room is None:
            await self._leave_outside(user_id, room_id, template.content)
            return None
        membership = room.membership_of(user_id)
        if membership is None:
            raise NotFound("You are not in this room")
        return None if membership == "leave" else await self._send(room_id, template)

    async def _leave_outside(self, user_id: UserID, room_id: RoomID, content: JsonObject) -> None:
        """End an invitation to a room that this server is not in, or a knock on it."""
        room = await self._live_rooms.find(room_id)
        if room is not None and room.membership_of(user_id) == "leave":
            return
        candidates = await self._remote.list_candidates(user_id, room_id, [])
        await self._remote.leave(user_id, room_id, candidates, content)

    async def knock(
        self,
        user_id: UserID,
        room_id: RoomID,
        *,
        reason: str | None = None,
        via: Sequence[str] = (),
    ) -> None:
        """Raises as `join`, and ServiceUnavailable."""
        await self._knock(room_id, _template(user_id, user_id, "knock", reason), via)

    async def _knock(
        self, room_id: RoomID, template: EventTemplate, via: Sequence[str] = ()
    ) -> EventID | None:
        """Return the event's id; None: another server has taken it in."""
        user_id = template.sender
        room = await self._find_resident(user_id, room_id)
        content = await self._with_profile(user_id, template.content)
        if room is None:
            candidates = await self._remote.list_candidates(user_id, room_id, via)
            await self._remote.knock(user_id, room_id, candidates, content)
            return None
        if room.find_content("m.room.join_rules").get("join_rule") in _KNOCKABLE:
            await self._remote.wait_for_member(room_id, user_id)
        return await self._send(room_id, replace(template, content=content))

    async def invite(
        self,
        sender: UserID,
        room_id: RoomID,
        user_id: UserID,
        *,
        reason: str | None = None,
        is_direct: bool = False,
    ) -> None:
        """Raises Forbidden, also for a user of this server who does not want to be invited;
        ServersFailed, and what the server of the user says.
        """
        more: JsonObject = {"is_direct": True} if is_direct else {}
        await self._invite(room_id, _template(sender, user_id, "invite", reason, more))

    async def _invite(self, room_id: RoomID, template: EventTemplate) -> EventID:
        sender, user_id = template.sender, UserID(template.state_key or "")
        room = await self._access_member(sender, room_id, user_id)
        if self._remote.is_remote(user_id):
            for known in await self._live_rooms.list_member_events(room, [user_id]):
                if known.sender == sender and known.content == template.content:
                    return known.event_id  # nobody is asked twice to sign the same
            return await self._remote.invite(room, sender, user_id, template.content)
        await self._invitees.check_willing([user_id])
        content = await self._with_profile(user_id, template.content)
        return await self._send(room_id, replace(template, content=content))

    async def kick(
        self, sender: UserID, room_id: RoomID, user_id: UserID, *, reason: str | None = None
    ) -> None:
        room = await self._access_member(sender, room_id, user_id)
        if room.membership_of(user_id) not in _REMOVABLE:
            raise Forbidden("The user is not in the room")
        await self._send(room_id, _template(sender, user_id, "leave", reason))

    async def ban(
        self, sender: UserID, room_id: RoomID, user_id: UserID, *, reason: str | None = None
    ) -> None:
        await self._access_member(sender, room_id, user_id)
        await self._send(room_id, _template(sender, user_id, "ban", reason))

    async def unban(
        self, sender: UserID, room_id: RoomID, user_id: UserID, *, reason: str | None = None
    ) -> None:
        room = await self._access_member(sender, room_id, user_id)
        if room.membership_of(user_id) != "ban":
            raise Forbidden("The user is not banned", errcode="M_BAD_STATE")
        await self._send(room_id, _template(sender, user_id, "leave", reason))

    async def _send(self, room_id: RoomID, template: EventTemplate) -> EventID:
        return await self._author.send(room_id, template)

    async def _find_event_id(self, room_id: RoomID, user_id: UserID) -> EventID:
        """Return the id of the event by which a local user is what he is. Raises NotFound."""
        outside = await self._remote.find_outside(user_id, room_id)
        if outside is not None:
            return outside
        room = await self._live_rooms.find(room_id)
        found = [] if room is None else await self._live_rooms.list_member_events(room, [user_id])
        if not found:
            raise NotFound("You are not in this room any more")
        return found[0].event_id

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

    async def _with_profile(self, user_id: UserID, content: JsonObject) -> JsonObject:
        return {**await self._profiles.get_member_fields(user_id), **content}


def _template(
    sender: UserID,
    user_id: UserID,
    membership: str,
    reason: str | None,
    more: JsonObject | None = None,
) -> EventTemplate:
    content: JsonObject = {"membership": membership, **(more or {})}
    if reason is not None:
        content["reason"] = reason
    return EventTemplate(MEMBER, sender, content, state_key=user_id, skip_if_unchanged=True)


@asynccontextmanager
async def _check_removable(room: LiveRoom, user_id: UserID) -> AsyncIterator[None]:
    """Raises Forbidden, but not for what has been sent already."""
    if room.membership_of(user_id) not in (*_REMOVABLE, "ban"):
        raise Forbidden("The user is not in the room")
    yield


def _is_user(name: str) -> bool:
    try:
        parse_user_id(name)
    except IdentifierInvalid:
        return False
    return True
