"""The authorization rules but those of m.room.member and m.room.power_levels."""

from typing import Any

import pytest

from homeserver.core.errors import EventRejected
from homeserver.core.event_auth import (
    check_auth_events_selection,
    check_event_auth,
    may_apply_redaction,
)
from homeserver.core.events import Event, parse_event
from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject
from homeserver.core.power_levels import power_levels_of
from tests.core.scenario import ALICE, ALL_VERSIONS, BOB, CAROL, DAVE, Room, versions_between

UNTIL_10 = versions_between(1, 10)
UNTIL_11 = versions_between(1, 11)


def create_refusal(room: Room, **changes: Any) -> str | None:
    pdu = {key: value for key, value in (room.create.pdu | changes).items() if value is not None}
    return room.refusal_of(parse_event(room.version, pdu))


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_a_create_event_begins_a_room(version_id: str) -> None:
    room = Room(version_id)
    room.state.clear()

    assert room.refusal_of(room.create) is None


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_a_create_event_has_nothing_before_it(version_id: str) -> None:
    room = Room(version_id)
    second = room.make("m.room.create", ALICE, room.create.content, state_key="")

    assert room.refusal_of(second) == "create.prev_events"


@pytest.mark.parametrize("version_id", UNTIL_11)
def test_attack_3_a_create_event_has_the_empty_state_key(version_id: str) -> None:
    assert create_refusal(Room(version_id), state_key="x") == "create.state_key"
    assert create_refusal(Room(version_id), state_key=None) == "create.state_key"


def test_attack_3_a_create_event_of_version_12_has_the_empty_state_key() -> None:
    room = Room("12")

    assert create_refusal(room, room_id=room.room_id, state_key="x") == "create.state_key"
    assert create_refusal(room, room_id=room.room_id, state_key=None) == "create.state_key"


@pytest.mark.parametrize("version_id", UNTIL_11)
def test_attack_3_a_create_event_is_of_the_server_in_its_room_id(version_id: str) -> None:
    room = Room(version_id)

    assert create_refusal(room, room_id="!room:b.example") == "create.room_id"
    assert create_refusal(room, sender=BOB) == "create.room_id"


def test_attack_3_a_create_event_of_version_12_names_no_room_id() -> None:
    room = Room("12")

    assert create_refusal(room, room_id=room.room_id) == "create.room_id"
    assert create_refusal(room, room_id="!room:a.example") == "create.room_id"
    assert create_refusal(room, room_id=3) == "create.room_id"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
@pytest.mark.parametrize("room_version", ["99", "", None, 12, ["12"], {}])
def test_attack_3_a_create_event_names_a_known_version(version_id: str, room_version: Any) -> None:
    content = Room(version_id).create.content | {"room_version": room_version}

    assert create_refusal(Room(version_id), content=content) == "create.room_version"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_a_create_event_need_not_name_a_version(version_id: str) -> None:
    assert create_refusal(Room(version_id), content={"creator": ALICE}) is None


def test_a_create_event_names_its_creator_before_version_11() -> None:
    for version_id in UNTIL_10:
        assert create_refusal(Room(version_id), content={}) == "create.creator"
    for version_id in ("11", "12"):
        assert create_refusal(Room(version_id), content={}) is None


@pytest.mark.parametrize(
    "additional",
    [
        None,
        3,
        "text",
        BOB,
        {BOB: 1},
        [3],
        [None],
        [[BOB]],
        ["bob"],
        [BOB, "@bob"],
        ["@b:" + "x" * 253],
    ],
)
def test_attack_3_additional_creators_are_user_ids(additional: Any) -> None:
    content: JsonObject = {"additional_creators": additional}

    assert create_refusal(Room("12"), content=content) == "create.additional_creators"
    assert create_refusal(Room("11"), content=content) is None


@pytest.mark.parametrize("additional", [[], [BOB], [ALICE, BOB, BOB], ["@Old User:b.example"]])
def test_additional_creators_may_be_any_user_ids(additional: Any) -> None:
    assert create_refusal(Room("12"), content={"additional_creators": additional}) is None


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_nothing_is_allowed_without_a_create_event(version_id: str) -> None:
    room = Room(version_id)
    room.set_members({ALICE: "join"})
    event = room.make("m.room.message", ALICE)
    del room.state["m.room.create", ""]

    assert room.refusal_of(event) == "room.no_create"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_the_create_event_of_another_room_allows_nothing(version_id: str) -> None:
    room = Room(version_id)
    room.set_members({ALICE: "join"})
    room.room_id = RoomID("!other" if version_id == "12" else "!other:a.example")

    assert room.refusal_of(room.make("m.room.message", ALICE)) == "room.other_create"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_a_room_may_be_closed_to_other_servers(version_id: str) -> None:
    room = Room(version_id, {"m.federate": False})
    room.set_members({ALICE: "join", BOB: "join"})
    neighbor = "@neighbor:a.example"
    room.set_join_rule("public")

    assert room.refusal_of(room.make("m.room.message", BOB)) == "room.not_federated"
    assert room.refusal_of(room.make("m.room.message", ALICE)) is None
    join = room.make("m.room.member", neighbor, {"membership": "join"}, state_key=neighbor)
    assert room.refusal_of(join) is None


