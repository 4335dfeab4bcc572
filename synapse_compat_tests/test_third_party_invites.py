"""Invitations by e-mail address that an identity server passes on, once the address is bound."""

import base64
import json
import ssl
import urllib.request
from typing import Any

from nacl.signing import SigningKey

from synapse_compat_tests.client import User
from synapse_compat_tests.conftest import Pair
from synapse_compat_tests.servers import Server

_KEY = SigningKey(b"identity server of a test, only!")
_TOKEN = "a-token"  # noqa: S105 - names an invitation


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode().rstrip("=")


def offer(user: User) -> str:
    """Make a room with an invitation for an address."""
    room_id = user.create_room(preset="private_chat")
    key = _base64(_KEY.verify_key.encode())
    content = {
        "display_name": "b...@e...",
        "public_key": key,
        "public_keys": [{"public_key": key}],
    }
    user.set_state(room_id, "m.room.third_party_invite", content, _TOKEN)
    return room_id


def bind(server: Server, pair: Pair, room_id: str, sender: User, target: User) -> None:
    """Tell a server, as an identity server does, that its user has the address now."""
    proof: dict[str, Any] = {"mxid": target.user_id, "token": _TOKEN}
    text = json.dumps(proof, sort_keys=True, separators=(",", ":")).encode()
    signature = _base64(_KEY.sign(text).signature)
    proof["signatures"] = {"id.example.org": {"ed25519:0": signature}}
    named = {"medium": "email", "address": "bob@example.org", "mxid": target.user_id}
    invite = {**named, "room_id": room_id, "sender": sender.user_id, "signed": proof}
    asked = urllib.request.Request(
        f"https://{server.name}/_matrix/federation/v1/3pid/onbind",
        json.dumps({**named, "invites": [invite]}).encode(),
        {"Content-Type": "application/json"},
        method="POST",  # the specification says PUT, which Synapse does not take
    )
    trusted = ssl.create_default_context(cafile=str(pair.stage.authority.file))
    with urllib.request.urlopen(asked, timeout=60, context=trusted) as answer:  # noqa: S310 - https
        assert json.loads(answer.read()) == {}


def test_who_has_bound_the_address_is_invited_and_joins(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = offer(alice)

    bind(pair.there, pair, room_id, alice, bob)

    bob.see_invite(room_id)
    content = alice.state_content(room_id, "m.room.member", bob.user_id)
    assert content["membership"] == "invite"
    assert content["third_party_invite"]["signed"]["token"] == _TOKEN
    bob.join(room_id, via=alice)
    alice.see_membership(room_id, bob, "join")
