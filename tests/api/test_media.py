"""The content repository, and attack class 10: hostile media and hostile names for them."""

import dataclasses
import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from homeserver.config import MediaSection, RateLimitSection
from homeserver.services.media_headers import (
    clean_content_type,
    clean_file_name,
    make_disposition,
    parse_file_name,
)
from homeserver.services.media_images import CROPPED, NoPicture, make_thumbnail
from homeserver.services.media_local import UNUSED_MS
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, START_MS, Homeserver, Reply, User
from tests.media import (
    CREATE,
    DOWNLOAD,
    OLD_DOWNLOAD,
    OLD_THUMBNAIL,
    THUMBNAIL,
    UPLOAD,
    bomb,
    header,
    picture,
    read_picture,
    stored_files,
    upload,
)

LIMITS = MediaSection(max_upload_bytes=20_000_000, max_user_bytes=30_000_000, max_pending_uploads=3)


@pytest.fixture
def homeserver(database: InlineDatabase, tmp_path: Path) -> Iterator[Homeserver]:
    server = start(database, tmp_path)
    yield server
    server.stop()


@pytest.fixture
def alice(homeserver: Homeserver) -> User:
    return homeserver.register("alice")


def start(database: InlineDatabase, folder: Path, **sections: Any) -> Homeserver:
    sections = {"media": LIMITS, **sections}
    return Homeserver(database, dataclasses.replace(DEFAULT_CONFIG, directory=folder, **sections))


def create(user: User) -> str:
    reply = user.request("POST", CREATE)
    assert reply.status == 200, reply.json
    return str(reply.json["content_uri"]).removeprefix("mxc://")


def put(user: User, path: str, content: bytes) -> Reply:
    return user.request(
        "PUT", f"{UPLOAD}/{path}", raw=content, headers={"Content-Type": "text/plain"}
    )


# --- uploads and downloads


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


def test_a_file_without_a_type_is_bytes(homeserver: Homeserver, alice: User) -> None:
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


# --- uploads to an id made before


def test_a_download_waits_for_the_upload(homeserver: Homeserver, alice: User) -> None:
    path = create(alice)
    pending = alice.start_request("GET", f"{DOWNLOAD}/{path}")
    assert not pending.answered

    assert put(alice, path, b"here it is").status == 200

    assert pending.reply().body == b"here it is"


def test_a_download_waits_only_as_long_as_it_says(homeserver: Homeserver, alice: User) -> None:
    path = create(alice)
    pending = alice.start_request("GET", f"{DOWNLOAD}/{path}", query={"timeout_ms": 5000})

    homeserver.advance(4.9)
    assert not pending.answered
    homeserver.advance(0.2)

    reply = pending.reply()
    assert (reply.status, reply.errcode) == (504, "M_NOT_YET_UPLOADED")


def test_no_download_waits_longer_than_a_minute(homeserver: Homeserver, alice: User) -> None:
    path = create(alice)
    pending = alice.start_request("GET", f"{DOWNLOAD}/{path}", query={"timeout_ms": 10**15})

    homeserver.advance(61)

    assert pending.reply().errcode == "M_NOT_YET_UPLOADED"


def test_a_client_that_hangs_up_leaves_nothing_behind(homeserver: Homeserver, alice: User) -> None:
    path = create(alice)
    pending = alice.start_request("GET", f"{DOWNLOAD}/{path}")

    pending.disconnect()

    assert put(alice, path, b"x").status == 200
    assert alice.get(f"{DOWNLOAD}/{path}").body == b"x"


def test_content_is_given_once(alice: User) -> None:
    path = create(alice)
    put(alice, path, b"first")

    reply = put(alice, path, b"second")

    assert (reply.status, reply.errcode) == (409, "M_CANNOT_OVERWRITE_MEDIA")
    assert alice.get(f"{DOWNLOAD}/{path}").body == b"first"


def test_only_who_made_the_id_uploads_to_it(homeserver: Homeserver, alice: User) -> None:
    path = create(alice)

    reply = put(homeserver.register("bob"), path, b"x")

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_an_id_that_nobody_made_takes_no_upload(homeserver: Homeserver, alice: User) -> None:
    for path in (f"{homeserver.name}/nosuch", "other.test/nosuch"):
        assert put(alice, path, b"x").errcode == "M_NOT_FOUND"


def test_an_unused_id_is_forgotten_when_it_said_so(homeserver: Homeserver, alice: User) -> None:
    reply = alice.request("POST", CREATE)
    assert reply.json["unused_expires_at"] == START_MS + UNUSED_MS

    homeserver.advance(UNUSED_MS / 1000 + 1)

    path = reply.json["content_uri"].removeprefix("mxc://")
    assert put(alice, path, b"x").errcode == "M_NOT_FOUND"
    assert alice.get(f"{DOWNLOAD}/{path}").errcode == "M_NOT_FOUND"


