"""Many events are written with COPY, of which the lines are ours."""

import random

import pytest

from homeserver.core.canonical_json import encode_lenient_json
from homeserver.storage.events import NewEvent, insert_events
from homeserver.storage.query import Txn, list_tuples
from tests.homeserver import Homeserver
from tests.results import result_of

_ROOM = 2**40
_ALPHABET = [
    *map(chr, range(0x180)),
    *("\\", "\\\\", "\\.", "\\N", "\\x", "\\000", "\\u0000", "\u2028", "\ufffe", "\U0001f600"),
]


def make_row(number: int, pdu: bytes) -> NewEvent:
    return NewEvent(
        room_nid=_ROOM,
        event_nid=number,
        event_id=b"$\t\n\\.%d:remote.test" % number,  # as rooms before version 3 have them
        type_nid=1,
        sender_nid=1,
        slot_nid=None,
        depth=number,
        origin_server_ts=-1,
        state_before=None,
        state_after=None,
        replaces=None,
        flags=0,
        prev_events=[1, 2],
        auth_events=[],
        pdu=pdu,
        room_state=None,
    )


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
def test_events_are_read_as_they_were_written(homeserver: Homeserver, encoding: str) -> None:
    """Whatever the connection's encoding: that may come from outside, as PGCLIENTENCODING does."""
    chance = random.Random(1)
    texts = ["".join(chance.choices(_ALPHABET, k=chance.randrange(40))) for _ in range(500)]
    pdus = [encode_lenient_json({text: [text, 1.5, 10**30]}) for text in texts]
    rows = [make_row(number, pdu) for number, pdu in enumerate(pdus, start=1)]

    def write(txn: Txn) -> list[tuple[bytes, bytes]]:
        txn.cursor.execute(f"SET LOCAL client_encoding TO '{encoding}'")
        insert_events(txn, rows)
        found = list_tuples(
            txn,
            "SELECT event_id, pdu FROM events JOIN event_bytes USING (room_nid, event_nid)"
            " WHERE room_nid = %s ORDER BY event_nid",
            (_ROOM,),
        )
        return [(bytes(event_id), bytes(pdu)) for event_id, pdu in found]

    stored = result_of(homeserver.database.run(write))
    assert stored == [(row.event_id, row.pdu) for row in rows]
