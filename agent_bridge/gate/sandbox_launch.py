"""One sandboxed process: set up, held at the gate, released, waited for, killed whole.

protocol: docs/cosign-protocol.md, section 4. Invariant: nothing of the action runs before
`release`, and nothing of it is alive after `finish`: the whole process namespace dies with its
first process.
"""

import asyncio
import contextlib
import json
import os
import platform
import resource
import secrets
import signal
import socket
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent_bridge.core.visible_text import quote
from agent_bridge.gate.freezing_files import seal_bytes
from agent_bridge.gate.sandbox_cgroup import ProcessGroup, make_process_group
from agent_bridge.gate.sandbox_probe import SandboxReady
from agent_bridge.gate.sandbox_profiles import SandboxProfile
from agent_bridge.gate.sandbox_seccomp import make_filter
from agent_bridge.gate.sandbox_view import ISOLATION, View

_READ_BYTES = 1 << 16
_MAX_SAID = 300
_SETUP_SECONDS = 20.0
_SETUP_POLL_SECONDS = 0.002
_READY_PATH = b"/run/countersign/ready"


class LaunchFailed(Exception):
    """The sandbox could not be set up; nothing of the action ran."""


@dataclass(frozen=True)
class Command:
    """What runs inside: argv[0] is the program's path there."""

    argv: tuple[bytes, ...]
    environment: Mapping[str, bytes]
    cwd: bytes
    stdin: int
    """A descriptor to read from."""


