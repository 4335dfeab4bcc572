"""Attack classes 13 and 14: what is not a well-formed request of a known operation."""

import json
from typing import Any

import orjson
import pytest

from homeserver.transport.http_server import HttpServer
from tests.homeserver import Homeserver, User
from tests.wire import Wire, parse_answer

V3 = "/_matrix/client/v3"
MAX_BODY = 1000
TIMEOUT = 60


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/_matrix/client/v3/nothing", 404),
        ("GET", "/index.html", 404),
        ("GET", "/_matrix/client/v3/rooms/!a:hs.test/state/a/b/c", 404),
        ("PATCH", "/_matrix/client/versions", 405),
        ("DELETE", "/_matrix/client/v3/sync", 405),
        ("FROBNICATE", "/_matrix/client/v3/sync", 405),
    ],
)
def test_attack_14_what_is_not_an_operation_is_unrecognized(
    homeserver: Homeserver, method: str, path: str, status: int
) -> None:
    reply = homeserver.request(method, path)

    assert (reply.status, reply.errcode) == (status, "M_UNRECOGNIZED")
    assert reply.headers.getRawHeaders("access-control-allow-origin") == ["*"]


@pytest.mark.parametrize("path", [f"{V3}/sync", f"{V3}/not/served"])
def test_a_preflight_is_answered_without_a_token(homeserver: Homeserver, path: str) -> None:
    reply = homeserver.request("OPTIONS", path)

    assert (reply.status, reply.body) == (204, b"")
    allowed = reply.headers.getRawHeaders("access-control-allow-headers")
    assert allowed == ["X-Requested-With, Content-Type, Authorization"]
    methods = (reply.headers.getRawHeaders("access-control-allow-methods") or [""])[0]
    assert {"GET", "POST", "PUT", "DELETE", "OPTIONS"} <= set(methods.split(", "))


def test_nothing_is_put_without_a_body(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    room_id = alice.create_room(topic="Tea")
    path = f"/rooms/{room_id}/state/m.room.topic/"

    reply = alice.put(path, None)

    assert (reply.status, reply.errcode) == (400, "M_NOT_JSON")
    assert alice.get(path).json["topic"] == "Tea"


def test_head_is_get_without_the_body(homeserver: Homeserver) -> None:
    got = homeserver.request("GET", "/_matrix/client/versions")

    reply = homeserver.request("HEAD", "/_matrix/client/versions")

    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers.getRawHeaders("content-length") == [str(len(got.body))]


@pytest.mark.parametrize(
    ("raw", "errcode"),
    [
        (b"{", "M_NOT_JSON"),
        (b"\xff\xfe", "M_NOT_JSON"),
        (b'{"a": NaN}', "M_NOT_JSON"),
        (b'{"a": "\\ud800"}', "M_NOT_JSON"),
        (b"[" * 100_000, "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
        (b'"text"', "M_BAD_JSON"),
        (b"null", "M_BAD_JSON"),
        (b'{"name": 1}', "M_BAD_JSON"),
    ],
)
def test_attack_13_a_body_that_is_no_object_of_the_operation_is_refused(
    homeserver: Homeserver, raw: bytes, errcode: str
) -> None:
    alice = homeserver.register("alice")

    reply = alice.request("POST", "/createRoom", raw=raw)

    assert (reply.status, reply.errcode) == (400, errcode)


@pytest.mark.parametrize("depth", [200, 300, 900, 5000])
@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_attack_13_deep_nesting_is_stored_or_refused_but_never_an_error(
    homeserver: Homeserver, depth: int, opening: str
) -> None:
    alice = homeserver.register("alice")
    room_id = alice.create_room()
    closing = {"[": "]", '{"a":': "}"}[opening]
    raw = f'{{"body":"x","deep":{opening * depth}1{closing * depth}}}'.encode()

    replies = [
        alice.request("PUT", f"/rooms/{room_id}/send/m.room.message/t", raw=raw),
        alice.request("PUT", f"/rooms/{room_id}/state/org.example/", raw=raw),
        alice.request("PUT", f"/user/{alice.user_id}/account_data/org.example", raw=raw),
        alice.request("PUT", f"/sendToDevice/org.example/{depth}", raw=b'{"messages":{"'
            + alice.user_id.encode() + b'":{"*":' + raw + b"}}}"),
        alice.request("POST", "/createRoom", raw=b'{"creation_content":' + raw + b"}"),
        alice.request("POST", f"/user/{alice.user_id}/filter", raw=raw),
    ]  # fmt: skip

    assert {reply.status for reply in replies} <= {200, 400}
    assert alice.get("/sync").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/rooms/%ff%fe/state",
        "/rooms/!a:hs.test/state/%C0%80",
        "/rooms/!a%00:hs.test/state",
        "/rooms/!a:hs.test/state/m.room.name/%00",
        "/directory/room/%23a%00:hs.test",
    ],
)
def test_attack_14_a_path_that_is_no_text_is_refused(homeserver: Homeserver, path: str) -> None:
    reply = homeserver.register("alice").get(path)

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


