"""Rooms written straight into the database of a stopped server, thousands of events a second.

States, heads, memberships and numbers come about by the server's own code, so they are what the
engine would have written. Events have the shape and the size of signed ones, but their hashes and
signatures are filler: nothing looks at those of stored events.
"""

import io
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

import orjson
import psycopg2
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.core.state_map import State
from homeserver.engine.state_store import StateStore, Tail
from homeserver.storage import dictionaries, events, rooms, state_segments
from homeserver.storage.database import run_transaction
from homeserver.storage.memberships import NUMBERS
from homeserver.storage.query import Txn
from homeserver.storage.rooms import NewHead
from homeserver.storage.state_segments import Growth, Segment

P = ParamSpec("P")
T = TypeVar("T")

CHUNK = 10_000
VERSION = ROOM_VERSIONS["11"]
MEMBER = "m.room.member"
_EVENT_COLUMNS = (
    "events (room_nid, event_nid, event_id, type_nid, sender_nid, slot_nid, depth,"
    " origin_server_ts, state_before, state_after, prev_events, auth_events)"
)
_BYTE_COLUMNS = "event_bytes (room_nid, event_nid, pdu)"
_MEMBERSHIP_COLUMNS = "room_memberships (user_nid, room_nid, membership, event_nid, joined_nid)"
_FILLER_HASH = "x" * 43
_FILLER_SIGNATURE = "y" * 86


def finished(work: Coroutine[Deferred[Any], Any, T]) -> T:
    """Return the result of a coroutine that has nothing to wait for."""
    results: list[T | Failure] = []
    Deferred.fromCoroutine(work).addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


