"""Handing in events to be sent later, in tests."""

import dataclasses
from typing import Any
from urllib.parse import quote

from homeserver.config import DelayedEventsSection
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, Reply, User

PREFIX = "/_matrix/client/unstable/org.matrix.msc4140"
DELAY = "org.matrix.msc4140.delay"
DAY_MS = 24 * 3600 * 1000
CONFIG = dataclasses.replace(
    DEFAULT_CONFIG, delayed_events=DelayedEventsSection(max_delay_ms=DAY_MS)
)


def start(database: InlineDatabase, **limits: int) -> Homeserver:
    section = DelayedEventsSection(**{"max_delay_ms": DAY_MS, **limits})
    return Homeserver(database, dataclasses.replace(CONFIG, delayed_events=section))


def make_call_room(alice: User) -> str:
    """A room of alice's in which everybody may set the state of a call."""
    return alice.create_room(
        preset="public_chat",
        power_level_content_override={"events": {"org.example.call": 0}},
    )


def hand_in(
    user: User, room_id: str, text: str, delay_ms: int = 10_000, txn_id: str | None = None
) -> Reply:
    path = f"/rooms/{quote(room_id)}/send/m.room.message/{quote(txn_id or 'txn ' + text)}"
    body = {"msgtype": "m.text", "body": text}
    return user.request("PUT", path, body, query={DELAY: delay_ms})


def delay(user: User, room_id: str, text: str, delay_ms: int = 10_000) -> str:
    """Return the delay id."""
    reply = hand_in(user, room_id, text, delay_ms)
    assert reply.status == 200, reply.json
    return str(reply.json["delay_id"])


def delay_state(
    user: User, room_id: str, state_key: str, content: object, delay_ms: int = 10_000
) -> str:
    """Return the delay id."""
    path = f"/rooms/{quote(room_id)}/state/org.example.call/{quote(state_key)}"
    reply = user.request("PUT", path, content, query={DELAY: delay_ms})
    assert reply.status == 200, reply.json
    return str(reply.json["delay_id"])


def act(user: User, delay_id: str, action: str) -> Reply:
    return user.request("POST", f"{PREFIX}/delayed_events/{delay_id}/{action}")


def get_one(user: User, delay_id: str) -> Any:
    return user.get(f"{PREFIX}/delayed_events/{delay_id}").json


def scheduled(user: User) -> list[Any]:
    """Return what is listed, the soonest first."""
    found: list[Any] = user.get(f"{PREFIX}/delayed_events").json["delayed_events"]
    return found


def texts(user: User, room_id: str) -> list[str]:
    chunk = user.get(f"/rooms/{quote(room_id)}/messages", dir="f", limit=1000).json["chunk"]
    return [e["content"]["body"] for e in chunk if e["type"] == "m.room.message"]


def state_of(user: User, room_id: str, state_key: str) -> Any:
    return user.get(f"/rooms/{quote(room_id)}/state/org.example.call/{quote(state_key)}").json


def set_state(user: User, room_id: str, state_key: str, content: object) -> str:
    path = f"/rooms/{quote(room_id)}/state/org.example.call/{quote(state_key)}"
    reply = user.put(path, content)
    assert reply.status == 200, reply.json
    return str(reply.json["event_id"])
