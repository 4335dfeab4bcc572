"""Devices: listing, naming, and deleting with everything that belongs to them."""

from collections.abc import Sequence
from typing import Any

import pytest

from homeserver.background import Background
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.services.devices import Devices
from homeserver.services.sessions import Sessions
from homeserver.storage.query import Txn, execute
from tests.database import InlineDatabase
from tests.homeserver import PASSWORD, Homeserver, Reply, SteadyRandomness, User
from tests.results import result_of


def proof(user: User, password: str = PASSWORD, **more: Any) -> dict[str, Any]:
    return {"type": "m.login.password", "user": user.user_id, "password": password, **more}


def ids(user: User) -> list[str]:
    return [device["device_id"] for device in user.get("/devices").json["devices"]]


def login_as(homeserver: Homeserver, device_id: str, **more: Any) -> User:
    body = {"type": "m.login.password", "user": "alice", "password": PASSWORD, **more}
    reply = homeserver.request("POST", "/_matrix/client/v3/login", {**body, "device_id": device_id})
    return User(homeserver, reply.json["user_id"], reply.json["access_token"], device_id)


def test_devices_of_a_user_are_listed_and_nobody_elses(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    phone = login_as(homeserver, "PHONE")
    homeserver.register("bob")

    assert set(ids(alice)) == {alice.device_id, "PHONE"}
    assert ids(phone) == ids(alice)


def test_device_tells_when_and_from_where_it_was_seen(homeserver: Homeserver) -> None:
    homeserver.register("alice")
    phone = login_as(homeserver, "PHONE", initial_device_display_name="My phone")

    device = phone.get("/devices/PHONE").json

    assert device["display_name"] == "My phone"
    assert device["last_seen_ts"] == homeserver.clock.now_ms()
    assert device["last_seen_ip"]


def test_last_use_is_written_at_most_every_five_minutes(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    start = homeserver.clock.now_ms()

    def seen_after(seconds: float) -> int:
        homeserver.advance(seconds)
        alice.get("/account/whoami")
        return int(alice.get(f"/devices/{alice.device_id}").json["last_seen_ts"]) - start

    assert seen_after(1) == 1000
    assert seen_after(299) == 1000
    assert seen_after(1) == 301_000


def test_unknown_devices_are_not_found(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    bob = homeserver.register("bob")

    for path in ("/devices/NONE", f"/devices/{bob.device_id}"):
        assert alice.get(path).status == 404
        assert alice.put(path, {"display_name": "x"}).status == 404
        assert alice.put(path, {}).status == 404


def test_device_is_renamed(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    path = f"/devices/{alice.device_id}"

    assert alice.put(path, {"display_name": "My phone"}).status == 200
    assert alice.put(path, {}).status == 200

    assert alice.get(path).json["display_name"] == "My phone"


@pytest.mark.parametrize("name", ["x" * 101, "a\0b", 3, {"a": 1}])
def test_names_no_device_can_have_are_refused(homeserver: Homeserver, name: object) -> None:
    alice = homeserver.register("alice")

    assert alice.put(f"/devices/{alice.device_id}", {"display_name": name}).status == 400


def test_known_device_keeps_its_name_at_the_next_login(homeserver: Homeserver) -> None:
    homeserver.register("alice")
    login_as(homeserver, "PHONE", initial_device_display_name="First")

    again = login_as(homeserver, "PHONE", initial_device_display_name="Second")

    assert again.get("/devices/PHONE").json["display_name"] == "First"


def test_deleting_a_device_needs_the_password_and_ends_its_session(
    homeserver: Homeserver,
) -> None:
    alice = homeserver.register("alice")
    phone = login_as(homeserver, "PHONE")
    assert phone.get("/account/whoami").status == 200

    asked = alice.request("DELETE", "/devices/PHONE", {})
    assert asked.json["flows"] == [{"stages": ["m.login.password"]}]
    assert phone.get("/account/whoami").status == 200
    auth = proof(alice, session=asked.json["session"])
    assert alice.request("DELETE", "/devices/PHONE", {"auth": auth}).json == {}

    assert phone.get("/account/whoami").status == 401
    assert ids(alice) == [alice.device_id]


def test_deleting_a_device_that_is_gone_is_no_error(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    reply = alice.request("DELETE", "/devices/NONE", {"auth": proof(alice)})

    assert reply.status == 200


def test_interactive_session_confusion_one_device_does_not_stand_for_another(
    homeserver: Homeserver,
) -> None:
    alice = homeserver.register("alice")
    login_as(homeserver, "PHONE")
    login_as(homeserver, "LAPTOP")
    session = alice.request("DELETE", "/devices/PHONE", {}).json["session"]
    auth = proof(alice, session=session)

    single = alice.request("DELETE", "/devices/LAPTOP", {"auth": auth})
    many = alice.post("/delete_devices", {"devices": ["LAPTOP"], "auth": auth})

    assert (single.status, many.status) == (403, 403)
    assert "LAPTOP" in ids(alice)


def test_several_devices_are_deleted_together(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    login_as(homeserver, "PHONE")
    login_as(homeserver, "LAPTOP")
    body = {"devices": ["PHONE", "LAPTOP", "NONE", "a\0b"]}
    session = alice.post("/delete_devices", body).json["session"]

    changed: Reply = alice.post(
        "/delete_devices",
        {"devices": [*body["devices"], alice.device_id], "auth": proof(alice, session=session)},
    )
    done = alice.post("/delete_devices", {**body, "auth": proof(alice, session=session)})

    assert (changed.status, done.status) == (403, 200)
    assert ids(alice) == [alice.device_id]


def test_nobody_deletes_the_devices_of_others(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    mallory = homeserver.register("mallory")

    mallory.post("/delete_devices", {"devices": [alice.device_id], "auth": proof(mallory)})

    assert alice.get("/account/whoami").status == 200


# --- what is deleted with a device


def test_what_belongs_to_a_device_goes_in_the_same_transaction(
    homeserver: Homeserver, database: InlineDatabase
) -> None:
    alice = homeserver.register("alice")
    login_as(homeserver, "PHONE")
    deleted: list[tuple[str, ...]] = []
    told: list[tuple[str, tuple[str, ...]]] = []

    def delete_keys(txn: Txn, user_nid: int, device_ids: Sequence[DeviceID]) -> None:
        deleted.append(tuple(device_ids))
        execute(txn, "SELECT 1 FROM accounts WHERE user_nid = %s", (user_nid,))

    async def changed(user_id: UserID, device_ids: Sequence[DeviceID]) -> None:
        told.append((user_id, tuple(device_ids)))

    clock, randomness = homeserver.clock, SteadyRandomness()
    sessions = Sessions(database, clock, randomness, Background(clock, randomness))
    devices = Devices(database, sessions, device_data=[delete_keys], changed=changed)
    user_id = UserID(alice.user_id)
    database.fail_at = 3  # the feature's own statement

    with pytest.raises(Exception, match="injected"):
        result_of(devices.delete(user_id, [DeviceID("PHONE"), DeviceID("NONE")]))
    assert "PHONE" in ids(alice)
    assert told == []
    result_of(devices.delete(user_id, [DeviceID("PHONE"), DeviceID("NONE")]))

    assert deleted[-1] == ("PHONE",)
    assert told == [(alice.user_id, ("PHONE",))]
    assert ids(alice) == [alice.device_id]
