"""From a request to a frozen action: everything that decides what happens, found and hashed once.

protocol: docs/cosign-protocol.md, section 4. Invariant: `find_changes` derives the same
facts again from the disk, by the same functions, so whatever freezing saw, the commit sees or
calls a drift.
"""

# Paths here are bytes, which pathlib has no type for.
# ruff: noqa: PTH113, PTH118, PTH119

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from agent_bridge.core.actions import (
    Action,
    EnvSecret,
    EnvValue,
    ExecAction,
    FileDigest,
    ScriptAction,
    Surroundings,
)
from agent_bridge.core.pae import Digest, digest_of
from agent_bridge.core.visible_text import quote
from agent_bridge.gate.freezing_environment import EnvironmentRefused, make_environment
from agent_bridge.gate.freezing_files import (
    Identity,
    PathRefused,
    digest_descriptor,
    identity_of,
    is_under,
    list_regular_files,
    open_directory,
    open_path,
    open_regular,
)
from agent_bridge.gate.freezing_programs import Program, ProgramRefused, find_program

MAX_INPUTS = 400
MAX_INPUT_BYTES = 64 << 20
MAX_STDIN_BYTES = 1 << 20
_MAX_PATH_BYTES = 4095

_SYSTEM_ROOTS = (
    *(b"/usr", b"/etc", b"/proc", b"/sys", b"/dev", b"/run", b"/boot", b"/bin", b"/sbin"),
    *(b"/lib", b"/lib32", b"/lib64", b"/libx32", b"/var/lib", b"/var/run"),
)
_REPLACERS = frozenset({b"rm", b"mv", b"unlink", b"shred", b"truncate"})
"""Programs whose files cannot be pinned: what is mounted can be neither removed nor changed."""
_SHELLS = frozenset({b"sh", b"bash", b"dash", b"ash", b"zsh", b"ksh", b"mksh", b"fish", b"rbash"})


class RequestRefused(Exception):
    """A request that cannot become a draft; `code` is a word of the request contract."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True)
class Workspace:
    """The one directory tree actions may work in. Made by `make_workspace` only."""

    root: bytes
    protected: tuple[bytes, ...] = ()
    """The gate's own directories, hidden from every sandbox; real paths."""


@dataclass(frozen=True)
class ExecRequest:
    argv: tuple[bytes, ...]
    cwd: bytes | None = None
    environment: Mapping[str, EnvValue | EnvSecret] = field(default_factory=dict)
    stdin: bytes | None = None
    inputs: tuple[bytes, ...] = ()
    """Files, or directories listed file by file, that must not change; relative to cwd."""


@dataclass(frozen=True)
class ScriptRequest:
    interpreter: bytes
    script: bytes
    arguments: tuple[bytes, ...] = ()
    cwd: bytes | None = None
    environment: Mapping[str, EnvValue | EnvSecret] = field(default_factory=dict)
    stdin: bytes | None = None
    inputs: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class FrozenAction:
    """The action as drafted, with what the draft holds only as a digest or not at all."""

    action: Action
    stdin: bytes | None
    cwd_identity: Identity
    listed: tuple[bytes, ...]
    """Absolute paths whose files are inputs beyond those the arguments name."""


def make_workspace(root: bytes, protected: Collection[bytes] = ()) -> Workspace:
    """Accept a directory as workspace.

    protected   the gate's own directories: state, configuration, keys
    Raises RequestRefused when the directory is not real, is a system or home directory, or holds or
    lies in something protected.
    """
    root = os.path.realpath(root)
    try:
        with open_directory(root):
            pass
    except PathRefused as error:
        raise RequestRefused("cwd_not_allowed", str(error)) from None
    real_protected = tuple(os.path.realpath(path) for path in protected)
    for path in (*_SYSTEM_ROOTS, *real_protected):
        if is_under(path, root) or is_under(root, path):
            shown = quote(path)
            raise RequestRefused("cwd_not_allowed", f"the workspace overlaps with {shown}")
    for name in (b".ssh", b".gnupg"):
        if os.path.lexists(os.path.join(root, name)):
            raise RequestRefused(
                "cwd_not_allowed", "the workspace is a home directory with keys in it"
            )
    return Workspace(root, real_protected)


def freeze_action(
    request: ExecRequest | ScriptRequest,
    workspace: Workspace,
    *,
    secret_names: Collection[str] = (),
) -> FrozenAction:
    """Freeze a request. Raises RequestRefused.

    1. The directory, by descriptor. 2. The program, by the gate's own PATH, to its real file; a
    `#!` file becomes its interpreter. 3. The environment, constructed. 4. The input files.
    """
    if request.stdin is not None and len(request.stdin) > MAX_STDIN_BYTES:
        raise RequestRefused("too_large", f"standard input is over {MAX_STDIN_BYTES} bytes")
    request = _script_of_inline_shell(request)
    cwd, identity = _freeze_cwd(request.cwd, workspace)
    name = request.argv[0] if isinstance(request, ExecRequest) else request.interpreter
    arguments = request.argv[1:] if isinstance(request, ExecRequest) else request.arguments
    try:
        program = find_program(name, cwd, allow_script=isinstance(request, ExecRequest))
        environment = make_environment(request.environment, cwd, secret_names)
    except ProgramRefused as error:
        raise RequestRefused(error.code, error.detail) from None
    except EnvironmentRefused as error:
        raise RequestRefused("environment_not_allowed", str(error)) from None
    listed = (*_listed_paths(request.inputs, cwd, workspace), *program.script_path)
    try:
        inputs = collect_inputs((*program.arguments, *arguments), cwd, workspace, listed)
    except PathRefused as error:
        raise RequestRefused("input_not_allowed", str(error)) from None
    if inputs and os.path.basename(name) in _REPLACERS:
        shown = quote(inputs[0].path)
        detail = f"{shown} would be pinned, so it cannot be changed; send it as a script"
        raise RequestRefused("cannot_be_frozen", detail)
    stdin = None if request.stdin is None else digest_of(request.stdin)
    surroundings = Surroundings(cwd, environment, stdin, inputs)
    action = _make_action(request, program, arguments, surroundings)
    return FrozenAction(action, request.stdin, identity, listed)


