"""Cross-signing keys of users, and signatures added to keys.

spec: client-server-api/#cross-signing, v1.19
Invariants: keys of a user are replaced only after user-interactive authentication, whatever else
happens at the same time; and every signature stored here was verified.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.errors import BadRequest, Forbidden, MatrixError, MissingParam, NotFound, TooLarge
from homeserver.requester import Requester
from homeserver.services.device_lists import DeviceLists, KeyChange
from homeserver.services.key_objects import (
    CrossSigningUpload,
    encode_key,
    is_signed_by,
    load_object,
    parse_cross_signing_key,
    signatures_by,
    without_signatures,
)
from homeserver.services.ui_auth import PASSWORD_FLOWS, UIAuth
from homeserver.storage import (
    accounts,
    cross_signing_keys,
    device_keys,
    device_lists,
    device_updates,
    devices,
    remote_devices,
)
from homeserver.storage.cross_signing_keys import CrossSigningKey, KeySignature
from homeserver.storage.database import Database
from homeserver.storage.device_updates import CROSS_SIGNING_KEYS
from homeserver.storage.query import Txn

_MAX_SIGNED_OBJECTS = 1_000
_Keys = dict[str, CrossSigningKey]
"""By usage."""


class CrossSigning:
    def __init__(self, database: Database, device_lists: DeviceLists, ui_auth: UIAuth) -> None:
        self._db = database
        self._device_lists = device_lists
        self._ui_auth = ui_auth

    async def upload_keys(
        self,
        requester: Requester,
        keys: Mapping[str, JsonObject],
        auth: JsonObject | None,
    ) -> None:
        """Publish the requester's keys by usage.

        1. Check their form and owner; leave out what is there already.
        2. Check the signatures of the master key.
        3. Who replaces or adds to existing keys proves again who he is.
        4. Store, unless other keys came in between: then begin again.
        """
        user_id = requester.user_id
        uploads = [parse_cross_signing_key(key, usage, user_id) for usage, key in keys.items()]
        while True:
            stored = await self._db.read(_list_keys, user_id)
            fresh = [upload for upload in uploads if not _is_there(upload, stored)]  # 1
            if any(upload.usage == "master" for upload in fresh):
                fresh = uploads
            _check_master_signatures(user_id, uploads, stored)  # 2
            if not fresh:
                return
            if "master" in stored and requester.appservice_id is None:  # 3
                body: JsonObject = {f"{usage}_key": key for usage, key in keys.items()}
                if auth is not None:
                    body["auth"] = auth
                await self._ui_auth.check(body, "uploadCrossSigningKeys", requester, PASSWORD_FLOWS)
            is_stored = await self._device_lists.write(
                user_id,
                lambda position, fresh=fresh, stored=stored: self._db.run(  # type: ignore[misc]  # binds the loop's
                    _store_keys, position, user_id, fresh, stored
                ),
            )
            if is_stored:  # 4
                return

    async def upload_signatures(
        self, requester: Requester, signed: Mapping[UserID, Mapping[str, JsonObject]]
    ) -> JsonObject:
        """Add signatures to keys; return user -> key -> error for those that were refused."""
        if sum(map(len, signed.values())) > _MAX_SIGNED_OBJECTS:
            raise TooLarge(f"At most {_MAX_SIGNED_OBJECTS} keys can be signed at once")
        if not signed:
            return {}
        return await self._device_lists.write(
            requester.user_id,
            lambda position: self._db.run(_store_signatures, position, requester.user_id, signed),
        )


def _is_there(upload: CrossSigningUpload, stored: _Keys) -> bool:
    """Whether this key is stored; its signatures may differ, they are no reason to replace it."""
    known = stored.get(upload.usage)
    return known is not None and without_signatures(load_object(known.key)) == without_signatures(
        upload.key
    )


def _check_master_signatures(
    user_id: UserID, uploads: list[CrossSigningUpload], stored: _Keys
) -> None:
    """Raises MissingParam without a master key; M_INVALID_SIGNATURE."""
    by_usage = {upload.usage: upload.public_key for upload in uploads}
    master = by_usage.get("master")
    if master is None and "master" in stored:
        master = stored["master"].public_key
    if master is None:
        raise MissingParam("There is no master_key, and none was uploaded before")
    public_keys = list(by_usage.values())
    public_keys += [k.public_key for usage, k in stored.items() if usage not in by_usage]
    if len(set(public_keys)) < len(public_keys):
        raise Forbidden("Each cross-signing key must be another")
    for upload in uploads:
        if upload.usage != "master" and not is_signed_by(upload.key, user_id, master, master):
            raise _invalid_signature(f"{upload.usage}_key is not signed by the master key")


def _list_keys(txn: Txn, user_id: UserID) -> _Keys:
    account = accounts.find_account(txn, user_id)
    if account is None:
        raise Forbidden("Only users with an account have cross-signing keys")
    found = cross_signing_keys.list_cross_signing_keys(txn, [account.user_nid])
    return {key.usage: key for key in found}


def _store_keys(
    txn: Txn, position: int, user_id: UserID, fresh: list[CrossSigningUpload], expected: _Keys
) -> KeyChange[bool]:
    """Store keys if those stored are still the expected ones.

    A new master key takes away the keys that only the old one has signed.
    """
    account = accounts.find_account(txn, user_id)
    assert account is not None, "accounts are never deleted"
    user_nid = account.user_nid
    cross_signing_keys.lock_keys_of(txn, user_nid)
    stored = _list_keys(txn, user_id)
    if stored != expected:
        return KeyChange(False, changed=False)
    device_ids = {device.device_id for device in devices.list_devices(txn, user_nid)}
    if any(upload.public_key in device_ids for upload in fresh):
        raise Forbidden("Key ID in use")
    replaced = {upload.usage for upload in fresh}
    if "master" in replaced:
        replaced |= stored.keys()
    again = {upload.public_key for upload in fresh}
    cross_signing_keys.delete_cross_signing_keys(
        txn,
        [k for usage, k in stored.items() if usage in replaced and k.public_key not in again],
    )
    cross_signing_keys.upsert_cross_signing_keys(
        txn,
        [CrossSigningKey(user_nid, u.usage, u.public_key, encode_key(u.key)) for u in fresh],
    )
    device_lists.upsert_change(txn, position, user_nid)
    device_updates.mark(txn, user_nid, [CROSS_SIGNING_KEYS])
    return KeyChange(True, changed=True)


@dataclass(frozen=True, slots=True)
class _StoredKeys:
    """What signatures of one user may be on, and what they are made with."""

    signer_id: UserID
    signer_nid: int
    devices: dict[str, JsonObject]
    """The signer's own."""
    cross_signing: dict[tuple[int, str], CrossSigningKey]
    """By user number and usage."""


