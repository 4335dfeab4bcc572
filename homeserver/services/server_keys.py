"""Keys of other servers, by which all that they sign is checked.

spec: server-server-api/#retrieving-server-keys, v1.19. Invariants: a key is believed only if its
own server has signed the answer it came in (a notary's word is in addition to that); what is
signed is believed only if the key was valid at its time, which is at most seven days after it was
last asked for; and a key becomes another of the same id only when it is no longer valid and its
server itself says so: one that was made anew is not refused for ever.
"""

import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

import orjson
from twisted.internet.defer import Deferred, DeferredSemaphore

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.core.canonical_json import encode_lenient_json
from homeserver.core.errors import JsonInvalid, SignatureInvalid
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.request_signing import RequestSignature, check_request_signature
from homeserver.core.signing import (
    PUBLIC_KEY_BYTES,
    decode_base64,
    verify_signed_json,
)
from homeserver.errors import LimitExceeded
from homeserver.services.own_keys import OwnKeys
from homeserver.storage import server_keys
from homeserver.storage.database import Database
from homeserver.storage.query import Txn
from homeserver.storage.server_keys import StoredKey, StoredResponse
from homeserver.transport.federation_client import FederationClient, request_json
from homeserver.transport.outbound import RequestFailed

logger = logging.getLogger(__name__)

_DAY_MS = 86_400_000
_MAX_VALIDITY_MS = 7 * _DAY_MS
_FIRST_PAUSE_SECONDS = 10.0
_LAST_PAUSE_SECONDS = 300.0
"""Not longer: anybody can make us ask, in the name of a server that has a new key tomorrow."""
_TIMEOUT_SECONDS = 15.0
_VOUCH_SECONDS = 20.0
_MAX_ANSWER_BYTES = 1_048_576
_MAX_KEYS = 100
"""Of one server, of each kind, that are read."""
_MAX_KEY_ID = 255
_MAX_SERVERS = 20_000
FETCHES_AT_ONCE = 100
MAX_FETCHES = 1_000
"""Under way or waiting for requests; those of further servers that are not known are refused for a
while. What events wait for does not count."""
MAX_FETCHES_OF_STRANGER = 50
"""Of these, for requests from one address: what hangs leaves turns for those of others."""
_KEY_PATH = "/_matrix/key/v2/server"
_QUERY_PATH = "/_matrix/key/v2/query"


