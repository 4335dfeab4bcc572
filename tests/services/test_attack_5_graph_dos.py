"""Graphs made to cost much (attack class 5): requests, steps, rows and memory stay bounded."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client import REGISTRY

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.errors import EventMalformed
from homeserver.core.events import Event, compute_content_hash
from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject
from homeserver.core.redaction import redact_pdu
from homeserver.core.room_versions import EventIDFormat
from homeserver.engine import resolutions
from homeserver.engine.event_placing import Outcome
from homeserver.engine.inbound_events import CannotDecide
from homeserver.engine.remote_server import StateIDs, StatePDUs
from tests.homeserver import Homeserver
from tests.inbound_stage import GRAPH_VERSIONS, Stage
from tests.simulated_server import SimulatedServer

MAX_REQUESTS = 100
"""What one event may make us ask."""


@pytest.fixture(params=GRAPH_VERSIONS)
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> Stage:
    return Stage(homeserver, request.param)


class Hostile:
    """Answers one kind of question by a function, and counts all of them."""

    def __init__(self, honest: SimulatedServer, **answers: Callable[[], Any]) -> None:
        self._honest = honest
        self._answers = answers
        self.requests: list[str] = []

    def _answer(self, name: str) -> Any:
        self.requests.append(name)
        return self._answers[name]() if name in self._answers else None

    async def get_missing_events(self, *args: Any, **kwargs: Any) -> Sequence[Any]:
        answer = self._answer("get_missing_events")
        return (
            answer if answer is not None else await self._honest.get_missing_events(*args, **kwargs)
        )

    async def get_state_ids(self, room_id: RoomID, event_id: EventID) -> StateIDs:
        answer = self._answer("get_state_ids")
        return answer or await self._honest.get_state_ids(room_id, event_id)

    async def get_state(self, room_id: RoomID, event_id: EventID) -> StatePDUs:
        answer = self._answer("get_state")
        return answer or await self._honest.get_state(room_id, event_id)

    async def get_event_auth(self, room_id: RoomID, event_id: EventID) -> Sequence[Any]:
        answer = self._answer("get_event_auth")
        return (
            answer if answer is not None else await self._honest.get_event_auth(room_id, event_id)
        )

    async def backfill(
        self, room_id: RoomID, event_ids: Sequence[EventID], limit: int
    ) -> Sequence[Any]:
        del room_id, event_ids, limit
        self.requests.append("backfill")
        return []

    async def get_event(self, event_id: EventID) -> Any:
        answer = self._answer("get_event")
        return answer or await self._honest.get_event(event_id)


def unknown_id(stage: Stage, number: int) -> EventID:
    """An id as the room version has them, of an event that does not exist."""
    if stage.version.event_id_format is EventIDFormat.DOMAIN:
        return EventID(f"$nothing{number}:remote.test")
    return EventID("$" + hashlib.sha256(f"{number}".encode()).hexdigest()[:42] + "A")


def stored(stage: Stage) -> int:
    rows = stage._rows("SELECT count(*) FROM events WHERE room_nid = %s", stage.room.room_nid)
    return int(rows[0][0])


def behind_a_gap(stage: Stage, sender: str) -> Event:
    """Make a message whose parent exists nowhere."""
    auth = stage.remote.make("m.room.message", sender).auth_events
    return stage.remote.make(
        "m.room.message", sender, {"body": "x"}, prev=[unknown_id(stage, 1)], auth=auth, depth=50
    )


def steps_of(action: Callable[[], object]) -> int:
    """Count the events met in auth chains while something happens."""
    name = "countersign_state_resolution_steps_total"
    before = REGISTRY.get_sample_value(name) or 0
    action()
    return int((REGISTRY.get_sample_value(name) or 0) - before)


def put(stage: Stage, event_type: str, content: dict[str, Any]) -> None:
    path = f"/rooms/{quote(stage.room_id)}/state/{event_type}"
    assert stage.alice.put(path, content).status == 200


def test_attack_5_get_missing_events_without_progress_is_asked_once(stage: Stage) -> None:
    bob = stage.joined("bob")
    known = stage.remote.say(bob, "known")
    stage.feed(known)
    event = behind_a_gap(stage, bob)
    strays = [stage.remote.say(bob, f"stray {n}", prev=[known.event_id]) for n in range(60)]
    before = stored(stage)
    answers: list[list[Any]] = [
        [],
        [known.pdu] * 50,
        [event.pdu],
        [s.pdu for s in strays],
        [{}] * 1_000,
    ]
    for answer in answers:
        hostile = Hostile(
            stage.remote,
            get_missing_events=lambda answer=answer: answer,  # type: ignore[misc]  # bound now
        )
        with pytest.raises(CannotDecide):
            stage.feed(event, source=hostile)
        assert hostile.requests.count("get_missing_events") == 1
        assert len(hostile.requests) <= MAX_REQUESTS
    assert stored(stage) == before


def test_attack_5_pages_of_rejected_events_are_not_followed_without_end(stage: Stage) -> None:
    bob = stage.joined("bob")
    last = stage.remote.graph.tips()
    rejected = []
    for n in range(600):
        event = stage.remote.make("m.room.topic", bob, {"topic": f"{n}"}, state_key="", prev=last)
        stage.remote.graph.add(event)
        rejected.append(event)
        last = [event.event_id]
    event = stage.remote.say(bob, "upon all of it", prev=last)
    hostile = Hostile(stage.remote)
    before, state = stored(stage), stage.state()

    stage.feed(event, source=hostile)

    assert len(hostile.requests) <= MAX_REQUESTS
    assert hostile.requests.count("get_missing_events") <= 10
    assert stored(stage) - before <= 250
    assert stage.state() == state
    assert not {one.event_id for one in rejected} & set(stage.messages())


def test_attack_5_a_state_of_half_a_million_ids_is_refused(stage: Stage) -> None:
    bob = stage.joined("bob")
    ids = [unknown_id(stage, n) for n in range(500_001)]
    hostile = Hostile(
        stage.remote, get_missing_events=list, get_state_ids=lambda: StateIDs(ids, [])
    )
    before = stored(stage)

    with pytest.raises(CannotDecide):
        stage.feed(behind_a_gap(stage, bob), source=hostile)

    assert hostile.requests == ["get_missing_events", "get_state_ids"]
    assert stored(stage) == before


def test_attack_5_a_state_of_events_nobody_has_costs_a_bounded_number_of_requests(
    stage: Stage,
) -> None:
    bob = stage.joined("bob")
    ids = [unknown_id(stage, n) for n in range(5_000)]
    hostile = Hostile(
        stage.remote,
        get_missing_events=list,
        get_state_ids=lambda: StateIDs([*stage.state().values(), *ids], ids),
        get_state=lambda: StatePDUs([{"garbage": n} for n in range(5_000)], []),
    )
    before = stored(stage)

    stage.feed(behind_a_gap(stage, bob), source=hostile)

    assert len(hostile.requests) <= MAX_REQUESTS
    assert stored(stage) == before + 1


def test_attack_5_an_auth_chain_of_garbage_is_not_stored(stage: Stage) -> None:
    bob = stage.joined("bob")
    strays = [stage.remote.make("m.room.message", bob, {"n": n}).pdu for n in range(300)]
    auth = [*stage.remote.make("m.room.message", bob).auth_events, unknown_id(stage, 1)]
    event = stage.remote.make("m.room.message", bob, {"body": "x"}, auth=auth)
    hostile = Hostile(stage.remote, get_event_auth=lambda: [*strays, {}, {"type": 1}])
    before = stored(stage)

    with pytest.raises(CannotDecide):
        stage.feed(event, source=hostile)

    assert len(hostile.requests) <= MAX_REQUESTS
    assert stored(stage) == before


@pytest.mark.parametrize("version_id", ["1", "2"])
@pytest.mark.parametrize("key", ["prev_events", "auth_events"])
def test_attack_5_events_that_name_each_other_in_a_circle_end_nothing(
    homeserver: Homeserver, version_id: str, key: str
) -> None:
    """Ids of these versions are not hashes, so that a circle can be made."""
    stage = Stage(homeserver, version_id)
    bob = stage.joined("bob")
    ids = [EventID(f"$circle{n}:remote.test") for n in range(2)]
    made = [stage.remote.make("m.room.message", bob, {"n": n}) for n in range(2)]
    circle = [resigned(stage, event, ids[n], {key: ids[1 - n]}) for n, event in enumerate(made)]
    hostile = Hostile(
        stage.remote,
        get_missing_events=lambda: circle,
        get_event_auth=lambda: circle,
        get_event=lambda: circle[0],
    )

    for pdu in circle:
        with pytest.raises(CannotDecide):
            stage.feed_pdu(pdu, source=hostile)

    assert len(hostile.requests) <= 2 * MAX_REQUESTS
    assert stage.alice.send(stage.room_id, "still here")


def resigned(stage: Stage, event: Event, event_id: EventID, named: dict[str, EventID]) -> Any:
    """Return the PDU under another id, which names one more event, signed again."""
    pdu: Any = {k: v for k, v in event.pdu.items() if k not in {"signatures", "hashes"}}
    pdu["event_id"] = event_id
    for key, other in named.items():
        pdu[key] = [*pdu[key], [other, {"sha256": "A" * 43}]]
    pdu["hashes"] = {"sha256": compute_content_hash(stage.version, pdu)}
    signed = encode_canonical_json(
        {k: v for k, v in redact_pdu(stage.version, pdu).items() if k != "unsigned"}
    )
    key_id = stage.remote.key.key_id
    pdu["signatures"] = {stage.remote.name: {key_id: stage.remote.key.sign(signed)}}
    return pdu


def test_attack_5_depths_that_jump_disturb_neither_state_nor_order(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    most = stage.version.max_depth
    for depth in (most, 0, most - 1, 1, most):
        event = stage.remote.topic(bob, f"{depth}", depth=depth)
        assert stage.feed(event) == [Outcome.ACCEPTED]
        assert stage.state()["m.room.topic", ""] == event.event_id
        assert stage.tips() == {event.event_id}
    assert stage.alice.send(stage.room_id, "after all that") in stage.messages()


def long_chain(stage: Stage, length: int) -> str:
    """Let a user have as many memberships, each of which cites the one before."""
    bob = stage.joined("bob")
    for n in range(length):
        content: JsonObject = {"membership": "join", "displayname": f"{n}"}
        stage.feed(stage.remote.send("m.room.member", bob, content, state_key=bob))
    return bob


def test_attack_5_a_long_chain_under_old_disputes_is_counted_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old event that only one state has makes everything newer suspect, in every dispute."""
    monkeypatch.setattr(resolutions, "_NEAR", 20)
    monkeypatch.setattr(resolutions, "_NEAR_EACH", 0)
    carol = stage.joined("carol")
    length = 150
    long_chain(stage, length)
    claimed = {slot: i for slot, i in stage.state().items() if slot != ("m.room.member", carol)}
    costs = []
    for n in range(4):
        put(stage, "m.room.topic", {"topic": f"{n}"})
        hostile = Hostile(
            stage.remote,
            get_missing_events=list,
            get_state_ids=lambda: StateIDs(list(claimed.values()), []),
        )
        event = stage.remote.make(
            "m.room.message",
            stage.remote.user("bob"),
            {"n": n},
            prev=[unknown_id(stage, n)],
            auth=stage.remote.make("m.room.message", stage.remote.user("bob")).auth_events,
            depth=50 + n,
        )
        costs.append(steps_of(lambda: stage.feed(event, source=hostile)))  # noqa: B023  # called here
        assert stage.room.membership_of(carol) == "join"  # type: ignore[arg-type]  # a user id

    if stage.version.id == "1":
        assert costs == [0] * 4, "version 1 looks at no auth chains"
    else:
        assert costs[0] >= length
        assert max(costs[1:]) < length


