"""Unread counts in sync, as push rules, receipts and threads make them."""

import json
import random
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.json_types import JsonObject
from tests.api.relating import reacted, related
from tests.homeserver import Homeserver, User

THREADS = json.dumps({"room": {"timeline": {"unread_thread_notifications": True}}})


@pytest.fixture
def room_id(room_id: str, alice: User) -> str:
    """With Carol in it too: the third makes it no direct chat."""
    assert alice.homeserver.register("carol").join(room_id).status == 200
    return room_id


def read(user: User, room_id: str, event_id: str, kind: str = "m.read", **body: str) -> None:
    path = f"/rooms/{quote(room_id)}/receipt/{kind}/{quote(event_id, safe='')}"
    assert user.post(path, body).status == 200


def counts_in(synced: Any, room_id: str) -> tuple[int, int]:
    """Return (notifications, highlights)."""
    unread = synced["rooms"]["join"][room_id]["unread_notifications"]
    return unread["notification_count"], unread["highlight_count"]


def unread(user: User, room_id: str) -> tuple[int, int]:
    """Return what an initial sync says, and check that the database says the same."""
    found = counts_in(user.sync(), room_id)
    assert counts_in(restarted(user).sync(), room_id) == found
    return found


def unread_apart(user: User, room_id: str) -> dict[str, tuple[int, int]]:
    """Return the counts by thread root, of the main timeline under `main`; checked likewise."""
    found = apart_in(user.sync(filter=THREADS), room_id)
    assert apart_in(restarted(user).sync(filter=THREADS), room_id) == found
    return found


def apart_in(synced: Any, room_id: str) -> dict[str, tuple[int, int]]:
    room = synced["rooms"]["join"][room_id]
    threads = {"main": room["unread_notifications"]} | room.get("unread_thread_notifications", {})
    return {
        root: (counts["notification_count"], counts["highlight_count"])
        for root, counts in threads.items()
    }


def restarted(user: User) -> User:
    """Return the user as a new process with the same database sees him."""
    homeserver = user.homeserver
    other = Homeserver(homeserver.database, homeserver.config)
    return user.at(other)


def put_rule(user: User, kind: str, rule_id: str, **body: object) -> None:
    path = f"/pushrules/global/{kind}/{quote(rule_id, safe='')}"
    assert user.put(path, {"actions": [], **body}).status == 200


def mention(user: User, room_id: str, *mentioned: User) -> str:
    users = [one.user_id for one in mentioned]
    content = {"msgtype": "m.text", "body": "you", "m.mentions": {"user_ids": users}}
    return user.send_event(room_id, "m.room.message", content)


# --- counting


def test_messages_of_others_are_counted(alice: User, bob: User, room_id: str) -> None:
    alice.send(room_id, "one")
    alice.send(room_id, "two")

    assert unread(bob, room_id) == (2, 0)
    assert unread(alice, room_id) == (0, 0)


def test_count_comes_with_the_event_in_a_waiting_sync(alice: User, bob: User, room_id: str) -> None:
    since = bob.sync()["next_batch"]
    waiting = bob.start_request("GET", "/sync", query={"since": since, "timeout": 30_000})

    alice.send(room_id, "news")

    synced = waiting.reply().json
    assert len(synced["rooms"]["join"][room_id]["timeline"]["events"]) == 1
    assert counts_in(synced, room_id) == (1, 0)


def test_incremental_counts_grow_from_memory_alone(alice: User, bob: User, room_id: str) -> None:
    since = bob.sync()["next_batch"]
    alice.send(room_id, "one")
    since = bob.sync(since)["next_batch"]
    alice.send(room_id, "two")
    alice.homeserver.database.statements.clear()

    synced = bob.sync(since)

    assert counts_in(synced, room_id) == (2, 0)
    assert not [sql for sql in alice.homeserver.database.statements if "notifications" in sql]


def test_send_reads_nothing_from_the_database_for_its_notifications(
    alice: User, bob: User, room_id: str
) -> None:
    alice.send(room_id, "warm")
    database = alice.homeserver.database
    database.statements.clear()

    alice.send(room_id, "usual")

    assert [sql for sql in database.statements if sql.lstrip().startswith("SELECT")] == []
    assert unread(bob, room_id) == (2, 0)


def test_mention_is_a_highlight_of_the_mentioned_alone(
    alice: User, bob: User, room_id: str
) -> None:
    carol = alice.homeserver.register("dave")
    carol.join(room_id)

    mention(alice, room_id, bob)

    assert unread(bob, room_id) == (1, 1)
    assert unread(carol, room_id) == (1, 0)


