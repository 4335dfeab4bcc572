"""Class 7: what other servers send: repetitions, limits, floods, and who may send at all."""

from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import Deferred

from homeserver.config import LimitsSection
from homeserver.core.json_types import JsonObject
from homeserver.engine import inbound_events
from homeserver.storage import inbound_transactions
from homeserver.storage.query import Txn, list_values
from tests.faults import each_fault
from tests.federation.conftest import MakeServer
from tests.federation.hostile_server import HostileServer, Stage, answer_of, send_event
from tests.federation.meeting import meet
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User
from tests.results import result_of


def count_staged(a: Homeserver) -> int:
    def read(txn: Txn) -> int:
        return len(list_values(txn, int, "SELECT staged_nid FROM staged_events"))

    return result_of(a.database.read(read))


def test_a_repeated_transaction_gets_its_answer_and_does_nothing(stage: Stage) -> None:
    first, other = stage.message("first"), stage.message("other")

    answers = [
        stage.hostile.transaction(stage.a, [event], txn_id="same")
        for event in (first, first, other)
    ]

    assert [answer.json for answer in answers] == [{"pdus": {first.event_id: {}}}] * 3
    assert stage.heard() == ["first"]


def test_attack_7_a_request_that_is_replayed_days_later_does_nothing_again(stage: Stage) -> None:
    """The answer that it had is forgotten by then; its signature is as good as ever."""
    message: JsonObject = {stage.alice.user_id: {str(stage.alice.device_id): {"n": 1}}}
    edu: JsonObject = {
        "edu_type": "m.direct_to_device",
        "content": {
            "sender": stage.join.sender,
            "type": "m.test",
            "message_id": "once",
            "messages": message,
        },
    }
    event = stage.message("once")

    statuses = []
    for _ in range(2):
        reply = stage.hostile.transaction(stage.a, [event], [edu], txn_id="same")
        statuses.append(reply.status)
        stage.network.advance(2 * 86_400)

    assert statuses == [200, 200]
    assert stage.heard() == ["once"]
    assert len(stage.alice.sync()["to_device"]["events"]) == 1


def test_the_same_id_of_another_server_is_another_transaction(
    network: MemoryNetwork, stage: Stage
) -> None:
    other = HostileServer(network, "other.test")
    join = other.join(stage.a, stage.room_id, "eve")
    stage.hostile.transaction(stage.a, [stage.message("one")], txn_id="same")

    reply = other.transaction(stage.a, [send_event(other, join, "two")], txn_id="same")

    assert len(reply.json["pdus"]) == 1
    assert sorted(stage.heard()) == ["one", "two"]


