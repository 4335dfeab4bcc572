"""Cross-signing keys, and signatures added to keys.

spec: client-server-api/#cross-signing, v1.19.
"""

from collections.abc import Mapping

import pytest

from tests.api.signed_keys import (
    CrossSigningKeys,
    Json,
    Key,
    device_key,
    device_keys,
    query,
    sign_keys,
    upload,
    upload_cross_signing,
    upload_device_keys,
)
from tests.homeserver import PASSWORD, Homeserver, Reply, User


@pytest.fixture
def alice(homeserver: Homeserver) -> User:
    return homeserver.register("alice")


@pytest.fixture
def bob(homeserver: Homeserver) -> User:
    return homeserver.register("bob")


def post_keys(user: User, body: Mapping[str, object]) -> Reply:
    return user.post("/keys/device_signing/upload", body)


def with_password(user: User, body: Mapping[str, object], password: str = PASSWORD) -> Reply:
    """Answer the challenge that the upload is met with."""
    challenge = post_keys(user, body)
    assert challenge.status == 401, challenge.json
    auth = user.proof(password, session=challenge.json["session"])
    return post_keys(user, {**body, "auth": auth})


def master_of(user: User, target: User) -> str:
    """Return the public master key of the target, as the user is told."""
    (public,) = query(user, target.user_id)["master_keys"][target.user_id]["keys"].values()
    return str(public)


def test_first_keys_need_no_password_and_are_shown_to_whom_they_concern(
    alice: User, bob: User
) -> None:
    body = upload_cross_signing(alice).body()

    own = query(alice, alice.user_id)
    others = query(bob, alice.user_id)

    assert own["master_keys"] == others["master_keys"] == {alice.user_id: body["master_key"]}
    assert own["self_signing_keys"] == {alice.user_id: body["self_signing_key"]}
    assert others["self_signing_keys"] == own["self_signing_keys"]
    assert own["user_signing_keys"] == {alice.user_id: body["user_signing_key"]}
    assert others["user_signing_keys"] == {}


def test_the_same_keys_again_need_no_password(alice: User) -> None:
    keys = upload_cross_signing(alice)

    assert post_keys(alice, keys.body()).status == 200
    assert post_keys(alice, {"master_key": keys.body()["master_key"]}).status == 200


@pytest.mark.parametrize("usage", ["master", "self_signing", "user_signing"])
def test_attack_12_replacing_any_key_needs_the_password(alice: User, usage: str) -> None:
    keys = upload_cross_signing(alice)
    other = Key("other")
    body: Json = keys.body() if usage != "master" else {}
    body[f"{usage}_key"] = keys.object(usage, other, None if usage == "master" else keys.master)

    challenge = post_keys(alice, body)
    before = query(alice, alice.user_id)
    wrong = with_password(alice, body, "not-the-password")
    replaced = with_password(alice, body)

    assert challenge.json["flows"] == [{"stages": ["m.login.password"]}]
    assert wrong.status == 401
    assert before[f"{usage}_keys"][alice.user_id] == keys.body()[f"{usage}_key"]
    assert replaced.status == 200
    found = query(alice, alice.user_id)[f"{usage}_keys"][alice.user_id]
    assert found["keys"] == {f"ed25519:{other.public}": other.public}


def test_attack_12_adding_a_key_to_an_existing_master_key_needs_the_password(alice: User) -> None:
    keys = CrossSigningKeys(alice)
    assert post_keys(alice, {"master_key": keys.body()["master_key"]}).status == 200

    without_master = {"self_signing_key": keys.body()["self_signing_key"]}

    assert post_keys(alice, without_master).status == 401
    assert with_password(alice, keys.body()).status == 200


def test_attack_12_password_given_for_some_keys_does_not_serve_for_others(alice: User) -> None:
    upload_cross_signing(alice)
    wanted = CrossSigningKeys(alice, "wanted").body()
    session = post_keys(alice, wanted).json["session"]
    auth = {"type": "m.login.password", "password": PASSWORD, "session": session}

    reply = post_keys(alice, {**CrossSigningKeys(alice, "stolen").body(), "auth": auth})

    assert reply.status == 403
    assert master_of(alice, alice) == CrossSigningKeys(alice).master.public


def test_new_master_key_takes_away_the_keys_that_only_the_old_one_signed(alice: User) -> None:
    upload_cross_signing(alice)
    other = CrossSigningKeys(alice, "2")

    assert with_password(alice, {"master_key": other.body()["master_key"]}).status == 200

    found = query(alice, alice.user_id)
    assert master_of(alice, alice) == other.master.public
    assert (found["self_signing_keys"], found["user_signing_keys"]) == ({}, {})


