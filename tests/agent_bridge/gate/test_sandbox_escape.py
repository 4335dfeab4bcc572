"""Attacks 61 and 62: what an action can reach, and what is left of it afterwards."""

import os
import select
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent_bridge.core.draft import Limits
from agent_bridge.core.states import Event
from agent_bridge.gate.executor_run import Ending
from agent_bridge.gate.freezing import ExecRequest
from agent_bridge.gate.sandbox_profiles import PROFILES
from tests.agent_bridge.gate.drafts import Gate, make_gate

EVERY_PROFILE = sorted(PROFILES)
SMALL = replace(
    PROFILES["build"],
    name="small",
    memory_bytes=256 << 20,
    processes=20,
    file_bytes=1 << 20,
    open_files=64,
    cpu_seconds=1,
)


@pytest.fixture
def listener() -> Iterator[int]:
    """A TCP server on the host's loopback; it greets whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"reached")

        thread = threading.Thread(target=greet)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def python(gate: Gate, code: str, profile: str = "read") -> str:
    """Run Python inside; an OSError is printed by its name."""
    wrapped = f"import errno, os, socket\ntry:\n{_indent(code)}\nexcept OSError as e:\n"
    gate.script(wrapped + "    print(errno.errorcode[e.errno])\n", profile, interpreter=b"python3")
    return gate.output.strip()


def _indent(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.splitlines())


@pytest.mark.parametrize("profile", EVERY_PROFILE)
def test_attack_61_the_gates_state_and_homes_do_not_exist_inside(gate: Gate, profile: str) -> None:
    state = gate.root.parent / "state"
    places = f"{state} /root /home /var /run/dbus /run/user /var/run/docker.sock /run/docker.sock"
    gate.script(
        f"ls -d {places} /tmp/.X11-unix /etc/shadow /etc/ssh /etc/ssl/private /sys 2>/dev/null;"
        "ls /run; cat /etc/passwd",
        profile,
    )

    assert gate.output == "countersign\nagent:x:1000:1000:agent:/tmp/home:/usr/sbin/nologin\n"


def test_attack_61_gate_files_below_a_readable_system_directory_are_hidden(
    tmp_path: Path,
) -> None:
    hidden = tmp_path / "system" / "gate"
    hidden.mkdir(parents=True)
    (hidden / "key").write_text("EVIL")
    (tmp_path / "system" / "program").write_text("visible")
    open_wide = replace(PROFILES["read"], name="wide", read_only=("/usr", str(tmp_path / "system")))
    gate = make_gate(tmp_path, protected=[hidden], wide=open_wide)

    gate.script(f"cat {tmp_path}/system/program {hidden}/key 2>&1", "wide")
    gate.store.close()

    assert gate.output.startswith("visible")
    assert "EVIL" not in gate.output


@pytest.mark.parametrize("profile", EVERY_PROFILE)
def test_attack_61_only_the_three_standard_descriptors_are_open(gate: Gate, profile: str) -> None:
    leaked = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    code = (
        "for n in range(1000):\n"
        "    try: print(n, os.readlink(f'/proc/self/fd/{n}'))\n"
        "    except OSError: pass"
    )
    try:
        lines = python(gate, code, profile).splitlines()
    finally:
        os.close(leaked)

    others = [line for line in lines if "/run/countersign/script" not in line]
    assert [line.split()[0] for line in others] == ["0", "1", "2"]


def test_attack_61_the_environment_is_exactly_the_drafts(gate: Gate) -> None:
    approved = gate.approve(ExecRequest((b"env",)))
    gate.run(approved)

    drafted = approved.frozen.draft.action.surroundings.environment
    assert sorted(line.partition("=")[0] for line in gate.output.splitlines()) == sorted(drafted)


@pytest.mark.parametrize("profile", EVERY_PROFILE)
def test_attack_61_network_only_where_the_profile_says_so(
    gate: Gate, listener: int, profile: str
) -> None:
    code = f"print(socket.create_connection(('127.0.0.1', {listener}), 5).recv(9))"

    reached = "reached" in python(gate, code, profile)

    assert reached is PROFILES[profile].network


@pytest.mark.parametrize("profile", EVERY_PROFILE)
@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_attack_61_unix_sockets_cannot_be_made(gate: Gate, profile: str, kind: str) -> None:
    """Nor anything passed over them: D-Bus, SSH agent, docker, X11, Wayland, SCM_RIGHTS."""
    name = str(gate.root / "socket") if kind == "path" else f"\0countersign-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        code = f"socket.socket(socket.AF_UNIX).connect({name!r})\nprint('reached')"

        assert python(gate, code, profile) == "EPERM"


def test_attack_61_io_uring_and_key_rings_are_refused(gate: Gate) -> None:
    code = (
        "import ctypes, platform\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "add_key = {'x86_64': 248, 'aarch64': 217}[platform.machine()]\n"
        "for number in (425, add_key):\n"
        "    libc.syscall(number, 0, 0, 0, 0, 0)\n"
        "    print(errno.errorcode[ctypes.get_errno()])"
    )

    assert python(gate, code).split() == ["EPERM", "EPERM"]


def test_attack_61_input_cannot_be_typed_into_a_terminal(gate: Gate) -> None:
    code = "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')"

    assert python(gate, code) == "EPERM"
    assert python(gate, "os.open('/dev/tty', os.O_RDWR)") in {"ENXIO", "ENOENT"}


def test_attack_61_no_process_of_the_host_is_visible(gate: Gate) -> None:
    gate.script("for p in /proc/[0-9]*; do cat $p/comm; done")

    seen = set(gate.output.split())
    assert seen & {"sh", "dash"}  # the shell that lists them is there whatever else has started
    assert seen <= {"bwrap", "sh", "dash", "cat", "script"}


def test_attack_61_the_gates_memory_cannot_be_opened(gate: Gate) -> None:
    assert python(gate, f"open('/proc/{os.getpid()}/mem', 'rb')") == "ENOENT"


def test_attack_61_an_action_has_no_user_namespace_and_no_capability(gate: Gate) -> None:
    gate.script(
        "unshare -U true 2>&1; grep -E '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status"
    )

    refused, *status = gate.output.splitlines()
    assert refused.startswith("unshare:")
    assert {line.split()[1] for line in status if line.startswith("Cap")} == {"0" * 16}
    assert "NoNewPrivs:\t1" in status


@pytest.mark.parametrize("profile", EVERY_PROFILE)
def test_only_a_writable_view_can_change_the_workspace(gate: Gate, profile: str) -> None:
    (gate.root / "file").write_text("old")
    request = ExecRequest((b"cp", b"/etc/passwd", b"file"))

    gate.run(gate.approve(request, profile))
    gate.script("echo x > new; echo x > /usr/x; echo x > /x", profile)

    writable = "build" in profile
    assert (gate.root / "new").exists() is writable
    assert (gate.root / "file").read_text() == "old"  # a frozen input stays what it was
    assert not Path("/usr/x").exists()


@pytest.mark.parametrize("profile", EVERY_PROFILE)
def test_the_root_inside_is_read_only(gate: Gate, profile: str) -> None:
    assert python(gate, "open('/new', 'w')", profile) == "EROFS"
    assert python(gate, "open('/etc/new', 'w')", profile) == "EROFS"


def test_attack_61_the_action_has_a_session_of_its_own(gate: Gate) -> None:
    """A session that began outside would show as 0."""
    assert int(python(gate, "print(os.getsid(0))")) > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="groups are made by root only")
def test_no_control_group_is_left_behind(gate: Gate) -> None:
    gate.script("true")

    left = Path("/sys/fs/cgroup").glob(f"**/countersign-{os.getpid()}-*")
    assert list(left) == []


def test_a_symbolic_link_of_the_workspace_leads_nowhere_outside(gate: Gate) -> None:
    secret = gate.root.parent / "secret"
    secret.write_text("EVIL")
    (gate.root / "link").symlink_to(secret)

    gate.script("cat link; test -L link && echo a link", "build")

    assert "EVIL" not in gate.output
    assert gate.output.endswith("a link\n")


def test_attack_61_the_sandboxes_temporary_directory_is_private(gate: Gate) -> None:
    name = f"/tmp/countersign-test-{os.getpid()}"  # inside only

    gate.script(f"echo x > {name}; cat {name}")

    assert gate.output == "x\n"
    assert not Path(name).exists()


def test_attack_62_a_background_child_does_not_outlive_the_action(gate: Gate) -> None:
    """It holds a pipe open: the pipe's end means that it is dead."""
    os.mkfifo(gate.root / "alive")
    reader = os.open(gate.root / "alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        execution = gate.script(
            "exec 3>alive; echo up >&3\n"
            "(setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' &) &\n"
            "exit 0",
            "build",
        )

        assert execution.ending is Ending.EXITED
        assert os.read(reader, 9) == b"up\n"
        assert select.select([reader], [], [], 0)[0]
        assert os.read(reader, 9) == b""
    finally:
        os.close(reader)


