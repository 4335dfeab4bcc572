"""Keys of devices: uploaded by their owners, asked for and claimed by everybody.

spec: client-server-api/#key-distribution, v1.19
Invariant: a device's keys are uploaded by a session of that device alone, and a one-time key is
given out once.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeserver.core.canonical_json import decode_json
from homeserver.core.identifiers import DeviceID, ServerName, UserID, server_name_of
from homeserver.core.json_types import JsonObject
from homeserver.errors import ConstraintViolated, InvalidParam, MissingParam, TooLarge, UnknownToken
from homeserver.requester import Requester
from homeserver.services.device_lists import DeviceLists, KeyChange
from homeserver.services.key_objects import (
    load_object,
    parse_device_keys,
    parse_one_time_keys,
    without_signatures,
)
from homeserver.storage import (
    accounts,
    cross_signing_keys,
    device_keys,
    device_lists,
    one_time_keys,
    to_device,
)
from homeserver.storage.database import Database
from homeserver.storage.dictionaries import find_user_nid
from homeserver.storage.one_time_keys import Claim, ClaimedKey, Key
from homeserver.storage.query import Txn

_MAX_KEYS_A_REQUEST = 1_000
_MAX_ONE_TIME_KEYS = 5_000
_MAX_REMEMBERED = 50_000
_USUAL_ALGORITHM = "signed_curve25519"

_Device = tuple[UserID, DeviceID]
KeyCounts = tuple[dict[str, int], list[str]]
"""(algorithm -> unclaimed one-time keys, algorithms with an unused fallback key)"""


@dataclass(frozen=True, slots=True)
class Upload:
    device_keys: bytes | None
    one_time: list[Key]
    fallback: list[Key]


class E2EKeys:
    def __init__(
        self, database: Database, device_lists: DeviceLists, server_name: ServerName
    ) -> None:
        self._db = database
        self._device_lists = device_lists
        self._server_name = server_name
        self._counts: OrderedDict[_Device, KeyCounts] = OrderedDict()
        self._count_changes = 0

    async def upload(
        self,
        requester: Requester,
        identity: JsonObject | None,
        one_time: JsonObject,
        fallback: JsonObject,
    ) -> dict[str, int]:
        """Store keys of the requester's device; return algorithm -> unclaimed one-time keys."""
        user_id, device_id = requester.user_id, requester.device_id
        if device_id is None:
            raise MissingParam("Keys belong to a device; name it by device_id")
        if len(one_time) + len(fallback) > _MAX_KEYS_A_REQUEST:
            raise TooLarge(f"At most {_MAX_KEYS_A_REQUEST} keys can be uploaded at once")
        upload = Upload(
            None if identity is None else parse_device_keys(identity, user_id, device_id),
            parse_one_time_keys(one_time, "one_time_keys"),
            parse_one_time_keys(fallback, "fallback_keys"),
        )
        if len({key.algorithm for key in upload.fallback}) < len(upload.fallback):
            raise InvalidParam("There can be one fallback key of an algorithm")
        try:
            if upload.device_keys is not None:
                await self._device_lists.write(
                    user_id,
                    lambda position: self._db.run(
                        _store_upload, position, user_id, device_id, upload
                    ),
                )
            elif upload.one_time or upload.fallback:
                await self._db.run(_store_one_time_keys, user_id, device_id, upload)
        except ConstraintViolated as error:
            raise UnknownToken("The device has been deleted") from error
        finally:
            self._forget_counts([(user_id, device_id)])
        counts, _ = await self.key_counts(user_id, device_id)
        return counts

    async def query(
        self, requester: Requester, wanted: Mapping[UserID, Sequence[str]]
    ) -> JsonObject:
        """Return the keys of devices and users, with the signatures the requester may see."""
        found = await self._db.read(_list_keys, requester.user_id, list(wanted))
        answer: dict[str, dict[str, JsonObject]] = {"device_keys": {}, **found.cross_signing}
        for user_id, by_device in found.devices.items():
            chosen = set(wanted[user_id])
            answer["device_keys"][user_id] = {
                device_id: keys
                for device_id, keys in by_device.items()
                if not chosen or device_id in chosen
            }
        return {"failures": self._unreachable(wanted), **answer}  # type: ignore[dict-item]  # JSON

    async def claim(self, wanted: Mapping[UserID, Mapping[str, str]]) -> JsonObject:
        """Give out one key for each device, a fallback key when there is no other."""
        claims = [
            Claim(user_id, DeviceID(device_id), algorithm)
            for user_id, by_device in wanted.items()
            for device_id, algorithm in by_device.items()
            if "\0" not in device_id and "\0" not in algorithm
        ]
        devices = [(claim.user_id, claim.device_id) for claim in claims]
        try:
            claimed = await self._db.run(_claim, claims) if claims else []
        finally:
            self._forget_counts(devices)
        keys: dict[str, dict[str, JsonObject]] = {}
        for key in claimed:
            by_device = keys.setdefault(key.user_id, {})
            by_device[key.device_id] = {f"{key.algorithm}:{key.key_id}": decode_json(key.key)}
        return {"failures": self._unreachable(wanted), "one_time_keys": keys}  # type: ignore[dict-item]  # JSON

    async def key_counts(self, user_id: UserID, device_id: DeviceID) -> KeyCounts:
        """From memory, usually. Not to be altered."""
        device = (user_id, device_id)
        known = self._counts.get(device)
        if known is not None:
            self._counts.move_to_end(device)
            return known
        changes = self._count_changes
        counts = await self._db.read(_count, user_id, device_id)
        if changes == self._count_changes:  # else it may have changed while it was read
            self._counts[device] = counts
            if len(self._counts) > _MAX_REMEMBERED:
                self._counts.popitem(last=False)
        return counts

    async def devices_changed(self, user_id: UserID, device_ids: Sequence[DeviceID]) -> None:
        """Devices were renamed or deleted."""
        self._forget_counts([(user_id, device_id) for device_id in device_ids])
        await self._device_lists.devices_changed(user_id, device_ids)

    def _forget_counts(self, devices: Sequence[_Device]) -> None:
        self._count_changes += 1
        for device in devices:
            self._counts.pop(device, None)

    def _unreachable(self, wanted: Mapping[UserID, object]) -> JsonObject:
        servers = {server_name_of(user_id) or "" for user_id in wanted} - {self._server_name}
        return {
            server: {"errcode": "M_UNKNOWN", "error": "The server cannot be reached"}
            for server in sorted(servers)
        }