@pytest.mark.parametrize("federate", [True, None, 0, "false", []])
def test_only_false_closes_a_room(federate: Any) -> None:
    room = Room("12", {"m.federate": federate})
    room.set_members({BOB: "join"})

    assert room.refusal_of(room.make("m.room.message", BOB)) is None


@pytest.mark.parametrize("version_id", versions_between(1, 5))
def test_attack_3_aliases_are_set_by_their_own_server_before_version_6(version_id: str) -> None:
    room = Room(version_id)

    def refusal(sender: str, state_key: str | None) -> str | None:
        return room.refusal_of(room.make("m.room.aliases", sender, {}, state_key=state_key))

    assert refusal(BOB, "b.example") is None
    assert refusal(BOB, "a.example") == "aliases.domain"
    assert refusal(BOB, "") == "aliases.domain"
    assert refusal(BOB, None) == "aliases.state_key"


@pytest.mark.parametrize("version_id", versions_between(6, 12))
def test_aliases_are_like_any_state_from_version_6_on(version_id: str) -> None:
    room = Room(version_id)
    event = room.make("m.room.aliases", BOB, {}, state_key="b.example")

    assert room.refusal_of(event) == "sender.not_joined"
    room.set_members({BOB: "join"})
    assert room.refusal_of(event) == "sender.level"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
@pytest.mark.parametrize("membership", ["leave", "invite", "ban", "knock", "unknown"])
def test_attack_3_only_members_send_events(version_id: str, membership: str) -> None:
    room = Room(version_id)
    event = room.make("m.room.message", BOB)

    assert room.refusal_of(event) == "sender.not_joined"
    room.set_members({BOB: membership})
    assert room.refusal_of(event) == "sender.not_joined"
    room.set_members({BOB: "join"})
    assert room.refusal_of(event) is None


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_an_event_type_needs_its_level(version_id: str) -> None:
    room = Room(version_id)
    room.set_members({BOB: "join"})
    room.set_levels({"users": {BOB: 50}, "events_default": 50, "events": {"m.room.name": 51}})

    def refusal(event_type: str, state_key: str | None) -> str | None:
        return room.refusal_of(room.make(event_type, BOB, {}, state_key=state_key))

    assert refusal("m.room.message", None) is None
    assert refusal("m.room.topic", "") is None
    assert refusal("m.room.name", "") == "sender.level"
    assert refusal("m.room.name", None) == "sender.level"
    room.set_levels({"users": {BOB: 49}, "events_default": 50})
    assert refusal("m.room.message", None) == "sender.level"
    assert refusal("m.room.topic", "") == "sender.level"


def test_creators_of_version_12_need_no_level() -> None:
    room = Room("12", {"additional_creators": [CAROL]})
    room.set_members({ALICE: "join", CAROL: "join"})
    room.set_levels({"events": {"m.room.tombstone": 2**53 - 1}})

    for creator in (ALICE, CAROL):
        assert room.refusal_of(room.make("m.room.tombstone", creator, {}, state_key="")) is None


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_a_state_key_with_a_user_id_is_for_that_user(version_id: str) -> None:
    room = Room(version_id)
    room.set_members({ALICE: "join"})

    def refusal(state_key: str) -> str | None:
        return room.refusal_of(room.make("org.example", ALICE, {}, state_key=state_key))

    assert refusal(ALICE) is None
    assert refusal("other") is None
    assert refusal(BOB) == "sender.state_key"
    assert refusal("@") == "sender.state_key"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_third_party_invites_need_the_invite_level_only(version_id: str) -> None:
    room = Room(version_id)
    room.set_members({BOB: "join"})
    event = room.make("m.room.third_party_invite", BOB, {}, state_key="@token")
    room.set_levels({"invite": 10, "users": {BOB: 10}, "state_default": 50})

    assert room.refusal_of(event) is None
    room.set_levels({"invite": 11, "users": {BOB: 10}, "state_default": 0})
    assert room.refusal_of(event) == "third_party_invite.level"
    room.set_members({BOB: "leave"})
    assert room.refusal_of(event) == "sender.not_joined"


@pytest.mark.parametrize("version_id", ["1", "2"])
def test_attack_3_redactions_are_authorized_in_versions_1_and_2(version_id: str) -> None:
    room = Room(version_id)
    room.set_members({BOB: "join"})

    def refusal(redacts: str | None) -> str | None:
        target = None if redacts is None else EventID(redacts)
        return room.refusal_of(room.make("m.room.redaction", BOB, redacts=target))

    assert refusal("$event:b.example") is None
    assert refusal("$event:a.example") == "redaction.level"
    assert refusal("$event") == "redaction.level"
    assert refusal(None) == "redaction.level"
    room.set_levels({"users": {BOB: 50}})
    assert refusal("$event:a.example") is None


