"""The life of a draft: every state against every event (attack cases 58, 60, 82, 94)."""

import pytest

from agent_bridge.core.refusals import Reason
from agent_bridge.core.states import TERMINAL, TRANSITIONS, Event, State, next_state
from tests.agent_bridge.core.refusing import refusing

# Written out by hand, one row a state; a dash means refused.
EXPECTED = """
            quorum_met denial  expiry  supersession drift_found consumed succeeded failed lost      restart     withdrawal
pending     approved   denied  expired superseded   drift       -        -         -      -         expired     revoked
approved    -          revoked expired superseded   drift       running  -         -      -         expired     revoked
running     -          revoked -       -            -           -        done      failed ambiguous ambiguous   -
done        -          -       -       -            -           -        -         -      -         -           -
failed      -          -       -       -            -           -        -         -      -         -           -
denied      -          -       -       -            -           -        -         -      -         -           -
expired     -          -       -       -            -           -        -         -      -         -           -
revoked     -          -       -       -            -           -        -         -      -         -           -
superseded  -          -       -       -            -           -        -         -      -         -           -
drift       -          -       -       -            -           -        -         -      -         -           -
ambiguous   -          -       -       -            -           -        -         -      -         -           -
"""  # noqa: E501  a table
_HEADER, *_ROWS = [line.split() for line in EXPECTED.strip().splitlines()]
CASES = [
    (State(name), Event(event), None if target == "-" else State(target))
    for name, *targets in _ROWS
    for event, target in zip(_HEADER, targets, strict=True)
]


def test_the_expected_table_covers_every_state_and_every_event() -> None:
    assert {(state, event) for state, event, _ in CASES} == {
        (state, event) for state in State for event in Event
    }
    assert len(TRANSITIONS) == sum(target is not None for _, _, target in CASES)


@pytest.mark.parametrize(("state", "event", "target"), CASES)
def test_each_event_in_each_state_leads_where_the_protocol_says(
    state: State, event: Event, target: State | None
) -> None:
    if target is None:
        with refusing(Reason.TRANSITION_NOT_ALLOWED):
            next_state(state, event)
    else:
        assert next_state(state, event) is target


def test_only_pending_approved_and_running_are_not_terminal() -> None:
    assert set(State) - TERMINAL == {State.PENDING, State.APPROVED, State.RUNNING}


def test_attack_58_running_is_reached_once_and_only_by_consuming_an_approval() -> None:
    ways = [step for step, target in TRANSITIONS.items() if target is State.RUNNING]

    assert ways == [(State.APPROVED, Event.CONSUMED)]


def test_attack_94_an_ambiguous_run_is_never_retried_or_called_failed() -> None:
    assert next_state(State.RUNNING, Event.RESTART) is State.AMBIGUOUS
    for event in Event:
        with refusing(Reason.TRANSITION_NOT_ALLOWED):
            next_state(State.AMBIGUOUS, event)
