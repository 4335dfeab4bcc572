"""Without a working sandbox nothing runs by itself, and the gate says why."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent_bridge.gate.sandbox_probe import SandboxMissing, SandboxReady, probe_sandbox

ENSURE = Path(__file__).parents[3] / "tools" / "ensure-bubblewrap"
NOBODY = 65534


def put_program(directory: Path, name: str, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{text}\n")
    (directory / name).chmod(0o755)


def why(directory: Path) -> str:
    probed = probe_sandbox([str(directory)])
    assert isinstance(probed, SandboxMissing)
    return probed.why


def test_this_machine_has_a_working_sandbox() -> None:
    probed = probe_sandbox()

    assert isinstance(probed, SandboxReady)
    assert probed.version.startswith("bubblewrap")


def test_a_missing_bubblewrap_is_named(tmp_path: Path) -> None:
    assert "not installed" in why(tmp_path)


def test_an_old_bubblewrap_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    put_program(tmp_path, "bwrap", 'echo "bubblewrap 0.4 --perms OCTAL --ro-bind-data FD DEST"')

    reason = why(tmp_path)

    assert reason.endswith("is too old: it lacks --ro-bind-fd, --bind-fd, --disable-userns")


def test_a_machine_that_forbids_namespaces_says_so(tmp_path: Path) -> None:
    real = shutil.which("bwrap")
    text = (
        f'case $1 in --help|--version) exec {real} "$@";; esac; echo "No permissions" >&2; exit 1'
    )
    put_program(tmp_path, "bwrap", text)

    assert why(tmp_path) == "bubblewrap cannot make namespaces here: No permissions"


def test_a_bubblewrap_that_cannot_start_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bwrap").write_bytes(b"\x7fELF")
    (tmp_path / "bwrap").chmod(0o755)

    assert "does not run" in why(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_can_run_confined_actions(tmp_path: Path) -> None:
    """The whole way, as an ordinary user, with a system Python if this one is out of reach."""
    code = (
        "import json, sys, tempfile\nfrom pathlib import Path\n"
        "from tests.agent_bridge.gate.drafts import make_gate\n"
        "gate = make_gate(Path(tempfile.mkdtemp()))\n"
        "(gate.root / 'a.sh').write_text('id -u; touch made')\n"
        "from agent_bridge.gate.freezing import ExecRequest\n"
        "done = gate.run(gate.approve(ExecRequest((b'sh', b'a.sh')), 'build'))\n"
        "print(json.dumps([done.exit_code, gate.output, (gate.root / 'made').stat().st_uid]))\n"
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(["", *filter(None, sys.path)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    result = None
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            result = subprocess.run(
                [python, "-c", code],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=False,
                env=environment,
                cwd=Path(__file__).parents[3],
            )
        except PermissionError:
            continue
        if result.returncode == 0:
            break
    if result is None or ("Error" in result.stderr and "gate" not in result.stderr):
        pytest.skip("no Python that an ordinary user can start")

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [0, "1000\n", NOBODY]


def ensure(venv: Path, path: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": f"{path}:/usr/bin:/bin" if path else "/usr/bin:/bin"}
    return subprocess.run(
        ["/bin/sh", ENSURE, venv], capture_output=True, text=True, check=False, env=environment
    )


def test_ensure_bubblewrap_finds_what_is_installed(tmp_path: Path) -> None:
    result = ensure(tmp_path)

    assert result.returncode == 0
    assert result.stdout.startswith("ensure-bubblewrap: bubblewrap")
    assert len(result.stdout.splitlines()) == 1


def ensure_without(
    hidden: list[str], venv: Path, path: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run it, as an ordinary user, on this machine with some programs gone."""
    masks = [part for program in hidden for part in ("--ro-bind", "/dev/null", program)]
    search = f"{path}:/usr/bin:/bin" if path else "/usr/bin:/bin"
    user = ["--unshare-user", "--uid", "1000", "--gid", "1000"]
    return subprocess.run(
        ["bwrap", *user, "--dev-bind", "/", "/", *masks, "--", "/bin/sh", ENSURE, venv],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": search},
    )


def test_ensure_bubblewrap_says_in_one_line_that_it_cannot(tmp_path: Path) -> None:
    bwrap = str(Path(shutil.which("bwrap") or "").resolve())
    hidden = [bwrap, *filter(None, [shutil.which("apt-get")])]

    result = ensure_without(hidden, tmp_path)

    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "install the package 'bubblewrap'" in result.stderr


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb to make a package")
def test_ensure_bubblewrap_unpacks_the_package_without_root(tmp_path: Path) -> None:
    bwrap = Path(shutil.which("bwrap") or "").resolve()
    package = tmp_path / "package"
    (package / "usr" / "bin").mkdir(parents=True)
    shutil.copy(bwrap, package / "usr" / "bin" / "bwrap")
    (package / "DEBIAN").mkdir()
    (package / "DEBIAN" / "control").write_text(
        "Package: bubblewrap\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
    )
    deb = tmp_path / "bubblewrap_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", package, deb], check=True, capture_output=True)
    put_program(tmp_path / "bin", "apt-get", f'[ "$1" = download ] && cp {deb} .')
    venv = tmp_path / "venv"
    venv.mkdir()

    first = ensure_without([str(bwrap)], venv, tmp_path / "bin")
    second = ensure_without([str(bwrap)], venv, tmp_path / "bin")

    assert (first.returncode, first.stderr) == (0, "")
    assert "installed bubblewrap" in first.stdout
    assert second.stdout.endswith(f"at {venv}/bin/bwrap\n")
    assert isinstance(probe_sandbox([str(venv / "bin")]), SandboxReady)