def test_room_mention_needs_the_power_to_notify(alice: User, bob: User, room_id: str) -> None:
    content = {"msgtype": "m.text", "body": "all", "m.mentions": {"room": True}}

    bob.send_event(room_id, "m.room.message", content)
    assert unread(alice, room_id) == (1, 0)

    alice.send_event(room_id, "m.room.message", content)
    assert unread(bob, room_id) == (1, 1)


def test_notices_and_reactions_are_not_counted(alice: User, bob: User, room_id: str) -> None:
    event_id = bob.send(room_id, "hello")

    alice.send_event(room_id, "m.room.message", {"msgtype": "m.notice", "body": "x"})
    reacted(alice, room_id, event_id, "+")

    assert unread(bob, room_id) == (0, 0)


def test_muted_room_counts_for_everybody_else(alice: User, bob: User, room_id: str) -> None:
    carol = alice.homeserver.register("dave")
    carol.join(room_id)
    put_rule(bob, "room", room_id)

    alice.send(room_id, "hello")

    assert unread(bob, room_id) == (0, 0)
    assert unread(carol, room_id) == (1, 0)


def test_changed_rule_holds_from_the_next_event_on(alice: User, bob: User, room_id: str) -> None:
    alice.send(room_id, "an apple")

    put_rule(
        bob, "content", "fruit", pattern="apple", actions=["notify", {"set_tweak": "highlight"}]
    )
    alice.send(room_id, "an apple")

    assert unread(bob, room_id) == (2, 1)


def test_rule_for_another_room_changes_nothing_here(alice: User, bob: User, room_id: str) -> None:
    put_rule(bob, "room", "!other:hs.test")
    condition = {"kind": "event_match", "key": "room_id", "pattern": "!other:hs.test"}
    put_rule(bob, "override", "quiet", conditions=[condition])

    alice.send(room_id, "hello")

    assert unread(bob, room_id) == (1, 0)


def test_counts_begin_with_the_stay(alice: User, bob: User, room_id: str) -> None:
    alice.send(room_id, "before")
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    alice.send(room_id, "between")
    bob.join(room_id)

    assert unread(bob, room_id) == (0, 0)
    alice.send(room_id, "after")
    assert unread(bob, room_id) == (1, 0)


def test_newcomer_with_rules_of_his_own_is_counted_by_them(alice: User, room_id: str) -> None:
    dave = alice.homeserver.register("dave")
    put_rule(dave, "room", room_id)

    dave.join(room_id)
    alice.send(room_id, "hello")

    assert unread(dave, room_id) == (0, 0)


def test_failed_commit_counts_nothing(alice: User, bob: User, room_id: str) -> None:
    alice.send(room_id, "one")
    alice.homeserver.database.fail_at = 1

    path = f"/rooms/{quote(room_id)}/send/m.room.message/failing"
    assert alice.put(path, {"msgtype": "m.text", "body": "lost"}).status == 503

    assert unread(bob, room_id) == (1, 0)
    alice.send(room_id, "two")
    assert unread(bob, room_id) == (2, 0)


# --- reading


def test_receipt_reads_up_to_its_event(alice: User, bob: User, room_id: str) -> None:
    first = alice.send(room_id, "one")
    alice.send(room_id, "two")
    assert unread(bob, room_id) == (2, 0)

    read(bob, room_id, first)

    assert unread(bob, room_id) == (1, 0)


@pytest.mark.parametrize("kind", ["m.read", "m.read.private"])
def test_own_receipt_shows_the_room_with_its_new_counts(
    alice: User, bob: User, room_id: str, kind: str
) -> None:
    event_id = alice.send(room_id, "one")
    no_ephemeral = json.dumps({"room": {"ephemeral": {"types": []}}})
    since = bob.sync(filter=no_ephemeral)["next_batch"]
    waiting = bob.start_request(
        "GET", "/sync", query={"since": since, "timeout": 30_000, "filter": no_ephemeral}
    )

    read(bob, room_id, event_id, kind)

    assert counts_in(waiting.reply().json, room_id) == (0, 0)


def test_receipt_of_another_does_not_show_the_room_to_those_who_see_no_receipts(
    alice: User, bob: User, room_id: str
) -> None:
    event_id = alice.send(room_id, "one")
    no_ephemeral = json.dumps({"room": {"ephemeral": {"types": []}}})
    since = alice.sync(filter=no_ephemeral)["next_batch"]

    read(bob, room_id, event_id)

    assert "rooms" not in alice.sync(since, filter=no_ephemeral)
    assert room_id in alice.sync(since)["rooms"]["join"]


