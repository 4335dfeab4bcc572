"""What the database refuses in one room does not keep the others from being written."""

from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import Deferred

from homeserver.core.identifiers import RoomID, UserID
from homeserver.engine.room_change import EventTemplate
from homeserver.errors import DatabaseUnavailable
from homeserver.storage import events
from tests.homeserver import Homeserver


def test_a_room_whose_rows_are_refused_fails_alone(
    homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = homeserver.register("alice")
    good, bad = alice.create_room(), alice.create_room()
    for room_id in (good, bad):
        alice.send(room_id, "so that everything needed is in memory")
    insert_events = events.insert_events

    def refusing(txn: Any, rows: Any) -> None:
        insert_events(txn, rows)
        if any(b"poison" in row.pdu for row in rows):
            insert_events(txn, rows)  # the same numbers a second time

    monkeypatch.setattr(events, "insert_events", refusing)
    loop = homeserver.server.commit_loop
    outcomes: dict[str, list[Any]] = {good: [], bad: []}
    loop._is_running = True  # both wait, as they do while a commit is under way
    for room_id, body in ((good, "fine"), (bad, "poison")):
        template = EventTemplate("m.room.message", UserID(alice.user_id), {"body": body})
        loop.submit(RoomID(room_id), [template]).addBoth(outcomes[room_id].append)
    Deferred.fromCoroutine(loop._run())

    assert [found.event.content for found in outcomes[good][0]] == [{"body": "fine"}]
    assert outcomes[bad][0].check(DatabaseUnavailable)
    monkeypatch.undo()
    for room_id in (good, bad):
        assert alice.send(room_id, "after")
        page = alice.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=2).json
        assert page["chunk"][0]["content"]["body"] == "after"
