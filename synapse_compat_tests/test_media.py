"""Media across servers: files, names, thumbnails."""

import io
import urllib.request
import uuid

import pytest
from PIL import Image

from synapse_compat_tests.client import Refused, User
from synapse_compat_tests.conftest import Pair

_UPLOAD = "/_matrix/media/v3/upload"
_DOWNLOAD = "/_matrix/client/v1/media/download/"
_WIDTH = 1000
_ASKED = 96
_THUMBNAIL = "/_matrix/client/v1/media/thumbnail/"


def upload(user: User, content: bytes, content_type: str, file_name: str) -> str:
    """Return `server/media id`."""
    answer = user.request(
        "POST", _UPLOAD, raw=content, content_type=content_type, filename=file_name
    )
    return str(answer["content_uri"]).removeprefix("mxc://")


def picture(width: int, height: int) -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (width, height), (10, 120, 30)).save(output, "PNG")
    return output.getvalue()


def test_a_file_is_seen_on_the_other_server_with_its_type_and_name(pair: Pair) -> None:
    alice, bob = pair.users()
    content = uuid.uuid4().bytes * 100_000

    path = upload(alice, content, "application/pdf", "Krieg und Frieden é.pdf")

    asked = urllib.request.Request(bob.server.client_url + _DOWNLOAD + path)  # noqa: S310 - http to loopback
    asked.add_header("Authorization", f"Bearer {bob.token}")
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 - see above
        assert answer.read() == content
        assert answer.headers["Content-Type"] == "application/pdf"
        name = answer.headers.get_filename()
    assert name == "Krieg und Frieden é.pdf"


@pytest.mark.parametrize("method", ["crop", "scale"])
def test_a_thumbnail_of_the_other_servers_picture(pair: Pair, method: str) -> None:
    alice, bob = pair.users()
    path = upload(alice, picture(_WIDTH, _WIDTH // 2), "image/png", "green.png")

    query = f"?width={_ASKED}&height={_ASKED}&method={method}"
    thumbnail = bob.get(_THUMBNAIL + path + query)

    with Image.open(io.BytesIO(thumbnail)) as image:
        assert min(image.size) >= _ASKED / 2
        assert max(image.size) < _WIDTH


def test_media_that_do_not_exist_are_not_found_on_the_other_server(pair: Pair) -> None:
    alice, bob = pair.users()

    with pytest.raises(Refused) as refused:
        bob.get(f"{_DOWNLOAD}{alice.server.name}/nosuchmedia")

    assert refused.value.errcode == "M_NOT_FOUND"
