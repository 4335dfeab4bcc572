"""What is told of an event's children together with it."""

from typing import Any
from urllib.parse import quote

from tests.api.relating import (
    bundle_in,
    bundle_of,
    children,
    edited,
    get_event,
    ignore,
    reacted,
    redact,
    relate,
    related,
)
from tests.homeserver import Homeserver, User


def timeline_of(user: User, room_id: str, since: str | None = None, limit: int = 20) -> Any:
    chosen = f'{{"room":{{"timeline":{{"limit":{limit}}}}}}}'
    return user.sync(since, filter=chosen)["rooms"]["join"][room_id]["timeline"]


def event_in(events: list[Any], event_id: str) -> Any:
    return next(event for event in events if event["event_id"] == event_id)


# --- references


def test_references_are_told_with_the_event_in_the_order_they_came(
    alice: User, bob: User, room_id: str
) -> None:
    parent = alice.send(room_id, "parent")
    first = related(bob, room_id, parent, "m.reference")
    second = related(alice, room_id, parent, "m.reference", event_type="org.example.note")

    assert bundle_of(bob, room_id, parent) == {
        "m.reference": {"chunk": [{"event_id": first}, {"event_id": second}]}
    }


def test_every_operation_that_returns_events_tells_of_children(alice: User, room_id: str) -> None:
    top = alice.send(room_id, "top")
    parent = related(alice, room_id, top, "m.reference")
    child = related(alice, room_id, parent, "m.reference")
    thread = alice.send(room_id, "thread")
    related(alice, room_id, thread, "m.thread")
    room = f"/rooms/{quote(room_id)}"
    expected = {"m.reference": {"chunk": [{"event_id": child}]}}

    page = alice.get(f"{room}/messages", dir="b", limit=50).json["chunk"]
    context = alice.get(f"{room}/context/{quote(parent, safe='')}", limit=2).json
    beside = alice.get(f"{room}/context/{quote(child, safe='')}", limit=2).json
    listed = children(alice, room_id, top).json["chunk"]
    threads = alice.get(f"/_matrix/client/v1{room}/threads").json["chunk"]
    limited = timeline_of(alice, room_id, limit=5)

    assert bundle_in(event_in(page, parent)) == expected
    assert bundle_in(context["event"]) == expected
    assert bundle_in(beside["events_before"][0]) == expected
    assert bundle_in(listed[0]) == expected
    assert bundle_in(threads[0]).keys() == {"m.thread"}
    assert limited["limited"] is True
    assert bundle_in(event_in(limited["events"], parent)) == expected


def test_the_first_relation_of_a_room_is_told_though_it_was_read_before(
    alice: User, room_id: str
) -> None:
    parent = alice.send(room_id, "parent")
    path = f"/rooms/{quote(room_id)}/messages"
    before = alice.get(path, dir="b", limit=50).json["chunk"]

    child = related(alice, room_id, parent, "m.reference")

    after = alice.get(path, dir="b", limit=50).json["chunk"]
    assert "m.relations" not in event_in(before, parent).get("unsigned", {})
    assert bundle_in(event_in(after, parent)) == {"m.reference": {"chunk": [{"event_id": child}]}}


def test_a_sync_without_a_gap_tells_children_as_events_alone(alice: User, room_id: str) -> None:
    since = alice.sync()["next_batch"]
    parent = alice.send(room_id, "parent")
    related(alice, room_id, parent, "m.reference")

    timeline = timeline_of(alice, room_id, since)

    assert timeline["limited"] is False
    assert all(bundle_in(event) is None for event in timeline["events"])


def test_state_events_are_told_without_children(alice: User, room_id: str) -> None:
    reply = alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "tea"})
    parent = reply.json["event_id"]

    related(alice, room_id, parent, "m.reference")

    assert bundle_of(alice, room_id, parent) is None


def test_annotations_are_not_summed_up(alice: User, room_id: str) -> None:
    parent = alice.send(room_id, "parent")

    reacted(alice, room_id, parent, "👍")
    related(alice, room_id, parent, "org.example.any")

    assert bundle_of(alice, room_id, parent) is None


def test_a_redacted_reference_is_told_no_more(alice: User, room_id: str) -> None:
    parent = alice.send(room_id, "parent")
    child = related(alice, room_id, parent, "m.reference")

    redact(alice, room_id, child)

    assert bundle_of(alice, room_id, parent) is None


def test_children_of_ignored_users_are_not_told(alice: User, bob: User, room_id: str) -> None:
    parent = alice.send(room_id, "parent")
    related(bob, room_id, parent, "m.reference")
    mine = related(alice, room_id, parent, "m.reference")

    ignore(alice, bob.user_id, alice.user_id, "not a user id")

    assert bundle_of(alice, room_id, parent) == {"m.reference": {"chunk": [{"event_id": mine}]}}


