"""Accounts: names, passwords, and how accounts begin and end.

spec: client-server-api/#legacy-account-registration, #account-deactivation, v1.19
Invariant: a name once given is never given again, and a deactivated account opens nothing.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from homeserver.clock import Clock
from homeserver.core.identifiers import (
    IdentifierInvalid,
    ServerName,
    UserID,
    localpart_of,
    parse_local_username,
    parse_user_id,
    server_name_of,
)
from homeserver.core.json_types import JsonValue
from homeserver.errors import (
    BadJSON,
    BadRequest,
    Forbidden,
    InvalidParam,
    MissingParam,
    UserInUse,
)
from homeserver.services.passwords import Passwords
from homeserver.services.sessions import Appservice, Grant, begin_session, may_act_as
from homeserver.storage import accounts, delayed_events, profiles
from homeserver.storage.accounts import Account
from homeserver.storage.database import Database
from homeserver.storage.query import Txn

CountLogin = Callable[[str, str], None]
"""Counts one attempt for (kind, name); raises LimitExceeded when there were too many."""

_MAX_PASSWORD_LETTERS = 1024


@dataclass(frozen=True, slots=True)
class NewAccount:
    user_id: UserID
    password_hash: str | None = None
    is_admin: bool = False
    appservice_id: str | None = None
    display_name: str | None = None


class Accounts:
    """Names, passwords and the life of accounts.

    is_exclusive   says whether an application service keeps this name for itself
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        passwords: Passwords,
        server_name: ServerName,
        *,
        count_login: CountLogin,
        is_exclusive: Callable[[UserID], bool],
    ) -> None:
        self._db = database
        self._clock = clock
        self._passwords = passwords
        self._server_name = server_name
        self._count_login = count_login
        self._is_exclusive = is_exclusive

    # --- names

    def make_user_id(self, username: str) -> UserID:
        """Raises M_INVALID_USERNAME. Capitals become small letters."""
        try:
            return parse_user_id(f"@{parse_local_username(username.lower())}:{self._server_name}")
        except IdentifierInvalid as error:
            raise BadRequest(str(error), errcode="M_INVALID_USERNAME") from error

    def find_user_id(self, user: str) -> UserID | None:
        """Return the user that a localpart or a full user id names; None if it is not ours.

        Capitals are taken for small letters, as in `make_user_id`.
        """
        try:
            user_id = parse_user_id(user if user[:1] == "@" else f"@{user}:{self._server_name}")
        except IdentifierInvalid:
            return None
        if server_name_of(user_id) != self._server_name:
            return None
        return UserID(f"@{localpart_of(user_id).lower()}:{self._server_name}")

    async def check_free(self, user_id: UserID, *, by_appservice: bool = False) -> None:
        """Raises UserInUse, and M_EXCLUSIVE."""
        if not by_appservice and self._is_exclusive(user_id):
            raise BadRequest("An application service keeps this name", errcode="M_EXCLUSIVE")
        if await self._db.read(accounts.find_account, user_id) is not None:
            raise UserInUse("This user name is taken")

    # --- beginning

    async def check_appservice_registration(
        self, appservice: Appservice, username: str
    ) -> NewAccount:
        """Return what may be registered. Raises UserInUse, and M_EXCLUSIVE."""
        user_id = self.make_user_id(username)
        if not may_act_as(appservice, user_id):
            raise BadRequest(
                "The name is outside of what the application service may use",
                errcode="M_EXCLUSIVE",
            )
        await self.check_free(user_id, by_appservice=True)
        return NewAccount(user_id, appservice_id=appservice.id)

    async def register(self, new: NewAccount, grant: Grant | None) -> None:
        """Make the account, and with `grant` its first session, together. Raises UserInUse."""
        made = await self._db.run(register_txn, new, self._clock.now_ms(), grant)
        if not made:
            raise UserInUse("This user name is taken")

    # --- passwords

    async def hash_password(self, password: str) -> str:
        """Raises M_WEAK_PASSWORD, InvalidParam and LimitExceeded."""
        if not password:
            raise BadRequest("The password is empty", errcode="M_WEAK_PASSWORD")
        if len(password) > _MAX_PASSWORD_LETTERS:
            raise InvalidParam(f"A password has at most {_MAX_PASSWORD_LETTERS} characters")
        return await self._passwords.hash(password)

    async def check_login(
        self, identifier: JsonValue, legacy_user: JsonValue, password: str | None, client_ip: str
    ) -> Account:
        """Return the account of a login by password. Raises Forbidden, LimitExceeded."""
        user = named_user(identifier, legacy_user)
        if user is None or password is None:
            raise MissingParam("A login needs identifier and password")
        self._count_login("address", client_ip)
        account = await self.find_by_password(user, password)
        if account is None:
            raise Forbidden("Invalid user name or password")
        return account

    async def check_appservice_login(
        self, appservice: Appservice, identifier: JsonValue, legacy_user: JsonValue
    ) -> Account:
        """Return the account an application service logs in as. Raises Forbidden."""
        user_id = self.find_user_id(named_user(identifier, legacy_user) or "")
        if user_id is None or not may_act_as(appservice, user_id):
            raise Forbidden(
                "The user is outside of what the application service may use",
                errcode="M_EXCLUSIVE",
            )
        return await self.get(user_id)

    async def find_by_password(self, user: str, password: str) -> Account | None:
        """Return the active account of `user` (localpart or full id) if the password is right.

        Takes as long when there is no such account. Raises LimitExceeded.
        """
        user_id = self.find_user_id(user)
        self._count_login("account", user_id or user[:255])
        account = None
        if user_id is not None:
            account = await self._db.read(accounts.find_account, user_id)
        stored = account.password_hash if account is not None else None
        if not await self._passwords.verify(stored, password) or account is None:
            return None
        if account.is_deactivated or stored is None:
            return None
        if self._passwords.is_outdated(stored):
            fresh = await self._passwords.hash(password)
            await self._db.run(accounts.update_password_hash, account.user_nid, fresh)
        return account

    async def change_password(self, user_id: UserID, password: str) -> None:
        account = await self.get(user_id)
        await self._db.run(
            accounts.update_password_hash, account.user_nid, await self.hash_password(password)
        )

    # --- the end

    async def deactivate(self, user_id: UserID, *, erase: bool) -> None:
        """From the commit on, no token and no password of the account is good.

        erase   forget the profile too
        """
        await self._db.run(deactivate_txn, user_id, self._clock.now_ms(), erase)

    # --- the rest

    async def find(self, user_id: UserID) -> Account | None:
        return await self._db.read(accounts.find_account, user_id)

    async def get(self, user_id: UserID) -> Account:
        """Raises Forbidden for users without an active account here."""
        account = await self._db.read(accounts.find_account, user_id)
        if account is None or account.is_deactivated:
            raise Forbidden("There is no such account")
        return account


