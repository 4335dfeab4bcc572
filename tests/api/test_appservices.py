"""Application services: registering users, acting as them, and being told of events."""

import dataclasses
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.appservice_registrations import Namespace, Namespaces, Registration
from homeserver.config import LimitsSection
from homeserver.core.identifiers import ServerName
from homeserver.services import appservice_sender
from homeserver.services.appservices import Appservice
from homeserver.transport.outbound import Answer, RequestFailed
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, OutboundRequest, User

REGISTRATION = Registration(
    id="irc",
    as_token="as-secret",
    hs_token="hs-secret",
    sender_localpart="ircbot",
    url="http://bridge.test:9000/",
    namespaces=Namespaces(users=[Namespace(regex="@_irc_.*:hs\\.test", exclusive=True)]),
)
GHOST = "@_irc_ann:hs.test"


def start(
    database: InlineDatabase,
    registration: Registration = REGISTRATION,
    room_version: str = DEFAULT_CONFIG.server.default_room_version,
) -> Homeserver:
    service = Appservice(registration, ServerName("hs.test"))
    server = dataclasses.replace(DEFAULT_CONFIG.server, default_room_version=room_version)
    return Homeserver(database, dataclasses.replace(DEFAULT_CONFIG, server=server), [service])


@pytest.fixture(params=["11", "12"])
def bridged(request: pytest.FixtureRequest, database: InlineDatabase) -> Any:
    homeserver = start(database, room_version=request.param)
    yield homeserver
    homeserver.stop()


def ask(homeserver: Homeserver, method: str, path: str, body: object, **query: Any) -> Any:
    return homeserver.request(
        method, f"/_matrix/client{path}", body, token="as-secret", query=query
    )


def register_ghost(homeserver: Homeserver, username: str = "_irc_ann") -> Any:
    body = {"type": "m.login.application_service", "username": username, "inhibit_login": True}
    return ask(homeserver, "POST", "/v3/register", body)


def room_with_ghost(homeserver: Homeserver, alice: User) -> str:
    """A room of alice's that the ghost is in; what was told of it is forgotten."""
    assert register_ghost(homeserver).status == 200
    room_id = alice.create_room(preset="public_chat")
    joined = ask(homeserver, "POST", f"/v3/join/{quote(room_id)}", {}, user_id=GHOST)
    assert joined.status == 200
    homeserver.http.requests.clear()
    return room_id


def told(requests: list[OutboundRequest]) -> list[str]:
    return [
        event["content"]["body"]
        for request in requests
        for event in request.json["events"]
        if event["type"] == "m.room.message"
    ]


def txn_ids(requests: list[OutboundRequest]) -> list[str]:
    return [request.url.rsplit("/", 1)[1] for request in requests]


def test_a_service_registers_its_users_and_nobody_else_does(bridged: Homeserver) -> None:
    made = register_ghost(bridged)
    outside = register_ghost(bridged, "somebody")
    by_others = bridged.request(
        "POST",
        "/_matrix/client/v3/register",
        {"username": "_irc_eve", "password": "long-password", "auth": {"type": "m.login.dummy"}},
    )

    assert made.json == {"user_id": GHOST}
    assert (outside.status, outside.errcode) == (400, "M_EXCLUSIVE")
    assert (by_others.status, by_others.errcode) == (400, "M_EXCLUSIVE")


def test_attack_11_a_service_does_not_act_as_others(bridged: Homeserver) -> None:
    alice = bridged.register("alice")

    reply = ask(bridged, "GET", "/v3/account/whoami", None, user_id=alice.user_id)

    assert reply.status == 403


def test_a_message_is_told_with_token_and_room(bridged: Homeserver) -> None:
    alice = bridged.register("alice")
    room_id = room_with_ghost(bridged, alice)

    event_id = alice.send(room_id, "hello")

    (request,) = bridged.http.requests
    assert request.method == "PUT"
    assert request.url.startswith("http://bridge.test:9000/_matrix/app/v1/transactions/")
    assert request.token == "hs-secret"
    (event,) = request.json["events"]
    assert (event["event_id"], event["room_id"]) == (event_id, room_id)


def test_what_a_ghost_says_is_told_too_and_rooms_without_ghosts_are_not(
    bridged: Homeserver,
) -> None:
    alice = bridged.register("alice")
    room_id = room_with_ghost(bridged, alice)
    other = alice.create_room()

    path = f"/v3/rooms/{quote(room_id)}/send/m.room.message/1"
    ask(bridged, "PUT", path, {"body": "from irc"}, user_id=GHOST)
    alice.send(other, "private")

    assert told(bridged.http.requests) == ["from irc"]


def test_an_invitation_of_a_ghost_is_told(bridged: Homeserver) -> None:
    alice = bridged.register("alice")
    register_ghost(bridged)

    alice.create_room(invite=[GHOST])

    (request,) = bridged.http.requests
    assert [e["state_key"] for e in request.json["events"] if e["type"] == "m.room.member"] == [
        GHOST
    ]


def test_a_service_that_answers_badly_gets_the_same_transaction_until_it_is_taken(
    bridged: Homeserver,
) -> None:
    alice = bridged.register("alice")
    room_id = room_with_ghost(bridged, alice)
    bridged.http.answers = [Answer(500, b""), RequestFailed("refused")]

    alice.send(room_id, "first")
    alice.send(room_id, "second")
    bridged.advance(1.5)
    bridged.advance(3)

    first, second, third, fourth = bridged.http.requests
    assert first == second == third
    assert told([third, fourth]) == ["first", "second"]
    assert int(txn_ids([fourth])[0]) > int(txn_ids([third])[0])


