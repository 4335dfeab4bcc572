"""Class 6: what might stop the queue of another server."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.identifiers import ServerName
from homeserver.engine.commit_loop import Committed
from homeserver.services.federation.sender import store_edus
from homeserver.storage.outgoing_edus import TO_DEVICE, NewEDU
from homeserver.storage.query import Txn, list_values
from homeserver.transport.outbound import Answer, Cause, RequestFailed
from tests.federation.hostile_server import HostileServer
from tests.federation.meeting import enter, meet
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User
from tests.results import result_of
from tests.room_state import history_visibility

BAD = b'{"errcode":"M_BAD_JSON","error":"no"}'


class Destination:
    """A hostile server in a room of alice's, and what it has taken."""

    def __init__(self, network: MemoryNetwork, a: Homeserver) -> None:
        self.network = network
        self.alice: User = a.register("alice")
        self.room_id = self.alice.create_room(preset="public_chat")
        self.hostile = HostileServer(network)
        self.hostile.join(a, self.room_id)
        network.advance(1)
        self.answer: Callable[[Any], Any] = lambda _: {"pdus": {}}
        self.taken: list[str] = []
        self.asked_at: list[float] = []
        self._reactor = a.reactor
        self.hostile.operations["send"] = self._send

    def _send(self, _: list[str], body: Any) -> Any:
        self.asked_at.append(self._reactor.seconds())
        answer = self.answer(body)
        if not isinstance(answer, Answer) or answer == Answer(200, b"{}"):
            self.taken += texts(body)
        return answer

    def say(self, *texts: str) -> None:
        for text in texts:
            self.alice.send(self.room_id, text)
        self.network.settle()


def texts(body: Any) -> list[str]:
    return [pdu["content"].get("body", pdu["type"]) for pdu in body["pdus"]]


@pytest.fixture
def there(network: MemoryNetwork, a: Homeserver) -> Destination:
    return Destination(network, a)


def dead_letters(a: Homeserver) -> list[bytes]:
    def read(txn: Txn) -> list[bytes]:
        return list_values(txn, bytes, "SELECT item FROM dead_letters")

    return result_of(a.database.read(read))


@pytest.mark.parametrize("status", [400, 413])
def test_attack_6_one_event_that_is_refused_stops_nothing(
    a: Homeserver, network: MemoryNetwork, there: Destination, status: int
) -> None:
    there.answer = lambda body: Answer(status, BAD) if "poison" in texts(body) else {"pdus": {}}
    there.answer, refuse = (lambda _: Answer(503, b"{}")), there.answer
    there.say("before", *(f"{n}" for n in range(30)), "poison", "after")
    there.answer = refuse

    network.advance(60)
    there.say("later")

    assert set(there.taken) == {"before", *(f"{n}" for n in range(30)), "after", "later"}
    (letter,) = dead_letters(a)
    assert b"poison" in letter


def test_attack_6_who_refuses_everything_loses_nothing(
    a: Homeserver, network: MemoryNetwork, there: Destination
) -> None:
    there.answer = lambda _: Answer(400, BAD)
    there.say("one", "two")
    network.advance(3600)
    requests = len(there.asked_at)

    there.answer = lambda _: {"pdus": {}}
    network.advance(4000)

    assert requests < 60
    assert there.taken == ["one", "two"]
    assert dead_letters(a) == []


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b""),
        Answer(200, b"<html>"),
        Answer(200, b"[]"),
        Answer(200, b"[" * 100_000),
        Answer(302, b"", {"location": "http://127.0.0.1/"}),
        Answer(401, b"{}"),
        Answer(403, b'{"errcode":7,"error":["x"]}'),
        Answer(404, b"\xff"),
        Answer(500, b"null"),
    ],
)
def test_attack_6_an_answer_that_makes_no_sense_is_tried_again_ever_more_seldom(
    network: MemoryNetwork, there: Destination, answer: Answer
) -> None:
    there.answer = lambda _: answer
    there.say("heard at last")
    for _ in range(240):
        network.advance(120)
    pauses = [b - a for a, b in zip(there.asked_at, there.asked_at[1:], strict=False)]
    there.answer = lambda _: {"pdus": {}}

    network.advance(4400)

    assert there.taken == ["heard at last"]
    assert pauses[0] <= 120
    assert 3600 <= pauses[-1] <= 4400
    assert len(pauses) < 40


def test_attack_6_a_server_that_hangs_holds_up_nobody_else(
    a: Homeserver, bob: User, there: Destination
) -> None:
    def hang(_: Any) -> Any:
        raise RequestFailed("no answer in 60 s", Cause.TIMEOUT)

    there.answer = hang
    enter(bob, there.room_id)
    there.say("for bob")

    assert "for bob" in str(bob.get(f"/rooms/{quote(there.room_id)}/messages", dir="b").json)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(429, b'{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":600000}'),
        Answer(429, b'{"errcode":"M_LIMIT_EXCEEDED"}', {"retry-after": "600"}),
        Answer(503, b"", {"retry-after": "600"}),
        Answer(429, b'{"retry_after_ms":1}', {"retry-after": "600"}),
    ],
)
def test_attack_6_who_asks_to_be_left_alone_is_even_when_it_says_something(
    network: MemoryNetwork, a: Homeserver, there: Destination, answer: Answer
) -> None:
    there.answer = lambda _: answer
    there.say("wait for it")

    network.advance(590)
    there.hostile.transaction(a)
    network.settle()
    early = len(there.asked_at)
    there.answer = lambda _: {"pdus": {}}
    network.advance(20)

    assert early == 1
    assert there.taken == ["wait for it"]


