"""How `countersign` ends: one exit code for each kind of failure, one line that says what to do.

Invariant: every failure a person can cause or mend comes out as a `CommandFailed`; what does not is
a defect and shows its traceback.
"""

from enum import IntEnum

from agent_bridge.core.refusals import Refused
from agent_bridge.gate.freezing import RequestRefused as WorkspaceRefused
from agent_bridge.gate.settings import SettingsInvalid
from agent_bridge.gate.state_directory import StateUnusable
from agent_bridge.gate.store import StoreDamaged
from agent_bridge.matrix import (
    AccessTokenRefused,
    CryptoFailure,
    KeysRefused,
    MatrixFailure,
    ServerUnreachable,
    StoreCorrupt,
    StoreFailure,
    StoreLocked,
    StoreMissing,
)


class ExitCode(IntEnum):
    DONE = 0
    REFUSED = 1
    """Refused, denied, not verified, or the draft waited for did not end `done`."""
    USAGE = 2
    """Wrong command line or configuration."""
    NOT_SET_UP = 3
    SERVER = 4
    """The homeserver is unreachable or said no."""
    NO_DRAFT = 5
    """No such draft, or it is no longer pending."""
    UNTRUSTED = 6
    """Keys are not the trusted ones."""
    CLOSED = 7
    """State damaged or in use."""


class CommandFailed(Exception):
    """What a command says before it ends with `code`."""

    def __init__(self, code: ExitCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


EXPECTED = (
    MatrixFailure,
    CryptoFailure,
    StoreFailure,
    StateUnusable,
    StoreDamaged,
    SettingsInvalid,
    WorkspaceRefused,
    Refused,
)


def failure_of(error: Exception) -> CommandFailed:
    """Say what went wrong and what to do next."""
    match error:
        case AccessTokenRefused():
            text = "this device was logged out; log in again in a new directory"
            return CommandFailed(ExitCode.SERVER, text)
        case ServerUnreachable():
            text = f"the homeserver does not answer; check its address and that it runs ({error})"
            return CommandFailed(ExitCode.SERVER, text)
        case MatrixFailure():
            return CommandFailed(ExitCode.SERVER, f"the homeserver refused: {error}")
        case StoreMissing():
            text = "no account here; run `countersign login` (signer) or `countersign gate init`"
            return CommandFailed(ExitCode.NOT_SET_UP, text)
        case StoreLocked():
            text = "this directory is in use by another process; end that one first"
            return CommandFailed(ExitCode.CLOSED, text)
        case StoreCorrupt() | StoreDamaged() | StateUnusable():
            return CommandFailed(ExitCode.CLOSED, str(error))
        case SettingsInvalid():
            return CommandFailed(ExitCode.USAGE, str(error))
        case WorkspaceRefused():
            return CommandFailed(ExitCode.USAGE, f"the workspace cannot be used: {error.detail}")
        case KeysRefused():
            return CommandFailed(ExitCode.UNTRUSTED, str(error))
        case _:
            return CommandFailed(ExitCode.REFUSED, str(error))
