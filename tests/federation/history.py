"""Rooms with a past, and reading it page by page."""

from typing import Any
from urllib.parse import quote

from tests.federation.meeting import enter
from tests.federation.network import MemoryNetwork
from tests.homeserver import PendingReply, User

BACKFILL = "/federation/v1/backfill/"


def room_with_history(alice: User, count: int, *guests: User) -> tuple[str, list[str]]:
    """Return the room and what was said before the guests came."""
    room_id = alice.create_room(preset="public_chat")
    said = [alice.send(room_id, f"{number}") for number in range(count)]
    for guest in guests:
        enter(guest, room_id, alice.homeserver.name)
    return room_id, said


def page(user: User, room_id: str, **query: Any) -> PendingReply:
    return user.start_request("GET", f"/rooms/{quote(room_id)}/messages", query=query)


def walk(user: User, room_id: str, limit: int, **query: Any) -> list[str]:
    """Return every event back to the beginning, newest first."""
    seen: list[str] = []
    token: dict[str, str] = {}
    for _ in range(100):
        body = page(user, room_id, dir="b", limit=limit, **token, **query).reply().json
        seen += [event["event_id"] for event in body["chunk"]]
        if "end" not in body:
            return seen
        token = {"from": body["end"]}
    raise AssertionError("there is no end")


def backfills(network: MemoryNetwork) -> list[str]:
    return [to for _, to, _, target in network.requests if BACKFILL in target]
