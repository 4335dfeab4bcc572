"""The compiled-in floor: what no policy file can make easier.

protocol: docs/cosign-protocol.md, section 7. Invariant: the floor only raises a tier. It reads
names and arguments, so it catches honest mistakes and lazy tricks; what it cannot read (a script
that builds a path) is for the sandbox and the gate's own user account.
"""

import re
from collections.abc import Iterator, Sequence

from agent_bridge.core.actions import EnvSecret, ScriptAction
from agent_bridge.core.known_programs import (
    CODE_OPTIONS,
    CREDENTIAL_NAMES,
    ELEVATORS,
    INJECTING_VARIABLES,
    LANGUAGES,
    LAUNCHERS,
    RAW_DEVICES,
    SHELLS,
    CodeOptions,
)
from agent_bridge.core.policy_request import (
    Request,
    arguments_of,
    free_texts,
    is_under,
    is_under_any,
    named_paths,
    program_names,
)
from agent_bridge.core.tiers import Tier


def floor_of(request: Request, protected: Sequence[bytes]) -> tuple[Tier, tuple[str, ...]]:
    """Return the lowest tier the request may have and every reason that raised it.

    protected   the gate's own files and folders: naming them denies
    """
    found = list(_findings(request, protected))
    tier = max((tier for tier, _ in found), default=Tier.T0)
    return tier, tuple(reason for _, reason in found)


def _findings(request: Request, protected: Sequence[bytes]) -> Iterator[tuple[Tier, str]]:
    yield from _forbidden(request, protected)
    yield from _credentials(request)
    if request.network:
        yield Tier.T2, "the sandbox has the network"
    if request.writable:
        yield Tier.T1, "the sandbox may write"
    if isinstance(request.action, ScriptAction):
        yield Tier.T2, "inline code"
    for name in sorted(request.action.surroundings.environment):
        if INJECTING_VARIABLES.fullmatch(name):
            yield Tier.T2, f"the variable {name} can load code"
    for name in sorted(program_names(request.action)):
        yield from _program(name, arguments_of(request.action))


def _forbidden(request: Request, protected: Sequence[bytes]) -> Iterator[tuple[Tier, str]]:
    paths = list(named_paths(request))
    named = any(is_under_any(path, protected) for path in paths)
    written = any(is_under(root, path) for root in protected for path in request.writable)
    mentioned = any(_mentions(text, root) for root in protected for text in free_texts(request))
    if named or written or mentioned:
        yield Tier.DENY, "the gate's own files"
    if any(RAW_DEVICES.match(path) for path in paths):
        yield Tier.DENY, "a raw device or another process's memory"


def _mentions(text: bytes, root: bytes) -> bool:
    """Whether a path stands in a text, and not only as the start of a longer name."""
    return re.search(re.escape(root) + rb"(?![\w-])", text) is not None


def _credentials(request: Request) -> Iterator[tuple[Tier, str]]:
    if any(CREDENTIAL_NAMES & set(path.split(b"/")) for path in named_paths(request)):
        yield Tier.T3, "a place for credentials"
    if isinstance(request.action, ScriptAction) and any(
        b"/" + name in request.action.script for name in CREDENTIAL_NAMES
    ):
        yield Tier.T3, "a place for credentials in the script"
    for entry in request.action.surroundings.environment.values():
        if isinstance(entry, EnvSecret):
            yield Tier.T3, f"the secret {entry.handle}"


def _program(name: str, arguments: Sequence[bytes]) -> Iterator[tuple[Tier, str]]:
    if name in ELEVATORS:
        yield Tier.T3, f"{name} changes the user"
    if name in SHELLS:
        yield Tier.T2, f"{name} is a shell"
    if name in LAUNCHERS:
        yield Tier.T2, f"{name} launches other programs"
    if name in LANGUAGES and b"--sandbox" not in arguments:
        yield Tier.T2, f"{name} runs code in its arguments"
    options = CODE_OPTIONS.get(name)
    if options is not None and _takes_code(options, arguments):
        yield Tier.T2, f"{name} takes code or a program to run from its command"


def _takes_code(options: CodeOptions, arguments: Sequence[bytes]) -> bool:
    if options.reads_stdin and not any(_names_a_file(argument) for argument in arguments):
        return True
    return any(
        _is_code_option(options, argument.decode(errors="replace")) for argument in arguments
    )


def _names_a_file(argument: bytes) -> bool:
    return not argument.startswith(b"-")


def _is_code_option(options: CodeOptions, argument: str) -> bool:
    if argument in options.words:
        return True
    if argument.startswith("--"):
        option = argument.partition("=")[0]
        return option != "--" and any(name.startswith(option) for name in options.long)
    return argument.startswith("-") and any(letter in options.short for letter in argument[1:])
