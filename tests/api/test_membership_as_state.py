"""Memberships by state event: they are what the operations of their names make of them."""

import dataclasses
from urllib.parse import quote

import pytest

from homeserver.config import RateLimitSection
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, Reply, User


@pytest.fixture
def server(database: InlineDatabase) -> Homeserver:
    return Homeserver(database)


@pytest.fixture
def alice(server: Homeserver) -> User:
    return server.register("alice")


@pytest.fixture
def bob(server: Homeserver) -> User:
    bob = server.register("bob")
    bob.put(f"/profile/{quote(bob.user_id)}/displayname", {"displayname": "Bob"})
    return bob


def path_of(room_id: str, user: User) -> str:
    return f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user.user_id)}"


def put(by: User, room_id: str, user: User, membership: str, **content: object) -> Reply:
    return by.put(path_of(room_id, user), {"membership": membership, **content})


def current(reader: User, room_id: str, user: User) -> tuple[str, dict[str, object]]:
    """The id and content of a user's member event."""
    event = reader.get(path_of(room_id, user), format="event").json
    return event["event_id"], event["content"]


def restricted_room(alice: User, club: str) -> str:
    rules = {
        "join_rule": "restricted",
        "allow": [{"type": "m.room_membership", "room_id": club}],
    }
    return alice.create_room(initial_state=[{"type": "m.room.join_rules", "content": rules}])


def test_a_restricted_room_is_entered_both_ways(alice: User, bob: User) -> None:
    club = alice.create_room(preset="public_chat")
    room_id = restricted_room(alice, club)

    before = put(bob, room_id, bob, "join")
    bob.join(club)
    after = put(bob, room_id, bob, "join", **{"org.example.by": "state"})

    assert (before.status, after.status) == (403, 200)
    event_id, content = current(alice, room_id, bob)
    assert after.json == {"event_id": event_id}
    assert content == {
        "membership": "join",
        "displayname": "Bob",
        "join_authorised_via_users_server": alice.user_id,
        "org.example.by": "state",
    }


def test_who_is_joined_says_himself_what_he_is_called_in_the_room(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)

    named = put(bob, room_id, bob, "join", displayname="Robert")
    again = put(bob, room_id, bob, "join", displayname="Robert")
    nameless = put(bob, room_id, bob, "join")

    assert named.json == again.json != nameless.json
    assert current(alice, room_id, bob) == (nameless.json["event_id"], {"membership": "join"})


def test_who_leaves_again_is_answered_the_event_by_which_he_has_left(
    alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    assert put(bob, room_id, bob, "leave").status == 404
    bob.join(room_id)

    first = put(bob, room_id, bob, "leave", reason="tired")
    again = put(bob, room_id, bob, "leave", reason="still tired")

    assert first.json == again.json
    event_id, content = current(alice, room_id, bob)
    assert first.json == {"event_id": event_id}
    assert content == {"membership": "leave", "reason": "tired"}


def test_an_invited_user_is_shown_with_his_name_both_ways(alice: User, bob: User) -> None:
    room_id = alice.create_room()

    reply = put(alice, room_id, bob, "invite", is_direct=True)

    event_id, content = current(alice, room_id, bob)
    assert reply.json == {"event_id": event_id}
    assert content == {"membership": "invite", "displayname": "Bob", "is_direct": True}


def test_nobody_is_removed_who_was_never_there(alice: User, bob: User) -> None:
    room_id = alice.create_room()

    assert put(alice, room_id, bob, "leave").status == 403

    assert put(alice, room_id, bob, "ban").status == 200
    assert put(alice, room_id, bob, "leave").status == 200
    assert current(alice, room_id, bob)[1] == {"membership": "leave"}


def test_nobody_is_removed_again_who_has_left(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)
    bob.post(f"/rooms/{quote(room_id)}/leave", {})

    by_operation = alice.post(f"/rooms/{quote(room_id)}/kick", {"user_id": bob.user_id})
    by_state = put(alice, room_id, bob, "leave", reason="and stay away")

    assert (by_state.status, by_state.json) == (403, by_operation.json)
    assert current(alice, room_id, bob)[1] == {"membership": "leave"}


@pytest.mark.parametrize("name", ["", "bob", "@bob"])
@pytest.mark.parametrize("membership", ["join", "invite", "leave", "ban", "elsewhere"])
def test_only_users_have_a_membership(alice: User, name: str, membership: str) -> None:
    room_id = alice.create_room()
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(name)}"

    assert alice.put(path, {"membership": membership}).status in (400, 403)


@pytest.mark.parametrize("membership", [None, 7, ["join"], {}, "elsewhere"])
def test_a_membership_is_one_of_a_few_words(alice: User, bob: User, membership: object) -> None:
    room_id = alice.create_room(preset="public_chat")

    for user in (alice, bob):
        path = path_of(room_id, user)
        assert user.put(path, {"membership": membership}).status in (400, 403)


@pytest.mark.parametrize("membership", ["join", "knock", "leave", "invite"])
def test_attack_13_both_ways_have_one_limit(database: InlineDatabase, membership: str) -> None:
    limits = RateLimitSection(per_second=1, burst=4)
    server = Homeserver(database, dataclasses.replace(DEFAULT_CONFIG, rate_limits=limits))
    alice, bob = server.register("alice"), server.register("bob")
    room_id = alice.create_room(preset="public_chat")
    by, user, body = (alice, bob, {"user_id": bob.user_id}) if membership == "invite" else (
        bob, bob, {},
    )  # fmt: skip
    path = f"/knock/{quote(room_id)}" if membership == "knock" else (
        f"/rooms/{quote(room_id)}/{membership}"
    )  # fmt: skip

    by_operation = [by.post(path, body).status for _ in range(2)]
    by_state = [put(by, room_id, user, membership).status for _ in range(3)]

    assert 429 not in by_operation + by_state[:2]
    assert by_state[2] == 429
    assert by.post(path, body).status == 429
    server.stop()
