"""Rooms with a policy server: what is sent there is signed by it first."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.policy_servers import POLICY_KEY_ID
from tests.federation.network import MemoryNetwork
from tests.federation.policy_server import SIGN, Stage, refusal, set_policy
from tests.homeserver import Homeserver, User


@pytest.fixture
def stage(network: MemoryNetwork, a: Homeserver, b: Homeserver) -> Stage:
    return Stage(network, a, b)


# Sending.


def test_what_is_sent_is_signed_once_before_anybody_sees_it(stage: Stage) -> None:
    stage.hold()
    sending = stage.alice.start_request(
        "PUT", f"{stage.path}/send/m.room.message/t", {"msgtype": "m.text", "body": "hello"}
    )
    assert not sending.answered
    assert stage.texts(stage.alice) == stage.texts(stage.bob) == []

    stage.let_through()
    event_id = sending.reply().json["event_id"]

    assert stage.texts(stage.alice) == stage.texts(stage.bob) == ["hello"]
    assert len(stage.policy.asked) == 1
    signatures = [stage.pdu(event_id, server)["signatures"] for server in (stage.a, stage.b)]
    assert signatures[0] == signatures[1]
    assert list(signatures[0]["policy.test"]) == [POLICY_KEY_ID]
    assert set(signatures[0]) == {"a.test", "policy.test"}
    assert stage.policy.asked[0]["signatures"] == {"a.test": signatures[0]["a.test"]}


def test_a_user_of_another_server_has_it_signed_there(stage: Stage) -> None:
    assert stage.say("from b", stage.bob).status == 200

    assert stage.texts(stage.alice) == ["from b"]
    assert [from_ for from_, _, _, target in stage.network.requests if target == SIGN] == ["b.test"]


def test_what_the_policy_server_refuses_is_not_sent_and_its_words_are_told(stage: Stage) -> None:
    stage.policy.operations["sign"] = lambda _, __: refusal(
        400, "M_FORBIDDEN", "Not with me", **{"org.example.harms": ["spam"]}
    )

    reply = stage.say("buy this")

    assert reply.status == 400
    assert reply.json == {
        "errcode": "M_FORBIDDEN",
        "error": "Not with me",
        "org.example.harms": ["spam"],
    }
    stage.policy.operations["sign"] = lambda _, pdu: stage.policy.sign(pdu)
    assert stage.say("hello").status == 200
    assert stage.texts(stage.alice) == stage.texts(stage.bob) == ["hello"]


@pytest.mark.parametrize(
    ("status", "errcode"),
    [
        (400, "M_BAD_JSON"),
        (400, "M_NOT_JSON"),
        (403, "M_FORBIDDEN"),
        (404, "M_NOT_FOUND"),
        (400, "ORG.EXAMPLE.SPAM"),
    ],
)
def test_each_way_to_say_no_is_passed_on(stage: Stage, status: int, errcode: str) -> None:
    stage.policy.operations["sign"] = lambda _, __: refusal(status, errcode, "No")

    reply = stage.say("hello")

    assert (reply.status, reply.errcode, reply.json["error"]) == (status, errcode, "No")
    assert stage.texts() == []


@pytest.mark.parametrize("status", [400, 404])
def test_a_server_that_is_no_policy_server_does_not_speak_for_this_one(
    stage: Stage, status: int
) -> None:
    stage.policy.operations["sign"] = lambda _, __: refusal(status, "M_UNRECOGNIZED", "What?", x=1)

    reply = stage.say("hello")

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
    assert reply.json.keys() == {"errcode", "error"}
    assert "policy.test" in reply.json["error"]
    assert stage.texts() == []


def test_a_policy_server_that_has_too_much_to_do_says_when_to_try_again(stage: Stage) -> None:
    stage.policy.operations["sign"] = lambda _, __: refusal(
        429, "M_LIMIT_EXCEEDED", "Slowly", retry_after_ms=5000
    )

    reply = stage.say("hello")

    assert reply.status == 429
    assert reply.json == {
        "errcode": "M_LIMIT_EXCEEDED",
        "error": "Slowly",
        "retry_after_ms": 5000,
    }


def test_nothing_is_sent_while_the_policy_server_does_not_answer(stage: Stage) -> None:
    stage.hold()
    sending = stage.alice.start_request(
        "PUT", f"{stage.path}/send/m.room.message/t", {"msgtype": "m.text", "body": "hello"}
    )
    stage.network.settle()
    stage.network.advance(11)

    assert sending.reply().status == 502
    stage.let_through()
    assert stage.say("again", txn_id="t").status == 200
    assert stage.texts(stage.bob) == ["again"]


def test_every_kind_of_event_is_signed(stage: Stage) -> None:
    anna = stage.a.register("anna")
    event_id = stage.say("hello").json["event_id"]
    for path, body in [
        ("invite", {"user_id": "@carl:a.test"}),
        ("ban", {"user_id": "@dora:a.test"}),
        ("unban", {"user_id": "@dora:a.test"}),
    ]:
        assert stage.alice.post(f"{stage.path}/{path}", body).status == 200
    assert anna.join(stage.room_id).status == 200
    assert stage.alice.post(f"{stage.path}/kick", {"user_id": anna.user_id}).status == 200
    redact = f"{stage.path}/redact/{quote(event_id, safe='')}/r"
    assert stage.alice.put(redact, {}).status == 200
    levels = stage.alice.get(f"{stage.path}/state/m.room.power_levels").json
    levels = {**levels, "users": {**levels["users"], anna.user_id: 1}}
    assert stage.alice.put(f"{stage.path}/state/m.room.power_levels", levels).status == 200
    assert set_policy(stage.alice, stage.room_id, {}, "other") == 200
    stage.alice.send_event(stage.room_id, "m.room.policy", {})

    asked = [(e["type"], e["content"].get("membership")) for e in stage.policy.asked]

    assert asked == [
        ("m.room.message", None),
        ("m.room.member", "invite"),
        ("m.room.member", "ban"),
        ("m.room.member", "leave"),
        ("m.room.member", "join"),
        ("m.room.member", "leave"),
        ("m.room.redaction", None),
        ("m.room.power_levels", None),
        ("m.room.policy", None),
        ("m.room.policy", None),
    ]
    assert stage.texts(stage.alice) == stage.texts(stage.bob) == []
    shown = [event["event_id"] for event in stage.events(stage.alice)][-9:]
    assert [event["event_id"] for event in stage.events(stage.bob)][-9:] == shown


def test_a_state_event_that_says_nothing_new_is_not_signed_again(stage: Stage) -> None:
    topic = f"{stage.path}/state/m.room.topic"
    first = stage.alice.put(topic, {"topic": "x"}).json

    assert stage.alice.put(topic, {"topic": "x"}).json == first
    assert len(stage.policy.asked) == 1


def test_an_event_that_the_signature_makes_too_large_is_not_sent(stage: Stage) -> None:
    reply = stage.say("x" * 65_000)

    assert reply.status == 413
    assert reply.errcode == "M_TOO_LARGE"
    assert stage.texts() == []


# What clients rely on.


def test_the_sender_is_told_the_transaction_id_with_the_event(stage: Stage) -> None:
    other = stage.alice.login_again()
    since = stage.alice.sync()["next_batch"]
    stage.say("hello", txn_id="mine")

    def unsigned(user: User, since: str | None) -> Any:
        timeline = user.sync(since)["rooms"]["join"][stage.room_id]["timeline"]["events"]
        return timeline[-1].get("unsigned", {})

    assert unsigned(stage.alice, since)["transaction_id"] == "mine"
    assert unsigned(stage.alice, None)["transaction_id"] == "mine"
    assert "transaction_id" not in unsigned(other, since)


def test_a_repeated_send_answers_the_first_also_while_that_is_being_signed(stage: Stage) -> None:
    body = {"msgtype": "m.text", "body": "once"}
    stage.hold()
    sent = [
        stage.alice.start_request("PUT", f"{stage.path}/send/m.room.message/same", body)
        for _ in range(3)
    ]
    stage.let_through()
    again = stage.say("once", txn_id="same")

    event_ids = {pending.reply().json["event_id"] for pending in sent} | {again.json["event_id"]}

    assert len(event_ids) == 1
    assert stage.texts() == ["once"]
    assert len(stage.policy.asked) == 1


def test_a_repeated_send_after_a_restart_answers_the_first(stage: Stage) -> None:
    first = stage.say("once", txn_id="same").json
    restarted = stage.network.add(stage.a.restart())
    alice = stage.alice.at(restarted)

    assert stage.say("once", alice, txn_id="same").json == first
    assert len(stage.policy.asked) == 1


def test_a_failed_send_may_be_repeated_with_its_transaction_id(stage: Stage) -> None:
    stage.network.lose(stage.policy.name, SIGN)
    assert stage.say("hello", txn_id="t").status == 502
    stage.network.altered.clear()

    assert stage.say("hello", txn_id="t").status == 200
    assert stage.texts(stage.bob) == ["hello"]


def test_what_is_sent_at_the_same_time_is_all_taken_in(stage: Stage) -> None:
    """None of them has seen another when it is signed: they are branches, which then meet."""
    users = [stage.a.register(f"user{number}") for number in range(5)]
    for user in users:
        assert user.join(stage.room_id).status == 200
    stage.hold()
    sending = [
        user.start_request(
            "PUT",
            f"{stage.path}/send/m.room.message/t",
            {"msgtype": "m.text", "body": user.user_id},
        )
        for user in users
    ]
    state = stage.alice.start_request("PUT", f"{stage.path}/state/m.room.topic/", {"topic": "new"})
    stage.let_through()

    assert all(pending.reply().status == 200 for pending in (*sending, state))
    after = stage.say("after").json["event_id"]
    said = {user.user_id for user in users} | {"after"}
    assert set(stage.texts(stage.alice)) == set(stage.texts(stage.bob)) == said
    assert len(stage.pdu(after)["prev_events"]) == 6
    for user in (stage.alice, stage.bob):
        assert user.get(f"{stage.path}/state/m.room.topic").json == {"topic": "new"}


def test_the_same_words_at_the_same_time_are_two_events(stage: Stage) -> None:
    stage.hold()
    sending = [
        stage.alice.start_request(
            "PUT", f"{stage.path}/send/m.room.message/{n}", {"msgtype": "m.text", "body": "same"}
        )
        for n in range(2)
    ]
    stage.let_through()

    assert len({pending.reply().json["event_id"] for pending in sending}) == 2
    assert stage.texts(stage.alice) == stage.texts(stage.bob) == ["same", "same"]


def test_what_the_room_refuses_when_it_is_signed_at_last_is_not_sent(stage: Stage) -> None:
    anna = stage.a.register("anna")
    assert anna.join(stage.room_id).status == 200
    stage.hold()
    sending = anna.start_request(
        "PUT", f"{stage.path}/send/m.room.message/t", {"msgtype": "m.text", "body": "late"}
    )
    asked = stage.network.held.pop((stage.policy.name, SIGN))
    assert stage.alice.post(f"{stage.path}/ban", {"user_id": anna.user_id}).status == 200
    for waiting in asked:
        waiting.callback(None)
    stage.network.settle()

    assert sending.reply().status == 403
    assert stage.texts(stage.alice) == stage.texts(stage.bob) == []


def test_what_the_room_still_allows_is_sent_although_its_rules_have_changed(stage: Stage) -> None:
    stage.hold()
    sending = stage.alice.start_request(
        "PUT", f"{stage.path}/send/m.room.message/t", {"msgtype": "m.text", "body": "late"}
    )
    asked = stage.network.held.pop((stage.policy.name, SIGN))
    levels = stage.alice.get(f"{stage.path}/state/m.room.power_levels").json
    levels = {**levels, "events_default": 1}
    assert stage.alice.put(f"{stage.path}/state/m.room.power_levels", levels).status == 200
    for waiting in asked:
        waiting.callback(None)
    stage.network.settle()

    assert sending.reply().status == 200
    assert stage.texts(stage.alice) == stage.texts(stage.bob) == ["late"]
