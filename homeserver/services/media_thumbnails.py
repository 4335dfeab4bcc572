"""Thumbnails: made when first asked for, kept beside what they show.

spec: client-server-api/#thumbnails, v1.19. Invariant: each file has as many thumbnails as the list
has sizes, whatever sizes are asked for; each is made once, a bounded number at a time.
"""

from dataclasses import dataclass
from typing import BinaryIO, Literal

from homeserver.clock import Clock
from homeserver.core.identifiers import ServerName
from homeserver.errors import InvalidParam, MatrixError, TooLarge
from homeserver.services.bounded_threads import BoundedThreads
from homeserver.services.media import Found
from homeserver.services.media_files import MediaFiles
from homeserver.services.media_images import (
    NoPicture,
    PictureTooLarge,
    Size,
    Thumbnail,
    choose_size,
    make_thumbnail,
)
from homeserver.services.shared_work import SharedWork
from homeserver.storage import media
from homeserver.storage.database import Database
from homeserver.storage.media import ThumbnailRow

_MAX_ANIMATED_BYTES = 4 * 1_048_576
"""Larger originals do not serve as their own moving thumbnail."""
_MAX_SIDE = 100_000
_DECODING_SECONDS = 20.0

Key = tuple[ServerName, str, Size]


@dataclass(frozen=True, slots=True)
class FoundThumbnail:
    """A thumbnail and its open file, which whoever gets it closes."""

    content_type: str
    length: int
    file: BinaryIO


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client wants."""

    width: int
    height: int
    method: Literal["crop", "scale"]
    animated: bool

    def __post_init__(self) -> None:
        """Raises InvalidParam."""
        if not (0 < self.width <= _MAX_SIDE and 0 < self.height <= _MAX_SIDE):
            raise InvalidParam(f"width and height must be from 1 to {_MAX_SIDE}")


class Thumbnails:
    def __init__(
        self,
        server_name: ServerName,
        database: Database,
        clock: Clock,
        files: MediaFiles,
        threads: BoundedThreads,
        work: SharedWork[Key, ThumbnailRow],
    ) -> None:
        self._server_name = server_name
        self._db = database
        self._clock = clock
        self._files = files
        self._threads = threads
        self._work = work

    async def open(self, found: Found, wish: Wish) -> FoundThumbnail:
        """Return a thumbnail of `found`, whose file is closed or becomes the answer's.

        Raises MatrixError as the specification wants it told, LimitExceeded.
        """
        size = choose_size(wish.width, wish.height, wish.method)
        original = found.content
        try:
            row = await self._find(found, size)
            if row is None:
                key = (found.server_name, found.media_id, size)
                row = await self._work.get(key, lambda: self._make(found, size))
            if wish.animated and row.animated_type and original.length <= _MAX_ANIMATED_BYTES:
                return FoundThumbnail(row.animated_type, original.length, found.file)
            if row.file_id is None:
                return FoundThumbnail(row.content_type, original.length, found.file)
            file = self._files.open(row.file_id)
        except BaseException:
            found.file.close()
            raise
        found.file.close()
        return FoundThumbnail(row.content_type, row.length, file)

    async def _find(self, found: Found, size: Size) -> ThumbnailRow | None:
        row = await self._db.read(
            media.find_thumbnail,
            found.server_name,
            found.media_id,
            size.width,
            size.height,
            size.method,
        )
        is_lost = row is not None and row.file_id is not None and not self._files.has(row.file_id)
        return None if is_lost else row

    async def _make(self, found: Found, size: Size) -> ThumbnailRow:
        try:
            made = await self._threads.call(self._read, found.content.file_id, size)
        except NoPicture as error:
            message = "Cannot generate thumbnails for the requested content"
            raise MatrixError(message, status=400, errcode="M_UNKNOWN") from error
        except PictureTooLarge as error:
            raise self._too_large(found) from error
        file_id, length = None, found.content.length
        if made.content is not None:
            stored = await self._files.store(made.content)
            file_id, length = stored.file_id, stored.length
        row = ThumbnailRow(file_id, made.content_type, made.animated_type, length)
        await self._db.run(
            media.upsert_thumbnail,
            found.server_name,
            found.media_id,
            size.width,
            size.height,
            size.method,
            row,
        )
        return row

    def _read(self, file_id: str, size: Size) -> Thumbnail:
        deadline = self._clock.monotonic() + _DECODING_SECONDS
        with self._files.open(file_id) as file:
            return make_thumbnail(file, size, lambda: self._clock.monotonic() > deadline)

    def _too_large(self, found: Found) -> MatrixError:
        message = "Content is too large to thumbnail"
        if found.server_name == self._server_name:
            return TooLarge(message)
        return MatrixError(message, status=502, errcode="M_TOO_LARGE")
