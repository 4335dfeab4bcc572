"""What needs the members of a room that are not known yet, and what comes of their coming.

spec: server-server-api/#joining-rooms (`members_omitted`), v1.19; MSC3902.
"""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from tests.api.sliding import slide, subscription
from tests.federation.asking import ask
from tests.federation.meeting import texts
from tests.federation.network import MemoryNetwork
from tests.federation.partial_rooms import (
    LAZY,
    STATE,
    Scene,
    enter_partially,
    is_partial,
    join,
    room_of,
    state,
)
from tests.federation.test_typing import type_in
from tests.homeserver import Homeserver, PendingReply, User
from tests.room_state import history_visibility, join_rules

# What is asked and done meanwhile.


def invite(scene: Scene, user_id: str) -> PendingReply:
    return scene.bob.start_request("POST", f"{scene.path}/invite", {"user_id": user_id})


def kick(scene: Scene, user_id: str) -> PendingReply:
    return scene.bob.start_request("POST", f"{scene.path}/kick", {"user_id": user_id})


def ban(scene: Scene, user_id: str) -> PendingReply:
    return scene.bob.start_request("POST", f"{scene.path}/ban", {"user_id": user_id})


def unban(scene: Scene, user_id: str) -> PendingReply:
    return scene.bob.start_request("POST", f"{scene.path}/unban", {"user_id": user_id})


def set_member(scene: Scene, user_id: str) -> PendingReply:
    path = f"{scene.path}/state/m.room.member/{quote(user_id)}"
    return scene.bob.start_request("PUT", path, {"membership": "ban"})


def upgrade(scene: Scene, _: str) -> PendingReply:
    return scene.bob.start_request("POST", f"{scene.path}/upgrade", {"new_version": "11"})


Act = Callable[[Scene, str], PendingReply]


@pytest.mark.parametrize(
    ("act", "user_id", "status"),
    [
        (invite, "@member0:a.test", 403),
        (invite, "@banned:a.test", 403),
        (invite, "@nobody:a.test", 404),
        (kick, "@member0:a.test", 200),
        (kick, "@stranger:a.test", 403),
        (ban, "@member0:a.test", 200),
        (unban, "@banned:a.test", 200),
        (set_member, "@member0:a.test", 200),
        (upgrade, "", 200),
    ],
)
def test_what_is_done_to_somebody_unknown_waits_for_the_members(
    network: MemoryNetwork,
    a: Homeserver,
    b: Homeserver,
    c: Homeserver,
    act: Act,
    user_id: str,
    status: int,
) -> None:
    a.register("banned")
    scene = enter_partially(network, a, b, c, banned="@banned:a.test")
    late = act(scene, user_id)
    scene.network.advance(21)
    assert late.reply().status == 503

    asked = act(scene, user_id)
    scene.network.settle()
    assert not asked.answered
    scene.complete()

    assert asked.reply().status == status
    scene.network.settle()
    assert state(scene.bob, scene.room_id) == state(scene.alice, scene.room_id)


def test_what_is_done_to_somebody_known_does_not_wait(scene: Scene) -> None:
    dora = scene.alice.homeserver.register("dora")
    assert dora.join(scene.room_id).status == 200
    scene.network.settle()

    assert kick(scene, dora.user_id).reply().status == 200
    assert scene.is_partial


def test_an_invitation_from_before_can_be_rejected_when_the_members_are_known(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, c: Homeserver
) -> None:
    berta = b.register("berta")
    scene = enter_partially(network, a, b, c, invite=[berta.user_id])

    asked = berta.start_request("POST", f"{scene.path}/leave", {})
    scene.network.settle()
    assert not asked.answered
    scene.complete()

    assert asked.reply().status == 200
    scene.network.settle()
    reply = scene.alice.get(f"{scene.path}/state/m.room.member/{quote(berta.user_id)}")
    assert reply.json["membership"] == "leave"


