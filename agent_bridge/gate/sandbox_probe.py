"""Whether actions can be confined on this machine, and if not, why.

protocol: docs/cosign-protocol.md, section 10. Invariant: `SandboxReady` exists only after
a real sandbox of the same kind has run; without one nothing can be launched.
"""

import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent_bridge.gate.sandbox_seccomp import make_filter
from agent_bridge.gate.sandbox_view import ISOLATION

_PROBE_SECONDS = 20
_NEEDED_OPTIONS = ("--ro-bind-fd", "--bind-fd", "--disable-userns", "--ro-bind-data", "--perms")


@dataclass(frozen=True)
class SandboxReady:
    """Proof of a working bubblewrap; made by `probe_sandbox` only."""

    bwrap: str
    version: str


@dataclass(frozen=True)
class SandboxMissing:
    """Nothing may run by itself; `why` says it to a person."""

    why: str


def default_search_path() -> tuple[str, ...]:
    """System directories, then the virtual environment this program runs from."""
    return ("/usr/bin", "/usr/local/bin", "/bin", str(Path(sys.prefix, "bin")))


def probe_sandbox(search_path: Sequence[str] | None = None) -> SandboxReady | SandboxMissing:
    """Find bubblewrap and run one sandbox with the isolation every action gets."""
    if make_filter(platform.machine(), unix_sockets=False) is None:
        return SandboxMissing(f"there is no system-call filter for {platform.machine()}")
    places = default_search_path() if search_path is None else search_path
    bwrap = shutil.which("bwrap", path=":".join(places))
    if bwrap is None:
        return SandboxMissing(
            "bubblewrap (bwrap) is not installed; tools/ensure-bubblewrap does it"
        )
    try:
        version = _run(bwrap, "--version").stdout.strip()
        offered = _run(bwrap, "--help")
        lacking = [
            option
            for option in _NEEDED_OPTIONS
            if f"{option} " not in offered.stdout + offered.stderr
        ]
        if lacking:
            return SandboxMissing(f"{version} is too old: it lacks {', '.join(lacking)}")
        isolation = [option.decode() for option in ISOLATION]
        mounts = ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/run"]
        result = _run(bwrap, *isolation, *mounts, "--", "/usr/bin/true")
    except (OSError, subprocess.SubprocessError) as error:
        return SandboxMissing(f"bubblewrap does not run: {error}")
    if result.returncode != 0:
        said = result.stderr.strip() or f"exit code {result.returncode}"
        return SandboxMissing(f"bubblewrap cannot make namespaces here: {said}")
    return SandboxReady(bwrap, version)


def _run(bwrap: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [bwrap, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PROBE_SECONDS,
        check=False,
        env={},
        cwd="/",
    )
