"""A homeserver with one room, and simulated servers whose events are fed to its engine."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

from twisted.internet.defer import Deferred

from homeserver.core.errors import SignatureInvalid
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID, RoomID, ServerName
from homeserver.core.json_types import JsonObject
from homeserver.core.policy_servers import PolicyServer
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.engine.event_placing import Outcome
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.own_server import OwnServer
from homeserver.engine.remote_rooms import RemoteRooms, make_remote_rooms
from homeserver.engine.remote_server import RemoteServer
from homeserver.services.passwords import InlineThreads
from homeserver.storage import events
from homeserver.storage.events import decode_event_id, encode_event_id
from tests.database import InlineDatabase
from tests.homeserver import Homeserver, User, key_of
from tests.results import result_of
from tests.simulated_server import SimulatedServer, StateIDMap, verify

P = ParamSpec("P")
T = TypeVar("T")
ENGINE_VERSIONS = ("1", "2", "3", "6", "9", "10", "11", "12")
"""Room versions between which the engine has something to do differently."""
GRAPH_VERSIONS = ("1", "2", "11", "12")
"""Each state resolution algorithm, and both ways of naming parents."""
OWN_KEYS = {"hs.test": key_of(ServerName("hs.test"))}


class StageThreads(InlineThreads):
    """Computes at once, or when it is let; tells how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_held = False
        self._held: list[Deferred[None]] = []

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        self.calls += 1
        if not self.is_held:
            return super().call(function, *args, **kwargs)
        waiting: Deferred[None] = Deferred()
        self._held.append(waiting)
        return waiting.addCallback(lambda _: function(*args, **kwargs))

    def release(self) -> None:
        self.is_held = False
        while self._held:
            self._held.pop(0).callback(None)


class NobodyPolices:
    async def sign(self, server: PolicyServer, event: Event) -> str:
        raise AssertionError(f"{server.name} is asked to sign {event}")


def make_rooms(homeserver: Homeserver, threads: InlineThreads) -> RemoteRooms:
    """What takes in other servers' events, of which signatures by `OWN_KEYS` are enough."""
    server = homeserver.server
    return make_remote_rooms(
        OwnServer(ServerName("hs.test"), OWN_KEYS["hs.test"], homeserver.clock),
        homeserver.database,
        server.live_rooms,
        server.changes,
        server.commit_loop,
        server.dictionary,
        server.states,
        server.background,
        SimulatedKeys(),
        NobodyPolices(),
        threads,
    )


