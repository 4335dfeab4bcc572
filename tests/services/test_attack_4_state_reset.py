"""State resets (attack class 4), through the engine: claimed states, forks, backdated branches."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.events import Event
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.engine.event_placing import Outcome
from homeserver.engine.remote_server import StateIDs
from tests.homeserver import Homeserver
from tests.inbound_stage import GRAPH_VERSIONS, Stage
from tests.simulated_server import SimulatedServer, Slot


@pytest.fixture(params=GRAPH_VERSIONS)
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> Stage:
    return Stage(homeserver, request.param)


class Claimant:
    """Says that the state before any event is what it wants it to be."""

    def __init__(self, honest: SimulatedServer, state: Mapping[Slot, EventID]) -> None:
        self._honest = honest
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    async def get_missing_events(self, *_: Any, **__: Any) -> Sequence[Any]:
        return []

    async def get_state_ids(self, room_id: RoomID, event_id: EventID) -> StateIDs:
        del room_id, event_id
        return StateIDs(list(self._state.values()), [])


def claim(stage: Stage, sender: str, state: Mapping[Slot, EventID]) -> Event:
    """Send a message whose parent nobody has, before which the state is said to have been this."""
    hidden = stage.remote.make("m.room.message", sender, {"body": "never shown"})
    auth = stage.remote.make("m.room.message", sender).auth_events
    event = stage.remote.make(
        "m.room.message", sender, {"body": "claim"}, prev=[hidden.event_id], auth=auth, depth=99
    )
    stage.remote.graph.events[hidden.event_id] = hidden
    assert stage.feed(event, source=Claimant(stage.remote, state)) == [Outcome.ACCEPTED]
    assert event.event_id in stage.tips()
    return event


def put(stage: Stage, event_type: str, content: dict[str, Any]) -> EventID:
    path = f"/rooms/{quote(stage.room_id)}/state/{event_type}"
    event_id = stage.alice.put(path, content).json["event_id"]
    stage.share(stage.remote)
    return EventID(event_id)


def let_moderators_change_levels(stage: Stage) -> None:
    path = f"/rooms/{quote(stage.room_id)}/state/m.room.power_levels"
    levels: Any = stage.alice.get(path).json
    put(stage, "m.room.power_levels", levels | {"events": {"m.room.power_levels": 50}})


def test_attack_4_problem_a_of_msc4297(stage: Stage) -> None:
    """A join while the room was public is judged by the rules of today, up to edition 2.0."""
    carol = stage.joined("carol")
    bob = stage.joined("bob")
    left = stage.remote.member(bob, "leave")
    again = stage.remote.join(bob)
    stage.feed(left, again)
    put(stage, "m.room.join_rules", {"join_rule": "invite"})

    claim(stage, carol, stage.state() | {("m.room.member", bob): left.event_id})

    kept = stage.state()["m.room.member", bob] == again.event_id
    assert kept is (stage.version.id == "12")


def test_attack_4_problem_b_of_msc4297(stage: Stage) -> None:
    """What gave the sender the power is not in conflict itself, and forgotten up to edition 2.0."""
    carol = stage.joined("carol")
    bob = stage.joined("bob")
    let_moderators_change_levels(stage)
    stale = stage.state()
    stage.set_level(bob, 90)
    topic = stage.remote.topic(bob, "by bob")
    levels: Any = dict(stage.remote.graph.events[stage.state()["m.room.power_levels", ""]].content)
    levels["users"] = levels["users"] | {carol: 80}
    latest = stage.remote.send("m.room.power_levels", bob, levels, state_key="")
    assert stage.feed(topic, latest) == [Outcome.ACCEPTED] * 2

    claim(stage, carol, stale | {("m.room.topic", ""): topic.event_id})

    kept = stage.state()["m.room.power_levels", ""] == latest.event_id
    assert kept is (stage.version.id == "12")


def test_attack_4_the_state_of_the_beginning_is_not_brought_back(stage: Stage) -> None:
    carol = stage.joined("carol")
    first = stage.state()
    topic = put(stage, "m.room.topic", {"topic": "now"})
    name = put(stage, "m.room.name", {"name": "now"})
    dave = UserID(stage.joined("dave"))
    before = stage.state()

    claim(stage, carol, first)

    assert stage.state() == before
    assert stage.state()["m.room.topic", ""] == topic
    assert stage.state()["m.room.name", ""] == name
    assert stage.room.membership_of(dave) == "join"


def test_attack_4_a_claimed_state_without_join_rules_loses_none(stage: Stage) -> None:
    carol = stage.joined("carol")
    rules = put(stage, "m.room.join_rules", {"join_rule": "invite"})
    claimed = {slot: i for slot, i in stage.state().items() if slot[0] != "m.room.join_rules"}

    event = claim(stage, carol, claimed)

    assert stage.state()["m.room.join_rules", ""] == rules
    dave = stage.remote.user("dave")
    auth = [
        stage.state()[slot]
        for slot in (("m.room.create", ""), ("m.room.power_levels", ""))
        if slot[0] != "m.room.create" or not stage.version.room_id_is_create_hash
    ]
    join = stage.remote.make(
        "m.room.member",
        dave,
        {"membership": "join"},
        state_key=dave,
        prev=[event.event_id],
        auth=auth,
    )
    assert stage.feed(join) == [Outcome.REJECTED]
    assert stage.room.membership_of(dave) != "join"


def test_attack_4_a_claimed_state_with_rejected_events_does_not_have_them(stage: Stage) -> None:
    carol = stage.joined("carol")
    usurped = stage.remote.make("m.room.power_levels", carol, {"users": {carol: 100}}, state_key="")
    assert stage.feed(usurped) == [Outcome.REJECTED]
    before = stage.state()

    claim(stage, carol, before | {("m.room.power_levels", ""): usurped.event_id})

    assert stage.state() == before


@pytest.mark.parametrize("version_id", GRAPH_VERSIONS)
def test_attack_4_one_place_has_one_holder_whatever_fork_comes_first(
    homeserver: Homeserver, version_id: str
) -> None:
    alice = homeserver.register("alice")
    winners = set()
    for order in permutations(range(3)):
        stage = Stage(homeserver, version_id, alice=alice)
        bob = stage.joined("bob", 50)
        base = stage.remote.graph.tips()
        forks = [stage.remote.topic(bob, f"{n}", prev=base, timestamp=1_000 + n) for n in range(3)]
        stage.feed(*(forks[n] for n in order))
        held = stage.state()["m.room.topic", ""]
        graph = stage.remote.graph
        assert held == graph.resolve([graph.after[i] for i in graph.tips()])["m.room.topic", ""]
        winners.add([fork.event_id for fork in forks].index(held))
    if version_id != "1":  # where the hash of the ids decides, which differ from room to room
        assert winners == {2}


def test_attack_4_a_demoted_admin_rolls_no_levels_back(stage: Stage) -> None:
    let_moderators_change_levels(stage)
    bob = stage.joined("bob", 90)
    carol = stage.joined("carol")
    base = stage.remote.graph.tips()
    high: Any = dict(stage.remote.graph.events[stage.state()["m.room.power_levels", ""]].content)
    stage.set_level(bob, 0)
    before = stage.state()
    rollback = stage.remote.send(
        "m.room.power_levels", bob, high, state_key="", prev=base, timestamp=1
    )
    promotion = stage.remote.send(
        "m.room.power_levels",
        bob,
        high | {"users": high["users"] | {carol: 90}},
        state_key="",
        prev=[rollback.event_id],
        timestamp=1,
    )

    assert set(stage.feed(rollback, promotion)) == {Outcome.SOFT_FAILED}
    assert stage.state() == before
    merge = stage.alice.send(stage.room_id, "merge")
    assert stage.tips() == {merge}
    assert stage.state() == before


def test_attack_4_a_ban_is_not_evaded_by_a_backdated_branch(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    base = stage.remote.graph.tips()
    assert stage.alice.post(f"/rooms/{stage.room_id}/ban", {"user_id": bob}).status == 200
    evasion = [stage.remote.topic(bob, "mine", prev=base, timestamp=1)]
    for n in range(25):
        evasion.append(
            stage.remote.send(
                "m.room.member",
                bob,
                {"membership": "join", "n": n},
                state_key=bob,
                prev=[evasion[-1].event_id],
                timestamp=1,
            )
        )
    before = stage.state()

    outcomes = stage.feed(*evasion)

    assert set(outcomes) == {Outcome.SOFT_FAILED}
    assert stage.state() == before
    assert stage.room.membership_of(bob) == "ban"  # type: ignore[arg-type]  # a user id


def test_attack_4_a_claimed_state_without_the_ban_does_not_undo_it(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    base = stage.remote.graph.tips()
    assert stage.alice.post(f"/rooms/{stage.room_id}/ban", {"user_id": bob}).status == 200
    hidden = stage.remote.topic(bob, "mine", prev=base)
    for n in range(3):
        hidden = stage.remote.topic(bob, f"mine {n}", prev=[hidden.event_id])
    last = stage.remote.topic(bob, "last", prev=[hidden.event_id])
    stage.remote.hidden.add(hidden.event_id)

    assert stage.feed(last) == [Outcome.SOFT_FAILED]
    assert stage.room.membership_of(bob) == "ban"  # type: ignore[arg-type]  # a user id
    assert ("m.room.topic", "") not in stage.state()


def test_attack_4_twenty_five_forks_of_state_are_merged(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    base = stage.remote.graph.tips()
    forks = [
        stage.remote.send(
            "m.room.topic", bob, {"topic": f"{n}"}, state_key="", prev=base, timestamp=1000 + n
        )
        for n in range(25)
    ]

    assert set(stage.feed(*forks)) == {Outcome.ACCEPTED}
    assert len(stage.tips()) == 20
    graph = stage.remote.graph
    assert stage.state() == graph.resolve([graph.after[tip] for tip in sorted(stage.tips())])
    merging = stage.alice.send(stage.room_id, "merge")
    assert stage.tips() == {merging}
