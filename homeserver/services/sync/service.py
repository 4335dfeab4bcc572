"""Sync: what has happened since a token, or as soon as something does.

spec: client-server-api/#get_matrixclientv3sync, v1.19.

1. Ask to be woken by the user and his rooms, before looking, so that no wake-up is lost.
2. Note the present positions; everything up to them is told, nothing after.
3. Which rooms moved is known in memory; only their parts are built.
4. Without news and with a timeout, wait, and begin again.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import orjson

from homeserver.clock import Clock, cancel_call
from homeserver.core.filters import SyncFilter
from homeserver.core.identifiers import RoomID, UserID
from homeserver.engine.commit_loop import Committed
from homeserver.engine.notifier import Notifier
from homeserver.engine.streams import Streams
from homeserver.engine.user_rooms import RoomOfUser, UserRooms
from homeserver.requester import Requester
from homeserver.services.sync.room_extras import Extras, RoomExtras, render_events
from homeserver.services.sync.rooms import RoomParts
from homeserver.services.sync.sent_members import SentMembers
from homeserver.services.sync.token import SyncToken, current_token, parse_token
from homeserver.services.sync.user_parts import UserParts
from homeserver.services.sync.wish import Wish

_TICK_SECONDS = 0.25
_EXACT_SECONDS = 5.0
"""Shorter waits end exactly when they should."""
ROOMS_AT_ONCE = 100
"""Built before others get their turn."""
_EMPTY_PART = b'"timeline":{"events":[],"limited":false,"prev_batch":%b},%b:{"events":[]}'


@dataclass(frozen=True, slots=True)
class SyncRequest:
    requester: Requester
    since: str | None
    timeout_ms: int
    chosen: SyncFilter
    full_state: bool = False
    use_state_after: bool = False


class Alarms:
    """Ends of long polls: those that are due at about the same time share one timer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[int, set[Callable[[], None]]] = {}

    def call_within(self, seconds: float, call: Callable[[], None]) -> Callable[[], object]:
        """Call when the time is over, or a little before; returns what cancels it."""
        if seconds < _EXACT_SECONDS:
            return partial(cancel_call, self._clock.call_later(seconds, call))
        now = self._clock.monotonic()
        tick = int((now + seconds) / _TICK_SECONDS)
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = set()
            self._clock.call_later(tick * _TICK_SECONDS - now, partial(self._ring, tick))
        due.add(call)
        return partial(due.discard, call)

    def _ring(self, tick: int) -> None:
        for call in tuple(self._due.pop(tick)):
            call()


class News:
    """One wait, under way since it was made."""

    def __init__(self, waiting: "Waiting", requester: Requester, keys: Sequence[str]) -> None:
        self._shared = waiting
        self._requester = requester
        self._waiting = waiting.notifier.wait([requester.user_id, *keys])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shared.notifier.forget(self._waiting)

    async def within(self, seconds: float) -> bool:
        """Return whether there was a change in that time.

        Raises UnknownToken when the session has ended meanwhile.
        """
        has_ended = False

        def end() -> None:
            nonlocal has_ended
            has_ended = True
            self._shared.notifier.end(self._waiting)

        cancel = self._shared.alarms.call_within(seconds, end)
        try:
            await self._waiting
        finally:
            cancel()
        if has_ended or self._shared.notifier.is_closed:
            return False
        await self._shared.check_session(self._requester)
        return True


class Waiting:
    """Begins waits for changes that concern somebody."""

    def __init__(
        self,
        notifier: Notifier[Committed],
        clock: Clock,
        check_session: Callable[[Requester], Awaitable[None]],
    ) -> None:
        """`check_session` raises UnknownToken; whoever ends sessions wakes their user."""
        self.notifier = notifier
        self.alarms = Alarms(clock)
        self.check_session = check_session
        self._clock = clock

    @property
    def now(self) -> float:
        return self._clock.monotonic()

    async def give_way(self) -> None:
        """Let others have their turn: what is in memory is read without a pause."""
        await self._clock.sleep(0)

    def for_any(self, requester: Requester, keys: Sequence[str]) -> News:
        """`keys` beside the requester's own: his rooms."""
        return News(self, requester, keys)


