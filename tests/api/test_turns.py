"""Whoever is in many rooms does not keep the server from everybody else."""

from collections.abc import Callable

import pytest

from tests.api.sliding import poll, room_list
from tests.homeserver import Homeserver, PendingReply, User

ASK: dict[str, Callable[[User], PendingReply]] = {
    "sync": lambda user: user.start_request("GET", "/sync"),
    "sliding sync": lambda user: poll(user, room_list(), None, 0),
}


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_rooms_in_memory_are_told_some_at_a_time(
    both_versions: Homeserver,
    alice: User,
    ask: Callable[[User], PendingReply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for service in ("sync", "sliding_sync"):
        monkeypatch.setattr(f"homeserver.services.{service}.service.ROOMS_AT_ONCE", 2)
    rooms = {alice.create_room() for _ in range(5)}

    pending = ask(alice)

    assert not pending.answered
    both_versions.advance(0)
    found = pending.reply().json["rooms"]
    assert set(found.get("join", found)) == rooms
