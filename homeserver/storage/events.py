"""Events: their place in the graph (`events`) and their bytes as signed (`event_bytes`)."""

import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from homeserver.core.identifiers import EventID
from homeserver.core.room_versions import EventIDFormat, RoomVersion
from homeserver.core.signing import decode_base64, encode_base64
from homeserver.storage.query import (
    Txn,
    array_of,
    copied_json,
    copied_number,
    copy_rows,
    execute,
    fetch_value,
    find_value,
    insert_many,
    list_tuples,
    list_values,
)

OUTLIER = 1
REJECTED = 2
SOFT_FAILED = 4
HISTORICAL = 8
AFTER_GAP = 16
"""What came before it was not all known when it came."""
_MANY = 20
"""From so many rows on, COPY is quicker than INSERT, though it takes two more round trips."""
_URLSAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE = bytes.maketrans(b"-_", b"+/")
_OF_HASH = re.compile(r"\$[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
"""How 32 bytes are written in URL-safe base64: the two bits that the last letter has over are 0."""
HIDDEN = OUTLIER | REJECTED | SOFT_FAILED


class NewEvent(NamedTuple):
    """One row of `events` and one of `event_bytes`; a tuple, see `StoredEvent`."""

    room_nid: int
    event_nid: int
    event_id: bytes
    type_nid: int
    sender_nid: int
    slot_nid: int | None
    depth: int
    origin_server_ts: int
    state_before: int | None
    state_after: int | None
    replaces: int | None
    flags: int
    prev_events: Sequence[int]
    auth_events: Sequence[int]
    pdu: bytes
    room_state: int | None = None
    """State of the room with the event in it. None: the event is in line, the state before it was
    the room's, and the state after it became the room's."""


class StoredEvent(NamedTuple):
    """An event as clients are shown it: its bytes, and what other events did to it.

    A tuple, as a page of history has a hundred, and frozen dataclasses take five times as long.
    """

    event_nid: int
    event_id: bytes
    pdu: bytes
    depth: int
    state_before: int | None
    state_after: int | None
    flags: int
    replaced_pdu: bytes | None = None
    """The state event that held the slot before."""
    redaction_pdu: bytes | None = None
    """The redaction that was applied."""
    is_replaced_redacted: bool = False
    room_state: int | None = None
    """State of the room with the event in it, where the event is not in line; see `NewEvent`."""
    replaces: int | None = None
    """Number of the state event that held the slot before."""
    redacted_by: int | None = None
    """Number of the redaction that was applied."""
    is_redaction_redacted: bool = False


def encode_event_id(version: RoomVersion, event_id: EventID) -> bytes:
    """Return the 32 bytes of the hash, or the text where the room version has no hash in it.

    Raises ValueError when the id cannot be one of this version.
    """
    if version.event_id_format is EventIDFormat.DOMAIN:
        return event_id.encode()
    if version.event_id_format is EventIDFormat.URLSAFE_BASE64 and _OF_HASH.fullmatch(event_id):
        return a2b_base64(event_id[1:].encode().translate(_FROM_URLSAFE) + b"=")
    stored = decode_base64(event_id[1:].replace("-", "+").replace("_", "/"))
    if decode_event_id(version, stored) != event_id:
        raise ValueError("the id is not written as this room version writes it")
    return stored


def is_event_id(version: RoomVersion, event_id: EventID) -> bool:
    """Tell whether `encode_event_id` takes it."""
    if version.event_id_format is EventIDFormat.URLSAFE_BASE64 and _OF_HASH.fullmatch(event_id):
        return True
    try:
        encode_event_id(version, event_id)
    except ValueError:
        return False
    return True


def decode_event_id(version: RoomVersion, stored: bytes) -> EventID:
    if version.event_id_format is EventIDFormat.DOMAIN:
        return EventID(stored.decode())
    if version.event_id_format is EventIDFormat.BASE64:
        return EventID("$" + encode_base64(stored))
    return EventID(
        "$" + b2a_base64(stored, newline=False).translate(_URLSAFE).rstrip(b"=").decode()
    )


def insert_events(txn: Txn, rows: Sequence[NewEvent]) -> None:
    if len(rows) >= _MANY:
        _copy_events(txn, rows)
        return
    insert_many(
        txn,
        """
        INSERT INTO events (room_nid, event_nid, event_id, type_nid, sender_nid, slot_nid, depth,
                            origin_server_ts, state_before, state_after, replaces, flags,
                            prev_events, auth_events, room_state)
        VALUES %s""",
        [
            (
                row.room_nid, row.event_nid, row.event_id, row.type_nid, row.sender_nid,
                row.slot_nid, row.depth, row.origin_server_ts, row.state_before,
                row.state_after, row.replaces, row.flags, array_of(row.prev_events),
                array_of(row.auth_events), row.room_state,
            )
            for row in rows
        ],
    )  # fmt: skip
    insert_many(
        txn,
        "INSERT INTO event_bytes (room_nid, event_nid, pdu) VALUES %s",
        [(row.room_nid, row.event_nid, row.pdu) for row in rows],
    )


def _copy_events(txn: Txn, rows: Sequence[NewEvent]) -> None:
    n = copied_number
    copy_rows(
        txn,
        """
        COPY events (room_nid, event_nid, event_id, type_nid, sender_nid, slot_nid, depth,
                     origin_server_ts, state_before, state_after, replaces, flags,
                     prev_events, auth_events, room_state)
        FROM STDIN""",
        [
            (
                f"{row.room_nid}\t{row.event_nid}\t\\\\x{row.event_id.hex()}\t{row.type_nid}\t"
                f"{row.sender_nid}\t{n(row.slot_nid)}\t{row.depth}\t{row.origin_server_ts}\t"
                f"{n(row.state_before)}\t{n(row.state_after)}\t{n(row.replaces)}\t{row.flags}\t"
                f"{_numbers(row.prev_events)}\t{_numbers(row.auth_events)}\t{n(row.room_state)}"
            ).encode()
            for row in rows
        ],
    )
    copy_rows(
        txn,
        "COPY event_bytes (room_nid, event_nid, pdu) FROM STDIN (ENCODING 'UTF8')",
        [b"%d\t%d\t%s" % (row.room_nid, row.event_nid, copied_json(row.pdu)) for row in rows],
    )


def _numbers(values: Sequence[int]) -> str:
    """As `array_of`, of numbers alone."""
    return "{" + ",".join(map(str, values)) + "}"


@dataclass(frozen=True, slots=True)
class PlacedEvent:
    """What is known of an outlier once its place in the graph is."""

    room_nid: int
    event_nid: int
    state_before: int
    state_after: int
    replaces: int | None
    flags: int
    prev_events: Sequence[int]
    room_state: int | None


def update_placed(txn: Txn, rows: Sequence[PlacedEvent]) -> None:
    for row in rows:
        execute(
            txn,
            """
            UPDATE events SET state_before = %s, state_after = %s, replaces = %s, flags = %s,
                              prev_events = %s, room_state = %s
             WHERE room_nid = %s AND event_nid = %s""",
            (
                row.state_before, row.state_after, row.replaces, row.flags,
                array_of(row.prev_events), row.room_state, row.room_nid, row.event_nid,
            ),
        )  # fmt: skip


def append_parent(txn: Txn, room_nid: int, children: Sequence[int], parent_nid: int) -> None:
    """Add a parent that has come after its children."""
    execute(
        txn,
        "UPDATE events SET prev_events = prev_events || %s::bigint"
        " WHERE room_nid = %s AND event_nid = ANY(%s)",
        (parent_nid, room_nid, list(children)),
    )


def update_redacted_by(txn: Txn, room_nid: int, event_nid: int, redaction_nid: int) -> None:
    """The first redaction of an event stands."""
    execute(
        txn,
        "UPDATE events SET redacted_by = %s"
        " WHERE room_nid = %s AND event_nid = %s AND redacted_by IS NULL",
        (redaction_nid, room_nid, event_nid),
    )


def max_event_nid(txn: Txn) -> int:
    """One step into the primary key a room, so that a start does not grow with the events.

    Heads count too: a room may have moved at a position that is no event's. So do memberships of
    rooms that the server is not in.
    """
    return fetch_value(
        txn,
        int,
        """
        SELECT coalesce(greatest(max(greatest(last, last_event)),
                                 (SELECT max(event_nid) FROM out_of_band_memberships)), 0)::bigint
          FROM rooms LEFT JOIN room_heads USING (room_nid) CROSS JOIN LATERAL
               (SELECT event_nid AS last FROM events WHERE events.room_nid = rooms.room_nid
                 ORDER BY event_nid DESC LIMIT 1) AS newest""",
    )


def has_event(txn: Txn, room_nid: int, event_nid: int) -> bool:
    return fetch_value(
        txn,
        bool,
        "SELECT EXISTS (SELECT FROM events WHERE room_nid = %s AND event_nid = %s)",
        (room_nid, event_nid),
    )


def find_event_nid(txn: Txn, room_nid: int, event_id: bytes) -> int | None:
    return find_value(
        txn,
        int,
        "SELECT event_nid FROM events WHERE event_id = %s AND room_nid = %s",
        (event_id, room_nid),
    )


def list_auth_events(txn: Txn, room_nid: int, event_nids: Sequence[int]) -> list[int]:
    """Return the numbers of what any of these events cite."""
    return list_values(
        txn,
        int,
        """
        SELECT DISTINCT unnest(auth_events) FROM events
         WHERE room_nid = %s AND event_nid = ANY(%s)""",
        (room_nid, list(event_nids)),
    )


def list_events(txn: Txn, room_nid: int, event_nids: Sequence[int]) -> list[StoredEvent]:
    """In no order; unknown numbers are left out.

    Written as one primary key look-up an event and kind of byte. As joins, the planner would read
    the whole room for each event while its statistics do not know the room yet: every new room.
    """
    rows = list_tuples(
        txn,
        """
        SELECT e.event_nid, e.event_id,
               (SELECT convert_from(pdu, 'UTF8') FROM event_bytes AS b
                 WHERE b.room_nid = e.room_nid AND b.event_nid = e.event_nid),
               e.depth, e.state_before, e.state_after, e.flags,
               (SELECT pdu FROM event_bytes AS b
                 WHERE b.room_nid = e.room_nid AND b.event_nid = e.replaces),
               (SELECT pdu FROM event_bytes AS b
                 WHERE b.room_nid = e.room_nid AND b.event_nid = e.redacted_by),
               coalesce((SELECT r.redacted_by IS NOT NULL FROM events AS r
                          WHERE r.room_nid = e.room_nid AND r.event_nid = e.replaces), false),
               e.room_state, e.replaces, e.redacted_by,
               coalesce((SELECT r.redacted_by IS NOT NULL FROM events AS r
                          WHERE r.room_nid = e.room_nid AND r.event_nid = e.redacted_by), false)
          FROM unnest(%s::bigint[]) AS wanted (event_nid)
          CROSS JOIN LATERAL
               (SELECT * FROM events
                 WHERE room_nid = %s AND event_nid = wanted.event_nid OFFSET 0) AS e""",
        (array_of(dict.fromkeys(event_nids)), room_nid),
    )
    # As text, bytes are half as long on their way as in hexadecimal.
    return [StoredEvent(nid, event_id, pdu.encode(), *rest) for nid, event_id, pdu, *rest in rows]


def list_timeline_backwards(
    txn: Txn, room_nid: int, before: tuple[int, int], until: tuple[int, int], limit: int
) -> list[StoredEvent]:
    """Newest first: events under `before` and over `until`, both (depth, event_nid), exclusive."""
    rows = list_tuples(
        txn,
        """
        SELECT event_nid, event_id, depth, state_before, state_after, flags, replaces, redacted_by,
               room_state, (SELECT convert_from(pdu, 'UTF8') FROM event_bytes AS b
                             WHERE b.room_nid = e.room_nid AND b.event_nid = e.event_nid)
          FROM events AS e
         WHERE room_nid + 0 = %s AND (depth, event_nid) < (%s, %s) AND (depth, event_nid) > (%s, %s)
           AND flags & %s = 0
         ORDER BY depth DESC, event_nid DESC LIMIT %s""",
        (room_nid, *before, *until, HIDDEN, limit),
    )
    return _complete(txn, room_nid, rows)


def list_timeline_forwards(
    txn: Txn, room_nid: int, after: tuple[int, int], until: tuple[int, int], limit: int
) -> list[StoredEvent]:
    """Oldest first: events over `after` and under `until`, both (depth, event_nid), exclusive."""
    rows = list_tuples(
        txn,
        """
        SELECT event_nid, event_id, depth, state_before, state_after, flags, replaces, redacted_by,
               room_state, (SELECT convert_from(pdu, 'UTF8') FROM event_bytes AS b
                             WHERE b.room_nid = e.room_nid AND b.event_nid = e.event_nid)
          FROM events AS e
         WHERE room_nid + 0 = %s AND (depth, event_nid) > (%s, %s) AND (depth, event_nid) < (%s, %s)
           AND flags & %s = 0
         ORDER BY depth, event_nid LIMIT %s""",
        (room_nid, *after, *until, HIDDEN, limit),
    )
    return _complete(txn, room_nid, rows)


def _complete(txn: Txn, room_nid: int, rows: list[tuple[Any, ...]]) -> list[StoredEvent]:
    """Make the events of a page, most of which nothing was done to; read the others in full."""
    others = [row[0] for row in rows if row[6] is not None or row[7] is not None]
    in_full = {e.event_nid: e for e in list_events(txn, room_nid, others)} if others else {}
    page = []
    for row in rows:
        nid, event_id, depth, before, after, flags, _, _, room_state, pdu = row
        page.append(
            in_full.get(nid)
            or StoredEvent(
                nid,
                event_id,
                pdu.encode(),
                depth=depth,
                state_before=before,
                state_after=after,
                flags=flags,
                room_state=room_state,
            )
        )
    return page


def list_stream_backwards(
    txn: Txn, room_nid: int, up_to: int, after: int, limit: int
) -> list[StoredEvent]:
    """Newest first, in the order of arrival: positions in (after, up_to]."""
    nids = list_values(
        txn,
        int,
        """
        SELECT event_nid FROM events
         WHERE room_nid = %s AND event_nid <= %s AND event_nid > %s AND flags & %s = 0
         ORDER BY event_nid DESC LIMIT %s""",
        (room_nid, up_to, after, HIDDEN | HISTORICAL, limit),
    )
    return list_in_order(txn, room_nid, nids)


def list_in_order(txn: Txn, room_nid: int, nids: list[int]) -> list[StoredEvent]:
    """As `list_events`, in the order of the numbers, all of which must exist."""
    if not nids:
        return []
    found = {event.event_nid: event for event in list_events(txn, room_nid, nids)}
    return [found[nid] for nid in nids]


def list_stream_forwards(
    txn: Txn, room_nid: int, after: int, up_to: int, limit: int
) -> list[StoredEvent]:
    """Oldest first, in the order of arrival: positions in (after, up_to]."""
    nids = list_values(
        txn,
        int,
        """
        SELECT event_nid FROM events
         WHERE room_nid = %s AND event_nid > %s AND event_nid <= %s AND flags & %s = 0
         ORDER BY event_nid LIMIT %s""",
        (room_nid, after, up_to, HIDDEN | HISTORICAL, limit),
    )
    return list_in_order(txn, room_nid, nids)


def list_by_timestamp(
    txn: Txn, room_nid: int, after: tuple[int, int], limit: int, *, backwards: bool
) -> list[StoredEvent]:
    """The events next to `after` (timestamp, event number), exclusive, nearest first."""
    if backwards:
        nids = list_values(
            txn,
            int,
            """
            SELECT event_nid FROM events
             WHERE room_nid + 0 = %s AND (origin_server_ts, event_nid) < %s AND flags & %s = 0
             ORDER BY origin_server_ts DESC, event_nid DESC LIMIT %s""",
            (room_nid, after, HIDDEN, limit),
        )
    else:
        nids = list_values(
            txn,
            int,
            """
            SELECT event_nid FROM events
             WHERE room_nid + 0 = %s AND (origin_server_ts, event_nid) > %s AND flags & %s = 0
             ORDER BY origin_server_ts, event_nid LIMIT %s""",
            (room_nid, after, HIDDEN, limit),
        )
    return list_in_order(txn, room_nid, nids)
