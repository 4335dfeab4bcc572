"""The policy file: TOML text in, a checked `Policy` out.

protocol: docs/cosign-protocol.md, section 7. Invariant: a file with an unknown key, a rule without
examples, an example that fails or a quorum below the floor does not load at all.
"""

import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TypeVar

from agent_bridge.core.actions import (
    Action,
    EnvValue,
    ExecAction,
    FileDigest,
    ScriptAction,
    Surroundings,
    check_path,
)
from agent_bridge.core.pae import PayloadType, digest_of, payload_digest
from agent_bridge.core.policy import Policy
from agent_bridge.core.policy_request import Request
from agent_bridge.core.policy_rule import Conditions, Rule
from agent_bridge.core.prompt_budget import PromptLimits
from agent_bridge.core.quorum import check_need_floor
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.tiers import FLOOR_NEEDS, Distinct, Need, Tier

OWN_PATHS = (b"/etc/countersign", b"/var/lib/countersign", b"/run/countersign")
"""Where a packaged gate keeps its files; a gate elsewhere names its own when it loads policy."""

T = TypeVar("T")

_EXAMPLE_DIGEST = digest_of(b"")


def load_policy(text: str, own_paths: Sequence[bytes] = ()) -> Policy:
    """Read and check a policy.

    own_paths   the running gate's own files and folders, absolute; they are denied like OWN_PATHS
    """
    try:
        root = _Table(tomllib.loads(text), "policy")
    except tomllib.TOMLDecodeError as error:
        raise Refused(Reason.POLICY_INVALID, str(error)) from error
    policy = Policy(
        version=root.take("version", int),
        digest=payload_digest(PayloadType.POLICY, text.encode()),
        expires_at=_milliseconds(root.take("expires_at", datetime)),
        default_tier=_tier(root, "default_tier", Tier.T2.name),
        needs=_needs(root.table("needs")),
        prompt_limits=_prompt_limits(root.table("prompts")),
        protected=(*OWN_PATHS, *own_paths, *(root.paths("protected_paths") or ())),
        rules=tuple(_rule(table) for table in root.tables("rules")),
    )
    root.close()
    if policy.version < 1:
        raise root.invalid("version", "is less than 1")
    if policy.default_tier < Tier.T2:
        raise root.invalid("default_tier", "is below T2")
    names = [rule.name for rule in policy.rules]
    if len(set(names)) != len(names):
        raise root.invalid("rules", "has one name twice")
    for path in policy.protected:
        check_path(path)
    for rule in policy.rules:
        rule.check_examples()
    return policy


class _Table:
    """A TOML table that knows which of its keys nobody asked for."""

    def __init__(self, values: dict[str, object], where: str) -> None:
        self._left = dict(values)
        self._where = where

    def invalid(self, name: str, what: str) -> Refused:
        return Refused(Reason.POLICY_INVALID, f"{self._where}.{name} {what}")

    def find(self, name: str, kind: type[T]) -> T | None:
        value = self._left.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.invalid(name, f"is not of type {kind.__name__}")
        return value

    def take(self, name: str, kind: type[T], default: T | None = None) -> T:
        value = self.find(name, kind)
        if value is None:
            value = default
        if value is None:
            raise self.invalid(name, "is missing")
        return value

    def count(self, name: str, default: int) -> int:
        value = self.take(name, int, default)
        if value < 0:
            raise self.invalid(name, "is negative")
        return value

    def table(self, name: str) -> "_Table":
        return _Table(self.take(name, dict, {}), f"{self._where}.{name}")

    def tables(self, name: str) -> list["_Table"]:
        values = self.take(name, list, [])
        if not all(isinstance(value, dict) for value in values):
            raise self.invalid(name, "is not a list of tables")
        return [
            _Table(value, f"{self._where}.{name}[{index}]") for index, value in enumerate(values)
        ]

    def texts(self, name: str) -> tuple[bytes, ...] | None:
        values = self.find(name, list)
        if values is None:
            return None
        if not all(isinstance(value, str) for value in values):
            raise self.invalid(name, "is not a list of texts")
        return tuple(value.encode() for value in values)

    def paths(self, name: str) -> tuple[bytes, ...] | None:
        values = self.texts(name)
        return None if values is None else tuple(check_path(value) for value in values)

    def close(self) -> None:
        if self._left:
            raise self.invalid(min(self._left), "is not a known key")


