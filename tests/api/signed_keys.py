"""Keys of test devices and users, really signed."""

import hashlib
from typing import Any

from nacl.signing import SigningKey

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.signing import encode_base64
from tests.homeserver import Reply, User

Json = dict[str, Any]


class Key:
    """An Ed25519 key pair; `seed` makes it the same in each run."""

    def __init__(self, seed: str) -> None:
        self._key = SigningKey(hashlib.sha256(seed.encode()).digest())
        self.public = encode_base64(bytes(self._key.verify_key))

    def sign(self, key: Json, user_id: str, name: str | None = None) -> Json:
        """Return a copy with one more signature, under the name of a device or the public key."""
        bare = {k: v for k, v in key.items() if k not in ("signatures", "unsigned")}
        signature = encode_base64(self._key.sign(encode_canonical_json(bare)).signature)
        signatures = {user: dict(by_key) for user, by_key in key.get("signatures", {}).items()}
        signatures.setdefault(user_id, {})[f"ed25519:{name or self.public}"] = signature
        return {**key, "signatures": signatures}


def device_key(user: User) -> Key:
    return Key(f"device {user.device_id}")


def device_keys(user: User, **changed: object) -> Json:
    key = device_key(user)
    keys = {
        "user_id": user.user_id,
        "device_id": user.device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            f"ed25519:{user.device_id}": key.public,
            f"curve25519:{user.device_id}": Key(f"curve {user.device_id}").public,
        },
        **changed,
    }
    return key.sign(keys, user.user_id, user.device_id)


def one_time_keys(user: User, *names: str, salt: str = "", **more: object) -> Json:
    return {
        f"signed_curve25519:{name}": device_key(user).sign(
            {"key": Key(f"{name}{salt}").public, **more}, user.user_id, user.device_id
        )
        for name in names
    }


def upload(user: User, **body: object) -> Reply:
    return user.post("/keys/upload", body)


def upload_device_keys(user: User) -> Json:
    keys = device_keys(user)
    reply = upload(user, device_keys=keys)
    assert reply.status == 200, reply.json
    return keys


def claim(user: User, target: User, algorithm: str = "signed_curve25519") -> Json:
    """Return the keys given out for the target's device, by name."""
    wanted = {target.user_id: {target.device_id: algorithm}}
    reply = user.post("/keys/claim", {"one_time_keys": wanted})
    assert reply.status == 200, reply.json
    by_device = reply.json["one_time_keys"].get(target.user_id, {})
    found: Json = by_device.get(target.device_id, {})
    return found


def query(user: User, *targets: str) -> Json:
    reply = user.post("/keys/query", {"device_keys": {target: [] for target in targets}})
    assert reply.status == 200, reply.json
    found: Json = reply.json
    return found


class CrossSigningKeys:
    """The three keys of a user; `generation` gives others."""

    def __init__(self, user: User, generation: str = "") -> None:
        self.user_id = user.user_id
        self.master = Key(f"msk {user.user_id}{generation}")
        self.self_signing = Key(f"ssk {user.user_id}{generation}")
        self.user_signing = Key(f"usk {user.user_id}{generation}")

    def object(self, usage: str, key: Key, signer: Key | None) -> Json:
        bare = {
            "user_id": self.user_id,
            "usage": [usage],
            "keys": {f"ed25519:{key.public}": key.public},
        }
        return bare if signer is None else signer.sign(bare, self.user_id)

    def body(self) -> Json:
        return {
            "master_key": self.object("master", self.master, None),
            "self_signing_key": self.object("self_signing", self.self_signing, self.master),
            "user_signing_key": self.object("user_signing", self.user_signing, self.master),
        }


def upload_cross_signing(user: User, generation: str = "") -> CrossSigningKeys:
    keys = CrossSigningKeys(user, generation)
    reply = user.post("/keys/device_signing/upload", keys.body())
    assert reply.status == 200, reply.json
    return keys


def sign_keys(user: User, user_id: str, name: str, key: Json) -> Json:
    """Upload a signed key and return the failures."""
    reply = user.post("/keys/signatures/upload", {user_id: {name: key}})
    assert reply.status == 200, reply.json
    failures: Json = reply.json.get("failures", {})
    return failures