def test_attack_7_one_transaction_that_comes_twice_at_the_same_time_is_worked_through_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has been answered, and the database takes its time to say so."""
    database = stage.a.database
    reads: list[Deferred[None]] = []
    plain_read = database.read

    def slow_read(function: Any, *args: Any, **kwargs: Any) -> Any:
        if function is not inbound_transactions.find_response:
            return plain_read(function, *args, **kwargs)
        waiting: Deferred[None] = Deferred()
        reads.append(waiting)
        return waiting.addCallback(lambda _: plain_read(function, *args, **kwargs))

    monkeypatch.setattr(database, "read", slow_read)
    event = stage.message("once")
    body: JsonObject = {"origin": "evil.test", "origin_server_ts": 1, "pdus": [event.pdu]}

    sent = [stage.hostile.start_asking(stage.a, "PUT", "/send/same", body) for _ in range(3)]
    stage.network.settle()
    for waiting in reads:
        waiting.callback(None)
    stage.network.settle()

    assert len(reads) == 1
    assert [answer_of(one).status for one in sent] == [200, 200, 200]
    assert stage.heard() == ["once"]


def test_attack_7_who_waits_for_an_answer_gets_one_although_the_first_has_hung_up(
    stage: Stage,
) -> None:
    missing = stage.message("missing")
    event = stage.message("late", prev=[missing.event_id], auth=missing.auth_events)
    stage.network.hold("evil.test", "/get_missing_events/")
    body: JsonObject = {"origin": "evil.test", "origin_server_ts": 1, "pdus": [event.pdu]}
    first = stage.hostile.start_asking(stage.a, "PUT", "/send/same", body)
    second = stage.hostile.start_asking(stage.a, "PUT", "/send/same", body)
    stage.network.settle()

    first.disconnect()
    stage.network.advance(4)

    assert answer_of(second).status in (200, 503)


@pytest.mark.parametrize(
    ("pdus", "edus", "status"), [(50, 100, 200), (51, 0, 400), (0, 101, 400), (5000, 5000, 400)]
)
def test_attack_7_a_transaction_has_so_many_events_and_no_more(
    stage: Stage, pdus: int, edus: int, status: int
) -> None:
    edu: JsonObject = {"edu_type": "m.typing", "content": {}}

    reply = stage.hostile.transaction(stage.a, [{}] * pdus, [edu] * edus)

    assert reply.status == status


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"pdus":{}}',
        b'{"pdus":[7,null,"x",[],{}]}',
        b'{"pdus":[{"room_id":7},{"room_id":"!\\u0000:x"},{"room_id":{"a":1}}]}',
        b'{"pdus":[],"edus":[7,{"edu_type":7,"content":{}},{"edu_type":"m.typing"}]}',
        b'{"pdus":[],"edus":[{"edu_type":"m.direct_to_device","content":{"messages":7}}]}',
        b'{"pdus":[],"edus":[{"edu_type":"m.receipt","content":{"!x:y":{"m.read":7}}}]}',
        b'{"pdus":[],"edus":[{"edu_type":"m.presence","content":{"push":{"a":1}}}]}',
        b'{"pdus":[],"edus":[{"edu_type":"m.device_list_update","content":{"user_id":7}}]}',
        b'{"pdus":[],"edus":[{"edu_type":"m.signing_key_update","content":{"user_id":[]}}]}',
        b'{"pdus":[' + b"[" * 150 + b"]" * 150 + b"]}",
        b'{"pdus":[{"room_id":"!x:y","depth":1e400}]}',
    ],
)
def test_attack_7_a_transaction_of_nonsense_is_no_fault_of_this_server(
    stage: Stage, body: bytes
) -> None:
    reply = stage.hostile.transaction(stage.a, raw=body)

    assert reply.status in (200, 400, 401)


@pytest.mark.parametrize(
    ("denied", "name"),
    [
        ("evil.test", "evil.test"),
        ("evil.test", "evil.test:8448"),
        ("evil.test", "EVIL.test"),
        ("EVIL.TEST", "evil.test"),
        ("evil.test", "evil.test."),
        ("*.test", "evil.test"),
        ("ev?l.test", "evil.test:1"),
        ("[2001:db8::1]", "[2001:db8::1]:8448"),
        ("1.2.3.4", "1.2.3.4:99"),
    ],
)
def test_attack_7_a_denied_server_gets_nothing_of_the_room_and_tells_it_nothing(
    network: MemoryNetwork, a: Homeserver, alice: User, denied: str, name: str
) -> None:
    room_id = alice.create_room(preset="public_chat")
    hostile = HostileServer(network, name)
    join = hostile.join(a, room_id)
    event_id = quote(join.event_id, safe="")
    room = quote(room_id)
    user = quote(join.sender)
    acl = {"allow": ["*"], "deny": [denied]}
    alice.put(f"/rooms/{room}/state/m.room.server_acl", acl)
    message = send_event(hostile, join, "from the denied")
    latest: JsonObject = {"latest_events": [join.event_id], "earliest_events": []}

    sent = hostile.transaction(a, [message])
    replies = [
        hostile.ask(a, "GET", f"/make_join/{room}/{user}?ver=11"),
        hostile.ask(a, "GET", f"/make_leave/{room}/{user}"),
        hostile.ask(a, "GET", f"/make_knock/{room}/{user}?ver=11"),
        hostile.send_join(a, join),
        hostile.send_join(a, join, "send_leave"),
        hostile.send_join(a, join, "send_knock"),
        hostile.ask(a, "GET", f"/state/{room}?event_id={event_id}"),
        hostile.ask(a, "GET", f"/state_ids/{room}?event_id={event_id}"),
        hostile.ask(a, "GET", f"/backfill/{room}?v={event_id}&limit=10"),
        hostile.ask(a, "GET", f"/event_auth/{room}/{event_id}"),
        hostile.ask(a, "GET", f"/event/{event_id}"),
        hostile.ask(a, "GET", f"/timestamp_to_event/{room}?ts=1&dir=f"),
        hostile.ask(a, "POST", f"/get_missing_events/{room}", latest),
    ]

    assert [reply.status for reply in replies] == [403] * len(replies)
    assert sent.json == {
        "pdus": {message.event_id: {"error": sent.json["pdus"][message.event_id]["error"]}}
    }
    assert "from the denied" not in str(alice.get(f"/rooms/{room}/messages", dir="b").json)


def test_attack_7_address_literals_are_denied_where_the_room_wants_that(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    servers = {
        HostileServer(network, name): name
        for name in ("1.2.3.4", "1.2.3.4:80", "[2001:db8::1]", "[::1]:80", "evil.test")
    }
    acl = {"allow": ["*"], "deny": [], "allow_ip_literals": False}
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.server_acl", acl)

    statuses = {
        name: server.ask(
            a, "GET", f"/make_join/{quote(room_id)}/{quote(f'@m:{name}')}?ver=11"
        ).status
        for server, name in servers.items()
    }

    assert statuses.pop("evil.test") == 200
    assert set(statuses.values()) == {403}


def test_attack_7_nobody_sends_in_the_name_of_another(network: MemoryNetwork, stage: Stage) -> None:
    other = HostileServer(network, "other.test")

    reply = stage.hostile.transaction(stage.a, [stage.message("x")], origin="other.test")

    assert reply.status == 401
    assert stage.heard() == []
    del other


def test_a_database_that_fails_while_events_are_taken_in_loses_none(stage: Stage) -> None:
    """Whatever statement fails: the transaction is refused, or its event is there."""
    event = stage.message("kept")
    for fault in each_fault(stage.a.database):
        with fault:
            reply = stage.hostile.transaction(stage.a, [event])
        if reply.status == 200:
            assert reply.json["pdus"] in ({event.event_id: {}}, {})
            assert count_staged(stage.a) or stage.heard() == ["kept"]
            break
        assert reply.status in (500, 503), reply.json

    assert fault.number > 3
    stage.hostile.transaction(stage.a, [event])

    assert stage.heard() == ["kept"]


def test_events_that_were_answered_for_are_worked_through_after_a_restart(stage: Stage) -> None:
    missing = stage.message("missing")
    event = stage.message("late", prev=[missing.event_id], auth=missing.auth_events)
    stage.hostile.operations["get_missing_events"] = lambda _, __: {"events": [missing.pdu]}
    stage.network.hold("evil.test", "/get_missing_events/")
    body: JsonObject = {"origin": "evil.test", "origin_server_ts": 1, "pdus": [event.pdu]}
    sent = stage.hostile.start_asking(stage.a, "PUT", "/send/slow", body)
    stage.network.settle()
    stage.network.advance(4)
    assert answer_of(sent).status == 200
    assert count_staged(stage.a) == 1

    now = stage.a.reactor.seconds()
    again = stage.network.add(stage.a.restart())
    again.advance(now)
    stage.network.let_through("evil.test", "/get_missing_events/")
    stage.alice.homeserver = again
    stage.network.settle()

    assert set(stage.heard()) == {"missing", "late"}
    assert count_staged(again) == 0


@pytest.mark.parametrize("statement", ["SELECT staged_nid, origin", "DELETE FROM staged_events"])
def test_attack_15_an_outage_while_stored_events_are_worked_through_leaves_none_behind(
    stage: Stage, statement: str
) -> None:
    events = [stage.message("one"), stage.message("two")]

    def stage_all(txn: Txn) -> None:
        pdus = [event.pdu_bytes for event in events]
        inbound_transactions.insert_staged(txn, stage.hostile.name, events[0].room_id, pdus, 1)

    stage.a.database.run(stage_all)
    stage.a.database.fail_on = statement
    again = stage.network.add(stage.a.restart())
    stage.alice.homeserver = again
    stage.network.advance(10)
    assert count_staged(again) == 2

    again.database.fail_on = None
    stage.network.advance(100)

    assert set(stage.heard()) == {"one", "two"}
    assert count_staged(again) == 0


def test_attack_7_a_stored_event_that_nobody_can_read_stops_none_after_it(stage: Stage) -> None:
    good = stage.message("good")
    poison = [b'{"depth":' + b"9" * 500 + b"}", b"{}", b'{"room_id":7,"type":{}}']

    def stage_all(txn: Txn) -> None:
        for pdu in (*poison, good.pdu_bytes):
            inbound_transactions.insert_staged(txn, stage.hostile.name, good.room_id, [pdu], 1)

    stage.a.database.run(stage_all)
    again = stage.network.add(stage.a.restart())
    stage.alice.homeserver = again
    stage.network.settle()

    assert stage.heard() == ["good"]
    assert count_staged(again) == 0


def test_attack_7_an_event_for_what_is_no_user_stops_no_end_of_an_invitation(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    hostile = HostileServer(network)
    invite = hostile.invite(alice)
    assert hostile.send_invite(a, invite).status == 200
    end = hostile.invite(alice, content={"membership": "leave"})
    bad: JsonObject = {**end.pdu, "state_key": "@a\x00b:a.test"}

    reply = hostile.transaction(a, [bad, end])

    assert reply.status == 200
    assert hostile.room_id not in alice.sync().get("rooms", {}).get("invite", {})


def test_attack_6_events_for_which_a_room_has_no_place_are_to_be_sent_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server may have filled its line."""
    stage.network.hold("evil.test", "/get_missing_events/")
    hanging = stage.message("hangs", prev=["$" + "A" * 43], auth=stage.join.auth_events)
    body: JsonObject = {"origin": "x", "origin_server_ts": 1, "pdus": [hanging.pdu]}
    stage.hostile.start_asking(stage.a, "PUT", "/send/hanging", body)
    stage.network.settle()
    event = stage.message("kept")
    monkeypatch.setattr(inbound_events, "_MAX_WAITING", 0)

    assert stage.hostile.transaction(stage.a, [event]).status == 503
    monkeypatch.undo()
    assert stage.hostile.transaction(stage.a, [event]).status == 200

    assert stage.heard() == ["kept"]


