"""Media by their mxc:// URI, wherever they come from.

spec: client-server-api/#content-repository, v1.19. Invariant: nothing is looked up, fetched or
opened for a server name or a media id outside their grammar; and media that came while
unauthenticated downloads were off are given to nobody who is not logged in.
"""

import logging
import re
from dataclasses import dataclass
from typing import BinaryIO

from homeserver.config import MediaSection
from homeserver.core.identifiers import ServerName
from homeserver.errors import NotFound
from homeserver.services.media_files import MediaFiles
from homeserver.services.media_local import DEFAULT_WAIT_MS, LocalMedia
from homeserver.services.media_remote import RemoteMedia
from homeserver.storage.media import ContentRow

logger = logging.getLogger(__name__)

_MEDIA_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")


@dataclass(frozen=True, slots=True)
class Found:
    """Media and their open file, which whoever gets it closes."""

    server_name: ServerName
    media_id: str
    content: ContentRow
    file: BinaryIO


class Media:
    def __init__(
        self,
        server_name: ServerName,
        section: MediaSection,
        local: LocalMedia,
        remote: RemoteMedia,
        files: MediaFiles,
    ) -> None:
        self._server_name = server_name
        self._section = section
        self._local = local
        self._remote = remote
        self._files = files

    async def open(
        self,
        server: ServerName,
        media_id: str,
        *,
        timeout_ms: int = DEFAULT_WAIT_MS,
        authenticated: bool,
        fetches: bool = True,
    ) -> Found:
        """Find media, on this server or another one, and open them.

        fetches  whether other servers are asked
        Raises NotFound, NotYetUploaded, ServersFailed, LimitExceeded.
        """
        if _MEDIA_ID.fullmatch(media_id) is None:
            raise NotFound("No such media")
        if not authenticated and not self._section.unauthenticated_legacy:
            fetches = False  # what is fetched now would not be given out
            timeout_ms = 0
        is_local = server == self._server_name
        if is_local:
            content = await self._local.get(media_id, timeout_ms)
        else:
            content = await self._remote.get(server, media_id, timeout_ms, fetches=fetches)
        if not authenticated and not content.is_open:
            raise NotFound("These media are for people who are logged in")
        try:
            file = self._files.open(content.file_id)
        except FileNotFoundError:
            logger.error("A file is missing server=%s file=%s", server, content.file_id)  # noqa: TRY400 - the name says all
            if is_local or not fetches:
                raise NotFound("The content is lost") from None
            await self._remote.forget(server, media_id)
            content = await self._remote.fetch(server, media_id, timeout_ms)
            file = self._files.open(content.file_id)
        return Found(server, media_id, content, file)
