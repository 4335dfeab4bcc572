from itertools import product

import pytest

from homeserver.core.history_visibility import (
    HistoryVisibility,
    can_see_event,
    can_server_see_event,
    find_changes,
    parse_history_visibility,
)
from homeserver.core.json_types import JsonObject, JsonValue

WORLD, SHARED, INVITED, JOINED = HistoryVisibility
MEMBERSHIPS = (None, "invite", "join", "knock", "leave", "ban")
ALICE = "@alice:example.org"

# Who sees an event sent under each visibility: memberships at the event, if the user never joined
# afterwards and if the user did.
SEEN_BY: dict[HistoryVisibility, tuple[set[str | None], set[str | None]]] = {
    WORLD: (set(MEMBERSHIPS), set(MEMBERSHIPS)),
    SHARED: ({"join"}, set(MEMBERSHIPS)),
    INVITED: ({"invite", "join"}, {"invite", "join"}),
    JOINED: ({"join"}, {"join"}),
}
TABLE = list(product(HistoryVisibility, MEMBERSHIPS, (False, True)))


@pytest.mark.parametrize(("visibility", "membership", "has_joined_later"), TABLE)
def test_an_event_is_seen_as_the_table_says(
    visibility: HistoryVisibility, membership: str | None, has_joined_later: bool
) -> None:
    expected = membership in SEEN_BY[visibility][has_joined_later]

    assert can_see_event(visibility, membership, has_joined_later=has_joined_later) is expected


@pytest.mark.parametrize(("visibility", "before", "has_joined_later"), TABLE)
@pytest.mark.parametrize("after", MEMBERSHIPS[1:])
def test_own_membership_change_is_seen_with_the_old_or_the_new_membership(
    visibility: HistoryVisibility, before: str | None, has_joined_later: bool, after: str
) -> None:
    seen_by = SEEN_BY[visibility][has_joined_later]

    seen = can_see_event(
        visibility, before, has_joined_later=has_joined_later, new_membership=after
    )

    assert seen is (before in seen_by or after in seen_by)


@pytest.mark.parametrize(("before", "membership", "has_joined_later"), TABLE)
@pytest.mark.parametrize("after", HistoryVisibility)
def test_visibility_change_is_seen_with_the_old_or_the_new_visibility(
    before: HistoryVisibility,
    membership: str | None,
    has_joined_later: bool,
    after: HistoryVisibility,
) -> None:
    seen = can_see_event(
        before, membership, has_joined_later=has_joined_later, new_visibility=after
    )

    assert seen is any(membership in SEEN_BY[value][has_joined_later] for value in (before, after))


def test_a_user_sees_the_own_ban_but_not_what_follows() -> None:
    assert can_see_event(JOINED, "join", has_joined_later=False, new_membership="ban")
    assert not can_see_event(JOINED, "ban", has_joined_later=False)


def test_an_invited_user_sees_no_shared_history_before_joining() -> None:
    assert not can_see_event(SHARED, "invite", has_joined_later=False)
    assert can_see_event(SHARED, "invite", has_joined_later=True)


@pytest.mark.parametrize("value", [None, "", "everybody", 1, ["joined"], {"joined": True}])
def test_an_unknown_visibility_means_shared(value: JsonValue) -> None:
    assert parse_history_visibility(value) is SHARED


@pytest.mark.parametrize("visibility", HistoryVisibility)
def test_a_known_visibility_is_read(visibility: HistoryVisibility) -> None:
    assert parse_history_visibility(visibility.value) is visibility


def test_only_the_room_s_visibility_event_changes_the_visibility() -> None:
    content: JsonObject = {"history_visibility": "joined"}

    assert find_changes("m.room.history_visibility", "", content, ALICE) == (JOINED, None)
    assert find_changes("m.room.history_visibility", "x", content, ALICE) == (None, None)
    assert find_changes("m.room.history_visibility", None, content, ALICE) == (None, None)
    assert find_changes("m.room.history_visibility", "", {}, ALICE) == (SHARED, None)


def test_only_the_user_s_own_member_event_changes_the_membership() -> None:
    content: JsonObject = {"membership": "leave"}

    assert find_changes("m.room.member", ALICE, content, ALICE) == (None, "leave")
    assert find_changes("m.room.member", "@bob:example.org", content, ALICE) == (None, None)
    assert find_changes("m.room.member", ALICE, {"membership": 5}, ALICE) == (None, None)
    assert find_changes("m.room.message", None, content, ALICE) == (None, None)


@pytest.mark.parametrize(
    ("visibility", "memberships", "is_in_room", "expected"),
    [
        (WORLD, {}, False, True),
        (SHARED, {}, False, False),
        (SHARED, {}, True, True),
        (SHARED, {ALICE: "join"}, False, True),
        (INVITED, {}, True, False),
        (INVITED, {ALICE: "invite"}, False, True),
        (INVITED, {ALICE: "leave"}, True, False),
        (JOINED, {ALICE: "invite"}, True, False),
        (JOINED, {ALICE: "join"}, False, True),
        (JOINED, {ALICE: "leave", "@bob:example.org": "join"}, False, True),
        (JOINED, {ALICE: "leave", "@bob:example.org": "ban"}, True, False),
    ],
)
def test_a_server_sees_what_one_of_its_users_may_see(
    visibility: HistoryVisibility, memberships: dict[str, str], is_in_room: bool, expected: bool
) -> None:
    assert (
        can_server_see_event(
            visibility,
            memberships,
            is_in_room=is_in_room,
            event_type="m.room.message",
            state_key=None,
            content={},
        )
        is expected
    )


@pytest.mark.parametrize(
    ("event_type", "state_key", "content", "expected"),
    [
        ("m.room.member", ALICE, {"membership": "join"}, True),
        ("m.room.member", ALICE, {"membership": "leave"}, False),
        ("m.room.member", None, {"membership": "join"}, False),
        ("m.room.history_visibility", "", {"history_visibility": "shared"}, True),
        ("m.room.history_visibility", "", {"history_visibility": "invited"}, False),
    ],
)
def test_an_event_is_seen_by_a_server_by_what_it_sets_too(
    event_type: str, state_key: str | None, content: JsonObject, expected: bool
) -> None:
    assert (
        can_server_see_event(
            JOINED,
            {},
            is_in_room=True,
            event_type=event_type,
            state_key=state_key,
            content=content,
        )
        is expected
    )
