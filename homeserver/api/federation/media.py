"""Media of this server, for other servers.

spec: server-server-api/#content-repository, v1.19.
"""

from typing import Literal

from homeserver.api.media_responses import make_download_for_server, make_thumbnail_for_server
from homeserver.core.identifiers import ServerName
from homeserver.randomness import Randomness
from homeserver.services.media import Found, Media
from homeserver.services.media_local import DEFAULT_WAIT_MS
from homeserver.services.media_thumbnails import Thumbnails, Wish
from homeserver.transport.endpoint import Auth, Response, endpoint

_BOUNDARY_LENGTH = 43


class FederationMediaAPI:
    """Files that other servers show to their users."""

    def __init__(
        self,
        server_name: ServerName,
        media: Media,
        thumbnails: Thumbnails,
        randomness: Randomness,
    ) -> None:
        self._server_name = server_name
        self._media = media
        self._thumbnails = thumbnails
        self._randomness = randomness

    @endpoint(
        "getContent", "GET", "/_matrix/federation/v1/media/download/{mediaId}",
        auth=Auth.FEDERATION, rate_limited=True,
    )  # fmt: skip
    async def download(
        self, origin: ServerName, media_id: str, *, timeout_ms: int = DEFAULT_WAIT_MS
    ) -> Response:
        del origin
        return make_download_for_server(await self._open(media_id, timeout_ms), self._boundary())

    @endpoint(
        "getContentThumbnail", "GET", "/_matrix/federation/v1/media/thumbnail/{mediaId}",
        auth=Auth.FEDERATION, rate_limited=True,
    )  # fmt: skip
    async def thumbnail(
        self,
        origin: ServerName,
        media_id: str,
        *,
        width: int,
        height: int,
        method: Literal["crop", "scale"] = "scale",
        timeout_ms: int = DEFAULT_WAIT_MS,
        animated: bool = False,
    ) -> Response:
        del origin
        wish = Wish(width, height, method, animated)
        found = await self._thumbnails.open(await self._open(media_id, timeout_ms), wish)
        return make_thumbnail_for_server(found, self._boundary())

    async def _open(self, media_id: str, timeout_ms: int) -> Found:
        return await self._media.open(
            self._server_name, media_id, timeout_ms=timeout_ms, authenticated=True
        )

    def _boundary(self) -> str:
        """Return what is in no file by any chance that matters."""
        return self._randomness.token(_BOUNDARY_LENGTH)
