"""Asking for sliding sync in tests, the way Element X does."""

from typing import Any

from tests.homeserver import PendingReply, Reply, User

PATH = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
EVERY_STATE = [["*", "*"]]


def room_list(
    last: int = 19, *, timeline_limit: int = 1, state: Any = (), **filters: Any
) -> dict[str, Any]:
    """A body with one list of all rooms."""
    return {
        "lists": {
            "all_rooms": {
                "ranges": [[0, last]],
                "timeline_limit": timeline_limit,
                "required_state": list(state),
                "filters": filters,
            }
        }
    }


def subscription(room_id: str, *, timeline_limit: int = 20, state: Any = ()) -> dict[str, Any]:
    config = {"timeline_limit": timeline_limit, "required_state": list(state)}
    return {"room_subscriptions": {room_id: config}}


def ask(user: User, body: dict[str, Any], pos: str | None = None, timeout_ms: int = 0) -> Reply:
    reply = poll(user, body, pos, timeout_ms).reply()
    assert isinstance(reply, Reply)
    return reply


def poll(
    user: User, body: dict[str, Any], pos: str | None, timeout_ms: int = 30_000
) -> PendingReply:
    query: dict[str, Any] = {"timeout": timeout_ms}
    if pos is not None:
        query["pos"] = pos
    return user.start_request("POST", PATH, body, query=query)


def slide(user: User, body: dict[str, Any], pos: str | None = None, timeout_ms: int = 0) -> Any:
    reply = ask(user, body, pos, timeout_ms)
    assert reply.status == 200, reply.json
    return reply.json


def texts(room: Any) -> list[str]:
    return [
        event["content"]["body"]
        for event in room.get("timeline", [])
        if event["type"] == "m.room.message" and "body" in event["content"]
    ]


def slots(room: Any) -> set[tuple[str, str]]:
    return {(event["type"], event["state_key"]) for event in room.get("required_state", [])}
