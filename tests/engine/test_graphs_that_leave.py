"""The graph of a room leaves memory while somebody waits for events of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from homeserver.core.identifiers import RoomID
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.engine import event_graph
from homeserver.engine.event_graph import EventGraph
from homeserver.engine.live_room import LiveRoom
from tests.database import InlineDatabase
from tests.homeserver import Homeserver
from tests.remote_room import RemoteStage
from tests.results import result_of

_EVENTS = 210
"""More than are read at once."""


class _SlowDatabase:
    """Answers when it is let."""

    def __init__(self, database: InlineDatabase) -> None:
        self._database = database
        self._held: list[Callable[[], None]] = []

    def read(self, function: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()

        def give() -> None:
            self._database.read(function, *args, **kwargs).chainDeferred(answer)

        self._held.append(give)
        return answer

    run = read

    def close(self) -> None:
        """Nothing is open."""

    def answer_one(self) -> None:
        self._held.pop(0)()


@pytest.mark.parametrize("by", ["id", "number"])
def test_events_that_were_read_are_returned_even_if_their_graph_has_left(
    homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """As happens while a large room is joined and something is said in another one."""
    stage = RemoteStage(homeserver, "11")
    for number in range(_EVENTS):
        stage.remote.send("m.space.child", stage.creator, {}, state_key=f"!{number}:remote.test")
    stage.join()
    stored = set(stage.state().values())
    numbers = list(stage.room.state.values())
    database = _SlowDatabase(homeserver.database)
    graph = EventGraph(database)
    elsewhere = LiveRoom(stage.room.room_nid + 1, RoomID("!other:remote.test"), ROOM_VERSIONS["11"])
    monkeypatch.setattr(event_graph, "_MAX_BYTES", 100_000)

    loading: Deferred[Any] = Deferred.fromCoroutine(
        graph.load(stage.room, stored) if by == "id" else graph.load_numbers(stage.room, numbers)
    )
    database.answer_one()
    graph.make_space(elsewhere)
    database.answer_one()

    assert set(result_of(loading)) == (stored if by == "id" else set(numbers))


def test_what_was_committed_meanwhile_is_not_undone_by_an_older_read(
    homeserver: Homeserver,
) -> None:
    stage = RemoteStage(homeserver, "11")
    stage.join()
    event_id = stage.state()["m.room.name", ""]
    database = _SlowDatabase(homeserver.database)
    graph = EventGraph(database)
    (outlier,) = stage.do(stage.rooms.graph.load(stage.room, [event_id])).values()
    placed = replace(outlier, flags=0, state_before=1, state_after=1)

    loading = Deferred.fromCoroutine(graph.load(stage.room, [event_id]))
    graph.add(stage.room, placed)
    database.answer_one()

    assert result_of(loading) == {event_id: placed}
    assert graph.find(stage.room, [event_id]) == {event_id: placed}
