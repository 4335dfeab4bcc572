"""What a sandboxed process can see: mounts, as bubblewrap options and the descriptors they name.

protocol: docs/cosign-protocol.md, section 4. Invariant: bytes that were hashed are mounted from
sealed memory; the workspace is reached by descriptor; in the sealed and read views no directory
between the root and a frozen file is one that a process outside can change.
"""

# Paths here are bytes, which pathlib has no type for.
# ruff: noqa: PTH112, PTH208

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from agent_bridge.gate.freezing import Workspace
from agent_bridge.gate.freezing_environment import HOME
from agent_bridge.gate.freezing_files import SealedFile, is_under, open_directory, seal_bytes
from agent_bridge.gate.sandbox_profiles import SandboxProfile, WorkspaceView

SCRIPT_PATH = b"/run/countersign/script"
USER_ID = 1000
"""The user inside, whoever the gate is outside."""

ISOLATION = (
    b"--unshare-all --unshare-user --disable-userns --die-with-parent --new-session --cap-drop ALL "
    b"--clearenv --hostname sandbox --uid %d --gid %d" % (USER_ID, USER_ID)
).split()
"""Explicit --unshare-user: --unshare-all alone would go on without it."""

_MAX_ENTRIES = 500
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone"),
    *("mime.types", "magic", "ssl/certs", "ssl/openssl.cnf", "ca-certificates"),
    *("pki/tls/certs", "pki/ca-trust/extracted"),
)
"""Not /etc whole: host keys, shadow and start-up files of shells stay outside."""
_ETC_PATTERNS = ("python3*", "perl", "java*", "maven", "gradle")
_ETC_NETWORK = ("resolv.conf", "hosts", "nsswitch.conf", "gai.conf", "services", "protocols")
_PASSWD = b"agent:x:%d:%d:agent:%b:/usr/sbin/nologin\n" % (USER_ID, USER_ID, HOME)
_GROUP = b"agent:x:%d:\n" % USER_ID
_HOSTS = b"127.0.0.1 localhost sandbox\n::1 localhost\n"


class ViewRefused(Exception):
    """The workspace cannot be shown in this profile; the text says what to do."""


@dataclass(frozen=True)
class PresentedFile:
    """A sealed file and where it appears inside."""

    path: bytes
    sealed: SealedFile
    executable: bool = False


@dataclass
class View:
    """Options in the order bubblewrap carries them out."""

    options: list[bytes] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def add(self, *options: bytes) -> None:
        self.options.extend(options)

    def add_descriptor(self, option: bytes, descriptor: int, path: bytes) -> None:
        self.descriptors.append(descriptor)
        self.add(option, b"%d" % descriptor, path)

    def add_file(self, file: PresentedFile) -> None:
        self.add(b"--perms", b"0555" if file.executable else b"0444")
        self.add_descriptor(b"--ro-bind-data", file.sealed.descriptor, file.path)


def make_view(
    profile: SandboxProfile,
    workspace: Workspace,
    cwd: bytes,
    files: Sequence[PresentedFile],
    opened: ExitStack,
) -> View:
    """Lay out the sandbox. The descriptors belong to `opened`. Raises ViewRefused, PathRefused."""
    view = View()
    _add_system(view, profile, workspace, opened)
    pins = (cwd, [file.path for file in files])
    _add_workspace(view, profile, workspace, pins, opened)
    for file in files:
        view.add_file(file)
    return view


def _add_system(
    view: View, profile: SandboxProfile, workspace: Workspace, opened: ExitStack
) -> None:
    view.add(b"--proc", b"/proc", b"--dev", b"/dev")
    view.add(b"--size", b"%d" % profile.temporary_bytes, b"--tmpfs", b"/tmp")
    view.add(b"--dir", HOME)
    for root in profile.read_only:
        if Path(root).is_dir():
            _bind(view, root)
            for hidden in workspace.protected:
                if is_under(hidden, os.fsencode(root)) and os.path.isdir(hidden):
                    view.add(b"--tmpfs", hidden)
    for name in _MERGED:
        path = Path("/", name)
        if path.is_symlink():
            view.add(b"--symlink", os.fsencode(path.readlink()), os.fsencode(path))
        elif path.is_dir():
            _bind(view, str(path))
    names = [*_ETC, *_ETC_NETWORK] if profile.network else _ETC
    etc = Path("/etc")
    found = [etc / name for name in names if (etc / name).exists()]
    found += sorted(path for pattern in _ETC_PATTERNS for path in etc.glob(pattern))
    for path in found:
        _bind(view, str(path))
    made = [(b"/etc/passwd", _PASSWD), (b"/etc/group", _GROUP)]
    made += [] if profile.network else [(b"/etc/hosts", _HOSTS)]
    for file, data in made:
        sealed = seal_bytes(data)
        opened.callback(os.close, sealed.descriptor)
        view.add_file(PresentedFile(file, sealed))


def _bind(view: View, path: str) -> None:
    view.add(b"--ro-bind", os.fsencode(path), os.fsencode(path))


def _add_workspace(
    view: View,
    profile: SandboxProfile,
    workspace: Workspace,
    pins: tuple[bytes, Sequence[bytes]],
    opened: ExitStack,
) -> None:
    cwd, files = pins
    if profile.workspace is WorkspaceView.SEALED:
        view.add(b"--dir", cwd)
        return
    root = opened.enter_context(open_directory(workspace.root))
    if profile.workspace is WorkspaceView.WRITE:
        view.add_descriptor(b"--bind-fd", root, workspace.root)
        return
    pinned = [path for path in files if is_under(path, workspace.root)]
    _add_read_directory(view, workspace.root, root, (cwd, pinned), opened)


def _add_read_directory(
    view: View, path: bytes, descriptor: int, pins: tuple[bytes, Sequence[bytes]], opened: ExitStack
) -> None:
    """Bind a directory, or, when a pinned path lies below it, rebuild it entry by entry.

    A rebuilt directory is private to the sandbox, so nobody can rename what is mounted in it.
    """
    cwd, files = pins
    below_cwd = cwd != path and is_under(cwd, path)
    if not below_cwd and not any(is_under(file, path) for file in files):
        view.add_descriptor(b"--ro-bind-fd", descriptor, path)
        return
    view.add(b"--dir", path)
    listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
    opened.callback(os.close, listing)
    for name in sorted(os.fsencode(entry) for entry in os.listdir(listing)):
        child = path.rstrip(b"/") + b"/" + name
        if child not in files:
            _add_read_entry(view, child, (listing, name), pins, opened)


def _add_read_entry(
    view: View,
    path: bytes,
    entry: tuple[int, bytes],
    pins: tuple[bytes, Sequence[bytes]],
    opened: ExitStack,
) -> None:
    if len(view.descriptors) > _MAX_ENTRIES:
        raise ViewRefused("the frozen files lie in directories with too many entries; use 'sealed'")
    directory, name = entry
    try:
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    opened.callback(os.close, descriptor)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISLNK(mode):
        view.add(b"--symlink", os.readlink(b"", dir_fd=descriptor), path)
    elif stat.S_ISDIR(mode):
        _add_read_directory(view, path, descriptor, pins, opened)
    elif stat.S_ISREG(mode):
        view.add_descriptor(b"--ro-bind-fd", descriptor, path)
