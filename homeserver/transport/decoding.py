"""From untrusted JSON to frozen dataclasses, for request bodies and for configuration.

A field may say its wire name: `field(metadata={"wire": "m.fully_read"})`. Unknown keys are
ignored, as the specification demands, unless the caller asks for a report of them.
"""

import dataclasses
import difflib
import enum
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar, Union

from homeserver.core import identifiers
from homeserver.core.identifiers import IdentifierInvalid

T = TypeVar("T")
Decoder = Callable[[Any, str, "Problems"], Any]

_PARSED_IDENTIFIERS: dict[object, Callable[[str], str]] = {
    identifiers.UserID: identifiers.parse_user_id,
    identifiers.RoomID: identifiers.parse_room_id,
    identifiers.EventID: identifiers.parse_event_id,
    identifiers.RoomAlias: identifiers.parse_room_alias,
    identifiers.ServerName: identifiers.parse_server_name,
}
_MAX_DEPTH = 64


@dataclasses.dataclass(frozen=True)
class Problem:
    path: str
    message: str
    missing: bool = False
    unknown: bool = False


class Problems:
    """Collects what is wrong, so that it can all be told at once."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, path: str, message: str, *, missing: bool = False, unknown: bool = False) -> None:
        self.found.append(Problem(path, message, missing, unknown))


class DecodingFailed(Exception):
    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{p.path}: {p.message}" for p in problems))
        self.problems = problems


def decode(kind: type[T], value: object, *, refuse_unknown: bool = False) -> T:
    """Build a `kind` from decoded JSON. Raises DecodingFailed with every problem found."""
    problems = Problems()
    decoder: Decoder = _decoder(typing.cast("Any", kind))
    result = decoder(value, "", problems)
    found = [p for p in problems.found if refuse_unknown or not p.unknown]
    if found:
        raise DecodingFailed(found)
    return typing.cast("T", result)


def decode_text(kind: object, text: str) -> object:
    """Decode a path or query parameter. Raises DecodingFailed."""
    problems = Problems()
    value: object = text
    plain = without_none(kind)
    if plain is bool:
        if text not in ("true", "false"):
            problems.add("", "must be true or false")
        value = text == "true"
    elif plain is int:
        try:
            value = int(text)
        except ValueError:
            problems.add("", "must be an integer")
    if not problems.found:
        value = _decoder(kind)(value, "", problems)
    if problems.found:
        raise DecodingFailed(problems.found)
    return value


def type_hints(annotated: object) -> dict[str, Any]:
    """Resolve annotations; the recursive JsonValue stands for any JSON."""
    return typing.get_type_hints(annotated, localns={"JsonValue": object})


def without_none(kind: object) -> object:
    """Return X for `X | None`, and anything else as it is."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        rest = [a for a in typing.get_args(kind) if a is not type(None)]
        return rest[0] if len(rest) == 1 else kind
    return kind


@cache
def _decoder(kind: Any) -> Decoder:  # noqa: PLR0911 - one line a kind of type
    if kind in _PARSED_IDENTIFIERS:
        return _identifier(_PARSED_IDENTIFIERS[kind])
    if isinstance(kind, typing.NewType):
        return _decoder(kind.__supertype__)
    if isinstance(kind, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        return _decoder(kind.__value__)
    if dataclasses.is_dataclass(kind):
        return _dataclass(typing.cast("type", kind))
    if kind in (str, int, float, bool):
        return _scalar(typing.cast("type", kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _choice({member.value: member for member in kind})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return _choice({value: value for value in arguments})
    if origin in (Union, types.UnionType) and type(None) in arguments and len(arguments) == 2:  # noqa: PLR2004
        inner = _decoder(without_none(kind))
        return lambda v, path, problems: None if v is None else inner(v, path, problems)
    if origin in (list, tuple):
        return _list(_decoder(arguments[0]), as_tuple=origin is tuple)
    if origin is dict and arguments[1] is not Any:
        return _dict(_decoder(arguments[0]), _decoder(arguments[1]))
    if kind is object or origin in (Union, types.UnionType):
        return lambda v, _path, _problems: v  # JsonValue: any JSON
    if origin is dict or kind is dict:
        return _dict(_decoder(str), lambda v, _path, _problems: v)
    raise TypeError(f"no decoder for {kind!r}")


def _identifier(parse: Callable[[str], str]) -> Decoder:
    def run(value: Any, path: str, problems: Problems) -> Any:
        if not isinstance(value, str):
            problems.add(path, "must be a string")
            return None
        try:
            return parse(value)
        except IdentifierInvalid as error:
            problems.add(path, str(error))
            return None

    return run


def _scalar(kind: type) -> Decoder:
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
    accepted: tuple[type, ...] = (int, float) if kind is float else (kind,)

    def run(value: Any, path: str, problems: Problems) -> Any:
        if type(value) in accepted:
            return value
        problems.add(path, f"must be {names[kind]}")
        return None

    return run


def _choice(choices: dict[object, object]) -> Decoder:
    def run(value: Any, path: str, problems: Problems) -> Any:
        try:
            return choices[value]
        except (KeyError, TypeError):
            problems.add(path, "must be one of " + ", ".join(str(c) for c in choices))
            return None

    return run


def _list(item: Decoder, *, as_tuple: bool) -> Decoder:
    def run(value: Any, path: str, problems: Problems) -> Any:
        if not isinstance(value, list):
            problems.add(path, "must be a list")
            return None
        items = [item(v, f"{path}[{i}]", problems) for i, v in enumerate(value)]
        return tuple(items) if as_tuple else items

    return run


def _dict(key: Decoder, item: Decoder) -> Decoder:
    def run(value: Any, path: str, problems: Problems) -> Any:
        if not isinstance(value, dict):
            problems.add(path, "must be an object")
            return None
        return {
            key(k, f"{path}.{k}", problems): item(v, f"{path}.{k}", problems)
            for k, v in value.items()
        }

    return run


def wire_name(field: "dataclasses.Field[Any]") -> str:
    return str(field.metadata.get("wire", field.name))


def _dataclass(kind: type) -> Decoder:
    hints = type_hints(kind)
    fields = [
        (
            field.name,
            wire_name(field),
            _decoder(hints[field.name]),
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
        if field.metadata.get("decoded", True)
    ]
    known = [wire for _, wire, _, _ in fields]

    def run(value: Any, path: str, problems: Problems) -> Any:
        if not isinstance(value, dict):
            problems.add(path, "must be an object")
            return None
        before = len(problems.found)
        if path.count(".") > _MAX_DEPTH:
            problems.add(path, "is nested too deeply")
            return None
        for name in value:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                problems.add(_join(path, str(name)), f"is not known{hint}", unknown=True)
        arguments = {}
        for name, wire, decoder, required in fields:
            if wire in value:
                arguments[name] = decoder(value[wire], _join(path, wire), problems)
            elif required:
                problems.add(_join(path, wire), "is required", missing=True)
        if any(not p.unknown for p in problems.found[before:]):
            return None
        try:
            return kind(**arguments)
        except ValueError as error:
            problems.add(path, str(error))
            return None

    return run


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
