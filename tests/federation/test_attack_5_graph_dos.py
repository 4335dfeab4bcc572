"""Class 5 over federation: answers that go on for ever, come to nothing, or are too large."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.events import Event
from homeserver.core.json_types import JsonObject
from homeserver.transport.federation_client import parse_json
from homeserver.transport.outbound import Answer, Cause, RequestFailed
from tests.federation.hostile_server import HostileServer, Stage
from tests.federation.meeting import enter
from tests.federation.network import MemoryNetwork
from tests.homeserver import User

NOWHERE = "$" + "A" * 43


def hanging(stage: Stage, body: str, *prev: str) -> Event:
    """A message upon events that are not known."""
    return stage.message(body, prev=list(prev) or [NOWHERE], auth=stage.auth)


def asked(stage: Stage) -> int:
    return len([one for one in stage.hostile.received if one[0] not in ("keys", "send", "server")])


def still_works(stage: Stage) -> None:
    """The room goes on for those who behave."""
    stage.alice.send(stage.room_id, "still here")
    assert "still here" in stage.heard()


class _Answers:
    """What is answered to whoever asks for what is missing."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._count = 0

    def endless(self) -> JsonObject:
        """The event that was asked for, upon another that nobody has."""
        self._count += 1
        event = hanging(self._stage, f"older {self._count}")
        return {"events": [event.pdu], "pdus": [event.pdu]}

    def loop(self) -> JsonObject:
        one = hanging(self._stage, "one")
        other = hanging(self._stage, "other", one.event_id)
        return {"events": [one.pdu, other.pdu] * 1000, "pdus": [one.pdu] * 1000}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"events": []},
        {"events": None, "pdus": 7, "pdu_ids": {}, "auth_chain_ids": "x", "auth_chain": [[]]},
        {"events": [7, None, {}, {"type": 7}, []], "pdus": [{}], "pdu_ids": [7, None]},
        {"pdu_ids": ["$\x00", "$" + "x" * 300, "$not:this", "x", NOWHERE], "auth_chain_ids": []},
        {"pdu_ids": [f"$x{n}" for n in range(5000)], "auth_chain_ids": [NOWHERE] * 5000},
        {"pdu_ids": ["$" + f"{n:043}" for n in range(5000)], "auth_chain_ids": []},
        {"events": [{}] * 20_000, "pdus": [{}] * 20_000},
        Answer(200, b"[" * 1000),
        Answer(200, b"{" + b'"a":{' * 5000),
        Answer(500, b""),
        "endless",
        "loop",
    ],
)
def test_attack_5_an_event_whose_parents_nobody_has_costs_a_bounded_number_of_requests(
    stage: Stage, answer: Any
) -> None:
    answers = _Answers(stage)
    event = hanging(stage, "hanging")
    operations = ("get_missing_events", "state_ids", "state", "event", "event_auth", "backfill")
    for operation in operations:
        stage.hostile.operations[operation] = lambda *_: (
            getattr(answers, answer)() if isinstance(answer, str) else answer
        )

    reply = stage.hostile.transaction(stage.a, [event])

    assert reply.status == 200
    assert asked(stage) <= 130
    assert "hanging" not in stage.heard()
    still_works(stage)


def test_attack_5_who_does_not_answer_holds_up_neither_the_transaction_nor_the_room(
    stage: Stage,
) -> None:
    for part in ("/get_missing_events/", "/state_ids/", "/event/"):
        stage.network.hold("evil.test", part)
    event = hanging(stage, "hanging")
    body: JsonObject = {"origin": "evil.test", "origin_server_ts": 1, "pdus": [event.pdu]}
    sent = stage.hostile.start_asking(stage.a, "PUT", "/send/x", body)

    stage.network.advance(4)

    assert b" 200 " in bytes(sent.received)
    still_works(stage)


@pytest.mark.parametrize("part", ["/get_missing_events/", "/state_ids/", "/event_auth/"])
def test_attack_5_who_does_not_answer_holds_up_no_events_of_others(
    stage: Stage, bob: User, part: str
) -> None:
    enter(bob, stage.room_id)
    stage.network.hold("evil.test", part)
    auth = [NOWHERE] if part == "/event_auth/" else stage.auth
    tips = [] if part == "/event_auth/" else [NOWHERE]
    event = stage.message("hanging", prev=tips or [stage.join.event_id], auth=auth)
    body: JsonObject = {"origin": "evil.test", "origin_server_ts": 1, "pdus": [event.pdu]}
    stage.hostile.start_asking(stage.a, "PUT", "/send/x", body)

    bob.send(stage.room_id, "from bob")

    assert stage.heard() == ["from bob"]
    stage.network.let_through("evil.test", part)
    stage.network.advance(4)
    assert stage.heard() == ["from bob"]
    still_works(stage)


