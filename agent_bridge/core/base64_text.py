"""Unpadded base64 in exactly one spelling: URL-safe for our own fields, standard for Matrix keys.

protocol: docs/cosign-protocol.md, section 2. Invariant: decoding accepts only what encoding makes,
so one byte string has one text.
"""

import re
from base64 import b64decode, b64encode

from agent_bridge.core.refusals import Reason, Refused

_URL_SAFE = re.compile(r"[A-Za-z0-9_-]*")
_STANDARD = re.compile(r"[A-Za-z0-9+/]*")


def encode_base64url(data: bytes) -> str:
    return b64encode(data, altchars=b"-_").rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    if not _URL_SAFE.fullmatch(text):
        raise Refused(Reason.BASE64_INVALID)
    return _decode(text.replace("-", "+").replace("_", "/"))


def encode_matrix_base64(data: bytes) -> str:
    return b64encode(data).rstrip(b"=").decode()


def decode_matrix_base64(text: str) -> bytes:
    if not _STANDARD.fullmatch(text):
        raise Refused(Reason.BASE64_INVALID)
    return _decode(text)


def _decode(text: str) -> bytes:
    if len(text) % 4 == 1:
        raise Refused(Reason.BASE64_INVALID, "impossible length")
    data = b64decode(text + "=" * (-len(text) % 4))
    if encode_matrix_base64(data) != text:
        raise Refused(Reason.BASE64_INVALID, "unused bits are set")
    return data
