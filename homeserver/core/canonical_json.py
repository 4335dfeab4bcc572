"""JSON as bytes: canonical, strict and fast.

spec: appendices/#canonical-json, v1.19. Invariant: equal values give equal canonical bytes, and
what is outside the canonical grammar is refused, never approximated.

Nesting is bounded by the encoder (254 levels) and the decoder (1,024 levels); deeper values are
refused as JsonInvalid.
"""

import json
from typing import NoReturn, cast

import orjson

from homeserver.core.errors import JsonInvalid
from homeserver.core.json_types import JsonObject, JsonValue

__all__ = [
    "MAX_INTEGER",
    "JsonInvalid",
    "decode_json",
    "decode_lenient_json",
    "decode_strict_json",
    "encode_canonical_json",
    "encode_checked_json",
    "encode_json",
    "encode_lenient_json",
    "is_canonical_json_value",
    "without_slack",
]

MAX_INTEGER = 2**53 - 1

_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_SCALARS = frozenset({str, int, bool, type(None)})


def encode_canonical_json(value: JsonValue) -> bytes:
    """Raise JsonInvalid on floats, integers beyond 53 bits and lone surrogates."""
    _check_types(value)
    return encode_checked_json(value)


def encode_checked_json(value: JsonValue) -> bytes:
    """Encode canonically what consists of parts that are known to contain no float.

    This saves a walk through the value. Everything else is still refused as JsonInvalid.
    """
    try:
        return orjson.dumps(value, option=_CANONICAL)
    except TypeError as error:
        raise JsonInvalid(str(error)) from error


def encode_lenient_json(value: JsonValue) -> bytes:
    """Encode like canonical JSON, but let floats and big integers through (rooms before v6)."""
    try:
        return encode_canonical_json(value)
    except JsonInvalid:
        pass
    try:
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise JsonInvalid(str(error)) from error


def encode_json(value: JsonValue) -> bytes:
    """Encode our own values for clients, without the canonical checks.

    Raise JsonInvalid only where no JSON exists: lone surrogates, foreign types, 65-bit integers.
    """
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise JsonInvalid(str(error)) from error


def without_slack(encoded: bytes) -> bytes:
    """Return a copy to keep: the encoder gives out small results in blocks of some 4,000 bytes."""
    return bytes(memoryview(encoded))


def decode_json(data: bytes | str) -> JsonValue:
    try:
        return cast("JsonValue", orjson.loads(data))
    except ValueError as error:
        raise JsonInvalid(str(error)) from error


def decode_strict_json(data: bytes) -> JsonValue:
    """Refuse what canonical JSON cannot hold, and objects that name a key twice.

    White space, key order and escapes are free: the text need not be canonical, its value must.
    """
    value = decode_json(data)
    # The encoder writes the shortest text of a value. If that is as long as what we were given,
    # nothing was dropped, so no key came twice: the common case without a slow second parse.
    if len(encode_canonical_json(value)) != len(data):
        _refuse_duplicate_keys(data)
    return value


def decode_lenient_json(data: bytes) -> JsonValue:
    """Keep floats and big integers as they are; still refuse duplicate keys and NaN."""
    return _refuse_duplicate_keys(data)


def is_canonical_json_value(value: JsonValue) -> bool:
    try:
        encode_canonical_json(value)
    except JsonInvalid:
        return False
    return True


def _check_types(root: JsonValue) -> None:
    """Refuse floats and whatever else the encoder would write but canonical JSON lacks."""
    if type(root) in _SCALARS:
        return
    pending: list[object] = [root]
    scalars = _SCALARS
    while pending:
        container = pending.pop()
        kind = type(container)
        if kind is dict:
            items = cast("JsonObject", container).values()
        elif kind is list or kind is tuple:
            items = cast("list[JsonValue]", container)  # type: ignore[assignment]  # any iterable
        else:
            raise JsonInvalid(f"canonical JSON has no {kind.__name__}")
        for item in items:
            if type(item) not in scalars:
                pending.append(item)  # noqa: PERF401  # measured: faster than extend here


def _refuse_duplicate_keys(data: bytes) -> JsonValue:
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_unique_pairs, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise JsonInvalid(str(error)) from error
    return cast("JsonValue", value)


def _unique_pairs(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise JsonInvalid("an object names a key twice")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise JsonInvalid(f"JSON has no {name}")
