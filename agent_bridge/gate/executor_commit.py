"""The commit check: what was approved, opened again and compared byte for byte.

protocol: docs/cosign-protocol.md, section 9. Invariant: what comes out was hashed through the
descriptor it was opened by and is sealed; anything that is not as drafted is a `Drift`.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from agent_bridge.core.actions import (
    EnvSecret,
    ExecAction,
    FileDigest,
    ScriptAction,
    program_of,
)
from agent_bridge.core.draft import Draft, Limits
from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.pae import digest_of
from agent_bridge.core.visible_text import quote
from agent_bridge.gate.freezing import (
    MAX_INPUT_BYTES,
    FrozenAction,
    Workspace,
    collect_inputs,
    within_of,
)
from agent_bridge.gate.freezing_environment import is_dangerous_name
from agent_bridge.gate.freezing_files import (
    PathRefused,
    SealedFile,
    identity_of,
    open_directory,
    open_regular,
    seal_bytes,
    seal_descriptor,
)
from agent_bridge.gate.freezing_programs import MAX_PROGRAM_BYTES
from agent_bridge.gate.sandbox_profiles import SandboxProfile, sandbox_of
from agent_bridge.gate.sandbox_view import SCRIPT_PATH, PresentedFile
from agent_bridge.gate.secrets_store import SecretStore, SecretUnusable


class Drift(Exception):
    """Something is no longer what was approved; nothing was consumed, nothing ran."""

    def __init__(self, path: bytes, detail: str) -> None:
        super().__init__(f"{quote(path)} {detail}" if path else detail)
        self.path = path
        self.detail = detail


@dataclass(frozen=True)
class Approved:
    """A draft with its quorum, and what the gate kept of the request beside it."""

    frozen: FrozenDraft
    action: FrozenAction
    limits: Limits
    """The draft's limits, or narrower ones."""


@dataclass(frozen=True)
class Committed:
    """Everything of an action that runs, in hand. Descriptors belong to the caller's stack."""

    argv: tuple[bytes, ...]
    files: tuple[PresentedFile, ...]
    environment: dict[str, bytes]
    secrets: tuple[bytes, ...]
    stdin: SealedFile
    profile: SandboxProfile


def check_draft(approved: Approved, profile: SandboxProfile | None, workspace: Workspace) -> None:
    """Compare what was kept in memory with the draft's bytes. Raises Drift."""
    draft, kept = approved.frozen.draft, approved.action
    if kept.action != draft.action:
        raise Drift(b"", "the action kept for this draft is another one")
    if profile is None or draft.sandbox != sandbox_of(profile, workspace):
        raise Drift(b"", f"the sandbox profile {draft.sandbox.name} has changed")
    stdin = None if kept.stdin is None else digest_of(kept.stdin)
    if stdin != draft.action.surroundings.stdin:
        raise Drift(b"", "standard input is not what was approved")
    if _widens(approved.limits, draft):
        raise Drift(b"", "the limits are wider than the draft's")


def commit_files(
    approved: Approved,
    profile: SandboxProfile,
    workspace: Workspace,
    secrets: SecretStore,
    opened: ExitStack,
) -> Committed:
    """Open, hash, compare and seal everything. Raises Drift.

    1. The directory is the same directory. 2. The program has the same bytes. 3. The same files
    are inputs, none more, none fewer, with the same bytes. 4. Script, standard input and
    environment come from the draft.
    """
    action = approved.frozen.draft.action
    around = action.surroundings
    try:
        with open_directory(around.cwd, within=workspace.root) as descriptor:
            if identity_of(descriptor) != approved.action.cwd_identity:
                raise Drift(around.cwd, "is another directory than the one approved")
        files = [_seal_file(program_of(action), workspace, opened, MAX_PROGRAM_BYTES)]
        arguments = action.argv[1:] if isinstance(action, ExecAction) else action.arguments
        found = collect_inputs(arguments, around.cwd, workspace, approved.action.listed)
        _check_same_files(around.inputs, found)
        files += [
            _seal_file(file, workspace, opened, MAX_INPUT_BYTES)
            for file in around.inputs
            if file.path != program_of(action).path
        ]
    except PathRefused as error:
        raise Drift(error.path, error.detail) from None
    if isinstance(action, ScriptAction):
        files.append(PresentedFile(SCRIPT_PATH, _seal_here(action.script, opened)))
    environment, used = _fill_environment(approved.frozen.draft, profile, secrets)
    stdin = _seal_here(approved.action.stdin or b"", opened)
    return Committed(_argv_of(action), tuple(files), environment, used, stdin, profile)


def _widens(limits: Limits, draft: Draft) -> bool:
    return limits.wall_ms > draft.limits.wall_ms or limits.output_bytes > draft.limits.output_bytes


def _argv_of(action: ExecAction | ScriptAction) -> tuple[bytes, ...]:
    if isinstance(action, ScriptAction):
        return (action.interpreter.path, SCRIPT_PATH, *action.arguments)
    if action.argv[0] != action.executable.path:
        raise Drift(action.executable.path, "is not the first argument of the draft")
    return action.argv


def _check_same_files(drafted: Sequence[FileDigest], found: Sequence[FileDigest]) -> None:
    before = {file.path: file.digest for file in drafted}
    after = {file.path: file.digest for file in found}
    for path in sorted(before.keys() | after.keys()):
        if path not in before:
            raise Drift(path, "appeared while the draft was pending")
        if path not in after:
            raise Drift(path, "is gone")
        if before[path] != after[path]:
            raise Drift(path, "has other bytes than the ones approved")


def _seal_file(
    file: FileDigest, workspace: Workspace, opened: ExitStack, limit: int
) -> PresentedFile:
    with open_regular(file.path, within=within_of(file.path, workspace)) as descriptor:
        sealed = seal_descriptor(descriptor, file.path, limit)
        opened.callback(os.close, sealed.descriptor)
        executable = bool(os.fstat(descriptor).st_mode & stat.S_IXUSR)
    if sealed.digest != file.digest:
        raise Drift(file.path, "has other bytes than the ones approved")
    return PresentedFile(file.path, sealed, executable)


def _seal_here(data: bytes, opened: ExitStack) -> SealedFile:
    sealed = seal_bytes(data)
    opened.callback(os.close, sealed.descriptor)
    return sealed


def _fill_environment(
    draft: Draft, profile: SandboxProfile, store: SecretStore
) -> tuple[dict[str, bytes], tuple[bytes, ...]]:
    filled: dict[str, bytes] = {}
    used: list[bytes] = []
    for name, entry in draft.action.surroundings.environment.items():
        if is_dangerous_name(name):
            raise Drift(b"", f"the environment holds {name}, which is never set")
        if not isinstance(entry, EnvSecret):
            filled[name] = entry.value
            continue
        if not profile.may_hold_secrets:
            raise Drift(b"", f"the profile {profile.name} may hold no secrets")
        try:
            filled[name] = store.read(entry.handle)
        except SecretUnusable as error:
            raise Drift(b"", str(error)) from None
        used.append(filled[name])
    return filled, tuple(used)
