"""How tests relate events to each other and read what comes of it."""

import itertools
from typing import Any
from urllib.parse import quote

from tests.homeserver import Reply, User

_numbers = itertools.count(1)


def relate(
    user: User,
    room_id: str,
    parent_id: str,
    rel_type: str,
    *,
    event_type: str = "m.room.message",
    content: dict[str, Any] | None = None,
    key: str | None = None,
    txn_id: str | None = None,
) -> Reply:
    relation = {"rel_type": rel_type, "event_id": parent_id} | ({"key": key} if key else {})
    body = {"msgtype": "m.text", "body": "x", "m.relates_to": relation} | (content or {})
    txn_id = txn_id or f"relation{next(_numbers)}"
    return user.put(f"/rooms/{quote(room_id)}/send/{event_type}/{txn_id}", body)


def related(user: User, room_id: str, parent_id: str, rel_type: str, **options: Any) -> str:
    """Return the event id."""
    reply = relate(user, room_id, parent_id, rel_type, **options)
    assert reply.status == 200, reply.json
    return str(reply.json["event_id"])


def edited(user: User, room_id: str, parent_id: str, text: str, **options: Any) -> str:
    content = {"body": f"* {text}", "m.new_content": {"msgtype": "m.text", "body": text}}
    return related(user, room_id, parent_id, "m.replace", content=content, **options)


def reacted(user: User, room_id: str, parent_id: str, key: str, **options: Any) -> Reply:
    return relate(
        user, room_id, parent_id, "m.annotation", event_type="m.reaction", key=key, **options
    )


def redact(user: User, room_id: str, event_id: str) -> None:
    path = f"/rooms/{quote(room_id)}/redact/{quote(event_id, safe='')}/r{next(_numbers)}"
    reply = user.put(path, {})
    assert reply.status == 200, reply.json


def ignore(user: User, *others: str) -> None:
    reply = user.put(
        f"/user/{quote(user.user_id)}/account_data/m.ignored_user_list",
        {"ignored_users": {other: {} for other in others}},
    )
    assert reply.status == 200, reply.json


def get_event(user: User, room_id: str, event_id: str) -> Any:
    reply = user.get(f"/rooms/{quote(room_id)}/event/{quote(event_id, safe='')}")
    assert reply.status == 200, reply.json
    return reply.json


def bundle_of(user: User, room_id: str, event_id: str) -> Any:
    """The bundled aggregations of an event; None when it has none."""
    return bundle_in(get_event(user, room_id, event_id))


def bundle_in(event: Any) -> Any:
    return event.get("unsigned", {}).get("m.relations")


def children(user: User, room_id: str, parent_id: str, *below: str, **query: Any) -> Reply:
    path = f"/_matrix/client/v1/rooms/{quote(room_id)}/relations/{quote(parent_id, safe='')}"
    return user.get("/".join([path, *(quote(part, safe="") for part in below)]), **query)


def ids(events: list[Any]) -> list[str]:
    return [event["event_id"] for event in events]
