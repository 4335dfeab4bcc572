"""Class 9 on real sockets: names that lead inside, redirects, and answers without end."""

import time

import pytest
from twisted.internet import reactor

from homeserver.transport.address_filter import AddressFilter
from homeserver.transport.connections import Connections
from homeserver.transport.name_lookups import FOUND_SECONDS
from homeserver.transport.outbound import Answer, Cause, OutboundHttp, RequestFailed
from tests.transport.sockets import (
    OK,
    Names,
    answering,
    flooding,
    read_head,
    result,
    serving,
    turn_until,
)


def make_client(*allowed: str, names: Names | None = None) -> OutboundHttp:
    lookups = (names or Names()).lookups
    return OutboundHttp(reactor, Connections(reactor, AddressFilter(allowed), names=lookups))


def get(client: OutboundHttp, url: str, *, seconds: float = 10, max_bytes: int = 1000) -> Answer:
    answer = result(client.get(url, timeout_seconds=seconds, max_bytes=max_bytes))
    assert isinstance(answer, Answer)
    return answer


def failure(client: OutboundHttp, url: str, **options: float) -> RequestFailed:
    with pytest.raises(RequestFailed) as failed:
        get(client, url, **options)  # type: ignore[arg-type]  # one of two parameters
    return failed.value


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::]",
        "[fe80::1%25lo]",
    ],
)
def test_attack_9_no_name_of_this_machine_is_connected_to(host: str) -> None:
    with serving(answering(OK)) as server:
        failed = failure(make_client(), f"http://{host}:{server.port}/")

        assert server.connections == 0
    assert failed.cause in (Cause.CONNECT, Cause.DNS, Cause.PROTOCOL)


def test_attack_9_what_to_do_about_a_private_address_is_said() -> None:
    failed = failure(make_client(), "http://169.254.169.254/latest/meta-data/")

    assert "outbound.allowed_networks" in str(failed)


def test_attack_9_a_name_whose_address_changes_is_connected_to_where_it_was_checked() -> None:
    names = Names()
    names.known["rebinding.test"] = [["127.0.0.1"], ["127.0.0.2"]]
    with serving(answering(OK)) as checked, serving(answering(OK), host="127.0.0.2") as inside:
        client = make_client("127.0.0.1/32", names=names)

        get(client, f"http://rebinding.test:{checked.port}/")

        assert (checked.connections, inside.connections) == (1, 0)
        assert names.asked == ["rebinding.test"]
        names.time.advance(FOUND_SECONDS)
        failed = failure(client, f"http://rebinding.test:{inside.port}/")
        assert inside.connections == 0
    assert "127.0.0.2" in str(failed)


def test_attack_9_of_the_addresses_of_a_name_only_the_public_ones_are_tried() -> None:
    names = Names()
    names.known["mixed.test"] = [["10.0.0.1", "127.0.0.2", "127.0.0.1"]]
    with serving(answering(OK)) as server:
        url = f"http://mixed.test:{server.port}/"

        assert get(make_client("127.0.0.1/32", names=names), url).body == b"{}"


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{port}/",
        "http://0x7f000002:{port}/",
        "//127.0.0.2:{port}/",
        "http://user:password@127.0.0.2:{port}/",
        "file:///etc/passwd",
        "gopher://127.0.0.2:{port}/",
        "httpx://127.0.0.2:{port}/",
        "http://[",
        "http://127.0.0.1:99999/",
        "http://a b/",
        "http://\xff\xfe/",
        "http:///",
        "",
    ],
)
def test_attack_9_a_redirect_inside_or_to_nowhere_is_not_followed(location: str) -> None:
    with serving(answering(OK), host="127.0.0.2") as inside:
        target = location.format(port=inside.port).encode("latin-1")
        redirect = b"HTTP/1.1 302 x\r\nContent-Length: 0\r\nLocation: " + target + b"\r\n\r\n"
        with serving(answering(redirect)) as server:
            failure(make_client("127.0.0.1/32"), f"http://127.0.0.1:{server.port}/")

        assert inside.connections == 0


