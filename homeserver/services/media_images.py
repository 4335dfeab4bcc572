"""Thumbnails from pictures that anybody may have made: pure computation, no I/O but the file given.

spec: client-server-api/#thumbnails, v1.19. Invariant: nothing is decoded before its size is known
to be within `MAX_PIXELS`; of four formats only, only one frame, and only for as long as allowed.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, cast

from PIL import Image, ImageOps

MAX_PIXELS = 40_000_000
"""A decoded picture takes up to four bytes a pixel, a copy of it as much again."""
_READ = ("PNG", "JPEG", "GIF", "WEBP")
_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # what JPEG turns out to be when a camera puts two pictures into it
    "GIF": "image/gif",
    "WEBP": "image/webp",
}
_MOVING = ("PNG", "GIF", "WEBP")
_JPEG = b"\xff\xd8"
_SCAN = b"\xff\xda"
"""Begins a scan and stands nowhere else in the data of a picture, where ff is always escaped."""
_MAX_SCANS = 100
"""Encoders make about ten."""
_PIECE_BYTES = 4096
_QUALITY = 80
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    NotImplementedError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises about broken files."""

# Of Pillow's own checks the warning is ours to give, and the error comes at twice as much.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class _FileInTime(io.RawIOBase):
    """A file that cannot be read any more when it is late.

    Decoders take a file in pieces, so none works much longer than it is given something.
    """

    def __init__(self, file: BinaryIO, is_late: Callable[[], bool]) -> None:
        super().__init__()
        self._file = file
        self._is_late = is_late

    def read(self, size: int | None = -1, /) -> bytes:
        if self._is_late():
            raise OSError("it takes too long")
        return self._file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class NoPicture(Exception):
    """It is none of the formats, or broken, or takes too long."""


class PictureTooLarge(Exception):
    """It has more than MAX_PIXELS."""


@dataclass(frozen=True, slots=True)
class Size:
    """One of the list of sizes that thumbnails come in."""

    width: int
    height: int
    method: str
    """crop or scale."""

    def covers(self, width: int, height: int) -> bool:
        return self.width >= width and self.height >= height


@dataclass(frozen=True, slots=True)
class Thumbnail:
    content: bytes | None
    """None: the original serves."""
    content_type: str
    animated_type: str | None
    """Content type of the original if it moves."""


SCALED = tuple(Size(w, h, "scale") for w, h in ((320, 240), (640, 480), (800, 600), (1600, 1200)))
CROPPED = tuple(
    Size(w, h, "crop")
    for w, h in ((32, 32), (96, 96), (256, 256), (320, 240), (640, 480), (800, 600), (960, 960))
)
FULL = Size(0, 0, "scale")
"""For who asks for more than the list has: the original, still."""


def choose_size(width: int, height: int, method: str) -> Size:
    """Return the smallest size that covers what is asked, in its shape if there is one."""
    listed = CROPPED if method == "crop" else SCALED
    covering = [size for size in listed if size.covers(width, height)]
    shaped = [size for size in covering if size.width * height == size.height * width]
    return next(iter((shaped if method == "crop" else []) or covering), FULL)


def make_thumbnail(file: BinaryIO, size: Size, is_late: Callable[[], bool]) -> Thumbnail:
    """Raises NoPicture, PictureTooLarge. `is_late` is asked whenever more is read."""
    try:
        _check_scans(file)
        timed = cast("BinaryIO", _FileInTime(file, is_late))
        with Image.open(timed, formats=_READ) as image:
            image.decodermaxblock = _PIECE_BYTES
            if image.width * image.height > MAX_PIXELS:
                raise PictureTooLarge
            return _make(image, size)
    except Image.DecompressionBombError as error:
        raise PictureTooLarge from error
    except _BROKEN as error:
        raise NoPicture(str(error)) from error


def _check_scans(file: BinaryIO) -> None:
    """Raise NoPicture for a JPEG that goes over its pixels too often; a scan takes 80 bytes."""
    if file.read(len(_JPEG)) == _JPEG and file.read().count(_SCAN) > _MAX_SCANS:
        raise NoPicture("it has too many scans")


def _make(image: Image.Image, size: Size) -> Thumbnail:
    original_type = _TYPES[image.format or ""]
    moves = image.format in _MOVING and bool(getattr(image, "is_animated", False))
    animated_type = original_type if moves else None
    if not moves and (size is FULL or size.covers(image.width, image.height)):
        return Thumbnail(None, original_type, None)
    still = _decode(image, size)
    output = io.BytesIO()
    if still.mode == "RGBA":
        still.save(output, "PNG")
        return Thumbnail(output.getvalue(), "image/png", animated_type)
    still.save(output, "JPEG", quality=_QUALITY)
    return Thumbnail(output.getvalue(), "image/jpeg", animated_type)


def _decode(image: Image.Image, size: Size) -> Image.Image:
    """Return one frame, upright, no larger than `size`, in RGB or RGBA; never enlarged."""
    if size is FULL:
        size = SCALED[-1]
    longest = max(size.width, size.height)
    # What turns on the side must still cover; JPEG alone knows how to decode to less.
    image.draft("RGB", (longest * 2, longest * 2))
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    ImageOps.exif_transpose(image, in_place=True)
    upright = image.convert("RGBA" if has_alpha else "RGB")
    if size.method == "crop":
        factor = max(1.0, size.width / upright.width, size.height / upright.height)
        target = (max(1, int(size.width / factor)), max(1, int(size.height / factor)))
        still = ImageOps.fit(upright, target)
    else:
        upright.thumbnail((size.width, size.height), reducing_gap=2.0)
        still = upright
    return still