def collect_inputs(
    arguments: tuple[bytes, ...], cwd: bytes, workspace: Workspace, listed: tuple[bytes, ...]
) -> tuple[FileDigest, ...]:
    """Digest every file the action depends on, sorted by path. Raises PathRefused.

    An argument counts as an input when it, or what follows its first `=`, with or without a leading
    `@`, names an existing regular file in the workspace.
    """
    paths: set[bytes] = set()
    for argument in arguments:
        paths.update(_files_named_by(argument, cwd, workspace))
    for path in listed:
        paths.update(_files_listed_by(path, workspace))
    if len(paths) > MAX_INPUTS:
        raise PathRefused(cwd, f"has an action with more than {MAX_INPUTS} input files")
    return tuple(FileDigest(path, _digest_input(path, workspace)) for path in sorted(paths))


def within_of(path: bytes, workspace: Workspace) -> bytes | None:
    return workspace.root if is_under(path, workspace.root) else None


def _digest_input(path: bytes, workspace: Workspace) -> Digest:
    with open_regular(path, within=within_of(path, workspace)) as descriptor:
        if os.fstat(descriptor).st_size > MAX_INPUT_BYTES:
            raise PathRefused(path, f"is larger than {MAX_INPUT_BYTES} bytes")
        return digest_descriptor(descriptor)


def _files_named_by(argument: bytes, cwd: bytes, workspace: Workspace) -> Iterator[bytes]:
    after_equals = argument.partition(b"=")[2]
    for text in {argument, after_equals}:
        for name in {text, text.removeprefix(b"@")}:
            if not name or b"\0" in name or len(name) > _MAX_PATH_BYTES:
                continue
            literal = os.path.join(cwd, name)
            path = os.path.normpath(literal)
            if is_under(path, workspace.root) and os.path.isfile(literal):
                if os.path.realpath(literal) != path:
                    raise PathRefused(literal, "goes through a symbolic link; name the file itself")
                yield path


def _files_listed_by(path: bytes, workspace: Workspace) -> tuple[bytes, ...]:
    within = within_of(path, workspace)
    with open_path(path, within=within) as descriptor:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
    if is_directory and within is not None:
        return list_regular_files(path, MAX_INPUTS, within=within)
    return (path,)


def _listed_paths(inputs: tuple[bytes, ...], cwd: bytes, workspace: Workspace) -> tuple[bytes, ...]:
    paths = tuple(os.path.normpath(os.path.join(cwd, name)) for name in inputs)
    for path in paths:
        if b"\0" in path or not is_under(path, workspace.root):
            raise RequestRefused("input_not_allowed", f"{quote(path)} is not in the workspace")
    return paths


def _freeze_cwd(wished: bytes | None, workspace: Workspace) -> tuple[bytes, Identity]:
    cwd = workspace.root if wished is None else wished
    if not is_under(cwd, workspace.root):
        raise RequestRefused("cwd_not_allowed", f"{quote(cwd)} is not in the workspace")
    try:
        with open_directory(cwd, within=workspace.root) as descriptor:
            return cwd, identity_of(descriptor)
    except PathRefused as error:
        raise RequestRefused("cwd_not_allowed", str(error)) from None


def _script_of_inline_shell(request: ExecRequest | ScriptRequest) -> ExecRequest | ScriptRequest:
    """`sh -c X` is the script X; other ways to give a shell code are refused, not guessed."""
    if isinstance(request, ScriptRequest):
        if not request.script:
            raise RequestRefused("malformed", "the script is empty")
        return request
    if not request.argv or not request.argv[0]:
        raise RequestRefused("malformed", "there is no program to run")
    shell, *flags = request.argv
    if os.path.basename(shell) not in _SHELLS or not _has_inline_flag(flags):
        return request
    match flags:
        case [b"-c", code] if code:
            return ScriptRequest(
                interpreter=shell,
                script=code if code.endswith(b"\n") else code + b"\n",
                cwd=request.cwd,
                environment=request.environment,
                stdin=request.stdin,
                inputs=request.inputs,
            )
        case _:
            raise RequestRefused("cannot_be_frozen", "inline shell code: send it as a script")


def _has_inline_flag(flags: list[bytes]) -> bool:
    takes_value = False
    for flag in flags:
        if takes_value:
            takes_value = False
            continue
        takes_value = flag in (b"-o", b"+o", b"-O", b"+O", b"--rcfile", b"--init-file")
        if flag[:1] not in (b"-", b"+") or flag in (b"-", b"--"):
            return False
        if flag.startswith((b"--init-command", b"--command")):
            return True
        if not flag.startswith(b"--") and b"c" in flag.lower():
            return True
    return False


def _make_action(
    request: ExecRequest | ScriptRequest,
    program: Program,
    arguments: tuple[bytes, ...],
    surroundings: Surroundings,
) -> Action:
    if isinstance(request, ScriptRequest):
        return ScriptAction(program.file, request.script, arguments, surroundings)
    argv = (program.file.path, *program.arguments, *arguments)
    return ExecAction(program.file, argv, surroundings)
