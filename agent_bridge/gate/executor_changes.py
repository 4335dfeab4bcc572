"""Which files of the workspace a run changed.

protocol: docs/cosign-protocol.md, section 11. Invariant: the answer is complete or absent, never
partial.
"""

# Paths here are bytes, which pathlib has no type for.
# ruff: noqa: PTH118

import os
import stat
from collections.abc import Mapping

from agent_bridge.core.pae import Digest
from agent_bridge.core.receipt import ChangedFile
from agent_bridge.gate.freezing_files import digest_descriptor, open_directory

_MAX_FILES = 5000
_MAX_BYTES = 256 << 20


def digest_tree(root: bytes) -> Mapping[bytes, Digest] | None:
    """Digest every regular file below a directory, links not followed. None: too much to read."""
    found: dict[bytes, Digest] = {}
    size = 0
    with open_directory(root) as top:
        for directory, _, names, descriptor in os.fwalk(b".", dir_fd=top, follow_symlinks=False):
            for name in names:
                try:
                    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                    file = os.open(name, flags, dir_fd=descriptor)
                except OSError:  # a link, a socket, or gone since it was listed
                    continue
                try:
                    status = os.fstat(file)
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    size += status.st_size
                    if len(found) >= _MAX_FILES or size > _MAX_BYTES:
                        return None
                    path = os.path.normpath(os.path.join(root, directory, name))
                    found[path] = digest_descriptor(file)
                finally:
                    os.close(file)
    return found


def list_changes(
    before: Mapping[bytes, Digest], after: Mapping[bytes, Digest]
) -> tuple[ChangedFile, ...]:
    """Sorted by path; `pre` is None for a new file, `post` for a removed one."""
    paths = sorted(before.keys() | after.keys())
    return tuple(
        ChangedFile(path, before.get(path), after.get(path))
        for path in paths
        if before.get(path) != after.get(path)
    )