def named_user(identifier: JsonValue, legacy_user: JsonValue) -> str | None:
    """Return the localpart or user id that a login names; None when it names none.

    Raises BadRequest for identifiers that are not of a kind known here.
    """
    if identifier is None:
        if legacy_user is not None and not isinstance(legacy_user, str):
            raise BadJSON("user must be a string")
        return legacy_user
    if not isinstance(identifier, dict):
        raise BadJSON("identifier must be an object")
    if identifier.get("type") in ("m.id.thirdparty", "m.id.phone"):
        raise Forbidden("No account has this identifier")
    if "type" not in identifier:
        raise MissingParam("identifier.type is required")
    if identifier.get("type") != "m.id.user":
        raise BadRequest("This type of identifier is not known", errcode="M_UNKNOWN")
    user = identifier.get("user")
    if not isinstance(user, str):
        raise MissingParam("identifier.user is required")
    return user


def register_txn(txn: Txn, new: NewAccount, now_ms: int, grant: Grant | None) -> bool:
    """Return False, and make nothing, when the name is taken."""
    user_nid = accounts.insert_account(
        txn,
        new.user_id,
        created_ts=now_ms,
        password_hash=new.password_hash,
        is_admin=new.is_admin,
        appservice_id=new.appservice_id,
    )
    if user_nid is None:
        return False
    if grant is not None:
        begin_session(txn, user_nid, grant)
    if new.display_name is not None:
        profiles.upsert_field(txn, user_nid, "displayname", json.dumps(new.display_name))
    return True


def deactivate_txn(txn: Txn, user_id: UserID, now_ms: int, erase: bool) -> None:  # noqa: FBT001 - passed on by Database.run
    account = accounts.find_account(txn, user_id)
    if account is None:
        return
    accounts.update_deactivated(txn, account.user_nid, now_ms)
    delayed_events.delete_for_user(txn, account.user_nid)
    if erase:
        profiles.delete_fields(txn, account.user_nid)
