"""What other servers are given: states, auth chains, history; and memberships they take up here."""

from typing import Any

import orjson
import pytest

from homeserver.core.errors import EventRejected
from homeserver.core.events import Event, parse_event, required_signers
from homeserver.core.identifiers import EventID, RoomID, ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.state_resolution_v2 import auth_chain_of
from homeserver.engine.event_placing import Outcome
from homeserver.engine.served_events import ServedEvent
from homeserver.errors import Forbidden, NotFound
from tests.homeserver import Homeserver
from tests.inbound_stage import Stage
from tests.results import result_of
from tests.room_state import history_visibility
from tests.simulated_server import key_of, verify

REMOTE = ServerName("remote.test")


@pytest.fixture(params=["2", "10", "11", "12"])
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> Stage:
    return Stage(homeserver, request.param)


def do(coroutine: Any) -> Any:
    return result_of(coroutine)


def ids(stage: Stage, pdus: list[bytes]) -> list[EventID]:
    return [parse_event(stage.version, orjson.loads(pdu)).event_id for pdu in pdus]


def take_in(stage: Stage, user: str, membership: str = "join", **content: Any) -> Event:
    """A user of `remote` asks for a template, signs it and sends it back."""
    template = do(
        stage.rooms.resident.prepare_membership(stage.room_id, UserID(user), membership, content)
    )
    assert not {"hashes", "signatures", "event_id"} & template.pdu.keys()
    event = stage.remote.make(
        template.pdu["type"], template.pdu["sender"], template.pdu["content"],
        state_key=template.pdu["state_key"], prev=_ids(template.pdu["prev_events"]),
        auth=_ids(template.pdu["auth_events"]), depth=template.pdu["depth"],
    )  # fmt: skip
    outcome = do(stage.rooms.resident.take_in(stage.remote, stage.room_id, event.pdu))
    assert outcome is Outcome.ACCEPTED
    stage.remote.graph.add(event)
    return event


def _ids(references: list[Any]) -> list[EventID]:
    return [EventID(each if isinstance(each, str) else each[0]) for each in references]


def test_a_user_of_another_server_joins_by_a_template(stage: Stage) -> None:
    bob = stage.remote.user("bob")

    join = take_in(stage, bob)
    assert stage.room.membership_of(bob) == "join"
    assert stage.tips() == {join.event_id}


def test_the_answer_to_a_join_is_the_state_before_it_and_its_auth_chain(stage: Stage) -> None:
    join = take_in(stage, stage.remote.user("bob"))

    served = do(stage.rooms.served.state_before(stage.room_id, join.event_id))
    graph = stage.remote.graph
    state = set(graph.before[join.event_id].values())
    assert sorted(ids(stage, served.state)) == sorted(state)
    told = do(stage.rooms.served.state_ids_before(stage.room_id, join.event_id))
    assert sorted(told.state) == sorted(state)
    assert set(told.auth_chain) == set(ids(stage, served.auth_chain))
    chain = {
        cited for i in auth_chain_of(state, graph.events) for cited in graph.events[i].auth_events
    }
    assert set(told.auth_chain) - chain <= {EventID("$" + stage.room_id[1:])}
    assert chain <= set(told.auth_chain)


