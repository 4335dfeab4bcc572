"""What may be said of a file in headers: its type, its name, whether browsers may show it.

spec: client-server-api/#serving-inline-content, v1.19. Invariant: whatever a sender claims, a
browser shows only types that cannot carry scripts, and a name never leaves its quotes.
"""

import re
from urllib.parse import quote, unquote

UNKNOWN_TYPE = "application/octet-stream"
_MAX_TYPE = 255
_MAX_NAME = 255
_MAX_DISPOSITION = 4_000
_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(?:\s*;[\x20-\x7e]*)?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9 ._()+,=@\[\]{}~!#$&^-]+")
_ENCODED_NAME = re.compile(r"filename\*\s*=\s*utf-8'[^']*'([^;\s]+)", re.IGNORECASE)
_QUOTED_NAME = re.compile(r'filename\s*=\s*"((?:[^"\\]|\\.){0,1000})"', re.IGNORECASE)
_BARE_NAME = re.compile(r'filename\s*=\s*([^\s;"]+)', re.IGNORECASE)
_INLINE = frozenset(
    (
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    )
)


def clean_content_type(claimed: str | None) -> str:
    if claimed is None or len(claimed) > _MAX_TYPE or _TYPE.fullmatch(claimed.strip()) is None:
        return UNKNOWN_TYPE
    return claimed.strip()


def clean_file_name(claimed: str | None) -> str | None:
    """Return a name that can be stored and shown; a path loses nothing but its meaning."""
    if claimed is None:
        return None
    return _CONTROL.sub("", claimed)[:_MAX_NAME].strip() or None


def make_disposition(content_type: str, file_name: str | None) -> str:
    """Return the value of Content-Disposition."""
    essence = content_type.partition(";")[0].strip().lower()
    kind = "inline" if essence in _INLINE else "attachment"
    if file_name is None:
        return kind
    if _PLAIN_NAME.fullmatch(file_name):
        return f'{kind}; filename="{file_name}"'
    return f"{kind}; filename*=utf-8''{quote(file_name, safe='')}"


def parse_file_name(disposition: str | None) -> str | None:
    """Return the name in another server's Content-Disposition."""
    if disposition is None:
        return None
    disposition = disposition[:_MAX_DISPOSITION]
    encoded = _ENCODED_NAME.search(disposition)
    if encoded is not None:
        return clean_file_name(unquote(encoded[1], errors="replace"))
    quoted = _QUOTED_NAME.search(disposition)
    if quoted is not None:
        return clean_file_name(re.sub(r"\\(.)", r"\1", quoted[1]))
    bare = _BARE_NAME.search(disposition)
    return None if bare is None else clean_file_name(bare[1])
