"""Which events another server may be given as they are.

spec: server-server-api/#backfilling-and-retrieving-missing-events,
client-server-api/#room-history-visibility, v1.19. Invariant: a server learns of an event no more
than one of its users may; of the others it gets what a redaction leaves, which holds the graph
together.
"""

from collections.abc import Mapping, Sequence

import orjson

from homeserver.core.events import Event, restore_event
from homeserver.core.history_visibility import (
    HistoryVisibility,
    can_server_see_event,
    parse_history_visibility,
)
from homeserver.core.identifiers import ServerName, server_name_of
from homeserver.core.state_map import State
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.event_graph import EventGraph
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.served_events import ServedEvent, redacted
from homeserver.engine.state_store import StateStore
from homeserver.storage import served_events
from homeserver.storage.database import Database

_RULE = ("m.room.history_visibility", "")
_OPEN = (HistoryVisibility.WORLD_READABLE, HistoryVisibility.SHARED)


class ServerVisibility:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        states: StateStore,
        dictionary: Dictionary,
        graph: EventGraph,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._states = states
        self._dictionary = dictionary
        self._graph = graph

    async def for_server(self, server: ServerName, events: Sequence[ServedEvent]) -> list[bytes]:
        """Return the PDUs of events of one room: redacted where the server may not see them."""
        return [
            event.pdu if await self.is_visible(server, event) else redacted(event).pdu
            for event in events
        ]

    async def is_visible(self, server: ServerName, served: ServedEvent) -> bool:
        """Tell whether a server may be given an event as it is.

        An outlier, whose state is not known, is for servers in the room if it is state: it is part
        of what authorizes other events.
        """
        room = await self._live_rooms.find(served.room_id)
        if room is None:
            return False
        is_in_room = server in room.servers or (room.is_partial and server in room.list_servers())
        event = restore_event(served.version, served.event_id, served.pdu)
        if served.state_before is None:
            return is_in_room and event.is_state
        state = await self._states.load_state(room.room_nid, served.state_before)
        rule = await self._rule(room, state)
        memberships: Mapping[str, str] = {}
        if not (is_in_room and rule in _OPEN):
            memberships = await self._memberships(room, state, server)
        return can_server_see_event(
            rule,
            memberships,
            is_in_room=is_in_room,
            event_type=event.type,
            state_key=_own_state_key(event, server),
            content=event.content,
        )

    async def _rule(self, room: LiveRoom, state: State) -> HistoryVisibility:
        await self._dictionary.ensure([], [], [_RULE])
        slot_nid = self._dictionary.find_slot(*_RULE)
        number = None if slot_nid is None else state.get(slot_nid)
        if number is None:
            return parse_history_visibility(None)
        node = (await self._graph.load_numbers(room, [number]))[number]
        return parse_history_visibility(node.event.content.get("history_visibility"))

    async def _memberships(
        self, room: LiveRoom, state: State, server: ServerName
    ) -> dict[str, str]:
        pdus = await self._db.read(
            served_events.list_members_of_server,
            room.room_nid,
            list(state),
            list(state.values()),
            server,
        )
        found = {}
        for pdu in map(orjson.loads, pdus):
            membership = pdu["content"].get("membership")
            if isinstance(membership, str):
                found[pdu["state_key"]] = membership
        return found


def _own_state_key(event: Event, server: ServerName) -> str | None:
    """Return the state key; of a member event only if the member is of the server."""
    if event.type != MEMBER or server_name_of(event.state_key or "") == server:
        return event.state_key
    return None
