"""Rooms with a policy server: what it signs is seen everywhere, what it refuses nowhere."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from synapse_compat_tests.client import Refused, User, eventually, register
from synapse_compat_tests.conftest import Pair, Stage
from synapse_compat_tests.policy_server import BAD, REFUSAL, ROOM_VERSION, PolicyServer


@pytest.fixture(scope="module")
def policy(stage: Stage) -> Iterator[PolicyServer]:
    with tempfile.TemporaryDirectory(prefix="countersign-policy-") as folder:
        Path(folder).chmod(0o755)
        server = PolicyServer(Path(folder) / "server", stage.authority)
        try:
            server.server.process.start()
            yield server
        finally:
            server.stop()


def guarded_room(policy: PolicyServer, creator: User, *others: User) -> str:
    """Make a room that uses the policy server; return its id when everybody knows."""
    guard = register(policy.server, "guard")
    room_id = creator.create_room(preset="public_chat", room_version=ROOM_VERSION)
    for user in (guard, *others):
        user.join(room_id, creator)
    creator.see_members(room_id, {user.user_id for user in (guard, *others)})
    event_id = creator.set_state(room_id, "m.room.policy", policy.content)
    for user in others:
        see_policy(user, room_id, event_id)
    return room_id


def see_policy(user: User, room_id: str, event_id: str) -> None:
    eventually(
        lambda: user.state(room_id).get(("m.room.policy", "")) == event_id,
        f"{user.user_id} sees the policy",
    )


def test_what_the_policy_server_signs_is_seen_on_both_sides(
    pair: Pair, policy: PolicyServer
) -> None:
    alice, bob = pair.users()
    room_id = guarded_room(policy, alice, bob)

    alice.send(room_id, "a good word")
    bob.see_text(room_id, "a good word")
    bob.send(room_id, "another one")
    alice.see_text(room_id, "another one")

    senders = {event["sender"] for event in policy.asked if event["room_id"] == room_id}
    assert {alice.user_id, bob.user_id} <= senders


def test_what_the_policy_server_refuses_is_not_sent(pair: Pair, policy: PolicyServer) -> None:
    alice, bob = pair.users()
    room_id = guarded_room(policy, alice, bob)

    for user in (alice, bob):
        with pytest.raises(Refused, match=REFUSAL) as refused:
            user.send(room_id, f"{BAD} words of {user.user_id}")
        assert refused.value.errcode == "M_FORBIDDEN"

    alice.send(room_id, "the last word")
    bob.see_text(room_id, "the last word")
    assert not [text for user in (alice, bob) for text in user.texts(room_id) if BAD in text]


def test_who_joins_a_room_with_a_policy_server_is_seen_and_heard(
    pair: Pair, policy: PolicyServer
) -> None:
    alice, bob = pair.users()
    room_id = guarded_room(policy, alice)

    bob.join(room_id, alice)

    alice.see_membership(room_id, bob, "join")
    bob.send(room_id, "here I am")
    alice.see_text(room_id, "here I am")


def test_a_room_is_freed_of_a_policy_server_that_is_down(pair: Pair, policy: PolicyServer) -> None:
    alice, bob = pair.users()
    room_id = guarded_room(policy, alice, bob)

    with policy.silent():
        with pytest.raises(Refused):
            alice.send(room_id, "nobody signs this")
        event_id = alice.set_state(room_id, "m.room.policy", {})
        see_policy(bob, room_id, event_id)
        alice.send(room_id, "free")
        bob.see_text(room_id, "free")

    assert "nobody signs this" not in bob.texts(room_id)