def _milliseconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise Refused(Reason.POLICY_INVALID, "policy.expires_at has no time zone")
    return int(moment.astimezone(UTC).timestamp()) * 1000


def _tier(table: _Table, name: str, default: str | None = None) -> Tier:
    text = table.take(name, str, default)
    if text not in Tier.__members__:
        raise table.invalid(name, "is not a tier")
    return Tier[text]


def _needs(table: _Table) -> Mapping[Tier, Need]:
    needs = {
        tier: _need(table.table(tier.name), tier, floor) for tier, floor in FLOOR_NEEDS.items()
    }
    table.close()
    return MappingProxyType(needs)


def _need(table: _Table, tier: Tier, floor: Need) -> Need:
    distinct = table.take("distinct", str, floor.distinct.value)
    if distinct not in [item.value for item in Distinct]:
        raise table.invalid("distinct", "is not user or device")
    need = Need(
        approvals=table.count("approvals", floor.approvals),
        distinct=Distinct(distinct),
        cooldown_ms=table.count("cooldown_seconds", 0) * 1000,
        hold_ms=table.count("hold_seconds", 0) * 1000,
    )
    table.close()
    check_need_floor(need, tier)
    return need


def _prompt_limits(table: _Table) -> PromptLimits:
    limits = PromptLimits(
        max_pending=table.count("max_pending", PromptLimits.max_pending),
        max_per_hour=table.count("max_per_hour", PromptLimits.max_per_hour),
        pause_after_denials=max(
            1, table.count("pause_after_denials", PromptLimits.pause_after_denials)
        ),
        pause_ms=table.count("pause_seconds", PromptLimits.pause_ms // 1000) * 1000,
    )
    table.close()
    return limits


def _rule(table: _Table) -> Rule:
    name = table.take("name", str)
    tier = _tier(table, "tier")
    conditions = Conditions(
        kind=table.find("kind", str),
        executables=_set(table.paths("executables")),
        argv_prefix=table.texts("argv_prefix"),
        argv_exact=table.texts("argv_exact"),
        argv_any=_set(table.texts("argv_any")),
        argv_none=_set(table.texts("argv_none")),
        cwd_under=table.paths("cwd_under"),
        paths_under=table.paths("paths_under"),
        writes_under=table.paths("writes_under"),
        network=table.find("network", bool),
    )
    if conditions.kind not in (None, "exec", "script"):
        raise table.invalid("kind", "is not exec or script")
    if tier < Tier.T2 and not conditions.executables:
        raise table.invalid("executables", "is missing: a rule below T2 names its programs")
    rule = Rule(
        name=name,
        tier=tier,
        conditions=conditions,
        matches=tuple(_example(example) for example in table.tables("matches")),
        matches_not=tuple(_example(example) for example in table.tables("matches_not")),
    )
    table.close()
    return rule


def _set(values: tuple[bytes, ...] | None) -> frozenset[bytes] | None:
    return None if values is None else frozenset(values)


def _example(table: _Table) -> Request:
    """Read an example: `argv` makes it an exec, `script` makes it a script."""
    program = FileDigest(check_path(table.take("executable", str).encode()), _EXAMPLE_DIGEST)
    variables = table.texts("environment") or ()
    surroundings = Surroundings(
        cwd=check_path(table.take("cwd", str, "/").encode()),
        environment={name.decode(): EnvValue(b"") for name in variables},
        stdin=None,
        inputs=(),
    )
    argv = table.texts("argv")
    script = table.find("script", str)
    action: Action
    if argv and script is None:
        action = ExecAction(program, argv, surroundings)
    elif script and argv is None:
        arguments = table.texts("arguments") or ()
        action = ScriptAction(program, script.encode(), arguments, surroundings)
    else:
        raise table.invalid("argv", "or script, and only one of them, must be given")
    request = Request(
        action=action,
        network=table.take("network", bool, default=False),
        writable=table.paths("writable") or (),
    )
    table.close()
    return request
