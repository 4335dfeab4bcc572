"""Rooms whose members come after the join, because there are many of them."""

from concurrent.futures import ThreadPoolExecutor

from synapse_compat_tests.client import User, eventually, register, same_state
from synapse_compat_tests.conftest import Pair
from synapse_compat_tests.servers import Server

_MEMBERS = 300
_AT_ONCE = 8


def fill(server: Server, room_id: str, count: int) -> None:
    def add(number: int) -> None:
        register(server, f"member{number}").join(room_id)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(add, range(count)))


def joined(user: User, room_id: str) -> set[str]:
    return set(user.get(f"/rooms/{room_id}/joined_members")["joined"])


def test_a_room_of_hundreds_is_joined_and_talked_in_at_once(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat", name="Large")
    fill(pair.here, room_id, _MEMBERS)

    bob.join(room_id, alice)
    bob.send(room_id, "just come")
    alice.send(room_id, "welcome")

    alice.see_text(room_id, "just come")
    bob.see_text(room_id, "welcome")
    eventually(lambda: len(joined(bob, room_id)) == _MEMBERS + 2, "bob sees all members")
    same_state(alice, bob, room_id=room_id)
