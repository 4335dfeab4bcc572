"""Simplified sliding sync: what is new in the rooms a client looks at, or as soon as there is.

spec: MSC4186 beside v1.19

1. Ask to be woken by the user and his rooms, before looking, so that no wake-up is lost.
2. Note the present positions; what the connection was told is compared with them.
3. Find the rooms that the request matches; most have not moved, as memory knows.
4. Without news and with a timeout, wait, and begin again.
5. Only the answer changes the connection: a request that is cut off leaves no trace.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson

from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.engine.streams import Streams
from homeserver.engine.user_rooms import UserRooms
from homeserver.services.account_data import AccountData
from homeserver.services.sliding_sync.connections import Answer, Connections, Told
from homeserver.services.sliding_sync.device_extensions import DeviceExtensions
from homeserver.services.sliding_sync.marks import Marks
from homeserver.services.sliding_sync.room_extensions import RoomExtensions, Scene
from homeserver.services.sliding_sync.room_list import Matches, RoomList
from homeserver.services.sliding_sync.room_results import Fields, Moment, RoomResults
from homeserver.services.sliding_sync.wishes import SlidingRequest
from homeserver.services.sync.service import ROOMS_AT_ONCE, Waiting, standing_at
from homeserver.services.sync.token import SyncToken, current_token
from homeserver.services.unread_counts import NOTHING, UnreadCounts


@dataclass(frozen=True, slots=True)
class _Built:
    parts: Fields
    """The response but for its `pos`."""
    is_news: bool
    answer: Answer


@dataclass(frozen=True, slots=True)
class _Rooms:
    results: Mapping[str, Fields]
    told: Mapping[RoomID, Told]
    weight: int
    """Of what has been told."""
    timelines: Mapping[RoomID, list[EventID]]


class Parts:
    """What an answer is made of."""

    def __init__(
        self,
        account_data: AccountData,
        room_list: RoomList,
        room_results: RoomResults,
        room_extensions: RoomExtensions,
        device_extensions: DeviceExtensions,
        unread_counts: UnreadCounts,
    ) -> None:
        self.account_data = account_data
        self.room_list = room_list
        self.room_results = room_results
        self.room_extensions = room_extensions
        self.device_extensions = device_extensions
        self.unread_counts = unread_counts


class SlidingSync:
    def __init__(
        self,
        streams: Streams,
        user_rooms: UserRooms,
        waiting: Waiting,
        connections: Connections,
        parts: Parts,
    ) -> None:
        self._streams = streams
        self._user_rooms = user_rooms
        self._waiting = waiting
        self._connections = connections
        self._parts = parts

    async def sync(self, wanted: SlidingRequest) -> bytes:
        """Return the response's JSON. Raises UnknownPos."""
        connection, before = self._connections.open(wanted.requester, wanted.conn_id, wanted.pos)
        deadline = self._waiting.now + wanted.timeout_ms / 1000
        while True:
            rooms = await self._user_rooms.rooms_of(wanted.requester.user_id)
            keys = [room.room_id for room in rooms.values() if room.membership == "join"]
            with self._waiting.for_any(wanted.requester, keys) as news:  # 1
                now = current_token(self._streams)  # 2
                built = await self._build(wanted, before, now)  # 3
                left = deadline - self._waiting.now
                if built.is_news or before is None or left <= 0 or not await news.within(left):  # 4
                    pos = self._connections.note(connection, built.answer)  # 5
                    return orjson.dumps({"pos": pos, **built.parts})

    async def _build(self, wanted: SlidingRequest, before: Answer | None, now: SyncToken) -> _Built:
        user_id = wanted.requester.user_id
        account_data = (
            await self._parts.account_data.initial(user_id)
            if before is None
            else await self._parts.account_data.changes(
                user_id, before.now.account_data, now.account_data
            )
        )
        marks = Marks() if before is None else before.marks
        if any(account_data):
            marks = marks.after(*account_data)
        rooms = list((await self._user_rooms.rooms_of(user_id)).values())
        standings = [
            room
            for each in rooms
            if (room := each if each.event_nid <= now.events else standing_at(each, now.events))
        ]
        told = before.rooms if before is not None else {}
        listed = await self._parts.room_list.all(user_id, standings, told)
        matches = await self._parts.room_list.match(
            user_id, listed, marks, wanted.lists, wanted.subscriptions
        )
        rooms_part = await self._rooms(wanted, before, now, marks, matches)
        heard = dict(before.heard) if before is not None else {}
        extensions: Fields = {}
        is_news = bool(rooms_part.results)
        scene = Scene(
            user_id,
            before,
            now,
            matches.rooms,
            wanted.subscriptions.keys(),
            rooms_part.timelines,
            account_data,
        )
        for name, wish in wanted.room_extensions.items():
            extension = await self._parts.room_extensions.tell(name, wish, scene)
            heard[name] = extension.heard
            if extension.told:
                extensions[name] = extension.told
                is_news = True
        keys_at, has_device_news = await self._devices(wanted, before, now, extensions)
        return _Built(
            {
                "lists": {name: {"count": count} for name, count in matches.counts.items()},
                "rooms": rooms_part.results,
                "extensions": extensions,
            },
            is_news or has_device_news,
            Answer(now, rooms_part.told, marks, heard, keys_at, rooms_part.weight),
        )

    async def _rooms(
        self,
        wanted: SlidingRequest,
        before: Answer | None,
        now: SyncToken,
        marks: Marks,
        matches: Matches,
    ) -> _Rooms:
        moment = Moment(wanted.requester, before.now.events if before else None, now.events)
        told = before.rooms if before is not None else {}
        changed: dict[RoomID, Told] = {}
        results: dict[str, Fields] = {}
        timelines: dict[RoomID, list[EventID]] = {}
        for room_id, match in matches.rooms.items():
            result = await self._parts.room_results.make(
                moment, match, told.get(room_id), is_dm=room_id in marks.direct
            )
            if result is None:
                continue
            changed[room_id] = result.told
            timelines[room_id] = list(result.events)
            if len(changed) % ROOMS_AT_ONCE == 0:
                await self._waiting.give_way()
            if result.fields.keys() - {"lists"}:
                results[room_id] = result.fields
        await self._count_unread(wanted.requester.user_id, now, matches, told, changed, results)
        weight = sum(room.weight for room in changed.values())
        if before is not None:
            weight += before.weight - sum(told[r].weight for r in changed if r in told)
        return _Rooms(results, {**told, **changed} if changed else told, weight, timelines)

    async def _count_unread(
        self,
        user_id: UserID,
        now: SyncToken,
        matches: Matches,
        told: Mapping[RoomID, Told],
        changed: dict[RoomID, Told],
        results: dict[str, Fields],
    ) -> None:
        """Add the counts that differ, of the rooms that moved or that the user has read on in."""
        counts = self._parts.unread_counts
        asked = {
            room_id: match.listed.mine.room_nid
            for room_id, match in matches.rooms.items()
            if match.listed.mine.membership == "join"
            and (
                room_id in changed
                or (
                    told[room_id].unread_at < now.receipts
                    and counts.has_new_receipt(user_id, room_id, told[room_id].unread_at)
                )
            )
        }
        if not asked:
            return
        for room_id, threads in (await counts.by_thread(user_id, asked)).items():
            unread = sum(threads.values(), NOTHING)
            before = told.get(room_id)
            after = changed.get(room_id) or told[room_id]
            changed[room_id] = replace(after, unread=unread, unread_at=now.receipts)
            is_fresh = "initial" in results.get(room_id, {})
            if before is None or is_fresh or unread != before.unread:
                results.setdefault(room_id, {}).update(unread.to_json())

    async def _devices(
        self,
        wanted: SlidingRequest,
        before: Answer | None,
        now: SyncToken,
        extensions: Fields,
    ) -> tuple[SyncToken | None, bool]:
        """Add what the device is told; return up to where its keys are, and whether it is news."""
        requester = wanted.requester
        keys_at = None if before is None else before.keys_at
        is_news = False
        if requester.device_id is None:
            return keys_at, False
        if wanted.to_device_since is not None:
            to_device = await self._parts.device_extensions.to_device(
                requester, wanted.to_device_since, now, wanted.to_device_limit
            )
            extensions["to_device"] = to_device
            is_news = bool(to_device["events"])
        if wanted.wants_e2ee:
            told, has_lists = await self._parts.device_extensions.e2ee(
                requester.user_id, requester.device_id, keys_at, now
            )
            extensions["e2ee"] = told
            keys_at = now
            is_news = is_news or has_lists
        return keys_at, is_news
