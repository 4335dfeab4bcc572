"""Sending events, setting state, redacting, reading a room's timeline and state.

spec: client-server-api/#sending-events-to-a-room, #getting-events-for-a-room, #redactions, v1.19.
"""

from collections.abc import Callable
from typing import Literal

import orjson

from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject
from homeserver.errors import Forbidden, NotFound
from homeserver.requester import Requester
from homeserver.services.aggregations import Aggregations
from homeserver.services.client_events import client_content
from homeserver.services.delayed_events import DelayedEvents, Wish
from homeserver.services.filters import read_room_event_filter
from homeserver.services.messages import Messages
from homeserver.services.room_state import RoomState
from homeserver.services.timeline import Timeline
from homeserver.transport.endpoint import Auth, RawJSON, endpoint

_DELAY = "org.matrix.msc4140.delay"
"""Hands the event in, to be sent so many milliseconds later: MSC4140 beside v1.19. Other names, and
what becomes of it, are in `delayed_events.py`."""
_MEMBER = "m.room.member"
_OWN_OPERATIONS = {"join": "joinRoomById", "knock": "knockRoom", "leave": "leaveRoom"}


class MessagesAPI:
    """Saying something in a room."""

    def __init__(
        self,
        messages: Messages,
        delayed_events: DelayedEvents,
        count_operation: Callable[[str, str], None],
    ) -> None:
        """`count_operation`: counts an operation of a user's. Raises LimitExceeded."""
        self._messages = messages
        self._delayed_events = delayed_events
        self._count_operation = count_operation

    @endpoint(
        "sendMessage", "PUT", "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}",
        auth=Auth.CLIENT, wire={"delay": _DELAY},
    )  # fmt: skip
    async def send_message(
        self,
        requester: Requester,
        room_id: RoomID,
        event_type: str,
        txn_id: str,
        body: JsonObject,
        *,
        ts: int | None = None,
        delay: int | None = None,
    ) -> JsonObject:
        if delay is not None:
            wish = Wish(room_id, event_type, body, delay, txn_id=txn_id, origin_server_ts=ts)
            return {"delay_id": await self._delayed_events.schedule(requester, wish)}
        event_id = await self._messages.send(
            room_id,
            requester.user_id,
            event_type,
            body,
            device_id=requester.device_id or requester.appservice_id,
            txn_id=txn_id,
            origin_server_ts=ts if requester.appservice_id is not None else None,
        )
        return {"event_id": event_id}

    @endpoint(
        "setRoomStateWithKey", "PUT",
        "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}",
        auth=Auth.CLIENT, wire={"delay": _DELAY},
        also=("/_matrix/client/v3/rooms/{roomId}/state/{eventType}",),
    )  # fmt: skip
    async def set_room_state_with_key(
        self,
        requester: Requester,
        room_id: RoomID,
        event_type: str,
        body: JsonObject,
        state_key: str = "",
        *,
        ts: int | None = None,
        delay: int | None = None,
    ) -> JsonObject:
        if delay is not None:
            wish = Wish(room_id, event_type, body, delay, state_key=state_key, origin_server_ts=ts)
            return {"delay_id": await self._delayed_events.schedule(requester, wish)}
        if event_type == _MEMBER and requester.appservice_id is None:
            operation = _operation_of(body, is_own=state_key == requester.user_id)
            if operation is not None:
                self._count_operation(requester.user_id, operation)
        event_id = await self._messages.set_state(
            room_id,
            requester.user_id,
            event_type,
            state_key,
            body,
            origin_server_ts=ts if requester.appservice_id is not None else None,
        )
        return {"event_id": event_id}

    @endpoint(
        "redactEvent", "PUT", "/_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}",
        auth=Auth.CLIENT,
    )  # fmt: skip
    async def redact_event(
        self,
        requester: Requester,
        room_id: RoomID,
        event_id: EventID,
        txn_id: str,
        body: JsonObject,
    ) -> JsonObject:
        reason = body.get("reason")
        redaction = await self._messages.redact(
            room_id,
            requester.user_id,
            event_id,
            {"reason": reason} if isinstance(reason, str) else {},
            device_id=requester.device_id or requester.appservice_id,
            txn_id=txn_id,
        )
        return {"event_id": redaction}


def _operation_of(member: JsonObject, *, is_own: bool) -> str | None:
    """Return the operation that does what a member event says, if it has a limit."""
    membership = member.get("membership")
    if membership == "invite":
        return "inviteUser"
    return _OWN_OPERATIONS.get(membership) if is_own and isinstance(membership, str) else None