class Stage:
    """`alice` has made a public room; `remote` knows all of it."""

    def __init__(
        self,
        homeserver: Homeserver,
        version: str = "12",
        *,
        alice: User | None = None,
        **room: Any,
    ) -> None:
        self.homeserver = homeserver
        self.version = ROOM_VERSIONS[version]
        self.alice: User = alice or homeserver.register("alice")
        homeserver.advance(60)  # rooms are not made too fast
        room.setdefault("preset", "public_chat")
        self.room_id = RoomID(self.alice.create_room(room_version=version, **room))
        self.threads = StageThreads()
        self.rooms = make_rooms(self.homeserver, self.threads)
        self.inbound = self.rooms.inbound
        self.remote = self.server("remote.test")

    def restart(self) -> None:
        now = self.homeserver.reactor.seconds()
        self.homeserver = self.homeserver.restart()
        self.homeserver.advance(now)
        self.alice.homeserver = self.homeserver
        self.rooms = make_rooms(self.homeserver, self.threads)
        self.inbound = self.rooms.inbound

    @property
    def room(self) -> LiveRoom:
        room = result_of(self.homeserver.server.live_rooms.find(self.room_id))
        assert isinstance(room, LiveRoom)
        return room

    @property
    def database(self) -> InlineDatabase:
        return self.homeserver.database

    def server(self, name: str) -> SimulatedServer:
        """A server that has everything of the room that is here."""
        server = SimulatedServer(name, self.version, self.room_id)
        self.share(server)
        return server

    def share(self, *servers: SimulatedServer) -> None:
        """Let servers learn every event whose place is known here."""
        rows = self._rows(
            "SELECT b.pdu FROM events AS e JOIN event_bytes AS b USING (room_nid, event_nid)"
            " WHERE e.room_nid = %s AND e.flags & 1 = 0 ORDER BY e.depth, e.event_nid",
            self.room.room_nid,
        )
        for server in servers:
            server.learn(bytes(row[0]) for row in rows)

    def feed(self, *fed: Event, source: RemoteServer | None = None) -> list[Outcome]:
        return [self.feed_pdu(event.pdu, source=source) for event in fed]

    def feed_pdu(self, pdu: JsonObject, source: RemoteServer | None = None) -> Outcome:
        receiving = self.inbound.receive(source or self.remote, self.room_id, pdu)
        return result_of(receiving)

    def set_level(self, user_id: str, level: int) -> None:
        path = f"/rooms/{quote(self.room_id)}/state/m.room.power_levels"
        levels: Any = self.alice.get(path).json
        levels["users"][user_id] = level
        assert self.alice.put(path, levels).status == 200
        self.share(self.remote)

    def joined(self, localpart: str, level: int = 0) -> str:
        """Return a remote user who has joined, and has a level."""
        user_id = self.remote.user(localpart)
        self.feed(self.remote.join(user_id))
        if level:
            self.set_level(user_id, level)
        return user_id

    def tips(self) -> set[EventID]:
        return {tip.event_id for tip in self.room.tips}

    def state(self) -> StateIDMap:
        """The room's current state as memory has it."""
        room = self.room
        slots = result_of(self.homeserver.server.dictionary.name_slots(list(room.state)))
        rows = self._rows(
            "SELECT event_nid, event_id FROM events WHERE room_nid = %s", room.room_nid
        )
        ids = {nid: decode_event_id(self.version, bytes(stored)) for nid, stored in rows}
        return {slots[slot]: ids[nid] for slot, nid in room.state.items()}

    def flags(self, event: Event) -> int | None:
        rows = self._rows(
            "SELECT flags FROM events WHERE room_nid = %s AND event_id = %s",
            self.room.room_nid,
            encode_event_id(self.version, event.event_id),
        )
        return int(rows[0][0]) if rows else None

    def _rows(self, sql: str, *values: object) -> Sequence[Sequence[Any]]:
        with self.database._connection.cursor() as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall())

    def messages(self) -> list[EventID]:
        """What alice gets page by page, oldest first."""
        found: list[EventID] = []
        token = None
        while True:
            query = {"dir": "b", "limit": 50} | ({} if token is None else {"from": token})
            page = self.alice.get(f"/rooms/{quote(self.room_id)}/messages", **query).json
            found += [event["event_id"] for event in page["chunk"]]
            token = page.get("end")
            if token is None:
                return found[::-1]

    def synced(self, since: str | None = None) -> tuple[str, list[EventID]]:
        """Alice's next token and the ids of everything in the room part of her sync."""
        body = self.alice.sync(since, filter='{"room":{"timeline":{"limit":100}}}')
        room = body.get("rooms", {}).get("join", {}).get(self.room_id, {})
        parts = [room.get("state", {}), room.get("timeline", {})]
        return body["next_batch"], [e["event_id"] for part in parts for e in part.get("events", [])]


class SimulatedKeys:
    """The keys of simulated servers."""

    async def verify_events(self, events: Sequence[Event]) -> list[SignatureInvalid | None]:
        return [_verdict(event) for event in events]

    def expect(self, servers: Collection[ServerName]) -> None:
        """There is nothing to be learnt."""


def _verdict(event: Event) -> SignatureInvalid | None:
    try:
        verify(event, OWN_KEYS)
    except SignatureInvalid as error:
        return error
    return None


__all__ = ["ENGINE_VERSIONS", "GRAPH_VERSIONS", "Outcome", "SimulatedKeys", "Stage", "events"]
