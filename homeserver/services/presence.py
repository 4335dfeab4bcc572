"""Who is there. In memory only: it is over before it would be worth storing.

spec: client-server-api/#presence, server-server-api/#presence, v1.19
Invariants: whoever shares a room with a user is told of each change at his next sync; only small
rooms are woken for it, and at most once a second. No client is told just because time passes: a
user who is online counts as active until he has been idle so long that he becomes unavailable,
which is a change like any other. Of a user of another server its word counts, for a while.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from twisted.internet.interfaces import IDelayedCall

from homeserver.background import Background
from homeserver.clock import Clock, cancel_call
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.commit_loop import Committed
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.streams import Stream
from homeserver.engine.user_rooms import UserRooms
from homeserver.errors import Forbidden, InvalidParam

ONLINE = "online"
UNAVAILABLE = "unavailable"
OFFLINE = "offline"
_BEST_FIRST = (ONLINE, UNAVAILABLE)
_IDLE_SECONDS = 300.0
_GONE_SECONDS = 30.0
"""A client that has not asked for so long has gone: it leaves no gap between its syncs."""
_PAUSE_SECONDS = 1.0
_MAX_WOKEN_MEMBERS = 100
_MAX_USERS = 100_000
MAX_STATUS_LENGTH = 2_000
_REMOTE_SECONDS = 1_800.0
"""What another server has said counts for so long; it is to say it again before."""

PresenceListener = Callable[[Collection[UserID]], None]


@dataclass(slots=True)
class _Device:
    wish: str
    last_seen: float
    syncs: int = 0
    """How many are under way."""


@dataclass(frozen=True, slots=True)
class RemotePresence:
    """What another server says of one of its users."""

    user_id: UserID
    state: str
    status: str | None
    idle_seconds: float
    is_active: bool


@dataclass(slots=True)
class _Person:
    last_active: float
    state: str = OFFLINE
    status: str | None = None
    position: int = 0
    """Of the last change."""
    own_position: int = 0
    """Of the last change that the user himself is told: one that he asked for."""
    due: float | None = None
    """When to look at him again."""
    devices: dict[str | None, _Device] = field(default_factory=dict)
    remote: RemotePresence | None = None
    """The last word of his server, if that is another one."""
    remote_until: float = 0.0


class Presence:
    """`wake` is told the rooms of those who changed."""

    def __init__(
        self,
        clock: Clock,
        stream: Stream,
        user_rooms: UserRooms,
        live_rooms: LiveRooms,
        background: Background,
        wake: Callable[[Iterable[str]], None],
        *,
        enabled: bool,
    ) -> None:
        self._clock = clock
        self._stream = stream
        self._user_rooms = user_rooms
        self._live_rooms = live_rooms
        self._background = background
        self._wake = wake
        self._enabled = enabled
        self._people: OrderedDict[UserID, _Person] = OrderedDict()
        """Who changed last comes last."""
        self._due: list[tuple[float, UserID]] = []
        """A heap."""
        self._timer: IDelayedCall | None = None
        self._timer_at = 0.0
        self._untold: set[UserID] = set()
        self._is_telling = False
        self._listeners: list[PresenceListener] = []

    def subscribe(self, listener: PresenceListener) -> None:
        """Call `listener` with those who have changed, at most once a second."""
        self._listeners.append(listener)

    # --- what users do

    def set_own(
        self, user_id: UserID, device_id: str | None, state: str, status: str | None
    ) -> None:
        """Raises InvalidParam for a status that is too long."""
        if status is not None and len(status) > MAX_STATUS_LENGTH:
            raise InvalidParam(f"status_msg may have {MAX_STATUS_LENGTH} characters")
        if not self._enabled:
            return
        person, device = self._find(user_id, device_id, state)
        device.wish = state
        device.last_seen = person.last_active = self._clock.monotonic()
        has_new_status = person.status != status
        person.status = status
        if self._settle(user_id, person) or has_new_status:
            self._changed(user_id, person)
            person.own_position = person.position
            self._wake([user_id])

    @contextmanager
    def syncing(self, user_id: UserID, device_id: str | None, wish: str) -> Iterator[None]:
        """Inside, the device is there and `wish` is its state; OFFLINE: nothing happens."""
        if not self._enabled or wish == OFFLINE:
            yield
            return
        person, device = self._find(user_id, device_id, wish)
        device.wish = wish
        device.syncs += 1
        if person.state == OFFLINE:
            person.last_active = self._clock.monotonic()
        if not person.state == wish == ONLINE and self._settle(user_id, person):
            self._changed(user_id, person)
        try:
            yield
        finally:
            device.syncs -= 1
            device.last_seen = self._clock.monotonic()
            if person.due is None or person.due > device.last_seen + _GONE_SECONDS:
                self._schedule(user_id, person)

    def set_remote(self, said: RemotePresence) -> None:
        """Take in what another server says of its user, who shares a room with a local one."""
        if not self._enabled:
            return
        now = self._clock.monotonic()
        person = self._find_person(said.user_id)
        was_active = person.remote is not None and person.remote.is_active
        before = (person.state, person.status, was_active)
        person.remote, person.remote_until = said, now + _REMOTE_SECONDS
        person.last_active = now - said.idle_seconds
        person.state, person.status = said.state, said.status
        self._schedule(said.user_id, person)
        if before != (said.state, said.status, said.is_active):
            self._changed(said.user_id, person)

    def note_committed(self, committed: Sequence[Committed]) -> None:
        """Who sends a message is active, and there again if he was unavailable."""
        for each in committed:
            if each.event.event.state_key is not None:
                continue
            person = self._people.get(each.event.event.sender)
            if person is not None:
                person.last_active = self._clock.monotonic()
                if person.state == UNAVAILABLE:
                    for device in person.devices.values():
                        device.wish = ONLINE if device.wish == UNAVAILABLE else device.wish
                    if self._settle(each.event.event.sender, person):
                        self._changed(each.event.event.sender, person)

    # --- what others see

    async def get(self, reader: UserID, user_id: UserID) -> JsonObject:
        """Raises Forbidden for those who share no room."""
        if not await self._user_rooms.share_a_room(reader, user_id):
            raise Forbidden("You are not allowed to see their presence")
        return self.content_of(user_id)

    def list_present(self, user_ids: Iterable[UserID]) -> list[tuple[UserID, JsonObject]]:
        """Return the contents of m.presence of those who are there."""
        return [
            (user_id, self._content(person))
            for user_id in user_ids
            if (person := self._people.get(user_id)) is not None and person.state != OFFLINE
        ]

    def list_all_present(self) -> list[UserID]:
        return [user_id for user_id, person in self._people.items() if person.state != OFFLINE]

    def content_of(self, user_id: UserID) -> JsonObject:
        """Return the content of his m.presence."""
        person = self._people.get(user_id)
        return {"presence": OFFLINE} if person is None else self._content(person)

    async def changes(
        self, reader: UserID, after: int, newcomers: Collection[UserID]
    ) -> list[JsonObject]:
        """Return the m.presence of who changed after a position, and of newcomers who are there.

        After 0 those who are there are all that is new.
        """
        changed: list[UserID] = []
        for user_id in reversed(self._people):
            person = self._people[user_id]
            if person.position <= after:
                break
            if user_id == reader and person.own_position <= after:
                continue
            if after or person.state != OFFLINE or person.status:
                changed.append(user_id)
        met = [
            user_id
            for user_id in newcomers
            if (known := self._people.get(user_id)) is not None
            and known.state != OFFLINE
            and known.position <= after
            and user_id != reader
        ]
        if not changed and not met:
            return []
        mine = (await self._user_rooms.joined(reader)).keys()
        events: list[JsonObject] = []
        for user_id in (*changed, *met):
            if user_id == reader or await self._is_in_any(user_id, mine):
                content = self._content(self._people[user_id])
                events.append({"type": "m.presence", "sender": user_id, "content": content})
        return events

    async def _is_in_any(self, user_id: UserID, room_ids: Collection[RoomID]) -> bool:
        rooms = await self._user_rooms.rooms_of(user_id)
        return any(room.membership == "join" for id_, room in rooms.items() if id_ in room_ids)

    def _content(self, person: _Person) -> JsonObject:
        idle = self._clock.monotonic() - person.last_active
        content: JsonObject = {
            "presence": person.state,
            "last_active_ago": int(idle * 1000),
            "currently_active": (
                person.state == ONLINE if person.remote is None else person.remote.is_active
            ),
        }
        if person.status is not None:
            content["status_msg"] = person.status
        return content

    # --- how states follow from devices and time

    def _find(self, user_id: UserID, device_id: str | None, wish: str) -> tuple[_Person, _Device]:
        now = self._clock.monotonic()
        person = self._find_person(user_id)
        device = person.devices.get(device_id)
        if device is None:
            device = person.devices[device_id] = _Device(wish, now)
        return person, device

    def _find_person(self, user_id: UserID) -> _Person:
        person = self._people.get(user_id)
        if person is None:
            self._make_room()
            person = self._people[user_id] = _Person(self._clock.monotonic())
            self._people.move_to_end(user_id, last=False)
        return person

    def _make_room(self) -> None:
        if len(self._people) >= _MAX_USERS:
            for user_id, person in self._people.items():
                if not person.devices:
                    del self._people[user_id]
                    return

    def _settle(self, user_id: UserID, person: _Person) -> bool:
        """Find the state anew and say whether it differs.

        1. A device that has gone is forgotten.    2. The best of the others counts.
        3. Nobody is online who has long been idle.    4. Of others, what their server says.
        """
        now = self._clock.monotonic()
        if person.remote is not None:  # 4
            before, person.state = person.state, person.remote.state
            if now >= person.remote_until:
                person.remote, person.state = None, OFFLINE
            self._schedule(user_id, person)
            return person.state != before
        for device_id, device in list(person.devices.items()):
            if not device.syncs and now - device.last_seen >= _GONE_SECONDS:  # 1
                del person.devices[device_id]
        wishes = {device.wish for device in person.devices.values()}
        state = next((wish for wish in _BEST_FIRST if wish in wishes), OFFLINE)  # 2
        if state == ONLINE and now - person.last_active >= _IDLE_SECONDS:  # 3
            state = UNAVAILABLE
        before, person.state = person.state, state
        self._schedule(user_id, person)
        return state != before

    def _schedule(self, user_id: UserID, person: _Person) -> None:
        """See to it that the user is looked at when time alone may change his state."""
        times = [d.last_seen + _GONE_SECONDS for d in person.devices.values() if not d.syncs]
        if person.remote is not None:
            times = [person.remote_until] if person.state != OFFLINE else []
        elif person.state == ONLINE:
            times.append(person.last_active + _IDLE_SECONDS)
        if times and (person.due is None or min(times) < person.due):
            person.due = min(times)
            heapq.heappush(self._due, (person.due, user_id))
            self._arm()

    def _arm(self) -> None:
        if self._due and (self._timer is None or self._due[0][0] < self._timer_at):
            cancel_call(self._timer)
            self._timer_at = self._due[0][0]
            seconds = max(0.0, self._timer_at - self._clock.monotonic())
            self._timer = self._clock.call_later(seconds, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            due, user_id = heapq.heappop(self._due)
            person = self._people.get(user_id)
            if person is not None and person.due == due:
                person.due = None
                if self._settle(user_id, person):
                    self._changed(user_id, person)
        self._arm()

    # --- telling

    def _changed(self, user_id: UserID, person: _Person) -> None:
        person.position = self._stream.allocate()
        self._stream.release(person.position)
        self._people.move_to_end(user_id)
        self._untold.add(user_id)
        if not self._is_telling:
            self._is_telling = True
            self._background.run("presence", self._tell())

    async def _tell(self) -> None:
        """Wake the small rooms of those who changed; what happens meanwhile is told together."""
        try:
            while self._untold:
                changed, self._untold = self._untold, set()
                keys: set[str] = set()
                for user_id in changed:
                    for room_id in await self._user_rooms.joined(user_id):
                        room = self._live_rooms.find_loaded(room_id)
                        if room is not None and len(room.joined) <= _MAX_WOKEN_MEMBERS:
                            keys.add(room_id)
                self._wake(keys)
                for listener in self._listeners:
                    listener(changed)
                await self._clock.sleep(_PAUSE_SECONDS)
        finally:
            self._is_telling = False
