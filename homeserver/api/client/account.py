"""The account behind an access token.

spec: client-server-api/#current-account-information, #legacy-account-management, v1.19.
"""

from dataclasses import asdict, dataclass, field

from homeserver.core.json_types import JsonObject
from homeserver.errors import Forbidden, MissingToken
from homeserver.requester import Requester
from homeserver.services.accounts import Accounts
from homeserver.services.devices import Devices
from homeserver.services.ui_auth import PASSWORD_FLOWS, UIAuth
from homeserver.transport.endpoint import EMPTY, Auth, endpoint


@dataclass(frozen=True)
class PasswordChange:
    new_password: str = field(repr=False)
    logout_devices: bool = True
    auth: JsonObject | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Deactivation:
    erase: bool = False
    auth: JsonObject | None = field(default=None, repr=False)


class AccountAPI:
    """Who one is, the password, and the end of the account."""

    def __init__(self, accounts: Accounts, devices: Devices, ui_auth: UIAuth) -> None:
        self._accounts = accounts
        self._devices = devices
        self._ui_auth = ui_auth

    @endpoint(
        "getTokenOwner", "GET", "/_matrix/client/v3/account/whoami",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def get_token_owner(self, requester: Requester) -> JsonObject:
        owner: JsonObject = {"user_id": requester.user_id, "is_guest": False}
        if requester.device_id is not None:
            owner["device_id"] = requester.device_id
        return owner

    @endpoint(
        "changePassword", "POST", "/_matrix/client/v3/account/password",
        auth=Auth.OPTIONAL, rate_limited=True,
    )  # fmt: skip
    async def change_password(
        self, requester: Requester | None, body: PasswordChange
    ) -> JsonObject:
        person = _person(requester)
        await self._ui_auth.check(asdict(body), "changePassword", person, PASSWORD_FLOWS)
        await self._accounts.change_password(person.user_id, body.new_password)
        if body.logout_devices:
            await self._devices.delete_all(person.user_id, keep=person.device_id)
        return EMPTY

    @endpoint(
        "deactivateAccount", "POST", "/_matrix/client/v3/account/deactivate",
        auth=Auth.OPTIONAL, rate_limited=True,
    )  # fmt: skip
    async def deactivate_account(
        self, requester: Requester | None, body: Deactivation
    ) -> JsonObject:
        person = _person(requester)
        await self._ui_auth.check(asdict(body), "deactivateAccount", person, PASSWORD_FLOWS)
        await self._accounts.deactivate(person.user_id, erase=body.erase)
        await self._devices.delete_all(person.user_id)
        return {"id_server_unbind_result": "success"}


def _person(requester: Requester | None) -> Requester:
    """Refuse those who cannot prove by a password who they are."""
    if requester is None:  # without e-mail addresses there is no other proof than the session
        raise MissingToken("Missing access token")
    if requester.appservice_id is not None:
        raise Forbidden("Application services do not manage accounts")
    return requester