def test_attack_7_who_sends_faster_than_can_be_read_is_told_to_wait(stage: Stage) -> None:
    """Each event hangs on one that nobody gives."""
    stage.network.hold("evil.test", "/get_missing_events/")
    statuses = []
    for number in range(25):
        hanging = [
            stage.message(f"{number} {n}", prev=["$" + "A" * 43], auth=stage.join.auth_events)
            for n in range(50)
        ]
        body: JsonObject = {"origin": "x", "origin_server_ts": 1, "pdus": [e.pdu for e in hanging]}
        sent = stage.hostile.start_asking(stage.a, "PUT", f"/send/f{number}", body)
        stage.network.settle()
        stage.a.advance(3)
        stage.network.settle()
        statuses.append(answer_of(sent).status)

    assert statuses == [200] * 20 + [429] * 5


def test_attack_7_what_many_servers_send_together_is_bounded_in_bytes_and_each_has_a_share(
    network: MemoryNetwork, make_server: MakeServer
) -> None:
    """Each event hangs on one that nobody gives, so that it is held until its server answers."""
    a = make_server("a.test", limits=LimitsSection(inbound_federation_bytes=400_000))
    stage = Stage(network, a)
    origins = [stage.hostile, *(HostileServer(network, f"evil{n}.test") for n in range(2))]
    joins = [stage.join] + [other.join(a, stage.room_id) for other in origins[1:]]
    honest = HostileServer(network, "good.test")
    good = honest.join(a, stage.room_id, "bob")
    for origin in origins:
        network.hold(origin.name, "/get_missing_events/")
    statuses: dict[str, list[int]] = {}
    for number in range(6):
        for origin, join in zip(origins, joins, strict=True):
            hanging = send_event(
                origin, join, "x" * 50_000, prev=["$" + "A" * 43], auth=join.auth_events
            )
            body: JsonObject = {"origin": "x", "origin_server_ts": 1, "pdus": [hanging.pdu]}
            sent = origin.start_asking(a, "PUT", f"/send/{number}", body)
            network.settle()
            a.advance(3)
            network.settle()
            statuses.setdefault(origin.name, []).append(answer_of(sent).status)
    small: JsonObject = {"pdus": [send_event(honest, good, "heard").pdu]}
    sent = honest.start_asking(a, "PUT", "/send/small", small)
    network.settle()
    a.advance(3)

    assert [found.count(200) for found in statuses.values()] == [2, 2, 2]
    assert {found[-1] for found in statuses.values()} == {429}
    assert answer_of(sent).status == 200
    for origin in origins:
        network.let_through(origin.name, "/get_missing_events/")
    network.advance(600)
    assert stage.hostile.transaction(a, [stage.message("y" * 50_000)]).status == 200
    assert "heard" in stage.heard()


