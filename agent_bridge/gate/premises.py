"""What every draft stands on: the gate's account and rooms, its machine, its policy, its approvers.

protocol: docs/cosign-protocol.md, section 10. Invariant: while one of them is missing or
not as it must be, nothing is drafted, and the gate says which.
"""

from dataclasses import dataclass

from agent_bridge.core.draft import GateIdentity
from agent_bridge.core.ed25519 import parse_public_key
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.gate.approvers import Approvers
from agent_bridge.gate.freezing import Workspace
from agent_bridge.gate.outbox import Rooms
from agent_bridge.gate.policy_source import PolicySource
from agent_bridge.gate.sandbox_probe import SandboxMissing, SandboxReady
from agent_bridge.gate.secrets_store import SecretStore
from agent_bridge.matrix import MatrixClient
from homeserver.core.json_types import JsonValue


@dataclass(frozen=True)
class Machine:
    """Where actions run and what confines them."""

    host: str
    workspace: Workspace
    secrets: SecretStore
    sandbox: SandboxReady | SandboxMissing


@dataclass(frozen=True)
class Premises:
    client: MatrixClient
    rooms: Rooms
    machine: Machine
    policy: PolicySource
    approvers: Approvers

    @property
    def identity(self) -> GateIdentity:
        key = parse_public_key(self.client.ed25519_key)
        return GateIdentity(self.client.user_id, key, self.machine.host)

    def check(self) -> None:
        """Raise Refused while nothing can be drafted at all.

        That is: while anybody but the gate and its approvers is in the approvals room, without
        approvers, without a sandbox, and without a policy.
        """
        self._check_room()
        if not self.approvers.users:
            raise Refused(Reason.APPROVERS_EMPTY)
        if isinstance(self.machine.sandbox, SandboxMissing):
            raise Refused(Reason.SANDBOX_UNAVAILABLE, self.machine.sandbox.why)
        self.policy.load()

    def list_problems(self) -> list[JsonValue]:
        """What keeps the gate from its work, in sentences."""
        problems: list[JsonValue] = []
        try:
            self.check()
        except Refused as error:
            problems.append(str(error))
        problems += [
            f"{user_id}: {Reason.APPROVER_FROZEN.sentence}"
            for user_id in self.approvers.users
            if self.approvers.is_frozen(user_id)
        ]
        return problems

    def _check_room(self) -> None:
        allowed = {self.client.user_id, *self.approvers.users}
        others = [
            user_id
            for user_id, membership in self.client.members(self.rooms.approvals).items()
            if membership in ("join", "invite") and user_id not in allowed
        ]
        if others:
            raise Refused(Reason.APPROVALS_ROOM_NOT_PRIVATE, ", ".join(sorted(others)))
