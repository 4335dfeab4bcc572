"""Servers that stop, die and come back."""

import itertools
import threading
from functools import partial

from synapse_compat_tests.client import (
    Refused,
    User,
    eventually,
    register,
    same_state,
    shared_room,
)
from synapse_compat_tests.conftest import Pair, Trio
from synapse_compat_tests.servers import OURS
from synapse_compat_tests.test_moderation import is_without, promote

_LONG_SECONDS = 90.0
"""Servers wait longer and longer before they try again."""


def numbered(user: User, room_id: str, name: str) -> list[str]:
    """Return the messages named so, as this user scrolls through them, oldest first."""
    found = [event["content"].get("body") or "" for event in user.history(room_id, page=100)]
    return [text for text in found if text.startswith(name)]


def test_what_was_sent_while_the_other_side_was_down_arrives_in_order(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    sent = [f"during {number}" for number in range(30)]

    with pair.there.process.down():
        for text in sent:
            alice.send(room_id, text)
        alice.set_state(room_id, "m.room.topic", {"topic": "While you were away"})

    eventually(lambda: numbered(bob, room_id, "during") == sent, "all arrive", _LONG_SECONDS)
    same_state(alice, bob, room_id=room_id)


def test_servers_that_changed_a_room_apart_agree_when_they_meet_again(pair: Pair) -> None:
    alice, bob = pair.users()
    carol = register(pair.there, "carol")
    room_id = shared_room(alice, bob, carol)
    promote(alice, room_id, bob, 50)

    with pair.here.process.down():
        bob.set_state(room_id, "m.room.topic", {"topic": "There"})
        bob.set_state(room_id, "m.room.name", {"name": "There"})
        bob.kick(room_id, carol)
        bob.send(room_id, "said there")
        pair.there.process.stop()
    try:
        alice.set_state(room_id, "m.room.topic", {"topic": "Here"})
        alice.ban(room_id, carol)
        alice.send(room_id, "said here")
    finally:
        pair.there.process.start()

    eventually(lambda: numbered(bob, room_id, "said here"), "bob hears alice", _LONG_SECONDS)
    eventually(lambda: numbered(alice, room_id, "said there"), "alice hears bob", _LONG_SECONDS)
    same_state(alice, bob, room_id=room_id)
    assert carol.user_id not in alice.members(room_id)


def test_what_was_sent_before_a_ban_was_known_is_not_seen(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)

    with pair.here.process.down():
        bob.send(room_id, "evading")
        pair.there.process.stop()
    try:
        alice.ban(room_id, bob)
        alice.send(room_id, "peace at last")
    finally:
        pair.there.process.start()

    eventually(lambda: room_id in bob.sync_left(), "bob sees the ban", _LONG_SECONDS)
    other = shared_room(alice, bob)
    bob.send(other, "later")
    alice.see_text(other, "later")
    assert is_without(alice, room_id, "evading")
    assert alice.membership(room_id, bob) == "ban"


def test_nothing_acknowledged_is_lost_when_a_server_is_killed(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    killed = pair.here if pair.here.kind == OURS else pair.there
    acknowledged: dict[str, list[str]] = {"alice": [], "bob": []}
    ended = threading.Event()

    def send_until_it_ends(user: User, name: str) -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            text = f"{name} {number}"
            try:
                user.send(room_id, text)
            except (OSError, Refused):
                if user.server is killed:
                    return
                raise
            acknowledged[name].append(text)

    threads = [
        threading.Thread(target=send_until_it_ends, args=(alice, "alice")),
        threading.Thread(target=send_until_it_ends, args=(bob, "bob")),
    ]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: all(len(texts) > 10 for texts in acknowledged.values()), "both talk")  # noqa: PLR2004 - some
        killed.process.kill()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        killed.process.stop()
        killed.process.start()

    def has_all(user: User, name: str) -> bool:
        texts = acknowledged[name]
        return numbered(user, room_id, f"{name} ")[: len(texts)] == texts

    for user in (alice, bob):
        for name in acknowledged:
            eventually(
                partial(has_all, user, name), f"{user.user_id} has all of {name}'s", _LONG_SECONDS
            )
    same_state(alice, bob, room_id=room_id)


def test_a_server_that_was_away_catches_up_with_both_others(trio: Trio) -> None:
    alice, bob, carol = trio.users()
    room_id = shared_room(alice, bob, carol)
    sent = [f"during {number}" for number in range(10)]

    with trio.servers[2].process.down():
        for text in sent:
            alice.send(room_id, text)
            bob.see_text(room_id, text)
        bob.send(room_id, "during the last")
        alice.see_text(room_id, "during the last")

    expected = [*sent, "during the last"]
    eventually(
        lambda: numbered(carol, room_id, "during") == expected, "carol has it all", _LONG_SECONDS
    )
    carol.send(room_id, "back")
    for user in (alice, bob):
        user.see_text(room_id, "back")
    same_state(alice, bob, carol, room_id=room_id)


def test_a_room_goes_on_while_its_first_server_is_down(trio: Trio) -> None:
    alice, bob, carol = trio.users()
    room_id = shared_room(alice, bob)

    with trio.servers[0].process.down():
        carol.join(room_id, bob)
        carol.send(room_id, "in the meantime")
        bob.see_text(room_id, "in the meantime")

    eventually(
        lambda: numbered(alice, room_id, "in the meantime"), "alice catches up", _LONG_SECONDS
    )
    same_state(alice, bob, carol, room_id=room_id)
