"""Ed25519 verification that leaves no room: one key encoding, no small-order keys, no malleability.

protocol: docs/cosign-protocol.md, section 3. Invariant: a `PublicKey` is a canonical point of the
prime-order subgroup; keys are compared as bytes, never by a key id.
"""

from typing import NewType

from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from agent_bridge.core.base64_text import decode_matrix_base64, encode_matrix_base64
from agent_bridge.core.refusals import Reason, Refused

PublicKey = NewType("PublicKey", bytes)

KEY_BYTES = 32
SIGNATURE_BYTES = 64


def check_public_key(data: bytes) -> PublicKey:
    if len(data) != KEY_BYTES:
        raise Refused(Reason.KEY_INVALID, f"{len(data)} bytes instead of {KEY_BYTES}")
    if not crypto_core_ed25519_is_valid_point(data):
        raise Refused(Reason.KEY_INVALID, "not a point of the prime-order subgroup")
    return PublicKey(data)


def parse_public_key(text: str) -> PublicKey:
    """Read a key as Matrix writes it: unpadded standard base64, in its one form."""
    return check_public_key(decode_matrix_base64(text))


def encode_public_key(key: PublicKey) -> str:
    return encode_matrix_base64(key)


def check_signature(key: PublicKey, message: bytes, signature: bytes) -> None:
    """Raise unless the holder of `key` signed `message`; libsodium refuses S >= L."""
    if len(signature) != SIGNATURE_BYTES:
        raise Refused(Reason.SIGNATURE_INVALID, f"{len(signature)} bytes instead of 64")
    try:
        VerifyKey(check_public_key(key)).verify(message, signature)
    except BadSignatureError as error:
        raise Refused(Reason.SIGNATURE_INVALID) from error
