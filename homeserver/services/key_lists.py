"""Keys of users as others are shown them: devices, cross-signing keys, and signatures on both.

spec: client-server-api/#post_matrixclientv3keysquery, v1.19. Invariant: somebody is shown the
signatures that owners have put on their own keys and those he has made himself, no others; and
user-signing keys only their owner.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.services.key_objects import load_object
from homeserver.storage import cross_signing_keys, device_keys, remote_devices
from homeserver.storage.device_keys import DeviceKeys
from homeserver.storage.dictionaries import find_user_nid
from homeserver.storage.query import Txn
from homeserver.storage.remote_devices import DeviceOfUser

MASTER, SELF_SIGNING, USER_SIGNING = "master", "self_signing", "user_signing"


@dataclass(frozen=True, slots=True)
class KeyLists:
    devices: dict[UserID, dict[str, JsonObject]] = field(default_factory=dict)
    """Of every user that is known, by device id."""
    cross_signing: dict[str, dict[UserID, JsonObject]] = field(
        default_factory=lambda: {MASTER: {}, SELF_SIGNING: {}, USER_SIGNING: {}}
    )
    """By usage."""

    def add(self, others: "KeyLists") -> None:
        self.devices.update(others.devices)
        for usage, keys in others.cross_signing.items():
            self.cross_signing[usage].update(keys)

    def body(self, *, user_signing: bool) -> JsonObject:
        """Return what an answer to a query is made of."""
        body: dict[str, object] = {
            "device_keys": self.devices,
            "master_keys": self.cross_signing[MASTER],
            "self_signing_keys": self.cross_signing[SELF_SIGNING],
        }
        if user_signing:
            body["user_signing_keys"] = self.cross_signing[USER_SIGNING]
        return body  # type: ignore[return-value]  # nested dicts of JSON, which are invariant


def list_local_keys(txn: Txn, user_ids: Sequence[UserID], reader_id: UserID | None) -> KeyLists:
    """Return the keys of those who have an account here; None reads for other servers."""
    known = device_keys.list_accounts(txn, user_ids)
    return _list_keys(
        txn, known, device_keys.list_device_keys(txn, list(known.values())), reader_id
    )


def list_cached_keys(txn: Txn, user_ids: Sequence[UserID], reader_id: UserID) -> KeyLists:
    """Return the keys of users of other servers, as they are kept here."""
    known = remote_devices.list_followed(txn, user_ids)
    return _list_keys(txn, known, remote_devices.list_devices(txn, list(known.values())), reader_id)


def _list_keys(
    txn: Txn,
    known: dict[UserID, int],
    stored: Sequence[DeviceKeys] | Sequence[DeviceOfUser],
    reader_id: UserID | None,
) -> KeyLists:
    names = {user_nid: user_id for user_id, user_nid in known.items()}
    found = KeyLists({user_id: {} for user_id in known})
    for row in stored:
        keys = load_object(row.keys)
        named = row.display_name is not None
        keys["unsigned"] = {"device_display_name": row.display_name} if named else {}
        found.devices[names[row.user_nid]][row.device_id] = keys
    masters: dict[tuple[int, str], JsonObject] = {}
    for cross_key in cross_signing_keys.list_cross_signing_keys(txn, list(names)):
        user_id = names[cross_key.user_nid]
        if cross_key.usage == USER_SIGNING and user_id != reader_id:
            continue
        key = load_object(cross_key.key)
        found.cross_signing[cross_key.usage][user_id] = key
        if cross_key.usage == MASTER:
            masters[(cross_key.user_nid, cross_key.public_key)] = key
    reader_nid = None if reader_id is None else find_user_nid(txn, reader_id)
    for s in cross_signing_keys.list_visible_signatures(txn, list(names), reader_nid):
        target = found.devices[names[s.target_nid]].get(s.target_key) or masters.get(
            (s.target_nid, s.target_key)
        )
        if target is not None:
            _add_signature(target, s.signer_id, s.signer_key, s.signature)
    return found


def _add_signature(key: JsonObject, signer: UserID, signer_key: str, signature: str) -> None:
    signatures = key.setdefault("signatures", {})
    assert isinstance(signatures, dict)
    by_signer = signatures.setdefault(signer, {})
    assert isinstance(by_signer, dict)
    by_signer[f"ed25519:{signer_key}"] = signature
