"""The gates this person trusts: compared by eye once, pinned by key bytes since.

protocol: docs/cosign-protocol.md, section 6. Invariant: a gate gets in here only by a fingerprint a
person brought from its console.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent_bridge.core.ed25519 import PublicKey, encode_public_key, parse_public_key
from agent_bridge.core.refusals import Refused
from agent_bridge.gate.fingerprint import gate_fingerprint, same_fingerprint
from agent_bridge.gate.state_directory import StateUnusable, read_json, write_json
from agent_bridge.matrix import DecryptedEvent, KeysRefused, MatrixClient, verify_device_chain
from homeserver.core.identifiers import UserID, parse_user_id


@dataclass(frozen=True)
class TrustedGate:
    user_id: UserID
    gate_key: PublicKey
    master_key: PublicKey

    def sent(self, event: DecryptedEvent) -> bool:
        """Whether this very device of the gate encrypted the event."""
        device = event.device
        return (event.sender, device.ed25519, device.master_key) == (
            self.user_id,
            encode_public_key(self.gate_key),
            encode_public_key(self.master_key),
        )


def read_gates(path: Path) -> Mapping[UserID, TrustedGate]:
    """Raises StateUnusable."""
    try:
        gates = [
            TrustedGate(
                parse_user_id(user_id),
                parse_public_key(str(keys["gate_key"])),
                parse_public_key(str(keys["master_key"])),
            )
            for user_id, keys in (read_json(path) or {}).items()
            if isinstance(keys, dict)
        ]
    except (KeyError, ValueError, Refused) as error:
        raise StateUnusable(f"{path} is damaged: {error}") from None
    return {gate.user_id: gate for gate in gates}


def put_gate(path: Path, gate: TrustedGate) -> None:
    gates = {**read_gates(path), gate.user_id: gate}
    write_json(
        path,
        {
            user_id: {
                "gate_key": encode_public_key(one.gate_key),
                "master_key": encode_public_key(one.master_key),
            }
            for user_id, one in gates.items()
        },
    )


async def find_gate(client: MatrixClient, user_id: UserID, fingerprint: str) -> TrustedGate:
    """Find the keys a fingerprint stands for among those the server lists.

    Raises KeysRefused when none of them fits, MatrixFailure.
    """
    await client.refresh_devices([user_id])
    listed = client.key_objects(user_id).master_key
    keys = {} if listed is None else listed.get("keys")
    for text in keys.values() if isinstance(keys, dict) else ():
        master_key = parse_public_key(str(text))
        for device_id in client.key_objects(user_id).devices:
            chain = client.find_device_chain(user_id, device_id)
            if chain is None:
                continue
            device = verify_device_chain(chain, user_id, encode_public_key(master_key))
            gate_key = parse_public_key(device.ed25519)
            if same_fingerprint(gate_fingerprint(user_id, gate_key, master_key), fingerprint):
                client.pin_master_key(user_id, encode_public_key(master_key))
                return TrustedGate(user_id, gate_key, master_key)
    raise KeysRefused(
        f"no key the server lists for {user_id} has this fingerprint;"
        " compare it with `countersign gate fingerprint` at the gate"
    )
