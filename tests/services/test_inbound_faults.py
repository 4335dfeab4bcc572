"""A fault at each SQL statement of taking in events made elsewhere: the next try completes it.

What is taken in is more than one commit when there is a gap. So nothing need be undone, but memory
is never ahead of the database, and the same event, given again, has the effect it should have.
"""

from collections.abc import Callable
from typing import Any

import pytest

from homeserver.core.events import Event
from homeserver.engine.event_placing import Outcome
from homeserver.errors import DatabaseUnavailable
from tests.faults import each_fault
from tests.homeserver import Homeserver
from tests.inbound_stage import Stage


def join(stage: Stage, number: int) -> Event:
    return stage.remote.join(stage.remote.user(f"joins{number}"))


def fork(stage: Stage, number: int) -> Event:
    event = stage.remote.join(stage.remote.user(f"forks{number}"))
    stage.alice.send(stage.room_id, f"meanwhile {number}")
    return event


def gap(stage: Stage, number: int) -> Event:
    """After an event that nobody gives out: bridged by state, of which the join is an outlier."""
    bob, carol = stage.remote.user(f"bob{number}"), stage.remote.user(f"carol{number}")
    stage.remote.join(bob)
    stage.remote.hidden.add(stage.remote.say(bob, "between us").event_id)
    stage.remote.join(carol)
    return stage.remote.say(carol, "last")


@pytest.mark.parametrize(("make", "step"), [(join, 1), (fork, 1), (gap, 9)])
def test_attack_15_a_fault_at_any_statement_of_an_inbound_event_is_mended_by_the_next_try(
    homeserver: Homeserver, make: Callable[[Stage, int], Event], step: int
) -> None:
    stage = Stage(homeserver, "11")
    stage.alice.get("/account/whoami")
    faults = 0
    for fault in each_fault(stage.database, step):
        stage.share(stage.remote)
        event = make(stage, fault.number)

        outcome: Any = None
        with fault:
            try:
                (outcome,) = stage.feed(event)
            except DatabaseUnavailable:
                faults += 1

        in_memory = (stage.state(), stage.tips())
        stage.restart()
        assert (stage.state(), stage.tips()) == in_memory, f"memory was wrong at {fault.number}"
        if not fault.was_reached:
            assert outcome is Outcome.ACCEPTED
            break
        stage.feed(event)
        assert stage.room.membership_of(event.sender) == "join"
        shown = stage.messages()
        assert shown.count(event.event_id) == 1
        assert len(shown) == len(set(shown))

    assert faults >= 3
    stage.homeserver.stop()
