"""Class 14: bytes that can be read in two ways, and what takes too much (class 13)."""

import pytest

from homeserver.transport.http_parser import MAX_HEAD_BYTES, MAX_HEADERS
from tests.transport.echo import CHUNKED, GET, MAX_BODY, POST, Echo, answers, statuses


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
