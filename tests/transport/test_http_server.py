"""Connections: order, limits, time, and attack class 14: bytes that can be read in two ways."""

import io
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock as FakeReactor
from twisted.python.failure import Failure

from homeserver.clock import Clock
from homeserver.transport.endpoint import FileBody, Response
from homeserver.transport.http_parser import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_WAITING,
    HttpRequest,
    RequestParser,
)
from homeserver.transport.http_server import HttpServer
from tests.wire import Wire, parse_answer

TIMEOUT = 60
MAX_BODY = 1000
GET = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n%s"
CHUNKED = b"Transfer-Encoding: chunked"


class Echo:
    """Answers a request with its target and body, at once or when it is let."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.server = HttpServer(
            self._answer,
            Clock(self.reactor, wall=lambda: 1_700_000_000.0),
            max_body_bytes=MAX_BODY,
            timeout_seconds=TIMEOUT,
            larger_bodies={b"/large": 2 * MAX_BODY},
            max_held_bytes=2 * MAX_BODY,
        )
        self.is_slow = False
        self.headers: dict[str, str] = {}
        self.file: FileBody | None = None
        self.requests: list[HttpRequest] = []
        self.waiting: list[Callable[[], None]] = []
        self.cancelled: list[bytes] = []

    def _answer(self, request: HttpRequest) -> Deferred[Response]:
        def cancel(_: object) -> None:
            self.cancelled.append(request.target)

        answer: Deferred[Response] = Deferred(cancel)
        response = Response(
            request.target + request.body, "text/plain", 200, self.headers, self.file
        )
        self.requests.append(request)
        if self.is_slow:
            self.waiting.append(lambda: answer.callback(response))
        else:
            answer.callback(response)
        return answer

    def open(self) -> Wire:
        return Wire(self.server)


@pytest.fixture
def echo() -> Echo:
    return Echo()


def statuses(received: bytes) -> list[int]:
    return [status for status, _ in answers(received)]


def answers(received: bytes) -> list[tuple[int, bytes]]:
    found = []
    while (answer := parse_answer(received)) is not None:
        status, _, body, received = answer
        found.append((status, body))
    return found


# --- order


def test_requests_sent_ahead_are_answered_one_after_the_other(echo: Echo) -> None:
    echo.is_slow = True
    wire = echo.open()

    wire.send(GET % b"1" + GET % b"2" + GET % b"3")

    assert [request.target for request in echo.requests] == [b"/1"]
    for number in range(3):
        echo.waiting[number]()
    assert answers(bytes(wire.received)) == [(200, b"/1"), (200, b"/2"), (200, b"/3")]


def test_what_is_refused_is_told_after_the_answers_before_it(echo: Echo) -> None:
    echo.is_slow = True
    wire = echo.open()

    wire.send(GET % b"1" + b"GET nonsense\r\n\r\n")

    assert wire.received == b""
    echo.waiting[0]()
    assert statuses(bytes(wire.received)) == [200, 400]
    assert wire.is_closed


def test_a_client_that_sends_far_ahead_is_not_read_until_it_is_answered(echo: Echo) -> None:
    echo.is_slow = True
    wire = echo.open()

    wire.send(GET % b"1")
    wire.send(GET % b"2")

    assert not wire.reads_on
    echo.waiting[0]()
    echo.waiting[1]()
    assert wire.reads_on


def test_too_many_requests_at_once_end_the_connection(echo: Echo) -> None:
    echo.is_slow = True
    wire = echo.open()

    wire.send(GET % b"x" * (MAX_WAITING + 10))

    while echo.waiting:
        echo.waiting.pop()()
    assert statuses(bytes(wire.received)) == [200] * MAX_WAITING + [400]
    assert wire.is_closed


@settings(max_examples=200)
@given(st.lists(st.integers(1, 300), max_size=8))
def test_requests_are_the_same_however_their_bytes_arrive(cuts: list[int]) -> None:
    stream = (
        GET % b"1"
        + POST % (b"Content-Length: 5", b"hello")
        + POST % (CHUNKED, b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n")
        + GET % b"2"
    )
    parser = RequestParser(MAX_BODY, "a", is_secure=False)

    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    for begin, end in itertools.pairwise(edges):
        parser.receive(stream[begin:end])

    assert [(request.target, request.body) for request in parser.ready] == [
        (b"/1", b""),
        (b"/", b"hello"),
        (b"/", b"abcde"),
        (b"/2", b""),
    ]
    assert all(b"trailer" not in request.headers for request in parser.ready)


# --- hanging up


@pytest.mark.parametrize(("method", "is_cut_short"), [(b"GET", True), (b"POST", False)])
def test_a_client_that_hangs_up_ends_what_reads_and_not_what_writes(
    echo: Echo, method: bytes, is_cut_short: bool
) -> None:
    echo.is_slow = True
    wire = echo.open()

    wire.send(method + b" /x HTTP/1.1\r\nHost: a\r\n\r\n")
    wire.disconnect()

    assert echo.cancelled == ([b"/x"] if is_cut_short else [])
    if not is_cut_short:
        echo.waiting[0]()  # and its answer goes nowhere
    assert wire.received == b""


def test_an_answer_that_fails_closes_the_connection(echo: Echo) -> None:
    failing: Deferred[Response] = Deferred()
    echo.server.answer = lambda _request: failing
    wire = echo.open()

    wire.send(GET % b"x")
    failing.errback(Failure(CancelledError()))

    assert (bytes(wire.received), wire.is_closed) == (b"", True)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /x HTTP/1.0\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_a_connection_that_does_not_go_on_is_closed_after_the_answer(
    echo: Echo, request_bytes: bytes
) -> None:
    wire = echo.open()

    received = wire.send(request_bytes)

    assert answers(received) == [(200, b"/x")]
    assert b"\r\nConnection: close\r\n" in received
    assert wire.is_closed


# --- time


def test_an_idle_connection_is_closed_after_a_while_and_a_waiting_one_is_not(echo: Echo) -> None:
    echo.is_slow = True
    idle, waiting = echo.open(), echo.open()
    waiting.send(GET % b"x")

    for _ in range(3):
        echo.reactor.advance(TIMEOUT / 2)

    assert (idle.is_closed, waiting.is_closed) == (True, False)


def test_attack_14_a_head_that_comes_byte_by_byte_is_cut_off(echo: Echo) -> None:
    wire = echo.open()

    for byte in b"GET / HTTP/1.1":
        if not wire.is_closed:
            wire.send(bytes([byte]))
            echo.reactor.advance(TIMEOUT / 4)

    assert wire.is_closed


def test_a_body_may_take_its_time_as_long_as_it_comes(echo: Echo) -> None:
    wire = echo.open()

    wire.send(POST % (b"Content-Length: 8", b""))
    for _ in range(8):
        wire.send(b"x")
        echo.reactor.advance(TIMEOUT / 2)

    assert answers(bytes(wire.received)) == [(200, b"/xxxxxxxx")]


def test_a_client_that_reads_slowly_is_let_and_one_that_does_not_is_not(echo: Echo) -> None:
    wire = echo.open()
    wire.send(GET % b"x")

    for unsent in (500, 400, 300):
        wire.unsent_bytes = unsent
        echo.reactor.advance(TIMEOUT)
        assert not wire.is_closed
    echo.reactor.advance(2 * TIMEOUT)

    assert wire.is_closed


def test_no_further_request_is_taken_from_a_client_that_does_not_read(echo: Echo) -> None:
    wire = echo.open()

    wire.connection.pause_writing()
    wire.send(GET % b"x")
    assert wire.received == b""
    wire.connection.resume_writing()

    assert answers(bytes(wire.received)) == [(200, b"/x")]


# --- attack class 14


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n b: folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"FROB / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (POST % (b"Content-Length: 3\r\nContent-Length: 3", b"abc"), 400),
        (POST % (b"Content-Length: -3", b"abc"), 400),
        (POST % (b"Content-Length: 0x3", b"abc"), 400),
        (POST % (b"Content-Length: 3, 3", b"abc"), 400),
        (POST % (b"Content-Length: 3\r\n" + CHUNKED, b"0\r\n\r\n"), 400),
        (POST % (b"Transfer-Encoding: gzip, chunked", b"0\r\n\r\n"), 501),
        (POST % (b"Transfer-Encoding: identity", b"abc"), 501),
        (b"POST / HTTP/1.0\r\n" + CHUNKED + b"\r\n\r\n0\r\n\r\n", 501),
        (POST % (CHUNKED, b"-1\r\nabc\r\n0\r\n\r\n"), 400),
        (POST % (CHUNKED, b"3\r\nabcd\r\n0\r\n\r\n"), 400),
        (POST % (CHUNKED, b"fffffffffffffffff\r\nabc"), 400),
        (POST % (b"Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 3", b"abc"), 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A" * MAX_HEAD_BYTES, 431),
        (POST % (b"Content-Length: %d" % (MAX_BODY + 1), b""), 413),
        (POST % (CHUNKED, b"3e9\r\n" + b"x" * (MAX_BODY + 1)), 413),
    ],
)
def test_attack_14_what_could_be_read_in_two_ways_is_refused_and_the_connection_ends(
    echo: Echo, request_bytes: bytes, status: int
) -> None:
    wire = echo.open()

    received = wire.send(request_bytes)

    assert statuses(received)[0] == status
    assert wire.is_closed
    assert echo.requests == []
    assert wire.send(GET % b"x") == received


def test_attack_14_too_many_headers_are_refused(echo: Echo) -> None:
    wire = echo.open()

    lines = b"".join(b"X%d: y\r\n" % number for number in range(MAX_HEADERS))
    received = wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")

    assert statuses(received) == [431]


def test_attack_13_chunks_of_one_byte_cost_no_more_than_a_bounded_number_of_bytes(
    echo: Echo,
) -> None:
    wire = echo.open()

    wire.send(POST % (CHUNKED, b""))
    for _ in range(MAX_HEAD_BYTES):
        if not wire.is_closed:
            wire.send(b"1;" + b"e" * 200 + b"\r\nx\r\n")

    assert statuses(bytes(wire.received)) == [413]


def test_attack_13_bodies_that_are_not_complete_take_a_bounded_sum(echo: Echo) -> None:
    part = POST % (b"Content-Length: %d" % MAX_BODY, b"x" * (MAX_BODY - 1))
    wires = [echo.open() for _ in range(3)]

    for wire in wires:
        wire.send(part)

    assert [statuses(bytes(wire.received)) for wire in wires] == [[], [], [503]]
    wires[0].send(b"x")  # complete: room for another
    wires[2].disconnect()
    another = echo.open()
    another.send(part)
    assert answers(bytes(another.received)) == []


def test_attack_14_an_answer_cannot_bring_in_headers(echo: Echo) -> None:
    echo.headers = {"X-Name": "a\r\nSet-Cookie: b"}

    received = echo.open().send(GET % b"x")

    assert b"\r\nX-Name: a  Set-Cookie: b\r\n" in received


# --- what else clients rely on


def test_a_client_that_waits_for_a_word_before_its_body_gets_it(echo: Echo) -> None:
    wire = echo.open()

    first = wire.send(POST % (b"Content-Length: 2\r\nExpect: 100-continue", b""))
    received = wire.send(b"hi")

    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answers(received[len(first) :]) == [(200, b"/hi")]


def test_an_answer_says_when_it_was_made(echo: Echo) -> None:
    received = echo.open().send(GET % b"x")

    assert b"\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\n" in received


def test_a_whole_url_as_target_means_its_path(echo: Echo) -> None:
    received = echo.open().send(b"GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n")

    assert answers(received) == [(200, b"/x?y")]


def test_closing_the_server_closes_its_connections(echo: Echo) -> None:
    wire = echo.open()

    echo.server.close()

    assert wire.is_closed


# --- files


def test_a_file_is_sent_between_what_is_before_and_after_it(echo: Echo) -> None:
    file = io.BytesIO(b"content")
    echo.file = FileBody(file, 7, b"end")
    wire = echo.open()

    wire.send(GET % b"1")

    assert answers(bytes(wire.received)) == [(200, b"/1contentend")]
    assert file.closed


def test_a_file_is_sent_as_fast_as_it_is_taken(echo: Echo) -> None:
    content = bytes(5_000_000)
    file = io.BytesIO(content)
    echo.file = FileBody(file, len(content))
    wire = echo.open()

    wire.send(GET % b"1" + GET % b"2")
    first = len(wire.received)
    wire.connection.pause_writing()
    echo.reactor.advance(1)

    assert len(wire.received) == first < 500_000
    assert len(echo.requests) == 1
    echo.file = None
    wire.connection.resume_writing()
    for _ in range(100):
        echo.reactor.advance(0)
    assert answers(bytes(wire.received)) == [(200, b"/1" + content), (200, b"/2")]
    assert file.closed


def test_who_does_not_take_a_file_is_cut_off(echo: Echo) -> None:
    file = io.BytesIO(bytes(5_000_000))
    echo.file = FileBody(file, 5_000_000)
    wire = echo.open()
    wire.send(GET % b"1")
    wire.connection.pause_writing()
    wire.unsent_bytes = 100_000

    for _ in range(40):
        echo.reactor.advance(TIMEOUT / 10)

    assert wire.is_closed
    assert file.closed


def test_the_connection_ends_when_a_file_is_shorter_than_was_said(echo: Echo) -> None:
    file = io.BytesIO(b"short")
    echo.file = FileBody(file, 100)
    wire = echo.open()

    wire.send(GET % b"1")

    assert wire.is_closed
    assert file.closed


@pytest.mark.parametrize("is_slow", [True, False])
def test_a_file_is_closed_when_the_client_hangs_up(echo: Echo, *, is_slow: bool) -> None:
    file = io.BytesIO(bytes(5_000_000))
    echo.file = FileBody(file, 5_000_000)
    echo.is_slow = is_slow
    wire = echo.open()
    wire.send(POST % (b"Content-Length: 1", b"x"))

    wire.disconnect()
    while echo.waiting:
        echo.waiting.pop()()

    assert file.closed


# --- larger bodies


def large(length: int) -> bytes:
    return b"POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length


def test_a_larger_body_is_taken_where_it_is_allowed(echo: Echo) -> None:
    body = bytes(MAX_BODY + 1)

    assert statuses(echo.open().send(large(len(body)) + body)) == [200]
    assert statuses(echo.open().send(large(2 * MAX_BODY + 1))) == [413]
    assert statuses(echo.open().send(POST % (b"Content-Length: %d" % len(body), body))) == [413]


def test_a_body_counts_until_it_is_answered(echo: Echo) -> None:
    echo.is_slow = True
    wire = echo.open()

    wire.send(POST % (b"Content-Length: 900", bytes(900)))

    assert echo.server.held_bytes == 900
    echo.waiting.pop()()
    assert echo.server.held_bytes == 0


def test_larger_bodies_leave_room_for_the_others(echo: Echo) -> None:
    first = echo.open()
    first.send(large(2 * MAX_BODY) + bytes(MAX_BODY + 400))

    second = echo.open()
    second.send(POST % (b"Content-Length: 300", bytes(200)))
    first.send(bytes(300))

    assert statuses(bytes(first.received)) == [503]
    assert statuses(second.send(bytes(100))) == [200]
