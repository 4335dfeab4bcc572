"""Reading a room in which servers have written without hearing each other."""

from tests.federation.history import walk
from tests.federation.meeting import meet
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User


def test_pages_of_any_length_make_the_same_history(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    network.cut_off(b.name)
    for number in range(3):
        bob.send(room_id, f"there {number}")
    for number in range(6):
        alice.send(room_id, f"here {number}")
    network.heal()
    network.advance(120)
    alice.send(room_id, "together")
    network.settle()

    for user in (alice, bob):
        whole = walk(user, room_id, 100)
        assert len(set(whole)) == len(whole)
        for page in (1, 2, 3, 5):
            assert walk(user, room_id, page) == whole
