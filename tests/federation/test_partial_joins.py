"""Rooms joined without their members: used at once, complete some time later."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.identifiers import ServerName, parse_room_id
from homeserver.core.json_types import JsonObject
from tests.federation.meeting import texts
from tests.federation.network import MemoryNetwork
from tests.federation.partial_rooms import (
    LAZY,
    STATE,
    asked_for_state,
    is_partial,
    join,
    room_of,
    state,
)
from tests.homeserver import Homeserver, User
from tests.results import result_of


@pytest.fixture
def room_id(alice: User) -> str:
    return room_of(alice)


def test_a_room_is_complete_soon_after_the_join(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    join(bob, room_id)
    network.settle()

    assert any("omit_members=true" in target for *_, target in network.requests)
    assert not is_partial(b, room_id)
    assert state(bob, room_id) == state(alice, room_id)


def test_a_room_is_read_and_spoken_in_before_its_members_are_known(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    network.lose("a.test", STATE)

    join(bob, room_id)
    shown = bob.sync(filter=LAZY)["rooms"]["join"]
    alice.send(room_id, "from a")
    network.settle()
    bob.send(room_id, "from b")
    network.settle()

    assert is_partial(b, room_id)
    assert room_id in shown
    assert texts(alice, room_id) == ["from a", "from b"] == texts(bob, room_id)
    assert room_id not in bob.sync().get("rooms", {}).get("join", {})
    network.altered.clear()
    network.advance(15)
    assert not is_partial(b, room_id)
    assert state(bob, room_id) == state(alice, room_id)
    assert room_id in bob.sync()["rooms"]["join"]


def test_who_asks_for_the_members_waits_for_them(
    network: MemoryNetwork, bob: User, room_id: str
) -> None:
    network.hold("a.test", STATE)
    join(bob, room_id)
    asked = bob.start_request("GET", f"/rooms/{quote(room_id)}/joined_members")
    assert not asked.answered

    network.let_through("a.test", STATE)
    network.settle()

    assert len(asked.reply().json["joined"]) == 5


def test_a_restart_in_the_middle_does_no_harm(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    network.hold("a.test", STATE)
    join(bob, room_id)
    alice.send(room_id, "before the restart")
    network.settle()

    restarted = network.add(b.restart())
    bob.homeserver = restarted
    network.let_through("a.test", STATE)
    network.settle()

    assert state(bob, room_id) == state(alice, room_id)
    assert not is_partial(restarted, room_id)
    assert texts(bob, room_id) == ["before the restart"]


def test_another_server_tells_the_members_when_the_first_is_gone(
    network: MemoryNetwork, alice: User, bob: User, carol: User
) -> None:
    room_id = room_of(alice, [carol])
    network.settle()
    network.lose("a.test", STATE)
    network.requests.clear()

    join(bob, room_id)
    network.advance(15)

    assert asked_for_state(network)[-2:] == ["a.test", "c.test"]
    assert state(bob, room_id) == state(alice, room_id) == state(carol, room_id)


@pytest.mark.parametrize("statement", ["partial_state_rooms", "INSERT INTO state_segments"])
def test_a_database_that_is_away_for_a_moment_does_not_end_the_asking(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, room_id: str, statement: str
) -> None:
    network.hold("a.test", STATE)
    join(bob, room_id)
    b.database.fail_on = statement
    network.let_through("a.test", STATE)
    network.advance(15)

    b.database.fail_on = None
    network.advance(60)

    assert state(bob, room_id) == state(alice, room_id)
    assert not is_partial(b, room_id)


def no_state(answer: JsonObject) -> JsonObject:
    return {**answer, "pdus": []}


def another_name(answer: JsonObject) -> JsonObject:
    pdus: list[Any] = list(answer["pdus"])  # type: ignore[arg-type]  # a list of events
    for pdu in pdus:
        if pdu["type"] == "m.room.join_rules":
            pdu["content"]["join_rule"] = "invite"
    return {**answer, "pdus": pdus}


@pytest.mark.parametrize("alter", [no_state, another_name, lambda _: {}, lambda _: {"pdus": 7}])
def test_attack_1_a_false_state_is_not_believed(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, carol: User, alter: Any
) -> None:
    room_id = room_of(alice, [carol])
    network.settle()
    network.altered[ServerName("a.test"), STATE] = alter

    join(bob, room_id)
    network.advance(15)

    assert not is_partial(b, room_id)
    assert state(bob, room_id) == state(alice, room_id)


def test_attack_5_servers_in_the_room_that_are_none_are_not_talked_to(
    network: MemoryNetwork, b: Homeserver, bob: User, room_id: str
) -> None:
    network.lose("a.test", STATE)

    def alter(answer: JsonObject) -> JsonObject:
        made_up = [f"s{number}.test" for number in range(5_000)]
        return {**answer, "servers_in_room": [7, "no name/", "b.test", "a.test", *made_up]}

    network.altered[ServerName("a.test"), "/send_join/"] = alter
    join(bob, room_id)

    partial = result_of(b.server.partial_joins.list_servers(parse_room_id(room_id)))
    assert partial[0] == "a.test"
    assert "b.test" not in partial
    assert len(partial) <= 2_000


def test_it_is_tried_again_with_growing_pauses(
    network: MemoryNetwork, b: Homeserver, bob: User, room_id: str
) -> None:
    network.lose("a.test", STATE)
    join(bob, room_id)
    network.settle()
    counts = []

    for _ in range(4):
        network.requests.clear()
        for _ in range(60):
            network.advance(10)
        counts.append(len(asked_for_state(network)))

    assert counts[0] >= 5
    assert sum(counts[1:]) <= 3
    network.altered.clear()
    network.advance(3600)
    assert not is_partial(b, room_id)


def test_a_room_that_nobody_is_in_any_more_is_given_up(
    network: MemoryNetwork, alice: User, bob: User, room_id: str
) -> None:
    network.lose("a.test", STATE)
    join(bob, room_id)
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    network.advance(30)
    network.requests.clear()

    network.advance(7200)

    assert asked_for_state(network) == []
    network.altered.clear()
    join(bob, room_id)
    network.settle()
    assert state(bob, room_id) == state(alice, room_id)


def test_a_second_user_joins_a_room_that_lacks_members_through_its_server(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    berta = b.register("berta")
    alice.post(f"/rooms/{quote(room_id)}/ban", {"user_id": berta.user_id})
    network.lose("a.test", STATE)
    join(bob, room_id)

    reply = berta.post(f"/join/{quote(room_id)}", {})
    bea = b.register("bea")
    other = bea.post(f"/join/{quote(room_id)}", {})

    assert (reply.status, other.status) == (403, 200)
    network.altered.clear()
    network.advance(3600)
    assert state(bob, room_id) == state(alice, room_id)
