"""Delayed events when things go wrong: a fault at each SQL statement, clocks that jump."""

from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import Deferred, fail

from homeserver.errors import DatabaseUnavailable
from tests.api.delaying import (
    DELAY,
    act,
    delay,
    delay_state,
    get_one,
    hand_in,
    scheduled,
    start,
    texts,
)
from tests.database import InlineDatabase
from tests.homeserver import START_MS, Homeserver

HOUR_SECONDS = 3600
MAX_STATEMENTS = 60
LONG_SECONDS = 900
"""Longer than what was tried in vain waits to be tried again."""


def test_a_fault_at_any_statement_of_handing_in_leaves_all_or_nothing(
    database: InlineDatabase,
) -> None:
    server = start(database)
    alice = server.register("alice")
    room_id = alice.create_room()
    for number in range(1, MAX_STATEMENTS):
        alice.get("/account/whoami")  # "last seen" is written now, not then
        database.fail_at = number

        reply = hand_in(alice, room_id, "later", 60_000)

        was_reached = database.fail_at is None
        database.fail_at = None
        if reply.status == 200:
            assert not was_reached, f"statement {number} may fail unseen"
            break
        assert reply.status == 503
        assert scheduled(alice) == [], f"half done by the fault at statement {number}"
    else:
        pytest.fail("there was no end of statements")

    assert number > 3
    server.advance(61)
    assert texts(alice, room_id) == ["later"]
    server.stop()


