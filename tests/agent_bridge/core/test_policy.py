"""Policy: rules, taint, the file, prompt budgets (attack cases 59, 70, 80)."""

from dataclasses import replace
from pathlib import Path

import pytest

from agent_bridge.core.draft import PolicyRef
from agent_bridge.core.frozen_draft import FrozenDraft, freeze_draft
from agent_bridge.core.pins import pins_digest
from agent_bridge.core.policy import Policy, check_still_allowed
from agent_bridge.core.policy_file import load_policy
from agent_bridge.core.policy_request import Request, program_names, request_of, resolve
from agent_bridge.core.policy_rule import Conditions
from agent_bridge.core.prompt_budget import PromptLimits, check_prompt_budget
from agent_bridge.core.refusals import Reason
from agent_bridge.core.tiers import Distinct, Need, Tier
from tests.agent_bridge.core.refusing import refusing
from tests.agent_bridge.core.requests import run, script
from tests.agent_bridge.core.samples import ISSUED, PINS, draft

EXAMPLE = Path(__file__).parents[3] / "config" / "gate-policy.example.toml"
POLICY = load_policy(EXAMPLE.read_text())


def tier(request: Request, policy: Policy = POLICY) -> Tier:
    return policy.classify(request, ISSUED).tier


def test_the_example_policy_loads_and_reads_as_it_says() -> None:
    assert POLICY.version == 1
    assert POLICY.needs[Tier.T3] == Need(2, Distinct.USER, cooldown_ms=86_400_000, hold_ms=30_000)
    assert tier(run("ls", "-l")) is Tier.T0
    assert tier(run("git", "status")) is Tier.T1
    assert tier(run("make", "test")) is Tier.T1
    assert tier(replace(run("git", "push"), network=True)) is Tier.T2
    assert tier(run("rm", "-r", "build")) is Tier.T3
    assert tier(run("dd", "if=/dev/zero")) is Tier.DENY


def test_the_rule_decides_where_the_floor_only_agrees() -> None:
    classified = POLICY.classify(replace(run("git", "push"), network=True), ISSUED)

    assert (classified.tier, classified.rule) == (Tier.T2, "publish commits")
    assert "floor: the sandbox has the network" in classified.because


def test_a_classification_names_what_tainted_the_turn() -> None:
    request = replace(run("ls"), taint=("mail:eve", "web:example.net"))

    assert "tainted by mail:eve, web:example.net" in POLICY.classify(request, ISSUED).because


def test_what_no_rule_knows_is_tier_two() -> None:
    classified = POLICY.classify(run("frobnicate"), ISSUED)

    assert (classified.tier, classified.rule) == (Tier.T2, "default")
    assert classified.need == POLICY.needs[Tier.T2]
    assert classified.because == ("no rule",)


def test_the_strictest_matching_rule_wins() -> None:
    classified = POLICY.classify(run("git", "push", "--force"), ISSUED)

    assert (classified.tier, classified.rule) == (Tier.T3, "overwrite published history")
    assert "rule publish commits: T2" in classified.because


def test_the_floor_raises_what_a_rule_allows_and_says_why() -> None:
    classified = POLICY.classify(replace(run("ls"), writable=(b"/home/agent/work",)), ISSUED)

    assert (classified.tier, classified.rule) == (Tier.T1, "floor")
    assert "floor: the sandbox may write" in classified.because


@pytest.mark.parametrize(
    ("request_", "tainted"),
    [
        (run("ls"), Tier.T1),
        (run("make", "test"), Tier.T2),
        (run("git", "push"), Tier.T3),
        (run("rm", "x"), Tier.T3),
        (run("dd", "x"), Tier.DENY),
    ],
)
def test_attack_70_a_tainted_turn_raises_the_tier(request_: Request, tainted: Tier) -> None:
    assert tier(replace(request_, taint=("web:example.net",))) is tainted


def test_an_expired_policy_classifies_nothing() -> None:
    with refusing(Reason.POLICY_EXPIRED):
        POLICY.classify(run("ls"), POLICY.expires_at)


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        (b"a", b"/w/a"),
        (b"../../x", b"/x"),
        (b"//etc/x", b"/etc/x"),
        (b"", b"/w"),
        (b"/../etc", b"/etc"),
    ],
)
def test_paths_resolve_lexically(path: bytes, resolved: bytes) -> None:
    assert resolve(path, b"/w") == resolved


def test_programs_are_named_without_their_version() -> None:
    assert program_names(run("sh", program="/usr/bin/python3.11").action) == {"python", "sh"}
    assert program_names(run("7z").action) == {"7z"}


GIT = run("git", "push", "origin")


