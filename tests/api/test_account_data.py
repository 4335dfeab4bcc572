"""Account data and tags through the API and in sync."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.engine import change_feed
from tests.homeserver import Homeserver, User

ROOM = "!somewhere:elsewhere.test"


def data_path(user: User, data_type: str, room_id: str | None = None) -> str:
    room = "" if room_id is None else f"/rooms/{quote(room_id)}"
    return f"/user/{quote(user.user_id)}{room}/account_data/{data_type}"


def tags_path(user: User, room_id: str, tag: str | None = None) -> str:
    name = "" if tag is None else f"/{quote(tag, safe='')}"
    return f"/user/{quote(user.user_id)}/rooms/{quote(room_id)}/tags{name}"


def events_of(part: Any) -> dict[str, Any]:
    """Content by type."""
    return {event["type"]: event["content"] for event in part["account_data"]["events"]}


def test_what_was_stored_is_read_back(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    content = {"order": 0.25, "nul": "\0", "name": "Äpfel", "deep": [{"a": None}]}

    assert alice.put(data_path(alice, "org.test"), content).status == 200

    assert alice.get(data_path(alice, "org.test")).json == content


def test_the_last_content_replaces_all_of_the_one_before(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    alice.put(data_path(alice, "org.test"), {"a": 1})

    alice.put(data_path(alice, "org.test"), {"b": 2})

    assert alice.get(data_path(alice, "org.test")).json == {"b": 2}


def test_account_data_survives_a_restart(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    alice.put(data_path(alice, "org.test"), {"a": 1})

    alice.homeserver = homeserver.restart()

    assert alice.get(data_path(alice, "org.test")).json == {"a": 1}


def test_data_of_a_room_and_global_data_are_apart(both_versions: Homeserver) -> None:
    alice = both_versions.register("alice")

    alice.put(data_path(alice, "org.test", ROOM), {"of": "room"})

    assert alice.get(data_path(alice, "org.test", ROOM)).json == {"of": "room"}
    assert alice.get(data_path(alice, "org.test")).errcode == "M_NOT_FOUND"
    assert alice.get(data_path(alice, "org.test", "!other:hs.test")).status == 404


def test_nobody_reads_or_writes_the_data_of_others(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    bob = homeserver.register("bob")
    alice.put(data_path(alice, "org.test"), {"a": 1})

    assert bob.get(data_path(alice, "org.test")).errcode == "M_FORBIDDEN"
    assert bob.put(data_path(alice, "org.test"), {}).errcode == "M_FORBIDDEN"
    assert bob.get(data_path(alice, "org.test", ROOM)).errcode == "M_FORBIDDEN"
    assert bob.put(data_path(alice, "org.test", ROOM), {}).errcode == "M_FORBIDDEN"
    assert bob.get(data_path(bob, "org.test")).status == 404


def test_what_the_server_manages_cannot_be_written(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    for data_type in ("m.fully_read", "m.push_rules"):
        for room_id in (None, ROOM):
            reply = alice.put(data_path(alice, data_type, room_id), {"event_id": "$x"})
            assert (reply.status, reply.errcode) == (405, "M_BAD_JSON")


def test_push_rules_are_read_as_account_data(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    assert alice.get(data_path(alice, "m.push_rules")).json == alice.get("/pushrules/").json


def test_account_data_that_is_too_large_is_refused(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    reply = alice.put(data_path(alice, "org.test"), {"text": "x" * 300_000})

    assert (reply.status, reply.errcode) == (413, "M_TOO_LARGE")
    assert alice.get(data_path(alice, "org.test")).status == 404


def test_bodies_that_are_no_objects_are_refused(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    path = data_path(alice, "org.test")

    assert alice.request("PUT", path, raw=b"[1]").errcode == "M_BAD_JSON"
    assert alice.request("PUT", path, raw=b"{").errcode == "M_NOT_JSON"


def test_names_the_database_cannot_hold_are_refused(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    assert alice.put(data_path(alice, "org%00test"), {}).errcode == "M_INVALID_PARAM"
    assert alice.get(data_path(alice, "org%00test")).errcode == "M_INVALID_PARAM"
    assert alice.put(data_path(alice, "t" * 256), {}).errcode == "M_INVALID_PARAM"
    assert alice.get(data_path(alice, "org.test", "not-a-room")).errcode == "M_INVALID_PARAM"
    assert alice.put(tags_path(alice, ROOM, "a\0b"), {}).errcode == "M_INVALID_PARAM"
    assert alice.put(tags_path(alice, ROOM, "ä" * 128), {}).errcode == "M_INVALID_PARAM"


def test_first_sync_has_all_account_data(both_versions: Homeserver) -> None:
    alice = both_versions.register("alice")
    room_id = alice.create_room()
    alice.put(data_path(alice, "org.test"), {"a": 1})
    alice.put(data_path(alice, "org.test", room_id), {"b": 2})

    synced = alice.sync()

    assert events_of(synced)["org.test"] == {"a": 1}
    assert events_of(synced)["m.push_rules"] == alice.get("/pushrules/").json
    assert events_of(synced["rooms"]["join"][room_id]) == {"org.test": {"b": 2}}


def test_later_sync_has_only_what_changed(both_versions: Homeserver) -> None:
    alice = both_versions.register("alice")
    room_id = alice.create_room()
    alice.put(data_path(alice, "org.old"), {"a": 1})
    since = alice.sync()["next_batch"]
    alice.put(data_path(alice, "org.test"), {"a": 2})
    alice.put(data_path(alice, "org.test", room_id), {"b": 2})

    synced = alice.sync(since)

    assert events_of(synced) == {"org.test": {"a": 2}}
    assert events_of(synced["rooms"]["join"][room_id]) == {"org.test": {"b": 2}}
    assert "account_data" not in alice.sync(synced["next_batch"])


def test_waiting_sync_of_another_device_is_woken(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    phone = alice.login_again()
    since = phone.sync()["next_batch"]
    waiting = phone.start_request("GET", "/sync", query={"since": since, "timeout": 30000})
    assert not waiting.answered

    alice.put(data_path(alice, "org.test"), {"a": 1})

    assert events_of(waiting.reply().json) == {"org.test": {"a": 1}}


def test_changes_from_before_a_restart_are_synced_after_it(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    since = alice.sync()["next_batch"]
    alice.put(data_path(alice, "org.test"), {"a": 1})

    alice.homeserver = homeserver.restart()

    assert events_of(alice.sync(since)) == {"org.test": {"a": 1}}


def test_changes_are_found_though_memory_holds_few_of_them(
    homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = homeserver.register("alice")
    bob = homeserver.register("bob")
    since = {user: user.sync()["next_batch"] for user in (alice, bob)}
    monkeypatch.setattr(change_feed, "_MAX_KEYS", 1)

    for user in (alice, bob):
        user.put(data_path(user, "org.test"), {"a": 1})

    for user, token in since.items():
        assert events_of(user.sync(token)) == {"org.test": {"a": 1}}


def test_sync_without_news_reads_no_account_data(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    bob = homeserver.register("bob")
    since = alice.sync()["next_batch"]
    bob.put(data_path(bob, "org.test"), {"a": 1})
    since = alice.sync(since)["next_batch"]
    homeserver.database.statements.clear()

    alice.sync(since)

    tables = ("account_data", "push_rules", "receipts")
    assert not [s for s in homeserver.database.statements if any(t in s for t in tables)]


def test_tags_are_set_listed_and_deleted(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    alice.put(tags_path(alice, ROOM, "m.favourite"), {"order": 0.5})
    alice.put(tags_path(alice, ROOM, "u.Work & play"), {})

    before = alice.get(tags_path(alice, ROOM)).json
    deleted = alice.request("DELETE", tags_path(alice, ROOM, "m.favourite"))

    assert before == {"tags": {"m.favourite": {"order": 0.5}, "u.Work & play": {}}}
    assert deleted.status == 200
    assert alice.get(tags_path(alice, ROOM)).json == {"tags": {"u.Work & play": {}}}
    assert alice.get(data_path(alice, "m.tag", ROOM)).json == {"tags": {"u.Work & play": {}}}


def test_a_room_without_tags_has_an_empty_list_of_them(both_versions: Homeserver) -> None:
    alice = both_versions.register("alice")

    assert alice.get(tags_path(alice, ROOM)).json == {"tags": {}}
    assert alice.request("DELETE", tags_path(alice, ROOM, "m.favourite")).status == 200


def test_tags_written_as_account_data_may_be_nonsense(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    alice.put(data_path(alice, "m.tag", ROOM), {"tags": {"u.a": 1, "u.b": {}}})

    assert alice.get(tags_path(alice, ROOM)).json == {"tags": {"u.b": {}}}

    alice.put(data_path(alice, "m.tag", ROOM), {"tags": []})
    assert alice.get(tags_path(alice, ROOM)).json == {"tags": {}}


def test_order_of_a_tag_must_be_a_number(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    assert alice.put(tags_path(alice, ROOM, "u.a"), {"order": "1"}).errcode == "M_BAD_JSON"
    assert alice.put(tags_path(alice, ROOM, "u.a"), {"order": True}).errcode == "M_BAD_JSON"


def test_tags_are_only_for_their_own_user(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    bob = homeserver.register("bob")

    assert bob.get(tags_path(alice, ROOM)).errcode == "M_FORBIDDEN"
    assert bob.put(tags_path(alice, ROOM, "u.a"), {}).errcode == "M_FORBIDDEN"
    assert bob.request("DELETE", tags_path(alice, ROOM, "u.a")).errcode == "M_FORBIDDEN"


def test_tags_are_synced_as_account_data_of_the_room(both_versions: Homeserver) -> None:
    alice = both_versions.register("alice")
    room_id = alice.create_room()
    since = alice.sync()["next_batch"]

    alice.put(tags_path(alice, room_id, "m.lowpriority"), {"order": 0.9})

    room = alice.sync(since)["rooms"]["join"][room_id]
    assert events_of(room) == {"m.tag": {"tags": {"m.lowpriority": {"order": 0.9}}}}


def test_account_data_that_fails_halfway_changes_nothing(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    alice.put(data_path(alice, "org.test"), {"a": 1})
    alice.get("/account/whoami")
    for statement in (1, 2, 3):
        homeserver.database.fail_at = statement
        assert alice.put(data_path(alice, "org.test"), {"a": statement + 1}).status >= 500

        assert alice.get(data_path(alice, "org.test")).json == {"a": 1}


def test_what_was_stored_for_a_room_comes_with_it_when_its_user_joins(
    alice: User, bob: User
) -> None:
    room_id = alice.create_room(invite=[bob.user_id])
    bob.put(tags_path(bob, room_id, "u.tea"), {"order": 0.5})
    since = bob.sync()["next_batch"]

    bob.join(room_id)

    room = bob.sync(since)["rooms"]["join"][room_id]
    assert events_of(room) == {"m.tag": {"tags": {"u.tea": {"order": 0.5}}}}