def test_what_was_stored_though_the_answer_was_lost_is_sent_in_time(
    database: InlineDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(database)
    alice = server.register("alice")
    room_id = alice.create_room()
    run = database.run

    def lose_answer(function: Any, *args: Any, **options: Any) -> Deferred[Any]:
        done = run(function, *args, **options)
        if function.__name__ != "_schedule_txn":
            return done
        return done.addCallback(lambda _: fail(DatabaseUnavailable("the answer was lost")))

    with monkeypatch.context() as broken:
        broken.setattr(database, "run", lose_answer)
        refused = hand_in(alice, room_id, "later", 10_000)
    server.advance(10.1)

    assert refused.status == 503
    assert texts(alice, room_id) == ["later"]
    server.stop()


def test_what_is_stored_when_its_delay_is_over_already_is_sent(
    database: InlineDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(database)
    alice = server.register("alice")
    room_id = alice.create_room()
    run = database.run
    busy: Deferred[None] = Deferred()

    def wait(function: Any, *args: Any, **options: Any) -> Deferred[Any]:
        if function.__name__ != "_schedule_txn":
            return run(function, *args, **options)
        return busy.addCallback(lambda _: run(function, *args, **options))

    monkeypatch.setattr(database, "run", wait)
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.room.message/t"
    pending = alice.start_request("PUT", path, {"body": "soon"}, query={DELAY: 5})
    server.advance(1)
    busy.callback(None)
    assert pending.reply().status == 200
    server.advance(0.1)

    assert texts(alice, room_id) == ["soon"]
    server.stop()


@pytest.mark.parametrize("action", ["restart", "cancel", "send"])
def test_a_fault_at_any_statement_of_managing_loses_nothing_and_doubles_nothing(
    database: InlineDatabase, action: str
) -> None:
    server = start(database)
    alice = server.register("alice")
    room_id = alice.create_room()
    for number in range(1, MAX_STATEMENTS):
        delay_id = delay(alice, room_id, f"{number}", 10_000)
        database.fail_at = number

        reply = act(alice, delay_id, action)

        was_reached = database.fail_at is None
        database.fail_at = None
        assert reply.status in (200, 503)
        server.advance(LONG_SECONDS)
        cancelled = reply.status == 200 and action == "cancel"
        assert texts(alice, room_id).count(f"{number}") == (0 if cancelled else 1)
        if not was_reached:
            break
    else:
        pytest.fail("there was no end of statements")

    assert number > 2
    server.stop()


def test_a_fault_at_any_statement_of_sending_loses_nothing_and_doubles_nothing(
    database: InlineDatabase,
) -> None:
    server = start(database)
    alice = server.register("alice")
    room_id = alice.create_room()
    for number in range(1, MAX_STATEMENTS):
        delay_id = delay(alice, room_id, f"{number}", 10_000)
        database.fail_at = number

        server.advance(10.1)

        was_reached = database.fail_at is None
        database.fail_at = None
        server.advance(LONG_SECONDS)
        assert texts(alice, room_id).count(f"{number}") == 1
        assert "event_id" in get_one(alice, delay_id)["finalised"]
        if not was_reached:
            break
    else:
        pytest.fail("there was no end of statements")

    assert number > 4
    server.stop()


@pytest.mark.parametrize("action", ["restart", "cancel"])
def test_what_was_sent_though_that_could_not_be_noted_is_neither_cancelled_nor_restarted(
    database: InlineDatabase, action: str
) -> None:
    server = start(database)
    alice = server.register("alice")
    room_id = alice.create_room()
    delay_id = delay(alice, room_id, "once", 10_000)
    database.fail_on = "finalised_ts = "
    server.advance(10.1)
    database.fail_on = None
    sent = texts(alice, room_id)
    noted = scheduled(alice)

    reply = act(alice, delay_id, action)
    server.advance(LONG_SECONDS)

    assert (sent, len(noted)) == (["once"], 1)
    assert reply.status == 409
    assert texts(alice, room_id) == ["once"]
    assert "event_id" in get_one(alice, delay_id)["finalised"]
    server.stop()


def test_a_process_that_ends_before_it_cancels_what_another_user_replaced_cancels_it_later(
    database: InlineDatabase,
) -> None:
    server = start(database)
    alice, bob = server.register("alice"), server.register("bob")
    room_id = alice.create_room(
        preset="public_chat",
        power_level_content_override={"events": {"org.example.call": 0}},
    )
    bob.join(room_id)
    unnoted = []
    for number in range(1, MAX_STATEMENTS):
        delay_id = delay_state(bob, room_id, f"{number}", {"who": "bob"}, 3_600_000)
        path = f"/rooms/{quote(room_id)}/state/org.example.call/{number}"
        database.fail_at = number
        reply = alice.put(path, {"who": "alice"})
        was_reached = database.fail_at is None
        database.fail_at = None
        if reply.status == 200 and delay_id in [one["delay_id"] for one in scheduled(bob)]:
            unnoted.append((delay_id, path))
        if not was_reached:
            break

    alice.homeserver = bob.homeserver = server = server.restart()
    server.advance(3601)

    assert unnoted, "no fault came between the state and the cancellation"
    for delay_id, path in unnoted:
        assert alice.get(path).json == {"who": "alice"}
        assert "error" in get_one(bob, delay_id)["finalised"]
    server.stop()


def jump(homeserver: Homeserver, seconds: float) -> None:
    """Set the wall clock; the monotonic clock goes on as if nothing had happened."""
    homeserver.clock._wall = lambda: START_MS / 1000 + homeserver.reactor.seconds() + seconds


@pytest.mark.parametrize("jump_seconds", [HOUR_SECONDS, -HOUR_SECONDS])
def test_attack_15_a_delay_takes_its_time_whatever_the_clock_says(
    database: InlineDatabase, jump_seconds: int
) -> None:
    server = start(database)
    alice = server.register("alice")
    room_id = alice.create_room()
    delay(alice, room_id, "before the jump", 600_000)

    jump(server, jump_seconds)
    restarted = delay(alice, room_id, "restarted", 10_000)
    server.advance(9)
    act(alice, restarted, "restart")
    delay(alice, room_id, "after the jump", 20_000)
    server.advance(9.9)
    early = texts(alice, room_id)
    server.advance(0.2)
    one = texts(alice, room_id)
    server.advance(10)
    two = texts(alice, room_id)
    server.advance(570)
    not_yet = texts(alice, room_id)
    server.advance(1)

    assert (early, one, two) == ([], ["restarted"], ["restarted", "after the jump"])
    assert not_yet == two
    assert texts(alice, room_id) == [*two, "before the jump"]
    server.stop()


def test_attack_15_a_clock_set_back_over_a_restart_makes_no_delay_longer_than_it_was(
    database: InlineDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(database)
    alice = server.register("alice")
    room_id = alice.create_room()
    delay(alice, room_id, "later", 10_000)
    server.stop()

    monkeypatch.setattr("tests.homeserver.START_MS", START_MS - HOUR_SECONDS * 1000)
    alice.homeserver = start(database)
    alice.homeserver.advance(10.1)

    assert texts(alice, room_id) == ["later"]
    alice.homeserver.stop()


def test_what_fails_for_a_passing_reason_is_tried_again(
    database: InlineDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(database)
    alice = server.register("alice")
    room_id = alice.create_room()
    delay(alice, room_id, "at last", 10_000)
    with monkeypatch.context() as overloaded:
        overloaded.setattr("homeserver.engine.commit_loop._MAX_WAITING", 0)
        server.advance(10.1)
    soon = len(scheduled(alice))

    server.advance(LONG_SECONDS)

    assert soon == 1
    assert texts(alice, room_id) == ["at last"]
    server.stop()


def test_what_fails_again_and_again_is_given_up_with_an_error(
    database: InlineDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.services.delayed_sending.MAX_TRIES", 3)
    server = start(database)
    alice = server.register("alice")
    room_id = alice.create_room()
    delay_id = delay(alice, room_id, "never", 10_000)
    with monkeypatch.context() as overloaded:
        overloaded.setattr("homeserver.engine.commit_loop._MAX_WAITING", 0)
        for _ in range(4):
            server.advance(LONG_SECONDS)

    server.advance(LONG_SECONDS)

    assert texts(alice, room_id) == []
    assert get_one(alice, delay_id)["finalised"]["error"]["errcode"] == "M_UNKNOWN"
    server.stop()