def test_attack_1_other_servers_are_given_no_state_that_is_not_whole(scene: Scene) -> None:
    b = scene.bob.homeserver
    mine = scene.bob.send(scene.room_id, "mine")
    scene.network.settle()
    theirs = scene.alice.send(scene.room_id, "theirs")
    scene.network.settle()
    room = quote(scene.room_id)

    for path in (f"/state/{room}", f"/state_ids/{room}"):
        reply = ask(b, "c.test", "GET", path, event_id=theirs)
        assert (reply.status, reply.json["errcode"]) == (403, "M_UNABLE_DUE_TO_PARTIAL_STATE")
    for path in (
        f"/make_join/{room}/{quote('@zoe:c.test')}",
        f"/make_leave/{room}/{quote('@carol:c.test')}",
    ):
        assert ask(b, "c.test", "GET", path).status == 404
    assert ask(b, "c.test", "GET", f"/event/{quote(mine)}").status == 200
    assert ask(b, "c.test", "GET", f"/event/{quote(theirs)}").status == 404
    found = ask(b, "c.test", "GET", f"/backfill/{room}", v=theirs, limit="10").json["pdus"]
    assert [pdu["sender"] for pdu in found if pdu["type"] == "m.room.message"] == ["@bob:b.test"]
    scene.complete()
    assert ask(b, "c.test", "GET", f"/state_ids/{room}", event_id=theirs).status == 200
    assert ask(b, "c.test", "GET", f"/event/{quote(theirs)}").status == 200


def test_what_is_only_for_members_is_not_given_as_if_redacted(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, c: Homeserver
) -> None:
    scene = enter_partially(network, a, b, c, initial_state=[history_visibility("joined")])
    mine = scene.bob.send(scene.room_id, "for members")

    path = f"/event/{quote(mine)}"
    assert ask(b, "c.test", "GET", path).status == 404
    scene.complete()
    (pdu,) = ask(b, "c.test", "GET", path).json["pdus"]
    assert pdu["content"]["body"] == "for members"


def test_a_restricted_join_by_a_room_without_its_members_is_for_another_server_to_decide(
    scene: Scene,
) -> None:
    b = scene.bob.homeserver
    other = scene.bob.create_room(initial_state=[join_rules("restricted", scene.room_id)])
    path = f"/make_join/{quote(other)}/{quote(scene.carol.user_id)}"

    before = ask(b, "c.test", "GET", path, ver="11")
    scene.complete()

    assert (before.status, before.json["errcode"]) == (400, "M_UNABLE_TO_AUTHORISE_JOIN")
    join(scene.carol, other, via="b.test")


# What is said meanwhile.


def test_the_servers_named_are_queued_with_the_event(scene: Scene) -> None:
    scene.bob.homeserver.database.fail_on = "partial_state_rooms"

    scene.bob.send(scene.room_id, "hello")
    scene.network.settle()

    scene.bob.homeserver.database.fail_on = None
    assert texts(scene.carol, scene.room_id) == ["hello"]


def test_a_server_that_was_away_is_told_what_was_said_before_it_was_a_known_member(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, c: Homeserver
) -> None:
    ask(b, "c.test", "GET", "/query/profile", user_id="@nobody:b.test")  # gives b.test its key
    network.cut.add(frozenset({b.name, c.name}))
    scene = enter_partially(network, a, b, c)
    scene.bob.send(scene.room_id, "hello")
    network.settle()
    scene.complete()

    network.add(b.restart())
    network.heal()
    for _ in range(5):
        network.advance(3_600)

    assert texts(scene.carol, scene.room_id) == ["hello"]


def test_a_lazy_sync_shows_who_speaks_though_he_is_no_known_member(scene: Scene) -> None:
    since = scene.bob.sync(filter=LAZY)["next_batch"]
    scene.carol.send(scene.room_id, "hello")
    scene.network.settle()

    part = scene.bob.sync(since, filter=LAZY)["rooms"]["join"][scene.room_id]

    assert scene.is_partial
    assert [e["state_key"] for e in part["state"]["events"]] == [scene.carol.user_id]


