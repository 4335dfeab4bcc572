"""Delayed events, on their unstable path.

spec: MSC4140 beside v1.19. Handing one in by the ordinary `send` and `state` with a delay in the
query is in `messages.py`.
"""

from dataclasses import dataclass
from typing import Literal

from homeserver.core.identifiers import RoomID
from homeserver.core.json_types import JsonObject
from homeserver.errors import MissingParam
from homeserver.requester import Requester
from homeserver.services.delayed_events import DelayedEvents, Wish
from homeserver.transport.endpoint import EMPTY, Auth, endpoint

_PREFIX = "/_matrix/client/unstable/org.matrix.msc4140"
_ONE = f"{_PREFIX}/delayed_events/{{delayId}}"
_REASON = "MSC4140 is not in the specification yet"


@dataclass(frozen=True)
class NewDelayedEvent:
    content: JsonObject
    delay_ms: int | None = None
    delay: int | None = None
    """COMPAT(older clients): what an earlier revision called it."""
    state_key: str | None = None


@dataclass(frozen=True)
class Action:
    action: Literal["restart", "cancel", "send"]


class DelayedEventsAPI:
    """Events that are handed in now and sent later."""

    def __init__(self, delayed_events: DelayedEvents) -> None:
        self._delayed_events = delayed_events

    @endpoint(
        "msc4140ScheduleDelayedEvent", "PUT",
        _PREFIX + "/rooms/{roomId}/delayed_event/{eventType}/{txnId}",
        auth=Auth.CLIENT, extra=_REASON,
    )  # fmt: skip
    async def schedule(
        self,
        requester: Requester,
        room_id: RoomID,
        event_type: str,
        txn_id: str,
        body: NewDelayedEvent,
        *,
        ts: int | None = None,
    ) -> JsonObject:
        delay_ms = body.delay if body.delay_ms is None else body.delay_ms
        if delay_ms is None:
            raise MissingParam("delay_ms is required")
        wish = Wish(room_id, event_type, body.content, delay_ms, body.state_key, txn_id, ts)
        return {"delay_id": await self._delayed_events.schedule(requester, wish)}

    @endpoint(
        "msc4140ListDelayedEvents", "GET", _PREFIX + "/delayed_events",
        auth=Auth.CLIENT, rate_limited=True, extra=_REASON,
    )  # fmt: skip
    async def list_delayed_events(self, requester: Requester) -> JsonObject:
        found = await self._delayed_events.list_scheduled(requester.user_id)
        return {"delayed_events": [*found]}

    @endpoint(
        "msc4140GetDelayedEvent", "GET", _ONE,
        auth=Auth.CLIENT, rate_limited=True, extra=_REASON,
    )  # fmt: skip
    async def get_delayed_event(self, requester: Requester, delay_id: str) -> JsonObject:
        return await self._delayed_events.get(requester, delay_id)

    @endpoint(
        "msc4140RestartDelayedEvent", "POST", _ONE + "/restart",
        auth=Auth.OPTIONAL, rate_limited=True, extra=_REASON,
    )  # fmt: skip
    async def restart(self, requester: Requester | None, delay_id: str) -> JsonObject:
        await self._delayed_events.restart(requester, delay_id)
        return EMPTY

    @endpoint(
        "msc4140CancelDelayedEvent", "POST", _ONE + "/cancel",
        auth=Auth.OPTIONAL, rate_limited=True, extra=_REASON,
    )  # fmt: skip
    async def cancel(self, requester: Requester | None, delay_id: str) -> JsonObject:
        await self._delayed_events.cancel(requester, delay_id)
        return EMPTY

    @endpoint(
        "msc4140SendDelayedEvent", "POST", _ONE + "/send",
        auth=Auth.OPTIONAL, rate_limited=True, extra=_REASON,
    )  # fmt: skip
    async def send(self, requester: Requester | None, delay_id: str) -> JsonObject:
        await self._delayed_events.send(requester, delay_id)
        return EMPTY

    @endpoint(
        "msc4140UpdateDelayedEvent", "POST", _ONE,
        auth=Auth.OPTIONAL, rate_limited=True, extra=_REASON,
    )  # fmt: skip
    async def update(self, requester: Requester | None, delay_id: str, body: Action) -> JsonObject:
        """COMPAT(older clients): as an earlier revision had it."""
        if body.action == "restart":
            await self._delayed_events.restart(requester, delay_id)
        elif body.action == "cancel":
            await self._delayed_events.cancel(requester, delay_id)
        else:
            await self._delayed_events.send(requester, delay_id)
        return EMPTY
