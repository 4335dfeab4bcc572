"""How servers hand each other media: multipart/mixed of two parts, metadata and content.

spec: server-server-api/#get_matrixfederationv1mediadownloadmediaid, v1.19; RFC 2046, 5.1.
Invariant: parsing takes time and memory proportional to the body, whatever is in it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_BOUNDARY = re.compile(
    r"""multipart/mixed\b.*;\s*boundary\s*=\s*(?:"([\x20-\x7e]{1,70}?)"|([!-:<-~]{1,70}))""",
    re.IGNORECASE | re.DOTALL,
)
_MAX_HEAD_BYTES = 16_384
_MAX_TAIL_BYTES = 4_096
"""The last delimiter and what follows it; looking for it from the end is not linear."""


class MultipartInvalid(Exception):
    """The message says why it is not what servers hand each other."""


@dataclass(frozen=True, slots=True)
class Part:
    headers: Mapping[str, str]
    """Names in lower case."""
    content: bytes


def parse_multipart(content_type: str, body: bytes) -> Part:
    """Return the second part, the content. Raises MultipartInvalid."""
    found = _BOUNDARY.match(content_type[:1000])
    if found is None:
        raise MultipartInvalid("it is not multipart/mixed with a boundary")
    delimiter = b"--" + (found[1] or found[2]).encode("ascii")
    start = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter, 0, _MAX_HEAD_BYTES)
    if start < 0:
        raise MultipartInvalid("the first part does not begin")
    second = body.find(b"\r\n" + delimiter, start + len(delimiter))
    end = body.rfind(b"\r\n" + delimiter + b"--", max(0, len(body) - _MAX_TAIL_BYTES))
    if second < 0 or end <= second:
        raise MultipartInvalid("there are not two parts")
    begin = second + 2 + len(delimiter)
    if body.find(b"\r\n" + delimiter, begin, end) >= 0:
        raise MultipartInvalid("there are more than two parts")
    line_end = body.find(b"\r\n", begin, begin + _MAX_HEAD_BYTES)
    if line_end < 0 or body[begin:line_end].strip():
        raise MultipartInvalid("the second part does not begin")
    # A part without headers begins with the empty line at once.
    head_end = body.find(b"\r\n\r\n", line_end, min(end, line_end + _MAX_HEAD_BYTES))
    if head_end < 0:
        raise MultipartInvalid("the head of the second part does not end")
    headers: dict[str, str] = {}
    for line in body[line_end:head_end].decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return Part(headers, body[head_end + 4 : end])


def make_multipart(boundary: str, headers: Mapping[str, str]) -> tuple[bytes, bytes]:
    """Return what stands before and after the content."""
    lines = [
        f"--{boundary}",
        "Content-Type: application/json",
        "",
        "{}",
        f"--{boundary}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "",
        "",
    ]
    return "\r\n".join(lines).encode(), f"\r\n--{boundary}--\r\n".encode()
