"""Leaving rooms and coming back."""

import pytest

from synapse_compat_tests.client import Refused, eventually, register, same_state, shared_room
from synapse_compat_tests.conftest import Pair, Trio


def test_who_has_left_sees_nothing_more(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    alice.send(room_id, "while together")
    bob.see_text(room_id, "while together")

    bob.leave(room_id)
    alice.see_membership(room_id, bob, "leave")
    alice.send(room_id, "when alone")

    assert bob.texts_in_history(room_id) == ["while together"]
    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.send(room_id, "let me speak")


@pytest.mark.parametrize(("visibility", "sees"), [("shared", True), ("joined", False)])
def test_who_comes_back_sees_what_was_missed_as_far_as_the_room_allows(
    pair: Pair, visibility: str, *, sees: bool
) -> None:
    alice, bob = pair.users()
    history = {
        "type": "m.room.history_visibility",
        "state_key": "",
        "content": {"history_visibility": visibility},
    }
    room_id = shared_room(alice, bob, initial_state=[history])
    alice.send(room_id, "before")
    bob.see_text(room_id, "before")
    bob.leave(room_id)
    alice.see_membership(room_id, bob, "leave")
    alice.send(room_id, "missed")

    bob.join(room_id, alice)
    alice.send(room_id, "after")
    bob.see_text(room_id, "after")

    expected = ["before", "missed", "after"] if sees else ["before", "after"]
    eventually(lambda: bob.texts_in_history(room_id) == expected, f"the history {expected}")


def test_a_server_comes_back_after_its_last_user_has_left(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    bob.leave(room_id)
    alice.see_membership(room_id, bob, "leave")
    alice.set_state(room_id, "m.room.name", {"name": "Changed meanwhile"})
    alice.set_state(room_id, "m.room.topic", {"topic": "Also"})

    bob.join(room_id, alice)

    assert bob.state_content(room_id, "m.room.name") == {"name": "Changed meanwhile"}
    same_state(alice, bob, room_id=room_id)
    bob.send(room_id, "back again")
    alice.see_text(room_id, "back again")


def test_a_neighbour_stays_when_one_leaves(pair: Pair) -> None:
    alice, bob = pair.users()
    carol = register(pair.there, "carol")
    room_id = shared_room(alice, bob, carol)

    bob.leave(room_id)
    alice.see_membership(room_id, bob, "leave")
    alice.send(room_id, "to those who stayed")

    carol.see_text(room_id, "to those who stayed")
    same_state(alice, carol, room_id=room_id)


def test_a_room_goes_on_when_its_creator_has_left_for_ever(trio: Trio) -> None:
    alice, bob, carol = trio.users()
    room_id = shared_room(alice, bob)
    alice.leave(room_id)
    bob.see_membership(room_id, alice, "leave")

    carol.join(room_id, bob)
    carol.send(room_id, "without its creator")

    bob.see_text(room_id, "without its creator")
    bob.send(room_id, "quite well")
    carol.see_text(room_id, "quite well")
    same_state(bob, carol, room_id=room_id)