def test_attack_7_repetitions_of_what_is_worked_through_are_bounded_in_bytes_too(
    network: MemoryNetwork, make_server: MakeServer
) -> None:
    a = make_server("a.test", limits=LimitsSection(inbound_federation_bytes=400_000))
    stage = Stage(network, a)
    network.hold("evil.test", "/get_missing_events/")
    hanging = stage.message("x" * 50_000, prev=["$" + "A" * 43], auth=stage.join.auth_events)
    body: JsonObject = {"origin": "x", "origin_server_ts": 1, "pdus": [hanging.pdu]}

    sent = [stage.hostile.start_asking(a, "PUT", "/send/same", body) for _ in range(10)]
    network.settle()
    refused = [one for one in sent if one.received]
    a.advance(3)
    network.settle()

    assert {answer_of(one).status for one in refused} == {429}
    statuses = [answer_of(one).status for one in sent]
    assert (statuses.count(200), statuses.count(429)) == (4, 6)
    network.let_through("evil.test", "/get_missing_events/")
    network.advance(600)
    assert stage.hostile.transaction(a, [stage.message("y" * 50_000)]).status == 200


def test_attack_7_of_a_request_that_is_from_nobody_known_the_body_is_not_read(
    stage: Stage,
) -> None:
    other = HostileServer(stage.network, "other.test")

    reply = stage.hostile.ask(stage.a, "PUT", "/send/1", raw=b"[not JSON", key=other.key)

    assert (reply.status, reply.errcode) == (401, "M_UNAUTHORIZED")


def test_attack_7_a_join_that_was_refused_is_not_let_in_by_being_sent_again(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    hostile = HostileServer(network)
    path = f"/make_join/{quote(room_id)}/{quote('@mallory:evil.test')}?ver=11"
    join = hostile.sign_template(hostile.ask(a, "GET", path).json)
    alice.post(f"/rooms/{quote(room_id)}/ban", {"user_id": "@mallory:evil.test"})
    network.settle()

    replies = [hostile.send_join(a, join) for _ in range(3)]

    assert [reply.status for reply in replies] == [403] * 3
    assert "mallory" not in str(bob.get(f"/rooms/{quote(room_id)}/joined_members").json)


def test_attack_7_a_join_that_is_sent_again_and_again_is_told_to_others_once(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    hostile = HostileServer(network)
    join = hostile.join(a, room_id)
    network.settle()
    before = len(network.requests)

    replies = [hostile.send_join(a, join) for _ in range(5)]
    network.settle()

    assert [reply.status for reply in replies] == [200] * 5
    assert len(network.requests) == before
