import pytest

from homeserver.core.auth_events import auth_types_of
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import ROOM_VERSIONS
from tests.core.scenario import ALICE, ALL_VERSIONS, BOB, CAROL, versions_between

CREATE = ("m.room.create", "")
LEVELS = ("m.room.power_levels", "")
RULES = ("m.room.join_rules", "")
INVITE: JsonObject = {"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}}


def member(user_id: str) -> tuple[str, str]:
    return ("m.room.member", user_id)


# (type, state key, content, versions, what is cited besides m.room.create)
CASES: list[tuple[str, str | None, JsonObject, tuple[str, ...], list[tuple[str, str]]]] = [
    ("m.room.message", None, {}, ALL_VERSIONS, [LEVELS, member(ALICE)]),
    ("m.room.topic", "", {}, ALL_VERSIONS, [LEVELS, member(ALICE)]),
    ("m.room.member", None, {"membership": "join"}, ALL_VERSIONS, [LEVELS, member(ALICE)]),
    (
        "m.room.member",
        ALICE,
        {"membership": "join"},
        ALL_VERSIONS,
        [LEVELS, member(ALICE), RULES],
    ),
    (
        "m.room.member",
        BOB,
        {"membership": "invite"},
        ALL_VERSIONS,
        [LEVELS, member(ALICE), member(BOB), RULES],
    ),
    ("m.room.member", ALICE, {"membership": "knock"}, ALL_VERSIONS, [LEVELS, member(ALICE), RULES]),
    (
        "m.room.member",
        BOB,
        {"membership": "leave"},
        ALL_VERSIONS,
        [LEVELS, member(ALICE), member(BOB)],
    ),
    (
        "m.room.member",
        BOB,
        {"membership": "ban"},
        ALL_VERSIONS,
        [LEVELS, member(ALICE), member(BOB)],
    ),
    (
        "m.room.member",
        BOB,
        {"membership": ["join"]},
        ALL_VERSIONS,
        [LEVELS, member(ALICE), member(BOB)],
    ),
    (
        "m.room.member",
        BOB,
        INVITE,
        ALL_VERSIONS,
        [LEVELS, member(ALICE), member(BOB), RULES, ("m.room.third_party_invite", "t")],
    ),
    (
        "m.room.member",
        ALICE,
        INVITE | {"membership": "join"},
        ALL_VERSIONS,
        [LEVELS, member(ALICE), RULES],
    ),
    (
        "m.room.member",
        ALICE,
        {"membership": "join", "join_authorised_via_users_server": CAROL},
        versions_between(8, 12),
        [LEVELS, member(ALICE), RULES, member(CAROL)],
    ),
    (
        "m.room.member",
        ALICE,
        {"membership": "join", "join_authorised_via_users_server": CAROL},
        versions_between(1, 7),
        [LEVELS, member(ALICE), RULES],
    ),
    (
        "m.room.member",
        ALICE,
        {"membership": "leave", "join_authorised_via_users_server": CAROL},
        ALL_VERSIONS,
        [LEVELS, member(ALICE)],
    ),
    (
        "m.room.member",
        ALICE,
        {"membership": "join", "join_authorised_via_users_server": [CAROL]},
        ALL_VERSIONS,
        [LEVELS, member(ALICE), RULES],
    ),
]


@pytest.mark.parametrize("case", CASES)
def test_an_event_cites_what_allows_it(
    case: tuple[str, str | None, JsonObject, tuple[str, ...], list[tuple[str, str]]],
) -> None:
    event_type, state_key, content, versions, expected = case
    for version_id in versions:
        create = [] if version_id == "12" else [CREATE]

        cited = auth_types_of(ROOM_VERSIONS[version_id], event_type, ALICE, state_key, content)

        assert cited == create + expected, version_id


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_the_create_event_cites_nothing(version_id: str) -> None:
    assert auth_types_of(ROOM_VERSIONS[version_id], "m.room.create", ALICE, "", {}) == []


@pytest.mark.parametrize("invite", [3, {}, {"signed": 3}, {"signed": {}}, {"signed": {"token": 3}}])
def test_attack_3_a_malformed_third_party_invite_cites_no_token(invite: JsonObject) -> None:
    content: JsonObject = {"membership": "invite", "third_party_invite": invite}

    cited = auth_types_of(ROOM_VERSIONS["12"], "m.room.member", ALICE, BOB, content)

    assert cited == [LEVELS, member(ALICE), member(BOB), RULES]
