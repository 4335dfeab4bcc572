"""Memberships that users of other servers take up in rooms of ours: templates and what comes back.

spec: server-server-api/#joining-rooms, #knocking-upon-a-room, #leaving-rooms-rejecting-invites,
v1.19. Invariant: what is taken in has passed every check that any other event of another server
passes.
"""

from dataclasses import dataclass

from homeserver.core.auth_events import auth_types_of
from homeserver.core.event_auth import check_event_auth
from homeserver.core.events import MAX_PREV_EVENTS, Event, make_event, reference_hash
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import RoomVersion
from homeserver.engine.dictionary import Slot
from homeserver.engine.event_placing import Outcome
from homeserver.engine.inbound_events import InboundEvents
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.own_server import OwnServer
from homeserver.engine.remote_server import RemoteServer
from homeserver.errors import Forbidden, NotFound

_CREATE = ("m.room.create", "")


@dataclass(frozen=True, slots=True)
class MembershipTemplate:
    version: RoomVersion
    pdu: JsonObject
    """Without hashes, signatures and event id: those are for who signs it to add."""


class ResidentRoom:
    def __init__(self, own: OwnServer, live_rooms: LiveRooms, inbound: InboundEvents) -> None:
        self._own = own
        self._live_rooms = live_rooms
        self._inbound = inbound

    def sign(self, event: Event) -> Event:
        """Return the event with this server's signature as well, see `OwnServer.sign`."""
        return self._own.sign(event)

    async def prepare_membership(
        self,
        room_id: RoomID,
        user_id: UserID,
        membership: str,
        content: JsonObject | None = None,
    ) -> MembershipTemplate:
        """Return an event that a user of another server could sign now.

        content  is added to the membership: who authorizes a restricted join, say
        Raises NotFound for an unknown room; EventRejected when the room does not allow it.
        """
        said: JsonObject = {**(content or {}), "membership": membership}
        event = await self.make_membership(room_id, user_id, user_id, said)
        added = ("hashes", "signatures", "event_id")
        return MembershipTemplate(
            event.room_version, {key: event.pdu[key] for key in event.pdu if key not in added}
        )

    async def make_membership(
        self, room_id: RoomID, sender: UserID, user_id: UserID, content: JsonObject
    ) -> Event:
        """Return a membership event that the room allows now, signed by this server.

        It is not in the room yet: another server is asked for its signature first.
        Raises NotFound for an unknown room; EventRejected when the room does not allow it.
        """
        room = await self._live_rooms.find(room_id)
        if room is None or not room.tips:
            raise NotFound("Unknown room")
        wanted = auth_types_of(room.version, MEMBER, sender, user_id, content)
        auth = await self._load(room, wanted)
        cited = [auth[slot].event_id for slot in wanted if slot in auth]
        tips = room.tips[-MAX_PREV_EVENTS:]
        hashes = {tip.event_id: tip.reference_hash for tip in tips if tip.reference_hash}
        if hashes:
            hashes |= {event.event_id: reference_hash(event) for event in auth.values()}
        event = make_event(
            room.version,
            room_id=room_id,
            type=MEMBER,
            sender=sender,
            state_key=user_id,
            content=content,
            depth=min(max(tip.depth for tip in tips) + 1, room.version.max_depth),
            origin_server_ts=self._own.clock.now_ms(),
            prev_events=[tip.event_id for tip in tips],
            auth_events=cited,
            server_name=self._own.name,
            signing_key=self._own.signing_key,
            reference_hashes=hashes,
        )
        check_event_auth(event, auth)
        return event

    async def _load(self, room: LiveRoom, wanted: list[Slot]) -> dict[Slot, Event]:
        members = [UserID(key) for event_type, key in wanted if event_type == MEMBER]
        found = await self._live_rooms.list_member_events(room, members)
        auth = {(MEMBER, each.event.state_key or ""): each.event for each in found}
        for slot in (*wanted, _CREATE):
            state = None if slot[0] == MEMBER else room.find_state(*slot)
            if state is not None:
                auth[slot] = state.event
        return auth

    async def take_in(self, source: RemoteServer, room_id: RoomID, pdu: JsonObject) -> Outcome:
        """Take in a membership that a user of another server has signed.

        Raises Forbidden unless it is let in, and what `InboundEvents.receive` raises.
        """
        outcome = await self._inbound.receive(source, room_id, pdu)
        if outcome not in (Outcome.ACCEPTED, Outcome.KNOWN):
            raise Forbidden("The room does not allow this")
        return outcome
