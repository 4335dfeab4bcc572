"""Reading a room in which servers have written without hearing each other."""

from urllib.parse import quote

from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User


def history(user: User, room_id: str, page: int) -> list[str]:
    """Scroll back to the beginning; return the ids of events, newest first."""
    found: list[str] = []
    place: dict[str, str] = {}
    while True:
        answer = user.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=page, **place).json
        found += [event["event_id"] for event in answer["chunk"]]
        if "end" not in answer:
            return found
        place = {"from": answer["end"]}


def test_pages_of_any_length_make_the_same_history(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    room_id = alice.create_room(preset="public_chat")
    bob.request("POST", f"/join/{quote(room_id)}", {}, query={"via": "a.test"})
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
        whole = history(user, room_id, 100)
        assert len(set(whole)) == len(whole)
        for page in (1, 2, 3, 5):
            assert history(user, room_id, page) == whole
