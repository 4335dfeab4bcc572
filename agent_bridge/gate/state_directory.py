"""The gate's own directory: what lies where, private, replaced whole or not at all.

protocol: docs/cosign-protocol.md, section 10. Invariant: a reader sees the old file or the
new one, never a half, and nobody but the gate's user can read either.
"""

import contextlib
import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from homeserver.core.json_types import JsonObject

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class StateUnusable(Exception):
    """The state directory or a file in it cannot be used; the text says why."""


@dataclass(frozen=True)
class StateDirectory:
    root: Path

    @property
    def matrix(self) -> Path:
        return self.root / "matrix"

    @property
    def store(self) -> Path:
        return self.root / "gate.sqlite3"

    @property
    def post(self) -> Path:
        return self.root / "post.sqlite3"

    @property
    def approvers(self) -> Path:
        return self.root / "approvers.json"

    @property
    def devices(self) -> Path:
        return self.root / "devices.json"

    @property
    def identity(self) -> Path:
        return self.root / "gate.json"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def password(self) -> Path:
        return self.root / "password"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    def create(self) -> None:
        """Make the directory; harmless to repeat. Raises StateUnusable."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.secrets.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StateUnusable(f"{self.root} cannot be made: {error.strerror}") from None
        self.check()

    def check(self) -> None:
        """Raise StateUnusable unless the directory is ours alone."""
        try:
            status = self.root.lstat()
        except OSError:
            raise StateUnusable(f"{self.root} does not exist") from None
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise StateUnusable(f"{self.root} is not a directory of this user")
        if status.st_mode & _OTHERS:
            raise StateUnusable(f"{self.root} is open to others; run: chmod 700 {self.root}")


def write_private(path: Path, text: str) -> None:
    """Replace a file by a new one that only we can read, durably."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: Path, value: JsonObject) -> None:
    write_private(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> JsonObject | None:
    """Return the object in a file, None when there is no file. Raises StateUnusable."""
    try:
        value: object = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StateUnusable(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise StateUnusable(f"{path} does not hold an object")
    return value


def file_version(path: Path) -> tuple[int, ...] | None:
    """Return what changes whenever `write_private` replaced the file; None without a file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