class Sync:
    def __init__(
        self,
        streams: Streams,
        user_rooms: UserRooms,
        waiting: Waiting,
        room_parts: RoomParts,
        room_extras: RoomExtras,
        user_parts: UserParts,
    ) -> None:
        self._streams = streams
        self._user_rooms = user_rooms
        self._waiting = waiting
        self._room_parts = room_parts
        self._room_extras = room_extras
        self._user_parts = user_parts
        self._sent_members = SentMembers()

    async def sync(self, wanted: SyncRequest) -> bytes:
        """Return the response's JSON. Raises InvalidParam for a token of another server."""
        deadline = self._waiting.now + wanted.timeout_ms / 1000
        while True:
            rooms = await self._user_rooms.rooms_of(wanted.requester.user_id)
            keys = [room.room_id for room in rooms.values() if room.membership == "join"]
            with self._waiting.for_any(wanted.requester, keys) as news:  # 1
                now = current_token(self._streams)  # 2
                since = None if wanted.since is None else parse_token(wanted.since, self._streams)
                body, is_empty = await self._build(wanted, since, now)  # 3
                left = deadline - self._waiting.now
                if not is_empty or since is None or wanted.full_state or left <= 0:
                    return body
                if not await news.within(left):  # 4
                    return body  # nothing that concerns the user has happened since

    async def _build(
        self, wanted: SyncRequest, since: SyncToken | None, now: SyncToken
    ) -> tuple[bytes, bool]:
        requester = wanted.requester
        user_id = requester.user_id
        chosen = wanted.chosen
        rooms = await self._user_rooms.rooms_of(user_id)
        since_events = None if since is None else since.events
        forgotten = () if since is None else self._user_rooms.forgotten_since(user_id, since.events)
        mine = [
            standing
            for room in (*rooms.values(), *forgotten)
            if chosen.room.allows_room(room.room_id)
            and (standing := standing_at(room, now.events)) is not None
        ]
        joined = [room for room in mine if room.membership == "join"]
        newly_joined = [
            room.room_id for room in joined if since_events is None or room.new_at > since_events
        ]
        extras = await self._room_extras.collect(
            user_id, since, now, [r.room_id for r in joined], newly_joined, chosen
        )
        wish = Wish(
            requester,
            chosen,
            since_events,
            now.events,
            wanted.full_state,
            wanted.use_state_after,
            self._sent_members.begin(requester, wanted.since),
        )
        sections: dict[str, list[bytes]] = {"join": [], "invite": [], "knock": [], "leave": []}
        moved = (
            {room.room_id for room in joined}
            if since_events is None
            else {r.room_id for r in await self._user_rooms.moved_since(joined, since_events)}
        )
        with_extras = extras.rooms()
        shown: dict[RoomID, tuple[int, bytes]] = {}
        for room in joined:
            has_extras = room.room_id in with_extras
            if room.room_id not in moved and not has_extras and not wanted.full_state:
                continue
            part = await self._room_parts.joined(wish, room, moved=room.room_id in moved)
            if part is None:
                continue
            if part.is_empty and not has_extras:
                continue
            json = part.json
            if part.is_empty:
                json = _EMPTY_PART % (orjson.dumps(str(now)), wish.state_key)
            json += b',"ephemeral":' + render_events(extras.ephemeral.get(room.room_id, ()))
            json += b',"account_data":' + render_events(
                extras.room_account_data.get(room.room_id, ())
            )
            shown[room.room_id] = (room.room_nid, json)
            if len(shown) % ROOMS_AT_ONCE == 0:
                await self._waiting.give_way()
        sections["join"] = await self._with_unread(user_id, shown, chosen)
        await self._other_rooms(wish, mine, sections, extras)
        to_device = await self._user_parts.to_device(requester, since, now)
        next_batch = str(replace(now, to_device=to_device.up_to))
        self._sent_members.end(requester, wanted.since, wish.sent, next_batch)
        parts = [b'{"next_batch":', orjson.dumps(next_batch)]
        is_empty = not any(sections.values())
        if not is_empty:
            parts += [b',"rooms":{', _sections(sections), b"}"]
        if extras.global_account_data:
            is_empty = False
            parts += [b',"account_data":', render_events(extras.global_account_data)]
        met, left_behind = await self._user_parts.members_since(user_id, mine, since, now)
        presence = await self._user_parts.presence(user_id, since, met, chosen.presence)
        if presence:
            is_empty = False
            parts += [b',"presence":', render_events(presence)]
        if to_device.events:
            is_empty = False
            parts += [b',"to_device":', render_events(to_device.events)]
        if since is not None:
            changed, left = await self._user_parts.device_lists(
                user_id, since, now, met, left_behind
            )
            if changed or left:
                is_empty = False
                lists = {"changed": changed, "left": left}
                parts += [b',"device_lists":', orjson.dumps(lists)]
        if requester.device_id is not None:
            counts, unused = await self._user_parts.key_counts(user_id, requester.device_id)
            parts += [
                b',"device_one_time_keys_count":', orjson.dumps(counts),
                b',"device_unused_fallback_key_types":', orjson.dumps(unused),
            ]  # fmt: skip
        return b"".join([*parts, b"}"]), is_empty

    async def _with_unread(
        self, user_id: UserID, shown: Mapping[RoomID, tuple[int, bytes]], chosen: SyncFilter
    ) -> list[bytes]:
        """Add the unread counts to joined rooms, given by number and JSON."""
        rooms = {room_id: room_nid for room_id, (room_nid, _) in shown.items()}
        unread = await self._room_extras.unread(user_id, rooms, chosen)
        return [
            _keyed(room_id, json + b"," + unread[room_id]) for room_id, (_, json) in shown.items()
        ]

    async def _other_rooms(
        self,
        wish: Wish,
        mine: Sequence[RoomOfUser],
        sections: Mapping[str, list[bytes]],
        extras: Extras,
    ) -> None:
        """Invitations, knocks, and the rooms that the user has left since."""
        user_id = wish.requester.user_id
        for room in mine:
            is_news = wish.since is None or room.event_nid > wish.since
            if not is_news:
                continue
            if room.membership in ("invite", "knock"):
                if await self._room_parts.is_ignored(user_id, room):
                    continue
                state = await self._room_parts.stripped_state(user_id, room)
                key = b'"%s_state":{"events":' % room.membership.encode()
                sections[room.membership].append(_keyed(room.room_id, key + state + b"}"))
            elif room.membership in ("leave", "ban"):
                if wish.since is None and not wish.chosen.room.include_leave:
                    continue
                part = await self._room_parts.left(wish, room)
                if part is not None and not part.is_empty:
                    account_data = extras.room_account_data.get(room.room_id, ())
                    json = part.json + b',"account_data":' + render_events(account_data)
                    sections["leave"].append(_keyed(room.room_id, json))


def standing_at(room: RoomOfUser, position: int) -> RoomOfUser | None:
    """Return how the user stood at a position; None: as far as this sync goes, he was not in."""
    if room.event_nid <= position:
        return room
    if room.joined_nid is None or room.joined_nid > position:
        return None
    if room.left_nid is not None and room.left_nid <= position:
        return None
    return replace(room, membership="join", event_nid=room.joined_nid, left_nid=None)


def _keyed(room_id: RoomID, members: bytes) -> bytes:
    return orjson.dumps(room_id) + b":{" + members + b"}"


def _sections(sections: Mapping[str, list[bytes]]) -> bytes:
    return b",".join(
        b'"%s":{%s}' % (name.encode(), b",".join(rooms))
        for name, rooms in sections.items()
        if rooms
    )