def test_members_can_be_left_out_of_it(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    take_in(stage, bob)
    join = take_in(stage, stage.remote.user("carol"))

    serving = stage.rooms.served.state_before(stage.room_id, join.event_id, omit_members=[bob])
    served = do(serving)
    events = [parse_event(stage.version, orjson.loads(pdu)) for pdu in served.state]
    members = {event.state_key for event in events if event.type == "m.room.member"}
    assert members == {bob}
    chain = set(ids(stage, served.auth_chain))
    assert not chain & {event.event_id for event in events}
    assert stage.remote.graph.before[join.event_id]["m.room.member", stage.alice.user_id] in chain


def test_no_template_is_made_for_what_the_room_does_not_allow(stage: Stage) -> None:
    stage.alice.put(f"/rooms/{stage.room_id}/state/m.room.join_rules/", {"join_rule": "invite"})

    with pytest.raises(EventRejected):
        do(stage.rooms.resident.prepare_membership(stage.room_id, stage.remote.user("bob"), "join"))
    with pytest.raises(NotFound):
        do(
            stage.rooms.resident.prepare_membership(
                RoomID("!unknown:hs.test"), stage.remote.user("bob"), "join"
            )
        )


def test_attack_3_a_membership_that_is_not_let_in_is_refused(stage: Stage) -> None:
    stage.alice.put(f"/rooms/{stage.room_id}/state/m.room.join_rules/", {"join_rule": "invite"})
    stage.share(stage.remote)
    bob = stage.remote.user("bob")
    join = stage.remote.make("m.room.member", bob, {"membership": "join"}, state_key=bob)

    with pytest.raises(Forbidden):
        do(stage.rooms.resident.take_in(stage.remote, stage.room_id, join.pdu))


def test_our_signature_is_added_without_touching_the_event(stage: Stage) -> None:
    join = stage.remote.make(
        "m.room.member", stage.remote.user("bob"), {"membership": "join"},
        state_key=stage.remote.user("bob"),
    )  # fmt: skip

    signed = stage.rooms.resident.sign(join)
    assert signed.event_id == join.event_id
    assert set(signed.pdu["signatures"]) == {"hs.test", "remote.test"}  # type: ignore[arg-type]  # JSON
    assert required_signers(signed) == required_signers(join)
    verify(signed)


def backfilled(stage: Stage, *event_ids: EventID, limit: int = 100) -> list[ServedEvent]:
    found = do(stage.rooms.served.backfill(stage.room_id, event_ids, limit))
    assert isinstance(found, list)
    return found


def test_backfill_goes_back_from_the_events_named(stage: Stage) -> None:
    sent = [EventID(stage.alice.send(stage.room_id, f"{n}")) for n in range(10)]

    found = [event.event_id for event in backfilled(stage, sent[8], limit=5)]
    assert found == sent[8:3:-1]
    everything = backfilled(stage, sent[-1])
    assert len(everything) == len(stage.messages())
    assert backfilled(stage, EventID("$unknown")) == []


def test_missing_events_lie_between_two_ends(stage: Stage) -> None:
    sent = [EventID(stage.alice.send(stage.room_id, f"{n}")) for n in range(30)]

    def missing(earliest: EventID, latest: EventID, limit: int, min_depth: int = 0) -> Any:
        found = do(
            stage.rooms.served.missing_events(
                stage.room_id, earliest=[earliest], latest=[latest], limit=limit,
                min_depth=min_depth,
            )
        )  # fmt: skip
        return [event.event_id for event in found]

    assert missing(sent[3], sent[9], 20) == sent[4:9]
    assert missing(sent[0], sent[29], 100) == sent[9:29]
    assert missing(sent[0], sent[9], 3) == sent[6:9]
    (node,) = backfilled(stage, sent[7], limit=1)
    assert missing(sent[3], sent[9], 20, node.depth) == sent[7:9]


def test_refused_events_are_served_to_nobody(stage: Stage) -> None:
    stranger = stage.remote.user("stranger")
    refused = stage.remote.make("m.room.message", stranger, {"body": "hi"})
    stage.feed(refused)

    assert do(stage.rooms.served.find_event(refused.event_id)) is None
    with pytest.raises(NotFound):
        do(stage.rooms.served.state_before(stage.room_id, refused.event_id))
    assert refused.event_id not in [e.event_id for e in backfilled(stage, refused.event_id)]


def test_a_soft_failed_event_is_served_with_what_names_it(stage: Stage) -> None:
    bob, carol = stage.remote.user("bob"), stage.remote.user("carol")
    stage.feed(stage.remote.join(bob), stage.remote.join(carol))
    base = stage.remote.say(bob, "allowed")
    ban: JsonObject = {"user_id": bob}
    stage.feed(base)
    stage.alice.post(f"/rooms/{stage.room_id}/ban", ban)
    evading = stage.remote.say(bob, "evading", prev=[base.event_id])
    assert stage.feed(evading) == [Outcome.SOFT_FAILED]
    said = EventID(stage.alice.send(stage.room_id, "on another branch"))

    served = stage.rooms.served
    assert do(served.find_event(evading.event_id)).event_id == evading.event_id
    state = do(served.state_ids_before(stage.room_id, evading.event_id)).state
    assert set(state) == set(stage.remote.graph.before[evading.event_id].values())
    assert evading.event_id not in [e.event_id for e in backfilled(stage, said)]
    stage.share(stage.remote)
    following = stage.remote.say(carol, "following", prev=[evading.event_id, said])
    assert stage.feed(following) == [Outcome.ACCEPTED]
    assert evading.event_id in [e.event_id for e in backfilled(stage, following.event_id)]
    missing = do(
        served.missing_events(
            stage.room_id, earliest=[base.event_id], latest=[following.event_id], limit=20
        )
    )
    assert evading.event_id in [e.event_id for e in missing]
    assert evading.event_id not in stage.messages()


def test_a_redacted_event_is_served_redacted(stage: Stage) -> None:
    said = EventID(stage.alice.send(stage.room_id, "a secret"))
    stage.alice.put(f"/rooms/{stage.room_id}/redact/{said}/1", {})

    found = do(stage.rooms.served.find_event(said))
    assert b"a secret" not in found.pdu
    assert ids(stage, [found.pdu]) == [said]


def test_attack_6_history_is_redacted_for_servers_that_may_not_see_it(
    homeserver: Homeserver,
) -> None:
    stage = Stage(homeserver, "11", initial_state=[history_visibility("joined")])
    hidden = EventID(stage.alice.send(stage.room_id, "before bob"))
    stage.share(stage.remote)
    bob = stage.remote.user("bob")
    stage.feed(stage.remote.join(bob))
    shown = EventID(stage.alice.send(stage.room_id, "to bob"))
    events = backfilled(stage, shown)

    told = do(stage.rooms.visibility.for_server(REMOTE, events))
    by_id = dict(zip([event.event_id for event in events], told, strict=True))
    assert b"to bob" in by_id[shown]
    assert b"before bob" not in by_id[hidden]
    assert ids(stage, [by_id[hidden]]) == [hidden]
    (other,) = [event for event in events if event.event_id == shown]
    assert not do(stage.rooms.visibility.is_visible(ServerName("third.test"), other))


def test_shared_history_is_for_every_server_in_the_room(stage: Stage) -> None:
    said = EventID(stage.alice.send(stage.room_id, "before bob"))
    (event,) = backfilled(stage, said, limit=1)
    assert not do(stage.rooms.visibility.is_visible(REMOTE, event))

    stage.share(stage.remote)
    stage.feed(stage.remote.join(stage.remote.user("bob")))
    assert do(stage.rooms.visibility.is_visible(REMOTE, event))


def test_the_event_nearest_to_a_time_is_found(stage: Stage) -> None:
    first = EventID(stage.alice.send(stage.room_id, "first"))
    stage.homeserver.advance(10)
    second = EventID(stage.alice.send(stage.room_id, "second"))
    at = stage.homeserver.clock.now_ms() - 5_000

    before = do(stage.rooms.served.event_at(stage.room_id, at, backwards=True))
    after = do(stage.rooms.served.event_at(stage.room_id, at, backwards=False))
    assert (before.event_id, after.event_id) == (first, second)


def receive_all(stage: Stage, *events: Event) -> list[Any]:
    found = do(
        stage.inbound.receive_all(stage.remote, stage.room_id, [event.pdu for event in events])
    )
    assert isinstance(found, list)
    return found


def test_a_transaction_of_linear_events_is_one_commit(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    stage.feed(stage.remote.join(bob))
    sent = [stage.remote.say(bob, f"{n}") for n in range(50)]
    token, _ = stage.synced()
    stage.database.statements.clear()

    assert receive_all(stage, *sent) == [Outcome.ACCEPTED] * 50
    heads = [one for one in stage.database.statements if "INSERT INTO room_heads" in one]
    assert len(heads) <= 1
    assert stage.synced(token)[1] == [event.event_id for event in sent]
    stage.restart()
    assert stage.tips() == {sent[-1].event_id}
    assert stage.messages()[-50:] == [event.event_id for event in sent]


def test_a_transaction_of_all_kinds_has_the_same_end_as_one_by_one(stage: Stage) -> None:
    bob, carol = stage.remote.user("bob"), stage.remote.user("carol")
    sent = [stage.remote.join(bob), stage.remote.say(bob, "1"), stage.remote.topic(bob, "no")]
    root = sent[1]
    sent += [stage.remote.join(carol), stage.remote.say(carol, "2"), stage.remote.say(bob, "3")]
    sent.append(stage.remote.say(bob, "fork", prev=[root.event_id]))
    sent.append(stage.remote.say(carol, "both"))
    stranger = stage.remote.make("m.room.message", stage.remote.user("x"), {"body": "?"})
    forged = stage.remote.make("m.room.message", bob, {"body": "!"}, key=key_of("evil.test"))

    found = receive_all(stage, *sent, forged, stranger, sent[1])
    assert found[-1] is Outcome.KNOWN
    assert found[-2] is Outcome.REJECTED
    assert isinstance(found[-3], Exception)
    assert Outcome.ACCEPTED in found
    assert stage.state() == stage.remote.graph.resolve(
        [stage.remote.graph.after[i] for i in stage.remote.graph.tips()]
    )
    assert stage.tips() == set(stage.remote.graph.tips())
