"""Ed25519 signatures over canonical JSON, and unpadded base64.

spec: appendices/#signing-json, appendices/#unpadded-base64, v1.19. Invariant: what is signed or
verified is the canonical JSON without `signatures` and `unsigned`, and nothing else.
"""

import binascii
import re

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.errors import JsonInvalid, SignatureInvalid
from homeserver.core.json_types import JsonObject

__all__ = [
    "SignatureInvalid",
    "SigningKey",
    "decode_base64",
    "decode_base64_urlsafe",
    "encode_base64",
    "encode_base64_urlsafe",
    "sign_json",
    "verify_signature",
    "verify_signed_json",
]

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

_KEY_ID = re.compile(r"ed25519:[A-Za-z0-9_]+")
_FROM_URLSAFE = str.maketrans("-_", "+/")
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")


class SigningKey:
    """A server's signing key; the caller brings the 32 random bytes."""

    __slots__ = ("_secret", "key_id", "seed", "verify_key_base64")

    def __init__(self, key_id: str, seed: bytes) -> None:
        if _KEY_ID.fullmatch(key_id) is None:
            raise ValueError("a key id looks like ed25519:name, the name of A-Z a-z 0-9 _")
        if len(seed) != SEED_BYTES:
            raise ValueError("a seed has 32 bytes")
        public, self._secret = crypto_sign_seed_keypair(seed)
        self.key_id = key_id
        self.seed = seed
        self.verify_key_base64 = encode_base64(public)

    def sign(self, message: bytes) -> str:
        """Return the signature as unpadded base64."""
        return encode_base64(crypto_sign(message, self._secret)[:SIGNATURE_BYTES])

    def __repr__(self) -> str:
        return f"<SigningKey {self.key_id}>"


def sign_json(obj: JsonObject, server_name: str, key: SigningKey) -> JsonObject:
    """Return a copy with one more signature; those already there are kept."""
    signature = key.sign(_signed_bytes(obj))
    result = dict(obj)
    signatures = obj.get("signatures")
    signatures = dict(signatures) if isinstance(signatures, dict) else {}
    by_server = signatures.get(server_name)
    by_server = dict(by_server) if isinstance(by_server, dict) else {}
    by_server[key.key_id] = signature
    signatures[server_name] = by_server
    result["signatures"] = signatures
    return result


def verify_signed_json(obj: JsonObject, name: str, key_id: str, verify_key_base64: str) -> None:
    """Raise SignatureInvalid unless `name` signed the object with this key."""
    signatures = obj.get("signatures")
    by_name = signatures.get(name) if isinstance(signatures, dict) else None
    signature = by_name.get(key_id) if isinstance(by_name, dict) else None
    if not isinstance(signature, str):
        raise SignatureInvalid(f"no signature of {name} with {key_id}")
    try:
        message = _signed_bytes(obj)
    except JsonInvalid as error:
        raise SignatureInvalid(str(error)) from error
    verify_signature(message, signature, verify_key_base64)


def verify_signature(message: bytes, signature_base64: str, verify_key_base64: str) -> None:
    """Raise SignatureInvalid unless the Ed25519 signature is right."""
    try:
        signature = decode_base64(signature_base64)
        public_key = decode_base64(verify_key_base64)
    except ValueError as error:
        raise SignatureInvalid(str(error)) from error
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        raise SignatureInvalid("the signature or key has the wrong length")
    try:
        crypto_sign_open(signature + message, public_key)
    except CryptoError as error:
        raise SignatureInvalid("the signature does not match") from error


def encode_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode()


def encode_base64_urlsafe(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).translate(_TO_URLSAFE).rstrip(b"=").decode()


def decode_base64(text: str) -> bytes:
    """Decode base64 with or without padding; raise ValueError on any other character.

    Set spare bits are ignored, as the specification's own test key has them.
    """
    unpadded = text.rstrip("=")
    if len(text) - len(unpadded) not in {0, -len(unpadded) % 4}:
        raise ValueError("wrong base64 padding")
    return binascii.a2b_base64(unpadded + "=" * (-len(unpadded) % 4), strict_mode=True)


def decode_base64_urlsafe(text: str) -> bytes:
    """Decode URL-safe base64, as strictly as `decode_base64`."""
    if "+" in text or "/" in text:
        raise ValueError("not URL-safe base64")
    return decode_base64(text.translate(_FROM_URLSAFE))


def _signed_bytes(obj: JsonObject) -> bytes:
    return encode_canonical_json(
        {key: value for key, value in obj.items() if key not in {"signatures", "unsigned"}}
    )
