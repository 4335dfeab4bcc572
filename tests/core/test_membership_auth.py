"""Rule 5 of version 12 (rule 4 of 6 to 11): m.room.member, one case for each sub-rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from homeserver.core.json_types import JsonObject
from tests.core.scenario import ALICE, ALL_VERSIONS, BOB, CAROL, DAVE, Room, versions_between

AUTHORIZED: JsonObject = {"membership": "join", "join_authorised_via_users_server": CAROL}
LEVELS: JsonObject = {"users": {BOB: 50, CAROL: 50}, "invite": 50, "kick": 50, "ban": 50}


@dataclass(frozen=True)
class Case:
    name: str
    sender: str
    target: str | None
    content: JsonObject
    rule: str | None
    """The rule that refuses; None if the event is allowed."""
    members: Mapping[str, str] = field(default_factory=dict)
    join_rule: str | None = None
    levels: JsonObject | None = None
    signed_by: Sequence[str] = ()
    versions: tuple[str, ...] = ALL_VERSIONS


def joins(
    name: str, rule: str | None, join_rule: str | None, before: str | None, *versions: int
) -> Case:
    first, last = versions or (1, 12)
    members: dict[str, str] = {} if before is None else {BOB: before}
    return Case(
        name,
        BOB,
        BOB,
        {"membership": "join"},
        rule,
        members,
        join_rule,
        versions=versions_between(first, last),
    )


SHAPE = [
    Case("not a state event", BOB, None, {"membership": "join"}, "member.state_key"),
    Case("state key is no user", BOB, "bob", {"membership": "join"}, "member.state_key"),
    Case("no membership", BOB, BOB, {}, "member.membership"),
    Case("membership is no string", BOB, BOB, {"membership": ["join"]}, "member.membership"),
    Case("unknown membership", BOB, BOB, {"membership": "visit"}, "member.membership"),
    Case(
        "knock does not exist yet",
        BOB,
        BOB,
        {"membership": "knock"},
        "member.membership",
        join_rule="knock",
        versions=versions_between(1, 6),
    ),
]

JOIN = [
    Case(
        "for someone else",
        ALICE,
        BOB,
        {"membership": "join"},
        "member.join.sender",
        {ALICE: "join"},
        "public",
    ),
    joins("when banned", "member.join.banned", "public", "ban"),
    joins("of a public room", None, "public", None),
    joins("of a public room after leaving", None, "public", "leave"),
    joins("without join rules", "member.join.not_invited", None, None),
    joins("without join rules when invited", None, None, "invite"),
    joins("uninvited", "member.join.not_invited", "invite", None),
    joins("invited", None, "invite", "invite"),
    joins("again", None, "invite", "join"),
    joins("after knocking only", "member.join.not_invited", "invite", "knock"),
    joins("knock rule uninvited", "member.join.not_invited", "knock", "knock", 7, 12),
    joins("knock rule invited", None, "knock", "invite", 7, 12),
    joins("knock rule does not exist yet", "member.join.join_rule", "knock", "invite", 1, 6),
    joins("restricted rule invited", None, "restricted", "invite", 8, 12),
    joins("restricted rule joined", None, "restricted", "join", 8, 12),
    joins("restricted rule unauthorized", "member.join.restricted", "restricted", None, 8, 12),
    joins("restricted rule banned", "member.join.banned", "restricted", "ban", 8, 12),
    joins(
        "restricted rule does not exist yet", "member.join.join_rule", "restricted", "invite", 1, 7
    ),
    joins("knock_restricted rule invited", None, "knock_restricted", "invite", 10, 12),
    joins(
        "knock_restricted rule unauthorized",
        "member.join.restricted",
        "knock_restricted",
        "knock",
        10,
        12,
    ),
    joins(
        "knock_restricted does not exist yet",
        "member.join.join_rule",
        "knock_restricted",
        "invite",
        1,
        9,
    ),
    joins("private rule", "member.join.join_rule", "private", "invite"),
    joins("unknown rule", "member.join.join_rule", "org.example", "invite"),
]


def authorized(
    name: str, rule: str | None, carol: str, *, levels: JsonObject, signed: bool = True
) -> list[Case]:
    return [
        Case(
            f"{join_rule} {name}",
            BOB,
            BOB,
            AUTHORIZED,
            rule,
            {CAROL: carol},
            join_rule,
            levels,
            ["c.example"] if signed else [],
            versions_between(first, 12),
        )
        for join_rule, first in (("restricted", 8), ("knock_restricted", 10))
    ]


RESTRICTED_JOIN = [
    *authorized("authorized", None, "join", levels=LEVELS),
    *authorized("authorized by default level", None, "join", levels={}),
    *authorized(
        "authorizer may not invite", "member.join.authorizer", "join", levels={"invite": 51}
    ),
    *authorized("authorizer has left", "member.join.authorizer", "leave", levels=LEVELS),
    *authorized("authorizer invited only", "member.join.authorizer", "invite", levels=LEVELS),
    *authorized(
        "authorizer's server did not sign",
        "member.authorizer_signature",
        "join",
        levels=LEVELS,
        signed=False,
    ),
    Case(
        "authorizer is no user",
        BOB,
        BOB,
        {"membership": "join", "join_authorised_via_users_server": "carol"},
        "member.authorizer_signature",
        join_rule="restricted",
        versions=versions_between(8, 12),
    ),
    Case(
        "authorizer is no string",
        BOB,
        BOB,
        {"membership": "join", "join_authorised_via_users_server": [CAROL]},
        "member.authorizer_signature",
        join_rule="restricted",
        versions=versions_between(8, 12),
    ),
    Case(
        "signature is demanded of any membership",
        BOB,
        BOB,
        AUTHORIZED | {"membership": "leave"},
        "member.authorizer_signature",
        {BOB: "join"},
        versions=versions_between(8, 12),
    ),
    Case(
        "the key means nothing yet",
        BOB,
        BOB,
        AUTHORIZED,
        None,
        {BOB: "invite"},
        versions=versions_between(1, 7),
    ),
]

INVITED: JsonObject = {"membership": "invite"}
INVITE = [
    Case("by a member", BOB, DAVE, INVITED, None, {BOB: "join"}),
    Case("by an outsider", BOB, DAVE, INVITED, "member.invite.sender"),
    Case("by one invited", BOB, DAVE, INVITED, "member.invite.sender", {BOB: "invite"}),
    Case("of a member", BOB, DAVE, INVITED, "member.invite.target", {BOB: "join", DAVE: "join"}),
    Case("of one banned", BOB, DAVE, INVITED, "member.invite.target", {BOB: "join", DAVE: "ban"}),
    Case("again", BOB, DAVE, INVITED, None, {BOB: "join", DAVE: "invite"}),
    Case("of one who knocked", BOB, DAVE, INVITED, None, {BOB: "join", DAVE: "knock"}),
    Case("level reached", BOB, DAVE, INVITED, None, {BOB: "join"}, levels=LEVELS),
    Case(
        "level missed",
        BOB,
        DAVE,
        INVITED,
        "member.invite.level",
        {BOB: "join"},
        levels={"invite": 1},
    ),
]

LEFT: JsonObject = {"membership": "leave"}
LEAVE = [
    Case("when joined", BOB, BOB, LEFT, None, {BOB: "join"}),
    Case("when invited", BOB, BOB, LEFT, None, {BOB: "invite"}),
    Case("when knocked", BOB, BOB, LEFT, None, {BOB: "knock"}, versions=versions_between(7, 12)),
    Case(
        "knock unknown yet",
        BOB,
        BOB,
        LEFT,
        "member.leave.not_in_room",
        {BOB: "knock"},
        versions=versions_between(1, 6),
    ),
    Case("when banned", BOB, BOB, LEFT, "member.leave.not_in_room", {BOB: "ban"}),
    Case("when left", BOB, BOB, LEFT, "member.leave.not_in_room", {BOB: "leave"}),
    Case("never joined", BOB, BOB, LEFT, "member.leave.not_in_room"),
    Case(
        "kick by an outsider", BOB, DAVE, LEFT, "member.kick.sender", {DAVE: "join"}, levels=LEVELS
    ),
    Case("kick", BOB, DAVE, LEFT, None, {BOB: "join", DAVE: "join"}, levels=LEVELS),
    Case(
        "kick level missed",
        BOB,
        DAVE,
        LEFT,
        "member.kick.level",
        {BOB: "join"},
        levels={"users": {BOB: 49}},
    ),
    Case(
        "kick of an equal",
        BOB,
        CAROL,
        LEFT,
        "member.kick.target",
        {BOB: "join", CAROL: "join"},
        levels=LEVELS,
    ),
    Case("withdrawn invite", BOB, DAVE, LEFT, None, {BOB: "join", DAVE: "invite"}, levels=LEVELS),
    Case("unban", BOB, DAVE, LEFT, None, {BOB: "join", DAVE: "ban"}, levels=LEVELS),
    Case(
        "unban level missed",
        BOB,
        DAVE,
        LEFT,
        "member.unban.level",
        {BOB: "join", DAVE: "ban"},
        levels=LEVELS | {"ban": 51},
    ),
    Case(
        "unban without kick level",
        BOB,
        DAVE,
        LEFT,
        "member.kick.level",
        {BOB: "join", DAVE: "ban"},
        levels=LEVELS | {"kick": 51},
    ),
]

BANNED: JsonObject = {"membership": "ban"}
BAN = [
    Case("of a member", BOB, DAVE, BANNED, None, {BOB: "join", DAVE: "join"}, levels=LEVELS),
    Case("of a stranger", BOB, DAVE, BANNED, None, {BOB: "join"}, levels=LEVELS),
    Case("by an outsider", BOB, DAVE, BANNED, "member.ban.sender", {BOB: "leave"}, levels=LEVELS),
    Case(
        "level missed",
        BOB,
        DAVE,
        BANNED,
        "member.ban.level",
        {BOB: "join"},
        levels=LEVELS | {"ban": 51},
    ),
    Case("of an equal", BOB, CAROL, BANNED, "member.ban.target", {BOB: "join"}, levels=LEVELS),
    Case("of oneself", BOB, BOB, BANNED, "member.ban.target", {BOB: "join"}, levels=LEVELS),
]

KNOCKED: JsonObject = {"membership": "knock"}
SINCE_7 = versions_between(7, 12)
KNOCK = [
    Case("by a stranger", BOB, BOB, KNOCKED, None, {}, "knock", versions=SINCE_7),
    Case("after leaving", BOB, BOB, KNOCKED, None, {BOB: "leave"}, "knock", versions=SINCE_7),
    Case("again", BOB, BOB, KNOCKED, None, {BOB: "knock"}, "knock", versions=SINCE_7),
    Case(
        "of a knock_restricted room",
        BOB,
        BOB,
        KNOCKED,
        None,
        {},
        "knock_restricted",
        versions=versions_between(10, 12),
    ),
    Case(
        "knock_restricted unknown yet",
        BOB,
        BOB,
        KNOCKED,
        "member.knock.join_rule",
        {},
        "knock_restricted",
        versions=versions_between(7, 9),
    ),
    Case(
        "of an invite-only room",
        BOB,
        BOB,
        KNOCKED,
        "member.knock.join_rule",
        {},
        "invite",
        versions=SINCE_7,
    ),
    Case(
        "of a room without rules", BOB, BOB, KNOCKED, "member.knock.join_rule", {}, versions=SINCE_7
    ),
    Case(
        "of a restricted room",
        BOB,
        BOB,
        KNOCKED,
        "member.knock.join_rule",
        {},
        "restricted",
        versions=SINCE_7,
    ),
    Case(
        "for someone else", BOB, DAVE, KNOCKED, "member.knock.sender", {}, "knock", versions=SINCE_7
    ),
    Case(
        "when banned",
        BOB,
        BOB,
        KNOCKED,
        "member.knock.membership",
        {BOB: "ban"},
        "knock",
        versions=SINCE_7,
    ),
    Case(
        "when invited",
        BOB,
        BOB,
        KNOCKED,
        "member.knock.membership",
        {BOB: "invite"},
        "knock",
        versions=SINCE_7,
    ),
    Case(
        "when joined",
        BOB,
        BOB,
        KNOCKED,
        "member.knock.membership",
        {BOB: "join"},
        "knock",
        versions=SINCE_7,
    ),
]

TABLE = {
    "shape": SHAPE,
    "join": JOIN,
    "restricted join": RESTRICTED_JOIN,
    "invite": INVITE,
    "leave": LEAVE,
    "ban": BAN,
    "knock": KNOCK,
}


@pytest.mark.parametrize(
    ("case", "version_id"),
    [
        pytest.param(case, version_id, id=f"{group} {case.name} v{version_id}")
        for group, cases in TABLE.items()
        for case in cases
        for version_id in case.versions
    ],
)
def test_attack_3_a_membership_is_allowed_or_refused_by_its_rule(
    case: Case, version_id: str
) -> None:
    room = Room(version_id)
    room.set_members({ALICE: "join", **case.members})
    if case.join_rule is not None:
        room.set_join_rule(case.join_rule)
    if case.levels is not None:
        room.set_levels(case.levels)

    event = room.make(
        "m.room.member",
        case.sender,
        case.content,
        state_key=case.target,
        also_signed_by=case.signed_by,
    )

    assert room.refusal_of(event) == case.rule


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_the_creator_joins_first_without_any_invite(version_id: str) -> None:
    room = Room(version_id)
    first = room.make("m.room.member", ALICE, {"membership": "join"}, state_key=ALICE)
    room.set_members({BOB: "join"})
    later = room.make("m.room.member", ALICE, {"membership": "join"}, state_key=ALICE)

    assert first.prev_events == (room.create.event_id,)
    assert room.refusal_of(first) is None
    assert room.refusal_of(later) == "member.join.not_invited"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_nobody_else_joins_right_after_the_create_event(version_id: str) -> None:
    room = Room(version_id, {"additional_creators": [BOB]})

    event = room.make("m.room.member", BOB, {"membership": "join"}, state_key=BOB)

    assert room.refusal_of(event) == "member.join.not_invited"


@pytest.mark.parametrize("version_id", versions_between(1, 10))
def test_the_first_joiner_is_the_creator_in_the_content_before_version_11(version_id: str) -> None:
    room = Room(version_id, {"creator": DAVE})

    by_creator = room.make("m.room.member", DAVE, {"membership": "join"}, state_key=DAVE)
    by_sender = room.make("m.room.member", ALICE, {"membership": "join"}, state_key=ALICE)

    assert room.refusal_of(by_creator) is None
    assert room.refusal_of(by_sender) == "member.join.not_invited"


def test_the_first_joiner_is_the_sender_of_the_create_event_from_version_11_on() -> None:
    room = Room("11", {"creator": DAVE})

    event = room.make("m.room.member", DAVE, {"membership": "join"}, state_key=DAVE)

    assert room.refusal_of(event) == "member.join.not_invited"


def test_creators_of_version_12_kick_anyone_but_each_other() -> None:
    room = Room("12", {"additional_creators": [CAROL]})
    room.set_levels({"users": {BOB: 2**53 - 1}})
    room.set_members({ALICE: "join", BOB: "join", CAROL: "join"})

    def kick(sender: str, target: str) -> str | None:
        return room.refusal_of(room.make("m.room.member", sender, LEFT, state_key=target))

    assert kick(CAROL, BOB) is None
    assert kick(ALICE, CAROL) == kick(CAROL, ALICE) == "member.kick.target"
    assert kick(BOB, ALICE) == "member.kick.target"