def test_who_types_and_what_he_has_read_is_seen_though_he_is_no_known_member(
    scene: Scene,
) -> None:
    event_id = scene.bob.send(scene.room_id, "hello")
    scene.network.settle()
    since = scene.bob.sync(filter=LAZY)["next_batch"]

    type_in(scene.carol, scene.room_id, typing=True)
    read = scene.carol.post(f"{scene.path}/receipt/m.read/{quote(event_id)}", {})
    scene.network.advance(10)

    assert read.status == 200
    assert scene.is_partial
    part = scene.bob.sync(since, filter=LAZY)["rooms"]["join"][scene.room_id]
    ephemeral = {event["type"]: event["content"] for event in part["ephemeral"]["events"]}
    assert ephemeral["m.typing"] == {"user_ids": [scene.carol.user_id]}
    assert list(ephemeral["m.receipt"][event_id]["m.read"]) == [scene.carol.user_id]


def test_sliding_sync_shows_a_room_whose_members_are_asked_for_when_they_are_known(
    scene: Scene,
) -> None:
    every = subscription(scene.room_id, state=[["m.room.member", "*"]])
    lazy = subscription(scene.room_id, state=[["m.room.member", "$LAZY"]])
    scene.carol.send(scene.room_id, "hello")
    scene.network.settle()

    first = slide(scene.bob, {"conn_id": "eager", **every})
    seen = slide(scene.bob, lazy)["rooms"][scene.room_id]["required_state"]
    scene.complete()

    assert scene.room_id not in first["rooms"]
    assert scene.carol.user_id in [event["state_key"] for event in seen]
    room = slide(scene.bob, {"conn_id": "eager", **every}, first["pos"])["rooms"][scene.room_id]
    assert len(room["required_state"]) == 6


def test_what_notified_before_the_members_came_still_counts(scene: Scene) -> None:
    scene.alice.send(scene.room_id, "bob: hello")
    scene.network.settle()
    since = scene.bob.sync()["next_batch"]

    scene.complete()

    part = scene.bob.sync(since)["rooms"]["join"][scene.room_id]
    assert part["unread_notifications"]["notification_count"] == 1
    assert texts(scene.bob, scene.room_id) == ["bob: hello"]


@pytest.mark.parametrize("options", [{}, {"filter": LAZY}])
def test_a_sync_that_waits_is_answered_when_the_members_come(
    scene: Scene, options: dict[str, Any]
) -> None:
    since = scene.bob.sync(**options)["next_batch"]
    query = {"since": since, "timeout": 30_000, **options}
    waiting = scene.bob.start_request("GET", "/sync", query=query)
    assert not waiting.answered

    scene.complete()

    part = waiting.reply().json["rooms"]["join"][scene.room_id]
    assert part["summary"]["m.joined_member_count"] == 6


def test_an_eager_client_knows_the_room_in_every_later_sync(scene: Scene) -> None:
    scene.complete()
    since = scene.bob.sync()["next_batch"]
    restarted = scene.bob.at(scene.network.add(scene.bob.homeserver.restart()))
    scene.alice.send(scene.room_id, "hello")
    scene.network.settle()

    part = restarted.sync(since)["rooms"]["join"][scene.room_id]

    assert [event["content"].get("body") for event in part["timeline"]["events"]] == ["hello"]
    assert part["state"]["events"] == []


# Coming and going meanwhile.


def test_who_leaves_and_comes_back_gets_the_members_of_his_new_stay(scene: Scene) -> None:
    assert scene.bob.post(f"{scene.path}/leave", {}).status == 200
    scene.network.settle()
    dora = scene.alice.homeserver.register("dora")
    assert dora.join(scene.room_id).status == 200
    join(scene.bob, scene.room_id)
    scene.network.settle()
    assert scene.is_partial

    scene.complete()

    assert state(scene.bob, scene.room_id) == state(scene.alice, scene.room_id)
    scene.bob.send(scene.room_id, "back")
    assert texts(scene.carol, scene.room_id) == ["back"]


