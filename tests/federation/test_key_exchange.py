"""Asking for keys and claiming them across servers.

spec: server-server-api/#end-to-end-encryption, v1.19.
"""

from typing import Any

import pytest

from tests.api.signed_keys import (
    claim,
    one_time_keys,
    query,
    upload,
    upload_cross_signing,
    upload_device_keys,
)
from tests.federation.asking import ask, make_hostile
from tests.federation.meeting import meet
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User


def test_keys_of_somebody_not_met_yet_are_asked_for(a: Homeserver, b: Homeserver) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    keys = upload_device_keys(alice)
    cross = upload_cross_signing(alice)

    found = query(bob, alice.user_id)

    shown = found["device_keys"][alice.user_id][alice.device_id]
    assert {k: v for k, v in shown.items() if k != "unsigned"} == keys
    assert found["master_keys"][alice.user_id] == cross.body()["master_key"]
    assert found["failures"] == {}


def test_both_sides_claim_a_key_of_the_other(a: Homeserver, b: Homeserver) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    for user in (alice, bob):
        upload_device_keys(user)
        upload(user, one_time_keys=one_time_keys(user, "A"))

    assert claim(alice, bob) == one_time_keys(bob, "A")
    assert claim(bob, alice) == one_time_keys(alice, "A")


def test_attack_12_a_key_is_given_to_one_server_once_and_then_the_fallback_key(
    a: Homeserver, b: Homeserver, c: Homeserver
) -> None:
    alice, bob, carol = a.register("alice"), b.register("bob"), c.register("carol")
    upload_device_keys(alice)
    upload(
        alice,
        one_time_keys=one_time_keys(alice, "A", "B"),
        fallback_keys=one_time_keys(alice, "F", fallback=True),
    )

    given = [claim(user, alice) for user in (bob, carol, bob, carol)]

    names = [next(iter(key)).partition(":")[2] for key in given]
    assert names == ["A", "B", "F", "F"]
    assert alice.sync()["device_unused_fallback_key_types"] == []
    assert alice.sync()["device_one_time_keys_count"] == {"signed_curve25519": 0}


def test_other_servers_do_not_see_user_signing_keys_nor_users_that_are_not_ours(
    a: Homeserver, b: Homeserver
) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    upload_cross_signing(alice)
    body: dict[str, Any] = {
        "device_keys": {alice.user_id: [], bob.user_id: [], "@nobody:a.test": []}
    }

    found = ask(a, "b.test", "POST", "/user/keys/query", body).json

    assert set(found) == {"device_keys", "master_keys", "self_signing_keys"}
    assert set(found["device_keys"]) == {alice.user_id}


def test_what_is_kept_is_served_while_the_other_server_is_away(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    meet(alice, bob)
    upload_device_keys(alice)
    query(bob, alice.user_id)
    network.cut_off(a.name)

    found = query(bob, alice.user_id)

    assert list(found["device_keys"][alice.user_id]) == [alice.device_id]


@pytest.mark.parametrize("path", ["/keys/query", "/keys/claim"])
def test_nobody_waits_longer_than_he_said(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, path: str
) -> None:
    bob = b.register("bob")
    network.silent.add(a.name)
    bodies: dict[str, Any] = {
        "/keys/query": {"device_keys": {"@alice:a.test": []}, "timeout": 5_000},
        "/keys/claim": {"one_time_keys": {"@alice:a.test": {"D": "x"}}, "timeout": 5_000},
    }
    waiting = bob.start_request("POST", path, bodies[path])

    network.advance(4)
    early = waiting.answered
    network.advance(2)

    assert not early
    assert list(waiting.reply().json["failures"]) == ["a.test"]


def test_attack_12_an_answer_counts_for_what_was_asked_alone(
    network: MemoryNetwork, b: Homeserver
) -> None:
    bob, carol = b.register("bob"), b.register("carol")
    victim = upload_device_keys(carol)
    foreign = {
        "user_id": "@x:c.test",
        "device_id": "D",
        "algorithms": [],
        "keys": {},
        "signatures": {},
    }
    asked = User(b, "@alice:a.test", "", "D")

    def answer(_method: str, target: str, _body: Any) -> Any:
        key = {"signed_curve25519:A": {"key": "forged", "signatures": {}}}
        claimed = {
            "one_time_keys": {carol.user_id: {carol.device_id: key}, asked.user_id: {"E": key}}
        }
        queried = {
            "device_keys": {
                carol.user_id: {carol.device_id: {**victim, "keys": {}}},
                asked.user_id: {"D": foreign, "E": "text", "F": {**foreign, "keys": 7}},
            },
            "master_keys": {carol.user_id: {"user_id": carol.user_id}, asked.user_id: {"usage": 5}},
        }
        return claimed if "claim" in target else queried

    make_hostile(network, "a.test", answer)

    found = query(bob, asked.user_id, carol.user_id)
    assert found["device_keys"][asked.user_id] == {}
    shown = found["device_keys"][carol.user_id][carol.device_id]
    assert shown["keys"] == victim["keys"]
    assert found["master_keys"] == {}
    assert claim(bob, asked) == {}