@pytest.mark.parametrize("asked", ["9" * 30, "-1", "soon", "1e9", "\u0663"])
def test_attack_6_nobody_is_left_alone_for_more_than_an_hour(
    network: MemoryNetwork, there: Destination, asked: str
) -> None:
    there.answer = lambda _: Answer(429, b'{"retry_after_ms":-7}', {"retry-after": asked})
    there.say("an hour")
    there.answer = lambda _: {"pdus": {}}

    network.advance(3601)

    assert there.taken == ["an hour"]


def test_a_request_of_a_server_ends_its_back_off_but_not_all_the_time(
    network: MemoryNetwork, a: Homeserver, there: Destination
) -> None:
    there.answer = lambda _: Answer(500, b"")
    there.say("soon")
    for _ in range(10):
        network.advance(3600)
    before = len(there.asked_at)

    for _ in range(20):
        there.hostile.transaction(a)
        network.advance(1)
    tried = len(there.asked_at) - before
    there.answer = lambda _: {"pdus": {}}
    network.advance(60)
    there.hostile.transaction(a)
    network.settle()

    assert tried == 1
    assert there.taken == ["soon"]


def test_a_back_off_that_was_under_way_at_a_restart_is_ended_by_a_request_too(
    network: MemoryNetwork, a: Homeserver, there: Destination
) -> None:
    there.answer = lambda _: Answer(500, b"")
    there.say("soon")
    for _ in range(10):
        network.advance(3600)
    now = a.reactor.seconds()
    again = network.add(a.restart())
    again.advance(now)
    network.settle()
    before = len(there.asked_at)
    there.answer = lambda _: {"pdus": {}}

    there.hostile.transaction(again)
    network.settle()

    assert len(there.asked_at) == before + 1
    assert there.taken == ["soon"]


def test_an_outage_of_the_database_does_not_end_a_queue(
    network: MemoryNetwork, a: Homeserver, there: Destination
) -> None:
    there.answer = lambda _: Answer(500, b"")
    there.say("one", "two")
    there.answer = lambda _: {"pdus": {}}

    for statement in range(1, 5):
        a.database.fail_at = statement
        network.advance(30)
    a.database.fail_at = None
    network.advance(100)

    assert set(there.taken) == {"one", "two"}


def test_what_is_under_way_is_not_deleted_before_it_has_arrived(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    network.advance(295)
    network.cut_off(b.name)
    alice.send(room_id, "lost?")
    network.settle()
    network.heal()
    network.hold(b.name, "/send/")
    network.advance(30)  # the second try is under way when the queues are tidied up
    network.let_through(b.name, "/send/")
    network.cut_off(b.name)
    network.settle()
    network.advance(600)

    network.heal()
    network.advance(4000)

    assert "lost?" in str(bob.get(f"/rooms/{quote(room_id)}/messages", dir="b").json)


def test_attack_6_an_edu_that_is_refused_stops_no_other(
    network: MemoryNetwork, a: Homeserver, there: Destination
) -> None:
    poisoned = [b'{"n":1}', b'{"n":2,"poison":true}', b'{"n":3}']
    rows = [NewEDU(ServerName("evil.test"), TO_DEVICE, "m.direct_to_device", c) for c in poisoned]
    taken: list[int] = []

    def answer(body: Any) -> Any:
        edus = [edu["content"] for edu in body.get("edus", [])]
        if any("poison" in content for content in edus):
            return Answer(400, BAD)
        taken.extend(content["n"] for content in edus)
        return {"pdus": {}}

    there.answer = answer
    a.database.run(store_edus, rows, a.clock.now_ms())
    a.server.federation_sender.note_stored_edus([ServerName("evil.test")])
    network.settle()
    there.say("a message")

    assert taken == [1, 3]
    assert there.taken == ["a message"]


def test_attack_8_a_server_that_joins_is_not_sent_what_was_said_before_it_was_there(
    network: MemoryNetwork, a: Homeserver, bob: User, there: Destination
) -> None:
    """What it missed elsewhere is read from the same list of events."""
    private = there.alice.create_room(
        preset="public_chat", initial_state=[history_visibility("joined")]
    )
    enter(bob, private)
    there.answer = lambda _: Answer(500, b"")
    there.say("for those here")
    network.advance(60)
    there.alice.send(private, "secret")
    network.settle()
    there.hostile.join(a, private, "mole")
    there.alice.send(private, "for the mole too")
    there.answer = lambda _: {"pdus": {}}

    network.advance(4000)

    assert "secret" not in there.taken
    assert {"for those here", "for the mole too"} <= set(there.taken)


def test_attack_8_a_server_that_joins_is_not_sent_what_was_committed_together_with_its_join(
    network: MemoryNetwork, a: Homeserver, bob: User, there: Destination
) -> None:
    private = there.alice.create_room(
        preset="public_chat", initial_state=[history_visibility("joined")]
    )
    enter(bob, private)
    secret = there.alice.send(private, "secret")
    join = there.hostile.join(a, private, "mole")
    after = there.alice.send(private, "for the mole too")
    network.settle()
    there.taken.clear()
    room = a.server.live_rooms.find_loaded(join.room_id)
    assert room is not None
    batch = [
        Committed(room.room_id, found)
        for found in room.recent
        if found.event_id in (secret, join.event_id, after)
    ]

    a.server.federation_sender.note_committed(batch)
    network.settle()

    assert len(batch) == 3
    assert there.taken == ["for the mole too"]
