"""What a server process costs, and a client that costs little: CPU, memory, one HTTP connection."""

import http.client
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmarks.processes import RunningServer
from homeserver.core.json_types import JsonObject

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(root: int) -> float:
    """CPU time of a process and its descendants, with those that have ended."""
    parents: dict[int, int] = {}
    ended: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                parents[int(entry.name)] = int(fields[1])
                ended[int(entry.name)] = (int(fields[13]) + int(fields[14])) / _TICKS
    tree = {root}
    while found := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= found
    total = 0.0
    for pid in tree & ended.keys():
        with suppress(OSError):
            # Linux: the id of another process's CPU clock, which counts nanoseconds.
            total += time.clock_gettime((~pid << 3) | 2) + ended[pid]
    return total


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6


def peak_mb(pid: int) -> float:
    """The largest resident size since `reset_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError("no VmHWM")


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@dataclass
class Cost:
    """Of everything done between the two ends of `measured`."""

    wall: float = 0.0
    server: float = 0.0
    database: float = 0.0


@contextmanager
def measured(server: RunningServer) -> Iterator[Cost]:
    cost = Cost()
    # The database may be a child of the server, whose own CPU is then what is left.
    before = _both(server)
    began = time.perf_counter()
    try:
        yield cost
    finally:
        cost.wall = time.perf_counter() - began
        after = _both(server)
        cost.server, cost.database = after[0] - before[0], after[1] - before[1]


def _both(server: RunningServer) -> tuple[float, float]:
    own = time.clock_gettime((~server.server_pid << 3) | 2)
    return own, cpu_seconds(server.db_pid)


class Client:
    """One keep-alive connection."""

    def __init__(self, server: RunningServer, token: str | None = None) -> None:
        address = server.base_url.removeprefix("http://")
        self._connection = http.client.HTTPConnection(address, timeout=300)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, method: str, path: str, body: JsonObject | None = None) -> bytes:
        data = None if body is None else orjson.dumps(body)
        self._connection.request(method, f"/_matrix/client/{path}", data, self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != http.HTTPStatus.OK:
            raise SystemExit(f"{method} {path}: {response.status} {answer[:500]!r}")
        return answer

    def close(self) -> None:
        self._connection.close()


def register(server: RunningServer, name: str) -> str:
    """Make an account; return its access token."""
    body: JsonObject = {
        "username": name,
        "password": "growth-growth-growth",
        "auth": {"type": "m.login.dummy"},
    }
    client = Client(server)
    try:
        return str(orjson.loads(client.ask("POST", "v3/register", body))["access_token"])
    finally:
        client.close()
