"""Files that are sent, and bodies that are larger than usual."""

import io

import pytest

from homeserver.transport.endpoint import FileBody
from tests.transport.echo import GET, MAX_BODY, POST, TIMEOUT, Echo, answers, statuses


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