def test_keys_without_any_master_key_are_refused(alice: User) -> None:
    body = CrossSigningKeys(alice).body()
    del body["master_key"]

    reply = post_keys(alice, body)

    assert (reply.status, reply.errcode) == (400, "M_MISSING_PARAM")


@pytest.mark.parametrize("usage", ["self_signing", "user_signing"])
def test_attack_12_key_that_the_master_key_did_not_sign_is_refused(alice: User, usage: str) -> None:
    keys = CrossSigningKeys(alice)
    body = keys.body()
    body[f"{usage}_key"] = keys.object(usage, Key("mine"), Key("not the master"))

    reply = post_keys(alice, body)

    assert (reply.status, reply.errcode) == (400, "M_INVALID_SIGNATURE")
    assert query(alice, alice.user_id)["master_keys"] == {}


def test_attack_12_keys_for_another_user_are_refused(alice: User, bob: User) -> None:
    reply = post_keys(alice, CrossSigningKeys(bob).body())

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
    assert query(bob, bob.user_id)["master_keys"] == {}


def test_public_key_that_is_the_id_of_a_device_is_refused(alice: User) -> None:
    keys = CrossSigningKeys(alice)
    alice.login_again(device_id=keys.master.public)

    reply = post_keys(alice, keys.body())

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_keys_of_a_device_whose_id_is_a_public_key_are_refused(alice: User) -> None:
    keys = upload_cross_signing(alice)
    device = alice.login_again(device_id=keys.master.public)

    reply = upload(device, device_keys=device_keys(device))

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


PUBLIC = Key("any").public


@pytest.mark.parametrize(
    "changed",
    [
        {"user_id": 5},
        {"usage": "master"},
        {"usage": ["self_signing"]},
        {"keys": {}},
        {"keys": {f"ed25519:{PUBLIC}": PUBLIC, "ed25519:b": "b"}},
        {"keys": {"ed25519:other": PUBLIC}},
        {"keys": {"ed25519:short": "short"}},
        {"keys": {"ed25519:!": "!"}},
        {"keys": {"ed25519:5": 5}},
        {"signatures": {"@alice:hs.test": "x"}},
        {"number": 0.5},
    ],
)
def test_malformed_keys_are_refused(alice: User, changed: dict[str, object]) -> None:
    body = CrossSigningKeys(alice).body()
    body["master_key"] |= changed

    reply = post_keys(alice, body)

    assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")


def test_self_signing_key_signs_a_device_for_all_to_see(alice: User, bob: User) -> None:
    keys = upload_device_keys(alice)
    cross = upload_cross_signing(alice)
    signed = cross.self_signing.sign(keys, alice.user_id)

    assert sign_keys(alice, alice.user_id, alice.device_id, signed) == {}

    found = query(bob, alice.user_id)["device_keys"][alice.user_id][alice.device_id]
    assert found["signatures"] == signed["signatures"]


def test_device_signs_the_own_master_key_for_all_to_see(alice: User, bob: User) -> None:
    upload_device_keys(alice)
    cross = upload_cross_signing(alice)
    master = cross.body()["master_key"]
    signed = device_key(alice).sign(master, alice.user_id, alice.device_id)

    assert sign_keys(alice, alice.user_id, cross.master.public, signed) == {}

    assert query(bob, alice.user_id)["master_keys"] == {alice.user_id: signed}


def test_signature_on_the_key_of_another_is_seen_by_its_maker_alone(
    homeserver: Homeserver, alice: User, bob: User
) -> None:
    carol = homeserver.register("carol")
    hers = upload_cross_signing(alice)
    his = upload_cross_signing(bob)
    signed = hers.user_signing.sign(his.body()["master_key"], alice.user_id)

    assert sign_keys(alice, bob.user_id, his.master.public, signed) == {}

    assert query(alice, bob.user_id)["master_keys"] == {bob.user_id: signed}
    for reader in (bob, carol):
        assert query(reader, bob.user_id)["master_keys"] == {bob.user_id: his.body()["master_key"]}


