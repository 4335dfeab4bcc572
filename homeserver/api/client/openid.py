"""OpenID tokens.

spec: client-server-api/#openid, v1.19.
"""

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.requester import Requester
from homeserver.services.openid import OpenID
from homeserver.transport.endpoint import Auth, endpoint


class OpenIDAPI:
    def __init__(self, openid: OpenID) -> None:
        self._openid = openid

    @endpoint(
        "requestOpenIdToken", "POST", "/_matrix/client/v3/user/{userId}/openid/request_token",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def request_openid_token(
        self, requester: Requester, user_id: UserID, body: JsonObject
    ) -> JsonObject:
        del body  # the specification keeps it for later
        return await self._openid.request_token(requester, user_id)
