"""Registration of accounts.

spec: client-server-api/#legacy-account-registration, v1.19.
"""

from dataclasses import asdict, dataclass, field
from typing import Literal

from homeserver.core.json_types import JsonObject
from homeserver.errors import Forbidden, MissingParam
from homeserver.randomness import Randomness
from homeserver.requester import Requester
from homeserver.services.accounts import Accounts, NewAccount
from homeserver.services.registration_tokens import RegistrationTokens
from homeserver.services.sessions import APPSERVICE_LOGIN, NewSession, Sessions
from homeserver.services.ui_auth import DUMMY_FLOWS, TOKEN_FLOWS, UIAuth
from homeserver.transport.endpoint import Auth, RequestInfo, endpoint

_GENERATED_NAME_LETTERS = 12


@dataclass(frozen=True)
class Registration:
    type: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool = False
    refresh_token: bool = False
    auth: JsonObject | None = field(default=None, repr=False)


class RegistrationAPI:
    """How a person gets an account, where the configuration lets anybody make one."""

    def __init__(
        self,
        accounts: Accounts,
        sessions: Sessions,
        ui_auth: UIAuth,
        randomness: Randomness,
        tokens: RegistrationTokens,
        *,
        is_open: bool,
    ) -> None:
        self._tokens = tokens
        self._accounts = accounts
        self._sessions = sessions
        self._ui_auth = ui_auth
        self._randomness = randomness
        self._is_open = is_open

    # Auth.OPTIONAL: application services register users with their own access token.
    @endpoint(
        "register", "POST", "/_matrix/client/v3/register", auth=Auth.OPTIONAL, rate_limited=True
    )
    async def register(
        self,
        requester: Requester | None,
        request: RequestInfo,
        body: Registration,
        *,
        kind: Literal["guest", "user"] = "user",
    ) -> JsonObject:
        if kind == "guest":
            raise Forbidden("Guest accounts are not possible on this server")
        username = body.username
        if username is None:
            username = self._randomness.upper_token(_GENERATED_NAME_LETTERS)
        wish = NewSession.checked(
            body.device_id,
            body.initial_device_display_name,
            wants_refresh_token=body.refresh_token,
            client_ip=request.client_ip,
        )
        if body.type == APPSERVICE_LOGIN:
            appservice = self._sessions.access_appservice(requester)
            new = await self._accounts.check_appservice_registration(appservice, username)
        else:
            new = await self._check_person(body, username)
        grant = None if body.inhibit_login else self._sessions.make_grant(wish)
        await self._accounts.register(new, grant)
        return {"user_id": new.user_id} if grant is None else grant.session_body(new.user_id)

    async def _check_person(self, body: Registration, username: str) -> NewAccount:
        if not self._is_open:
            raise Forbidden("Registration is closed on this server")
        user_id = self._accounts.make_user_id(username)
        await self._accounts.check_free(user_id)
        if body.auth is not None and body.password is None:
            raise MissingParam("password is required")
        flows = TOKEN_FLOWS if self._tokens.are_needed else DUMMY_FLOWS
        await self._ui_auth.check(asdict(body), "register", None, flows, binds_body=False)
        return NewAccount(
            user_id, password_hash=await self._accounts.hash_password(body.password or "")
        )

    @endpoint(
        "checkUsernameAvailability", "GET", "/_matrix/client/v3/register/available",
        auth=Auth.NONE, rate_limited=True,
    )  # fmt: skip
    async def check_username_availability(self, *, username: str) -> JsonObject:
        if not self._is_open:
            raise Forbidden("Registration is closed on this server")
        await self._accounts.check_free(self._accounts.make_user_id(username))
        return {"available": True}

    @endpoint(
        "registrationTokenValidity", "GET",
        "/_matrix/client/v1/register/m.login.registration_token/validity",
        auth=Auth.NONE, rate_limited=True,
    )  # fmt: skip
    async def registration_token_validity(self, *, token: str) -> JsonObject:
        if not (self._is_open and self._tokens.are_needed):
            raise Forbidden("Registration by token is not possible on this server")
        return {"valid": self._tokens.is_valid(token)}
