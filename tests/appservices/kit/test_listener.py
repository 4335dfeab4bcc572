import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from appservices.kit.inbox import Inbox
from appservices.kit.listener import Listener, find_nobody
from homeserver.core.json_types import JsonObject
from tests.appservices.conftest import OpenDatabase

TOKEN = "hs-token-hs-token"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
TRANSACTION = "/_matrix/app/v1/transactions/1"
EVENTS: JsonObject = {"events": [{"event_id": "$a"}]}


class Served:
    """A listener on a loopback socket, one request at a time."""

    def __init__(self, waiting: Inbox) -> None:
        self.inbox = waiting
        self.woken = 0
        self.find_user: Callable[[str], Awaitable[bool]] = find_nobody
        self.find_room: Callable[[str], Awaitable[bool]] = find_nobody

    def request(
        self,
        method: str,
        path: str,
        body: JsonObject | bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, JsonObject]:
        async def exchange() -> tuple[int, JsonObject]:
            listener = Listener(
                TOKEN,
                self.inbox,
                on_events=self.wake,
                find_user=self.find_user,
                find_room=self.find_room,
            )
            app = listener.application(max_body_bytes=2048)
            async with TestClient(TestServer(app)) as client:
                sent = {"data": body} if isinstance(body, bytes) else {"json": body}
                response: ClientResponse = await client.request(
                    method, path, headers=AUTHORIZED if headers is None else headers, **sent
                )
                answer = await response.json()
                assert isinstance(answer, dict)
                return response.status, answer

        return asyncio.run(exchange())

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def served(open_bot_database: OpenDatabase) -> Served:
    return Served(Inbox(open_bot_database(), max_waiting=3))


def test_transaction_is_stored_then_answered(served: Served) -> None:
    assert served.request("PUT", TRANSACTION, EVENTS) == (200, {})
    assert served.inbox.count_waiting() == 1
    assert served.woken == 1


def test_repeated_transaction_is_answered_without_waking_anybody(served: Served) -> None:
    served.request("PUT", TRANSACTION, EVENTS)

    assert served.request("PUT", TRANSACTION, EVENTS) == (200, {})
    assert served.inbox.count_waiting() == 1
    assert served.woken == 1


def test_ephemeral_data_is_not_taken_for_events(served: Served) -> None:
    body: JsonObject = {"events": [], "ephemeral": [{"type": "m.typing", "event_id": "$x"}]}

    assert served.request("PUT", TRANSACTION, body) == (200, {})
    assert served.inbox.count_waiting() == 0


@pytest.mark.parametrize(
    ("headers", "status", "errcode"),
    [
        ({}, 401, "M_MISSING_TOKEN"),
        ({"Authorization": f"Basic {TOKEN}"}, 401, "M_MISSING_TOKEN"),
        ({"Authorization": "Bearer "}, 401, "M_MISSING_TOKEN"),
        ({"Authorization": f"Bearer {TOKEN}x"}, 403, "M_FORBIDDEN"),
        ({"Authorization": "Bearer t\u00f6ken"}, 403, "M_FORBIDDEN"),
    ],
)
def test_stranger_is_refused_and_stores_nothing(
    served: Served, headers: dict[str, str], status: int, errcode: str
) -> None:
    answered, body = served.request("PUT", TRANSACTION, EVENTS, headers)

    assert (answered, body["errcode"]) == (status, errcode)
    assert served.inbox.count_waiting() == 0


def test_query_token_must_agree_with_the_header(served: Served) -> None:
    assert served.request("PUT", f"{TRANSACTION}?access_token={TOKEN}", EVENTS)[0] == 200
    assert served.request("PUT", f"{TRANSACTION}?access_token=other", EVENTS)[0] == 403
    assert served.request("PUT", f"{TRANSACTION}?access_token={TOKEN}", EVENTS, {})[0] == 401


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        (b"not json", 400, "M_NOT_JSON"),
        (b"[]", 400, "M_NOT_JSON"),
        (b"{}", 400, "M_BAD_JSON"),
        (b'{"events": {}}', 400, "M_BAD_JSON"),
        (b'{"events": [], "x": "' + b"x" * 4096 + b'"}', 413, "M_TOO_LARGE"),
    ],
)
def test_unusable_bodies_are_refused(
    served: Served, body: bytes, status: int, errcode: str
) -> None:
    answered, content = served.request("PUT", TRANSACTION, body)

    assert (answered, content["errcode"]) == (status, errcode)


def test_full_inbox_makes_the_homeserver_try_again(served: Served) -> None:
    many: JsonObject = {"events": [{"event_id": f"${number}"} for number in range(4)]}

    assert served.request("PUT", TRANSACTION, many)[0] == 503
    assert served.inbox.count_waiting() == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/_matrix/app/v1/thirdparty/protocol/irc", 404),
        ("GET", "/_matrix/app/v1/thirdparty/user", 404),
        ("PUT", "/transactions/1", 404),
        ("GET", "/", 404),
        ("POST", TRANSACTION, 405),
        ("GET", "/_matrix/app/v1/ping", 405),
    ],
)
def test_what_is_not_served_is_unrecognized(
    served: Served, method: str, path: str, status: int
) -> None:
    answered, body = served.request(method, path)

    assert (answered, body["errcode"]) == (status, "M_UNRECOGNIZED")


def test_ping_with_the_right_token_is_answered(served: Served) -> None:
    body: JsonObject = {"transaction_id": "meow"}

    assert served.request("POST", "/_matrix/app/v1/ping", body) == (200, {})
    assert served.request("POST", "/_matrix/app/v1/ping", body, {})[0] == 401


def test_users_and_rooms_exist_when_their_owner_says_so(served: Served) -> None:
    asked: list[str] = []

    async def find(name: str) -> bool:
        asked.append(name)
        return "known" in name

    served.find_user = served.find_room = find

    assert served.request("GET", "/_matrix/app/v1/users/@known%2Fa:hs.test") == (200, {})
    assert served.request("GET", "/_matrix/app/v1/rooms/%23known:hs.test") == (200, {})
    status, body = served.request("GET", "/_matrix/app/v1/users/@other:hs.test")
    assert (status, body["errcode"]) == (404, "M_NOT_FOUND")
    assert served.request("GET", "/_matrix/app/v1/rooms/%23other:hs.test")[0] == 404
    assert asked == ["@known/a:hs.test", "#known:hs.test", "@other:hs.test", "#other:hs.test"]


def test_malformed_user_and_alias_do_not_exist(served: Served) -> None:
    assert served.request("GET", "/_matrix/app/v1/users/nobody")[0] == 404
    assert served.request("GET", "/_matrix/app/v1/rooms/nowhere")[0] == 404
