"""Checking many signatures: a few at once in the reactor, more of them in threads.

An Ed25519 check takes about 40 µs of a core, and libsodium lets other threads run meanwhile.
"""

from collections.abc import Sequence
from typing import NamedTuple

from homeserver.background import gather
from homeserver.core.errors import SignatureInvalid
from homeserver.core.events import Event, check_event_signature
from homeserver.core.identifiers import ServerName
from homeserver.services.bounded_threads import Threads

_AT_ONCE = 8
"""So many are checked in the reactor."""
_PIECE = 125
"""So many go to a thread together."""


class SignatureCheck(NamedTuple):
    event: Event
    server: ServerName
    key_id: str
    public_key: str


class SignaturePool:
    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    async def verify(self, checks: Sequence[SignatureCheck]) -> list[SignatureInvalid | None]:
        """Return for each check what is wrong, or None."""
        if len(checks) <= _AT_ONCE:
            return _verify(checks)
        pieces = [checks[start : start + _PIECE] for start in range(0, len(checks), _PIECE)]
        verdicts = await gather([self._threads.call(_verify, piece) for piece in pieces])
        return [verdict for piece in verdicts for verdict in piece]


def _verify(checks: Sequence[SignatureCheck]) -> list[SignatureInvalid | None]:
    verdicts: list[SignatureInvalid | None] = []
    for check in checks:
        try:
            check_event_signature(*check)
        except SignatureInvalid as error:
            verdicts.append(error)
        else:
            verdicts.append(None)
    return verdicts
