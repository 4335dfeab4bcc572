"""A room comes into being, and leaves memory again, while it is looked up."""

from typing import Any

from twisted.internet.defer import Deferred

from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_rooms import LiveRooms
from tests.homeserver import Homeserver
from tests.remote_room import RemoteStage
from tests.results import result_of
from tests.simulated_server import SimulatedServer


class _SlowDatabase:
    """Says what was true when it was asked, once it is let."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.is_slow = False
        self._held: list[tuple[Deferred[Any], Deferred[Any]]] = []

    def read(self, function: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        found: Deferred[Any] = self._database.read(function, *args, **kwargs)
        if not self.is_slow:
            return found
        answer: Deferred[Any] = Deferred()
        self._held.append((found, answer))
        return answer

    run = read

    def close(self) -> None:
        """Nothing is open."""

    def release(self) -> None:
        for found, answer in self._held:
            found.chainDeferred(answer)
        self._held.clear()


class _Asked:
    """A server that has its room looked up here when it is asked for an event."""

    def __init__(
        self, server: SimulatedServer, live_rooms: LiveRooms, database: _SlowDatabase
    ) -> None:
        self._server = server
        self._live_rooms = live_rooms
        self._database = database
        self.looking: Deferred[Any] | None = None

    async def get_event(self, event_id: EventID) -> JsonObject:
        self._database.is_slow = True
        self.looking = Deferred.fromCoroutine(self._live_rooms.find(self._server.room_id))
        self._database.is_slow = False
        return await self._server.get_event(event_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


def test_a_room_that_came_and_left_while_it_was_looked_up_is_known(
    homeserver: Homeserver, monkeypatch: Any
) -> None:
    stage = RemoteStage(homeserver, "11")
    live_rooms = homeserver.server.live_rooms
    database = _SlowDatabase(homeserver.database)
    monkeypatch.setattr(live_rooms, "_db", database)
    source = _Asked(stage.remote, live_rooms, database)
    join = stage.make_member(stage.alice, "join")
    stage.remote.graph.add(join)
    state, chain = stage.answer_to(join)
    left_out = next(pdu for pdu in state if pdu["type"] == "m.room.power_levels")

    stage.take_in(
        join,
        [pdu for pdu in state if pdu is not left_out],
        [pdu for pdu in chain if pdu is not left_out],
        source=source,
    )
    live_rooms.drop(stage.room_id)  # as when memory is short
    database.release()

    assert source.looking is not None
    result_of(source.looking)
    assert stage.find_room() is not None
