"""The server as a process that a test kills, and clients that take nothing but success."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.server_process import free_port, start_homeserver, wait_until_up

STOP_SECONDS = 30


class Process:
    """The server as a process that can be killed and started again."""

    def __init__(self, directory: Path, sections: Mapping[str, Any]) -> None:
        self._directory = directory
        self._sections = sections
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self.running = start_homeserver(self._directory, self.port, self._sections)
        try:
            wait_until_up(self.running, self.base_url, self._directory)
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        self.running.send_signal(signal.SIGKILL)
        self.running.wait()

    def stop(self) -> None:
        if self.running.poll() is None:
            self.running.terminate()
            self.running.wait(STOP_SECONDS)

    @property
    def log(self) -> str:
        return (self._directory / "server.log").read_text("utf-8")


@contextmanager
def server_on(directory: Path, url: str, **sections: Any) -> Iterator[Process]:
    process = Process(directory, {"database": {"url": url}, **sections})
    try:
        yield process
    finally:
        process.stop()


class StrictClient:
    """Calls as one device; anything but 200 is a failure."""

    def __init__(self, session: aiohttp.ClientSession, token: str = "") -> None:
        self._session = session
        self.token = token

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    async def call(self, method: str, path: str, body: object = None) -> Any:
        url = f"/_matrix/client/v3/{path}"
        async with self._session.request(method, url, json=body, headers=self.headers) as reply:
            assert reply.status == 200, await reply.text()
            return await reply.json()

    def at(self, session: aiohttp.ClientSession) -> "StrictClient":
        return StrictClient(session, self.token)


async def register(session: aiohttp.ClientSession, username: str = "alice") -> StrictClient:
    body = {"username": username, "password": "long enough", "auth": {"type": "m.login.dummy"}}
    answer = await StrictClient(session).call("POST", "register", body)
    return StrictClient(session, answer["access_token"])


def many_connections(process: Process) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(process.base_url, connector=aiohttp.TCPConnector(limit=0))
