"""Memberships in rooms that this server is not in: invitations, knocks, and what ends them.

spec: server-server-api/#inviting-to-a-room, #knocking-upon-a-room,
#leaving-rooms-rejecting-invites, v1.19. Nobody here can check such an event against the room: all
that is known is who signed it. Invariants: it changes what one local user is told, and nothing
else; it is not among the events of the room, and so authorizes none of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from homeserver.core.canonical_json import encode_json
from homeserver.core.errors import JsonInvalid
from homeserver.core.events import MAX_PDU_BYTES, Event, make_event, restore_event
from homeserver.core.identifiers import (
    RoomID,
    ServerName,
    UserID,
    parse_user_id,
    server_name_of,
)
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.engine.commit_loop import CommitLoop, Committed
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.members import next_member
from homeserver.engine.own_server import OwnServer
from homeserver.engine.pdu_checks import PDUChecks
from homeserver.engine.room_change import RoomChange, RoomChanges
from homeserver.engine.room_entrance import RoomEntrance
from homeserver.engine.timeline_event import TimelineEvent, stripped_fields
from homeserver.errors import Forbidden, NotFound
from homeserver.storage import out_of_band
from homeserver.storage.database import Database
from homeserver.storage.events import decode_event_id, encode_event_id
from homeserver.storage.memberships import NUMBERS, NewMembership
from homeserver.storage.out_of_band import MovedOutOfBand, NewOutOfBand

_MAX_STRIPPED = 200
_MAX_STRIPPED_BYTES = 4 * MAX_PDU_BYTES
_WAITING = ("invite", "knock")


@dataclass(frozen=True, slots=True)
class OutOfBandMembership:
    version: RoomVersion
    event: Event

    @property
    def membership(self) -> str:
        return self.event.membership or "leave"


class OutOfBandWriter:
    def __init__(
        self,
        server_name: ServerName,
        entrance: RoomEntrance,
        changes: RoomChanges,
        commit_loop: CommitLoop,
        dictionary: Dictionary,
    ) -> None:
        self._server_name = server_name
        self._entrance = entrance
        self._changes = changes
        self._commit_loop = commit_loop
        self._dictionary = dictionary

    async def write(
        self,
        room_id: RoomID,
        version: RoomVersion,
        event: Event,
        membership: str,
        stripped_state: bytes | None,
    ) -> int:
        """Commit a membership of a local user; return its position in the events stream.

        Raises Forbidden if the server is in the room.
        """
        position = 0
        user_id = UserID(event.state_key or "")
        async with self._entrance.open(room_id, version) as room:
            if self._server_name in room.servers:
                raise Forbidden("This server is in the room: its events come another way")
            await self._dictionary.ensure([user_id], [], [])

            def build(change: RoomChange) -> list[TimelineEvent]:
                nonlocal position
                position = self._note(change, user_id, event, membership, stripped_state)
                return []

            await self._commit_loop.submit_change(room_id, 1, build)
        return position

    def _note(
        self,
        change: RoomChange,
        user_id: UserID,
        event: Event,
        membership: str,
        stripped_state: bytes | None,
    ) -> int:
        room = change.room
        change.stay_out()
        user_nid = self._dictionary.find_user(user_id)
        assert user_nid is not None
        position = self._changes.allocate()
        before = change.members.get(user_id) or room.members.get(user_id)
        member = replace(
            next_member(before, membership, position),
            other_event=0 if before is None else before.member_event,
        )
        change.members[user_id] = member
        change.membership_rows.append(
            NewMembership(
                user_nid,
                room.room_nid,
                NUMBERS[membership],
                position,
                member.joined_nid,
                member.left_nid,
                stripped_state,
            )
        )
        stored_id = encode_event_id(room.version, event.event_id)
        change.received.out_of_band.append(
            NewOutOfBand(room.room_nid, user_nid, position, stored_id, event.pdu_bytes)
        )
        return position


class OutOfBand:
    def __init__(
        self,
        own: OwnServer,
        database: Database,
        live_rooms: LiveRooms,
        checks: PDUChecks,
        writer: OutOfBandWriter,
    ) -> None:
        self._own = own
        self._db = database
        self._live_rooms = live_rooms
        self._checks = checks
        self._writer = writer
        self._listeners: list[Callable[[list[Committed]], None]] = []

    def subscribe(self, listener: Callable[[list[Committed]], None]) -> None:
        """Call `listener` after each commit; it must not block or raise."""
        self._listeners.append(listener)

    async def is_resident(self, room_id: RoomID) -> bool:
        """Tell whether a local user is joined, so that the room's events are known here."""
        return await self.find_resident(room_id) is not None

    async def find_resident(self, room_id: RoomID) -> LiveRoom | None:
        """Return the room if `is_resident`."""
        room = await self._live_rooms.find(room_id)
        return room if room is not None and self._own.name in room.servers else None

    async def find(self, user_id: UserID, room_id: RoomID) -> OutOfBandMembership | None:
        """Return what is known of a user's membership in a room that this server is not in."""
        if await self.is_resident(room_id):
            return None
        row = await self._db.read(out_of_band.find_out_of_band, user_id, room_id)
        if row is None:
            return None
        version = ROOM_VERSIONS[row.room_version]
        event_id = decode_event_id(version, row.event_id)
        return OutOfBandMembership(version, restore_event(version, event_id, row.pdu))

    async def check(self, version: RoomVersion, room_id: RoomID, pdu: JsonObject) -> Event:
        """Check what needs nothing but the event. Raises EventMalformed, SignatureInvalid."""
        return await self._checks.check(LiveRoom(0, room_id, version), pdu)

    async def take_in_invite(
        self,
        room_id: RoomID,
        version: RoomVersion,
        invite: Event,
        stripped_state: Sequence[JsonObject],
    ) -> None:
        """Show a local user an invitation; `invite` has been checked.

        Raises Forbidden if it is none, or if the user is in the room; BadRequest.
        """
        await self._take_in(room_id, version, invite, "invite", stripped_state)

    async def take_in_knock(
        self,
        room_id: RoomID,
        version: RoomVersion,
        knock: Event,
        stripped_state: Sequence[JsonObject],
    ) -> None:
        """Show a local user that he has knocked, once the other server has accepted it."""
        await self._take_in(room_id, version, knock, "knock", stripped_state)

    async def take_in_leave(self, leave: Event) -> None:
        """End an invitation or a knock; `leave` has been accepted by a server in the room.

        Raises NotFound when there is none.
        """
        known = await self.find(UserID(leave.state_key or ""), leave.room_id)
        if known is None or known.membership not in _WAITING:
            raise NotFound("No invitation to this room, and no knock")
        await self._take_in(leave.room_id, known.version, leave, leave.membership or "", ())

    async def reject_locally(
        self, user_id: UserID, room_id: RoomID, reason: str | None = None
    ) -> None:
        """End an invitation or a knock although no server of the room can be told.

        Raises NotFound when there is none.
        """
        known = await self.find(user_id, room_id)
        if known is None or known.membership not in _WAITING:
            raise NotFound("No invitation to this room, and no knock")
        content: JsonObject = {"membership": "leave"}
        if reason is not None:
            content["reason"] = reason
        version = known.version
        leave = make_event(
            version,
            room_id=room_id,
            type=MEMBER,
            sender=user_id,
            state_key=user_id,
            content=content,
            depth=min(known.event.depth + 1, version.max_depth),
            origin_server_ts=self._own.clock.now_ms(),
            prev_events=[],
            auth_events=[],
            server_name=self._own.name,
            signing_key=self._own.signing_key,
        )
        await self._take_in(room_id, version, leave, "leave", ())

    async def receive(self, room_id: RoomID, pdu: JsonObject) -> bool:
        """Take in an event of a room this server is not in, if it ends what a local user waits for.

        1. It is a leave or ban, by somebody else, of a local user who is invited or has knocked.
        2. Whoever made it knows that the user was: it cites the event, or comes from the server
           that the event came from. More cannot be known.

        Raises EventMalformed, SignatureInvalid, IdentifierInvalid.
        """
        state_key, content = pdu.get("state_key"), pdu.get("content")
        if pdu.get("type") != MEMBER or not isinstance(state_key, str):
            return False
        if not isinstance(content, dict) or content.get("membership") not in ("leave", "ban"):
            return False
        user_id = parse_user_id(state_key)
        known = await self.find(user_id, room_id)
        if known is None or known.membership not in _WAITING:
            return False
        event = await self.check(known.version, room_id, pdu)
        is_from_there = server_name_of(event.sender) == server_name_of(known.event.sender)
        if event.sender == user_id or not (
            is_from_there or known.event.event_id in event.auth_events
        ):
            return False
        await self._take_in(room_id, known.version, event, event.membership or "", ())
        return True

    async def _take_in(
        self,
        room_id: RoomID,
        version: RoomVersion,
        event: Event,
        membership: str,
        stripped_state: Sequence[JsonObject],
    ) -> None:
        user_id = UserID(event.state_key or "")
        if event.type != MEMBER or event.membership != membership or event.room_id != room_id:
            raise Forbidden(f"This is no event of membership {membership} of this room")
        if server_name_of(user_id) != self._own.name:
            raise Forbidden("The user is not of this server")
        shown = None
        if membership in _WAITING:
            shown = encode_json([*_clean(stripped_state), stripped_fields(event)])
        position = await self._writer.write(room_id, version, event, membership, shown)
        committed = Committed(room_id, _at(position, event))
        for listener in self._listeners:
            listener([committed])


def load_moved(row: MovedOutOfBand) -> Committed:
    version = ROOM_VERSIONS[row.room_version]
    event = restore_event(version, decode_event_id(version, row.event_id), row.pdu)
    return Committed(row.room_id, _at(row.event_nid, event))


def _at(position: int, event: Event) -> TimelineEvent:
    return TimelineEvent(event, position, state_before=None, state_after=None)


def _clean(stripped_state: Sequence[JsonObject]) -> list[JsonValue]:
    """Keep what has the form of stripped state events, which is shown as it came."""
    kept: list[JsonValue] = []
    size = 0
    for event in stripped_state[:_MAX_STRIPPED]:
        fields = {name: event.get(name) for name in ("content", "sender", "state_key", "type")}
        if not isinstance(fields["content"], dict) or not all(
            isinstance(fields[name], str) for name in ("sender", "state_key", "type")
        ):
            continue
        try:
            size += len(encode_json(fields))
        except JsonInvalid:
            continue
        if size > _MAX_STRIPPED_BYTES:
            break
        kept.append(fields)
    return kept
