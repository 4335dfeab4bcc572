"""History from before a server came, fetched when somebody reads that far."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, PendingReply, User

BACKFILL = "/federation/v1/backfill/"


def join(user: User, room_id: str, via: str = "a.test") -> None:
    reply = user.request("POST", f"/join/{quote(room_id)}", {}, query={"via": via})
    assert reply.status == 200, reply.json
    user.homeserver.settle()


def room_with_history(alice: User, count: int) -> tuple[str, list[str]]:
    room_id = alice.create_room(preset="public_chat")
    return room_id, [alice.send(room_id, f"{number}") for number in range(count)]


def page(user: User, room_id: str, **query: Any) -> PendingReply:
    return user.start_request("GET", f"/rooms/{quote(room_id)}/messages", query=query)


def walk(user: User, room_id: str, limit: int, **query: Any) -> list[str]:
    """Return every event back to the beginning, newest first."""
    seen: list[str] = []
    token: dict[str, str] = {}
    for _ in range(100):
        body = page(user, room_id, dir="b", limit=limit, **token, **query).reply().json
        seen += [event["event_id"] for event in body["chunk"]]
        if "end" not in body:
            return seen
        token = {"from": body["end"]}
    raise AssertionError("there is no end")


def backfills(network: MemoryNetwork) -> list[str]:
    return [to for _, to, _, target in network.requests if BACKFILL in target]


@pytest.mark.parametrize("limit", [7, 100, 1000])
def test_each_event_is_shown_once_and_in_order(a: Homeserver, b: Homeserver, limit: int) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    room_id, said = room_with_history(alice, 300)
    join(bob, room_id)
    said.append(alice.send(room_id, "after"))
    a.settle()

    seen = walk(bob, room_id, limit)

    assert seen == walk(alice, room_id, limit)
    assert [event_id for event_id in reversed(seen) if event_id in set(said)] == said


def test_history_goes_on_from_the_token_of_a_sync(a: Homeserver, b: Homeserver) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    room_id, said = room_with_history(alice, 30)
    join(bob, room_id)

    timeline = bob.sync()["rooms"]["join"][room_id]["timeline"]
    shown = page(bob, room_id, dir="b", limit=30, **{"from": timeline["prev_batch"]}).reply().json

    first = [event["event_id"] for event in shown["chunk"]]
    assert [*reversed(said)][:20] == [e for e in first if e in set(said)][:20]


def test_a_gap_between_two_stays_is_closed(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    room_id, _ = room_with_history(alice, 5)
    join(bob, room_id)
    walk(bob, room_id, 100)
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    network.settle()
    between = [alice.send(room_id, f"between {number}") for number in range(40)]
    network.settle()
    join(bob, room_id)

    seen = walk(bob, room_id, 10)

    assert set(between) <= set(seen)
    assert len(seen) == len(set(seen))
    assert seen == walk(alice, room_id, 10)


def test_another_server_is_asked_when_the_first_has_nothing(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, c: Homeserver
) -> None:
    alice, bob, carol = a.register("alice"), b.register("bob"), c.register("carol")
    room_id, said = room_with_history(alice, 20)
    join(carol, room_id)
    walk(carol, room_id, 100)
    join(bob, room_id)
    network.lose("a.test", BACKFILL)

    seen = walk(bob, room_id, 100)

    assert set(said) <= set(seen)


def test_a_gap_that_nobody_closes_is_not_asked_about_again_and_again(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    room_id, said = room_with_history(alice, 20)
    join(bob, room_id)
    network.lose("a.test", BACKFILL)

    for _ in range(5):
        assert not set(said) & set(walk(bob, room_id, 100))
    asked = len(backfills(network))
    network.altered.clear()
    network.advance(15)

    assert asked == 1
    assert set(said) <= set(walk(bob, room_id, 100))


def test_attack_5_nobody_is_kept_waiting_by_a_server_that_does_not_answer(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    room_id, said = room_with_history(alice, 20)
    join(bob, room_id)
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
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    room_id, _ = room_with_history(alice, 20)
    join(bob, room_id)
    newest: list[JsonObject] = []

    def repeat(answer: JsonObject) -> JsonObject:
        pdus = answer["pdus"]
        assert isinstance(pdus, list)
        return {**answer, "pdus": [*newest, *pdus[:1], {"type": "no event"}, 7]}

    network.altered[ServerName("a.test"), BACKFILL] = repeat
    walk(bob, room_id, 100)

    assert len(backfills(network)) <= 3


def test_the_context_of_an_event_goes_beyond_the_join(a: Homeserver, b: Homeserver) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    room_id, said = room_with_history(alice, 10)
    join(bob, room_id)
    (joined,) = page(bob, room_id, dir="b", limit=1).reply().json["chunk"]

    path = f"/rooms/{quote(room_id)}/context/{quote(joined['event_id'])}"
    body = bob.request("GET", path, query={"limit": 8}).json

    assert [event["event_id"] for event in body["events_before"]] == said[:-5:-1]


def by_time(user: User, room_id: str, ts: int, direction: str) -> Any:
    path = f"/_matrix/client/v1/rooms/{quote(room_id)}/timestamp_to_event"
    return user.request("GET", path, query={"ts": ts, "dir": direction})


def test_a_moment_before_the_join_is_found_through_another_server(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    room_id = alice.create_room(preset="public_chat")
    said, times = [], []
    for number in range(5):
        network.advance(10)
        said.append(alice.send(room_id, f"{number}"))
        times.append(a.clock.now_ms())
    join(bob, room_id)

    forwards = by_time(bob, room_id, times[2] - 5, "f")
    backwards = by_time(bob, room_id, times[3] + 5, "b")

    assert forwards.json == {"event_id": said[2], "origin_server_ts": times[2]}
    assert backwards.json == {"event_id": said[3], "origin_server_ts": times[3]}
    path = f"/rooms/{quote(room_id)}/context/{quote(said[2])}"
    context = bob.request("GET", path, query={"limit": 4})
    shown = [e["event_id"] for e in context.json["events_after"]]
    assert shown == said[3:]
    assert [e["event_id"] for e in context.json["events_before"]] == said[1::-1]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"event_id": 7, "origin_server_ts": 1},
        {"event_id": "$nonsense", "origin_server_ts": 1_700_000_000_000},
        {"event_id": "$nonsense", "origin_server_ts": True},
    ],
)
def test_attack_1_a_moment_is_not_what_another_server_says(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, answer: JsonObject
) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    room_id, _ = room_with_history(alice, 5)
    network.advance(10)
    join(bob, room_id)
    network.altered[ServerName("a.test"), "/timestamp_to_event/"] = lambda _: answer

    found = by_time(bob, room_id, 0, "f")

    assert found.status == 200
    assert found.json["origin_server_ts"] == b.clock.now_ms()


def test_a_local_room_asks_nobody(network: MemoryNetwork, a: Homeserver) -> None:
    alice = a.register("alice")
    room_id, _ = room_with_history(alice, 5)

    walk(alice, room_id, 2)

    assert network.requests == []
