"""Pictures and multipart bodies for the tests of media."""

import dataclasses
import io
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from homeserver.config import MediaSection
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, Reply, User

UPLOAD = "/_matrix/media/v3/upload"
CREATE = "/_matrix/media/v1/create"
DOWNLOAD = "/_matrix/client/v1/media/download"
THUMBNAIL = "/_matrix/client/v1/media/thumbnail"
OLD_DOWNLOAD = "/_matrix/media/v3/download"
OLD_THUMBNAIL = "/_matrix/media/v3/thumbnail"

LIMITS = MediaSection(max_upload_bytes=20_000_000, max_user_bytes=30_000_000, max_pending_uploads=3)


def start(database: InlineDatabase, folder: Path, **sections: Any) -> Homeserver:
    """Start a server whose data are in the folder; `sections` of its configuration."""
    sections = {"media": LIMITS, **sections}
    return Homeserver(database, dataclasses.replace(DEFAULT_CONFIG, directory=folder, **sections))


def picture(
    width: int, height: int, kind: str = "PNG", color: Any = (200, 30, 30), frames: int = 1
) -> bytes:
    """One color; with more frames, it darkens."""
    output = io.BytesIO()
    mode = "RGBA" if len(color) == 4 else "RGB"
    shown = [
        Image.new(mode, (width, height), tuple(max(0, part - 40 * n) for part in color))
        for n in range(frames)
    ]
    more = {"save_all": True, "append_images": shown[1:]} if frames > 1 else {}
    shown[0].save(output, kind, **more)
    return output.getvalue()


def read_picture(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def bomb(kind: str) -> bytes:
    """A small file that says it is enormous."""
    if kind == "PNG":
        header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 6, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in (
                (b"IHDR", header),
                (b"IDAT", zlib.compress(bytes(1_000_000))),
                (b"IEND", b""),
            )
        )
    if kind == "GIF":
        small = bytearray(picture(8, 8, "GIF"))
        small[6:10] = struct.pack("<HH", 60_000, 60_000)
        return bytes(small)
    if kind == "WEBP":
        still = picture(8, 8, "WEBP")
        side = (16_383 - 1).to_bytes(3, "little")
        chunks = b"VP8X" + struct.pack("<I", 10) + b"\x00\x00\x00\x00" + side + side + still[12:]
        return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
    raise AssertionError(kind)


def upload(
    user: User, content: bytes, content_type: str = "image/png", file_name: str | None = None
) -> str:
    """Return `server/media id`."""
    query = {} if file_name is None else {"filename": file_name}
    reply = user.request(
        "POST", UPLOAD, raw=content, headers={"Content-Type": content_type}, query=query
    )
    assert reply.status == 200, reply.json
    return str(reply.json["content_uri"]).removeprefix("mxc://")


def header(reply: Reply, name: str) -> str | None:
    found = reply.headers.getRawHeaders(name)
    return None if found is None else found[0]


def stored_files(server: Homeserver) -> list[Path]:
    folder = server.config.path(server.config.server.data_directory) / "media"
    return [path for path in folder.rglob("*") if path.is_file()]
