"""Uploading, asking for and claiming keys of devices.

spec: client-server-api/#key-management-api, v1.19.
"""

import pytest

from tests.api.signed_keys import (
    claim,
    device_keys,
    one_time_keys,
    query,
    upload,
    upload_device_keys,
)
from tests.homeserver import Homeserver, User


@pytest.fixture
def alice(homeserver: Homeserver) -> User:
    return homeserver.register("alice")


@pytest.fixture
def bob(homeserver: Homeserver) -> User:
    return homeserver.register("bob")


def test_uploaded_device_keys_are_given_to_whoever_asks(alice: User, bob: User) -> None:
    keys = upload_device_keys(alice)

    found = query(bob, alice.user_id)["device_keys"][alice.user_id][alice.device_id]

    assert {k: v for k, v in found.items() if k != "unsigned"} == keys


def test_display_name_of_the_device_stands_in_unsigned(alice: User, bob: User) -> None:
    upload_device_keys(alice)
    alice.put(f"/devices/{alice.device_id}", {"display_name": "Alice's phone"})

    found = query(bob, alice.user_id)["device_keys"][alice.user_id][alice.device_id]

    assert found["unsigned"] == {"device_display_name": "Alice's phone"}


def test_unsigned_of_an_upload_is_not_kept(alice: User, bob: User) -> None:
    upload(alice, device_keys={**device_keys(alice), "unsigned": {"device_display_name": "fake"}})

    found = query(bob, alice.user_id)["device_keys"][alice.user_id][alice.device_id]

    assert found["unsigned"].get("device_display_name") != "fake"


def test_only_the_devices_asked_for_are_returned(alice: User, bob: User) -> None:
    other = alice.login_again()
    upload_device_keys(alice)
    upload_device_keys(other)

    reply = bob.post("/keys/query", {"device_keys": {alice.user_id: [other.device_id, "NONE"]}})

    assert list(reply.json["device_keys"][alice.user_id]) == [other.device_id]


def test_user_without_keys_has_an_empty_map_and_an_unknown_one_is_missing(
    alice: User, bob: User
) -> None:
    found = query(bob, alice.user_id, "@nobody:hs.test")

    assert found["device_keys"] == {alice.user_id: {}}


def test_server_that_cannot_be_reached_is_a_failure(alice: User) -> None:
    assert list(query(alice, "@carol:far.test")["failures"]) == ["far.test"]


def test_keys_are_gone_with_the_device(alice: User, bob: User) -> None:
    other = alice.login_again()
    upload_device_keys(other)
    upload(other, one_time_keys=one_time_keys(other, "A"))

    other.post("/logout", {})

    assert query(bob, alice.user_id)["device_keys"] == {alice.user_id: {}}
    assert claim(bob, other) == {}


@pytest.mark.parametrize("field", ["user_id", "device_id"])
def test_attack_12_keys_for_another_user_or_device_are_refused(
    alice: User, bob: User, field: str
) -> None:
    stolen = {"user_id": bob.user_id, "device_id": bob.device_id}[field]

    reply = upload(alice, device_keys=device_keys(alice, **{field: stolen}))

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
    assert query(alice, alice.user_id, bob.user_id)["device_keys"] == {
        alice.user_id: {},
        bob.user_id: {},
    }


@pytest.mark.parametrize("value", [{"a": "b"}, ["DEVICE"], 5, None, True])
def test_attack_12_device_id_that_is_no_string_is_refused(alice: User, value: object) -> None:
    reply = upload(alice, device_keys=device_keys(alice, device_id=value))

    assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize("value", [[{"a": "b"}], [5], {"DEVICE": 1}, "DEVICE", [None]])
def test_attack_12_query_of_a_device_id_that_is_no_string_is_refused(
    alice: User, value: object
) -> None:
    reply = alice.post("/keys/query", {"device_keys": {alice.user_id: value}})

    assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize("value", [{"DEVICE": {"a": "b"}}, {"DEVICE": 5}, ["DEVICE"], "x"])
