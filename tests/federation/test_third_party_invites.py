"""Invitations by third-party id, and whoever would like one."""

import copy
import hashlib
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.signing import SigningKey, sign_json
from tests.federation.asking import ask
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, Reply, User

IDENTITY_KEY = SigningKey("ed25519:0", hashlib.sha256(b"identity server").digest())
OTHER_KEY = SigningKey("ed25519:0", hashlib.sha256(b"somebody else").digest())
TOKEN = "a-token"


def offer(user: User, token: str = TOKEN) -> str:
    """Make a room with an invitation for somebody's e-mail address."""
    room_id = user.create_room(preset="private_chat")
    path = f"/rooms/{quote(room_id)}/state/m.room.third_party_invite/{token}"
    key = IDENTITY_KEY.verify_key_base64
    content = {
        "display_name": "b...@e...",
        "key_validity_url": "https://id.test/valid",
        "public_key": key,
        "public_keys": [{"public_key": key}],
    }
    assert user.put(path, content).status == 200
    return room_id


def signed(user_id: str, token: str = TOKEN, key: SigningKey = IDENTITY_KEY, **more: str) -> Any:
    return sign_json({"mxid": user_id, "token": token, **more}, "id.test", key)


def invitation(room_id: str, sender: User, target: str, proof: Any) -> Any:
    return {
        "type": "m.room.member",
        "room_id": room_id,
        "sender": sender.user_id,
        "state_key": target,
        "content": {
            "membership": "invite",
            "third_party_invite": {"display_name": "Bob", "signed": proof},
        },
    }


def exchange(server: Homeserver, origin: str, room_id: str, event: Any) -> Reply:
    return ask(server, origin, "PUT", f"/exchange_third_party_invite/{quote(room_id)}", event)


def bind(server: Homeserver, user_id: str, *invites: Any, method: str = "PUT") -> Reply:
    body = {
        "medium": "email",
        "address": "bob@example.org",
        "mxid": user_id,
        "invites": list(invites),
    }
    return server.request(method, "/_matrix/federation/v1/3pid/onbind", body)


def pending(room_id: str, sender: User, target: str, proof: Any) -> Any:
    return {
        "medium": "email",
        "address": "bob@example.org",
        "mxid": target,
        "room_id": room_id,
        "sender": sender.user_id,
        "signed": proof,
    }


def member(user: User, room_id: str, target: str) -> Any:
    return user.get(f"/rooms/{quote(room_id)}/state/m.room.member/{quote(target)}").json


def test_who_has_bound_the_address_is_invited_and_joins(
    b: Homeserver, alice: User, bob: User
) -> None:
    room_id = offer(alice)

    bound = bind(b, bob.user_id, pending(room_id, alice, bob.user_id, signed(bob.user_id)))

    assert bound.status == 200
    assert room_id in bob.sync()["rooms"]["invite"]
    found = member(alice, room_id, bob.user_id)
    assert found["membership"] == "invite"
    assert found["third_party_invite"]["display_name"] == "b...@e..."
    assert bob.post(f"/join/{quote(room_id)}", {}).status == 200


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_user_of_the_inviting_server_is_invited_without_any_other(
    network: MemoryNetwork, a: Homeserver, alice: User, method: str
) -> None:
    anna = a.register("anna")
    room_id = offer(alice)

    invite = pending(room_id, alice, anna.user_id, signed(anna.user_id))
    bind(a, anna.user_id, invite, method=method)

    assert room_id in anna.sync()["rooms"]["invite"]
    assert network.requests == []


def test_what_an_identity_server_signs_with_the_sender_is_good_as_well(
    a: Homeserver, alice: User, bob: User
) -> None:
    room_id = offer(alice)
    proof = signed(bob.user_id, sender=alice.user_id)

    reply = exchange(a, "b.test", room_id, invitation(room_id, alice, bob.user_id, proof))

    assert reply.status == 200
    assert member(alice, room_id, bob.user_id)["membership"] == "invite"


@pytest.mark.parametrize("key", [OTHER_KEY, None])
def test_attack_3_a_signature_of_another_key_invites_nobody(
    a: Homeserver, alice: User, bob: User, key: SigningKey | None
) -> None:
    room_id = offer(alice)
    proof = signed(bob.user_id, key=key or IDENTITY_KEY)
    if key is None:
        proof["signatures"] = {}

    reply = exchange(a, "b.test", room_id, invitation(room_id, alice, bob.user_id, proof))

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
    assert "membership" not in member(alice, room_id, bob.user_id)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"type": "m.room.power_levels"}, 400),
        ({"room_id": "!other:a.test"}, 400),
        ({"sender": "@anna:a.test"}, 403),
        ({"sender": "@bob:b.test"}, 403),
        ({"sender": 5}, 400),
        ({"state_key": "@carol:c.test"}, 403),
        ({"state_key": "@eve:b.test"}, 400),
        ({"content": None}, 400),
        ({"content": {"membership": "join"}}, 400),
        ({"content": {"membership": "invite"}}, 400),
        ({"content": {"membership": "invite", "third_party_invite": {"signed": []}}}, 400),
    ],
)
def test_attack_1_what_is_no_invitation_for_the_signed_user_is_refused(
    a: Homeserver, alice: User, bob: User, changed: Any, status: int
) -> None:
    anna = a.register("anna")
    room_id = offer(alice)
    alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": anna.user_id})
    anna.join(room_id)
    event = invitation(room_id, alice, bob.user_id, signed(bob.user_id))

    reply = exchange(a, "b.test", room_id, {**event, **changed})

    assert reply.status == status, reply.json
    assert "membership" not in member(alice, room_id, bob.user_id)


