"""The content repository: uploads, downloads, thumbnails.

spec: client-server-api/#content-repository, v1.19. The operations under /_matrix/media/v3 that
need no authentication give out only what came while `media.unauthenticated_legacy` was on.
"""

from functools import partial
from typing import Literal

from homeserver.api.media_responses import make_download, make_thumbnail_download
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.requester import Requester
from homeserver.services.media import Media
from homeserver.services.media_headers import clean_file_name
from homeserver.services.media_local import DEFAULT_WAIT_MS, LocalMedia
from homeserver.services.media_thumbnails import Thumbnails, Wish
from homeserver.transport.endpoint import EMPTY, Auth, RequestInfo, Response, endpoint

DOWNLOADS = (
    "getContent",
    "getContentAuthed",
    "getContentOverrideName",
    "getContentOverrideNameAuthed",
    "getContentThumbnail",
    "getContentThumbnailAuthed",
)
"""Operations of which a client needs hundreds at once: every avatar of a room is one."""
UPLOAD_PATH = "/_matrix/media/v3/upload"
_DOWNLOAD = "/_matrix/client/v1/media/download/{serverName}/{mediaId}"
_OLD_DOWNLOAD = "/_matrix/media/v3/download/{serverName}/{mediaId}"


class MediaUploadAPI:
    """Files that clients send."""

    def __init__(
        self, server_name: ServerName, local: LocalMedia, *, max_upload_bytes: int
    ) -> None:
        self._server_name = server_name
        self._local = local
        self._max_upload_bytes = max_upload_bytes

    @endpoint("uploadContent", "POST", UPLOAD_PATH, auth=Auth.CLIENT, rate_limited=True)
    async def upload(
        self, requester: Requester, request: RequestInfo, *, filename: str | None = None
    ) -> JsonObject:
        media_id = await self._local.upload(
            requester.user_id, request.body_bytes, request.content_type, filename
        )
        return {"content_uri": self._uri(media_id)}

    @endpoint(
        "createContent", "POST", "/_matrix/media/v1/create", auth=Auth.CLIENT, rate_limited=True
    )
    async def create(self, requester: Requester) -> JsonObject:
        media_id, expires_ts = await self._local.create(requester.user_id)
        return {"content_uri": self._uri(media_id), "unused_expires_at": expires_ts}

    @endpoint(
        "uploadContentToMXC", "PUT", UPLOAD_PATH + "/{serverName}/{mediaId}",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def upload_to(
        self,
        requester: Requester,
        request: RequestInfo,
        server_name: ServerName,
        media_id: str,
        *,
        filename: str | None = None,
    ) -> JsonObject:
        await self._local.upload_to(
            requester.user_id,
            server_name,
            media_id,
            request.body_bytes,
            request.content_type,
            filename,
        )
        return EMPTY

    @endpoint(
        "getConfigAuthed", "GET", "/_matrix/client/v1/media/config",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def get_config(self, requester: Requester) -> JsonObject:
        del requester
        return {"m.upload.size": self._max_upload_bytes}

    @endpoint("getConfig", "GET", "/_matrix/media/v3/config", auth=Auth.CLIENT, rate_limited=True)
    async def get_config_of_old(self, requester: Requester) -> JsonObject:
        return await self.get_config(requester)

    def _uri(self, media_id: str) -> str:
        return f"mxc://{self._server_name}/{media_id}"


class MediaAPI:
    """Files that clients see."""

    def __init__(self, media: Media, thumbnails: Thumbnails) -> None:
        self._open = partial(media.open, authenticated=True)
        self._thumbnails = thumbnails

    @endpoint("getContentAuthed", "GET", _DOWNLOAD, auth=Auth.CLIENT, rate_limited=True)
    async def download(
        self,
        requester: Requester,
        server_name: ServerName,
        media_id: str,
        *,
        timeout_ms: int = DEFAULT_WAIT_MS,
    ) -> Response:
        del requester
        return make_download(await self._open(server_name, media_id, timeout_ms=timeout_ms))

    @endpoint(
        "getContentOverrideNameAuthed", "GET", _DOWNLOAD + "/{fileName}",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def download_as(
        self,
        requester: Requester,
        server_name: ServerName,
        media_id: str,
        file_name: str,
        *,
        timeout_ms: int = DEFAULT_WAIT_MS,
    ) -> Response:
        del requester
        found = await self._open(server_name, media_id, timeout_ms=timeout_ms)
        return make_download(found, clean_file_name(file_name))

    @endpoint(
        "getContentThumbnailAuthed", "GET",
        "/_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def thumbnail(
        self,
        requester: Requester,
        server_name: ServerName,
        media_id: str,
        *,
        width: int,
        height: int,
        method: Literal["crop", "scale"] = "scale",
        timeout_ms: int = DEFAULT_WAIT_MS,
        animated: bool = False,
    ) -> Response:
        del requester
        wish = Wish(width, height, method, animated)
        found = await self._open(server_name, media_id, timeout_ms=timeout_ms)
        return make_thumbnail_download(await self._thumbnails.open(found, wish))


class UnauthenticatedMediaAPI:
    """The deprecated operations, for clients and servers that know no others."""

    def __init__(self, media: Media, thumbnails: Thumbnails) -> None:
        self._open = partial(media.open, authenticated=False)
        self._thumbnails = thumbnails

    @endpoint("getContent", "GET", _OLD_DOWNLOAD, auth=Auth.NONE, rate_limited=True)
    async def download(
        self,
        server_name: ServerName,
        media_id: str,
        *,
        allow_remote: bool = True,
        timeout_ms: int = DEFAULT_WAIT_MS,
        allow_redirect: bool = False,
    ) -> Response:
        del allow_redirect  # nothing is elsewhere
        found = await self._open(server_name, media_id, timeout_ms=timeout_ms, fetches=allow_remote)
        return make_download(found)

    @endpoint(
        "getContentOverrideName", "GET", _OLD_DOWNLOAD + "/{fileName}",
        auth=Auth.NONE, rate_limited=True,
    )  # fmt: skip
    async def download_as(
        self,
        server_name: ServerName,
        media_id: str,
        file_name: str,
        *,
        allow_remote: bool = True,
        timeout_ms: int = DEFAULT_WAIT_MS,
        allow_redirect: bool = False,
    ) -> Response:
        del allow_redirect
        found = await self._open(server_name, media_id, timeout_ms=timeout_ms, fetches=allow_remote)
        return make_download(found, clean_file_name(file_name))

    @endpoint(
        "getContentThumbnail", "GET", "/_matrix/media/v3/thumbnail/{serverName}/{mediaId}",
        auth=Auth.NONE, rate_limited=True,
    )  # fmt: skip
    async def thumbnail(
        self,
        server_name: ServerName,
        media_id: str,
        *,
        width: int,
        height: int,
        method: Literal["crop", "scale"] = "scale",
        allow_remote: bool = True,
        timeout_ms: int = DEFAULT_WAIT_MS,
        allow_redirect: bool = False,
        animated: bool = False,
    ) -> Response:
        del allow_redirect
        wish = Wish(width, height, method, animated)
        found = await self._open(server_name, media_id, timeout_ms=timeout_ms, fetches=allow_remote)
        return make_thumbnail_download(await self._thumbnails.open(found, wish))