@pytest.mark.parametrize("version_id", versions_between(3, 12))
def test_redactions_are_like_any_event_from_version_3_on(version_id: str) -> None:
    room = Room(version_id)
    room.set_members({BOB: "join"})
    event = room.make("m.room.redaction", BOB, redacts=EventID("$event"))

    assert room.refusal_of(event) is None
    room.set_levels({"events": {"m.room.redaction": 1}})
    assert room.refusal_of(event) == "sender.level"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_a_redaction_is_applied_if_its_sender_may_redact(version_id: str) -> None:
    room = Room(version_id)
    room.set_levels({"users": {BOB: 50}})
    original = room.make("m.room.message", ALICE, {"body": "hello"})
    levels = power_levels_of(room.version, room.state)

    def applied(sender: str, target: Event = original) -> bool:
        redaction = room.make("m.room.redaction", sender, redacts=target.event_id)
        return may_apply_redaction(redaction, original, levels)

    decided_by_auth_rules = version_id in {"1", "2"}
    assert applied(BOB)
    assert applied("@neighbor:a.example")
    assert applied(CAROL) is decided_by_auth_rules
    assert not applied(BOB, room.create)


def test_attack_3_a_redaction_reaches_into_no_other_room() -> None:
    room, other = Room("11"), Room("11")
    original = room.make("m.room.message", ALICE, {"body": "hello"})
    other.room_id = RoomID("!other:a.example")
    redaction = other.make("m.room.redaction", ALICE, redacts=original.event_id)

    assert not may_apply_redaction(redaction, original, power_levels_of(room.version, room.state))


def selection_refusal(event: Event, auth_events: list[Event]) -> str | None:
    try:
        check_auth_events_selection(event, auth_events)
    except EventRejected as rejected:
        return rejected.rule
    return None


@pytest.fixture(params=ALL_VERSIONS)
def room(request: pytest.FixtureRequest) -> Room:
    room = Room(request.param)
    room.set_members({ALICE: "join", BOB: "join"})
    room.set_levels({})
    return room


def cited(room: Room, *more: Event) -> list[Event]:
    levels, member = room.state["m.room.power_levels", ""], room.state["m.room.member", ALICE]
    create = [] if room.version.room_id_is_create_hash else [room.create]
    return [*create, levels, member, *more]


def test_an_event_cites_the_selected_events(room: Room) -> None:
    event = room.make("m.room.message", ALICE)

    assert selection_refusal(event, cited(room)) is None
    assert selection_refusal(event, cited(room)[:1]) is None
    assert selection_refusal(room.create, []) is None


def test_attack_3_no_key_is_cited_twice(room: Room) -> None:
    event = room.make("m.room.message", ALICE)
    again = room.make("m.room.member", ALICE, {"membership": "leave"}, state_key=ALICE)

    assert selection_refusal(event, cited(room, again)) == "auth_events.duplicate"
    assert selection_refusal(event, cited(room, cited(room)[0])) == "auth_events.duplicate"


def test_attack_3_nothing_unexpected_is_cited(room: Room) -> None:
    event = room.make("m.room.message", ALICE)

    for unexpected in (
        room.state["m.room.member", BOB],
        room.make("m.room.topic", ALICE, {}, state_key=""),
        room.make("m.room.member", ALICE, {"membership": "join"}),
    ):
        assert selection_refusal(event, cited(room, unexpected)) == "auth_events.unexpected"
    assert selection_refusal(room.create, cited(room)[-1:]) == "auth_events.unexpected"


def test_attack_3_the_create_event_is_cited_before_version_12_only(room: Room) -> None:
    event = room.make("m.room.message", ALICE)
    others = [other for other in cited(room) if other is not room.create]

    if room.version.room_id_is_create_hash:
        assert selection_refusal(event, [room.create, *others]) == "auth_events.unexpected"
    else:
        assert selection_refusal(event, others) == "auth_events.no_create"


def test_attack_3_nothing_of_another_room_is_cited(room: Room) -> None:
    event = room.make("m.room.message", ALICE)
    room.room_id = RoomID("!x" if room.version.room_id_is_create_hash else "!x:a.example")
    foreign = room.make("m.room.member", ALICE, {"membership": "join"}, state_key=ALICE)

    assert selection_refusal(event, [*cited(room)[:-1], foreign]) == "auth_events.other_room"


def test_a_refusal_names_its_rule_and_reason() -> None:
    room = Room("12")

    with pytest.raises(EventRejected, match=r"sender\.not_joined: @dave:d\.example is not in"):
        check_event_auth(room.make("m.room.message", DAVE), room.state)