def test_attack_1_nothing_that_is_added_to_the_invitation_is_signed(
    a: Homeserver, alice: User, bob: User
) -> None:
    room_id = offer(alice)
    event = copy.deepcopy(invitation(room_id, alice, bob.user_id, signed(bob.user_id)))
    event |= {"redacts": "$x", "depth": 5, "prev_events": [], "origin_server_ts": 1}
    event["content"] |= {"join_authorised_via_users_server": alice.user_id, "reason": "<script>"}
    event["content"]["third_party_invite"]["more"] = "x"
    event["content"]["third_party_invite"]["display_name"] = "Administrator"

    assert exchange(a, "b.test", room_id, event).status == 200

    assert member(alice, room_id, bob.user_id) == {
        "membership": "invite",
        "third_party_invite": {"display_name": "b...@e...", "signed": signed(bob.user_id)},
    }


def test_attack_1_more_in_what_is_signed_spoils_the_signature(
    a: Homeserver, alice: User, bob: User
) -> None:
    room_id = offer(alice)
    proof = signed(bob.user_id, extra="x")

    reply = exchange(a, "b.test", room_id, invitation(room_id, alice, bob.user_id, proof))

    assert reply.status == 403


def test_attack_5_a_heap_of_signatures_is_not_signed(a: Homeserver, alice: User, bob: User) -> None:
    room_id = offer(alice)
    proof = signed(bob.user_id)
    good = proof["signatures"]["id.test"]["ed25519:0"]
    proof["signatures"]["id.test"] = {f"ed25519:{number}": good for number in range(1_000)}
    proof["signatures"]["long.test"] = {"ed25519:0": "x" * 70_000}

    reply = exchange(a, "b.test", room_id, invitation(room_id, alice, bob.user_id, proof))

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_attack_3_an_offer_that_was_withdrawn_invites_nobody(
    a: Homeserver, alice: User, bob: User
) -> None:
    room_id = offer(alice)
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.third_party_invite/{TOKEN}", {})
    proof = signed(bob.user_id)

    reply = exchange(a, "b.test", room_id, invitation(room_id, alice, bob.user_id, proof))

    assert reply.status == 403


def test_attack_3_a_banned_user_is_not_invited(a: Homeserver, alice: User, bob: User) -> None:
    room_id = offer(alice)
    alice.post(f"/rooms/{quote(room_id)}/ban", {"user_id": bob.user_id})
    event = invitation(room_id, alice, bob.user_id, signed(bob.user_id))

    assert exchange(a, "b.test", room_id, event).status == 403
    assert member(alice, room_id, bob.user_id)["membership"] == "ban"


def test_attack_7_a_server_that_is_denied_exchanges_nothing(
    a: Homeserver, alice: User, bob: User
) -> None:
    room_id = offer(alice)
    acl = {"allow": ["*"], "deny": ["b.test"]}
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.server_acl", acl)
    event = invitation(room_id, alice, bob.user_id, signed(bob.user_id))

    assert exchange(a, "b.test", room_id, event).status == 403


@pytest.mark.parametrize("target", ["@nobody:a.test", "@bob:b.test"])
def test_nothing_is_bound_to_who_has_no_account_here(
    a: Homeserver, alice: User, target: str
) -> None:
    room_id = offer(alice)

    reply = bind(a, target, pending(room_id, alice, target, signed(target)))

    assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    "changed",
    [
        {"room_id": "!unknown:a.test"},
        {"sender": "nobody"},
        {"sender": "@x:gone.test"},
        {"signed": None},
        {"signed": signed("@eve:a.test")},
        {"signed": signed("@anna:a.test", "wrong-token")},
    ],
)
def test_attack_3_a_bad_invitation_does_not_spoil_the_good_one(
    a: Homeserver, alice: User, changed: Any
) -> None:
    anna = a.register("anna")
    room_id = offer(alice)
    good = pending(room_id, alice, anna.user_id, signed(anna.user_id))

    assert bind(a, anna.user_id, {**good, **changed}).status == 200
    assert anna.sync().get("rooms", {}).get("invite", {}) == {}
    assert bind(a, anna.user_id, {**good, **changed}, good).status == 200
    assert room_id in anna.sync()["rooms"]["invite"]


@pytest.mark.parametrize("bad", ["!a\x00b:a.test", "no room", 7])
def test_attack_7_an_invitation_to_no_room_is_left_out_and_the_rest_is_not(
    a: Homeserver, alice: User, bad: Any
) -> None:
    carl = a.register("carl")
    room_id = offer(alice)
    good = pending(room_id, alice, carl.user_id, signed(carl.user_id))

    reply = bind(a, carl.user_id, {**good, "room_id": bad}, good)

    assert reply.status == 200
    assert room_id in carl.sync()["rooms"]["invite"]
