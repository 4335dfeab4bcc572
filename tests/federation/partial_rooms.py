"""Rooms of one server that another is in without their members as yet."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from homeserver.core.identifiers import parse_room_id
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User

LAZY = json.dumps({"room": {"state": {"lazy_load_members": True}}})
STATE = "/federation/v1/state/"


def room_of(alice: User, others: Sequence[User] = (), **wish: object) -> str:
    """Make a room of alice, three more users of her server, and others."""
    room_id = alice.create_room(preset="public_chat", name="A room", **wish)
    for number in range(3):
        member = alice.homeserver.register(f"member{number}")
        assert member.join(room_id).status == 200
    for other in others:
        join(other, room_id)
    return room_id


def join(user: User, room_id: str, via: str = "a.test") -> None:
    reply = user.request("POST", f"/join/{quote(room_id)}", {}, query={"via": via})
    assert reply.status == 200, reply.json


def state(user: User, room_id: str) -> set[str]:
    reply = user.get(f"/rooms/{quote(room_id)}/state")
    assert reply.status == 200, reply.json
    return {event["event_id"] for event in reply.json}


def is_partial(homeserver: Homeserver, room_id: str) -> bool:
    room = homeserver.server.live_rooms.find_loaded(parse_room_id(room_id))
    assert room is not None
    return room.is_partial


def asked_for_state(network: MemoryNetwork) -> list[str]:
    return [to for _, to, _, target in network.requests if STATE in target]


@dataclass(frozen=True, slots=True)
class Scene:
    """A room of a.test and c.test that b.test is in without its members."""

    network: MemoryNetwork
    room_id: str
    alice: User
    """Of a.test; has made the room."""
    carol: User
    """Of c.test, which the answer to the join has named."""
    bob: User
    """Of b.test; may do everything."""

    @property
    def path(self) -> str:
        return f"/rooms/{quote(self.room_id)}"

    @property
    def is_partial(self) -> bool:
        return is_partial(self.bob.homeserver, self.room_id)

    def complete(self) -> None:
        """Let a.test tell the members."""
        for server, part in list(self.network.held):
            self.network.let_through(server, part)
        self.network.altered.clear()
        self.network.settle()
        if self.is_partial:
            self.network.advance(3_600)
        assert not self.is_partial


def enter_partially(
    network: MemoryNetwork,
    a: Homeserver,
    b: Homeserver,
    c: Homeserver,
    *,
    banned: str | None = None,
    **wish: object,
) -> Scene:
    alice, bob, carol = a.register("alice"), b.register("bob"), c.register("carol")
    levels = {
        "users": {alice.user_id: 100, bob.user_id: 99},
        "events": {"m.room.tombstone": 99, "m.room.power_levels": 99},
    }
    room_id = room_of(alice, [carol], power_level_content_override=levels, **wish)
    if banned is not None:
        assert alice.post(f"/rooms/{quote(room_id)}/ban", {"user_id": banned}).status == 200
    network.settle()
    network.hold("a.test", STATE)
    join(bob, room_id)
    network.settle()
    scene = Scene(network, room_id, alice, carol, bob)
    assert scene.is_partial
    return scene