@pytest.mark.parametrize(
    "change",
    [
        {"state": [{}] * 50_000},
        {"state": None},
        {"state": [], "auth_chain": []},
        {"auth_chain": []},
        {"state": [[[[]]]], "auth_chain": [7]},
    ],
)
def test_attack_5_a_join_whose_answer_is_no_room_fails_and_leaves_nothing(
    network: MemoryNetwork, alice: User, change: dict[str, Any]
) -> None:
    hostile = HostileServer(network)
    hostile.operations["send_join"] = lambda _, pdu: {**hostile.accept_join(pdu), **change}
    if change == {"auth_chain": []}:  # what is lacking is asked for, and not to be had
        hostile.operations["send_join"] = lambda _, pdu: {
            **hostile.accept_join(pdu), "auth_chain": [], "state": []
        }  # fmt: skip

    reply = alice.request(
        "POST", f"/join/{quote(hostile.room_id)}", {}, query={"via": hostile.name}
    )

    assert reply.status == 502
    assert "No server of the room could help" in reply.json["error"]
    assert alice.get("/joined_rooms").json == {"joined_rooms": []}


def test_attack_5_an_answer_of_very_many_tiny_values_is_not_read() -> None:
    for bomb in (b"[" + b"{}," * 2_000_000 + b"{}]", b"[" + b'"",' * 2_000_000 + b"0]"):
        with pytest.raises(RequestFailed) as failed:
            parse_json(bomb)
        assert failed.value.cause is Cause.TOO_LARGE

    event = b'{"event_id":"' + b"x" * 44 + b'","sender":"@somebody:example.org","type":"m.room.x"}'
    assert parse_json(b"[" + b",".join([event] * 400_000) + b"]")


@pytest.mark.parametrize("limit", ["-1", "0", "101", "9999999999999999999999", "1e9"])
def test_attack_5_history_is_given_in_small_pages_whatever_is_asked(
    stage: Stage, limit: str
) -> None:
    for number in range(150):
        stage.alice.send(stage.room_id, f"{number}")
    newest = stage.alice.send(stage.room_id, "newest")

    reply = stage.hostile.ask(
        stage.a,
        "GET",
        f"/backfill/{quote(stage.room_id)}?v={quote(newest, safe='')}&limit={limit}",
    )

    assert reply.status in (200, 400)
    assert len(reply.json.get("pdus", [])) <= 100


@pytest.mark.parametrize(
    "body",
    [
        {"limit": -1},
        {"limit": 10**9},
        {"limit": 2**70},
        {"limit": 10, "min_depth": -5},
        {"limit": 10, "min_depth": 2**62},
        {"limit": 10, "min_depth": 2**70},
        {"latest_events": [NOWHERE] * 10_000},
        {"earliest_events": ["$" + "x" * 200] * 10_000},
        {"latest_events": ["not an id"]},
        {"latest_events": ["$\x00"]},
    ],
)
def test_attack_5_missing_events_are_given_in_small_numbers_whatever_is_asked(
    stage: Stage, body: dict[str, Any]
) -> None:
    newest = [stage.alice.send(stage.room_id, f"{number}") for number in range(60)][-1]
    said = {"latest_events": [newest], "earliest_events": [], **body}

    reply = stage.hostile.ask(
        stage.a,
        "POST",
        f"/get_missing_events/{quote(stage.room_id)}",
        raw=json.dumps(said).encode(),
    )

    assert reply.status in (200, 400)
    assert len(reply.json.get("events", [])) <= 20


@pytest.mark.parametrize("ts", ["-1", "0", "9" * 18, "9" * 40, "x"])
def test_attack_5_any_time_can_be_asked_for(stage: Stage, ts: str) -> None:
    for direction in ("f", "b"):
        reply = stage.hostile.ask(
            stage.a, "GET", f"/timestamp_to_event/{quote(stage.room_id)}?ts={ts}&dir={direction}"
        )

        assert reply.status in (200, 400, 404)
