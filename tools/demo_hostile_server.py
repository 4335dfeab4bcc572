"""The homeserver turns hostile: it owns its key and its database, so it can forge any event.

Invariant: what it inserts is hashed, signed and linked like every event of the server, so that
clients are served it like any other; only end-to-end signatures are beyond it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import psycopg2

from homeserver.core.events import make_event, restore_event
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import RoomVersion, find_room_version
from homeserver.core.signing import SigningKey
from homeserver.engine.server_keys import load_signing_key
from homeserver.randomness import Randomness
from homeserver.storage import dictionaries, events, rooms
from homeserver.storage.embedded import EmbeddedPostgres
from homeserver.storage.query import Txn, list_tuples
from tools.stack import SERVER_NAME


@dataclass(frozen=True)
class Forgery:
    sender: UserID
    type: str
    content: JsonObject


def forge_events(folder: Path, room_id: RoomID, forgeries: Sequence[Forgery]) -> list[EventID]:
    """Insert events that nobody sent; the homeserver of the folder must be stopped."""
    key = load_signing_key(folder / "data" / "signing.key", Randomness())
    postgres = EmbeddedPostgres(folder / "data" / "postgres")
    connection = psycopg2.connect(postgres.start())
    try:
        with connection, connection.cursor() as cursor:
            return [_forge(Txn(cursor), key, room_id, forgery) for forgery in forgeries]
    finally:
        connection.close()
        postgres.stop()


def _forge(txn: Txn, key: SigningKey, room_id: RoomID, forgery: Forgery) -> EventID:
    """1. After the newest events, 2. allowed by what allowed the sender's last event, 3. signed,
    4. stored, 5. made the newest event.
    """
    head = rooms.find_head(txn, room_id)
    assert head is not None
    version = find_room_version(head.room_version)
    assert version is not None
    before = rooms.list_extremities(txn, head.room_nid, head.extremities)  # 1
    sender_nid = dictionaries.intern_users(txn, [forgery.sender])[forgery.sender]
    auth_nids, auth_ids = _auth_of_last(txn, version, head.room_nid, sender_nid)  # 2
    event = make_event(  # 3
        version,
        room_id=room_id,
        type=forgery.type,
        sender=forgery.sender,
        state_key=None,
        content=forgery.content,
        depth=max(int(orjson.loads(parent.pdu)["depth"]) for parent in before) + 1,
        origin_server_ts=int(time.time() * 1000),
        prev_events=[events.decode_event_id(version, parent.event_id) for parent in before],
        auth_events=auth_ids,
        server_name=SERVER_NAME,
        signing_key=key,
    )
    event_nid = events.max_event_nid(txn) + 1
    row = events.NewEvent(  # 4
        room_nid=head.room_nid,
        event_nid=event_nid,
        event_id=events.encode_event_id(version, event.event_id),
        type_nid=dictionaries.intern_types(txn, [forgery.type])[forgery.type],
        sender_nid=sender_nid,
        slot_nid=None,
        depth=event.depth,
        origin_server_ts=event.origin_server_ts,
        state_before=head.current_state,
        state_after=head.current_state,
        replaces=None,
        flags=0,
        prev_events=head.extremities,
        auth_events=auth_nids,
        pdu=event.pdu_bytes,
    )
    events.insert_events(txn, [row])
    moved = rooms.NewHead(head.room_nid, [event_nid], head.current_state, event_nid)
    rooms.upsert_heads(txn, [moved])  # 5
    return event.event_id


def _auth_of_last(
    txn: Txn, version: RoomVersion, room_nid: int, sender_nid: int
) -> tuple[list[int], Sequence[EventID]]:
    """Return the auth events of what the sender last said in the room."""
    ((event_id, pdu, auth_nids),) = list_tuples(
        txn,
        """
        SELECT event_id, pdu, auth_events FROM events JOIN event_bytes USING (room_nid, event_nid)
         WHERE room_nid = %s AND sender_nid = %s AND slot_nid IS NULL
         ORDER BY event_nid DESC LIMIT 1""",
        (room_nid, sender_nid),
    )
    event = restore_event(version, events.decode_event_id(version, event_id), pdu)
    return list(auth_nids), event.auth_events