def test_a_transaction_under_way_is_repeated_unchanged_after_a_restart(
    bridged: Homeserver,
) -> None:
    alice = bridged.register("alice")
    room_id = room_with_ghost(bridged, alice)
    bridged.http.answers = [Answer(500, b"")] * 3
    alice.send(room_id, "first")
    alice.send(room_id, "second")
    (unanswered,) = bridged.http.requests

    alice.homeserver = after = bridged.restart()
    after.advance(2)

    repeated, following = after.http.requests
    assert repeated == unanswered
    assert told([following]) == ["second"]
    after.stop()


def test_what_happened_while_the_server_forgot_is_read_from_the_rooms(
    bridged: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appservice_sender, "_MAX_WAITING", 3)
    monkeypatch.setattr(appservice_sender, "_MAX_EVENTS", 4)
    alice = bridged.register("alice")
    room_id = room_with_ghost(bridged, alice)
    bridged.http.answers = [Answer(500, b"")] * 2

    for number in range(20):
        alice.send(room_id, f"m{number}")
    bridged.advance(1.5)
    bridged.advance(5)

    taken = {txn_id: request for request in bridged.http.requests for txn_id in txn_ids([request])}
    assert told(list(taken.values())) == [f"m{number}" for number in range(20)]
    numbers = [int(txn_id) for txn_id in taken]
    assert numbers == sorted(numbers)


def test_nothing_is_lost_when_rooms_do_not_stay_in_memory(database: InlineDatabase) -> None:
    service = Appservice(REGISTRATION, ServerName("hs.test"))
    limits = LimitsSection(live_rooms_bytes=1)
    config = dataclasses.replace(DEFAULT_CONFIG, limits=limits)
    homeserver = Homeserver(database, config, [service])
    alice = homeserver.register("alice")
    rooms = [room_with_ghost(homeserver, alice)]
    rooms.append(alice.create_room(preset="public_chat"))
    ask(homeserver, "POST", f"/v3/join/{quote(rooms[1])}", {}, user_id=GHOST)
    homeserver.http.requests.clear()

    for number in range(6):
        alice.send(rooms[number % 2], f"m{number}")

    assert told(homeserver.http.requests) == [f"m{number}" for number in range(6)]
    homeserver.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_database_that_fails_for_a_moment_does_not_end_the_telling(bridged: Homeserver) -> None:
    alice = bridged.register("alice")
    room_id = room_with_ghost(bridged, alice)
    bridged.http.answers = [Answer(500, b"")]
    alice.send(room_id, "first")
    bridged.database.fail_at = 1

    bridged.advance(1.5)  # taken now, but this cannot be written down
    bridged.advance(1.5)
    alice.send(room_id, "second")

    assert list(dict.fromkeys(told(bridged.http.requests))) == ["first", "second"]
    ids = txn_ids(bridged.http.requests)
    assert ids[0] == ids[1] == ids[2] != ids[3]


def test_a_service_pings_itself(bridged: Homeserver) -> None:
    reply = ask(bridged, "POST", "/v1/appservice/irc/ping", {"transaction_id": "mine"})

    (request,) = bridged.http.requests
    assert reply.status == 200
    assert reply.json["duration_ms"] == 0, "the clock stands still"
    assert (request.method, request.url, request.token, request.json) == (
        "POST",
        "http://bridge.test:9000/_matrix/app/v1/ping",
        "hs-secret",
        {"transaction_id": "mine"},
    )


@pytest.mark.parametrize(
    ("answer", "status", "errcode"),
    [
        (Answer(418, b"teapot"), 502, "M_BAD_STATUS"),
        (RequestFailed("refused"), 502, "M_CONNECTION_FAILED"),
        (RequestFailed("no answer in 30 s"), 504, "M_CONNECTION_TIMEOUT"),
    ],
)
def test_a_ping_says_what_went_wrong(
    bridged: Homeserver, answer: Any, status: int, errcode: str
) -> None:
    bridged.http.answers = [answer]

    reply = ask(bridged, "POST", "/v1/appservice/irc/ping", {})

    assert (reply.status, reply.errcode) == (status, errcode)


def test_a_ping_of_another_service_or_by_a_person_is_refused(bridged: Homeserver) -> None:
    alice = bridged.register("alice")

    other = ask(bridged, "POST", "/v1/appservice/telegram/ping", {})
    by_person = alice.post("/_matrix/client/v1/appservice/irc/ping", {})

    assert (other.status, by_person.status) == (403, 403)
    assert bridged.http.requests == []


def test_a_service_without_a_url_is_told_nothing_and_cannot_ping(
    database: InlineDatabase,
) -> None:
    homeserver = start(database, dataclasses.replace(REGISTRATION, url=None))
    alice = homeserver.register("alice")
    room_id = room_with_ghost(homeserver, alice)
    alice.send(room_id, "hello")

    reply = ask(homeserver, "POST", "/v1/appservice/irc/ping", {})

    assert (reply.status, reply.errcode) == (400, "M_URL_NOT_SET")
    assert homeserver.http.requests == []
    homeserver.stop()


def test_a_ping_ends_the_back_off(bridged: Homeserver) -> None:
    alice = bridged.register("alice")
    room_id = room_with_ghost(bridged, alice)
    bridged.http.answers += [RequestFailed("refused")] * 6
    alice.send(room_id, "hello")
    for _ in range(5):
        bridged.advance(16)
    failed = len(bridged.http.requests)
    bridged.http.answers.clear()

    reply = ask(bridged, "POST", "/v1/appservice/irc/ping", {})

    assert reply.status == 200
    pushed = [r for r in bridged.http.requests if r.method == "PUT"]
    assert failed >= 4
    assert len(pushed) == failed + 1
