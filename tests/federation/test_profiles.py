"""Profiles of other servers' users."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.transport.outbound import Answer
from tests.federation.asking import ask, make_hostile
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, Reply, User


def set_name(user: User, name: str) -> None:
    path = f"/profile/{quote(user.user_id)}/displayname"
    assert user.put(path, {"displayname": name}).status == 200


def profile(homeserver: Homeserver, user_id: str, field: str = "") -> Reply:
    path = f"/_matrix/client/v3/profile/{quote(user_id)}" + (f"/{field}" if field else "")
    return homeserver.request("GET", path)


def test_the_profile_of_another_servers_user_is_fetched(a: Homeserver, bob: User) -> None:
    set_name(bob, "Bob")

    assert profile(a, bob.user_id).json == {"displayname": "Bob"}
    assert profile(a, bob.user_id, "displayname").json == {"displayname": "Bob"}
    missing = profile(a, bob.user_id, "avatar_url")
    assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")


def test_a_user_with_an_empty_profile_exists(a: Homeserver, bob: User) -> None:
    bob.request("DELETE", f"/profile/{quote(bob.user_id)}/displayname")

    assert profile(a, bob.user_id).json == {}


def test_a_profile_is_remembered_for_minutes(
    network: MemoryNetwork, a: Homeserver, bob: User
) -> None:
    set_name(bob, "Before")
    profile(a, bob.user_id)
    count = len(network.requests)
    set_name(bob, "After")

    assert profile(a, bob.user_id).json["displayname"] == "Before"
    assert len(network.requests) == count
    network.advance(301)
    assert profile(a, bob.user_id).json["displayname"] == "After"


def test_nobody_is_asked_twice_for_a_user_who_does_not_exist(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    del b
    first = profile(a, "@nobody:b.test")
    count = len(network.requests)

    second = profile(a, "@nobody:b.test")

    assert first.json == second.json
    assert (second.status, second.errcode) == (404, "M_NOT_FOUND")
    assert len(network.requests) == count


def test_a_server_that_is_gone_is_no_proof_that_the_user_does_not_exist(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, bob: User
) -> None:
    set_name(bob, "Bob")
    network.cut_off(b.name)

    assert profile(a, bob.user_id).status == 502
    count = len(network.requests)
    assert profile(a, bob.user_id).status == 502
    assert len(network.requests) == count

    network.heal()
    network.advance(31)
    assert profile(a, bob.user_id).json == {"displayname": "Bob"}


def test_a_server_that_shows_no_profiles_is_understood(
    network: MemoryNetwork, a: Homeserver
) -> None:
    refusal = encode_canonical_json({"errcode": "M_FORBIDDEN", "error": "No"})
    make_hostile(network, "evil.test", lambda *_: Answer(403, refusal))

    reply = profile(a, "@eve:evil.test")

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_attack_5_what_is_no_field_is_left_out(network: MemoryNetwork, a: Homeserver) -> None:
    answer = {
        "displayname": ["x"],
        "avatar_url": None,
        "m.tz": 7,
        "org.example.mood": {"now": "fine"},
        "x" * 256: "long",
    }
    make_hostile(network, "evil.test", lambda *_: answer)

    assert profile(a, "@eve:evil.test").json == {"org.example.mood": {"now": "fine"}}


@pytest.mark.parametrize(
    "answer",
    [
        {"org.example.x": "x" * 70_000},
        Answer(200, b"[]"),
        Answer(200, b'{"displayname": "' + b"x" * 300_000 + b'"}'),
        Answer(500, b""),
    ],
)
def test_attack_5_an_answer_that_is_no_profile_is_an_error(
    network: MemoryNetwork, a: Homeserver, answer: Any
) -> None:
    make_hostile(network, "evil.test", lambda *_: answer)

    assert profile(a, "@eve:evil.test").status == 502


def test_a_query_of_an_unknown_type_is_not_recognized(a: Homeserver, b: Homeserver) -> None:
    del b

    reply = ask(a, "b.test", "GET", "/query/horoscope")

    assert (reply.status, reply.errcode) == (404, "M_UNRECOGNIZED")


def test_attack_2_a_query_without_a_signature_is_refused(a: Homeserver) -> None:
    reply = a.request("GET", "/_matrix/federation/v1/query/horoscope")

    assert reply.status == 401
