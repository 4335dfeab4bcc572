"""Listing the threads of a room."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.api.relating import bundle_in, edited, ids, ignore, redact, related
from tests.homeserver import Homeserver, Reply, User


def threads(user: User, room_id: str, **query: Any) -> Reply:
    return user.get(f"/_matrix/client/v1/rooms/{quote(room_id)}/threads", **query)


def roots(user: User, room_id: str, **query: Any) -> list[str]:
    reply = threads(user, room_id, **query)
    assert reply.status == 200, reply.json
    return ids(reply.json["chunk"])


def test_threads_are_listed_by_their_newest_reply(alice: User, bob: User, room_id: str) -> None:
    first, second = alice.send(room_id, "first"), alice.send(room_id, "second")
    alice.send(room_id, "no thread")
    related(alice, room_id, first, "m.thread")
    related(alice, room_id, second, "m.thread")
    assert roots(bob, room_id) == [second, first]

    related(bob, room_id, first, "m.thread")

    reply = threads(bob, room_id).json
    assert ids(reply["chunk"]) == [first, second]
    assert "next_batch" not in reply
    assert [bundle_in(root)["m.thread"]["count"] for root in reply["chunk"]] == [2, 1]


def test_threads_are_paged_to_the_end(alice: User, room_id: str) -> None:
    begun = []
    for number in range(7):
        begun.append(alice.send(room_id, f"m{number}"))
        related(alice, room_id, begun[-1], "m.thread")
        related(alice, room_id, begun[-1], "m.thread")

    seen: list[str] = []
    token = None
    for _ in range(10):
        query = {"limit": 3} | ({"from": token} if token else {})
        page = threads(alice, room_id, **query).json
        seen += ids(page["chunk"])
        token = page.get("next_batch")
        if token is None:
            break

    assert seen == begun[::-1]


def test_the_threads_one_takes_part_in_can_be_asked_for(
    alice: User, bob: User, room_id: str
) -> None:
    by_bob = bob.send(room_id, "by bob")
    with_bob, without_bob = alice.send(room_id, "with bob"), alice.send(room_id, "without bob")
    for root in (by_bob, with_bob, without_bob):
        related(alice, room_id, root, "m.thread")
    related(bob, room_id, with_bob, "m.thread")

    assert roots(bob, room_id, include="participated") == [with_bob, by_bob]
    assert roots(bob, room_id, include="all") == [with_bob, without_bob, by_bob]


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"from": "nonsense"}, {"include": "some"}, {"limit": "many"}]
)
def test_a_query_without_sense_is_refused(alice: User, room_id: str, query: dict[str, Any]) -> None:
    reply = threads(alice, room_id, **query)

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


def test_a_stranger_sees_no_threads(both_versions: Homeserver, room_id: str) -> None:
    carol = both_versions.register("carol")

    for room in (room_id, "!unknown:hs.test"):
        reply = threads(carol, room)
        assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_a_root_by_an_ignored_user_is_shown_as_if_redacted(
    alice: User, bob: User, room_id: str
) -> None:
    root = bob.send(room_id, "by bob")
    edited(bob, room_id, root, "better")
    reply = related(alice, room_id, root, "m.thread")
    related(bob, room_id, root, "m.thread")

    ignore(alice, bob.user_id)

    shown = threads(alice, room_id).json["chunk"][0]
    assert shown["event_id"] == root
    assert shown["content"] == {}
    assert list(bundle_in(shown)) == ["m.thread"]
    assert bundle_in(shown)["m.thread"]["latest_event"]["event_id"] == reply
    assert threads(bob, room_id).json["chunk"][0]["content"]["body"] == "by bob"


def test_a_thread_of_ignored_users_alone_is_not_listed(
    alice: User, bob: User, room_id: str
) -> None:
    root = alice.send(room_id, "root")
    related(bob, room_id, root, "m.thread")

    ignore(alice, bob.user_id)

    assert roots(alice, room_id) == []
    assert roots(bob, room_id) == [root]


def test_a_thread_ends_with_its_last_reply_and_stays_with_its_root_redacted(
    alice: User, room_id: str
) -> None:
    root = alice.send(room_id, "root")
    reply = related(alice, room_id, root, "m.thread")

    redact(alice, room_id, root)
    assert roots(alice, room_id) == [root]
    redact(alice, room_id, reply)
    assert roots(alice, room_id) == []


def test_threads_one_may_not_see_are_not_listed(
    both_versions: Homeserver, alice: User, room_id: str
) -> None:
    path = f"/rooms/{quote(room_id)}/state/m.room.history_visibility/"
    alice.put(path, {"history_visibility": "joined"})
    hidden = alice.send(room_id, "hidden root")
    related(alice, room_id, hidden, "m.thread")
    carol = both_versions.register("carol")
    carol.join(room_id)
    seen = alice.send(room_id, "seen root")
    related(alice, room_id, seen, "m.thread")
    related(alice, room_id, hidden, "m.thread")

    assert roots(carol, room_id) == [seen]
    assert roots(alice, room_id) == [hidden, seen]
    assert roots(carol, room_id, limit=1) == [seen]
    carol.post(f"/rooms/{quote(room_id)}/leave", {})
    related(alice, room_id, alice.send(room_id, "after carol"), "m.thread")
    assert roots(carol, room_id) == [seen]


def test_threads_on_unknown_events_are_not_listed(
    both_versions: Homeserver, alice: User, room_id: str
) -> None:
    root = alice.send(room_id, "root")
    related(alice, room_id, root, "m.thread")
    related(alice, room_id, "$" + "A" * 43, "m.thread")

    assert roots(alice, room_id) == [root]
    alice.homeserver = both_versions.restart()
    assert roots(alice, room_id) == [root]