def test_attack_12_claim_of_something_else_than_names_is_refused(
    alice: User, value: object
) -> None:
    reply = alice.post("/keys/claim", {"one_time_keys": {alice.user_id: value}})

    assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(
    "changed",
    [
        {"algorithms": "m.olm"},
        {"algorithms": [1]},
        {"keys": []},
        {"keys": {"ed25519:X": {"a": "b"}}},
        {"extra": 1.5},
        {"extra": 2**60},
    ],
)
def test_attack_6_poisoned_device_keys_are_refused(alice: User, changed: dict[str, object]) -> None:
    keys = {**device_keys(alice), **changed}

    reply = upload(alice, device_keys=keys)

    assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize("signatures", [None, [], {"@alice:hs.test": "x"}, {"@a:b": {"k": 1}}])
def test_signatures_of_device_keys_must_have_their_form(alice: User, signatures: object) -> None:
    reply = upload(alice, device_keys={**device_keys(alice), "signatures": signatures})

    assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")


def test_upload_answers_how_many_one_time_keys_there_are(alice: User) -> None:
    upload(alice, one_time_keys=one_time_keys(alice, "A", "B"))

    reply = upload(alice, one_time_keys=one_time_keys(alice, "C"))

    assert reply.json == {"one_time_key_counts": {"signed_curve25519": 3}}
    assert upload(alice).json == {"one_time_key_counts": {"signed_curve25519": 3}}


def test_one_time_keys_are_given_out_once_in_the_order_of_their_upload(
    alice: User, bob: User
) -> None:
    for name in ("Z", "M", "A"):
        upload(alice, one_time_keys=one_time_keys(alice, name))

    claimed = [claim(bob, alice) for _ in range(4)]

    assert claimed == [one_time_keys(alice, "Z"), one_time_keys(alice, "M"),
                       one_time_keys(alice, "A"), {}]  # fmt: skip
    assert upload(alice).json == {"one_time_key_counts": {"signed_curve25519": 0}}


def test_attack_12_claimed_keys_stay_claimed_after_a_restart(
    homeserver: Homeserver, alice: User, bob: User
) -> None:
    upload(alice, one_time_keys=one_time_keys(alice, "A", "B"))
    first = claim(bob, alice)

    homeserver = homeserver.restart()
    bob = bob.at(homeserver)

    second = claim(bob, alice)
    assert first.keys() | second.keys() == one_time_keys(alice, "A", "B").keys()
    assert claim(bob, alice) == {}


def test_attack_12_repeated_upload_does_not_offer_a_claimed_key_again(
    alice: User, bob: User
) -> None:
    keys = one_time_keys(alice, "A")
    upload(alice, one_time_keys=keys)
    assert claim(bob, alice) == keys

    repeated = upload(alice, one_time_keys=keys)

    assert repeated.json == {"one_time_key_counts": {"signed_curve25519": 0}}
    assert claim(bob, alice) == {}


def test_one_time_key_with_other_content_under_the_same_id_is_refused(
    alice: User, bob: User
) -> None:
    keys = one_time_keys(alice, "A")
    upload(alice, one_time_keys=keys)

    reply = upload(alice, one_time_keys=one_time_keys(alice, "A", "B", salt="other"))

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
    assert [claim(bob, alice), claim(bob, alice)] == [keys, {}]


def test_same_one_time_key_may_be_uploaded_again(alice: User) -> None:
    keys = one_time_keys(alice, "A")
    upload(alice, one_time_keys=keys)

    reply = upload(alice, one_time_keys=keys)

    assert reply.json == {"one_time_key_counts": {"signed_curve25519": 1}}


@pytest.mark.parametrize(
    "keys",
    [
        {"signed_curve25519": {}},
        {"signed_curve25519:A": "plain"},
        {"signed_curve25519:A": {"key": 5, "signatures": {}}},
        {"signed_curve25519:A": {"key": "x"}},
        {":A": "x"},
        {"curve25519:": "x"},
        {"curve25519:A": 5},
        {"curve25519:A\0": "x"},
        {"signed_curve25519:A": {"key": "x", "signatures": {}, "n": 0.5}},
    ],
)
def test_malformed_one_time_keys_are_refused(alice: User, keys: object) -> None:
    for field in ("one_time_keys", "fallback_keys"):
        reply = upload(alice, **{field: keys})

        assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")


def test_fallback_key_serves_when_one_time_keys_have_run_out(alice: User, bob: User) -> None:
    one_time = one_time_keys(alice, "A")
    fallback = one_time_keys(alice, "F", fallback=True)
    upload(alice, one_time_keys=one_time, fallback_keys=fallback)

    claimed = [claim(bob, alice) for _ in range(3)]

    assert claimed == [one_time, fallback, fallback]


