"""Drafts and what people are shown of them (attack cases 26, 64, 65, 66, 69)."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_bridge.core.actions import (
    Action,
    EnvSecret,
    EnvValue,
    FileDigest,
    check_path,
    decode_action,
    encode_action,
)
from agent_bridge.core.base64_text import encode_base64url
from agent_bridge.core.draft import AgentContext, Limits, Sandbox, encode_draft
from agent_bridge.core.frozen_draft import (
    draft_content,
    freeze_draft,
    frozen_of_content,
    parse_draft,
)
from agent_bridge.core.pae import DraftID, draft_id_of
from agent_bridge.core.payload import decode_payload, encode_payload
from agent_bridge.core.refusals import Reason
from agent_bridge.core.rendering import MAX_RENDERING_BYTES, render_draft, rendering_html
from agent_bridge.core.tiers import Tier
from agent_bridge.core.visible_text import quote, quote_in_pieces, script_lines
from homeserver.core.json_types import JsonValue
from tests.agent_bridge.core.refusing import refusing
from tests.agent_bridge.core.samples import (
    DIGEST,
    EXEC,
    ISSUED,
    SCRIPT,
    SURROUNDINGS,
    draft,
    frozen,
)

OPEN, CLOSE = "\u2039", "\u203a"


@pytest.mark.parametrize("action", [EXEC, SCRIPT])
def test_a_frozen_draft_parses_to_itself(action: Action) -> None:
    made = frozen(
        action=replace(
            action,
            surroundings=replace(
                SURROUNDINGS,
                stdin=DIGEST,
                environment={"A": EnvSecret("github/token"), "B": EnvValue(b"\xff\xfe")},
            ),
        ),
        supersedes=DraftID(frozen().draft_id),
    )

    assert parse_draft(made.payload) == made
    assert frozen_of_content(draft_content(made)) == made
    assert made.draft_id == draft_id_of(made.payload)


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 8},
        {"nonce": b"another nonce...."},
        {"issued_at": ISSUED + 1},
        {"room_id": "!other:example.org"},
        {"pins": "sha256:" + "0" * 64},
        {"limits": Limits(60_000, 999_999)},
        {"sandbox": Sandbox("network", DIGEST, network=True, writable=())},
        {"agent": AgentContext("coder", None, "session-1", 3)},
        {"action": replace(EXEC, argv=(b"git", b"push", b""))},
        {"action": SCRIPT},
    ],
)
def test_every_change_gives_another_draft_id(change: dict[str, Any]) -> None:
    assert frozen(**change).draft_id != frozen().draft_id


def test_a_draft_event_with_another_drafts_id_is_refused() -> None:
    content = draft_content(frozen())

    with refusing(Reason.ID_MISMATCH):
        frozen_of_content({**content, "draft_id": frozen(sequence=8).draft_id})
    with refusing(Reason.FIELD_MISSING):
        frozen_of_content({**content, "payload": 1})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nonce": b"short"}, Reason.FIELD_INVALID),
        ({"expires_at": ISSUED}, Reason.FIELD_INVALID),
        ({"sequence": 0}, Reason.FIELD_INVALID),
        ({"room_id": "approvals"}, Reason.FIELD_INVALID),
        ({"need": None}, Reason.NEED_MISSING),
        ({"limits": Limits(60_000, 0, uses=2)}, Reason.FIELD_INVALID),
        ({"limits": Limits(0, 0)}, Reason.FIELD_INVALID),
        ({"sandbox": Sandbox("x", DIGEST, False, (b"/b", b"/a"))}, Reason.FIELD_INVALID),
        ({"sandbox": Sandbox("x", DIGEST, False, (b"relative",))}, Reason.PATH_INVALID),
        ({"agent": AgentContext("a", None, "s", 1, ("b", "a"))}, Reason.FIELD_INVALID),
        ({"agent": AgentContext("a", None, "e\u0301", 1)}, Reason.NOT_NFC),
        ({"action": replace(EXEC, argv=())}, Reason.FIELD_INVALID),
        ({"action": replace(EXEC, argv=(b"a\0b",))}, Reason.FIELD_INVALID),
        ({"action": replace(SCRIPT, script=b"")}, Reason.FIELD_INVALID),
        ({"action": replace(EXEC, executable=FileDigest(b"git", DIGEST))}, Reason.PATH_INVALID),
    ],
)
def test_an_impossible_draft_cannot_be_frozen(change: dict[str, Any], reason: Reason) -> None:
    with refusing(reason):
        frozen(**change)


def test_a_draft_cannot_name_a_denied_tier_or_an_unknown_one() -> None:
    value = encode_draft(draft(), DIGEST)
    policy = value["policy"]
    assert isinstance(policy, dict)

    for name, reason in (("DENY", Reason.TIER_DENIED), ("T9", Reason.FIELD_INVALID)):
        with refusing(reason):
            parse_draft(encode_payload({**value, "policy": {**policy, "tier": name}}))


def test_a_bad_host_name_is_refused() -> None:
    with refusing(Reason.FIELD_INVALID):
        frozen(gate=replace(draft().gate, host="lap top"))


@pytest.mark.parametrize("kind", ["file", "mcp", "http", "grant", "policy", "enroll", "", None, 1])
def test_an_unknown_kind_of_action_is_refused(kind: JsonValue) -> None:
    with refusing(Reason.ACTION_UNKNOWN):
        decode_action({**encode_action(EXEC), "kind": kind})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"argv": [1]}, Reason.FIELD_INVALID),
        ({"environment": []}, Reason.FIELD_INVALID),
        ({"environment": {"A=B": {"value": ""}}}, Reason.FIELD_INVALID),
        ({"environment": {"A": {"value": encode_base64url(b"\0")}}}, Reason.FIELD_INVALID),
        ({"environment": {"A": {"secret": "../x"}}}, Reason.FIELD_INVALID),
        ({"environment": {"A": {"secret": "x", "value": ""}}}, Reason.FIELD_UNKNOWN),
        ({"environment": {"A": None}}, Reason.FIELD_INVALID),
        ({"shell": True}, Reason.FIELD_UNKNOWN),
        ({"stdin": "sha256:no"}, Reason.FIELD_INVALID),
    ],
)
def test_a_malformed_action_is_refused(changes: dict[str, JsonValue], reason: Reason) -> None:
    with refusing(reason):
        decode_action({**encode_action(EXEC), **changes})


def test_inputs_must_be_sorted_and_different() -> None:
    twice = replace(EXEC, surroundings=replace(SURROUNDINGS, inputs=SURROUNDINGS.inputs * 2))

    with refusing(Reason.FIELD_INVALID):
        decode_action(encode_action(twice))


@pytest.mark.parametrize("path", [b"", b"a", b"/a/", b"//a", b"/a/../b", b"/./a", b"/a\0", b"~/a"])
def test_paths_must_be_absolute_and_normalized(path: bytes) -> None:
    with refusing(Reason.PATH_INVALID):
        check_path(path)


@pytest.mark.parametrize("path", [b"/", b"/a", b"/a/b c", b"/\xff", b"/..a"])
def test_ordinary_paths_are_accepted(path: bytes) -> None:
    assert check_path(path) == path


def test_a_rendering_that_differs_by_one_character_is_refused() -> None:
    value = decode_payload(frozen().payload)

    with refusing(Reason.RENDERING_MISMATCH):
        parse_draft(encode_payload({**value, "rendering": DIGEST}))


def test_the_rendering_shows_everything_that_decides() -> None:
    surroundings = replace(
        SURROUNDINGS, stdin=DIGEST, environment={"T": EnvSecret("token"), "V": EnvValue(b"x")}
    )
    made = frozen(
        Tier.T3,
        action=replace(EXEC, surroundings=surroundings),
        agent=AgentContext("coder", "@coder:example.org", "s-1", 3, ("web:evil",), "harmless"),
        supersedes=frozen().draft_id,
    )

    for shown in (
        "laptop.example.org",
        "T3",
        "2 approvals by distinct users, level A",
        "not before 30000 ms after issue",
        quote(b"/usr/bin/git"),
        quote("push"),
        quote("/home/agent/work"),
        quote("T=token"),
        quote("V=x"),
        "network OPEN",
        "TAINTED BY     " + quote("web:evil"),
        "the agent claims, unverified:\n                 " + quote("harmless"),
        frozen().draft_id,
        "60000 ms, 1000000 bytes",
        DIGEST,
    ):
        assert shown in made.rendering


def test_a_draft_of_the_lowest_tier_says_that_nobody_is_asked() -> None:
    assert "needs          nobody" in frozen(Tier.T0).rendering


def test_attack_26_a_payload_beyond_24_kib_is_refused() -> None:
    with refusing(Reason.PAYLOAD_TOO_LARGE):
        parse_draft(frozen().payload + b" " * 24 * 1024)


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("\u202egnp.exe", "«U+202E»gnp.exe"),
        ("a\u200bb\u2066", "a«U+200B»b«U+2066»"),
        ("ex\u0430mple.org", "ex«U+0430»mple.org"),
        ("a\tb\nc\r", "a«tab»b«newline»c«return»"),
        (" a  b ", "«space»a«space»«space»b«space»"),
        ("a b", "a b"),
        ("\x1b[2J\x00\x7f", "«U+001B»[2J«U+0000»«U+007F»"),
        ("f\u00fcr \u00e9t\u00e9", "f\u00fcr \u00e9t\u00e9"),
        ("«byte FF»", "«U+00AB»byte FF«U+00BB»"),
        ("\u203a\u2039", "«U+203A»«U+2039»"),
        ("\U000e0041", "«U+E0041»"),
    ],
)
def test_attack_64_hidden_and_look_alike_characters_are_shown(foreign: str, shown: str) -> None:
    assert quote(foreign) == f"{OPEN}{shown}{CLOSE}"


def test_attack_64_bytes_that_are_no_text_are_shown_one_by_one() -> None:
    assert quote(b"a\xff\x80") == f"{OPEN}a«byte FF»«byte 80»{CLOSE}"


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_attack_64_different_bytes_never_look_alike(first: bytes, second: bytes) -> None:
    assert (quote(first) == quote(second)) == (first == second)
    assert (quote_in_pieces(first) == quote_in_pieces(second)) == (first == second)


@given(st.text("a \n\t", max_size=150), st.text("a \n\t", max_size=150))
def test_attack_64_different_scripts_never_look_alike(first: str, second: str) -> None:
    shown = [list(script_lines(text.encode())) for text in (first, second)]

    assert (shown[0] == shown[1]) == (first == second)


@given(st.binary(max_size=400))
def test_foreign_bytes_stay_between_their_quotes(data: bytes) -> None:
    for piece in quote_in_pieces(data):
        assert piece[0] == OPEN
        assert piece[-1] == CLOSE
        assert not set(piece[1:-1]) & {OPEN, CLOSE, "\n", "\x1b"}
        assert len(piece) <= 98


def test_attack_65_a_long_argument_is_shown_whole_in_short_lines_or_refused() -> None:
    tail = b"; rm -rf /"
    shown = render_draft(draft(action=replace(EXEC, argv=(b"git", b"a" * 3000 + tail))))

    assert "; rm -rf /" in shown.replace(f"{CLOSE}\n    +            {OPEN}", "")
    assert max(map(len, shown.splitlines())) <= 120
    with refusing(Reason.RENDERING_TOO_LARGE):
        freeze_draft(draft(action=replace(EXEC, argv=(b"git", b"a" * 200_000))))


def test_attack_65_padding_with_lines_is_refused_when_it_would_not_fit() -> None:
    script = b"\n" * MAX_RENDERING_BYTES + b"evil()"

    with refusing(Reason.RENDERING_TOO_LARGE):
        frozen(action=replace(SCRIPT, script=script))


def test_attack_66_markup_in_a_draft_stays_text() -> None:
    evil = "</code></pre><h1>\u2705 approved</h1><details>"
    html = rendering_html(render_draft(draft(agent=AgentContext(evil, None, "s", 1))))

    assert html.count("<") == 4
    assert "&lt;/code&gt;" in html


def test_attack_66_a_foreign_text_cannot_start_a_line_of_its_own() -> None:
    fake = "x\n  tier           T0\n"
    lines = render_draft(draft(agent=AgentContext(fake, None, "s", 1))).splitlines()

    assert [line for line in lines if line.startswith("  tier")] == ["  tier           T2"]


def test_attack_69_the_agents_reason_comes_last_and_is_marked_unverified() -> None:
    claim = "only lists files"
    rendering = frozen(agent=AgentContext("a", None, "s", 1, (), claim)).rendering

    assert rendering.endswith(f"the agent claims, unverified:\n{' ' * 17}{quote(claim)}\n")


def test_a_script_is_shown_line_by_line_with_its_indentation() -> None:
    shown = list(script_lines(b"if x:\n    y = 'a  b' \n\n\tz\n   \nend"))

    assert shown == [
        ["if x:"],
        ["    y = 'a«space»«space»b'«space»"],
        [""],
        ["«tab»z"],
        ["«space»«space»«space»"],
        ["end«no newline at the end»"],
    ]
