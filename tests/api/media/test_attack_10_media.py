"""Attack class 10: hostile media and hostile names for them."""

import io
import itertools
import os

import pytest
from PIL import Image

from homeserver.services.media_headers import (
    clean_content_type,
    clean_file_name,
    make_disposition,
    parse_file_name,
)
from homeserver.services.media_images import CROPPED, NoPicture, make_thumbnail
from tests.homeserver import Homeserver, User
from tests.media import (
    DOWNLOAD,
    OLD_DOWNLOAD,
    OLD_THUMBNAIL,
    THUMBNAIL,
    bomb,
    header,
    picture,
    stored_files,
    upload,
)


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
