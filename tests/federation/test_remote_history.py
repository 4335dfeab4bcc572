"""History from before a server came, fetched when somebody reads that far."""

import json
from urllib.parse import quote

import pytest

from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from tests.federation.history import BACKFILL, backfills, page, room_with_history, walk
from tests.federation.meeting import enter, leave
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User
from tests.room_state import history_visibility


@pytest.mark.parametrize("limit", [7, 100, 1000])
def test_each_event_is_shown_once_and_in_order(
    a: Homeserver, alice: User, bob: User, limit: int
) -> None:
    room_id, said = room_with_history(alice, 300, bob)
    said.append(alice.send(room_id, "after"))
    a.settle()

    seen = walk(bob, room_id, limit)

    assert seen == walk(alice, room_id, limit)
    assert [event_id for event_id in reversed(seen) if event_id in set(said)] == said


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_who_reads_is_answered_as_soon_as_history_has_come(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    """Here warnings are errors, and an error would answer him as well."""
    room_id, said = room_with_history(alice, 5, bob)
    network.hold("a.test", BACKFILL)
    reading = page(bob, room_id, dir="b", limit=100)
    network.settle()
    assert not reading.answered

    network.let_through("a.test", BACKFILL)
    network.settle()

    assert reading.answered
    assert set(said) <= {event["event_id"] for event in reading.reply().json["chunk"]}


def test_history_goes_on_from_the_token_of_a_sync(alice: User, bob: User) -> None:
    room_id, said = room_with_history(alice, 30, bob)

    timeline = bob.sync()["rooms"]["join"][room_id]["timeline"]
    shown = page(bob, room_id, dir="b", limit=30, **{"from": timeline["prev_batch"]}).reply().json

    first = [event["event_id"] for event in shown["chunk"]]
    assert [*reversed(said)][:20] == [e for e in first if e in set(said)][:20]


def test_a_gap_between_two_stays_is_closed(network: MemoryNetwork, alice: User, bob: User) -> None:
    room_id, _ = room_with_history(alice, 5, bob)
    walk(bob, room_id, 100)
    leave(bob, room_id)
    between = [alice.send(room_id, f"between {number}") for number in range(40)]
    network.settle()
    enter(bob, room_id)

    seen = walk(bob, room_id, 10)

    assert set(between) <= set(seen)
    assert len(seen) == len(set(seen))
    assert seen == walk(alice, room_id, 10)


def test_another_server_is_asked_when_the_first_has_nothing(
    network: MemoryNetwork, alice: User, bob: User, carol: User
) -> None:
    room_id, said = room_with_history(alice, 20, carol)
    walk(carol, room_id, 100)
    enter(bob, room_id)
    network.lose("a.test", BACKFILL)

    seen = walk(bob, room_id, 100)

    assert set(said) <= set(seen)


def test_a_gap_that_nobody_closes_is_not_asked_about_again_and_again(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    room_id, said = room_with_history(alice, 20, bob)
    network.lose("a.test", BACKFILL)

    for _ in range(5):
        assert not set(said) & set(walk(bob, room_id, 100))
    asked = len(backfills(network))
    network.altered.clear()
    network.advance(15)

    assert asked == 1
    assert set(said) <= set(walk(bob, room_id, 100))


def test_who_reads_while_the_server_stops_is_answered(
    b: Homeserver, alice: User, bob: User
) -> None:
    room_id, _ = room_with_history(alice, 5, bob)
    b.server.background.stop()

    body = page(bob, room_id, dir="b", limit=100).reply().json

    assert [event["state_key"] for event in body["chunk"]] == [bob.user_id]


def test_attack_5_nobody_is_kept_waiting_by_a_server_that_does_not_answer(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    room_id, said = room_with_history(alice, 20, bob)
    network.hold("a.test", BACKFILL)
    first = page(bob, room_id, dir="b", limit=100)
    second = page(bob, room_id, dir="b", limit=100)
    network.advance(9)
    assert not first.answered

    network.advance(2)
    body = first.reply().json
    assert [event["state_key"] for event in body["chunk"]] == [bob.user_id]
    assert second.reply().json == body
    assert len(backfills(network)) == 1
    network.let_through("a.test", BACKFILL)
    network.settle()
    following = page(bob, room_id, dir="b", limit=100, **{"from": body["end"]}).reply().json
    assert set(said) <= {event["event_id"] for event in following["chunk"]}


def test_attack_5_answers_that_help_nobody_end_the_asking(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    room_id, _ = room_with_history(alice, 20, bob)
    newest: list[JsonObject] = []

    def repeat(answer: JsonObject) -> JsonObject:
        pdus = answer["pdus"]
        assert isinstance(pdus, list)
        return {**answer, "pdus": [*newest, *pdus[:1], {"type": "no event"}, 7]}

    network.altered[ServerName("a.test"), BACKFILL] = repeat
    walk(bob, room_id, 100)

    assert 1 <= len(backfills(network)) <= 3


def test_the_context_of_an_event_goes_beyond_the_join(alice: User, bob: User) -> None:
    room_id, said = room_with_history(alice, 10, bob)
    (joined,) = page(bob, room_id, dir="b", limit=1).reply().json["chunk"]

    path = f"/rooms/{quote(room_id)}/context/{quote(joined['event_id'])}"
    body = bob.request("GET", path, query={"limit": 8}).json

    assert [event["event_id"] for event in body["events_before"]] == said[:-5:-1]


def test_a_local_room_asks_nobody(network: MemoryNetwork, alice: User) -> None:
    room_id, said = room_with_history(alice, 5)

    assert set(said) <= set(walk(alice, room_id, 2))

    assert network.requests == []


@pytest.mark.parametrize("limit", [1, 10, 1000])
@pytest.mark.parametrize("types", [["m.nothing"], ["m.room.create"]])
def test_a_filter_does_not_end_the_history_before_its_beginning(
    network: MemoryNetwork, alice: User, bob: User, limit: int, types: list[str]
) -> None:
    room_id, _ = room_with_history(alice, 250, bob)

    seen = walk(bob, room_id, limit, filter=json.dumps({"types": types}))

    assert len(seen) == (types != ["m.nothing"])
    assert len(backfills(network)) <= 5
    assert len(walk(bob, room_id, 1000)) == len(walk(alice, room_id, 1000))


def test_a_filter_that_nothing_passes_goes_on_where_time_was_up(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    room_id, _ = room_with_history(alice, 20, bob)
    network.hold("a.test", BACKFILL)
    chosen = json.dumps({"types": ["m.room.create"]})
    reading = page(bob, room_id, dir="b", limit=10, filter=chosen)
    network.advance(11)

    body = reading.reply().json
    assert body["chunk"] == []
    network.let_through("a.test", BACKFILL)
    network.settle()
    following = page(bob, room_id, dir="b", limit=10, filter=chosen, **{"from": body["end"]})
    assert [event["type"] for event in following.reply().json["chunk"]] == ["m.room.create"]


def test_reading_forwards_crosses_a_gap_in_order(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    room_id, _ = room_with_history(alice, 5, bob)
    walk(bob, room_id, 100)
    leave(bob, room_id)
    for number in range(150):
        alice.send(room_id, f"between {number}")
    network.settle()
    enter(bob, room_id)

    seen: list[str] = []
    token: dict[str, str] = {}
    while True:
        body = page(bob, room_id, dir="f", limit=20, **token).reply().json
        seen += [event["event_id"] for event in body["chunk"]]
        if "end" not in body:
            break
        token = {"from": body["end"]}

    assert seen == walk(alice, room_id, 1000)[::-1]


def test_a_server_that_is_down_is_made_up_for_as_far_as_another_has_history(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User, carol: User
) -> None:
    room_id, early = room_with_history(alice, 30, carol)
    late = [carol.send(room_id, f"carol {number}") for number in range(30)]
    network.settle()
    late += [alice.send(room_id, f"more {number}") for number in range(30)]
    network.settle()
    enter(bob, room_id)
    network.settle()
    network.cut_off(a.name)

    without = walk(bob, room_id, 10)
    network.heal()
    network.advance(120)
    whole = walk(bob, room_id, 10)

    assert set(late) <= set(without)
    assert not set(early) & set(without)
    assert set(early) <= set(whole)
    assert whole == walk(alice, room_id, 10)


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_forks_from_before_a_join_are_read_whole(
    network: MemoryNetwork, c: Homeserver, alice: User, bob: User, carol: User, limit: int
) -> None:
    room_id, _ = room_with_history(alice, 3, carol)
    network.settle()
    for number in range(3):
        network.cut_off(c.name)
        alice.send(room_id, f"here {number}")
        for part in range(2 * number):
            carol.send(room_id, f"there {number} {part}")
        network.heal()
        network.advance(120)
    enter(bob, room_id)

    first = walk(bob, room_id, limit)

    assert len(first) == len(set(first))
    assert set(first) == set(walk(alice, room_id, 100))
    assert walk(bob, room_id, 2) == walk(bob, room_id, 100)


def test_the_members_of_a_time_before_the_join_are_told(
    a: Homeserver, alice: User, bob: User
) -> None:
    carol = a.register("carol")
    room_id, _ = room_with_history(alice, 3)
    carol.join(room_id)
    while_there = alice.send(room_id, "carol is here")
    leave(carol, room_id)
    alice.send(room_id, "carol has gone")
    enter(bob, room_id)
    walk(bob, room_id, 100)
    path = f"/rooms/{quote(room_id)}/context/{quote(while_there)}"
    at = bob.get(path, limit=0).json["start"]

    def joined(**query: str) -> set[str]:
        reply = bob.get(f"/rooms/{quote(room_id)}/members", membership="join", **query)
        return {event["state_key"] for event in reply.json["chunk"]}

    assert joined(at=at) == {alice.user_id, carol.user_id}
    assert joined() == {alice.user_id, bob.user_id}


@pytest.mark.parametrize("visibility", ["shared", "joined"])
def test_the_members_just_before_the_join_are_told(alice: User, bob: User, visibility: str) -> None:
    room_id = alice.create_room(
        preset="public_chat", initial_state=[history_visibility(visibility)]
    )
    alice.send(room_id, "before")
    enter(bob, room_id)
    token = bob.sync()["rooms"]["join"][room_id]["timeline"]["prev_batch"]

    for _ in range(2):
        reply = bob.get(f"/rooms/{quote(room_id)}/members", at=token)
        assert reply.status == 200
        assert [event["state_key"] for event in reply.json["chunk"]] == [alice.user_id]
        walk(bob, room_id, 100)


def test_what_nobody_knows_is_not_found(alice: User, bob: User) -> None:
    room_id, said = room_with_history(alice, 3)
    other, elsewhere = room_with_history(alice, 1)
    del other
    enter(bob, room_id)
    room = quote(room_id)

    for event_id in ("$unknown", "$" + "A" * 43, elsewhere[0]):
        name = quote(event_id, safe="")
        for path in (
            f"/rooms/{room}/event/{name}",
            f"/rooms/{room}/context/{name}",
            f"/_matrix/client/v1/rooms/{room}/relations/{name}",
        ):
            assert bob.get(path).status == 404
    for token in ("t9999999999999999999_9999999999999999999", "s9999999999999999999_0_0_0_0_0_0"):
        for way in ("b", "f"):
            assert page(bob, room_id, dir=way, **{"from": token}).reply().status == 200
    assert set(said) <= set(walk(bob, room_id, 100))


@pytest.mark.parametrize(
    ("visibility", "sees"),
    [("world_readable", 2), ("shared", 2), ("invited", 1), ("joined", 0)],
)
def test_who_comes_later_sees_what_another_had_fetched_as_far_as_the_room_allows(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, visibility: str, sees: int
) -> None:
    dave = b.register("dave")
    room_id = alice.create_room(
        preset="public_chat", initial_state=[history_visibility(visibility)]
    )
    enter(bob, room_id)
    walk(bob, room_id, 100)
    leave(bob, room_id)
    before = alice.send(room_id, "before the invite")
    for user in (bob, dave):
        alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": user.user_id})
    network.settle()
    since = alice.send(room_id, "since the invite")
    enter(bob, room_id)
    walk(bob, room_id, 100)

    assert dave.join(room_id).status == 200

    for user in (bob, dave):
        seen = [e for e in walk(user, room_id, 100) if e in (before, since)]
        assert seen == [since, before][:sees]
