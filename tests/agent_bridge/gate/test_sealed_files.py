"""Files are reached once, by descriptor, and their sealed copies cannot change."""

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent_bridge.core.pae import digest_of
from agent_bridge.gate.executor_commit import Drift
from agent_bridge.gate.freezing import ExecRequest
from agent_bridge.gate.freezing_files import (
    PathRefused,
    open_path,
    open_regular,
    seal_bytes,
    seal_descriptor,
)
from agent_bridge.gate.sandbox_launch import Command, hold_sandbox
from agent_bridge.gate.sandbox_pins import InputReplaced, look_inside
from agent_bridge.gate.sandbox_view import PresentedFile, make_view
from tests.agent_bridge.gate.drafts import Gate


def test_a_sealed_copy_cannot_be_written_grown_or_shrunk() -> None:
    sealed = seal_bytes(b"approved")
    try:
        for attempt in (
            lambda: os.pwrite(sealed.descriptor, b"EVIL", 0),
            lambda: os.ftruncate(sealed.descriptor, 0),
            lambda: os.ftruncate(sealed.descriptor, 100),
        ):
            with pytest.raises(PermissionError):
                attempt()
        assert os.pread(sealed.descriptor, 100, 0) == b"approved"
    finally:
        os.close(sealed.descriptor)


def test_a_sealed_copy_is_what_the_descriptor_held_whatever_the_name_holds_now(
    tmp_path: Path,
) -> None:
    path = tmp_path.resolve() / "file"
    path.write_text("approved")
    with open_regular(bytes(path)) as descriptor:
        path.unlink()
        path.write_text("EVIL")
        sealed = seal_descriptor(descriptor, bytes(path), 100)
    try:
        assert sealed.digest == digest_of(b"approved")
        assert os.pread(sealed.descriptor, 100, 0) == b"approved"
    finally:
        os.close(sealed.descriptor)


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path.resolve() / "file"
    path.write_bytes(b"x" * 101)

    with open_regular(bytes(path)) as descriptor, pytest.raises(PathRefused, match="larger"):
        seal_descriptor(descriptor, bytes(path), 100)


@pytest.mark.parametrize(
    "path", [b"", b"relative", b"/a//b", b"/a/../b", b"/a/", b"/a/./b", b"/a\0b"]
)
def test_a_path_that_is_not_normalized_is_refused(path: bytes) -> None:
    with pytest.raises(PathRefused, match="normalized"), open_path(path):
        pass


@pytest.mark.parametrize("path", [b"/proc/self/fd/0", b"/proc/self/root/etc/passwd", b"/dev/null"])
def test_links_of_proc_and_devices_are_no_files(path: bytes) -> None:
    with pytest.raises(PathRefused), open_regular(path):
        pass


def test_checking_a_draft_consumes_nothing(gate: Gate) -> None:
    (gate.root / "a.txt").write_text("approved")
    approved = gate.approve(ExecRequest((b"cat", b"a.txt")))

    gate.executor.check(approved)
    gate.run(approved)

    assert gate.output == "approved"


def test_checking_a_draft_finds_a_drift(gate: Gate) -> None:
    (gate.root / "a.txt").write_text("approved")
    approved = gate.approve(ExecRequest((b"cat", b"a.txt")))
    (gate.root / "a.txt").write_text("EVIL")

    with pytest.raises(Drift):
        gate.executor.check(approved)


def test_no_descriptor_is_left_open_by_a_run(gate: Gate) -> None:
    (gate.root / "a.txt").write_text("approved")
    gate.run(gate.approve(ExecRequest((b"cat", b"a.txt"))))
    before = _count_descriptors()

    for profile in ("read", "sealed", "build"):
        gate.run(gate.approve(ExecRequest((b"cat", b"a.txt")), profile))

    assert _count_descriptors() == before


def _count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("swap", [True, False])
def test_attack_46_an_input_swapped_while_mounting_is_seen_before_release(
    gate: Gate, swap: bool
) -> None:
    path = gate.root / "a.txt"
    path.write_text("approved")
    profile = gate.profiles["build"]

    async def look() -> None:
        with ExitStack() as opened, open_regular(bytes(path)) as descriptor:
            sealed = seal_descriptor(descriptor, bytes(path), 100)
            stdin = seal_bytes(b"")
            opened.callback(os.close, sealed.descriptor)
            opened.callback(os.close, stdin.descriptor)
            files = [PresentedFile(bytes(path), sealed)]
            view = make_view(profile, gate.workspace, bytes(gate.root), files, opened)
            command = Command((b"/usr/bin/true",), {}, bytes(gate.root), stdin.descriptor)
            held = await hold_sandbox(gate.sandbox, profile, view, command)
            try:
                if swap:
                    path.rename(gate.root / "old.txt")
                    path.write_text("EVIL")
                with look_inside(held.first_process, files, bytes(gate.root)) as inside:
                    inside.check_bytes()
            finally:
                await held.finish()

    if swap:
        with pytest.raises(InputReplaced, match="other bytes"):
            asyncio.run(look())
    else:
        asyncio.run(look())