def test_attack_14_a_slash_in_an_id_stays_in_the_id(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    room_id = alice.create_room()

    reply = alice.put(f"/rooms/{room_id}/state/org.example/a%2Fb%3Fc%23d", {"x": 1})

    assert reply.status == 200
    keys = [e["state_key"] for e in alice.get(f"/rooms/{room_id}/state").json]
    assert "a/b?c#d" in keys


@pytest.mark.parametrize("place", ["header", "query"])
def test_an_access_token_is_read_from_the_header_and_from_the_query(
    homeserver: Homeserver, place: str
) -> None:
    alice = homeserver.register("alice")

    if place == "header":
        reply = homeserver.request("GET", f"{V3}/account/whoami", token=alice.token)
    else:
        reply = homeserver.request(
            "GET", f"{V3}/account/whoami", query={"access_token": alice.token}
        )

    assert reply.json["user_id"] == alice.user_id


@pytest.mark.parametrize(
    ("headers", "errcode"),
    [
        ({}, "M_MISSING_TOKEN"),
        ({"Authorization": "Bearer"}, "M_MISSING_TOKEN"),
        ({"Authorization": "Basic YTpi"}, "M_MISSING_TOKEN"),
        ({"Authorization": "Bearer unknown"}, "M_UNKNOWN_TOKEN"),
        ({"Authorization": "Bearer \xe9"}, "M_UNKNOWN_TOKEN"),
    ],
)
def test_attack_11_without_a_good_token_nothing_is_answered(
    homeserver: Homeserver, headers: dict[str, str], errcode: str
) -> None:
    reply = homeserver.request("GET", f"{V3}/sync", headers=headers)

    assert (reply.status, reply.errcode) == (401, errcode)


@pytest.mark.parametrize("query", ["a=%ff", "limit=x", "timeout=1e3", "since=s1_%00"])
def test_attack_14_a_broken_query_is_refused(homeserver: Homeserver, query: str) -> None:
    alice = homeserver.register("alice")

    replies = [
        alice.request("GET", f"/sync?{query}"),
        alice.request("GET", f"/rooms/!a:hs.test/messages?dir=b&{query}"),
    ]

    assert {r.status for r in replies} <= {400, 403, 200}
    assert 400 in {r.status for r in replies}


@pytest.mark.parametrize(
    "token", ["s9999999999999999999_0_0_0_0_0_0", "t9999999999999999999_1", "t-1_-9999999999999"]
)
def test_attack_14_a_token_beyond_all_numbers_is_no_error(
    homeserver: Homeserver, token: str
) -> None:
    alice = homeserver.register("alice")
    room_id = alice.create_room()

    replies = [
        alice.get(f"/rooms/{room_id}/messages", dir=direction, **{"from": token})
        for direction in "bf"
    ] + [alice.get(f"/rooms/{room_id}/members", at=token)]

    assert {reply.status for reply in replies} <= {200, 400}


class Connection(Wire):
    """One connection to a server that takes small bodies only."""

    def __init__(self, homeserver: Homeserver) -> None:
        server = HttpServer(
            homeserver.server.root.answer,
            homeserver.clock,
            max_body_bytes=MAX_BODY,
            timeout_seconds=TIMEOUT,
        )
        super().__init__(server)


def post(alice: User, path: str, content_type: str, body: bytes) -> bytes:
    return (
        f"POST {V3}{path} HTTP/1.1\r\nHost: hs.test\r\nContent-Type: {content_type}\r\n"
        f"Authorization: Bearer {alice.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def answers(received: bytes) -> list[tuple[int, Any]]:
    """Split a connection's bytes into (status, JSON)."""
    found = []
    while (answer := parse_answer(received)) is not None:
        status, _, body, received = answer
        found.append((status, json.loads(body) if body else None))
    return found


@pytest.mark.parametrize("announced", [True, False])
def test_attack_13_a_body_that_is_too_large_is_refused_once_and_not_read(
    homeserver: Homeserver, announced: bool
) -> None:
    alice = homeserver.register("alice")
    connection = Connection(homeserver)
    head = f"POST {V3}/createRoom HTTP/1.1\r\nHost: hs.test\r\n"
    length = "Content-Length: 100000" if announced else "Transfer-Encoding: chunked"
    head += f"Authorization: Bearer {alice.token}\r\n{length}\r\n\r\n"

    connection.send(head.encode())
    for _ in range(4):
        received = connection.send(b"x" * 600 if announced else b"258\r\n" + b"x" * 600 + b"\r\n")

    assert [(status, body["errcode"]) for status, body in answers(received)] == [
        (413, "M_TOO_LARGE")
    ]
    assert connection.is_closed


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "x"],
)
def test_attack_13_a_form_is_read_as_the_json_it_must_be(
    homeserver: Homeserver, content_type: str
) -> None:
    alice = homeserver.register("alice")

    received = Connection(homeserver).send(post(alice, "/createRoom", content_type, b"{}"))
    broken = Connection(homeserver).send(post(alice, "/createRoom", content_type, b"a=1&a=2"))

    assert answers(received)[0][0] == 200
    assert answers(broken)[0][1]["errcode"] == "M_NOT_JSON"


