"""Media across servers, and attack class 10: what a hostile server sends as media."""

import os
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.config import MediaSection
from homeserver.core.identifiers import ServerName
from homeserver.core.request_signing import make_authorization
from homeserver.services.media_multipart import (
    MultipartInvalid,
    make_multipart,
    parse_multipart,
)
from homeserver.transport.outbound import Answer
from tests.federation.conftest import MakeServer
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, Reply, User, key_of
from tests.media import (
    CREATE,
    DOWNLOAD,
    OLD_DOWNLOAD,
    THUMBNAIL,
    UPLOAD,
    bomb,
    header,
    picture,
    read_picture,
    stored_files,
    upload,
)

EVIL = ServerName("evil.test")
HERE = "/_matrix/federation/v1/media"
MIXED = {"content-type": "multipart/mixed; boundary=x"}
BOUNDARY = "gc0p4Jq0M2Yt08jU534c0p"


def multipart(content: bytes, headers: dict[str, str] | None = None) -> Answer:
    before, after = make_multipart(BOUNDARY, headers or {"Content-Type": "text/plain"})
    body = before + content + after
    return Answer(200, body, {"content-type": f"multipart/mixed; boundary={BOUNDARY}"})


def refusal(status: int, errcode: str) -> Answer:
    return Answer(status, b'{"errcode": "%s", "error": "no"}' % errcode.encode())


def answers(network: MemoryNetwork, *given: Answer) -> list[str]:
    """Let the hostile server give these answers; return what it is asked."""
    asked: list[str] = []
    waiting = list(given)

    def answer(method: str, target: str, body: Any) -> Answer:
        asked.append(target)
        return waiting.pop(0)

    network.hostile[EVIL] = answer
    return asked


def ask(server: Homeserver, path: str, origin: ServerName, **query: Any) -> Reply:
    uri = path + (f"?{urlencode(query)}" if query else "")
    authorization = make_authorization(
        key_of(origin),
        method="GET",
        uri=uri,
        origin=origin,
        destination=server.name,
        content=None,
    )
    return server.request("GET", uri, headers={"Authorization": authorization})


# --- between servers of ours


def test_media_are_seen_by_users_of_other_servers(
    network: MemoryNetwork, alice: User, b: Homeserver
) -> None:
    content = os.urandom(700_000)
    path = upload(alice, content, "application/pdf", "Bücher.pdf")
    bob = b.register("bob")

    reply = bob.get(f"{DOWNLOAD}/{path}", timeout_ms=1000)
    network.cut_off(alice.homeserver.name)
    again = bob.get(f"{DOWNLOAD}/{path}")

    assert reply.body == again.body == content
    assert header(reply, "Content-Type") == "application/pdf"
    disposition = "attachment; filename*=utf-8''B%C3%BCcher.pdf"
    assert header(reply, "Content-Disposition") == disposition


def test_thumbnails_of_other_servers_media_are_made_here(alice: User, b: Homeserver) -> None:
    path = upload(alice, picture(1000, 500))

    reply = b.register("bob").get(f"{THUMBNAIL}/{path}", width=300, height=200)

    assert read_picture(reply.body).size == (320, 160)


def test_what_many_want_is_fetched_once(network: MemoryNetwork, alice: User, b: Homeserver) -> None:
    path = create(alice)
    bob = b.register("bob")
    pending = [bob.start_request("GET", f"{DOWNLOAD}/{path}") for _ in range(5)]
    network.settle()
    assert not any(one.answered for one in pending)
    pending.pop().disconnect()

    put(alice, path, b"x")
    network.settle()

    assert [one.reply().body for one in pending] == [b"x"] * 4
    assert len([target for *_, target in network.requests if "download" in target]) == 1


def test_media_of_another_server_that_are_not_uploaded_yet_are_waited_for_in_vain(
    network: MemoryNetwork, alice: User, b: Homeserver
) -> None:
    path = create(alice)
    pending = b.register("bob").start_request("GET", f"{DOWNLOAD}/{path}", query={"timeout_ms": 90})

    network.advance(0.1)

    reply = pending.reply()
    assert (reply.status, reply.errcode) == (504, "M_NOT_YET_UPLOADED")


def create(user: User) -> str:
    return str(user.request("POST", CREATE).json["content_uri"]).removeprefix("mxc://")


def put(user: User, path: str, content: bytes) -> None:
    headers = {"Content-Type": "text/plain"}
    assert user.request("PUT", f"{UPLOAD}/{path}", raw=content, headers=headers).status == 200


# --- what other servers ask


def test_another_server_gets_two_parts(alice: User, a: Homeserver, b: Homeserver) -> None:
    path = upload(alice, b"content", "text/plain", "x.txt")

    reply = ask(a, f"{HERE}/download/{path.partition('/')[2]}", b.name)

    part = parse_multipart(header(reply, "Content-Type") or "", reply.body)
    assert part.content == b"content"
    assert part.headers == {
        "content-type": "text/plain",
        "content-disposition": 'inline; filename="x.txt"',
    }


