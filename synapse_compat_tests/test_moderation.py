"""Kicks, bans, power levels and access lists across servers."""

import pytest

from synapse_compat_tests.client import Refused, User, eventually, same_state, shared_room
from synapse_compat_tests.conftest import Pair, Trio


def promote(user: User, room_id: str, other: User, level: int) -> None:
    """Give somebody a power level, and wait until their server knows."""
    content = user.state_content(room_id, "m.room.power_levels")
    content["users"] = {**content.get("users", {}), other.user_id: level}
    user.set_state(room_id, "m.room.power_levels", content)

    def is_known() -> bool:
        found = other.state_content(room_id, "m.room.power_levels")
        return bool(found["users"].get(other.user_id) == level)

    eventually(is_known, f"{other.user_id} has power {level}")


def is_without(user: User, room_id: str, text: str) -> bool:
    return text not in [event["content"].get("body") for event in user.messages(room_id)]


@pytest.mark.short
def test_who_is_kicked_is_out_on_both_sides_and_may_come_back(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)

    alice.kick(room_id, bob)

    eventually(lambda: room_id in bob.sync_left(), "bob sees that he is out")
    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.send(room_id, "let me speak")
    bob.join(room_id, alice)
    alice.see_membership(room_id, bob, "join")
    same_state(alice, bob, room_id=room_id)


def test_who_is_banned_stays_out_until_unbanned(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)

    alice.ban(room_id, bob)

    eventually(lambda: room_id in bob.sync_left(), "bob sees that he is out")
    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.join(room_id, alice)
    with pytest.raises(Refused, match=r"M_(FORBIDDEN|BAD_STATE)"):
        alice.invite(room_id, bob)
    alice.unban(room_id, bob)
    bob.join(room_id, alice)
    alice.see_membership(room_id, bob, "join")
    same_state(alice, bob, room_id=room_id)


def test_who_was_never_in_is_banned_beforehand(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat")

    alice.ban(room_id, bob)

    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.join(room_id, alice)
    assert alice.membership(room_id, bob) == "ban"


def test_power_is_needed_and_given_across(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.set_state(room_id, "m.room.topic", {"topic": "Not yet"})

    promote(alice, room_id, bob, 50)
    bob.set_state(room_id, "m.room.topic", {"topic": "Now"})

    eventually(
        lambda: alice.state_content(room_id, "m.room.topic") == {"topic": "Now"}, "the topic"
    )
    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.kick(room_id, alice)
    promote(alice, room_id, bob, 0)
    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.set_state(room_id, "m.room.topic", {"topic": "No longer"})
    same_state(alice, bob, room_id=room_id)


def test_a_moderator_elsewhere_redacts_kicks_and_bans(trio: Trio) -> None:
    alice, bob, carol = trio.users()
    room_id = shared_room(alice, bob, carol)
    promote(alice, room_id, bob, 50)
    spam = carol.send(room_id, "spam")
    bob.see_text(room_id, "spam")

    bob.redact(room_id, spam)
    bob.ban(room_id, carol)

    eventually(lambda: alice.event(room_id, spam)["content"] == {}, "alice sees no spam")
    alice.see_membership(room_id, carol, "ban")
    eventually(lambda: room_id in carol.sync_left(), "carol sees that she is out")
    same_state(alice, bob, room_id=room_id)


def test_nobody_takes_power_away_from_their_equals(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob, room_version="11")
    promote(alice, room_id, bob, 100)
    content = bob.state_content(room_id, "m.room.power_levels")

    content["users"][alice.user_id] = 0
    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.set_state(room_id, "m.room.power_levels", content)

    same_state(alice, bob, room_id=room_id)


def test_what_a_server_in_the_access_list_sends_is_not_seen(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    bob.send(room_id, "welcome")
    alice.see_text(room_id, "welcome")
    list_of_all: dict[str, object] = {"allow": ["*"], "allow_ip_literals": True}

    alice.set_state(room_id, "m.room.server_acl", {**list_of_all, "deny": [pair.there.address]})
    eventually(
        lambda: bob.state_content(room_id, "m.room.server_acl")["deny"], "bob's server knows"
    )
    bob.send(room_id, "denied")
    alice.send(room_id, "Who hears me?")
    # What is sent elsewhere arrives after what was sent before it: then the denied one is decided.
    other = shared_room(alice, bob)
    bob.send(other, "later")
    alice.see_text(other, "later")

    assert is_without(alice, room_id, "denied")


def test_a_server_in_the_access_list_does_not_join(pair: Pair) -> None:
    alice, bob = pair.users()
    acl = {"allow": ["*"], "deny": [pair.there.address], "allow_ip_literals": True}
    room_id = alice.create_room(
        preset="public_chat",
        initial_state=[{"type": "m.room.server_acl", "state_key": "", "content": acl}],
    )

    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.join(room_id, alice)

    assert alice.members(room_id) == {alice.user_id}


def test_a_server_taken_off_the_access_list_is_heard_again(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    acl = {"allow": ["*"], "deny": [pair.there.address], "allow_ip_literals": True}
    alice.set_state(room_id, "m.room.server_acl", acl)
    eventually(
        lambda: bob.state_content(room_id, "m.room.server_acl")["deny"], "bob's server knows"
    )

    alice.set_state(room_id, "m.room.server_acl", {**acl, "deny": []})
    eventually(
        lambda: bob.state_content(room_id, "m.room.server_acl")["deny"] == [],
        "bob's server knows that it is over",
    )
    bob.send(room_id, "forgiven")

    alice.see_text(room_id, "forgiven")
    same_state(alice, bob, room_id=room_id)
