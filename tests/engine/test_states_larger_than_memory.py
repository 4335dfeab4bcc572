"""States of which the events take more than graphs may have in memory."""

import pytest

from homeserver.engine import event_graph
from homeserver.engine.partial_state import PartialStates
from homeserver.engine.remote_joins import PartialJoin
from homeserver.errors import DatabaseUnavailable
from tests.engine.test_large_states import MEMBERS, make_members
from tests.homeserver import Homeserver
from tests.remote_room import RemoteStage

_WITH_CREATOR_AND_ALICE = MEMBERS + 2


@pytest.fixture
def stage(homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch) -> RemoteStage:
    monkeypatch.setattr(event_graph, "_MAX_BYTES", 130_000)
    return RemoteStage(homeserver, "11")


def test_a_join_that_failed_at_last_is_entered_after_a_restart(stage: RemoteStage) -> None:
    join = stage.make_member(stage.alice, "join")
    stage.remote.graph.add(join)
    state, chain = stage.answer_to(join)
    told = state + [event.pdu for event in make_members(stage)]
    stage.homeserver.database.fail_on = "INSERT INTO room_heads"
    with pytest.raises(DatabaseUnavailable):
        stage.take_in(join, told, chain)
    stage.homeserver.database.fail_on = None

    stage.restart()
    stage.take_in(join, told, chain)

    assert len(stage.room.joined) == _WITH_CREATOR_AND_ALICE


def test_members_that_a_join_was_answered_without_come_after_a_restart(stage: RemoteStage) -> None:
    remote = stage.remote
    for number in range(MEMBERS):
        remote.join(remote.user(f"member-{number}"))
    join = stage.make_member(stage.alice, "join")
    remote.graph.add(join)
    state, chain = stage.answer_to(join)
    few = [pdu for pdu in state if pdu["type"] != "m.room.member"]
    stage.take_in(join, few, chain, partial=PartialJoin([remote.name]))

    stage.restart()
    completing: PartialStates = stage.rooms.partial
    stage.do(completing.complete(stage.room_id, remote))

    assert len(stage.room.joined) == _WITH_CREATOR_AND_ALICE
