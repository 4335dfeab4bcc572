"""A process count for sandboxes of a gate that runs as root, where RLIMIT_NPROC does not bind.

Invariant: absent control groups are no error; the caller is told that the count is not enforced.
"""

import contextlib
import os
from pathlib import Path

_PREFIX = "countersign-"
_HIERARCHIES = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/pids"))


class ProcessGroup:
    """One control group with a `pids.max`; removed when its processes are gone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, process: int) -> None:
        (self._path / "cgroup.procs").write_text(str(process))

    def remove(self) -> None:
        with contextlib.suppress(OSError):  # still busy: an empty leftover directory does no harm
            self._path.rmdir()


def make_process_group(name: str, processes: int) -> ProcessGroup | None:
    """Make the group under either version of control groups. None: not root, or impossible."""
    if os.geteuid() != 0:
        return None
    _remove_orphans()
    for hierarchy in _HIERARCHIES:
        path = hierarchy / f"{_PREFIX}{os.getpid()}-{name}"
        try:
            path.mkdir()
        except OSError:
            continue
        limit = path / "pids.max"
        if limit.exists():  # a plain directory where the hierarchy has no process controller
            limit.write_text(str(processes))
            return ProcessGroup(path)
        path.rmdir()
    return None


def _remove_orphans() -> None:
    """Remove what killed gates left behind; the kernel refuses for groups still in use."""
    for hierarchy in _HIERARCHIES:
        for path in hierarchy.glob(f"{_PREFIX}*-*"):
            owner = path.name.removeprefix(_PREFIX).partition("-")[0]
            if not Path("/proc", owner).exists():
                with contextlib.suppress(OSError):
                    path.rmdir()
