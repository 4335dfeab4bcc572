"""A room that began on a simulated server, and our homeserver's way into it."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from homeserver.core.events import Event, make_event
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.core.state_resolution_v2 import auth_chain_of
from homeserver.engine.event_placing import Outcome
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.remote_joins import PartialJoin
from homeserver.engine.remote_server import RemoteServer
from homeserver.services.passwords import InlineThreads
from tests.homeserver import Homeserver, User
from tests.inbound_stage import OWN_KEYS, make_rooms
from tests.results import result_of
from tests.simulated_server import SimulatedServer, key_of


def begin_room(
    version_id: str = "12", name: str = "remote.test", *, join_rule: str = "public"
) -> SimulatedServer:
    """A server whose user `creator` has made a room, named and with everything that clients set."""
    version = ROOM_VERSIONS[version_id]
    creator = UserID(f"@creator:{name}")
    content: JsonObject = {"room_version": version_id}
    if not version.implicit_room_creator:
        content["creator"] = creator
    create = make_event(
        version,
        room_id=None if version.room_id_is_create_hash else RoomID(f"!begun:{name}"),
        type="m.room.create",
        sender=creator,
        state_key="",
        content=content,
        depth=1,
        origin_server_ts=1_600_000_000_000,
        prev_events=[],
        auth_events=[],
        server_name=name,
        signing_key=key_of(name),
    )
    server = SimulatedServer(name, version, create.room_id)
    server.graph.add(create)
    server.join(creator)
    users: JsonObject = {} if version.privileged_creators else {creator: 100}
    server.send("m.room.power_levels", creator, {"users": users}, state_key="")
    server.send("m.room.join_rules", creator, {"join_rule": join_rule}, state_key="")
    shared: JsonObject = {"history_visibility": "shared"}
    server.send("m.room.history_visibility", creator, shared, state_key="")
    server.send("m.room.name", creator, {"name": "Elsewhere"}, state_key="")
    return server


class RemoteStage:
    """`alice` of our server, and `remote`, which has a room she is not in."""

    def __init__(self, homeserver: Homeserver, version: str = "12", **room: Any) -> None:
        self.homeserver = homeserver
        self.alice: User = homeserver.register("alice")
        self.remote = begin_room(version, **room)
        self.creator = self.remote.user("creator")
        self.rooms = make_rooms(self.homeserver, InlineThreads())

    def restart(self) -> None:
        now = self.homeserver.reactor.seconds()
        self.homeserver = self.homeserver.restart()
        self.homeserver.advance(now)
        self.alice.homeserver = self.homeserver
        self.rooms = make_rooms(self.homeserver, InlineThreads())

    @property
    def room_id(self) -> RoomID:
        return self.remote.room_id

    @property
    def room(self) -> LiveRoom:
        found = self.find_room()
        assert found is not None
        return found

    def find_room(self) -> LiveRoom | None:
        live_rooms = self.homeserver.server.live_rooms
        return result_of(live_rooms.find(self.room_id))

    def do(self, coroutine: Any) -> Any:
        return result_of(coroutine)

    def make_member(self, user: User, membership: str, **more: Any) -> Event:
        """An event of membership that our server has signed."""
        return self.remote.make(
            "m.room.member",
            user.user_id,
            {"membership": membership},
            state_key=user.user_id,
            key=OWN_KEYS["hs.test"],
            server_name="hs.test",
            **more,
        )

    def answer_to(self, join: Event) -> tuple[list[JsonObject], list[JsonObject]]:
        """What `remote` answers a join: state before it and auth chain."""
        graph = self.remote.graph
        state = list(graph.before[join.event_id].values())
        chain = auth_chain_of(state, graph.events)
        return [graph.events[i].pdu for i in state], [graph.events[i].pdu for i in chain]

    def join(self, user: User | None = None) -> Event:
        join = self.make_member(user or self.alice, "join")
        self.remote.graph.add(join)
        self.take_in(join, *self.answer_to(join))
        return join

    def take_in(
        self,
        join: Event,
        state: Sequence[JsonObject],
        auth_chain: Sequence[JsonObject],
        *,
        partial: PartialJoin | None = None,
        source: RemoteServer | None = None,
    ) -> None:
        self.do(
            self.rooms.joins.take_in(
                self.room_id,
                self.remote.version,
                join,
                state,
                auth_chain,
                source or self.remote,
                partial=partial,
            )
        )

    def feed(self, *fed: Event) -> list[Outcome]:
        return [
            self.do(self.rooms.inbound.receive(self.remote, self.room_id, event.pdu))
            for event in fed
        ]

    def state(self) -> dict[tuple[str, str], EventID]:
        """The room's current state as memory has it."""
        room = self.room
        nodes = self.do(self.rooms.graph.load_numbers(room, list(room.state.values())))
        found = [node.event for node in nodes.values()]
        return {(event.type, event.state_key or ""): event.event_id for event in found}

    def messages(self, **query: Any) -> list[EventID]:
        page = self.alice.get(f"/rooms/{quote(self.room_id)}/messages", dir="b", limit=100, **query)
        return [event["event_id"] for event in page.json["chunk"]][::-1]

    def synced(self, section: str = "join", since: str | None = None, **query: Any) -> Any:
        """What alice's sync says of the room."""
        body = self.alice.sync(since, **query)
        return body.get("rooms", {}).get(section, {}).get(self.room_id)