class ServerKeys:
    def __init__(
        self,
        own: OwnKeys,
        database: Database,
        clock: Clock,
        background: Background,
        client: FederationClient,
        notaries: Sequence[ServerName] = (),
    ) -> None:
        """`notaries` are asked for the keys of servers that do not answer themselves."""
        self._own = own
        self._db = database
        self._clock = clock
        self._background = background
        self._client = client
        self._notaries = [notary for notary in notaries if notary != own.server_name]
        self._known: OrderedDict[ServerName, dict[str, StoredKey]] = OrderedDict()
        self._fetching: dict[ServerName, Deferred[None]] = {}
        self._refusable: dict[ServerName, str | None] = {}
        """Of these, those that were begun for requests, each with its stranger."""
        self._turns = DeferredSemaphore(FETCHES_AT_ONCE)
        self._turns_for_events = DeferredSemaphore(FETCHES_AT_ONCE)
        """Of the servers in a large room many hang: nobody else waits for their turns to end."""
        self._not_before: OrderedDict[ServerName, tuple[float, float]] = OrderedDict()
        """Servers that gave nothing new: when to ask again (monotonic), and the pause before."""

    # Checks.

    async def verify_json(self, server: ServerName, value: JsonObject) -> None:
        """Raise SignatureInvalid unless the server signs this with a key that is valid now."""
        signatures = value.get("signatures")
        by_server = signatures.get(server) if isinstance(signatures, dict) else None
        if not isinstance(by_server, dict):
            raise SignatureInvalid(f"no signature of {server}")
        key = await self.find_key(server, by_server, self._clock.now_ms(), for_events=False)
        verify_signed_json(value, server, key.key_id, key.public_key)

    async def verify_request(
        self,
        claim: RequestSignature,
        *,
        method: str,
        uri: str,
        body: bytes,
        stranger: str | None,
    ) -> None:
        """Raise SignatureInvalid unless the request is from the server that it names.

        stranger  at which address it was asked; None: that is not known
        Raises LimitExceeded when it cannot be found out now.
        """
        key = await self.find_key(
            claim.origin,
            [claim.key_id],
            self._clock.now_ms(),
            for_events=False,
            stranger=stranger,
        )
        check_request_signature(
            claim,
            key.public_key,
            method=method,
            uri=uri,
            destination=self._own.server_name,
            body=body,
        )

    async def find_key(
        self,
        server: ServerName,
        key_ids: Collection[str],
        valid_at: int | None,
        *,
        for_events: bool = True,
        stranger: str | None = None,
    ) -> StoredKey:
        """Return a key of these that was valid at a time (None: ever).

        for_events  what it is for, is not refused because of too much to do
        stranger    see `verify_request`
        Raises SignatureInvalid, LimitExceeded.
        """

        def find(keys: Mapping[str, StoredKey]) -> StoredKey | None:
            return find_valid(keys, key_ids, valid_at, for_events=for_events)

        if not any(key_id.startswith("ed25519:") for key_id in key_ids):
            raise SignatureInvalid(f"no Ed25519 signature of {server}")
        found = find(await self._keys_of(server))
        if found is None and server != self._own.server_name:
            may_refuse = not for_events and server not in self._notaries
            await self._refresh(server, stranger, may_refuse=may_refuse)
            found = find(await self._keys_of(server))
        if found is None:
            raise SignatureInvalid(
                f"{server} has no valid key {', '.join(sorted(key_ids))[:200]} for this"
            )
        return found

    async def learn(self, server: ServerName) -> None:
        """Ask for the keys of a server of which none is known, unless there is too much to ask."""
        if not await self._keys_of(server) and len(self._fetching) < MAX_FETCHES:
            await self._refresh(server, None, may_refuse=False)

    async def _keys_of(self, server: ServerName) -> Mapping[str, StoredKey]:
        known = self.in_memory(server)
        if known is None:
            rows = await self._db.read(server_keys.list_keys, server)
            known = {row.key_id: row for row in rows}
            self._remember(server, known)
        return known

    def in_memory(self, server: ServerName) -> Mapping[str, StoredKey] | None:
        """Return the keys of a server by id if they need not be looked up."""
        return self._own.all() if server == self._own.server_name else self._known.get(server)

    def _remember(self, server: ServerName, keys: dict[str, StoredKey]) -> None:
        self._known[server] = keys
        self._known.move_to_end(server)
        while len(self._known) > _MAX_SERVERS:
            self._known.popitem(last=False)

    # Fetching.

    async def _refresh(self, server: ServerName, stranger: str | None, *, may_refuse: bool) -> None:
        """Ask for a server's keys, once for all who wait, and not again and again.

        Raises LimitExceeded if it may be refused.
        """
        under_way = self._fetching.get(server)
        if under_way is None:
            wait_until, _ = self._not_before.get(server, (0.0, 0.0))
            if self._clock.monotonic() < wait_until:
                return
            if may_refuse:
                self._check_may_fetch(stranger)
                self._refusable[server] = stranger
            under_way = self._fetching[server] = Deferred()
            turns = self._turns if may_refuse else self._turns_for_events
            self._background.run("server keys", self._fetch_for_all(server, turns, under_way))
        waiting: Deferred[None] = Deferred()
        under_way.chainDeferred(waiting)
        under_way.addBoth(lambda _: None)
        await waiting

    def _check_may_fetch(self, stranger: str | None) -> None:
        is_much = len(self._refusable) >= MAX_FETCHES
        if stranger is not None:
            of_stranger = sum(one == stranger for one in self._refusable.values())
            is_much = is_much or of_stranger >= MAX_FETCHES_OF_STRANGER
        if is_much:
            raise LimitExceeded("Too many servers are being asked", retry_after_ms=10_000)

    async def _fetch_for_all(
        self, server: ServerName, turns: DeferredSemaphore, waiting: Deferred[None]
    ) -> None:
        try:
            if server in self._notaries:  # others have a turn and wait for its key
                await self._fetch(server)
            else:
                await turns.run(lambda: Deferred.fromCoroutine(self._fetch(server)))
        finally:
            del self._fetching[server]
            self._refusable.pop(server, None)
            _, pause = self._not_before.get(server, (0.0, 0.0))
            pause = min(max(pause * 2, _FIRST_PAUSE_SECONDS), _LAST_PAUSE_SECONDS)
            self._not_before[server] = (self._clock.monotonic() + pause, pause)
            self._not_before.move_to_end(server)
            while len(self._not_before) > _MAX_SERVERS:
                self._not_before.popitem(last=False)
            waiting.callback(None)

    async def _fetch(self, server: ServerName) -> None:
        """1 the server itself 2 each notary, until one knows something."""
        try:
            answer = await request_json(
                self._client,  # 1
                "GET",
                server,
                _KEY_PATH,
                timeout_seconds=_TIMEOUT_SECONDS,
                max_bytes=_MAX_ANSWER_BYTES,
                signed=False,
            )
            await self._store(server, answer, may_replace=True)
        except (RequestFailed, SignatureInvalid) as error:
            logger.info("No keys server=%s: %s", server, error)
        else:
            return
        for notary in self._notaries:  # 2
            if notary == server:
                continue
            try:
                if await self._ask_notary(notary, server):
                    return
            except (RequestFailed, SignatureInvalid) as error:
                logger.info("No keys server=%s notary=%s: %s", server, notary, error)

    async def _ask_notary(self, notary: ServerName, server: ServerName) -> bool:
        wanted: JsonObject = {
            "server_keys": {server: {"": {"minimum_valid_until_ts": self._clock.now_ms()}}}
        }
        answer = await request_json(
            self._client,
            "POST",
            notary,
            _QUERY_PATH,
            content=wanted,
            timeout_seconds=_TIMEOUT_SECONDS,
            max_bytes=_MAX_ANSWER_BYTES,
            signed=False,
        )
        stored = False
        found = answer.get("server_keys")
        for response in found[:_MAX_KEYS] if isinstance(found, list) else []:
            if isinstance(response, dict) and response.get("server_name") == server:
                await self.verify_json(notary, response)
                await self._store(server, response, may_replace=False)
                stored = True
        return stored

    async def _store(self, server: ServerName, response: JsonObject, *, may_replace: bool) -> None:
        """Believe what a server says of its keys. Raises SignatureInvalid."""
        now = self._clock.now_ms()
        keys, valid_until = read_response(server, response, now)
        own: JsonObject = {k: v for k, v in response.items() if k != "signatures"}
        signatures = response.get("signatures")
        if isinstance(signatures, dict):
            own["signatures"] = {server: signatures.get(server)}
        stored = StoredResponse(encode_lenient_json(own), valid_until, now)
        current = [key for key in keys if may_replace and not key.is_old]
        replaced = await self._db.run(store_txn, server, keys, stored, current)
        if replaced:
            logger.warning("A server has another key of the same id server=%s %s", server, replaced)
        self._known.pop(server, None)

    # Telling others.

    async def vouch_for_all(
        self, wanted: Sequence[tuple[ServerName, int]], stranger: str | None
    ) -> list[JsonObject]:
        """Return what is known of servers' keys, which should be valid until a time each.

        Raises LimitExceeded when too many are being asked, by all or for this `stranger`.
        After a while nobody is asked any more: anybody may have us do it, for servers that hang.
        """
        until = self._clock.monotonic() + _VOUCH_SECONDS
        found = []
        for server, minimum in wanted:
            response = await self._vouch_for(
                server, minimum, stranger, may_ask=self._clock.monotonic() < until
            )
            if response is not None:
                found.append(response)
        return found

    async def _vouch_for(
        self,
        server: ServerName,
        minimum_valid_until: int,
        stranger: str | None,
        *,
        may_ask: bool,
    ) -> JsonObject | None:
        """Return a server's keys with this server's signature as a notary; None: not known."""
        if server == self._own.server_name:
            return self._own.response()
        found = await self._db.read(server_keys.find_response, server)
        now = self._clock.now_ms()
        is_enough = found is not None and found.valid_until_ts >= min(
            minimum_valid_until or now, now + _DAY_MS
        )
        if not is_enough and may_ask:
            await self._refresh(server, stranger, may_refuse=True)
            found = await self._db.read(server_keys.find_response, server) or found
        if found is None:
            return None
        return self._own.sign(orjson.loads(found.response))