def test_attack_5_too_many_parents_are_refused(stage: Stage) -> None:
    bob = stage.joined("bob")
    pdu = stage.remote.say(bob, "x").pdu

    for count in (21, 10_000):
        ids: Any = [f"${n:043d}" for n in range(count)]
        with pytest.raises(EventMalformed):
            stage.feed_pdu(pdu | {"prev_events": ids})
        with pytest.raises(EventMalformed):
            stage.feed_pdu(pdu | {"auth_events": ids})


def test_attack_5_twenty_parents_nobody_has_cost_a_bounded_number_of_requests(stage: Stage) -> None:
    bob = stage.joined("bob")
    parents = [EventID(f"${n:042d}A") for n in range(20)]
    auth = stage.remote.make("m.room.message", bob).auth_events
    event = stage.remote.make("m.room.message", bob, {"body": "x"}, prev=parents, auth=auth)

    with pytest.raises(CannotDecide):
        stage.feed(event)

    assert len(stage.remote.requests) <= 100
    assert stage.flags(event) is None


def test_attack_5_the_deepest_possible_event_does_not_stop_the_room(stage: Stage) -> None:
    bob = stage.joined("bob")
    deep = stage.remote.say(bob, "deep", depth=stage.version.max_depth)

    assert stage.feed(deep) == [Outcome.ACCEPTED]
    reply = stage.alice.send(stage.room_id, "still here")
    assert stage.tips() == {reply}
    stage.share(stage.remote)
    after = stage.remote.say(bob, "and here", depth=stage.version.max_depth)
    assert stage.feed(after) == [Outcome.ACCEPTED]


def test_attack_5_a_flood_of_branches_is_bounded_in_rows_and_memory(stage: Stage) -> None:
    bob = stage.joined("bob")
    base = stage.remote.graph.tips()
    auth = stage.remote.make("m.room.message", bob).auth_events
    flood = [
        stage.remote.make("m.room.message", bob, {"body": f"{n}"}, prev=base, auth=auth)
        for n in range(400)
    ]
    segments = "SELECT count(*) FROM state_segments WHERE room_nid = %s"
    before = stage._rows(segments, stage.room.room_nid)[0][0]

    assert set(stage.feed(*flood)) == {Outcome.ACCEPTED}
    assert len(stage.tips()) == 20
    assert stage._rows(segments, stage.room.room_nid)[0][0] == before
    stage.restart()
    assert len(stage.tips()) == 20
