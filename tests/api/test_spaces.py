"""Walking through spaces, and rooms seen from outside."""

import itertools
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.services import room_summaries, spaces
from tests.homeserver import Homeserver, Reply, User
from tests.room_state import history_visibility, join_rules


@pytest.fixture
def alice(homeserver: Homeserver) -> User:
    return homeserver.register("alice")


def make_space(user: User, **body: Any) -> str:
    return user.create_room(
        **{"preset": "public_chat", "creation_content": {"type": "m.space"}, **body}
    )


def add(user: User, space: str, *rooms: str, **content: Any) -> None:
    for room_id in rooms:
        path = f"/rooms/{quote(space)}/state/m.space.child/{quote(room_id)}"
        assert user.put(path, {"via": ["hs.test"], **content}).status == 200


def walk(user: User, space: str, **query: Any) -> Reply:
    return user.get(f"/_matrix/client/v1/rooms/{quote(space)}/hierarchy", **query)


def shown(user: User, space: str, **query: Any) -> list[str]:
    reply = walk(user, space, **query)
    assert reply.status == 200, reply.json
    return [room["room_id"] for room in reply.json["rooms"]]


def summary(user: User, room: str, **query: Any) -> Reply:
    return user.get(f"/_matrix/client/v1/room_summary/{quote(room)}", **query)


def test_a_tree_is_shown_depth_first(alice: User) -> None:
    root, inner = make_space(alice, name="Root"), make_space(alice, name="Inner")
    one, two, three = (alice.create_room(preset="public_chat") for _ in range(3))
    add(alice, root, inner, order="a")
    add(alice, root, one, order="b")
    add(alice, inner, two, order="b")
    add(alice, inner, three, order="a")

    reply = walk(alice, root).json

    assert [room["room_id"] for room in reply["rooms"]] == [root, inner, three, two, one]
    assert "next_batch" not in reply
    first = reply["rooms"][0]
    assert (first["name"], first["room_type"], first["room_version"]) == ("Root", "m.space", "11")
    assert [child["state_key"] for child in first["children_state"]] == [inner, one]
    assert all(
        set(child) == {"type", "state_key", "sender", "content", "origin_server_ts"}
        for child in first["children_state"]
    )


def test_rooms_without_an_order_come_after_those_with_one(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    root = make_space(alice)
    rooms = [alice.create_room(preset="public_chat") for _ in range(5)]
    add(alice, root, rooms[0])
    homeserver.advance(1)
    add(alice, root, rooms[1], order="\x7fnot ASCII")
    homeserver.advance(1)
    add(alice, root, rooms[2], order="x" * 51)
    add(alice, root, rooms[3], order="~")
    add(alice, root, rooms[4], order=" ")

    assert shown(alice, root)[1:] == [rooms[4], rooms[3], rooms[0], rooms[1], rooms[2]]


def test_a_room_that_is_taken_out_of_a_space_is_not_shown(alice: User) -> None:
    root, room_id = make_space(alice), alice.create_room(preset="public_chat")
    add(alice, root, room_id)
    path = f"/rooms/{quote(root)}/state/m.space.child/{quote(room_id)}"

    contents: list[dict[str, Any]] = [{}, {"via": []}, {"via": "hs.test"}, {"via": [1]}]
    for content in contents:
        alice.put(path, content)
        assert shown(alice, root) == [root]


def test_a_room_that_is_no_space_has_no_rooms(alice: User) -> None:
    room_id, other = (alice.create_room(preset="public_chat") for _ in range(2))
    add(alice, room_id, other)

    reply = walk(alice, room_id).json

    assert [room["room_id"] for room in reply["rooms"]] == [room_id]
    assert reply["rooms"][0]["children_state"] == []


def test_no_room_is_shown_beyond_the_depth_asked_for(alice: User) -> None:
    chain = [make_space(alice) for _ in range(4)]
    for above, below in itertools.pairwise(chain):
        add(alice, above, below)

    assert shown(alice, chain[0], max_depth=0) == chain[:1]
    assert shown(alice, chain[0], max_depth=2) == chain[:3]
    assert shown(alice, chain[0]) == chain


def test_a_shorter_way_to_a_room_leads_further(alice: User) -> None:
    root, middle, near, leaf = (make_space(alice) for _ in range(4))
    add(alice, root, middle, order="a")
    add(alice, root, near, order="b")
    add(alice, middle, near)
    add(alice, near, leaf)

    assert shown(alice, root, max_depth=2) == [root, middle, near, leaf]


def test_only_suggested_rooms_are_shown_if_so_asked(alice: User) -> None:
    root = make_space(alice)
    plain, suggested = (alice.create_room(preset="public_chat") for _ in range(2))
    add(alice, root, plain)
    add(alice, root, suggested, suggested=True)

    reply = walk(alice, root, suggested_only="true").json

    assert [room["room_id"] for room in reply["rooms"]] == [root, suggested]
    assert [c["state_key"] for c in reply["rooms"][0]["children_state"]] == [suggested]


def test_pages_show_every_room_once(alice: User) -> None:
    root = make_space(alice)
    add(alice, root, *(alice.create_room(preset="public_chat") for _ in range(5)))
    seen: list[str] = []
    page = walk(alice, root, limit=2).json
    while True:
        assert len(page["rooms"]) <= 2
        seen += [room["room_id"] for room in page["rooms"]]
        if "next_batch" not in page:
            break
        page = walk(alice, root, limit=2, **{"from": page["next_batch"]}).json

    assert seen == shown(alice, root)


@pytest.mark.parametrize("changed", [{"max_depth": 3}, {"suggested_only": "true"}])
def test_a_walk_does_not_change_from_page_to_page(alice: User, changed: dict[str, Any]) -> None:
    root = make_space(alice)
    add(alice, root, *(alice.create_room(preset="public_chat") for _ in range(2)))
    token = walk(alice, root, limit=1).json["next_batch"]

    reply = walk(alice, root, limit=1, **{"from": token}, **changed)

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    "query", [{"from": "x"}, {"from": "1_0"}, {"from": "²_x"}, {"limit": 0}, {"max_depth": -1}]
)
def test_what_makes_no_sense_is_refused(alice: User, query: dict[str, Any]) -> None:
    reply = walk(alice, make_space(alice), **query)

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


