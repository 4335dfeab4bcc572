"""The signer's own account and files: opening, making, signing devices in.

Invariant: a signer's directory belongs to one device of one account.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agent_bridge.core.ed25519 import encode_public_key
from agent_bridge.gate.state_directory import StateDirectory
from agent_bridge.matrix import KeysRefused, MatrixClient
from agent_bridge.signer.inbox import Inbox
from agent_bridge.signer.record import Record
from agent_bridge.signer.trusted_gates import TrustedGate, read_gates
from homeserver.core.identifiers import UserID


@dataclass(frozen=True)
class SignerDirectory:
    root: Path

    @property
    def matrix(self) -> Path:
        return self.root / "matrix"

    @property
    def record(self) -> Path:
        return self.root / "signer.sqlite3"

    @property
    def gates(self) -> Path:
        return self.root / "gates.json"

    def create(self) -> None:
        """Raises StateUnusable."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        StateDirectory(self.root).check()


@dataclass
class Signer:
    """An open signer."""

    client: MatrixClient
    record: Record
    gates: Mapping[UserID, TrustedGate]
    inbox: Inbox


@asynccontextmanager
async def open_signer(directory: SignerDirectory) -> AsyncIterator[Signer]:
    """Raises StoreFailure, StateUnusable."""
    async with await MatrixClient.open(directory.matrix) as client:
        gates = read_gates(directory.gates)
        for gate in gates.values():
            client.pin_master_key(gate.user_id, encode_public_key(gate.master_key))
        record = Record(directory.record)
        try:
            yield Signer(client, record, gates, Inbox(client, record, gates))
        finally:
            record.close()


async def sign_in(client: MatrixClient, password: str) -> bool:
    """Give the account a cross-signing identity, if it has none; False when it has one elsewhere.

    Then a signed device of the account must sign this one.
    """
    try:
        await client.bootstrap_cross_signing(password)
    except KeysRefused:
        return False
    return True


def find_own_master_key(client: MatrixClient) -> str | None:
    listed = client.key_objects(client.user_id).master_key
    keys = None if listed is None else listed.get("keys")
    return next(map(str, keys.values()), None) if isinstance(keys, dict) else None
