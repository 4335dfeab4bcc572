"""The server under test, as a process of its own with open registration."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

START_SECONDS = 60.0
POLL_SECONDS = 0.05
STOP_SECONDS = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(base_url: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=5)
    try:
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/_matrix/client/versions")
            return connection.getresponse().status == http.HTTPStatus.OK
        return False
    finally:
        connection.close()


def start_homeserver(
    directory: Path, port: int, sections: Mapping[str, Any] | None = None
) -> subprocess.Popen[bytes]:
    """Write a configuration into the directory and start the server on it.

    sections  of the configuration, instead of the tests' own
    """
    config: dict[str, Any] = {
        "server": {"name": "clients.test"},
        "listen": {"port": port},
        "registration": {"enabled": True},
        "rate_limits": {"enabled": False},
        "passwords": {"time_cost": 1, "memory_kib": 1024, "parallelism": 1},
        **(sections or {}),
    }
    path = directory / "homeserver.yaml"
    path.write_text(yaml.safe_dump(config))
    with (directory / "server.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "homeserver", "run", "--config", str(path)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )


def wait_until_up(process: subprocess.Popen[bytes], base_url: str, directory: Path) -> None:
    """Raises RuntimeError with the log when the server does not come up."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(base_url):
        if process.poll() is not None or time.monotonic() > deadline:
            log = (directory / "server.log").read_text(errors="replace")
            raise RuntimeError(f"the server did not come up:\n{log[-5000:]}")
        time.sleep(POLL_SECONDS)


@contextmanager
def run_homeserver(directory: Path, sections: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Run the server from start to clean stop; gives its base URL."""
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    process = start_homeserver(directory, port, sections)
    try:
        wait_until_up(process, base_url, directory)
        yield base_url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
