"""Filters through the API and in sync."""

import json
from urllib.parse import quote

from homeserver.services import filters
from tests.homeserver import Homeserver, User


def define(user: User, definition: object) -> str:
    reply = user.post(f"/user/{quote(user.user_id)}/filter", definition)
    assert reply.status == 200, reply.json
    return str(reply.json["filter_id"])


def filter_path(user: User, filter_id: str) -> str:
    return f"/user/{quote(user.user_id)}/filter/{filter_id}"


def test_a_filter_is_read_back_as_it_was_uploaded(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    definition = {"room": {"timeline": {"limit": 8}}, "org.unknown": [1.5]}

    filter_id = define(alice, definition)

    assert alice.get(filter_path(alice, filter_id)).json == definition


def test_the_same_filter_is_kept_once(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    assert define(alice, {"room": {}}) == define(alice, {"room": {}})
    assert define(alice, {"room": {}}) != define(alice, {"presence": {}})


def test_filters_are_only_for_their_own_user(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    bob = homeserver.register("bob")
    filter_id = define(alice, {})

    assert bob.get(filter_path(alice, filter_id)).errcode == "M_FORBIDDEN"
    assert bob.get(filter_path(bob, filter_id)).errcode == "M_NOT_FOUND"
    assert bob.post(f"/user/{quote(alice.user_id)}/filter", {}).errcode == "M_FORBIDDEN"


def test_unknown_filters_are_not_found(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    assert alice.get(filter_path(alice, "77")).errcode == "M_NOT_FOUND"
    assert alice.get(filter_path(alice, "a%00b")).errcode == "M_INVALID_PARAM"


def test_malformed_filters_are_refused(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    path = f"/user/{quote(alice.user_id)}/filter"

    assert alice.post(path, {"room": []}).errcode == "M_BAD_JSON"
    assert alice.post(path, {"room": {"timeline": {"limit": -1}}}).status == 400
    assert alice.post(path, {"unknown": "x" * 70_000}).errcode == "M_TOO_LARGE"


def test_of_too_many_filters_the_oldest_go(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    bob = homeserver.register("bob")
    of_bob = define(bob, {})
    first = define(alice, {"n": 0})
    second = define(alice, {"n": 1})

    for n in range(2, filters._MAX_FILTERS_OF_USER + 1):
        define(alice, {"n": n})

    assert alice.get(filter_path(alice, first)).status == 404
    assert alice.get(filter_path(alice, second)).status == 200
    assert bob.get(filter_path(bob, of_bob)).status == 200


def test_sync_takes_the_id_of_a_filter_also_after_a_restart(both_versions: Homeserver) -> None:
    alice = both_versions.register("alice")
    room_id = alice.create_room()
    for n in range(5):
        alice.send(room_id, str(n))
    filter_id = define(alice, {"room": {"timeline": {"limit": 2}}})

    before = alice.sync(filter=filter_id)
    alice.homeserver = both_versions.restart()
    after = alice.sync(filter=filter_id)

    for synced in (before, after):
        timeline = synced["rooms"]["join"][room_id]["timeline"]
        assert [e["content"]["body"] for e in timeline["events"]] == ["3", "4"]
        assert timeline["limited"]


def test_a_filter_is_read_from_the_database_once(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    filter_id = define(alice, {"room": {"timeline": {"limit": 2}}})
    restarted = alice.homeserver = homeserver.restart()
    alice.sync(filter=filter_id)
    restarted.database.statements.clear()

    alice.sync(filter=filter_id)

    assert not [s for s in restarted.database.statements if "filters" in s]


def test_sync_takes_a_filter_written_out(both_versions: Homeserver) -> None:
    alice = both_versions.register("alice")
    alice.create_room()

    synced = alice.sync(filter=json.dumps({"room": {"rooms": []}}))

    assert "rooms" not in synced or not synced["rooms"].get("join")


def test_sync_refuses_filters_it_cannot_read(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    for bad in ("{", '{"room":[]}', "unknown", "a\0b"):
        assert alice.get("/sync", filter=bad).errcode == "M_INVALID_PARAM"
