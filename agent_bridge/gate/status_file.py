"""What `gate status` shows of a running gate, written by it when it changes.

Invariant: the file informs people; nothing reads it to decide anything.
"""

import os
from pathlib import Path

from agent_bridge.gate.sandbox_probe import SandboxMissing, SandboxReady
from agent_bridge.gate.state_directory import write_json
from homeserver.core.json_types import JsonObject, JsonValue


class StatusFile:
    def __init__(self, path: Path, sandbox: SandboxReady | SandboxMissing) -> None:
        self._path = path
        self._sandbox = sandbox
        self._written: JsonObject = {}

    def write(self, approvers: list[JsonValue], pending: int, problems: list[JsonValue]) -> None:
        sandbox = self._sandbox
        status: JsonObject = {
            "pid": os.getpid(),
            "sandbox": sandbox.version if isinstance(sandbox, SandboxReady) else sandbox.why,
            "pending": pending,
            "problems": problems,
            "approvers": approvers,
        }
        if status != self._written:
            write_json(self._path, status)
            self._written = status