def test_each_bad_signature_is_a_failure_of_its_own(alice: User, bob: User) -> None:
    keys = upload_device_keys(alice)
    cross = upload_cross_signing(alice)
    good = cross.self_signing.sign(keys, alice.user_id)
    forged = Key("forger").sign(
        cross.body()["master_key"], alice.user_id, alice.device_id
    )  # the device's name, but not its key

    reply = alice.post(
        "/keys/signatures/upload",
        {
            alice.user_id: {alice.device_id: good, cross.master.public: forged, "NONE": good},
            bob.user_id: {"whatever": good},
            "@nobody:hs.test": {"whatever": good},
        },
    )

    codes = {
        (user, name): error["errcode"]
        for user, by_key in reply.json["failures"].items()
        for name, error in by_key.items()
    }
    assert codes == {
        (alice.user_id, cross.master.public): "M_INVALID_SIGNATURE",
        (alice.user_id, "NONE"): "M_NOT_FOUND",
        (bob.user_id, "whatever"): "M_NOT_FOUND",
        ("@nobody:hs.test", "whatever"): "M_NOT_FOUND",
    }
    found = query(bob, alice.user_id)
    assert found["device_keys"][alice.user_id][alice.device_id]["signatures"] == good["signatures"]
    assert "signatures" not in found["master_keys"][alice.user_id]


def test_attack_12_signature_over_other_content_is_refused(alice: User) -> None:
    keys = upload_device_keys(alice)
    cross = upload_cross_signing(alice)
    other = cross.self_signing.sign({**keys, "algorithms": ["m.weak"]}, alice.user_id)

    failures = sign_keys(alice, alice.user_id, alice.device_id, other)

    assert failures[alice.user_id][alice.device_id]["errcode"] == "M_INVALID_SIGNATURE"


def test_attack_12_device_key_may_not_sign_another_device(alice: User) -> None:
    other = alice.login_again()
    upload_device_keys(alice)
    keys = upload_device_keys(other)
    upload_cross_signing(alice)
    signed = device_key(alice).sign(keys, alice.user_id, alice.device_id)

    failures = sign_keys(alice, alice.user_id, other.device_id, signed)

    assert failures[alice.user_id][other.device_id]["errcode"] == "M_INVALID_SIGNATURE"


def test_attack_12_signature_in_the_name_of_another_user_is_refused(alice: User, bob: User) -> None:
    keys = upload_device_keys(alice)
    cross = upload_cross_signing(alice)
    signed = cross.self_signing.sign(keys, bob.user_id)

    failures = sign_keys(alice, alice.user_id, alice.device_id, signed)

    assert failures[alice.user_id][alice.device_id]["errcode"] == "M_INVALID_SIGNATURE"


def test_attack_12_too_many_signed_keys_are_refused(alice: User) -> None:
    body: Json = {alice.user_id: {f"D{n}": {} for n in range(1_001)}}

    reply = alice.post("/keys/signatures/upload", body)

    assert (reply.status, reply.errcode) == (413, "M_TOO_LARGE")


@pytest.mark.parametrize("body", [{"@a:hs.test": []}, {"@a:hs.test": {"D": "x"}}, {"nobody": {}}])
def test_malformed_signature_uploads_are_refused(alice: User, body: object) -> None:
    reply = alice.post("/keys/signatures/upload", body)

    assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")


def test_replaced_self_signing_key_takes_its_signatures_away(alice: User) -> None:
    keys = upload_device_keys(alice)
    cross = upload_cross_signing(alice)
    sign_keys(alice, alice.user_id, alice.device_id, cross.self_signing.sign(keys, alice.user_id))

    body = {"self_signing_key": cross.object("self_signing", Key("next"), cross.master)}
    assert with_password(alice, body).status == 200

    found = query(alice, alice.user_id)["device_keys"][alice.user_id][alice.device_id]
    assert found["signatures"] == keys["signatures"]


def test_same_self_signing_key_under_a_new_master_key_keeps_its_signatures(alice: User) -> None:
    keys = upload_device_keys(alice)
    cross = upload_cross_signing(alice)
    signed = cross.self_signing.sign(keys, alice.user_id)
    sign_keys(alice, alice.user_id, alice.device_id, signed)

    master = Key("next")
    body = {
        "master_key": cross.object("master", master, None),
        "self_signing_key": cross.object("self_signing", cross.self_signing, master),
    }
    assert with_password(alice, body).status == 200

    found = query(alice, alice.user_id)
    assert found["self_signing_keys"] == {alice.user_id: body["self_signing_key"]}
    device = found["device_keys"][alice.user_id][alice.device_id]
    assert device["signatures"] == signed["signatures"]


def test_device_that_comes_again_under_its_old_id_has_no_signatures(alice: User) -> None:
    other = alice.login_again()
    keys = upload_device_keys(other)
    cross = upload_cross_signing(alice)
    sign_keys(alice, alice.user_id, other.device_id, cross.self_signing.sign(keys, alice.user_id))
    other.post("/logout", {})
    reborn = alice.login_again(device_id=other.device_id)

    upload_device_keys(reborn)

    found = query(alice, alice.user_id)["device_keys"][alice.user_id][other.device_id]
    assert found["signatures"] == keys["signatures"]
