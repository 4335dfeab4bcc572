"""Devices of users in a room whose members are not known yet: who is told of which, and when.

spec: server-server-api/#joining-rooms (`members_omitted`), #device-management, v1.19; MSC3902.
"""

from typing import Any

import pytest

from homeserver.core.identifiers import ServerName
from tests.api.signed_keys import query, upload_device_keys
from tests.api.sliding import slide, subscription
from tests.federation.network import MemoryNetwork
from tests.federation.partial_rooms import (
    LAZY,
    Scene,
    enter_partially,
    join,
    room_of,
)
from tests.homeserver import Homeserver, User


def changed(user: User, since: str, **options: Any) -> list[str]:
    return list(user.sync(since, **options).get("device_lists", {}).get("changed", []))


def devices_of(reader: User, user: User) -> set[str]:
    return set(query(reader, user.user_id)["device_keys"][user.user_id])


# Devices of others.


@pytest.mark.parametrize("options", [{}, {"filter": LAZY}])
def test_changed_devices_of_members_are_told_when_the_members_are_known(
    scene: Scene, options: dict[str, Any]
) -> None:
    upload_device_keys(scene.carol)
    scene.network.settle()
    before = devices_of(scene.bob, scene.carol)
    since = scene.bob.sync(**options)["next_batch"]
    other = scene.carol.login_again()
    upload_device_keys(other)
    scene.network.settle()

    scene.complete()

    told = changed(scene.bob, since, **options)
    assert {scene.alice.user_id, scene.carol.user_id, "@member0:a.test"} <= set(told)
    assert devices_of(scene.bob, scene.carol) == before | {other.device_id}
    now = scene.bob.sync(since, **options)["next_batch"]
    reply = scene.bob.get("/keys/changes", **{"from": since, "to": now})
    assert scene.carol.user_id in reply.json["changed"]
    third = scene.carol.login_again()
    upload_device_keys(third)
    scene.network.settle()
    assert changed(scene.bob, now, **options) == [scene.carol.user_id]
    assert third.device_id in devices_of(scene.bob, scene.carol)


def test_sliding_sync_tells_of_the_devices_of_members_who_became_known(scene: Scene) -> None:
    body = {**subscription(scene.room_id), "extensions": {"e2ee": {"enabled": True}}}
    pos = slide(scene.bob, body)["pos"]

    scene.complete()

    told = slide(scene.bob, body, pos)["extensions"]["e2ee"]["device_lists"]["changed"]
    assert {scene.alice.user_id, scene.carol.user_id} <= set(told)


# Devices of ours.


def test_servers_that_the_answer_named_hear_of_changed_devices_at_once(scene: Scene) -> None:
    since = scene.carol.sync()["next_batch"]

    upload_device_keys(scene.bob)
    scene.network.settle()

    assert scene.is_partial
    assert changed(scene.carol, since) == [scene.bob.user_id]


def test_servers_that_turn_out_to_be_there_hear_of_devices_then(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, c: Homeserver
) -> None:
    network.altered[ServerName("a.test"), "/send_join/"] = lambda answer: {
        **answer,
        "servers_in_room": ["a.test"],
    }
    scene = enter_partially(network, a, b, c)
    first, second = scene.bob, scene.bob.login_again()
    upload_device_keys(first)
    network.settle()
    assert devices_of(scene.carol, scene.bob) == {first.device_id}
    since = scene.carol.sync()["next_batch"]
    upload_device_keys(second)
    network.settle()
    assert devices_of(scene.carol, scene.bob) == {first.device_id}

    scene.complete()
    network.advance(30)

    assert changed(scene.carol, since) == [scene.bob.user_id]
    assert devices_of(scene.carol, scene.bob) == {first.device_id, second.device_id}


def asked_for_devices(network: MemoryNetwork) -> list[tuple[str, str]]:
    return [(by, to) for by, to, _, target in network.requests if "/user/devices/" in target]


@pytest.mark.parametrize("has_restarted", [False, True])
def test_who_joins_is_made_known_though_the_process_dies_right_then(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, *, has_restarted: bool
) -> None:
    upload_device_keys(bob)
    room_id = room_of(alice)
    b.database.fail_on = "FROM device_list_streams"

    join(bob, room_id)
    network.settle()
    assert asked_for_devices(network) == []
    b.database.fail_on = None
    if has_restarted:
        network.requests.clear()
        network.add(b.restart())
    network.advance(30)

    told = [(by, to) for by, to, _, target in network.requests if "/send/" in target]
    assert ("b.test", "a.test") in told
    assert has_restarted or asked_for_devices(network) == [("a.test", "b.test")]


def test_a_server_met_in_two_rooms_at_once_hears_of_the_newcomer(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User
) -> None:
    upload_device_keys(bob)
    rooms = [room_of(alice), alice.create_room(preset="public_chat")]
    b.database.fail_on = "FROM device_list_streams"

    for room_id in rooms:
        join(bob, room_id)
    network.settle()
    b.database.fail_on = None
    network.advance(30)

    assert asked_for_devices(network) == [("a.test", "b.test")]