def _store_signatures(
    txn: Txn,
    position: int,
    signer_id: UserID,
    signed: Mapping[UserID, Mapping[str, JsonObject]],
) -> KeyChange[JsonObject]:
    known = device_keys.list_accounts(txn, [signer_id, *signed])
    known |= remote_devices.list_followed(txn, list(signed))
    signer_nid = known.get(signer_id)
    if signer_nid is None:
        raise Forbidden("Only users with an account have keys to sign with")
    stored = _StoredKeys(
        signer_id,
        signer_nid,
        {
            row.device_id: load_object(row.keys)
            for row in device_keys.list_device_keys(txn, [signer_nid])
        },
        {
            (key.user_nid, key.usage): key
            for key in cross_signing_keys.list_cross_signing_keys(txn, list(known.values()))
        },
    )
    good: list[KeySignature] = []
    failures: dict[str, JsonObject] = {}
    for user_id, by_key in signed.items():
        for name, key in by_key.items():
            try:
                good += _verify(stored, known.get(user_id), name, key)
            except MatrixError as error:
                failures.setdefault(user_id, {})[name] = error.body()
    targets = set(cross_signing_keys.insert_signatures(txn, position, good))
    changed = signer_nid in targets
    if changed:
        device_lists.upsert_change(txn, position, signer_nid)
        signed_keys = {s.target_key for s in good if s.target_nid == signer_nid}
        device_updates.mark(
            txn, signer_nid, [k if k in stored.devices else CROSS_SIGNING_KEYS for k in signed_keys]
        )
    result: JsonObject = {"failures": dict(failures)}
    return KeyChange(result, changed=changed, signed_others=bool(targets - {signer_nid}))


def _verify(
    stored: _StoredKeys, target_nid: int | None, name: str, key: JsonObject
) -> list[KeySignature]:
    """Return the new signatures of the signer on a key.

    His self-signing key signs his devices, his devices sign his master key, and his user-signing
    key signs the master keys of others. Raises NotFound, M_INVALID_SIGNATURE.
    """
    master = None if target_nid is None else stored.cross_signing.get((target_nid, "master"))
    if target_nid == stored.signer_nid and name in stored.devices:
        original = stored.devices[name]
        signers = _cross_signing_signer(stored, "self_signing")
    elif target_nid is not None and master is not None and name == master.public_key:
        original = load_object(master.key)
        if target_nid == stored.signer_nid:
            signers = {
                device_id: public
                for device_id, keys in stored.devices.items()
                if (public := _ed25519_key(keys, device_id)) is not None
            }
        else:
            signers = _cross_signing_signer(stored, "user_signing")
    else:
        raise NotFound("There is no such key")
    if without_signatures(key) != without_signatures(original):
        raise _invalid_signature("What is signed is not the key that was uploaded")
    offered = {
        signer: signature
        for key_id, signature in signatures_by(key, stored.signer_id).items()
        if (signer := key_id.removeprefix("ed25519:")) in signers
    }
    if not offered:
        raise _invalid_signature("There is no signature by a key that may sign this one")
    if not all(is_signed_by(key, stored.signer_id, s, signers[s]) for s in offered):
        raise _invalid_signature("Invalid signature")
    uploaded_with = signatures_by(original, stored.signer_id)
    return [
        KeySignature(target_nid, name, stored.signer_nid, signer, signature)
        for signer, signature in offered.items()
        if uploaded_with.get(f"ed25519:{signer}") != signature
    ]


def _cross_signing_signer(stored: _StoredKeys, usage: str) -> dict[str, str]:
    signer = stored.cross_signing.get((stored.signer_nid, usage))
    return {} if signer is None else {signer.public_key: signer.public_key}


def _ed25519_key(keys: JsonObject, device_id: str) -> str | None:
    public = keys["keys"]
    assert isinstance(public, dict), "checked before it was stored"
    key = public.get(f"ed25519:{device_id}")
    return key if isinstance(key, str) else None


def _invalid_signature(message: str) -> BadRequest:
    return BadRequest(message, errcode="M_INVALID_SIGNATURE")
