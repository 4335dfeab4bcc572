"""One policy rule: conditions over structured fields, and the examples that prove them.

protocol: docs/cosign-protocol.md, section 7. Invariant: every condition a rule states must hold; an
argument is compared as a whole element, never as text inside a command line.
"""

from dataclasses import dataclass

from agent_bridge.core.actions import ExecAction, kind_of, program_of
from agent_bridge.core.policy_request import (
    Request,
    argument_paths,
    arguments_of,
    is_under_any,
)
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.tiers import Tier


@dataclass(frozen=True)
class Conditions:
    """What an action must be for a rule to match; None says nothing."""

    kind: str | None = None
    executables: frozenset[bytes] | None = None
    argv_prefix: tuple[bytes, ...] | None = None
    """The first elements of argv, argv[0] included."""
    argv_exact: tuple[bytes, ...] | None = None
    argv_any: frozenset[bytes] | None = None
    """At least one argument is one of these."""
    argv_none: frozenset[bytes] | None = None
    """No argument is one of these."""
    cwd_under: tuple[bytes, ...] | None = None
    paths_under: tuple[bytes, ...] | None = None
    """Whatever an argument might mean as a path lies under one of these."""
    writes_under: tuple[bytes, ...] | None = None
    """Every path the sandbox lets it write lies under one of these."""
    network: bool | None = None

    def match(self, request: Request) -> bool:
        return self._match_program(request) and self._match_places(request)

    def _match_program(self, request: Request) -> bool:
        action = request.action
        argv = action.argv if isinstance(action, ExecAction) else None
        arguments = set(arguments_of(action))
        return (
            (self.kind is None or self.kind == kind_of(action))
            and (self.executables is None or program_of(action).path in self.executables)
            and (self.argv_exact is None or self.argv_exact == argv)
            and (
                self.argv_prefix is None
                or (argv is not None and argv[: len(self.argv_prefix)] == self.argv_prefix)
            )
            and (self.argv_any is None or bool(self.argv_any & arguments))
            and (self.argv_none is None or not self.argv_none & arguments)
        )

    def _match_places(self, request: Request) -> bool:
        cwd = request.action.surroundings.cwd
        return (
            (self.network is None or self.network == request.network)
            and (self.cwd_under is None or is_under_any(cwd, self.cwd_under))
            and (
                self.paths_under is None
                or all(
                    is_under_any(path, self.paths_under)
                    for argument in arguments_of(request.action)
                    for path in argument_paths(argument, cwd)
                )
            )
            and (
                self.writes_under is None
                or all(is_under_any(path, self.writes_under) for path in request.writable)
            )
        )


@dataclass(frozen=True)
class Rule:
    name: str
    tier: Tier
    conditions: Conditions
    matches: tuple[Request, ...]
    """Examples the rule must match."""
    matches_not: tuple[Request, ...]
    """Examples it must not match, the closer the better."""

    def check_examples(self) -> None:
        for kind, examples, expected in (
            ("matches", self.matches, True),
            ("matches_not", self.matches_not, False),
        ):
            if not examples:
                raise Refused(Reason.POLICY_EXAMPLE_FAILS, f"rule {self.name!r} has no {kind}")
            for number, example in enumerate(examples, start=1):
                if self.conditions.match(example) is not expected:
                    raise Refused(
                        Reason.POLICY_EXAMPLE_FAILS, f"rule {self.name!r}, {kind} {number}"
                    )