@pytest.mark.parametrize(
    ("conditions", "matched"),
    [
        (Conditions(), True),
        (Conditions(kind="exec"), True),
        (Conditions(kind="script"), False),
        (Conditions(executables=frozenset({b"/usr/bin/git"})), True),
        (Conditions(executables=frozenset({b"git"})), False),
        (Conditions(argv_prefix=(b"git", b"push")), True),
        (Conditions(argv_prefix=(b"git", b"pu")), False),
        (Conditions(argv_exact=(b"git", b"push", b"origin")), True),
        (Conditions(argv_exact=(b"git", b"push")), False),
        (Conditions(argv_any=frozenset({b"origin", b"x"})), True),
        (Conditions(argv_any=frozenset({b"orig"})), False),
        (Conditions(argv_any=frozenset({b"git"})), False),
        (Conditions(argv_none=frozenset({b"--force"})), True),
        (Conditions(argv_none=frozenset({b"push"})), False),
        (Conditions(cwd_under=(b"/home/agent",)), True),
        (Conditions(cwd_under=(b"/home/agent/work",)), True),
        (Conditions(cwd_under=(b"/home/agent/wor",)), False),
        (Conditions(cwd_under=(b"/",)), True),
        (Conditions(paths_under=(b"/home/agent/work",)), True),
        (Conditions(paths_under=(b"/srv",)), False),
        (Conditions(network=False), True),
        (Conditions(network=True), False),
        (Conditions(writes_under=(b"/srv",)), True),
    ],
)
def test_each_condition_matches_whole_elements(conditions: Conditions, matched: bool) -> None:
    assert conditions.match(GIT) is matched


def test_conditions_on_argv_never_match_a_script() -> None:
    assert not Conditions(argv_prefix=(b"git",)).match(script("1"))
    assert not Conditions(argv_exact=(b"git",)).match(script("1"))


def test_writes_outside_a_root_do_not_match() -> None:
    request = replace(GIT, writable=(b"/srv/a", b"/home"))

    assert not Conditions(writes_under=(b"/srv",)).match(request)


HEADER = "version = 1\nexpires_at = 2030-01-01T00:00:00Z\n"
RULE = """
[[rules]]
name = "r"
tier = "T2"
executables = ["/bin/a"]
matches = [{ executable = "/bin/a", argv = ["a"] }]
matches_not = [{ executable = "/bin/b", argv = ["a"] }]
"""


def test_the_smallest_policy_loads_with_the_floor_as_its_needs() -> None:
    policy = load_policy(HEADER)

    assert (policy.default_tier, policy.rules) == (Tier.T2, ())
    assert policy.needs[Tier.T3].approvals == 2
    assert load_policy(HEADER + RULE).rules[0].name == "r"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version =", Reason.POLICY_INVALID),
        ("", Reason.POLICY_INVALID),
        ("version = 1", Reason.POLICY_INVALID),
        ("version = true\nexpires_at = 2030-01-01T00:00:00Z", Reason.POLICY_INVALID),
        ("version = 0\nexpires_at = 2030-01-01T00:00:00Z", Reason.POLICY_INVALID),
        ("version = 1\nexpires_at = 2030-01-01T00:00:00", Reason.POLICY_INVALID),
        (HEADER + 'default_tier = "T1"', Reason.POLICY_INVALID),
        (HEADER + 'default_tier = "T7"', Reason.POLICY_INVALID),
        (HEADER + "surprise = 1", Reason.POLICY_INVALID),
        (HEADER + 'protected_paths = ["etc"]', Reason.PATH_INVALID),
        (HEADER + "protected_paths = [1]", Reason.POLICY_INVALID),
        (HEADER + "rules = [1]", Reason.POLICY_INVALID),
        (HEADER + "[needs.T0]\napprovals = 1", Reason.POLICY_INVALID),
        (HEADER + "[needs.T2]\napprovals = 0", Reason.NEED_ZERO),
        (HEADER + "[needs.T2]\napprovals = -1", Reason.POLICY_INVALID),
        (HEADER + "[needs.T3]\napprovals = 1", Reason.NEED_TOO_WEAK),
        (HEADER + '[needs.T3]\ndistinct = "device"', Reason.NEED_TOO_WEAK),
        (HEADER + '[needs.T3]\ndistinct = "nobody"', Reason.POLICY_INVALID),
        (HEADER + "[needs.T3]\nsecret = 1", Reason.POLICY_INVALID),
        (HEADER + "[prompts]\nmax = 1", Reason.POLICY_INVALID),
        (HEADER + RULE + RULE, Reason.POLICY_INVALID),
        (HEADER + RULE + 'kind = "mcp"', Reason.POLICY_INVALID),
        (HEADER + RULE + "network = 1", Reason.POLICY_INVALID),
        (HEADER + RULE + 'argv_regex = ".*"', Reason.POLICY_INVALID),
        (HEADER + RULE.replace('"T2"', '"T4"'), Reason.POLICY_INVALID),
        (HEADER + RULE.replace('"T2"', '"T1"').replace("executables", "cwd_under"),
         Reason.POLICY_INVALID),
        (HEADER + RULE.replace("matches =", "# "), Reason.POLICY_EXAMPLE_FAILS),
        (HEADER + RULE.replace("matches_not =", "# "), Reason.POLICY_EXAMPLE_FAILS),
        (HEADER + RULE.replace('"/bin/b"', '"/bin/a"'), Reason.POLICY_EXAMPLE_FAILS),
        (HEADER + RULE.replace('= "/bin/a"', '= "/bin/c"'), Reason.POLICY_EXAMPLE_FAILS),
        (HEADER + RULE.replace('argv = ["a"] }]', "argv = [] }]"), Reason.POLICY_INVALID),
        (HEADER + RULE.replace('argv = ["a"]', 'argv = ["a"], script = "x"'),
         Reason.POLICY_INVALID),
        (HEADER + RULE.replace('argv = ["a"]', 'argv = ["a"], regex = "x"'),
         Reason.POLICY_INVALID),
    ],
)  # fmt: skip
def test_a_policy_with_a_fault_does_not_load(text: str, reason: Reason) -> None:
    with refusing(reason):
        load_policy(text)


