"""Knocking on rooms of another server."""

import pytest

from synapse_compat_tests.client import Refused, User, eventually, same_state
from synapse_compat_tests.conftest import Pair

_KNOCK = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}


def knockable_room(creator: User) -> str:
    return creator.create_room(
        preset="private_chat", room_version="11", name="Knock here", initial_state=[_KNOCK]
    )


def test_who_knocks_is_seen_and_let_in(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = knockable_room(alice)

    bob.knock(room_id, alice, reason="It is cold")

    alice.see_membership(room_id, bob, "knock")
    knock = alice.state_content(room_id, "m.room.member", bob.user_id)
    assert knock["reason"] == "It is cold"
    alice.invite(room_id, bob)
    bob.see_invite(room_id)
    bob.join(room_id)
    alice.see_membership(room_id, bob, "join")
    same_state(alice, bob, room_id=room_id)


def test_who_knocks_is_shown_what_the_room_is(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = knockable_room(alice)

    bob.knock(room_id, alice)

    def look(answer: dict[str, dict[str, dict[str, object]]]) -> object:
        return answer.get("rooms", {}).get("knock", {}).get(room_id)

    shown = bob.sync_until(look)[0]["knock_state"]["events"]
    assert {"name": "Knock here"} in [event["content"] for event in shown]


def test_a_knock_is_taken_back(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = knockable_room(alice)
    bob.knock(room_id, alice)
    alice.see_membership(room_id, bob, "knock")

    bob.leave(room_id)

    alice.see_membership(room_id, bob, "leave")
    assert room_id not in bob.sync().get("rooms", {}).get("knock", {})


def test_a_knock_is_turned_down(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = knockable_room(alice)
    bob.knock(room_id, alice)
    alice.see_membership(room_id, bob, "knock")

    alice.kick(room_id, bob)

    eventually(
        lambda: room_id not in bob.sync().get("rooms", {}).get("knock", {}), "no knock any more"
    )
    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.join(room_id, alice)


def test_nobody_knocks_where_it_is_not_the_rule(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="private_chat")

    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.knock(room_id, alice)

    assert alice.membership(room_id, bob) is None
