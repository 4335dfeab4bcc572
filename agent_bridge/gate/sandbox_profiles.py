"""Named confinements, as data with a stable digest that a draft binds.

protocol: docs/cosign-protocol.md, section 4. Invariant: everything a profile lets through is a
field, so a changed profile is another digest, and a draft for the old one is a drift.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType

from agent_bridge.core.draft import Sandbox
from agent_bridge.core.pae import Digest, digest_of
from agent_bridge.gate.freezing import Workspace

_FORMAT = 1
"""Raised when the meaning of an unchanged field changes, such as the mounts of a view."""


class WorkspaceView(StrEnum):
    """What of the workspace exists inside."""

    SEALED = "sealed"
    """Only the frozen input files: nothing else can be read, and nothing can be swapped."""
    READ = "read"
    """All of it, read-only; frozen inputs stand in directories no one outside can change."""
    WRITE = "write"
    """All of it, writable. Inputs are pinned by mounts that another process which may write there
    could pull away by renaming; the executor looks before and after, but cannot see a name put
    back in between. Such a sandbox gets no secrets."""


@dataclass(frozen=True)
class SandboxProfile:
    name: str
    workspace: WorkspaceView
    network: bool = False
    unix_sockets: bool = False
    """Whether AF_UNIX sockets may be made; they reach daemons by path or abstract name."""
    memory_bytes: int = 4 << 30
    """Address space of each process."""
    cpu_seconds: int = 600
    """Processor time of each process."""
    processes: int = 256
    open_files: int = 1024
    file_bytes: int = 1 << 30
    temporary_bytes: int = 1 << 30
    """Size of the private /tmp."""
    read_only: tuple[str, ...] = ("/usr", "/opt")
    """Host directories readable inside, beside a few fixed files of /etc."""

    @property
    def digest(self) -> Digest:
        fields = {"format": _FORMAT, **asdict(self)}
        return digest_of(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())

    @property
    def may_hold_secrets(self) -> bool:
        return self.workspace is not WorkspaceView.WRITE


PROFILES: Mapping[str, SandboxProfile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            SandboxProfile("sealed", WorkspaceView.SEALED),
            SandboxProfile("read", WorkspaceView.READ),
            SandboxProfile("build", WorkspaceView.WRITE),
            SandboxProfile("sealed-network", WorkspaceView.SEALED, network=True),
            SandboxProfile("network", WorkspaceView.READ, network=True),
            SandboxProfile("build-network", WorkspaceView.WRITE, network=True),
        )
    }
)


def sandbox_of(profile: SandboxProfile, workspace: Workspace) -> Sandbox:
    """Say in a draft's words what the profile lets out."""
    writable = (workspace.root,) if profile.workspace is WorkspaceView.WRITE else ()
    return Sandbox(profile.name, profile.digest, profile.network, writable)