def test_attack_13_spaces_in_a_circle_are_shown_once(alice: User) -> None:
    one, two, three = (make_space(alice) for _ in range(3))
    add(alice, one, two, one)
    add(alice, two, three)
    add(alice, three, one, two)

    assert shown(alice, one) == [one, two, three]
    assert shown(alice, two) == [two, three, one]


def test_attack_13_a_tangle_of_spaces_ends(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces, "_MAX_STEPS", 100)
    tangle = [make_space(alice) for _ in range(8)]
    for space in tangle:
        add(alice, space, *tangle)

    found = shown(alice, tangle[0], max_depth=50)

    assert len(found) == len(set(found)) == 8


def test_attack_13_a_long_chain_of_spaces_ends(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spaces, "_MAX_DEPTH", 4)
    chain = [make_space(alice) for _ in range(8)]
    for above, below in itertools.pairwise(chain):
        add(alice, above, below)

    assert shown(alice, chain[0], max_depth=2**40) == chain[:5]


def test_attack_13_a_space_that_says_too_much_is_cut_short(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_summaries, "_MAX_CHILDREN_BYTES", 5_000)
    root = make_space(alice)
    rooms = [alice.create_room(preset="public_chat") for _ in range(5)]
    add(alice, root, *rooms, padding="x" * 1_000)

    reply = walk(alice, root)

    assert len(reply.json["rooms"]) == 4
    assert len(reply.body) < 7_000


def test_attack_13_a_page_has_a_size(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces, "_MAX_PAGE_BYTES", 2_000)
    root = make_space(alice)
    rooms = [alice.create_room(preset="public_chat", topic="x" * 900) for _ in range(4)]
    add(alice, root, *rooms)
    page = walk(alice, root).json
    seen = [room["room_id"] for room in page["rooms"]]
    assert "next_batch" in page

    while "next_batch" in page:
        page = walk(alice, root, **{"from": page["next_batch"]}).json
        seen += [room["room_id"] for room in page["rooms"]]

    assert sorted(seen) == sorted([root, *rooms])


def test_attack_13_a_walk_has_an_end(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces, "_MAX_ROOMS", 3)
    root = make_space(alice)
    add(alice, root, *(alice.create_room(preset="public_chat") for _ in range(5)))

    assert len(shown(alice, root)) == 3