class DirectDatabase:
    """The server's `Database` on one connection, without threads."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg2.connect(url)
        self.connection.autocommit = True
        self.run_now(lambda txn: txn.cursor.execute("SET synchronous_commit = off"))

    def run_now(self, function: Callable[[Txn], T]) -> T:
        return run_transaction(self.connection, function)

    def run(
        self, function: Callable[Concatenate[Txn, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        return succeed(self.run_now(lambda txn: function(txn, *args, **kwargs)))

    read = run

    def close(self) -> None:
        self.connection.close()


@dataclass(slots=True)
class BulkRoom:
    room_nid: int
    room_id: RoomID
    tail: Tail
    state: State = field(default_factory=dict)
    auth: dict[str, tuple[int, EventID]] = field(default_factory=dict)
    """The state events that others cite, by type."""
    tip: tuple[int, EventID] | None = None
    depth: int = 0


class BulkWriter:
    def __init__(self, database: DirectDatabase, server_name: str) -> None:
        self.database = database
        self._server_name = server_name
        self.states = StateStore(database)
        finished(self.states.start())
        self._last_nid = database.run_now(events.max_event_nid)
        self._users: dict[UserID, int] = {}
        self._types: dict[str, int] = {}
        self._slots: dict[tuple[str, str], int] = {}
        self._now_ms = int(time.time() * 1000) - 86_400_000
        self._segments: list[Segment] = []
        self._growths: dict[int, Growth] = {}
        self._heads: dict[int, BulkRoom] = {}
        self._event_rows = io.StringIO()
        self._byte_rows = io.StringIO()
        self._membership_rows = io.StringIO()

    def make_room(self, name: str, creator: UserID) -> BulkRoom:
        """Write a public room with its creator in it."""
        room_id = RoomID(f"!{name}:{self._server_name}")
        room_nid = self.database.run_now(lambda txn: rooms.insert_room(txn, room_id, "11"))
        assert room_nid is not None, f"{room_id} is there already"
        tail, first = self.states.first_segment(room_nid)
        self._segments.append(first)
        room = BulkRoom(room_nid, room_id, tail)
        self._add(room, creator, "m.room.create", {"room_version": "11"}, "")
        self.add_members(room, [creator])
        others: Sequence[tuple[str, JsonObject]] = (
            ("m.room.power_levels", {"users": {creator: 100}}),
            ("m.room.join_rules", {"join_rule": "public"}),
            ("m.room.history_visibility", {"history_visibility": "shared"}),
            ("m.room.name", {"name": name}),
            ("m.room.topic", {"topic": "Where growth is measured"}),
        )
        for event_type, content in others:
            self._add(room, creator, event_type, content, "")
        return room

    def add_members(self, room: BulkRoom, users: Sequence[UserID]) -> None:
        for start in range(0, len(users), CHUNK):
            some = users[start : start + CHUNK]
            self._intern(some, [MEMBER], [(MEMBER, user_id) for user_id in some])
            for user_id in some:
                name = user_id[1:].split(":")[0]
                content: JsonObject = {"membership": "join", "displayname": name}
                nid = self._add(room, user_id, MEMBER, content, user_id)
                self._membership_rows.write(
                    f"{self._users[user_id]}\t{room.room_nid}\t{NUMBERS['join']}\t{nid}\t{nid}\n"
                )
            if len(users) > CHUNK:
                self.flush()

    def add_messages(self, room: BulkRoom, senders: Sequence[UserID], count: int) -> None:
        for number in range(count):
            content: JsonObject = {"msgtype": "m.text", "body": f"Message {number} of growth"}
            self._add(room, senders[number % len(senders)], "m.room.message", content, None)
            if number % CHUNK == CHUNK - 1:
                self.flush()

    def _intern(
        self, users: Iterable[UserID], types: Iterable[str], slots: Iterable[tuple[str, str]]
    ) -> None:
        new_users = [user for user in users if user not in self._users]
        new_types = [name for name in types if name not in self._types]
        new_slots = [slot for slot in slots if slot not in self._slots]

        def intern(txn: Txn) -> None:
            if new_users:
                self._users |= dictionaries.intern_users(txn, new_users)
            if new_types:
                self._types |= dictionaries.intern_types(txn, new_types)
            if new_slots:
                self._slots |= dictionaries.intern_slots(txn, new_slots, self._types)

        if new_users or new_types or new_slots:
            self.database.run_now(intern)

    def _add(
        self,
        room: BulkRoom,
        sender: UserID,
        event_type: str,
        content: JsonObject,
        state_key: str | None,
    ) -> int:
        """Put one event at the end of a room; return its number."""
        slots = [] if state_key is None else [(event_type, state_key)]
        self._intern([sender], [event_type], slots)
        self._last_nid += 1
        nid = self._last_nid
        raw_id = os.urandom(32)
        event_id = self.event_id(raw_id)
        cited = list(room.auth.values())
        room.depth += 1
        pdu: JsonObject = {
            "auth_events": [each for _, each in cited],
            "content": content,
            "depth": room.depth,
            "hashes": {"sha256": _FILLER_HASH},
            "origin_server_ts": self._now_ms + nid,
            "prev_events": [] if room.tip is None else [room.tip[1]],
            "room_id": room.room_id,
            "sender": sender,
            "signatures": {self._server_name: {"ed25519:auto": _FILLER_SIGNATURE}},
            "type": event_type,
        }
        slot_nid = None
        state_before = room.tail.state_nid
        if state_key is not None:
            pdu["state_key"] = state_key
            slot_nid = self._slots[event_type, state_key]
            self.change_state(room, slot_nid, nid)
        prev = "{}" if room.tip is None else f"{{{room.tip[0]}}}"
        auth = "{" + ",".join(str(each) for each, _ in cited) + "}"
        self._event_rows.write(
            f"{room.room_nid}\t{nid}\t\\\\x{raw_id.hex()}\t{self._types[event_type]}\t"
            f"{self._users[sender]}\t{slot_nid or chr(92) + 'N'}\t{room.depth}\t"
            f"{self._now_ms + nid}\t{state_before}\t{room.tail.state_nid}\t{prev}\t{auth}\n"
        )
        packed = orjson.dumps(pdu, option=orjson.OPT_SORT_KEYS)
        self._byte_rows.write(f"{room.room_nid}\t{nid}\t\\\\x{packed.hex()}\n")
        room.tip = (nid, event_id)
        if event_type in ("m.room.create", "m.room.power_levels", "m.room.join_rules"):
            room.auth[event_type] = room.tip
        self._heads[room.room_nid] = room
        return nid

    def change_state(self, room: BulkRoom, slot_nid: int, event_nid: int) -> None:
        before = {slot_nid: room.state[slot_nid]} if slot_nid in room.state else {}
        room.tail, row = self.states.append(
            room.room_nid,
            room.tail,
            before,
            [(slot_nid, event_nid)],
            whole=lambda: dict(room.state),
            size=len(room.state),
        )
        room.state[slot_nid] = event_nid
        if isinstance(row, Segment):
            self._segments.append(row)
            return
        last = self._growths.get(row.segment_nid)
        if last is not None:
            row = Growth(
                row.room_nid,
                row.segment_nid,
                last.changes + row.changes,
                last.count_before,
                row.change_count,
                row.state_hash,
            )
        self._growths[row.segment_nid] = row

    def event_id(self, stored: bytes) -> EventID:
        return events.decode_event_id(VERSION, stored)

    def flush_state(self) -> None:
        """Write the states alone."""
        segments, self._segments = self._segments, []
        growths, self._growths = list(self._growths.values()), {}

        def write(txn: Txn) -> None:
            state_segments.insert_segments(txn, segments)
            state_segments.append_changes(txn, growths)

        self.database.run_now(write)

    def flush(self) -> None:
        """Write what has gathered, in one transaction."""

        def write(txn: Txn) -> None:
            state_segments.insert_segments(txn, self._segments)
            state_segments.append_changes(txn, list(self._growths.values()))
            rooms.upsert_heads(txn, [_head(room) for room in self._heads.values()])
            for table, rows in (
                (_EVENT_COLUMNS, self._event_rows),
                (_BYTE_COLUMNS, self._byte_rows),
                (_MEMBERSHIP_COLUMNS, self._membership_rows),
            ):
                rows.seek(0)
                txn.cursor.copy_expert(f"COPY {table} FROM STDIN", rows)

        self.database.run_now(write)
        self._segments, self._growths, self._heads = [], {}, {}
        for rows in (self._event_rows, self._byte_rows, self._membership_rows):
            rows.seek(0)
            rows.truncate()


def _head(room: BulkRoom) -> NewHead:
    assert room.tip is not None
    return NewHead(room.room_nid, [room.tip[0]], room.tail.state_nid, room.tip[0])
