"""Class 13: floods of delayed events."""

import dataclasses

import pytest

from tests.api.delaying import (
    CONFIG,
    PREFIX,
    act,
    delay,
    delay_state,
    hand_in,
    scheduled,
    set_state,
    start,
    state_of,
    texts,
)
from tests.database import InlineDatabase
from tests.homeserver import Homeserver


def test_attack_13_delayed_events_of_a_user_are_few_and_the_answer_says_until_when(
    database: InlineDatabase,
) -> None:
    server = start(database, max_scheduled=3)
    alice, bob = server.register("alice"), server.register("bob")
    room_id = alice.meet(bob)
    for number in range(3):
        delay(alice, room_id, f"{number}", 60_000 + number * 1000)
    server.advance(10.5)

    refused = hand_in(alice, room_id, "one too many")

    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert refused.headers.getRawHeaders("retry-after") == ["50"]
    assert hand_in(alice, room_id, "0", 60_000).status == 200, "a repeated one is not one more"
    assert hand_in(bob, room_id, "bob may").status == 200
    act(alice, scheduled(alice)[0]["delay_id"], "cancel")
    assert hand_in(alice, room_id, "one in its place").status == 200
    server.stop()


def test_attack_13_delayed_events_of_a_user_are_small_together(database: InlineDatabase) -> None:
    server = start(database, max_scheduled_bytes=100_000)
    alice = server.register("alice")
    room_id = alice.create_room()
    large = "x" * 40_000

    statuses = [hand_in(alice, room_id, large, txn_id=f"t{n}").status for n in range(3)]

    assert statuses == [200, 200, 429]
    server.stop()


def test_attack_13_delayed_events_that_are_cancelled_are_not_hoarded(
    database: InlineDatabase,
) -> None:
    server = start(database, max_scheduled=1)
    alice = server.register("alice")
    room_id = alice.create_room()
    ids = []
    for number in range(150):
        ids.append(delay(alice, room_id, f"{number}"))
        act(alice, ids[-1], "cancel")

    known = [alice.get(f"{PREFIX}/delayed_events/{one}").status == 200 for one in ids]

    assert known == [False] * 50 + [True] * 100
    server.stop()


def test_attack_13_delayed_events_beyond_what_memory_keeps_are_cancelled_when_they_are_due(
    database: InlineDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.services.delayed_sending.MAX_STATES", 1)
    server = start(database)
    alice, bob = server.register("alice"), server.register("bob")
    calls = {"events": {"org.example.call": 0}}
    room_id = alice.meet(bob, power_level_content_override=calls)
    for key in ("kept", "not kept"):
        delay_state(bob, room_id, key, {"who": "bob"})

    for key in ("kept", "not kept"):
        set_state(alice, room_id, key, {"who": "alice"})
    waiting = [one["state_key"] for one in scheduled(bob)]
    server.advance(11)

    assert waiting == ["not kept"]
    assert scheduled(bob) == []
    assert state_of(alice, room_id, "not kept") == {"who": "alice"}
    server.stop()


def test_attack_13_delayed_events_of_one_user_do_not_hold_up_anothers(
    database: InlineDatabase,
) -> None:
    """A hundred of mallory's are due before alice's one: it goes out with the first few."""
    server = start(database)
    alice, mallory = server.register("alice"), server.register("mallory")
    room_id = alice.meet(mallory)
    for number in range(100):
        delay(mallory, room_id, f"flood {number}", 10_000)
    delay(alice, room_id, "in time", 10_001)

    server.advance(11)

    said = texts(alice, room_id)
    assert len(said) == 101
    assert said.index("in time") <= 5
    server.stop()


def test_attack_13_delayed_events_are_counted_like_other_requests(database: InlineDatabase) -> None:
    limits = dataclasses.replace(CONFIG.rate_limits, enabled=True, per_second=1, burst=5)
    server = Homeserver(database, dataclasses.replace(CONFIG, rate_limits=limits))
    alice = server.register("alice")
    room_id = alice.create_room()

    handed_in = [hand_in(alice, room_id, f"{number}").status for number in range(6)]
    guessed = [
        server.request("POST", f"{PREFIX}/delayed_events/guess{number}/send").status
        for number in range(6)
    ]

    assert handed_in == [200] * 5 + [429]
    assert guessed == [404] * 5 + [429]
    server.stop()