def test_another_server_gets_thumbnails(alice: User, a: Homeserver, b: Homeserver) -> None:
    media_id = upload(alice, picture(500, 500)).partition("/")[2]

    reply = ask(a, f"{HERE}/thumbnail/{media_id}", b.name, width=32, height=32, method="crop")

    part = parse_multipart(header(reply, "Content-Type") or "", reply.body)
    assert part.headers["content-type"] == "image/jpeg"
    assert read_picture(part.content).size == (32, 32)


def test_attack_10_other_servers_get_nothing_but_this_servers_media(
    alice: User, a: Homeserver, b: Homeserver
) -> None:
    path = upload(alice, b"x", "text/plain")
    bob = b.register("bob")
    assert bob.get(f"{DOWNLOAD}/{path}").status == 200

    for media_id in (path.partition("/")[2], "..", "%2e%2e%2fx", "a%00b"):
        reply = ask(b, f"{HERE}/download/{media_id}", a.name)
        assert reply.status in (400, 404)
    assert a.request("GET", f"{HERE}/download/{path.partition('/')[2]}").status == 401


# --- servers of other kinds


def test_an_old_server_is_asked_the_old_way(network: MemoryNetwork, alice: User) -> None:
    headers = {"content-type": "text/plain", "content-disposition": 'attachment; filename="a b"'}
    asked = answers(network, refusal(404, "M_UNRECOGNIZED"), Answer(200, b"old", headers))

    reply = alice.get(f"{DOWNLOAD}/{EVIL}/abc")

    assert reply.body == b"old"
    assert header(reply, "Content-Disposition") == 'inline; filename="a b"'
    assert asked == [
        f"{HERE}/download/abc?timeout_ms=20000",
        f"{OLD_DOWNLOAD}/{EVIL}/abc?allow_remote=false&timeout_ms=20000",
    ]


def test_media_that_are_elsewhere_are_fetched_there(network: MemoryNetwork, alice: User) -> None:
    answers(network, multipart(b"", {"Location": "https://cdn.test/x?signature=1"}))
    elsewhere = Answer(200, b"far away", {"content-type": "text/csv"})
    network.elsewhere["https://cdn.test/x?signature=1"] = elsewhere

    reply = alice.get(f"{DOWNLOAD}/{EVIL}/abc")

    assert (reply.body, header(reply, "Content-Type")) == (b"far away", "text/csv")


def test_what_another_server_lacks_is_not_asked_for_again_at_once(
    network: MemoryNetwork, alice: User
) -> None:
    asked = answers(network, refusal(404, "M_NOT_FOUND"), multipart(b"now"))

    for _ in range(3):
        assert alice.get(f"{DOWNLOAD}/{EVIL}/abc").errcode == "M_NOT_FOUND"
    assert len(asked) == 1

    network.advance(601)
    assert alice.get(f"{DOWNLOAD}/{EVIL}/abc").body == b"now"


def test_a_server_that_does_not_answer_is_told_as_such(alice: User) -> None:
    reply = alice.get(f"{DOWNLOAD}/gone.test/abc")

    assert (reply.status, reply.errcode) == (502, "M_UNKNOWN")


def test_the_old_operations_fetch_nothing_unless_they_may_give_it_out(
    network: MemoryNetwork, make_server: MakeServer
) -> None:
    closed = make_server("a.test")
    open_ = make_server("b.test", media=MediaSection(unauthenticated_legacy=True))
    asked = answers(network, multipart(b"x"))

    assert closed.request("GET", f"{OLD_DOWNLOAD}/{EVIL}/abc").errcode == "M_NOT_FOUND"
    assert open_.request("GET", f"{OLD_DOWNLOAD}/{EVIL}/abc?allow_remote=false").status == 404
    assert asked == []
    assert open_.request("GET", f"{OLD_DOWNLOAD}/{EVIL}/abc").body == b"x"


def test_a_server_that_does_not_answer_is_not_asked_for_the_next_file(
    network: MemoryNetwork, alice: User
) -> None:
    for name in "abc":
        assert alice.get(f"{DOWNLOAD}/gone.test/{name}").status == 502
    assert len(network.requests) == 1

    network.advance(61)
    alice.get(f"{DOWNLOAD}/gone.test/a")
    assert len(network.requests) == 2


# --- class 10: hostile servers


def test_attack_10_a_slow_server_holds_up_nobody_but_itself(
    network: MemoryNetwork, alice: User, b: Homeserver
) -> None:
    network.hostile[EVIL] = lambda method, target, body: multipart(b"slow")
    waiting: list[Any] = []
    network.held[(EVIL, "download")] = waiting
    pending = [alice.start_request("GET", f"{DOWNLOAD}/{EVIL}/{n}") for n in range(10)]
    network.settle()

    assert len(waiting) == 3
    quick = upload(b.register("bob"), b"quick", "text/plain")
    assert alice.get(f"{DOWNLOAD}/{quick}").body == b"quick"
    while waiting:
        waiting.pop().callback(None)
        network.settle()
    assert [one.reply().body for one in pending] == [b"slow"] * 10


