"""What this server is, and where it is.

spec: server-server-api/#server-implementation, #resolving-server-names, v1.19.
"""

from importlib.metadata import version

from homeserver.core.json_types import JsonObject
from homeserver.errors import NotFound
from homeserver.transport.endpoint import Auth, endpoint


class ServerVersionAPI:
    def __init__(self, delegated_name: str | None) -> None:
        """`delegated_name`: host and port where other servers find this one; None: not said."""
        self._delegated_name = delegated_name

    @endpoint("getVersion", "GET", "/_matrix/federation/v1/version", auth=Auth.NONE)
    async def get_version(self) -> JsonObject:
        return {"server": {"name": "Countersign", "version": version("countersign")}}

    @endpoint("getWellKnown", "GET", "/.well-known/matrix/server", auth=Auth.NONE)
    async def get_well_known(self) -> JsonObject:
        if self._delegated_name is None:
            raise NotFound("Other servers find this one by its name")
        return {"m.server": self._delegated_name}
