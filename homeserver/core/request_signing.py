"""Signatures of requests between servers, and the Authorization header that carries them.

spec: server-server-api/#request-authentication, v1.19. Invariant: what is signed names the method,
the path with its query, both servers and the body, so that a signature is good for one request.
"""

import re
from dataclasses import dataclass

from homeserver.core.canonical_json import decode_json, encode_canonical_json
from homeserver.core.errors import IdentifierInvalid, JsonInvalid, SignatureInvalid
from homeserver.core.identifiers import ServerName, parse_server_name
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import SigningKey, verify_signature

_SCHEME = "X-Matrix"
_MAX_HEADER_LETTERS = 2_000
# One name=value pair. COMPAT(older servers): an unquoted value may hold colons, and the characters
# of base64 and of IPv6 literals, which no token has.
_PAIR = re.compile(
    r"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^",\s]*))[ \t]*(?:,|$)"""
)
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class RequestSignature:
    """What an Authorization header says."""

    origin: ServerName
    destination: ServerName | None
    """None: an old server that does not name it."""
    key_id: str
    signature: str


def make_authorization(
    key: SigningKey,
    *,
    method: str,
    uri: str,
    origin: ServerName,
    destination: ServerName,
    content: bytes | None,
) -> str:
    """Return the value of the Authorization header.

    uri      the path with its query
    content  the body as canonical JSON; None: no body
    """
    signature = key.sign(_signed_bytes(method, uri, origin, destination, content))
    return (
        f'{_SCHEME} origin="{origin}",destination="{destination}",'
        f'key="{key.key_id}",sig="{signature}"'
    )


def parse_authorization(header: str) -> RequestSignature:
    """Raises SignatureInvalid for anything but a complete X-Matrix header."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != _SCHEME.lower() or len(header) > _MAX_HEADER_LETTERS:
        raise SignatureInvalid("the Authorization header must begin with X-Matrix")
    found: dict[str, str] = {}
    place = 0
    while place < len(rest):
        pair = _PAIR.match(rest, place)
        if pair is None:
            raise SignatureInvalid("the Authorization header is not a list of name=value")
        name, quoted, plain = pair.groups()
        if name.lower() in found:
            raise SignatureInvalid(f"the Authorization header has {name} twice")
        found[name.lower()] = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
        place = pair.end()
    try:
        destination = found.get("destination")
        return RequestSignature(
            origin=parse_server_name(found["origin"]),
            destination=None if destination is None else parse_server_name(destination),
            key_id=found["key"],
            signature=found["sig"],
        )
    except KeyError as error:
        raise SignatureInvalid(f"the Authorization header has no {error.args[0]}") from error
    except IdentifierInvalid as error:
        raise SignatureInvalid(str(error)) from error


def check_request_signature(
    claim: RequestSignature,
    verify_key: str,
    *,
    method: str,
    uri: str,
    destination: ServerName,
    body: bytes,
) -> None:
    """Raise SignatureInvalid unless the request was signed with this key (base64).

    What is signed is the canonical form of the body. Most servers send just that, and it need not
    be written again; a body that is JSON by itself cannot change what stands around it.
    """
    named = None if claim.destination is None else destination

    def check(content: bytes | None) -> None:
        message = _signed_bytes(method, uri, claim.origin, named, content)
        verify_signature(message, claim.signature, verify_key)

    if not body:
        check(None)
        return
    try:
        value = decode_json(body)
        check(body)
    except JsonInvalid as error:
        raise SignatureInvalid(f"the body is not JSON: {error}") from error
    except SignatureInvalid:
        try:
            check(encode_canonical_json(value))
        except JsonInvalid as error:
            raise SignatureInvalid(str(error)) from error


def _signed_bytes(
    method: str,
    uri: str,
    origin: ServerName,
    destination: ServerName | None,
    content: bytes | None,
) -> bytes:
    """Return the canonical JSON of the request around its content."""
    rest: JsonObject = {"method": method, "uri": uri, "origin": origin}
    if destination is not None:
        rest["destination"] = destination
    written = encode_canonical_json(rest)
    if content is None:
        return written
    return b'{"content":' + content + b"," + written[1:]
