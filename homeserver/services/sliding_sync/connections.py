"""Connections: what each has been told, by the `pos` of each answer.

spec: MSC4186 beside v1.19, "Connections". Invariant: a `pos` is known only to the
user, device and `conn_id` it was given to, and an answer's state is never altered: a repeated
request starts from the same.

In memory: a connection that is gone, as after a restart, makes its client begin anew, which the
protocol provides for. Bounded by connections a device, by rooms told in all, and by idleness.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from homeserver.clock import Clock
from homeserver.core.identifiers import DeviceID, RoomID, UserID
from homeserver.errors import BadRequest
from homeserver.randomness import Randomness
from homeserver.requester import Requester
from homeserver.services.sliding_sync.marks import Marks
from homeserver.services.sliding_sync.summary import Summary
from homeserver.services.sliding_sync.wishes import RoomConfig
from homeserver.services.sync.token import SyncToken
from homeserver.services.unread_counts import Unread

_MAX_ANSWERS = 4
_MAX_OF_DEVICE = 16
_MAX_ROOMS = 2_000_000
_BYTES_A_ROOM = 1_000
_BYTES_A_MEMBER = 50
_MAX_IDLE_SECONDS = 7 * 24 * 3600.0

_Device = tuple[UserID, DeviceID | None]


class UnknownPos(BadRequest):
    errcode = "M_UNKNOWN_POS"


@dataclass(frozen=True, slots=True)
class Told:
    """What a connection has been told of one room."""

    up_to: int
    """Position in the events stream."""
    config: RoomConfig
    seen: int
    """How many of the newest events it has, without a gap."""
    is_dm: bool
    bump_stamp: int
    state_nid: int | None = None
    """The room's state when it was last looked at."""
    state: bytes = b""
    """Numbers of the state events told, packed."""
    members: frozenset[UserID] = frozenset()
    """Who was told because of the timeline."""
    summary: Summary | None = None
    unread: Unread | None = None
    unread_at: int = 0
    """Position in the receipts stream when `unread` was counted."""

    @property
    def weight(self) -> int:
        """As how many usual rooms this counts: it may name every member."""
        return 1 + (len(self.state) + _BYTES_A_MEMBER * len(self.members)) // _BYTES_A_ROOM


@dataclass(frozen=True, slots=True)
class Heard:
    """What a connection has been told of a kind of things beside events."""

    up_to: int
    live: frozenset[RoomID]
    """Rooms told up to there."""
    behind: Mapping[RoomID, int]
    """Rooms that have been out of sight since a position."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a connection stands after an answer."""

    now: SyncToken
    rooms: Mapping[RoomID, Told]
    marks: Marks
    heard: Mapping[str, Heard]
    """By extension."""
    keys_at: SyncToken | None
    """Up to where the e2ee extension has told; None: never."""
    weight: int
    """Of all the rooms."""


@dataclass(slots=True)
class Connection:
    used_at: float
    is_open: bool = True
    answers: OrderedDict[str, Answer] = field(default_factory=OrderedDict)

    @property
    def size(self) -> int:
        """Rooms it holds, roughly; the newest answers share what has not changed."""
        return 1 + max((answer.weight for answer in self.answers.values()), default=0)


class Connections:
    def __init__(self, clock: Clock, randomness: Randomness) -> None:
        self._clock = clock
        self._process = randomness.token(8)
        self._last_serial = 0
        self._devices: OrderedDict[_Device, OrderedDict[str, Connection]] = OrderedDict()
        self._rooms = 0

    def open(
        self, requester: Requester, conn_id: str, pos: str | None
    ) -> tuple[Connection, Answer | None]:
        """Return the connection, and the answer that `pos` names; without one it begins anew.

        Raises UnknownPos.
        """
        self._expire()
        device = (requester.user_id, requester.device_id)
        of_device = self._devices.get(device, OrderedDict())
        connection = of_device.get(conn_id)
        answer = None
        if pos is None:
            if connection is not None:
                self._close(connection)
            connection = of_device[conn_id] = Connection(self._clock.monotonic())
            self._rooms += connection.size
        else:
            answer = connection.answers.get(pos) if connection is not None else None
            if connection is None or answer is None:
                raise UnknownPos("This connection is not known (any longer): begin anew")
            before = connection.size
            while next(iter(connection.answers)) != pos:  # the client has got beyond these
                connection.answers.popitem(last=False)
            self._rooms += connection.size - before
            connection.used_at = self._clock.monotonic()
        of_device.move_to_end(conn_id)
        self._devices[device] = of_device
        self._devices.move_to_end(device)
        while len(of_device) > _MAX_OF_DEVICE:
            self._close(of_device.popitem(last=False)[1])
        return connection, answer

    def note(self, connection: Connection, answer: Answer) -> str:
        """Remember where an answer leaves the connection; return its `pos`."""
        self._last_serial += 1
        # It begins as a sync token does, so that it serves as one for /messages.
        pos = f"{answer.now}_{self._process}_{self._last_serial}"
        before = connection.size
        connection.answers[pos] = answer
        if len(connection.answers) > _MAX_ANSWERS:
            # The first is what the client is known to have; it may ask from there again.
            _, second, *_ = connection.answers
            del connection.answers[second]
        if connection.is_open:
            self._rooms += connection.size - before
        return pos

    def _close(self, connection: Connection) -> None:
        """What a request under way still answers leads nowhere then."""
        connection.is_open = False
        self._rooms -= connection.size

    def _expire(self) -> None:
        """Let the devices go that have asked least recently: idle ones, or as many as must."""
        now = self._clock.monotonic()
        while self._devices:
            device, of_device = next(iter(self._devices.items()))
            idle = now - max(connection.used_at for connection in of_device.values())
            if idle <= _MAX_IDLE_SECONDS and self._rooms <= _MAX_ROOMS:
                return
            for connection in of_device.values():
                self._close(connection)
            del self._devices[device]
