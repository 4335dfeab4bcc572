"""Server keys, notaries, and whether a request is from whom it says."""

from typing import Any

import pytest

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.core.request_signing import make_authorization
from homeserver.core.signing import SigningKey, sign_json, verify_signed_json
from homeserver.services.server_keys import FETCHES_AT_ONCE, MAX_FETCHES
from homeserver.transport.outbound import Answer
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, PendingReply, Reply, key_of

A = ServerName("a.test")
B = ServerName("b.test")
URI = "/_matrix/federation/v1/query/profile?user_id=%40nobody%3Aa.test"


def ask(server: Homeserver, **options: Any) -> Reply:
    return start_asking(server, **options).reply()


def start_asking(
    server: Homeserver,
    *,
    origin: ServerName = B,
    key: SigningKey | None = None,
    destination: ServerName = A,
) -> PendingReply:
    header = make_authorization(
        key or key_of(origin),
        method="GET",
        uri=URI,
        origin=origin,
        destination=destination,
        content=None,
    )
    return server.start_request("GET", URI, headers={"Authorization": header})


@pytest.mark.parametrize("path", ["/_matrix/key/v2/server", "/_matrix/key/v2/server/ed25519:old"])
def test_a_server_shows_its_key_with_its_own_signature(a: Homeserver, path: str) -> None:
    reply = a.request("GET", path)

    key = key_of(A)
    assert reply.json["verify_keys"] == {key.key_id: {"key": key.verify_key_base64}}
    verify_signed_json(reply.json, A, key.key_id, key.verify_key_base64)


def test_a_notary_passes_on_the_key_of_another_with_both_signatures(
    a: Homeserver, b: Homeserver
) -> None:
    del b

    reply = a.request("GET", f"/_matrix/key/v2/query/{B}")

    (found,) = reply.json["server_keys"]
    for server in (A, B):
        key = key_of(server)
        verify_signed_json(found, server, key.key_id, key.verify_key_base64)


def test_a_notary_knows_the_key_of_a_server_that_is_gone(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    a.request("GET", f"/_matrix/key/v2/query/{B}")
    network.cut_off(b.name)

    reply = a.request("POST", "/_matrix/key/v2/query", {"server_keys": {B: {}}})

    assert [found["server_name"] for found in reply.json["server_keys"]] == [B]


def test_a_request_with_a_good_signature_is_answered(a: Homeserver, b: Homeserver) -> None:
    del b

    reply = ask(a)

    assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    "changed",
    [
        {"key": SigningKey("ed25519:test", b"?" * 32)},
        {"key": SigningKey("ed25519:other", b"?" * 32)},
        {"destination": ServerName("c.test")},
        {"origin": A},
    ],
)
def test_attack_2_a_request_with_a_wrong_signature_is_refused(
    a: Homeserver, b: Homeserver, changed: dict[str, object]
) -> None:
    del b

    reply = ask(a, **changed)

    assert (reply.status, reply.errcode) == (401, "M_UNAUTHORIZED")


def test_attack_2_keys_that_the_server_itself_has_not_signed_are_not_believed(
    network: MemoryNetwork, a: Homeserver
) -> None:

    forged: JsonObject = {
        "server_name": B,
        "verify_keys": {"ed25519:test": {"key": key_of(B).verify_key_base64}},
        "valid_until_ts": 2**50,
    }
    signed = sign_json(forged, "evil.test", key_of(ServerName("evil.test")))
    network.hostile[B] = lambda *_: Answer(200, encode_canonical_json(signed))

    assert ask(a).status == 401
    assert a.request("GET", f"/_matrix/key/v2/query/{B}").json["server_keys"] == []


def test_attack_2_a_server_that_gives_no_key_is_not_asked_at_every_request(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    network.cut_off(b.name)

    for _ in range(20):
        assert ask(a).status == 401

    assert len(network.requests) == 1


def test_attack_5_servers_that_hang_when_they_are_asked_for_keys_are_asked_in_bounded_number(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    del b
    names = [ServerName(f"hanging{number}.test") for number in range(MAX_FETCHES)]
    for name in names:
        network.hold(name, "/key/")

    waiting = [start_asking(a, origin=name) for name in names]
    refused = start_asking(a, origin=ServerName("one-more.test"))
    network.settle()

    assert len(network.requests) == FETCHES_AT_ONCE
    assert refused.reply().status == 429
    for _ in range(-(-MAX_FETCHES // FETCHES_AT_ONCE)):
        network.advance(60)
    assert {one.reply().status for one in waiting} == {401}
    assert ask(a).status == 404


def test_attack_2_a_key_is_believed_for_seven_days_at_most(
    network: MemoryNetwork, a: Homeserver
) -> None:
    key = key_of(B)
    said: JsonObject = {
        "server_name": B,
        "verify_keys": {key.key_id: {"key": key.verify_key_base64}},
        "valid_until_ts": 2**50,
    }
    network.hostile[B] = lambda *_: Answer(200, encode_canonical_json(sign_json(said, B, key)))
    assert ask(a).status == 404
    del network.hostile[B]

    a.advance(6 * 86400)
    before = ask(a)
    a.advance(2 * 86400)
    after = ask(a)

    assert before.status == 404
    assert (after.status, after.errcode) == (401, "M_UNAUTHORIZED")
