"""What policy judges: an action, its confinement and its taint, with the paths it names.

protocol: docs/cosign-protocol.md, section 7. Invariant: paths are resolved lexically against the
action's directory only; symbolic links are the executor's and the sandbox's to refuse.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from posixpath import basename, join, normpath

from agent_bridge.core.actions import Action, EnvValue, ExecAction, ScriptAction, program_of
from agent_bridge.core.draft import Draft

_SEPARATORS = re.compile(rb"[=:,@\s]")
_VERSION = re.compile(r"[-.]?\d[\d.]*$")


@dataclass(frozen=True)
class Request:
    action: Action
    network: bool
    writable: tuple[bytes, ...]
    taint: tuple[str, ...] = ()


def request_of(draft: Draft) -> Request:
    return Request(draft.action, draft.sandbox.network, draft.sandbox.writable, draft.agent.taint)


def arguments_of(action: Action) -> tuple[bytes, ...]:
    """What follows the program's name."""
    return action.argv[1:] if isinstance(action, ExecAction) else action.arguments


def program_names(action: Action) -> frozenset[str]:
    """The names a program goes by, without version: `/usr/bin/python3.11` is `python`.

    Both the file's name and argv[0], because a program such as busybox obeys the latter.
    """
    paths = [program_of(action).path]
    if isinstance(action, ExecAction):
        paths.append(action.argv[0])
    names = {basename(path).decode(errors="replace").lower() for path in paths}
    return frozenset(_VERSION.sub("", name) or name for name in names)


def resolve(path: bytes, cwd: bytes) -> bytes:
    """Make a path absolute and shortest, lexically."""
    return b"/" + normpath(join(cwd, path)).lstrip(b"/")


def is_under(path: bytes, root: bytes) -> bool:
    return path == root or path.startswith(root.rstrip(b"/") + b"/")


def is_under_any(path: bytes, roots: Sequence[bytes]) -> bool:
    return any(is_under(path, root) for root in roots)


def argument_paths(argument: bytes, cwd: bytes) -> Iterator[bytes]:
    """Every path an argument may mean: whole, glued to an option, or one of a joined list."""
    yield resolve(argument, cwd)
    if argument.startswith(b"-") and b"/" in argument:
        yield resolve(argument[argument.index(b"/") :], cwd)
    parts = _SEPARATORS.split(argument)
    if len(parts) > 1:
        yield from (resolve(part, cwd) for part in parts)


def named_paths(request: Request) -> Iterator[bytes]:
    """Every path the request names anywhere but inside a script's text."""
    action = request.action
    surroundings = action.surroundings
    yield program_of(action).path
    yield surroundings.cwd
    yield from (file.path for file in surroundings.inputs)
    yield from request.writable
    for argument in arguments_of(action):
        yield from argument_paths(argument, surroundings.cwd)
    for entry in surroundings.environment.values():
        if isinstance(entry, EnvValue):
            yield from argument_paths(entry.value, surroundings.cwd)


def free_texts(request: Request) -> Iterator[bytes]:
    """The texts in which a path may stand somewhere inside."""
    action = request.action
    yield from arguments_of(action)
    if isinstance(action, ScriptAction):
        yield action.script
    for entry in action.surroundings.environment.values():
        if isinstance(entry, EnvValue):
            yield entry.value
