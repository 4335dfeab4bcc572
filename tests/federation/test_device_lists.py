"""Devices and cross-signing keys of one server's users on another.

spec: server-server-api/#device-management, #end-to-end-encryption, v1.19.
"""

from typing import Any

import pytest

from tests.api.signed_keys import (
    CrossSigningKeys,
    device_keys,
    query,
    sign_keys,
    upload,
    upload_cross_signing,
    upload_device_keys,
)
from tests.federation.asking import ask
from tests.federation.meeting import enter, leave, meet, say
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User


def devices_of(reader: User, user: User) -> Any:
    """Return what is shown of a user's devices, without `unsigned`."""
    found = query(reader, user.user_id)
    assert found["failures"] == {}
    return {
        device_id: {k: v for k, v in keys.items() if k != "unsigned"}
        for device_id, keys in found["device_keys"][user.user_id].items()
    }


def changed(user: User, since: str) -> list[str]:
    return list(user.sync(since).get("device_lists", {}).get("changed", []))


def asked_for(network: MemoryNetwork, path: str) -> int:
    return sum(path in target for _, _, _, target in network.requests)


def settle(user: User) -> None:
    user.homeserver.settle()


@pytest.fixture
def room_id(alice: User, bob: User) -> str:
    """Both are in it."""
    return meet(alice, bob)


@pytest.fixture
def since(alice: User, bob: User, room_id: str) -> str:
    """A token of bob's, whose server keeps the list of alice's one device by now."""
    del room_id
    upload_device_keys(alice)
    devices_of(bob, alice)
    return str(bob.sync()["next_batch"])


def test_keys_are_seen_on_the_other_server_and_kept(
    network: MemoryNetwork, alice: User, bob: User, room_id: str
) -> None:
    keys = upload_device_keys(alice)
    settle(alice)

    first = devices_of(bob, alice)
    network.requests.clear()
    second = devices_of(bob, alice)

    assert first == second == {alice.device_id: keys}
    assert network.requests == []


def test_a_new_device_is_told_of(
    network: MemoryNetwork, alice: User, bob: User, since: str
) -> None:
    network.requests.clear()

    other = alice.login_again()
    keys = upload_device_keys(other)
    settle(alice)

    assert changed(bob, since) == [alice.user_id]
    assert devices_of(bob, alice)[other.device_id] == keys
    assert asked_for(network, "/user/") == 0


def test_a_deleted_device_is_gone_on_the_other_server(alice: User, bob: User, room_id: str) -> None:
    other = alice.login_again()
    for device in (alice, other):
        upload_device_keys(device)
    assert len(devices_of(bob, alice)) == 2
    since = bob.sync()["next_batch"]

    other.post("/logout", {})
    settle(alice)

    assert changed(bob, since) == [alice.user_id]
    assert list(devices_of(bob, alice)) == [alice.device_id]


def test_a_renamed_device_has_its_name_on_the_other_server(
    alice: User, bob: User, since: str
) -> None:

    alice.put(f"/devices/{alice.device_id}", {"display_name": "Phone"})
    settle(alice)

    assert changed(bob, since) == [alice.user_id]
    found = query(bob, alice.user_id)["device_keys"][alice.user_id][alice.device_id]
    assert found["unsigned"] == {"device_display_name": "Phone"}


def test_cross_signing_keys_and_signed_devices_are_told_of(
    network: MemoryNetwork, alice: User, bob: User, room_id: str
) -> None:
    keys = upload_device_keys(alice)
    devices_of(bob, alice)
    since = bob.sync()["next_batch"]
    network.requests.clear()

    cross = upload_cross_signing(alice)
    signed = cross.self_signing.sign(keys, alice.user_id)
    assert sign_keys(alice, alice.user_id, alice.device_id, signed) == {}
    settle(alice)

    found = query(bob, alice.user_id)
    assert changed(bob, since) == [alice.user_id]
    assert found["master_keys"][alice.user_id] == cross.body()["master_key"]
    assert found["self_signing_keys"][alice.user_id] == cross.body()["self_signing_key"]
    assert found["user_signing_keys"] == {}
    assert devices_of(bob, alice)[alice.device_id]["signatures"] == signed["signatures"]
    assert asked_for(network, "/user/") == 0


def test_a_new_master_key_takes_the_place_of_the_old_one(
    alice: User, bob: User, room_id: str
) -> None:
    upload_cross_signing(alice)
    query(bob, alice.user_id)
    anew = CrossSigningKeys(alice, "anew").body()
    auth = alice.post("/keys/device_signing/upload", anew).json
    anew["auth"] = alice.proof(session=auth["session"])

    assert alice.post("/keys/device_signing/upload", anew).status == 200
    settle(alice)

    assert query(bob, alice.user_id)["master_keys"][alice.user_id] == anew["master_key"]


