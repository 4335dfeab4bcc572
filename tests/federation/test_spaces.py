"""Spaces and rooms of other servers."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.services import spaces
from homeserver.services.federation import remote_spaces
from homeserver.transport.outbound import Answer
from tests.api.test_spaces import make_space, shown, summary, walk
from tests.federation.asking import ask, make_hostile
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User
from tests.room_state import join_rules


def add(user: User, space: str, *rooms: str, via: str, **content: Any) -> None:
    for room_id in rooms:
        path = f"/rooms/{quote(space)}/state/m.space.child/{quote(room_id)}"
        assert user.put(path, {"via": [via], **content}).status == 200


def hierarchy(server: Homeserver, origin: str, room_id: str, **query: str) -> Any:
    return ask(server, origin, "GET", f"/hierarchy/{quote(room_id)}", **query)


def told(room_id: str, **fields: Any) -> dict[str, Any]:
    """A summary as another server gives it."""
    return {
        "room_id": room_id,
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": False,
        "join_rule": "public",
        **fields,
    }


def child(room_id: str, **content: Any) -> dict[str, Any]:
    return {
        "type": "m.space.child",
        "state_key": room_id,
        "sender": "@eve:evil.test",
        "origin_server_ts": 1,
        "content": {"via": ["evil.test"], **content},
    }


def space_of(room_id: str, *children: Any, **answer: Any) -> dict[str, Any]:
    room = told(room_id, room_type="m.space", children_state=list(children))
    return {"room": room, "children": [], "inaccessible_children": [], **answer}


def test_rooms_of_another_server_are_shown_in_a_space_of_ours(alice: User, bob: User) -> None:
    room_id = bob.create_room(preset="public_chat", name="Over there")
    root = make_space(alice)
    add(alice, root, room_id, via="b.test")

    reply = walk(alice, root).json

    assert [room["room_id"] for room in reply["rooms"]] == [root, room_id]
    assert reply["rooms"][1]["name"] == "Over there"
    assert reply["rooms"][1]["children_state"] == []


def test_a_space_of_another_server_is_walked_through(alice: User, bob: User) -> None:
    root, inner = make_space(bob, name="There"), make_space(bob)
    leaf, secret = bob.create_room(preset="public_chat"), bob.create_room()
    add(bob, root, inner, secret, via="b.test")
    add(bob, inner, leaf, via="b.test")

    assert shown(alice, root) == [root, inner, leaf]
    assert summary(alice, root, via="b.test").json["name"] == "There"


def test_answers_are_remembered_a_while(network: MemoryNetwork, alice: User, bob: User) -> None:
    root = make_space(bob)
    add(bob, root, bob.create_room(preset="public_chat"), via="b.test")
    first = shown(alice, root)
    count = len(network.requests)

    assert shown(alice, root) == first
    assert len(network.requests) == count
    network.advance(301)
    assert shown(alice, root) == first
    assert len(network.requests) > count


def test_pages_go_across_servers(alice: User, bob: User) -> None:
    root, there = make_space(alice), make_space(bob)
    add(alice, root, there, via="b.test")
    add(bob, there, *(bob.create_room(preset="public_chat") for _ in range(4)), via="b.test")
    seen: list[str] = []
    page = walk(alice, root, limit=2).json
    while "next_batch" in page:
        seen += [room["room_id"] for room in page["rooms"]]
        page = walk(alice, root, limit=2, **{"from": page["next_batch"]}).json

    seen += [room["room_id"] for room in page["rooms"]]

    assert len(seen) == len(set(seen)) == 6


def test_what_this_server_knows_itself_goes_before_what_others_say(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    room_id = alice.create_room(preset="public_chat", name="True")
    secret = alice.create_room(name="Private")
    answer = space_of(
        "!space:evil.test",
        child(room_id, order="a"),
        child(secret, order="b"),
        children=[told(room_id, name="False"), told(secret, name="False")],
        inaccessible_children=[secret],
    )
    make_hostile(network, "evil.test", lambda *_: answer)
    bob = a.register("bob")

    def names(user: User) -> list[Any]:
        return [room.get("name") for room in walk(user, "!space:evil.test").json["rooms"]]

    assert names(alice) == [None, "True", "Private"]
    assert names(bob) == [None, "True"]


def test_a_restricted_room_of_another_server_is_shown_to_who_may_join(
    a: Homeserver, alice: User, bob: User
) -> None:
    anna = a.register("anna")
    root = make_space(bob)
    rules = join_rules("restricted", root)
    inside = bob.create_room(preset="private_chat", initial_state=[rules])
    add(bob, root, inside, via="b.test")

    assert shown(anna, root) == [root]
    assert alice.post(f"/join/{quote(root)}", {}).status == 200
    assert shown(alice, root) == [root, inside]


def test_a_server_is_shown_what_its_users_could_join(
    a: Homeserver, alice: User, bob: User, c: Homeserver
) -> None:
    del c
    root = make_space(alice)
    rules = join_rules("restricted", root)
    restricted = alice.create_room(preset="private_chat", initial_state=[rules])
    invited = alice.create_room(preset="private_chat", invite=[bob.user_id])
    local = alice.create_room(preset="public_chat", creation_content={"m.federate": False})
    for room_id in (restricted, invited, local, "!unknown:a.test"):
        add(alice, root, room_id, via="a.test")
        a.advance(1)
    assert bob.post(f"/join/{quote(root)}", {}).status == 200

    to_b, to_c = hierarchy(a, "b.test", root).json, hierarchy(a, "c.test", root).json

    assert [room["room_id"] for room in to_b["children"]] == [restricted, invited]
    assert to_b["inaccessible_children"] == [local]
    assert to_b["children"][0]["allowed_room_ids"] == [root]
    assert to_c["children"] == []
    assert to_c["inaccessible_children"] == [restricted, invited, local]
    assert len(to_c["room"]["children_state"]) == 4


def test_suggested_rooms_alone_are_served_if_so_asked(
    a: Homeserver, alice: User, b: Homeserver
) -> None:
    del b
    root = make_space(alice)
    plain, suggested = (alice.create_room(preset="public_chat") for _ in range(2))
    add(alice, root, plain, via="a.test")
    add(alice, root, suggested, via="a.test", suggested=True)

    served = hierarchy(a, "b.test", root, suggested_only="true").json

    assert [room["room_id"] for room in served["children"]] == [suggested]
    assert [entry["state_key"] for entry in served["room"]["children_state"]] == [suggested]


@pytest.mark.parametrize("room", ["private", "unknown", "denied"])
def test_attack_8_a_room_that_is_not_for_a_server_does_not_exist_for_it(
    a: Homeserver, alice: User, b: Homeserver, room: str
) -> None:
    del b
    acl = {
        "type": "m.room.server_acl",
        "state_key": "",
        "content": {"allow": ["*"], "deny": ["b.test"]},
    }
    state = [acl] if room == "denied" else []
    preset = "private_chat" if room == "private" else "public_chat"
    space = make_space(alice, preset=preset, initial_state=state)

    reply = hierarchy(a, "b.test", "!unknown:a.test" if room == "unknown" else space)

    assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")


def test_attack_13_a_circle_through_other_servers_is_walked_once(alice: User, bob: User) -> None:
    here, there = make_space(alice), make_space(bob)
    add(alice, here, there, via="b.test")
    add(bob, there, here, there, via="a.test")

    assert shown(alice, here) == [here, there]


def test_attack_13_endless_spaces_of_another_server_cost_so_many_requests(
    network: MemoryNetwork, a: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spaces, "_REQUESTS_A_PAGE", 5)

    def answer(_method: str, target: str, _body: Any) -> Any:
        room_id = target.partition("/hierarchy/")[2].partition("?")[0].replace("%21", "!")
        room_id = room_id.replace("%3A", ":")
        inner = [f"!{number}{room_id[1:]}" for number in range(10)]
        return space_of(room_id, *(child(each) for each in inner))

    make_hostile(network, "evil.test", answer)
    alice = a.register("alice")

    reply = walk(alice, "!x:evil.test", limit=100, max_depth=50)

    assert len(network.requests) == 5
    assert len(reply.json["rooms"]) == 5
    assert "next_batch" in reply.json


def test_attack_13_a_space_of_another_server_has_so_many_rooms_at_most(
    network: MemoryNetwork, a: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_spaces, "_MAX_CHILDREN", 10)
    rooms = [f"!{number}:evil.test" for number in range(50)]
    answer = space_of(
        "!x:evil.test",
        *(child(room_id) for room_id in rooms),
        children=[told(room_id) for room_id in rooms],
    )
    make_hostile(network, "evil.test", lambda *_: answer)

    reply = walk(a.register("alice"), "!x:evil.test", limit=100)

    assert len(reply.json["rooms"][0]["children_state"]) == 10


def test_attack_13_one_space_does_not_say_what_is_in_another(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    good = make_space(bob, name="Good")
    make_hostile(
        network,
        "evil.test",
        lambda *_: {
            "room": told(good, name="Bad", room_type="m.space", children_state=[]),
            "children": [],
            "inaccessible_children": [],
        },
    )
    bad_root, good_root = make_space(alice), make_space(alice)
    add(alice, bad_root, good, via="evil.test")
    add(alice, good_root, good, via="b.test")
    walk(alice, bad_root)

    assert [room.get("name") for room in walk(alice, good_root).json["rooms"]] == [None, "Good"]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"room": None},
        space_of("!other:evil.test"),
        {"room": {"room_id": "!x:evil.test"}, "children": []},
        Answer(200, b"[]"),
        Answer(500, b"<html>"),
    ],
)
def test_attack_5_an_answer_that_is_not_of_the_room_says_nothing(
    network: MemoryNetwork, a: Homeserver, answer: Any
) -> None:
    make_hostile(network, "evil.test", lambda *_: answer)
    alice = a.register("alice")

    assert walk(alice, "!x:evil.test").errcode == "M_FORBIDDEN"
    assert summary(alice, "!x:evil.test").errcode == "M_NOT_FOUND"


def test_attack_5_what_is_no_room_is_left_out(network: MemoryNetwork, a: Homeserver) -> None:
    good = child("!good:evil.test")
    bad: list[Any] = [
        None,
        "!x:y",
        {**good, "type": "m.room.member"},
        {**good, "state_key": "x"},
        {**good, "content": {"via": []}},
        {**good, "content": []},
        {**good, "origin_server_ts": "1"},
        {**good, "sender": None},
    ]
    answer = space_of(
        "!x:evil.test",
        *bad,
        {**good, "unsigned": {"age": 1}},
        children=[7, {}, told("!good:evil.test", encryption="rot13", topic=5)],
        inaccessible_children=[{}, 5],
    )
    make_hostile(network, "evil.test", lambda *_: answer)

    rooms = walk(a.register("alice"), "!x:evil.test").json["rooms"]

    assert rooms[0]["children_state"] == [good]
    assert rooms[1] == {**told("!good:evil.test"), "children_state": []}


def test_a_server_that_does_not_answer_is_not_asked_about_each_room(
    network: MemoryNetwork, alice: User
) -> None:
    root = make_space(alice)
    room_id = alice.create_room(preset="public_chat")
    add(alice, root, *(f"!{number}:gone.test" for number in range(5)), via="gone.test", order="a")
    add(alice, root, room_id, via="a.test", order="b")

    assert shown(alice, root) == [root, room_id]
    assert len(network.requests) == 1
