"""Who is told that whose keys have changed.

spec: client-server-api/#tracking-the-device-list-for-a-user, v1.19.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.signed_keys import (
    CrossSigningKeys,
    device_keys,
    one_time_keys,
    query,
    sign_keys,
    upload,
    upload_cross_signing,
    upload_device_keys,
)
from tests.homeserver import Homeserver, User


def changed(sync: Any) -> list[str]:
    return list(sync.get("device_lists", {}).get("changed", []))


def left(sync: Any) -> list[str]:
    return list(sync.get("device_lists", {}).get("left", []))


def log_out_another_device(alice: User) -> None:
    other = alice.login_again()
    upload_device_keys(other)
    other.post("/logout", {})


CHANGES: dict[str, Callable[[User], object]] = {
    "new device keys": upload_device_keys,
    "new cross-signing keys": upload_cross_signing,
    "a deleted device with keys": log_out_another_device,
}


@pytest.mark.usefixtures("room_id")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_change_is_told_to_those_who_share_a_room_and_to_the_user(
    both_versions: Homeserver, alice: User, bob: User, change: Callable[[User], object]
) -> None:
    carol = both_versions.register("carol")
    since = {user: user.sync()["next_batch"] for user in (alice, bob, carol)}

    change(alice)

    syncs = {user: user.sync(token) for user, token in since.items()}
    assert changed(syncs[alice]) == changed(syncs[bob]) == [alice.user_id]
    assert changed(syncs[carol]) == []
    assert changed(bob.sync(syncs[bob]["next_batch"])) == []


@pytest.mark.usefixtures("room_id")
def test_waiting_sync_is_woken_by_new_keys(alice: User, bob: User) -> None:
    since = bob.sync()["next_batch"]
    waiting = bob.start_request("GET", "/sync", query={"since": since, "timeout": 30_000})
    assert not waiting.answered

    upload_device_keys(alice)

    assert changed(waiting.reply().json) == [alice.user_id]


@pytest.mark.usefixtures("room_id")
def test_self_signature_on_a_device_is_told(alice: User, bob: User) -> None:
    keys = upload_device_keys(alice)
    cross = upload_cross_signing(alice)
    since = bob.sync()["next_batch"]

    signed = cross.self_signing.sign(keys, alice.user_id)
    sign_keys(alice, alice.user_id, alice.device_id, signed)

    synced = bob.sync(since)
    assert changed(synced) == [alice.user_id]
    sign_keys(alice, alice.user_id, alice.device_id, signed)
    assert changed(bob.sync(synced["next_batch"])) == []


@pytest.mark.usefixtures("room_id")
def test_signature_on_another_user_is_told_to_its_maker_alone(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    hers, his = upload_cross_signing(alice), upload_cross_signing(bob)
    hers_since, his_since = (user.sync()["next_batch"] for user in (alice, bob))

    signed = hers.user_signing.sign(his.body()["master_key"], alice.user_id)
    sign_keys(alice, bob.user_id, his.master.public, signed)

    assert changed(alice.sync(hers_since)) == [bob.user_id]
    assert changed(bob.sync(his_since)) == []
    both_versions = both_versions.restart()
    alice = alice.at(both_versions)
    assert changed(alice.sync(hers_since)) == [bob.user_id]


@pytest.mark.usefixtures("room_id")
def test_what_changes_no_keys_is_not_told(alice: User, bob: User) -> None:
    upload_device_keys(alice)
    upload_cross_signing(alice)
    since = bob.sync()["next_batch"]

    upload(alice, device_keys=device_keys(alice), one_time_keys=one_time_keys(alice, "A"))
    alice.post("/keys/device_signing/upload", CrossSigningKeys(alice).body())
    alice.login_again().post("/logout", {})

    assert changed(bob.sync(since)) == []


@pytest.mark.usefixtures("room_id")
def test_refused_upload_is_not_told(alice: User, bob: User) -> None:
    upload(alice, one_time_keys=one_time_keys(alice, "A"))
    since = bob.sync()["next_batch"]

    reply = upload(
        alice,
        device_keys=device_keys(alice),
        one_time_keys=one_time_keys(alice, "A", salt="other"),
    )

    assert reply.status == 400
    assert changed(bob.sync(since)) == []


@pytest.mark.usefixtures("room_id")
def test_renamed_device_with_keys_is_told(alice: User, bob: User) -> None:
    upload_device_keys(alice)
    since = bob.sync()["next_batch"]

    alice.put(f"/devices/{alice.device_id}", {"display_name": "new name"})

    assert changed(bob.sync(since)) == [alice.user_id]


@pytest.mark.usefixtures("room_id")
def test_attack_12_changes_during_an_outage_are_told_after_it(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    since = bob.sync()["next_batch"]
    upload_device_keys(alice)
    both_versions.advance(24 * 3600)

    both_versions = both_versions.restart()
    bob = bob.at(both_versions)

    synced = bob.sync(since)
    assert changed(synced) == [alice.user_id]
    assert changed(bob.sync(synced["next_batch"])) == []


@pytest.mark.usefixtures("room_id")
def test_attack_12_deleted_device_is_told_wherever_the_server_fails(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    failed_after_deletion = []
    for statement in range(1, 12):
        other = alice.login_again()
        upload_device_keys(other)
        since = bob.sync()["next_batch"]

        both_versions.database.fail_at = statement
        reply = other.post("/logout", {})
        both_versions.database.fail_at = None

        both_versions = both_versions.restart()
        alice = alice.at(both_versions)
        bob = bob.at(both_versions)
        devices = query(bob, alice.user_id)["device_keys"][alice.user_id]
        is_deleted = other.device_id not in devices
        assert changed(bob.sync(since)) == ([alice.user_id] if is_deleted else [])
        failed_after_deletion.append(is_deleted and reply.status != 200)
    assert True in failed_after_deletion


@pytest.mark.usefixtures("room_id")
def test_usual_sync_reads_no_changes_from_the_database(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    since = bob.sync()["next_batch"]
    upload_device_keys(alice)
    both_versions.database.statements.clear()

    assert changed(bob.sync(since)) == [alice.user_id]

    assert not [sql for sql in both_versions.database.statements if "device_list" in sql]


@pytest.mark.usefixtures("room_id")
def test_key_changes_between_two_tokens(alice: User, bob: User) -> None:
    start = bob.sync()["next_batch"]
    upload_device_keys(alice)
    end = bob.sync()["next_batch"]

    between = bob.get("/keys/changes", **{"from": start, "to": end})
    after = bob.get("/keys/changes", **{"from": end, "to": end})

    assert between.json == {"changed": [alice.user_id], "left": []}
    assert after.json == {"changed": [], "left": []}


def test_key_changes_name_those_who_joined_and_left(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    carol = both_versions.register("carol")
    start = alice.sync()["next_batch"]
    carol.join(room_id)
    met = alice.sync()["next_batch"]
    carol.post(f"/rooms/{room_id}/leave", {})
    end = alice.sync()["next_batch"]

    def changes(token: str) -> Any:
        return alice.get("/keys/changes", **{"from": token, "to": end}).json

    assert changes(met) == {"changed": [], "left": [carol.user_id]}
    bob.post(f"/rooms/{room_id}/leave", {})
    assert changes(start) == {"changed": [], "left": [bob.user_id, carol.user_id]}
    bob.join(room_id)
    assert changes(start) == {"changed": [bob.user_id], "left": [carol.user_id]}


def test_key_changes_name_whom_the_user_met_or_left_behind(
    alice: User, bob: User, room_id: str
) -> None:
    start = bob.sync()["next_batch"]
    bob.post(f"/rooms/{room_id}/leave", {})
    gone = bob.get("/keys/changes", **{"from": start, "to": start})
    bob.join(room_id)
    back = bob.get("/keys/changes", **{"from": start, "to": start})

    assert gone.json == {"changed": [], "left": [alice.user_id]}
    assert back.json == {"changed": [alice.user_id], "left": []}


def test_key_changes_need_tokens_of_this_server(alice: User) -> None:
    token = alice.sync()["next_batch"]

    for wrong in ({"from": "x", "to": token}, {"from": token, "to": "x"}):
        reply = alice.get("/keys/changes", **wrong)
        assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
    assert alice.get("/keys/changes", to=token).errcode == "M_MISSING_PARAM"


def test_sync_tells_who_joined_and_who_left(
    both_versions: Homeserver, alice: User, room_id: str
) -> None:
    carol = both_versions.register("carol")
    start = alice.sync()["next_batch"]

    carol.join(room_id)
    joined = alice.sync(start)
    carol.post(f"/rooms/{room_id}/leave", {})
    gone = alice.sync(joined["next_batch"])

    assert (changed(joined), left(joined)) == ([carol.user_id], [])
    assert (changed(gone), left(gone)) == ([], [carol.user_id])