class HeldSandbox:
    """A sandbox that is set up and waits. Always `finish` it."""

    def __init__(
        self,
        monitor: "subprocess.Popen[bytes]",
        first_process: int,
        gate: socket.socket,
        group: ProcessGroup | None,
    ) -> None:
        self.first_process = first_process
        """Process id, outside, of the namespace's first process."""
        self.released = False
        self._monitor = monitor
        self._first = os.pidfd_open(first_process)
        self._watched = os.pidfd_open(monitor.pid)
        self._gate = gate
        self._group = group

    @property
    def stdout(self) -> int:
        assert self._monitor.stdout is not None
        return self._monitor.stdout.fileno()

    @property
    def stderr(self) -> int:
        assert self._monitor.stderr is not None
        return self._monitor.stderr.fileno()

    @property
    def process_count_enforced(self) -> bool:
        return self._group is not None or os.geteuid() != 0

    def release(self) -> None:
        self.released = True
        self._gate.send(b"!")

    def kill(self) -> None:
        """Kill the first process of the namespace, and so every other."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._first, signal.SIGKILL)

    async def wait(self) -> int:
        """Wait until the command has ended; its exit code, or 128 + n for signal n."""
        await wait_readable(self._watched)
        return self._monitor.wait()

    async def finish(self) -> None:
        """Kill what is left, wait until it is gone, release everything. Call once."""
        self.kill()
        await wait_readable(self._first)
        await wait_readable(self._watched)
        self._monitor.wait()
        _close_streams(self._monitor)
        os.close(self._first)
        os.close(self._watched)
        self._gate.close()
        if self._group is not None:
            self._group.remove()


async def hold_sandbox(
    ready: SandboxReady, profile: SandboxProfile, view: View, command: Command
) -> HeldSandbox:
    """Set a sandbox up to the point where the command would start. Raises LaunchFailed.

    1. Options travel in sealed memory, so that no secret stands in a process list. 2. bubblewrap
    tells the first process's id. 3. Mounting is over when it has closed its end of the last
    mount's source. 4. Limits are set from outside while the process is held.
    """
    gate, held = socket.socketpair()
    with ExitStack() as opened:
        abandon = opened.enter_context(ExitStack())
        abandon.callback(gate.close)
        theirs = opened.enter_context(ExitStack())
        theirs.callback(held.close)
        info = _make_pair(opened, theirs)
        mounted = _make_pair(opened, theirs)
        mounted[0].shutdown(socket.SHUT_WR)
        view.add_descriptor(b"--ro-bind-data", mounted[1].fileno(), _READY_PATH)
        options = [
            *_isolation(profile, view, opened),
            *view.options,
            *(b"--remount-ro", b"/", b"--chdir", command.cwd),
            *(b"--info-fd", b"%d" % info[1].fileno(), b"--block-fd", b"%d" % held.fileno()),
        ]
        for name, value in command.environment.items():
            options += [b"--setenv", name.encode(), value]
        sealed = seal_bytes(b"".join(option + b"\0" for option in options))
        opened.callback(os.close, sealed.descriptor)
        passed = (*view.descriptors, info[1].fileno(), held.fileno(), sealed.descriptor)
        monitor = _start(ready, sealed.descriptor, command, passed)
        abandon.callback(_close_streams, monitor)
        theirs.close()
        try:
            async with asyncio.timeout(_SETUP_SECONDS):
                first = await _read_first_process(info[0])
                await wait_readable(mounted[0].fileno())
                await _wait_for_root(first, monitor)
            sandbox = HeldSandbox(monitor, first, gate, _limit_processes(first, profile))
        except (OSError, ValueError, TimeoutError) as error:
            said = _end_failed(monitor) or str(error)
            raise LaunchFailed(quote(said[:_MAX_SAID])) from None
        except BaseException:
            _end_failed(monitor)
            raise
        abandon.pop_all()
        return sandbox


def _start(
    ready: SandboxReady, options: int, command: Command, passed: tuple[int, ...]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [ready.bwrap, "--args", str(options), "--", *command.argv],
        stdin=command.stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=passed,
        env={},
        cwd="/",
    )


async def wait_readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def _make_pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    ours.callback(near.close)
    theirs.callback(far.close)
    return near, far


def _isolation(profile: SandboxProfile, view: View, opened: ExitStack) -> list[bytes]:
    options = [*ISOLATION, *([b"--share-net"] if profile.network else [])]
    program = make_filter(platform.machine(), unix_sockets=profile.unix_sockets)
    assert program is not None  # the probe says so of machines without one
    sealed = seal_bytes(program)
    opened.callback(os.close, sealed.descriptor)
    view.descriptors.append(sealed.descriptor)
    return [*options, b"--seccomp", b"%d" % sealed.descriptor]


async def _read_first_process(info: socket.socket) -> int:
    told = b""
    while not told.rstrip().endswith(b"}"):
        await wait_readable(info.fileno())
        part = info.recv(_READ_BYTES)
        if not part:
            raise OSError("bubblewrap ended before it had made a process")
        told += part
    return int(json.loads(told)["child-pid"])


async def _wait_for_root(first: int, monitor: "subprocess.Popen[bytes]") -> None:
    """Wait for the last step of the set-up, the change of root; no descriptor tells of it."""
    root = Path(f"/proc/{first}/root")
    while _exists(root / "newroot"):  # noqa: ASYNC110  another process; nothing to wait on
        await asyncio.sleep(_SETUP_POLL_SECONDS)
    if monitor.poll() is not None or not _exists(root / "usr"):
        raise OSError("bubblewrap ended while it was mounting")


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _limit_processes(first: int, profile: SandboxProfile) -> ProcessGroup | None:
    for kind, limit in (
        (resource.RLIMIT_AS, profile.memory_bytes),
        (resource.RLIMIT_CPU, profile.cpu_seconds),
        (resource.RLIMIT_NPROC, profile.processes),
        (resource.RLIMIT_NOFILE, profile.open_files),
        (resource.RLIMIT_FSIZE, profile.file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.prlimit(first, kind, (limit, limit))
    group = make_process_group(secrets.token_hex(8), profile.processes)
    if group is not None:
        group.add(first)
    return group


def _end_failed(monitor: "subprocess.Popen[bytes]") -> str:
    """End a sandbox that was not set up, and return what bubblewrap said about it."""
    monitor.kill()
    monitor.wait()
    if monitor.stderr is None:
        return ""
    os.set_blocking(monitor.stderr.fileno(), False)
    said = monitor.stderr.read() or b""
    return said.decode(errors="replace").strip()


def _close_streams(monitor: "subprocess.Popen[bytes]") -> None:
    for stream in (monitor.stdout, monitor.stderr):
        if stream is not None:
            stream.close()
