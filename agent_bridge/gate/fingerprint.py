"""Fingerprints people compare by eye: of the gate, and of a master key.

Invariant: a fingerprint is a full SHA-256 over a typed encoding, so it cannot be ground to match
and one of a gate never equals one of a person.
"""

from base64 import b32encode
from hashlib import sha256

from agent_bridge.core.ed25519 import PublicKey

_GROUP = 4
_GATE = "org.countersign.fingerprint.gate.v1"
_MASTER = "org.countersign.fingerprint.master.v1"


def gate_fingerprint(user_id: str, gate_key: PublicKey, master_key: PublicKey) -> str:
    """Commit to the gate's account, its signing key and its cross-signing identity."""
    return _fingerprint(_GATE, user_id.encode(), gate_key, master_key)


def master_key_fingerprint(user_id: str, master_key: PublicKey) -> str:
    return _fingerprint(_MASTER, user_id.encode(), master_key)


def same_fingerprint(one: str, other: str) -> bool:
    """Compare what was typed: case, spaces and dashes do not matter."""
    return _bare(one) == _bare(other)


def _bare(text: str) -> str:
    return "".join(character for character in text.upper() if character.isalnum())


def _fingerprint(kind: str, *parts: bytes) -> str:
    digest = sha256(b"".join(b"%d %b " % (len(part), part) for part in (kind.encode(), *parts)))
    text = b32encode(digest.digest()).rstrip(b"=").decode()
    return "-".join(text[start : start + _GROUP] for start in range(0, len(text), _GROUP))