def test_the_receipt_that_is_ahead_counts(alice: User, bob: User, room_id: str) -> None:
    first = alice.send(room_id, "one")
    second = alice.send(room_id, "two")

    read(bob, room_id, second, "m.read.private")
    read(bob, room_id, first, "m.read")

    assert unread(bob, room_id) == (0, 0)


def test_sending_reads_the_room(alice: User, bob: User, room_id: str) -> None:
    alice.send(room_id, "one")
    assert unread(bob, room_id) == (1, 0)

    bob.send(room_id, "I saw it")

    assert unread(bob, room_id) == (0, 0)
    alice.send(room_id, "two")
    assert unread(bob, room_id) == (1, 0)


def test_change_of_profile_reads_nothing(alice: User, bob: User, room_id: str) -> None:
    alice.send(room_id, "one")

    bob.put(f"/profile/{quote(bob.user_id)}/displayname", {"displayname": "Robert"})

    assert unread(bob, room_id) == (1, 0)


# --- threads


def test_threads_are_counted_apart_when_asked(alice: User, bob: User, room_id: str) -> None:
    root = alice.send(room_id, "root")
    reply = related(alice, room_id, root, "m.thread")
    related(alice, room_id, reply, "m.reference")

    assert unread_apart(bob, room_id) == {"main": (1, 0), root: (2, 0)}
    assert unread(bob, room_id) == (3, 0)


def test_threaded_receipt_reads_its_thread(alice: User, bob: User, room_id: str) -> None:
    root = alice.send(room_id, "root")
    reply = related(alice, room_id, root, "m.thread")
    main = alice.send(room_id, "beside")

    read(bob, room_id, reply, thread_id=root)
    assert unread_apart(bob, room_id) == {"main": (2, 0)}

    read(bob, room_id, main, thread_id="main")
    assert unread_apart(bob, room_id) == {"main": (0, 0)}


def test_main_receipt_leaves_threads_unread(alice: User, bob: User, room_id: str) -> None:
    root = alice.send(room_id, "root")
    related(alice, room_id, root, "m.thread")
    main = alice.send(room_id, "beside")

    read(bob, room_id, main, thread_id="main")

    assert unread_apart(bob, room_id) == {"main": (0, 0), root: (1, 0)}


def test_unthreaded_receipt_reads_threads_too(alice: User, bob: User, room_id: str) -> None:
    root = alice.send(room_id, "root")
    reply = related(alice, room_id, root, "m.thread")
    related(alice, room_id, root, "m.thread")

    read(bob, room_id, reply)

    assert unread_apart(bob, room_id) == {"main": (0, 0), root: (1, 0)}


def test_sending_in_a_thread_reads_that_thread(alice: User, bob: User, room_id: str) -> None:
    root = alice.send(room_id, "root")
    related(alice, room_id, root, "m.thread")

    related(bob, room_id, root, "m.thread")

    assert unread_apart(bob, room_id) == {"main": (1, 0)}


def test_thread_is_found_when_its_events_left_memory(alice: User, bob: User, room_id: str) -> None:
    root = alice.send(room_id, "root")
    reply = related(alice, room_id, root, "m.thread")
    indirect = related(alice, room_id, reply, "m.reference")

    related(restarted(alice), room_id, indirect, "m.reference", txn_id="after")

    later = restarted(bob)
    assert unread_apart(later, room_id) == {"main": (1, 0), root: (3, 0)}


# --- together


def test_memory_and_database_always_agree(alice: User, bob: User, room_id: str) -> None:
    chance = random.Random(7)
    people = [alice, bob]
    sent: list[tuple[str, str]] = []
    put_rule(alice, "content", "two", pattern="two", actions=["notify", {"set_tweak": "highlight"}])

    for _ in range(60):
        user = chance.choice(people)
        match chance.randrange(6):
            case 0 | 1:
                sent.append((user.send(room_id, chance.choice(["one", "two"])), "main"))
            case 2:
                sent.append((mention(user, room_id, *people), "main"))
            case 3:
                roots = [event_id for event_id, thread in sent if thread == "main"]
                if roots:
                    root = chance.choice(roots)
                    sent.append((related(user, room_id, root, "m.thread"), root))
            case _:
                if sent:
                    event_id, thread = chance.choice(sent)
                    body: JsonObject = chance.choice([{}, {"thread_id": thread}])
                    kind = chance.choice(["m.read", "m.read.private"])
                    read(user, room_id, event_id, kind, **body)  # type: ignore[arg-type]  # texts
        for each in people:
            unread_apart(each, room_id)
