"""Messages and what refers to them, across servers."""

from functools import partial
from typing import Any

import pytest

from synapse_compat_tests.client import Refused, User, eventually, shared_room
from synapse_compat_tests.conftest import Pair

_LARGE = 60_000
_TOO_LARGE = 65_536
_WRITINGS = (
    "Grüße, Zoë — “quoted” … ½",
    "日本語のメッセージ 한국어 العربية עברית",
    "👩‍👩‍👧‍👦 🏴󠁧󠁢󠁳󠁣󠁴󠁿 \U0001d518\U0001d52b e\u0301 vs é",
    'tabs\t newlines\n "quotes" \\backslashes\\ </script> \u2028\u2029 \u0001\u007f',
    "",
)


def relate(user: User, room_id: str, event_id: str, kind: str, **content: object) -> str:
    relation = {"rel_type": kind, "event_id": event_id}
    return user.send_event(
        room_id, "m.room.message", {"msgtype": "m.text", "m.relates_to": relation, **content}
    )


def aggregated(user: User, room_id: str, event_id: str, kind: str) -> Any:
    found = user.event(room_id, event_id).get("unsigned", {}).get("m.relations", {})
    return found.get(kind)


@pytest.mark.short
def test_messages_of_both_sides_arrive_complete_and_in_each_ones_order(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    count = 20

    for number in range(count):
        alice.send(room_id, f"alice {number}")
        bob.send(room_id, f"bob {number}")

    for user in (alice, bob):
        texts = user.see_texts(room_id, 2 * count)
        for name in ("alice", "bob"):
            ones = [text for text in texts if text.startswith(name)]
            assert ones == [f"{name} {number}" for number in range(count)]


def test_a_message_is_redacted_by_its_sender(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    event_id = bob.send(room_id, "slip of the tongue")
    alice.see_text(room_id, "slip of the tongue")

    bob.redact(room_id, event_id)

    eventually(lambda: alice.event(room_id, event_id)["content"] == {}, "it is gone there")
    because = alice.event(room_id, event_id)["unsigned"]["redacted_because"]
    assert because["sender"] == bob.user_id


def test_nobody_redacts_the_messages_of_others_without_power(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    event_id = alice.send(room_id, "said is said")
    bob.see_text(room_id, "said is said")

    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.redact(room_id, event_id)

    assert alice.event(room_id, event_id)["content"]["body"] == "said is said"


def test_an_edit_is_seen_on_the_other_side(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    event_id = alice.send(room_id, "frist")

    edit = relate(
        alice,
        room_id,
        event_id,
        "m.replace",
        **{"body": "* first", "m.new_content": {"msgtype": "m.text", "body": "first"}},
    )

    for user in (alice, bob):
        found = eventually(partial(aggregated, user, room_id, event_id, "m.replace"), "the edit")
        assert found["event_id"] == edit
        assert found["content"]["m.new_content"]["body"] == "first"


def test_reactions_of_both_sides_are_found_on_both_sides(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    event_id = alice.send(room_id, "cake?")
    bob.see_text(room_id, "cake?")

    given = set()
    for user in (alice, bob):
        relation = {"rel_type": "m.annotation", "event_id": event_id, "key": "🍰"}
        given.add(user.send_event(room_id, "m.reaction", {"m.relates_to": relation}))

    def sees_both(user: User) -> bool:
        path = f"/_matrix/client/v1/rooms/{room_id}/relations/{event_id}/m.annotation/m.reaction"
        return {event["event_id"] for event in user.get(path)["chunk"]} == given

    for user in (alice, bob):
        eventually(partial(sees_both, user), f"{user.user_id} sees both reactions")


def test_a_thread_of_both_sides_is_one_thread(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    root = alice.send(room_id, "a long story")
    bob.see_text(room_id, "a long story")

    relate(bob, room_id, root, "m.thread", body="tell it")
    alice.see_text(room_id, "tell it")
    relate(alice, room_id, root, "m.thread", body="once upon a time")
    bob.see_text(room_id, "once upon a time")

    for user in (alice, bob):
        (found,) = user.get(f"/_matrix/client/v1/rooms/{room_id}/threads")["chunk"]
        assert found["event_id"] == root
        summary = found["unsigned"]["m.relations"]["m.thread"]
        assert summary["count"] == len(("tell it", "once upon a time"))
        assert summary["latest_event"]["content"]["body"] == "once upon a time"
        assert summary["current_user_participated"] is True


def test_a_redacted_reaction_is_gone_on_the_other_side(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    event_id = alice.send(room_id, "cake?")
    bob.see_text(room_id, "cake?")
    relation = {"rel_type": "m.annotation", "event_id": event_id, "key": "🥦"}
    reaction = bob.send_event(room_id, "m.reaction", {"m.relates_to": relation})
    path = f"/_matrix/client/v1/rooms/{room_id}/relations/{event_id}"
    eventually(lambda: alice.get(path)["chunk"], "alice sees the reaction")

    bob.redact(room_id, reaction)

    eventually(lambda: alice.get(path)["chunk"] == [], "alice sees no reaction")


def test_writing_of_every_kind_arrives_as_it_was_sent(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    content = {
        "msgtype": "m.text",
        "body": "\n".join(_WRITINGS),
        "org.example.writings": list(_WRITINGS),
        "org.example.🔑": {"": None, "ключ": [True, False, {}, []]},
        "org.example.numbers": [0, -1, 2**53 - 1, -(2**53) + 1],
    }

    event_id = alice.send_event(room_id, "m.room.message", content)

    found = eventually(lambda: bob.event(room_id, event_id), "it arrives")
    assert found["content"] == content


def test_an_event_of_a_type_nobody_knows_arrives(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    event_type = "org.example/strange type.日本"

    event_id = alice.send_event(room_id, event_type, {"any": "thing"})

    found = eventually(lambda: bob.event(room_id, event_id), "it arrives")
    assert (found["type"], found["content"]) == (event_type, {"any": "thing"})


def test_the_largest_message_that_a_server_takes_arrives(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    taken, refused = _LARGE, _TOO_LARGE
    largest = alice.send(room_id, "x" * taken)

    with pytest.raises(Refused, match="M_TOO_LARGE"):
        alice.send(room_id, "x" * refused)
    while refused - taken > 1:
        length = (taken + refused) // 2
        try:
            largest = alice.send(room_id, "x" * length)
            taken = length
        except Refused:
            refused = length

    found = eventually(lambda: bob.event(room_id, largest), "the largest message arrives")
    assert len(found["content"]["body"]) == taken


def test_a_message_sent_twice_with_one_transaction_id_arrives_once(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    path = f"/rooms/{room_id}/send/m.room.message/again"

    sent = {alice.put(path, {"msgtype": "m.text", "body": "once"})["event_id"] for _ in range(3)}
    alice.send(room_id, "the end")
    bob.see_text(room_id, "the end")

    assert len(sent) == 1
    assert bob.texts(room_id) == ["once", "the end"]
