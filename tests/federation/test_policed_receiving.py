"""What comes from other servers into a room with a policy server: signed, or not shown."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.events import Event
from homeserver.core.identifiers import parse_room_id
from homeserver.core.json_types import JsonObject
from homeserver.core.policy_servers import POLICY_KEY_ID
from homeserver.core.signing import SigningKey
from tests.federation.hostile_server import HostileServer, send_event
from tests.federation.meeting import enter, texts
from tests.federation.network import MemoryNetwork
from tests.federation.policy_server import (
    REFUSED,
    SIGN,
    FakePolicyServer,
    refusal,
    set_policy,
    with_signature,
)
from tests.homeserver import Homeserver, User

OTHER_KEY = SigningKey(POLICY_KEY_ID, b"\x09" * 32)


class Stage:
    """A guarded room of alice's; mallory's server has nothing signed."""

    def __init__(self, network: MemoryNetwork, a: Homeserver) -> None:
        self.network = network
        self.a = a
        self.alice: User = a.register("alice")
        self.room_id = self.alice.create_room(preset="public_chat")
        self.policy = FakePolicyServer(network)
        self.policy.guard(self.alice, self.room_id)
        self.other = HostileServer(network)
        self.join: Event = self.other.join(a, self.room_id)
        network.settle()
        self.policy.received.clear()

    @property
    def path(self) -> str:
        return f"/rooms/{quote(self.room_id)}"

    def message(self, body: str, **more: Any) -> Event:
        return send_event(self.other, self.join, body, **more)

    def tell(self, *events: Event, server: Homeserver | None = None) -> Any:
        answer = self.other.transaction(server or self.a, events)
        self.network.settle()
        return answer.json["pdus"]

    def texts(self) -> list[str]:
        return texts(self.alice, self.room_id)

    def pdu(self, event: Event) -> Any:
        path = f"/event/{quote(event.event_id, safe='')}"
        return self.policy.ask(self.a, "GET", path).json["pdus"][0]

    def asked(self) -> list[str]:
        return [pdu["content"].get("body", pdu["type"]) for pdu in self.policy.asked]


@pytest.fixture
def stage(network: MemoryNetwork, a: Homeserver) -> Stage:
    return Stage(network, a)


def test_a_missing_signature_is_asked_for_and_kept(stage: Stage) -> None:
    event = stage.message("hello")

    assert stage.tell(event) == {event.event_id: {}}

    assert stage.texts() == ["hello"]
    assert stage.asked() == ["hello"]
    signatures = stage.pdu(event)["signatures"]
    assert set(signatures) == {"evil.test", "policy.test"}
    assert signatures["evil.test"] == event.pdu["signatures"]["evil.test"]  # type: ignore[index,call-overload]  # JSON


def test_what_is_signed_already_is_not_asked_about(stage: Stage) -> None:
    event = stage.message("hello")

    stage.tell(with_signature(event, stage.policy.sign(event)))

    assert stage.texts() == ["hello"]
    assert stage.asked() == []


def test_a_signature_by_another_key_is_asked_for_again(stage: Stage) -> None:
    event = stage.message("hello")

    stage.tell(with_signature(event, stage.policy.sign(event, OTHER_KEY)))

    assert stage.texts() == ["hello"]
    assert stage.asked() == ["hello"]
    assert stage.pdu(event)["signatures"]["policy.test"] == stage.policy.sign(event)["policy.test"]


def test_what_is_refused_is_stored_shown_to_nobody_and_not_built_upon(stage: Stage) -> None:
    spam = stage.message(REFUSED)

    assert stage.tell(spam) == {spam.event_id: {}}

    event_id = stage.alice.send(stage.room_id, "next")
    assert stage.texts() == ["next"]
    path = f"/event/{quote(event_id, safe='')}"
    (pdu,) = stage.policy.ask(stage.a, "GET", path).json["pdus"]
    assert pdu["prev_events"] == [stage.join.event_id]
    assert spam.event_id not in str(stage.alice.sync())


def test_what_builds_upon_something_refused_is_shown(stage: Stage) -> None:
    spam = stage.message(REFUSED)
    after = stage.message(
        "after", prev=[spam.event_id], auth=spam.auth_events, depth=spam.depth + 1
    )
    last = stage.message(
        "last", prev=[after.event_id], auth=spam.auth_events, depth=after.depth + 1
    )

    stage.tell(spam, after, last)

    assert stage.texts() == ["after", "last"]


def test_what_is_refused_among_what_follows_each_other_is_not_shown(stage: Stage) -> None:
    """Such events share a commit otherwise."""
    events = [stage.message("0")]
    for body in ("1", REFUSED, REFUSED, "2", "3", REFUSED):
        before = events[-1]
        events.append(
            stage.message(
                body, prev=[before.event_id], auth=before.auth_events, depth=before.depth + 1
            )
        )

    stage.tell(*events)

    assert stage.texts() == ["0", "1", "2", "3"]


def test_a_state_event_that_is_refused_does_not_become_state(stage: Stage) -> None:
    topic = f"{stage.path}/state/m.room.topic"
    levels = stage.alice.get(f"{stage.path}/state/m.room.power_levels").json
    levels = {**levels, "events": {**levels["events"], "m.room.topic": 0}}
    level_id = stage.alice.put(f"{stage.path}/state/m.room.power_levels", levels).json["event_id"]
    before = stage.alice.put(topic, {"topic": "before"}).json["event_id"]
    cited = [i for i in stage.message("").auth_events if "power" not in i]
    known = stage.other.room.graph.events
    cited = [i for i in cited if known[i].type != "m.room.power_levels"] + [level_id]
    changed = stage.other.room.make(
        "m.room.topic",
        stage.join.sender,
        {"topic": REFUSED},
        state_key="",
        prev=[before],
        auth=cited,
        depth=50,
    )
    unwanted = stage.message("unwanted", prev=[changed.event_id], auth=cited, depth=51)
    stage.policy.operations["sign"] = lambda _, __: refusal()

    stage.tell(changed)
    assert stage.alice.get(topic).json == {"topic": "before"}
    stage.tell(unwanted)
    assert stage.alice.get(topic).json == {"topic": "before"}

    stage.policy.operations["sign"] = lambda _, pdu: stage.policy.sign(pdu)
    stage.alice.send(stage.room_id, "next")
    assert stage.alice.get(topic).json == {"topic": "before"}
    assert stage.texts() == ["next"]
    restarted = stage.network.add(stage.a.restart())
    alice = stage.alice.at(restarted)
    assert alice.get(topic).json == {"topic": "before"}


@pytest.mark.parametrize("failure", ["lost", "silent", "500", "429", "unsigned"])
def test_without_an_answer_an_event_is_not_shown(stage: Stage, failure: str) -> None:
    sign = stage.policy.operations["sign"]
    if failure == "lost":
        stage.network.lose(stage.policy.name, SIGN)
    elif failure == "silent":
        stage.network.hold(stage.policy.name, SIGN)
    elif failure == "unsigned":
        stage.policy.operations["sign"] = lambda _, __: {}
    else:
        stage.policy.operations["sign"] = lambda _, __: refusal(int(failure))
    event = stage.message("hello")

    sent = stage.other.start_asking(
        stage.a,
        "PUT",
        "/send/one",
        {"origin": "evil.test", "origin_server_ts": 1, "pdus": [event.pdu]},
    )
    stage.network.settle()
    stage.network.advance(11)

    assert sent.received
    assert stage.texts() == []
    stage.network.held.clear()
    stage.network.altered.clear()
    stage.policy.operations["sign"] = sign
    stage.tell(stage.message("later"))
    assert stage.texts() == ["later"]


def test_other_rooms_do_not_wait_for_a_policy_server(network: MemoryNetwork, stage: Stage) -> None:
    room_id = stage.alice.create_room(preset="public_chat")
    elsewhere = HostileServer(network, "evil.test")
    join = elsewhere.join(stage.a, room_id)
    network.hold(stage.policy.name, SIGN)
    body: JsonObject = {
        "origin": "evil.test",
        "origin_server_ts": 1,
        "pdus": [stage.message("waits").pdu, send_event(elsewhere, join, "goes on").pdu],
    }

    sent = elsewhere.start_asking(stage.a, "PUT", "/send/both", body)
    network.settle()

    timeline = stage.alice.sync()["rooms"]["join"][room_id]["timeline"]["events"]
    assert timeline[-1]["content"]["body"] == "goes on"
    network.advance(4)
    assert sent.received
    network.let_through(stage.policy.name, SIGN)
    assert stage.texts() == ["waits"]


def test_an_event_that_comes_by_two_ways_is_asked_about_once(
    network: MemoryNetwork, stage: Stage
) -> None:
    event = stage.message("hello")
    network.hold(stage.policy.name, SIGN)
    sent = [
        server.start_asking(
            stage.a,
            "PUT",
            "/send/same",
            {"origin": server.name, "origin_server_ts": 1, "pdus": [event.pdu]},
        )
        for server in (stage.other, stage.policy)
    ]
    network.settle()
    network.let_through(stage.policy.name, SIGN)
    network.settle()

    stage.tell(event)

    assert all(one.received for one in sent)
    assert stage.asked() == ["hello"]
    assert stage.texts() == ["hello"]


def test_what_was_refused_is_not_let_in_by_being_sent_again(stage: Stage) -> None:
    event = stage.message("hello")
    stage.policy.operations["sign"] = lambda _, __: refusal()
    stage.tell(event)
    stage.policy.operations["sign"] = lambda _, pdu: stage.policy.sign(pdu)
    stage.network.advance(3600)

    stage.tell(with_signature(event, stage.policy.sign(event)))

    assert stage.texts() == []


def test_events_between_are_judged_as_well(stage: Stage) -> None:
    """Only the last is sent; the server asks for those before it."""
    events = [stage.message(REFUSED)]
    for body in ("good", REFUSED, "last"):
        before = events[-1]
        events.append(
            stage.message(
                body, prev=[before.event_id], auth=before.auth_events, depth=before.depth + 1
            )
        )
    stage.other.operations["get_missing_events"] = lambda _, __: {
        "events": [event.pdu for event in events[:-1]]
    }

    stage.tell(events[-1])

    assert stage.texts() == ["good", "last"]
    assert sorted(stage.asked()) == sorted(["last", REFUSED, "good", REFUSED])
    assert set(stage.pdu(events[1])["signatures"]) == {"evil.test", "policy.test"}


def test_the_policy_itself_needs_no_signature(stage: Stage) -> None:
    levels = stage.alice.get(f"{stage.path}/state/m.room.power_levels").json
    levels = {**levels, "users": {**levels["users"], stage.join.sender: 100}}
    level_id = stage.alice.put(f"{stage.path}/state/m.room.power_levels", levels).json["event_id"]
    known = stage.other.room.graph.events
    cited = [i for i in stage.message("").auth_events if known[i].type != "m.room.power_levels"] + [
        level_id
    ]
    stage.policy.received.clear()
    stage.network.lose(stage.policy.name, SIGN)
    for state_key in ("other", ""):
        event = stage.other.room.make(
            "m.room.policy",
            stage.join.sender,
            {},
            state_key=state_key,
            prev=[level_id],
            auth=cited,
            depth=50,
        )
        stage.tell(event)

    assert stage.alice.get(f"{stage.path}/state/m.room.policy").json == {}
    assert stage.alice.get(f"{stage.path}/state/m.room.policy/other").status == 404
    stage.tell(stage.message("free"))
    assert stage.texts() == ["free"]


def test_an_unsigned_join_is_refused_by_who_lets_others_in(
    network: MemoryNetwork, stage: Stage
) -> None:
    third = HostileServer(network, "third.test")
    user_id = "@carol:third.test"
    made = third.ask(
        stage.a, "GET", f"/make_join/{quote(stage.room_id)}/{quote(user_id)}?ver=11"
    ).json
    join = third.sign_template(made)
    stage.policy.operations["sign"] = lambda _, __: refusal()

    refused = third.send_join(stage.a, join)
    stage.policy.operations["sign"] = lambda _, pdu: stage.policy.sign(pdu)
    again = third.send_join(stage.a, join)

    assert (refused.status, again.status) == (403, 403)
    assert user_id not in stage.alice.get(f"{stage.path}/joined_members").json["joined"]
    made = third.ask(
        stage.a, "GET", f"/make_join/{quote(stage.room_id)}/{quote('@eve:third.test')}?ver=11"
    ).json
    assert third.send_join(stage.a, third.sign_template(made)).status == 200


def test_what_was_refused_stays_so_when_all_members_are_known_at_last(
    network: MemoryNetwork, stage: Stage, c: Homeserver, carol: User
) -> None:
    network.lose("a.test", "/federation/v1/state/")
    enter(carol, stage.room_id, stage.a.name)
    room = c.server.live_rooms.find_loaded(parse_room_id(stage.room_id))
    assert room is not None
    assert room.is_partial

    state = stage.alice.get(f"{stage.path}/state").json
    (join_id,) = [e["event_id"] for e in state if e["state_key"] == carol.user_id]
    auth = stage.message("").auth_events
    for text in (REFUSED, "good"):
        answer = stage.tell(stage.message(text, prev=[join_id], auth=auth, depth=50), server=c)
        assert list(answer.values()) == [{}]
    network.altered.clear()
    network.advance(600)

    assert not room.is_partial
    timeline = carol.sync()["rooms"]["join"][stage.room_id]["timeline"]["events"]
    shown = [e["content"]["body"] for e in timeline if e["type"] == "m.room.message"]
    assert shown == ["good"]
    said = said_in(carol, stage.room_id)
    assert said == ["good"]


# History.


def test_history_is_judged_too(stage: Stage, b: Homeserver) -> None:
    """What was said before the policy server came was never signed."""
    room_id = stage.alice.create_room(preset="public_chat")
    for number in range(130):
        stage.alice.send(room_id, REFUSED if number % 2 else f"{number}")
    stage.policy.join(stage.a, room_id, "guard")
    assert set_policy(stage.alice, room_id, stage.policy.content) == 200
    bob = b.register("bob")
    enter(bob, room_id, stage.a.name)

    assert said_in(bob, room_id) == [f"{number}" for number in range(0, 130, 2)]


def test_history_before_much_that_is_refused_is_found(stage: Stage, b: Homeserver) -> None:
    room_id = stage.alice.create_room(preset="public_chat")
    for number in range(260):
        stage.alice.send(room_id, REFUSED if 10 <= number < 250 else f"{number}")
    stage.policy.join(stage.a, room_id, "guard")
    assert set_policy(stage.alice, room_id, stage.policy.content) == 200
    bob = b.register("bob")
    enter(bob, room_id, stage.a.name)

    numbers = [*range(10), *range(250, 260)]
    assert said_in(bob, room_id) == [f"{number}" for number in numbers]


def test_history_is_left_for_later_while_the_policy_server_does_not_answer(
    network: MemoryNetwork, stage: Stage, b: Homeserver
) -> None:
    room_id = stage.alice.create_room(preset="public_chat")
    said = [f"{number}" for number in range(20)]
    for body in said:
        stage.alice.send(room_id, body)
    stage.policy.join(stage.a, room_id, "guard")
    assert set_policy(stage.alice, room_id, stage.policy.content) == 200
    bob = b.register("bob")
    enter(bob, room_id, stage.a.name)
    network.lose(stage.policy.name, SIGN)
    network.requests.clear()

    assert not said_in(bob, room_id)

    asked = [target for *_, target in network.requests if target == SIGN]
    assert 0 < len(asked) <= 40
    network.altered.clear()
    network.advance(3600)
    assert said_in(bob, room_id) == said


def said_in(user: User, room_id: str) -> list[str]:
    """Read back to the beginning."""
    said: list[str] = []
    token: dict[str, str] = {}
    for _ in range(50):
        path = f"/rooms/{quote(room_id)}/messages"
        pending = user.start_request("GET", path, query={"dir": "b", "limit": 50, **token})
        body = pending.reply().json
        said += [e["content"]["body"] for e in body["chunk"] if e["type"] == "m.room.message"]
        if "end" not in body:
            return said[::-1]
        token = {"from": body["end"]}
    raise AssertionError("there is no end")
