"""Requests as they come in the requests room: checked against the contract, never trusted.

Contract: events `org.countersign.request` and `.cancel` of configured senders. Invariant: a
`WishedAction` obeys every bound of the contract; who asks and why is a claim and is shown as one.
"""

import re
import unicodedata
from dataclasses import dataclass

from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.gate.freezing import ExecRequest, ScriptRequest
from homeserver.core.json_types import JsonObject, JsonValue

REQUEST_EVENT = "org.countersign.request"
CANCEL_EVENT = "org.countersign.request.cancel"

MAX_COMMAND_BYTES = 8192
MAX_ARGUMENTS = 256
MAX_REASON_CHARACTERS = 500
MIN_TTL_MS = 10_000
MAX_TTL_MS = 86_400_000
_MAX_NAME_BYTES = 255
_MAX_TAINTS = 16
_MAX_TIME_MS = 253_402_300_799_999

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class WishedAction:
    """What somebody wants done, and what is said about it."""

    request: ExecRequest | ScriptRequest
    requester: str
    chat_room: str
    issued_ms: int
    ttl_ms: int | None
    reason: str
    taint: tuple[str, ...]
    """NOTSPEC: beyond the contract; a sender may name what its agent read. It only raises tiers."""


def find_request_id(content: JsonObject) -> str | None:
    """Return the id if it is usable: without one there is nobody to answer."""
    request_id = content.get("request_id")
    if isinstance(request_id, str) and _REQUEST_ID.fullmatch(request_id):
        return request_id
    return None


def parse_wish(content: JsonObject) -> WishedAction:
    """Raises Refused with a word of the contract."""
    return WishedAction(
        request=_parse_action(content),
        requester=_name(content, "requester"),
        chat_room=_name(content, "chat_room"),
        issued_ms=_integer(content, "issued_ms", 0, _MAX_TIME_MS),
        ttl_ms=_integer(content, "ttl_ms", MIN_TTL_MS, MAX_TTL_MS) if "ttl_ms" in content else None,
        reason=_parse_reason(content),
        taint=_parse_taint(content),
    )


def _parse_action(content: JsonObject) -> ExecRequest | ScriptRequest:
    cwd = None
    if "cwd" in content:
        cwd = _text(content, "cwd").encode()
        if not cwd.startswith(b"/") or b"\0" in cwd:
            raise Refused(Reason.MALFORMED, "cwd is not an absolute path")
    match content.get("kind"):
        case "exec":
            argv = _arguments(content, "argv")
            if not argv or not argv[0]:
                raise Refused(Reason.MALFORMED, "argv is empty")
            return ExecRequest(argv, cwd)
        case "script":
            interpreter = _text(content, "interpreter")
            if not interpreter or "\0" in interpreter or any(map(str.isspace, interpreter)):
                raise Refused(Reason.MALFORMED, "interpreter is not one word")
            script = _text(content, "script").encode()
            if len(script) > MAX_COMMAND_BYTES:
                raise Refused(Reason.TOO_LARGE, "script")
            if not script.endswith(b"\n"):
                raise Refused(Reason.MALFORMED, "script does not end with a newline")
            arguments = _arguments(content, "args") if "args" in content else ()
            return ScriptRequest(interpreter.encode(), script, arguments, cwd)
        case kind:
            raise Refused(Reason.UNKNOWN_KIND, repr(kind)[:64])


def _arguments(content: JsonObject, name: str) -> tuple[bytes, ...]:
    values = content.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise Refused(Reason.MALFORMED, f"{name} is not a list of texts")
    arguments = tuple(_encode(value, name) for value in values)
    if len(arguments) > MAX_ARGUMENTS or sum(map(len, arguments)) > MAX_COMMAND_BYTES:
        raise Refused(Reason.TOO_LARGE, name)
    if any(b"\0" in argument for argument in arguments):
        raise Refused(Reason.MALFORMED, f"{name} holds a NUL")
    return arguments


def _parse_reason(content: JsonObject) -> str:
    if "reason" not in content:
        return ""
    reason = _text(content, "reason")
    if len(reason) > MAX_REASON_CHARACTERS:
        raise Refused(Reason.TOO_LARGE, "reason")
    return unicodedata.normalize("NFC", reason)


def _parse_taint(content: JsonObject) -> tuple[str, ...]:
    values = content.get("taint", [])
    if not isinstance(values, list) or len(values) > _MAX_TAINTS:
        raise Refused(Reason.MALFORMED, "taint is not a short list")
    return tuple(sorted({_name({"taint": value}, "taint") for value in values}))


def _name(content: JsonObject, name: str) -> str:
    text = unicodedata.normalize("NFC", _text(content, name))
    if not text or len(text.encode()) > _MAX_NAME_BYTES:
        raise Refused(Reason.MALFORMED, f"{name} is empty or too long")
    return text


def _text(content: JsonObject, name: str) -> str:
    value = content.get(name)
    _encode(value, name)
    assert isinstance(value, str)
    return value


def _encode(value: JsonValue, name: str) -> bytes:
    if not isinstance(value, str):
        raise Refused(Reason.MALFORMED, f"{name} is not a text")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise Refused(Reason.MALFORMED, f"{name} is not Unicode") from None


def _integer(content: JsonObject, name: str, minimum: int, maximum: int) -> int:
    value = content.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise Refused(Reason.MALFORMED, f"{name} is not a number between its bounds")
    return value
