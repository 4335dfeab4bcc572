"""Read receipts and read markers through the API and in sync."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.json_types import JsonObject
from homeserver.storage.query import execute
from tests.homeserver import Homeserver, Reply, User


def post_receipt(
    user: User, room_id: str, event_id: str, kind: str = "m.read", body: object = None
) -> Reply:
    path = f"/rooms/{quote(room_id)}/receipt/{kind}/{quote(event_id, safe='')}"
    return user.post(path, {} if body is None else body)


def set_markers(user: User, room_id: str, **markers: str) -> Reply:
    names = {"fully_read": "m.fully_read", "read": "m.read", "private": "m.read.private"}
    body = {names[name]: event_id for name, event_id in markers.items()}
    return user.post(f"/rooms/{quote(room_id)}/read_markers", body)


def receipts_in(synced: Any, room_id: str) -> Any:
    """Content of m.receipt without timestamps; None when the sync has none."""
    room = synced.get("rooms", {}).get("join", {}).get(room_id, {})
    found = [e for e in room.get("ephemeral", {}).get("events", []) if e["type"] == "m.receipt"]
    assert len(found) <= 1
    if not found:
        return None
    return {
        event_id: {
            kind: {
                user_id: {k: v for k, v in receipt.items() if k != "ts"}
                for user_id, receipt in users.items()
            }
            for kind, users in kinds.items()
        }
        for event_id, kinds in found[0]["content"].items()
    }


def marker_of(user: User, room_id: str) -> Any:
    path = f"/user/{quote(user.user_id)}/rooms/{quote(room_id)}/account_data/m.fully_read"
    return user.get(path).json.get("event_id")


def thread_reply(user: User, room_id: str, root: str) -> str:
    relation = {"rel_type": "m.thread", "event_id": root}
    return user.send_event(room_id, "m.room.message", {"body": "x", "m.relates_to": relation})


def test_everybody_in_the_room_sees_a_receipt(alice: User, bob: User, room_id: str) -> None:
    event_id = alice.send(room_id, "hello")
    since = {user: user.sync()["next_batch"] for user in (alice, bob)}

    assert post_receipt(bob, room_id, event_id).json == {}

    for user, token in since.items():
        synced = user.sync(token)
        assert receipts_in(synced, room_id) == {event_id: {"m.read": {bob.user_id: {}}}}
        assert receipts_in(user.sync(synced["next_batch"]), room_id) is None


def test_a_receipt_has_the_time_it_was_sent(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    event_id = alice.send(room_id, "hello")
    both_versions.advance(5)

    post_receipt(bob, room_id, event_id)

    events = alice.sync()["rooms"]["join"][room_id]["ephemeral"]["events"]
    assert (
        events[0]["content"][event_id]["m.read"][bob.user_id]["ts"] == both_versions.clock.now_ms()
    )


def test_a_receipt_wakes_a_waiting_sync(alice: User, bob: User, room_id: str) -> None:
    event_id = alice.send(room_id, "hello")
    since = alice.sync()["next_batch"]
    waiting = alice.start_request("GET", "/sync", query={"since": since, "timeout": 30000})
    assert not waiting.answered

    post_receipt(bob, room_id, event_id)

    assert receipts_in(waiting.reply().json, room_id) is not None


def test_private_receipts_are_for_their_owner_alone(alice: User, bob: User, room_id: str) -> None:
    event_id = alice.send(room_id, "hello")
    since = {user: user.sync()["next_batch"] for user in (bob, alice)}
    waiting = alice.start_request("GET", "/sync", query={"since": since[alice], "timeout": 30000})

    post_receipt(bob, room_id, event_id, "m.read.private")

    expected: JsonObject = {event_id: {"m.read.private": {bob.user_id: {}}}}
    assert receipts_in(bob.sync(since[bob]), room_id) == expected
    assert receipts_in(bob.sync(), room_id) == expected
    assert not waiting.answered
    assert receipts_in(alice.sync(since[alice]), room_id) is None
    assert receipts_in(alice.sync(), room_id) is None


def test_private_receipts_stay_private_after_a_restart(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    event_id = alice.send(room_id, "hello")
    since = alice.sync()["next_batch"]
    post_receipt(bob, room_id, event_id, "m.read.private")

    alice.homeserver = both_versions.restart()

    assert receipts_in(alice.sync(since), room_id) is None


def test_a_private_receipt_costs_others_no_reading(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    event_id = alice.send(room_id, "hello")
    since = alice.sync()["next_batch"]
    post_receipt(bob, room_id, event_id, "m.read.private")
    both_versions.database.statements.clear()

    alice.sync(since)

    assert not [s for s in both_versions.database.statements if "receipts" in s]


def test_receipts_never_go_back(alice: User, bob: User, room_id: str) -> None:
    first = alice.send(room_id, "one")
    second = alice.send(room_id, "two")
    post_receipt(bob, room_id, second)
    since = alice.sync()["next_batch"]

    assert post_receipt(bob, room_id, first).status == 200
    assert post_receipt(bob, room_id, second).status == 200

    assert receipts_in(alice.sync(since), room_id) is None
    assert receipts_in(alice.sync(), room_id) == {second: {"m.read": {bob.user_id: {}}}}


def test_a_newer_receipt_replaces_the_older(alice: User, bob: User, room_id: str) -> None:
    first = alice.send(room_id, "one")
    second = alice.send(room_id, "two")
    post_receipt(bob, room_id, first)

    post_receipt(bob, room_id, second)

    assert receipts_in(alice.sync(), room_id) == {second: {"m.read": {bob.user_id: {}}}}


def test_receipts_of_threads_are_apart(alice: User, bob: User, room_id: str) -> None:
    root = alice.send(room_id, "root")
    reply = thread_reply(alice, room_id, root)
    last = alice.send(room_id, "last")

    post_receipt(bob, room_id, last, body={"thread_id": "main"})
    post_receipt(bob, room_id, reply, body={"thread_id": root})
    post_receipt(bob, room_id, root)

    assert receipts_in(alice.sync(), room_id) == {
        last: {"m.read": {bob.user_id: {"thread_id": "main"}}},
        reply: {"m.read": {bob.user_id: {"thread_id": root}}},
        root: {"m.read": {bob.user_id: {}}},
    }


def test_of_two_receipts_for_one_event_the_unthreaded_is_told(
    alice: User, bob: User, room_id: str
) -> None:
    event_id = alice.send(room_id, "hello")

    post_receipt(bob, room_id, event_id)
    post_receipt(bob, room_id, event_id, body={"thread_id": "main"})

    assert receipts_in(alice.sync(), room_id) == {event_id: {"m.read": {bob.user_id: {}}}}


def test_an_event_must_be_in_the_thread_of_its_receipt(
    alice: User, bob: User, room_id: str
) -> None:
    root = alice.send(room_id, "root")
    reply = thread_reply(alice, room_id, root)
    reaction = alice.send_event(
        room_id,
        "m.reaction",
        {"m.relates_to": {"rel_type": "m.annotation", "event_id": reply, "key": "+"}},
    )
    other = alice.send(room_id, "other")

    def status(event_id: str, thread_id: object) -> int:
        return post_receipt(bob, room_id, event_id, body={"thread_id": thread_id}).status

    assert status(other, root) == 400
    assert status(reply, other) == 400
    assert status(reply, "main") == 400
    assert status(reaction, "main") == 400
    assert status(reaction, root) == 200
    assert status(reply, root) == 200
    assert status(root, root) == 200
    assert status(root, "main") == 200


def test_relations_are_followed_only_a_few_steps(alice: User, room_id: str) -> None:
    root = alice.send(room_id, "root")
    last = thread_reply(alice, room_id, root)
    for _ in range(6):
        relation = {"rel_type": "m.annotation", "event_id": last, "key": "+"}
        last = alice.send_event(room_id, "m.reaction", {"m.relates_to": relation})

    assert post_receipt(alice, room_id, last, body={"thread_id": root}).status == 400
    assert post_receipt(alice, room_id, last, body={"thread_id": "main"}).status == 200


@pytest.mark.parametrize("thread_id", ["", None, 5, {}])
def test_malformed_thread_ids_are_refused(alice: User, room_id: str, thread_id: object) -> None:
    event_id = alice.send(room_id, "hello")

    reply = post_receipt(alice, room_id, event_id, body={"thread_id": thread_id})

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


def test_the_read_marker_is_of_no_thread(alice: User, room_id: str) -> None:
    event_id = alice.send(room_id, "hello")

    reply = post_receipt(alice, room_id, event_id, "m.fully_read", {"thread_id": "main"})

    assert reply.errcode == "M_INVALID_PARAM"


def test_a_receipt_without_a_body_is_accepted(alice: User, room_id: str) -> None:
    event_id = alice.send(room_id, "hello")
    path = f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}"

    assert alice.request("POST", path, raw=b"").status == 200


def test_receipts_of_unknown_kinds_are_refused(alice: User, room_id: str) -> None:
    event_id = alice.send(room_id, "hello")

    assert post_receipt(alice, room_id, event_id, "m.seen").errcode == "M_INVALID_PARAM"


@pytest.mark.parametrize("kind", ["m.read", "m.read.private", "m.fully_read"])
def test_only_members_may_say_what_they_have_read(
    both_versions: Homeserver, alice: User, bob: User, room_id: str, kind: str
) -> None:
    carol = both_versions.register("carol")
    event_id = alice.send(room_id, "hello")
    bob.post(f"/rooms/{quote(room_id)}/leave", {})

    assert post_receipt(carol, room_id, event_id, kind).errcode == "M_FORBIDDEN"
    assert post_receipt(bob, room_id, event_id, kind).errcode == "M_FORBIDDEN"
    assert post_receipt(alice, "!unknown:hs.test", event_id, kind).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize("kind", ["m.read", "m.read.private", "m.fully_read"])
def test_events_that_are_not_in_the_room_are_refused(alice: User, room_id: str, kind: str) -> None:
    elsewhere = alice.send(alice.create_room(), "hello")

    for event_id in (elsewhere, "$" + "A" * 43, "$short"):
        assert post_receipt(alice, room_id, event_id, kind).errcode == "M_NOT_FOUND"
    assert marker_of(alice, room_id) is None


def test_markers_set_everything_at_once(alice: User, bob: User, room_id: str) -> None:
    events = [alice.send(room_id, str(n)) for n in range(3)]
    since = bob.sync()["next_batch"]

    reply = set_markers(bob, room_id, fully_read=events[0], read=events[1], private=events[2])

    assert reply.json == {}
    synced = bob.sync(since)
    assert receipts_in(synced, room_id) == {
        events[1]: {"m.read": {bob.user_id: {}}},
        events[2]: {"m.read.private": {bob.user_id: {}}},
    }
    room = synced["rooms"]["join"][room_id]
    assert room["account_data"]["events"] == [
        {"type": "m.fully_read", "content": {"event_id": events[0]}}
    ]
    assert marker_of(bob, room_id) == events[0]


def test_the_read_marker_can_be_set_as_a_receipt(alice: User, bob: User, room_id: str) -> None:
    event_id = alice.send(room_id, "hello")

    assert post_receipt(bob, room_id, event_id, "m.fully_read").json == {}

    assert marker_of(bob, room_id) == event_id
    assert receipts_in(alice.sync(), room_id) is None


def test_markers_may_be_empty(alice: User, room_id: str) -> None:
    assert set_markers(alice, room_id).status == 200


def test_receipts_from_before_a_restart_are_synced_after_it(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    event_id = alice.send(room_id, "hello")
    since = alice.sync()["next_batch"]
    post_receipt(bob, room_id, event_id)

    alice.homeserver = both_versions.restart()

    synced = alice.sync(since)
    assert receipts_in(synced, room_id) == {event_id: {"m.read": {bob.user_id: {}}}}
    assert receipts_in(alice.sync(synced["next_batch"]), room_id) is None


def test_positions_lost_in_a_crash_are_not_given_out_again(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    first = alice.send(room_id, "one")
    second = alice.send(room_id, "two")
    post_receipt(bob, room_id, first)
    since = alice.sync()["next_batch"]
    both_versions.database.run(lambda txn: execute(txn, "DELETE FROM receipts"))

    alice.homeserver = bob.homeserver = both_versions.restart()
    post_receipt(bob, room_id, second)

    assert receipts_in(alice.sync(since), room_id) == {second: {"m.read": {bob.user_id: {}}}}


def test_a_newcomer_sees_how_far_others_have_read(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    event_id = alice.send(room_id, "hello")
    post_receipt(bob, room_id, event_id)
    carol = both_versions.register("carol")
    since = carol.sync()["next_batch"]

    carol.join(room_id)

    expected: JsonObject = {event_id: {"m.read": {bob.user_id: {}}}}
    assert receipts_in(carol.sync(since), room_id) == expected


def test_receipts_do_not_wait_for_the_disk(
    both_versions: Homeserver, alice: User, room_id: str
) -> None:
    event_id = alice.send(room_id, "hello")
    both_versions.database.statements.clear()

    post_receipt(alice, room_id, event_id)

    assert any("synchronous_commit TO off" in s for s in both_versions.database.statements)


def test_a_receipt_that_fails_halfway_is_not_told(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    event_id = alice.send(room_id, "hello")
    since = alice.sync()["next_batch"]
    for statement in (1, 2):
        both_versions.database.fail_at = statement

        assert post_receipt(bob, room_id, event_id).status >= 500

        assert receipts_in(alice.sync(since), room_id) is None
    assert post_receipt(bob, room_id, event_id).status == 200
    assert receipts_in(alice.sync(since), room_id) is not None
