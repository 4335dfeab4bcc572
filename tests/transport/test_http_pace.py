"""Who sends or reads too slowly is cut off, and who only takes his time is not."""

from twisted.internet.defer import succeed

from homeserver.transport.endpoint import Response
from tests.transport.echo import GET, MAX_UNSENT, POST, TIMEOUT, Echo, answers


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


def test_attack_5_answers_that_nobody_reads_take_a_bounded_sum_and_the_oldest_go_first(
    echo: Echo,
) -> None:
    size = 2 * 1_048_576
    echo.server.answer = lambda _request: succeed(Response(bytes(size), "text/plain"))
    wires = [echo.open() for _ in range(4)]

    for wire in wires:
        wire.unsent_bytes = size
        wire.send(GET % b"x")

    assert 3 * size == MAX_UNSENT
    assert [wire.is_closed for wire in wires] == [True, False, False, False]
    for wire in wires[1:]:
        wire.unsent_bytes = 0  # they have read it
    another = echo.open()
    another.unsent_bytes = MAX_UNSENT
    another.send(GET % b"x")
    assert not any(wire.is_closed for wire in (*wires[1:], another))


def test_an_answer_that_alone_is_larger_than_the_bound_is_sent(echo: Echo) -> None:
    echo.server.answer = lambda _request: succeed(Response(bytes(2 * MAX_UNSENT), "text/plain"))
    wire = echo.open()
    wire.unsent_bytes = 2 * MAX_UNSENT

    wire.send(GET % b"x")

    assert not wire.is_closed
