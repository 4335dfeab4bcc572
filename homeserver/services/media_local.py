"""Media of this server's users: uploads, at once or to an id that was given out before.

spec: client-server-api/#content-repository, v1.19. Invariant: content never changes; an id has
none, and then one for good.
"""

import logging
from collections import defaultdict

from twisted.internet.defer import Deferred

from homeserver.clock import Clock, cancel_call
from homeserver.config import MediaSection
from homeserver.core.identifiers import ServerName, UserID
from homeserver.errors import Conflict, Forbidden, LimitExceeded, MatrixError, NotFound, TooLarge
from homeserver.randomness import Randomness
from homeserver.services.media_files import MediaFiles
from homeserver.services.media_headers import clean_content_type, clean_file_name
from homeserver.storage import media
from homeserver.storage.database import Database
from homeserver.storage.media import ContentRow

logger = logging.getLogger(__name__)

DEFAULT_WAIT_MS = 20_000
MAX_WAIT_MS = 60_000
UNUSED_MS = 24 * 3_600_000
"""An id whose content does not come is forgotten after this."""
_MEDIA_ID_LENGTH = 32
_MAX_FILES_PER_USER = 100_000
_MAX_WAITING = 1_000
"""Downloads that wait for an upload."""


class NotYetUploaded(MatrixError):
    status = 504
    errcode = "M_NOT_YET_UPLOADED"


class LocalMedia:
    def __init__(
        self,
        server_name: ServerName,
        section: MediaSection,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        files: MediaFiles,
    ) -> None:
        self._server_name = server_name
        self._section = section
        self._db = database
        self._clock = clock
        self._randomness = randomness
        self._files = files
        self._waiting: dict[str, list[Deferred[None]]] = defaultdict(list)
        """By media id: who waits for its content."""
        self._waiting_count = 0

    async def upload(
        self, user_id: UserID, body: bytes, content_type: str | None, file_name: str | None
    ) -> str:
        """Return the new media id."""
        content = await self._store(user_id, body, content_type, file_name)
        media_id = self._randomness.token(_MEDIA_ID_LENGTH)
        await self._db.run(media.insert_local, media_id, user_id, content, self._clock.now_ms())
        return media_id

    async def create(self, user_id: UserID) -> tuple[str, int]:
        """Give out an id for content to come; return it and when it is forgotten without."""
        now_ms = self._clock.now_ms()
        media_id = self._randomness.token(_MEDIA_ID_LENGTH)
        expires_ts = now_ms + UNUSED_MS
        if not await self._db.run(
            media.insert_awaited,
            media_id,
            user_id,
            now_ms,
            expires_ts,
            self._section.max_pending_uploads,
        ):
            first = await self._db.read(media.find_first_expiry, user_id, now_ms)
            raise LimitExceeded(
                "Too many uploads are pending", retry_after_ms=max(1000, (first or 0) - now_ms)
            )
        return media_id, expires_ts

    async def upload_to(
        self,
        user_id: UserID,
        server_name: ServerName,
        media_id: str,
        body: bytes,
        content_type: str | None,
        file_name: str | None,
    ) -> None:
        """Give an id its content. Raises NotFound, Forbidden, Conflict."""
        if server_name != self._server_name:
            raise NotFound("Unknown media ID")
        awaited = await self._db.read(media.find_awaited, media_id, self._clock.now_ms())
        if awaited is None:
            if await self._db.read(media.find_local, media_id) is None:
                raise NotFound("Unknown media ID")
            raise _overwritten()
        if awaited.user_id != user_id:
            raise Forbidden("Only who created the media ID may upload to it")
        content = await self._store(user_id, body, content_type, file_name)
        if not await self._db.run(media.update_awaited, media_id, content):
            await self._files.delete([content.file_id])
            raise _overwritten()
        for waiter in self._waiting.pop(media_id, ()):
            if not waiter.called:
                waiter.callback(None)

    async def get(self, media_id: str, timeout_ms: int) -> ContentRow:
        """Return what is in a file, after waiting for it if it is pending.

        Raises NotFound, NotYetUploaded.
        """
        found = await self._db.read(media.find_local, media_id)
        if found is not None:
            return found
        if await self._db.read(media.find_awaited, media_id, self._clock.now_ms()) is None:
            raise NotFound("No such media")
        await self._wait(media_id, max(0, min(timeout_ms, MAX_WAIT_MS)))
        found = await self._db.read(media.find_local, media_id)
        if found is None:
            raise NotYetUploaded("The content has not been uploaded yet")
        return found

    async def _store(
        self, user_id: UserID, body: bytes, content_type: str | None, file_name: str | None
    ) -> ContentRow:
        if len(body) > self._section.max_upload_bytes:
            raise TooLarge(f"Files have at most {self._section.max_upload_bytes} bytes")
        usage = await self._db.read(media.find_usage, user_id)
        allowed = self._section.max_user_bytes
        if usage.files >= _MAX_FILES_PER_USER or (
            allowed is not None and usage.bytes + len(body) > allowed
        ):
            raise Forbidden("You have uploaded as much as you may")
        stored = await self._files.store(body)
        return ContentRow(
            stored.file_id,
            clean_content_type(content_type),
            clean_file_name(file_name),
            stored.length,
            stored.sha256,
            self._section.unauthenticated_legacy,
        )

    async def _wait(self, media_id: str, timeout_ms: int) -> None:
        """Wait for an upload, or for the time to pass."""
        if not timeout_ms or self._waiting_count >= _MAX_WAITING:
            return
        waiter: Deferred[None] = Deferred()

        def give_up() -> None:
            if not waiter.called:
                waiter.callback(None)

        timer = self._clock.call_later(timeout_ms / 1000, give_up)
        self._waiting[media_id].append(waiter)
        self._waiting_count += 1
        try:
            await waiter
        finally:
            cancel_call(timer)
            self._waiting_count -= 1
            waiting = self._waiting.get(media_id)
            if waiting is not None:
                waiting.remove(waiter)
                if not waiting:
                    del self._waiting[media_id]


def _overwritten() -> Conflict:
    return Conflict("The media has content already", errcode="M_CANNOT_OVERWRITE_MEDIA")