def test_a_user_signs_the_master_key_of_a_user_of_another_server(
    alice: User, bob: User, room_id: str
) -> None:
    upload_cross_signing(alice)
    mine = upload_cross_signing(bob)
    master = query(bob, alice.user_id)["master_keys"][alice.user_id]
    name = next(iter(master["keys"].values()))

    failures = sign_keys(bob, alice.user_id, name, mine.user_signing.sign(master, bob.user_id))

    assert failures == {}
    assert bob.user_id in query(bob, alice.user_id)["master_keys"][alice.user_id]["signatures"]
    assert "signatures" not in query(alice, alice.user_id)["master_keys"][alice.user_id]


def test_attack_12_changes_of_an_hours_outage_are_known_after_it(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, since: str
) -> None:
    network.cut_off(b.name)
    others = [alice.login_again() for _ in range(5)]
    for other in others:
        upload_device_keys(other)
        network.advance(600)
    others[0].post("/logout", {})

    bob = bob.at(network.add(b.restart()))
    network.heal()
    network.advance(3_700)

    expected = {alice.device_id, *(other.device_id for other in others[1:])}
    assert changed(bob, since) == [alice.user_id]
    assert set(devices_of(bob, alice)) == expected


def test_attack_12_a_gap_in_the_updates_is_mended_also_after_a_restart(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, alice: User, bob: User, since: str
) -> None:
    network.cut_off(b.name)
    other = alice.login_again()
    upload_device_keys(other)
    update = {"user_id": alice.user_id, "device_id": "LOST", "stream_id": 7, "prev_id": [6]}
    say(b, a.name, "m.device_list_update", update)
    before = devices_of_cached(bob, alice)

    restarted = network.add(b.restart())
    network.heal()
    network.requests.clear()
    network.advance(700)

    bob = bob.at(restarted)
    assert before == [alice.device_id]
    assert changed(bob, since) == [alice.user_id]
    assert set(devices_of(bob, alice)) == {alice.device_id, other.device_id}


def devices_of_cached(reader: User, user: User) -> list[str]:
    """What is kept, while the other server cannot be asked."""
    found = query(reader, user.user_id)
    assert list(found["failures"]) == [user.homeserver.name]
    return list(found["device_keys"][user.user_id])


def test_of_who_is_out_of_sight_nothing_is_kept(
    network: MemoryNetwork, alice: User, bob: User, room_id: str
) -> None:
    upload_device_keys(alice)
    devices_of(bob, alice)
    leave(bob, room_id)
    other = alice.login_again()
    upload_device_keys(other)
    settle(alice)
    network.requests.clear()

    found = devices_of(bob, alice)

    assert set(found) == {alice.device_id, other.device_id}
    assert asked_for(network, "/user/keys/query") == 1


def test_who_comes_back_is_known_anew(a: Homeserver, alice: User, bob: User, room_id: str) -> None:
    upload_device_keys(alice)
    devices_of(bob, alice)
    leave(bob, room_id)
    other = alice.login_again()
    upload_device_keys(other)
    since = bob.sync()["next_batch"]

    enter(bob, room_id, a.name)

    assert alice.user_id in changed(bob, since)
    assert set(devices_of(bob, alice)) == {alice.device_id, other.device_id}


def test_the_list_for_other_servers_has_what_they_need(
    a: Homeserver, alice: User, b: Homeserver
) -> None:
    keys = upload_device_keys(alice)
    alice.put(f"/devices/{alice.device_id}", {"display_name": "Phone"})
    cross = upload_cross_signing(alice)
    del b

    found = ask(a, "b.test", "GET", f"/user/devices/{alice.user_id}").json

    assert found["devices"] == [
        {"device_id": alice.device_id, "keys": keys, "device_display_name": "Phone"}
    ]
    assert found["master_key"] == cross.body()["master_key"]
    assert found["self_signing_key"] == cross.body()["self_signing_key"]
    assert found["stream_id"] > 0


def test_a_user_without_an_account_looks_like_one_without_devices(
    a: Homeserver, alice: User, b: Homeserver
) -> None:
    del b

    known, unknown = (
        ask(a, "b.test", "GET", f"/user/devices/{user_id}").json
        for user_id in (alice.user_id, "@nobody:a.test")
    )

    assert {**known, "user_id": ""} == {**unknown, "user_id": ""}


def test_many_changes_at_once_are_one_update(
    network: MemoryNetwork, alice: User, bob: User, room_id: str
) -> None:
    upload_device_keys(alice)
    others = [alice.login_again() for _ in range(30)]
    for other in others:
        upload(other, device_keys=device_keys(other))
    assert len(devices_of(bob, alice)) == 31

    alice.post("/logout/all", {})
    settle(alice)
    network.advance(30)

    assert devices_of(bob, alice) == {}