def test_every_byte_of_the_policy_is_in_its_digest() -> None:
    assert load_policy(HEADER).digest != load_policy(HEADER + "# a comment").digest


def drafted(policy: Policy, request: Request, **changes: object) -> FrozenDraft:
    classified = policy.classify(request, ISSUED)
    base = draft()
    return freeze_draft(
        replace(
            base,
            action=request.action,
            sandbox=replace(base.sandbox, network=request.network, writable=request.writable),
            policy=PolicyRef(policy.digest, policy.version, classified.rule, classified.tier),
            need=classified.need,
            **changes,  # type: ignore[arg-type]  # test data
        )
    )


def test_a_draft_is_still_allowed_under_the_policy_it_was_made_under() -> None:
    for request in (run("ls"), run("make", "test"), GIT, run("rm", "x")):
        of = drafted(POLICY, request)
        assert request_of(of.draft) == request
        check_still_allowed(POLICY, of, PINS, ISSUED)


def test_attack_59_a_policy_changed_while_pending_stops_the_draft() -> None:
    changed = load_policy(EXAMPLE.read_text() + "# stricter now\n")

    with refusing(Reason.POLICY_CHANGED):
        check_still_allowed(changed, drafted(POLICY, GIT), PINS, ISSUED)
    with refusing(Reason.POLICY_EXPIRED):
        check_still_allowed(POLICY, drafted(POLICY, GIT), PINS, POLICY.expires_at)


def test_attack_59_approvers_changed_while_pending_stop_the_draft() -> None:
    fewer = replace(PINS, approvers=PINS.approvers[:1])

    with refusing(Reason.PINS_CHANGED):
        check_still_allowed(POLICY, drafted(POLICY, GIT), fewer, ISSUED)
    check_still_allowed(POLICY, drafted(POLICY, GIT, pins=pins_digest(fewer)), fewer, ISSUED)


def test_a_draft_put_into_too_low_a_tier_is_refused() -> None:
    base = drafted(POLICY, run("rm", "x")).draft
    lowered = replace(base, policy=replace(base.policy, tier=Tier.T2), need=POLICY.needs[Tier.T2])
    denied = replace(lowered, action=run("dd", "x").action)

    with refusing(Reason.TIER_RAISED):
        check_still_allowed(POLICY, freeze_draft(lowered), PINS, ISSUED)
    with refusing(Reason.TIER_DENIED):
        check_still_allowed(POLICY, freeze_draft(denied), PINS, ISSUED)


@pytest.mark.parametrize(
    "need",
    [
        Need(1, Distinct.USER, cooldown_ms=86_400_000, hold_ms=30_000),
        Need(2, Distinct.DEVICE, cooldown_ms=86_400_000, hold_ms=30_000),
        Need(2, Distinct.USER, cooldown_ms=0, hold_ms=30_000),
        Need(2, Distinct.USER, cooldown_ms=86_400_000, hold_ms=0),
    ],
)
def test_a_draft_with_a_weaker_quorum_than_policys_is_refused(need: Need) -> None:
    of = drafted(POLICY, run("rm", "x"))

    with refusing(Reason.NEED_TOO_WEAK):
        check_still_allowed(POLICY, freeze_draft(replace(of.draft, need=need)), PINS, ISSUED)


LIMITS = PromptLimits(max_pending=2, max_per_hour=3, pause_after_denials=2, pause_ms=1000)
HOUR = 3_600_000


@pytest.mark.parametrize(
    ("pending", "asked_at", "denied_at", "reason"),
    [
        (2, [], [], Reason.TOO_MANY_PENDING),
        (0, [1, 2, 3], [], Reason.TOO_MANY_PER_HOUR),
        (0, [], [HOUR - 500, HOUR - 100], Reason.PAUSED_AFTER_DENIALS),
    ],
)
def test_attack_80_a_flood_of_prompts_is_refused(
    pending: int, asked_at: list[int], denied_at: list[int], reason: Reason
) -> None:
    with refusing(reason):
        check_prompt_budget(
            LIMITS, pending=pending, asked_at=asked_at, denied_at=denied_at, now_ms=HOUR
        )


def test_time_restores_the_budget() -> None:
    check_prompt_budget(
        LIMITS, pending=1, asked_at=[0, 1, 2], denied_at=[HOUR - 2000, HOUR - 1000], now_ms=HOUR
    )
    check_prompt_budget(LIMITS, pending=0, asked_at=[], denied_at=[HOUR - 1], now_ms=HOUR)