def find_valid(
    keys: Mapping[str, StoredKey],
    key_ids: Collection[str],
    valid_at: int | None,
    *,
    for_events: bool = True,
) -> StoredKey | None:
    """Return a key of these that was valid at a time (None: ever)."""
    for key_id in key_ids:
        key = keys.get(key_id)
        if key is None or (key.is_old and not for_events):
            continue
        if valid_at is None or valid_at <= key.valid_until_ts:
            return key
    return None


def store_txn(
    txn: Txn,
    server: ServerName,
    keys: Sequence[StoredKey],
    response: StoredResponse,
    replacing: Sequence[StoredKey],
) -> list[str]:
    """Return the ids of keys that are others now.

    replacing  keys that take the places of others with their ids
    """
    replaced = server_keys.delete_replaced(txn, server, replacing, response.fetched_ts)
    server_keys.upsert_keys(txn, server, keys)
    server_keys.upsert_response(txn, server, response)
    return replaced


def read_response(
    server: ServerName, response: JsonObject, now_ms: int
) -> tuple[list[StoredKey], int]:
    """Return the keys of an answer, and until when they are good.

    1. It is of this server.   2. The server has signed it, with one of the keys in it.

    Raises SignatureInvalid.
    """
    if response.get("server_name") != server:  # 1
        raise SignatureInvalid("the answer is about another server")
    said_until = response.get("valid_until_ts")
    if not isinstance(said_until, int) or isinstance(said_until, bool):
        raise SignatureInvalid("valid_until_ts is not a number")
    valid_until = max(0, min(said_until, now_ms + _MAX_VALIDITY_MS))
    keys = [
        StoredKey(key_id, key, valid_until, False)
        for key_id, key, _ in _keys_in(response.get("verify_keys"))
    ]
    for stored in keys:  # 2
        try:
            verify_signed_json(response, server, stored.key_id, stored.public_key)
            break
        except (SignatureInvalid, JsonInvalid):
            continue
    else:
        raise SignatureInvalid("the server has not signed its own keys")
    current = {stored.key_id for stored in keys}
    for key_id, key, entry in _keys_in(response.get("old_verify_keys")):
        expired = entry.get("expired_ts")
        if key_id not in current and isinstance(expired, int) and 0 <= expired <= now_ms:
            keys.append(StoredKey(key_id, key, expired, True))
    return keys, valid_until


def _keys_in(value: JsonValue) -> list[tuple[str, str, JsonObject]]:
    """Return the usable Ed25519 keys of a map, with their entries."""
    found = []
    for key_id, entry in list(value.items())[:_MAX_KEYS] if isinstance(value, dict) else ():
        key = entry.get("key") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(key, str):
            continue
        if not key_id.startswith("ed25519:") or len(key_id) > _MAX_KEY_ID or "\x00" in key_id:
            continue
        try:
            if len(decode_base64(key)) == PUBLIC_KEY_BYTES:
                found.append((key_id, key, entry))
        except ValueError:
            continue
    return found
