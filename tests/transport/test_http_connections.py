"""Connections: the order of answers, hanging up, and what else clients rely on."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from homeserver.transport.endpoint import Response
from homeserver.transport.http_parser import MAX_WAITING, RequestParser
from tests.transport.echo import CHUNKED, GET, MAX_BODY, POST, Echo, answers, statuses


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
