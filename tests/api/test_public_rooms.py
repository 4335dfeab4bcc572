"""The directory of published rooms."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.api.test_appservices import ask as ask_as_service
from tests.api.test_appservices import start
from tests.database import InlineDatabase
from tests.homeserver import Homeserver, User


@pytest.fixture
def alice(homeserver: Homeserver) -> User:
    return homeserver.register("alice")


def public_room(user: User, **body: Any) -> str:
    return user.create_room(**{"preset": "public_chat", "visibility": "public", **body})


def search(user: User, **query: Any) -> Any:
    reply = user.post("/publicRooms", query)
    assert reply.status == 200, reply.json
    return reply.json


def ids(page: Any) -> list[str]:
    return [room["room_id"] for room in page["chunk"]]


def test_only_published_rooms_are_in_the_directory(homeserver: Homeserver, alice: User) -> None:
    listed = public_room(alice, name="Café", topic="Tea", room_alias_name="cafe")
    alice.create_room(preset="public_chat")

    page = homeserver.request("GET", "/_matrix/client/v3/publicRooms").json

    assert page == {
        "chunk": [
            {
                "room_id": listed,
                "name": "Café",
                "topic": "Tea",
                "canonical_alias": "#cafe:hs.test",
                "num_joined_members": 1,
                "world_readable": False,
                "guest_can_join": False,
                "join_rule": "public",
            }
        ],
        "total_room_count_estimate": 1,
    }


def test_the_largest_rooms_come_first(homeserver: Homeserver, alice: User) -> None:
    bob = homeserver.register("bob")
    small = [public_room(alice), public_room(alice)]
    large = public_room(alice)
    bob.join(large)

    assert ids(search(alice)) == [large, *sorted(small)]


def test_pages_go_forth_and_back_over_every_room_once(alice: User) -> None:
    rooms = {public_room(alice) for _ in range(5)}
    pages = [search(alice, limit=2)]
    while "next_batch" in pages[-1]:
        pages.append(search(alice, limit=2, since=pages[-1]["next_batch"]))

    seen = [room_id for page in pages for room_id in ids(page)]

    assert len(pages) == 3
    assert len(seen) == 5
    assert set(seen) == rooms
    assert "prev_batch" not in pages[0]
    back = search(alice, limit=2, since=pages[2]["prev_batch"])
    assert ids(back) == ids(pages[1])
    assert ids(search(alice, limit=2, since=back["prev_batch"])) == ids(pages[0])


def test_a_room_that_goes_does_not_make_another_one_be_passed_over(alice: User) -> None:
    for _ in range(4):
        public_room(alice)
    everything = ids(search(alice))
    first = search(alice, limit=2)
    alice.put(f"/directory/list/room/{quote(everything[0])}", {"visibility": "private"})

    second = search(alice, limit=2, since=first["next_batch"])

    assert ids(second) == everything[2:]


@pytest.mark.parametrize("term", ["garden", "GARDEN", "rose", "#green"])
def test_a_search_finds_names_topics_and_aliases(alice: User, term: str) -> None:
    found = public_room(alice, name="My Garden", topic="Roses", room_alias_name="green")
    public_room(alice, name="Kitchen")

    assert ids(search(alice, filter={"generic_search_term": term})) == [found]


def test_rooms_are_found_by_their_type(alice: User) -> None:
    space = public_room(alice, creation_content={"type": "m.space"})
    plain = public_room(alice)

    assert ids(search(alice, filter={"room_types": ["m.space"]})) == [space]
    assert ids(search(alice, filter={"room_types": [None]})) == [plain]
    assert set(ids(search(alice, filter={"room_types": [None, "m.space"]}))) == {space, plain}
    assert ids(search(alice, filter={"room_types": []})) == []


@pytest.mark.parametrize("since", ["", "x", "n~1", "q~1~!a:hs.test", "n~-1~!a:hs.test"])
def test_a_token_of_nobody_is_refused(alice: User, since: str) -> None:
    reply = alice.post("/publicRooms", {"since": since})

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


def test_a_negative_limit_is_refused(alice: User) -> None:
    assert alice.get("/publicRooms", limit=-1).errcode == "M_INVALID_PARAM"


def test_what_changes_in_a_room_shows_after_a_few_seconds(
    homeserver: Homeserver, alice: User
) -> None:
    room_id = public_room(alice, name="Before")
    search(alice)
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.name", {"name": "After"})

    homeserver.advance(6)

    assert search(alice)["chunk"][0]["name"] == "After"


def test_rooms_that_have_not_moved_are_not_looked_at_again(
    homeserver: Homeserver, alice: User
) -> None:
    public_room(alice)
    search(alice)
    homeserver.advance(6)
    before = len(homeserver.database.statements)

    search(alice)

    assert len(homeserver.database.statements) - before <= 3


def test_a_room_that_everybody_has_left_is_not_in_the_directory(
    homeserver: Homeserver, alice: User
) -> None:
    room_id = public_room(alice)
    assert ids(search(alice)) == [room_id]

    alice.post(f"/rooms/{quote(room_id)}/leave", {})
    homeserver.advance(6)

    assert ids(search(alice)) == []


def test_visibility_is_set_and_read(homeserver: Homeserver, alice: User) -> None:
    room_id = alice.create_room()
    path = f"/directory/list/room/{quote(room_id)}"
    read = f"/_matrix/client/v3{path}"

    assert homeserver.request("GET", read).json == {"visibility": "private"}
    assert alice.put(path, {}).status == 200
    assert homeserver.request("GET", read).json == {"visibility": "public"}
    assert ids(search(alice)) == [room_id]
    assert alice.put(path, {"visibility": "private"}).status == 200
    assert ids(search(alice)) == []


def test_who_may_not_set_the_alias_does_not_publish_a_room(
    homeserver: Homeserver, alice: User
) -> None:
    bob, carol = homeserver.register("bob"), homeserver.register("carol")
    room_id = alice.meet(bob)
    path = f"/directory/list/room/{quote(room_id)}"

    for user in (bob, carol):
        reply = user.put(path, {"visibility": "public"})
        assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
    assert alice.get(path).json == {"visibility": "private"}


def test_an_unknown_room_has_no_visibility(alice: User) -> None:
    path = "/directory/list/room/!nowhere:hs.test"

    assert alice.get(path).errcode == "M_NOT_FOUND"
    assert alice.put(path, {"visibility": "public"}).errcode == "M_NOT_FOUND"


def test_a_visibility_that_is_none_is_refused(alice: User) -> None:
    room_id = alice.create_room()

    reply = alice.put(f"/directory/list/room/{quote(room_id)}", {"visibility": "secret"})

    assert reply.status == 400


def test_a_service_has_a_list_for_its_network(database: InlineDatabase) -> None:
    bridged = start(database)
    alice = bridged.register("alice")
    own, network = public_room(alice), alice.create_room(preset="public_chat")
    path = f"/v3/directory/list/appservice/irc/{quote(network)}"

    assert ask_as_service(bridged, "PUT", path, {"visibility": "public"}).status == 200

    assert ids(search(alice)) == [own]
    assert ids(search(alice, third_party_instance_id="irc|irc")) == [network]
    assert set(ids(search(alice, include_all_networks=True))) == {own, network}
    assert ask_as_service(bridged, "PUT", path, {"visibility": "private"}).status == 200
    assert ids(search(alice, third_party_instance_id="irc|irc")) == []
    bridged.stop()


def test_users_do_not_write_the_list_of_a_network(alice: User) -> None:
    room_id = alice.create_room()

    reply = alice.put(f"/directory/list/appservice/irc/{quote(room_id)}", {"visibility": "public"})

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_a_server_that_does_not_answer_is_named_as_the_cause(alice: User) -> None:
    reply = alice.request("POST", "/publicRooms", {}, query={"server": "gone.test"})

    assert reply.status == 502
    assert "gone.test" in reply.json["error"]
