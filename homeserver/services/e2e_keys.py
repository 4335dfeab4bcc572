"""Keys of devices: uploaded by their owners, asked for and claimed by everybody.

spec: client-server-api/#key-distribution, server-server-api/#end-to-end-encryption, v1.19
Invariant: a device's keys are uploaded by a session of that device alone, and a one-time key is
given out once.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from homeserver.core.canonical_json import decode_json
from homeserver.core.identifiers import DeviceID, ServerName, UserID, server_name_of
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.errors import ConstraintViolated, InvalidParam, MissingParam, TooLarge, UnknownToken
from homeserver.requester import Requester
from homeserver.services.device_lists import DeviceLists, KeyChange
from homeserver.services.federation.remote_keys import Claims, Failures, RemoteKeys
from homeserver.services.key_lists import MASTER, SELF_SIGNING, KeyLists, list_local_keys
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
    device_updates,
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
_MAX_USERS_A_QUERY = 1_000
_MAX_CLAIMS = 1_000
"""Of one request of another server."""
_MIN_SECONDS = 1.0
_MAX_SECONDS = 30.0
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
        self,
        database: Database,
        device_lists: DeviceLists,
        remote_keys: RemoteKeys,
        server_name: ServerName,
    ) -> None:
        self._db = database
        self._device_lists = device_lists
        self._remote_keys = remote_keys
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
        self, requester: Requester, wanted: Mapping[UserID, Sequence[str]], seconds: float
    ) -> JsonObject:
        """Return the keys of devices and users, with the signatures the requester may see.

        seconds  how long other servers are waited for
        """
        here, elsewhere = self._divide(wanted)
        found = await self._db.read(list_local_keys, here, requester.user_id)
        failures: Failures = {}
        if elsewhere:
            others, failures = await self._remote_keys.query(
                elsewhere, requester.user_id, within_limits(seconds)
            )
            found.add(others)
        for user_id, by_device in found.devices.items():
            chosen = set(wanted[user_id])
            if chosen:
                found.devices[user_id] = {d: k for d, k in by_device.items() if d in chosen}
        return {"failures": _body(failures), **found.body(user_signing=True)}

    async def query_for_server(self, wanted: Mapping[UserID, Sequence[str]]) -> JsonObject:
        """Return the keys of local users, as other servers may see them."""
        here, _ = self._divide(wanted)
        found = await self._db.read(list_local_keys, here[:_MAX_USERS_A_QUERY], None)
        for user_id, by_device in found.devices.items():
            chosen = set(wanted[user_id])
            if chosen:
                found.devices[user_id] = {d: k for d, k in by_device.items() if d in chosen}
        return found.body(user_signing=False)

    async def list_devices_for_server(self, user_id: UserID) -> JsonObject:
        """Return a local user's devices that have keys; none for who has no account."""
        here, _ = self._divide([user_id])
        stream_id, found = await self._db.run(_list_devices, here)
        devices: list[JsonValue] = []
        for device_id, keys in found.devices.get(user_id, {}).items():
            unsigned = keys.pop("unsigned")
            assert isinstance(unsigned, dict)
            devices.append({"device_id": device_id, "keys": keys, **unsigned})
        answer: JsonObject = {"user_id": user_id, "stream_id": stream_id, "devices": devices}
        for usage in (MASTER, SELF_SIGNING):
            if user_id in found.cross_signing[usage]:
                answer[f"{usage}_key"] = found.cross_signing[usage][user_id]
        return answer

    async def claim(self, wanted: Claims, seconds: float) -> JsonObject:
        """Give out one key for each device, a fallback key when there is no other."""
        here, elsewhere = self._divide(wanted)
        keys = await self._claim_local({user_id: wanted[user_id] for user_id in here})
        failures: Failures = {}
        if elsewhere:
            others, failures = await self._remote_keys.claim(
                {user_id: wanted[user_id] for user_id in elsewhere}, within_limits(seconds)
            )
            keys.update(others)
        return {"failures": _body(failures), "one_time_keys": keys}

    async def claim_for_server(self, wanted: Claims) -> JsonObject:
        """Give out keys of local users' devices to another server."""
        if sum(map(len, wanted.values())) > _MAX_CLAIMS:
            raise TooLarge(f"At most {_MAX_CLAIMS} keys can be claimed at once")
        here, _ = self._divide(wanted)
        return {"one_time_keys": await self._claim_local({u: wanted[u] for u in here})}

    async def _claim_local(self, wanted: Claims) -> JsonObject:
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
        return dict(keys)  # type: ignore[arg-type]  # nested dicts of JSON, which are invariant

    def _divide(self, user_ids: Iterable[UserID]) -> tuple[list[UserID], list[UserID]]:
        """Return those of this server, and the others."""
        here: list[UserID] = []
        elsewhere: list[UserID] = []
        for user_id in user_ids:
            is_here = server_name_of(user_id) == self._server_name
            (here if is_here else elsewhere).append(user_id)
        return here, elsewhere

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


def within_limits(seconds: float) -> float:
    """Return how long other servers are waited for when a client asks for so long."""
    return min(max(seconds, _MIN_SECONDS), _MAX_SECONDS)


def _body(failures: Failures) -> JsonObject:
    return dict(sorted(failures.items()))


def delete_for_devices(txn: Txn, user_nid: int, device_ids: Sequence[DeviceID]) -> None:
    """Delete what is kept for devices that are gone; one-time keys and messages went with them."""
    if device_keys.delete_for_devices(txn, user_nid, device_ids):
        cross_signing_keys.delete_device_signatures(txn, user_nid, device_ids)
        device_lists.mark_pending(txn, user_nid)
        device_updates.mark(txn, user_nid, device_ids)
    to_device.delete_for_devices(txn, user_nid, device_ids)


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
        device_updates.mark(txn, user_nid, [device_id])
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


def _list_devices(txn: Txn, user_ids: Sequence[UserID]) -> tuple[int, KeyLists]:
    """Return the stream_id of the last update of a user, and what there is since then."""
    user_nid = find_user_nid(txn, user_ids[0]) if user_ids else None
    stream_id = 0 if user_nid is None else device_updates.last_stream_id(txn, user_nid)
    return stream_id, list_local_keys(txn, user_ids, None)


def _user_nid(txn: Txn, user_id: UserID) -> int:
    account = accounts.find_account(txn, user_id)
    if account is None:
        raise InvalidParam("Only users with an account have devices")
    return account.user_nid
