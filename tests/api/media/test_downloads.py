"""Uploads and downloads of the content repository.

spec: client-server-api/#content-repository, v1.19
"""

import os
from pathlib import Path

from homeserver.config import MediaSection, RateLimitSection
from tests.database import InlineDatabase
from tests.homeserver import Homeserver, User
from tests.media import (
    CREATE,
    DOWNLOAD,
    OLD_DOWNLOAD,
    OLD_THUMBNAIL,
    UPLOAD,
    header,
    picture,
    start,
    upload,
)


def test_what_is_uploaded_is_downloaded_as_it_was(alice: User) -> None:
    content = os.urandom(200_000)
    path = upload(alice, content, "application/pdf", "War and Peace.pdf")

    reply = alice.get(f"{DOWNLOAD}/{path}")

    assert reply.body == content
    assert header(reply, "Content-Type") == "application/pdf"
    assert header(reply, "Content-Disposition") == 'attachment; filename="War and Peace.pdf"'


def test_a_file_above_the_usual_limit_of_bodies_is_taken_and_given(
    homeserver: Homeserver, alice: User
) -> None:
    content = os.urandom(1000) * 15_000
    assert len(content) > homeserver.config.listen.max_body_bytes

    pending = alice.start_request("GET", f"{DOWNLOAD}/{upload(alice, content)}")
    while not pending.answered:
        homeserver.advance(0)

    assert pending.reply().body == content
    assert homeserver.http_server.held_bytes == 0


def test_an_empty_file_is_a_file(alice: User) -> None:
    reply = alice.get(f"{DOWNLOAD}/{upload(alice, b'', 'text/plain')}")

    assert (reply.status, reply.body) == (200, b"")


def test_head_tells_the_length_and_sends_nothing(alice: User) -> None:
    path = upload(alice, b"12345", "text/plain")

    reply = alice.request("HEAD", f"{DOWNLOAD}/{path}")

    assert (header(reply, "Content-Length"), reply.body) == ("5", b"")


def test_a_file_without_a_type_is_bytes(alice: User) -> None:
    reply = alice.request("POST", UPLOAD, raw=b"x", headers={"Content-Type": "nonsense"})

    path = reply.json["content_uri"].removeprefix("mxc://")
    assert header(alice.get(f"{DOWNLOAD}/{path}"), "Content-Type") == "application/octet-stream"


def test_the_name_in_the_path_replaces_the_senders(alice: User) -> None:
    path = upload(alice, b"x", "text/plain", "mine.txt")

    reply = alice.get(f"{DOWNLOAD}/{path}/yours%20%C3%A9.txt")

    expected = "inline; filename*=utf-8''yours%20%C3%A9.txt"
    assert header(reply, "Content-Disposition") == expected


def test_unknown_media_are_not_found(homeserver: Homeserver, alice: User) -> None:
    assert alice.get(f"{DOWNLOAD}/{homeserver.name}/nosuch").errcode == "M_NOT_FOUND"


def test_nobody_uploads_or_downloads_without_an_account(
    homeserver: Homeserver, alice: User
) -> None:
    path = upload(alice, b"x")

    assert homeserver.request("POST", UPLOAD, raw=b"x").status == 401
    assert homeserver.request("GET", f"{DOWNLOAD}/{path}").status == 401


def test_the_limit_is_told_by_both_operations(alice: User) -> None:
    for path in ("/_matrix/client/v1/media/config", "/_matrix/media/v3/config"):
        assert alice.get(path).json == {"m.upload.size": 20_000_000}


def test_a_file_above_the_limit_is_refused(alice: User) -> None:
    reply = alice.request("POST", UPLOAD, raw=bytes(20_000_001))

    assert (reply.status, reply.errcode) == (413, "M_TOO_LARGE")


def test_larger_bodies_are_for_uploads_alone(alice: User) -> None:
    reply = alice.request("POST", CREATE, raw=bytes(11_000_000))

    assert (reply.status, reply.errcode) == (413, "M_TOO_LARGE")


def test_who_has_uploaded_as_much_as_he_may_is_refused(homeserver: Homeserver, alice: User) -> None:
    upload(alice, bytes(19_000_000))

    reply = alice.request("POST", UPLOAD, raw=bytes(12_000_000))

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
    upload(homeserver.register("bob"), b"x")


def test_a_room_full_of_avatars_may_be_seen_at_once(
    database: InlineDatabase, tmp_path: Path
) -> None:
    limits = RateLimitSection(per_second=1, burst=5)
    server = start(database, tmp_path, rate_limits=limits)
    alice = server.register("alice")
    path = upload(alice, b"x", "text/plain")

    replies = [alice.get(f"{DOWNLOAD}/{path}") for _ in range(51)]

    assert [reply.status for reply in replies] == [200] * 50 + [429]
    server.stop()


def test_nothing_is_given_out_unauthenticated_by_default(
    homeserver: Homeserver, alice: User
) -> None:
    path = upload(alice, picture(400, 400))

    for old in (
        f"{OLD_DOWNLOAD}/{path}",
        f"{OLD_DOWNLOAD}/{path}/x.png",
        f"{OLD_THUMBNAIL}/{path}?width=32&height=32",
    ):
        assert homeserver.request("GET", old).errcode == "M_NOT_FOUND"


def test_attack_10_only_what_came_before_the_freeze_is_given_out_unauthenticated(
    database: InlineDatabase, tmp_path: Path
) -> None:
    thawed = start(database, tmp_path, media=MediaSection(unauthenticated_legacy=True))
    alice = thawed.register("alice")
    before = upload(alice, b"before", "text/plain")
    assert thawed.request("GET", f"{OLD_DOWNLOAD}/{before}").body == b"before"
    thawed.stop()

    frozen = start(database, tmp_path)
    alice = alice.at(frozen)
    after = upload(alice, b"after", "text/plain")

    assert frozen.request("GET", f"{OLD_DOWNLOAD}/{before}").body == b"before"
    assert frozen.request("GET", f"{OLD_DOWNLOAD}/{after}").errcode == "M_NOT_FOUND"
    frozen.stop()
