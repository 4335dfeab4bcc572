"""Keys of other servers' users, for clients who ask for them or claim them.

spec: client-server-api/#post_matrixclientv3keysquery, #post_matrixclientv3keysclaim,
server-server-api/#end-to-end-encryption, v1.19. Invariants: nobody waits longer than he said for a
server that does not answer, what is kept of its users is shown then; and an answer is believed
only for users of the server that gave it.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.python.failure import Failure

from homeserver.clock import Clock, cancel_call
from homeserver.core.canonical_json import decode_json
from homeserver.core.identifiers import DeviceID, ServerName, UserID, server_name_of
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.errors import MatrixError
from homeserver.services.federation.device_contents import (
    MAX_DEVICES,
    parse_keys_of,
    parse_signing_key,
)
from homeserver.services.federation.device_resync import DeviceResync
from homeserver.services.federation.edu_contents import get_display_name, list_members
from homeserver.services.federation.remote_devices import RemoteDevices
from homeserver.services.federation.requests import FederationRequests
from homeserver.services.key_lists import MASTER, SELF_SIGNING, KeyLists, list_cached_keys
from homeserver.services.key_objects import load_object, parse_one_time_keys
from homeserver.storage.database import Database
from homeserver.transport.outbound import RequestFailed

logger = logging.getLogger(__name__)

_AWAY_SECONDS = 15.0
"""A server that has not answered is not waited for again so soon."""
_MAX_AWAY = 10_000
_LISTS_AT_ONCE = 10
"""Users whose lists one server is asked for at once, for one request."""

Claims = Mapping[UserID, Mapping[str, str]]
"""User -> device id -> algorithm."""
Failures = dict[ServerName, JsonObject]
Asking = Coroutine[Deferred[Any], Any, None]


class RemoteKeys:
    def __init__(
        self,
        database: Database,
        remote_devices: RemoteDevices,
        resync: DeviceResync,
        requests: FederationRequests,
        clock: Clock,
    ) -> None:
        self._db = database
        self._remote_devices = remote_devices
        self._resync = resync
        self._requests = requests
        self._clock = clock
        self._away: OrderedDict[ServerName, float] = OrderedDict()
        """When each last failed to answer."""

    async def query(
        self, user_ids: Sequence[UserID], reader: UserID, seconds: float
    ) -> tuple[KeyLists, Failures]:
        """Return keys of users of other servers, and what kept whose server from being asked.

        1. Lists that are wanting are asked for.   2. Of users out of sight nothing is kept.
        3. The rest is what is kept, old as it may be.
        """
        wanting, strangers = await self._remote_devices.list_wanting(user_ids)
        found = KeyLists()

        async def ask(server: ServerName) -> None:
            mine = [user_id for user_id in wanting if server_name_of(user_id) == server]
            await self._refresh(mine)  # 1
            others = [user_id for user_id in strangers if server_name_of(user_id) == server]
            if others:  # 2
                body: JsonObject = {user_id: [] for user_id in others}
                answer = await self._requests.query_user_keys(server, body, seconds)
                found.add(_parse_keys(answer, others))

        failures = await self._ask_each([*wanting, *strangers], ask, seconds)
        missed = [user_id for user_id in wanting if server_name_of(user_id) in failures]
        await self._remote_devices.mark(missed)
        for user_id in missed:
            self._resync.note(user_id)
        known = [user_id for user_id in user_ids if user_id not in strangers]
        found.add(await self._db.read(list_cached_keys, known, reader))  # 3
        return found, failures

    async def _refresh(self, user_ids: Collection[UserID]) -> None:
        """Raises RequestFailed, BadJSON."""
        slots = DeferredSemaphore(_LISTS_AT_ONCE)

        async def refresh(user_id: UserID) -> None:
            if not await self._remote_devices.refresh(user_id):
                self._resync.note(user_id)

        done = await DeferredList(
            [slots.run(Deferred.fromCoroutine, refresh(user_id)) for user_id in user_ids],
            consumeErrors=True,
        )
        for _, result in done:
            if isinstance(result, Failure):
                result.raiseException()

    async def claim(self, wanted: Claims, seconds: float) -> tuple[JsonObject, Failures]:
        """Return user -> device -> keys by name, as the servers of the users gave them."""
        found: JsonObject = {}

        async def ask(server: ServerName) -> None:
            mine = {
                user_id: w for user_id, w in wanted.items() if server_name_of(user_id) == server
            }
            body: JsonObject = {user_id: dict(by_device) for user_id, by_device in mine.items()}
            answer = await self._requests.claim_user_keys(server, body, seconds)
            found.update(_parse_claimed(answer, mine))

        failures = await self._ask_each(list(wanted), ask, seconds)
        return found, failures

    async def _ask_each(
        self,
        user_ids: Collection[UserID],
        ask: Callable[[ServerName], Asking],
        seconds: float,
    ) -> Failures:
        """Ask the servers of these users at once, and return what was wrong with which."""
        failures: Failures = {}

        async def try_one(server: ServerName) -> None:
            try:
                await self._in_time(ask(server), seconds)
            except (RequestFailed, MatrixError) as error:
                logger.info("Keys not told server=%s: %s", server, error)
                self._note_away(server)
                failures[server] = _failure("The server cannot be reached")
            else:
                self._away.pop(server, None)

        asked = []
        for server in {server_name_of(user_id) for user_id in user_ids}:
            if server is None:
                continue
            if self._is_away(server):
                failures[server] = _failure("The server could not be reached a moment ago")
            else:
                asked.append(Deferred.fromCoroutine(try_one(server)))
        for one in asked:
            await one
        return failures

    async def _in_time(self, asking: Asking, seconds: float) -> None:
        """Raises RequestFailed when it takes longer."""
        running = Deferred.fromCoroutine(asking)
        late: list[bool] = []

        def give_up() -> None:
            late.append(True)
            running.cancel()

        timer = self._clock.call_later(seconds, give_up)
        try:
            await running
        except BaseException as error:
            if late:
                raise RequestFailed("no answer in time") from error
            raise
        finally:
            cancel_call(timer)

    def _is_away(self, server: ServerName) -> bool:
        since = self._away.get(server)
        return since is not None and self._clock.monotonic() - since < _AWAY_SECONDS

    def _note_away(self, server: ServerName) -> None:
        self._away.pop(server, None)
        self._away[server] = self._clock.monotonic()
        if len(self._away) > _MAX_AWAY:
            self._away.popitem(last=False)


def _failure(message: str) -> JsonObject:
    return {"errcode": "M_UNKNOWN", "error": message}


def _parse_keys(answer: JsonObject, user_ids: Collection[UserID]) -> KeyLists:
    """Return what makes sense of an answer of queryUserEncryptionKeys, of the users asked for."""
    found = KeyLists()
    by_user = answer.get("device_keys")
    for user_id in user_ids:
        devices = found.devices.setdefault(user_id, {})
        of_user = by_user.get(user_id) if isinstance(by_user, dict) else None
        for name, device in list_members(of_user, MAX_DEVICES):
            keys = parse_keys_of(user_id, DeviceID(name), device)
            if keys is not None:
                unsigned = device.get("unsigned")
                shown = get_display_name(
                    unsigned if isinstance(unsigned, dict) else {}, "device_display_name"
                )
                devices[name] = load_object(keys)
                devices[name]["unsigned"] = {} if shown is None else {"device_display_name": shown}
        for usage in (MASTER, SELF_SIGNING):
            by_owner = answer.get(f"{usage}_keys")
            key = by_owner.get(user_id) if isinstance(by_owner, dict) else None
            parsed = parse_signing_key(user_id, usage, key)
            if parsed is not None:
                found.cross_signing[usage][user_id] = parsed.key
    return found


def _parse_claimed(answer: JsonObject, wanted: Claims) -> JsonObject:
    """Return the keys that were asked for: one a device, of the algorithm that was named."""
    claimed: dict[str, dict[str, JsonObject]] = {}
    by_user = answer.get("one_time_keys")
    for user_id, by_device in wanted.items():
        of_user = by_user.get(user_id) if isinstance(by_user, dict) else None
        for device_id, algorithm in by_device.items():
            keys = of_user.get(device_id) if isinstance(of_user, dict) else None
            key = _parse_one(keys, algorithm)
            if key is not None:
                claimed.setdefault(user_id, {})[device_id] = key
    return claimed  # type: ignore[return-value]  # nested dicts of JSON, which are invariant


def _parse_one(keys: JsonValue, algorithm: str) -> JsonObject | None:
    if not isinstance(keys, dict) or len(keys) != 1:
        return None
    ((name, key),) = keys.items()
    if not name.startswith(f"{algorithm}:"):
        return None
    try:
        (parsed,) = parse_one_time_keys({name: key}, "one_time_keys")
    except MatrixError as error:
        logger.info("Claimed key left out: %s", error)
        return None
    return {name: decode_json(parsed.key)}
