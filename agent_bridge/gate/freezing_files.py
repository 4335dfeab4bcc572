"""Files reached by descriptor: opened once without symbolic links, hashed through what was opened.

protocol: docs/cosign-protocol.md, section 9. Invariant: a digest always belongs to the bytes that
were read through the same descriptor, and a sealed copy holds exactly the bytes its digest was
made of.
"""

# Paths here are bytes, which pathlib has no type for.
# ruff: noqa: PTH123

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

from agent_bridge.core.pae import Digest
from agent_bridge.core.visible_text import quote

_READ_BYTES = 1 << 20
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class PathRefused(Exception):
    """A path that cannot be reached safely; `detail` continues the sentence the path begins."""

    def __init__(self, path: bytes, detail: str) -> None:
        super().__init__(f"{quote(path)} {detail}")
        self.path = path
        self.detail = detail


@dataclass(frozen=True)
class Identity:
    """Which directory a name stood for; a renamed, replaced or over-mounted one differs."""

    device: int
    inode: int
    mount: int


@dataclass(frozen=True)
class SealedFile:
    """A copy in memory that no one can change, and the digest of its bytes."""

    descriptor: int
    digest: Digest


def split_path(path: bytes) -> tuple[bytes, ...]:
    parts = path.split(b"/")
    clean = path == b"/" or all(part not in (b"", b".", b"..") for part in parts[1:])
    if not path.startswith(b"/") or not clean or b"\0" in path:
        raise PathRefused(path, "is not an absolute, normalized path")
    return tuple(part for part in parts if part)


def is_under(path: bytes, root: bytes) -> bool:
    """Lexically: the same path counts as under itself."""
    return path == root or path.startswith(root.rstrip(b"/") + b"/")


@contextmanager
def open_path(
    path: bytes, *, within: bytes | None = None, root: int | None = None
) -> Iterator[int]:
    """Walk to `path` one name at a time and yield an O_PATH descriptor of what is there.

    root     a directory to begin at in place of "/"
    within   no mount point may lie below this directory on the way: a bind mount put over a part of
             the workspace is a swap like any other
    Raises PathRefused: a component is missing, a symbolic link, or not a directory.
    """
    names = split_path(path)
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if root is None else os.dup(root)
    base_mount: int | None = None
    try:
        for depth, name in enumerate(names):
            walked = b"/" + b"/".join(names[: depth + 1])
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                following = os.open(name, flags, dir_fd=here)
            except OSError as error:
                raise PathRefused(path, f"cannot be opened: {error.strerror}") from None
            os.close(here)
            here = following
            if stat.S_ISLNK(os.fstat(here).st_mode):
                raise PathRefused(path, f"goes through the symbolic link {quote(walked)}")
            if within is not None and is_under(walked, within):
                mount = _mount_of(here)
                base_mount = mount if base_mount is None else base_mount
                if mount != base_mount:
                    raise PathRefused(path, f"crosses a mount at {quote(walked)}")
        yield here
    finally:
        os.close(here)


@contextmanager
def open_directory(path: bytes, *, within: bytes | None = None) -> Iterator[int]:
    with open_path(path, within=within) as descriptor:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise PathRefused(path, "is not a directory")
        yield descriptor


@contextmanager
def open_regular(
    path: bytes, *, within: bytes | None = None, root: int | None = None
) -> Iterator[int]:
    """Yield a readable descriptor; a device or pipe is refused before it is opened for reading."""
    with open_path(path, within=within, root=root) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise PathRefused(path, "is not a regular file")
        try:
            readable = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise PathRefused(path, f"cannot be read: {error.strerror}") from None
    try:
        yield readable
    finally:
        os.close(readable)


def identity_of(descriptor: int) -> Identity:
    status = os.fstat(descriptor)
    return Identity(status.st_dev, status.st_ino, _mount_of(descriptor))


def digest_descriptor(descriptor: int) -> Digest:
    digest = sha256()
    offset = 0
    while block := os.pread(descriptor, _READ_BYTES, offset):
        digest.update(block)
        offset += len(block)
    return Digest(f"sha256:{digest.hexdigest()}")


def seal_descriptor(descriptor: int, path: bytes, limit_bytes: int) -> SealedFile:
    """Copy a file into sealed memory; the caller closes it. Raises PathRefused when too big."""
    return _seal_blocks(_read_blocks(descriptor, path, limit_bytes))


def seal_bytes(data: bytes) -> SealedFile:
    return _seal_blocks((data,))


def list_regular_files(directory: bytes, limit: int, *, within: bytes) -> tuple[bytes, ...]:
    """List every regular file below a directory, sorted. Raises PathRefused for anything else."""
    found: list[bytes] = []
    waiting = [directory]
    while waiting:
        current = waiting.pop()
        for name, mode in _list_directory(current, within):
            path = current.rstrip(b"/") + b"/" + name
            if stat.S_ISDIR(mode):
                waiting.append(path)
            elif stat.S_ISREG(mode):
                found.append(path)
            else:
                raise PathRefused(path, "is neither a regular file nor a directory")
        if len(found) > limit:
            raise PathRefused(directory, f"holds more than {limit} files")
    return tuple(sorted(found))


def _list_directory(path: bytes, within: bytes) -> list[tuple[bytes, int]]:
    with open_directory(path, within=within) as descriptor:
        listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
        try:
            with os.scandir(listing) as entries:
                return [
                    (os.fsencode(entry.name), entry.stat(follow_symlinks=False).st_mode)
                    for entry in entries
                ]
        finally:
            os.close(listing)


def _read_blocks(descriptor: int, path: bytes, limit_bytes: int) -> Iterator[bytes]:
    size = 0
    while block := os.pread(descriptor, _READ_BYTES, size):
        size += len(block)
        if size > limit_bytes:
            raise PathRefused(path, f"is larger than {limit_bytes} bytes")
        yield block


def _seal_blocks(blocks: Iterable[bytes]) -> SealedFile:
    digest = sha256()
    copy = os.memfd_create("frozen", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for block in blocks:
            digest.update(block)
            view = memoryview(block)
            while view:
                view = view[os.write(copy, view) :]
        os.lseek(copy, 0, os.SEEK_SET)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(copy)
        raise
    return SealedFile(copy, Digest(f"sha256:{digest.hexdigest()}"))


def _mount_of(descriptor: int) -> int:
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise OSError("the kernel does not tell mount ids")
