"""Logging in and out.

spec: client-server-api/#legacy-login, #refreshing-access-tokens, v1.19.
"""

from dataclasses import dataclass, field

from homeserver.core.json_types import JsonObject
from homeserver.errors import BadRequest, Forbidden, MissingParam
from homeserver.requester import Requester
from homeserver.services.accounts import Accounts
from homeserver.services.devices import Devices
from homeserver.services.sessions import (
    APPSERVICE_LOGIN,
    Appservice,
    NewSession,
    Sessions,
    may_act_as,
)
from homeserver.services.ui_auth import PASSWORD_LOGIN, named_user
from homeserver.storage.accounts import Account
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
            account = await self._check_password(body, request.client_ip)
        elif body.type == APPSERVICE_LOGIN:
            account = await self._check_appservice(
                self._sessions.access_appservice(requester), body
            )
        else:
            raise BadRequest("This type of login is not known", errcode="M_UNKNOWN")
        grant = await self._sessions.begin(account.user_nid, wish)
        return grant.session_body(account.user_id)

    async def _check_password(self, body: Login, client_ip: str) -> Account:
        user = named_user(body.identifier, body.user)
        if user is None or body.password is None:
            raise MissingParam("A login needs identifier and password")
        self._accounts.count_address(client_ip)
        account = await self._accounts.find_by_password(user, body.password)
        if account is None:
            raise Forbidden("Invalid user name or password")
        return account

    async def _check_appservice(self, appservice: Appservice, body: Login) -> Account:
        user_id = self._accounts.find_user_id(named_user(body.identifier, body.user) or "")
        if user_id is None or not may_act_as(appservice, user_id):
            raise Forbidden(
                "The user is outside of what the application service may use",
                errcode="M_EXCLUSIVE",
            )
        return await self._accounts.get(user_id)

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
