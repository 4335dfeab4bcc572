"""Rooms with a policy server: when they have one, and how others come in."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.json_types import JsonObject
from homeserver.core.policy_servers import POLICY_KEY_ID
from tests.federation.meeting import enter
from tests.federation.network import MemoryNetwork
from tests.federation.policy_server import SIGN, FakePolicyServer, Stage, refusal, set_policy
from tests.homeserver import Homeserver, User


@pytest.fixture
def stage(network: MemoryNetwork, a: Homeserver, b: Homeserver) -> Stage:
    return Stage(network, a, b)


# Whether it is used.


def test_a_room_is_freed_of_a_policy_server_that_is_down(stage: Stage) -> None:
    stage.network.lose(stage.policy.name, SIGN)
    assert stage.say("not signed").status == 502

    assert set_policy(stage.alice, stage.room_id, {}) == 200

    assert stage.say("free").status == 200
    assert stage.texts(stage.alice) == stage.texts(stage.bob) == ["free"]


def test_a_policy_server_that_leaves_is_not_asked_any_more(stage: Stage) -> None:
    made = stage.policy.ask(
        stage.a, "GET", f"/make_leave/{quote(stage.room_id)}/{quote('@guard:policy.test')}"
    )
    stage.policy.send_join(stage.a, stage.policy.sign_template(made.json), "send_leave")
    stage.policy.received.clear()

    assert stage.say("free").status == 200

    assert stage.policy.asked == []
    assert stage.texts(stage.bob) == ["free"]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"via": "policy.test"},
        {"via": "policy.test", "public_keys": {"ed25519": 7}},
        {"via": "elsewhere.test", "public_keys": {"ed25519": "x"}},
        {"via": ["policy.test"], "public_keys": {"ed25519": "x"}},
    ],
)
def test_an_incomplete_policy_is_none(stage: Stage, content: JsonObject) -> None:
    assert set_policy(stage.alice, stage.room_id, content) == 200

    assert stage.say("free").status == 200
    assert stage.policy.asked == []


def test_a_redacted_policy_is_none(stage: Stage) -> None:
    state = stage.alice.get(f"{stage.path}/state").json
    (event_id,) = [event["event_id"] for event in state if event["type"] == "m.room.policy"]
    redact = f"{stage.path}/redact/{quote(event_id, safe='')}/r"
    assert stage.alice.put(redact, {}).status == 200
    stage.network.settle()
    stage.policy.received.clear()

    assert [stage.say("free", user).status for user in (stage.alice, stage.bob)] == [200, 200]

    assert stage.policy.asked == []


def test_a_new_key_of_the_room_is_the_one_that_counts(stage: Stage) -> None:
    keys: JsonObject = {"ed25519": "A" * 43}
    assert set_policy(stage.alice, stage.room_id, {**stage.policy.content, "public_keys": keys})

    reply = stage.say("by the old key")

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
    assert stage.texts() == []


def test_a_room_that_names_its_own_server_asks_what_answers_there(stage: Stage) -> None:
    """That is not this server: what signs is somebody else behind the same name."""
    assert set_policy(stage.alice, stage.room_id, {**stage.policy.content, "via": "a.test"}) == 200

    reply = stage.say("hello")

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
    assert reply.json["error"].endswith("signed by a.test, which is no policy server")
    assert set_policy(stage.alice, stage.room_id, {}) == 200
    assert stage.say("free").status == 200


def test_other_rooms_ask_nobody(stage: Stage) -> None:
    room_id = stage.alice.create_room(preset="public_chat")
    stage.policy.join(stage.a, room_id, "member")
    stage.network.requests.clear()

    stage.alice.send(room_id, "hello")
    stage.network.settle()

    assert not [target for *_, target in stage.network.requests if target == SIGN]


def test_a_room_may_be_made_with_a_policy_server_that_comes_later(
    network: MemoryNetwork, a: Homeserver
) -> None:
    policy, alice = FakePolicyServer(network), a.register("alice")
    state = {"type": "m.room.policy", "state_key": "", "content": policy.content}

    room_id = alice.create_room(preset="public_chat", initial_state=[state])
    before = alice.send(room_id, "before")
    policy.join(a, room_id, "guard")
    after = alice.send(room_id, "after")

    assert before
    assert [event["content"].get("body") for event in policy.asked] == ["after"]
    assert after


def test_the_room_that_takes_a_rooms_place_names_the_same_policy_server(stage: Stage) -> None:
    new_id = stage.alice.post(f"{stage.path}/upgrade", {"new_version": "11"}).json[
        "replacement_room"
    ]

    policy = stage.alice.get(f"/rooms/{quote(new_id)}/state/m.room.policy")

    assert policy.json == stage.policy.content
    assert {event["room_id"] for event in stage.policy.asked} == {stage.room_id}
    assert "m.room.tombstone" in {event["type"] for event in stage.policy.asked}


def test_a_room_whose_end_is_not_signed_goes_on(stage: Stage) -> None:
    stage.network.lose(stage.policy.name, SIGN)

    assert stage.alice.post(f"{stage.path}/upgrade", {"new_version": "11"}).status == 502

    stage.network.altered.clear()
    assert stage.say("still here").status == 200
    assert len(stage.alice.get("/joined_rooms").json["joined_rooms"]) == 1


def test_a_new_name_that_one_room_does_not_show_is_shown_in_the_others(stage: Stage) -> None:
    rooms = [stage.alice.create_room(preset="public_chat") for _ in range(2)]
    stage.network.lose(stage.policy.name, SIGN)

    name = f"/profile/{quote(stage.alice.user_id)}/displayname"
    assert stage.alice.put(name, {"displayname": "Alice"}).status == 200
    stage.network.settle()

    for room_id in rooms:
        member = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(stage.alice.user_id)}"
        assert stage.alice.get(member).json["displayname"] == "Alice"


# Other servers' users.


def test_an_invitation_is_signed_before_the_invited_server_sees_it(
    stage: Stage, carol: User
) -> None:
    order: list[str] = []

    def sign(_: list[str], pdu: Any) -> JsonObject:
        order.extend("invited" for *_, to in stage.network.requests if "/invite/" in to)
        order.append("signed")
        return stage.policy.sign(pdu)

    stage.policy.operations["sign"] = sign

    assert stage.alice.post(f"{stage.path}/invite", {"user_id": carol.user_id}).status == 200
    stage.network.settle()

    invited = [target for *_, target in stage.network.requests if "/v2/invite/" in target]
    assert order == ["signed"]
    assert len(invited) == 1
    assert stage.room_id in carol.sync()["rooms"]["invite"]
    members = stage.bob.get(f"{stage.path}/members", membership="invite").json["chunk"]
    assert [member["state_key"] for member in members] == [carol.user_id]
    enter(carol, stage.room_id, stage.a.name)
    assert stage.say("hello", carol).status == 200
    assert stage.texts(stage.alice) == stage.texts(stage.bob) == ["hello"]


def test_an_invitation_that_is_not_signed_does_not_leave_the_server(
    stage: Stage, carol: User
) -> None:
    stage.policy.operations["sign"] = lambda _, __: refusal(error="Not her")

    reply = stage.alice.post(f"{stage.path}/invite", {"user_id": carol.user_id})

    assert (reply.status, reply.json["error"]) == (400, "Not her")
    assert not [target for *_, target in stage.network.requests if "/invite/" in target]
    assert "invite" not in carol.sync().get("rooms", {})


def test_the_signature_of_an_invited_users_server_does_not_push_out_its_other_one(
    stage: Stage,
) -> None:
    """The policy server is the server of who is invited."""
    stage.policy.operations["invite"] = lambda _, body: {
        "event": {
            **body["event"],
            "signatures": {"policy.test": {stage.policy.key.key_id: "A" * 86}},
        }
    }
    invited = "@member:policy.test"

    assert stage.alice.post(f"{stage.path}/invite", {"user_id": invited}).status == 200
    stage.network.settle()

    assert len(stage.policy.asked) == 1
    (event_id,) = [e["event_id"] for e in stage.events() if e.get("state_key") == invited]
    assert set(stage.pdu(event_id)["signatures"]["policy.test"]) == {
        POLICY_KEY_ID,
        stage.policy.key.key_id,
    }


def test_a_join_through_this_server_is_signed_or_refused(
    stage: Stage, c: Homeserver, carol: User
) -> None:
    dave = c.register("dave")
    enter(carol, stage.room_id, stage.a.name)
    stage.policy.operations["sign"] = lambda _, __: refusal(error="Nobody more")
    via = {"via": "a.test"}

    refused = dave.request("POST", f"/join/{quote(stage.room_id)}", {}, query=via)

    assert refused.status >= 400
    for server in (stage.a, stage.b):
        user = stage.alice if server is stage.a else stage.bob
        stage.network.settle()
        joined = user.get(f"{stage.path}/joined_members").json["joined"]
        assert carol.user_id in joined
        assert dave.user_id not in joined


def test_who_has_just_joined_without_the_members_has_his_words_signed(
    stage: Stage, c: Homeserver, carol: User
) -> None:
    for server in (stage.a, stage.b):
        stage.network.lose(server.name, "/federation/v1/state/")
    enter(carol, stage.room_id, stage.a.name)
    room = c.server.live_rooms.find_loaded(stage.room_id)  # type: ignore[arg-type]  # it is one
    assert room is not None
    assert room.is_partial
    assert "policy.test" not in room.servers
    stage.policy.received.clear()

    assert stage.say("hello", carol).status == 200

    assert [event["sender"] for event in stage.policy.asked] == [carol.user_id]
    assert stage.texts(stage.alice) == ["hello"]


@pytest.mark.parametrize("is_signed", [True, False])
def test_a_join_through_another_server_is_signed_where_the_room_is_known(
    stage: Stage, *, is_signed: bool
) -> None:
    """Nobody of the user's own server, which is in the room, can vouch for him."""
    open_id = stage.alice.create_room(preset="public_chat")
    dave = stage.b.register("dave")
    enter(dave, open_id, stage.a.name)
    levels = stage.alice.get(f"{stage.path}/state/m.room.power_levels").json
    rule = {
        "join_rule": "restricted",
        "allow": [{"type": "m.room_membership", "room_id": open_id}],
    }
    for event_type, content in [
        ("m.room.power_levels", {**levels, "invite": 50}),
        ("m.room.join_rules", rule),
    ]:
        assert stage.alice.put(f"{stage.path}/state/{event_type}", content).status == 200
    stage.network.settle()
    stage.policy.received.clear()
    stage.network.requests.clear()
    if not is_signed:
        stage.policy.operations["sign"] = lambda _, __: refusal(error="Not him")

    reply = dave.request("POST", f"/join/{quote(stage.room_id)}", {}, query={"via": "a.test"})
    stage.network.settle()

    asked = [(by, to) for by, to, _, target in stage.network.requests if target == SIGN]
    sent = [target for *_, target in stage.network.requests if "/send_join/" in target]
    assert asked == [("b.test", "policy.test")]
    assert len(sent) == is_signed
    assert reply.status == (200 if is_signed else 400)
    joined = stage.alice.get(f"{stage.path}/joined_members").json["joined"]
    assert (dave.user_id in joined) is is_signed
