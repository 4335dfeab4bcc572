"""Dot-separated paths to a property of an event.

spec: appendices/#dot-separated-property-paths, v1.19

Invariant: only dots and backslashes are escaped; any other backslash stands for itself.
"""

from homeserver.core.json_types import JsonObject, JsonValue

ABSENT: JsonObject = {}


def split_property_path(path: str) -> tuple[str, ...]:
    r"""Split `content.m\.mentions.room` into `content`, `m.mentions` and `room`."""
    names: list[str] = []
    name: list[str] = []
    characters = iter(path)
    for character in characters:
        if character == ".":
            names.append("".join(name))
            name.clear()
        elif character == "\\":
            following = next(characters, "")
            name.append(following if following in {".", "\\"} else character + following)
        else:
            name.append(character)
    return (*names, "".join(name))


def find_property(event: JsonObject, path: tuple[str, ...]) -> JsonValue:
    """Return the value at a path, the object `ABSENT` itself when some part of it is absent."""
    node: JsonValue = event
    for name in path:
        if not isinstance(node, dict):
            return ABSENT
        node = node.get(name, ABSENT)
    return node
