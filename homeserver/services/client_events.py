"""Events as one device reads them: their ready-made JSON with what is for this reader spliced in.

spec: client-server-api/#room-event-format, v1.19: `unsigned` has the reader's membership at the
event, the transaction id if his device sent it, and its bundled aggregations; and, by MSC4140
beside it, to its sender the delay id of what was a delayed event.
Invariant: `unsigned` quotes no event (replaced, redaction) that the reader may not see.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import orjson

from homeserver.core.canonical_json import encode_json
from homeserver.core.identifiers import DeviceID, EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.sent_transactions import DELAYED, SentTransactions
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event, with_room_id
from homeserver.requester import Requester
from homeserver.services.sight import Bounds, Sight, bounds_of
from homeserver.storage import events
from homeserver.storage.database import Database

Bundles = Mapping[int, bytes]
"""Event number -> JSON of its `m.relations`; events without are left out."""
NO_BUNDLES: Bundles = {}
_JOINED = b'"membership":"join"'
_DELAY_ID = b'"org.matrix.msc4140.delay_id":'
_MEMBERSHIPS = {
    name: b'"membership":"%s"' % name.encode() for name in ("join", "leave", "invite", "knock")
}


@dataclass(frozen=True, slots=True)
class _Hidden:
    """Numbers of the events that must not quote what they replaced, or what redacted them."""

    replaced: AbstractSet[int]
    redaction: AbstractSet[int]


_NOTHING_HIDDEN = _Hidden(frozenset(), frozenset())


class ClientEvents:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        sight: Sight,
        transactions: SentTransactions,
        *,
        tells_delays: bool,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._sight = sight
        self._transactions = transactions
        self._tells_delays = tells_delays

    async def render(
        self,
        requester: Requester,
        room_id: RoomID,
        found: Sequence[TimelineEvent],
        bundles: Bundles = NO_BUNDLES,
        *,
        looks_up: bool = True,
        with_room: bool = True,
    ) -> list[bytes]:
        """Return the JSON of each event; memory usually has all that it takes.

        looks_up   False, for much state at once: memberships and quoted events that would have to
                   be looked up are left out
        with_room  False: without `room_id`, as in sync
        """
        if not found:
            return []
        room = await self._live_rooms.find(room_id)
        jsons = await self._render(requester, room, found, bundles, looks_up=looks_up)
        if not with_room:
            return jsons
        start = with_room_id(b"{", room_id)
        return [start + json[1:] for json in jsons]

    async def _render(
        self,
        requester: Requester,
        room: LiveRoom | None,
        found: Sequence[TimelineEvent],
        bundles: Bundles,
        *,
        looks_up: bool,
    ) -> list[bytes]:
        if room is None:
            return []
        user_id = requester.user_id
        bounds = bounds_of(user_id, room)
        rest = [event for event in found if not _is_plain(event, user_id, bounds)]
        memberships: Mapping[int, str] = {}
        hidden = _NOTHING_HIDDEN
        sent: Mapping[int, str] = {}
        delays: Mapping[int, str] = {}
        if rest:
            memberships = await self._sight.memberships(user_id, room, rest, looks_up=looks_up)
            hidden = await self._hidden(user_id, room, bounds, rest, looks_up=looks_up)
            device_id = requester.device_id or requester.appservice_id
            if device_id is not None:
                sent = await self._sent(user_id, DeviceID(device_id), rest)
            if self._tells_delays:
                delays = await self._sent(user_id, DELAYED, rest)
        asked = {event.event_nid for event in rest}
        jsons = []
        for event in found:
            nid = event.event_nid
            added = _JOINED
            if nid in asked:
                added = _membership(memberships[nid]) if nid in memberships else b""
            if nid in sent:
                added = _joined(added, b'"transaction_id":' + encode_json(sent[nid]))
            if nid in delays:
                added = _joined(added, _DELAY_ID + encode_json(delays[nid]))
            if nid in bundles:
                added = _joined(added, b'"m.relations":' + bundles[nid])
            jsons.append(
                event.json_with(
                    added,
                    hides_replaced=nid in hidden.replaced,
                    hides_redaction=nid in hidden.redaction,
                )
            )
        return jsons

    async def _sent(
        self, user_id: UserID, device_id: DeviceID, found: Iterable[TimelineEvent]
    ) -> Mapping[int, str]:
        """Return the transaction ids of the events that the device has sent, by event number."""
        sent: dict[int, str] = {}
        unknown: dict[EventID, int] = {}
        for event in found:
            if event.sender != user_id:
                continue
            if event.sender_device is None:
                unknown[event.event_id] = event.event_nid
            elif event.sender_device == device_id and event.txn_id is not None:
                sent[event.event_nid] = event.txn_id
        if unknown:
            txn_ids = await self._transactions.find_many((user_id, device_id), unknown)
            sent |= {unknown[event_id]: txn_id for event_id, txn_id in txn_ids.items()}
        return sent

    async def _hidden(
        self,
        user_id: UserID,
        room: LiveRoom,
        bounds: Bounds,
        found: Iterable[TimelineEvent],
        *,
        looks_up: bool,
    ) -> _Hidden:
        """Find the events whose `unsigned` would quote what the reader may not see."""
        replaced: dict[int, int | None] = {}
        redactions: dict[int, int | None] = {}
        for event in found:
            if event.replaced is not None and not _is_sure(bounds, room, event, event.replaces):
                replaced[event.event_nid] = event.replaces
            if event.is_redacted and not _is_sure(bounds, room, event, event.redacted_by):
                redactions[event.event_nid] = event.redacted_by
        if not replaced and not redactions:
            return _NOTHING_HIDDEN
        seen: set[int] = set()
        if looks_up:
            quoted = {nid for nid in (*replaced.values(), *redactions.values()) if nid is not None}
            stored = await self._db.read(events.list_events, room.room_nid, list(quoted))
            visible = await self._sight.visible(
                user_id, room, [load_timeline_event(room.version, row) for row in stored]
            )
            seen = {event.event_nid for event in visible}
        return _Hidden(
            {nid for nid, quoted in replaced.items() if quoted not in seen},
            {nid for nid, quoted in redactions.items() if quoted not in seen},
        )


def _is_plain(event: TimelineEvent, user_id: UserID, bounds: Bounds) -> bool:
    """Tell whether it takes no look at anything: another's, quoting nothing, while he was in."""
    return (
        bounds.stay[0] <= event.event_nid <= bounds.stay[1]
        and event.sender != user_id
        and event.replaced is None
        and not event.is_redacted
        and event.is_in_line
        and event.state_key != user_id
    )


def _is_sure(bounds: Bounds, room: LiveRoom, event: TimelineEvent, quoted: int | None) -> bool:
    """Tell whether what an event quotes is surely visible; whether it is in line is not known."""
    return (
        quoted is not None
        and bounds.sure[0] <= quoted <= bounds.sure[1]
        and quoted > room.forked_at
        and not event.is_historical
    )


def _membership(name: str) -> bytes:
    known = _MEMBERSHIPS.get(name)
    return known if known is not None else b'"membership":' + encode_json(name)


def _joined(some: bytes, more: bytes) -> bytes:
    return some + b"," + more if some else more


def client_content(event: TimelineEvent) -> JsonObject:
    """Return the content as clients see it: without what a redaction has taken."""
    content: JsonObject = orjson.loads(event.json)["content"]
    return content
