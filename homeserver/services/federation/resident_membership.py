"""Memberships of other servers' users in rooms of ours, and invitations of our users to theirs.

spec: server-server-api/#joining-rooms, #restricted-rooms, #knocking-upon-a-room,
#inviting-to-a-room, #leaving-rooms-rejecting-invites, v1.19. Invariants: a server takes up
memberships of its own users alone; this server puts its name to nothing but a membership that its
own checks have found to be what the operation is for.
"""

from collections import OrderedDict
from collections.abc import Sequence

from homeserver.core.errors import EventMalformed, EventRejected, JsonInvalid, SignatureInvalid
from homeserver.core.events import Event, parse_event
from homeserver.core.identifiers import EventID, RoomID, ServerName, UserID, server_name_of
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.engine.event_placing import Outcome
from homeserver.engine.inbound_events import CannotDecide
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.remote_rooms import RemoteRooms
from homeserver.errors import BadRequest, Forbidden, InvalidParam, NotFound
from homeserver.services.federation.remote_membership import shown_state
from homeserver.services.federation.remote_servers import RemoteServers
from homeserver.services.federation.room_guard import RoomGuard
from homeserver.services.federation.sender import FederationSender
from homeserver.services.invitees import Invitees
from homeserver.services.restricted_joins import JoinCheck, RestrictedJoins

_MEMBER = "m.room.member"
_AUTHORIZER = "join_authorised_via_users_server"
_MAX_SHOWN = 100
_MAX_RELAYED = 10_000
"""Events of which it is remembered that the other servers were told, should they be sent again."""


