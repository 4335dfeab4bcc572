"""Memberships in rooms that this server is not in: the member events as they came."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, UserID
from homeserver.storage.query import Txn, execute, find_row, insert_many, list_rows


@dataclass(frozen=True, slots=True)
class NewOutOfBand:
    room_nid: int
    user_nid: int
    event_nid: int
    """A position in the events stream."""
    event_id: bytes
    pdu: bytes


@dataclass(frozen=True, slots=True)
class OutOfBandRow:
    room_version: str
    event_id: bytes
    pdu: bytes


@dataclass(frozen=True, slots=True)
class MovedOutOfBand:
    room_id: RoomID
    room_version: str
    event_nid: int
    event_id: bytes
    pdu: bytes


def upsert_out_of_band(txn: Txn, rows: Sequence[NewOutOfBand]) -> None:
    insert_many(
        txn,
        """
        INSERT INTO out_of_band_memberships (room_nid, user_nid, event_nid, event_id, pdu)
        VALUES %s
        ON CONFLICT (room_nid, user_nid) DO UPDATE
           SET event_nid = excluded.event_nid, event_id = excluded.event_id, pdu = excluded.pdu""",
        [(row.room_nid, row.user_nid, row.event_nid, row.event_id, row.pdu) for row in rows],
    )


def delete_out_of_band(txn: Txn, room_nid: int) -> None:
    """The server is in the room now: its state says who is what."""
    execute(txn, "DELETE FROM out_of_band_memberships WHERE room_nid = %s", (room_nid,))


def find_out_of_band(txn: Txn, user_id: UserID, room_id: RoomID) -> OutOfBandRow | None:
    return find_row(
        txn,
        OutOfBandRow,
        """
        SELECT room_version, event_id, pdu
          FROM rooms JOIN out_of_band_memberships USING (room_nid) JOIN users USING (user_nid)
         WHERE room_id = %s AND user_id = %s""",
        (room_id, user_id),
    )


def list_out_of_band(txn: Txn, after: int, up_to: int, limit: int) -> list[MovedOutOfBand]:
    """Return the first ones at positions in (after, up_to], in order."""
    return list_rows(
        txn,
        MovedOutOfBand,
        """
        SELECT room_id, room_version, event_nid, event_id, pdu
          FROM rooms JOIN out_of_band_memberships USING (room_nid)
         WHERE event_nid > %s AND event_nid <= %s ORDER BY event_nid LIMIT %s""",
        (after, up_to, limit),
    )
