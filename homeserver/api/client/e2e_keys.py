"""Keys for end-to-end encryption.

spec: client-server-api/#key-management-api, #cross-signing, v1.19.
"""

from dataclasses import dataclass, field

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.requester import Requester
from homeserver.services.cross_signing import CrossSigning
from homeserver.services.device_lists import DeviceLists
from homeserver.services.e2e_keys import E2EKeys
from homeserver.transport.endpoint import EMPTY, Auth, endpoint

_DEFAULT_TIMEOUT_MS = 10_000


@dataclass(frozen=True)
class KeysUpload:
    device_keys: JsonObject | None = None
    one_time_keys: JsonObject | None = None
    fallback_keys: JsonObject | None = None


@dataclass(frozen=True)
class KeysQuery:
    device_keys: dict[UserID, list[str]]
    timeout: int = _DEFAULT_TIMEOUT_MS


@dataclass(frozen=True)
class KeysClaim:
    one_time_keys: dict[UserID, dict[str, str]]
    timeout: int = _DEFAULT_TIMEOUT_MS


@dataclass(frozen=True)
class CrossSigningUpload:
    master_key: JsonObject | None = None
    self_signing_key: JsonObject | None = None
    user_signing_key: JsonObject | None = None
    auth: JsonObject | None = field(default=None, repr=False)


class E2EKeysAPI:
    """How devices publish their keys and learn those of others."""

    def __init__(
        self, e2e_keys: E2EKeys, cross_signing: CrossSigning, device_lists: DeviceLists
    ) -> None:
        self._e2e_keys = e2e_keys
        self._cross_signing = cross_signing
        self._device_lists = device_lists

    @endpoint("uploadKeys", "POST", "/_matrix/client/v3/keys/upload", auth=Auth.CLIENT)
    async def upload_keys(self, requester: Requester, body: KeysUpload) -> JsonObject:
        counts = await self._e2e_keys.upload(
            requester, body.device_keys, body.one_time_keys or {}, body.fallback_keys or {}
        )
        return {"one_time_key_counts": dict(counts)}

    @endpoint("queryKeys", "POST", "/_matrix/client/v3/keys/query", auth=Auth.CLIENT)
    async def query_keys(self, requester: Requester, body: KeysQuery) -> JsonObject:
        return await self._e2e_keys.query(requester, body.device_keys, body.timeout / 1000)

    @endpoint("claimKeys", "POST", "/_matrix/client/v3/keys/claim", auth=Auth.CLIENT)
    async def claim_keys(self, requester: Requester, body: KeysClaim) -> JsonObject:
        del requester  # everybody may claim
        return await self._e2e_keys.claim(body.one_time_keys, body.timeout / 1000)

    @endpoint("getKeysChanges", "GET", "/_matrix/client/v3/keys/changes", auth=Auth.CLIENT)
    async def get_keys_changes(self, requester: Requester, *, from_: str, to: str) -> JsonObject:
        changed, left = await self._device_lists.changes_between(requester.user_id, from_, to)
        return {"changed": list(changed), "left": list(left)}

    @endpoint(
        "uploadCrossSigningKeys", "POST", "/_matrix/client/v3/keys/device_signing/upload",
        auth=Auth.CLIENT,
    )  # fmt: skip
    async def upload_cross_signing_keys(
        self, requester: Requester, body: CrossSigningUpload
    ) -> JsonObject:
        keys = {
            "master": body.master_key,
            "self_signing": body.self_signing_key,
            "user_signing": body.user_signing_key,
        }
        given = {usage: key for usage, key in keys.items() if key is not None}
        await self._cross_signing.upload_keys(requester, given, body.auth)
        return EMPTY

    @endpoint(
        "uploadCrossSigningSignatures", "POST", "/_matrix/client/v3/keys/signatures/upload",
        auth=Auth.CLIENT,
    )  # fmt: skip
    async def upload_cross_signing_signatures(
        self, requester: Requester, body: dict[UserID, dict[str, JsonObject]]
    ) -> JsonObject:
        return await self._cross_signing.upload_signatures(requester, body)
