"""Starting, awaiting and stopping the processes that are measured."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 120.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class RunningServer:
    """A server that answers, and what the load generator must know of it."""

    version: str
    base_url: str
    server_pid: int
    db_pid: int
    registration: Sequence[str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/_matrix/client/versions")
            return connection.getresponse().status == http.HTTPStatus.OK
        return False
    finally:
        connection.close()


@contextmanager
def run_until_done(
    command: Sequence[str], *, port: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server from its first answer on the port to a clean stop."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment or os.environ
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(errors="replace")
                raise SystemExit(f"{' '.join(command)} did not come up:\n{text[-3000:]}")
            time.sleep(POLL_SECONDS)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def postmaster_pid(data_directory: Path) -> int:
    """Find the postmaster of a running cluster at or below this directory."""
    files = list(data_directory.rglob("postmaster.pid"))
    if len(files) != 1:
        raise SystemExit(f"{data_directory}: expected one postmaster.pid, found {len(files)}")
    return int(files[0].read_text().split("\n", 1)[0])


def stop_postgres(data_directory: Path) -> None:
    """Stop a cluster that its server has left running, as a killed one does."""
    for file in data_directory.rglob("postmaster.pid"):
        with suppress(ProcessLookupError):
            os.kill(int(file.read_text().split("\n", 1)[0]), signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        while file.exists() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
