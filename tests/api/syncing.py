"""What a sync says of a room."""

from typing import Any


def joined(response: Any, room_id: str) -> Any:
    return response["rooms"]["join"][room_id]


def bodies(room: Any) -> list[str]:
    events = room["timeline"]["events"]
    return [e["content"]["body"] for e in events if e["type"] == "m.room.message"]
