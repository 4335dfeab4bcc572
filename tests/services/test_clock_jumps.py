"""The clock of the machine jumps an hour: timeouts and limits do not care, and nothing is lost.

What the wall clock decides: timestamps that people see, when an access token expires, and how long
what is stored is kept (transaction ids, a day). Everything else counts on the monotonic clock.
"""

from urllib.parse import quote

import pytest

from homeserver.config import RateLimitSection
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, START_MS, Homeserver, User

HOUR_SECONDS = 3600
JUMPS = pytest.mark.parametrize("jump_seconds", [HOUR_SECONDS, -HOUR_SECONDS])


@pytest.fixture
def alice(homeserver: Homeserver) -> User:
    return homeserver.register("alice")


@JUMPS
def test_attack_15_events_go_on_in_order_whatever_the_clock_says(
    alice: User, jump_seconds: int
) -> None:
    room_id = alice.create_room()
    first = alice.send(room_id, "before")
    since = alice.sync()["next_batch"]

    alice.homeserver.jump(jump_seconds)
    second = alice.send(room_id, "after", "t-after")
    again = alice.send(room_id, "after", "t-after")

    (event,) = alice.sync(since)["rooms"]["join"][room_id]["timeline"]["events"]
    assert event["event_id"] == second == again
    assert event["origin_server_ts"] == START_MS + jump_seconds * 1000
    chunk = alice.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=2).json["chunk"]
    assert [e["event_id"] for e in chunk] == [second, first]


@JUMPS
def test_attack_15_a_long_poll_takes_its_time_and_no_more(alice: User, jump_seconds: int) -> None:
    since = alice.sync()["next_batch"]
    poll = alice.start_request("GET", "/sync", query={"since": since, "timeout": 30_000})

    alice.homeserver.jump(jump_seconds)
    alice.homeserver.advance(29)
    assert not poll.answered
    alice.homeserver.advance(2)

    assert poll.reply().status == 200


@JUMPS
def test_attack_15_rate_limits_neither_open_nor_close(
    database: InlineDatabase, jump_seconds: int
) -> None:
    limits = RateLimitSection(enabled=True, per_second=1, burst=5)
    server = Homeserver(
        database,
        DEFAULT_CONFIG.__class__(
            server=DEFAULT_CONFIG.server,
            registration=DEFAULT_CONFIG.registration,
            passwords=DEFAULT_CONFIG.passwords,
            rate_limits=limits,
        ),
    )
    alice = server.register("alice")
    room_id = alice.create_room()
    used_up = [alice.join(room_id).status for _ in range(6)]

    server.jump(jump_seconds)
    at_once = alice.join(room_id).status
    server.advance(1.1)
    later = alice.join(room_id).status

    assert (used_up[-1], at_once, later) == (429, 429, 200)
    server.stop()


@JUMPS
def test_attack_15_who_types_stops_after_the_time_he_gave(alice: User, jump_seconds: int) -> None:
    room_id = alice.create_room()
    since = alice.sync()["next_batch"]
    path = f"/rooms/{quote(room_id)}/typing/{quote(alice.user_id)}"
    assert alice.put(path, {"typing": True, "timeout": 20_000}).status == 200

    alice.homeserver.jump(jump_seconds)
    alice.homeserver.advance(19)
    typing = alice.sync(since)["rooms"]["join"][room_id]["ephemeral"]["events"]
    assert typing[0]["content"]["user_ids"] == [alice.user_id]
    alice.homeserver.advance(2)

    typing = alice.sync(since)["rooms"]["join"][room_id]["ephemeral"]["events"]
    assert typing[0]["content"]["user_ids"] == []


@JUMPS
def test_attack_15_an_authentication_session_lives_as_long_as_it_should(
    alice: User, jump_seconds: int
) -> None:
    device = {"devices": [alice.device_id]}
    session = alice.post("/delete_devices", device).json["session"]
    password = alice.proof("wrong", session=session)

    alice.homeserver.jump(jump_seconds)
    alice.homeserver.advance(14 * 60)
    in_time = alice.post("/delete_devices", {**device, "auth": password}).json
    alice.homeserver.advance(2 * 60)
    too_late = alice.post("/delete_devices", {**device, "auth": password}).json

    assert in_time["session"] == session
    assert too_late["session"] != session


@JUMPS
def test_attack_15_presence_fades_after_its_time(alice: User, jump_seconds: int) -> None:
    path = f"/presence/{quote(alice.user_id)}/status"
    assert alice.put(path, {"presence": "online"}).status == 200

    alice.homeserver.jump(jump_seconds)
    alice.homeserver.advance(1)
    reply = alice.get(path).json

    assert reply["presence"] == "online"
    assert 0 <= reply.get("last_active_ago", 0) < 10_000


def test_a_clock_set_forward_ends_an_access_token_that_can_be_refreshed(alice: User) -> None:
    login = alice.proof(refresh_token=True)
    grant = alice.homeserver.request("POST", "/_matrix/client/v3/login", login).json
    device = User(alice.homeserver, alice.user_id, grant["access_token"], grant["device_id"])

    alice.homeserver.jump(HOUR_SECONDS)
    ended = device.get("/account/whoami")
    fresh = alice.homeserver.request(
        "POST", "/_matrix/client/v3/refresh", {"refresh_token": grant["refresh_token"]}
    )
    device.token = fresh.json["access_token"]
    alice.homeserver.jump(0)

    assert (ended.status, ended.json["soft_logout"]) == (401, True)
    assert device.get("/account/whoami").status == 200, "also when the clock is right again"
    assert alice.get("/account/whoami").status == 200


@JUMPS
def test_attack_15_repeated_transactions_answer_the_first_event_after_a_restart(
    homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch, jump_seconds: int
) -> None:
    alice = homeserver.register("alice")
    room_id = alice.create_room()
    first = alice.send(room_id, "once", "t1")

    monkeypatch.setattr("tests.homeserver.START_MS", START_MS + jump_seconds * 1000)
    alice.homeserver = homeserver.restart()

    assert alice.send(room_id, "once", "t1") == first
    alice.homeserver.stop()
