"""Joining, knocking, inviting and leaving across servers."""

from urllib.parse import quote

import pytest

from homeserver.core.events import Event, make_event
from homeserver.core.identifiers import RoomID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import ROOM_VERSIONS
from tests.federation.hostile_server import HostileServer
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User
from tests.room_state import join_rules


def join(user: User, room: str, *via: str) -> int:
    return user.request("POST", f"/join/{quote(room)}", {}, query={"via": list(via)}).status


def membership(user: User, room_id: str, of: User) -> str | None:
    reply = user.get(f"/rooms/{quote(room_id)}/state/m.room.member/{quote(of.user_id)}")
    found = reply.json.get("membership")
    return None if found is None else str(found)


def test_a_public_room_is_joined_by_its_alias(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat", room_alias_name="room", name="A room")

    assert join(bob, "#room:a.test") == 200

    assert membership(alice, room_id, bob) == "join"
    assert membership(bob, room_id, alice) == "join"
    assert room_id in bob.sync()["rooms"]["join"]


@pytest.mark.parametrize("version", [str(number) for number in range(1, 13)])
def test_rooms_of_every_version_are_joined(alice: User, bob: User, version: str) -> None:
    room_id = alice.create_room(preset="public_chat", room_version=version)

    assert join(bob, room_id, "a.test") == 200

    assert membership(alice, room_id, bob) == "join"
    states = [
        {
            (e["type"], e["state_key"], e["event_id"])
            for e in user.get(f"/rooms/{quote(room_id)}/state").json
        }
        for user in (alice, bob)
    ]
    assert states[0] == states[1]


def test_who_is_not_invited_does_not_join_a_private_room(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="private_chat")

    assert join(bob, room_id, "a.test") == 403
    assert membership(alice, room_id, bob) is None


def test_an_invited_user_sees_the_invitation_and_joins(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="private_chat", name="Secret")

    invited = alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})

    assert invited.status == 200
    shown = bob.sync()["rooms"]["invite"][room_id]["invite_state"]["events"]
    assert {"m.room.create", "m.room.name", "m.room.member"} <= {event["type"] for event in shown}
    assert join(bob, room_id) == 200
    assert membership(alice, room_id, bob) == "join"


def test_an_invitation_is_rejected(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="private_chat")
    alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})

    left = bob.post(f"/rooms/{quote(room_id)}/leave", {})

    assert left.status == 200
    assert membership(alice, room_id, bob) == "leave"
    assert room_id not in bob.sync().get("rooms", {}).get("invite", {})


def test_an_invitation_is_rejected_although_its_server_is_gone(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="private_chat")
    alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    network.cut_off(a.name)

    left = bob.post(f"/rooms/{quote(room_id)}/leave", {})

    assert left.status == 200
    assert room_id not in bob.sync().get("rooms", {}).get("invite", {})


def test_who_does_not_exist_cannot_be_invited(alice: User, b: Homeserver) -> None:
    del b
    room_id = alice.create_room(preset="private_chat")

    invited = alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": "@nobody:b.test"})

    assert (invited.status, invited.errcode) == (404, "M_NOT_FOUND")


def test_a_user_knocks_and_is_let_in(alice: User, bob: User) -> None:
    room_id = alice.create_room(
        preset="private_chat", initial_state=[join_rules("knock")], name="Knock here"
    )

    knocked = bob.request(
        "POST", f"/knock/{quote(room_id)}", {"reason": "Please"}, query={"via": "a.test"}
    )

    assert knocked.status == 200
    assert room_id in bob.sync()["rooms"]["knock"]
    assert membership(alice, room_id, bob) == "knock"
    assert alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id}).status == 200
    assert join(bob, room_id) == 200


def restricted_room(alice: User, allowed_room: str) -> str:
    rules = join_rules("restricted", allowed_room)
    return alice.create_room(preset="private_chat", initial_state=[rules])


def test_a_restricted_room_is_joined_by_who_is_in_the_other_room(alice: User, bob: User) -> None:
    open_room = alice.create_room(preset="public_chat")
    room_id = restricted_room(alice, open_room)

    before = join(bob, room_id, "a.test")
    assert join(bob, open_room, "a.test") == 200
    after = join(bob, room_id, "a.test")

    assert (before, after) == (403, 200)
    member = alice.get(f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}").json
    assert member["join_authorised_via_users_server"] == alice.user_id


