"""Rooms across servers: every way in."""

import pytest

from synapse_compat_tests.client import Refused, register, same_state, shared_room
from synapse_compat_tests.conftest import Pair, Trio

VERSIONS = tuple(str(number) for number in range(1, 13))


def restricted_to(room_id: str, join_rule: str = "restricted") -> dict[str, object]:
    allow = [{"type": "m.room_membership", "room_id": room_id}]
    content = {"join_rule": join_rule, "allow": allow}
    return {"type": "m.room.join_rules", "state_key": "", "content": content}


@pytest.mark.short
def test_who_joins_a_public_room_by_alias_talks_with_those_in_it(pair: Pair) -> None:
    alice, bob = pair.users()
    name = alice.user_id[1:].partition(":")[0]
    room_id = alice.create_room(preset="public_chat", room_alias_name=name)

    bob.join(f"#{name}:{pair.here.name}")
    bob.send(room_id, "hello from there")
    alice.see_text(room_id, "hello from there")
    alice.send(room_id, "hello from here")
    bob.see_text(room_id, "hello from here")

    same_state(alice, bob, room_id=room_id)


def test_who_knows_a_room_and_a_server_in_it_joins(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat", name="Named")

    assert bob.join(room_id, alice) == room_id

    alice.see_membership(room_id, bob, "join")
    assert bob.state_content(room_id, "m.room.name") == {"name": "Named"}
    same_state(alice, bob, room_id=room_id)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_room_of_any_version_is_talked_in_and_moderated_across(pair: Pair, version: str) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob, room_version=version)

    first = bob.send(room_id, "from there")
    alice.see_text(room_id, "from there")
    alice.redact(room_id, first)
    alice.set_state(room_id, "m.room.topic", {"topic": f"Version {version}"})
    alice.send(room_id, "from here")
    bob.see_text(room_id, "from here")
    bob.leave(room_id)
    alice.see_membership(room_id, bob, "leave")
    bob.join(room_id, alice)

    same_state(alice, bob, room_id=room_id)
    assert bob.event(room_id, first)["content"] == {}


def test_an_invited_user_joins_a_private_room(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="private_chat")

    alice.invite(room_id, bob)
    bob.see_invite(room_id)
    bob.join(room_id)

    alice.see_membership(room_id, bob, "join")
    bob.send(room_id, "thank you")
    alice.see_text(room_id, "thank you")
    same_state(alice, bob, room_id=room_id)


def test_who_is_not_invited_does_not_join_a_private_room(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="private_chat")

    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.join(room_id, alice)

    assert alice.membership(room_id, bob) is None


def test_a_member_of_an_allowed_room_joins_a_restricted_room(pair: Pair) -> None:
    alice, bob = pair.users()
    club = shared_room(alice, bob)
    room_id = alice.create_room(
        preset="private_chat", room_version="11", initial_state=[restricted_to(club)]
    )

    bob.join(room_id, alice)

    alice.see_membership(room_id, bob, "join")
    content = alice.state_content(room_id, "m.room.member", bob.user_id)
    assert content["join_authorised_via_users_server"] == alice.user_id
    same_state(alice, bob, room_id=room_id)


def test_somebody_else_does_not_join_a_restricted_room(pair: Pair) -> None:
    alice, bob = pair.users()
    club = alice.create_room(preset="private_chat")
    room_id = alice.create_room(
        preset="private_chat", room_version="11", initial_state=[restricted_to(club)]
    )

    with pytest.raises(Refused, match=r"M_(FORBIDDEN|UNABLE_TO_AUTHORISE_JOIN)"):
        bob.join(room_id, alice)


def test_a_second_user_joins_a_restricted_room_that_their_server_is_in(pair: Pair) -> None:
    alice, bob = pair.users()
    carol = register(pair.there, "carol")
    club = shared_room(alice, bob, carol)
    room_id = alice.create_room(
        preset="private_chat", room_version="11", initial_state=[restricted_to(club)]
    )
    bob.join(room_id, alice)

    carol.join(room_id, alice)

    alice.see_membership(room_id, carol, "join")
    same_state(alice, bob, room_id=room_id)


def test_two_users_of_one_server_join_a_room_of_another(pair: Pair) -> None:
    alice, bob = pair.users()
    carol = register(pair.there, "carol")
    room_id = alice.create_room(preset="public_chat")

    bob.join(room_id, alice)
    carol.join(room_id, alice)

    carol.send(room_id, "both here")
    for user in (alice, bob):
        user.see_membership(room_id, carol, "join")
        user.see_text(room_id, "both here")
    same_state(alice, bob, room_id=room_id)


def test_a_room_that_is_not_federated_is_not_joined(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat", creation_content={"m.federate": False})

    with pytest.raises(Refused, match=r"M_(FORBIDDEN|NOT_FOUND|UNKNOWN)"):
        bob.join(room_id, alice)

    assert alice.members(room_id) == {alice.user_id}


def test_joining_again_does_no_harm(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)

    bob.join(room_id, alice)
    bob.join(room_id)

    bob.send(room_id, "still here")
    alice.see_text(room_id, "still here")
    same_state(alice, bob, room_id=room_id)


def test_a_room_is_joined_through_a_server_other_than_its_creators(trio: Trio) -> None:
    alice, bob, carol = trio.users()
    room_id = shared_room(alice, bob)

    carol.join(room_id, bob)

    carol.send(room_id, "came by the back door")
    for user in (alice, bob):
        user.see_text(room_id, "came by the back door")
    same_state(alice, bob, carol, room_id=room_id)
