"""The secrets actions may name: one file each, read at launch, never in a draft.

protocol: docs/cosign-protocol.md, section 4. Invariant: a secret that others on the machine can
read, or that is too short to be found again in output, is not used.
"""

# Paths here are bytes, which pathlib has no type for.
# ruff: noqa: PTH112, PTH208

import os
import re
import stat
from pathlib import Path

from agent_bridge.gate.freezing_files import PathRefused, open_directory, open_regular

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MIN_BYTES = 8
_MAX_BYTES = 16 << 10
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SecretUnusable(Exception):
    pass


class SecretStore:
    """A private directory of secrets."""

    def __init__(self, directory: Path) -> None:
        self._directory = os.path.realpath(os.fsencode(directory))

    def names(self) -> frozenset[str]:
        """The handles a request may use; empty when there is no directory."""
        if not os.path.isdir(self._directory):
            return frozenset()
        self._check_directory()
        found = (os.fsdecode(name) for name in os.listdir(self._directory))
        return frozenset(name for name in found if _NAME.fullmatch(name))

    def read(self, name: str) -> bytes:
        """Return a secret without its final newline. Raises SecretUnusable."""
        if not _NAME.fullmatch(name):
            raise SecretUnusable(f"{name!r} is not a secret's name")
        self._check_directory()
        try:
            with open_regular(self._directory + b"/" + name.encode()) as descriptor:
                status = os.fstat(descriptor)
                if status.st_mode & _OTHERS or status.st_uid != os.geteuid():
                    raise SecretUnusable(f"secret {name}: others can read it (want mode 0600)")
                value = os.pread(descriptor, _MAX_BYTES + 1, 0)
        except PathRefused as error:
            raise SecretUnusable(f"secret {name}: {error.detail}") from None
        value = value.removesuffix(b"\n")
        if not _MIN_BYTES <= len(value) <= _MAX_BYTES or b"\0" in value:
            raise SecretUnusable(f"secret {name}: want {_MIN_BYTES} to {_MAX_BYTES} bytes, no NUL")
        return value

    def _check_directory(self) -> None:
        try:
            with open_directory(self._directory) as descriptor:
                if os.fstat(descriptor).st_mode & _OTHERS:
                    raise SecretUnusable("the directory of secrets is open to others (want 0700)")
        except PathRefused as error:
            raise SecretUnusable(f"the directory of secrets {error.detail}") from None
