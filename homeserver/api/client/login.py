"""Logging in and out.

spec: client-server-api/#legacy-login, #refreshing-access-tokens, v1.19.
"""

from dataclasses import dataclass, field

from homeserver.core.json_types import JsonObject
from homeserver.errors import BadRequest, Forbidden
from homeserver.requester import Requester
from homeserver.services.accounts import Accounts
from homeserver.services.devices import Devices
from homeserver.services.sessions import APPSERVICE_LOGIN, NewSession, Sessions
from homeserver.services.ui_auth import PASSWORD_LOGIN
from homeserver.transport.endpoint import EMPTY, Auth, RequestInfo, endpoint


@dataclass(frozen=True)
class Login:
    type: str
    identifier: JsonObject | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool = False


@dataclass(frozen=True)
class Refresh:
    refresh_token: str = field(repr=False)


class LoginAPI:
    """Sessions, from the first password to the last logout."""

    def __init__(self, accounts: Accounts, sessions: Sessions, devices: Devices) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._devices = devices

    @endpoint("getLoginFlows", "GET", "/_matrix/client/v3/login", auth=Auth.NONE, rate_limited=True)
    async def get_login_flows(self) -> JsonObject:
        return {"flows": [{"type": PASSWORD_LOGIN}, {"type": APPSERVICE_LOGIN}]}

    # Auth.OPTIONAL: application services log in with their own access token.
    @endpoint("login", "POST", "/_matrix/client/v3/login", auth=Auth.OPTIONAL, rate_limited=True)
    async def login(
        self, requester: Requester | None, request: RequestInfo, body: Login
    ) -> JsonObject:
        wish = NewSession.checked(
            body.device_id,
            body.initial_device_display_name,
            wants_refresh_token=body.refresh_token,
            client_ip=request.client_ip,
        )
        if body.type == PASSWORD_LOGIN:
            account = await self._accounts.check_login(
                body.identifier, body.user, body.password, request.client_ip
            )
        elif body.type == APPSERVICE_LOGIN:
            account = await self._accounts.check_appservice_login(
                self._sessions.access_appservice(requester), body.identifier, body.user
            )
        else:
            raise BadRequest("This type of login is not known", errcode="M_UNKNOWN")
        grant = await self._sessions.begin(account.user_nid, wish)
        return grant.session_body(account.user_id)

    @endpoint("refresh", "POST", "/_matrix/client/v3/refresh", auth=Auth.NONE, rate_limited=True)
    async def refresh(self, body: Refresh) -> JsonObject:
        return (await self._sessions.refresh(body.refresh_token)).token_body()

    @endpoint("logout", "POST", "/_matrix/client/v3/logout", auth=Auth.CLIENT)
    async def logout(self, requester: Requester) -> JsonObject:
        if requester.device_id is None:
            raise Forbidden("An application service's own token cannot log out")
        await self._devices.delete(requester.user_id, [requester.device_id])
        return EMPTY

    @endpoint("logout_all", "POST", "/_matrix/client/v3/logout/all", auth=Auth.CLIENT)
    async def logout_all(self, requester: Requester) -> JsonObject:
        await self._devices.delete_all(requester.user_id)
        return EMPTY
