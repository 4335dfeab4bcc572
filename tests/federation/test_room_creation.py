"""A new room into which users of other servers are invited."""

from urllib.parse import quote

from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User


def test_users_of_other_servers_are_invited_into_a_new_room(
    a: Homeserver, alice: User, bob: User
) -> None:
    dan = a.register("dan")

    room_id = alice.create_room(
        preset="trusted_private_chat",
        name="The two of us",
        is_direct=True,
        invite=[bob.user_id, dan.user_id, alice.user_id, bob.user_id],
    )

    for user in (bob, dan):
        shown = user.sync()["rooms"]["invite"][room_id]["invite_state"]["events"]
        own = [event for event in shown if event.get("state_key") == user.user_id]
        assert own[0]["content"]["is_direct"] is True
        assert {"name": "The two of us"} in [event["content"] for event in shown]
        assert user.post(f"/join/{quote(room_id)}", {}).status == 200
    levels = bob.get(f"/rooms/{quote(room_id)}/state/m.room.power_levels").json["users"]
    assert levels[bob.user_id] == levels[dan.user_id] == 100


def test_a_room_is_there_although_the_server_of_somebody_invited_is_not(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User
) -> None:
    network.cut_off(b.name)

    made = alice.post("/createRoom", {"invite": [bob.user_id], "name": "Alone"})

    assert made.status == 502
    (room_id,) = alice.get("/joined_rooms").json["joined_rooms"]
    state = alice.get(f"/rooms/{quote(room_id)}/state/m.room.name")
    assert state.json == {"name": "Alone"}
