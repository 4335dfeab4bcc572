"""Authors: from what a local user wants to say to a committed event.

1. answer a repeated transaction id by its first event    2. find the room
3. load what building needs    4. commit, again from 3 when something was not in memory
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from homeserver.core.auth_events import auth_types_of
from homeserver.core.errors import EventMalformed, EventRejected
from homeserver.core.identifiers import DeviceID, EventID, RoomID, UserID
from homeserver.engine.commit_loop import CommitLoop
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.not_loaded import NotLoaded
from homeserver.engine.policed_events import PolicedEvents
from homeserver.engine.policy_checks import policy_server_of
from homeserver.engine.push_groups import PushGroups
from homeserver.engine.room_change import EventTemplate
from homeserver.engine.sent_transactions import SentTransactions
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.errors import BadJSON, Forbidden, NotFound, ServiceUnavailable, TooLarge

_MAX_TRIES = 10
_MAX_NAME_BYTES = 255
_MALFORMED = frozenset({"power_levels.type", "power_levels.users"})
"""Rules that an event breaks whoever sends it."""


class EventAuthor:
    def __init__(
        self,
        live_rooms: LiveRooms,
        commit_loop: CommitLoop,
        dictionary: Dictionary,
        transactions: SentTransactions,
        push_groups: PushGroups,
        policed: PolicedEvents,
    ) -> None:
        self._live_rooms = live_rooms
        self._commit_loop = commit_loop
        self._dictionary = dictionary
        self._transactions = transactions
        self._push_groups = push_groups
        self._policed = policed

    async def send(
        self,
        room_id: RoomID,
        template: EventTemplate,
        guard: AbstractAsyncContextManager[None] | None = None,
    ) -> EventID:
        """Commit one event and return its id; the first one's for a repeated transaction.

        guard  is entered around the commit, but not for a repeated transaction
        Raises NotFound for an unknown room, Forbidden, BadJSON, TooLarge, and what `guard` does.
        """
        room = await self._find_room(room_id)
        if template.scoped_txn_id is None or template.device_id is None:
            return await self._send_one(room, template, guard)
        return await self._transactions.once(  # 1
            (template.sender, DeviceID(template.device_id)),
            (room.room_nid, template.scoped_txn_id),
            lambda: self._send_one(room, template, guard),
        )

    async def _send_one(
        self,
        room: LiveRoom,
        template: EventTemplate,
        guard: AbstractAsyncContextManager[None] | None,
    ) -> EventID:
        async with guard or nullcontext():
            return (await self.send_all(room.room_id, [template]))[0].event.event_id

    async def send_all(
        self, room_id: RoomID, templates: Sequence[EventTemplate]
    ) -> list[TimelineEvent]:
        """Commit several events of one room together, all or none. Raises as `send`.

        Where a policy server must sign them, they are committed one after another, up to the first
        that it refuses.
        """
        for template in templates:
            check_names(template.type, template.state_key, template.txn_id)
        try:
            for _ in range(_MAX_TRIES):  # 4
                room = await self._find_room(room_id)  # 2
                is_policed = policy_server_of(room) is not None
                if is_policed and len(templates) > 1:
                    return [(await self.send_all(room_id, [one]))[0] for one in templates]
                await self._prepare(room, templates)  # 3
                try:
                    if is_policed:
                        return [await self._policed.send(room_id, one) for one in templates]
                    return await self._commit_loop.submit(room_id, templates)
                except NotLoaded as missing:
                    await self._load(room_id, missing)
        except EventRejected as error:
            if error.rule in _MALFORMED:
                raise BadJSON(error.reason) from error
            raise Forbidden(error.reason) from error
        except EventMalformed as error:
            if "bytes" in str(error):
                raise TooLarge(str(error)) from error
            raise BadJSON(str(error)) from error
        raise ServiceUnavailable("The room does not stay in memory", retry_after_ms=2000)

    async def _find_room(self, room_id: RoomID) -> LiveRoom:
        room = await self._live_rooms.find(room_id)  # 2
        if room is None:
            raise NotFound("Unknown room")
        return room

    async def _prepare(self, room: LiveRoom, templates: Sequence[EventTemplate]) -> None:
        users = {template.sender for template in templates}
        slots = []
        members: set[UserID] = set()
        for template in templates:
            if template.state_key is not None:
                slots.append((template.type, template.state_key))
                if template.type == MEMBER:
                    users.add(UserID(template.state_key))
            for event_type, state_key in auth_types_of(
                room.version, template.type, template.sender, template.state_key, template.content
            ):
                if event_type == MEMBER and state_key not in room.member_events:
                    members.add(UserID(state_key))
        await self._dictionary.ensure(users, [template.type for template in templates], slots)
        if members:
            await self._live_rooms.load_members(room, members)
        await self._push_groups.load(room)

    async def _load(self, room_id: RoomID, missing: NotLoaded) -> None:
        if missing.slot is not None:
            await self._dictionary.ensure([], [], [missing.slot])
        elif missing.event_type:
            await self._dictionary.ensure(
                [missing.user] if missing.user else [], [missing.event_type], []
            )
        elif missing.user is not None:
            await self._dictionary.ensure([missing.user], [], [])
            room = await self._live_rooms.find(room_id)
            if room is not None:
                await self._live_rooms.load_members(room, [missing.user])


def check_names(event_type: str, state_key: str | None, txn_id: str | None) -> None:
    """Refuse what the tables of names cannot hold. Raises BadJSON, TooLarge."""
    for name in (event_type, state_key or "", txn_id or ""):
        if "\x00" in name:
            raise BadJSON("NUL is not possible in an event's type, state key or transaction id")
        if len(name.encode()) > _MAX_NAME_BYTES:
            raise TooLarge(
                f"Type, state key and transaction id have at most {_MAX_NAME_BYTES} bytes"
            )
