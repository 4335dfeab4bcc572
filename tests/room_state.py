"""State that rooms of tests begin with: entries of `initial_state`."""

from homeserver.core.json_types import JsonObject


def history_visibility(visibility: str) -> JsonObject:
    return {
        "type": "m.room.history_visibility",
        "state_key": "",
        "content": {"history_visibility": visibility},
    }


def join_rules(rule: str, *allowed: str) -> JsonObject:
    """`allowed`: the rooms whose members may join, where the rule is a restricted one."""
    content: JsonObject = {"join_rule": rule}
    if allowed:
        content["allow"] = [{"type": "m.room_membership", "room_id": one} for one in allowed]
    return {"type": "m.room.join_rules", "state_key": "", "content": content}
