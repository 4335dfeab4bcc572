"""Delayed events in rooms that other servers are in, and that another server holds up."""

import pytest

from homeserver.config import DelayedEventsSection
from homeserver.services.delayed_sending import MAX_OF_A_USER
from homeserver.storage.query import Txn, fetch_value
from tests.api.delaying import DAY_MS, act, delay, delay_state, get_one, scheduled, texts
from tests.federation.conftest import MakeServer
from tests.federation.meeting import enter
from tests.federation.network import MemoryNetwork
from tests.federation.policy_server import REFUSED, SIGN, FakePolicyServer
from tests.homeserver import Homeserver, User

CALLS = {"events": {"org.example.call": 0}}


@pytest.fixture
def a(make_server: MakeServer) -> Homeserver:
    return make_server("a.test", delayed_events=DelayedEventsSection(max_delay_ms=DAY_MS))


def room_of(user: User) -> str:
    return user.create_room(preset="public_chat", power_level_content_override=CALLS)


def test_users_of_other_servers_see_what_was_delayed(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    room_id = room_of(alice)
    enter(bob, room_id, alice.homeserver.name)
    delay(alice, room_id, "later")

    alice.homeserver.advance(11)
    network.settle()

    assert texts(bob, room_id) == ["later"]


def test_a_state_that_another_servers_user_sets_cancels_what_was_delayed(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    room_id = room_of(alice)
    enter(bob, room_id, alice.homeserver.name)
    delay_id = delay_state(alice, room_id, "chair", {"who": "alice"})

    path = f"/rooms/{room_id}/state/org.example.call/chair"
    assert bob.put(path, {"who": "bob"}).status == 200
    network.settle()
    alice.homeserver.advance(11)

    assert scheduled(alice) == []
    assert "error" in get_one(alice, delay_id)["finalised"]
    assert alice.get(path).json == {"who": "bob"}


def test_what_the_policy_server_refuses_has_failed_for_good(
    network: MemoryNetwork, alice: User
) -> None:
    room_id = room_of(alice)
    FakePolicyServer(network).guard(alice, room_id)
    delay_id = delay(alice, room_id, REFUSED)

    alice.homeserver.advance(11)
    network.settle()

    assert get_one(alice, delay_id)["finalised"]["error"]["error"] == "No spam here"
    assert texts(alice, room_id) == []


def test_attack_13_delayed_events_that_nobody_signs_do_not_hold_up_other_rooms(
    network: MemoryNetwork, alice: User
) -> None:
    mallory = alice.homeserver.register("mallory")
    policy = FakePolicyServer(network)
    for _ in range(10):
        slow = room_of(mallory)
        policy.guard(mallory, slow)
        delay(mallory, slow, "never signed", 10_000)
    room_id = room_of(alice)
    delay(alice, room_id, "in time", 10_001)
    network.hold(policy.name, SIGN)

    alice.homeserver.advance(10.1)
    network.settle()

    assert texts(alice, room_id) == ["in time"]
    network.let_through(policy.name, SIGN)


def test_a_restart_that_was_answered_holds_though_a_send_was_under_way(
    network: MemoryNetwork, alice: User
) -> None:
    room_id = room_of(alice)
    policy = FakePolicyServer(network)
    policy.guard(alice, room_id)
    delay_id = delay(alice, room_id, REFUSED, 2_000)
    path = f"/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}"
    network.hold(policy.name, SIGN)
    sending = alice.start_request("POST", f"{path}/send")
    restarting = alice.start_request("POST", f"{path}/restart")
    alice.homeserver.advance(2.1)  # it is due, and waits for those two

    network.let_through(policy.name, SIGN)
    network.settle()

    assert sending.reply().status == 400
    assert restarting.reply().status == 200
    assert [one["delay_id"] for one in scheduled(alice)] == [delay_id]
    assert len(policy.asked) == 1
    alice.homeserver.advance(1.8)
    assert scheduled(alice)
    alice.homeserver.advance(0.3)
    network.settle()
    assert "error" in get_one(alice, delay_id)["finalised"]


def test_a_cancellation_that_was_answered_is_not_overtaken_by_a_send(
    network: MemoryNetwork, alice: User
) -> None:
    room_id = room_of(alice)
    policy = FakePolicyServer(network)
    policy.guard(alice, room_id)
    delay_id = delay(alice, room_id, "sent")
    path = f"/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}"
    network.hold(policy.name, SIGN)
    alice.homeserver.advance(10.1)  # it is being sent

    cancelling = alice.start_request("POST", f"{path}/cancel")
    was_answered = cancelling.answered
    network.let_through(policy.name, SIGN)
    network.settle()

    assert not was_answered
    assert cancelling.reply().status == 409
    assert texts(alice, room_id) == ["sent"]
    assert act(alice, delay_id, "send").status == 200


def test_attack_13_delayed_events_of_a_user_are_five_at_a_time(
    network: MemoryNetwork, alice: User
) -> None:
    """One is sent at once, four are held up; for the one that has ended, one more is taken."""
    policy = FakePolicyServer(network)
    free, slow, other = (room_of(alice) for _ in range(3))
    for room_id in (slow, other):
        policy.guard(alice, room_id)
    delay(alice, free, "free", 10_000)
    for room_id, count in ((slow, 4), (other, 5)):
        for number in range(count):
            delay(alice, room_id, f"{number}", 10_001)
    network.hold(policy.name, SIGN)

    alice.homeserver.advance(11)
    network.settle()

    assert texts(alice, free) == ["free"]
    taken: list[int] = []
    alice.homeserver.database.run(count_taken).addCallback(taken.append)
    assert taken == [MAX_OF_A_USER]
    network.let_through(policy.name, SIGN)
    network.settle()
    assert [len(texts(alice, room_id)) for room_id in (slow, other)] == [4, 5]


def count_taken(txn: Txn) -> int:
    return fetch_value(
        txn, int, "SELECT count(*) FROM delayed_events WHERE tries > 0 AND finalised_ts IS NULL"
    )
