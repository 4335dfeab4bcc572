"""The type of a JSON value, for every layer.

Invariant: a JsonValue is exactly what `decode_json` returns; nothing here has behavior.
"""

from typing import TypeAlias

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"
JsonObject: TypeAlias = dict[str, JsonValue]
