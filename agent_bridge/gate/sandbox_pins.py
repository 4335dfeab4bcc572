"""A look into a held sandbox from outside: the names must stand for the approved bytes.

protocol: docs/cosign-protocol.md, section 9. Invariant: the check goes through the sandbox's own
root, so it sees what the action will see, whatever happened to the workspace while mounting.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from agent_bridge.core.visible_text import quote
from agent_bridge.gate.freezing_files import (
    PathRefused,
    digest_descriptor,
    open_path,
    open_regular,
)
from agent_bridge.gate.sandbox_view import PresentedFile


class InputReplaced(Exception):
    """A name inside no longer stands for what was approved; the text says which."""


class InsideView:
    """The mounts of one sandbox, kept until the last check, after its processes are gone."""

    def __init__(self, root: int, files: Sequence[PresentedFile], cwd: bytes) -> None:
        self._root = root
        self._files = files
        self._cwd = cwd
        self._places = {file.path: self._place_of(file.path) for file in files}
        self._places[cwd] = self._place_of(cwd)

    def check_bytes(self) -> None:
        """Before release: every presented file has the sealed bytes. Raises InputReplaced."""
        for file in self._files:
            try:
                with open_regular(file.path, root=self._root) as descriptor:
                    same = digest_descriptor(descriptor) == file.sealed.digest
            except PathRefused as error:
                raise InputReplaced(str(error)) from None
            if not same:
                raise InputReplaced(f"{quote(file.path)} has other bytes inside")

    def check_places(self) -> None:
        """After the run: every name stands for the same mounted file. Raises InputReplaced."""
        for path, place in self._places.items():
            if self._place_of(path) != place:
                raise InputReplaced(f"{quote(path)} was replaced while the action ran")

    def directory_is(self, device: int, inode: int) -> bool:
        """Whether the working directory inside is this one of the host."""
        return self._places[self._cwd] == (device, inode)

    def _place_of(self, path: bytes) -> tuple[int, int]:
        try:
            with open_path(path, root=self._root) as descriptor:
                status = os.fstat(descriptor)
                return status.st_dev, status.st_ino
        except PathRefused as error:
            raise InputReplaced(str(error)) from None


@contextmanager
def look_inside(
    first_process: int, files: Sequence[PresentedFile], cwd: bytes
) -> Iterator[InsideView]:
    """Open a held sandbox's root. Raises InputReplaced when a name is missing already."""
    mounts = os.open(f"/proc/{first_process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        root = os.open(f"/proc/{first_process}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield InsideView(root, files, cwd)
        finally:
            os.close(root)
    finally:
        os.close(mounts)
