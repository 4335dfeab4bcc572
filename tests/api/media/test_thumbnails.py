"""Thumbnails.

spec: client-server-api/#thumbnails, v1.19
"""

import pytest

from tests.homeserver import Homeserver, User
from tests.media import THUMBNAIL, header, picture, read_picture, stored_files, upload


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
