"""Reading JSON that somebody else wrote.

Invariant: never raises on the wrong shape; what has the wrong type is absent.
"""

import json

import orjson

from homeserver.core.json_types import JsonObject, JsonValue


def decode_untrusted_json(data: bytes) -> JsonValue:
    """Decode JSON of another party. Raises ValueError.

    Lone surrogates, which some servers pass on, become question marks instead of making the whole
    document unreadable: otherwise one room member could stop our sync for good.
    """
    try:
        value: JsonValue = orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    else:
        return value
    try:
        loose = json.loads(data.decode("utf-8", "replace"), parse_constant=_refuse_constant)
        repaired = json.dumps(loose, ensure_ascii=False).encode("utf-8", "replace")
        value = orjson.loads(repaired)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    return value


def object_in(value: JsonValue, key: str) -> JsonObject:
    """Return the object under key; an empty one when it is absent or not an object."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def find_object(value: JsonValue, key: str) -> JsonObject | None:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else None


def find_text(value: JsonValue, key: str) -> str | None:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def find_integer(value: JsonValue, key: str) -> int | None:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def objects_in(value: JsonValue, key: str) -> list[JsonObject]:
    """Return the objects in the list under key, leaving out whatever else is in it."""
    found = value.get(key) if isinstance(value, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def texts_in(value: JsonValue, key: str) -> list[str]:
    found = value.get(key) if isinstance(value, dict) else None
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def _refuse_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is not JSON")
