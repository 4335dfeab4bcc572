"""Versions, capabilities and the well-known file.

spec: client-server-api/#api-versions, #capabilities-negotiation, #server-discovery, v1.19.
"""

from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.requester import Requester
from homeserver.transport.endpoint import Auth, RequestInfo, endpoint

_SPEC_VERSIONS = [f"v1.{minor}" for minor in range(1, 20)]


class VersionsAPI:
    """What this server can do, for clients that ask before they do anything else."""

    def __init__(
        self,
        *,
        public_base_url: str | None,
        default_room_version: str,
        unstable_features: dict[str, bool],
        unstable_capabilities: JsonObject,
    ) -> None:
        self._public_base_url = public_base_url
        self._default_room_version = default_room_version
        self._unstable_features = unstable_features
        self._unstable_capabilities = unstable_capabilities

    @endpoint("getVersions", "GET", "/_matrix/client/versions", auth=Auth.OPTIONAL)
    async def get_versions(self) -> JsonObject:
        return {
            "versions": list(_SPEC_VERSIONS),
            "unstable_features": dict(self._unstable_features),
        }

    @endpoint("getWellknown", "GET", "/.well-known/matrix/client", auth=Auth.NONE)
    async def get_wellknown(self, request: RequestInfo) -> JsonObject:
        base_url = self._public_base_url or request.base_url
        return {"m.homeserver": {"base_url": base_url}}

    @endpoint(
        "getCapabilities", "GET", "/_matrix/client/v3/capabilities",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def get_capabilities(self, requester: Requester) -> JsonObject:
        del requester  # the same for everybody
        available: JsonObject = dict.fromkeys(ROOM_VERSIONS, "stable")
        return {
            "capabilities": {
                "m.room_versions": {
                    "default": self._default_room_version,
                    "available": available,
                },
                "m.change_password": {"enabled": True},
                "m.set_displayname": {"enabled": True},
                "m.set_avatar_url": {"enabled": True},
                "m.3pid_changes": {"enabled": False},
                "m.get_login_token": {"enabled": False},
                "m.profile_fields": {"enabled": True},
                **self._unstable_capabilities,
            }
        }
