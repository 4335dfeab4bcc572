"""The directory of published rooms across servers."""

import dataclasses
from typing import Any

import pytest

from homeserver.config import PublicRoomsSection
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.transport.outbound import Answer
from tests.federation.asking import ask, make_hostile
from tests.federation.conftest import MakeServer
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, Reply, User

GOOD = {
    "room_id": "!good:evil.test",
    "num_joined_members": 2,
    "world_readable": False,
    "guest_can_join": True,
}


def public_room(user: User, **body: Any) -> str:
    return user.create_room(**{"preset": "public_chat", "visibility": "public", **body})


def search(user: User, server: str, **query: Any) -> Reply:
    return user.request("POST", "/publicRooms", query, query={"server": server})


def test_the_rooms_of_another_server_are_searched_there(
    b: Homeserver, alice: User, bob: User
) -> None:
    found = public_room(alice, name="Garden")
    public_room(alice, name="Kitchen")
    public_room(bob, name="Garden of b")

    page = search(bob, "a.test", filter={"generic_search_term": "garden"}).json

    assert [room["room_id"] for room in page["chunk"]] == [found]
    listed = b.request("GET", "/_matrix/client/v3/publicRooms", query={"server": "a.test"}).json
    assert len(listed["chunk"]) == 2


def test_the_pages_of_another_server_follow_each_other(alice: User, bob: User) -> None:
    rooms = {public_room(alice) for _ in range(3)}

    first = search(bob, "a.test", limit=2).json
    second = search(bob, "a.test", limit=2, since=first["next_batch"]).json

    assert {room["room_id"] for room in (*first["chunk"], *second["chunk"])} == rooms


def test_ones_own_name_asks_no_other_server(network: MemoryNetwork, alice: User) -> None:
    room_id = public_room(alice)

    page = search(alice, "a.test").json

    assert [room["room_id"] for room in page["chunk"]] == [room_id]
    assert network.requests == []


def test_rooms_that_do_not_federate_are_not_shown_to_other_servers(alice: User, bob: User) -> None:
    public_room(alice, creation_content={"m.federate": False})

    assert search(bob, "a.test").json["chunk"] == []
    assert len(search(alice, "a.test").json["chunk"]) == 1


def test_both_ways_to_ask_give_the_same(a: Homeserver, b: Homeserver) -> None:
    del b
    public_room(a.register("alice"))

    got = ask(a, "b.test", "GET", "/publicRooms", limit="5")
    posted = ask(a, "b.test", "POST", "/publicRooms", {"limit": 5})

    assert got.status == posted.status == 200
    assert got.json == posted.json


def test_a_server_keeps_its_directory_to_itself_if_it_is_told_to(
    network: MemoryNetwork, make_server: MakeServer, b: Homeserver
) -> None:
    a = make_server("a.test")
    closed = dataclasses.replace(a.config, public_rooms=PublicRoomsSection(over_federation=False))
    a.config = closed
    network.add(a.restart())

    reply = search(b.register("bob"), "a.test")

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_a_server_that_is_gone_is_named(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    network.cut_off(a.name)

    reply = search(b.register("bob"), "a.test")

    assert reply.status == 502
    assert "a.test" in reply.json["error"]


def test_attack_5_what_is_no_entry_is_left_out(network: MemoryNetwork, a: Homeserver) -> None:
    bad: list[Any] = [
        None,
        7,
        {},
        {**GOOD, "room_id": "#no:room"},
        {**GOOD, "room_id": 1},
        {**GOOD, "num_joined_members": "2"},
        {**GOOD, "num_joined_members": True},
        {**GOOD, "world_readable": None},
    ]
    odd = {**GOOD, "name": ["x"], "canonical_alias": "no alias", "html": "<script>", "topic": "T"}
    answer = {"chunk": [*bad, odd], "next_batch": 7, "total_room_count_estimate": "many"}
    make_hostile(network, "evil.test", lambda *_: answer)

    page = search(a.register("alice"), "evil.test").json

    assert page == {"chunk": [{**GOOD, "topic": "T"}]}


def test_attack_5_more_rooms_than_were_asked_for_are_left_out(
    network: MemoryNetwork, a: Homeserver
) -> None:
    rooms = [{**GOOD, "room_id": f"!{number}:evil.test"} for number in range(1_000)]
    make_hostile(network, "evil.test", lambda *_: {"chunk": rooms})

    assert len(search(a.register("alice"), "evil.test", limit=10).json["chunk"]) == 10


@pytest.mark.parametrize("answer", [{}, {"chunk": {}}, {"chunk": None}, "[]"])
def test_attack_5_an_answer_that_is_none_is_an_error(
    network: MemoryNetwork, a: Homeserver, answer: Any
) -> None:
    content = answer.encode() if isinstance(answer, str) else encode_canonical_json(answer)
    make_hostile(network, "evil.test", lambda *_: Answer(200, content))

    assert search(a.register("alice"), "evil.test").status == 502


@pytest.mark.parametrize("errcode", ["M_UNRECOGNIZED", "M_UNKNOWN_TOKEN", "M_USER_DEACTIVATED"])
def test_attack_1_an_error_of_another_server_is_not_taken_for_one_of_ones_own(
    network: MemoryNetwork, a: Homeserver, errcode: str
) -> None:
    """Clients would believe that their server lacks the operation, or that they are logged out."""
    answer = Answer(404, encode_canonical_json({"errcode": errcode, "error": "Not here"}))
    make_hostile(network, "evil.test", lambda *_: answer)

    reply = search(a.register("alice"), "evil.test")

    assert (reply.status, reply.errcode) == (502, "M_UNKNOWN")
    assert "Not here" in reply.json["error"]
