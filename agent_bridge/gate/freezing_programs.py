"""Which file a program's name means: resolved once, by the gate's own PATH, down to the real file.

protocol: docs/cosign-protocol.md, section 4. Invariant: the result names a binary; a `#!` file is
spelled out as interpreter plus script, so the kernel chooses no interpreter that nobody hashed.
"""

# Paths here are bytes, which pathlib has no type for.
# ruff: noqa: PTH113, PTH118, PTH119

import os
from dataclasses import dataclass

from agent_bridge.core.actions import FileDigest
from agent_bridge.core.visible_text import quote
from agent_bridge.gate.freezing_environment import FIXED_PATH
from agent_bridge.gate.freezing_files import (
    PathRefused,
    digest_descriptor,
    is_under,
    open_regular,
)

MAX_PROGRAM_BYTES = 512 << 20
_MAX_SHEBANG_BYTES = 256
_ANY_EXECUTE = 0o111
_FORBIDDEN_ROOTS = (b"/proc", b"/sys", b"/dev", b"/run")


class ProgramRefused(Exception):
    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True)
class Program:
    """A binary and the arguments a `#!` line puts before the caller's."""

    file: FileDigest
    arguments: tuple[bytes, ...] = ()
    script_path: tuple[bytes, ...] = ()
    """The `#!` file itself, at most one; it is an input of the action."""


def find_program(name: bytes, cwd: bytes, *, allow_script: bool) -> Program:
    """Find a program by name, or by path relative to cwd. Raises ProgramRefused.

    allow_script   whether a `#!` file may stand here (not where an interpreter is asked for)
    """
    path = _resolve(name, cwd)
    file, head = _read_program(path)
    if not head.startswith(b"#!"):
        return Program(file)
    if not allow_script:
        raise ProgramRefused("cannot_be_frozen", f"{quote(path)} is itself a script")
    interpreter, *flags = _parse_shebang(path, head)
    binary, binary_head = _read_program(_resolve(interpreter, cwd))
    if binary_head.startswith(b"#!"):
        raise ProgramRefused("cannot_be_frozen", f"{quote(path)} nests scripts")
    return Program(binary, (*flags, path), (path,))


def _resolve(name: bytes, cwd: bytes) -> bytes:
    if not name or b"\0" in name:
        raise ProgramRefused("executable_not_found", "the program's name is empty or has a NUL")
    places = (cwd,) if b"/" in name else FIXED_PATH
    for place in places:
        candidate = os.path.join(place, name)
        if os.path.isfile(candidate):
            path = os.path.realpath(candidate)
            if any(is_under(path, root) for root in _FORBIDDEN_ROOTS):
                break
            return path
    raise ProgramRefused("executable_not_found", f"{quote(name)} was not found")


def _read_program(path: bytes) -> tuple[FileDigest, bytes]:
    try:
        with open_regular(path) as descriptor:
            status = os.fstat(descriptor)
            if not status.st_mode & _ANY_EXECUTE:
                raise ProgramRefused("executable_not_found", f"{quote(path)} is not executable")
            if status.st_size > MAX_PROGRAM_BYTES:
                raise ProgramRefused("too_large", f"{quote(path)} is too large to freeze")
            head = os.pread(descriptor, _MAX_SHEBANG_BYTES, 0)
            return FileDigest(path, digest_descriptor(descriptor)), head
    except PathRefused as error:
        raise ProgramRefused("executable_not_found", str(error)) from None


def _parse_shebang(path: bytes, head: bytes) -> tuple[bytes, ...]:
    """Read the line as Linux does: a path, then at most one argument. `env NAME` means NAME."""
    line, newline, _ = head[2:].partition(b"\n")
    if not newline:
        raise ProgramRefused("cannot_be_frozen", f"{quote(path)} has an endless #! line")
    interpreter, _, argument = line.strip().partition(b" ")
    argument = argument.strip()
    if not interpreter.startswith(b"/") or b"\t" in line:
        raise ProgramRefused("cannot_be_frozen", f"{quote(path)} has an unclear #! line")
    if os.path.basename(interpreter) != b"env":
        return (interpreter, argument) if argument else (interpreter,)
    if not argument or argument.startswith(b"-") or b"=" in argument or b" " in argument:
        raise ProgramRefused("cannot_be_frozen", f"{quote(path)} hands env more than a name")
    return (argument,)
