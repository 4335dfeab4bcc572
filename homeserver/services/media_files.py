"""The files of media on the disk: written whole or not at all.

A file is written under a temporary name, synced and renamed; only then a row may name it. What a
crash leaves without a row is deleted later. Invariant: the name of a file is random and made here,
so nothing that anybody sends is ever part of a path.
"""

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from homeserver.clock import Clock
from homeserver.errors import ServiceUnavailable
from homeserver.randomness import Randomness
from homeserver.services.bounded_threads import BoundedThreads

logger = logging.getLogger(__name__)

_FILE_ID = re.compile(r"[0-9a-f]{32}")
_FOLDER = re.compile(r"[0-9a-f]{2}")
_UNFINISHED = ".part"
_OLD_MS = 3_600_000
"""A file is that old before it counts as left over: its row may be on the way."""
_RETRY_AFTER_MS = 10_000


@dataclass(frozen=True, slots=True)
class StoredFile:
    file_id: str
    length: int
    sha256: bytes


class MediaFiles:
    def __init__(
        self, folder: Path, threads: BoundedThreads, randomness: Randomness, clock: Clock
    ) -> None:
        self._folder = folder
        self._threads = threads
        self._randomness = randomness
        self._clock = clock

    async def store(self, content: bytes) -> StoredFile:
        """Raises LimitExceeded, and ServiceUnavailable when the disk does not take it."""
        file_id = self._randomness.bytes(16).hex()
        try:
            return await self._threads.call(_write, self._path(file_id), file_id, content)
        except OSError as error:
            logger.exception("A file cannot be stored")
            message = "The server cannot store files now"
            raise ServiceUnavailable(message, retry_after_ms=_RETRY_AFTER_MS) from error

    def open(self, file_id: str) -> BinaryIO:
        """Raises FileNotFoundError."""
        return self._path(file_id).open("rb")

    def has(self, file_id: str) -> bool:
        return self._path(file_id).exists()

    async def delete(self, file_ids: Sequence[str]) -> None:
        paths = [self._path(file_id) for file_id in file_ids]
        if paths:
            await self._threads.call(_delete, paths)

    async def delete_orphans(
        self, list_known: Callable[[Sequence[str]], Awaitable[Sequence[str]]]
    ) -> None:
        """Delete old files that no row names; `list_known` says which of some are named."""
        before = self._clock.now_ms() - _OLD_MS
        for folder in await self._threads.call(_list_folders, self._folder):
            found = await self._threads.call(_list_old, folder, before)
            named = [path.name for path in found if _FILE_ID.fullmatch(path.name)]
            known = set(await list_known(named)) if named else set()
            orphans = [
                path
                for path in found
                if path.name not in known
                and (path.suffix == _UNFINISHED or _FILE_ID.fullmatch(path.name))
            ]
            if orphans:
                logger.info("Files without a row are deleted count=%d", len(orphans))
                await self._threads.call(_delete, orphans)

    def _path(self, file_id: str) -> Path:
        assert _FILE_ID.fullmatch(file_id), "file ids are made here"
        return self._folder / file_id[:2] / file_id


def _write(path: Path, file_id: str, content: bytes) -> StoredFile:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_suffix(_UNFINISHED)
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    # The new name is safe when its folder is; the folder's own, when its parent is.
    for folder in (path.parent, path.parent.parent):
        _sync_folder(folder)
    return StoredFile(file_id, len(content), hashlib.sha256(content).digest())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _list_folders(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return [found for found in folder.iterdir() if _FOLDER.fullmatch(found.name)]
    return []


def _list_old(folder: Path, before_ms: int) -> list[Path]:
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                is_file = entry.is_file(follow_symlinks=False)
                if is_file and entry.stat(follow_symlinks=False).st_mtime * 1000 < before_ms:
                    found.append(Path(entry.path))
    return found