def test_an_action_that_takes_too_long_is_killed_with_its_children(gate: Gate) -> None:
    execution = gate.script("sh -c 'while :; do :; done' & wait", limits=Limits(300, 1000))

    assert execution.ending is Ending.TIMEOUT
    assert execution.exit_code is None
    assert execution.event is Event.FAILED


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Gate]:
    gate = make_gate(tmp_path, small=SMALL)
    yield gate
    gate.store.close()


def test_memory_is_limited(small: Gate) -> None:
    small.script(
        "try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    print('limited')\n",
        "small",
        interpreter=b"python3",
    )

    assert small.output == "limited\n"


def test_processes_are_limited(small: Gate) -> None:
    fork_bomb = """
import os, time
count = 0
try:
    while count < 1000:
        if os.fork() == 0:
            time.sleep(60)
        count += 1
except OSError:
    pass
print(count)
"""

    execution = small.script(fork_bomb, "small", interpreter=b"python3")

    if not execution.process_count_enforced:
        pytest.skip("root without process control groups")
    assert 0 < int(small.output) <= SMALL.processes


def test_file_size_is_limited(small: Gate) -> None:
    small.script("head -c 9000000 /dev/zero > big; ls -s big >/dev/null", "small")

    assert (small.root / "big").stat().st_size == SMALL.file_bytes


def test_processor_time_is_limited(small: Gate) -> None:
    execution = small.script("while :; do :; done", "small")

    assert (execution.ending, execution.exit_code) == (Ending.EXITED, 128 + 9)


def test_a_failing_command_fails_the_draft(gate: Gate) -> None:
    execution = gate.script("exit 3")

    assert (execution.exit_code, execution.event) == (3, Event.FAILED)
