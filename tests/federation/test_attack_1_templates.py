"""Class 1: what another server wants this one to sign."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.json_types import JsonObject
from tests.federation.conftest import MakeServer
from tests.federation.hostile_server import HostileServer
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User, key_of
from tests.room_state import join_rules

SIGNED = {
    "type",
    "room_id",
    "sender",
    "state_key",
    "content",
    "depth",
    "origin_server_ts",
    "prev_events",
    "auth_events",
    "hashes",
    "signatures",
}
LIES: list[dict[str, Any]] = [
    {"type": "m.room.power_levels"},
    {"type": "m.room.message"},
    {"room_id": "!another:evil.test"},
    {"sender": "@admin:a.test"},
    {"state_key": "@admin:a.test"},
    {"state_key": None},
    {"content": None},
    {"content": {"membership": "ban"}},
    {"content": {"membership": ["join"]}},
    {"prev_events": None},
    {"prev_events": ["$x"] * 21},
    {"prev_events": [["$x:evil.test", {"sha256": "x"}]]},
    {"prev_events": [7]},
    {"auth_events": ["$x"] * 11},
    {"auth_events": ["not an event id"]},
    {"depth": -1},
    {"depth": 2**63},
    {"depth": "7"},
    {"depth": True},
    {"depth": 1.5},
]


def lie(hostile: HostileServer, operation: str, change: dict[str, Any]) -> None:
    """Answer a template of which some fields are others, or not there."""
    membership = operation.removeprefix("make_")

    def answer(path: list[str], _: Any) -> JsonObject:
        made = hostile.template(path[1], membership)
        event = made["event"]
        assert isinstance(event, dict)
        changed = {**event, **change}
        return {**made, "event": {key: changed[key] for key in changed if changed[key] is not None}}

    hostile.operations[operation] = answer


def enter(alice: User, hostile: HostileServer, how: str) -> int:
    return alice.request(
        "POST", f"/{how}/{quote(hostile.room_id)}", {}, query={"via": hostile.name}
    ).status


@pytest.mark.parametrize("change", LIES)
@pytest.mark.parametrize("how", ["join", "knock"])
def test_attack_1_a_template_that_is_not_what_was_asked_for_is_not_signed(
    network: MemoryNetwork, alice: User, how: str, change: dict[str, Any]
) -> None:
    hostile = HostileServer(network)
    lie(hostile, f"make_{how}", change)

    assert enter(alice, hostile, how) == 502

    assert hostile.count(f"make_{how}") == 1
    assert hostile.count(f"send_{how}") == 0


@pytest.mark.parametrize("change", LIES)
def test_attack_1_a_leave_template_that_is_not_what_was_asked_for_is_not_signed(
    network: MemoryNetwork, a: Homeserver, alice: User, change: dict[str, Any]
) -> None:
    hostile = HostileServer(network)
    assert hostile.send_invite(a, hostile.invite(alice)).status == 200
    lie(hostile, "make_leave", change)

    left = alice.post(f"/rooms/{quote(hostile.room_id)}/leave", {})

    assert left.status == 200
    assert hostile.count("make_leave") == 1
    assert hostile.count("send_leave") == 0
    assert hostile.room_id not in alice.sync().get("rooms", {}).get("invite", {})


@pytest.mark.parametrize("version", ["9", "13", 11, None, "", ["11"]])
def test_attack_1_a_template_of_another_room_version_is_not_signed_when_the_room_is_known(
    network: MemoryNetwork, a: Homeserver, alice: User, version: Any
) -> None:
    hostile = HostileServer(network)
    assert hostile.send_invite(a, hostile.invite(alice)).status == 200
    hostile.operations["make_leave"] = lambda path, _: {
        **hostile.template(path[1], "leave"),
        "room_version": version,
    }

    left = alice.post(f"/rooms/{quote(hostile.room_id)}/leave", {})

    assert left.status == 200
    assert hostile.count("send_leave") == 0


def test_attack_1_what_is_signed_has_nothing_of_the_template_but_its_place(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    hostile = HostileServer(network)
    extra = {
        "origin_server_ts": 1,
        "origin": "evil.test",
        "event_id": "$mine:evil.test",
        "redacts": "$victim",
        "unsigned": {"age": 1},
        "hashes": {"sha256": "x"},
        "signatures": {"evil.test": {"ed25519:x": "x"}, "a.test": {"ed25519:test": "forged"}},
        "m.extra": {"deep": [1]},
        "content": {
            "membership": "join",
            "displayname": "Not alice",
            "avatar_url": "mxc://evil.test/x",
            "third_party_invite": {"signed": {}},
            "join_authorised_via_users_server": "@creator:evil.test",
            "power_level": 100,
        },
    }
    lie(hostile, "make_join", extra)

    enter(alice, hostile, "join")

    (sent,) = hostile["send_join"]
    assert set(sent) == SIGNED
    assert sent["content"] == {
        "membership": "join",
        "join_authorised_via_users_server": "@creator:evil.test",
    }
    assert sent["origin_server_ts"] == a.clock.now_ms()
    assert list(sent["signatures"]) == ["a.test"]
    assert list(sent["signatures"]["a.test"]) == [key_of(a.name).key_id]


def test_attack_1_what_is_signed_in_a_knock_and_in_a_leave_is_bare_too(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    hostile = HostileServer(network, join_rule="knock")
    more = {"join_authorised_via_users_server": "@creator:evil.test", "displayname": "Eve"}
    for how in ("knock", "leave"):
        lie(hostile, f"make_{how}", {"content": {"membership": how, **more}, "m.extra": 1})

    assert enter(alice, hostile, "knock") == 200
    assert alice.post(f"/rooms/{quote(hostile.room_id)}/leave", {}).status == 200

    (knock,) = hostile["send_knock"]
    (leave,) = hostile["send_leave"]
    assert set(knock) == set(leave) == SIGNED
    assert knock["content"] == {"membership": "knock"}
    assert leave["content"] == {"membership": "leave"}
    del a


@pytest.mark.parametrize(
    "authorizer", ["@alice:a.test", "@admin:a.test", "@x:b.test", "evil.test", 7, {"a": 1}]
)
def test_attack_1_only_a_user_of_the_resident_vouches_for_a_join(
    network: MemoryNetwork, alice: User, authorizer: Any
) -> None:
    """One of ours would be vouched for by the signature that any join of ours has."""
    hostile = HostileServer(network)
    content = {"membership": "join", "join_authorised_via_users_server": authorizer}
    lie(hostile, "make_join", {"content": content})

    assert enter(alice, hostile, "join") == 502

    assert hostile.count("send_join") == 0


def test_attack_1_signatures_that_come_back_with_a_join_are_only_the_residents(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    hostile = HostileServer(network)

    def accept(_: list[str], pdu: Any) -> JsonObject:
        answer = hostile.accept_join(pdu)
        forged: JsonObject = {
            "a.test": {"ed25519:test": "A" * 86},
            "b.test": {"ed25519:x": "A" * 86},
        }
        theirs: JsonObject = {"evil.test": {hostile.key.key_id: "A" * 86}}
        answer["event"] = {**pdu, "content": {"membership": "ban"}, "signatures": forged | theirs}
        return answer

    hostile.operations["send_join"] = accept

    assert enter(alice, hostile, "join") == 200

    event_id = hostile.room.graph.tips()[0]
    found = hostile.ask(a, "GET", f"/event/{quote(event_id, safe='')}")
    (pdu,) = found.json["pdus"]
    assert set(pdu["signatures"]) == {"a.test", "evil.test"}
    assert pdu["signatures"]["a.test"] == hostile["send_join"][0]["signatures"]["a.test"]
    assert pdu["content"]["membership"] == "join"


@pytest.mark.parametrize(
    "change",
    [
        {"type": "m.room.name"},
        {"type": "m.room.power_levels", "content": {"users": {"@creator:evil.test": 100}}},
        {"content": {"membership": "join"}},
        {"content": {"membership": "leave"}},
        {"content": {}},
        {"state_key": "@nobody:a.test"},
        {"state_key": "@bob:b.test"},
        {"state_key": "@creator:evil.test"},
        {"state_key": ""},
        {"sender": "@bob:b.test"},
        {"sender": "@alice:a.test"},
    ],
)
def test_attack_1_what_is_no_invitation_of_a_user_of_ours_is_not_signed(
    network: MemoryNetwork, a: Homeserver, alice: User, change: dict[str, Any]
) -> None:
    hostile = HostileServer(network)

    reply = hostile.send_invite(a, hostile.invite(alice, **change))

    assert reply.status in (400, 403, 404)
    assert "event" not in reply.json
    assert "invite" not in alice.sync().get("rooms", {})


@pytest.mark.parametrize(
    "changed",
    [
        {"event_id": "$another"},
        {"room_version": "12"},
        {"room_version": "unknown"},
    ],
)
def test_attack_1_an_invitation_is_signed_as_what_the_request_says_it_is(
    network: MemoryNetwork, a: Homeserver, alice: User, changed: dict[str, Any]
) -> None:
    hostile = HostileServer(network)

    reply = hostile.send_invite(a, hostile.invite(alice), **changed)

    assert reply.status == 400
    assert "invite" not in alice.sync().get("rooms", {})


def test_attack_1_an_invitation_into_another_room_than_the_requests_is_not_signed(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    hostile = HostileServer(network)
    invite = hostile.invite(alice)
    path = f"/_matrix/federation/v2/invite/{quote('!other:evil.test')}/{quote(invite.event_id)}"

    reply = hostile.ask(
        a, "PUT", path, {"room_version": "11", "event": invite.pdu, "invite_room_state": []}
    )

    assert reply.status == 400


def test_attack_1_the_old_invitation_signs_events_of_old_rooms_alone(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    new, old = HostileServer(network), HostileServer(network, "old.test", version="2")
    invites = {new: new.invite(alice), old: old.invite(alice)}

    replies = {
        server: server.ask(
            a,
            "PUT",
            f"/invite/{quote(server.room_id)}/{quote(invite.event_id, safe='')}",
            invite.pdu,
        )
        for server, invite in invites.items()
    }

    assert replies[new].status == 400
    assert replies[old].status == 200
    assert set(replies[old].json[1]["event"]["signatures"]) == {"a.test", "old.test"}


def test_attack_1_a_known_room_is_not_invited_to_in_another_version(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    hostile = HostileServer(network)
    hostile.let_in(alice)
    bob = a.register("bob")

    right = hostile.send_invite(a, hostile.invite(bob))
    wrong = hostile.send_invite(a, hostile.invite(bob), room_version="10")

    assert (right.status, wrong.status) == (200, 400)


def test_attack_1_a_restricted_join_is_co_signed_only_for_who_may_join(
    network: MemoryNetwork, make_server: MakeServer
) -> None:
    a = make_server("a.test")
    alice = a.register("alice")
    open_room = alice.create_room(preset="public_chat")
    rules = join_rules("restricted", open_room)
    room_id = alice.create_room(preset="private_chat", initial_state=[rules])
    hostile = HostileServer(network)
    path = f"/make_join/{quote(room_id)}/{quote('@mallory:evil.test')}?ver=11"
    refused = hostile.ask(a, "GET", path)
    hostile.join(a, open_room)
    made = hostile.ask(a, "GET", path).json
    left = hostile.sign_template(
        hostile.ask(a, "GET", f"/make_leave/{quote(open_room)}/{quote('@mallory:evil.test')}").json
    )
    hostile.send_join(a, left, "send_leave")

    after_leaving = hostile.send_join(a, hostile.sign_template(made))
    content = {**made["event"]["content"], "membership": "invite"}
    no_join = hostile.send_join(a, hostile.sign_template(made, content=content))
    of_another = hostile.send_join(
        a, hostile.sign_template(made, sender="@alice:a.test", state_key="@alice:a.test")
    )

    assert refused.status == 403
    assert [r.status for r in (after_leaving, no_join, of_another)] == [403, 400, 403]
    assert all("event" not in r.json for r in (after_leaving, no_join, of_another))