def test_children_after_one_has_left_or_before_he_joined_are_not_told(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    path = f"/rooms/{quote(room_id)}/state/m.room.history_visibility/"
    alice.put(path, {"history_visibility": "joined"})
    bob.join(room_id)
    parent = alice.send(room_id, "parent")
    seen = related(alice, room_id, parent, "m.reference")
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    unseen = related(alice, room_id, parent, "m.reference")
    told = {"m.reference": {"chunk": [{"event_id": seen}]}}

    assert bundle_of(bob, room_id, parent) == told
    assert unseen not in str(bundle_of(bob, room_id, parent))
    alice.homeserver = bob.homeserver = both_versions.restart()
    assert bundle_of(bob, room_id, parent) == told


def test_children_are_told_after_a_restart_and_when_they_are_old(
    both_versions: Homeserver, alice: User, room_id: str
) -> None:
    parent = alice.send(room_id, "parent")
    child = related(alice, room_id, parent, "m.reference")
    expected = {"m.reference": {"chunk": [{"event_id": child}]}}
    for number in range(110):
        alice.send(room_id, f"m{number}")

    assert bundle_of(alice, room_id, parent) == expected
    alice.homeserver = both_versions.restart()
    assert bundle_of(alice, room_id, parent) == expected


def test_a_child_of_an_old_event_is_told_when_it_is_new(
    both_versions: Homeserver, alice: User, room_id: str
) -> None:
    parent = alice.send(room_id, "parent")
    for number in range(110):
        alice.send(room_id, f"m{number}")
    alice.homeserver = both_versions.restart()

    child = related(alice, room_id, parent, "m.reference")

    assert bundle_of(alice, room_id, parent) == {"m.reference": {"chunk": [{"event_id": child}]}}


def test_events_without_children_cost_no_query(
    both_versions: Homeserver, alice: User, room_id: str
) -> None:
    for number in range(20):
        alice.send(room_id, f"m{number}")
    reacted(alice, room_id, alice.send(room_id, "liked"), "👍")
    alice.sync()
    statements = both_versions.database.statements
    statements.clear()

    timeline = timeline_of(alice, room_id, limit=10)

    assert timeline["limited"] is True
    assert not [sql for sql in statements if "relations" in sql or "event_bytes" in sql]


def test_one_query_tells_of_all_children_of_a_page(
    both_versions: Homeserver, alice: User, room_id: str
) -> None:
    for number in range(5):
        related(alice, room_id, alice.send(room_id, f"m{number}"), "m.reference")
    statements = both_versions.database.statements
    statements.clear()

    timeline = timeline_of(alice, room_id, limit=10)

    assert len([event for event in timeline["events"] if bundle_in(event)]) == 5
    assert len([sql for sql in statements if "event_relations" in sql]) == 1


def test_the_transaction_id_stays_beside_what_is_told_of_children(
    alice: User, room_id: str
) -> None:
    parent = alice.send(room_id, "parent", txn_id="mine")
    related(alice, room_id, parent, "m.reference")

    unsigned = get_event(alice, room_id, parent)["unsigned"]

    assert unsigned["transaction_id"] == "mine"
    assert "m.relations" in unsigned


# --- replacements


def test_the_newest_edit_is_told_and_the_content_is_left_as_it_was(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    original = alice.send(room_id, "one")
    both_versions.advance(1)
    edited(alice, room_id, original, "two")
    both_versions.advance(1)
    newest = edited(alice, room_id, original, "three")

    event = get_event(bob, room_id, original)

    assert event["content"]["body"] == "one"
    replacement = bundle_in(event)["m.replace"]
    assert replacement["event_id"] == newest
    assert replacement["room_id"] == room_id
    assert replacement["content"]["m.new_content"]["body"] == "three"


def test_of_edits_at_the_same_time_the_greatest_id_is_told(alice: User, room_id: str) -> None:
    original = alice.send(room_id, "one")

    edits = [edited(alice, room_id, original, f"edit {number}") for number in range(6)]

    assert bundle_of(alice, room_id, original)["m.replace"]["event_id"] == max(edits)


def test_a_redacted_edit_gives_way_to_the_one_before(
    both_versions: Homeserver, alice: User, room_id: str
) -> None:
    original = alice.send(room_id, "one")
    first = edited(alice, room_id, original, "two")
    both_versions.advance(1)
    second = edited(alice, room_id, original, "three")

    redact(alice, room_id, second)
    assert bundle_of(alice, room_id, original)["m.replace"]["event_id"] == first
    redact(alice, room_id, first)
    assert bundle_of(alice, room_id, original) is None


def test_of_a_redacted_event_no_edit_is_told(
    both_versions: Homeserver, alice: User, room_id: str
) -> None:
    original = alice.send(room_id, "one")
    edited(alice, room_id, original, "two")
    reference = related(alice, room_id, original, "m.reference")

    redact(alice, room_id, original)

    expected = {"m.reference": {"chunk": [{"event_id": reference}]}}
    assert bundle_of(alice, room_id, original) == expected
    alice.homeserver = both_versions.restart()
    assert bundle_of(alice, room_id, original) == expected


def test_edits_that_are_not_valid_are_not_told(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    original = alice.send(room_id, "one")
    valid = edited(alice, room_id, original, "two")
    both_versions.advance(1)
    edited(bob, room_id, original, "by another")
    edited(alice, room_id, original, "of another type", event_type="org.example.note")
    related(alice, room_id, original, "m.replace")
    related(alice, room_id, original, "m.replace", content={"m.new_content": "text"})
    new_content = {"topic": "x"}
    alice.put(
        f"/rooms/{quote(room_id)}/state/m.room.message/",
        {
            "m.new_content": new_content,
            "m.relates_to": {"rel_type": "m.replace", "event_id": original},
        },
    )
    of_edit = edited(alice, room_id, valid, "an edit of an edit")

    assert bundle_of(alice, room_id, original)["m.replace"]["event_id"] == valid
    assert bundle_of(alice, room_id, valid) is None
    assert get_event(alice, room_id, of_edit)["content"]["m.new_content"]


def test_an_encrypted_edit_shows_its_new_content_to_nobody_but_is_told(
    alice: User, room_id: str
) -> None:
    ciphertext = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"}
    original = alice.send_event(room_id, "m.room.encrypted", ciphertext)

    edit = related(
        alice, room_id, original, "m.replace", event_type="m.room.encrypted", content=ciphertext
    )

    assert bundle_of(alice, room_id, original)["m.replace"]["event_id"] == edit


# --- threads


def test_a_thread_is_told_with_its_root(alice: User, bob: User, room_id: str) -> None:
    root = alice.send(room_id, "root")
    related(alice, room_id, root, "m.thread")
    latest = related(alice, room_id, root, "m.thread", content={"body": "latest"})

    for_alice = bundle_of(alice, room_id, root)["m.thread"]
    for_bob = bundle_of(bob, room_id, root)["m.thread"]

    assert (for_alice["count"], for_bob["count"]) == (2, 2)
    assert for_bob["latest_event"]["event_id"] == latest
    assert for_bob["latest_event"]["content"]["body"] == "latest"
    assert for_bob["latest_event"]["room_id"] == room_id
    assert for_alice["current_user_participated"] is True
    assert for_bob["current_user_participated"] is False
    related(bob, room_id, root, "m.thread")
    assert bundle_of(bob, room_id, root)["m.thread"]["current_user_participated"] is True


def test_the_newest_event_of_a_thread_is_told_with_its_own_children(
    alice: User, room_id: str
) -> None:
    root = alice.send(room_id, "root")
    latest = related(alice, room_id, root, "m.thread")
    edit = edited(alice, room_id, latest, "better")

    thread = bundle_of(alice, room_id, root)["m.thread"]

    assert thread["latest_event"]["event_id"] == latest
    assert bundle_in(thread["latest_event"])["m.replace"]["event_id"] == edit


def test_a_redacted_reply_leaves_the_thread(alice: User, room_id: str) -> None:
    root = alice.send(room_id, "root")
    first = related(alice, room_id, root, "m.thread")
    second = related(alice, room_id, root, "m.thread")

    redact(alice, room_id, second)

    thread = bundle_of(alice, room_id, root)["m.thread"]
    assert (thread["count"], thread["latest_event"]["event_id"]) == (1, first)
    redact(alice, room_id, first)
    assert bundle_of(alice, room_id, root) is None


def test_replies_of_ignored_users_neither_count_nor_are_the_newest(
    alice: User, bob: User, room_id: str
) -> None:
    root = alice.send(room_id, "root")
    mine = related(alice, room_id, root, "m.thread")
    related(bob, room_id, root, "m.thread")

    ignore(alice, bob.user_id)

    thread = bundle_of(alice, room_id, root)["m.thread"]
    assert (thread["count"], thread["latest_event"]["event_id"]) == (1, mine)


def test_a_thread_cannot_begin_at_an_event_that_relates_to_another(
    alice: User, room_id: str
) -> None:
    root = alice.send(room_id, "root")
    reply = related(alice, room_id, root, "m.thread")
    edit = edited(alice, room_id, root, "edit")

    replies = [relate(alice, room_id, parent, "m.thread") for parent in (reply, edit)]

    assert [(r.status, r.errcode) for r in replies] == [(400, "M_UNKNOWN")] * 2


def test_a_thread_may_begin_at_a_plain_reply_or_at_what_lost_its_relation(
    alice: User, room_id: str
) -> None:
    first = alice.send(room_id, "first")
    plain_reply = alice.send_event(
        room_id,
        "m.room.message",
        {"body": "reply", "m.relates_to": {"m.in_reply_to": {"event_id": first}}},
    )
    redacted = related(alice, room_id, first, "m.thread")
    redact(alice, room_id, redacted)

    for root in (plain_reply, redacted):
        related(alice, room_id, root, "m.thread")
        assert bundle_of(alice, room_id, root)["m.thread"]["count"] == 1


def test_a_thread_on_an_event_nobody_knows_is_sent(alice: User, room_id: str) -> None:
    assert relate(alice, room_id, "$" + "A" * 43, "m.thread").status == 200
