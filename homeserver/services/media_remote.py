"""Media of other servers: fetched once, kept while they are used and there is room.

spec: server-server-api/#content-repository, v1.19. Invariant: what another server sends is bounded
in bytes and time, a file is fetched by one request at a time, few are fetched at once, and what
failed is not asked for again soon.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass

from twisted.internet.defer import DeferredSemaphore

from homeserver.clock import Clock
from homeserver.config import MediaSection
from homeserver.core.identifiers import ServerName
from homeserver.errors import MatrixError, NotFound
from homeserver.services.federation.requests import FederationRequests
from homeserver.services.media_files import MediaFiles
from homeserver.services.media_headers import clean_content_type, parse_file_name
from homeserver.services.media_local import MAX_WAIT_MS
from homeserver.services.media_multipart import MultipartInvalid, Part, parse_multipart
from homeserver.services.shared_work import SharedWork
from homeserver.storage import media
from homeserver.storage.database import Database
from homeserver.storage.media import ContentRow
from homeserver.transport.federation_client import ErrorAnswer, ServerRefused
from homeserver.transport.outbound import Cause, RequestFailed

logger = logging.getLogger(__name__)

MAX_WANTED = 500
"""Files that are fetched or wait for their turn."""
_MAX_FETCHES = 8
"""At the same time; each holds a file in memory."""
_MAX_FETCHES_PER_SERVER = 3
_USE_EXACT_MS = 3_600_000
_MISSING_MS = 600_000
"""What another server does not have is not asked for again before this."""
_FAILED_MS = 60_000
_AWAY = frozenset((Cause.DNS, Cause.CONNECT, Cause.TLS, Cause.TIMEOUT))
"""Whoever fails like this is asked for nothing else either, for that time."""
_ANYTHING = ""
"""In place of a media id."""
_MAX_FAILURES = 10_000
_DELETED_AT_ONCE = 100
_MAX_URL = 8_000


@dataclass(frozen=True, slots=True)
class _Failure:
    """What clients are told; not an exception, which would keep what was received alive."""

    status: int
    errcode: str
    message: str
    kept_ms: int

    def error(self) -> MatrixError:
        return MatrixError(self.message, status=self.status, errcode=self.errcode)


_TOO_LARGE = _Failure(502, "M_TOO_LARGE", "The content is too large", _MISSING_MS)
_NOT_YET = _Failure(504, "M_NOT_YET_UPLOADED", "The content has not been uploaded yet", 0)
_MISSING = _Failure(404, "M_NOT_FOUND", "The other server has no such media", _MISSING_MS)
_REFUSED = _Failure(404, "M_NOT_FOUND", "Media of this server are not fetched", 0)
_FAILED = _Failure(502, "M_UNKNOWN", "The other server does not give the media", _FAILED_MS)


class RemoteMedia:
    def __init__(
        self,
        server_name: ServerName,
        section: MediaSection,
        database: Database,
        clock: Clock,
        requests: FederationRequests,
        files: MediaFiles,
        fetches: SharedWork[tuple[ServerName, str], ContentRow],
    ) -> None:
        self._server_name = server_name
        self._section = section
        self._db = database
        self._clock = clock
        self._requests = requests
        self._files = files
        self._fetches = fetches
        self._places = DeferredSemaphore(_MAX_FETCHES)
        self._lanes: dict[ServerName, DeferredSemaphore] = {}
        """By server: so that a slow one does not take every place."""
        self._is_trimming = False
        self._failures: OrderedDict[tuple[ServerName, str], tuple[_Failure, int]] = OrderedDict()
        """And until when each holds."""
        self._stored_bytes: int | None = None
        """Of all copies, about; None: not counted yet."""

    async def get(
        self, server: ServerName, media_id: str, timeout_ms: int, *, fetches: bool
    ) -> ContentRow:
        """Return what is in a file, which is fetched if `fetches`.

        Raises MatrixError as clients are told, LimitExceeded when too many are fetched.
        """
        found = await self._db.read(media.find_remote, server, media_id)
        if found is not None:
            await self._note_use(server, media_id)
            return found
        if not fetches:
            raise NotFound("No such media here")
        return await self.fetch(server, media_id, timeout_ms)

    async def fetch(self, server: ServerName, media_id: str, timeout_ms: int) -> ContentRow:
        """Ask the other server, though there may be a copy. Raises as `get`."""
        self._check_not_failed(server, media_id)
        waits_ms = max(0, min(timeout_ms, MAX_WAIT_MS))
        return await self._fetches.get(
            (server, media_id), lambda: self._fetch_in_turn(server, media_id, waits_ms)
        )

    async def trim(self) -> None:
        """Delete copies, those used least recently first, until the rest fits."""
        if self._is_trimming:
            return
        self._is_trimming = True
        try:
            stored = await self._db.read(media.sum_remote_bytes, self._server_name)
            while stored > self._section.remote_cache_bytes:
                keys = await self._db.read(media.list_least_used, _DELETED_AT_ONCE)
                if not keys:
                    logger.warning("Nothing is left to delete, and yet it takes bytes=%d", stored)
                    break
                excess = stored - self._section.remote_cache_bytes
                for key in keys:
                    if excess > 0:
                        await self.forget(key.server_name, key.media_id)
                        excess -= key.length
                stored = await self._db.read(media.sum_remote_bytes, self._server_name)
            self._stored_bytes = stored
        finally:
            self._is_trimming = False

    async def forget(self, server: ServerName, media_id: str) -> None:
        """Delete a copy and its thumbnails."""
        await self._files.delete(await self._db.run(media.delete_remote, server, media_id))

    async def _note_use(self, server: ServerName, media_id: str) -> None:
        now_ms = self._clock.now_ms()
        await self._db.run(media.update_last_used, server, media_id, now_ms, now_ms - _USE_EXACT_MS)

    async def _fetch_in_turn(
        self, server: ServerName, media_id: str, timeout_ms: int
    ) -> ContentRow:
        lane = self._lanes.setdefault(server, DeferredSemaphore(_MAX_FETCHES_PER_SERVER))
        await lane.acquire()
        try:
            await self._places.acquire()
            try:
                self._check_not_failed(server, media_id)
                return await self._fetch(server, media_id, timeout_ms)
            finally:
                self._places.release()
        finally:
            lane.release()
            if lane.tokens == lane.limit:
                del self._lanes[server]

    async def _fetch(self, server: ServerName, media_id: str, timeout_ms: int) -> ContentRow:
        try:
            part = await self._ask(server, media_id, timeout_ms)
        except (RequestFailed, MultipartInvalid) as error:
            raise self._failed(server, media_id, error) from error
        stored = await self._files.store(part.content)
        content = ContentRow(
            stored.file_id,
            clean_content_type(part.headers.get("content-type")),
            parse_file_name(part.headers.get("content-disposition")),
            stored.length,
            stored.sha256,
            self._section.unauthenticated_legacy,
        )
        await self._db.run(media.upsert_remote, server, media_id, content, self._clock.now_ms())
        await self._count(content.length)
        return content

    async def _ask(self, server: ServerName, media_id: str, timeout_ms: int) -> Part:
        max_bytes = self._section.max_remote_bytes
        try:
            answer = await self._requests.get_content(
                server, media_id, timeout_ms=timeout_ms, max_bytes=max_bytes
            )
        except ErrorAnswer as error:
            if error.status != NotFound.status or error.errcode != "M_UNRECOGNIZED":
                raise
            answer = await self._requests.get_content_of_old_server(
                server, media_id, timeout_ms=timeout_ms, max_bytes=max_bytes
            )
            return Part(answer.headers or {}, answer.body)
        part = parse_multipart((answer.headers or {}).get("content-type", ""), answer.body)
        location = part.headers.get("location")
        if location is not None:
            if len(location) > _MAX_URL:
                raise MultipartInvalid("the URL is too long")
            answer = await self._requests.get_content_elsewhere(location, max_bytes=max_bytes)
            part = Part(answer.headers or {}, answer.body)
        if len(part.content) > max_bytes:
            raise RequestFailed("the content is too large", Cause.TOO_LARGE)
        return part

    def _check_not_failed(self, server: ServerName, media_id: str) -> None:
        for key in ((server, _ANYTHING), (server, media_id)):
            failure = self._failures.get(key)
            if failure is not None and failure[1] > self._clock.now_ms():
                raise failure[0].error()

    def _failed(
        self, server: ServerName, media_id: str, error: RequestFailed | MultipartInvalid
    ) -> MatrixError:
        """Return what a client is told, and remember it for a while."""
        logger.info("Media not fetched server=%s cause=%s", server, error)
        failure = _explain(error)
        if failure.kept_ms:
            is_away = isinstance(error, RequestFailed) and error.cause in _AWAY
            key = (server, _ANYTHING if is_away else media_id)
            self._failures[key] = (failure, self._clock.now_ms() + failure.kept_ms)
            self._failures.move_to_end(key)
            while len(self._failures) > _MAX_FAILURES:
                self._failures.popitem(last=False)
        return failure.error()

    async def _count(self, length: int) -> None:
        if self._stored_bytes is not None:
            self._stored_bytes += length
        if self._stored_bytes is None or self._stored_bytes > self._section.remote_cache_bytes:
            await self.trim()


def _explain(error: RequestFailed | MultipartInvalid) -> _Failure:
    if isinstance(error, ServerRefused):
        return _REFUSED
    if isinstance(error, RequestFailed) and error.cause is Cause.TOO_LARGE:
        return _TOO_LARGE
    if isinstance(error, ErrorAnswer):
        if error.errcode == _NOT_YET.errcode:
            return _NOT_YET
        if error.errcode == _TOO_LARGE.errcode:
            return _TOO_LARGE
        if error.status == _MISSING.status:
            return _MISSING
    return _FAILED
