"""Servers beyond ours: each has a signing key and its own view of a room's graph.

A `SimulatedServer` makes and takes in events by the pure core alone, over the whole graph it has:
no rows, no numbers, no caches. That makes it the model our engine is compared with.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from homeserver.core import state_resolution_v1, state_resolution_v2
from homeserver.core.auth_events import auth_types_of
from homeserver.core.errors import EventRejected, SignatureInvalid
from homeserver.core.event_auth import check_auth_events_selection, check_event_auth
from homeserver.core.events import (
    MAX_PDU_BYTES,
    Event,
    check_event_signature,
    make_event,
    parse_event,
    reference_hash,
    required_signers,
)
from homeserver.core.identifiers import EventID, RoomID, ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import RoomVersion, StateResolution
from homeserver.core.signing import SigningKey
from homeserver.engine.remote_server import RemoteFailure, StateIDs, StatePDUs

Slot = tuple[str, str]
StateIDMap = dict[Slot, EventID]
_CREATE = ("m.room.create", "")
_NO_HASH = "A" * 43
"""What is cited as the hash of an event that is not known."""


def key_of(server_name: str) -> SigningKey:
    return SigningKey("ed25519:sim", hashlib.sha256(server_name.encode()).digest())


def verify(event: Event, keys: Mapping[str, SigningKey] | None = None) -> None:
    """Raise SignatureInvalid unless all who must have signed the event did, with their keys."""
    for server_name in required_signers(event):
        key = (keys or {}).get(server_name) or key_of(server_name)
        check_event_signature(event, server_name, key.key_id, key.verify_key_base64)


class RoomGraph:
    """All events of a room that a server has, and what it makes of them."""

    def __init__(self, version: RoomVersion) -> None:
        self.version = version
        self.events: dict[EventID, Event] = {}
        self.after: dict[EventID, StateIDMap] = {}
        self.before: dict[EventID, StateIDMap] = {}
        self.rejected: set[EventID] = set()

    def add(self, event: Event) -> None:
        """Take in an event whose parents and auth events are there."""
        before = self.resolve([self.after[parent] for parent in event.prev_events])
        self.events[event.event_id] = event
        self.before[event.event_id] = before
        after = dict(before)
        if not self._is_allowed(event, before):
            self.rejected.add(event.event_id)
        elif event.state_key is not None:
            after[event.type, event.state_key] = event.event_id
        self.after[event.event_id] = after

    def resolve(self, branches: Sequence[StateIDMap]) -> StateIDMap:
        if not branches:
            return {}
        if self.version.state_resolution is StateResolution.V1:
            return state_resolution_v1.resolve(branches, self.events)
        return state_resolution_v2.resolve(
            self.version,
            branches,
            [state_resolution_v2.auth_chain_of(b.values(), self.events) for b in branches],
            self.events,
            self.rejected,
        )

    def _is_allowed(self, event: Event, before: StateIDMap) -> bool:
        cited = [self.events[auth_id] for auth_id in event.auth_events]
        try:
            check_auth_events_selection(event, cited)
            if any(auth.event_id in self.rejected for auth in cited):
                return False
            auth = {(one.type, one.state_key or ""): one for one in cited}
            if event.type != "m.room.create" and self.version.room_id_is_create_hash:
                auth[_CREATE] = self.events[EventID("$" + event.room_id[1:])]
            check_event_auth(event, auth)
            check_event_auth(event, {slot: self.events[i] for slot, i in before.items()})
        except EventRejected:
            return False
        return True

    def tips(self) -> list[EventID]:
        """Return the accepted events that no accepted event builds on."""
        built_on = {
            parent
            for event in self.events.values()
            if event.event_id not in self.rejected
            for parent in event.prev_events
        }
        return [i for i in self.events if i not in built_on and i not in self.rejected]


class SimulatedServer:
    """One remote server's part of one room. Answers what `RemoteServer` asks."""

    def __init__(self, name: str, version: RoomVersion, room_id: RoomID) -> None:
        self.name = ServerName(name)
        self.version = version
        self.room_id = room_id
        self.graph = RoomGraph(version)
        self.key = key_of(name)
        self.clock = 1_700_000_000_000
        self.requests: list[str] = []
        self.is_silent = False
        """Answers nothing."""
        self.hidden: set[EventID] = set()
        """Events it does not give out."""

    def user(self, localpart: str) -> UserID:
        return UserID(f"@{localpart}:{self.name}")

    def learn(self, pdus: Iterable[JsonObject | bytes]) -> None:
        """Take in events in the order given."""
        for pdu in pdus:
            event = parse_event(self.version, pdu)
            if event.event_id not in self.graph.events:
                self.graph.add(event)

    def make(
        self,
        event_type: str,
        sender: str,
        content: JsonObject | None = None,
        *,
        state_key: str | None = None,
        prev: Sequence[EventID] | None = None,
        auth: Sequence[EventID] | None = None,
        depth: int | None = None,
        timestamp: int | None = None,
        redacts: EventID | None = None,
        key: SigningKey | None = None,
        server_name: str | None = None,
    ) -> Event:
        """Make an event upon `prev`, by default the tips; it is not taken in."""
        graph = self.graph
        parents = graph.tips() if prev is None else list(prev)
        content = {} if content is None else content
        state = graph.resolve([graph.after[p] for p in parents if p in graph.after])
        if auth is None:
            wanted = auth_types_of(self.version, event_type, sender, state_key, content)
            auth = [state[slot] for slot in wanted if slot in state]
        self.clock += 1
        if depth is None:
            depth = (
                max((graph.events[p].depth for p in parents if p in graph.events), default=0) + 1
            )
        return make_event(
            self.version,
            room_id=self.room_id,
            type=event_type,
            sender=UserID(sender),
            state_key=state_key,
            content=content,
            depth=depth,
            origin_server_ts=self.clock if timestamp is None else timestamp,
            prev_events=parents,
            auth_events=auth,
            redacts=redacts,
            server_name=server_name or self.name,
            signing_key=key or self.key,
            reference_hashes={
                cited: reference_hash(graph.events[cited]) if cited in graph.events else _NO_HASH
                for cited in (*parents, *auth)
            },
            max_bytes=MAX_PDU_BYTES,
        )

    def send(
        self, event_type: str, sender: str, content: JsonObject | None = None, **more: Any
    ) -> Event:
        """Make an event and take it in."""
        event = self.make(event_type, sender, content, **more)
        self.graph.add(event)
        return event

    def say(self, sender: str, text: str, **more: Any) -> Event:
        content: JsonObject = {"msgtype": "m.text", "body": text}
        return self.send("m.room.message", sender, content, **more)

    def join(self, sender: str, **more: Any) -> Event:
        return self.member(sender, "join", **more)

    def member(self, sender: str, membership: str, target: str | None = None, **more: Any) -> Event:
        return self.send(
            "m.room.member", sender, {"membership": membership}, state_key=target or sender, **more
        )

    def topic(self, sender: str, text: str, **more: Any) -> Event:
        return self.send("m.room.topic", sender, {"topic": text}, state_key="", **more)

    # What other servers ask.

    def _asked(self, what: str) -> None:
        self.requests.append(what)
        if self.is_silent:
            raise RemoteFailure("no answer")

    def _pdu(self, event_id: EventID) -> JsonObject:
        if event_id not in self.graph.events or event_id in self.hidden:
            raise RemoteFailure("unknown event")
        return self.graph.events[event_id].pdu

    async def get_missing_events(
        self,
        room_id: RoomID,
        *,
        earliest: Sequence[EventID],
        latest: Sequence[EventID],
        limit: int,
    ) -> Sequence[JsonObject]:
        assert room_id == self.room_id
        self._asked("get_missing_events")
        seen = set(earliest) | set(latest)
        pending = [
            p for i in latest if i in self.graph.events for p in self.graph.events[i].prev_events
        ]
        found: list[EventID] = []
        while pending and len(found) < limit:
            event_id = pending.pop(0)
            if event_id not in seen and event_id in self.graph.events:
                seen.add(event_id)
                if event_id not in self.hidden:
                    found.append(event_id)
                pending += self.graph.events[event_id].prev_events
        return [self._pdu(event_id) for event_id in reversed(found)]

    async def get_state_ids(self, room_id: RoomID, event_id: EventID) -> StateIDs:
        assert room_id == self.room_id
        self._asked("get_state_ids")
        if event_id not in self.graph.before:
            raise RemoteFailure("unknown event")
        state = list(self.graph.before[event_id].values())
        chain = state_resolution_v2.auth_chain_of(state, self.graph.events)
        return StateIDs(state, list(chain))

    async def get_state(self, room_id: RoomID, event_id: EventID) -> StatePDUs:
        ids = await self.get_state_ids(room_id, event_id)
        return StatePDUs([self._pdu(i) for i in ids.state], [self._pdu(i) for i in ids.auth_chain])

    async def get_event_auth(self, room_id: RoomID, event_id: EventID) -> Sequence[JsonObject]:
        assert room_id == self.room_id
        self._asked("get_event_auth")
        if event_id not in self.graph.events:
            raise RemoteFailure("unknown event")
        chain = state_resolution_v2.auth_chain_of([event_id], self.graph.events) - {event_id}
        return [self._pdu(i) for i in chain if i not in self.hidden]

    async def get_event(self, event_id: EventID) -> JsonObject:
        self._asked("get_event")
        return self._pdu(event_id)

    async def backfill(
        self, room_id: RoomID, event_ids: Sequence[EventID], limit: int
    ) -> Sequence[JsonObject]:
        assert room_id == self.room_id
        self._asked("backfill")
        pending = [event_id for event_id in event_ids if event_id in self.graph.events]
        found: dict[EventID, JsonObject] = {}
        while pending and len(found) < limit:
            event_id = max(pending, key=lambda one: self.graph.events[one].depth)
            pending.remove(event_id)
            if event_id not in found:
                if event_id not in self.hidden:
                    found[event_id] = self._pdu(event_id)
                pending += self.graph.events[event_id].prev_events
        return list(found.values())


__all__ = ["RoomGraph", "SignatureInvalid", "SimulatedServer", "key_of", "verify"]