def test_the_second_user_of_a_server_joins_a_restricted_room_with_the_help_of_another(
    b: Homeserver, alice: User, bob: User
) -> None:
    carol = b.register("carol")
    open_room = alice.create_room(preset="public_chat")
    room_id = restricted_room(alice, open_room)
    for user in (bob, carol):
        join(user, open_room, "a.test")
    join(bob, room_id, "a.test")

    assert join(carol, room_id, "a.test") == 200

    assert membership(alice, room_id, carol) == "join"
    assert membership(bob, room_id, carol) == "join"


def test_a_room_is_joined_through_the_second_server_when_the_first_does_not_answer(
    alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")

    assert join(bob, room_id, "gone.test", "a.test") == 200


def test_a_server_that_the_room_shuts_out_does_not_join(alice: User, bob: User) -> None:
    acl = {
        "type": "m.room.server_acl",
        "state_key": "",
        "content": {"allow": ["*"], "deny": ["b.test"]},
    }
    room_id = alice.create_room(preset="public_chat", initial_state=[acl])

    assert join(bob, room_id, "a.test") == 403


def test_who_blocks_invitations_is_not_invited_from_elsewhere(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    path = f"/user/{quote(bob.user_id)}/account_data/m.invite_permission_config"
    bob.put(path, {"default_action": "block"})

    reply = alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})

    assert (reply.status, reply.errcode) == (403, "M_INVITE_BLOCKED")
    assert membership(alice, room_id, bob) is None
    assert "rooms" not in bob.sync()


def test_an_invitation_that_is_set_as_state_reaches_the_other_server(
    alice: User, bob: User
) -> None:
    room_id = alice.create_room()
    member = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"

    invited = alice.put(member, {"membership": "invite"})

    assert invited.status == 200
    assert alice.get(member, format="event").json["event_id"] == invited.json["event_id"]
    assert list(bob.sync()["rooms"]["invite"]) == [room_id]
    assert join(bob, room_id) == 200


@pytest.mark.parametrize("version", ["1", "9"])
def test_attack_6_an_invitation_of_another_version_keeps_nobody_from_joining(
    network: MemoryNetwork, alice: User, bob: User, version: str
) -> None:
    room_id = alice.create_room(preset="public_chat")
    hostile = HostileServer(network)
    forged = made_up(hostile, room_id, version, "m.room.member", bob.user_id, membership="invite")
    body: JsonObject = {"room_version": version, "event": forged.pdu, "invite_room_state": []}
    target = f"/_matrix/federation/v2/invite/{quote(room_id)}/{quote(forged.event_id, safe='')}"
    assert hostile.ask(bob.homeserver, "PUT", target, body).status == 200

    assert join(bob, room_id, "a.test") == 200

    assert membership(alice, room_id, bob) == "join"
    assert room_id not in bob.sync()["rooms"].get("invite", {})


def test_attack_6_a_join_through_who_lies_about_the_version_keeps_nobody_from_joining(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    hostile = HostileServer(network)
    create = made_up(hostile, room_id, "9", "m.room.create", "", room_version="9")
    template: JsonObject = {
        "type": "m.room.member", "room_id": room_id, "sender": bob.user_id,
        "state_key": bob.user_id, "content": {"membership": "join"}, "depth": 9,
        "prev_events": [create.event_id], "auth_events": [create.event_id],
    }  # fmt: skip
    hostile.operations["make_join"] = lambda _, __: {"room_version": "9", "event": template}
    told: JsonObject = {"state": [create.pdu], "auth_chain": [create.pdu]}
    hostile.operations["send_join"] = lambda _, __: told

    assert join(bob, room_id, hostile.name, "a.test") == 200

    assert membership(alice, room_id, bob) == "join"


def made_up(
    hostile: HostileServer, room_id: str, version: str, kind: str, key: str, **content: str
) -> Event:
    """A state event of a room that the server is not in."""
    return make_event(
        ROOM_VERSIONS[version],
        room_id=RoomID(room_id),
        type=kind,
        sender=hostile.creator,
        state_key=key,
        content={**content},
        depth=1,
        origin_server_ts=1,
        prev_events=[],
        auth_events=[],
        server_name=hostile.name,
        signing_key=hostile.key,
    )