def delete_for_devices(txn: Txn, user_nid: int, device_ids: Sequence[DeviceID]) -> None:
    """Delete what is kept for devices that are gone; one-time keys and messages went with them."""
    if device_keys.delete_for_devices(txn, user_nid, device_ids):
        cross_signing_keys.delete_device_signatures(txn, user_nid, device_ids)
        device_lists.mark_pending(txn, user_nid)
    to_device.delete_for_devices(txn, user_nid, device_ids)


@dataclass(frozen=True, slots=True)
class _Found:
    devices: dict[UserID, dict[str, JsonObject]]
    cross_signing: dict[str, dict[str, JsonObject]]


def _store_upload(
    txn: Txn, position: int, user_id: UserID, device_id: DeviceID, upload: Upload
) -> KeyChange[None]:
    """Store all of an upload.

    1. Identity keys that are there already are no change.
    2. A device id that is a public key could be taken for it.
    3. Other identity keys make the one-time keys and signatures void.
    """
    assert upload.device_keys is not None
    user_nid = _user_nid(txn, user_id)
    stored = device_keys.find_device_keys(txn, user_nid, device_id)
    changed = stored != upload.device_keys
    if changed:  # 1
        cross = cross_signing_keys.list_cross_signing_keys(txn, [user_nid])
        if device_id in {key.public_key for key in cross}:  # 2
            raise InvalidParam("A cross-signing key has the id of this device")
        if stored is not None and without_signatures(load_object(stored)) != without_signatures(
            load_object(upload.device_keys)
        ):  # 3
            one_time_keys.delete_all_keys(txn, user_nid, device_id)
            cross_signing_keys.delete_device_signatures(txn, user_nid, [device_id])
        device_keys.upsert_device_keys(txn, user_nid, device_id, upload.device_keys)
        device_lists.upsert_change(txn, position, user_nid)
    _store_one_time_keys(txn, user_id, device_id, upload)
    return KeyChange(None, changed=changed)