def test_attack_14_pipelined_requests_are_answered_in_order(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    token = f"Authorization: Bearer {alice.token}"
    whoami = f"GET {V3}/account/whoami HTTP/1.1\r\nHost: a\r\n{token}\r\n\r\n".encode()
    versions = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n\r\n"

    found = answers(Connection(homeserver).send(whoami + versions + whoami))

    assert [status for status, _ in found] == [200, 200, 200]
    assert ["user_id" in body for _, body in found] == [True, False, True]


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: +3",
        "Transfer-Encoding: xchunked",
    ],
)
def test_attack_14_a_request_of_unclear_length_is_never_an_operation(
    homeserver: Homeserver, lines: str
) -> None:
    alice = homeserver.register("alice")
    connection = Connection(homeserver)

    received = connection.send(
        f"POST {V3}/createRoom HTTP/1.1\r\nHost: a\r\n{lines}\r\n"
        f"Authorization: Bearer {alice.token}\r\n\r\n0\r\n\r\n".encode()
    )

    assert b" 400 " in received.split(b"\r\n")[0] or b" 501 " in received.split(b"\r\n")[0]
    assert alice.get("/joined_rooms").json == {"joined_rooms": []}


def test_attack_14_an_error_says_nothing_of_the_server(homeserver: Homeserver) -> None:
    reply = homeserver.request("POST", f"{V3}/login", raw=b"{")

    assert orjson.loads(reply.body).keys() == {"errcode", "error"}
