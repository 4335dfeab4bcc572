"""Invitations of users of another server."""

import uuid

import pytest

from synapse_compat_tests.client import Refused, eventually, register, same_state, shared_room
from synapse_compat_tests.conftest import Pair


@pytest.mark.short
def test_an_invite_shows_what_the_room_is(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="private_chat", name="Cellar", topic="Wine")

    alice.post(f"/rooms/{room_id}/invite", {"user_id": bob.user_id, "reason": "Come down"})

    shown = {(event["type"], event["state_key"]): event for event in bob.see_invite(room_id)}
    assert shown["m.room.name", ""]["content"] == {"name": "Cellar"}
    assert shown["m.room.join_rules", ""]["content"] == {"join_rule": "invite"}
    assert shown["m.room.create", ""]["sender"] == alice.user_id
    invite = shown["m.room.member", bob.user_id]
    assert invite["sender"] == alice.user_id
    assert invite["content"]["membership"] == "invite"
    assert invite["content"]["reason"] == "Come down"


def test_an_invite_is_rejected_and_sent_again(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="private_chat")
    alice.invite(room_id, bob)
    bob.see_invite(room_id)

    bob.leave(room_id)

    alice.see_membership(room_id, bob, "leave")
    bob.sync_until(lambda answer: room_id not in answer.get("rooms", {}).get("invite", {}))
    alice.invite(room_id, bob)
    bob.see_invite(room_id)
    bob.join(room_id)
    alice.see_membership(room_id, bob, "join")
    same_state(alice, bob, room_id=room_id)


def test_an_invite_is_taken_back(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="private_chat")
    alice.invite(room_id, bob)
    bob.see_invite(room_id)

    alice.kick(room_id, bob)

    eventually(
        lambda: room_id not in bob.sync().get("rooms", {}).get("invite", {}), "no invite any more"
    )
    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.join(room_id, alice)


def test_a_user_who_does_not_exist_cannot_be_invited(pair: Pair) -> None:
    alice = register(pair.here, "alice")
    room_id = alice.create_room(preset="private_chat")

    with pytest.raises(Refused):
        alice.invite(room_id, f"@nobody-{uuid.uuid4().hex}:{pair.there.name}")


def test_who_is_already_in_cannot_be_invited(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)

    with pytest.raises(Refused, match="M_FORBIDDEN"):
        alice.invite(room_id, bob)
    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.invite(room_id, alice)

    assert alice.membership(room_id, bob) == bob.membership(room_id, alice) == "join"


def test_users_are_invited_as_a_room_is_made(pair: Pair) -> None:
    alice, bob = pair.users()

    room_id = alice.create_room(preset="trusted_private_chat", is_direct=True, invite=[bob.user_id])

    invite = bob.see_invite(room_id)
    own = next(event for event in invite if event["state_key"] == bob.user_id)
    assert own["content"]["is_direct"] is True
    bob.join(room_id)
    bob.set_state(room_id, "m.room.topic", {"topic": "Trusted with it"})
    alice.see_membership(room_id, bob, "join")
    same_state(alice, bob, room_id=room_id)


def test_who_came_by_invitation_invites_a_neighbour(pair: Pair) -> None:
    alice, bob = pair.users()
    carol = register(pair.there, "carol")
    room_id = alice.create_room(preset="private_chat")
    alice.invite(room_id, bob)
    bob.see_invite(room_id)
    bob.join(room_id)

    bob.invite(room_id, carol)
    carol.see_invite(room_id)
    alice.see_membership(room_id, carol, "invite")
    carol.join(room_id)

    alice.see_membership(room_id, carol, "join")
    same_state(alice, carol, room_id=room_id)


def test_a_second_invite_into_a_room_reaches_a_server_that_is_in_it(pair: Pair) -> None:
    alice, bob = pair.users()
    carol = register(pair.there, "carol")
    room_id = shared_room(alice, bob, preset="public_chat")

    alice.invite(room_id, carol)

    carol.see_invite(room_id)
    bob.see_membership(room_id, carol, "invite")
    carol.leave(room_id)
    alice.see_membership(room_id, carol, "leave")
    same_state(alice, bob, room_id=room_id)
