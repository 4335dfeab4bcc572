"""Class 5: large answers to questions about many events that wait take a bounded sum of memory."""

import gc
import weakref
from collections.abc import Sequence

import pytest

from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.engine.kept_answers import KeptAnswer, KeptAnswers
from homeserver.engine.recorded_server import RecordedServer, Unanswered
from homeserver.engine.remote_server import RemoteFailure, StateIDs, StatePDUs
from tests.results import result_of
from tests.simulated_server import SimulatedServer

ROOM = RoomID("!room:a.test")
OTHER = RoomID("!other:a.test")
EVENT = EventID("$" + "A" * 43)
MANY = 10_000_000
MEGABYTE = 1_000_000


def keep(kept: KeptAnswers, *rooms: RoomID) -> list[KeptAnswer]:
    return [kept.keep(room, bytes(MEGABYTE)) for room in rooms]


def lost(answers: Sequence[KeptAnswer]) -> list[int]:
    return [place for place, answer in enumerate(answers) if answer.text is None]


def test_attack_5_the_room_with_most_loses_its_oldest_answers() -> None:
    kept = KeptAnswers(MANY)

    answers = keep(kept, OTHER, OTHER, *[ROOM] * 8, OTHER)

    assert lost(answers) == [2, 3]
    assert kept.bytes_kept <= MANY


def test_an_answer_is_not_lost_as_it_comes() -> None:
    kept = KeptAnswers(MANY)
    others = keep(kept, ROOM, OTHER)

    large = kept.keep(OTHER, bytes(MANY))

    assert large.text is not None
    assert lost(others) == [0, 1]


class Counted(str):
    """How often rooms are looked up."""

    __slots__ = ()
    lookups = 0

    def __hash__(self) -> int:
        Counted.lookups += 1
        return super().__hash__()


def test_attack_5_to_make_room_does_not_take_as_long_as_there_are_rooms_for_each_answer() -> None:
    rooms = [RoomID(Counted(f"!{number}:remote.test")) for number in range(200)]
    kept = KeptAnswers(MANY)
    small = [kept.keep(room, b"{}") for _ in range(5) for room in rooms]
    Counted.lookups = 0

    kept.keep(OTHER, bytes(MANY))

    assert len(lost(small)) == len(small)
    assert Counted.lookups < 20 * len(small)


def test_what_nobody_needs_any_more_makes_room() -> None:
    kept = KeptAnswers(MANY)
    answers = keep(kept, *[ROOM] * 9)

    for answer in answers[:5] * 2:
        kept.let_go(answer)
    more = keep(kept, *[OTHER] * 5)

    assert lost(more) == []
    assert lost(answers) == [0, 1, 2, 3, 4]
    for answer in (*answers, *more):
        kept.let_go(answer)
    assert kept.bytes_kept == 0


class Answering(SimulatedServer):
    """Says the same each time."""

    def __init__(self, said: JsonObject | None = None) -> None:
        super().__init__("remote.test", ROOM_VERSIONS["11"], ROOM)
        self.said: JsonObject = said or {"a": [1, None, "ä", 1.5, {"b": 2**60}]}
        self.asked = 0

    async def get_event(self, event_id: EventID) -> JsonObject:
        del event_id
        self.asked += 1
        return self.said

    async def get_event_auth(self, room_id: RoomID, event_id: EventID) -> Sequence[JsonObject]:
        del room_id, event_id
        return [self.said, {}]

    async def get_missing_events(self, room_id: RoomID, **more: object) -> Sequence[JsonObject]:
        del room_id, more
        return [{}, self.said]

    async def get_state_ids(self, room_id: RoomID, event_id: EventID) -> StateIDs:
        del room_id
        return StateIDs([event_id], [])

    async def get_state(self, room_id: RoomID, event_id: EventID) -> StatePDUs:
        del room_id, event_id
        return StatePDUs([self.said], [{}, {}])


def recorded(server: SimulatedServer, kept: KeptAnswers, limit: int = 10) -> RecordedServer:
    return RecordedServer(server, ROOM, limit, kept)


def ask(server: RecordedServer, operation: str, *args: object, **more: object) -> object:
    """Ask until there is an answer, as a room's queue does."""
    while True:
        try:
            return result_of(getattr(server, operation)(*args, **more))
        except Unanswered as question:
            result_of(_run(question))


async def _run(question: Unanswered) -> None:
    await question.ask()


def test_what_is_kept_is_what_was_said() -> None:
    remote = Answering()
    server = recorded(remote, KeptAnswers())

    assert ask(server, "get_event", EVENT) == remote.said
    assert ask(server, "get_event_auth", ROOM, EVENT) == [remote.said, {}]
    assert ask(server, "get_missing_events", ROOM, earliest=[], latest=[EVENT], limit=5) == [
        {},
        remote.said,
    ]
    assert ask(server, "get_state_ids", ROOM, EVENT) == StateIDs([EVENT], ())
    assert ask(server, "get_state", ROOM, EVENT) == StatePDUs([remote.said], [{}, {}])


def test_attack_5_an_answer_that_was_lost_is_asked_for_again_so_often_and_no_more() -> None:
    remote = Answering({"body": "x" * MEGABYTE})
    kept = KeptAnswers(MANY)
    server = recorded(remote, kept, limit=3)

    for _ in range(3):
        assert ask(server, "get_event", EVENT) == remote.said
        keep(kept, *[OTHER] * 2)
        kept.keep(OTHER, bytes(MANY))

    assert remote.asked == 3
    with pytest.raises(RemoteFailure):
        ask(server, "get_event", EVENT)
    assert remote.asked == 3


def test_nothing_is_kept_of_what_is_decided() -> None:
    kept = KeptAnswers()
    server = recorded(Answering(), kept)
    ask(server, "get_event", EVENT)
    ask(server, "get_state", ROOM, EVENT)
    assert kept.bytes_kept

    server.forget()

    assert kept.bytes_kept == 0


class Large(list[JsonObject]):
    """What can be seen to be gone."""


class Failing(Answering):
    """Fails with something large at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.at_hand: weakref.ref[Large] | None = None

    async def get_state(self, room_id: RoomID, event_id: EventID) -> StatePDUs:
        del room_id, event_id
        said = Large([self.said] * 5)
        self.at_hand = weakref.ref(said)
        raise RemoteFailure(f"{len(said)} are too many")


def test_attack_5_a_failure_is_remembered_without_what_led_to_it() -> None:
    remote = Failing()
    server = recorded(remote, KeptAnswers())

    for _ in range(2):
        with pytest.raises(RemoteFailure, match="5 are too many"):
            ask(server, "get_state", ROOM, EVENT)

    gc.collect()
    assert remote.at_hand is not None
    assert remote.at_hand() is None


def nested(levels: int) -> JsonObject:
    value: JsonValue = {}
    for _ in range(levels):
        value = [value]
    return {"content": value}


def test_attack_5_what_is_nested_too_deeply_to_be_an_event_leaves_the_others() -> None:
    remote = Answering(nested(1_000))
    server = recorded(remote, KeptAnswers())

    assert ask(server, "get_event_auth", ROOM, EVENT) == [{}]
    with pytest.raises(RemoteFailure):
        ask(server, "get_event", EVENT)
