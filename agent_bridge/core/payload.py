"""Signed payloads as bytes: strict canonical JSON in, typed fields out.

protocol: docs/cosign-protocol.md, section 2. Invariant: a payload that decodes has one byte form,
one meaning and no field this version does not know; no signature covers re-serialized
bytes.
"""

from collections.abc import Callable
from typing import Self, TypeVar
from unicodedata import is_normalized

from agent_bridge.core.base64_text import decode_base64url
from agent_bridge.core.ed25519 import PublicKey, parse_public_key
from agent_bridge.core.pae import Digest, parse_digest
from agent_bridge.core.refusals import Reason, Refused
from homeserver.core.canonical_json import decode_strict_json, encode_canonical_json
from homeserver.core.errors import JsonInvalid
from homeserver.core.json_types import JsonObject, JsonValue

MAX_PAYLOAD_BYTES = 24 * 1024
MAX_TIME_MS = 253_402_300_799_999
"""The last millisecond of the year 9999: every time can be shown as a date."""

T = TypeVar("T")


def encode_payload(value: JsonObject, max_bytes: int = MAX_PAYLOAD_BYTES) -> bytes:
    """Encode what `decode_payload` will accept, or refuse."""
    _check_normal_form(value)
    try:
        data = encode_canonical_json(value)
    except JsonInvalid as error:
        raise Refused(Reason.JSON_INVALID, str(error)) from error
    _check_size(data, max_bytes)
    return data


def decode_payload(data: bytes, max_bytes: int = MAX_PAYLOAD_BYTES) -> JsonObject:
    """Decode bytes that must re-encode to exactly themselves."""
    _check_size(data, max_bytes)
    try:
        value = decode_strict_json(data)
    except JsonInvalid as error:
        raise Refused(Reason.JSON_INVALID, str(error)) from error
    if not isinstance(value, dict):
        raise Refused(Reason.JSON_INVALID, "not an object")
    if encode_payload(value, max_bytes) != data:
        raise Refused(Reason.NOT_CANONICAL)
    return value


class Fields:
    """A JSON object whose keys are exactly the ones this version knows.

    Every field is required; one that may be absent is null. `where` names the object in refusals.
    """

    def __init__(self, value: JsonValue, where: str, names: frozenset[str]) -> None:
        if not isinstance(value, dict):
            raise Refused(Reason.FIELD_INVALID, f"{where} is not an object")
        if unknown := sorted(value.keys() - names):
            raise Refused(Reason.FIELD_UNKNOWN, f"{where}.{unknown[0]}")
        if missing := sorted(names - value.keys()):
            raise Refused(Reason.FIELD_MISSING, f"{where}.{missing[0]}")
        self._value = value
        self._where = where

    @classmethod
    def of(cls, value: JsonValue, where: str, *names: str) -> Self:
        return cls(value, where, frozenset(names))

    def path(self, name: str) -> str:
        return f"{self._where}.{name}"

    def invalid(self, name: str, what: str) -> Refused:
        return Refused(Reason.FIELD_INVALID, f"{self.path(name)} {what}")

    def raw(self, name: str) -> JsonValue:
        return self._value[name]

    def text(self, name: str) -> str:
        value = self._value[name]
        if not isinstance(value, str):
            raise self.invalid(name, "is not a text")
        return value

    def integer(self, name: str, minimum: int = 0) -> int:
        value = self._value[name]
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.invalid(name, "is not an integer")
        if value < minimum:
            raise self.invalid(name, f"is less than {minimum}")
        return value

    def time(self, name: str) -> int:
        value = self.integer(name)
        if value > MAX_TIME_MS:
            raise self.invalid(name, "is after the year 9999")
        return value

    def boolean(self, name: str) -> bool:
        value = self._value[name]
        if not isinstance(value, bool):
            raise self.invalid(name, "is not true or false")
        return value

    def items(self, name: str) -> list[JsonValue]:
        value = self._value[name]
        if not isinstance(value, list):
            raise self.invalid(name, "is not a list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Texts in sorted order without repeats, so that a set has one spelling."""
        texts = tuple(text for text in self.items(name) if isinstance(text, str))
        if len(texts) != len(self.items(name)) or list(texts) != sorted(set(texts)):
            raise self.invalid(name, "is not a sorted list of different texts")
        return texts

    def octets(self, name: str) -> bytes:
        return decode_base64url(self.text(name))

    def key(self, name: str) -> PublicKey:
        return parse_public_key(self.text(name))

    def digest(self, name: str) -> Digest:
        return self.parsed(name, parse_digest)

    def parsed(self, name: str, parse: Callable[[str], T]) -> T:
        """Apply a parser of texts that raises `Refused` or `ValueError`."""
        text = self.text(name)
        try:
            return parse(text)
        except ValueError as error:
            raise self.invalid(name, "has an unknown value") from error

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        """`fields.optional("stdin", fields.digest)`: None when the field is null."""
        return None if self._value[name] is None else read(name)


def _check_size(data: bytes, max_bytes: int) -> None:
    if len(data) > max_bytes:
        raise Refused(Reason.PAYLOAD_TOO_LARGE, f"{len(data)} bytes, at most {max_bytes}")


def _check_normal_form(value: JsonValue) -> None:
    if isinstance(value, str):
        if not is_normalized("NFC", value):
            raise Refused(Reason.NOT_NFC)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_normal_form(key)
            _check_normal_form(item)
    elif isinstance(value, list):
        for item in value:
            _check_normal_form(item)
