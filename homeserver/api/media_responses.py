"""Responses that carry media.

spec: client-server-api/#content-repository, v1.19. Invariant: whatever is in a file, a browser
neither guesses its type nor runs anything in it.
"""

from homeserver.services.media import Found
from homeserver.services.media_headers import make_disposition
from homeserver.services.media_multipart import make_multipart
from homeserver.services.media_thumbnails import FoundThumbnail
from homeserver.transport.endpoint import FileBody, Response

_POLICY = (
    "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf;"
    " style-src 'unsafe-inline'; object-src 'self';"
)
_SAFE_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow, noarchive, noimageindex",
    "Cache-Control": "private, max-age=86400, immutable",
}
_THUMBNAIL_NAMES = {
    "image/jpeg": "thumbnail.jpg",
    "image/png": "thumbnail.png",
    "image/gif": "thumbnail.gif",
    "image/webp": "thumbnail.webp",
}


def make_download(found: Found, file_name: str | None = None) -> Response:
    """`file_name`: instead of the sender's."""
    content = found.content
    disposition = make_disposition(content.content_type, file_name or content.file_name)
    return Response(
        b"",
        content.content_type,
        headers={**_SAFE_HEADERS, "Content-Disposition": disposition},
        file=FileBody(found.file, content.length),
    )


def make_thumbnail_download(found: FoundThumbnail) -> Response:
    return Response(
        b"",
        found.content_type,
        headers={**_SAFE_HEADERS, "Content-Disposition": _thumbnail_disposition(found)},
        file=FileBody(found.file, found.length),
    )


def make_download_for_server(found: Found, boundary: str) -> Response:
    content = found.content
    disposition = make_disposition(content.content_type, content.file_name)
    return _for_server(
        content.content_type, disposition, FileBody(found.file, content.length), boundary
    )


def make_thumbnail_for_server(found: FoundThumbnail, boundary: str) -> Response:
    return _for_server(
        found.content_type,
        _thumbnail_disposition(found),
        FileBody(found.file, found.length),
        boundary,
    )


def _for_server(content_type: str, disposition: str, file: FileBody, boundary: str) -> Response:
    before, after = make_multipart(
        boundary, {"Content-Type": content_type, "Content-Disposition": disposition}
    )
    return Response(
        before,
        f"multipart/mixed; boundary={boundary}",
        file=FileBody(file.file, file.size, after),
    )


def _thumbnail_disposition(found: FoundThumbnail) -> str:
    return make_disposition(found.content_type, _THUMBNAIL_NAMES[found.content_type])
