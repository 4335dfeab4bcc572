"""Which member events a device has been sent, so that lazy loading does not repeat them.

spec: client-server-api/#lazy-loading-room-members, v1.19 (redundant membership events).
Invariant: an event counts as sent only once the device has come back with the token of the answer
that had it. In memory and bounded: what is forgotten is sent again, which the protocol allows.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from homeserver.core.identifiers import DeviceID, UserID
from homeserver.requester import Requester

_MAX_DEVICES = 10_000
_MAX_EVENTS_OF_DEVICE = 5_000

_Device = tuple[UserID, DeviceID | None]


@dataclass(slots=True)
class _Remembered:
    token: str
    """Of the newest answer that the device is known to have."""
    sent: set[int]
    """Numbers of the member events it had been sent up to there."""
    next_token: str = ""
    next_sent: set[int] = field(default_factory=set)
    """What the answer after that added."""


class SentTo:
    """What one answer may leave out, and what it adds."""

    def __init__(self, known: set[int]) -> None:
        self._known = known
        self.added: set[int] = set()

    def __contains__(self, event_nid: int) -> bool:
        return event_nid in self._known

    def note(self, event_nid: int) -> None:
        self.added.add(event_nid)


class SentMembers:
    def __init__(self) -> None:
        self._devices: OrderedDict[_Device, _Remembered] = OrderedDict()

    def begin(self, requester: Requester, since: str | None) -> SentTo:
        """Begin an answer to a request that comes with `since`."""
        device = (requester.user_id, requester.device_id)
        known = self._devices.get(device)
        if known is None or since is None or since not in (known.token, known.next_token):
            self._devices.pop(device, None)
            return SentTo(set())
        if since == known.next_token:
            known.token = since
            known.sent |= known.next_sent
        known.next_token, known.next_sent = "", set()
        if len(known.sent) > _MAX_EVENTS_OF_DEVICE:
            known.sent = set()
        self._devices.move_to_end(device)
        return SentTo(known.sent)

    def end(self, requester: Requester, since: str | None, answer: SentTo, token: str) -> None:
        """Note the answer that leads to `token`."""
        device = (requester.user_id, requester.device_id)
        known = self._devices.get(device)
        if known is None or since is None or known.token != since:
            if not answer.added:
                return
            known = self._devices[device] = _Remembered(since or "", set())
        known.next_token, known.next_sent = token, answer.added
        while len(self._devices) > _MAX_DEVICES:
            self._devices.popitem(last=False)
