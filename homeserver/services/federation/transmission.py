"""One transaction to another server, and what to do with what it will not take.

spec: server-server-api/#transactions, v1.19. Invariants: one item that a server refuses holds up
nothing else: it is looked for by halves and put aside. A server that refuses an empty transaction
as well refuses everything: then nothing is put aside, and nothing lost.
"""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.clock import Clock
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.identifiers import ServerName
from homeserver.randomness import Randomness
from homeserver.services.federation.requests import FederationRequests
from homeserver.storage import outgoing_edus
from homeserver.storage.database import Database
from homeserver.transport.federation_client import ErrorAnswer

logger = logging.getLogger(__name__)

MAX_PDUS = 50
MAX_EDUS = 100
_TIMEOUT_SECONDS = 60.0
_BAD_ITEM = (400, 413)
_KEPT_LETTERS = 100


@dataclass(frozen=True, slots=True)
class EDU:
    edu_type: str
    content: bytes
    """Canonical JSON."""

    @property
    def written(self) -> bytes:
        return b'{"content":' + self.content + b',"edu_type":"' + self.edu_type.encode() + b'"}'


@dataclass(frozen=True, slots=True)
class Batch:
    pdus: Sequence[bytes]
    edus: Sequence[EDU]

    def __len__(self) -> int:
        return len(self.pdus) + len(self.edus)

    def halves(self) -> "tuple[Batch, Batch]":
        if self.pdus and self.edus:
            return Batch(self.pdus, ()), Batch((), self.edus)
        middle = len(self) // 2
        return (
            Batch(self.pdus[:middle], self.edus[:middle]),
            Batch(self.pdus[middle:], self.edus[middle:]),
        )


class Transmission:
    def __init__(
        self,
        server_name: ServerName,
        requests: FederationRequests,
        database: Database,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._server_name = server_name
        self._requests = requests
        self._db = database
        self._clock = clock
        self._count = itertools.count(1)
        self._process_id = randomness.token(12)

    async def send(self, server: ServerName, batch: Batch) -> None:
        """Return when the server has everything but what it refused for itself.

        Raises RequestFailed when it could not be told: to be tried again, all of it.
        """
        try:
            await self._send_written(server, batch)
        except ErrorAnswer as error:
            if error.status not in _BAD_ITEM:
                raise
            await self._send_written(server, Batch((), ()))
            await self._search(server, batch, error)

    async def _search(self, server: ServerName, batch: Batch, error: ErrorAnswer) -> None:
        """Send a batch that was refused by halves, and put aside what cannot be halved."""
        if len(batch) == 1:
            await self._put_aside(server, batch, error)
            return
        for half in batch.halves():
            try:
                await self._send_written(server, half)
            except ErrorAnswer as refusal:
                if refusal.status not in _BAD_ITEM:
                    raise
                await self._search(server, half, refusal)

    async def _send_written(self, server: ServerName, batch: Batch) -> None:
        await self._requests.send_transaction(
            server, self._next_id(), self._written(batch), _TIMEOUT_SECONDS
        )

    async def _put_aside(self, server: ServerName, batch: Batch, error: ErrorAnswer) -> None:
        logger.warning("Item refused, put aside server=%s cause=%s", server, error)
        kind = "pdu" if batch.pdus else "edu"
        item = batch.pdus[0] if batch.pdus else batch.edus[0].written
        await self._db.run(
            outgoing_edus.insert_dead_letter,
            server,
            kind,
            item,
            str(error),
            self._clock.now_ms(),
            _KEPT_LETTERS,
        )

    def _next_id(self) -> str:
        """Never twice the same: a repeated id would not be looked at there."""
        return f"{self._process_id}-{next(self._count)}"

    def _written(self, batch: Batch) -> bytes:
        """Return the body as canonical JSON, joined from bytes that are."""
        edus = b'"edus":[' + b",".join(edu.written for edu in batch.edus) + b"],"
        rest = encode_canonical_json(
            {"origin": self._server_name, "origin_server_ts": self._clock.now_ms()}
        )
        pdus = b',"pdus":[' + b",".join(batch.pdus) + b"]}"
        return b"{" + edus + rest[1:-1] + pdus