def test_attack_10_pending_uploads_are_limited(homeserver: Homeserver, alice: User) -> None:
    paths = [create(alice) for _ in range(3)]

    reply = alice.request("POST", CREATE)

    assert (reply.status, reply.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert put(alice, paths[0], b"x").status == 200
    create(alice)
    create(homeserver.register("bob"))


# --- thumbnails


@pytest.mark.parametrize(
    ("method", "asked", "expected"),
    [
        ("crop", (32, 32), (32, 32)),
        ("crop", (64, 64), (96, 96)),
        ("crop", (320, 240), (320, 240)),
        ("scale", (300, 200), (320, 160)),
        ("scale", (320, 240), (320, 160)),
        ("scale", (640, 480), (640, 320)),
        ("scale", (641, 480), (800, 400)),
    ],
)
def test_a_thumbnail_covers_what_is_asked(
    alice: User, method: str, asked: tuple[int, int], expected: tuple[int, int]
) -> None:
    path = upload(alice, picture(1200, 600))

    reply = alice.get(f"{THUMBNAIL}/{path}", width=asked[0], height=asked[1], method=method)

    assert read_picture(reply.body).size == expected
    assert header(reply, "Content-Type") == "image/jpeg"
    assert header(reply, "Content-Disposition") == 'inline; filename="thumbnail.jpg"'


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize("method", ["crop", "scale"])
def test_each_kind_of_picture_has_thumbnails(alice: User, kind: str, method: str) -> None:
    path = upload(alice, picture(500, 500, kind), "application/octet-stream")

    reply = alice.get(f"{THUMBNAIL}/{path}", width=96, height=96, method=method)

    expected = (96, 96) if method == "crop" else (240, 240)
    assert read_picture(reply.body).size == expected


def test_nothing_is_enlarged(alice: User) -> None:
    small = picture(20, 10)
    path = upload(alice, small, "text/html")

    for method in ("crop", "scale"):
        reply = alice.get(f"{THUMBNAIL}/{path}", width=640, height=480, method=method)
        assert reply.body == small
        assert header(reply, "Content-Type") == "image/png"
    narrow = upload(alice, picture(400, 20))
    reply = alice.get(f"{THUMBNAIL}/{narrow}", width=96, height=96, method="crop")
    assert read_picture(reply.body).size == (20, 20)


def test_who_asks_for_more_than_there_is_gets_the_original(alice: User) -> None:
    large = picture(2000, 100)
    path = upload(alice, large)

    reply = alice.get(f"{THUMBNAIL}/{path}", width=1900, height=1900)

    assert reply.body == large


def test_transparency_stays(alice: User) -> None:
    path = upload(alice, picture(400, 400, "PNG", (0, 0, 255, 0)))

    reply = alice.get(f"{THUMBNAIL}/{path}", width=32, height=32, method="crop")

    assert header(reply, "Content-Type") == "image/png"
    assert read_picture(reply.body).getchannel("A").getextrema() == (0, 0)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("side", [16, 400])
def test_a_moving_picture_moves_only_for_who_asks(alice: User, kind: str, side: int) -> None:
    moving = picture(side, side, kind, frames=3)
    path = upload(alice, moving)

    still = alice.get(f"{THUMBNAIL}/{path}", width=32, height=32, animated="false")
    by_default = alice.get(f"{THUMBNAIL}/{path}", width=32, height=32)
    moves = alice.get(f"{THUMBNAIL}/{path}", width=32, height=32, animated="true")

    assert getattr(read_picture(still.body), "n_frames", 1) == 1
    assert by_default.body == still.body
    assert moves.body == moving


def test_a_thumbnail_is_made_once(homeserver: Homeserver, alice: User) -> None:
    path = upload(alice, picture(1000, 1000))

    first = alice.get(f"{THUMBNAIL}/{path}", width=30, height=30, method="crop")
    second = alice.get(f"{THUMBNAIL}/{path}", width=31, height=32, method="crop")

    assert first.body == second.body
    assert len(stored_files(homeserver)) == 2


def test_a_thumbnail_whose_file_is_lost_is_made_again(homeserver: Homeserver, alice: User) -> None:
    path = upload(alice, picture(1000, 1000))
    (original,) = stored_files(homeserver)
    first = alice.get(f"{THUMBNAIL}/{path}", width=32, height=32)
    for file in stored_files(homeserver):
        if file != original:
            file.unlink()

    again = alice.get(f"{THUMBNAIL}/{path}", width=32, height=32)

    assert again.body == first.body


@pytest.mark.parametrize("content", [b"", b"hello", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_picture_has_no_thumbnail(alice: User, content: bytes) -> None:
    path = upload(alice, content)

    reply = alice.get(f"{THUMBNAIL}/{path}", width=32, height=32)

    assert (reply.status, reply.errcode) == (400, "M_UNKNOWN")


@pytest.mark.parametrize(
    "query",
    [
        {"width": 0, "height": 10},
        {"width": 10, "height": -1},
        {"width": "x", "height": 10},
        {"width": 10**30, "height": 10},
        {"width": 10, "height": 10, "method": "stretch"},
        {"width": 10},
    ],
)
def test_a_thumbnail_of_no_size_is_a_bad_request(alice: User, query: dict[str, object]) -> None:
    path = upload(alice, picture(10, 10))

    assert alice.get(f"{THUMBNAIL}/{path}", **query).status == 400


# --- class 10: hostile files


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_attack_10_a_decompression_bomb_is_not_decoded(alice: User, kind: str) -> None:
    path = upload(alice, bomb(kind))

    reply = alice.get(f"{THUMBNAIL}/{path}", width=32, height=32)

    assert (reply.status, reply.errcode) == (413, "M_TOO_LARGE")


def test_attack_10_a_broken_picture_has_no_thumbnail(alice: User) -> None:
    whole = picture(300, 300, "PNG")
    for broken in (whole[: len(whole) // 2], whole[:40] + b"\xff" * 60 + whole[100:]):
        path = upload(alice, broken)
        assert alice.get(f"{THUMBNAIL}/{path}", width=32, height=32).errcode == "M_UNKNOWN"


def test_attack_10_a_jpeg_of_very_many_scans_is_not_decoded(alice: User) -> None:
    output = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(output, "JPEG", progressive=True)
    content = output.getvalue()
    last_scan = content[content.rindex(b"\xff\xc4", 0, content.rindex(b"\xff\xda")) : -2]

    for repeated, status in ((1, 200), (5_000, 400)):
        path = upload(alice, content[:-2] + last_scan * repeated + content[-2:])
        assert alice.get(f"{THUMBNAIL}/{path}", width=32, height=32).status == status


def test_attack_10_decoding_ends_when_it_takes_too_long() -> None:
    noise = Image.frombytes("RGB", (600, 600), os.urandom(600 * 600 * 3))
    output = io.BytesIO()
    noise.save(output, "JPEG", quality=95, progressive=True)
    asked = itertools.count()

    make_thumbnail(output, CROPPED[0], lambda: False)
    with pytest.raises(NoPicture):
        make_thumbnail(output, CROPPED[0], lambda: next(asked) > 20)

    assert next(asked) < 30


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "ICO", "AVIF", "EPS"])
def test_attack_10_other_decoders_are_never_reached(alice: User, kind: str) -> None:
    path = upload(alice, picture(64, 64, kind))

    assert alice.get(f"{THUMBNAIL}/{path}", width=32, height=32).errcode == "M_UNKNOWN"


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "image/svg+xml", "application/xhtml+xml", "text/xml", "TEXT/HTML; charset=utf-8"],
)
def test_attack_10_what_may_carry_scripts_is_an_attachment(alice: User, content_type: str) -> None:
    path = upload(alice, b"<script>alert(1)</script>", content_type, "x.png")

    reply = alice.get(f"{DOWNLOAD}/{path}")

    assert header(reply, "Content-Disposition") == 'attachment; filename="x.png"'


def test_attack_10_browsers_neither_guess_nor_run_anything(alice: User) -> None:
    path = upload(alice, picture(400, 400))

    for reply in (
        alice.get(f"{DOWNLOAD}/{path}"),
        alice.get(f"{THUMBNAIL}/{path}", width=32, height=32),
    ):
        assert (header(reply, "Content-Security-Policy") or "").startswith("sandbox;")
        assert header(reply, "X-Content-Type-Options") == "nosniff"
        assert header(reply, "Cross-Origin-Resource-Policy") == "cross-origin"
        assert (header(reply, "Content-Disposition") or "").startswith("inline")


@pytest.mark.parametrize(
    "hostile",
    [
        'x"; filename="evil.html',
        "x\r\nSet-Cookie: a=b",
        "\u202egnp.exe",
        "../../etc/passwd",
        "x" * 10_000,
        "\x00\x01",
        "é\u2028",
    ],
)
def test_attack_10_a_file_name_never_leaves_its_quotes(alice: User, hostile: str) -> None:
    path = upload(alice, b"x", "text/plain", hostile)

    value = header(alice.get(f"{DOWNLOAD}/{path}"), "Content-Disposition") or ""

    assert value.startswith("inline")
    assert header(alice.get(f"{DOWNLOAD}/{path}"), "Set-Cookie") is None
    assert value.count('"') in (0, 2)
    assert len(value) < 2_400
    assert parse_file_name(value) == clean_file_name(hostile)


@pytest.mark.parametrize(
    "claimed",
    ["text/html\r\nX: y", "image/png\x00", "a" * 300 + "/b", "image", "", "text/plain\n", "é/é"],
)
def test_attack_10_a_content_type_is_one_or_is_nothing(claimed: str) -> None:
    cleaned = clean_content_type(claimed)

    assert cleaned in ("application/octet-stream", "text/plain")
    assert make_disposition(cleaned, None) in ("attachment", "inline")


# --- class 10: hostile names


@pytest.mark.parametrize(
    "media_id",
    [
        "..",
        "%2e%2e",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "..%5c..%5cx",
        "a%00b",
        "a%2fb",
        "%252e%252e",
        "a.b",
        "%ff",
        "x" * 300,
        "%ef%bc%8e%ef%bc%8e",
    ],
)
@pytest.mark.parametrize("operation", [DOWNLOAD, THUMBNAIL, OLD_DOWNLOAD, OLD_THUMBNAIL])
def test_attack_10_a_media_id_outside_its_grammar_leads_nowhere(
    homeserver: Homeserver, alice: User, media_id: str, operation: str
) -> None:
    for server in (homeserver.name, "other.test"):
        reply = alice.get(f"{operation}/{server}/{media_id}", width=32, height=32)
        assert reply.status in (400, 404), reply.json
        assert reply.errcode in ("M_INVALID_PARAM", "M_NOT_FOUND")


@pytest.mark.parametrize(
    "server",
    ["..", "%2e%2e%2f%2e%2e", "a%2fb", "a%00b", "hs.test%2f..", "[::1", "a b", "%5c", "x" * 300],
)
@pytest.mark.parametrize("operation", [DOWNLOAD, THUMBNAIL, OLD_DOWNLOAD, OLD_THUMBNAIL])
def test_attack_10_a_server_name_outside_its_grammar_leads_nowhere(
    alice: User, server: str, operation: str
) -> None:
    reply = alice.get(f"{operation}/{server}/abc", width=32, height=32)

    assert reply.status in (400, 404, 502), reply.json


def test_attack_10_files_have_names_of_the_servers_own(homeserver: Homeserver, alice: User) -> None:
    upload(alice, b"x", "text/plain", "../../evil")

    (file,) = stored_files(homeserver)

    folder = homeserver.config.path("data") / "media"
    assert file.parent.parent == folder
    assert file.name.startswith(file.parent.name)


# --- how often


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


# --- unauthenticated downloads


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
    alice = User(frozen, alice.user_id, alice.token, alice.device_id)
    after = upload(alice, b"after", "text/plain")

    assert frozen.request("GET", f"{OLD_DOWNLOAD}/{before}").body == b"before"
    assert frozen.request("GET", f"{OLD_DOWNLOAD}/{after}").errcode == "M_NOT_FOUND"
    frozen.stop()


# --- the disk


def test_media_survive_a_restart(homeserver: Homeserver, alice: User) -> None:
    path = upload(alice, b"kept", "text/plain")

    again = homeserver.restart()

    reply = again.request("GET", f"{DOWNLOAD}/{path}", token=alice.token)
    assert reply.body == b"kept"
    again.stop()


def test_what_a_crash_leaves_is_deleted_when_it_is_old(homeserver: Homeserver, alice: User) -> None:
    path = upload(alice, b"kept", "text/plain")
    (kept,) = stored_files(homeserver)
    orphan = kept.with_name(kept.name[:2] + "0" * 30)
    unfinished = kept.with_name(kept.name[:2] + "1" * 30 + ".part")
    recent = kept.with_name(kept.name[:2] + "2" * 30)
    somebody_elses = kept.with_name("README")
    for file in (orphan, unfinished, recent, somebody_elses):
        file.write_bytes(b"x")
    for file in (kept, orphan, unfinished, somebody_elses):
        os.utime(file, (START_MS / 1000, START_MS / 1000))

    homeserver.advance(3 * 3600)

    assert set(stored_files(homeserver)) == {kept, recent, somebody_elses}
    assert alice.get(f"{DOWNLOAD}/{path}").body == b"kept"


def test_a_disk_that_takes_nothing_is_told_and_leaves_nothing(
    homeserver: Homeserver, alice: User, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("in the way")

    reply = alice.request("POST", UPLOAD, raw=b"x")

    assert (reply.status, stored_files(homeserver)) == (503, [])


def test_a_file_that_is_lost_is_not_found(homeserver: Homeserver, alice: User) -> None:
    path = upload(alice, b"x", "text/plain")
    stored_files(homeserver)[0].unlink()

    assert alice.get(f"{DOWNLOAD}/{path}").errcode == "M_NOT_FOUND"