class TimelineAPI:
    """Reading what was said, and how a room stands."""

    def __init__(self, timeline: Timeline, state: RoomState, aggregations: Aggregations) -> None:
        self._timeline = timeline
        self._state = state
        self._aggregations = aggregations

    @endpoint(
        "getRoomEvents", "GET", "/_matrix/client/v3/rooms/{roomId}/messages",
        auth=Auth.CLIENT, wire={"filter_": "filter"},
    )  # fmt: skip
    async def get_room_events(
        self,
        requester: Requester,
        room_id: RoomID,
        *,
        dir_: Literal["b", "f"],
        from_: str | None = None,
        to: str | None = None,
        limit: int = 10,
        filter_: str | None = None,
    ) -> RawJSON:
        chosen = read_room_event_filter(filter_)
        page = await self._timeline.page(
            requester.user_id,
            room_id,
            backwards=dir_ == "b",
            start=from_,
            until=to,
            limit=limit,
            chosen=chosen,
        )
        members = (
            await self._state.list_members_of(
                requester.user_id, room_id, {event.event.sender for event in page.events}
            )
            if chosen.lazy_load_members
            else []
        )
        chunk = await self._aggregations.render(requester, room_id, page.events)
        state = await self._aggregations.render_state(requester, room_id, members)
        parts = [
            b'{"chunk":[', b",".join(chunk),
            b'],"state":[', b",".join(state),
            b'],"start":', orjson.dumps(page.start),
        ]  # fmt: skip
        if page.end is not None:
            parts += [b',"end":', orjson.dumps(page.end)]
        return RawJSON(b"".join([*parts, b"}"]))

    @endpoint(
        "getOneRoomEvent", "GET", "/_matrix/client/v3/rooms/{roomId}/event/{eventId}",
        auth=Auth.CLIENT,
    )  # fmt: skip
    async def get_one_room_event(
        self, requester: Requester, room_id: RoomID, event_id: EventID
    ) -> RawJSON:
        try:
            found = await self._timeline.get_event(requester.user_id, room_id, event_id)
        except Forbidden as error:  # this operation knows no other refusal
            raise NotFound("No such event, or you may not see it") from error
        return RawJSON((await self._aggregations.render(requester, room_id, [found]))[0])

    @endpoint("getRoomState", "GET", "/_matrix/client/v3/rooms/{roomId}/state", auth=Auth.CLIENT)
    async def get_room_state(self, requester: Requester, room_id: RoomID) -> RawJSON:
        jsons: list[bytes] = []
        async for found in self._state.list_state(requester.user_id, room_id):
            jsons += await self._aggregations.render_state(requester, room_id, found)
        return RawJSON(b"[" + b",".join(jsons) + b"]")

    @endpoint(
        "getRoomStateWithKey", "GET",
        "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}",
        auth=Auth.CLIENT, wire={"format_": "format"},
        also=("/_matrix/client/v3/rooms/{roomId}/state/{eventType}",),
    )  # fmt: skip
    async def get_room_state_with_key(
        self,
        requester: Requester,
        room_id: RoomID,
        event_type: str,
        state_key: str = "",
        *,
        format_: Literal["content", "event"] = "content",
    ) -> JsonObject | RawJSON:
        found = await self._state.get_state(requester.user_id, room_id, event_type, state_key)
        if format_ == "event":
            return RawJSON((await self._aggregations.render(requester, room_id, [found]))[0])
        return client_content(found)

    @endpoint(
        "getMembersByRoom", "GET", "/_matrix/client/v3/rooms/{roomId}/members", auth=Auth.CLIENT
    )
    async def get_members_by_room(
        self,
        requester: Requester,
        room_id: RoomID,
        *,
        at: str | None = None,
        membership: Literal["join", "invite", "knock", "leave", "ban"] | None = None,
        not_membership: Literal["join", "invite", "knock", "leave", "ban"] | None = None,
    ) -> RawJSON:
        jsons: list[bytes] = []
        async for found in self._state.list_members(
            requester.user_id,
            room_id,
            at=at,
            membership=membership,
            not_membership=not_membership,
        ):
            jsons += await self._aggregations.render_state(requester, room_id, found)
        return RawJSON(b'{"chunk":[' + b",".join(jsons) + b"]}")

    @endpoint(
        "getJoinedMembersByRoom", "GET", "/_matrix/client/v3/rooms/{roomId}/joined_members",
        auth=Auth.CLIENT,
    )  # fmt: skip
    async def get_joined_members_by_room(self, requester: Requester, room_id: RoomID) -> JsonObject:
        found = await self._state.list_joined(requester.user_id, room_id)
        joined: JsonObject = {}
        for user_id, profile in found.items():
            told = (("display_name", profile.display_name), ("avatar_url", profile.avatar_url))
            joined[user_id] = {name: value for name, value in told if value is not None}
        return {"joined": joined}
