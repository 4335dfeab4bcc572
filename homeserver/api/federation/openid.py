"""Whose OpenID token it is: for anybody who was given one.

spec: server-server-api/#openid, v1.19.
"""

from homeserver.core.json_types import JsonObject
from homeserver.services.openid import OpenID
from homeserver.transport.endpoint import Auth, endpoint


class OpenIDExchangeAPI:
    def __init__(self, openid: OpenID) -> None:
        self._openid = openid

    @endpoint(
        "exchangeOpenIdToken", "GET", "/_matrix/federation/v1/openid/userinfo", auth=Auth.NONE
    )  # fmt: skip
    async def exchange_openid_token(self, *, access_token: str) -> JsonObject:
        return {"sub": await self._openid.exchange(access_token)}
