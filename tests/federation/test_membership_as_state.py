"""Memberships by state event, where other servers have a part in them."""

from urllib.parse import quote

import pytest

from tests.federation.meeting import enter
from tests.federation.network import MemoryNetwork
from tests.federation.partial_rooms import Scene
from tests.homeserver import Homeserver, Reply, User


def put(user: User, room_id: str, membership: str, of: str | None = None, **more: str) -> Reply:
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(of or user.user_id)}"
    reply = user.put(path, {"membership": membership, **more})
    user.homeserver.settle()
    return reply


def event_of(reader: User, room_id: str, user: User) -> dict[str, object]:
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user.user_id)}"
    event = reader.get(path, format="event").json
    return {"event_id": event["event_id"], "membership": event["content"]["membership"]}


@pytest.mark.parametrize("membership", ["join", "leave"])
def test_an_invitation_to_a_room_of_another_server_is_answered(
    alice: User, bob: User, membership: str
) -> None:
    room_id = alice.create_room(invite=[bob.user_id])
    alice.homeserver.settle()

    first, again = put(bob, room_id, membership), put(bob, room_id, membership)

    assert (first.status, again.status) == (200, 200)
    expected = {"event_id": first.json["event_id"], "membership": membership}
    assert event_of(alice, room_id, bob) == expected


def test_a_room_of_another_server_is_knocked_on(a: Homeserver, alice: User, bob: User) -> None:
    rule = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
    room_id = alice.create_room(initial_state=[rule], name="The room's name")
    by_id = f"!{room_id[1:].partition(':')[0]}:{a.name}"
    assert by_id == room_id, "the room id names the server to ask"

    reply = put(bob, room_id, "knock")

    expected = {"event_id": reply.json["event_id"], "membership": "knock"}
    assert event_of(alice, room_id, bob) == expected


def test_another_server_vouches_for_a_join_of_a_restricted_room(
    alice: User, bob: User, b: Homeserver
) -> None:
    carol = b.register("carol")
    club = alice.create_room(preset="public_chat")
    allow = [{"type": "m.room_membership", "room_id": club}]
    rule = {"join_rule": "restricted", "allow": allow}
    room_id = alice.create_room(initial_state=[{"type": "m.room.join_rules", "content": rule}])
    for user in (bob, carol):
        enter(user, club)
    enter(bob, room_id)

    reply = put(carol, room_id, "join")

    expected = {"event_id": reply.json["event_id"], "membership": "join"}
    assert event_of(alice, room_id, carol) == event_of(bob, room_id, carol) == expected


def test_a_user_of_another_server_is_invited_with_its_signature(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    room_id = alice.create_room()

    reply = put(alice, room_id, "invite", bob.user_id)

    assert [to for *_, to in network.requests if "/v2/invite/" in to]
    expected = {"event_id": reply.json["event_id"], "membership": "invite"}
    assert event_of(alice, room_id, bob) == expected
    assert room_id in bob.sync()["rooms"]["invite"]


def test_who_is_invited_twice_with_the_same_words_is_asked_once(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    room_id = alice.create_room()

    replies = [put(alice, room_id, "invite", bob.user_id) for _ in range(2)]
    other = put(alice, room_id, "invite", bob.user_id, reason="Please")

    assert replies[0].json == replies[1].json != other.json
    assert len([to for *_, to in network.requests if "/v2/invite/" in to]) == 2


def test_a_room_without_its_members_is_entered_through_a_server_that_knows_them(
    scene: Scene,
) -> None:
    dave = scene.bob.homeserver.register("dave")

    reply = put(dave, scene.room_id, "join")

    assert scene.is_partial
    expected = {"event_id": reply.json["event_id"], "membership": "join"}
    assert event_of(scene.alice, scene.room_id, dave) == expected


@pytest.mark.parametrize(
    ("said", "status"), [(1.5, 400), (2**60, 400), ("\ud800", 400), ("x" * 70_000, 413)]
)
@pytest.mark.parametrize("membership", ["join", "knock", "leave", "invite"])
def test_what_no_event_can_say_is_refused_before_another_server_is_asked(
    network: MemoryNetwork, alice: User, bob: User, membership: str, said: object, status: int
) -> None:
    room_id = alice.create_room(invite=[] if membership == "invite" else [bob.user_id])
    alice.homeserver.settle()
    network.requests.clear()
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    by = alice if membership == "invite" else bob

    reply = by.put(path, {"membership": membership, "org.example.said": said})

    assert reply.status == status
    assert network.requests == []