def test_attack_8_rooms_that_a_user_could_not_join_are_not_shown(homeserver: Homeserver) -> None:
    alice, bob = homeserver.register("alice"), homeserver.register("bob")
    root = make_space(alice)
    secret = alice.create_room(preset="private_chat")
    invited = alice.create_room(preset="private_chat", invite=[bob.user_id])
    restricted = alice.create_room(
        preset="private_chat", initial_state=[join_rules("restricted", root)]
    )
    knock = alice.create_room(preset="private_chat", initial_state=[join_rules("knock")])
    visible = history_visibility("world_readable")
    readable = alice.create_room(preset="private_chat", initial_state=[visible])
    banned = alice.create_room(preset="public_chat")
    alice.post(f"/rooms/{quote(banned)}/ban", {"user_id": bob.user_id})
    add(alice, root, secret, invited, restricted, knock, readable, banned)

    assert set(shown(bob, root)) == {root, invited, knock, readable}
    bob.join(root)
    assert set(shown(bob, root)) == {root, invited, knock, readable, restricted}


@pytest.mark.parametrize("room", ["unknown", "private", "banned"])
def test_attack_8_a_space_that_a_user_may_not_see_is_forbidden(
    homeserver: Homeserver, room: str
) -> None:
    alice, bob = homeserver.register("alice"), homeserver.register("bob")
    space = make_space(alice, preset="private_chat" if room == "private" else "public_chat")
    alice.post(f"/rooms/{quote(space)}/ban", {"user_id": bob.user_id}) if room == "banned" else None

    reply = walk(bob, "!unknown:hs.test" if room == "unknown" else space)

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_a_summary_says_what_the_room_is(homeserver: Homeserver) -> None:
    alice, bob = homeserver.register("alice"), homeserver.register("bob")
    encryption = {
        "type": "m.room.encryption",
        "state_key": "",
        "content": {"algorithm": "m.megolm.v1.aes-sha2"},
    }
    space = make_space(alice)
    room_id = alice.create_room(
        name="Name",
        room_alias_name="room",
        initial_state=[encryption, join_rules("restricted", space)],
    )
    bob.join(space)

    found = summary(bob, "#room:hs.test").json

    assert found == {
        "room_id": room_id,
        "name": "Name",
        "canonical_alias": "#room:hs.test",
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": True,
        "join_rule": "restricted",
        "allowed_room_ids": [space],
        "encryption": "m.megolm.v1.aes-sha2",
        "room_version": "11",
        "membership": "leave",
    }
    assert summary(alice, room_id).json["membership"] == "join"


def test_who_is_not_logged_in_sees_open_rooms_alone(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    is_open = alice.create_room(preset="public_chat")
    private = alice.create_room()

    def ask(room_id: str) -> Reply:
        return homeserver.request("GET", f"/_matrix/client/v1/room_summary/{quote(room_id)}")

    assert ask(is_open).json["room_id"] == is_open
    assert "membership" not in ask(is_open).json
    assert ask(private).errcode == "M_NOT_FOUND"
    assert ask("!elsewhere:other.test").status == 401


def test_attack_8_a_private_room_is_summarized_for_its_members_alone(
    homeserver: Homeserver,
) -> None:
    alice, bob = homeserver.register("alice"), homeserver.register("bob")
    room_id = alice.create_room()

    assert summary(bob, room_id).errcode == "M_NOT_FOUND"
    alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    assert summary(bob, room_id).json["membership"] == "invite"


@pytest.mark.parametrize(
    ("content", "topic"),
    [
        ({"topic": "Plain"}, "Plain"),
        ({"topic": "Plain", "m.topic": {"m.text": [{"body": "Text"}]}}, "Text"),
        (
            {
                "topic": "Plain",
                "m.topic": {"m.text": [{"body": "<b>", "mimetype": "text/html"}]},
            },
            "Plain",
        ),
        ({"topic": "", "m.topic": {"m.text": [{"body": "Text"}]}}, None),
        ({"topic": ["x"]}, None),
        ({"topic": "Plain", "m.topic": {"m.text": [7]}}, "Plain"),
    ],
)
def test_a_topic_is_shown_as_plain_text(
    alice: User, content: dict[str, Any], topic: str | None
) -> None:
    room_id = alice.create_room()
    assert alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic", content).status == 200

    assert summary(alice, room_id).json.get("topic") == topic
