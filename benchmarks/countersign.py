"""Our own server as it is measured: defaults, with rate limits off and cheap password hashes.

Cheap hashes as in Synapse's configuration here: no scenario measures them unless it says so.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from benchmarks.processes import RunningServer, postmaster_pid, run_until_done, stop_postgres


def server_version(repository: Path) -> str:
    ask = ["git", "-C", str(repository), "describe", "--always", "--dirty"]
    found = subprocess.run(ask, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


CHEAP_PASSWORDS = {"time_cost": 1, "memory_kib": 1024, "parallelism": 1}


def write_config(directory: Path, port: int, *, costly_passwords: bool = False) -> Path:
    config = {
        "server": {"name": "countersign.test"},
        "listen": {"port": port},
        "registration": {"enabled": True},
        "rate_limits": {"enabled": False},
        "passwords": {} if costly_passwords else CHEAP_PASSWORDS,
        "logging": {"level": "WARNING"},
    }
    path = directory / "homeserver.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def run_countersign(
    directory: Path, port: int, repository: Path, *, costly_passwords: bool = False
) -> Iterator[RunningServer]:
    """Run our server with an empty embedded database."""
    config = write_config(directory, port, costly_passwords=costly_passwords)
    command = [sys.executable, "-m", "homeserver", "run", "--config", str(config)]
    try:
        with run_until_done(command, port=port, log=directory / "stdout") as process:
            yield RunningServer(
                version=server_version(repository),
                base_url=f"http://127.0.0.1:{port}",
                server_pid=process.pid,
                db_pid=postmaster_pid(directory),
                registration=["--open-registration"],
            )
    finally:
        stop_postgres(directory)
