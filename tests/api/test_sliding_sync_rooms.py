"""Which rooms a sliding sync matches, and what it tells of those the user is not in."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.engine.live_rooms import LiveRooms
from tests.api.sliding import EVERY_STATE, ask, poll, room_list, slide, slots, subscription, texts
from tests.homeserver import Homeserver, User
from tests.room_state import history_visibility

MY_MEMBERSHIP = [["m.room.member", "$ME"]]


def kick(user: User, room_id: str, other: User, how: str = "kick") -> None:
    reply = user.post(f"/rooms/{quote(room_id)}/{how}", {"user_id": other.user_id})
    assert reply.status == 200, reply.json


def leave(user: User, room_id: str) -> None:
    assert user.post(f"/rooms/{quote(room_id)}/leave", {}).status == 200


def test_an_invitation_shows_its_stripped_state_alone(alice: User, bob: User) -> None:
    room_id = alice.create_room(name="Tea", invite=[bob.user_id])
    alice.send(room_id, "secret")

    response = slide(bob, room_list(state=EVERY_STATE, timeline_limit=10))

    room = response["rooms"][room_id]
    assert room["membership"] == "invite"
    assert {"type": "m.room.name", "content": {"name": "Tea"}}.items() <= next(
        e for e in room["invite_state"] if e["type"] == "m.room.name"
    ).items()
    assert room["stripped_state"] == room["invite_state"]
    assert not {"timeline", "required_state", "joined_count", "name", "heroes"} & room.keys()


def test_accepting_an_invitation_tells_the_room_afresh(alice: User, bob: User) -> None:
    room_id = alice.create_room(name="Tea", invite=[bob.user_id])
    first = slide(bob, room_list(state=MY_MEMBERSHIP))

    bob.join(room_id)
    room = slide(bob, room_list(state=MY_MEMBERSHIP), first["pos"])["rooms"][room_id]

    assert room["initial"] is True
    assert room["membership"] == "join"
    assert room["name"] == "Tea"
    assert [e["content"]["membership"] for e in room["required_state"]] == ["join"]


def test_an_invitation_wakes_a_waiting_client(alice: User, bob: User) -> None:
    pending = poll(bob, room_list(), slide(bob, room_list())["pos"])

    room_id = alice.create_room(invite=[bob.user_id])

    assert list(pending.reply().json["rooms"]) == [room_id]


def test_a_rejected_invitation_is_told_as_left(alice: User, bob: User) -> None:
    room_id = alice.create_room(name="Tea", invite=[bob.user_id])
    first = slide(bob, room_list(state=MY_MEMBERSHIP))
    leave(bob, room_id)
    alice.send(room_id, "secret")

    second = slide(bob, room_list(state=EVERY_STATE), first["pos"])
    third = slide(bob, room_list(state=EVERY_STATE), second["pos"])

    room = second["rooms"][room_id]
    assert room["membership"] == "leave"
    assert [e["content"]["membership"] for e in room["timeline"]] == ["leave"]
    assert slots(room) == {("m.room.member", bob.user_id)}
    assert third["rooms"] == {}


@pytest.mark.parametrize("how", ["leave", "kick", "ban"])
def test_leaving_is_a_barrier(alice: User, bob: User, how: str) -> None:
    room_id = alice.meet(bob, name="Tea")
    body = room_list(timeline_limit=10, state=EVERY_STATE) | {
        "extensions": {"typing": {"enabled": True}, "receipts": {"enabled": True}}
    }
    first = slide(bob, body)
    alice.send(room_id, "before")
    leave(bob, room_id) if how == "leave" else kick(alice, room_id, bob, how)
    secret = alice.send(room_id, "after")
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.name/", {"name": "Secret"})
    alice.put(f"/rooms/{quote(room_id)}/typing/{alice.user_id}", {"typing": True})
    alice.post(f"/rooms/{quote(room_id)}/receipt/m.read/{quote(secret)}", {})

    second = slide(bob, body, first["pos"])
    subscribed = slide(bob, {**body, **subscription(room_id, state=EVERY_STATE)}, second["pos"])

    room = second["rooms"][room_id]
    assert texts(room) == ["before"]
    assert room["membership"] == ("ban" if how == "ban" else "leave")
    assert "Secret" not in str(room)
    assert second["extensions"] == {}
    assert subscribed["rooms"] == {}


def test_who_was_kicked_is_told_on_a_new_connection_but_not_who_left(
    alice: User, bob: User
) -> None:
    left = alice.create_room(preset="public_chat", name="left")
    kicked = alice.create_room(preset="public_chat", name="kicked")
    for room_id in (left, kicked):
        bob.join(room_id)
    alice.send(kicked, "before")
    leave(bob, left)
    kick(alice, kicked, bob)
    alice.send(kicked, "after")
    alice.put(f"/rooms/{quote(kicked)}/state/m.room.name/", {"name": "Secret"})

    response = slide(bob, room_list(timeline_limit=10, state=EVERY_STATE))

    assert list(response["rooms"]) == [kicked]
    assert response["lists"]["all_rooms"]["count"] == 1
    room = response["rooms"][kicked]
    assert texts(room) == ["before"]
    names = [e["content"] for e in room["required_state"] if e["type"] == "m.room.name"]
    assert names == [{"name": "kicked"}]
    own = [
        e["content"]["membership"]
        for e in room["required_state"]
        if e["type"] == "m.room.member" and e["state_key"] == bob.user_id
    ]
    assert own == ["leave"]


def test_coming_back_tells_the_room_afresh(alice: User, bob: User) -> None:
    room_id = alice.meet(bob, name="Tea")
    pos = slide(bob, room_list())["pos"]
    leave(bob, room_id)
    pos = slide(bob, room_list(), pos)["pos"]
    bob.join(room_id)

    room = slide(bob, room_list(), pos)["rooms"][room_id]

    assert room["initial"] is True
    assert room["membership"] == "join"


def test_a_subscription_to_a_strangers_room_tells_nothing(alice: User, bob: User) -> None:
    room_id = alice.create_room(
        preset="public_chat",
        initial_state=[history_visibility("world_readable")],
    )

    response = slide(
        bob,
        subscription(room_id, state=EVERY_STATE)
        | {"extensions": {"receipts": {"enabled": True}, "typing": {"enabled": True}}},
    )
    other = slide(bob, subscription("!none:hs.test"))

    assert response["rooms"] == other["rooms"] == {}
    assert response["extensions"] == {}


def test_history_from_before_joining_stays_hidden(alice: User, bob: User) -> None:
    room_id = alice.create_room(
        preset="public_chat",
        initial_state=[history_visibility("joined")],
    )
    alice.send(room_id, "secret")
    bob.join(room_id)

    room = slide(bob, room_list(timeline_limit=20))["rooms"][room_id]

    assert texts(room) == []
    assert room["limited"] is True


def names(response: Any) -> set[str]:
    return {room["name"] for room in response["rooms"].values()}


def test_filters_choose_rooms(alice: User, bob: User) -> None:
    space = alice.create_room(name="space", creation_content={"type": "m.space"})
    encrypted = alice.create_room(
        name="encrypted",
        initial_state=[
            {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        ],
    )
    direct = alice.create_room(name="direct")
    tagged = alice.create_room(name="tagged")
    user = f"/user/{alice.user_id}"
    alice.put(f"{user}/account_data/m.direct", {bob.user_id: [direct]})
    alice.put(f"{user}/rooms/{quote(tagged)}/tags/m.favourite", {})
    child = f"/rooms/{quote(space)}/state/m.space.child/{quote(direct)}"
    assert alice.put(child, {"via": ["hs.test"]}).status == 200
    everything = {"space", "encrypted", "direct", "tagged"}

    def chosen(**filters: Any) -> set[str]:
        return names(slide(alice, room_list(99, **filters)))

    assert chosen() == everything
    assert chosen(is_dm=True) == {"direct"}
    assert chosen(is_dm=False) == everything - {"direct"}
    assert chosen(is_encrypted=True) == {"encrypted"}
    assert chosen(is_encrypted=False) == everything - {"encrypted"}
    assert chosen(room_types=["m.space"]) == {"space"}
    assert chosen(room_types=[None]) == everything - {"space"}
    assert chosen(room_types=["m.space", None], not_room_types=["m.space"]) == everything - {
        "space"
    }
    assert chosen(tags=["m.favourite"]) == {"tagged"}
    assert chosen(not_tags=["m.favourite"]) == everything - {"tagged"}
    assert chosen(spaces=[space]) == {"direct"}
    assert chosen(is_invite=True) == chosen(is_invited=True) == set()
    assert slide(alice, room_list(99))["rooms"][encrypted]["lists"] == ["all_rooms"]


def test_filters_look_at_the_stripped_state_of_invitations(alice: User, bob: User) -> None:
    space = alice.create_room(creation_content={"type": "m.space"}, invite=[bob.user_id])
    room_id = alice.create_room(invite=[bob.user_id])

    assert set(slide(bob, room_list(is_invite=True))["rooms"]) == {space, room_id}
    assert set(slide(bob, room_list(is_invite=True, room_types=["m.space"]))["rooms"]) == {space}
    assert set(slide(bob, room_list(not_room_types=["m.space"]))["rooms"]) == {room_id}
    assert set(slide(bob, room_list(is_invite=False))["rooms"]) == set()


def test_a_stranger_learns_nothing_of_a_space_by_its_filter(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    space = alice.create_room(creation_content={"type": "m.space"})
    alice.put(f"/rooms/{quote(space)}/state/m.space.child/{quote(room_id)}", {"via": ["hs.test"]})
    bob.join(room_id)

    assert slide(bob, room_list(spaces=[space]))["lists"]["all_rooms"]["count"] == 0


def test_becoming_a_direct_message_is_told(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    first = slide(alice, room_list())
    assert "is_dm" not in first["rooms"][room_id]
    pending = poll(alice, room_list(), first["pos"])

    alice.put(f"/user/{alice.user_id}/account_data/m.direct", {bob.user_id: [room_id]})

    response = pending.reply().json
    assert response["rooms"][room_id]["is_dm"] is True
    assert slide(alice, room_list(), response["pos"])["rooms"] == {}


def test_a_room_of_two_lists_gets_the_larger_config(alice: User) -> None:
    room_id = alice.create_room(name="Tea", topic="leaves")
    for number in range(3):
        alice.send(room_id, str(number))
    one = room_list(timeline_limit=1, state=[["m.room.name", ""]])["lists"]["all_rooms"]
    two = room_list(timeline_limit=3, state=[["m.room.topic", ""]])["lists"]["all_rooms"]

    room = slide(alice, {"lists": {"one": one, "two": two}})["rooms"][room_id]

    assert texts(room) == ["0", "1", "2"]
    assert slots(room) == {("m.room.name", ""), ("m.room.topic", "")}
    assert room["lists"] == ["one", "two"]


def test_the_order_survives_a_restart(both_versions: Homeserver, alice: User) -> None:
    first = alice.create_room()
    second = alice.create_room()
    alice.send(first, "newest")

    restarted = both_versions.restart()
    again = alice.at(restarted)
    response = slide(again, room_list(0))

    assert list(response["rooms"]) == [first]
    assert list(slide(again, room_list(1), response["pos"])["rooms"]) == [second]
    restarted.stop()


def test_many_members_are_read_some_at_a_time_and_told_once(
    both_versions: Homeserver, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.services.sliding_sync.room_results.READ_AT_ONCE", 2)
    guests = [both_versions.register(name) for name in ("carol", "dan", "eve")]
    room_id = alice.meet(bob, *guests, name="Tea")
    alice.homeserver = both_versions.restart()
    body = room_list(state=EVERY_STATE)
    asked: list[int] = []
    list_member_events = LiveRooms.list_member_events

    async def list_noted(self: LiveRooms, room: Any, user_ids: Any) -> Any:
        asked.append(len(user_ids))
        return await list_member_events(self, room, user_ids)

    monkeypatch.setattr(LiveRooms, "list_member_events", list_noted)

    first = slide(alice, body)
    guests[0].at(alice.homeserver).act(room_id, "leave")
    second = slide(alice, body, first["pos"])

    told = [(e["type"], e["state_key"]) for e in first["rooms"][room_id]["required_state"]]
    members = [("m.room.member", user.user_id) for user in (alice, bob, *guests)]
    assert len(told) == len(set(told))
    assert {slot for slot in told if slot[0] == "m.room.member"} == set(members)
    assert max(asked) == 2
    assert slots(second["rooms"][room_id]) == {("m.room.member", guests[0].user_id)}


@pytest.mark.parametrize(("state", "status"), [([], 200), (EVERY_STATE, 400)])
def test_who_is_told_much_state_takes_the_place_of_many_rooms(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch, state: Any, status: int
) -> None:
    connections = "homeserver.services.sliding_sync.connections"
    monkeypatch.setattr(f"{connections}._MAX_ROOMS", 25)
    monkeypatch.setattr(f"{connections}._BYTES_A_ROOM", 10)
    alice.meet(bob)
    body = room_list(state=state)

    pos = slide(alice, body)["pos"]
    second = slide(bob, body)["pos"]
    slide(bob, body, second)

    assert ask(alice, body, pos).status == status


@pytest.mark.parametrize(
    ("excluded", "told"),
    [
        ({"type": "m.room.topic"}, "alice bob"),
        ({"type": "m.room.member", "state_key": "@bob:hs.test"}, "alice"),
        ({"state_key": "@bob:hs.test"}, "alice"),
        ({"type": "m.room.member"}, ""),
        ({}, ""),
    ],
)
@pytest.mark.parametrize("included", [{}, {"type": "m.room.member"}])
def test_members_may_be_excluded(
    alice: User, bob: User, included: Any, excluded: Any, told: str
) -> None:
    room_id = alice.meet(bob)
    state = {"include": [included], "exclude": [excluded]}
    body = {"lists": {"a": {"range": [0, 9], "timeline_limit": 1, "required_state": state}}}

    room = slide(alice, body)["rooms"][room_id]

    members = {key for kind, key in slots(room) if kind == "m.room.member"}
    assert members == {f"@{name}:hs.test" for name in told.split()}
