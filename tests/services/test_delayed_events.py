"""Delayed events when things go wrong: a fault at each SQL statement, clocks that jump."""

from collections.abc import Iterator
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
    make_call_room,
    scheduled,
    start,
    texts,
)
from tests.database import InlineDatabase, hold
from tests.faults import each_fault
from tests.homeserver import START_MS, Homeserver, User

HOUR_SECONDS = 3600
LONG_SECONDS = 900
"""Longer than what was tried in vain waits to be tried again."""


@pytest.fixture
def server(database: InlineDatabase) -> Iterator[Homeserver]:
    homeserver = start(database)
    yield homeserver
    homeserver.stop()


@pytest.fixture
def alice(server: Homeserver) -> User:
    return server.register("alice")


@pytest.fixture
def room_id(alice: User) -> str:
    return make_call_room(alice)


def test_a_fault_at_any_statement_of_handing_in_leaves_all_or_nothing(
    database: InlineDatabase,
    server: Homeserver,
    alice: User,
    room_id: str,
) -> None:
    for fault in each_fault(database):
        alice.get("/account/whoami")  # "last seen" is written now, not then

        with fault:
            reply = hand_in(alice, room_id, "later", 60_000)

        assert reply.status == (503 if fault.was_reached else 200), f"statement {fault.number}"
        if fault.was_reached:
            assert scheduled(alice) == [], f"half done by the fault at statement {fault.number}"

    assert fault.number > 3
    server.advance(61)
    assert texts(alice, room_id) == ["later"]


def test_what_was_stored_though_the_answer_was_lost_is_sent_in_time(
    database: InlineDatabase,
    server: Homeserver,
    alice: User,
    room_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


def test_what_is_stored_when_its_delay_is_over_already_is_sent(
    database: InlineDatabase,
    server: Homeserver,
    alice: User,
    room_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_go = hold(database, "_schedule_txn", monkeypatch, is_done=False)
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.room.message/t"
    pending = alice.start_request("PUT", path, {"body": "soon"}, query={DELAY: 5})
    server.advance(1)
    let_go()
    assert pending.reply().status == 200
    server.advance(0.1)

    assert texts(alice, room_id) == ["soon"]


@pytest.mark.parametrize("action", ["restart", "cancel", "send"])
def test_a_fault_at_any_statement_of_managing_loses_nothing_and_doubles_nothing(
    database: InlineDatabase, server: Homeserver, alice: User, room_id: str, action: str
) -> None:
    for fault in each_fault(database):
        delay_id = delay(alice, room_id, f"{fault.number}", 10_000)

        with fault:
            reply = act(alice, delay_id, action)

        assert reply.status in (200, 503)
        server.advance(LONG_SECONDS)
        cancelled = reply.status == 200 and action == "cancel"
        assert texts(alice, room_id).count(f"{fault.number}") == (0 if cancelled else 1)

    assert fault.number > 2


def test_a_fault_at_any_statement_of_sending_loses_nothing_and_doubles_nothing(
    database: InlineDatabase,
    server: Homeserver,
    alice: User,
    room_id: str,
) -> None:
    for fault in each_fault(database):
        delay_id = delay(alice, room_id, f"{fault.number}", 10_000)

        with fault:
            server.advance(10.1)

        server.advance(LONG_SECONDS)
        assert texts(alice, room_id).count(f"{fault.number}") == 1
        assert "event_id" in get_one(alice, delay_id)["finalised"]

    assert fault.number > 4


@pytest.mark.parametrize("action", ["restart", "cancel"])
def test_what_was_sent_though_that_could_not_be_noted_is_neither_cancelled_nor_restarted(
    database: InlineDatabase, server: Homeserver, alice: User, room_id: str, action: str
) -> None:
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


def test_a_process_that_ends_before_it_cancels_what_another_user_replaced_cancels_it_later(
    database: InlineDatabase, server: Homeserver, alice: User, room_id: str
) -> None:
    bob = server.register("bob")
    bob.join(room_id)
    unnoted = []
    for fault in each_fault(database):
        key = f"{fault.number}"
        delay_id = delay_state(bob, room_id, key, {"who": "bob"}, 3_600_000)
        path = f"/rooms/{quote(room_id)}/state/org.example.call/{key}"
        with fault:
            reply = alice.put(path, {"who": "alice"})
        if reply.status == 200 and delay_id in [one["delay_id"] for one in scheduled(bob)]:
            unnoted.append((delay_id, path))

    alice.homeserver = bob.homeserver = server.restart()
    alice.homeserver.advance(3601)

    assert unnoted, "no fault came between the state and the cancellation"
    for delay_id, path in unnoted:
        assert alice.get(path).json == {"who": "alice"}
        assert "error" in get_one(bob, delay_id)["finalised"]
    alice.homeserver.stop()


@pytest.mark.parametrize("jump_seconds", [HOUR_SECONDS, -HOUR_SECONDS])
def test_attack_15_a_delay_takes_its_time_whatever_the_clock_says(
    server: Homeserver, alice: User, room_id: str, jump_seconds: int
) -> None:
    delay(alice, room_id, "before the jump", 600_000)

    server.jump(jump_seconds)
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


def test_attack_15_a_clock_set_back_over_a_restart_makes_no_delay_longer_than_it_was(
    database: InlineDatabase,
    server: Homeserver,
    alice: User,
    room_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delay(alice, room_id, "later", 10_000)
    server.stop()

    monkeypatch.setattr("tests.homeserver.START_MS", START_MS - HOUR_SECONDS * 1000)
    alice.homeserver = start(database)
    alice.homeserver.advance(10.1)

    assert texts(alice, room_id) == ["later"]
    alice.homeserver.stop()


def test_what_fails_for_a_passing_reason_is_tried_again(
    server: Homeserver, alice: User, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay(alice, room_id, "at last", 10_000)
    with monkeypatch.context() as overloaded:
        overloaded.setattr("homeserver.engine.commit_loop._MAX_WAITING", 0)
        server.advance(10.1)
    soon = len(scheduled(alice))

    server.advance(LONG_SECONDS)

    assert soon == 1
    assert texts(alice, room_id) == ["at last"]


def test_what_fails_again_and_again_is_given_up_with_an_error(
    server: Homeserver, alice: User, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.services.delayed_sending.MAX_TRIES", 3)
    delay_id = delay(alice, room_id, "never", 10_000)
    with monkeypatch.context() as overloaded:
        overloaded.setattr("homeserver.engine.commit_loop._MAX_WAITING", 0)
        for _ in range(4):
            server.advance(LONG_SECONDS)

    server.advance(LONG_SECONDS)

    assert texts(alice, room_id) == []
    assert get_one(alice, delay_id)["finalised"]["error"]["errcode"] == "M_UNKNOWN"