class ResidentMembership:
    def __init__(
        self,
        server_name: ServerName,
        rooms: RemoteRooms,
        servers: RemoteServers,
        guard: RoomGuard,
        restricted: RestrictedJoins,
        invitees: Invitees,
        sender: FederationSender,
    ) -> None:
        self._server_name = server_name
        self._sender = sender
        self._rooms = rooms
        self._servers = servers
        self._guard = guard
        self._restricted = restricted
        self._invitees = invitees
        self._relayed: OrderedDict[EventID, None] = OrderedDict()

    # Templates.

    async def make_join(
        self, origin: ServerName, room_id: RoomID, user_id: UserID, versions: Sequence[str]
    ) -> JsonObject:
        room = await self._access(origin, room_id, user_id)
        _check_version(room, versions)
        return await self._make(room, user_id, "join", await self._authorizing(room, user_id))

    async def make_knock(
        self, origin: ServerName, room_id: RoomID, user_id: UserID, versions: Sequence[str]
    ) -> JsonObject:
        room = await self._access(origin, room_id, user_id)
        _check_version(room, versions)
        return await self._make(room, user_id, "knock", {})

    async def make_leave(self, origin: ServerName, room_id: RoomID, user_id: UserID) -> JsonObject:
        room = await self._access(origin, room_id, user_id)
        return await self._make(room, user_id, "leave", {})

    async def _access(self, origin: ServerName, room_id: RoomID, user_id: UserID) -> LiveRoom:
        if server_name_of(user_id) != origin:
            raise Forbidden("The user is not of your server")
        return await self._access_resident(origin, room_id)

    async def _access_resident(self, origin: ServerName, room_id: RoomID) -> LiveRoom:
        room = await self._guard.access_room(origin, room_id)
        if self._server_name not in room.servers or room.is_partial:
            raise NotFound("This server is not in the room")
        return room

    async def _make(
        self, room: LiveRoom, user_id: UserID, membership: str, content: JsonObject
    ) -> JsonObject:
        try:
            template = await self._rooms.resident.prepare_membership(
                room.room_id, user_id, membership, content
            )
        except EventRejected as error:
            raise Forbidden(error.reason) from error
        # The specification wants `origin` here; in no room version does it mean anything.
        event: JsonObject = {**template.pdu, "origin": self._server_name}
        return {"room_version": template.version.id, "event": event}

    async def _authorizing(self, room: LiveRoom, user_id: UserID) -> JsonObject:
        """Return what a restricted room wants of a join. Raises as the specification says."""
        found = await self._restricted.check(room, user_id)
        if found.outcome is JoinCheck.NOT_NEEDED:
            return {}
        if found.outcome is JoinCheck.NOT_ALLOWED:
            raise Forbidden("The user is in none of the rooms whose members may join")
        if found.outcome is JoinCheck.UNKNOWN:
            raise BadRequest(
                "This server does not know who is in the rooms whose members may join",
                errcode="M_UNABLE_TO_AUTHORISE_JOIN",
            )
        if found.authorizer is None:
            raise BadRequest(
                "Nobody of this server may vouch for a join", errcode="M_UNABLE_TO_GRANT_JOIN"
            )
        return {_AUTHORIZER: found.authorizer}

    # What was made of them.

    async def send_join(
        self, origin: ServerName, room_id: RoomID, event_id: EventID, pdu: JsonObject
    ) -> tuple[Event, Sequence[str]]:
        """Take in a join; return it signed, and the servers that were in the room."""
        room = await self._access_resident(origin, room_id)
        join = _parse(room.version, pdu, origin, room_id, event_id, "join")
        authorizer = join.content.get(_AUTHORIZER)
        if isinstance(authorizer, str) and server_name_of(authorizer) == self._server_name:
            await self._authorizing(room, join.sender)  # only who may join now is vouched for
            try:
                join = self._rooms.resident.sign(join)
            except (EventMalformed, JsonInvalid) as error:
                raise InvalidParam(str(error)) from error
        servers = list(room.servers)
        await self._take_in(origin, room_id, join)
        return join, servers

    async def send_knock(
        self, origin: ServerName, room_id: RoomID, event_id: EventID, pdu: JsonObject
    ) -> list[JsonValue]:
        """Take in a knock; return what its user is shown of the room."""
        room = await self._access_resident(origin, room_id)
        await self._take_in(
            origin, room_id, _parse(room.version, pdu, origin, room_id, event_id, "knock")
        )
        return shown_state(room)

    async def send_leave(
        self, origin: ServerName, room_id: RoomID, event_id: EventID, pdu: JsonObject
    ) -> None:
        room = await self._access_resident(origin, room_id)
        await self._take_in(
            origin, room_id, _parse(room.version, pdu, origin, room_id, event_id, "leave")
        )

    async def _take_in(self, origin: ServerName, room_id: RoomID, event: Event) -> None:
        try:
            outcome = await self._rooms.resident.take_in(
                self._servers.get(origin), room_id, event.pdu
            )
        except SignatureInvalid as error:
            raise Forbidden(str(error)) from error
        except EventMalformed as error:
            raise InvalidParam(str(error)) from error
        except CannotDecide as error:
            raise BadRequest(f"What the event builds on is not known here: {error}") from error
        room = await self._guard.access_room(origin, room_id)
        node = (await self._rooms.graph.load(room, [event.event_id]))[event.event_id]
        if node.is_hidden:  # it was refused before, and is not let in by being sent again
            raise Forbidden("The room does not allow this")
        if outcome is Outcome.KNOWN and event.event_id in self._relayed:
            return
        await self._sender.relay(origin, room_id, node.event, node.event_nid)
        self._relayed[event.event_id] = None
        while len(self._relayed) > _MAX_RELAYED:
            self._relayed.popitem(last=False)

    # Invitations of users of ours.

    async def receive_invite(
        self,
        origin: ServerName,
        room_id: RoomID,
        event_id: EventID,
        room_version: str,
        pdu: JsonObject,
        state: Sequence[JsonObject],
    ) -> JsonObject:
        """Show a local user an invitation; return the event with this server's signature.

        1. The server is allowed to.   2. It is an invitation, by its user, of one of ours.
        3. Who is invited has an account, and wants it.   4. The room is what the invitation says.
        """
        known = await self._rooms.out_of_band.is_resident(room_id)
        room = await self._guard.access_room(origin, room_id) if known else None  # 1
        version = ROOM_VERSIONS.get(room_version)
        if version is None or (room is not None and version is not room.version):
            raise BadRequest(
                f"This server does not know the room in version {room_version[:100]}",
                errcode="M_INCOMPATIBLE_ROOM_VERSION",
            )
        try:
            invite = await self._rooms.out_of_band.check(version, room_id, pdu)
        except SignatureInvalid as error:
            raise Forbidden(str(error)) from error
        except (EventMalformed, JsonInvalid) as error:
            raise InvalidParam(str(error)) from error
        if (  # 2
            invite.type != _MEMBER
            or invite.membership != "invite"
            or invite.event_id != event_id
            or server_name_of(invite.sender) != origin
            or server_name_of(invite.state_key or "") != self._server_name
        ):
            raise InvalidParam("This is no invitation, by a user of your server, of one of ours")
        await self._invitees.check_account(UserID(invite.state_key or ""))  # 3
        await self._check_shown(version, room_id, state)  # 4
        try:
            signed = self._rooms.resident.sign(invite)
        except (EventMalformed, JsonInvalid) as error:
            raise InvalidParam(str(error)) from error
        if not known:
            await self._rooms.out_of_band.take_in_invite(room_id, version, signed, state)
        return signed.pdu

    async def _check_shown(
        self, version: RoomVersion, room_id: RoomID, state: Sequence[JsonObject]
    ) -> None:
        """Refuse an invitation to a room that is not what is shown of it.

        Older versions: much software in use shows events without signatures there.
        """
        if not version.room_id_is_create_hash:
            return
        if len(state) > _MAX_SHOWN:  # each may be by another server, whose keys are asked for
            raise InvalidParam(f"invite_room_state has at most {_MAX_SHOWN} events")
        has_create = False
        for pdu in state:
            try:
                event = await self._rooms.out_of_band.check(version, room_id, pdu)
            except (EventMalformed, SignatureInvalid, JsonInvalid) as error:
                raise InvalidParam(f"invite_room_state: {error}") from error
            has_create = has_create or (event.type, event.state_key) == ("m.room.create", "")
        if not has_create:
            raise InvalidParam("invite_room_state has no m.room.create", errcode="M_MISSING_PARAM")


def _check_version(room: LiveRoom, versions: Sequence[str]) -> None:
    if room.version.id not in (versions or ("1",)):
        raise BadRequest(
            f"Your server does not know room version {room.version.id}",
            errcode="M_INCOMPATIBLE_ROOM_VERSION",
            extra={"room_version": room.version.id},
        )


def _parse(
    version: RoomVersion,
    pdu: JsonObject,
    origin: ServerName,
    room_id: RoomID,
    event_id: EventID,
    membership: str,
) -> Event:
    """Return the event if it is what the operation is for. Raises InvalidParam, Forbidden."""
    try:
        event = parse_event(version, pdu)
    except (EventMalformed, JsonInvalid) as error:
        raise InvalidParam(str(error)) from error
    if event.type != _MEMBER or event.membership != membership or event.room_id != room_id:
        raise InvalidParam(f"This is no event of membership {membership} of this room")
    if event.event_id != event_id:
        raise InvalidParam("The event has another id than the request says")
    if event.sender != event.state_key:
        raise InvalidParam("Users take up such a membership themselves")
    if server_name_of(event.sender) != origin:
        raise Forbidden("The user is not of your server")
    return event
