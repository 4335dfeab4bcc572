"""The state of a room is the same on every server, whoever changed it and when."""

import threading
from collections.abc import Callable

import pytest

from synapse_compat_tests.client import (
    Refused,
    User,
    eventually,
    register,
    same_state,
    shared_room,
)
from synapse_compat_tests.conftest import Pair, Trio
from synapse_compat_tests.test_moderation import promote

_ODD_KEYS = (
    "a/b/../c",
    "with space",
    "%2F%00",
    "日本 🍰",
    "_@somebody:example.org",
    "k" * 255,
    "+&?#=",
)


def at_once(*actions: Callable[[], object]) -> None:
    """Do everything at the same time. What a server refuses is refused."""
    failures: list[Exception] = []

    def do(action: Callable[[], object]) -> None:
        try:
            action()
        except Refused:
            pass
        except Exception as error:  # noqa: BLE001 - told below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=do, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.short
def test_changes_on_both_sides_at_once_end_in_the_same_state(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    promote(alice, room_id, bob, 50)

    def change(user: User) -> None:
        for number in range(5):
            user.set_state(room_id, "m.room.topic", {"topic": f"{user.user_id} {number}"})
            user.set_state(room_id, "org.example.own", {"number": number}, f"of {user.user_id}")

    at_once(lambda: change(alice), lambda: change(bob))
    alice.send(room_id, "over here")
    bob.send(room_id, "over there")

    alice.see_text(room_id, "over there")
    bob.see_text(room_id, "over here")
    state = same_state(alice, bob, room_id=room_id)
    assert ("org.example.own", f"of {alice.user_id}") in state
    assert ("org.example.own", f"of {bob.user_id}") in state


def test_memberships_that_change_on_all_sides_at_once_end_in_the_same_state(trio: Trio) -> None:
    alice, bob, carol = trio.users()
    room_id = shared_room(alice, bob, carol)
    promote(alice, room_id, bob, 50)
    others = [register(user.server, "other") for user in (alice, bob, carol)]
    for other in others:
        other.join(room_id, alice)

    at_once(
        lambda: alice.kick(room_id, others[2]),
        lambda: bob.ban(room_id, others[0]),
        lambda: others[1].leave(room_id),
        lambda: carol.set_state(room_id, "m.room.topic", {"topic": "Not mine to set"}),
        lambda: others[2].send(room_id, "wait"),
    )

    for user in (alice, bob, carol):
        user.send(room_id, f"done {user.user_id}")
    for user in (alice, bob, carol):
        for other in (alice, bob, carol):
            user.see_text(room_id, f"done {other.user_id}")
    same_state(alice, bob, carol, room_id=room_id)


def test_two_who_take_power_from_each_other_at_once_leave_one_state(pair: Pair) -> None:
    alice, bob = pair.users()
    carol = register(pair.there, "carol")
    room_id = shared_room(alice, bob, carol)
    promote(alice, room_id, bob, 90)
    promote(alice, room_id, carol, 50)
    content = bob.state_content(room_id, "m.room.power_levels")

    at_once(
        lambda: alice.set_state(
            room_id,
            "m.room.power_levels",
            {**content, "users": {**content["users"], bob.user_id: 0}},
        ),
        lambda: bob.set_state(
            room_id,
            "m.room.power_levels",
            {**content, "users": {**content["users"], carol.user_id: 0}},
        ),
        lambda: carol.set_state(room_id, "m.room.topic", {"topic": "Calm down"}),
    )

    for user in (alice, bob):
        user.send(room_id, f"done {user.user_id}")
        for other in (alice, bob):
            other.see_text(room_id, f"done {user.user_id}")
    same_state(alice, bob, room_id=room_id)


def test_state_under_odd_keys_arrives(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)

    for number, key in enumerate(_ODD_KEYS):
        alice.set_state(room_id, "org.example.odd/ type 🔑", {"number": number}, key)

    state = same_state(alice, bob, room_id=room_id)
    for key in _ODD_KEYS:
        assert ("org.example.odd/ type 🔑", key) in state
    for number, key in enumerate(_ODD_KEYS):
        assert bob.state_content(room_id, "org.example.odd/ type 🔑", key) == {"number": number}


def test_state_named_after_a_user_is_that_users(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    levels = alice.state_content(room_id, "m.room.power_levels")
    levels["events"] = {**levels["events"], "org.example.mine": 0}
    alice.set_state(room_id, "m.room.power_levels", levels)
    eventually(
        lambda: "org.example.mine" in bob.state_content(room_id, "m.room.power_levels")["events"],
        "bob may set it",
    )

    bob.set_state(room_id, "org.example.mine", {"hat": "red"}, bob.user_id)
    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.set_state(room_id, "org.example.mine", {"hat": "blue"}, alice.user_id)

    eventually(
        lambda: alice.state_content(room_id, "org.example.mine", bob.user_id) == {"hat": "red"},
        "alice sees it",
    )
    same_state(alice, bob, room_id=room_id)


def test_state_is_redacted_across(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    event_id = alice.set_state(room_id, "m.room.topic", {"topic": "A slip"})
    eventually(lambda: bob.state_content(room_id, "m.room.topic"), "bob sees the topic")

    alice.redact(room_id, event_id)

    eventually(lambda: bob.state_content(room_id, "m.room.topic") == {}, "it is gone there")
    same_state(alice, bob, room_id=room_id)


def test_a_changed_name_and_avatar_are_seen_in_the_room(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)

    bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bob 🍰"})
    bob.put(f"/profile/{bob.user_id}/avatar_url", {"avatar_url": "mxc://example.org/hat"})

    def is_seen() -> bool:
        content = alice.state_content(room_id, "m.room.member", bob.user_id)
        wanted = ("Bob 🍰", "mxc://example.org/hat")
        return (content.get("displayname"), content.get("avatar_url")) == wanted

    eventually(is_seen, "alice sees the new name and avatar")
    same_state(alice, bob, room_id=room_id)
    joined = alice.get(f"/rooms/{room_id}/joined_members")["joined"]
    assert joined[bob.user_id]["display_name"] == "Bob 🍰"


def test_state_of_the_past_is_that_of_the_past(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id, alice)
    alice.set_state(room_id, "m.room.topic", {"topic": "Old"})
    event_id = alice.send(room_id, "of the old topic")
    alice.set_state(room_id, "m.room.topic", {"topic": "New"})
    alice.send(room_id, "of the new topic")
    bob.see_text(room_id, "of the new topic")

    context = bob.get(f"/rooms/{room_id}/context/{event_id}", limit=0)

    (topic,) = (event for event in context["state"] if event["type"] == "m.room.topic")
    assert topic["content"]["topic"] == "Old"
