"""Sessions: from an access token to who makes the request, and how sessions begin and end.

spec: client-server-api/#client-authentication, #refreshing-access-tokens, #soft-logout,
application-service-api/#identity-assertion, v1.19
Invariant: only hashes of tokens are kept, and a session that ended is refused from the moment its
transaction is committed.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.core.identifiers import (
    DeviceID,
    IdentifierInvalid,
    UserID,
    parse_user_id,
    server_name_of,
)
from homeserver.core.json_types import JsonObject
from homeserver.errors import BadRequest, Forbidden, InvalidParam, MissingToken, UnknownToken
from homeserver.randomness import Randomness
from homeserver.requester import Requester
from homeserver.storage import access_tokens, accounts, devices
from homeserver.storage.access_tokens import Tokens
from homeserver.storage.database import Database
from homeserver.storage.devices import Device
from homeserver.storage.query import Txn

APPSERVICE_LOGIN = "m.login.application_service"

_TOKEN_LETTERS = 43
_DEVICE_ID_LETTERS = 10
_ACCESS_TOKEN_LIFETIME_MS = 60 * 60 * 1000
_KEEP_SPENT_MS = 30 * 24 * 60 * 60 * 1000
_MAX_CACHED = 50_000
_CACHED_SECONDS = 60.0
READ_AGAIN_SECONDS = 20.0
_MAX_READ_AGAIN = 5_000
_SEEN_SECONDS = 300.0
_MAX_NAME_LETTERS = 100
_DEVICE_ID = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


class Appservice(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def sender_user_id(self) -> UserID: ...

    def is_interested_in_user(self, user_id: UserID) -> bool: ...

    def owns_user(self, user_id: UserID) -> bool: ...


class Appservices(Protocol):
    def find_by_token(self, token: str) -> Appservice | None: ...

    def find(self, appservice_id: str) -> Appservice | None: ...


@dataclass(frozen=True, slots=True)
class NewSession:
    """What a client wishes for the session it begins."""

    device_id: DeviceID | None = None
    display_name: str | None = None
    """Of the device; only if it is a new one."""
    wants_refresh_token: bool = False
    client_ip: str | None = None

    @classmethod
    def checked(
        cls,
        device_id: str | None,
        display_name: str | None,
        *,
        wants_refresh_token: bool,
        client_ip: str,
    ) -> "NewSession":
        """Raises InvalidParam for what no device can be called."""
        return cls(
            check_device_id(device_id) if device_id is not None else None,
            check_device_name(display_name),
            wants_refresh_token,
            client_ip,
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """A session's tokens, for the client alone: they are in no log and in no other place."""

    device: Device
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in_ms: int | None
    hashes: Tokens = field(repr=False)

    def session_body(self, user_id: UserID) -> JsonObject:
        """Return what a client is told after a login."""
        return {
            "user_id": user_id,
            "home_server": server_name_of(user_id),  # deprecated, but clients still look for it
            "device_id": self.device.device_id,
            **self.token_body(),
        }

    def token_body(self) -> JsonObject:
        body: JsonObject = {"access_token": self.access_token}
        if self.refresh_token is not None:
            body["refresh_token"] = self.refresh_token
        if self.expires_in_ms is not None:
            body["expires_in_ms"] = self.expires_in_ms
        return body


@dataclass(slots=True)
class _Known:
    requester: Requester
    user_nid: int
    expires_ts: int | None
    until: float
    is_used: bool = False
    """Since it was read."""


