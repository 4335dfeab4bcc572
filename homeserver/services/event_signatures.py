"""The signatures that events of other servers must have.

spec: server-server-api/#validating-hashes-and-signatures-on-received-events, v1.19. Invariant: an
event has them only if everyone of `required_signers` has signed it, each with a key that was valid
when the event says it was sent (room versions that want it).
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from twisted.internet.defer import Deferred

from homeserver.background import Background, gather
from homeserver.core.errors import SignatureInvalid
from homeserver.core.events import Event, required_signers
from homeserver.core.identifiers import ServerName
from homeserver.core.policy_servers import POLICY_KEY_ID
from homeserver.services.server_keys import ServerKeys, find_valid
from homeserver.services.signature_pool import SignatureCheck, SignaturePool
from homeserver.storage.server_keys import StoredKey

_MAX_EXPECTED = 500


class _Signed(NamedTuple):
    """A signature that an event must have."""

    event: Event
    server: ServerName
    key_ids: Collection[str]
    """One of them is enough."""
    valid_at: int | None

    def check_with(self, key: StoredKey) -> SignatureCheck:
        return SignatureCheck(self.event, self.server, key.key_id, key.public_key)


class EventSignatures:
    def __init__(self, keys: ServerKeys, pool: SignaturePool, background: Background) -> None:
        self._keys = keys
        self._pool = pool
        self._background = background

    async def verify_events(self, events: Sequence[Event]) -> list[SignatureInvalid | None]:
        """Return for each event what is wrong with the signatures it must have, or None.

        1. What each must be signed with; most keys are in memory.
        2. The others are looked up and asked for, of all servers at the same time.
        3. The signatures are checked together.
        """
        verdicts: list[SignatureInvalid | None] = [None] * len(events)
        checks: list[tuple[int, SignatureCheck]] = []
        unknown: dict[ServerName, list[tuple[int, _Signed]]] = {}
        for place, event in enumerate(events):  # 1
            try:
                for signed in _required_signatures(event):
                    known = self._keys.in_memory(signed.server) or {}
                    key = find_valid(known, signed.key_ids, signed.valid_at)
                    if key is not None:
                        checks.append((place, signed.check_with(key)))
                    else:
                        unknown.setdefault(signed.server, []).append((place, signed))
            except SignatureInvalid as error:
                verdicts[place] = error
        asked = [
            Deferred.fromCoroutine(self._find_each(server, [signed for _, signed in wanted]))
            for server, wanted in unknown.items()
        ]
        for wanted, found in zip(unknown.values(), await gather(asked), strict=True):  # 2
            for (place, signed), key_found in zip(wanted, found, strict=True):
                if isinstance(key_found, SignatureInvalid):
                    verdicts[place] = key_found
                else:
                    checks.append((place, signed.check_with(key_found)))
        outcomes = await self._pool.verify([check for _, check in checks])  # 3
        for (place, _), outcome in zip(checks, outcomes, strict=True):
            verdicts[place] = verdicts[place] or outcome
        return verdicts

    def expect(self, servers: Collection[ServerName]) -> None:
        """Begin to learn the keys of servers whose events are about to be verified.

        They are verified a part at a time, and of many servers some always hang.
        """
        unknown = [server for server in servers if self._keys.in_memory(server) is None]
        for server in unknown[:_MAX_EXPECTED]:
            self._background.run("server keys", self._keys.learn(server))

    async def _find_each(
        self, server: ServerName, wanted: Sequence[_Signed]
    ) -> list[StoredKey | SignatureInvalid]:
        """Return keys of one server, which is asked at most once."""
        found: list[StoredKey | SignatureInvalid] = []
        for signed in wanted:
            try:
                found.append(await self._keys.find_key(server, signed.key_ids, signed.valid_at))
            except SignatureInvalid as error:
                found.append(error)
        return found


def _required_signatures(event: Event) -> list[_Signed]:
    """Raises SignatureInvalid where an event lacks one."""
    valid_at = event.origin_server_ts if event.room_version.enforce_key_validity else None
    signatures = event.pdu.get("signatures")
    required = []
    for server in required_signers(event):
        by_server = signatures.get(server) if isinstance(signatures, dict) else None
        if not isinstance(by_server, dict) or not by_server:
            raise SignatureInvalid(f"no signature of {server}")
        # Published or not: what a policy server recommends is not what its users have said.
        key_ids: Collection[str] = by_server.keys()
        if POLICY_KEY_ID in by_server:
            key_ids = by_server.keys() - {POLICY_KEY_ID}
        required.append(_Signed(event, server, key_ids, valid_at))
    return required