def _store_one_time_keys(txn: Txn, user_id: UserID, device_id: DeviceID, upload: Upload) -> None:
    """Raises InvalidParam for an id that is on offer with another key, TooLarge."""
    user_nid = _user_nid(txn, user_id)
    if upload.one_time:
        known = {
            (key.algorithm, key.key_id): key
            for key in one_time_keys.list_same_ids(txn, user_nid, device_id, upload.one_time)
        }
        fresh = []
        for key in upload.one_time:
            same_id = known.get((key.algorithm, key.key_id))
            if same_id is None or (same_id.is_claimed and same_id.key != key.key):
                fresh.append(key)
            elif same_id.key != key.key:
                raise InvalidParam(
                    f"One time key {key.algorithm}:{key.key_id} already exists with other content"
                )
        counts = one_time_keys.count_one_time_keys(txn, user_nid, device_id)
        if sum(counts.values()) + len(fresh) > _MAX_ONE_TIME_KEYS:
            raise TooLarge(f"A device has at most {_MAX_ONE_TIME_KEYS} one-time keys")
        one_time_keys.upsert_one_time_keys(txn, user_nid, device_id, fresh)
        one_time_keys.delete_long_claimed(txn, user_nid, device_id)
    one_time_keys.upsert_fallback_keys(txn, user_nid, device_id, upload.fallback)


def _claim(txn: Txn, claims: Sequence[Claim]) -> list[ClaimedKey]:
    claimed = one_time_keys.claim_one_time_keys(txn, claims)
    served = {(key.user_id, key.device_id) for key in claimed}
    rest = [claim for claim in claims if (claim.user_id, claim.device_id) not in served]
    return claimed + (one_time_keys.use_fallback_keys(txn, rest) if rest else [])


def _count(txn: Txn, user_id: UserID, device_id: DeviceID) -> KeyCounts:
    # COMPAT(older clients): they take a missing count for "not told", not for zero.
    counts = {_USUAL_ALGORITHM: 0}
    user_nid = find_user_nid(txn, user_id)
    if user_nid is None:
        return counts, []
    return (
        counts | one_time_keys.count_one_time_keys(txn, user_nid, device_id),
        one_time_keys.list_unused_fallback_types(txn, user_nid, device_id),
    )


def _list_keys(txn: Txn, reader_id: UserID, user_ids: Sequence[UserID]) -> _Found:
    known = device_keys.list_accounts(txn, user_ids)
    names = {user_nid: user_id for user_id, user_nid in known.items()}
    devices: dict[UserID, dict[str, JsonObject]] = {user_id: {} for user_id in known}
    for row in device_keys.list_device_keys(txn, list(names)):
        keys = load_object(row.keys)
        named = row.display_name is not None
        keys["unsigned"] = {"device_display_name": row.display_name} if named else {}
        devices[names[row.user_nid]][row.device_id] = keys
    cross: dict[str, dict[str, JsonObject]] = {
        "master_keys": {}, "self_signing_keys": {}, "user_signing_keys": {},
    }  # fmt: skip
    masters: dict[tuple[int, str], JsonObject] = {}
    for cross_key in cross_signing_keys.list_cross_signing_keys(txn, list(names)):
        user_id = names[cross_key.user_nid]
        if cross_key.usage == "user_signing" and user_id != reader_id:
            continue
        key = load_object(cross_key.key)
        cross[f"{cross_key.usage}_keys"][user_id] = key
        if cross_key.usage == "master":
            masters[(cross_key.user_nid, cross_key.public_key)] = key
    reader_nid = known.get(reader_id) or find_user_nid(txn, reader_id)
    for s in cross_signing_keys.list_visible_signatures(txn, list(names), reader_nid):
        target = devices[names[s.target_nid]].get(s.target_key) or masters.get(
            (s.target_nid, s.target_key)
        )
        if target is not None:
            _add_signature(target, s.signer_id, s.signer_key, s.signature)
    return _Found(devices, cross)


def _add_signature(key: JsonObject, signer: UserID, signer_key: str, signature: str) -> None:
    signatures = key.setdefault("signatures", {})
    assert isinstance(signatures, dict)
    by_signer = signatures.setdefault(signer, {})
    assert isinstance(by_signer, dict)
    by_signer[f"ed25519:{signer_key}"] = signature


def _user_nid(txn: Txn, user_id: UserID) -> int:
    account = accounts.find_account(txn, user_id)
    if account is None:
        raise InvalidParam("Only users with an account have devices")
    return account.user_nid