class Sessions:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        background: Background,
        *,
        appservices: Appservices | None = None,
        wake: Callable[[Iterable[str]], None] | None = None,
    ) -> None:
        """`wake` is told the users whose sessions may have ended."""
        self._wake = wake
        self._db = database
        self._clock = clock
        self._randomness = randomness
        self._background = background
        self._appservices = appservices
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._known_of_user: dict[int, set[bytes]] = {}
        self._endings = 0
        self._seen: OrderedDict[tuple[UserID, DeviceID], float] = OrderedDict()

    # --- who makes the request

    async def authenticate(self, token: str, query: Mapping[str, str]) -> Requester:
        """Raises UnknownToken; for an appservice Forbidden, and M_UNKNOWN_DEVICE."""
        token_hash = _hash(token)
        appservice = None
        if self._appservices is not None:
            appservice = self._appservices.find_by_token(token)
        if appservice is not None:
            return await self._assert_identity(appservice, token_hash, query)
        return (await self._find(token_hash)).requester

    async def check_goes_on(self, requester: Requester) -> None:
        """For a request that has waited. Raises UnknownToken when its session has ended."""
        if requester.appservice_id is None:
            await self._find(requester.token_hash)

    async def _find(self, token_hash: bytes) -> _Known:
        known = self._find_known(token_hash) or await self._load(token_hash)
        if known.expires_ts is not None and known.expires_ts <= self._clock.now_ms():
            raise UnknownToken("The access token has expired", soft_logout=True)
        return known

    def access_appservice(self, requester: Requester | None) -> Appservice:
        """Return who asks, where only application services may. Raises MissingToken, Forbidden."""
        if requester is None:
            raise MissingToken("Missing access token of an application service")
        appservice = None
        if requester.appservice_id is not None and self._appservices is not None:
            appservice = self._appservices.find(requester.appservice_id)
        if appservice is None:
            raise Forbidden("The access token is not of an application service")
        return appservice

    async def _load(self, token_hash: bytes) -> _Known:
        endings = self._endings
        session = await self._db.read(access_tokens.find_session, token_hash)
        if session is None:
            raise UnknownToken("The access token is not known")
        requester = Requester(session.user_id, session.device_id, token_hash=token_hash)
        known = self._make_known(requester, session.user_nid, session.expires_ts)
        if session.replaces is not None:
            await self._db.run(
                _begin_use,
                session.user_nid,
                session.device_id,
                session.replaces,
                self._clock.now_ms(),
            )
            self.forget(session.user_nid, [session.device_id])
        elif endings == self._endings:  # else it may have ended while it was read
            self._remember(token_hash, known)
        return known

    async def _assert_identity(
        self, appservice: Appservice, token_hash: bytes, query: Mapping[str, str]
    ) -> Requester:
        user_id = appservice.sender_user_id
        if "user_id" in query:
            try:
                user_id = parse_user_id(query["user_id"])
            except IdentifierInvalid as error:
                raise InvalidParam(f"user_id: {error}") from error
        if not may_act_as(appservice, user_id):
            raise Forbidden("The application service cannot act as this user")
        device_id = query.get("device_id", query.get("org.matrix.msc3202.device_id"))
        key = _hash(json.dumps([token_hash.hex(), user_id, device_id]))
        known = self._find_known(key)
        if known is not None:
            return known.requester
        requester = Requester(
            user_id,
            DeviceID(device_id) if device_id is not None else None,
            appservice_id=appservice.id,
            token_hash=token_hash,
        )
        endings = self._endings
        user_nid = await self._check_asserted(
            requester, is_sender=user_id == appservice.sender_user_id
        )
        if user_nid is not None and endings == self._endings:
            self._remember(key, self._make_known(requester, user_nid, None))
        return requester

    async def _check_asserted(self, requester: Requester, *, is_sender: bool) -> int | None:
        """Return the user's number; None for the appservice's own user without an account."""
        account = await self._db.read(accounts.find_account, requester.user_id)
        if (account is None and not is_sender) or (account is not None and account.is_deactivated):
            raise Forbidden("The application service has not registered this user")
        device_id = requester.device_id
        if device_id is not None and (
            account is None
            or "\0" in device_id
            or await self._db.read(devices.find_device, account.user_nid, device_id) is None
        ):
            raise BadRequest("The user has no such device", errcode="M_UNKNOWN_DEVICE")
        return account.user_nid if account is not None else None

    def note_use(self, requester: Requester, client_ip: str) -> None:
        """Remember when and from where the device was used, now and then, for its owner."""
        if requester.device_id is None:
            return
        device = (requester.user_id, requester.device_id)
        now = self._clock.monotonic()
        if now - self._seen.get(device, now - _SEEN_SECONDS) < _SEEN_SECONDS:
            return
        self._mark_seen(device, now)
        self._background.run("last seen", self._write_last_seen(device, client_ip))

    def _mark_seen(self, device: tuple[UserID, DeviceID], now: float) -> None:
        self._seen[device] = now
        self._seen.move_to_end(device)
        if len(self._seen) > _MAX_CACHED:
            self._seen.popitem(last=False)

    async def _write_last_seen(self, device: tuple[UserID, DeviceID], client_ip: str) -> None:
        await self._db.run(_update_last_seen, *device, self._clock.now_ms(), client_ip)

    # --- how sessions begin

    def make_grant(self, wish: NewSession) -> Grant:
        """Draw the tokens of a new session; `begin_session` makes them good."""
        expires_in_ms = _ACCESS_TOKEN_LIFETIME_MS if wish.wants_refresh_token else None
        access_token = f"ct_{self._randomness.token(_TOKEN_LETTERS)}"
        refresh_token = (
            f"ctr_{self._randomness.token(_TOKEN_LETTERS)}" if wish.wants_refresh_token else None
        )
        device_id = wish.device_id or DeviceID(self._randomness.upper_token(_DEVICE_ID_LETTERS))
        return Grant(
            device=Device(device_id, wish.display_name, self._clock.now_ms(), wish.client_ip),
            access_token=access_token,
            refresh_token=refresh_token,
            expires_in_ms=expires_in_ms,
            hashes=Tokens(
                access=_hash(access_token),
                expires_ts=None if expires_in_ms is None else self._clock.now_ms() + expires_in_ms,
                refresh=None if refresh_token is None else _hash(refresh_token),
            ),
        )

    async def begin(self, user_nid: int, wish: NewSession) -> Grant:
        """Start a session; earlier ones of the same device end."""
        grant = self.make_grant(wish)
        try:
            await self._db.run(begin_session, user_nid, grant)
        finally:
            self.forget(user_nid, [grant.device.device_id])
        return grant

    async def refresh(self, refresh_token: str) -> Grant:
        """Give new tokens for a refresh token.

        Raises UnknownToken; a token that was replaced and shows up again ends the session.
        """
        token_hash = _hash(refresh_token)
        fresh = self.make_grant(NewSession(wants_refresh_token=True))
        found = await self._db.run(_refresh, token_hash, fresh.hashes, self._clock.now_ms())
        if found is None:
            raise UnknownToken("The refresh token is not known")
        self.forget(found.user_nid, [found.device_id])
        if found.spent_ts is not None:
            raise UnknownToken("The refresh token was used before", soft_logout=True)
        return fresh

    # --- the cache

    async def read_again(self) -> None:
        """Read the sessions in use from the database, many at once.

        Called every `READ_AGAIN_SECONDS`: so none that is in use must be looked up by its own.
        """
        used = {
            key: known
            for key, known in self._known.items()
            if known.is_used and known.requester.appservice_id is None
        }
        for keys in _batched(used, _MAX_READ_AGAIN):
            until = self._clock.monotonic() + _CACHED_SECONDS
            found = await self._db.read(access_tokens.list_live_tokens, keys)
            for key in keys:
                known = used[key]
                if self._known.get(key) is not known:
                    continue  # the session ended, or was looked up, meanwhile
                if key in found:
                    known.until = until
                    known.is_used = False
                else:
                    self._drop(key)

    def forget(self, user_nid: int, device_ids: Sequence[DeviceID] | None) -> None:
        """Read these sessions (None: all of the user) from the database next time.

        Whoever ends sessions calls this when the transaction has ended, well or badly.
        """
        self._endings += 1
        concerned: set[str] = set()
        for key in tuple(self._known_of_user.get(user_nid, ())):
            requester = self._known[key].requester
            if device_ids is None or requester.device_id in device_ids:
                concerned.add(requester.user_id)
                self._drop(key)
        if self._wake is not None and concerned:
            self._wake(concerned)

    def _make_known(self, requester: Requester, user_nid: int, expires_ts: int | None) -> _Known:
        # Not for ever: when a client hangs up during its logout, the commit comes after `forget`.
        return _Known(requester, user_nid, expires_ts, self._clock.monotonic() + _CACHED_SECONDS)

    def _find_known(self, key: bytes) -> _Known | None:
        known = self._known.get(key)
        if known is None or known.until < self._clock.monotonic():
            return None
        self._known.move_to_end(key)
        known.is_used = True
        return known

    def _remember(self, key: bytes, known: _Known) -> None:
        self._known[key] = known
        self._known.move_to_end(key)
        self._known_of_user.setdefault(known.user_nid, set()).add(key)
        if len(self._known) > _MAX_CACHED:
            self._drop(next(iter(self._known)))

    def _drop(self, key: bytes) -> None:
        user_nid = self._known.pop(key).user_nid
        keys = self._known_of_user[user_nid]
        keys.discard(key)
        if not keys:
            del self._known_of_user[user_nid]


