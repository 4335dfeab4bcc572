"""Writing the changes of rooms: what a group commit writes, in one transaction."""

from collections.abc import Mapping, Sequence

from twisted.internet.defer import CancelledError

from homeserver.core.identifiers import RoomID, ServerName, server_name_of
from homeserver.engine.live_room import MEMBER
from homeserver.engine.push_groups import KEPT_ROWS, PushGroups
from homeserver.engine.received_rows import ReceivedRows
from homeserver.engine.room_change import RoomChange
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.errors import DatabaseUnavailable
from homeserver.storage import (
    client_transactions,
    event_graph,
    events,
    introductions,
    memberships,
    notifications,
    out_of_band,
    outgoing_events,
    partial_state,
    relations,
    rooms,
    state_segments,
)
from homeserver.storage.database import Database
from homeserver.storage.introductions import NewIntroduction
from homeserver.storage.outgoing_events import OutgoingEvent
from homeserver.storage.query import Txn


class ChangeWriter:
    def __init__(
        self, server_name: ServerName, database: Database, push_groups: PushGroups
    ) -> None:
        self._server_name = server_name
        self._db = database
        self._push_groups = push_groups

    async def write(self, changes: Sequence[RoomChange]) -> Mapping[RoomID, Exception]:
        """Commit the changes in one transaction, and return which rooms' failed and why.

        1. A lost connection may have been lost after the commit: the database is asked.
        2. What the database refuses for what it says must not keep other rooms from being heard:
           each room is then committed alone.
        """
        if not changes:
            return {}
        try:
            await self._push_groups.judge(changes)
            await self._db.run(_write_txn, self._server_name, changes)
        except DatabaseUnavailable as error:
            return {} if await self._has_happened(changes) else all_failed(changes, error)  # 1
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - told to those who wait, and logged there
            if len(changes) == 1:
                return all_failed(changes, error)
            failed: dict[RoomID, Exception] = {}
            for change in changes:  # 2
                failed |= await self.write([change])
            return failed
        return {}

    async def _has_happened(self, changes: Sequence[RoomChange]) -> bool:
        for change in changes:
            if change.event_rows:
                newest = change.event_rows[-1].event_nid
                try:
                    return await self._db.read(events.has_event, change.room.room_nid, newest)
                except DatabaseUnavailable:
                    return False
        return False


def all_failed(changes: Sequence[RoomChange], error: Exception) -> dict[RoomID, Exception]:
    return {change.room.room_id: error for change in changes}


def _write_txn(txn: Txn, server_name: ServerName, changes: Sequence[RoomChange]) -> None:
    events.insert_events(txn, [row for change in changes for row in change.event_rows])
    outgoing_events.insert_outgoing(
        txn, [row for change in changes for row in _list_outgoing(change, server_name)]
    )
    state_segments.insert_segments(txn, [row for change in changes for row in change.segments])
    state_segments.append_changes(txn, [row for change in changes for row in change.growths])
    rooms.upsert_heads(txn, [change.head() for change in changes if change.shown_up_to])
    memberships.upsert_memberships(
        txn, [row for change in changes for row in change.membership_rows]
    )
    introductions.insert_introductions(
        txn, [row for change in changes for row in _list_introductions(change, server_name)]
    )
    relations.insert_relations(txn, [row for change in changes for row in change.relation_rows])
    client_transactions.insert_transactions(
        txn, [row for change in changes for row in change.transactions]
    )
    notifications.insert_notifications(
        txn, [row for change in changes for row in change.notification_rows]
    )
    for change in changes:
        if change.has_old_notifications:
            notifications.delete_old(txn, change.room.room_nid, KEPT_ROWS)
        _write_received(txn, change.received)
        for target_nid, redaction_nid in change.redactions:
            events.update_redacted_by(txn, change.room.room_nid, target_nid, redaction_nid)
            relations.delete_relation(txn, change.room.room_nid, target_nid)


def _list_outgoing(change: RoomChange, server_name: ServerName) -> list[OutgoingEvent]:
    """Return what other servers must be sent: our users' events in rooms that others are in."""
    room = change.room
    has_others = room.is_partial or room.servers.keys() - {server_name}
    return [
        OutgoingEvent(event.event_nid, room.room_nid, event.event_nid)
        for event in change.new_events
        if server_name_of(event.sender) == server_name
        and (has_others or _is_about_remote_user(event, server_name))
    ]


def _list_introductions(change: RoomChange, server_name: ServerName) -> list[NewIntroduction]:
    """Return whom servers of the room may have to hear of: our users who come into it, and what
    the change says itself.
    """
    came = {
        each.event_nid
        for each in change.new_events
        if each.type == MEMBER
        and each.event.membership == "join"
        and server_name_of(each.state_key or "") == server_name
        and (each.replaced is None or each.replaced.membership != "join")
    }
    if not came or not (change.received.joined or change.room.list_servers() - {server_name}):
        return change.received.introductions
    return change.received.introductions + [
        NewIntroduction(row.user_nid, row.room_nid, None)
        for row in change.membership_rows
        if row.event_nid in came
    ]


def _is_about_remote_user(event: TimelineEvent, server_name: ServerName) -> bool:
    return event.type == MEMBER and server_name_of(event.state_key or "") != server_name


def _write_received(txn: Txn, rows: ReceivedRows) -> None:
    events.update_placed(txn, rows.placed)
    event_graph.insert_missing_parents(txn, rows.missing_parents)
    for room_nid, event_nid, event_id in rows.now_known:
        children = event_graph.delete_missing_parent(txn, room_nid, event_id)
        if children:
            events.append_parent(txn, room_nid, children, event_nid)
        event_graph.delete_waiting_redactions(txn, room_nid, event_id)
    event_graph.insert_waiting_redactions(txn, rows.waiting_redactions)
    out_of_band.upsert_out_of_band(txn, rows.out_of_band)
    for joined in rows.joined:
        out_of_band.delete_out_of_band(txn, joined.room_nid)
        if joined.servers is None:
            partial_state.delete_partial_room(txn, joined.room_nid)
        else:
            partial_state.insert_partial_room(txn, joined.room_nid, joined.join_nid, joined.servers)
    for room_nid, whole_nid in rows.whole:
        partial_state.update_whole(txn, room_nid, whole_nid)
