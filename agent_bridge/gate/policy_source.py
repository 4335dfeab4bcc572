"""The policy on the gate's disk, read whenever it decides something.

protocol: docs/cosign-protocol.md, section 7. Invariant: what is judged by is what lies on the disk
now; a file that does not load decides nothing, and so nothing runs.
"""

from dataclasses import dataclass
from pathlib import Path

from agent_bridge.core.policy import Policy
from agent_bridge.core.policy_file import load_policy
from agent_bridge.core.refusals import Reason, Refused

MAX_POLICY_BYTES = 24 * 1024
"""It is published to the approvers in one event."""


@dataclass(frozen=True)
class PolicySource:
    path: Path
    own_paths: tuple[bytes, ...]
    """The gate's files and folders, which no action may name."""

    def load(self) -> tuple[Policy, str]:
        """Return the policy and its text. Raises Refused."""
        try:
            text = self.path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(Reason.POLICY_INVALID, f"{self.path}: {error}") from None
        if len(text.encode()) > MAX_POLICY_BYTES:
            raise Refused(Reason.POLICY_INVALID, f"{self.path} is over {MAX_POLICY_BYTES} bytes")
        return load_policy(text, self.own_paths), text
