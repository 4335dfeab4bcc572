"""Class 5: answers that cost much, asked for all at the same time."""

from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import Deferred

from homeserver.services.federation.answer_turns import MAX_WAITING_OF_ONE
from homeserver.storage import served_events
from tests.federation.hostile_server import HostileServer, answer_of
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User
from tests.wire import Wire, parse_answer

_COSTLY = (served_events.list_pdus, served_events.list_before)
"""Read last for a whole room, and first for a page of history."""


class SlowDatabase:
    """Reads of what is served take until a test ends them."""

    def __init__(self, a: Homeserver, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reading: list[Deferred[None]] = []
        self.most = 0
        plain_read = a.database.read

        def read(function: Any, *args: Any, **kwargs: Any) -> Any:
            if function not in _COSTLY:
                return plain_read(function, *args, **kwargs)
            waiting: Deferred[None] = Deferred()
            self.reading.append(waiting)
            self.most = max(self.most, len(self.reading))
            return waiting.addCallback(lambda _: plain_read(function, *args, **kwargs))

        monkeypatch.setattr(a.database, "read", read)

    def end(self) -> None:
        while self.reading:
            self.reading.pop(0).callback(None)


def is_answered(wire: Wire) -> bool:
    return parse_answer(bytes(wire.received)) is not None


@pytest.mark.parametrize(
    ("path", "at_once"),
    [
        ("/state/{room}?event_id={event}", 1),
        ("/event_auth/{room}/{event}", 1),
        ("/backfill/{room}?v={event}&limit=10", 2),
    ],
)
def test_attack_5_costly_answers_are_made_a_few_at_a_time_and_others_are_answered_meanwhile(
    network: MemoryNetwork,
    a: Homeserver,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    at_once: int,
) -> None:
    room_id = alice.create_room(preset="public_chat")
    hostile, honest = HostileServer(network), HostileServer(network, "good.test")
    event = hostile.join(a, room_id).event_id
    honest.join(a, room_id, "bob")
    target = path.format(room=quote(room_id), event=quote(event, safe=""))
    slow = SlowDatabase(a, monkeypatch)

    many = [hostile.start_asking(a, "GET", target) for _ in range(at_once + MAX_WAITING_OF_ONE + 5)]
    network.settle()
    refused = [answer_of(wire) for wire in many if is_answered(wire)]
    other = honest.start_asking(a, "GET", target)
    network.settle()

    assert [reply.status for reply in refused] == [429] * 5
    assert all(reply.json["retry_after_ms"] > 0 for reply in refused)
    assert slow.most == at_once + 1
    slow.end()
    network.settle()
    assert answer_of(other).status == 200
    assert {answer_of(wire).status for wire in many} == {200, 429}


def test_attack_5_who_hangs_up_again_and_again_has_no_more_made_at_the_same_time(
    network: MemoryNetwork, a: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = a.register("alice").create_room(preset="public_chat")
    hostile = HostileServer(network)
    event = hostile.join(a, room_id).event_id
    target = f"/state/{quote(room_id)}?event_id={quote(event, safe='')}"
    slow = SlowDatabase(a, monkeypatch)

    for _ in range(5):
        hostile.start_asking(a, "GET", target).disconnect()
        network.settle()

    assert slow.most == 1
    slow.end()
    network.settle()
    waiting = hostile.start_asking(a, "GET", target)
    slow.end()
    network.settle()
    assert answer_of(waiting).status == 200


def test_attack_5_a_join_is_refused_before_it_is_taken_in_or_not_at_all(
    network: MemoryNetwork, a: Homeserver, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = alice.create_room(preset="public_chat")
    hostile = HostileServer(network)
    event = hostile.join(a, room_id).event_id
    path = f"/make_join/{quote(room_id)}/{quote('@second:evil.test')}?ver=11"
    join = hostile.sign_template(hostile.ask(a, "GET", path).json)
    slow = SlowDatabase(a, monkeypatch)
    target = f"/state/{quote(room_id)}?event_id={quote(event, safe='')}"
    for _ in range(1 + MAX_WAITING_OF_ONE):
        hostile.start_asking(a, "GET", target)

    refused = hostile.send_join(a, join)
    members = alice.get(f"/rooms/{quote(room_id)}/joined_members").json["joined"]
    slow.end()
    network.settle()

    assert refused.status == 429
    assert "@second:evil.test" not in members
    monkeypatch.undo()
    assert hostile.send_join(a, join).status == 200
