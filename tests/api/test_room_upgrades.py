"""Rooms that are replaced by rooms of another version."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.room_versions import ROOM_VERSIONS
from tests.database import InlineDatabase
from tests.faults import each_fault
from tests.homeserver import Homeserver, Reply, User


@pytest.fixture
def alice(homeserver: Homeserver) -> User:
    return homeserver.register("alice")


@pytest.fixture
def bob(homeserver: Homeserver) -> User:
    return homeserver.register("bob")


def upgrade(user: User, room_id: str, version: str, **body: Any) -> Reply:
    return user.post(f"/rooms/{quote(room_id)}/upgrade", {"new_version": version, **body})


def upgraded(user: User, room_id: str, version: str, **body: Any) -> str:
    reply = upgrade(user, room_id, version, **body)
    assert reply.status == 200, reply.json
    return str(reply.json["replacement_room"])


def state(user: User, room_id: str) -> dict[tuple[str, str], Any]:
    events = user.get(f"/rooms/{quote(room_id)}/state").json
    return {(event["type"], event["state_key"]): event["content"] for event in events}


def set_state(
    user: User, room_id: str, event_type: str, content: object, state_key: str = ""
) -> None:
    path = f"/rooms/{quote(room_id)}/state/{event_type}/{quote(state_key)}"
    reply = user.put(path, content)
    assert reply.status == 200, reply.json


def set_levels(user: User, room_id: str, **changes: Any) -> None:
    levels = state(user, room_id)["m.room.power_levels", ""] | changes
    set_state(user, room_id, "m.room.power_levels", levels)


@pytest.mark.parametrize("new", ["11", "12"])
@pytest.mark.parametrize("old", list(ROOM_VERSIONS))
def test_a_room_is_upgraded_from_every_version(alice: User, bob: User, old: str, new: str) -> None:
    room_id = alice.create_room(
        room_version=old, preset="public_chat", name="Name", topic="Topic", room_alias_name="it"
    )
    assert bob.join(room_id).status == 200
    set_levels(alice, room_id, kick=60)
    last = bob.send(room_id, "the last words")

    new_id = upgraded(alice, room_id, new)

    old_state, new_state = state(alice, room_id), state(alice, new_id)
    create = new_state["m.room.create", ""]
    assert create["room_version"] == new
    assert create["predecessor"] == {"room_id": room_id, "event_id": last}
    assert old_state["m.room.tombstone", ""]["replacement_room"] == new_id
    for event_type in ("name", "topic", "join_rules", "history_visibility", "guest_access"):
        slot = (f"m.room.{event_type}", "")
        assert new_state[slot] == old_state[slot]
    levels = new_state["m.room.power_levels", ""]
    assert (levels["kick"], levels["events_default"], levels["invite"]) == (60, 0, 0)
    closed = old_state["m.room.power_levels", ""]
    assert (closed["kick"], closed["events_default"], closed["invite"]) == (60, 50, 50)
    assert alice.get(f"/directory/room/{quote('#it:hs.test')}").json["room_id"] == new_id
    assert new_state["m.room.canonical_alias", ""] == {"alias": "#it:hs.test"}
    assert old_state["m.room.canonical_alias", ""] == {}
    message = {"msgtype": "m.text", "body": "?"}
    assert bob.put(f"/rooms/{quote(room_id)}/send/m.room.message/t", message).status == 403
    assert bob.join(new_id).status == 200
    bob.send(new_id, "here we are")
    set_state(alice, new_id, "m.room.name", {"name": "still hers"})


def test_an_upgrade_needs_the_level_of_a_tombstone(alice: User, bob: User, room_id: str) -> None:
    assert upgrade(bob, room_id, "12").status == 403

    assert ("m.room.tombstone", "") not in state(alice, room_id)
    assert bob.get("/joined_rooms").json == {"joined_rooms": [room_id]}


def test_only_members_upgrade_a_room(alice: User, bob: User) -> None:
    assert upgrade(bob, alice.create_room(preset="public_chat"), "12").status == 403
    assert upgrade(bob, "!unknown:hs.test", "12").status == 403


def test_a_version_nobody_knows_is_refused(alice: User) -> None:
    reply = upgrade(alice, alice.create_room(), "13")

    assert (reply.status, reply.errcode) == (400, "M_UNSUPPORTED_ROOM_VERSION")


def test_a_repeated_upgrade_answers_the_same_room(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    first = upgraded(alice, room_id, "12")
    events = alice.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=50).json["chunk"]

    assert upgraded(alice, room_id, "12") == first
    assert alice.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=50).json["chunk"] == events
    second = upgraded(alice, room_id, "12", additional_creators=[bob.user_id])
    assert second != first
    assert state(alice, room_id)["m.room.tombstone", ""]["replacement_room"] == second


def test_a_space_stays_a_space_and_keeps_its_rooms(alice: User) -> None:
    creation = {"type": "m.space", "m.federate": False}
    room_id = alice.create_room(creation_content=creation)
    child = {"via": ["hs.test"]}
    set_state(alice, room_id, "m.space.child", child, "!one:hs.test")
    set_state(alice, room_id, "m.space.child", {}, "!removed:hs.test")

    new_state = state(alice, upgraded(alice, room_id, "12"))

    create = new_state["m.room.create", ""]
    assert (create["type"], create["m.federate"]) == ("m.space", False)
    children = {slot: content for slot, content in new_state.items() if slot[0] == "m.space.child"}
    assert children == {("m.space.child", "!one:hs.test"): child}


def test_what_is_of_the_room_goes_over_and_what_is_of_people_does_not(
    alice: User, bob: User, room_id: str
) -> None:
    transferred = {
        "m.room.server_acl": {"allow": ["*"], "deny": ["bad.test"]},
        "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2"},
        "m.room.avatar": {"url": "mxc://hs.test/a"},
    }
    for event_type, content in transferred.items():
        set_state(alice, room_id, event_type, content)
    set_state(alice, room_id, "m.room.pinned_events", {"pinned": ["$x"]})
    set_state(alice, room_id, "org.example.own", {"x": 1}, "key")
    create = state(alice, room_id)["m.room.create", ""]
    assert "type" not in create

    new_state = state(alice, upgraded(alice, room_id, "12"))

    for event_type, content in transferred.items():
        assert new_state[event_type, ""] == content
    assert ("m.room.pinned_events", "") not in new_state
    assert ("org.example.own", "key") not in new_state
    assert ("m.room.member", bob.user_id) not in new_state
    assert "type" not in new_state["m.room.create", ""]


def test_encryption_is_not_lost_by_a_redaction(alice: User) -> None:
    room_id = alice.create_room()
    set_state(alice, room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    path = f"/rooms/{quote(room_id)}/state/m.room.encryption"
    event = alice.get(path, format="event").json
    alice.put(f"/rooms/{quote(room_id)}/redact/{quote(event['event_id'])}/t", {})

    new_state = state(alice, upgraded(alice, room_id, "12"))

    assert new_state["m.room.encryption", ""] == {"algorithm": "m.megolm.v1.aes-sha2"}


@pytest.mark.parametrize("new", ["11", "12"])
def test_who_is_banned_stays_banned(alice: User, bob: User, new: str) -> None:
    room_id = alice.create_room(preset="public_chat")
    alice.post(f"/rooms/{quote(room_id)}/ban", {"user_id": bob.user_id, "reason": "rude"})

    new_id = upgraded(alice, room_id, new)

    member = state(alice, new_id)["m.room.member", bob.user_id]
    assert member == {"membership": "ban", "reason": "rude"}
    assert bob.join(new_id).status == 403


def test_a_room_with_more_than_one_commit_of_state_is_upgraded(alice: User) -> None:
    children: Any = [
        {"type": "m.space.child", "state_key": f"!{n}:hs.test", "content": {"via": ["hs.test"]}}
        for n in range(200)
    ]
    creation = {"type": "m.space"}
    room_id = alice.create_room(creation_content=creation, initial_state=children, name="Many")

    new_state = state(alice, upgraded(alice, room_id, "12"))

    assert sum(slot[0] == "m.space.child" for slot in new_state) == 200
    assert new_state["m.room.power_levels", ""]["events"]["m.room.tombstone"] == 150


def test_creators_are_those_the_upgrade_names(alice: User, bob: User) -> None:
    carol = alice.homeserver.register("carol")
    room_id = alice.create_room(
        room_version="12",
        preset="public_chat",
        creation_content={"additional_creators": [carol.user_id]},
    )
    bob.join(room_id)
    set_levels(alice, room_id, users={bob.user_id: 50})

    new_id = upgraded(alice, room_id, "12", additional_creators=[bob.user_id, alice.user_id])

    new_state = state(alice, new_id)
    assert new_state["m.room.create", ""]["additional_creators"] == [bob.user_id]
    assert new_state["m.room.power_levels", ""]["users"] == {}
    bob.join(new_id)
    set_state(bob, new_id, "m.room.name", {"name": "bob's"})


def test_additional_creators_mean_nothing_before_version_12(alice: User, bob: User) -> None:
    new_id = upgraded(alice, alice.create_room(), "11", additional_creators=[bob.user_id])

    new_state = state(alice, new_id)
    assert "additional_creators" not in new_state["m.room.create", ""]
    assert new_state["m.room.power_levels", ""]["users"] == {alice.user_id: 100}


def test_additional_creators_are_user_ids(alice: User) -> None:
    assert upgrade(alice, alice.create_room(), "12", additional_creators=["bob"]).status == 400


def test_creators_of_version_12_are_administrators_of_version_11(alice: User, bob: User) -> None:
    room_id = alice.create_room(
        room_version="12", creation_content={"additional_creators": [bob.user_id]}
    )

    levels = state(alice, upgraded(alice, room_id, "11"))["m.room.power_levels", ""]

    assert levels["users"] == {alice.user_id: 150, bob.user_id: 150}


def test_a_moderator_with_the_power_for_a_tombstone_gains_none(alice: User, bob: User) -> None:
    room_id = alice.create_room(
        preset="public_chat",
        room_alias_name="it",
        power_level_content_override={"events": {"m.room.tombstone": 50}},
    )
    bob.join(room_id)
    set_levels(
        alice, room_id, users={alice.user_id: 100, bob.user_id: 50}, ban=70, state_default=60
    )

    new_id = upgraded(bob, room_id, "11")

    old_state, new_state = state(alice, room_id), state(bob, new_id)
    levels = new_state["m.room.power_levels", ""]
    assert levels["users"] == {alice.user_id: 100, bob.user_id: 50}
    assert bob.put(f"/rooms/{quote(new_id)}/state/m.room.name", {"name": "no"}).status == 403
    assert old_state["m.room.tombstone", ""]["replacement_room"] == new_id
    assert old_state["m.room.power_levels", ""]["ban"] == 70
    assert old_state["m.room.canonical_alias", ""] == {"alias": "#it:hs.test"}


def test_levels_as_strings_become_integers(alice: User, bob: User) -> None:
    room_id = alice.create_room(room_version="9", preset="public_chat")
    bob.join(room_id)
    users = {alice.user_id: "100", bob.user_id: " 50 "}
    set_levels(alice, room_id, users=users, kick="60", events={"m.room.name": "70"})

    new_state = state(alice, upgraded(alice, room_id, "10"))

    levels = new_state["m.room.power_levels", ""]
    assert levels["users"] == {alice.user_id: 100, bob.user_id: 50}
    assert (levels["kick"], levels["events"]["m.room.name"]) == (60, 70)


def test_content_without_canonical_form_is_left_behind(alice: User) -> None:
    room_id = alice.create_room(room_version="5", name="Name")
    set_state(alice, room_id, "m.room.topic", {"topic": "Topic", "weight": 1.5})

    new_state = state(alice, upgraded(alice, room_id, "6"))

    assert new_state["m.room.name", ""] == {"name": "Name"}
    assert ("m.room.topic", "") not in new_state


def test_a_published_room_gives_its_place_in_the_directory(
    alice: User, database: InlineDatabase
) -> None:
    new_id = upgraded(alice, alice.create_room(visibility="public"), "12")

    def listed() -> list[str]:
        with database._connection.cursor() as cursor:
            cursor.execute("SELECT room_id FROM public_rooms JOIN rooms USING (room_nid)")
            return [row[0] for row in cursor.fetchall()]

    assert listed() == [new_id]


def test_tags_direct_chats_and_push_rules_follow_their_user(
    alice: User, bob: User, room_id: str
) -> None:
    mute = {
        "conditions": [{"kind": "event_match", "key": "room_id", "pattern": room_id}],
        "actions": [],
    }
    for user in (alice, bob):
        me = f"/user/{quote(user.user_id)}"
        user.put(f"{me}/rooms/{quote(room_id)}/tags/m.favourite", {"order": 0.5})
        user.put(f"{me}/account_data/m.direct", {"@x:hs.test": ["!a:hs.test", room_id]})
        user.put(f"/pushrules/global/override/{quote(room_id)}", mute)
        user.put(f"/pushrules/global/room/{quote(room_id)}", {"actions": ["notify"]})

    new_id = upgraded(alice, room_id, "12")
    bob.join(new_id)

    for user in (alice, bob):
        me = f"/user/{quote(user.user_id)}"
        tags = user.get(f"{me}/rooms/{quote(new_id)}/tags").json["tags"]
        assert tags == {"m.favourite": {"order": 0.5}}
        direct = user.get(f"{me}/account_data/m.direct").json
        assert direct == {"@x:hs.test": ["!a:hs.test", room_id, new_id]}
        rule = user.get(f"/pushrules/global/override/{quote(new_id)}").json
        assert rule["conditions"][0]["pattern"] == new_id
        assert user.get(f"/pushrules/global/room/{quote(new_id)}").json["actions"] == ["notify"]


def test_a_room_that_only_claims_a_predecessor_gets_nothing(
    alice: User, bob: User, room_id: str
) -> None:
    me = f"/user/{quote(bob.user_id)}"
    bob.put(f"{me}/rooms/{quote(room_id)}/tags/m.favourite", {})
    claimed = {"predecessor": {"room_id": room_id}}
    lure = alice.create_room(preset="public_chat", creation_content=claimed)

    bob.join(lure)

    assert bob.get(f"{me}/rooms/{quote(lure)}/tags").json == {"tags": {}}


def test_what_fails_midway_is_no_half_and_can_be_asked_for_again(
    database: InlineDatabase, alice: User, bob: User
) -> None:
    room_id = alice.meet(bob, room_alias_name="it", visibility="public")
    alice.put(f"/user/{quote(alice.user_id)}/rooms/{quote(room_id)}/tags/m.favourite", {})
    stages = set()
    for fault in each_fault(database):
        alice.get("/account/whoami")
        with database._connection.cursor() as cursor:
            cursor.execute("SAVEPOINT whole_upgrade")
        with fault:
            reply = upgrade(alice, room_id, "12")
        assert (reply.status == 200) is not fault.was_reached
        if reply.status == 200:
            break
        alice.homeserver = alice.homeserver.restart()

        before = state(alice, room_id)
        replacement = before.get(("m.room.tombstone", ""), {}).get("replacement_room")
        alias = alice.get(f"/directory/room/{quote('#it:hs.test')}").json["room_id"]
        assert alias in (room_id, replacement)
        if replacement is None:
            assert before["m.room.power_levels", ""]["events_default"] == 0
        stages.add((replacement is not None, alias == replacement))
        new_id = upgraded(alice, room_id, "12")
        assert replacement in (None, new_id)
        assert ("m.room.power_levels", "") in state(alice, new_id)
        assert alice.get(f"/directory/room/{quote('#it:hs.test')}").json["room_id"] == new_id
        path = f"/user/{quote(alice.user_id)}/rooms/{quote(new_id)}/tags"
        assert "m.favourite" in alice.get(path).json["tags"]

        with database._connection.cursor() as cursor:
            cursor.execute("ROLLBACK TO whole_upgrade")
        alice.homeserver = alice.homeserver.restart()

    assert stages == {(False, False), (True, False), (True, True)}
    bob.homeserver = alice.homeserver
    alice.homeserver.stop()
