"""Our own cross-signing keys: made once, kept sealed in the store, used to sign.

spec: client-server-api/#cross-signing, v1.19
Invariant: a seed never leaves this module; what is signed is a key object whose bytes were compared
with what the caller expects.
"""

import secrets
from dataclasses import dataclass

from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from agent_bridge.matrix.device_keys import Usage
from agent_bridge.matrix.errors import CrossSigningMissing, StoreCorrupt
from agent_bridge.matrix.store import Store, blob
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import encode_base64

_SEED_BYTES = 32
_SIGNATURE_BYTES = 64
_USAGES: tuple[Usage, ...] = ("master", "self_signing", "user_signing")


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    usage: Usage
    seed: bytes

    @property
    def public_key(self) -> str:
        public, _ = crypto_sign_seed_keypair(self.seed)
        return encode_base64(public)

    def sign(self, message: bytes) -> str:
        _, secret = crypto_sign_seed_keypair(self.seed)
        return encode_base64(crypto_sign(message, secret)[:_SIGNATURE_BYTES])


class OwnCrossSigning:
    """The three private keys of our user, when this device holds them."""

    def __init__(self, store: Store, user_id: UserID) -> None:
        self._store = store
        self._user_id = user_id

    def exists(self) -> bool:
        row = self._store.find_row("SELECT cross_signing FROM account")
        return row is not None and row[0] is not None

    def create(self) -> None:
        """Make and store three new keys; they count as ours from the moment they are uploaded."""
        seeds = secrets.token_bytes(_SEED_BYTES * len(_USAGES))
        self._store.execute("UPDATE account SET cross_signing = ?", self._store.seal(seeds))

    def get(self, usage: Usage) -> PrivateKey:
        """Raises CrossSigningMissing."""
        row = self._store.find_row("SELECT cross_signing FROM account")
        if row is None or row[0] is None:
            raise CrossSigningMissing("this device has no cross-signing keys of its own")
        seeds = self._store.unseal(blob(row[0]))
        if len(seeds) != _SEED_BYTES * len(_USAGES):
            raise StoreCorrupt("the cross-signing seeds have the wrong length")
        start = _USAGES.index(usage) * _SEED_BYTES
        return PrivateKey(usage, seeds[start : start + _SEED_BYTES])

    def public_objects(self) -> dict[Usage, JsonObject]:
        """Return the three key objects, self-signing and user-signing signed by the master key."""
        master = self.get("master")
        objects: dict[Usage, JsonObject] = {}
        for usage in _USAGES:
            public_key = self.get(usage).public_key
            unsigned: JsonObject = {
                "user_id": self._user_id,
                "usage": [usage],
                "keys": {f"ed25519:{public_key}": public_key},
            }
            objects[usage] = (
                unsigned if usage == "master" else add_signature(unsigned, self._user_id, master)
            )
        return objects

    def sign(self, usage: Usage, raw: JsonObject) -> JsonObject:
        return add_signature(raw, self._user_id, self.get(usage))


def add_signature(raw: JsonObject, user_id: UserID, key: PrivateKey) -> JsonObject:
    """Return a copy that carries this signature only: what is uploaded is our word, not others'."""
    public_key = key.public_key
    return put_signature(raw, user_id, public_key, key.sign(signed_bytes(raw)))


def signed_bytes(raw: JsonObject) -> bytes:
    return encode_canonical_json(
        {name: value for name, value in raw.items() if name not in {"signatures", "unsigned"}}
    )


def put_signature(raw: JsonObject, user_id: UserID, key_id: str, signature: str) -> JsonObject:
    """Return a copy of an object whose only signature is this one."""
    signed = {name: value for name, value in raw.items() if name != "signatures"}
    return {**signed, "signatures": {user_id: {f"ed25519:{key_id}": signature}}}