def test_attack_9_redirects_that_go_on_and_on_share_one_time() -> None:
    def serve_slowly(connection: object) -> None:
        read_head(connection)  # type: ignore[arg-type]  # a socket
        time.sleep(0.4)
        again = b"HTTP/1.1 302 x\r\nContent-Length: 0\r\nLocation: /\r\nConnection: close\r\n\r\n"
        connection.sendall(again)  # type: ignore[attr-defined]  # a socket

    with serving(serve_slowly) as server:
        failed = failure(make_client("127.0.0.1/32"), f"http://127.0.0.1:{server.port}/", seconds=1)

        assert failed.cause is Cause.TIMEOUT
        assert server.connections <= 3


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("start", "piece", "cause"),
    [
        (HEAD, b"X-More: " + b"x" * 1000 + b"\r\n", Cause.TOO_LARGE),
        (HEAD + b"X: ", b"\r\n  folded" * 100, Cause.TOO_LARGE),
        (b"", b"HTTP/1.1 103 Early\r\n\r\n" * 100, Cause.TOO_LARGE),
        (b"", b"x" * 10_000, Cause.CONNECT),
        (HEAD + b"\r\n", b"x" * 10_000, Cause.TOO_LARGE),
        (HEAD + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 10_000, Cause.TOO_LARGE),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + b"x" * 1000 + b"\r\n",
         Cause.TOO_LARGE),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"f" * 1000, Cause.CONNECT),
    ],
)  # fmt: skip
def test_attack_5_an_answer_without_end_is_cut_off(
    start: bytes, piece: bytes, cause: Cause
) -> None:
    with serving(flooding(start, piece)) as server:
        failed = failure(make_client("127.0.0.1/32"), f"http://127.0.0.1:{server.port}/")

        turn_until(server.ended.is_set)
    assert failed.cause is cause


def test_attack_5_an_answer_that_trickles_is_cut_off_in_time() -> None:
    def trickle(connection: object) -> None:
        read_head(connection)  # type: ignore[arg-type]  # a socket
        connection.sendall(HEAD + b"Content-Length: 500\r\n\r\n")  # type: ignore[attr-defined]  # a socket
        for _ in range(500):
            connection.sendall(b"x")  # type: ignore[attr-defined]  # a socket
            time.sleep(0.05)

    with serving(trickle) as server:
        failed = failure(make_client("127.0.0.1/32"), f"http://127.0.0.1:{server.port}/", seconds=1)

        turn_until(server.ended.is_set)
    assert failed.cause is Cause.TIMEOUT
    assert "1 s" in str(failed)


def test_attack_5_a_compressed_answer_is_not_unpacked() -> None:
    bomb = b"\x1f\x8b" + b"\x00" * 100
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 102\r\n\r\n"
    with serving(answering(head + bomb)) as server:
        answer = get(make_client("127.0.0.1/32"), f"http://127.0.0.1:{server.port}/")

    assert answer.body == bomb


@pytest.mark.parametrize("answer", [b"", b"\r\n\r\n", b"\x00" * 50, b"SSH-2.0-x\r\n\r\n", HEAD])
def test_what_closes_without_an_answer_has_failed(answer: bytes) -> None:
    def serve(connection: object) -> None:
        read_head(connection)  # type: ignore[arg-type]  # a socket
        connection.sendall(answer)  # type: ignore[attr-defined]  # a socket

    with serving(serve) as server:
        failed = failure(make_client("127.0.0.1/32"), f"http://127.0.0.1:{server.port}/")

    assert failed.cause is Cause.CONNECT


def test_a_connection_that_is_cut_while_it_is_written_to_has_failed() -> None:
    client = make_client("127.0.0.1/32")
    with serving(lambda connection: connection.close()) as server:
        url = f"http://127.0.0.1:{server.port}/"
        sending = client.request("PUT", url, token="x", body=b"x" * 30_000_000, timeout_seconds=10)

        with pytest.raises(RequestFailed) as failed:
            result(sending)

    assert failed.value.cause is Cause.CONNECT


def test_nobody_there_and_no_such_name_are_told_apart() -> None:
    client = make_client("127.0.0.1/32")
    with serving(answering(OK)) as server:
        port = server.port

    assert failure(client, f"http://127.0.0.1:{port}/").cause is Cause.CONNECT
    assert failure(client, "http://nobody.invalid/").cause is Cause.DNS
    for name in ("a..b", "x" * 64 + ".test", "x." * 200 + "test"):
        assert failure(client, f"http://{name}/").cause in (Cause.DNS, Cause.PROTOCOL)