def test_attack_12_used_fallback_key_is_reported_until_it_is_replaced(
    alice: User, bob: User
) -> None:
    def unused() -> object:
        return alice.sync()["device_unused_fallback_key_types"]

    upload(alice, fallback_keys=one_time_keys(alice, "F", fallback=True))
    assert unused() == ["signed_curve25519"]

    claim(bob, alice)
    assert unused() == []

    upload(alice, fallback_keys=one_time_keys(alice, "F", fallback=True))
    assert unused() == []

    upload(alice, fallback_keys=one_time_keys(alice, "G", fallback=True))
    assert unused() == ["signed_curve25519"]


def test_only_one_fallback_key_of_an_algorithm_is_taken(alice: User) -> None:
    reply = upload(alice, fallback_keys=one_time_keys(alice, "F", "G", fallback=True))

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


def test_claim_of_another_algorithm_leaves_the_keys_alone(alice: User, bob: User) -> None:
    upload(alice, one_time_keys=one_time_keys(alice, "A"))

    assert claim(bob, alice, "curve25519") == {}
    assert claim(bob, alice) == one_time_keys(alice, "A")


def test_claims_for_many_devices_are_answered_together(alice: User, bob: User) -> None:
    other = alice.login_again()
    upload(alice, one_time_keys=one_time_keys(alice, "A"))
    upload(other, fallback_keys=one_time_keys(other, "F", fallback=True))

    wanted = {
        alice.user_id: {alice.device_id: "signed_curve25519", other.device_id: "signed_curve25519",
                        "NONE": "signed_curve25519", "\0": "\0"},
        "@nobody:hs.test": {"X": "signed_curve25519"},
    }  # fmt: skip
    reply = bob.post("/keys/claim", {"one_time_keys": wanted})

    assert reply.json["one_time_keys"] == {
        alice.user_id: {
            alice.device_id: one_time_keys(alice, "A"),
            other.device_id: one_time_keys(other, "F", fallback=True),
        }
    }


def test_other_identity_keys_take_the_old_one_time_keys_away(alice: User, bob: User) -> None:
    upload_device_keys(alice)
    upload(
        alice,
        one_time_keys=one_time_keys(alice, "A"),
        fallback_keys=one_time_keys(alice, "F", fallback=True),
    )

    upload(alice, device_keys=device_keys(alice, algorithms=["m.other"]))

    assert claim(bob, alice) == {}


def test_sync_counts_one_time_keys(alice: User, bob: User) -> None:
    assert alice.sync()["device_one_time_keys_count"] == {"signed_curve25519": 0}

    upload(alice, one_time_keys=one_time_keys(alice, "A", "B"))
    assert alice.sync()["device_one_time_keys_count"] == {"signed_curve25519": 2}

    claim(bob, alice)
    assert alice.sync()["device_one_time_keys_count"] == {"signed_curve25519": 1}


def test_usual_sync_reads_no_key_counts_from_the_database(
    homeserver: Homeserver, alice: User
) -> None:
    upload(alice, one_time_keys=one_time_keys(alice, "A"))
    alice.sync()
    homeserver.database.statements.clear()

    alice.sync()

    assert not [sql for sql in homeserver.database.statements if "_keys" in sql]


def test_attack_13_too_many_one_time_keys_are_refused(alice: User) -> None:
    keys = {f"curve25519:{n}": "x" for n in range(1_001)}

    reply = upload(alice, one_time_keys=keys)

    assert (reply.status, reply.errcode) == (413, "M_TOO_LARGE")


def test_attack_13_a_device_cannot_fill_the_table_with_one_time_keys(alice: User) -> None:
    for first in range(0, 5_000, 1_000):
        keys = {f"curve25519:{n}": "x" for n in range(first, first + 1_000)}
        assert upload(alice, one_time_keys=keys).status == 200

    reply = upload(alice, one_time_keys={"curve25519:one more": "x"})

    assert (reply.status, reply.errcode) == (413, "M_TOO_LARGE")


def test_attack_13_oversized_keys_are_refused(alice: User) -> None:
    big = upload(alice, device_keys=device_keys(alice, extra="x" * 66_000))
    big_one_time = upload(alice, one_time_keys={"curve25519:A": "x" * 9_000})

    assert (big.status, big_one_time.status) == (413, 413)
