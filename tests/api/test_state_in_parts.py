"""The state of large rooms is read some events at a time: all at once, it would take too much."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.api.syncing import joined
from tests.homeserver import Homeserver, User


@pytest.fixture
def guests(both_versions: Homeserver) -> list[User]:
    return [both_versions.register(name) for name in ("carol", "dan", "eve", "frank")]


@pytest.fixture
def newcomer(both_versions: Homeserver) -> User:
    return both_versions.register("grace")


@pytest.fixture
def room_id(
    both_versions: Homeserver,
    alice: User,
    bob: User,
    guests: list[User],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Whose members are not in memory, and many; its timeline begins after them."""
    monkeypatch.setattr("homeserver.services.room_state.READ_AT_ONCE", 2)
    room_id = alice.meet(bob, *guests, name="Tea")
    for number in range(12):
        alice.send(room_id, str(number))
    alice.homeserver = bob.homeserver = both_versions.restart()
    return room_id


def slots(events: Any) -> list[tuple[str, str]]:
    return sorted((event["type"], event["state_key"]) for event in events)


def expected(users: list[User]) -> list[tuple[str, str]]:
    kinds = ("create", "power_levels", "join_rules", "history_visibility", "guest_access", "name")
    members = [("m.room.member", user.user_id) for user in users]
    return sorted([*((f"m.room.{kind}", "") for kind in kinds), *members])


def test_a_sync_tells_all_of_it_once(
    alice: User, bob: User, guests: list[User], room_id: str
) -> None:
    room = joined(alice.sync(), room_id)

    assert slots(room["state"]["events"]) == expected([alice, bob, *guests])
    names = [e["content"]["name"] for e in room["state"]["events"] if e["type"] == "m.room.name"]
    assert names == ["Tea"]


def test_a_filter_holds_for_every_part(alice: User, room_id: str) -> None:
    room = joined(alice.sync(filter='{"room":{"state":{"types":["m.room.n*"]}}}'), room_id)

    assert slots(room["state"]["events"]) == [("m.room.name", "")]


def test_all_of_it_and_all_members_can_be_asked_for(
    alice: User, bob: User, guests: list[User], room_id: str
) -> None:
    state = alice.get(f"/rooms/{quote(room_id)}/state")
    members = alice.get(f"/rooms/{quote(room_id)}/members", membership="join")

    assert slots(state.json) == expected([alice, bob, *guests])
    assert {event["room_id"] for event in state.json} == {room_id}
    everybody = sorted(user.user_id for user in (alice, bob, *guests))
    assert sorted(event["state_key"] for event in members.json["chunk"]) == everybody


def test_a_full_state_names_those_whose_devices_are_news_and_nobody_else(
    alice: User, bob: User, newcomer: User, room_id: str
) -> None:
    since = alice.sync()["next_batch"]
    newcomer.at(alice.homeserver).join(room_id)
    bob.act(room_id, "leave")
    for number in range(12):
        alice.send(room_id, str(number))
    alice.homeserver = alice.homeserver.restart()

    found = alice.sync(since, full_state="true")
    members = [
        event["state_key"]
        for event in joined(found, room_id)["state"]["events"]
        if event["type"] == "m.room.member"
    ]
    assert {newcomer.user_id, bob.user_id} < set(members)
    assert len(members) == len(set(members))
    assert found["device_lists"] == {"changed": [newcomer.user_id], "left": [bob.user_id]}


@pytest.mark.parametrize("use_state_after", ["false", "true"])
def test_who_has_left_is_told_of_the_room_as_it_was(
    alice: User, bob: User, guests: list[User], room_id: str, use_state_after: str
) -> None:
    since = bob.sync()["next_batch"]
    bob.act(room_id, "leave")
    alice.act(room_id, "ban", bob)
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.name", {"name": "Coffee"})

    found = bob.sync(since, full_state="true", use_state_after=use_state_after)
    key = "state_after" if use_state_after == "true" else "state"
    told = found["rooms"]["leave"][room_id][key]["events"]
    assert slots(told) == expected([alice, bob, *guests])
    assert {e["content"]["name"] for e in told if e["type"] == "m.room.name"} == {"Tea"}