def _batched(keys: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    rest = iter(keys)
    while batch := list(islice(rest, size)):
        yield batch


def may_act_as(appservice: Appservice, user_id: UserID) -> bool:
    return user_id == appservice.sender_user_id or appservice.is_interested_in_user(user_id)


def check_device_id(text: str) -> DeviceID:
    """Raises InvalidParam."""
    if _DEVICE_ID.fullmatch(text) is None:
        raise InvalidParam("A device id has 1 to 255 printable characters")
    return DeviceID(text)


def check_device_name(text: str | None) -> str | None:
    """Raises InvalidParam."""
    if text is not None and (len(text) > _MAX_NAME_LETTERS or "\0" in text):
        raise InvalidParam(f"A device name has at most {_MAX_NAME_LETTERS} characters and no NUL")
    return text


def begin_session(txn: Txn, user_nid: int, grant: Grant) -> None:
    device_id = grant.device.device_id
    if not devices.upsert_device(txn, user_nid, grant.device):
        access_tokens.delete_tokens(txn, user_nid, device_id)
    access_tokens.insert_tokens(txn, user_nid, device_id, grant.hashes)


def _begin_use(txn: Txn, user_nid: int, device_id: DeviceID, spent: bytes, now_ms: int) -> None:
    access_tokens.spend_refresh_token(
        txn, spent, user_nid, device_id, spent_ts=now_ms, keep_ts=now_ms - _KEEP_SPENT_MS
    )


def _refresh(
    txn: Txn, token_hash: bytes, fresh: Tokens, now_ms: int
) -> access_tokens.RefreshToken | None:
    """Follow the rules of refreshing.

    1 find the token   2 a spent one ends the session   3 its use spends the one before
    4 what was given for it and never used goes   5 give new tokens
    """
    token = access_tokens.find_refresh_token(txn, token_hash)  # 1
    if token is None:
        return None
    if token.spent_ts is not None:  # 2
        access_tokens.expire_tokens(txn, token.user_nid, token.device_id)
        return token
    if token.replaces is not None:  # 3
        _begin_use(txn, token.user_nid, token.device_id, token.replaces, now_ms)
    access_tokens.delete_successors(txn, token_hash, token.user_nid, token.device_id)  # 4
    access_tokens.insert_tokens(txn, token.user_nid, token.device_id, fresh, token_hash)  # 5
    return token


def _update_last_seen(
    txn: Txn, user_id: UserID, device_id: DeviceID, now_ms: int, client_ip: str
) -> None:
    account = accounts.find_account(txn, user_id)
    if account is not None:
        devices.update_last_seen(txn, account.user_nid, device_id, now_ms, client_ip)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
