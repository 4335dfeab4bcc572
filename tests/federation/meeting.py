"""Users of several servers in one room, and what a server says in EDUs."""

import itertools
from typing import Any
from urllib.parse import quote

from tests.federation.asking import ask
from tests.homeserver import Homeserver, Reply, User

_transactions = itertools.count(1)


def meet(host: User, *guests: User, **room: object) -> str:
    """Make a room on the host's server that all of them are in."""
    room_id = host.create_room(preset="public_chat", **room)
    for guest in guests:
        enter(guest, room_id, host.homeserver.name)
    return room_id


def enter(guest: User, room_id: str, via: str = "a.test") -> None:
    reply = guest.request("POST", f"/join/{quote(room_id)}", {}, query={"via": via})
    assert reply.status == 200, reply.json
    guest.homeserver.settle()


def leave(user: User, room_id: str) -> None:
    assert user.post(f"/rooms/{quote(room_id)}/leave", {}).status == 200
    user.homeserver.settle()


def texts(user: User, room_id: str) -> list[str]:
    """Return what is said in a room, the oldest first."""
    user.homeserver.settle()
    chunk = user.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=100).json["chunk"]
    return [e["content"]["body"] for e in reversed(chunk) if e["type"] == "m.room.message"]


def say(server: Homeserver, origin: str, edu_type: str, content: object) -> Reply:
    """Send a server an EDU in another one's name."""
    return say_all(server, origin, [{"edu_type": edu_type, "content": content}])


def say_all(
    server: Homeserver, origin: str, edus: list[Any], *, txn_id: str | None = None
) -> Reply:
    body = {"origin": origin, "origin_server_ts": 1, "pdus": [], "edus": edus}
    txn_id = txn_id or f"told{next(_transactions)}"
    reply = ask(server, origin, "PUT", f"/send/{txn_id}", body)
    server.settle()
    return reply


def ephemeral(user: User, room_id: str, event_type: str, since: str | None = None) -> Any:
    """Return the content of an ephemeral event of a room, or None."""
    room = user.sync(since).get("rooms", {}).get("join", {}).get(room_id, {})
    for event in room.get("ephemeral", {}).get("events", []):
        if event["type"] == event_type:
            return event["content"]
    return None
