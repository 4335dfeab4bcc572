"""History that a server was not there for."""

from functools import partial

import pytest

from synapse_compat_tests.client import Refused, User, eventually, register, same_state, shared_room
from synapse_compat_tests.conftest import Pair

_MANY = 300


def room_with_visibility(creator: User, visibility: str, preset: str = "public_chat") -> str:
    content = {"history_visibility": visibility}
    state = {"type": "m.room.history_visibility", "state_key": "", "content": content}
    return creator.create_room(preset=preset, initial_state=[state])


def test_who_joins_scrolls_back_through_everything_in_order(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat")
    sent = [f"message {number}" for number in range(_MANY)]
    for text in sent:
        alice.send(room_id, text)

    bob.join(room_id, alice)

    assert bob.texts_in_history(room_id) == sent
    history = bob.history(room_id)
    assert history[0]["type"] == "m.room.create"
    assert len({event["event_id"] for event in history}) == len(history)


@pytest.mark.parametrize(
    ("visibility", "sees"),
    [("world_readable", True), ("shared", True), ("invited", False), ("joined", False)],
)
def test_who_joins_sees_what_was_before_as_far_as_the_room_allows(
    pair: Pair, visibility: str, *, sees: bool
) -> None:
    alice, bob = pair.users()
    room_id = room_with_visibility(alice, visibility)
    event_id = alice.send(room_id, "before")

    bob.join(room_id, alice)
    alice.send(room_id, "after")
    bob.see_text(room_id, "after")

    assert bob.texts_in_history(room_id) == (["before", "after"] if sees else ["after"])
    if not sees:
        with pytest.raises(Refused, match=r"M_(NOT_FOUND|FORBIDDEN)"):
            bob.event(room_id, event_id)


@pytest.mark.parametrize(("visibility", "sees"), [("invited", True), ("joined", False)])
def test_who_was_invited_sees_what_was_said_since(
    pair: Pair, visibility: str, *, sees: bool
) -> None:
    alice, bob = pair.users()
    room_id = room_with_visibility(alice, visibility, "private_chat")
    alice.send(room_id, "before the invite")
    alice.invite(room_id, bob)
    bob.see_invite(room_id)
    alice.send(room_id, "since the invite")

    bob.join(room_id)
    alice.send(room_id, "since the join")
    bob.see_text(room_id, "since the join")

    expected = ["since the invite", "since the join"] if sees else ["since the join"]
    assert bob.texts_in_history(room_id) == expected


def test_the_context_of_an_old_message_is_complete(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat")
    sent = [alice.send(room_id, f"message {number}") for number in range(20)]
    bob.join(room_id, alice)
    bob.history(room_id)
    middle = sent[10]

    context = bob.get(f"/rooms/{room_id}/context/{middle}", limit=6)

    before = [event["event_id"] for event in context["events_before"]]
    after = [event["event_id"] for event in context["events_after"]]
    assert before == sent[9:6:-1]
    assert context["event"]["event_id"] == middle
    assert after == sent[11:14]


def test_an_old_message_is_found_by_its_time(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat")
    sent = [alice.send(room_id, f"message {number}") for number in range(10)]
    times = [alice.event(room_id, event_id)["origin_server_ts"] for event_id in sent]
    for number in range(30):
        alice.send(room_id, f"later {number}")
    bob.join(room_id, alice)

    path = f"/_matrix/client/v1/rooms/{room_id}/timestamp_to_event"
    found = bob.get(path, ts=times[0], dir="f")

    # Several may be of one millisecond.
    assert found["event_id"] in [
        event_id for event_id, time in zip(sent, times, strict=True) if time == times[0]
    ]
    assert found["origin_server_ts"] == times[0]


def test_edits_and_reactions_of_before_are_seen(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat")
    event_id = alice.send(room_id, "frist")
    relation = {"rel_type": "m.replace", "event_id": event_id}
    new = {"msgtype": "m.text", "body": "first"}
    edit = alice.send_event(
        room_id,
        "m.room.message",
        {"msgtype": "m.text", "body": "* first", "m.new_content": new, "m.relates_to": relation},
    )

    bob.join(room_id, alice)
    bob.history(room_id)

    found = bob.event(room_id, event_id)
    assert found["unsigned"]["m.relations"]["m.replace"]["event_id"] == edit


def test_what_was_redacted_before_stays_hidden(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat")
    event_id = alice.send(room_id, "a secret")
    alice.redact(room_id, event_id)
    alice.send(room_id, "what secret?")

    bob.join(room_id, alice)

    assert bob.texts_in_history(room_id) == ["what secret?"]
    assert bob.event(room_id, event_id)["content"] == {}


def test_a_neighbour_who_joins_later_has_the_same_history(pair: Pair) -> None:
    alice, bob = pair.users()
    carol = register(pair.there, "carol")
    room_id = alice.create_room(preset="public_chat")
    alice.send(room_id, "one")
    bob.join(room_id, alice)
    bob.send(room_id, "two")
    alice.see_text(room_id, "two")

    carol.join(room_id, alice)
    carol.send(room_id, "three")
    alice.see_text(room_id, "three")

    def has_it_all(user: User) -> bool:
        return user.texts_in_history(room_id) == ["one", "two", "three"]

    for user in (alice, bob, carol):
        eventually(partial(has_it_all, user), f"{user.user_id} has it all")
    same_state(alice, bob, room_id=room_id)


def test_messages_of_every_pair_of_pages_join_without_gap(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    count = 20
    for number in range(count):
        (alice, bob)[number % 2].send(room_id, f"message {number}")
    for user in (alice, bob):
        user.see_texts(room_id, count)

    for user in (alice, bob):
        whole = [event["event_id"] for event in user.history(room_id, page=100)]
        assert [event["event_id"] for event in user.history(room_id, page=3)] == whole
