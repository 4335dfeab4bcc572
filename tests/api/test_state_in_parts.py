"""The state of large rooms is read some events at a time: all at once, it would take too much."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.services.room_state import RoomState
from homeserver.storage import events
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
    monkeypatch.setattr("homeserver.services.sync.lacking_state.READ_AT_ONCE", 2)
    room_id = alice.meet(bob, *guests, name="Tea")
    for number in range(12):
        alice.send(room_id, str(number))
    alice.homeserver = bob.homeserver = both_versions.restart()
    return room_id


def slots(told: Any) -> list[tuple[str, str]]:
    return sorted((event["type"], event["state_key"]) for event in told)


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


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the events that are read for states of the past."""
    numbers: list[int] = []
    load = RoomState.load_events

    async def load_noted(self: RoomState, room: Any, event_nids: Any, **options: Any) -> Any:
        numbers.extend(event_nids)
        return await load(self, room, event_nids, **options)

    monkeypatch.setattr(RoomState, "load_events", load_noted)
    return numbers


def test_who_has_left_reads_one_state_event_without_the_members(
    bob: User, room_id: str, read: list[int]
) -> None:
    bob.act(room_id, "leave")

    reply = bob.get(f"/rooms/{quote(room_id)}/state/m.room.name")
    own = bob.get(f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}")

    assert (reply.json, own.json["membership"]) == ({"name": "Tea"}, "leave")
    assert read == []


def test_the_state_around_an_old_event_is_told_without_reading_members_nobody_asks_for(
    alice: User, bob: User, room_id: str, read: list[int]
) -> None:
    event_id = bob.send(room_id, "before")
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.name", {"name": "Coffee"})

    chosen = '{"lazy_load_members":true}'
    path = f"/rooms/{quote(room_id)}/context/{quote(event_id)}"
    state = alice.get(path, filter=chosen, limit=0).json["state"]

    assert slots(state) == expected([bob])
    assert [e["content"] for e in state if e["type"] == "m.room.name"] == [{"name": "Tea"}]
    assert len(read) == 1


def test_who_spoke_before_he_renamed_himself_costs_no_other_members(
    alice: User, bob: User, room_id: str, read: list[int]
) -> None:
    bob.send(room_id, "before")
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    bob.put(path, {"membership": "join", "displayname": "Robert"})

    room = joined(alice.sync(filter='{"room":{"state":{"lazy_load_members":true}}}'), room_id)

    state = room["state"]["events"]
    assert slots(state) == expected([alice, bob])
    names = [e["content"].get("displayname") for e in state if e["state_key"] == bob.user_id]
    assert names == [None]
    assert len(set(read)) == 1


@pytest.mark.parametrize("lazy", ["false", "true"])
def test_what_has_changed_in_a_long_gap_is_told_once(
    alice: User, bob: User, guests: list[User], room_id: str, lazy: str
) -> None:
    chosen = f'{{"room":{{"state":{{"lazy_load_members":{lazy}}}}}}}'
    since = alice.sync(filter=chosen)["next_batch"]
    changed = [bob, *(guest.at(alice.homeserver) for guest in guests)]
    for user in (alice, *changed):
        path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user.user_id)}"
        user.put(path, {"membership": "join", "displayname": user.user_id.upper()})
    for number in range(12):
        alice.send(room_id, str(number))

    room = joined(alice.sync(since, filter=chosen), room_id)

    told = [(e["state_key"], e["content"]["displayname"]) for e in room["state"]["events"]]
    assert sorted(told) == sorted((u.user_id, u.user_id.upper()) for u in (alice, *changed))
    assert room["summary"]["m.joined_member_count"] == 6


@pytest.mark.parametrize("is_present", [True, False])
def test_the_state_around_an_event_is_read_some_at_a_time(
    alice: User,
    bob: User,
    guests: list[User],
    room_id: str,
    monkeypatch: pytest.MonkeyPatch,
    is_present: bool,
) -> None:
    event_id = alice.send(room_id, "here")
    if not is_present:
        alice.put(f"/rooms/{quote(room_id)}/state/m.room.name", {"name": "Coffee"})
    asked: list[int] = []
    list_events = events.list_events

    def list_noted(txn: Any, room_nid: int, event_nids: Any) -> Any:
        asked.append(len(event_nids))
        return list_events(txn, room_nid, event_nids)

    monkeypatch.setattr(events, "list_events", list_noted)

    path = f"/rooms/{quote(room_id)}/context/{quote(event_id)}"
    state = alice.get(path, limit=0).json["state"]

    assert slots(state) == expected([alice, bob, *guests])
    assert max(asked) <= 2
