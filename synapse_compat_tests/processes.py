"""Starting, stopping and killing the servers under test."""

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS = 180.0
STOP_SECONDS = 60.0
_POLL_SECONDS = 0.1


class ServerProcess:
    """A server that can be stopped and started again with what it has stored."""

    def __init__(
        self, command: Sequence[str], *, address: str, port: int, log: Path, folder: Path
    ) -> None:
        self._command = command
        self._address = address
        self._port = port
        self._log = log
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it answers. Raises AssertionError with its log when it does not."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=subprocess.STDOUT, cwd=self._folder
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = self._log.read_text(errors="replace")
                raise AssertionError(f"{' '.join(self._command)} did not come up:\n{text[-3000:]}")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Stop it for as long as the block runs."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _end(self, number: int) -> None:
        process = self._process
        if process is None:
            return
        self._process = None
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self._address, self._port, timeout=5)
        try:
            with suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/_matrix/client/versions")
                return connection.getresponse().status == http.HTTPStatus.OK
            return False
        finally:
            connection.close()