def test_attack_10_copies_take_no_more_than_their_budget(
    network: MemoryNetwork, make_server: MakeServer
) -> None:
    media = MediaSection(max_remote_bytes=1000, remote_cache_bytes=3500)
    server = make_server("a.test", media=media)
    alice = server.register("alice")
    network.hostile[EVIL] = lambda method, target, body: multipart(b"x" * 1000)

    for name in "abcdefgh":
        assert alice.get(f"{DOWNLOAD}/{EVIL}/{name}").status == 200
        network.advance(4000)

    assert sum(file.stat().st_size for file in stored_files(server)) <= 3500
    before = len(network.requests)
    assert alice.get(f"{DOWNLOAD}/{EVIL}/h").status == 200
    assert len(network.requests) == before
    assert alice.get(f"{DOWNLOAD}/{EVIL}/a").status == 200
    assert len(network.requests) == before + 1


def test_attack_10_a_file_above_the_limit_is_not_kept(
    network: MemoryNetwork, make_server: MakeServer
) -> None:
    server = make_server("a.test", media=MediaSection(max_remote_bytes=1000))
    alice = server.register("alice")
    network.elsewhere["https://cdn.test/x"] = Answer(200, b"x" * 1001, {})
    for answer in (
        multipart(b"x" * 1001),
        multipart(b"x" * 100_000),
        multipart(b"", {"Location": "https://cdn.test/x"}),
    ):
        answers(network, answer)
        reply = alice.get(f"{DOWNLOAD}/{EVIL}/abc")
        assert (reply.status, reply.errcode) == (502, "M_TOO_LARGE")
        network.advance(601)

    assert stored_files(server) == []


def test_attack_10_a_bomb_of_another_server_is_not_decoded(
    network: MemoryNetwork, alice: User
) -> None:
    answers(network, multipart(bomb("PNG"), {"Content-Type": "image/png"}))

    reply = alice.get(f"{THUMBNAIL}/{EVIL}/abc", width=32, height=32)

    assert (reply.status, reply.errcode) == (502, "M_TOO_LARGE")


def test_attack_10_headers_of_another_server_are_cleaned(
    network: MemoryNetwork, alice: User
) -> None:
    answers(
        network,
        multipart(
            b"<script>",
            {
                "Content-Type": "text/html",
                "Content-Disposition": "inline; filename*=utf-8''a%0d%0aSet-Cookie:%20x%22",
                "Set-Cookie": "a=b",
            },
        ),
    )

    reply = alice.get(f"{DOWNLOAD}/{EVIL}/abc")

    disposition = "attachment; filename*=utf-8''aSet-Cookie%3A%20x%22"
    assert header(reply, "Content-Disposition") == disposition
    assert header(reply, "Set-Cookie") is None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"", {}),
        Answer(200, b"", {"content-type": "multipart/mixed"}),
        Answer(200, b"x", MIXED),
        Answer(200, b"--x\r\n\r\n{}\r\n--x--", MIXED),
        Answer(200, b"--x\r\n\r\n{}\r\n--x\r\nA: b\r\n--x--", MIXED),
        Answer(200, b"--x\r\n\r\n{}\r\n--x\r\n\r\n1\r\n--x\r\n\r\n2\r\n--x--", MIXED),
        Answer(200, multipart(b"x").body, {"content-type": "application/json"}),
        multipart(b"", {"Location": "https://nowhere.test/"}),
        multipart(b"", {"Location": "x" * 10_000}),
        refusal(500, "M_UNKNOWN"),
        refusal(403, "M_FORBIDDEN"),
    ],
)  # fmt: skip
def test_attack_10_what_is_no_media_is_not_kept(
    network: MemoryNetwork, alice: User, answer: Answer
) -> None:
    answers(network, answer)

    reply = alice.get(f"{DOWNLOAD}/{EVIL}/abc")

    assert (reply.status, reply.errcode) == (502, "M_UNKNOWN")
    assert stored_files(alice.homeserver) == []


@given(st.binary(max_size=300), st.sampled_from(["x", "a b", "--", "A'()+_,-./:=?"]))
def test_attack_10_any_bytes_are_parts_or_are_refused(body: bytes, boundary: str) -> None:
    try:
        parse_multipart(f'multipart/mixed; boundary="{boundary}"', body)
    except MultipartInvalid:
        return


@given(st.binary(max_size=300))
def test_any_content_comes_through(content: bytes) -> None:
    answer = multipart(content)
    assert answer.headers is not None

    assert parse_multipart(answer.headers["content-type"], answer.body).content == content