def test_who_is_kicked_meanwhile_is_out(scene: Scene) -> None:
    since = scene.bob.sync(filter=LAZY)["next_batch"]
    body = {"user_id": scene.bob.user_id, "reason": "no"}
    assert scene.alice.post(f"{scene.path}/kick", body).status == 200
    scene.network.settle()

    rooms = scene.bob.sync(since, filter=LAZY)["rooms"]

    assert scene.room_id in rooms["leave"]
    assert scene.room_id not in rooms.get("join", {})
    scene.network.let_through("a.test", STATE)
    scene.network.settle()
    assert scene.bob.put(f"{scene.path}/send/m.room.message/1", {}).status == 403
    join(scene.bob, scene.room_id)
    scene.network.settle()
    assert state(scene.bob, scene.room_id) == state(scene.alice, scene.room_id)


def test_two_users_of_one_server_join_at_the_same_time(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User
) -> None:
    berta = b.register("berta")
    room_id = room_of(alice)
    network.hold("a.test", STATE)
    network.hold("a.test", "/make_join/")
    path, via = f"/join/{quote(room_id)}", {"via": "a.test"}

    asked = [user.start_request("POST", path, {}, query=via) for user in (bob, berta)]
    network.let_through("a.test", "/make_join/")
    network.settle()
    assert [one.reply().status for one in asked] == [200, 200]
    assert is_partial(b, room_id)
    assert room_id in berta.sync(filter=LAZY)["rooms"]["join"]
    network.let_through("a.test", STATE)
    network.settle()

    assert not is_partial(b, room_id)
    assert state(bob, room_id) == state(berta, room_id) == state(alice, room_id)
    assert room_id in berta.sync()["rooms"]["join"]


def test_what_was_said_here_is_taken_back_if_the_whole_state_refuses_it(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, carol: User
) -> None:
    room_id = room_of(alice, [carol], power_level_content_override={"state_default": 0})
    path = f"/rooms/{quote(room_id)}/state"
    levels = alice.get(f"{path}/m.room.power_levels").json
    alice.put(f"{path}/m.room.power_levels", {**levels, "state_default": 50})
    network.settle()
    network.lose("a.test", STATE)

    def with_old_levels(answer: JsonObject) -> JsonObject:
        told: Any = answer["state"]
        chain: Any = answer["auth_chain"]
        old = [each for each in chain if each["type"] == "m.room.power_levels"]
        new = [each for each in told if each["type"] != "m.room.power_levels"]
        return {**answer, "state": [*new, *old[:1]]}

    network.altered[ServerName("a.test"), "/send_join/"] = with_old_levels
    network.hold("c.test", STATE)
    join(bob, room_id)
    assert bob.put(f"{path}/m.room.topic", {"topic": "mine"}).status == 200
    network.settle()
    bob.send(room_id, "after it")

    network.let_through("c.test", STATE)
    network.settle()
    network.advance(60)

    assert not is_partial(b, room_id)
    assert bob.get(f"{path}/m.room.topic").status == 404
    assert state(bob, room_id) == state(carol, room_id)
    bob.send(room_id, "to all")
    assert texts(carol, room_id)[-1] == "to all"


def test_the_members_are_learnt_by_another_process_from_another_server(scene: Scene) -> None:
    network = scene.network
    network.held.clear()
    network.cut_off(ServerName("a.test"))

    restarted = scene.bob.at(network.add(scene.bob.homeserver.restart()))
    network.advance(120)

    assert not is_partial(restarted.homeserver, scene.room_id)
    assert state(restarted, scene.room_id) == state(scene.carol, scene.room_id)


def test_a_filter_for_a_room_without_its_members_finds_nothing_eager(scene: Scene) -> None:
    only = json.dumps({"room": {"rooms": [scene.room_id]}})

    assert "rooms" not in scene.bob.sync(filter=only)
    assert scene.room_id not in scene.bob.sync(full_state="true").get("rooms", {}).get("join", {})
    scene.complete()
    assert scene.room_id in scene.bob.sync(filter=only)["rooms"]["join"]
